//! Convolutions: the backend's passes, with bias and activation of our own.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::{Gpu, Grid, Matrix, Pass, Planes, Precision, Product, launch};
use crate::ops::conv::Shape;
use crate::ops::norm::BatchNorm;
use crate::ops::tape::{Tape, Var};

/// Side of the squares that are turned over; `TILE` of the kernels.
const TILE: usize = 32;

/// Matrices of channels by positions, cut into squares, a block for each.
struct Tiles {
    count: usize,
    /// Squares along the channels.
    rows: usize,
    /// Squares along the positions.
    columns: usize,
}

impl Tiles {
    fn new(elements: usize, channels: usize, positions: usize) -> Self {
        let count = elements / (channels * positions);
        Self { count, rows: channels.div_ceil(TILE), columns: positions.div_ceil(TILE) }
    }

    fn grid(&self) -> Grid {
        Grid::Blocks(self.count * self.rows * self.columns)
    }
}

/// Channels and positions of each of the tensors of a pass: images as `[B, channels, positions]`, weights as
/// `[O, channels, positions]`. A gradient may come in another shape, so the tensors are not asked.
fn extents(pass: Pass, shape: &Shape) -> [(usize, usize); 3] {
    let ((i, h, w), (o, oh, ow)) = (shape.input, shape.output);
    let (x, weights, y) = ((i, h * w), (i, shape.kernel * shape.kernel), (o, oh * ow));
    match pass {
        Pass::Forward => [x, weights, y],
        Pass::Data => [weights, y, x],
        Pass::Weights => [x, y, weights],
    }
}

impl Gpu {
    /// The precision of a convolution. Tensor cores take channels by eights: a first or last layer of few channels is computed
    /// without bf16.
    fn precision_of(&self, shape: &Shape) -> Precision {
        let few = !(shape.input.0.is_multiple_of(8) && shape.output.0.is_multiple_of(8));
        if few && self.precision == Precision::Bf16 { Precision::Tf32 } else { self.precision }
    }

    fn convolve(&self, pass: Pass, shape: &Shape, a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
        let precision = self.precision_of(shape);
        if precision != Precision::Bf16 {
            return self.backend.convolve(precision, pass, shape, [a, b, out]);
        }
        let [of_a, of_b, (channels, positions)] = extents(pass, shape);
        let result = self.backend.empty(DType::BF16, out.shape())?;
        let (a, b) = (self.channels_last(a, of_a)?, self.channels_last(b, of_b)?);
        self.backend.convolve(precision, pass, shape, [&a, &b, &result])?;
        let tiles = Tiles::new(out.elem_count(), channels, positions);
        launch!(
            self,
            from_channels_last[tiles.grid()],
            &result,
            out,
            channels,
            positions,
            tiles.rows,
            tiles.columns
        )
    }

    /// In bf16, channels behind positions.
    fn channels_last(&self, x: &Tensor, (channels, positions): (usize, usize)) -> Result<Tensor> {
        let (y, tiles) =
            (self.backend.empty(DType::BF16, x.shape())?, Tiles::new(x.elem_count(), channels, positions));
        launch!(self, to_channels_last[tiles.grid()], x, &y, channels, positions, tiles.rows, tiles.columns)?;
        Ok(y)
    }

    /// y + bias, then LeakyReLU; in place.
    fn bias_leaky(&self, y: &Tensor, bias: Option<&Tensor>, slope: f32) -> Result<()> {
        let (b, c, h, w) = y.dims4()?;
        let planes = Planes::new(b * c, h * w);
        launch!(self, bias_leaky[planes.grid()], y, bias, slope, c, planes.size, planes.pieces)
    }

    /// Σ over all but dimension 1 of [B, C, …].
    pub(super) fn channel_sums(&self, g: &Tensor, batch: usize, channels: usize) -> Result<Tensor> {
        let planes = Planes::new(batch * channels, g.elem_count() / (batch * channels));
        let sums = self.doubles(planes.count * planes.pieces)?;
        launch!(self, piece_sums[planes.grid()], g, planes.size, planes.pieces, &sums)?;
        let out = self.empty(channels)?;
        launch!(self, channel_totals[Grid::Blocks(channels)], &sums, batch, channels, planes.pieces, &out)?;
        Ok(out)
    }

    pub(in crate::ops) fn conv2d(
        &self,
        tape: &Tape,
        x: &Var,
        w: &Var,
        b: Option<&Var>,
        shape: Shape,
    ) -> Result<Var> {
        let (o, oh, ow) = shape.output;
        let y = self.empty((shape.batch, o, oh, ow))?;
        self.convolve(Pass::Forward, &shape, x.value(), w.value(), &y)?;
        if let Some(b) = b {
            self.bias_leaky(&y, Some(b.value()), 1.0)?;
        }
        let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
        let (gpu, input, weight, bias) = (self.clone(), x.clone(), w.clone(), b.and_then(|b| b.node));
        tape.record_on(self, y, &inputs, move |g, sink| {
            if bias.is_some() {
                sink.give(bias, gpu.channel_sums(&g, shape.batch, o)?)?;
            }
            if weight.node.is_some() {
                let dw = gpu.empty(weight.value().shape())?;
                gpu.convolve(Pass::Weights, &shape, input.value(), &g, &dw)?;
                sink.give(weight.node, dw)?;
            }
            if input.node.is_some() {
                let dx = gpu.empty(input.value().shape())?;
                gpu.convolve(Pass::Data, &shape, weight.value(), &g, &dx)?;
                sink.give(input.node, dx)?;
            }
            Ok(())
        })
    }

    #[expect(clippy::too_many_arguments, reason = "two ops in one")]
    pub(in crate::ops) fn conv2d_folded_norm_leaky(
        &self,
        tape: &Tape,
        x: &Var,
        (w, b): (&Var, &Var),
        (gamma, beta): (&Var, &Var),
        (mean, var): (&Tensor, &Tensor),
        settings: BatchNorm,
        slope: f32,
        shape: Shape,
    ) -> Result<Var> {
        let (o, oh, ow) = shape.output;
        let (weight, bias) = (self.empty(w.value().shape())?, self.empty(o)?);
        launch!(
            self,
            fold_norm[Grid::Blocks(o)],
            w.value(),
            b.value(),
            gamma.value(),
            beta.value(),
            mean,
            var,
            &weight,
            &bias,
            w.len() / o,
            settings.eps
        )?;
        let y = self.empty((shape.batch, o, oh, ow))?;
        self.convolve(Pass::Forward, &shape, x.value(), &weight, &y)?;
        self.bias_leaky(&y, Some(&bias), slope)?;
        Ok(tape.constant(&y))
    }

    pub(in crate::ops) fn conv_transpose2x2(
        &self,
        tape: &Tape,
        x: &Var,
        w: &Var,
        b: Option<&Var>,
    ) -> Result<Var> {
        let (batch, i, h, width) = x.dims4()?;
        let (_, o, ..) = w.dims4()?;
        let (pixels, rows) = (h * width, 4 * o);
        let columns = self.empty((batch, rows, pixels))?;
        self.product(&Product {
            sizes: [rows, pixels, i],
            count: batch,
            a: Matrix::new(w.value(), rows).transposed(),
            b: Matrix::new(x.value(), pixels).every(i * pixels, 0),
            out: Matrix::new(&columns, pixels).every(rows * pixels, 0),
            factor: 1.0,
            add: false,
        })?;
        let y = self.empty((batch, o, 2 * h, 2 * width))?;
        let n = y.elem_count();
        launch!(self, spread2x2[Grid::Each(n)], &columns, b.map(Var::value), &y, o, h, width, n)?;
        drop(columns);
        let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
        let (gpu, input, weight, bias) = (self.clone(), x.clone(), w.clone(), b.and_then(|b| b.node));
        tape.record_on(self, y, &inputs, move |g, sink| {
            if bias.is_some() {
                sink.give(bias, gpu.channel_sums(&g, batch, o)?)?;
            }
            let columns = gpu.empty((batch, rows, pixels))?;
            launch!(gpu, collect2x2[Grid::Each(n)], &*g, &columns, h, width, n)?;
            let each = Matrix::new(&columns, pixels).every(rows * pixels, 0);
            if input.node.is_some() {
                let dx = gpu.empty(input.value().shape())?;
                gpu.product(&Product {
                    sizes: [i, pixels, rows],
                    count: batch,
                    a: Matrix::new(weight.value(), rows),
                    b: each,
                    out: Matrix::new(&dx, pixels).every(i * pixels, 0),
                    factor: 1.0,
                    add: false,
                })?;
                sink.give(input.node, dx)?;
            }
            if weight.node.is_some() {
                let dw = gpu.empty(weight.value().shape())?;
                for image in 0..batch {
                    gpu.product(&Product {
                        sizes: [i, rows, pixels],
                        count: 1,
                        a: Matrix::new(input.value(), pixels).every(0, image * i * pixels),
                        b: Matrix::new(&columns, pixels).every(0, image * rows * pixels).transposed(),
                        out: Matrix::new(&dw, rows),
                        factor: 1.0,
                        add: image > 0,
                    })?;
                }
                sink.give(weight.node, dw)?;
            }
            Ok(())
        })
    }
}
