//! MC-Net and MC-Net+ (`specs` §6): decoders that up-sample differently agree with each other's sharpened predictions.

use anyhow::Result;
use candle_core::Tensor;

use super::batch::{Batch, View};
use super::{CLASSES, Joint, Losses, Method, Step, losses, ramp, supervised_loss};
use crate::nn::mcnet::McNet;
use crate::nn::params::{Builder, Params};
use crate::ops::{Mode, Tape, Var, softmax_eval};
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// Temperature of the sharpening.
const TEMPERATURE: f64 = 0.1;

/// One encoder, two or three decoders; the first predicts.
pub struct McNetMethod {
    params: Params,
    net: McNet,
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
}

impl McNetMethod {
    /// The network with this number of decoders, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings, decoders: usize) -> Result<Self> {
        let net = b.within("f", |b| McNet::new(b, CLASSES, decoders, &settings.unet))?;
        let (loss, consistency) = (settings.train.loss, settings.consistency.clone());
        Ok(Self { params: b.finish(), net, loss, consistency })
    }
}

impl Method for McNetMethod {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let joint = Joint::of(batch)?;
        let all = self.net.forward(tape, &tape.constant(&joint.image))?;
        // The reference reads the ramp after it has counted the step.
        let weight = ramp::weight(&self.consistency, Step { index: step.index + 1, ..step });
        step_loss(tape, &all, &batch.target, weight, self.loss)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        softmax_eval(self.net.predict(&tape, &tape.constant(&view.image))?.value())
    }
}

/// L = Σ_d ℓ_sup(d) + λ·Σ_{i≠j} mean[(p_i − sharpened p_j)²] over the whole batch, from each decoder's logits of it; the
/// labelled images come first.
pub(crate) fn step_loss(
    tape: &Tape,
    all: &[Var],
    target: &Tensor,
    weight: f64,
    loss: SupervisedLoss,
) -> Result<Losses> {
    let labelled = target.dim(0)?;
    let each = |logits: &Var| supervised_loss(tape, &tape.narrow(logits, 0, 0, labelled)?, target, loss);
    let each = all.iter().map(each).collect::<Result<Vec<_>>>()?;
    let supervised = tape.weighted_sum(&each.iter().map(|loss| (1.0, loss)).collect::<Vec<_>>())?;
    let consistency = tape.mutual_consistency(all, TEMPERATURE)?;
    let total = tape.weighted_sum(&[(1.0, &supervised), (weight, &consistency)])?;
    losses(total, &[("supervised", &supervised), ("consistency", &consistency)])
}
