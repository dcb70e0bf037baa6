//! Pooling, up-sampling, sampling.

use anyhow::Result;
use candle_core::Tensor;

use super::{Gpu, Grid, launch};
use crate::ops::resize;
use crate::ops::tape::{Tape, Var};

impl Gpu {
    pub(in crate::ops) fn max_pool2(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let y = self.empty((b, c, h / 2, w / 2))?;
        let n = y.elem_count();
        launch!(self, max_pool2[Grid::Each(n)], x.value(), &y, h, w, n)?;
        let (gpu, input, n) = (self.clone(), x.clone(), x.len());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty(input.value().shape())?;
            launch!(gpu, max_pool2_back[Grid::Each(n)], input.value(), &*g, &dx, h, w, n)?;
            sink.give(input.node, dx)
        })
    }

    pub(in crate::ops) fn avg_pool2(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let y = self.empty((b, c, h / 2, w / 2))?;
        let n = y.elem_count();
        launch!(self, avg_pool2[Grid::Each(n)], x.value(), &y, h, w, n)?;
        let (gpu, node, n) = (self.clone(), x.node, x.len());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty((b, c, h, w))?;
            launch!(gpu, avg_pool2_back[Grid::Each(n)], &*g, &dx, h, w, n)?;
            sink.give(node, dx)
        })
    }

    pub(in crate::ops) fn upsample_nearest2(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let y = self.empty((b, c, 2 * h, 2 * w))?;
        let n = y.elem_count();
        launch!(self, nearest2[Grid::Each(n)], x.value(), &y, w, n)?;
        let (gpu, node, n) = (self.clone(), x.node, x.len());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty((b, c, h, w))?;
            launch!(gpu, nearest2_back[Grid::Each(n)], &*g, &dx, w, n)?;
            sink.give(node, dx)
        })
    }

    pub(in crate::ops) fn upsample_bilinear(
        &self,
        tape: &Tape,
        x: &Var,
        (oh, ow): (usize, usize),
        align_corners: bool,
    ) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let axis = |from: usize, to: usize| {
            let make = || resize::axis_table(from, to, align_corners);
            self.backend.table([1, from, to, usize::from(align_corners)], &make)
        };
        let (rows, columns) = (axis(h, oh)?, axis(w, ow)?);
        let y = self.empty((b, c, oh, ow))?;
        let n = y.elem_count();
        launch!(self, bilinear[Grid::Each(n)], x.value(), &rows, &columns, &y, h, w, oh, ow, n)?;
        let (gpu, node, n) = (self.clone(), x.node, x.len());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty((b, c, h, w))?;
            launch!(gpu, bilinear_back[Grid::Each(n)], &*g, &rows, &columns, &dx, h, w, oh, ow, n)?;
            sink.give(node, dx)
        })
    }

    pub(in crate::ops) fn sample(&self, tape: &Tape, x: &Var, grid: &Tensor) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let side = grid.dims()[1];
        let grid = self.here(grid)?;
        let y = self.empty((b, c, side, side))?;
        let n = b * side * side;
        launch!(self, sample[Grid::Each(n)], x.value(), &grid, &y, c, h, w, side, n)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, y, &[x], move |g, sink| {
            let (dx, size) = (gpu.empty((b, c, h, w))?, b * c * h * w);
            // As whole numbers, so that the order of the additions does not matter.
            let (blocks, scale, sums) = (gpu.parts(g.elem_count()), gpu.doubles(1)?, gpu.doubles(size)?);
            let (parts, words) = (gpu.empty(blocks)?, 2 * size);
            launch!(gpu, largest_parts[Grid::Blocks(blocks)], &*g, &parts, g.elem_count())?;
            launch!(gpu, fixed_point[Grid::Blocks(1)], &parts, blocks, &scale)?;
            launch!(gpu, fill[Grid::Each(words)], &sums, 0.0f32, words)?;
            launch!(gpu, sample_back[Grid::Each(n)], &*g, &grid, &scale, &sums, c, h, w, side, n)?;
            launch!(gpu, from_fixed_point[Grid::Each(size)], &sums, &scale, &dx, size)?;
            sink.give(node, dx)
        })
    }
}
