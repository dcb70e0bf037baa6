//! Whether a training on a GPU follows that on the processor.

use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::cases;
use super::check::random;
use crate::data::{self, Dataset};
use crate::diffusion::schedule::{Schedule, draw, training_loss};
use crate::diffusion::unet::{BlockShape, DiffusionUNet};
use crate::methods::batch::Batch;
use crate::methods::{self, Step};
use crate::nn::params::Builder;
use crate::ops::{AdamW, Mode, Place, Sgd, Tape};
use crate::rng::stream;
use crate::spec::settings::{DataSettings, Method, Preset, Settings, UnetSettings};
use crate::train::features::FeatureSource;
use crate::train::sampler::Sampler;

/// The losses of a training on two devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Followed {
    /// What is trained.
    pub training: String,
    /// The loss of each step on the processor, ...
    pub expected: Vec<f64>,
    /// ... and on the other device.
    pub found: Vec<f64>,
}

impl Followed {
    fn new(training: &str, place: &Place, losses: impl Fn() -> Result<Vec<f64>>) -> Result<Self> {
        let expected = Place::cpu().run(&losses)?;
        let found = place.run(&losses).with_context(|| format!("train {training} on the GPU"))?;
        Ok(Self { training: training.into(), expected, found })
    }

    /// The largest difference of a step's losses among the first `steps`, over the loss; infinite for what is no number.
    pub fn difference(&self, steps: usize) -> f64 {
        let of = |(a, b): (&f64, &f64)| {
            let difference = (a - b).abs() / a.abs().max(1e-3);
            if difference.is_nan() { f64::INFINITY } else { difference }
        };
        self.expected.iter().zip(&self.found).take(steps).map(of).fold(0.0, f64::max)
    }

    /// The mean losses of the last tenth on both devices.
    pub fn ends(&self) -> [f64; 2] {
        [&self.expected, &self.found].map(|losses| {
            let last = &losses[losses.len() - losses.len().div_ceil(10)..];
            last.iter().sum::<f64>() / last.len() as f64
        })
    }
}

/// The losses of `steps` steps of a method, each on the batch that `batch` gives.
fn losses(
    settings: &Settings,
    shapes: &[BlockShape],
    steps: usize,
    batch: &dyn Fn(usize) -> Result<Batch>,
) -> Result<Vec<f64>> {
    let method = methods::build(settings, shapes)?;
    let mut sgd = Sgd::new(settings.train.momentum, settings.train.weight_decay);
    let mut all = Vec::with_capacity(steps);
    for index in 0..steps {
        let tape = Tape::new(Mode::Train, index as u64);
        let now = Step { index, total: settings.steps() };
        let losses = method.loss(&tape, &batch(index)?.put(&Place::current())?, now)?;
        all.push(f64::from(losses.total.scalar()?));
        methods::update(&*method, &mut sgd, &tape.backward(&losses.total)?, settings.train.lr, now)?;
    }
    Ok(all)
}

/// A small phantom, made once.
fn phantom() -> Result<&'static Dataset> {
    static MADE: OnceLock<Dataset> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made);
    }
    let settings = DataSettings { patients: 10, ..Settings::preset(Preset::Smoke, Method::Mcsd).data };
    let made = data::prepare(&settings, &|_, _| Ok(()))?;
    Ok(MADE.get_or_init(|| made))
}

/// The loss curve of `method` without diffusion features for `steps` steps: of a tiny network on images of 32², or with
/// `whole` of the paper's on images of 64².
///
/// # Errors
/// Of the devices.
pub fn training(place: &Place, method: Method, steps: usize, whole: bool) -> Result<Followed> {
    let mut settings = Settings::preset(Preset::Smoke, method);
    if !whole {
        settings.size = 32;
        settings.unet = UnetSettings { channels: [4, 4, 8, 8, 8], ..settings.unet };
        settings.swin.channels = 12;
    }
    settings.dfm = false;
    settings.train.batch = 4;
    settings.consistency.ramp = 0.0;
    settings.consistency.delay = 0;
    settings.bcp.pretrain = settings.bcp.pretrain.min(steps / 2);
    let sampler = Sampler::new(phantom()?, &settings, 2, &FeatureSource::None)?;
    Followed::new(&format!("{method:?}"), place, || {
        losses(&settings, &[], steps, &|step| sampler.batch(step))
    })
}

/// The loss curve of MCSD with diffusion features, on one batch of random numbers.
///
/// # Errors
/// Of the devices.
pub fn with_features(place: &Place, steps: usize) -> Result<Followed> {
    let mut settings = cases::settings(Preset::Lite, 2, 32);
    settings.unet = UnetSettings { channels: [4, 4, 8, 8, 8], ..settings.unet };
    let shapes = cases::shapes(&settings)?;
    Followed::new("mcsd with features", place, || {
        losses(&settings, &shapes, steps, &|_| cases::mcsd_batch(&settings, &shapes))
    })
}

/// The loss curve of a small diffusion model.
///
/// # Errors
/// Of the devices.
pub fn diffusion(place: &Place, steps: usize) -> Result<Followed> {
    let settings = Settings::preset(Preset::Smoke, Method::Mcsd).diffusion;
    let images = random(80, &[2, 1, 32, 32])?.affine(0.2, 0.5)?;
    Followed::new("diffusion", place, || {
        let (mut builder, mut second) = (Builder::new(0), Builder::new(0));
        let net = DiffusionUNet::new(&mut builder, &settings)?;
        DiffusionUNet::new(&mut second, &settings)?;
        let (params, average) = (builder.finish(), second.finish());
        let mut adam = AdamW::new(0.9, 0.999, 1e-8, 0.0);
        let mut all = Vec::with_capacity(steps);
        for index in 0..steps as u64 {
            let (t, noise) = draw(&mut stream(0, "noise", index), 2, 32)?;
            let tape = Tape::new(Mode::Train, index);
            let loss = training_loss(&tape, &net, &Schedule::default(), &images, &t, &noise)?;
            all.push(f64::from(loss.loss.scalar()?));
            let gradients = tape.backward(&loss.loss)?;
            adam.step_and_average(params.trainable(), &gradients, 1e-4, average.trainable(), 0.999)?;
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::check::tests::emulated;
    use crate::ops::Precision;

    #[test]
    fn every_training_follows_that_of_the_processor() {
        let Some(place) = emulated() else { return };
        for method in Method::ALL {
            let followed = training(&place, method, 2, false).unwrap();
            assert!(followed.difference(2) < 1e-4, "{followed:?}");
        }
        for followed in [with_features(&place, 2).unwrap(), diffusion(&place, 2).unwrap()] {
            assert!(followed.difference(2) < 1e-4, "{followed:?}");
        }
        // With attention, whose gradients come in another shape, and weights by eights.
        let rounded = diffusion(&place.at(Precision::Bf16), 2).unwrap();
        let difference = rounded.difference(2);
        assert!((1e-7..1e-2).contains(&difference), "{rounded:?}");
    }

    #[test]
    fn differences_are_relative_and_the_worst_of_the_first_steps() {
        let followed =
            Followed { training: "x".into(), expected: vec![1.0, 2.0, 4.0], found: vec![1.0, 2.5, 2.0] };
        assert_eq!(
            (followed.difference(1), followed.difference(2), followed.difference(9)),
            (0.0, 0.25, 0.5)
        );
        assert_eq!(followed.ends(), [4.0, 2.0]);
        let lost = Followed { found: vec![f64::NAN; 3], ..followed };
        assert!(lost.difference(3).is_infinite());
    }
}
