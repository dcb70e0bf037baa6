//! URPC's consistency among predictions at several scales. Gradients flow through everything, the mean included.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::buffer::{tensor, uninit};
use super::consistency::{BLOCK, log_softmax, sizes};
use super::math;
use super::simd::multiversion;
use super::tape::{Sink, Tape, Var};

/// Added to the mean of e^−v.
const EPS: f64 = 1e-8;

// Of a block of n pixels, class rows of n: q = p̄ and ln q. `logs` are the rows of all scales and classes.
multiversion! { fn mean_rows(logs: &[&[f32]], q: &mut [f32], log_q: &mut [f32], classes: usize, n: usize) {
    let part = classes as f32 / logs.len() as f32;
    q.fill(0.0);
    for (at, row) in logs.iter().enumerate() {
        for (q, &l) in q[at % classes * n..][..n].iter_mut().zip(*row) {
            *q += math::exp(l) * part;
        }
    }
    for (l, &q) in log_q.iter_mut().zip(q.iter()) {
        *l = math::ln(if q > 1e-37 { q } else { 1e-37 });
    }
} }
// Of one scale: v = Σ q(ln q − l), d = Σ (q − p)², e = exp(−v).
multiversion! { fn spread_rows(logs: &[&[f32]], q: &[f32], log_q: &[f32], v: &mut [f32], d: &mut [f32], e: &mut [f32]) {
    let n = v.len();
    v.fill(0.0);
    d.fill(0.0);
    for (c, row) in logs.iter().enumerate() {
        let (q, log_q) = (&q[c * n..][..n], &log_q[c * n..][..n]);
        for ((((v, d), &q), &log_q), &l) in v.iter_mut().zip(d.iter_mut()).zip(q).zip(log_q).zip(*row) {
            *v += q * (log_q - l);
            let rest = q - math::exp(l);
            *d += rest * rest;
        }
    }
    for (e, &v) in e.iter_mut().zip(v.iter()) {
        *e = math::exp(-v);
    }
} }
// Adds dL/dq of one class row: w·(q − p) + k·(ln q − l + 1).
multiversion! { fn slope_of_mean(row: &[f32], q: &[f32], log_q: &[f32], w: &[f32], k: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (row, q, log_q, w, k) = (&row[..n], &q[..n], &log_q[..n], &w[..n], &k[..n]);
    for i in 0..n {
        out[i] += w[i] * (q[i] - math::exp(row[i])) + k[i] * (log_q[i] - row[i] + 1.0);
    }
} }
// What one class row of a scale gets, and its part of Σ g·p: g = dq/S − w·(q − p).
multiversion! { fn slope_of_scale(row: &[f32], q: &[f32], of_q: &[f32], w: &[f32], share: f32, g: &mut [f32], dot: &mut [f32]) {
    let n = g.len();
    let (row, q, of_q, w, dot) = (&row[..n], &q[..n], &of_q[..n], &w[..n], &mut dot[..n]);
    for i in 0..n {
        let p = math::exp(row[i]);
        g[i] = of_q[i] * share - w[i] * (q[i] - p);
        dot[i] += g[i] * p;
    }
} }
// Through the softmax and its logarithm: p·(g − Σ g·p) + k·(p − q).
multiversion! { fn slope_of_logits(row: &[f32], q: &[f32], k: &[f32], dot: &[f32], g: &mut [f32]) {
    let n = g.len();
    let (row, q, k, dot) = (&row[..n], &q[..n], &k[..n], &dot[..n]);
    for i in 0..n {
        let p = math::exp(row[i]);
        g[i] = p * (g[i] - dot[i]) + k[i] * (p - q[i]);
    }
} }

/// The logarithmic class maps of all scales of one image.
struct Image<'a> {
    scales: Vec<&'a [f32]>,
    classes: usize,
    pixels: usize,
}

impl<'a> Image<'a> {
    /// Calls `f(first pixel, rows of all scales and classes, q, ln q)` for each block of pixels.
    fn blocks(&self, mut f: impl FnMut(usize, &[&'a [f32]], &[f32], &[f32])) {
        let (mut q, mut log_q) = (vec![0.0; self.classes * BLOCK], vec![0.0; self.classes * BLOCK]);
        for start in (0..self.pixels).step_by(BLOCK) {
            let n = BLOCK.min(self.pixels - start);
            let of_scale = |image: &&'a [f32]| {
                let image: &'a [f32] = image;
                image.chunks(self.pixels).map(move |row| &row[start..start + n])
            };
            let rows: Vec<&[f32]> = self.scales.iter().flat_map(of_scale).collect();
            let (q, log_q) = (&mut q[..self.classes * n], &mut log_q[..self.classes * n]);
            mean_rows(&rows, q, log_q, self.classes, n);
            f(start, &rows, q, log_q);
        }
    }

    /// Of each scale: Σ e·d, Σ e, Σ v.
    fn sums(&self) -> Vec<[f64; 3]> {
        let mut sums = vec![[0.0; 3]; self.scales.len()];
        let mut scratch = [[0.0f32; BLOCK]; 3];
        self.blocks(|_, rows, q, log_q| {
            let [v, d, e] = &mut scratch;
            let n = rows[0].len();
            for (sum, rows) in sums.iter_mut().zip(rows.chunks(self.classes)) {
                spread_rows(rows, q, log_q, &mut v[..n], &mut d[..n], &mut e[..n]);
                for i in 0..n {
                    let (v, d, e) = (f64::from(v[i]), f64::from(d[i]), f64::from(e[i]));
                    *sum = [sum[0] + e * d, sum[1] + e, sum[2] + v];
                }
            }
        });
        sums
    }

    /// The gradients of the logits, one scale after the other.
    fn gradient(&self, slopes: &[Slope], out: &mut [f32]) {
        let (classes, pixels, count) = (self.classes, self.pixels, self.scales.len());
        let share = 1.0 / count as f32;
        let mut of_q = vec![0.0f32; classes * BLOCK];
        let (mut w, mut k) = (vec![0.0f32; count * BLOCK], vec![0.0f32; count * BLOCK]);
        let mut scratch = [[0.0f32; BLOCK]; 3];
        self.blocks(|start, rows, q, log_q| {
            let n = rows[0].len();
            of_q[..classes * n].fill(0.0);
            for (s, (rows, slope)) in rows.chunks(classes).zip(slopes).enumerate() {
                let [v, d, e] = &mut scratch;
                spread_rows(rows, q, log_q, &mut v[..n], &mut d[..n], &mut e[..n]);
                let (w, k) = (&mut w[s * n..][..n], &mut k[s * n..][..n]);
                for i in 0..n {
                    w[i] = 2.0 * slope.difference * e[i];
                    k[i] = slope.mean + e[i] * (slope.normaliser - slope.difference * d[i]);
                }
                for (c, row) in rows.iter().enumerate() {
                    let (q, log_q) = (&q[c * n..][..n], &log_q[c * n..][..n]);
                    slope_of_mean(row, q, log_q, w, k, &mut of_q[c * n..][..n]);
                }
            }
            for (s, (rows, out)) in rows.chunks(classes).zip(out.chunks_mut(classes * pixels)).enumerate() {
                let (w, k) = (&w[s * n..][..n], &k[s * n..][..n]);
                let dot = &mut scratch[0][..n];
                dot.fill(0.0);
                for (c, row) in rows.iter().enumerate() {
                    let (q, of_q) = (&q[c * n..][..n], &of_q[c * n..][..n]);
                    slope_of_scale(row, q, of_q, w, share, &mut out[c * pixels + start..][..n], dot);
                }
                for (c, row) in rows.iter().enumerate() {
                    slope_of_logits(row, &q[c * n..][..n], k, dot, &mut out[c * pixels + start..][..n]);
                }
            }
        });
    }
}

/// How the loss of a scale changes with a pixel's e·(q − p)², with its e in the denominator, and with its v.
#[derive(Clone, Copy)]
struct Slope {
    difference: f32,
    normaliser: f32,
    mean: f32,
}

impl Tape {
    /// URPC's consistency of S predictions, logits `[B,C,H,W]` each: with p̄ their mean and v_s = Σ_c p̄(ln p̄ − ln p_s)
    /// of a pixel, the mean over s of `mean[(p̄ − p_s)²·e^−v_s]/(mean[e^−v_s] + 1e-8) + mean[v_s]`.
    pub fn pyramid_consistency(&self, scales: &[Var]) -> Result<Var> {
        let Some(first) = scales.first() else { anyhow::bail!("consistency of no predictions") };
        let same = scales.iter().all(|scale| scale.dims() == first.dims());
        ensure!(
            same,
            "predictions of different shapes: {:?}",
            scales.iter().map(Var::dims).collect::<Vec<_>>()
        );
        if let Some(gpu) = self.gpu(first)? {
            return gpu.pyramid_consistency(self, scales, EPS);
        }
        let (classes, pixels) = sizes(first.value())?;
        let (batch, size, count) = (first.dims()[0], classes * pixels, scales.len());
        let logs: Vec<Vec<f32>> = scales.iter().map(|s| log_softmax(s.value())).collect::<Result<_>>()?;
        let of = |at: usize| {
            let scales = logs.iter().map(|logs| &logs[at * size..(at + 1) * size]).collect();
            Image { scales, classes, pixels }
        };
        let parts: Vec<Vec<[f64; 3]>> = (0..batch).into_par_iter().map(|at| of(at).sums()).collect();
        let n = (batch * pixels) as f64;
        let (mut value, mut slopes) = (0.0, Vec::with_capacity(count));
        for s in 0..count {
            let sum = |k: usize| parts.iter().map(|part| part[s][k]).sum::<f64>();
            let (a, m) = (sum(0) / (n * classes as f64), sum(1) / n + EPS);
            let weight = 1.0 / count as f64;
            value += weight * (a / m + sum(2) / n);
            slopes.push([weight / (n * classes as f64 * m), weight * a / (m * m * n), weight / n]);
        }
        let inputs: Vec<&Var> = scales.iter().collect();
        let nodes: Vec<_> = scales.iter().map(|scale| scale.node).collect();
        self.record(tensor(vec![value as f32], ())?, &inputs, move |g, sink: &mut Sink| {
            let slope = |[difference, normaliser, mean]: &[f64; 3]| {
                let scaled = |x: &f64| (x * f64::from(g[0])) as f32;
                Slope { difference: scaled(difference), normaliser: scaled(normaliser), mean: scaled(mean) }
            };
            let slopes: Vec<Slope> = slopes.iter().map(slope).collect();
            // Image by image, scales inside; then one gradient for each scale.
            let mut all = uninit(batch * count * size);
            all.par_chunks_mut(count * size).enumerate().for_each(|(at, out)| {
                let scales = logs.iter().map(|logs| &logs[at * size..(at + 1) * size]).collect();
                Image { scales, classes, pixels }.gradient(&slopes, out);
            });
            for (s, node) in nodes.into_iter().enumerate() {
                let mut own = Vec::with_capacity(batch * size);
                for image in all.chunks(count * size) {
                    own.extend_from_slice(&image[s * size..(s + 1) * size]);
                }
                sink.add(node, own);
            }
            Ok(())
        })
    }
}
