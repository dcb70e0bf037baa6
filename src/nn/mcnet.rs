//! MC-Net's network (`code/networks/unet.py`): one encoder, several decoders that differ in how they up-sample.
//! 2,577,624 parameters with two decoders (v1), 3,210,924 with three (v2, MC-Net+), at four classes.

use anyhow::{Context as _, Result, ensure};
use candle_core::Tensor;

use super::layers::Conv;
use super::params::{Builder, Init};
use super::unet::{ConvBlock, UNet};
use crate::ops::{Tape, Var};
use crate::spec::settings::UnetSettings;

/// An encoder with two or three decoders.
#[derive(Debug)]
pub struct McNet {
    /// The encoder and the decoder with bilinear up-sampling.
    net: UNet,
    others: Vec<Decoder>,
}

/// How a decoder doubles the resolution.
#[derive(Debug)]
enum Up {
    /// A transposed convolution, 2×2 with stride 2.
    Transposed { weight: Tensor, bias: Tensor },
    /// A 1×1 convolution, then each pixel four times.
    Nearest(Conv),
}

#[derive(Debug)]
struct Decoder {
    blocks: Vec<(Up, ConvBlock)>,
    out: Conv,
}

impl McNet {
    /// A network with `decoders` (2 or 3) decoders: bilinear, transposed, nearest. The first two parts are named as a
    /// U-Net's (`encoder`, `decoder`), the others `decoder2` and `decoder3`.
    pub fn new(b: &mut Builder, classes: usize, decoders: usize, settings: &UnetSettings) -> Result<Self> {
        ensure!((2..=3).contains(&decoders), "an MC-Net has 2 or 3 decoders, not {decoders}");
        let net = UNet::new(b, 1, classes, settings)?;
        let other = |number: usize| {
            b.within(format!("decoder{number}"), |b| Decoder::new(b, number == 2, classes, settings))
        };
        Ok(Self { net, others: (2..=decoders).map(other).collect::<Result<_>>()? })
    }

    /// The logits of every decoder, the bilinear one's first.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Vec<Var>> {
        let features = self.net.encode(tape, x)?;
        let first = self.net.decode(tape, &features)?;
        let others = self.others.iter().map(|decoder| decoder.forward(tape, &features));
        std::iter::once(Ok(first)).chain(others).collect()
    }

    /// The logits of the first decoder, which predicts.
    pub fn predict(&self, tape: &Tape, x: &Var) -> Result<Var> {
        self.net.forward(tape, x)
    }
}

impl Decoder {
    fn new(b: &mut Builder, transposed: bool, classes: usize, settings: &UnetSettings) -> Result<Self> {
        let widths = settings.channels;
        let blocks = (1..=4).map(|up| {
            let (from, to) = (widths[5 - up], widths[4 - up]);
            b.within(format!("up{up}"), |b| {
                let up = if transposed {
                    Up::transposed(b, from, to)?
                } else {
                    Up::Nearest(Conv::new(b, "conv1x1", from, to, 1)?)
                };
                Ok((up, b.within("conv", |b| ConvBlock::new(b, 2 * to, to, 0.0))?))
            })
        });
        let blocks = blocks.collect::<Result<_>>()?;
        Ok(Self { blocks, out: Conv::new(b, "out_conv", widths[0], classes, 3)? })
    }

    fn forward(&self, tape: &Tape, features: &[Var]) -> Result<Var> {
        let (deepest, finer) = features.split_last().context("a decoder needs features")?;
        let mut h = deepest.clone();
        for ((up, block), skip) in self.blocks.iter().zip(finer.iter().rev()) {
            let up = up.forward(tape, &h)?;
            h = block.forward(tape, &tape.concat(&[skip, &up], 1)?)?;
        }
        self.out.forward(tape, &h)
    }
}

impl Up {
    /// PyTorch counts the inputs of a transposed convolution's start from its output channels.
    fn transposed(b: &mut Builder, from: usize, to: usize) -> Result<Self> {
        let init = Init::fan_in(to * 4);
        b.within("up", |b| {
            let weight = b.param("weight", &[from, to, 2, 2], init)?;
            Ok(Self::Transposed { weight, bias: b.param("bias", &[to], init)? })
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        match self {
            Self::Transposed { weight, bias } => {
                tape.conv_transpose2x2(x, &tape.param(weight), Some(&tape.param(bias)))
            }
            Self::Nearest(conv) => tape.upsample_nearest2(&conv.forward(tape, x)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{Fixture, close, fill, values};
    use crate::ops::Mode;
    use crate::spec::settings::{Method, Preset, Settings};

    #[test]
    fn parameters_are_the_papers() {
        let settings = Settings::preset(Preset::Paper, Method::McNetPlus).unet;
        for (decoders, expected) in [(2, 2_577_624), (3, 3_210_924)] {
            let mut builder = Builder::shapes_only();
            McNet::new(&mut builder, 4, decoders, &settings).unwrap();
            assert_eq!(builder.finish().count(), expected, "{decoders} decoders");
        }
    }

    #[test]
    fn logits_and_gradients_are_pytorchs() {
        let fixture = Fixture::open("nn_mcnet");
        let settings = UnetSettings { channels: [2, 2, 4, 4, 4], dropout: [0.0; 5] };
        let mut builder = Builder::new(0);
        let net = McNet::new(&mut builder, 4, 3, &settings).unwrap();
        let params = builder.finish();
        fill(&params);
        let x = values("x", &[2, 1, 16, 16]);
        let tape = Tape::new(Mode::Train, 0);
        let all = net.forward(&tape, &tape.param(&x)).unwrap();
        let joint = tape.concat(&all.iter().collect::<Vec<_>>(), 0).unwrap();
        close(joint.value(), &fixture["y"], 5e-5, "logits of three decoders");
        let loss = tape.mse(&joint, &values("target", &[6, 4, 16, 16])).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        fixture.check_gradients(&params, &gradients, 5e-4);
        close(gradients.get(&x).unwrap(), &fixture["dx"], 5e-4, "gradient of the input");
    }
}
