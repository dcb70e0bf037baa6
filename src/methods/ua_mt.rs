//! Uncertainty-aware mean teacher (`specs` §2): as mean teacher, on the pixels where several noisy predictions of the
//! teacher are sure.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::average::Average;
use super::batch::{Batch, View};
use super::mean_teacher::Pair;
use super::pseudo::mean_of;
use super::{Losses, Method, Step, eval, losses, ramp, supervised_loss, unlabelled};
use crate::nn::params::{Builder, Params};
use crate::ops::{Place, Tape, Var, softmax_eval};
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// Passes over the unlabelled batch twice each: T = 8 predictions.
const PASSES: usize = 4;

/// A student and its moving average.
pub struct UaMt {
    params: Params,
    pair: Pair,
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
}

impl UaMt {
    /// The networks, with parameters from `b`.
    pub fn new(b: Builder, settings: &Settings) -> Result<Self> {
        let (pair, params) = Pair::new(b, settings)?;
        Ok(Self { params, pair, loss: settings.train.loss, consistency: settings.consistency.clone() })
    }

    /// The mean of the T noisy predictions.
    fn mean(&self, images: &Tensor, step: Step) -> Result<Tensor> {
        let (twice, count) = (Tensor::cat(&[images, images], 0)?, images.dim(0)?);
        let pass = |pass: usize| -> Result<Tensor> {
            let taught = self.pair.taught(&twice, step, 1 + pass)?;
            Ok((taught.narrow(0, 0, count)? + taught.narrow(0, count, count)?)?)
        };
        let mut sum = pass(0)?;
        for next in 1..PASSES {
            sum = (sum + pass(next)?)?;
        }
        Ok((sum / (2 * PASSES) as f64)?)
    }
}

impl Method for UaMt {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let [labelled, own] = self.pair.student(tape, batch)?;
        let images = unlabelled(batch)?;
        let supervised = supervised_loss(tape, &labelled, &batch.target, self.loss)?;
        let taught = self.pair.taught(images, step, 0)?;
        let sure = certain(&self.mean(images, step)?, step)?;
        let consistency = consistency(tape, &own, &taught, &sure)?;
        let weight = ramp::weight(&self.consistency, step);
        let total = tape.weighted_sum(&[(1.0, &supervised), (weight, &consistency)])?;
        let mut losses = losses(total, &[("supervised", &supervised), ("consistency", &consistency)])?;
        losses.parts.push(("accepted", mean_of(&sure)?));
        Ok(losses)
    }

    fn average(&self, _: Step) -> Option<&Average> {
        Some(&self.pair.average)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.pair.student, &view.image)?)
    }
}

/// u8 `[B, S, S]`: 1 where U = −Σ p̄ ln(p̄ + 1e-6) lies below H(i) = (0.75 + ¼·exp(−5(1 − i/I)²))·ln 2 (for two classes,
/// though there are four).
pub(crate) fn certain(mean: &Tensor, step: Step) -> Result<Tensor> {
    let uncertainty = (mean * (mean + 1e-6)?.log()?)?.sum(1)?.neg()?;
    let rise = ramp::sigmoid(step.index as f64 / step.total as f64);
    Ok(uncertainty.lt((0.75 + 0.25 * rise) * std::f64::consts::LN_2)?)
}

/// Σ m·(p_s − p_t)²/(2Σm + 1e-16), m of a pixel counted once in the denominator for all classes.
pub(crate) fn consistency(tape: &Tape, logits: &Var, taught: &Tensor, sure: &Tensor) -> Result<Var> {
    if Place::current().is_gpu() {
        // The count stays there: it is whole, and exact in single precision up to 2²⁴ pixels.
        let squares = tape.squares(&tape.softmax(logits)?, taught, Some(sure), 1.0)?;
        let weight = sure.to_dtype(DType::F32)?.sum_all()?.affine(2.0, 1e-16)?.recip()?;
        return tape.times(&squares, &weight);
    }
    let count = mean_of(sure)?.read()? * sure.elem_count() as f64;
    tape.squares(&tape.softmax(logits)?, taught, Some(sure), 1.0 / (2.0 * count.round() + 1e-16))
}
