//! Sampling images with DDIM (η = 0), and showing them.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::schedule::{STEPS, Schedule, from_range, normal};
use super::unet::DiffusionUNet;
use crate::ops::{Mode, Place, Tape};
use crate::rng;
use crate::spec::settings::PixelRange;

/// What is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Images.
    pub count: usize,
    /// Side of an image, in pixels.
    pub side: usize,
    /// DDIM steps, 1 to 1000.
    pub steps: usize,
    /// Seed of the starting noise.
    pub seed: u64,
}

/// Images `[count, 1, side, side]` in `[0, 1]`, made from noise by DDIM with η = 0. `progress` hears (steps done, steps)
/// after each; its error ends the sampling.
pub fn ddim(
    net: &DiffusionUNet,
    schedule: &Schedule,
    sampling: Sampling,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Tensor> {
    let Sampling { count, side, steps, seed } = sampling;
    ensure!((1..=STEPS).contains(&steps), "{steps} sampling steps, needs 1 to {STEPS}");
    ensure!(count > 0, "no image to sample");
    let x = normal(&mut rng::stream(seed, "ddim", 0), &[count, 1, side, side])?;
    let mut x = Place::current().put(&x)?;
    let (times, pixels) = (times(steps), net.settings().pixels);
    for (done, t) in times.iter().enumerate() {
        let tape = Tape::new(Mode::Eval, 0);
        let noise = net.forward(&tape, &tape.constant(&x), &vec![*t; count])?;
        let now = schedule.alpha_bar(*t)?;
        let next = times.get(done + 1).map_or(Ok(1.0), |t| schedule.alpha_bar(*t))?;
        x = step(&x, noise.value(), now, next, pixels)?;
        progress(done + 1, steps)?;
    }
    Ok(from_range(&x, pixels)?.clamp(0f32, 1f32)?)
}

/// `count` steps from 999 down to 0, evenly spread; 999 alone if there is but one.
fn times(count: usize) -> Vec<usize> {
    let last = (STEPS - 1) as f64;
    let gap = last / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|k| (last - gap * k as f64).round() as usize).collect()
}

/// One step of DDIM from ᾱ `now` to ᾱ `next`: the image that `noise` predicts is clipped to `pixels`, the noise that
/// belongs to it is put back in the amount that the next step has.
fn step(x: &Tensor, noise: &Tensor, now: f64, next: f64, pixels: PixelRange) -> Result<Tensor> {
    let (low, high) = pixels.bounds();
    let image = ((x - noise.affine((1.0 - now).sqrt(), 0.0)?)? / now.sqrt())?.clamp(low, high)?;
    let noise = ((x - image.affine(now.sqrt(), 0.0)?)? / (1.0 - now).sqrt())?;
    Ok((image.affine(next.sqrt(), 0.0)? + noise.affine((1.0 - next).sqrt(), 0.0)?)?)
}

/// An 8-bit greyscale picture, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Grey values.
    pub pixels: Vec<u8>,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Pixels between the images of a grid.
const GAP: usize = 2;

/// `images [N, 1, S, S]` in `[0, 1]` side by side, `columns` in a row, with white lines between them.
pub fn grid(images: &Tensor, columns: usize) -> Result<Picture> {
    let (count, _, side, _) = images.dims4()?;
    ensure!(count > 0 && columns > 0, "a grid needs images and columns: {count} images in {columns} columns");
    let columns = columns.min(count);
    let extent = |tiles: usize| tiles * (side + GAP) - GAP;
    let (width, height) = (extent(columns), extent(count.div_ceil(columns)));
    let mut pixels = vec![255; width * height];
    let rows = images.reshape((count * side, side))?.to_vec2::<f32>()?;
    for (index, row) in rows.iter().enumerate() {
        let (tile, y) = (index / side, index % side);
        let start = ((tile / columns) * (side + GAP) + y) * width + (tile % columns) * (side + GAP);
        for (pixel, value) in pixels[start..start + side].iter_mut().zip(row) {
            *pixel = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
        }
    }
    Ok(Picture { pixels, width, height })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::params::Builder;
    use crate::nn::testing::{fill, values, vec64};
    use crate::spec::settings::{DiffusionSettings, Method, Preset, Settings};

    #[test]
    fn times_run_from_the_last_step_to_the_first() {
        assert_eq!(times(1), [999]);
        assert_eq!(times(4), [999, 666, 333, 0]);
        assert_eq!(times(1000), (0..1000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn true_noise_leads_back_to_the_image() {
        let schedule = Schedule::default();
        let (image, noise) = (values("image", &[1, 1, 4, 4]), values("noise", &[1, 1, 4, 4]));
        let mut x = schedule.q_sample(&image, &[999], &noise).unwrap();
        let times = times(5);
        for (k, t) in times.iter().enumerate() {
            let next = times.get(k + 1).map_or(1.0, |t| schedule.alpha_bar(*t).unwrap());
            x = step(&x, &noise, schedule.alpha_bar(*t).unwrap(), next, PixelRange::Signed).unwrap();
        }
        for (found, expected) in vec64(&x).iter().zip(vec64(&image)) {
            assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
    }

    #[test]
    fn samples_are_images_that_repeat() {
        let settings = DiffusionSettings {
            channel_mult: vec![1],
            res_blocks: 1,
            ..Settings::preset(Preset::Smoke, Method::Mcsd).diffusion
        };
        let mut builder = Builder::new(0);
        let net = DiffusionUNet::new(&mut builder, &settings).unwrap();
        fill(&builder.finish());
        let run = |seed, steps| {
            let mut heard = Vec::new();
            let sampling = Sampling { count: 2, side: 8, steps, seed };
            let images = ddim(&net, &Schedule::default(), sampling, |done, of| {
                heard.push((done, of));
                Ok(())
            });
            images.map(|images| (vec64(&images), heard))
        };
        let (images, heard) = run(1, 3).unwrap();
        assert_eq!(heard, [(1, 3), (2, 3), (3, 3)]);
        assert!(images.len() == 128 && images.iter().all(|value| (0.0..=1.0).contains(value)));
        assert_eq!(images, run(1, 3).unwrap().0);
        assert_ne!(images, run(2, 3).unwrap().0);
        assert!(run(1, 0).is_err() && run(1, 1001).is_err());
    }

    #[test]
    fn grid_places_images_row_by_row() {
        let images = values("grid", &[3, 1, 2, 2]).affine(0.5, 0.5).unwrap();
        let picture = grid(&images, 2).unwrap();
        assert_eq!((picture.width, picture.height, picture.pixels.len()), (6, 6, 36));
        let grey = |at: usize| (vec64(&images)[at] * 255.0).round() as u8;
        assert_eq!(picture.pixels[..6], [grey(0), grey(1), 255, 255, grey(4), grey(5)]);
        assert_eq!(picture.pixels[30..], [grey(10), grey(11), 255, 255, 255, 255]);
    }
}
