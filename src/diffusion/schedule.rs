//! The noise schedule of DDPM (linear β, 1000 steps), images with noise, and the training loss.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rand::Rng;
use rayon::prelude::*;

use super::unet::DiffusionUNet;
use crate::ops::{Place, Tape, Var};
use crate::spec::settings::PixelRange;

/// Steps T; a step is a number in 0..T.
pub const STEPS: usize = 1000;
/// β of the first and of the last step.
const BETA: [f64; 2] = [1e-4, 0.02];
/// Pairs of normal numbers that one task makes.
const PAIRS: usize = 2048;

/// ᾱ of every step.
#[derive(Clone, Debug)]
pub struct Schedule {
    alpha_bar: Vec<f64>,
}

impl Default for Schedule {
    fn default() -> Self {
        let beta = |t: usize| BETA[0] + (BETA[1] - BETA[0]) * t as f64 / (STEPS - 1) as f64;
        let products = (0..STEPS).scan(1.0, |product, t| {
            *product *= 1.0 - beta(t);
            Some(*product)
        });
        Self { alpha_bar: products.collect() }
    }
}

impl Schedule {
    /// `ᾱ_t = ∏(1 − β)` up to step `t`, in (0, 1).
    ///
    /// # Errors
    /// If `t` is not below 1000.
    pub fn alpha_bar(&self, t: usize) -> Result<f64> {
        let found = self.alpha_bar.get(t).copied();
        found.with_context(|| format!("diffusion step {t} does not exist: steps are 0 to {}", STEPS - 1))
    }

    /// `x_t = √ᾱ_t·x + √(1−ᾱ_t)·n` for `x [B, 1, S, S]` as the model sees it, sample i at step `t[i]`, with n = `noise` of
    /// the same shape or one map `[1, 1, S, S]` for all.
    pub fn q_sample(&self, x: &Tensor, t: &[usize], noise: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        ensure!(batch == t.len(), "{batch} images need as many diffusion steps, not {}", t.len());
        let each = t.iter().map(|t| self.alpha_bar(*t)).collect::<Result<Vec<_>>>()?;
        let coefficient = |f: fn(f64) -> f64| {
            let values: Vec<f32> = each.iter().map(|alpha_bar| f(*alpha_bar) as f32).collect();
            Tensor::from_vec(values, (batch, 1, 1, 1), &Device::Cpu)?.to_device(x.device())
        };
        let signal = x.broadcast_mul(&coefficient(f64::sqrt)?)?;
        let noise = noise.broadcast_mul(&coefficient(|alpha_bar| (1.0 - alpha_bar).sqrt())?)?;
        Ok((signal + noise)?)
    }
}

/// Images in `[0, 1]` as a diffusion model sees them.
pub fn to_range(images: &Tensor, range: PixelRange) -> Result<Tensor> {
    let (low, high) = range.bounds();
    Ok(images.affine(f64::from(high - low), f64::from(low))?)
}

/// What a diffusion model sees, as images in `[0, 1]`.
pub fn from_range(x: &Tensor, range: PixelRange) -> Result<Tensor> {
    let (low, high) = range.bounds();
    let scale = 1.0 / f64::from(high - low);
    Ok(x.affine(scale, -f64::from(low) * scale)?)
}

/// Standard normal noise of this shape (Box–Muller).
pub fn normal(rng: &mut impl Rng, shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    // Drawn one after another, turned into normal numbers side by side.
    let uniform: Vec<[f64; 2]> = (0..count.div_ceil(2)).map(|_| [rng.random(), rng.random()]).collect();
    let mut values = vec![0.0f32; count];
    let work = values.par_chunks_mut(2 * PAIRS).zip(uniform.par_chunks(PAIRS));
    work.for_each(|(values, uniform)| {
        for (values, [u, v]) in values.chunks_mut(2).zip(uniform) {
            // 1 − u is in (0, 1], where the logarithm is finite.
            let radius = (-2.0 * (1.0 - u).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
            let pair = [(radius * cos) as f32, (radius * sin) as f32];
            values.copy_from_slice(&pair[..values.len()]);
        }
    });
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// What one training step draws: a uniform step for each image, and noise `[batch, 1, side, side]`.
pub fn draw(rng: &mut impl Rng, batch: usize, side: usize) -> Result<(Vec<usize>, Tensor)> {
    let t = (0..batch).map(|_| rng.random_range(0..STEPS)).collect();
    Ok((t, normal(rng, &[batch, 1, side, side])?))
}

/// The loss of one batch.
#[derive(Clone)]
pub struct DiffusionLoss {
    /// `mean‖ε − ε_θ(x_t, t)‖²`, over batch and pixels.
    pub loss: Var,
    /// The same for each sample alone, `[batch]`: what a log of the loss by step is made of. On a GPU until it is read.
    pub per_sample: Tensor,
}

/// The training loss of `net` on `images [B, 1, S, S]` in `[0, 1]` at steps `t` with `noise` (as [`draw`] gives them).
pub fn training_loss(
    tape: &Tape,
    net: &DiffusionUNet,
    schedule: &Schedule,
    images: &Tensor,
    t: &[usize],
    noise: &Tensor,
) -> Result<DiffusionLoss> {
    ensure!(images.dims() == noise.dims(), "noise {:?} for images {:?}", noise.dims(), images.dims());
    let place = Place::current();
    let (images, noise) = (&place.put(images)?, &place.put(noise)?);
    let x = schedule.q_sample(&to_range(images, net.settings().pixels)?, t, noise)?;
    let predicted = net.forward(tape, &tape.constant(&x), t)?;
    let per_sample = squared_errors(predicted.value(), noise)?;
    Ok(DiffusionLoss { loss: tape.mse(&predicted, noise)?, per_sample })
}

/// The mean squared difference of each sample.
fn squared_errors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return Ok((a - b)?.sqr()?.flatten_from(1)?.mean(1)?);
    }
    let (a, b) = (a.flatten_from(1)?.to_vec2::<f32>()?, b.flatten_from(1)?.to_vec2::<f32>()?);
    let error = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / a.len() as f64) as f32
    };
    let errors: Vec<f32> = a.iter().zip(&b).map(error).collect();
    Ok(Tensor::from_vec(errors, a.len(), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::params::Builder;
    use crate::nn::testing::{fill, values, vec64};
    use crate::ops::Mode;
    use crate::rng::stream;
    use crate::spec::settings::{DiffusionSettings, Method, Preset, Settings};

    #[test]
    fn alpha_bar_is_the_specs() {
        let schedule = Schedule::default();
        for (t, expected) in [(50, 0.96995), (150, 0.78589), (250, 0.52142)] {
            let found = schedule.alpha_bar(t).unwrap();
            assert!((found - expected).abs() < 5e-6, "ᾱ at {t} is {found}, expected {expected}");
        }
        assert_eq!(schedule.alpha_bar(0).unwrap(), 1.0 - 1e-4);
        let error = schedule.alpha_bar(1000).unwrap_err().to_string();
        assert!(error.contains("step 1000") && error.contains("0 to 999"), "{error}");
    }

    #[test]
    fn noise_is_standard_normal_and_repeats() {
        let draw = |index| vec64(&normal(&mut stream(1, "noise", index), &[3, 33_333]).unwrap());
        let noise = draw(0);
        let moment = |power| noise.iter().map(|n| n.powi(power)).sum::<f64>() / noise.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
        assert!((moment(4) - 3.0).abs() < 0.15, "kurtosis {}", moment(4));
        assert_eq!(noise, draw(0));
        assert_ne!(noise, draw(1));
        // The stream in order, whatever the tasks; the last pair gives one number.
        let mut rng = stream(1, "noise", 0);
        for pair in noise.chunks(2) {
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            let (radius, (sin, cos)) =
                ((-2.0 * (1.0 - u).ln()).sqrt(), (std::f64::consts::TAU * v).sin_cos());
            for (value, expected) in pair.iter().zip([radius * cos, radius * sin]) {
                assert_eq!(*value, f64::from(expected as f32));
            }
        }
    }

    #[test]
    fn q_sample_mixes_each_image_at_its_step() {
        let schedule = Schedule::default();
        let (x, noise) = (values("x", &[2, 1, 2, 2]), values("n", &[1, 1, 2, 2]));
        let mixed = vec64(&schedule.q_sample(&x, &[50, 250], &noise).unwrap());
        let (x, noise) = (vec64(&x), vec64(&noise));
        for (at, value) in mixed.iter().enumerate() {
            let alpha_bar = schedule.alpha_bar([50, 250][at / 4]).unwrap();
            let expected = alpha_bar.sqrt() * x[at] + (1.0 - alpha_bar).sqrt() * noise[at % 4];
            assert!((value - expected).abs() < 1e-6, "{value} at {at}, expected {expected}");
        }
    }

    #[test]
    fn loss_is_the_mean_of_its_samples() {
        let settings = DiffusionSettings {
            channel_mult: vec![1],
            res_blocks: 1,
            ..Settings::preset(Preset::Smoke, Method::Mcsd).diffusion
        };
        let mut builder = Builder::new(0);
        let net = DiffusionUNet::new(&mut builder, &settings).unwrap();
        let params = builder.finish();
        let images = values("x", &[3, 1, 8, 8]).affine(0.5, 0.5).unwrap();
        let (t, noise) = draw(&mut stream(0, "draw", 0), 3, 8).unwrap();
        let run = || {
            let tape = Tape::new(Mode::Train, 5);
            let loss = training_loss(&tape, &net, &Schedule::default(), &images, &t, &noise).unwrap();
            (vec64(loss.loss.value())[0], vec64(&loss.per_sample))
        };
        // A new network predicts zero: the loss is the noise's own power.
        let power = vec64(&noise).iter().map(|n| n * n).sum::<f64>() / 192.0;
        assert!((run().0 - power).abs() < 1e-5 * power, "{} and {power}", run().0);
        fill(&params);
        let (loss, per_sample) = run();
        let mean = per_sample.iter().sum::<f64>() / 3.0;
        assert!((loss - mean).abs() < 1e-5 * mean, "{loss} and {mean}");
        assert!(per_sample[0] != per_sample[1], "samples have losses of their own");
    }
}
