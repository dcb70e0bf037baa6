//! URPC's network: a U-Net with a head at each scale of the decoder, and what perturbs the features before a head.
//! 1,831,060 parameters at four classes, 9,220 of them in a head that nothing reads.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rand::Rng;

use super::layers::Conv;
use super::params::Builder;
use super::unet::UNet;
use crate::ops::{Tape, Var};
use crate::rng::stream;
use crate::spec::settings::UnetSettings;

/// Dropout of the coarsest scale.
const DROPOUT: f64 = 0.5;
/// Where FeatureDropout cuts, as a share of the image's largest mean activation.
const CUT: std::ops::Range<f64> = 0.7..0.9;
/// FeatureNoise lies in ± this.
const NOISE: f32 = 0.3;

/// A U-Net with heads after up1, up2 and up3.
#[derive(Debug)]
pub struct PyramidNet {
    net: UNet,
    /// Of up1, up2, up3.
    heads: Vec<Conv>,
}

impl PyramidNet {
    /// A network whose parts are named as a U-Net's, the heads as URPC names them.
    pub fn new(b: &mut Builder, classes: usize, settings: &UnetSettings) -> Result<Self> {
        let net = UNet::new(b, 1, classes, settings)?;
        let widths = settings.channels;
        let heads = b.within("decoder", |b| {
            // The reference builds this one and never reads it.
            Conv::new(b, "out_conv_dp4", widths[4], classes, 3)?;
            (1..=3)
                .rev()
                .map(|scale| Conv::new(b, &format!("out_conv_dp{scale}"), widths[scale], classes, 3))
                .collect()
        })?;
        Ok(Self { net, heads })
    }

    /// Logits at full size of all scales, the finest (the main head's) first, then of up3, up2, up1. In training the
    /// features of the last three are perturbed, drawn from `seed`.
    pub fn forward(&self, tape: &Tape, x: &Var, seed: u64) -> Result<Vec<Var>> {
        let features = self.net.encode(tape, x)?;
        let (decoded, main) = self.net.decode_all(tape, &features)?;
        let mut all = vec![main];
        for (at, head) in self.heads.iter().enumerate().rev() {
            let mut logits = head.forward(tape, &perturbed(tape, &decoded[at], at, seed)?)?;
            for _ in at..3 {
                logits = tape.upsample_nearest2(&logits)?;
            }
            all.push(logits);
        }
        Ok(all)
    }

    /// The logits of the main head, which predicts.
    pub fn predict(&self, tape: &Tape, x: &Var) -> Result<Var> {
        self.net.forward(tape, x)
    }
}

/// The features of scale `at` (0 is the coarsest) as its head sees them.
fn perturbed(tape: &Tape, x: &Var, at: usize, seed: u64) -> Result<Var> {
    if !tape.mode().trains() {
        return Ok(x.clone());
    }
    match at {
        0 => tape.dropout(x, DROPOUT),
        1 => {
            let share = stream(seed, "feature dropout", 0).random_range(CUT);
            tape.times(x, &unattended(x.value(), share)?)
        }
        _ => {
            let (_, c, h, w) = x.dims4()?;
            let mut rng = stream(seed, "feature noise", 0);
            let noise: Vec<f32> = (0..c * h * w).map(|_| 1.0 + rng.random_range(-NOISE..NOISE)).collect();
            let noise = Tensor::from_vec(noise, (1, c, h, w), &Device::Cpu)?;
            tape.times(x, &noise.broadcast_as(x.value().shape())?)
        }
    }
}

/// 1 where the mean over the channels lies below `share` of its largest value in the image, else 0; of the shape of `x`.
fn unattended(x: &Tensor, share: f64) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let attention = x.mean_keepdim(1)?;
    let cut = (attention.reshape((b, h * w))?.max_keepdim(1)? * share)?.reshape((b, 1, 1, 1))?;
    let keep = attention.broadcast_lt(&cut)?.to_dtype(x.dtype())?;
    Ok(keep.broadcast_as((b, c, h, w))?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{Fixture, close, fill, values, vec64};
    use crate::ops::Mode;
    use crate::spec::settings::{Method, Preset, Settings};

    #[test]
    fn parameters_are_the_papers() {
        let mut builder = Builder::shapes_only();
        PyramidNet::new(&mut builder, 4, &Settings::preset(Preset::Paper, Method::Urpc).unet).unwrap();
        // 1.831 M: the U-Net's 1,813,764, heads of 128, 64, 32 channels, and the unused one of 256.
        assert_eq!(builder.finish().count(), 1_813_764 + (256 + 128 + 64 + 32) * 36 + 16);
    }

    #[test]
    fn logits_of_all_scales_are_pytorchs() {
        let fixture = Fixture::open("nn_pyramid");
        let settings = UnetSettings { channels: [2, 2, 4, 4, 4], dropout: [0.0; 5] };
        let mut builder = Builder::new(0);
        let net = PyramidNet::new(&mut builder, 4, &settings).unwrap();
        let params = builder.finish();
        fill(&params);
        let tape = Tape::new(Mode::Eval, 0);
        let all = net.forward(&tape, &tape.constant(&values("x", &[2, 1, 16, 16])), 0).unwrap();
        let joint = tape.concat(&all.iter().collect::<Vec<_>>(), 0).unwrap();
        close(joint.value(), &fixture["y"], 5e-5, "logits of four scales");
    }

    #[test]
    fn perturbations_are_of_their_kinds() {
        let x = values("x", &[2, 3, 8, 8]);
        let run = |at| {
            let tape = Tape::new(Mode::TrainNoGrad, 1);
            vec64(perturbed(&tape, &tape.constant(&x), at, 7).unwrap().value())
        };
        let x = vec64(&x);
        let (dropped, cut, noisy) = (run(0), run(1), run(2));
        assert!(dropped.iter().zip(&x).all(|(y, x)| *y == 0.0 || (y - 2.0 * x).abs() < 1e-6));
        for image in 0..2 {
            let mean = |pixel: usize| (0..3).map(|c| x[(image * 3 + c) * 64 + pixel]).sum::<f64>() / 3.0;
            let largest = (0..64).map(mean).fold(f64::MIN, f64::max);
            for pixel in 0..64 {
                let kept =
                    (0..3).all(|c| cut[(image * 3 + c) * 64 + pixel] == x[(image * 3 + c) * 64 + pixel]);
                assert_eq!(kept, mean(pixel) < 0.9 * largest && kept);
                assert!(kept || mean(pixel) >= 0.7 * largest, "only attended pixels are dropped");
                assert!(!(kept && mean(pixel) >= 0.9 * largest), "the most attended are dropped");
            }
        }
        for i in 0..192 {
            let (first, second) = (noisy[i] / x[i], noisy[i + 192] / x[i + 192]);
            assert!((first - second).abs() < 1e-4 && (first - 1.0).abs() <= 0.3001, "{first} {second}");
        }
    }
}
