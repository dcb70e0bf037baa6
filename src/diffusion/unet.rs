//! The U-Net of guided-diffusion (`guided_diffusion/unet.py`), one channel in, one channel (ε) out, and the outputs of
//! its decoder blocks.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::nn::layers::{Conv, GroupNorm, Linear, Pointwise};
use crate::nn::params::Builder;
use crate::ops::{Tape, Var};
use crate::spec::settings::DiffusionSettings;

/// Longest period of the time embedding, in steps.
const MAX_PERIOD: f64 = 10_000.0;
/// Channels are a multiple of this: the groups of the group norm.
const GROUPS: usize = 32;

/// The output of a decoder block: `[B, channels, side, side]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockShape {
    /// Channels.
    pub channels: usize,
    /// Height and width, in pixels.
    pub side: usize,
}

/// The outputs of all decoder blocks (`output_blocks`, from the bottleneck outward) for images of `size`².
pub fn blocks(settings: &DiffusionSettings, size: usize) -> Vec<BlockShape> {
    let mut blocks = Vec::new();
    for (level, mult) in settings.channel_mult.iter().enumerate().rev() {
        for block in 0..=settings.res_blocks {
            // The last block of a level up-samples to the next.
            let up = level > 0 && block == settings.res_blocks;
            let side = (size >> level) << usize::from(up);
            blocks.push(BlockShape { channels: settings.channels * mult, side });
        }
    }
    blocks
}

/// The shapes of the `chosen` decoder blocks, in that order.
///
/// # Errors
/// Name the valid range if a block does not exist.
pub fn chosen_blocks(settings: &DiffusionSettings, size: usize, chosen: &[usize]) -> Result<Vec<BlockShape>> {
    let all = blocks(settings, size);
    let find = |&block: &usize| {
        all.get(block).copied().with_context(|| {
            format!("decoder block {block} does not exist: the diffusion network has 0 to {}", all.len() - 1)
        })
    };
    chosen.iter().map(find).collect()
}

/// Checks that a network with these settings exists and takes images of `size`².
///
/// # Errors
/// Name the first setting that is wrong, its value and what it may be.
pub fn check(settings: &DiffusionSettings, size: usize) -> Result<()> {
    let DiffusionSettings { channels, channel_mult, res_blocks, head_channels, dropout, .. } = settings;
    ensure!(
        *channels > 0 && channels % GROUPS == 0,
        "diffusion.channels is {channels}, needs a multiple of {GROUPS}"
    );
    ensure!(
        !channel_mult.is_empty() && channel_mult.len() <= 16 && !channel_mult.contains(&0),
        "diffusion.channel_mult is {channel_mult:?}, needs 1 to 16 numbers of at least 1"
    );
    ensure!(*res_blocks > 0, "diffusion.res_blocks is 0, needs at least 1");
    ensure!((0.0..1.0).contains(dropout), "diffusion.dropout is {dropout}, needs to be in [0, 1)");
    let multiple = 1 << (channel_mult.len() - 1);
    ensure!(
        size > 0 && size.is_multiple_of(multiple),
        "size is {size}, needs a multiple of {multiple}: the diffusion network has {} levels",
        channel_mult.len()
    );
    for (level, mult) in channel_mult.iter().enumerate() {
        let attends = settings.attention.contains(&(1 << level)) || level + 1 == channel_mult.len();
        ensure!(
            !attends || (*head_channels > 0 && (channels * mult) % head_channels == 0),
            "diffusion.head_channels is {head_channels}, needs to divide the {} channels of level {level}",
            channels * mult
        );
    }
    Ok(())
}

/// The number of parameters of a network with these settings, found without building it.
pub fn parameter_count(settings: &DiffusionSettings) -> Result<usize> {
    let mut builder = Builder::shapes_only();
    DiffusionUNet::new(&mut builder, settings)?;
    Ok(builder.finish().count())
}

/// The network that predicts noise, `ε_θ(x_t, t)`: `[B, 1, S, S]` to `[B, 1, S, S]`.
#[derive(Debug)]
pub struct DiffusionUNet {
    settings: DiffusionSettings,
    time: [Linear; 2],
    input: Vec<Block>,
    middle: Block,
    output: Vec<Block>,
    out_norm: GroupNorm,
    out: Conv,
}

impl DiffusionUNet {
    /// A network whose parameters are named as in guided-diffusion (`input_blocks.0.0.weight`, …).
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(b: &mut Builder, settings: &DiffusionSettings) -> Result<Self> {
        check(settings, 1 << settings.channel_mult.len().saturating_sub(1).min(16))?;
        let embedding = 4 * settings.channels;
        let time = b.within("time_embed", |b| {
            Ok([
                Linear::new(b, "0", settings.channels, embedding)?,
                Linear::new(b, "2", embedding, embedding)?,
            ])
        })?;
        let mut walk = Walk { settings, channels: 0, skips: Vec::new() };
        let input = b.within("input_blocks", |b| walk.input(b))?;
        let middle = b.within("middle_block", |b| walk.middle(b))?;
        let output = b.within("output_blocks", |b| walk.output(b))?;
        let (out_norm, out) = b.within("out", |b| {
            Ok((GroupNorm::new(b, "0", walk.channels)?, Conv::zeroed(b, "2", walk.channels, 1, 3)?))
        })?;
        Ok(Self { settings: settings.clone(), time, input, middle, output, out_norm, out })
    }

    /// The settings that it was built from.
    pub fn settings(&self) -> &DiffusionSettings {
        &self.settings
    }

    /// The predicted noise ε of `x [B, 1, S, S]`, sample i at step `t[i]`.
    pub fn forward(&self, tape: &Tape, x: &Var, t: &[usize]) -> Result<Var> {
        let h = self.decode(tape, x, t, self.output.len(), |_, _| ())?;
        self.out.forward(tape, &self.out_norm.silu(tape, &h)?)
    }

    /// The outputs of the decoder blocks `blocks` (residual block, attention and up-sampling) for `x [B, 1, S, S]`
    /// at steps `t`, in the order of `blocks`. What comes after the last of them is not computed. To be called with
    /// a tape in [`crate::ops::Mode::Eval`].
    ///
    /// # Errors
    /// Name the valid range if a block does not exist.
    pub fn features(&self, tape: &Tape, x: &Var, t: &[usize], blocks: &[usize]) -> Result<Vec<Tensor>> {
        chosen_blocks(&self.settings, *x.value().dims().last().unwrap_or(&0), blocks)?;
        let mut found = vec![None; blocks.len()];
        let needed = blocks.iter().max().map_or(0, |last| last + 1);
        self.decode(tape, x, t, needed, |index, output| {
            for (slot, _) in found.iter_mut().zip(blocks).filter(|(_, block)| **block == index) {
                *slot = Some(output.value().clone());
            }
        })?;
        found.into_iter().collect::<Option<_>>().context("a chosen decoder block was not computed")
    }

    /// Runs the encoder, the middle and the first `needed` decoder blocks; shows each block's output to `visit`.
    fn decode(
        &self,
        tape: &Tape,
        x: &Var,
        t: &[usize],
        needed: usize,
        mut visit: impl FnMut(usize, &Var),
    ) -> Result<Var> {
        self.check_input(x, t)?;
        let embedding = self.embed(tape, t)?;
        let mut h = x.clone();
        let mut skips = Vec::with_capacity(self.input.len());
        for block in &self.input {
            h = block.forward(tape, h, &embedding)?;
            skips.push(h.clone());
        }
        h = self.middle.forward(tape, h, &embedding)?;
        for (index, block) in self.output.iter().take(needed).enumerate() {
            let skip = skips.pop().expect("there are as many input as output blocks");
            h = block.forward(tape, tape.concat(&[&h, &skip], 1)?, &embedding)?;
            visit(index, &h);
        }
        Ok(h)
    }

    fn check_input(&self, x: &Var, t: &[usize]) -> Result<()> {
        let (batch, channels, height, width) = x.value().dims4()?;
        ensure!(
            channels == 1 && height == width && batch == t.len(),
            "the diffusion network takes square images of one channel and a step for each, not {:?} and {} steps",
            x.value().dims(),
            t.len()
        );
        check(&self.settings, height)
    }

    /// SiLU of the embedding of the steps, `[B, 4·channels]`: every residual block begins with that SiLU.
    fn embed(&self, tape: &Tape, t: &[usize]) -> Result<Var> {
        let h = tape.constant(&time_embedding(t, self.settings.channels)?);
        let h = tape.silu(&self.time[0].forward(tape, &h)?)?;
        tape.silu(&self.time[1].forward(tape, &h)?)
    }
}

/// `[cos, sin]` of the steps at `channels`/2 frequencies from 1 to 1/10000, `[B, channels]` (`nn.py:103-121`), in
/// single precision as there.
fn time_embedding(t: &[usize], channels: usize) -> Result<Tensor> {
    let half = channels / 2;
    let log = -(MAX_PERIOD.ln() as f32);
    let frequencies: Vec<f32> = (0..half).map(|i| (log * i as f32 / half as f32).exp()).collect();
    let mut values = Vec::with_capacity(t.len() * channels);
    for step in t {
        let angles = frequencies.iter().map(|frequency| *step as f32 * frequency);
        values.extend(angles.clone().map(f32::cos));
        values.extend(angles.map(f32::sin));
    }
    Ok(Tensor::from_vec(values, (t.len(), 2 * half), &Device::Cpu)?)
}

/// Where the construction stands.
struct Walk<'a> {
    settings: &'a DiffusionSettings,
    /// Channels of the last output.
    channels: usize,
    /// Channels of the encoder's outputs that no decoder block took yet.
    skips: Vec<usize>,
}

impl Walk<'_> {
    fn input(&mut self, b: &mut Builder) -> Result<Vec<Block>> {
        let settings = self.settings;
        self.channels = settings.channels * settings.channel_mult[0];
        self.skips.push(self.channels);
        let first = b.within("0", |b| Conv::new(b, "0", 1, self.channels, 3))?;
        let mut blocks = vec![Block(vec![Layer::Conv(first)])];
        for (level, mult) in settings.channel_mult.iter().enumerate() {
            for _ in 0..settings.res_blocks {
                let block = b.within(blocks.len(), |b| {
                    self.res_and_attention(b, self.channels, settings.channels * mult, level)
                })?;
                blocks.push(Block(block));
                self.skips.push(self.channels);
            }
            if level + 1 < settings.channel_mult.len() {
                let down = b.within(blocks.len(), |b| self.resample(b, 0, Resample::Down))?;
                blocks.push(Block(vec![down]));
                self.skips.push(self.channels);
            }
        }
        Ok(blocks)
    }

    fn middle(&mut self, b: &mut Builder) -> Result<Block> {
        let channels = self.channels;
        Ok(Block(vec![
            Layer::Res(self.res(b, 0, channels, channels, Resample::None)?),
            Layer::Attention(self.attention(b, 1)?),
            Layer::Res(self.res(b, 2, channels, channels, Resample::None)?),
        ]))
    }

    fn output(&mut self, b: &mut Builder) -> Result<Vec<Block>> {
        let settings = self.settings;
        let mut blocks = Vec::new();
        for (level, mult) in settings.channel_mult.iter().enumerate().rev() {
            for block in 0..=settings.res_blocks {
                let skip = self.skips.pop().expect("there are as many input as output blocks");
                let layers = b.within(blocks.len(), |b| {
                    let from = self.channels + skip;
                    let mut layers = self.res_and_attention(b, from, settings.channels * mult, level)?;
                    if level > 0 && block == settings.res_blocks {
                        layers.push(self.resample(b, layers.len(), Resample::Up)?);
                    }
                    Ok(layers)
                })?;
                blocks.push(Block(layers));
            }
        }
        Ok(blocks)
    }

    /// A residual block, and attention where the level has it.
    fn res_and_attention(
        &mut self,
        b: &mut Builder,
        from: usize,
        to: usize,
        level: usize,
    ) -> Result<Vec<Layer>> {
        let mut layers = vec![Layer::Res(self.res(b, 0, from, to, Resample::None)?)];
        self.channels = to;
        if self.settings.attention.contains(&(1 << level)) {
            layers.push(Layer::Attention(self.attention(b, 1)?));
        }
        Ok(layers)
    }

    fn res(
        &self,
        b: &mut Builder,
        name: usize,
        from: usize,
        to: usize,
        resample: Resample,
    ) -> Result<ResBlock> {
        b.within(name, |b| ResBlock::new(b, from, to, resample, self.settings))
    }

    fn attention(&self, b: &mut Builder, name: usize) -> Result<Attention> {
        b.within(name, |b| Attention::new(b, self.channels, self.channels / self.settings.head_channels))
    }

    fn resample(&self, b: &mut Builder, name: usize, resample: Resample) -> Result<Layer> {
        let channels = self.channels;
        if self.settings.resblock_updown {
            return Ok(Layer::Res(self.res(b, name, channels, channels, resample)?));
        }
        b.within(name, |b| match resample {
            Resample::Down => Ok(Layer::Conv(Conv::halving(b, "op", channels, channels, 3)?)),
            Resample::Up | Resample::None => Ok(Layer::UpConv(Conv::new(b, "conv", channels, channels, 3)?)),
        })
    }
}

/// guided-diffusion's `TimestepEmbedSequential`.
#[derive(Debug)]
struct Block(Vec<Layer>);

#[derive(Debug)]
enum Layer {
    Conv(Conv),
    /// Nearest up-sampling, then a convolution.
    UpConv(Conv),
    Res(ResBlock),
    Attention(Attention),
}

impl Block {
    fn forward(&self, tape: &Tape, mut h: Var, embedding: &Var) -> Result<Var> {
        for layer in &self.0 {
            h = match layer {
                Layer::Conv(conv) => conv.forward(tape, &h)?,
                Layer::UpConv(conv) => conv.forward(tape, &tape.upsample_nearest2(&h)?)?,
                Layer::Res(block) => block.forward(tape, &h, embedding)?,
                Layer::Attention(attention) => attention.forward(tape, &h)?,
            };
        }
        Ok(h)
    }
}

#[derive(Clone, Copy, Debug)]
enum Resample {
    None,
    /// Average pooling, 2×2.
    Down,
    /// Nearest, ×2.
    Up,
}

impl Resample {
    fn apply(self, tape: &Tape, x: Var) -> Result<Var> {
        Ok(match self {
            Self::None => x,
            Self::Down => tape.avg_pool2(&x)?,
            Self::Up => tape.upsample_nearest2(&x)?,
        })
    }
}

/// A residual block (`unet.py:143-256`).
#[derive(Debug)]
struct ResBlock {
    in_norm: GroupNorm,
    in_conv: Conv,
    embedding: Linear,
    out_norm: GroupNorm,
    out_conv: Conv,
    skip: Option<Conv>,
    resample: Resample,
    scale_shift: bool,
    dropout: f64,
    channels: usize,
}

impl ResBlock {
    fn new(
        b: &mut Builder,
        from: usize,
        to: usize,
        resample: Resample,
        settings: &DiffusionSettings,
    ) -> Result<Self> {
        let scale_shift = settings.scale_shift_norm;
        // The places of activations and dropout in PyTorch's `Sequential`s have no parameters.
        let (in_norm, in_conv) =
            b.within("in_layers", |b| Ok((GroupNorm::new(b, "0", from)?, Conv::new(b, "2", from, to, 3)?)))?;
        let embedding = b.within("emb_layers", |b| {
            Linear::new(b, "1", 4 * settings.channels, if scale_shift { 2 * to } else { to })
        })?;
        let (out_norm, out_conv) =
            b.within("out_layers", |b| Ok((GroupNorm::new(b, "0", to)?, Conv::zeroed(b, "3", to, to, 3)?)))?;
        let skip = if from == to { None } else { Some(Conv::new(b, "skip_connection", from, to, 1)?) };
        let (dropout, channels) = (settings.dropout, to);
        Ok(Self {
            in_norm,
            in_conv,
            embedding,
            out_norm,
            out_conv,
            skip,
            resample,
            scale_shift,
            dropout,
            channels,
        })
    }

    /// `embedding` is that of the steps, after its SiLU.
    fn forward(&self, tape: &Tape, x: &Var, embedding: &Var) -> Result<Var> {
        let h = self.resample.apply(tape, self.in_norm.silu(tape, x)?)?;
        let h = self.in_conv.forward(tape, &h)?;
        let embedding = self.embedding.forward(tape, embedding)?;
        let h = if self.scale_shift {
            let scale = tape.narrow(&embedding, 1, 0, self.channels)?;
            let shift = tape.narrow(&embedding, 1, self.channels, self.channels)?;
            self.out_norm.modulate_silu_dropout(tape, &h, Some((&scale, &shift)), self.dropout)?
        } else {
            let h = tape.add_channel(&h, &embedding)?;
            self.out_norm.modulate_silu_dropout(tape, &h, None, self.dropout)?
        };
        let h = self.out_conv.forward(tape, &h)?;
        let x = self.resample.apply(tape, x.clone())?;
        let x = match &self.skip {
            None => x,
            Some(conv) => conv.forward(tape, &x)?,
        };
        tape.add(&x, &h)
    }
}

/// Self-attention over positions, with a residual (`unet.py:259-354`, the "legacy" order of q, k and v).
#[derive(Debug)]
struct Attention {
    norm: GroupNorm,
    qkv: Pointwise,
    out: Pointwise,
    heads: usize,
}

impl Attention {
    fn new(b: &mut Builder, channels: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            norm: GroupNorm::new(b, "norm", channels)?,
            qkv: Pointwise::new(b, "qkv", channels, 3 * channels, false)?,
            out: Pointwise::new(b, "proj_out", channels, channels, true)?,
            heads,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (batch, channels, height, width) = x.value().dims4()?;
        let qkv = self.qkv.forward(tape, &self.norm.forward(tape, x)?)?;
        // [B, 3C, H, W] → [B, 3C, HW] → [B, C, HW] → [B, C, H, W]
        let qkv = tape.reshape(&qkv, &[batch, 3 * channels, height * width])?;
        let h = tape.attention(&qkv, self.heads)?;
        let h = tape.reshape(&h, &[batch, channels, height, width])?;
        tape.add(x, &self.out.forward(tape, &h)?)
    }
}

#[cfg(test)]
mod tests;
