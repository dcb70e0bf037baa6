//! Optimisers, moving averages and the learning-rate schedule; each update is one pass, in place.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, tensor, update};
use super::gpu::{Gpu, Update};
use super::simd::multiversion;
use super::tape::Gradients;

multiversion! { fn sgd_chunk(w: &mut [f32], v: &mut [f32], g: &[f32], lr: f32, momentum: f32, decay: f32) {
    for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
        *v = *v * momentum + (g + decay * *w);
        *w -= lr * *v;
    }
} }
multiversion! { fn sgd_average_chunk(w: &mut [f32], v: &mut [f32], a: &mut [f32], g: &[f32], c: [f32; 3], average: [f32; 2]) {
    let ([lr, momentum, weight_decay], [decay, rest]) = (c, average);
    for (((w, v), a), &g) in w.iter_mut().zip(v).zip(a).zip(g) {
        *v = *v * momentum + (g + weight_decay * *w);
        *w -= lr * *v;
        *a = *a * decay + *w * rest;
    }
} }
multiversion! { fn adam_chunk(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], c: [f32; 7]) {
    let [shrink, beta1, rest1, beta2, rest2, step, eps_scaled] = c;
    for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
        *m = *m * beta1 + g * rest1;
        *v = *v * beta2 + g * g * rest2;
        // (√v/√bias + ε) with the bias multiplied out.
        *w = *w * shrink - step * *m / (v.sqrt() + eps_scaled);
    }
} }
multiversion! { fn adam_average_chunk(w: &mut [f32], m: &mut [f32], v: &mut [f32], a: &mut [f32], g: &[f32], c: [f32; 7], average: [f32; 2]) {
    let ([shrink, beta1, rest1, beta2, rest2, step, eps_scaled], [decay, rest]) = (c, average);
    for ((((w, m), v), a), &g) in w.iter_mut().zip(m).zip(v).zip(a).zip(g) {
        *m = *m * beta1 + g * rest1;
        *v = *v * beta2 + g * g * rest2;
        *w = *w * shrink - step * *m / (v.sqrt() + eps_scaled);
        *a = *a * decay + *w * rest;
    }
} }
multiversion! { fn ema_chunk(average: &mut [f32], value: &[f32], decay: f32, rest: f32) {
    for (a, &v) in average.iter_mut().zip(value) {
        *a = *a * decay + v * rest;
    }
} }

/// Stochastic gradient descent as PyTorch's: v ← momentum·v + g + decay·w, w ← w − lr·v, from v = 0.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    velocity: Vec<Tensor>,
}

impl Sgd {
    /// With momentum and (L2) weight decay, usually 0.9 and 1e-4.
    pub fn new(momentum: f64, weight_decay: f64) -> Self {
        Self { momentum, weight_decay, velocity: Vec::new() }
    }

    /// Updates `params` in place, always given in the same order; one without a gradient stays as it is.
    pub fn step(&mut self, params: &[Tensor], grads: &Gradients, lr: f64) -> Result<()> {
        self.step_then(params, grads, lr, None)
    }

    /// [`step`](Self::step) and then [`ema`] of `params` in `average`, in one pass over memory.
    pub fn step_and_average(
        &mut self,
        params: &[Tensor],
        grads: &Gradients,
        lr: f64,
        average: &[Tensor],
        decay: f64,
    ) -> Result<()> {
        check_average(average, params)?;
        self.step_then(params, grads, lr, Some((average, decay)))
    }

    fn step_then(
        &mut self,
        params: &[Tensor],
        grads: &Gradients,
        lr: f64,
        average: Option<(&[Tensor], f64)>,
    ) -> Result<()> {
        fit(&mut self.velocity, params)?;
        let constants = [lr, self.momentum, self.weight_decay].map(|c| c as f32);
        if let Some(gpu) = params.first().and_then(Gpu::of) {
            let update = |decay| Update::Sgd(constants, decay);
            return update_on(&gpu, update, params, &[&self.velocity], grads, average);
        }
        for (i, (param, velocity)) in params.iter().zip(&self.velocity).enumerate() {
            let average = average.map(|(all, decay)| (&all[i], weights_of(decay)));
            let Some(gradient) = grads.get(param) else {
                if let Some((average, weights)) = average {
                    ema_one(average, param, weights)?;
                }
                continue;
            };
            let gradient = floats(gradient)?;
            let gradient: &[f32] = &gradient;
            let change = |w: &mut [f32], v: &mut [f32]| {
                let work =
                    w.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)).zip(gradient.par_chunks(CHUNK));
                let Some((average, weights)) = average else {
                    let [lr, momentum, decay] = constants;
                    work.for_each(|((w, v), g)| sgd_chunk(w, v, g, lr, momentum, decay));
                    return Ok(());
                };
                update(average, |a| {
                    work.zip(a.par_chunks_mut(CHUNK))
                        .for_each(|(((w, v), g), a)| sgd_average_chunk(w, v, a, g, constants, weights));
                })
            };
            update(param, |w| update(velocity, |v| change(w, v)))???;
        }
        Ok(())
    }

    /// What a checkpoint has to keep, by name.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        named("velocity", &self.velocity)
    }

    /// Takes back what [`state`](Self::state) gave.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        self.velocity = from_named("velocity", state)?;
        Ok(())
    }
}

/// Adam with decoupled weight decay, as `torch.optim.AdamW`.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
}

impl AdamW {
    /// With PyTorch's names; its defaults are 0.9, 0.999, 1e-8 and 0.01.
    pub fn new(beta1: f64, beta2: f64, eps: f64, weight_decay: f64) -> Self {
        Self { beta1, beta2, eps, weight_decay, steps: 0, first: Vec::new(), second: Vec::new() }
    }

    /// Updates `params` in place, always given in the same order; one without a gradient stays as it is.
    pub fn step(&mut self, params: &[Tensor], grads: &Gradients, lr: f64) -> Result<()> {
        self.step_then(params, grads, lr, None)
    }

    /// [`step`](Self::step) and then [`ema`] of `params` in `average`, in one pass over memory.
    pub fn step_and_average(
        &mut self,
        params: &[Tensor],
        grads: &Gradients,
        lr: f64,
        average: &[Tensor],
        decay: f64,
    ) -> Result<()> {
        check_average(average, params)?;
        self.step_then(params, grads, lr, Some((average, decay)))
    }

    fn step_then(
        &mut self,
        params: &[Tensor],
        grads: &Gradients,
        lr: f64,
        average: Option<(&[Tensor], f64)>,
    ) -> Result<()> {
        fit(&mut self.first, params)?;
        fit(&mut self.second, params)?;
        self.steps += 1;
        let power = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let (bias1, bias2) = (power(self.beta1), power(self.beta2).sqrt());
        let constants = [
            1.0 - lr * self.weight_decay,
            self.beta1,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            lr / bias1 * bias2,
            self.eps * bias2,
        ]
        .map(|c| c as f32);
        if let Some(gpu) = params.first().and_then(Gpu::of) {
            let update = |decay| Update::Adam(constants, decay);
            return update_on(&gpu, update, params, &[&self.first, &self.second], grads, average);
        }
        for (i, ((param, m), v)) in params.iter().zip(&self.first).zip(&self.second).enumerate() {
            let average = average.map(|(all, decay)| (&all[i], weights_of(decay)));
            let Some(gradient) = grads.get(param) else {
                if let Some((average, weights)) = average {
                    ema_one(average, param, weights)?;
                }
                continue;
            };
            let gradient = floats(gradient)?;
            let gradient: &[f32] = &gradient;
            let change = |w: &mut [f32], m: &mut [f32], v: &mut [f32]| {
                let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
                let work = w.par_chunks_mut(CHUNK).zip(moments).zip(gradient.par_chunks(CHUNK));
                let Some((average, weights)) = average else {
                    work.for_each(|((w, (m, v)), g)| adam_chunk(w, m, v, g, constants));
                    return Ok(());
                };
                update(average, |a| {
                    work.zip(a.par_chunks_mut(CHUNK)).for_each(|(((w, (m, v)), g), a)| {
                        adam_average_chunk(w, m, v, a, g, constants, weights);
                    });
                })
            };
            update(param, |w| update(m, |m| update(v, |v| change(w, m, v))))????;
        }
        Ok(())
    }

    /// What a checkpoint has to keep, by name.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = named("first", &self.first)?;
        state.extend(named("second", &self.second)?);
        state.push(("steps".into(), tensor(vec![self.steps as i64], ())?));
        Ok(state)
    }

    /// Takes back what [`state`](Self::state) gave.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        let steps = state.iter().find(|(name, _)| name == "steps");
        let (_, steps) = steps.context("the optimiser's state lacks `steps`")?;
        self.steps = steps.to_scalar::<i64>()? as u64;
        self.first = from_named("first", state)?;
        self.second = from_named("second", state)?;
        Ok(())
    }
}

/// A step of an optimiser on a GPU; `state` holds what it keeps for each parameter, `update` takes the average's weights.
fn update_on(
    gpu: &Gpu,
    update: impl Fn([f32; 2]) -> Update,
    params: &[Tensor],
    state: &[&Vec<Tensor>],
    grads: &Gradients,
    average: Option<(&[Tensor], f64)>,
) -> Result<()> {
    let (mut rows, mut averaged_alone) = (Vec::with_capacity(params.len()), Vec::new());
    for (i, param) in params.iter().enumerate() {
        let average = average.map(|(all, _)| &all[i]);
        match grads.get(param) {
            Some(g) => {
                let kept = state.iter().map(|kept| &kept[i]);
                rows.push(std::iter::once(param).chain(kept).chain([g]).chain(average).collect());
            }
            None => averaged_alone.extend(average.map(|average| vec![average, param])),
        }
    }
    let weights = average.map_or([0.0, 0.0], |(_, decay)| weights_of(decay));
    gpu.update(update(weights), &rows)?;
    gpu.update(Update::Ema(weights), &averaged_alone)
}

/// Weights of the average and of the new value.
fn weights_of(decay: f64) -> [f32; 2] {
    [decay as f32, (1.0 - decay) as f32]
}

fn check_average(average: &[Tensor], values: &[Tensor]) -> Result<()> {
    ensure!(average.len() == values.len(), "{} averages of {} values", average.len(), values.len());
    for (average, value) in average.iter().zip(values) {
        ensure!(average.dims() == value.dims(), "shapes {:?} and {:?} differ", average.dims(), value.dims());
    }
    Ok(())
}

/// Makes `state` one zeroed buffer per parameter on first use.
fn fit(state: &mut Vec<Tensor>, params: &[Tensor]) -> Result<()> {
    if state.is_empty() {
        let zeros = params.iter().map(|p| Tensor::zeros(p.elem_count(), DType::F32, p.device()));
        *state = zeros.collect::<candle_core::Result<_>>()?;
    }
    // A state that was loaded lies in the memory of this process.
    for (state, param) in state.iter_mut().zip(params) {
        if !state.device().same_device(param.device()) {
            *state = state.to_device(param.device())?;
        }
    }
    let fits = state.len() == params.len()
        && state.iter().zip(params).all(|(s, p)| s.elem_count() == p.elem_count());
    ensure!(
        fits,
        "the optimiser's state belongs to other parameters ({} of them, now {})",
        state.len(),
        params.len()
    );
    Ok(())
}

fn named(kind: &str, buffers: &[Tensor]) -> Result<Vec<(String, Tensor)>> {
    let name = |(i, values): (usize, &Tensor)| Ok((format!("{kind}.{i}"), values.copy()?));
    buffers.iter().enumerate().map(name).collect()
}

fn from_named(kind: &str, state: &[(String, Tensor)]) -> Result<Vec<Tensor>> {
    let mut found = Vec::new();
    for (name, values) in state {
        let Some(index) = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let index: usize =
            index.parse().with_context(|| format!("`{name}` is no name of an optimiser's state"))?;
        found.push((index, values.flatten_all()?.copy()?));
    }
    found.sort_by_key(|(index, _)| *index);
    let complete = found.iter().enumerate().all(|(i, (index, _))| i == *index);
    ensure!(complete, "the optimiser's state has gaps in `{kind}`");
    Ok(found.into_iter().map(|(_, values)| values).collect())
}

/// average ← decay·average + (1 − decay)·value, in place, pair by pair.
pub fn ema(average: &[Tensor], values: &[Tensor], decay: f64) -> Result<()> {
    check_average(average, values)?;
    let weights = weights_of(decay);
    if let Some(gpu) = average.first().and_then(Gpu::of) {
        let rows: Vec<_> = average.iter().zip(values).map(|(average, value)| vec![average, value]).collect();
        return gpu.update(Update::Ema(weights), &rows);
    }
    average.iter().zip(values).try_for_each(|(average, value)| ema_one(average, value, weights))
}

fn ema_one(average: &Tensor, value: &Tensor, [decay, rest]: [f32; 2]) -> Result<()> {
    let value = floats(value)?;
    let value: &[f32] = &value;
    update(average, |a| {
        a.par_chunks_mut(CHUNK).zip(value.par_chunks(CHUNK)).for_each(|(a, v)| ema_chunk(a, v, decay, rest));
    })
}

/// base·(1 − step/total)^power; 0 from `total` on.
pub fn poly_lr(base: f64, step: usize, total: usize, power: f64) -> f64 {
    if step >= total { 0.0 } else { base * (1.0 - step as f64 / total as f64).powf(power) }
}
