//! Uncertainty-rectified pyramid consistency (`specs` §3): predictions at four scales of one decoder agree where they
//! are close already.

use anyhow::Result;
use candle_core::Tensor;

use super::batch::{Batch, View};
use super::{CLASSES, Joint, Losses, Method, Step, losses, ramp, supervised_loss};
use crate::nn::params::{Builder, Params};
use crate::nn::pyramid::PyramidNet;
use crate::ops::{Mode, Tape, Var, softmax_eval};
use crate::rng::stream_seed;
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// One network with four heads.
pub struct Urpc {
    params: Params,
    net: PyramidNet,
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
    seed: u64,
}

impl Urpc {
    /// The network, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let net = b.within("f", |b| PyramidNet::new(b, CLASSES, &settings.unet))?;
        let (loss, consistency) = (settings.train.loss, settings.consistency.clone());
        Ok(Self { params: b.finish(), net, loss, consistency, seed: settings.seed })
    }
}

impl Method for Urpc {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let joint = Joint::of(batch)?;
        let seed = stream_seed(self.seed, "perturbation", step.index as u64);
        let all = self.net.forward(tape, &tape.constant(&joint.image), seed)?;
        let (mut labelled, mut free) = (vec![], vec![]);
        for logits in &all {
            let [x, u] = joint.split(tape, logits)?;
            labelled.push(x);
            free.push(u);
        }
        step_loss(tape, &labelled, &free, &batch.target, ramp::weight(&self.consistency, step), self.loss)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        softmax_eval(self.net.predict(&tape, &tape.constant(&view.image))?.value())
    }
}

/// L = ¼Σ_s ℓ_sup(s) + λ·¼Σ_s L_s, over the logits of four scales.
pub(crate) fn step_loss(
    tape: &Tape,
    labelled: &[Var],
    free: &[Var],
    target: &Tensor,
    weight: f64,
    loss: SupervisedLoss,
) -> Result<Losses> {
    let scales = labelled.iter().map(|logits| supervised_loss(tape, logits, target, loss));
    let scales = scales.collect::<Result<Vec<_>>>()?;
    let share = 1.0 / scales.len() as f64;
    let supervised = tape.weighted_sum(&scales.iter().map(|loss| (share, loss)).collect::<Vec<_>>())?;
    let consistency = tape.pyramid_consistency(free)?;
    let total = tape.weighted_sum(&[(1.0, &supervised), (weight, &consistency)])?;
    losses(total, &[("supervised", &supervised), ("consistency", &consistency)])
}
