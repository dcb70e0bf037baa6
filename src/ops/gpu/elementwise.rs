//! Element by element; the namesakes in [`crate::ops::elementwise`] say what each op is.

use anyhow::Result;
use candle_core::Tensor;

use super::{Gpu, Grid, Planes, launch};
use crate::ops::random::Mask;
use crate::ops::tape::{Tape, Var};

impl Gpu {
    pub(in crate::ops) fn leaky_relu(&self, tape: &Tape, x: &Var, slope: f32) -> Result<Var> {
        let (y, n) = (self.empty(x.value().shape())?, x.len());
        launch!(self, leaky[Grid::Each(n)], x.value(), &y, slope, n)?;
        let (gpu, input) = (self.clone(), x.clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty(input.value().shape())?;
            launch!(gpu, leaky_back[Grid::Each(n)], input.value(), &*g, &dx, slope, n)?;
            sink.give(input.node, dx)
        })
    }

    pub(in crate::ops) fn silu(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (y, n) = (self.empty(x.value().shape())?, x.len());
        launch!(self, silu[Grid::Each(n)], x.value(), &y, n)?;
        let (gpu, input) = (self.clone(), x.clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty(input.value().shape())?;
            launch!(gpu, silu_back[Grid::Each(n)], input.value(), &*g, &dx, n)?;
            sink.give(input.node, dx)
        })
    }

    pub(in crate::ops) fn gelu(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (y, n) = (self.empty(x.value().shape())?, x.len());
        launch!(self, gelu[Grid::Each(n)], x.value(), &y, n)?;
        let (gpu, input) = (self.clone(), x.clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty(input.value().shape())?;
            launch!(gpu, gelu_back[Grid::Each(n)], input.value(), &*g, &dx, n)?;
            sink.give(input.node, dx)
        })
    }

    fn masked(&self, x: &Tensor, mask: Mask) -> Result<Tensor> {
        let (y, n) = (self.empty(x.shape())?, x.elem_count());
        let (key, keep_last, scale) = mask.parts();
        launch!(self, dropout[Grid::Each(n)], x, &y, key, keep_last, scale, n)?;
        Ok(y)
    }

    pub(in crate::ops) fn dropout(&self, tape: &Tape, x: &Var, mask: Mask) -> Result<Var> {
        let y = self.masked(x.value(), mask)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, y, &[x], move |g, sink| sink.give(node, gpu.masked(&g, mask)?))
    }

    fn masked_planes(&self, x: &Tensor, mask: Mask, planes: Planes) -> Result<Tensor> {
        let y = self.empty(x.shape())?;
        let (key, keep_last, scale) = mask.parts();
        let Planes { size, pieces, .. } = planes;
        launch!(self, dropout_planes[planes.grid()], x, &y, key, keep_last, scale, size, pieces)?;
        Ok(y)
    }

    pub(in crate::ops) fn dropout2d(&self, tape: &Tape, x: &Var, mask: Mask) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let planes = Planes::new(b * c, h * w);
        let y = self.masked_planes(x.value(), mask, planes)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, y, &[x], move |g, sink| sink.give(node, gpu.masked_planes(&g, mask, planes)?))
    }

    pub(in crate::ops) fn add(&self, tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
        let (y, n) = (self.empty(a.value().shape())?, a.len());
        launch!(self, add[Grid::Each(n)], a.value(), b.value(), &y, n)?;
        let nodes = (a.node, b.node);
        tape.record_on(self, y, &[a, b], move |g, sink| {
            sink.give(nodes.0, g.clone())?;
            sink.give(nodes.1, g)
        })
    }

    fn scaled(&self, x: &Tensor, by: f32) -> Result<Tensor> {
        let (y, n) = (self.empty(x.shape())?, x.elem_count());
        launch!(self, scale[Grid::Each(n)], x, &y, by, n)?;
        Ok(y)
    }

    pub(in crate::ops) fn scale(&self, tape: &Tape, x: &Var, by: f32) -> Result<Var> {
        let y = self.scaled(x.value(), by)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, y, &[x], move |g, sink| sink.give(node, gpu.scaled(&g, by)?))
    }

    /// `x`·`by`·a·b, for scalars a and b that are on the GPU.
    pub(super) fn scaled_by(&self, x: &Tensor, by: f32, a: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
        let (y, n) = (self.empty(x.shape())?, x.elem_count());
        launch!(self, scale_by[Grid::Each(n)], x, &y, by, a, b, n)?;
        Ok(y)
    }

    fn multiplied(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (y, n) = (self.empty(a.shape())?, a.elem_count());
        launch!(self, times[Grid::Each(n)], a, b, &y, n)?;
        Ok(y)
    }

    pub(super) fn square(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.multiplied(x, y)
    }

    pub(in crate::ops) fn times(&self, tape: &Tape, x: &Var, factors: &Tensor) -> Result<Var> {
        let factors = self.here(factors)?;
        let y = self.multiplied(x.value(), &factors)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, y, &[x], move |g, sink| sink.give(node, gpu.multiplied(&g, &factors)?))
    }

    pub(in crate::ops) fn weighted_sum(&self, tape: &Tape, terms: &[(f64, &Var)]) -> Result<Var> {
        let sum = self.filled((), 0.0)?;
        for terms in terms.chunks(4) {
            let value = |k: usize| terms.get(k).map(|(_, term)| term.value());
            let by = |k: usize| terms.get(k).map_or(0.0, |(by, _)| *by);
            launch!(
                self,
                weighted_sum[Grid::Blocks(1)],
                &sum,
                true,
                value(0),
                value(1),
                value(2),
                value(3),
                by(0),
                by(1),
                by(2),
                by(3)
            )?;
        }
        let inputs: Vec<&Var> = terms.iter().map(|(_, term)| *term).collect();
        let parts: Vec<_> = terms.iter().map(|(by, term)| (*by as f32, term.node)).collect();
        let gpu = self.clone();
        tape.record_on(self, sum, &inputs, move |g, sink| {
            for (by, node) in parts {
                if node.is_some() {
                    sink.give(node, gpu.scaled(&g, by)?)?;
                }
            }
            Ok(())
        })
    }
}
