//! Linear layers and attention.

use anyhow::Result;
use candle_core::Tensor;

use super::{Gpu, Grid, Matrix, Product, launch};
use crate::ops::tape::{Tape, Var};

/// Numbers of the probabilities that are alive at a time, about: 256 MB.
const PROBABILITIES: usize = 1 << 26;
/// Rows of one part of a sum of columns.
const ROWS: usize = 64;

/// The sizes of one attention: q, k and v of a head are `width`×`tokens` each, one behind the other.
#[derive(Clone, Copy)]
struct Heads {
    count: usize,
    width: usize,
    tokens: usize,
}

impl Heads {
    /// Heads whose probabilities are computed at once: (first, number).
    fn groups(self) -> impl Iterator<Item = (usize, usize)> {
        let size = (PROBABILITIES / (self.tokens * self.tokens)).clamp(1, self.count);
        (0..self.count).step_by(size).map(move |first| (first, size.min(self.count - first)))
    }

    /// q (0), k (1) or v (2) of the heads from `first` on, `[width, tokens]`.
    fn part(self, qkv: &Tensor, which: usize, first: usize) -> Matrix<'_> {
        let size = self.width * self.tokens;
        Matrix::new(qkv, self.tokens).every(3 * size, (3 * first + which) * size)
    }

    /// The outputs of the heads from `first` on.
    fn out(self, y: &Tensor, first: usize) -> Matrix<'_> {
        let size = self.width * self.tokens;
        Matrix::new(y, self.tokens).every(size, first * size)
    }

    fn scores(self, p: &Tensor) -> Matrix<'_> {
        Matrix::new(p, self.tokens).every(self.tokens * self.tokens, 0)
    }
}

impl Gpu {
    /// Σ over the rows of a matrix with rows of `width`.
    pub(super) fn column_sums(&self, values: &Tensor, width: usize) -> Result<Tensor> {
        let rows = values.elem_count() / width;
        let count = rows.div_ceil(ROWS);
        let parts = self.doubles(count * width)?;
        let n = count * width;
        launch!(self, column_parts[Grid::Each(n)], values, &parts, rows, ROWS, width, n)?;
        self.total_of_parts(&parts, count, width)
    }

    /// Parts of `width` sums, `count` of them, as their total in single precision.
    pub(super) fn total_of_parts(&self, parts: &Tensor, count: usize, width: usize) -> Result<Tensor> {
        let total = self.doubles(width)?;
        launch!(self, total_of_parts[Grid::Blocks(width)], parts, count, width, &total)?;
        let y = self.empty(width)?;
        launch!(self, to_single[Grid::Each(width)], &total, &y, width)?;
        Ok(y)
    }

    pub(in crate::ops) fn linear(
        &self,
        tape: &Tape,
        x: &Var,
        w: &Var,
        b: Option<&Var>,
        dims: Vec<usize>,
    ) -> Result<Var> {
        let (o, i) = w.value().dims2()?;
        let rows = x.len() / i;
        let y = self.empty(dims)?;
        let wt = Matrix::new(w.value(), i).transposed();
        self.product(&Product::one([rows, o, i], Matrix::new(x.value(), i), wt, Matrix::new(&y, o)))?;
        if let Some(b) = b {
            let n = rows * o;
            launch!(self, add_bias[Grid::Each(n)], &y, b.value(), o, n)?;
        }
        let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
        let (gpu, input, weight, bias) = (self.clone(), x.clone(), w.clone(), b.and_then(|b| b.node));
        tape.record_on(self, y, &inputs, move |g, sink| {
            if bias.is_some() {
                sink.give(bias, gpu.column_sums(&g, o)?)?;
            }
            if weight.node.is_some() {
                let dw = gpu.empty((o, i))?;
                let (gt, x) = (Matrix::new(&g, o).transposed(), Matrix::new(input.value(), i));
                gpu.product(&Product::one([o, i, rows], gt, x, Matrix::new(&dw, i)))?;
                sink.give(weight.node, dw)?;
            }
            if input.node.is_some() {
                let dx = gpu.empty(input.value().shape())?;
                let (g, w) = (Matrix::new(&g, o), Matrix::new(weight.value(), i));
                gpu.product(&Product::one([rows, i, o], g, w, Matrix::new(&dx, i)))?;
                sink.give(input.node, dx)?;
            }
            Ok(())
        })
    }

    /// The probabilities of `count` heads from `first` on, `[count, tokens, tokens]`.
    fn probabilities(&self, qkv: &Tensor, heads: Heads, (first, count): (usize, usize)) -> Result<Tensor> {
        let (t, d) = (heads.tokens, heads.width);
        let p = self.empty((count, t, t))?;
        self.product(&Product {
            sizes: [t, t, d],
            count,
            a: heads.part(qkv, 0, first).transposed(),
            b: heads.part(qkv, 1, first),
            out: heads.scores(&p),
            factor: 1.0 / (d as f32).sqrt(),
            add: false,
        })?;
        launch!(
            self,
            softmax_rows[Grid::Blocks(count * t)],
            &p,
            t,
            1.0f32,
            None::<&Tensor>,
            None::<&Tensor>,
            0usize,
            1usize
        )?;
        Ok(p)
    }

    pub(in crate::ops) fn attention(&self, tape: &Tape, qkv: &Var, heads: usize) -> Result<Var> {
        let (b, channels, t) = qkv.value().dims3()?;
        let d = channels / (3 * heads);
        let all = Heads { count: b * heads, width: d, tokens: t };
        let y = self.empty((b, heads * d, t))?;
        for (first, count) in all.groups() {
            let p = self.probabilities(qkv.value(), all, (first, count))?;
            self.product(&Product {
                sizes: [d, t, t],
                count,
                a: all.part(qkv.value(), 2, first),
                b: all.scores(&p).transposed(),
                out: all.out(&y, first),
                factor: 1.0,
                add: false,
            })?;
        }
        let (gpu, input) = (self.clone(), qkv.clone());
        tape.record_on(self, y, &[qkv], move |g, sink| {
            sink.give(input.node, gpu.attention_back(input.value(), &g, all)?)
        })
    }

    fn attention_back(&self, qkv: &Tensor, g: &Tensor, all: Heads) -> Result<Tensor> {
        let (t, d) = (all.tokens, all.width);
        let dx = self.empty(qkv.shape())?;
        let scale = 1.0 / (d as f32).sqrt();
        for (first, count) in all.groups() {
            let p = self.probabilities(qkv, all, (first, count))?;
            let product = |sizes, a, b, out| {
                self.product(&Product { sizes, count, a, b, out, factor: 1.0, add: false })
            };
            let g = all.out(g, first);
            product([d, t, t], g, all.scores(&p), all.part(&dx, 2, first))?;
            let ds = self.empty((count, t, t))?;
            product([t, t, d], g.transposed(), all.part(qkv, 2, first), all.scores(&ds))?;
            launch!(self, softmax_rows_back[Grid::Blocks(count * t)], &p, &ds, t, scale)?;
            let ds = all.scores(&ds);
            product([d, t, t], all.part(qkv, 1, first), ds.transposed(), all.part(&dx, 0, first))?;
            product([d, t, t], all.part(qkv, 0, first), ds, all.part(&dx, 1, first))?;
        }
        Ok(dx)
    }
}
