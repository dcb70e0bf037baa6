//! The teacher: a moving average of a network, as frozen parameters beside it.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::Step;
use crate::nn::params::{Builder, Params};
use crate::ops::{Gradients, Sgd, ema};
use crate::spec::settings::TeacherSettings;

/// The scope of the network that is averaged.
pub(crate) const STUDENT: &str = "f";
/// The scope of its average.
const TEACHER: &str = "teacher";

/// Builds the teacher as `build` builds its student: with a start of its own and nothing to train.
pub(crate) fn teacher<T>(b: &mut Builder, build: impl FnOnce(&mut Builder) -> Result<T>) -> Result<T> {
    b.frozen(|b| b.within(TEACHER, build))
}

/// A teacher that follows its student: the tensors of both.
#[derive(Debug)]
pub struct Average {
    /// The teacher's weights and biases, in the order in which the student's are trained.
    weights: Vec<Tensor>,
    /// Running statistics: (teacher's, student's).
    buffers: (Vec<Tensor>, Vec<Tensor>),
    settings: TeacherSettings,
}

impl Average {
    /// Pairs the tensors of the scopes `f`, which holds all that is trained, and `teacher`.
    pub(crate) fn of(params: &Params, settings: &TeacherSettings) -> Result<Self> {
        let prefix = format!("{STUDENT}.");
        let teacher = |name: &str| {
            let rest = name.strip_prefix(&prefix)?;
            params.get(&format!("{TEACHER}.{rest}")).cloned()
        };
        let lacks = |name: &str| format!("the teacher has no value for `{name}`");
        let weights = params.trainable_names().map(|name| teacher(name).with_context(|| lacks(name)));
        let weights = weights.collect::<Result<_>>()?;
        let trainable: std::collections::BTreeSet<&str> = params.trainable_names().collect();
        let mut buffers = (vec![], vec![]);
        for (name, student) in params.named() {
            if name.starts_with(&prefix) && !trainable.contains(name) {
                buffers.0.push(teacher(name).with_context(|| lacks(name))?);
                buffers.1.push(student.clone());
            }
        }
        Ok(Self { weights, buffers, settings: settings.clone() })
    }

    /// The optimiser's step of `student`, all that is trained, and in the same pass θ' ← α·θ' + (1 − α)·θ, with α the
    /// decay, at most 1 − 1/(i+1) after step i of a warm-up.
    pub(super) fn follow(
        &self,
        optimiser: &mut Sgd,
        student: &[Tensor],
        gradients: &Gradients,
        lr: f64,
        step: Step,
    ) -> Result<()> {
        let TeacherSettings { ema: decay, warm_up, buffers } = self.settings;
        let decay = if warm_up { decay.min(1.0 - 1.0 / (step.index as f64 + 1.0)) } else { decay };
        optimiser.step_and_average(student, gradients, lr, &self.weights, decay)?;
        if buffers {
            ema(&self.buffers.0, &self.buffers.1, decay)?;
        }
        Ok(())
    }

    /// Makes the teacher what `student`, all that is trained, is.
    pub(crate) fn copy(&self, student: &[Tensor]) -> Result<()> {
        ema(&self.weights, student, 0.0)?;
        ema(&self.buffers.0, &self.buffers.1, 0.0)
    }
}
