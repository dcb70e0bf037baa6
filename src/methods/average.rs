//! The teacher: a moving average of a network, as frozen parameters beside it.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::Step;
use crate::nn::params::{Builder, Params};
use crate::ops::ema;
use crate::spec::settings::TeacherSettings;

/// The scope of the network that is averaged.
pub(crate) const STUDENT: &str = "f";
/// The scope of its average.
const TEACHER: &str = "teacher";

/// Builds the teacher as `build` builds its student: with a start of its own and nothing to train.
pub(crate) fn teacher<T>(b: &mut Builder, build: impl FnOnce(&mut Builder) -> Result<T>) -> Result<T> {
    b.frozen(|b| b.within(TEACHER, build))
}

/// The tensors of a teacher next to those of its student.
#[derive(Debug)]
pub(crate) struct Average {
    /// Weights and biases: (teacher's, student's).
    weights: (Vec<Tensor>, Vec<Tensor>),
    /// Running statistics.
    buffers: (Vec<Tensor>, Vec<Tensor>),
    settings: TeacherSettings,
}

impl Average {
    /// Pairs the tensors of the scopes `f` and `teacher`.
    pub(crate) fn of(params: &Params, settings: &TeacherSettings) -> Result<Self> {
        let prefix = format!("{STUDENT}.");
        let trainable: std::collections::BTreeSet<&str> = params.trainable_names().collect();
        let (mut weights, mut buffers) = ((vec![], vec![]), (vec![], vec![]));
        for (name, student) in params.named() {
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let teacher = params.get(&format!("{TEACHER}.{rest}"));
            let teacher = teacher.with_context(|| format!("the teacher has no `{rest}`"))?;
            let pairs = if trainable.contains(name) { &mut weights } else { &mut buffers };
            pairs.0.push(teacher.clone());
            pairs.1.push(student.clone());
        }
        Ok(Self { weights, buffers, settings: settings.clone() })
    }

    /// θ' ← α·θ' + (1 − α)·θ after step i, with α the decay, at most 1 − 1/(i+1) in a warm-up.
    pub(crate) fn update(&self, step: Step) -> Result<()> {
        let TeacherSettings { ema: decay, warm_up, buffers } = self.settings;
        let decay = if warm_up { decay.min(1.0 - 1.0 / (step.index as f64 + 1.0)) } else { decay };
        ema(&self.weights.0, &self.weights.1, decay)?;
        if buffers {
            ema(&self.buffers.0, &self.buffers.1, decay)?;
        }
        Ok(())
    }

    /// Makes the teacher what its student is.
    pub(crate) fn copy(&self) -> Result<()> {
        ema(&self.weights.0, &self.weights.1, 0.0)?;
        ema(&self.buffers.0, &self.buffers.1, 0.0)
    }
}
