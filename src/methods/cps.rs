//! Cross pseudo supervision (`specs` §4): two U-Nets learn from each other's hard pseudo-labels. Cross teaching (§5) is
//! the same with Dice and a Swin-Unet as the second network.

use anyhow::Result;
use candle_core::Tensor;

use super::batch::{Batch, View};
use super::pseudo::Pseudo;
use super::{DICE_EPS, Joint, Losses, Method, Step, eval, losses, ramp, supervised_loss, unet};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Tape, Var, softmax_eval};
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// Two U-Nets with starts of their own; the first predicts.
pub struct Cps {
    params: Params,
    nets: [UNet; 2],
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
}

impl Cps {
    /// The networks, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let nets = [unet(&mut b, "f", settings)?, unet(&mut b, "f2", settings)?];
        let (loss, consistency) = (settings.train.loss, settings.consistency.clone());
        Ok(Self { params: b.finish(), nets, loss, consistency })
    }
}

impl Method for Cps {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let joint = Joint::of(batch)?;
        let image = tape.constant(&joint.image);
        let [first, second] = &self.nets;
        let all = [first.forward(tape, &image)?, second.forward(tape, &image)?];
        let outputs = [joint.split(tape, &all[0])?, joint.split(tape, &all[1])?];
        let weight = ramp::weight(&self.consistency, step);
        step_loss(tape, &outputs, &batch.target, weight, self.loss, Against::CrossEntropy)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.nets[0], &view.image)?)
    }
}

/// How a network is held to the other's pseudo-labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    CrossEntropy,
    Dice,
}

/// L = Σ_k [ℓ_sup(k) + λ·d(logits_k(u), ŷ_other)], from each network's logits of (labelled, unlabelled) images.
pub(crate) fn step_loss(
    tape: &Tape,
    outputs: &[[Var; 2]; 2],
    target: &Tensor,
    weight: f64,
    loss: SupervisedLoss,
    against: Against,
) -> Result<Losses> {
    let mut terms = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let label = Pseudo::of(outputs[other][1].value())?.label;
        let free = &outputs[own][1];
        let cross = match against {
            Against::CrossEntropy => tape.cross_entropy(free, &label)?,
            Against::Dice => tape.dice(free, &label, None, DICE_EPS)?,
        };
        terms.push((supervised_loss(tape, &outputs[own][0], target, loss)?, cross));
    }
    let parts = terms.iter().flat_map(|(supervised, cross)| [(1.0, supervised), (weight, cross)]);
    let total = tape.weighted_sum(&parts.collect::<Vec<_>>())?;
    let consistency = tape.weighted_sum(&[(1.0, &terms[0].1), (1.0, &terms[1].1)])?;
    losses(
        total,
        &[("supervised", &terms[0].0), ("supervised_2", &terms[1].0), ("consistency", &consistency)],
    )
}
