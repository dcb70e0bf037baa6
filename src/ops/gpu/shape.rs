//! What only moves numbers.

use anyhow::Result;
use candle_core::{Shape, Tensor};

use super::{Gpu, Grid, Planes, launch};
use crate::ops::tape::{Tape, Var};
use crate::ops::tokens::Rearrangement;

/// Columns of rows: how long a row is, and the first of the columns.
#[derive(Clone, Copy)]
struct Columns {
    row: usize,
    from: usize,
}

impl Gpu {
    fn copy_columns(
        &self,
        (source, from): (&Tensor, Columns),
        (target, to): (&Tensor, Columns),
        [rows, width]: [usize; 2],
        add: bool,
    ) -> Result<()> {
        let planes = Planes::new(rows, width);
        launch!(
            self,
            copy_columns[planes.grid()],
            source,
            from.row,
            from.from,
            target,
            to.row,
            to.from,
            width,
            add,
            planes.pieces
        )
    }

    /// `parts` side by side in rows of `row` numbers.
    pub(in crate::ops) fn concat(
        &self,
        tape: &Tape,
        parts: &[&Var],
        shape: Shape,
        [outer, row]: [usize; 2],
    ) -> Result<Var> {
        let y = self.empty(shape)?;
        let mut from = 0;
        let mut widths = Vec::new();
        for part in parts {
            let width = part.len() / outer.max(1);
            let source = (part.value(), Columns { row: width, from: 0 });
            self.copy_columns(source, (&y, Columns { row, from }), [outer, width], false)?;
            widths.push((part.node, part.value().shape().clone(), width));
            from += width;
        }
        let gpu = self.clone();
        tape.record_on(self, y, parts, move |g, sink| {
            let mut from = 0;
            for (node, shape, width) in widths {
                if node.is_some() {
                    let part = gpu.empty(shape)?;
                    let target = (&part, Columns { row: width, from: 0 });
                    gpu.copy_columns((&*g, Columns { row, from }), target, [outer, width], false)?;
                    sink.give(node, part)?;
                }
                from += width;
            }
            Ok(())
        })
    }

    /// `width` columns from `from` on of rows of `row` numbers.
    pub(in crate::ops) fn narrow(
        &self,
        tape: &Tape,
        x: &Var,
        shape: Shape,
        [outer, row, from, width]: [usize; 4],
    ) -> Result<Var> {
        let y = self.empty(shape)?;
        let (inside, whole) = (Columns { row, from }, Columns { row: width, from: 0 });
        self.copy_columns((x.value(), inside), (&y, whole), [outer, width], false)?;
        let (gpu, node, shape) = (self.clone(), x.node, x.value().shape().clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            let sum = match sink.take_on(node, &gpu)? {
                Some(sum) => sum,
                None => gpu.filled(shape, 0.0)?,
            };
            gpu.copy_columns((&*g, whole), (&sum, inside), [outer, width], true)?;
            sink.give(node, sum)
        })
    }

    fn rearranged(&self, x: &Tensor, from: &Tensor, width: usize, shape: Shape) -> Result<Tensor> {
        let (y, n) = (self.empty(shape)?, x.elem_count());
        launch!(self, rearrange[Grid::Each(n)], x, from, from.elem_count(), width, &y, n)?;
        Ok(y)
    }

    pub(in crate::ops) fn rearrange(
        &self,
        tape: &Tape,
        x: &Var,
        how: &Rearrangement,
        width: usize,
        shape: Shape,
    ) -> Result<Var> {
        let (from, back) = (self.order(how.order())?, self.order(how.back())?);
        let y = self.rearranged(x.value(), &from, width, shape)?;
        let (gpu, node, shape) = (self.clone(), x.node, x.value().shape().clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            sink.give(node, gpu.rearranged(&g, &back, width, shape)?)
        })
    }

    /// Numbers that every step needs again, such as an order of rows.
    pub(super) fn order(&self, order: &[u32]) -> Result<Tensor> {
        self.backend.table([0, order.len(), fingerprint(order), 0], &|| order.to_vec())
    }

    pub(in crate::ops) fn gather_pixels(
        &self,
        tape: &Tape,
        x: &Var,
        pixels: &[(usize, usize)],
    ) -> Result<Var> {
        let (_, channels, h, w) = x.dims4()?;
        let images = self.upload_u32(pixels.iter().map(|(image, _)| *image as u32).collect())?;
        let places = self.upload_u32(pixels.iter().map(|(_, at)| *at as u32).collect())?;
        let (plane, n) = (h * w, pixels.len() * channels);
        let y = self.empty((pixels.len(), channels))?;
        launch!(self, gather_pixels[Grid::Each(n)], x.value(), &images, &places, channels, plane, &y, n)?;
        let (gpu, node, shape) = (self.clone(), x.node, x.value().shape().clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.filled(shape, 0.0)?;
            launch!(gpu, gather_pixels_back[Grid::Each(n)], &*g, &images, &places, channels, plane, &dx, n)?;
            sink.give(node, dx)
        })
    }
}

/// A number that tells orders of one length apart.
fn fingerprint(order: &[u32]) -> usize {
    order.iter().fold(order.len(), |sum, x| sum.wrapping_mul(0x9E37_79B1).wrapping_add(*x as usize))
}
