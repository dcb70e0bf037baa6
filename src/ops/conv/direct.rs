//! The 3×3 convolution (padding 1, stride 1) of few channels, forward and backward, without unfolding.
//!
//! All images of a batch are one tall map: image, zero row, image, zero row, ... A *band* is a range of its rows;
//! its planes are copied with their zeros into a buffer that fits the second cache, and the kernels of
//! [`super::kernel`] run over it, one block of output channels after the other. Small planes thus fill whole vectors
//! together. Every output is one sum in a fixed order (channel, ky, kx), so bands and threads do not change it; sums
//! over positions (the gradient of the weights) are taken over fixed bands and added in their order.

use rayon::prelude::*;

use super::Shape;
use super::kernel::{self, LONGEST, Planes};
use crate::ops::buffer::{Shared, uninit};
use crate::ops::simd::{Level, level};

/// Bytes of the planes of a band: half of a small second cache.
const BAND_BYTES: usize = 400 << 10;
/// Positions of one run of a kernel, over whole rows.
const RUN: usize = 800;
/// Positions of one run of the kernel of the weights' gradient: a block of gradient planes fits the first cache.
const SWEEP: usize = 64 * LONGEST;
/// Weights (in numbers) up to which bands have gradients of their own, to be added up; beyond it, the blocks of
/// output channels are the tasks.
const SMALL_WEIGHTS: usize = 40_000;

/// A stack of maps [batch, channels, height, width] as one tall map.
#[derive(Clone, Copy)]
struct Tall {
    batch: usize,
    height: usize,
    width: usize,
}

impl Tall {
    fn of(s: &Shape) -> Self {
        Self { batch: s.batch, height: s.input.1, width: s.input.2 }
    }

    /// Its rows, with the zero row after each image but the last.
    fn rows(self) -> usize {
        self.batch * (self.height + 1) - 1
    }

    /// Numbers from one row to the next: one zero between them.
    fn row(self) -> usize {
        self.width + 1
    }

    /// Rows of one run of a kernel.
    fn run(self) -> usize {
        (RUN / self.row()).clamp(1, self.rows())
    }

    /// Rows of a band whose planes take `channels` numbers per position.
    fn band(self, channels: usize) -> usize {
        let rows = BAND_BYTES / (4 * channels * self.row());
        (rows / self.run()).max(1) * self.run()
    }

    /// Image and row of a row of the tall map; none for a zero row.
    fn place(self, row: usize) -> Option<(usize, usize)> {
        let (image, y) = (row / (self.height + 1), row % (self.height + 1));
        (y < self.height && image < self.batch).then_some((image, y))
    }

    /// Numbers of a plane of a band of `rows` rows with `around` rows more.
    fn plane(self, rows: usize, around: usize) -> usize {
        // The kernels read whole vectors, and taps beyond the last position.
        ((rows + around) * self.row() + 2 + 2 * LONGEST).next_multiple_of(LONGEST)
    }

    /// One plane of a band: rows `first − margin` to `first + rows + margin` of channel `c` of `x`, with zeros
    /// between and around them. Margin 1 starts with the zero before the first row.
    fn pack(
        self,
        x: &[f32],
        (c, channels): (usize, usize),
        first: usize,
        rows: usize,
        margin: usize,
        out: &mut [f32],
    ) {
        let row = self.row();
        out[..margin].fill(0.0);
        let (lines, rest) = out[margin..].split_at_mut((rows + 2 * margin) * row);
        for (r, line) in lines.chunks_exact_mut(row).enumerate() {
            match (first + r).checked_sub(margin).and_then(|r| self.place(r)) {
                Some((image, y)) => {
                    let from = ((image * channels + c) * self.height + y) * self.width;
                    line[..self.width].copy_from_slice(&x[from..from + self.width]);
                    line[self.width] = 0.0;
                }
                None => line.fill(0.0),
            }
        }
        rest.fill(0.0);
    }
}

/// Weights in the order of the kernel: [block][channel][tap][o], zeros where a block is not full.
/// `at(o, c, tap)` is the weight.
fn pack_weights(
    level: Level,
    outputs: usize,
    inputs: usize,
    at: impl Fn(usize, usize, usize) -> f32 + Sync,
) -> Vec<f32> {
    let block_size = kernel::block(level);
    let mut packed = uninit(padded(level, outputs) * inputs * 9);
    packed.par_chunks_mut(inputs * 9 * block_size).enumerate().for_each(|(block, packed)| {
        let o = kernel::width(level, block_size.min(outputs - block * block_size));
        for (i, group) in packed.chunks_exact_mut(o).enumerate() {
            for (lane, value) in group.iter_mut().enumerate() {
                let channel = block * block_size + lane;
                *value = if channel < outputs { at(channel, i / 9, i % 9) } else { 0.0 };
            }
        }
    });
    packed
}

/// Channels with those that fill the last block up.
fn padded(level: Level, channels: usize) -> usize {
    let block = kernel::block(level);
    match channels % block {
        0 => channels,
        rest => channels - rest + kernel::width(level, rest),
    }
}

/// A convolution of [batch, inputs] maps to [batch, outputs] maps with packed weights.
struct Pass<'a> {
    tall: Tall,
    inputs: usize,
    outputs: usize,
    x: &'a [f32],
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    level: Level,
}

impl Pass<'_> {
    fn run(&self) -> Vec<f32> {
        let Tall { batch, height, width } = self.tall;
        let mut y = uninit(batch * self.outputs * height * width);
        let out = Shared::new(&mut y);
        let tall = self.tall;
        let (rows, band) = (tall.rows(), tall.band(self.inputs));
        let o = kernel::block(self.level);
        let blocks = self.outputs.div_ceil(o);
        let bands = rows.div_ceil(band);
        // Few bands of many channels: the blocks of output channels share the threads, and one copy of the planes.
        if bands < 4 * rayon::current_num_threads() && blocks > 1 {
            let (planes, stride) = self.planes(0, rows);
            let planes = Planes { values: &planes, stride, channels: self.inputs, row: tall.row() };
            let runs: Vec<usize> = (0..rows).step_by(tall.run()).collect();
            (0..blocks * runs.len()).into_par_iter().for_each(|task| {
                let (block, first) = (task / runs.len(), runs[task % runs.len()]);
                self.block(&planes, 0, (first, tall.run().min(rows - first)), block, out);
            });
        } else {
            (0..bands).into_par_iter().for_each(|task| {
                let first = task * band;
                let count = band.min(rows - first);
                let stride = tall.plane(count, 2);
                with_scratch(stride * self.inputs, |values| {
                    for (c, plane) in values.chunks_exact_mut(stride).enumerate() {
                        tall.pack(self.x, (c, self.inputs), first, count, 1, plane);
                    }
                    let planes = Planes { values, stride, channels: self.inputs, row: tall.row() };
                    for block in 0..blocks {
                        for start in (0..count).step_by(tall.run()) {
                            let run = (first + start, tall.run().min(count - start));
                            self.block(&planes, first, run, block, out);
                        }
                    }
                });
            });
        }
        y
    }

    /// All planes of rows `first`..`first + rows`, packed in parallel.
    fn planes(&self, first: usize, rows: usize) -> (Vec<f32>, usize) {
        let stride = self.tall.plane(rows, 2);
        let mut values = uninit(stride * self.inputs);
        values.par_chunks_mut(stride).enumerate().for_each(|(c, plane)| {
            self.tall.pack(self.x, (c, self.inputs), first, rows, 1, plane);
        });
        (values, stride)
    }

    /// One block of output channels for `rows` rows from `first` on; `planes` start at row `origin`.
    #[expect(unsafe_code, reason = "tasks write disjoint rows of the output")]
    fn block(
        &self,
        planes: &Planes<'_>,
        origin: usize,
        (first, rows): (usize, usize),
        block: usize,
        out: Shared,
    ) {
        let tall = self.tall;
        let start = block * kernel::block(self.level);
        let used = kernel::block(self.level).min(self.outputs - start);
        let o = kernel::width(self.level, used);
        let mut bias = [0.0; 8];
        if let Some(all) = self.bias {
            bias[..used].copy_from_slice(&all[start..][..used]);
        }
        let positions = rows * tall.row() - 1;
        let stride = positions.next_multiple_of(LONGEST);
        let weights = &self.weights[start * self.inputs * 9..][..o * self.inputs * 9];
        let from = (first - origin) * tall.row();
        with_scratch(o * stride, |results| {
            kernel::forward(self.level, planes, (from, positions), weights, &bias[..o], results, stride);
            for r in 0..rows {
                let Some((image, y)) = tall.place(first + r) else { continue };
                for lane in 0..used {
                    let channel = image * self.outputs + start + lane;
                    let at = (channel * tall.height + y) * tall.width;
                    // SAFETY: rows and channel blocks of different tasks are different parts of the output.
                    let line = unsafe { out.part(at, tall.width) };
                    line.copy_from_slice(&results[lane * stride + r * tall.row()..][..tall.width]);
                }
            }
        });
    }
}

/// Calls `f` with a buffer of this thread, of arbitrary content; calls may nest.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        // Used like a stack: each depth of nesting finds its own buffer again.
        static SCRATCH: std::cell::RefCell<Vec<Vec<f32>>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer = uninit(len);
    }
    let result = f(&mut buffer[..len]);
    SCRATCH.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}

/// Whether this module serves the convolution.
pub(super) fn serves(s: &Shape) -> bool {
    s.kernel == 3 && s.stride == 1 && s.padding == 1
}

/// y = w * x + b.
pub(super) fn forward(s: &Shape, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    forward_at(level(), s, x, w, bias)
}

pub(super) fn forward_at(level: Level, s: &Shape, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (inputs, outputs) = (s.input.0, s.output.0);
    let at = |o: usize, c: usize, tap: usize| w[(o * inputs + c) * 9 + tap];
    let weights = pack_weights(level, outputs, inputs, at);
    Pass { tall: Tall::of(s), inputs, outputs, x, weights: &weights, bias, level }.run()
}

/// The gradient of x: the convolution of g with the weights turned by 180° and their channels swapped.
pub(super) fn backward_data(s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
    backward_data_at(level(), s, w, g)
}

pub(super) fn backward_data_at(level: Level, s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
    let (inputs, outputs) = (s.output.0, s.input.0);
    let at = |o: usize, c: usize, tap: usize| w[(c * outputs + o) * 9 + 8 - tap];
    let weights = pack_weights(level, outputs, inputs, at);
    Pass { tall: Tall::of(s), inputs, outputs, x: g, weights: &weights, bias: None, level }.run()
}

/// The gradient of w.
pub(super) fn backward_weights(s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    backward_weights_at(level(), s, x, g)
}

pub(super) fn backward_weights_at(level: Level, s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    let (inputs, outputs) = (s.input.0, s.output.0);
    let tall = Tall::of(s);
    let rows = tall.rows();
    let o = kernel::block(level);
    let padded = padded(level, outputs);
    if inputs * outputs * 9 > SMALL_WEIGHTS {
        return by_channels(level, tall, (inputs, outputs), x, g);
    }
    let band = tall.band(inputs + padded);
    let part = |task: usize| {
        let first = task * band;
        let count = band.min(rows - first);
        let (x_stride, g_stride) = (tall.plane(count, 2), tall.plane(count, 0));
        let mut dw = vec![0.0; outputs * inputs * 9];
        with_scratch(x_stride * inputs + g_stride * padded, |scratch| {
            let (xs, gs) = scratch.split_at_mut(x_stride * inputs);
            for (c, plane) in xs.chunks_exact_mut(x_stride).enumerate() {
                tall.pack(x, (c, inputs), first, count, 1, plane);
            }
            for (c, plane) in gs.chunks_exact_mut(g_stride).enumerate() {
                if c < outputs {
                    tall.pack(g, (c, outputs), first, count, 0, plane);
                } else {
                    plane.fill(0.0);
                }
            }
            let planes = Planes { values: xs, stride: x_stride, channels: inputs, row: tall.row() };
            for (block, dw) in dw.chunks_mut(o * inputs * 9).enumerate() {
                sweep(level, &planes, tall, count, &gs[block * o * g_stride..], g_stride, dw);
            }
        });
        dw
    };
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(band)).into_par_iter().map(part).collect();
    let mut parts = parts.into_iter();
    let mut sum = parts.next().expect("a map has rows");
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
    }
    sum
}

/// The gradient of many weights from few positions: planes packed once, a task per block of output channels.
fn by_channels(
    level: Level,
    tall: Tall,
    (inputs, outputs): (usize, usize),
    x: &[f32],
    g: &[f32],
) -> Vec<f32> {
    let rows = tall.rows();
    let o = kernel::block(level);
    let (x_stride, g_stride) = (tall.plane(rows, 2), tall.plane(rows, 0));
    let mut xs = uninit(x_stride * inputs);
    xs.par_chunks_mut(x_stride)
        .enumerate()
        .for_each(|(c, plane)| tall.pack(x, (c, inputs), 0, rows, 1, plane));
    let planes = Planes { values: &xs, stride: x_stride, channels: inputs, row: tall.row() };
    let mut dw = vec![0.0; outputs * inputs * 9];
    dw.par_chunks_mut(o * inputs * 9).enumerate().for_each(|(block, dw)| {
        with_scratch(o * g_stride, |gs| {
            for (lane, plane) in gs.chunks_exact_mut(g_stride).enumerate() {
                let c = block * o + lane;
                if c < outputs {
                    tall.pack(g, (c, outputs), 0, rows, 0, plane);
                } else {
                    plane.fill(0.0);
                }
            }
            sweep(level, &planes, tall, rows, gs, g_stride, dw);
        });
    });
    dw
}

/// Adds the products of all positions of a band, run by run, to the gradient of one block of output channels.
fn sweep(
    level: Level,
    planes: &Planes<'_>,
    tall: Tall,
    rows: usize,
    g: &[f32],
    g_stride: usize,
    dw: &mut [f32],
) {
    let used = dw.len() / (planes.channels * 9);
    let positions = rows * tall.row();
    // Runs are whole vectors, so that no position is taken twice; behind the last one, g is zero.
    for from in (0..positions).step_by(SWEEP) {
        let range = (from, SWEEP.min(positions - from));
        kernel::weights(level, planes, range, &g[from..], g_stride, dw, used);
    }
}

#[cfg(test)]
mod tests {
    use super::super::unfold;
    use super::*;
    use crate::ops::simd;

    fn numbers(len: usize, salt: u32) -> Vec<f32> {
        let hash =
            |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(salt).wrapping_mul(0x9E37_79B1);
        (0..len).map(|i| (hash(i) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
    }

    fn close(what: &str, a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len(), "{what}: as many numbers");
        let size = b.iter().fold(0.0f32, |m, b| m.max(b.abs()));
        let error = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error < 4e-6 * size, "{what}: off by {error} of {size}");
    }

    #[test]
    fn every_level_agrees_with_unfolding() {
        for (batch, i, o, h, w) in [
            (1, 1, 1, 1, 1),
            (2, 3, 5, 7, 9),
            (3, 2, 9, 40, 300),
            (2, 16, 16, 70, 63),
            (1, 40, 12, 33, 128),
            (5, 70, 72, 4, 4),
            (9, 8, 20, 2, 2),
            (1, 2, 4, 3, 900),
        ] {
            let s = Shape { batch, input: (i, h, w), output: (o, h, w), kernel: 3, stride: 1, padding: 1 };
            let x = numbers(batch * i * h * w, 1);
            let g = numbers(batch * o * h * w, 2);
            let weight = numbers(o * i * 9, 3);
            let bias = numbers(o, 4);
            let y = unfold::forward(&s, &x, &weight, Some(&bias));
            let dw = unfold::backward_weights(&s, &x, &g);
            let dx = unfold::backward_data(&s, &weight, &g);
            for level in simd::available() {
                let case = format!("{level:?}, {batch}×{i}→{o} at {h}×{w}");
                close(&format!("y, {case}"), &forward_at(level, &s, &x, &weight, Some(&bias)), &y);
                close(&format!("dw, {case}"), &backward_weights_at(level, &s, &x, &g), &dw);
                close(&format!("dx, {case}"), &backward_data_at(level, &s, &weight, &g), &dx);
            }
        }
    }
}
