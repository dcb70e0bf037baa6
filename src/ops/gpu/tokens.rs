//! Layer normalisation and attention within windows.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::{Gpu, Grid, Matrix, Product, launch};
use crate::ops::tape::{Tape, Var};
use crate::ops::tokens::Windows;

/// Rows of one part of the gradients of a layer norm's parameters.
const ROWS: usize = 64;

/// The sizes of an attention within windows: windows, tokens of one, heads, width of a head.
#[derive(Clone, Copy)]
struct Sizes {
    windows: usize,
    n: usize,
    heads: usize,
    d: usize,
}

impl Sizes {
    /// Numbers of a token's q, k and v.
    fn row(self) -> usize {
        3 * self.heads * self.d
    }

    /// q (0), k (1) or v (2) of head `h` of every window, `[n, d]`.
    fn part(self, qkv: &Tensor, which: usize, h: usize) -> Matrix<'_> {
        let row = self.row();
        Matrix::new(qkv, row).every(self.n * row, (which * self.heads + h) * self.d)
    }

    /// The outputs of head `h`, `[n, d]`.
    fn out(self, y: &Tensor, h: usize) -> Matrix<'_> {
        let row = self.heads * self.d;
        Matrix::new(y, row).every(self.n * row, h * self.d)
    }

    /// The scores of head `h`, `[n, n]`; all of them are `[heads, windows, n, n]`.
    fn scores(self, p: &Tensor, h: usize) -> Matrix<'_> {
        let size = self.n * self.n;
        Matrix::new(p, self.n).every(size, h * self.windows * size)
    }

    fn rows(self) -> usize {
        self.heads * self.windows * self.n
    }
}

impl Gpu {
    pub(in crate::ops) fn layer_norm(
        &self,
        tape: &Tape,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        eps: f32,
    ) -> Result<Var> {
        let d = gamma.len();
        let rows = x.len() / d;
        let (y, moments) = (self.empty(x.value().shape())?, self.empty((rows, 2))?);
        let grid = Grid::Blocks(rows);
        launch!(self, layer_norm[grid], x.value(), gamma.value(), beta.value(), &y, &moments, d, eps)?;
        let (gpu, input, weight, shift) = (self.clone(), x.clone(), gamma.clone(), beta.node);
        tape.record_on(self, y, &[x, gamma, beta], move |g, sink| {
            let count = rows.div_ceil(ROWS);
            let (parts, n) = (gpu.doubles(count * 2 * d)?, count * d);
            let x = input.value();
            launch!(gpu, layer_norm_parameters[Grid::Each(n)], x, &*g, &moments, &parts, rows, ROWS, d, n)?;
            let both = gpu.total_of_parts(&parts, count, 2 * d)?;
            sink.give(weight.node, both.narrow(0, 0, d)?)?;
            sink.give(shift, both.narrow(0, d, d)?)?;
            if input.node.is_some() {
                let dx = gpu.empty(x.shape())?;
                launch!(gpu, layer_norm_back[grid], x, weight.value(), &*g, &moments, &dx, d)?;
                sink.give(input.node, dx)?;
            }
            Ok(())
        })
    }

    fn window_probabilities(
        &self,
        qkv: &Tensor,
        s: Sizes,
        bias: &Tensor,
        regions: Option<&Tensor>,
    ) -> Result<Tensor> {
        let p = self.empty((s.heads, s.windows, s.n, s.n))?;
        for h in 0..s.heads {
            self.product(&Product {
                sizes: [s.n, s.n, s.d],
                count: s.windows,
                a: s.part(qkv, 0, h),
                b: s.part(qkv, 1, h).transposed(),
                out: s.scores(&p, h),
                factor: 1.0,
                add: false,
            })?;
        }
        let of_image = regions.map_or(1, |regions| regions.elem_count() / s.n);
        let by = 1.0 / (s.d as f32).sqrt();
        let grid = Grid::Blocks(s.rows());
        launch!(self, softmax_rows[grid], &p, s.n, by, bias, regions, s.windows, of_image)?;
        Ok(p)
    }

    pub(in crate::ops) fn window_attention(
        &self,
        tape: &Tape,
        qkv: &Var,
        table: &Var,
        windows: &Windows,
        heads: usize,
    ) -> Result<Var> {
        let (rows, columns) = qkv.value().dims2()?;
        let n = windows.tokens();
        let s = Sizes { windows: rows / n, n, heads, d: columns / (3 * heads) };
        let pairs = self.order(windows.pairs())?;
        let regions = match windows.all_regions() {
            [] => None,
            all => {
                let words: Vec<u32> = all.iter().map(|region| u32::from(*region)).collect();
                Some(self.order(&words)?.to_dtype(DType::U8)?)
            }
        };
        let (bias, count) = (self.empty((heads, n, n))?, heads * n * n);
        launch!(self, spread_table[Grid::Each(count)], table.value(), &pairs, &bias, heads, n * n, count)?;
        let p = self.window_probabilities(qkv.value(), s, &bias, regions.as_ref())?;
        let y = self.empty((rows, heads * s.d))?;
        for h in 0..heads {
            self.product(&Product {
                sizes: [n, s.d, n],
                count: s.windows,
                a: s.scores(&p, h),
                b: s.part(qkv.value(), 2, h),
                out: s.out(&y, h),
                factor: 1.0,
                add: false,
            })?;
        }
        drop(p);
        let offsets = windows.offsets();
        let (gpu, input, table_node) = (self.clone(), qkv.clone(), table.node);
        tape.record_on(self, y, &[qkv, table], move |g, sink| {
            let qkv = input.value();
            let p = gpu.window_probabilities(qkv, s, &bias, regions.as_ref())?;
            let (dx, ds) = (gpu.empty(qkv.shape())?, gpu.empty(p.shape())?);
            let product = |sizes, a, b, out, factor| {
                gpu.product(&Product { sizes, count: s.windows, a, b, out, factor, add: false })
            };
            for h in 0..s.heads {
                let g = s.out(&g, h);
                product([n, s.d, n], s.scores(&p, h).transposed(), g, s.part(&dx, 2, h), 1.0)?;
                product([n, n, s.d], g, s.part(qkv, 2, h).transposed(), s.scores(&ds, h), 1.0)?;
            }
            launch!(gpu, softmax_rows_back[Grid::Blocks(s.rows())], &p, &ds, n, 1.0f32)?;
            let by = 1.0 / (s.d as f32).sqrt();
            for h in 0..s.heads {
                let ds = s.scores(&ds, h);
                product([n, s.d, n], ds, s.part(qkv, 1, h), s.part(&dx, 0, h), by)?;
                product([n, s.d, n], ds.transposed(), s.part(qkv, 0, h), s.part(&dx, 1, h), by)?;
            }
            if table_node.is_some() {
                let dtable = gpu.empty((offsets, s.heads))?;
                let grid = Grid::Blocks(offsets * s.heads);
                launch!(gpu, gather_table[grid], &ds, &pairs, &dtable, s.heads, s.windows, n * n)?;
                sink.give(table_node, dtable)?;
            }
            sink.give(input.node, dx)
        })
    }
}
