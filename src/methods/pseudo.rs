//! Pseudo-labels and how sure they are.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::{DICE_EPS, Figure};
use crate::ops::{Tape, Var, softmax_confidence, softmax_eval};

/// Pseudo-labels: class (u8) and confidence (f32) of each pixel, `[B, S, S]` each.
pub(crate) struct Pseudo {
    /// The most probable class.
    pub(crate) label: Tensor,
    /// Its probability.
    confidence: Tensor,
}

impl Pseudo {
    /// Those of logits `[B, C, S, S]`.
    pub(crate) fn of(logits: &Tensor) -> Result<Self> {
        let (label, confidence) = softmax_confidence(logits)?;
        Ok(Self { label, confidence })
    }

    /// Those of the averaged prediction ½(p_f + p_g).
    pub(crate) fn fused(f: &Tensor, g: &Tensor) -> Result<Self> {
        let mean = ((softmax_eval(f)? + softmax_eval(g)?)? * 0.5)?;
        // The logarithm of a distribution is a set of logits of it.
        Self::of(&mean.log()?)
    }

    /// These, with the partner's where `pasted` is 1.
    pub(crate) fn cut_mix(&self, partner: &Self, pasted: &Tensor) -> Result<Self> {
        Ok(Self {
            label: pasted.where_cond(&partner.label, &self.label)?,
            confidence: pasted.where_cond(&partner.confidence, &self.confidence)?,
        })
    }

    /// u8: 1 where the confidence reaches τ.
    pub(crate) fn accepted(&self, tau: f32) -> Result<Tensor> {
        Ok(self.confidence.ge(f64::from(tau))?)
    }

    /// D_τ: Dice of `logits` against these over the pixels whose confidence reaches τ.
    pub(crate) fn dice(&self, tape: &Tape, logits: &Var, tau: f32) -> Result<Var> {
        tape.dice(logits, &self.label, Some(&self.accepted(tau)?), DICE_EPS)
    }
}

/// The share of 1 in a mask.
pub(crate) fn mean_of(mask: &Tensor) -> Result<Figure> {
    Figure::of(&mask.to_dtype(DType::F32)?.mean_all()?)
}
