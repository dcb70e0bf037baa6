//! The U-Net of SSL4MIS (`code/networks/unet.py`): five stages, 1×1 convolution and bilinear up-sampling
//! (corners aligned) in the decoder. 1,813,764 parameters at one input channel and four classes.

use anyhow::{Result, ensure};

use super::layers::{BatchNorm, Conv};
use super::params::Builder;
use crate::ops::{Tape, Var};
use crate::spec::settings::UnetSettings;

/// Slope of LeakyReLU below zero.
const SLOPE: f64 = 0.01;
/// Inputs are a multiple of this on each side: four halvings.
const MULTIPLE: usize = 16;

/// A U-Net: images `[B, in, H, W]` to logits `[B, classes, H, W]`, H and W multiples of 16.
#[derive(Debug)]
pub struct UNet {
    /// x0 … x4.
    encoder: Vec<ConvBlock>,
    /// up1 … up4, the coarsest first.
    decoder: Vec<UpBlock>,
    out: Conv,
}

impl UNet {
    /// A network whose parameters are named as in SSL4MIS (`encoder.in_conv.conv_conv.0.weight`, …).
    pub fn new(b: &mut Builder, channels: usize, classes: usize, settings: &UnetSettings) -> Result<Self> {
        let widths = settings.channels;
        ensure!(
            channels > 0 && classes > 0 && widths.iter().all(|width| *width > 0),
            "a u-net needs at least one channel everywhere: {channels} in, {widths:?}, {classes} classes"
        );
        let encoder = b.within("encoder", |b| {
            let mut from = channels;
            let mut stages = Vec::new();
            for (stage, (&to, &dropout)) in widths.iter().zip(&settings.dropout).enumerate() {
                let name = match stage {
                    0 => "in_conv".to_owned(),
                    _ => format!("down{stage}.maxpool_conv.1"),
                };
                stages.push(b.within(name, |b| ConvBlock::new(b, from, to, dropout))?);
                from = to;
            }
            Ok(stages)
        })?;
        b.within("decoder", |b| {
            let ups = (1..=4).map(|up| {
                let (from, skip) = (widths[5 - up], widths[4 - up]);
                b.within(format!("up{up}"), |b| UpBlock::new(b, from, skip))
            });
            let decoder = ups.collect::<Result<_>>()?;
            let out = Conv::new(b, "out_conv", widths[0], classes, 3)?;
            Ok(Self { encoder, decoder, out })
        })
    }

    /// Logits of `x`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        self.decode(tape, &self.encode(tape, x)?)
    }

    /// The five encoder features of `x`, from full to 1/16 resolution.
    pub fn encode(&self, tape: &Tape, x: &Var) -> Result<Vec<Var>> {
        let dims = x.value().dims();
        ensure!(
            dims.len() == 4 && dims[2..].iter().all(|side| *side > 0 && side % MULTIPLE == 0),
            "a u-net takes images [batch, channel, height, width] with sides that are multiples of {MULTIPLE}, \
             not {dims:?}"
        );
        let mut features: Vec<Var> = Vec::with_capacity(self.encoder.len());
        for block in &self.encoder {
            let feature = match features.last() {
                None => block.forward(tape, x)?,
                Some(finer) => block.forward(tape, &tape.max_pool2(finer)?)?,
            };
            features.push(feature);
        }
        Ok(features)
    }

    /// The four decoder features of encoder features, from 1/8 to full resolution, and the logits.
    pub fn decode_all(&self, tape: &Tape, features: &[Var]) -> Result<(Vec<Var>, Var)> {
        ensure!(features.len() == 5, "a u-net decodes five features, not {}", features.len());
        let mut decoded: Vec<Var> = Vec::with_capacity(4);
        for (block, skip) in self.decoder.iter().zip(features[..4].iter().rev()) {
            decoded.push(block.forward(tape, decoded.last().unwrap_or(&features[4]), skip)?);
        }
        let logits = self.out.forward(tape, &decoded[3])?;
        Ok((decoded, logits))
    }

    /// Logits of encoder features, as [`Self::encode`] gives them.
    pub fn decode(&self, tape: &Tape, features: &[Var]) -> Result<Var> {
        let [finer @ .., deepest] = features else {
            anyhow::bail!("a u-net decodes five features, not none");
        };
        ensure!(finer.len() == self.decoder.len(), "a u-net decodes five features, not {}", features.len());
        let mut h = deepest.clone();
        for (block, skip) in self.decoder.iter().zip(finer.iter().rev()) {
            h = block.forward(tape, &h, skip)?;
        }
        self.out.forward(tape, &h)
    }
}

/// Twice: 3×3 convolution, batch norm, LeakyReLU; dropout between the two.
#[derive(Debug)]
pub(super) struct ConvBlock {
    first: Conv,
    first_norm: BatchNorm,
    dropout: f64,
    second: Conv,
    second_norm: BatchNorm,
}

impl ConvBlock {
    pub(super) fn new(b: &mut Builder, from: usize, to: usize, dropout: f64) -> Result<Self> {
        // The places of the activation (2, 6) and the dropout (3) in PyTorch's `Sequential` have no parameters.
        b.within("conv_conv", |b| {
            Ok(Self {
                first: Conv::new(b, "0", from, to, 3)?,
                first_norm: BatchNorm::new(b, "1", to)?,
                dropout,
                second: Conv::new(b, "4", to, to, 3)?,
                second_norm: BatchNorm::new(b, "5", to)?,
            })
        })
    }

    pub(super) fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let h = self.first_norm.leaky_dropout_of(tape, &self.first, x, SLOPE, self.dropout)?;
        self.second_norm.leaky_dropout_of(tape, &self.second, &h, SLOPE, 0.0)
    }
}

/// 1×1 convolution to the skip's channels, up-sampling to its size, concatenation `[skip, up]`, [`ConvBlock`].
#[derive(Debug)]
struct UpBlock {
    reduce: Conv,
    conv: ConvBlock,
}

impl UpBlock {
    fn new(b: &mut Builder, from: usize, skip: usize) -> Result<Self> {
        Ok(Self {
            reduce: Conv::new(b, "conv1x1", from, skip, 1)?,
            conv: b.within("conv", |b| ConvBlock::new(b, 2 * skip, skip, 0.0))?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var, skip: &Var) -> Result<Var> {
        let reduced = self.reduce.forward(tape, x)?;
        let (_, _, height, width) = skip.value().dims4()?;
        let up = tape.upsample_bilinear(&reduced, (height, width), true)?;
        self.conv.forward(tape, &tape.concat(&[skip, &up], 1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{Fixture, close, fill, values};
    use crate::ops::Mode;
    use crate::spec::settings::{Method, Preset, Settings};

    fn paper() -> UnetSettings {
        Settings::preset(Preset::Paper, Method::Mcsd).unet
    }

    fn count(channels: usize, classes: usize) -> usize {
        let mut builder = Builder::shapes_only();
        UNet::new(&mut builder, channels, classes, &paper()).unwrap();
        builder.finish().count()
    }

    #[test]
    fn parameters_are_the_papers() {
        let fixture = Fixture::open("nn_counts");
        assert_eq!(count(1, 4), 1_813_764);
        assert_eq!(count(1, 4), fixture.number("unet_1"), "PyTorch counts the same");
        assert_eq!(count(30, 4), fixture.number("unet_30"), "PyTorch counts the same");
        assert_eq!(((count(1, 4) + count(30, 4)) as f64 / 1e3).round(), 3632.0, "two streams have 3.632 M");
    }

    #[test]
    fn logits_statistics_and_gradients_are_pytorchs() {
        let fixture = Fixture::open("nn_unet");
        let mut builder = Builder::new(0);
        let settings = UnetSettings { dropout: [0.0; 5], ..paper() };
        let net = UNet::new(&mut builder, 1, 4, &settings).unwrap();
        let params = builder.finish();
        assert_eq!(fixture.names(), params.trainable_names().map(str::to_owned).collect::<Vec<_>>());
        fill(&params);
        let (x, target) = (values("x", &[2, 1, 32, 32]), values("target", &[2, 4, 32, 32]));
        let eval = Tape::new(Mode::Eval, 0);
        let logits = net.forward(&eval, &eval.constant(&x)).unwrap();
        close(logits.value(), &fixture["eval"], 2e-5, "logits in eval mode");

        let tape = Tape::new(Mode::Train, 0);
        let logits = net.forward(&tape, &tape.param(&x)).unwrap();
        close(logits.value(), &fixture["train"], 2e-5, "logits in train mode");
        let loss = tape.mse(&logits, &target).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        fixture.check_gradients(&params, &gradients, 2e-4);
        close(gradients.get(&x).unwrap(), &fixture["dx"], 2e-4, "gradient of the input");
        let mean = params.get("decoder.up4.conv.conv_conv.5.running_mean").unwrap();
        close(mean, &fixture["running_mean"], 2e-5, "running mean");
        let var = params.get("encoder.down4.maxpool_conv.1.conv_conv.1.running_var").unwrap();
        close(var, &fixture["running_var"], 2e-5, "running variance");
    }

    #[test]
    fn dropout_acts_in_training_only() {
        let mut builder = Builder::new(0);
        let net = UNet::new(&mut builder, 1, 4, &paper()).unwrap();
        let x = values("x", &[2, 1, 32, 32]);
        let run = |mode, seed| {
            let tape = Tape::new(mode, seed);
            let logits = net.forward(&tape, &tape.constant(&x)).unwrap();
            logits.value().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(run(Mode::Eval, 1), run(Mode::Eval, 2));
        assert_ne!(run(Mode::TrainNoGrad, 1), run(Mode::TrainNoGrad, 2), "masks differ with the seed");
        assert_eq!(run(Mode::TrainNoGrad, 1), run(Mode::TrainNoGrad, 1), "masks repeat with the seed");
    }

    #[test]
    fn odd_sizes_are_errors() {
        let mut builder = Builder::new(0);
        let net = UNet::new(&mut builder, 1, 4, &paper()).unwrap();
        let tape = Tape::new(Mode::Eval, 0);
        let x =
            candle_core::Tensor::zeros((1, 1, 40, 32), candle_core::DType::F32, &candle_core::Device::Cpu);
        let error = net.forward(&tape, &tape.constant(&x.unwrap())).unwrap_err().to_string();
        assert!(error.contains("multiples of 16"), "{error}");
    }
}
