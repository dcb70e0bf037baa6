//! UniMatch on grey images (`specs` §9): two strong CutMixed views and one with perturbed features are held to the weak
//! view's sure pseudo-labels.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::batch::{Batch, StrongViews, View};
use super::pseudo::{Pseudo, mean_of};
use super::{Joint, Losses, Method, Step, eval, figure, supervised_loss, unet};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Tape, Var, softmax_eval};
use crate::spec::settings::{Settings, SupervisedLoss};

/// Probability of dropping a feature channel.
const FEATURE_DROPOUT: f64 = 0.5;

/// One U-Net.
pub struct UniMatch {
    params: Params,
    net: UNet,
    loss: SupervisedLoss,
    tau: f32,
}

/// The logits of one step.
pub(crate) struct Outputs {
    /// Of the labelled images.
    pub(crate) labelled: Var,
    /// Of the weak views.
    pub(crate) weak: Var,
    /// Of the weak views with perturbed features.
    pub(crate) perturbed: Var,
    /// Of the strong views.
    pub(crate) strong: [Var; 2],
    /// Of the mix partners, in evaluation mode, without gradient.
    pub(crate) partner: Tensor,
}

impl UniMatch {
    /// The network, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let net = unet(&mut b, "f", settings)?;
        Ok(Self { params: b.finish(), net, loss: settings.train.loss, tau: settings.tau as f32 })
    }

    fn forward(&self, tape: &Tape, batch: &Batch, views: &StrongViews) -> Result<Outputs> {
        // Before the training passes move the running statistics.
        let partner = eval(&self.net, &views.partner)?;
        let joint = Joint::of(batch)?;
        let (plain, perturbed) = perturbed(tape, &self.net, &joint.image)?;
        let [labelled, weak] = joint.split(tape, &plain)?;
        let [_, perturbed] = joint.split(tape, &perturbed)?;
        Ok(Outputs { labelled, weak, perturbed, strong: strong(tape, &self.net, views)?, partner })
    }
}

impl Method for UniMatch {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, _step: Step) -> Result<Losses> {
        let views = batch.strong.as_ref().context("the batch has no strong views")?;
        let outputs = self.forward(tape, batch, views)?;
        step_loss(tape, &outputs, &batch.target, &views.pasted, self.tau, self.loss)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.net, &view.image)?)
    }
}

/// The logits of images, and those of the same encoder features with channels dropped; both in one decoder pass.
pub(crate) fn perturbed(tape: &Tape, net: &UNet, images: &Tensor) -> Result<(Var, Var)> {
    let features = net.encode(tape, &tape.constant(images))?;
    let both = features.iter().map(|feature| {
        let dropped = tape.dropout2d(feature, FEATURE_DROPOUT)?;
        tape.concat(&[feature, &dropped], 0)
    });
    let logits = net.decode(tape, &both.collect::<Result<Vec<_>>>()?)?;
    let count = images.dim(0)?;
    Ok((tape.narrow(&logits, 0, 0, count)?, tape.narrow(&logits, 0, count, count)?))
}

/// The logits of both strong views, in one pass.
pub(crate) fn strong(tape: &Tape, net: &UNet, views: &StrongViews) -> Result<[Var; 2]> {
    let b = views.partner.dim(0)?;
    let both = net.forward(tape, &tape.constant(&Tensor::cat(&views.images, 0)?))?;
    Ok([tape.narrow(&both, 0, 0, b)?, tape.narrow(&both, 0, b, b)?])
}

/// L = ½[ℓ_sup + ¼D(s₁) + ¼D(s₂) + ½D(fp)].
pub(crate) fn step_loss(
    tape: &Tape,
    out: &Outputs,
    target: &Tensor,
    pasted: &[Tensor; 2],
    tau: f32,
    loss: SupervisedLoss,
) -> Result<Losses> {
    let supervised = supervised_loss(tape, &out.labelled, target, loss)?;
    let (own, partner) = (Pseudo::of(out.weak.value())?, Pseudo::of(&out.partner)?);
    let strong = |k: usize| own.cut_mix(&partner, &pasted[k])?.dice(tape, &out.strong[k], tau);
    let strong = [strong(0)?, strong(1)?];
    let perturbed = own.dice(tape, &out.perturbed, tau)?;
    let total = tape.weighted_sum(&[
        (0.5, &supervised),
        (0.125, &strong[0]),
        (0.125, &strong[1]),
        (0.25, &perturbed),
    ])?;
    let parts = vec![
        ("supervised", figure(&supervised)?),
        ("image_consistency", 0.5 * (figure(&strong[0])? + figure(&strong[1])?)),
        ("feature_perturbation", figure(&perturbed)?),
        ("accepted", mean_of(&own.accepted(tau)?)?),
    ];
    Ok(Losses { total, parts })
}
