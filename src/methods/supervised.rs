//! The supervised bounds: one U-Net on labelled slices only (`specs` §1).

use anyhow::Result;
use candle_core::Tensor;

use super::batch::{Batch, View};
use super::{Losses, Method, Step, eval, losses, supervised_loss, unet};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Tape, softmax_eval};
use crate::spec::settings::{Settings, SupervisedLoss};

/// ℓ_sup of one U-Net.
pub struct Supervised {
    params: Params,
    net: UNet,
    loss: SupervisedLoss,
}

impl Supervised {
    /// The network, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let net = unet(&mut b, "f", settings)?;
        Ok(Self { params: b.finish(), net, loss: settings.train.loss })
    }
}

impl Method for Supervised {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, _step: Step) -> Result<Losses> {
        let logits = self.net.forward(tape, &tape.constant(&batch.labelled.image))?;
        let total = supervised_loss(tape, &logits, &batch.target, self.loss)?;
        losses(total.clone(), &[("supervised", &total)])
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.net, &view.image)?)
    }
}
