//! Batch normalisation.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::{Activation, After, Plane, backward, check, combine, forward, join, plane_moments};
use crate::ops::buffer::{floats, tensor, update};
use crate::ops::elementwise::check_probability;
use crate::ops::random::Mask;
use crate::ops::tape::{Tape, Var};

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
        if let Some(gpu) = self.gpu(x)? {
            ensure!(
                !trains || b * size > 1,
                "batch norm in train mode needs more than one value per channel"
            );
            return gpu.batch_norm(self, x, None, gamma, beta, running_mean, running_var, settings, after);
        }
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
}

/// running ← (1 − momentum)·running + momentum·new, in place.
fn move_running(running: &Tensor, momentum: f64, new: impl Iterator<Item = f64>) -> Result<()> {
    update(running, |running| {
        for (r, new) in running.iter_mut().zip(new) {
            *r = ((1.0 - momentum) * f64::from(*r) + momentum * new) as f32;
        }
    })
}
