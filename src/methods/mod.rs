//! Methods: each owns its networks and says how one batch becomes a loss. The one training loop
//! ([`crate::train`]) serves all of them.

pub mod batch;
pub mod mcsd;
pub mod supervised;

#[cfg(test)]
mod tests;

use anyhow::Result;
use candle_core::Tensor;

use crate::diffusion::unet::BlockShape;
use crate::nn::params::Params;
use crate::ops::{Tape, Var};
use crate::spec::settings::{Method as Name, Settings, SupervisedLoss, TestStream};
use batch::{Batch, View};

/// Classes of every data set so far: background, right ventricle, myocardium, left ventricle.
pub const CLASSES: usize = 4;

/// ε of the Dice loss (`specs`: SSL4MIS `utils/losses.py:156-192`).
const DICE_EPS: f64 = 1e-5;

/// A training method.
pub trait Method {
    /// Everything that a checkpoint holds: weights and buffers of all networks.
    fn params(&self) -> &Params;

    /// The loss of one batch and its parts.
    fn loss(&self, tape: &Tape, batch: &Batch) -> Result<Losses>;

    /// Class probabilities `[B, C, S, S]` of a view, in evaluation mode.
    fn predict(&self, view: &View) -> Result<Tensor>;
}

/// The loss of a step.
pub struct Losses {
    /// What is minimised: a scalar on the tape.
    pub total: Var,
    /// Its parts and what else is worth a curve, by name.
    pub parts: Vec<(&'static str, f64)>,
}

/// What a method's batches must hold beside labelled images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Weak views of unlabelled images.
    pub unlabelled: bool,
    /// Two strong, CutMixed views of them and the mix partners.
    pub strong: bool,
    /// Diffusion features of labelled and unlabelled images.
    pub features: bool,
}

impl Needs {
    /// What the method of `settings` needs.
    pub fn of(settings: &Settings) -> Self {
        match settings.method {
            Name::Supervised => Self { unlabelled: false, strong: false, features: false },
            Name::Mcsd => Self {
                unlabelled: settings.dfm || settings.dic,
                strong: settings.dic,
                features: settings.dfm,
            },
        }
    }
}

/// Whether the method of `settings` reads diffusion features at validation and test.
pub fn reads_features_at_test(settings: &Settings) -> bool {
    Needs::of(settings).features && settings.mcsd.test_stream != TestStream::Image
}

/// Builds the method of `settings`; `features` are the shapes of the diffusion maps in the order of the batches
/// (step-major, block-minor), empty where [`Needs::features`] is false.
pub fn build(settings: &Settings, features: &[BlockShape]) -> Result<Box<dyn Method>> {
    Ok(match settings.method {
        Name::Supervised => Box::new(supervised::Supervised::new(settings)?),
        Name::Mcsd => Box::new(mcsd::Mcsd::new(settings, features)?),
    })
}

/// ℓ_sup: cross-entropy, or the mean of cross-entropy and Dice (`specs` §0.5).
pub(crate) fn supervised_loss(
    tape: &Tape,
    logits: &Var,
    target: &Tensor,
    loss: SupervisedLoss,
) -> Result<Var> {
    let ce = tape.cross_entropy(logits, target)?;
    Ok(match loss {
        SupervisedLoss::Ce => ce,
        SupervisedLoss::CeDice => {
            let dice = tape.dice(logits, target, None, DICE_EPS)?;
            tape.weighted_sum(&[(0.5, &ce), (0.5, &dice)])?
        }
    })
}

/// The number in a scalar.
pub(crate) fn scalar(value: &Var) -> Result<f64> {
    Ok(f64::from(value.value().flatten_all()?.to_vec1::<f32>()?[0]))
}
