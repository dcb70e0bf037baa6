//! Structural similarity of class maps, and contrast between the features of two networks.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{floats, tensor, uninit};
use super::gpu::Gpu;
use super::math::lane_sum;
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// Side of the window.
const WINDOW: usize = 11;
/// Standard deviation of its Gaussian.
const SIGMA: f64 = 1.5;
/// The constants of means and of variances, for maps in `[0, 1]`.
const C: [f32; 2] = [1e-4, 9e-4];

fn taps() -> [f32; WINDOW] {
    let centre = (WINDOW / 2) as f64;
    let weight = |i: usize| (-0.5 * ((i as f64 - centre) / SIGMA).powi(2)).exp();
    let sum: f64 = (0..WINDOW).map(weight).sum();
    std::array::from_fn(|i| (weight(i) / sum) as f32)
}

// The Gaussian mean of a plane `w` wide, zeros outside; its own adjoint.
multiversion! { fn blur(x: &[f32], w: usize, taps: &[f32; WINDOW], line: &mut [f32], y: &mut [f32]) {
    let half = WINDOW / 2;
    let h = x.len() / w;
    y.fill(0.0);
    for row in 0..h {
        line.fill(0.0);
        for (k, &t) in taps.iter().enumerate() {
            // Pixel i reads i + k − half.
            let (from, to) = (k.saturating_sub(half), half.saturating_sub(k));
            if from >= w || to >= w {
                continue;
            }
            let n = w - from.max(to);
            for (out, &x) in line[to..to + n].iter_mut().zip(&x[row * w + from..][..n]) {
                *out += t * x;
            }
        }
        for (k, &t) in taps.iter().enumerate() {
            // Row r reads row r + k − half: this row goes to row + half − k.
            let Some(to) = (row + half).checked_sub(k).filter(|to| *to < h) else { continue };
            for (out, &x) in y[to * w..(to + 1) * w].iter_mut().zip(line.iter()) {
                *out += t * x;
            }
        }
    }
} }

/// Σ SSIM of one plane, and its gradient in `g`.
fn ssim_plane(x: &[f32], y: &[f32], w: usize, taps: &[f32; WINDOW], g: &mut [f32]) -> f64 {
    let n = x.len();
    let mut line = vec![0.0; w];
    let mut mean = |values: &[f32]| {
        let mut out = vec![0.0; n];
        blur(values, w, taps, &mut line, &mut out);
        out
    };
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<f32>>();
    let (mx, my) = (mean(x), mean(y));
    let (mut xx, yy, mut xy) = (mean(&product(x, x)), mean(&product(y, y)), mean(&product(x, y)));
    let mut of_mean = vec![0.0; n];
    let mut sum = 0.0;
    for i in 0..n {
        let (a, b) = (mx[i], my[i]);
        let (top1, top2) = (2.0 * a * b + C[0], 2.0 * (xy[i] - a * b) + C[1]);
        let (bottom1, bottom2) = (a * a + b * b + C[0], xx[i] - a * a + (yy[i] - b * b) + C[1]);
        let bottom = bottom1 * bottom2;
        let value = top1 * top2 / bottom;
        sum += f64::from(value);
        of_mean[i] = 2.0 * (b * (top2 - top1) / bottom + value * a * (1.0 / bottom2 - 1.0 / bottom1));
        xx[i] = -value / bottom2;
        xy[i] = 2.0 * top1 / bottom;
    }
    let (of_mean, of_square, of_product) = (mean(&of_mean), mean(&xx), mean(&xy));
    for i in 0..n {
        g[i] = of_mean[i] + 2.0 * x[i] * of_square[i] + y[i] * of_product[i];
    }
    sum
}

/// Rows of unit length and the lengths that they had.
fn normalised(values: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut unit, mut lengths) = (Vec::with_capacity(values.len()), Vec::new());
    for row in values.chunks(width) {
        let length = (lane_sum(row.len(), |i| row[i] * row[i]).sqrt() as f32).max(1e-12);
        unit.extend(row.iter().map(|x| x / length));
        lengths.push(length);
    }
    (unit, lengths)
}

/// The mean over rows i of −mean over positives j of ln softmax_j(s_i), and its gradient by s, added to `g` (row i,
/// column j at `at(i, j)`).
fn contrast(s: &[f32], g: &mut [f32], classes: &[u8], at: impl Fn(usize, usize) -> usize) -> f64 {
    let n = classes.len();
    let mut loss = 0.0;
    for i in 0..n {
        let largest = (0..n).map(|j| s[at(i, j)]).fold(f32::NEG_INFINITY, f32::max);
        let exponential = |j: usize| f64::from(s[at(i, j)] - largest).exp();
        let total: f64 = (0..n).map(exponential).sum();
        let positives: f64 = classes.iter().map(|class| f64::from(u8::from(*class == classes[i]))).sum();
        for j in 0..n {
            let share = if classes[j] == classes[i] { 1.0 / positives } else { 0.0 };
            loss += share * (total.ln() - f64::from(s[at(i, j)] - largest)) / n as f64;
            g[at(i, j)] += ((exponential(j) / total - share) / n as f64) as f32;
        }
    }
    loss
}

impl Tape {
    /// 1 − the mean structural similarity of x and target, `[B,C,H,W]` in `[0, 1]`, in Gaussian windows of 11×11
    /// (σ 1.5, zeros outside). The target gets no gradient.
    pub fn dissimilarity(&self, x: &Var, target: &Tensor) -> Result<Var> {
        ensure!(x.dims() == target.dims(), "shapes {:?} and {:?} differ", x.dims(), target.dims());
        let (_, _, h, w) = x.dims4()?;
        ensure!(!x.is_empty(), "similarity of an empty value {:?}", x.dims());
        let taps = taps();
        if let Some(gpu) = self.gpu(x)? {
            return gpu.dissimilarity(self, x, target, &taps);
        }
        let mut gradient = uninit(x.len());
        let sums: Vec<f64> = {
            let (a, b) = (floats(x.value())?, floats(target)?);
            let (a, b): (&[f32], &[f32]) = (&a, &b);
            let planes = gradient.par_chunks_mut(h * w).zip(a.par_chunks(h * w)).zip(b.par_chunks(h * w));
            planes.map(|((g, a), b)| ssim_plane(a, b, w, &taps, g)).collect()
        };
        let n = x.len() as f64;
        let value = 1.0 - sums.iter().sum::<f64>() / n;
        let node = x.node;
        self.record(tensor(vec![value as f32], ())?, &[x], move |g, sink| {
            let scale = (-1.0 / n) as f32 * g[0];
            for g in &mut gradient {
                *g *= scale;
            }
            sink.add(node, gradient);
            Ok(())
        })
    }

    /// InfoNCE between two sets of features `[n,d]` of the same n pixels: with cosine similarities over `temperature`,
    /// half the sum of both directions' −mean ln softmax of the positives, the other set's pixels of the same class.
    pub fn info_nce(&self, a: &Var, b: &Var, classes: &[u8], temperature: f64) -> Result<Var> {
        let (n, d) = a.value().dims2()?;
        ensure!(
            b.dims() == a.dims() && classes.len() == n && n > 0 && d > 0 && temperature > 0.0,
            "contrast of features {:?} and {:?} with {} classes at temperature {temperature}",
            a.dims(),
            b.dims(),
            classes.len()
        );
        // A few hundred rows: read from a GPU rather than computed there.
        let rows = |x: &Var| x.value().flatten_all()?.to_vec1::<f32>();
        let (unit_a, length_a) = normalised(&rows(a)?, d);
        let (unit_b, length_b) = normalised(&rows(b)?, d);
        let scale = 1.0 / temperature as f32;
        let mut s = vec![0.0; n * n];
        s.par_chunks_mut(n).zip(unit_a.par_chunks(d)).for_each(|(s, a)| {
            for (s, b) in s.iter_mut().zip(unit_b.chunks(d)) {
                *s = scale * lane_sum(d, |i| a[i] * b[i]) as f32;
            }
        });
        let mut g = vec![0.0; n * n];
        let value = 0.5
            * (contrast(&s, &mut g, classes, |i, j| i * n + j)
                + contrast(&s, &mut g, classes, |i, j| j * n + i));
        let nodes = (a.node, b.node);
        let value = tensor(vec![value as f32], ())?;
        let value = Gpu::of(a.value()).map_or(Ok(value.clone()), |gpu| gpu.here(&value))?;
        self.record(value, &[a, b], move |upstream, sink| {
            let scale = 0.5 * scale * upstream[0];
            // Of the unit rows, then of the rows: (g − u(u·g))/length.
            let back = |unit: &[f32], length: &[f32], other: &[f32], at: &dyn Fn(usize, usize) -> usize| {
                let mut out = vec![0.0; n * d];
                for (i, out) in out.chunks_mut(d).enumerate() {
                    for (j, other) in other.chunks(d).enumerate() {
                        let factor = scale * g[at(i, j)];
                        out.iter_mut().zip(other).for_each(|(out, x)| *out += factor * x);
                    }
                    let unit = &unit[i * d..(i + 1) * d];
                    let along = lane_sum(d, |k| unit[k] * out[k]) as f32;
                    out.iter_mut().zip(unit).for_each(|(out, u)| *out = (*out - u * along) / length[i]);
                }
                out
            };
            sink.add(nodes.0, back(&unit_a, &length_a, &unit_b, &|i, j| i * n + j));
            sink.add(nodes.1, back(&unit_b, &length_b, &unit_a, &|i, j| j * n + i));
            Ok(())
        })
    }
}
