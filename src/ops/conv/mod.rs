//! Convolutions. 3×3 with padding 1 and stride 1 runs on [`winograd`], or with few channels on the direct kernels of
//! [`direct`]; every other one is unfolded and multiplied ([`unfold`]).
#![expect(unsafe_code, reason = "vector instructions and pointers; extents are checked before each kernel")]

mod direct;
mod kernel;
mod product;
mod tiles;
mod unfold;
mod vector;
mod weights;
mod winograd;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, tensor, uninit};
use super::matmul::{Matrix, matmul};
use super::norm::BatchNorm;
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// The sizes of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) batch: usize,
    /// Channels, rows and columns of the input.
    pub(super) input: (usize, usize, usize),
    /// Channels, rows and columns of the output.
    pub(super) output: (usize, usize, usize),
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Shape {
    fn new(x: &Var, w: &Var, b: Option<&Var>, stride: usize, padding: usize) -> Result<Self> {
        let (batch, i, h, width) = x.dims4()?;
        let (o, wi, kernel, kw) = w.dims4()?;
        ensure!(
            wi == i && kernel == kw && kernel > 0 && stride > 0,
            "a convolution with weights {:?} and stride {stride} does not fit a value of shape {:?}",
            w.dims(),
            x.dims()
        );
        ensure!(
            h + 2 * padding >= kernel && width + 2 * padding >= kernel && !x.is_empty() && o > 0,
            "a value of shape {:?} is smaller than a kernel of {kernel}",
            x.dims()
        );
        if let Some(b) = b {
            ensure!(b.dims() == [o], "the bias of a convolution has shape {:?}, not [{o}]", b.dims());
        }
        let out = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        Ok(Self { batch, input: (i, h, width), output: (o, out(h), out(width)), kernel, stride, padding })
    }

    pub(super) fn input_len(&self) -> usize {
        self.input.0 * self.input.1 * self.input.2
    }

    pub(super) fn output_pixels(&self) -> usize {
        self.output.1 * self.output.2
    }

    pub(super) fn output_len(&self) -> usize {
        self.output.0 * self.output_pixels()
    }
}

/// Input, weights, bias, and the slope below zero of what follows.
type Forward = fn(&Shape, &[f32], &[f32], Option<&[f32]>, f32) -> Vec<f32>;

/// The three passes of a convolution.
struct Algorithm {
    forward: Forward,
    backward_weights: fn(&Shape, &[f32], &[f32]) -> Vec<f32>,
    backward_data: fn(&Shape, &[f32], &[f32]) -> Vec<f32>,
}

impl Algorithm {
    /// The fastest one that serves the convolution.
    fn of(shape: &Shape) -> Self {
        macro_rules! passes {
            ($module:ident, $forward:expr) => {
                Self {
                    forward: $forward,
                    backward_weights: $module::backward_weights,
                    backward_data: $module::backward_data,
                }
            };
        }
        if winograd::serves(shape) {
            passes!(winograd, winograd::forward)
        } else if direct::serves(shape) {
            passes!(direct, |s, x, w, b, slope| leaky(direct::forward(s, x, w, b), slope))
        } else {
            passes!(unfold, |s, x, w, b, slope| leaky(unfold::forward(s, x, w, b), slope))
        }
    }
}

/// What a pass makes of its two inputs.
#[cfg(test)]
pub(super) type Pass = Box<dyn Fn(&[f32], &[f32]) -> Vec<f32>>;

/// y of (x, w), dw of (x, dy), dx of (w, dy): what the GPU's convolutions are held to.
#[cfg(test)]
pub(super) fn passes(shape: &Shape) -> [Pass; 3] {
    let (shape, Algorithm { forward, backward_weights, backward_data }) = (*shape, Algorithm::of(shape));
    [
        Box::new(move |x, w| forward(&shape, x, w, None, 1.0)),
        Box::new(move |x, g| backward_weights(&shape, x, g)),
        Box::new(move |w, g| backward_data(&shape, w, g)),
    ]
}

/// LeakyReLU in place; slope 1 changes nothing.
fn leaky(mut y: Vec<f32>, slope: f32) -> Vec<f32> {
    if slope != 1.0 {
        y.par_chunks_mut(CHUNK).for_each(|y| leaky_chunk(y, slope));
    }
    y
}

multiversion! { fn leaky_chunk(y: &mut [f32], slope: f32) {
    for y in y {
        *y = if *y > 0.0 { *y } else { *y * slope };
    }
} }

/// Σ over images and pixels of each channel, in fixed order.
fn channel_sums(g: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let sum = |g: &[f32]| g.chunks(4096).map(super::norm::block_sum).sum::<f64>();
    let planes: Vec<f64> = g.par_chunks(pixels).with_min_len((1 << 14) / pixels + 1).map(sum).collect();
    (0..channels).map(|c| planes.iter().skip(c).step_by(channels).sum::<f64>() as f32).collect()
}

impl Tape {
    /// Convolution, as PyTorch's `conv2d`: x `[B,I,H,W]`, w `[O,I,k,k]`, b `[O]`; zero padding on all sides.
    pub fn conv2d(&self, x: &Var, w: &Var, b: Option<&Var>, stride: usize, padding: usize) -> Result<Var> {
        let shape = Shape::new(x, w, b, stride, padding)?;
        if let Some(gpu) = self.gpu(x)? {
            return gpu.conv2d(self, x, w, b, shape);
        }
        let y = {
            let (input, weight) = (floats(x.value())?, floats(w.value())?);
            let bias = b.map(|b| floats(b.value())).transpose()?;
            (Algorithm::of(&shape).forward)(&shape, &input, &weight, bias.as_deref(), 1.0)
        };
        let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
        let (input, weight, bias) = (x.clone(), w.clone(), b.and_then(|b| b.node));
        let (o, oh, ow) = shape.output;
        self.record(tensor(y, (shape.batch, o, oh, ow))?, &inputs, move |g, sink| {
            if bias.is_some() {
                sink.add(bias, channel_sums(&g, o, oh * ow));
            }
            if weight.node.is_some() {
                let backward = Algorithm::of(&shape).backward_weights;
                sink.add(weight.node, backward(&shape, &floats(input.value())?, &g));
            }
            if input.node.is_some() {
                let backward = Algorithm::of(&shape).backward_data;
                sink.add(input.node, backward(&shape, &floats(weight.value())?, &g));
            }
            Ok(())
        })
    }

    /// [`conv2d`](Self::conv2d) and [`batch_norm_leaky_dropout`](Self::batch_norm_leaky_dropout) in a mode that trains. On a
    /// GPU the bias, which the norm takes away again, is neither added nor given a gradient other than 0.
    ///
    /// # Errors
    /// In eval mode.
    #[expect(clippy::too_many_arguments, reason = "two ops in one")]
    pub fn conv2d_norm_leaky_dropout(
        &self,
        x: &Var,
        (w, b): (&Var, &Var),
        (gamma, beta): (&Var, &Var),
        (mean, var): (&Tensor, &Tensor),
        settings: BatchNorm,
        slope: f64,
        p: f64,
        [stride, padding]: [usize; 2],
    ) -> Result<Var> {
        ensure!(self.mode().trains(), "in eval mode a batch norm is folded into its convolution");
        let Some(gpu) = self.gpu(x)? else {
            let y = self.conv2d(x, w, Some(b), stride, padding)?;
            return self.batch_norm_leaky_dropout(&y, gamma, beta, mean, var, settings, slope, p);
        };
        Shape::new(x, w, Some(b), stride, padding)?;
        let y = self.conv2d(x, w, None, stride, padding)?;
        let named =
            [("gamma", gamma.value()), ("beta", beta.value()), ("the mean", mean), ("the variance", var)];
        let after = super::norm::trained(self, &y, &named, slope, p)?;
        gpu.batch_norm(self, &y, Some(b), gamma, beta, mean, var, settings, after)
    }

    /// [`conv2d`](Self::conv2d) with stride 1 and [`batch_norm_leaky_dropout`](Self::batch_norm_leaky_dropout) in eval
    /// mode as one convolution: the running statistics are folded into its weights. Nothing is recorded.
    ///
    /// # Errors
    /// In a mode that trains.
    #[expect(clippy::too_many_arguments, reason = "two ops in one")]
    pub fn conv2d_folded_norm_leaky(
        &self,
        x: &Var,
        (w, b): (&Var, &Var),
        (gamma, beta): (&Var, &Var),
        (mean, var): (&Tensor, &Tensor),
        settings: BatchNorm,
        slope: f64,
        padding: usize,
    ) -> Result<Var> {
        ensure!(!self.mode().trains(), "batch norm is only folded in eval mode");
        let shape = Shape::new(x, w, Some(b), 1, padding)?;
        let o = shape.output.0;
        for values in [gamma.value(), beta.value(), mean, var] {
            ensure!(values.dims() == [o], "a norm of {:?} after {o} channels", values.dims());
        }
        if let Some(gpu) = self.gpu(x)? {
            let (affine, running) = ((gamma, beta), (mean, var));
            return gpu.conv2d_folded_norm_leaky(
                self,
                x,
                (w, b),
                affine,
                running,
                settings,
                slope as f32,
                shape,
            );
        }
        let (gamma, beta, mean, var) =
            (floats(gamma.value())?, floats(beta.value())?, floats(mean)?, floats(var)?);
        let scales: Vec<f64> = (gamma.iter().zip(var.iter()))
            .map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + settings.eps).sqrt())
            .collect();
        let bias = floats(b.value())?;
        let bias: Vec<f32> =
            (0..o).map(|o| (f64::from(bias[o] - mean[o]) * scales[o] + f64::from(beta[o])) as f32).collect();
        let mut weight = floats(w.value())?.to_vec();
        let each = weight.len() / o;
        for (weight, &scale) in weight.chunks_mut(each).zip(&scales) {
            for w in weight {
                *w *= scale as f32;
            }
        }
        let y =
            (Algorithm::of(&shape).forward)(&shape, &floats(x.value())?, &weight, Some(&bias), slope as f32);
        let (_, oh, ow) = shape.output;
        Ok(self.constant(&tensor(y, (shape.batch, o, oh, ow))?))
    }

    /// Transposed convolution with a 2×2 kernel and stride 2, as PyTorch's `conv_transpose2d`: x `[B,I,H,W]`,
    /// w `[I,O,2,2]`, b `[O]` → `[B,O,2H,2W]`.
    pub fn conv_transpose2x2(&self, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
        let (batch, i, h, width) = x.dims4()?;
        let (wi, o, kh, kw) = w.dims4()?;
        ensure!(
            wi == i && kh == 2 && kw == 2 && !x.is_empty() && o > 0,
            "a transposed convolution with weights {:?} does not fit a value of shape {:?}",
            w.dims(),
            x.dims()
        );
        if let Some(b) = b {
            ensure!(b.dims() == [o], "the bias of a convolution has shape {:?}, not [{o}]", b.dims());
        }
        if let Some(gpu) = self.gpu(x)? {
            return gpu.conv_transpose2x2(self, x, w, b);
        }
        let sizes = Transposed { batch, i, o, h, w: width };
        let y = {
            let bias = b.map(|b| floats(b.value())).transpose()?;
            sizes.forward(&floats(x.value())?, &floats(w.value())?, bias.as_deref())
        };
        let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
        let (input, weight, bias) = (x.clone(), w.clone(), b.and_then(|b| b.node));
        self.record(tensor(y, (batch, o, 2 * h, 2 * width))?, &inputs, move |g, sink| {
            if bias.is_some() {
                sink.add(bias, channel_sums(&g, o, 4 * h * width));
            }
            let (dx, dw) = sizes.backward(input.value(), weight.value(), &g)?;
            sink.add(weight.node, dw);
            sink.add(input.node, dx);
            Ok(())
        })
    }
}

#[derive(Clone, Copy)]
struct Transposed {
    batch: usize,
    i: usize,
    o: usize,
    h: usize,
    w: usize,
}

impl Transposed {
    /// Rows (output channel, ky, kx) of `columns` belong to the pixels 2y + ky, 2x + kx.
    fn scatter(&self, columns: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let pixels = self.h * self.w;
        let work = y.par_chunks_mut(4 * pixels).zip(columns.par_chunks(4 * pixels)).enumerate();
        work.for_each(|(o, (y, c))| {
            let shift = bias.map_or(0.0, |b| b[o]);
            for (row, out) in y.chunks_mut(2 * self.w).enumerate() {
                let at = 2 * (row % 2) * pixels + row / 2 * self.w;
                let (even, odd) = (&c[at..][..self.w], &c[at + pixels..][..self.w]);
                for ((pair, &e), &o) in out.chunks_exact_mut(2).zip(even).zip(odd) {
                    pair[0] = e + shift;
                    pair[1] = o + shift;
                }
            }
        });
    }

    fn gather(&self, y: &[f32], columns: &mut [f32]) {
        let pixels = self.h * self.w;
        let work = columns.par_chunks_mut(4 * pixels).zip(y.par_chunks(4 * pixels));
        work.for_each(|(c, y)| {
            for (row, out) in y.chunks(2 * self.w).enumerate() {
                let at = 2 * (row % 2) * pixels + row / 2 * self.w;
                for (x, pair) in out.chunks_exact(2).enumerate() {
                    c[at + x] = pair[0];
                    c[at + pixels + x] = pair[1];
                }
            }
        });
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (pixels, rows) = (self.h * self.w, 4 * self.o);
        let mut columns = uninit(rows * pixels);
        let mut y = uninit(self.batch * rows * pixels);
        for (x, y) in x.chunks(self.i * pixels).zip(y.chunks_mut(rows * pixels)) {
            let wt = Matrix::new(weight, rows).transposed();
            matmul(&mut columns, [rows, pixels, self.i], wt, Matrix::new(x, pixels), false);
            self.scatter(&columns, bias, y);
        }
        y
    }

    fn backward(&self, x: &Tensor, weight: &Tensor, g: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (x, weight) = (floats(x)?, floats(weight)?);
        let (pixels, rows) = (self.h * self.w, 4 * self.o);
        let mut columns = uninit(rows * pixels);
        let mut dx = uninit(x.len());
        let mut dw = vec![0.0; weight.len()];
        for ((x, dx), g) in
            x.chunks(self.i * pixels).zip(dx.chunks_mut(self.i * pixels)).zip(g.chunks(rows * pixels))
        {
            self.gather(g, &mut columns);
            let c = Matrix::new(&columns, pixels);
            matmul(dx, [self.i, pixels, rows], Matrix::new(&weight, rows), c, false);
            matmul(&mut dw, [self.i, rows, pixels], Matrix::new(x, pixels), c.transposed(), true);
        }
        Ok((dx, dw))
    }
}
