//! Features of images: outputs of the diffusion network's decoder blocks (`specs/methods.md` §10.3).

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::schedule::{Schedule, normal, to_range};
use super::unet::DiffusionUNet;
use crate::ops::{Mode, Place, Tape};
use crate::rng;

/// Reads features off a trained network. The one seeded noise map is shared by all images and steps.
#[derive(Debug)]
pub struct Extractor<'a> {
    net: &'a DiffusionUNet,
    schedule: Schedule,
    /// `[1, 1, S, S]`
    noise: Tensor,
}

impl<'a> Extractor<'a> {
    /// An extractor for images of `side`², with `net` holding the averaged (EMA) weights.
    pub fn new(net: &'a DiffusionUNet, side: usize, noise_seed: u64) -> Result<Self> {
        let noise = normal(&mut rng::stream(noise_seed, "feature noise", 0), &[1, 1, side, side])?;
        Ok(Self { net, schedule: Schedule::default(), noise: Place::current().put(&noise)? })
    }

    /// The maps of `images [B, 1, S, S]` in `[0, 1]` at diffusion step `t`: for each of `blocks` a tensor
    /// `[B, C, h, w]` (f32) at the block's own resolution. No gradient, no dropout; one pass for all blocks.
    pub fn extract(&self, images: &Tensor, t: usize, blocks: &[usize]) -> Result<Vec<Tensor>> {
        let (batch, channels, ..) = images.dims4()?;
        ensure!(
            channels == 1 && images.dims()[2..] == self.noise.dims()[2..],
            "features are read from images {:?}, not {:?}",
            self.noise.dims(),
            images.dims()
        );
        let images = &Place::current().put(images)?;
        let steps = vec![t; batch];
        let x =
            self.schedule.q_sample(&to_range(images, self.net.settings().pixels)?, &steps, &self.noise)?;
        let tape = Tape::new(Mode::Eval, 0);
        self.net.features(&tape, &tape.constant(&x), &steps, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::params::Builder;
    use crate::nn::testing::{fill, values, vec64};
    use crate::spec::settings::{DiffusionSettings, Method, Preset, Settings};

    fn net() -> DiffusionUNet {
        let settings = DiffusionSettings {
            channel_mult: vec![1, 1],
            res_blocks: 1,
            dropout: 0.5,
            ..Settings::preset(Preset::Smoke, Method::Mcsd).diffusion
        };
        let mut builder = Builder::new(0);
        let net = DiffusionUNet::new(&mut builder, &settings).unwrap();
        fill(&builder.finish());
        net
    }

    #[test]
    fn an_images_features_are_its_own() {
        let net = net();
        let extractor = Extractor::new(&net, 8, 3).unwrap();
        let images = values("x", &[2, 1, 8, 8]).affine(0.5, 0.5).unwrap();
        let both = extractor.extract(&images, 50, &[1, 3]).unwrap();
        assert_eq!((both[0].dims(), both[1].dims()), (&[2, 32, 8, 8][..], &[2, 32, 8, 8][..]));
        let second = extractor.extract(&images.narrow(0, 1, 1).unwrap().contiguous().unwrap(), 50, &[3]);
        let expected = vec64(&both[1].narrow(0, 1, 1).unwrap().contiguous().unwrap());
        for (found, expected) in vec64(&second.unwrap()[0]).iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "alone {found}, in a batch {expected}");
        }
        let other_step = extractor.extract(&images, 250, &[1]).unwrap();
        assert_ne!(vec64(&other_step[0]), vec64(&both[0]), "steps differ");
        let other_noise = Extractor::new(&net, 8, 4).unwrap().extract(&images, 50, &[1]).unwrap();
        assert_ne!(vec64(&other_noise[0]), vec64(&both[0]), "noise differs with its seed");
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let net = net();
        let extractor = Extractor::new(&net, 8, 3).unwrap();
        let images = values("x", &[1, 1, 8, 8]);
        for (t, blocks, word) in [(50, [4], "0 to 3"), (1000, [1], "step 1000")] {
            let error = extractor.extract(&images, t, &blocks).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(extractor.extract(&values("x", &[1, 1, 16, 16]), 50, &[1]).is_err(), "sizes differ");
    }
}
