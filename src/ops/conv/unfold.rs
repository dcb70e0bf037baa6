//! Convolutions of any kernel, stride and padding: unfold the input ("im2col") and multiply. Also the plain
//! reference of the direct kernels.

use rayon::prelude::*;

use super::Shape;
use crate::ops::buffer::uninit;
use crate::ops::matmul::{Matrix, matmul};

impl Shape {
    /// For one kernel offset: the outputs `first..last` of an axis that read inside it.
    fn inside(&self, offset: usize, n: usize, out: usize) -> (usize, usize) {
        let first = self.padding.saturating_sub(offset).div_ceil(self.stride).min(out);
        let last = (n + self.padding).saturating_sub(offset).div_ceil(self.stride).min(out);
        (first, last.max(first))
    }

    /// Rows (channel, ky, kx) of output pixels.
    fn unfold(&self, x: &[f32], columns: &mut [f32]) {
        let ((_, h, w), (_, oh, ow), k) = (self.input, self.output, self.kernel);
        columns.par_chunks_mut(oh * ow).enumerate().for_each(|(row, out)| {
            let (c, ky, kx) = (row / (k * k), row / k % k, row % k);
            let (y0, y1) = self.inside(ky, h, oh);
            let (x0, x1) = self.inside(kx, w, ow);
            out[..y0 * ow].fill(0.0);
            out[y1 * ow..].fill(0.0);
            for y in y0..y1 {
                let line = &x[(c * h + y * self.stride + ky - self.padding) * w..][..w];
                let out = &mut out[y * ow..][..ow];
                out[..x0].fill(0.0);
                out[x1..].fill(0.0);
                for (i, out) in out[x0..x1].iter_mut().enumerate() {
                    *out = line[(x0 + i) * self.stride + kx - self.padding];
                }
            }
        });
    }

    /// Adds unfolded gradients back to where they were read.
    fn fold(&self, columns: &[f32], dx: &mut [f32]) {
        let ((_, h, w), (_, oh, ow), k) = (self.input, self.output, self.kernel);
        let work = dx.par_chunks_mut(h * w).zip(columns.par_chunks(k * k * oh * ow));
        work.for_each(|(dx, columns)| {
            dx.fill(0.0);
            for (offset, column) in columns.chunks(oh * ow).enumerate() {
                let (ky, kx) = (offset / k, offset % k);
                let (y0, y1) = self.inside(ky, h, oh);
                let (x0, x1) = self.inside(kx, w, ow);
                for y in y0..y1 {
                    let line = &mut dx[(y * self.stride + ky - self.padding) * w..][..w];
                    for (i, &g) in column[y * ow..][x0..x1].iter().enumerate() {
                        line[(x0 + i) * self.stride + kx - self.padding] += g;
                    }
                }
            }
        });
    }

    /// Whether unfolding would only copy.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    fn rows(&self) -> usize {
        self.input.0 * self.kernel * self.kernel
    }
}

/// y = w * x + b.
pub(super) fn forward(s: &Shape, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (pixels, rows) = (s.output_pixels(), s.rows());
    let mut columns = uninit(if s.is_pointwise() { 0 } else { rows * pixels });
    let mut y = uninit(s.batch * s.output_len());
    for (x, y) in x.chunks(s.input_len()).zip(y.chunks_mut(s.output_len())) {
        if let Some(bias) = bias {
            y.par_chunks_mut(pixels).zip(bias).for_each(|(y, &b)| y.fill(b));
        }
        let right = if s.is_pointwise() {
            x
        } else {
            s.unfold(x, &mut columns);
            &columns
        };
        let sizes = [s.output.0, pixels, rows];
        matmul(y, sizes, Matrix::new(weight, rows), Matrix::new(right, pixels), bias.is_some());
    }
    y
}

/// The gradient of the weights, images in order.
pub(super) fn backward_weights(s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    let (pixels, rows) = (s.output_pixels(), s.rows());
    let mut columns = uninit(if s.is_pointwise() { 0 } else { rows * pixels });
    let mut dw = vec![0.0; s.output.0 * rows];
    for (x, g) in x.chunks(s.input_len()).zip(g.chunks(s.output_len())) {
        let right = if s.is_pointwise() {
            x
        } else {
            s.unfold(x, &mut columns);
            &columns
        };
        let sizes = [s.output.0, rows, pixels];
        matmul(&mut dw, sizes, Matrix::new(g, pixels), Matrix::new(right, pixels).transposed(), true);
    }
    dw
}

/// The gradient of the input.
pub(super) fn backward_data(s: &Shape, weight: &[f32], g: &[f32]) -> Vec<f32> {
    let (pixels, rows) = (s.output_pixels(), s.rows());
    let mut columns = uninit(if s.is_pointwise() { 0 } else { rows * pixels });
    let mut dx = uninit(s.batch * s.input_len());
    for (dx, g) in dx.chunks_mut(s.input_len()).zip(g.chunks(s.output_len())) {
        let left = Matrix::new(weight, rows).transposed();
        let sizes = [rows, pixels, s.output.0];
        if s.is_pointwise() {
            matmul(dx, sizes, left, Matrix::new(g, pixels), false);
        } else {
            matmul(&mut columns, sizes, left, Matrix::new(g, pixels), false);
            s.fold(&columns, dx);
        }
    }
    dx
}
