//! Batch and group normalisation with what follows them (LeakyReLU and dropout, SiLU), and per-channel affine maps.
//!
//! All of them are, per plane (image × channel), y = act((x − mean)·a + b)·mask. Forward: one pass for the
//! statistics and one for y. Backward: one pass turns the gradient of y into that of the affine output z and sums
//! Σdz and Σdz·x̂ per plane, one pass applies dx = (dz − m₁ − x̂·m₂)·a. Nothing but x is saved.

mod batch;
mod group;

pub use batch::BatchNorm;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::uninit;
use super::math::{self, lane_sum, lane_sum2};
use super::random::{Mask, PlaneMask};
use super::simd::multiversion;
use super::tape::{Tape, Var};

#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
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
multiversion! { fn silu_mask_plane(x: &[f32], y: &mut [f32], plane: Plane, mask: PlaneMask) {
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        let z = (x - plane.mean) * plane.a + plane.b;
        *y = z * math::sigmoid(z) * mask.factor(i as u32);
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
multiversion! { fn silu_mask_plane_back(x: &[f32], g: &mut [f32], plane: Plane, mask: PlaneMask) {
    for (i, (g, &x)) in g.iter_mut().zip(x).enumerate() {
        let z = (x - plane.mean) * plane.a + plane.b;
        let s = math::sigmoid(z);
        *g *= s * (1.0 + z * (1.0 - s)) * mask.factor(i as u32);
    }
} }
multiversion! { pub(super) fn block_sum(x: &[f32]) -> f64 {
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
pub(super) struct After {
    pub(super) activation: Activation,
    pub(super) mask: Option<Mask>,
}

fn forward(x: &[f32], planes: &[Plane], after: After) -> Vec<f32> {
    let size = x.len() / planes.len();
    let mut y = uninit(x.len());
    let work = y.par_chunks_mut(size).zip(x.par_chunks(size)).zip(planes).enumerate();
    work.with_min_len(grain(size)).for_each(|(index, ((y, x), &plane))| {
        match (after.activation, after.mask) {
            (Activation::Leaky(slope), None) => leaky_plane(x, y, plane, slope),
            (Activation::Leaky(slope), Some(mask)) => leaky_mask_plane(x, y, plane, slope, mask.plane(index)),
            (Activation::Silu, None) => silu_plane(x, y, plane),
            (Activation::Silu, Some(mask)) => silu_mask_plane(x, y, plane, mask.plane(index)),
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
                // Block by block: what one pass has written the other reads from the first cache.
                (Activation::Leaky(slope), None) => {
                    let sums = x.chunks(BLOCK).zip(g.chunks_mut(BLOCK)).map(|(x, g)| {
                        leaky_plane_back(x, g, plane, slope);
                        block_dots(x, g, plane.mean)
                    });
                    return sums.fold((0.0, 0.0), |all, (sum, dot)| (all.0 + sum, all.1 + dot));
                }
                (Activation::Leaky(slope), Some(mask)) => {
                    leaky_mask_plane_back(x, g, plane, slope, mask.plane(index));
                }
                (Activation::Silu, None) => silu_plane_back(x, g, plane),
                (Activation::Silu, Some(mask)) => silu_mask_plane_back(x, g, plane, mask.plane(index)),
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

/// What follows a batch norm that trains, after a check of its values.
pub(super) fn trained(tape: &Tape, x: &Var, named: &[(&str, &Tensor)], slope: f64, p: f64) -> Result<After> {
    let (b, _, size) = check(x, named)?;
    super::elementwise::check_probability(p)?;
    ensure!(b * size > 1, "batch norm in train mode needs more than one value per channel");
    let mask = (p > 0.0).then(|| Mask::new(tape.next_key(), p));
    Ok(After { activation: Activation::Leaky(slope as f32), mask })
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
