//! Ops element by element: activations, dropout, sums.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, tensor, uninit};
use super::math;
use super::random::{Mask, PlaneMask};
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// A new tensor from `x`, chunk by chunk in parallel; `f(chunk index, input, output)`.
fn map(x: &Tensor, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Result<Tensor> {
    let input = floats(x)?;
    let input: &[f32] = &input;
    let mut output = uninit(input.len());
    output.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).enumerate().for_each(|(i, (o, x))| f(i, x, o));
    tensor(output, x.shape())
}

/// Changes a gradient in place next to a saved value.
fn change(g: &mut [f32], x: &Tensor, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Result<()> {
    let x = floats(x)?;
    let x: &[f32] = &x;
    g.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (g, x))| f(i, x, g));
    Ok(())
}

multiversion! { fn leaky_forward(x: &[f32], y: &mut [f32], slope: f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x > 0.0 { x } else { x * slope };
    }
} }
multiversion! { fn leaky_backward(x: &[f32], g: &mut [f32], slope: f32) {
    for (g, &x) in g.iter_mut().zip(x) {
        *g = if x > 0.0 { *g } else { *g * slope };
    }
} }
multiversion! { fn silu_forward(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * math::sigmoid(x);
    }
} }
multiversion! { fn silu_backward(x: &[f32], g: &mut [f32]) {
    for (g, &x) in g.iter_mut().zip(x) {
        let s = math::sigmoid(x);
        *g *= s * (1.0 + x * (1.0 - s));
    }
} }
multiversion! { fn masked(x: &[f32], y: &mut [f32], mask: PlaneMask) {
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        *y = x * mask.factor(i as u32);
    }
} }
multiversion! { fn mask_in_place(g: &mut [f32], mask: PlaneMask) {
    for (i, g) in g.iter_mut().enumerate() {
        *g *= mask.factor(i as u32);
    }
} }
multiversion! { fn scaled(x: &[f32], y: &mut [f32], factor: f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * factor;
    }
} }
multiversion! { fn summed(a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = a + b;
    }
} }

/// Φ(x), the standard normal distribution function, in f64 (GELU is not on a hot path).
fn normal_cdf(x: f32) -> f32 {
    (0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

impl Tape {
    /// x where x > 0, else `slope`·x.
    pub fn leaky_relu(&self, x: &Var, slope: f64) -> Result<Var> {
        let slope = slope as f32;
        if let Some(gpu) = self.gpu(x)? {
            return gpu.leaky_relu(self, x, slope);
        }
        let y = map(x.value(), |_, x, y| leaky_forward(x, y, slope))?;
        let input = x.clone();
        self.record(y, &[x], move |mut g, sink| {
            change(&mut g, input.value(), |_, x, g| leaky_backward(x, g, slope))?;
            sink.add(input.node, g);
            Ok(())
        })
    }

    /// x·sigmoid(x).
    pub fn silu(&self, x: &Var) -> Result<Var> {
        if let Some(gpu) = self.gpu(x)? {
            return gpu.silu(self, x);
        }
        let y = map(x.value(), |_, x, y| silu_forward(x, y))?;
        let input = x.clone();
        self.record(y, &[x], move |mut g, sink| {
            change(&mut g, input.value(), |_, x, g| silu_backward(x, g))?;
            sink.add(input.node, g);
            Ok(())
        })
    }

    /// x·Φ(x), with the exact normal distribution function.
    pub fn gelu(&self, x: &Var) -> Result<Var> {
        if let Some(gpu) = self.gpu(x)? {
            return gpu.gelu(self, x);
        }
        let y = map(x.value(), |_, x, y| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * normal_cdf(x));
        })?;
        let input = x.clone();
        self.record(y, &[x], move |mut g, sink| {
            change(&mut g, input.value(), |_, x, g| {
                for (g, &x) in g.iter_mut().zip(x) {
                    let density = 0.398_942_3 * (-0.5 * x * x).exp();
                    *g *= normal_cdf(x) + x * density;
                }
            })?;
            sink.add(input.node, g);
            Ok(())
        })
    }

    /// Zeroes each element with probability `p` and scales the others by 1/(1 − p); nothing in eval mode.
    pub fn dropout(&self, x: &Var, p: f64) -> Result<Var> {
        check_probability(p)?;
        if !self.mode().trains() || p == 0.0 {
            return Ok(x.clone());
        }
        let mask = Mask::new(self.next_key(), p);
        if let Some(gpu) = self.gpu(x)? {
            return gpu.dropout(self, x, mask);
        }
        let y = map(x.value(), |chunk, x, y| masked(x, y, mask.plane(chunk)))?;
        let node = x.node;
        self.record(y, &[x], move |mut g, sink| {
            g.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, g)| mask_in_place(g, mask.plane(chunk)));
            sink.add(node, g);
            Ok(())
        })
    }

    /// Zeroes each channel of each image, `[B,C,H,W]`, with probability `p` and scales the others by 1/(1 − p);
    /// nothing in eval mode.
    pub fn dropout2d(&self, x: &Var, p: f64) -> Result<Var> {
        check_probability(p)?;
        let (b, c, h, w) = x.dims4()?;
        if !self.mode().trains() || p == 0.0 {
            return Ok(x.clone());
        }
        let mask = Mask::new(self.next_key(), p);
        if let Some(gpu) = self.gpu(x)? {
            return gpu.dropout2d(self, x, mask);
        }
        let mask = mask.plane(0);
        let factors: Vec<f32> = (0..b * c).map(|plane| mask.factor(plane as u32)).collect();
        let input = floats(x.value())?;
        let mut y = uninit(input.len());
        let plane = (h * w).max(1);
        let values: &[f32] = &input;
        y.par_chunks_mut(plane)
            .zip(values.par_chunks(plane))
            .zip(&factors)
            .for_each(|((y, x), &f)| scaled(x, y, f));
        let node = x.node;
        self.record(tensor(y, (b, c, h, w))?, &[x], move |mut g, sink| {
            g.par_chunks_mut(plane).zip(&factors).for_each(|(g, &f)| g.iter_mut().for_each(|g| *g *= f));
            sink.add(node, g);
            Ok(())
        })
    }

    /// a + b, of equal shapes.
    pub fn add(&self, a: &Var, b: &Var) -> Result<Var> {
        ensure!(a.dims() == b.dims(), "cannot add shapes {:?} and {:?}", a.dims(), b.dims());
        if let Some(gpu) = self.gpu(a)? {
            return gpu.add(self, a, b);
        }
        let (left, right) = (floats(a.value())?, floats(b.value())?);
        let (left, right): (&[f32], &[f32]) = (&left, &right);
        let mut y = uninit(left.len());
        y.par_chunks_mut(CHUNK)
            .zip(left.par_chunks(CHUNK))
            .zip(right.par_chunks(CHUNK))
            .for_each(|((y, a), b)| summed(a, b, y));
        let (first, second) = (a.node, b.node);
        self.record(tensor(y, a.value().shape())?, &[a, b], move |g, sink| {
            match (first, second) {
                (Some(_), Some(_)) => {
                    sink.add(first, g.clone());
                    sink.add(second, g);
                }
                _ => sink.add(first.or(second), g),
            }
            Ok(())
        })
    }

    /// `factor`·x.
    pub fn scale(&self, x: &Var, factor: f64) -> Result<Var> {
        let factor = factor as f32;
        if let Some(gpu) = self.gpu(x)? {
            return gpu.scale(self, x, factor);
        }
        let y = map(x.value(), |_, x, y| scaled(x, y, factor))?;
        let node = x.node;
        self.record(y, &[x], move |mut g, sink| {
            g.par_chunks_mut(CHUNK).for_each(|g| g.iter_mut().for_each(|g| *g *= factor));
            sink.add(node, g);
            Ok(())
        })
    }

    /// Σ factor·value over scalars (the terms of a loss).
    pub fn weighted_sum(&self, terms: &[(f64, &Var)]) -> Result<Var> {
        if let Some((_, term)) = terms.first()
            && let Some(gpu) = self.gpu(term)?
        {
            return gpu.weighted_sum(self, terms);
        }
        let mut sum = 0.0;
        for (factor, term) in terms {
            sum += factor * f64::from(term.scalar()?);
        }
        let inputs: Vec<&Var> = terms.iter().map(|(_, term)| *term).collect();
        let parts: Vec<_> = terms.iter().map(|(factor, term)| (*factor as f32, term.node)).collect();
        self.record(tensor(vec![sum as f32], ())?, &inputs, move |g, sink| {
            for (factor, node) in parts {
                sink.add(node, vec![factor * g[0]]);
            }
            Ok(())
        })
    }
}

pub(super) fn check_probability(p: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&p), "dropout probability {p} is outside [0, 1]");
    Ok(())
}
