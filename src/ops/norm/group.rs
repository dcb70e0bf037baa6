//! Group normalisation, with a scale and shift per image and channel and what follows it; per-channel affine maps.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::{
    Activation, After, BLOCK, Plane, backward, block_sum, check, forward, grain, join, plane_moments,
};
use crate::ops::buffer::{floats, tensor};
use crate::ops::elementwise::check_probability;
use crate::ops::random::Mask;
use crate::ops::simd::multiversion;
use crate::ops::tape::{Tape, Var};

impl Tape {
    /// Group normalisation of [B,C,...] in `groups` groups of channels, then ·gamma + beta.
    pub fn group_norm(&self, x: &Var, gamma: &Var, beta: &Var, groups: usize, eps: f64) -> Result<Var> {
        let after = After { activation: Activation::Leaky(1.0), mask: None };
        self.group_norm_then(x, gamma, beta, None, groups, eps, after)
    }

    /// [`group_norm`](Self::group_norm) and [`silu`](Self::silu) in one.
    pub fn group_norm_silu(&self, x: &Var, gamma: &Var, beta: &Var, groups: usize, eps: f64) -> Result<Var> {
        let after = After { activation: Activation::Silu, mask: None };
        self.group_norm_then(x, gamma, beta, None, groups, eps, after)
    }

    /// Group normalisation, ·(1 + scale) + shift with one scale and shift, `[B,C]`, per image and channel where there
    /// is such a pair, [`silu`](Self::silu) and [`dropout`](Self::dropout) in one.
    #[expect(clippy::too_many_arguments, reason = "four ops in one")]
    pub fn group_norm_modulate_silu_dropout(
        &self,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        modulation: Option<(&Var, &Var)>,
        groups: usize,
        eps: f64,
        p: f64,
    ) -> Result<Var> {
        check_probability(p)?;
        let mask = (self.mode().trains() && p > 0.0).then(|| Mask::new(self.next_key(), p));
        let after = After { activation: Activation::Silu, mask };
        self.group_norm_then(x, gamma, beta, modulation, groups, eps, after)
    }

    #[expect(clippy::too_many_arguments, reason = "four ops in one")]
    fn group_norm_then(
        &self,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        modulation: Option<(&Var, &Var)>,
        groups: usize,
        eps: f64,
        after: After,
    ) -> Result<Var> {
        let named = [("group norm's gamma", gamma.value()), ("group norm's beta", beta.value())];
        let (b, c, size) = check(x, &named)?;
        ensure!(groups > 0 && c.is_multiple_of(groups), "{c} channels do not split into {groups} groups");
        for (name, v) in modulation.iter().flat_map(|(scale, shift)| [("scale", scale), ("shift", shift)]) {
            ensure!(v.dims() == [b, c], "{name} has shape {:?}, not [{b}, {c}]", v.dims());
        }
        if let Some(gpu) = self.gpu(x)? {
            return gpu.group_norm(self, x, gamma, beta, modulation, groups, eps, after);
        }
        let width = c / groups;
        let (gammas, betas) = (floats(gamma.value())?.to_vec(), floats(beta.value())?.to_vec());
        // 1 + scale and shift of each plane.
        let (factors, shifts) = match modulation {
            None => (vec![1.0; b * c], vec![0.0; b * c]),
            Some((scale, shift)) => {
                let factors = floats(scale.value())?.iter().map(|s| 1.0 + s).collect::<Vec<f32>>();
                (factors, floats(shift.value())?.to_vec())
            }
        };
        let values = floats(x.value())?;
        let moments = plane_moments(&values, size);
        let count = (width * size) as f64;
        let mut planes = Vec::with_capacity(b * c);
        for (group, pieces) in moments.chunks(width).enumerate() {
            let (mean, squares) = join(pieces.iter().copied(), size as f64);
            let inverse = 1.0 / (squares / count + eps).sqrt();
            for plane in group * width..(group + 1) * width {
                let a = (inverse * f64::from(gammas[plane % c]) * f64::from(factors[plane])) as f32;
                let b = betas[plane % c] * factors[plane] + shifts[plane];
                planes.push(Plane { mean: mean as f32, inverse: inverse as f32, a, b });
            }
        }
        let y = tensor(forward(&values, &planes, after), x.value().shape())?;
        drop(values);
        let inputs: Vec<&Var> =
            [x, gamma, beta].into_iter().chain(modulation.into_iter().flat_map(|(s, t)| [s, t])).collect();
        let (input, gamma, beta) = (x.clone(), gamma.node, beta.node);
        let modulation = modulation.map(|(scale, shift)| (scale.node, shift.node));
        self.record(y, &inputs, move |mut g, sink| {
            let values = floats(input.value())?;
            // Σdz and Σdz·x̂ of each plane, z being what goes into the activation.
            let mut sums = backward(&values, &mut g, &planes, after);
            for (sum, plane) in sums.iter_mut().zip(&planes) {
                sum.1 *= f64::from(plane.inverse);
            }
            let by_channel = |part: fn(&(f64, f64)) -> f64| {
                let of = |plane: usize| part(&sums[plane]) * f64::from(factors[plane]);
                (0..c).map(|c_| (0..b).map(|b_| of(b_ * c + c_)).sum::<f64>() as f32).collect()
            };
            sink.add(gamma, by_channel(|s| s.1));
            sink.add(beta, by_channel(|s| s.0));
            if let Some((scale, shift)) = modulation {
                let affine = |(plane, s): (usize, &(f64, f64))| {
                    (f64::from(gammas[plane % c]) * s.1 + f64::from(betas[plane % c]) * s.0) as f32
                };
                sink.add(scale, sums.iter().enumerate().map(affine).collect());
                sink.add(shift, sums.iter().map(|s| s.0 as f32).collect());
            }
            if input.node.is_some() {
                let mut means = Vec::with_capacity(b * c);
                for (group, pieces) in sums.chunks(width).enumerate() {
                    let start = group * width;
                    let scale_of =
                        |i: usize| f64::from(gammas[(start + i) % c]) * f64::from(factors[start + i]);
                    let first: f64 = pieces.iter().enumerate().map(|(i, s)| s.0 * scale_of(i)).sum();
                    let second: f64 = pieces.iter().enumerate().map(|(i, s)| s.1 * scale_of(i)).sum();
                    let inverse = f64::from(planes[start].inverse);
                    // dx = dz·a − (Σdz·γ + x̂·Σdz·γ·x̂)/count·inverse
                    means.extend(std::iter::repeat_n(
                        ((first / count * inverse) as f32, (second / count * inverse * inverse) as f32),
                        width,
                    ));
                }
                combine_groups(&values, &mut g, &planes, &means);
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
        if let Some(gpu) = self.gpu(x)? {
            return gpu.affine(self, x, Some(scale), Some(shift));
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
        if let Some(gpu) = self.gpu(x)? {
            return gpu.affine(self, x, None, Some(v));
        }
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
