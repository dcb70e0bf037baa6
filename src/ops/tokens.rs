//! What a transformer does to its tokens: layer normalisation, rearrangement, attention within windows.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::Shape;
use rayon::prelude::*;

use super::buffer::{floats, tensor, uninit};
use super::math::{self, lane_sum, lane_sum2};
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// Rows of one task of a layer normalisation.
const ROWS: usize = 256;
/// Windows of one task.
const WINDOWS: usize = 8;
/// What is added to a score that is masked.
const MASKED: f32 = -100.0;

multiversion! { fn norm_row(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let (mean, inverse) = row_moments(x, eps);
    for (((y, &x), &g), &b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
        *y = (x - mean) * inverse * g + b;
    }
} }
// Turns g into dx; adds to dγ and dβ.
multiversion! { fn norm_row_back(x: &[f32], gamma: &[f32], eps: f32, g: &mut [f32], dgamma: &mut [f32], dbeta: &mut [f32]) {
    let (mean, inverse) = row_moments(x, eps);
    let n = x.len();
    let (gamma, g, dgamma, dbeta) = (&gamma[..n], &mut g[..n], &mut dgamma[..n], &mut dbeta[..n]);
    for i in 0..n {
        dgamma[i] += g[i] * (x[i] - mean) * inverse;
        dbeta[i] += g[i];
        g[i] *= gamma[i];
    }
    let (sum, dot) = lane_sum2(n, |i| (g[i], g[i] * (x[i] - mean)));
    let first = (sum / n as f64) as f32;
    let second = (dot / n as f64) as f32 * inverse * inverse;
    for i in 0..n {
        g[i] = (g[i] - first - (x[i] - mean) * second) * inverse;
    }
} }

/// Mean and 1/√(variance + ε).
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]
fn row_moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = (lane_sum(x.len(), |i| x[i]) / n) as f32;
    let variance = lane_sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / n;
    (mean, (1.0 / (variance + f64::from(eps)).sqrt()) as f32)
}

/// A rearrangement of the rows of each image: row i of the result is row `from[i]` of the source.
#[derive(Clone, Debug)]
pub struct Rearrangement {
    from: Arc<[u32]>,
    to: Arc<[u32]>,
}

impl Rearrangement {
    /// The rearrangement that takes row `from[i]` to place i; every row is taken once.
    pub fn new(from: Vec<u32>) -> Result<Self> {
        let mut to = vec![u32::MAX; from.len()];
        for (i, &source) in from.iter().enumerate() {
            ensure!(
                to.get(source as usize) == Some(&u32::MAX),
                "row {source} of {} is taken twice or is not there",
                from.len()
            );
            to[source as usize] = i as u32;
        }
        Ok(Self { from: from.into(), to: to.into() })
    }

    /// The source of each place.
    pub(super) fn order(&self) -> &[u32] {
        &self.from
    }

    /// The place of each source.
    pub(super) fn back(&self) -> &[u32] {
        &self.to
    }

    /// The one that takes everything back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// Each image's rows of `width`, rearranged.
fn rearranged(x: &[f32], from: &[u32], width: usize) -> Vec<f32> {
    let mut y = uninit(x.len());
    let size = from.len() * width;
    for (x, y) in x.chunks(size).zip(y.chunks_mut(size)) {
        let rows = (1 << 14) / width + 1;
        y.par_chunks_mut(rows * width).zip(from.par_chunks(rows)).for_each(|(y, from)| {
            for (y, &source) in y.chunks_mut(width).zip(from) {
                y.copy_from_slice(&x[source as usize * width..][..width]);
            }
        });
    }
    y
}

/// The windows that tokens attend within.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Tokens of a window, side by side: side².
    side: usize,
    /// Of each pair of tokens, its row in the table of biases.
    pairs: Arc<[u32]>,
    /// Of each window of an image, the region of each token; tokens attend within their region. Empty: all.
    regions: Arc<[u8]>,
}

impl Windows {
    /// Windows of `side`×`side` tokens; `regions` holds side² numbers for each window of an image, or nothing.
    pub fn new(side: usize, regions: Vec<u8>) -> Result<Self> {
        ensure!(side > 0 && regions.len().is_multiple_of(side * side), "regions of windows of side {side}");
        let n = side * side;
        let pairs = (0..n * n).map(|at| {
            let (i, j) = (at / n, at % n);
            let offset = |a: usize, b: usize| a + side - 1 - b;
            (offset(i / side, j / side) * (2 * side - 1) + offset(i % side, j % side)) as u32
        });
        Ok(Self { side, pairs: pairs.collect(), regions: regions.into() })
    }

    /// Rows of the table of biases: one for each offset between two tokens.
    pub fn offsets(&self) -> usize {
        (2 * self.side - 1).pow(2)
    }

    pub(super) fn tokens(&self) -> usize {
        self.side * self.side
    }

    /// Of each pair of tokens, its row in the table of biases.
    pub(super) fn pairs(&self) -> &[u32] {
        &self.pairs
    }

    /// Of each window of an image, the region of each token; nothing where all attend to all.
    pub(super) fn all_regions(&self) -> &[u8] {
        &self.regions
    }

    /// The table `[offsets, heads]` spread out to `[heads, tokens, tokens]`.
    fn spread(&self, table: &[f32], heads: usize) -> Vec<f32> {
        (0..heads)
            .flat_map(|h| self.pairs.iter().map(move |&pair| table[pair as usize * heads + h]))
            .collect()
    }

    /// The regions of window `at` of a batch.
    fn regions(&self, at: usize) -> &[u8] {
        if self.regions.is_empty() {
            return &[];
        }
        let n = self.tokens();
        let of_image = self.regions.len() / n;
        &self.regions[at % of_image * n..][..n]
    }
}

/// The sizes of an attention: tokens of a window, heads, width of a head.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    heads: usize,
    d: usize,
}

/// Scratch of a head: n×d or d×n, and n×n.
struct Scratch {
    turned: Vec<f32>,
    p: Vec<f32>,
    dp: Vec<f32>,
}

impl Scratch {
    fn new(s: Sizes) -> Self {
        Self { turned: vec![0.0; s.n * s.d], p: vec![0.0; s.n * s.n], dp: vec![0.0; s.n * s.n] }
    }
}

// The probabilities of head h of one window: softmax(q·kᵀ/√d + bias), tokens of other regions masked.
multiversion! { fn probabilities(qkv: &[f32], s: Sizes, h: usize, bias: &[f32], regions: &[u8], turned: &mut [f32], p: &mut [f32]) {
    let (row, scale) = (3 * s.heads * s.d, 1.0 / (s.d as f32).sqrt());
    let (q, k) = (h * s.d, (s.heads + h) * s.d);
    turn(qkv, s, k, turned);
    for (i, p) in p.chunks_mut(s.n).enumerate() {
        p.copy_from_slice(&bias[(h * s.n + i) * s.n..][..s.n]);
        for (x, k) in qkv[i * row + q..][..s.d].iter().zip(turned.chunks(s.n)) {
            let x = x * scale;
            for (p, &k) in p.iter_mut().zip(k) {
                *p += x * k;
            }
        }
        if let Some(own) = regions.get(i) {
            for (p, other) in p.iter_mut().zip(regions) {
                *p += if other == own { 0.0 } else { MASKED };
            }
        }
        let mut largest = f32::NEG_INFINITY;
        for &x in p.iter() {
            largest = if x > largest { x } else { largest };
        }
        let mut total = 0.0;
        for x in p.iter_mut() {
            *x = math::exp(*x - largest);
            total += *x;
        }
        for x in p.iter_mut() {
            *x /= total;
        }
    }
} }

/// The columns from `start` of a window's rows as rows: `[d, n]`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]
fn turn(qkv: &[f32], s: Sizes, start: usize, turned: &mut [f32]) {
    for (j, row) in qkv.chunks(3 * s.heads * s.d).enumerate() {
        for (c, &x) in row[start..start + s.d].iter().enumerate() {
            turned[c * s.n + j] = x;
        }
    }
}

// One window: out rows of heads·d.
multiversion! { fn attend(qkv: &[f32], s: Sizes, bias: &[f32], regions: &[u8], scratch: &mut Scratch, out: &mut [f32]) {
    let (row, width) = (3 * s.heads * s.d, s.heads * s.d);
    out.fill(0.0);
    for h in 0..s.heads {
        let v = (2 * s.heads + h) * s.d;
        probabilities(qkv, s, h, bias, regions, &mut scratch.turned, &mut scratch.p);
        for (out, p) in out.chunks_mut(width).zip(scratch.p.chunks(s.n)) {
            let out = &mut out[h * s.d..][..s.d];
            for (j, &p) in p.iter().enumerate() {
                for (out, &v) in out.iter_mut().zip(&qkv[j * row + v..][..s.d]) {
                    *out += p * v;
                }
            }
        }
    }
} }
// The gradients of one window's q, k, v in `dqkv`; those of the biases are added to `dbias`.
multiversion! { fn attend_back(qkv: &[f32], g: &[f32], s: Sizes, bias: &[f32], regions: &[u8], scratch: &mut Scratch, dqkv: &mut [f32], dbias: &mut [f32]) {
    let (row, width, scale) = (3 * s.heads * s.d, s.heads * s.d, 1.0 / (s.d as f32).sqrt());
    dqkv.fill(0.0);
    for h in 0..s.heads {
        let (q, k, v) = (h * s.d, (s.heads + h) * s.d, (2 * s.heads + h) * s.d);
        let Scratch { turned, p, dp } = &mut *scratch;
        probabilities(qkv, s, h, bias, regions, turned, p);
        turn(qkv, s, v, turned);
        for i in 0..s.n {
            let g = &g[i * width + h * s.d..][..s.d];
            let (p, dp) = (&p[i * s.n..][..s.n], &mut dp[i * s.n..][..s.n]);
            dp.fill(0.0);
            for (x, v) in g.iter().zip(turned.chunks(s.n)) {
                for (dp, &v) in dp.iter_mut().zip(v) {
                    *dp += x * v;
                }
            }
            let mut dot = 0.0;
            for (dp, &p) in dp.iter().zip(p) {
                dot += dp * p;
            }
            let dbias = &mut dbias[(h * s.n + i) * s.n..][..s.n];
            for ((dp, &p), db) in dp.iter_mut().zip(p).zip(dbias) {
                *dp = p * (*dp - dot);
                *db += *dp;
            }
            for (j, (&p, &ds)) in p.iter().zip(dp.iter()).enumerate() {
                let ds = ds * scale;
                for c in 0..s.d {
                    dqkv[j * row + v + c] += p * g[c];
                    dqkv[i * row + q + c] += ds * qkv[j * row + k + c];
                    dqkv[j * row + k + c] += ds * qkv[i * row + q + c];
                }
            }
        }
    }
} }

impl Tape {
    /// (x − mean)/√(variance + ε)·γ + β over the last axis: x `[…,d]`, γ and β `[d]`.
    pub fn layer_norm(&self, x: &Var, gamma: &Var, beta: &Var, eps: f64) -> Result<Var> {
        let d = x.dims().last().copied().unwrap_or(0);
        ensure!(
            !x.is_empty() && gamma.dims() == [d] && beta.dims() == [d],
            "a layer norm of {:?} with weights {:?} and {:?}",
            x.dims(),
            gamma.dims(),
            beta.dims()
        );
        let eps = eps as f32;
        if let Some(gpu) = self.gpu(x)? {
            return gpu.layer_norm(self, x, gamma, beta, eps);
        }
        let mut y = uninit(x.len());
        {
            let (x, gamma, beta) = (floats(x.value())?, floats(gamma.value())?, floats(beta.value())?);
            let (x, gamma, beta): (&[f32], &[f32], &[f32]) = (&x, &gamma, &beta);
            let tasks = y.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
            tasks.for_each(|(y, x)| {
                y.chunks_mut(d).zip(x.chunks(d)).for_each(|(y, x)| norm_row(x, gamma, beta, eps, y));
            });
        }
        let (input, weight, shift) = (x.clone(), gamma.clone(), beta.node);
        self.record(tensor(y, x.value().shape())?, &[x, gamma, beta], move |mut g, sink| {
            let parts: Vec<(Vec<f32>, Vec<f32>)> = {
                let (x, gamma) = (floats(input.value())?, floats(weight.value())?);
                let (x, gamma): (&[f32], &[f32]) = (&x, &gamma);
                let tasks = g.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
                tasks
                    .map(|(g, x)| {
                        let (mut dgamma, mut dbeta) = (vec![0.0; d], vec![0.0; d]);
                        for (g, x) in g.chunks_mut(d).zip(x.chunks(d)) {
                            norm_row_back(x, gamma, eps, g, &mut dgamma, &mut dbeta);
                        }
                        (dgamma, dbeta)
                    })
                    .collect()
            };
            let mut sums = [vec![0.0f64; d], vec![0.0f64; d]];
            for (dgamma, dbeta) in &parts {
                for (sum, part) in sums.iter_mut().zip([dgamma, dbeta]) {
                    sum.iter_mut().zip(part).for_each(|(s, x)| *s += f64::from(*x));
                }
            }
            let [dgamma, dbeta] = sums.map(|sum| sum.into_iter().map(|x| x as f32).collect());
            sink.add(weight.node, dgamma);
            sink.add(shift, dbeta);
            sink.add(input.node, g);
            Ok(())
        })
    }

    /// The rows of `width` numbers of each image rearranged; the result has `shape`.
    pub fn rearrange(
        &self,
        x: &Var,
        how: &Rearrangement,
        width: usize,
        shape: impl Into<Shape>,
    ) -> Result<Var> {
        let size = how.from.len() * width;
        ensure!(
            width > 0 && size > 0 && x.len().is_multiple_of(size),
            "a value of shape {:?} does not consist of {} rows of {width}",
            x.dims(),
            how.from.len()
        );
        if let Some(gpu) = self.gpu(x)? {
            return gpu.rearrange(self, x, how, width, shape.into());
        }
        let y = rearranged(&floats(x.value())?, &how.from, width);
        let (node, back) = (x.node, how.to.clone());
        self.record(tensor(y, shape)?, &[x], move |g, sink| {
            sink.add(node, rearranged(&g, &back, width));
            Ok(())
        })
    }

    /// Self-attention within windows, as Swin's: `qkv` `[tokens, 3·heads·d]`, the tokens of a window side by side and each
    /// with q, k, v of all heads; `table` `[offsets, heads]`, biases of relative positions. Result `[tokens, heads·d]`.
    pub fn window_attention(&self, qkv: &Var, table: &Var, windows: &Windows, heads: usize) -> Result<Var> {
        let (rows, columns) = qkv.value().dims2()?;
        let n = windows.tokens();
        ensure!(
            heads > 0
                && columns.is_multiple_of(3 * heads)
                && columns > 0
                && rows > 0
                && rows.is_multiple_of(n)
                && table.dims() == [windows.offsets(), heads],
            "windows of {n} tokens and {heads} heads do not fit tokens {:?} and biases {:?}",
            qkv.dims(),
            table.dims()
        );
        if let Some(gpu) = self.gpu(qkv)? {
            return gpu.window_attention(self, qkv, table, windows, heads);
        }
        let s = Sizes { n, heads, d: columns / (3 * heads) };
        let width = heads * s.d;
        let bias = windows.spread(&floats(table.value())?, heads);
        let mut y = uninit(rows * width);
        {
            let values = floats(qkv.value())?;
            let values: &[f32] = &values;
            let tasks = y.par_chunks_mut(n * width).zip(values.par_chunks(n * columns)).enumerate();
            tasks.with_min_len(WINDOWS).for_each_init(
                || Scratch::new(s),
                |scratch, (at, (y, qkv))| attend(qkv, s, &bias, windows.regions(at), scratch, y),
            );
        }
        let (input, table_node, windows) = (qkv.clone(), table.node, windows.clone());
        self.record(tensor(y, (rows, width))?, &[qkv, table], move |g, sink| {
            let mut dqkv = uninit(rows * columns);
            let parts: Vec<Vec<f32>> = {
                let values = floats(input.value())?;
                let values: &[f32] = &values;
                let tasks = dqkv
                    .par_chunks_mut(WINDOWS * n * columns)
                    .zip(values.par_chunks(WINDOWS * n * columns))
                    .zip(g.par_chunks(WINDOWS * n * width))
                    .enumerate();
                let parts = tasks.map(|(task, ((dqkv, qkv), g))| {
                    let (mut scratch, mut dbias) = (Scratch::new(s), vec![0.0; heads * n * n]);
                    let each =
                        dqkv.chunks_mut(n * columns).zip(qkv.chunks(n * columns)).zip(g.chunks(n * width));
                    for (at, ((dqkv, qkv), g)) in each.enumerate() {
                        let regions = windows.regions(task * WINDOWS + at);
                        attend_back(qkv, g, s, &bias, regions, &mut scratch, dqkv, &mut dbias);
                    }
                    dbias
                });
                parts.collect()
            };
            let mut of_table = vec![0.0f64; windows.offsets() * heads];
            for part in &parts {
                for (h, part) in part.chunks(n * n).enumerate() {
                    for (&pair, &x) in windows.pairs.iter().zip(part) {
                        of_table[pair as usize * heads + h] += f64::from(x);
                    }
                }
            }
            sink.add(table_node, of_table.into_iter().map(|x| x as f32).collect());
            sink.add(input.node, dqkv);
            Ok(())
        })
    }
}
