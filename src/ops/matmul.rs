//! Matrix products and what is made of them: linear layers and attention.
#![expect(unsafe_code, reason = "the gemm crate takes pointers and strides")]

use anyhow::{Result, ensure};
use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, tensor, uninit};
use super::math;
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// A matrix in a slice; element (r, c) at r·`rows` + c·`columns`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` contiguous elements.
    pub(super) fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, rows: width, columns: 1 }
    }

    /// The transposed matrix.
    pub(super) fn transposed(self) -> Self {
        Self { values: self.values, rows: self.columns, columns: self.rows }
    }
}

/// out (`m`×`n`, row-major) = a (`m`×`k`) · b (`k`×`n`), added to what `out` holds if `add`. The order of each sum
/// does not depend on the number of threads.
pub(super) fn matmul(out: &mut [f32], [m, n, k]: [usize; 3], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() >= m * n, "the product has {} elements, its buffer {}", m * n, out.len());
    if k == 0 {
        if !add {
            out[..m * n].fill(0.0);
        }
        return;
    }
    let last = |x: Matrix<'_>, r: usize, c: usize| (r - 1) * x.rows + (c - 1) * x.columns;
    assert!(last(a, m, k) < a.values.len(), "the left matrix is smaller than {m}×{k}");
    assert!(last(b, k, n) < b.values.len(), "the right matrix is smaller than {k}×{n}");
    let parallelism = Parallelism::Rayon(rayon::current_num_threads());
    // SAFETY: the three asserts keep every access within its slice, and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.values.as_ptr(),
            a.columns as isize,
            a.rows as isize,
            b.values.as_ptr(),
            b.columns as isize,
            b.rows as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Σ over rows of a matrix with rows of `width`, in fixed order.
fn column_sums(values: &[f32], width: usize) -> Vec<f32> {
    const ROWS: usize = 256;
    let part = |rows: &[f32]| {
        let mut sums = vec![0.0f32; width];
        for row in rows.chunks(width) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
        sums
    };
    let parts: Vec<Vec<f32>> = values.par_chunks(ROWS * width).map(part).collect();
    let mut sums = vec![0.0f64; width];
    for part in &parts {
        sums.iter_mut().zip(part).for_each(|(s, &v)| *s += f64::from(v));
    }
    sums.into_iter().map(|s| s as f32).collect()
}

multiversion! { fn softmax_row(row: &mut [f32]) {
    let mut largest = f32::NEG_INFINITY;
    for &x in row.iter() {
        largest = if x > largest { x } else { largest };
    }
    for x in row.iter_mut() {
        *x = math::exp(*x - largest);
    }
    let sum = math::lane_sum(row.len(), |i| row[i]);
    let scale = (1.0 / sum) as f32;
    for x in row.iter_mut() {
        *x *= scale;
    }
} }
// dS = P·(dP − Σ dP·P)·scale, in place in dP.
multiversion! { fn softmax_row_back(p: &[f32], g: &mut [f32], scale: f32) {
    let n = p.len().min(g.len());
    let dot = math::lane_sum(n, |i| p[i] * g[i]) as f32;
    for (g, &p) in g.iter_mut().zip(p) {
        *g = p * (*g - dot) * scale;
    }
} }

/// The sizes of one attention.
#[derive(Clone, Copy)]
struct Heads {
    count: usize,
    width: usize,
    tokens: usize,
}

impl Heads {
    /// Probabilities `[T,T]` (query × key) of one head from its q, k, v rows.
    fn probabilities(self, qkv: &[f32], out: &mut [f32]) {
        let Self { width: d, tokens: t, .. } = self;
        // q and k are each scaled by d^(−1/4): the product by d^(−1/2).
        let scale = 1.0 / (d as f32).sqrt();
        let q: Vec<f32> = qkv[..d * t].iter().map(|q| q * scale).collect();
        matmul(out, [t, t, d], Matrix::new(&q, t).transposed(), Matrix::new(&qkv[d * t..], t), false);
        out.par_chunks_mut(t).with_min_len((CHUNK / t).max(1)).for_each(softmax_row);
    }
}

impl Tape {
    /// x·Wᵀ + b over the last axis: x `[..., i]`, w `[o, i]`, b `[o]`.
    pub fn linear(&self, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
        let (o, i) = w.value().dims2()?;
        let mut dims = x.dims().to_vec();
        ensure!(dims.last() == Some(&i), "a linear layer of {i} inputs got a value of shape {dims:?}");
        if let Some(b) = b {
            ensure!(b.dims() == [o], "the bias of a linear layer has shape {:?}, not [{o}]", b.dims());
        }
        let rows = x.len() / i.max(1);
        if let Some(last) = dims.last_mut() {
            *last = o;
        }
        if let Some(gpu) = self.gpu(x)?.filter(|_| rows * o * i > 0) {
            return gpu.linear(self, x, w, b, dims);
        }
        let mut y = uninit(rows * o);
        if let Some(b) = b {
            let bias = floats(b.value())?;
            y.chunks_mut(o).for_each(|row| row.copy_from_slice(&bias));
        }
        {
            let (input, weight) = (floats(x.value())?, floats(w.value())?);
            let wt = Matrix::new(&weight, i).transposed();
            matmul(&mut y, [rows, o, i], Matrix::new(&input, i), wt, b.is_some());
        }
        let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
        let (input, weight, bias) = (x.clone(), w.clone(), b.and_then(|b| b.node));
        self.record(tensor(y, dims)?, &inputs, move |g, sink| {
            if bias.is_some() {
                sink.add(bias, column_sums(&g, o));
            }
            if weight.node.is_some() {
                let values = floats(input.value())?;
                let mut dw = uninit(o * i);
                let gt = Matrix::new(&g, o).transposed();
                matmul(&mut dw, [o, i, rows], gt, Matrix::new(&values, i), false);
                sink.add(weight.node, dw);
            }
            if input.node.is_some() {
                let values = floats(weight.value())?;
                let mut dx = uninit(rows * i);
                matmul(&mut dx, [rows, i, o], Matrix::new(&g, o), Matrix::new(&values, i), false);
                sink.add(input.node, dx);
            }
            Ok(())
        })
    }

    /// Self-attention in guided-diffusion's "legacy" order: `qkv` `[B, heads·3·d, T]` holds q, k, v of the first
    /// head, then of the second, and so on; result `[B, heads·d, T]`.
    pub fn attention(&self, qkv: &Var, heads: usize) -> Result<Var> {
        let (b, channels, t) = qkv.value().dims3()?;
        ensure!(
            heads > 0 && channels.is_multiple_of(3 * heads) && !qkv.is_empty(),
            "{channels} channels do not hold q, k and v of {heads} heads"
        );
        if let Some(gpu) = self.gpu(qkv)? {
            return gpu.attention(self, qkv, heads);
        }
        let sizes = Heads { count: b * heads, width: channels / (3 * heads), tokens: t };
        let d = sizes.width;
        let values = floats(qkv.value())?;
        let mut y = uninit(sizes.count * d * t);
        // One head after the other, each spread over all threads: only one T×T matrix is alive.
        let mut p = uninit(t * t);
        for (y, qkv) in y.chunks_mut(d * t).zip(values.chunks(3 * d * t)) {
            sizes.probabilities(qkv, &mut p);
            let v = Matrix::new(&qkv[2 * d * t..], t);
            matmul(y, [d, t, t], v, Matrix::new(&p, t).transposed(), false);
        }
        drop(values);
        let input = qkv.clone();
        self.record(tensor(y, (b, heads * d, t))?, &[qkv], move |g, sink| {
            sink.add(input.node, attention_back(input.value(), &g, sizes)?);
            Ok(())
        })
    }
}

/// The gradient of q, k and v; the probabilities are computed again.
fn attention_back(qkv: &Tensor, g: &[f32], sizes: Heads) -> Result<Vec<f32>> {
    let Heads { width: d, tokens: t, .. } = sizes;
    let values = floats(qkv)?;
    let mut dx = uninit(values.len());
    let (mut p, mut ds) = (uninit(t * t), uninit(t * t));
    let scale = 1.0 / (d as f32).sqrt();
    for ((dx, qkv), g) in dx.chunks_mut(3 * d * t).zip(values.chunks(3 * d * t)).zip(g.chunks(d * t)) {
        sizes.probabilities(qkv, &mut p);
        let (dq, rest) = dx.split_at_mut(d * t);
        let (dk, dv) = rest.split_at_mut(d * t);
        let (q, k, v) = (&qkv[..d * t], &qkv[d * t..2 * d * t], &qkv[2 * d * t..]);
        let g = Matrix::new(g, t);
        matmul(dv, [d, t, t], g, Matrix::new(&p, t), false);
        matmul(&mut ds, [t, t, d], g.transposed(), Matrix::new(v, t), false);
        let rows = ds.par_chunks_mut(t).zip(p.par_chunks(t)).with_min_len((CHUNK / t).max(1));
        rows.for_each(|(g, p)| softmax_row_back(p, g, scale));
        let ds = Matrix::new(&ds, t);
        matmul(dq, [d, t, t], Matrix::new(k, t), ds.transposed(), false);
        matmul(dk, [d, t, t], Matrix::new(q, t), ds, false);
    }
    Ok(dx)
}
