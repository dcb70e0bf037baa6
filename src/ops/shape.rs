//! Ops that only move numbers: concat, narrow, reshape.

use anyhow::{Result, bail, ensure};
use candle_core::Shape;
use rayon::prelude::*;

use super::buffer::{floats, tensor, uninit};
use super::tape::{Tape, Var};

/// A value as [outer, own, inner] around `dim` (0 or 1): outer·own·inner elements.
fn split(dims: &[usize], dim: usize) -> Result<(usize, usize)> {
    match dim {
        0 => Ok((1, dims.iter().product())),
        1 if dims.len() > 1 => Ok((dims[0], dims[1..].iter().product())),
        _ => bail!("dimension {dim} of shape {dims:?}: only 0 and 1 are supported"),
    }
}

impl Tape {
    /// Joins values along dimension 0 or 1; the other sizes are equal.
    pub fn concat(&self, parts: &[&Var], dim: usize) -> Result<Var> {
        let Some(first) = parts.first() else { bail!("concat needs at least one value") };
        let mut dims = first.dims().to_vec();
        ensure!(dim < dims.len(), "cannot concatenate shape {dims:?} along {dim}");
        dims[dim] = 0;
        for part in parts {
            let mut other = part.dims().to_vec();
            ensure!(
                other.len() == dims.len(),
                "cannot concatenate {:?} with {:?}",
                part.dims(),
                first.dims()
            );
            dims[dim] += std::mem::replace(&mut other[dim], 0);
            let fits = other.iter().zip(&dims).enumerate().all(|(axis, (a, b))| axis == dim || a == b);
            ensure!(fits, "cannot concatenate {:?} with {:?} along {dim}", part.dims(), first.dims());
        }
        let (outer, row) = split(&dims, dim)?;
        if let Some(gpu) = self.gpu(first)? {
            return gpu.concat(self, parts, Shape::from(dims), [outer, row]);
        }
        let mut y = uninit(outer * row);
        let mut rows = Vec::new();
        let mut start = 0;
        for part in parts {
            let values = floats(part.value())?;
            let width = values.len() / outer.max(1);
            copy_columns(&values, width, 0, &mut y, row, start, width);
            rows.push((part.node, width));
            start += width;
        }
        self.record(tensor(y, Shape::from(dims))?, parts, move |g, sink| {
            let mut start = 0;
            for (node, width) in rows {
                if node.is_some() {
                    let mut part = uninit(outer * width);
                    copy_columns(&g, row, start, &mut part, width, 0, width);
                    sink.add(node, part);
                }
                start += width;
            }
            Ok(())
        })
    }

    /// `len` entries from `start` on along dimension 0 or 1.
    pub fn narrow(&self, x: &Var, dim: usize, start: usize, len: usize) -> Result<Var> {
        let (outer, row) = split(x.dims(), dim)?;
        let size = x.dims()[dim];
        ensure!(start + len <= size, "entries {start}..{} of an axis of {size}", start + len);
        let inner = row / size.max(1);
        if let Some(gpu) = self.gpu(x)? {
            let mut dims = x.dims().to_vec();
            dims[dim] = len;
            return gpu.narrow(self, x, dims.into(), [outer, row, start * inner, len * inner]);
        }
        let y = x.value().narrow(dim, start, len)?.contiguous()?;
        let node = x.node;
        self.record(y, &[x], move |g, sink| {
            let width = len * inner;
            let mut whole = sink.take(node)?.unwrap_or_else(|| vec![0.0; outer * row]);
            for (whole, g) in whole.chunks_mut(row.max(1)).zip(g.chunks(width.max(1))) {
                super::tape::add_into(&mut whole[start * inner..start * inner + width], g);
            }
            sink.add(node, whole);
            Ok(())
        })
    }

    /// The same numbers in another shape.
    pub fn reshape(&self, x: &Var, shape: impl Into<Shape>) -> Result<Var> {
        let y = x.value().reshape(shape.into())?;
        let node = x.node;
        if let Some(gpu) = self.gpu(x)? {
            return self.record_on(&gpu, y, &[x], move |g, sink| sink.give(node, g));
        }
        self.record(y, &[x], move |g, sink| {
            sink.add(node, g);
            Ok(())
        })
    }
}

/// Copies are cut into pieces of this size, so that one image is shared between threads too.
const PIECE: usize = 1 << 16;

/// Copies `width` columns from column `from` of rows of length `source_row` to column `to` of rows of `target_row`.
fn copy_columns(
    source: &[f32],
    source_row: usize,
    from: usize,
    target: &mut [f32],
    target_row: usize,
    to: usize,
    width: usize,
) {
    if width == 0 {
        return;
    }
    target.par_chunks_mut(target_row).zip(source.par_chunks(source_row)).for_each(|(target, source)| {
        target[to..to + width]
            .par_chunks_mut(PIECE)
            .zip(source[from..from + width].par_chunks(PIECE))
            .for_each(|(t, s)| t.copy_from_slice(s));
    });
}
