//! Batch and group normalisation with what follows them (LeakyReLU and dropout, SiLU), and per-channel affine maps.
//!
//! All of them are, per plane (image × channel), y = act((x − mean)·a + b)·mask. Forward: one pass for the
//! statistics and one for y. Backward: one pass turns the gradient of y into that of the affine output z and sums
//! Σdz and Σdz·x̂ per plane, one pass applies dx = (dz − m₁ − x̂·m₂)·a. Nothing but x is saved.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{floats, tensor, uninit, update};
use super::elementwise::check_probability;
use super::math::{self, lane_sum, lane_sum2};
use super::random::{Mask, PlaneMask};
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// Settings of a batch normalisation.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// Weight of the new statistics in the running ones.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
}

impl Default for BatchNorm {
    fn default() -> Self {
        Self { momentum: 0.1, eps: 1e-5 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Activation {
    Leaky(f32),
    Silu,
}

/// The map of one plane: z = (x − mean)·a + b, x̂ = (x − mean)·inverse.
#[derive(Clone, Copy, Debug, Default)]
struct Plane {
    mean: f32,
    inverse: f32,
    a: f32,
    b: f32,
}

multiversion! { fn leaky_plane(x: &[f32], y: &mut [f32], plane: Plane, slope: f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        let z = (x - plane.mean) * plane.a + plane.b;
        *y = if z > 0.0 { z } else { z * slope };
    }
} }
multiversion! { fn leaky_mask_plane(x: &[f32], y: &mut [f32], plane: Plane, slope: f32, mask: PlaneMask) {
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        let z = (x - plane.mean) * plane.a + plane.b;
        *y = if z > 0.0 { z } else { z * slope } * mask.factor(i as u32);
    }
} }
multiversion! { fn silu_plane(x: &[f32], y: &mut [f32], plane: Plane) {
    for (y, &x) in y.iter_mut().zip(x) {
        let z = (x - plane.mean) * plane.a + plane.b;
        *y = z * math::sigmoid(z);
    }
} }
multiversion! { fn leaky_plane_back(x: &[f32], g: &mut [f32], plane: Plane, slope: f32) {
    for (g, &x) in g.iter_mut().zip(x) {
        let z = (x - plane.mean) * plane.a + plane.b;
        *g *= if z > 0.0 { 1.0 } else { slope };
    }
} }
multiversion! { fn leaky_mask_plane_back(x: &[f32], g: &mut [f32], plane: Plane, slope: f32, mask: PlaneMask) {
    for (i, (g, &x)) in g.iter_mut().zip(x).enumerate() {
        let z = (x - plane.mean) * plane.a + plane.b;
        *g *= if z > 0.0 { 1.0 } else { slope } * mask.factor(i as u32);
    }
} }
multiversion! { fn silu_plane_back(x: &[f32], g: &mut [f32], plane: Plane) {
    for (g, &x) in g.iter_mut().zip(x) {
        let z = (x - plane.mean) * plane.a + plane.b;
        let s = math::sigmoid(z);
        *g *= s * (1.0 + z * (1.0 - s));
    }
} }
multiversion! { fn block_sum(x: &[f32]) -> f64 {
    lane_sum(x.len(), |i| x[i])
} }
// Σg and Σg·(x − centre).
multiversion! { fn block_dots(x: &[f32], g: &[f32], centre: f32) -> (f64, f64) {
    let n = x.len().min(g.len());
    let (x, g) = (&x[..n], &g[..n]);
    lane_sum2(n, |i| (g[i], g[i] * (x[i] - centre)))
} }
multiversion! { fn combine_plane(x: &[f32], g: &mut [f32], mean: f32, a: f32, first: f32, second: f32) {
    for (g, &x) in g.iter_mut().zip(x) {
        *g = (*g - first) * a - (x - mean) * second;
    }
} }

/// Elements summed in f32 before the sum moves on to f64; also small enough to stay in the first cache.
const BLOCK: usize = 4096;

// Σ(x − centre) and Σ(x − centre)² in one pass.
multiversion! { fn block_moments(x: &[f32], centre: f32) -> (f64, f64) {
    lane_sum2(x.len(), |i| {
        let d = x[i] - centre;
        (d, d * d)
    })
} }

/// Mean and Σ(x − mean)² of one plane, block by block (Chan's update), each around the mean of its first numbers, so
/// that a large mean costs no digits.
fn moments(x: &[f32]) -> (f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for block in x.chunks(BLOCK) {
        let n = block.len() as f64;
        let first = &block[..block.len().min(64)];
        let centre = (first.iter().map(|&x| f64::from(x)).sum::<f64>() / first.len() as f64) as f32;
        let (sum, spread) = block_moments(block, centre);
        let rest = sum / n;
        let block_mean = f64::from(centre) + rest;
        let block_squares = (spread - n * rest * rest).max(0.0);
        let delta = block_mean - mean;
        let total: f64 = count + n;
        squares += block_squares + delta * delta * count * n / total;
        mean += delta * n / total;
        count = total;
    }
    (mean, squares)
}

/// Joins the moments of pieces with `n` elements each, in order.
fn join(pieces: impl Iterator<Item = (f64, f64)>, n: f64) -> (f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
    for (piece_mean, piece_squares) in pieces {
        let delta = piece_mean - mean;
        let total = count + n;
        squares += piece_squares + delta * delta * count * n / total;
        mean += delta * n / total;
        count = total;
    }
    (mean, squares)
}

/// Σg and Σg·(x − centre) of one plane.
fn plane_sums(x: &[f32], g: &[f32], centre: f32) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (x, g) in x.chunks(BLOCK).zip(g.chunks(BLOCK)) {
        let (sum, dot) = block_dots(x, g, centre);
        sums = (sums.0 + sum, sums.1 + dot);
    }
    sums
}

/// The fewest planes that one task takes, so that tiny planes are not tasks of their own.
fn grain(plane: usize) -> usize {
    (super::buffer::CHUNK / plane.max(1)).max(1)
}

fn plane_moments(x: &[f32], size: usize) -> Vec<(f64, f64)> {
    x.par_chunks(size).with_min_len(grain(size)).map(moments).collect()
}

/// What follows the normalisation.
#[derive(Clone, Copy)]
struct After {
    activation: Activation,
    mask: Option<Mask>,
}

fn forward(x: &[f32], planes: &[Plane], after: After) -> Vec<f32> {
    let size = x.len() / planes.len();
    let mut y = uninit(x.len());
    let work = y.par_chunks_mut(size).zip(x.par_chunks(size)).zip(planes).enumerate();
    work.with_min_len(grain(size)).for_each(|(index, ((y, x), &plane))| {
        match (after.activation, after.mask) {
            (Activation::Leaky(slope), None) => leaky_plane(x, y, plane, slope),
            (Activation::Leaky(slope), Some(mask)) => leaky_mask_plane(x, y, plane, slope, mask.plane(index)),
            (Activation::Silu, _) => silu_plane(x, y, plane),
        }
    });
    y
}

/// Turns the gradient of y into that of z in place; Σdz and Σdz·(x − mean) of each plane.
fn backward(x: &[f32], g: &mut [f32], planes: &[Plane], after: After) -> Vec<(f64, f64)> {
    let size = x.len() / planes.len();
    let work = g.par_chunks_mut(size).zip(x.par_chunks(size)).zip(planes).enumerate();
    work.with_min_len(grain(size))
        .map(|(index, ((g, x), &plane))| {
            match (after.activation, after.mask) {
                (Activation::Leaky(1.0), None) => {}
                (Activation::Leaky(slope), None) => leaky_plane_back(x, g, plane, slope),
                (Activation::Leaky(slope), Some(mask)) => {
                    leaky_mask_plane_back(x, g, plane, slope, mask.plane(index));
                }
                (Activation::Silu, _) => silu_plane_back(x, g, plane),
            }
            plane_sums(x, g, plane.mean)
        })
        .collect()
}

/// g ← (g − first)·a − (x − mean)·second per plane.
fn combine(x: &[f32], g: &mut [f32], planes: &[Plane], factors: &[(f32, f32)]) {
    let size = x.len() / planes.len();
    let work = g.par_chunks_mut(size).zip(x.par_chunks(size)).zip(planes).zip(factors);
    work.with_min_len(grain(size)).for_each(|(((g, x), plane), &(first, second))| {
        combine_plane(x, g, plane.mean, plane.a, first, second);
    });
}

fn check(x: &Var, per_channel: &[(&str, &Tensor)]) -> Result<(usize, usize, usize)> {
    let dims = x.dims();
    ensure!(dims.len() >= 2, "normalisation needs [B,C,...], not {dims:?}");
    ensure!(!x.is_empty(), "normalisation of an empty value {dims:?}");
    for (name, values) in per_channel {
        ensure!(values.dims() == [dims[1]], "{name} has shape {:?}, not [{}]", values.dims(), dims[1]);
    }
    Ok((dims[0], dims[1], dims[2..].iter().product()))
}

impl Tape {
    /// Batch normalisation over [B,C,...]. Train modes: statistics of the batch (biased variance), and the running
    /// ones move by `momentum` (unbiased variance), in place. Eval: the running ones.
    pub fn batch_norm(
        &self,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        running_mean: &Tensor,
        running_var: &Tensor,
        settings: BatchNorm,
    ) -> Result<Var> {
        self.batch_norm_leaky_dropout(x, gamma, beta, running_mean, running_var, settings, 1.0, 0.0)
    }

    /// [`batch_norm`](Self::batch_norm), [`leaky_relu`](Self::leaky_relu) and [`dropout`](Self::dropout) in one.
    #[expect(clippy::too_many_arguments, reason = "three ops in one")]
    pub fn batch_norm_leaky_dropout(
        &self,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        running_mean: &Tensor,
        running_var: &Tensor,
        settings: BatchNorm,
        slope: f64,
        p: f64,
    ) -> Result<Var> {
        let named = [
            ("batch norm's gamma", gamma.value()),
            ("batch norm's beta", beta.value()),
            ("the running mean", running_mean),
            ("the running variance", running_var),
        ];
        let (b, c, size) = check(x, &named)?;
        check_probability(p)?;
        let trains = self.mode().trains();
        let mask = (trains && p > 0.0).then(|| Mask::new(self.next_key(), p));
        let after = After { activation: Activation::Leaky(slope as f32), mask };
        let values = floats(x.value())?;
        let statistics: Vec<(f64, f64)> = if trains {
            let moments = plane_moments(&values, size);
            let count = (b * size) as f64;
            ensure!(count > 1.0, "batch norm in train mode needs more than one value per channel");
            let joined = (0..c).map(|c_| join((0..b).map(|b_| moments[b_ * c + c_]), size as f64));
            let statistics: Vec<_> = joined.map(|(mean, squares)| (mean, squares / count)).collect();
            move_running(running_mean, settings.momentum, statistics.iter().map(|s| s.0))?;
            let unbiased = count / (count - 1.0);
            move_running(running_var, settings.momentum, statistics.iter().map(|s| s.1 * unbiased))?;
            statistics
        } else {
            let (mean, var) = (floats(running_mean)?, floats(running_var)?);
            mean.iter().zip(var.iter()).map(|(&m, &v)| (f64::from(m), f64::from(v))).collect()
        };
        let (scales, shifts) = (floats(gamma.value())?, floats(beta.value())?);
        let planes: Vec<Plane> = (0..b * c)
            .map(|plane| {
                let channel = plane % c;
                let (mean, var) = statistics[channel];
                let inverse = 1.0 / (var + settings.eps).sqrt();
                let a = (inverse * f64::from(scales[channel])) as f32;
                Plane { mean: mean as f32, inverse: inverse as f32, a, b: shifts[channel] }
            })
            .collect();
        let y = tensor(forward(&values, &planes, after), x.value().shape())?;
        drop((values, scales, shifts));
        let (input, scale, shift) = (x.clone(), gamma.node, beta.node);
        self.record(y, &[x, gamma, beta], move |mut g, sink| {
            let values = floats(input.value())?;
            let sums = backward(&values, &mut g, &planes, after);
            let mut by_channel = vec![(0.0, 0.0); c];
            for (plane, sum) in sums.iter().enumerate() {
                by_channel[plane % c].0 += sum.0;
                by_channel[plane % c].1 += sum.1 * f64::from(planes[plane].inverse);
            }
            sink.add(scale, by_channel.iter().map(|s| s.1 as f32).collect());
            sink.add(shift, by_channel.iter().map(|s| s.0 as f32).collect());
            if input.node.is_some() {
                let count = (b * size) as f64;
                let factor = |plane: usize| {
                    let (first, second) = by_channel[plane % c];
                    let Plane { inverse, a, .. } = planes[plane];
                    // Running statistics (eval) do not depend on x.
                    if trains {
                        ((first / count) as f32, (second / count * f64::from(inverse) * f64::from(a)) as f32)
                    } else {
                        (0.0, 0.0)
                    }
                };
                let factors: Vec<_> = (0..b * c).map(factor).collect();
                combine(&values, &mut g, &planes, &factors);
                sink.add(input.node, g);
            }
            Ok(())
        })
    }

    /// Group normalisation of [B,C,...] in `groups` groups of channels, then ·gamma + beta.
    pub fn group_norm(&self, x: &Var, gamma: &Var, beta: &Var, groups: usize, eps: f64) -> Result<Var> {
        self.group_norm_then(x, gamma, beta, groups, eps, Activation::Leaky(1.0))
    }

    /// [`group_norm`](Self::group_norm) and [`silu`](Self::silu) in one.
    pub fn group_norm_silu(&self, x: &Var, gamma: &Var, beta: &Var, groups: usize, eps: f64) -> Result<Var> {
        self.group_norm_then(x, gamma, beta, groups, eps, Activation::Silu)
    }

    fn group_norm_then(
        &self,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        groups: usize,
        eps: f64,
        activation: Activation,
    ) -> Result<Var> {
        let named = [("group norm's gamma", gamma.value()), ("group norm's beta", beta.value())];
        let (b, c, size) = check(x, &named)?;
        ensure!(groups > 0 && c.is_multiple_of(groups), "{c} channels do not split into {groups} groups");
        let width = c / groups;
        let after = After { activation, mask: None };
        let values = floats(x.value())?;
        let moments = plane_moments(&values, size);
        let (scales, shifts) = (floats(gamma.value())?.to_vec(), floats(beta.value())?);
        let count = (width * size) as f64;
        let mut planes = Vec::with_capacity(b * c);
        for (group, pieces) in moments.chunks(width).enumerate() {
            let (mean, squares) = join(pieces.iter().copied(), size as f64);
            let inverse = 1.0 / (squares / count + eps).sqrt();
            for i in 0..width {
                let channel = (group * width + i) % c;
                let a = (inverse * f64::from(scales[channel])) as f32;
                planes.push(Plane { mean: mean as f32, inverse: inverse as f32, a, b: shifts[channel] });
            }
        }
        let y = tensor(forward(&values, &planes, after), x.value().shape())?;
        drop((values, shifts));
        let (input, scale, shift) = (x.clone(), gamma.node, beta.node);
        self.record(y, &[x, gamma, beta], move |mut g, sink| {
            let values = floats(input.value())?;
            let mut sums = backward(&values, &mut g, &planes, after);
            for (sum, plane) in sums.iter_mut().zip(&planes) {
                sum.1 *= f64::from(plane.inverse);
            }
            let by_channel = |part: fn(&(f64, f64)) -> f64| {
                (0..c).map(|c_| (0..b).map(|b_| part(&sums[b_ * c + c_])).sum::<f64>() as f32).collect()
            };
            sink.add(scale, by_channel(|s| s.1));
            sink.add(shift, by_channel(|s| s.0));
            if input.node.is_some() {
                let mut factors = Vec::with_capacity(b * c);
                for (group, pieces) in sums.chunks(width).enumerate() {
                    let scale_of = |i: usize| f64::from(scales[(group * width + i) % c]);
                    let first: f64 = pieces.iter().enumerate().map(|(i, s)| s.0 * scale_of(i)).sum();
                    let second: f64 = pieces.iter().enumerate().map(|(i, s)| s.1 * scale_of(i)).sum();
                    let inverse = f64::from(planes[group * width].inverse);
                    // dx = dz·a − (Σdz·γ + x̂·Σdz·γ·x̂)/count·inverse
                    factors.extend(std::iter::repeat_n(
                        ((first / count * inverse) as f32, (second / count * inverse * inverse) as f32),
                        width,
                    ));
                }
                combine_groups(&values, &mut g, &planes, &factors);
                sink.add(input.node, g);
            }
            Ok(())
        })
    }

    /// x·(1 + scale) + shift, with one scale and shift, `[B,C]`, per image and channel of x, [B,C,...].
    pub fn scale_shift(&self, x: &Var, scale: &Var, shift: &Var) -> Result<Var> {
        let (b, c, size) = check(x, &[])?;
        for (name, v) in [("scale", scale), ("shift", shift)] {
            ensure!(v.dims() == [b, c], "{name} has shape {:?}, not [{b}, {c}]", v.dims());
        }
        let values = floats(x.value())?;
        let (scales, shifts) = (floats(scale.value())?, floats(shift.value())?);
        let planes: Vec<Plane> = (scales.iter().zip(shifts.iter()))
            .map(|(&s, &b)| Plane { mean: 0.0, inverse: 1.0, a: 1.0 + s, b })
            .collect();
        let identity = After { activation: Activation::Leaky(1.0), mask: None };
        let y = tensor(forward(&values, &planes, identity), x.value().shape())?;
        drop((values, scales, shifts));
        let (input, first, second) = (x.clone(), scale.node, shift.node);
        self.record(y, &[x, scale, shift], move |mut g, sink| {
            let values = floats(input.value())?;
            let sums = backward(&values, &mut g, &planes, identity);
            sink.add(first, sums.iter().map(|s| s.1 as f32).collect());
            sink.add(second, sums.iter().map(|s| s.0 as f32).collect());
            if input.node.is_some() {
                let work = g.par_chunks_mut(size).zip(&planes);
                work.with_min_len(grain(size))
                    .for_each(|(g, plane)| g.iter_mut().for_each(|g| *g *= plane.a));
                sink.add(input.node, g);
            }
            Ok(())
        })
    }

    /// x + v, with one number per image and channel: x is [B,C,...], v is `[B,C]`.
    pub fn add_channel(&self, x: &Var, v: &Var) -> Result<Var> {
        let (b, c, size) = check(x, &[])?;
        ensure!(v.dims() == [b, c], "the channel values have shape {:?}, not [{b}, {c}]", v.dims());
        let values = floats(x.value())?;
        let shifts = floats(v.value())?;
        let plane = |&b: &f32| Plane { mean: 0.0, inverse: 1.0, a: 1.0, b };
        let planes: Vec<Plane> = shifts.iter().map(plane).collect();
        let identity = After { activation: Activation::Leaky(1.0), mask: None };
        let y = tensor(forward(&values, &planes, identity), x.value().shape())?;
        drop((values, shifts));
        let (input, shift) = (x.node, v.node);
        self.record(y, &[x, v], move |g, sink| {
            if shift.is_some() {
                let sum = |g: &[f32]| g.chunks(BLOCK).map(block_sum).sum::<f64>() as f32;
                sink.add(shift, g.par_chunks(size).with_min_len(grain(size)).map(sum).collect());
            }
            sink.add(input, g);
            Ok(())
        })
    }
}

/// g ← g·a − first − (x − mean)·second per plane.
fn combine_groups(x: &[f32], g: &mut [f32], planes: &[Plane], factors: &[(f32, f32)]) {
    let size = x.len() / planes.len();
    let work = g.par_chunks_mut(size).zip(x.par_chunks(size)).zip(planes).zip(factors);
    work.with_min_len(grain(size)).for_each(|(((g, x), plane), &(first, second))| {
        group_plane(x, g, plane.mean, plane.a, first, second);
    });
}

multiversion! { fn group_plane(x: &[f32], g: &mut [f32], mean: f32, a: f32, first: f32, second: f32) {
    for (g, &x) in g.iter_mut().zip(x) {
        *g = *g * a - first - (x - mean) * second;
    }
} }

/// running ← (1 − momentum)·running + momentum·new, in place.
fn move_running(running: &Tensor, momentum: f64, new: impl Iterator<Item = f64>) -> Result<()> {
    update(running, |running| {
        for (r, new) in running.iter_mut().zip(new) {
            *r = ((1.0 - momentum) * f64::from(*r) + momentum * new) as f32;
        }
    })
}
