//! MC-Net's consistency among decoders: each prediction is held to the sharpened ones of the others.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::buffer::{floats, tensor, uninit};
use super::consistency::{sizes, softmax_back};
use super::loss::softmax_eval;
use super::math::{self, lane_sum};
use super::simd::multiversion;
use super::tape::{Tape, Var};

// q = σ(r·ln(p/(1 − p))) = p^r/(p^r + (1 − p)^r), and dq/dp.
multiversion! { fn sharpen(p: &[f32], power: f32, q: &mut [f32], slope: &mut [f32]) {
    for ((q, slope), &p) in q.iter_mut().zip(slope.iter_mut()).zip(p) {
        let rest = 1.0 - p;
        let inside = if p > 1e-30 { p } else { 1e-30 };
        let outside = if rest > 1e-30 { rest } else { 1e-30 };
        let sharp = math::sigmoid(power * (math::ln(inside) - math::ln(outside)));
        *q = sharp;
        *slope = power * sharp * (1.0 - sharp) / (inside * outside);
    }
} }
// Σ (p − q)², adding the differences to what p and q receive.
multiversion! { fn squared(p: &[f32], q: &[f32], of_p: &mut [f32], of_q: &mut [f32]) -> f64 {
    let n = p.len();
    let (q, of_p, of_q) = (&q[..n], &mut of_p[..n], &mut of_q[..n]);
    for i in 0..n {
        let d = p[i] - q[i];
        of_p[i] += d;
        of_q[i] -= d;
    }
    lane_sum(n, |i| (p[i] - q[i]) * (p[i] - q[i]))
} }

impl Tape {
    /// Σ over ordered pairs i ≠ j of `mean[(p_i − q_j)²]`, p the softmax of logits `[B,C,H,W]` and q it sharpened:
    /// p^(1/T)/(p^(1/T) + (1 − p)^(1/T)), class by class. The gradient flows through q too.
    pub fn mutual_consistency(&self, logits: &[Var], temperature: f64) -> Result<Var> {
        let Some(first) = logits.first() else { anyhow::bail!("consistency of no predictions") };
        let same = logits.iter().all(|other| other.dims() == first.dims());
        ensure!(
            same,
            "predictions of different shapes: {:?}",
            logits.iter().map(Var::dims).collect::<Vec<_>>()
        );
        ensure!(temperature > 0.0, "a temperature of {temperature}");
        if let Some(gpu) = self.gpu(first)? {
            return gpu.mutual_consistency(self, logits, (1.0 / temperature) as f32);
        }
        let (classes, pixels) = sizes(first.value())?;
        let (size, count) = (classes * pixels, logits.len());
        let p = logits.iter().map(|l| softmax_eval(l.value())).collect::<Result<Vec<_>>>()?;
        let power = (1.0 / temperature) as f32;
        // Image by image, predictions inside: the gradient of the sum, without 2/n.
        let mut all = uninit(first.dims()[0] * count * size);
        let sums: Vec<f64> = {
            let values = p.iter().map(floats).collect::<Result<Vec<_>>>()?;
            let values: Vec<&[f32]> = values.iter().map(|v| &**v).collect();
            let work = all.par_chunks_mut(count * size).enumerate();
            work.map(|(image, out)| {
                let own: Vec<&[f32]> = values.iter().map(|v| &v[image * size..(image + 1) * size]).collect();
                let (mut q, mut slope) = (vec![0.0; count * size], vec![0.0; count * size]);
                for ((p, q), slope) in own.iter().zip(q.chunks_mut(size)).zip(slope.chunks_mut(size)) {
                    sharpen(p, power, q, slope);
                }
                out.fill(0.0);
                let mut of_q = vec![0.0; count * size];
                let mut sum = 0.0;
                for (i, (p, of_p)) in own.iter().zip(out.chunks_mut(size)).enumerate() {
                    for j in (0..count).filter(|j| *j != i) {
                        let range = j * size..(j + 1) * size;
                        sum += squared(p, &q[range.clone()], of_p, &mut of_q[range]);
                    }
                }
                for ((g, of_q), slope) in out.iter_mut().zip(&of_q).zip(&slope) {
                    *g += of_q * slope;
                }
                for (p, g) in own.iter().zip(out.chunks_mut(size)) {
                    softmax_back(p, g, pixels);
                }
                sum
            })
            .collect()
        };
        let n = first.len() as f64;
        let value = sums.iter().sum::<f64>() / n;
        let inputs: Vec<&Var> = logits.iter().collect();
        let nodes: Vec<_> = logits.iter().map(|l| l.node).collect();
        self.record(tensor(vec![value as f32], ())?, &inputs, move |g, sink| {
            let scale = (2.0 / n) as f32 * g[0];
            for (at, node) in nodes.into_iter().enumerate() {
                let mut own = Vec::with_capacity(all.len() / count);
                for image in all.chunks(count * size) {
                    own.extend(image[at * size..(at + 1) * size].iter().map(|g| g * scale));
                }
                sink.add(node, own);
            }
            Ok(())
        })
    }
}
