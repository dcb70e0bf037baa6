//! Methods: each owns its networks and says how one batch becomes a loss. The one training loop
//! ([`crate::train`]) serves all of them.

pub mod batch;
pub mod catalogue;
pub mod supervised;
pub mod mean_teacher;
pub mod ua_mt;
pub mod urpc;
pub mod cps;
pub mod cross_teaching;
pub mod mc_net;
pub mod bcp;
pub mod sc_ssl;
pub mod unimatch;
pub mod mcsd;
mod average;
pub(crate) mod components;
mod per_image;
pub(crate) mod pseudo;
mod ramp;

#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result};
use candle_core::Tensor;

use crate::diffusion::schedule::normal;
use crate::diffusion::unet::BlockShape;
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
pub use crate::ops::Figure;
use crate::ops::{Gradients, Mode, Place, Sgd, Tape, Var};
use crate::rng::{stream, stream_seed};
use crate::spec::settings::{Method as Name, Settings, SupervisedLoss, TestStream};
use average::Average;
use batch::{Batch, View};

/// Classes of every data set so far: background, right ventricle, myocardium, left ventricle.
pub const CLASSES: usize = 4;

/// ε of the Dice loss (`specs`: SSL4MIS `utils/losses.py:156-192`).
const DICE_EPS: f64 = 1e-5;
/// ε of the Dice loss in BCP and MC-Net.
const SMALL_EPS: f64 = 1e-10;
/// Deviation of the noise on a teacher's images, and where it is cut.
const NOISE: (f64, f64) = (0.1, 0.2);

/// A training method.
pub trait Method {
    /// Everything that a checkpoint holds: weights and buffers of all networks.
    fn params(&self) -> &Params;

    /// The loss of one batch and its parts.
    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses>;

    /// The moving average that follows the optimiser's step.
    fn average(&self, _step: Step) -> Option<&Average> {
        None
    }

    /// The step before which training starts anew from the best network so far, and its optimiser.
    fn restart(&self) -> Option<usize> {
        None
    }

    /// What follows that restart.
    fn after_restart(&self) -> Result<()> {
        Ok(())
    }

    /// Class probabilities `[B, C, S, S]` of a view, in evaluation mode.
    fn predict(&self, view: &View) -> Result<Tensor>;
}

/// What follows the gradients of a step: the optimiser's step, and the method's average in the same pass.
pub fn update(
    method: &dyn Method,
    optimiser: &mut Sgd,
    gradients: &Gradients,
    lr: f64,
    step: Step,
) -> Result<()> {
    let trained = method.params().trainable();
    match method.average(step) {
        Some(average) => average.follow(optimiser, trained, gradients, lr, step),
        None => optimiser.step(trained, gradients, lr),
    }
}

/// Where the training stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Steps done before this one.
    pub index: usize,
    /// Steps in all.
    pub total: usize,
}

/// The loss of a step.
pub struct Losses {
    /// What is minimised: a scalar on the tape.
    pub total: Var,
    /// Its parts and what else is worth a curve, by name.
    pub parts: Vec<(&'static str, Figure)>,
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
        Self {
            unlabelled: settings.uses_unlabelled(),
            strong: settings.uses_strong(),
            features: settings.uses_features(),
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
    let builder = Builder::new(stream_seed(settings.seed, "init", 0));
    build_with(builder, settings, features)
}

/// As [`build`], with parameters from `b`.
fn build_with(b: Builder, settings: &Settings, features: &[BlockShape]) -> Result<Box<dyn Method>> {
    Ok(match settings.method {
        Name::Supervised => Box::new(supervised::Supervised::new(b, settings)?),
        Name::MeanTeacher => Box::new(mean_teacher::MeanTeacher::new(b, settings)?),
        Name::UaMt => Box::new(ua_mt::UaMt::new(b, settings)?),
        Name::Urpc => Box::new(urpc::Urpc::new(b, settings)?),
        Name::Cps => Box::new(cps::Cps::new(b, settings)?),
        Name::CrossTeaching => Box::new(cross_teaching::CrossTeaching::new(b, settings)?),
        Name::McNet => Box::new(mc_net::McNetMethod::new(b, settings, 2)?),
        Name::McNetPlus => Box::new(mc_net::McNetMethod::new(b, settings, 3)?),
        Name::Bcp => Box::new(bcp::Bcp::new(b, settings)?),
        Name::ScSsl => Box::new(sc_ssl::ScSsl::new(b, settings)?),
        Name::Unimatch => Box::new(unimatch::UniMatch::new(b, settings)?),
        Name::Mcsd => Box::new(mcsd::Mcsd::new(b, settings, features)?),
    })
}

/// ℓ_sup: cross-entropy, the mean of cross-entropy and Dice (`specs` §0.5), or MC-Net's Dice (§6).
pub(crate) fn supervised_loss(
    tape: &Tape,
    logits: &Var,
    target: &Tensor,
    loss: SupervisedLoss,
) -> Result<Var> {
    match loss {
        SupervisedLoss::Ce => tape.cross_entropy(logits, target),
        SupervisedLoss::CeDice => {
            let ce = tape.cross_entropy(logits, target)?;
            let dice = tape.dice(logits, target, None, DICE_EPS)?;
            tape.weighted_sum(&[(0.5, &ce), (0.5, &dice)])
        }
        // 1 − Σst/(Σs² + Σt²) = ½ + ½·(1 − 2Σst/(Σs² + Σt²)).
        SupervisedLoss::HalfDice => {
            let dice = tape.dice(logits, target, None, SMALL_EPS)?;
            let one = tape.constant(&Tensor::new(1.0f32, &candle_core::Device::Cpu)?);
            tape.weighted_sum(&[(0.5, &dice), (0.5, &one)])
        }
    }
}

/// The number in a scalar, to be read later.
pub(crate) fn figure(value: &Var) -> Result<Figure> {
    Figure::of(value.value())
}

/// The U-Net of a method's image stream, called `name`.
fn unet(b: &mut Builder, name: &str, settings: &Settings) -> Result<UNet> {
    b.within(name, |b| UNet::new(b, 1, CLASSES, &settings.unet))
}

/// Logits of `image` in evaluation mode.
fn eval(net: &UNet, image: &Tensor) -> Result<Tensor> {
    let tape = Tape::new(Mode::Eval, 0);
    Ok(net.forward(&tape, &tape.constant(image))?.value().clone())
}

/// Logits of `image` in train mode without gradient, as teachers run; `seed` decides dropout.
fn teach(net: &UNet, image: &Tensor, seed: u64) -> Result<Tensor> {
    let tape = Tape::new(Mode::TrainNoGrad, seed);
    Ok(net.forward(&tape, &tape.constant(image))?.value().clone())
}

/// `image` with clipped normal noise of the stream (seed, purpose, index).
pub(crate) fn noisy(image: &Tensor, seed: u64, purpose: &str, index: u64) -> Result<Tensor> {
    let noise = Place::current().put(&normal(&mut stream(seed, purpose, index), image.dims())?)?;
    let (deviation, cut) = NOISE;
    Ok((image + (noise * deviation)?.clamp(-cut, cut)?)?)
}

/// The labelled and unlabelled images of a batch as one.
struct Joint {
    image: Tensor,
    labelled: usize,
    unlabelled: usize,
}

impl Joint {
    fn of(batch: &Batch) -> Result<Self> {
        let (x, u) = (&batch.labelled.image, unlabelled(batch)?);
        Ok(Self { image: Tensor::cat(&[x, u], 0)?, labelled: x.dim(0)?, unlabelled: u.dim(0)? })
    }

    /// What belongs to the labelled and to the unlabelled images of what was computed from all.
    fn split(&self, tape: &Tape, all: &Var) -> Result<[Var; 2]> {
        Ok([tape.narrow(all, 0, 0, self.labelled)?, tape.narrow(all, 0, self.labelled, self.unlabelled)?])
    }
}

/// The unlabelled images of a batch.
fn unlabelled(batch: &Batch) -> Result<&Tensor> {
    Ok(&batch.unlabelled.as_ref().context("the batch has no unlabelled images")?.image)
}

/// `total` as the loss, with the value of each of `parts` beside it.
fn losses(total: Var, parts: &[(&'static str, &Var)]) -> Result<Losses> {
    let parts = parts.iter().map(|(name, part)| Ok((*name, figure(part)?))).collect::<Result<_>>()?;
    Ok(Losses { total, parts })
}
