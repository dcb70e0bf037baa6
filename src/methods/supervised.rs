//! The supervised bounds: one U-Net on labelled slices only (`specs` §1).

use anyhow::Result;
use candle_core::Tensor;

use super::batch::{Batch, View};
use super::{CLASSES, Losses, Method, scalar, supervised_loss};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Mode, Tape, softmax_eval};
use crate::rng::stream_seed;
use crate::spec::settings::{Settings, SupervisedLoss};

/// ℓ_sup of one U-Net.
pub struct Supervised {
    params: Params,
    net: UNet,
    loss: SupervisedLoss,
}

impl Supervised {
    /// Fresh networks, drawn from the settings' seed.
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut builder = Builder::new(stream_seed(settings.seed, "init", 0));
        let net = builder.within("f", |b| UNet::new(b, 1, CLASSES, &settings.unet))?;
        Ok(Self { params: builder.finish(), net, loss: settings.train.loss })
    }
}

impl Method for Supervised {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch) -> Result<Losses> {
        let logits = self.net.forward(tape, &tape.constant(&batch.labelled.image))?;
        let total = supervised_loss(tape, &logits, &batch.target, self.loss)?;
        let parts = vec![("supervised", scalar(&total)?)];
        Ok(Losses { total, parts })
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        let logits = self.net.forward(&tape, &tape.constant(&view.image))?;
        softmax_eval(logits.value())
    }
}
