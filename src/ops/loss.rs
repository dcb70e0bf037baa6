//! Losses over class maps, each with its softmax inside and its gradient computed in the same pass over memory.
//!
//! Pixels are taken in fixed chunks: partial sums in f64, added in order.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{CHUNK, Shared, floats, slice, tensor, uninit};
use super::gpu::Gpu;
use super::math::{self, lane_sum};
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// Pixels of one task.
const PIXELS: usize = 4096;
/// Pixels of one inner block: its class rows stay in the first cache.
const BLOCK: usize = 256;

/// The sizes of class maps `[B,C,H,W]` as (B, C, pixels).
#[derive(Clone, Copy)]
struct Maps {
    batch: usize,
    classes: usize,
    pixels: usize,
}

impl Maps {
    fn of(logits: &Tensor) -> Result<Self> {
        let (batch, classes, h, w) = logits.dims4()?;
        ensure!(batch * classes * h * w > 0, "class maps of shape {:?} are empty", logits.dims());
        Ok(Self { batch, classes, pixels: h * w })
    }

    fn check(self, target: &Tensor, what: &str) -> Result<()> {
        let (b, h, w) = target.dims3()?;
        ensure!(
            b == self.batch && h * w == self.pixels,
            "{what} has shape {:?}, which is not that of the maps",
            target.dims()
        );
        Ok(())
    }

    /// The tasks: (image, first pixel, number of pixels).
    fn tasks(self) -> Vec<(usize, usize, usize)> {
        let starts =
            move |b| (0..self.pixels).step_by(PIXELS).map(move |p| (b, p, PIXELS.min(self.pixels - p)));
        (0..self.batch).flat_map(starts).collect()
    }

    /// Where class `c` of image `b` starts.
    fn row(self, b: usize, c: usize) -> usize {
        (b * self.classes + c) * self.pixels
    }
}

// The largest logit of each pixel, then e^(x − largest) in `out` and their sum in `total`.
multiversion! { fn exponentials(logits: &[f32], stride: usize, classes: usize, out: &mut [f32], largest: &mut [f32], total: &mut [f32]) {
    let n = largest.len();
    largest.copy_from_slice(&logits[..n]);
    for c in 1..classes {
        for (m, &x) in largest.iter_mut().zip(&logits[c * stride..][..n]) {
            *m = if x > *m { x } else { *m };
        }
    }
    total.fill(0.0);
    for c in 0..classes {
        let (x, out) = (&logits[c * stride..][..n], &mut out[c * n..][..n]);
        for i in 0..n {
            let e = math::exp(x[i] - largest[i]);
            out[i] = e;
            total[i] += e;
        }
    }
} }
multiversion! { fn normalise(out: &mut [f32], n: usize, total: &[f32]) {
    for row in out.chunks_mut(n) {
        for (p, &t) in row.iter_mut().zip(total) {
            *p /= t;
        }
    }
} }
multiversion! { fn log_sums(largest: &[f32], total: &[f32]) -> f64 {
    let n = largest.len().min(total.len());
    lane_sum(n, |i| largest[i] + math::ln(total[i]))
} }
multiversion! { fn dice_row(p: &[f32], target: &[u8], keep: &[u8], class: u8) -> (f64, f64, f64) {
    let n = p.len().min(target.len()).min(keep.len());
    let (p, target, keep) = (&p[..n], &target[..n], &keep[..n]);
    let on = |i: usize| if keep[i] != 0 { 1.0f32 } else { 0.0 };
    let hit = |i: usize| if target[i] == class { on(i) } else { 0.0 };
    (lane_sum(n, |i| p[i] * hit(i)), lane_sum(n, |i| p[i] * p[i] * on(i)), lane_sum(n, hit))
} }

/// Scratch of one task.
struct Scratch {
    p: Vec<f32>,
    largest: Vec<f32>,
    total: Vec<f32>,
    dot: Vec<f32>,
}

impl Scratch {
    fn new(classes: usize) -> Self {
        let row = || vec![0.0; BLOCK];
        Self { p: vec![0.0; classes * BLOCK], largest: row(), total: row(), dot: row() }
    }

    /// Softmax of `n` pixels whose class rows are `stride` apart; rows of `n` in the result.
    fn softmax(&mut self, logits: &[f32], stride: usize, classes: usize, n: usize) -> &mut [f32] {
        let out = &mut self.p[..classes * n];
        exponentials(logits, stride, classes, out, &mut self.largest[..n], &mut self.total[..n]);
        normalise(out, n, &self.total[..n]);
        out
    }
}

/// Calls `f(class row offset of the block, image pixel, number of pixels)` for the blocks of a task.
fn blocks(maps: Maps, (b, first, n): (usize, usize, usize), mut f: impl FnMut(usize, usize, usize)) {
    for start in (first..first + n).step_by(BLOCK) {
        f(maps.row(b, 0) + start, b * maps.pixels + start, BLOCK.min(first + n - start));
    }
}

/// Writes rows of `n` to class rows of a whole map.
///
/// Tasks are disjoint pixel ranges, so no two of them write the same element.
#[expect(unsafe_code, reason = "tasks write disjoint pixels of the same class rows")]
fn store(out: Shared, at: usize, stride: usize, n: usize, rows: &[f32]) {
    for (c, row) in rows.chunks(n).enumerate() {
        // SAFETY: the caller's task owns pixels at..at + n of every class row.
        unsafe { out.part(at + c * stride, n) }.copy_from_slice(row);
    }
}

fn in_range(target: &[u8], classes: usize) -> Result<()> {
    let largest = target.par_chunks(CHUNK).map(|t| t.iter().copied().max().unwrap_or(0)).max().unwrap_or(0);
    ensure!(
        usize::from(largest) < classes,
        "a target holds class {largest}, but there are only {classes} classes"
    );
    Ok(())
}

/// Scales a saved gradient by that of the loss and hands it on.
fn scaled(mut gradient: Vec<f32>, factor: f32) -> Vec<f32> {
    if factor != 1.0 {
        gradient.par_chunks_mut(CHUNK).for_each(|g| g.iter_mut().for_each(|g| *g *= factor));
    }
    gradient
}

/// Softmax over the classes, dimension 1 of `[B,C,H,W]`; nothing is recorded.
pub fn softmax_eval(logits: &Tensor) -> Result<Tensor> {
    if let Some(gpu) = Gpu::of(logits) {
        return gpu.softmax_eval(logits);
    }
    let maps = Maps::of(logits)?;
    let x = floats(logits)?;
    let x: &[f32] = &x;
    let mut y = uninit(x.len());
    let out = Shared::new(&mut y);
    maps.tasks().into_par_iter().for_each_init(
        || Scratch::new(maps.classes),
        |scratch, task| {
            blocks(maps, task, |at, _, n| {
                store(out, at, maps.pixels, n, scratch.softmax(&x[at..], maps.pixels, maps.classes, n));
            });
        },
    );
    tensor(y, logits.shape())
}

/// The most likely class, u8 `[B,H,W]` (the first of equal ones), and its probability, f32 `[B,H,W]`, of logits `[B,C,H,W]`.
pub fn softmax_confidence(logits: &Tensor) -> Result<(Tensor, Tensor)> {
    if let Some(gpu) = Gpu::of(logits) {
        return gpu.softmax_confidence(logits);
    }
    let maps = Maps::of(logits)?;
    let (b, _, h, w) = logits.dims4()?;
    let x = floats(logits)?;
    let x: &[f32] = &x;
    let mut classes = vec![0u8; maps.batch * maps.pixels];
    let mut confidence = uninit(maps.batch * maps.pixels);
    let work = classes.par_chunks_mut(maps.pixels).zip(confidence.par_chunks_mut(maps.pixels)).enumerate();
    work.for_each(|(image, (classes, confidence))| {
        let work = classes.par_chunks_mut(PIXELS).zip(confidence.par_chunks_mut(PIXELS)).enumerate();
        work.for_each_init(
            || Scratch::new(maps.classes),
            |scratch, (task, (classes, confidence))| {
                for (block, (class, p)) in
                    classes.chunks_mut(BLOCK).zip(confidence.chunks_mut(BLOCK)).enumerate()
                {
                    let n = p.len();
                    let at = maps.row(image, 0) + task * PIXELS + block * BLOCK;
                    let rows = scratch.softmax(&x[at..], maps.pixels, maps.classes, n);
                    p.copy_from_slice(&rows[..n]);
                    for (c, row) in rows.chunks(n).enumerate().skip(1) {
                        for ((class, p), &q) in class.iter_mut().zip(p.iter_mut()).zip(row) {
                            if q > *p {
                                *p = q;
                                *class = c as u8;
                            }
                        }
                    }
                }
            },
        );
    });
    Ok((tensor(classes, (b, h, w))?, tensor(confidence, (b, h, w))?))
}

impl Tape {
    /// Softmax over dimension 1 of `[B,C,H,W]`.
    pub fn softmax(&self, x: &Var) -> Result<Var> {
        if let Some(gpu) = self.gpu(x)? {
            return gpu.softmax(self, x);
        }
        let y = softmax_eval(x.value())?;
        let maps = Maps::of(x.value())?;
        let (node, saved) = (x.node, y.clone());
        self.record(y, &[x], move |mut g, sink| {
            let p = floats(&saved)?;
            let images =
                g.par_chunks_mut(maps.classes * maps.pixels).zip(p.par_chunks(maps.classes * maps.pixels));
            images.for_each(|(g, p)| {
                let mut dot = vec![0.0f32; maps.pixels];
                for (g, p) in g.chunks(maps.pixels).zip(p.chunks(maps.pixels)) {
                    dot.iter_mut().zip(g).zip(p).for_each(|((d, g), p)| *d += g * p);
                }
                for (g, p) in g.chunks_mut(maps.pixels).zip(p.chunks(maps.pixels)) {
                    g.iter_mut().zip(p).zip(&dot).for_each(|((g, p), d)| *g = p * (*g - d));
                }
            });
            sink.add(node, g);
            Ok(())
        })
    }

    /// Cross-entropy of logits `[B,C,H,W]` and classes, u8 `[B,H,W]`: the mean over all pixels.
    pub fn cross_entropy(&self, logits: &Var, target: &Tensor) -> Result<Var> {
        let maps = Maps::of(logits.value())?;
        maps.check(target, "the target")?;
        if let Some(gpu) = self.gpu(logits)? {
            return gpu.cross_entropy(self, logits, target, None, 0.0);
        }
        let (x, target) = (floats(logits.value())?, slice::<u8>(target)?);
        let (x, target): (&[f32], &[u8]) = (&x, &target);
        in_range(target, maps.classes)?;
        let count = (maps.batch * maps.pixels) as f64;
        let weight = (1.0 / count) as f32;
        let recorded = logits.node.is_some();
        let mut gradient = uninit(if recorded { x.len() } else { 0 });
        let out = Shared::new(&mut gradient);
        let task = |scratch: &mut Scratch, task: (usize, usize, usize)| {
            let mut loss = 0.0f64;
            blocks(maps, task, |at, pixel, n| {
                let rows = scratch.softmax(&x[at..], maps.pixels, maps.classes, n);
                let target = &target[pixel..][..n];
                for (i, &t) in target.iter().enumerate() {
                    loss -= f64::from(x[at + usize::from(t) * maps.pixels + i]);
                    rows[usize::from(t) * n + i] -= 1.0;
                }
                if recorded {
                    for p in rows.iter_mut() {
                        *p *= weight;
                    }
                    store(out, at, maps.pixels, n, rows);
                }
                loss += log_sums(&scratch.largest[..n], &scratch.total[..n]);
            });
            loss
        };
        let losses: Vec<f64> =
            maps.tasks().into_par_iter().map_init(|| Scratch::new(maps.classes), task).collect();
        let loss = (losses.iter().sum::<f64>() / count) as f32;
        let node = logits.node;
        self.record(tensor(vec![loss], ())?, &[logits], move |g, sink| {
            sink.add(node, scaled(gradient, g[0]));
            Ok(())
        })
    }

    /// Dice loss of softmax(logits), `[B,C,H,W]`, and classes, u8 `[B,H,W]`: 1 − (2Σst + ε)/(Σs² + Σt² + ε) per class
    /// over the whole batch, the mean over the classes. With `keep`, u8 `[B,H,W]`, only pixels other than 0 count.
    pub fn dice(&self, logits: &Var, target: &Tensor, keep: Option<&Tensor>, eps: f64) -> Result<Var> {
        let maps = Maps::of(logits.value())?;
        maps.check(target, "the target")?;
        if let Some(keep) = keep {
            maps.check(keep, "the mask")?;
        }
        if let Some(gpu) = self.gpu(logits)? {
            return gpu.dice(self, logits, target, keep, eps);
        }
        let target = target.clone();
        let keep = match keep {
            Some(keep) => keep.clone(),
            None => tensor(vec![1u8; maps.batch * maps.pixels], target.shape())?,
        };
        in_range(&slice::<u8>(&target)?, maps.classes)?;
        let probabilities = softmax_eval(logits.value())?;
        let mut factors = Vec::with_capacity(maps.classes);
        let mut loss = 0.0;
        for (both, square, hits) in dice_sums(maps, &probabilities, &target, &keep)? {
            let (top, bottom) = (2.0 * both + eps, square + hits + eps);
            loss += (1.0 - top / bottom) / maps.classes as f64;
            // d/ds of −top/bottom: −2t/bottom + 2s·top/bottom².
            let scale = 2.0 / (bottom * maps.classes as f64);
            factors.push(((-scale) as f32, (scale * top / bottom) as f32));
        }
        let node = logits.node;
        self.record(tensor(vec![loss as f32], ())?, &[logits], move |g, sink| {
            sink.add(node, dice_back(maps, &probabilities, &target, &keep, &factors, g[0])?);
            Ok(())
        })
    }

    /// The mean of (x − target)² over all elements.
    pub fn mse(&self, x: &Var, target: &Tensor) -> Result<Var> {
        ensure!(x.dims() == target.dims(), "shapes {:?} and {:?} differ", x.dims(), target.dims());
        ensure!(!x.is_empty(), "the mean over an empty value {:?}", x.dims());
        if let Some(gpu) = self.gpu(x)? {
            return gpu.squares(self, x, target, None, 1.0 / x.len() as f64);
        }
        let (a, b) = (floats(x.value())?, floats(target)?);
        let (a, b): (&[f32], &[f32]) = (&a, &b);
        let count = a.len() as f64;
        let weight = (2.0 / count) as f32;
        let mut gradient = uninit(a.len());
        let work = gradient.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
        let losses: Vec<f64> = work.map(|((g, a), b)| squares(a, b, g, weight)).collect();
        let loss = (losses.iter().sum::<f64>() / count) as f32;
        let node = x.node;
        self.record(tensor(vec![loss], ())?, &[x], move |g, sink| {
            sink.add(node, scaled(gradient, g[0]));
            Ok(())
        })
    }
}

multiversion! { fn squares(a: &[f32], b: &[f32], g: &mut [f32], weight: f32) -> f64 {
    for ((g, &a), &b) in g.iter_mut().zip(a).zip(b) {
        *g = a - b;
    }
    let sum = lane_sum(g.len(), |i| g[i] * g[i]);
    for g in g.iter_mut() {
        *g *= weight;
    }
    sum
} }

/// Σst, Σs² and Σt of each class over the kept pixels of the batch.
fn dice_sums(maps: Maps, p: &Tensor, target: &Tensor, keep: &Tensor) -> Result<Vec<(f64, f64, f64)>> {
    let (p, target, keep) = (floats(p)?, slice::<u8>(target)?, slice::<u8>(keep)?);
    let (p, target, keep): (&[f32], &[u8], &[u8]) = (&p, &target, &keep);
    let task = |task: (usize, usize, usize)| {
        let mut sums = vec![(0.0, 0.0, 0.0); maps.classes];
        blocks(maps, task, |at, pixel, n| {
            for (c, sum) in sums.iter_mut().enumerate() {
                let row = &p[at + c * maps.pixels..][..n];
                let (both, square, hits) = dice_row(row, &target[pixel..][..n], &keep[pixel..][..n], c as u8);
                *sum = (sum.0 + both, sum.1 + square, sum.2 + hits);
            }
        });
        sums
    };
    let parts: Vec<_> = maps.tasks().into_par_iter().map(task).collect();
    let mut sums = vec![(0.0, 0.0, 0.0); maps.classes];
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum = (sum.0 + part.0, sum.1 + part.1, sum.2 + part.2);
        }
    }
    Ok(sums)
}

/// The gradient of the logits through the softmax: p·(d − Σ d·p), d = factor₀·t + factor₁·p on kept pixels.
fn dice_back(
    maps: Maps,
    p: &Tensor,
    target: &Tensor,
    keep: &Tensor,
    factors: &[(f32, f32)],
    scale: f32,
) -> Result<Vec<f32>> {
    let (p, target, keep) = (floats(p)?, slice::<u8>(target)?, slice::<u8>(keep)?);
    let (p, target, keep): (&[f32], &[u8], &[u8]) = (&p, &target, &keep);
    let mut dx = uninit(p.len());
    let out = Shared::new(&mut dx);
    let task = |scratch: &mut Scratch, task: (usize, usize, usize)| {
        blocks(maps, task, |at, pixel, n| {
            let (rows, dot) = (&mut scratch.p[..maps.classes * n], &mut scratch.dot[..n]);
            dot.fill(0.0);
            let (target, keep) = (&target[pixel..][..n], &keep[pixel..][..n]);
            for (c, (row, &factor)) in rows.chunks_mut(n).zip(factors).enumerate() {
                dice_slope(&p[at + c * maps.pixels..][..n], target, keep, c as u8, factor, scale, row, dot);
            }
            for (c, row) in rows.chunks_mut(n).enumerate() {
                through_softmax(&p[at + c * maps.pixels..][..n], dot, row);
            }
            store(out, at, maps.pixels, n, rows);
        });
    };
    maps.tasks().into_par_iter().for_each_init(|| Scratch::new(maps.classes), task);
    Ok(dx)
}

multiversion! { fn dice_slope(p: &[f32], target: &[u8], keep: &[u8], class: u8, factor: (f32, f32), scale: f32, d: &mut [f32], dot: &mut [f32]) {
    let n = p.len();
    let (target, keep, d, dot) = (&target[..n], &keep[..n], &mut d[..n], &mut dot[..n]);
    for i in 0..n {
        let on = if keep[i] != 0 { scale } else { 0.0 };
        let hit = if target[i] == class { factor.0 } else { 0.0 };
        let slope = (hit + factor.1 * p[i]) * on;
        d[i] = slope;
        dot[i] += slope * p[i];
    }
} }
multiversion! { fn through_softmax(p: &[f32], dot: &[f32], d: &mut [f32]) {
    for ((d, &p), &dot) in d.iter_mut().zip(p).zip(dot) {
        *d = p * (*d - dot);
    }
} }
