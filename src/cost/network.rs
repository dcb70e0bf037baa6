//! What one network does, layer by layer, without building it.

use std::ops::{Add, AddAssign, Mul};

use crate::spec::settings::{DiffusionSettings, UnetSettings};

/// Channels on both sides from which 3×3 convolutions are Winograd's, as in [`crate::ops`].
const WINOGRAD_FROM: usize = 8;

/// Bytes of a number.
pub(super) const FLOAT: f64 = 4.0;

/// Work of some computation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Operations of convolutions, linear layers and attention: a multiplication and an addition are two, as PyTorch's
    /// `FlopCounterMode` counts. Everything else (norms, activations, losses, updates) counts in `bytes` alone.
    pub flops: f64,
    /// The same where 3×3 convolutions of at least 8 channels are Winograd's F(2×2, 3×3), as the processor computes them: a
    /// tile of 2×2 results costs 16 products for each pair of channels in the place of 36. What transforms maps to tiles
    /// and back is not counted. No processor of the same rate takes less time than this by that way.
    pub winograd: f64,
    /// Bytes moved if every op reads its inputs and writes its outputs once (a norm and what follows it are one op)
    /// and nothing stays in a cache from one op to the next.
    pub bytes: f64,
}

impl Work {
    /// Bytes that are moved, and nothing else.
    pub const fn moved(bytes: f64) -> Self {
        Self { flops: 0.0, winograd: 0.0, bytes }
    }

    /// Operations that there is one way to do, and bytes.
    pub(super) const fn done(flops: f64, bytes: f64) -> Self {
        Self { flops, winograd: flops, bytes }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flops: self.flops + other.flops,
            winograd: self.winograd + other.winograd,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<f64> for Work {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { flops: self.flops * times, winograd: self.winograd * times, bytes: self.bytes * times }
    }
}

/// How the weights of a network are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// AdamW, and a moving average of the weights.
    AdamWithAverage,
}

impl Update {
    /// Copies of the weights that are held beside the weights and their gradient.
    fn copies(self) -> f64 {
        match self {
            Self::Sgd => 1.0,
            Self::AdamWithAverage => 3.0,
        }
    }
}

/// A network at one image size. Amounts are those of one image, unless they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Network {
    /// Trainable values.
    pub parameters: f64,
    /// Values that no optimiser updates: running statistics.
    pub buffers: f64,
    /// Tensors of both.
    pub tensors: f64,
    forward: Work,
    backward: Work,
    /// The part of a backward pass that gives the gradient of the input.
    input_gradient: Work,
    /// Bytes of values that a training pass keeps for the backward pass.
    kept: f64,
    /// Bytes of the largest value.
    largest: f64,
    /// Bytes of encoder outputs that wait for the decoder at the same time.
    waiting: f64,
}

impl Network {
    /// A forward pass over `batch` images.
    pub fn forward(&self, batch: f64) -> Work {
        self.forward * batch + Work::moved(FLOAT * self.parameters)
    }

    /// A backward pass over `batch` images, to the weights and, where `input_gradient`, to the input.
    pub fn backward(&self, batch: f64, input_gradient: bool) -> Work {
        let mut work = self.backward * batch;
        if input_gradient {
            work += self.input_gradient * batch;
        }
        work + Work::moved(2.0 * FLOAT * self.parameters)
    }

    /// The update of the weights: weights, gradient and each copy read, all but the gradient written.
    pub fn update(&self, update: Update) -> Work {
        Work::moved(FLOAT * self.parameters * (3.0 + 2.0 * update.copies()))
    }

    /// Bytes of weights, their gradient and what the optimiser holds.
    pub fn training_state(&self, update: Update) -> f64 {
        FLOAT * ((2.0 + update.copies()) * self.parameters + self.buffers)
    }

    /// Bytes that `batch` images need at the peak of a training pass, beside [`Self::training_state`].
    pub fn training_memory(&self, batch: f64) -> f64 {
        // At the turn from forward to backward everything is kept; a value and its gradient come on top.
        batch * (self.kept + 2.0 * self.largest)
    }

    /// Bytes that `batch` images need at the peak of a pass without gradients, beside the weights.
    pub fn inference_memory(&self, batch: f64) -> f64 {
        batch * (self.waiting + 3.0 * self.largest)
    }

    /// Bytes of weights and buffers in a safetensors file.
    pub fn file(&self) -> f64 {
        // A tensor's entry in the header: name, type, shape and place.
        FLOAT * (self.parameters + self.buffers) + 120.0 * self.tensors
    }
}

/// Walks through a network.
struct Walk {
    net: Network,
    /// Side of the current value.
    side: usize,
    /// Its channels.
    channels: usize,
}

impl Walk {
    fn new(channels: usize, side: usize) -> Self {
        Self { net: Network::default(), side, channels }
    }

    /// Bytes of `channels` at the current side.
    fn size(&self, channels: usize) -> f64 {
        FLOAT * (channels * self.side * self.side) as f64
    }

    fn moves(&mut self, forward: f64, backward: f64) {
        self.net.forward.bytes += forward;
        self.net.backward.bytes += backward;
    }

    fn keep(&mut self, bytes: f64) {
        self.net.kept += bytes;
        self.net.largest = self.net.largest.max(bytes);
    }

    fn weights(&mut self, count: usize, tensors: usize) {
        self.net.parameters += count as f64;
        self.net.tensors += tensors as f64;
    }

    /// A `kernel`×`kernel` convolution with bias from the current channels to `to`; the side has been halved already where
    /// `halves`, so that the bytes of the `input` are given.
    fn conv(&mut self, to: usize, kernel: usize, input: f64, halves: bool) {
        let (from, output) = (self.channels, self.size(to));
        let flops = 2.0 * (kernel * kernel * from) as f64 * output / FLOAT;
        let tiles = self.side.div_ceil(2).pow(2);
        let served = kernel == 3 && !halves && from.min(to) >= WINOGRAD_FROM;
        let winograd = if served { 2.0 * (16 * from * to * tiles) as f64 } else { flops };
        // Both halves of the backward pass cost what the forward pass does.
        let gradient = Work { flops, winograd, bytes: input + output };
        self.net.forward += gradient;
        self.net.backward += gradient;
        if self.net.parameters == 0.0 {
            // The first layer of the network: its input is data.
            self.net.input_gradient = gradient;
        } else {
            self.net.backward += gradient;
        }
        self.net.largest = self.net.largest.max(output);
        self.weights(from * to * kernel * kernel + to, 2);
        self.channels = to;
    }

    /// A convolution that keeps the side.
    fn conv_same(&mut self, to: usize, kernel: usize) {
        self.conv(to, kernel, self.size(self.channels), false);
    }

    /// A norm with its activation: its input is kept, and its output by the layer that follows.
    fn norm(&mut self) {
        let size = self.size(self.channels);
        self.weights(2 * self.channels, 2);
        self.moves(3.0 * size, 6.0 * size);
        self.keep(size);
        self.keep(size);
    }

    /// A batch norm has running statistics beside.
    fn batch_norm(&mut self) {
        self.norm();
        self.net.buffers += 2.0 * self.channels as f64;
        self.net.tensors += 2.0;
    }

    /// A linear layer over one vector.
    fn linear(&mut self, from: usize, to: usize, input_gradient: bool) {
        let work = Work::done(2.0 * (from * to) as f64, FLOAT * (from + to) as f64);
        self.net.forward += work;
        self.net.backward += work * if input_gradient { 2.0 } else { 1.0 };
        self.weights(from * to + to, 2);
    }

    fn unet_block(&mut self, to: usize) {
        for _ in 0..2 {
            self.conv_same(to, 3);
            self.batch_norm();
        }
    }

    /// A residual block of the diffusion network to `to` channels; `scale` doubles (`Some(true)`) or halves the side.
    fn res_block(&mut self, to: usize, scale: Option<bool>, settings: &DiffusionSettings) {
        let (from, outside) = (self.channels, self.side);
        self.norm();
        let before = self.size(from);
        match scale {
            Some(true) => self.side = 2 * outside,
            Some(false) => self.side = outside / 2,
            None => {}
        }
        if scale.is_some() {
            // Both branches are resampled.
            let moved = 2.0 * (before + self.size(from));
            self.moves(moved, moved);
            self.keep(self.size(from));
        }
        self.conv_same(to, 3);
        self.linear(4 * settings.channels, if settings.scale_shift_norm { 2 * to } else { to }, true);
        let size = self.size(to);
        if !settings.scale_shift_norm {
            // The embedding is added; with scale and shift it is part of the norm, as SiLU and dropout are.
            self.moves(2.0 * size, size);
        }
        self.norm();
        self.conv_same(to, 3);
        if from != to {
            self.channels = from;
            self.conv_same(to, 1);
        }
        self.moves(3.0 * size, size);
    }

    /// Self-attention over the positions.
    fn attention(&mut self, settings: &DiffusionSettings) {
        let channels = self.channels;
        let (size, positions) = (self.size(channels), (self.side * self.side) as f64);
        self.norm();
        self.conv_same(3 * channels, 1);
        self.keep(3.0 * size);
        // q·k and weights·v.
        let flops = 4.0 * positions * positions * channels as f64;
        let heads = (channels / settings.head_channels.max(1)).max(1) as f64;
        let weights = FLOAT * heads * positions * positions;
        let work = Work::done(flops, 4.0 * size + 2.0 * weights);
        self.net.forward += work;
        self.net.backward += work * 2.0;
        self.keep(weights);
        self.keep(size);
        self.channels = channels;
        self.conv_same(channels, 1);
        self.moves(3.0 * size, size);
    }

    /// `[skip, current]` as one value.
    fn concat(&mut self, skip: usize) {
        self.channels += skip;
        let size = self.size(self.channels);
        self.moves(2.0 * size, 2.0 * size);
        self.keep(size);
    }
}

/// The U-Net of SSL4MIS ([`crate::nn::unet`]) from `channels` to `classes` at images of `side`².
pub fn unet(channels: usize, classes: usize, settings: &UnetSettings, side: usize) -> Network {
    let widths = settings.channels;
    let mut walk = Walk::new(channels, side);
    for (stage, width) in widths.into_iter().enumerate() {
        if stage > 0 {
            let whole = walk.size(walk.channels);
            walk.side /= 2;
            let half = walk.size(walk.channels);
            walk.moves(whole + half, 2.0 * whole + half);
            walk.keep(half);
        }
        walk.unet_block(width);
        if stage + 1 < widths.len() {
            walk.net.waiting += walk.size(width);
        }
    }
    for width in widths.into_iter().rev().skip(1) {
        walk.conv_same(width, 1);
        let small = walk.size(width);
        walk.side *= 2;
        let large = walk.size(width);
        walk.moves(small + large, small + large);
        walk.concat(width);
        walk.unet_block(width);
    }
    walk.conv_same(classes, 3);
    // Softmax and loss: the logits read, their gradient written.
    let logits = walk.size(classes);
    walk.moves(2.0 * logits, logits);
    walk.keep(logits);
    walk.net
}

/// guided-diffusion's U-Net ([`crate::diffusion::unet`]) at images of `side`². With `blocks`, only its first so many
/// decoder blocks: what feature extraction runs.
pub fn diffusion(settings: &DiffusionSettings, side: usize, blocks: Option<usize>) -> Network {
    let mut walk = Walk::new(1, side);
    let base = settings.channels;
    let levels = settings.channel_mult.len();
    walk.channels = 1;
    walk.conv_same(base * settings.channel_mult.first().copied().unwrap_or(1), 3);
    walk.linear(base, 4 * base, false);
    walk.linear(4 * base, 4 * base, true);
    let mut skips = vec![walk.channels];
    for (level, mult) in settings.channel_mult.iter().enumerate() {
        for _ in 0..settings.res_blocks {
            walk.res_block(base * mult, None, settings);
            if settings.attention.contains(&(1 << level)) {
                walk.attention(settings);
            }
            skips.push(walk.channels);
            walk.net.waiting += walk.size(walk.channels);
        }
        if level + 1 < levels {
            resample(&mut walk, false, settings);
            skips.push(walk.channels);
            walk.net.waiting += walk.size(walk.channels);
        }
    }
    let deepest = walk.channels;
    walk.res_block(deepest, None, settings);
    walk.attention(settings);
    walk.res_block(deepest, None, settings);
    let mut index = 0;
    for (level, mult) in settings.channel_mult.iter().enumerate().rev() {
        for block in 0..=settings.res_blocks {
            if blocks.is_some_and(|blocks| index >= blocks) {
                return walk.net;
            }
            index += 1;
            walk.concat(skips.pop().unwrap_or_default());
            walk.res_block(base * mult, None, settings);
            if settings.attention.contains(&(1 << level)) {
                walk.attention(settings);
            }
            if level > 0 && block == settings.res_blocks {
                resample(&mut walk, true, settings);
            }
        }
    }
    if blocks.is_none() {
        walk.norm();
        walk.conv_same(1, 3);
    }
    walk.net
}

/// One halving or doubling of the diffusion network's side.
fn resample(walk: &mut Walk, up: bool, settings: &DiffusionSettings) {
    let channels = walk.channels;
    if settings.resblock_updown {
        return walk.res_block(channels, Some(up), settings);
    }
    let before = walk.size(channels);
    if up {
        walk.side *= 2;
        let after = walk.size(channels);
        walk.moves(before + after, before + after);
        walk.keep(after);
        walk.conv_same(channels, 3);
    } else {
        walk.side /= 2;
        walk.conv(channels, 3, before, true);
    }
}
