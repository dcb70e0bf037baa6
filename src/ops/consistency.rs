//! Terms that hold predictions to targets over some of the pixels, and what the other terms are made of.
//!
//! Images are worked on in parallel and their sums joined in order.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, slice, tensor, uninit};
use super::math::{self, lane_sum};
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// Pixels of an inner block: its class rows stay in the first cache.
pub(super) const BLOCK: usize = 256;

multiversion! { fn log_softmax_image(x: &[f32], y: &mut [f32], pixels: usize) {
    let (mut largest, mut total) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    for start in (0..pixels).step_by(BLOCK) {
        let n = BLOCK.min(pixels - start);
        let (largest, total) = (&mut largest[..n], &mut total[..n]);
        largest.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        for row in x.chunks(pixels) {
            for (m, &x) in largest.iter_mut().zip(&row[start..start + n]) {
                *m = if x > *m { x } else { *m };
            }
        }
        for row in x.chunks(pixels) {
            for ((t, &m), &x) in total.iter_mut().zip(largest.iter()).zip(&row[start..start + n]) {
                *t += math::exp(x - m);
            }
        }
        for (m, &t) in largest.iter_mut().zip(total.iter()) {
            *m += math::ln(t);
        }
        for (row, out) in x.chunks(pixels).zip(y.chunks_mut(pixels)) {
            let (row, out) = (&row[start..start + n], &mut out[start..start + n]);
            for ((y, &x), &m) in out.iter_mut().zip(row).zip(largest.iter()) {
                *y = x - m;
            }
        }
    }
} }
// dz = p·(g − Σ g·p), in place.
multiversion! { fn softmax_back_image(p: &[f32], g: &mut [f32], pixels: usize) {
    let mut dot = [0.0f32; BLOCK];
    for start in (0..pixels).step_by(BLOCK) {
        let n = BLOCK.min(pixels - start);
        let dot = &mut dot[..n];
        dot.fill(0.0);
        for (p, g) in p.chunks(pixels).zip(g.chunks(pixels)) {
            for ((d, &p), &g) in dot.iter_mut().zip(&p[start..start + n]).zip(&g[start..start + n]) {
                *d += p * g;
            }
        }
        for (p, g) in p.chunks(pixels).zip(g.chunks_mut(pixels)) {
            for ((g, &p), &d) in g[start..start + n].iter_mut().zip(&p[start..start + n]).zip(dot.iter()) {
                *g = p * (*g - d);
            }
        }
    }
} }
multiversion! { fn exponentials(x: &mut [f32]) {
    for x in x {
        *x = math::exp(*x);
    }
} }

/// The classes and pixels of class maps `[B,C,H,W]`.
pub(super) fn sizes(maps: &Tensor) -> Result<(usize, usize)> {
    let (_, classes, h, w) = maps.dims4()?;
    ensure!(maps.elem_count() > 0, "class maps of shape {:?} are empty", maps.dims());
    Ok((classes, h * w))
}

/// The logarithms of the softmax over dimension 1 of logits `[B,C,H,W]`.
pub(super) fn log_softmax(logits: &Tensor) -> Result<Vec<f32>> {
    let (classes, pixels) = sizes(logits)?;
    let x = floats(logits)?;
    let x: &[f32] = &x;
    let mut y = uninit(x.len());
    let images = y.par_chunks_mut(classes * pixels).zip(x.par_chunks(classes * pixels));
    images.for_each(|(y, x)| log_softmax_image(x, y, pixels));
    Ok(y)
}

/// Turns the gradient of a softmax `p` of one image into that of its logits, in place.
pub(super) fn softmax_back(p: &[f32], g: &mut [f32], pixels: usize) {
    softmax_back_image(p, g, pixels);
}

fn check_mask(x: &Var, mask: &Tensor, what: &str) -> Result<()> {
    let (b, _, h, w) = x.dims4()?;
    ensure!(mask.dims() == [b, h, w], "{what} of shape {:?} for maps of {:?}", mask.dims(), x.dims());
    Ok(())
}

impl Tape {
    /// x·f element by element, for factors `f` of the same shape that learn nothing.
    pub fn times(&self, x: &Var, factors: &Tensor) -> Result<Var> {
        ensure!(x.dims() == factors.dims(), "shapes {:?} and {:?} differ", x.dims(), factors.dims());
        if let Some(gpu) = self.gpu(x)? {
            return gpu.times(self, x, factors);
        }
        let factors = factors.contiguous()?;
        let multiply = |x: &[f32], f: &[f32]| {
            let mut y = uninit(x.len());
            let work = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(f.par_chunks(CHUNK));
            work.for_each(|((y, x), f)| y.iter_mut().zip(x).zip(f).for_each(|((y, x), f)| *y = x * f));
            y
        };
        let y = tensor(multiply(&floats(x.value())?, &floats(&factors)?), x.value().shape())?;
        let node = x.node;
        self.record(y, &[x], move |g, sink| {
            sink.add(node, multiply(&g, &floats(&factors)?));
            Ok(())
        })
    }

    /// `factor`·Σ(x − target)², for x and target `[B,C,H,W]`; with `keep`, u8 `[B,H,W]`, over the pixels other than 0.
    pub fn squares(&self, x: &Var, target: &Tensor, keep: Option<&Tensor>, factor: f64) -> Result<Var> {
        ensure!(x.dims() == target.dims(), "shapes {:?} and {:?} differ", x.dims(), target.dims());
        let (classes, pixels) = sizes(x.value())?;
        if let Some(gpu) = self.gpu(x)? {
            keep.map_or(Ok(()), |keep| check_mask(x, keep, "a mask"))?;
            return gpu.squares(self, x, target, keep, factor);
        }
        let keep = match keep {
            Some(keep) => keep.clone(),
            None => tensor(vec![1u8; x.len() / classes], (x.dims()[0], x.dims()[2], x.dims()[3]))?,
        };
        check_mask(x, &keep, "a mask")?;
        let mut gradient = uninit(x.len());
        let sums: Vec<f64> = {
            let (a, b, keep) = (floats(x.value())?, floats(target)?, slice::<u8>(&keep)?);
            let (a, b, keep): (&[f32], &[f32], &[u8]) = (&a, &b, &keep);
            let rows = gradient.par_chunks_mut(pixels).zip(a.par_chunks(pixels)).zip(b.par_chunks(pixels));
            let sums = rows.enumerate().map(|(row, ((g, a), b))| {
                let keep = &keep[row / classes * pixels..][..pixels];
                for (((g, a), b), keep) in g.iter_mut().zip(a).zip(b).zip(keep) {
                    *g = if *keep == 0 { 0.0 } else { a - b };
                }
                lane_sum(pixels, |i| g[i] * g[i])
            });
            sums.collect()
        };
        let value = factor * sums.iter().sum::<f64>();
        let node = x.node;
        self.record(tensor(vec![value as f32], ())?, &[x], move |g, sink| {
            let slope = (2.0 * factor) as f32 * g[0];
            gradient.par_chunks_mut(CHUNK).for_each(|g| g.iter_mut().for_each(|g| *g *= slope));
            sink.add(node, gradient);
            Ok(())
        })
    }

    /// Cross-entropy of logits `[B,C,H,W]` and classes, u8 `[B,H,W]`, over the pixels that `keep`, u8 `[B,H,W]`, has
    /// other than 0: Σ keep·CE/(Σ keep + 1e-16).
    pub fn cross_entropy_kept(&self, logits: &Var, target: &Tensor, keep: &Tensor) -> Result<Var> {
        let (classes, pixels) = sizes(logits.value())?;
        check_mask(logits, target, "a target")?;
        check_mask(logits, keep, "a mask")?;
        if let Some(gpu) = self.gpu(logits)? {
            return gpu.cross_entropy(self, logits, target, Some(keep), 1e-16);
        }
        let mut logs = log_softmax(logits.value())?;
        let (value, weight) = {
            let (target, keep) = (slice::<u8>(target)?, slice::<u8>(keep)?);
            let largest = target.iter().copied().max().unwrap_or(0);
            ensure!(
                usize::from(largest) < classes,
                "a target holds class {largest}, but there are only {classes} classes"
            );
            let (mut sum, mut count) = (0.0, 0.0);
            for (i, (&class, _)) in target.iter().zip(keep.iter()).enumerate().filter(|(_, (_, k))| **k != 0)
            {
                let (image, pixel) = (i / pixels, i % pixels);
                sum -= f64::from(logs[(image * classes + usize::from(class)) * pixels + pixel]);
                count += 1.0;
            }
            (sum / (count + 1e-16), 1.0 / (count + 1e-16))
        };
        let (node, target, keep) = (logits.node, target.clone(), keep.clone());
        self.record(tensor(vec![value as f32], ())?, &[logits], move |g, sink| {
            let weight = weight as f32 * g[0];
            let (target, keep) = (slice::<u8>(&target)?, slice::<u8>(&keep)?);
            let (target, keep): (&[u8], &[u8]) = (&target, &keep);
            logs.par_chunks_mut(pixels).enumerate().for_each(|(row, p)| {
                let (image, class) = (row / classes * pixels, (row % classes) as u8);
                exponentials(p);
                for ((p, &t), &keep) in p.iter_mut().zip(&target[image..]).zip(&keep[image..]) {
                    let hit = f32::from(u8::from(t == class));
                    *p = if keep == 0 { 0.0 } else { weight * (*p - hit) };
                }
            });
            sink.add(node, logs);
            Ok(())
        })
    }

    /// The values at some pixels of x `[B,C,H,W]`: `[n,C]`. A pixel is (image, place in its H·W pixels), and none is
    /// named twice.
    pub fn gather_pixels(&self, x: &Var, pixels: &[(usize, usize)]) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let plane = h * w;
        ensure!(
            pixels.iter().all(|(image, at)| *image < b && *at < plane),
            "a pixel outside of {:?}",
            x.dims()
        );
        if let Some(gpu) = self.gpu(x)? {
            return gpu.gather_pixels(self, x, pixels);
        }
        let values = floats(x.value())?;
        let place = move |(image, at): (usize, usize), class: usize| (image * c + class) * plane + at;
        let mut y = Vec::with_capacity(pixels.len() * c);
        for &pixel in pixels {
            y.extend((0..c).map(|class| values[place(pixel, class)]));
        }
        drop(values);
        let (node, pixels) = (x.node, pixels.to_vec());
        self.record(tensor(y, (pixels.len(), c))?, &[x], move |g, sink| {
            let mut whole = vec![0.0; b * c * plane];
            for (g, pixel) in g.chunks(c).zip(pixels) {
                for (class, g) in g.iter().enumerate() {
                    whole[place(pixel, class)] += g;
                }
            }
            sink.add(node, whole);
            Ok(())
        })
    }
}
