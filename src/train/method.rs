//! The training loop that serves every method.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::features::{DiffusionModel, FeatureSource};
use super::sampler::Sampler;
use super::{
    Checkpoints, Diverged, Monitor, Outcome, Progress, Row, Stopped, checkpoint, json_lines, predict,
};
use crate::data::{Dataset, Split};
use crate::methods::batch::Batch;
use crate::methods::{self, Figure, Method, Step, figure};
use crate::ops::{Mode, Place, Sgd, Tape, poly_lr};
use crate::rng::stream_seed;
use crate::spec::settings::{EvaluateSplit, Settings};
use crate::store::files;

/// The network with the best validation Dice.
pub const BEST: &str = "best.safetensors";
/// The last network.
pub const LAST: &str = "last.safetensors";
/// The training curve, one JSON object a line.
pub const HISTORY: &str = "history.jsonl";
/// The best network of a first phase with its optimiser, from which a second one starts.
const PHASE: &str = "phase.safetensors";

/// Steps between two rows of the training curve, at most; each row holds the mean over its steps.
const ROW_EVERY: usize = 10;

/// What a checkpoint holds beside tensors.
#[derive(Serialize, Deserialize)]
struct State {
    /// Steps done.
    step: usize,
    history: Vec<Row>,
    best: Option<Best>,
    /// Sums of the row that is being collected.
    sums: Sums,
}

/// The best validation so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Best {
    step: usize,
    dice: f64,
}

/// Losses of the steps since the last row.
#[derive(Default, Serialize, Deserialize)]
struct Sums {
    steps: usize,
    values: Vec<(String, f64)>,
}

impl Sums {
    fn add(&mut self, total: f64, parts: &[(&'static str, Figure)]) -> Result<()> {
        self.steps += 1;
        let mut values = vec![("loss", total)];
        for (name, figure) in parts {
            values.push((name, figure.read()?));
        }
        for (name, value) in values {
            match self.values.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += value,
                None => self.values.push((name.into(), value)),
            }
        }
        Ok(())
    }

    /// The means as a row, leaving nothing behind.
    fn take(&mut self, step: usize, lr: f64) -> Row {
        let Self { steps, values } = std::mem::take(self);
        let mut row = Row::new();
        row.insert("step".into(), step.into());
        row.insert("lr".into(), lr.into());
        for (name, sum) in values {
            row.insert(name, (sum / steps as f64).into());
        }
        row
    }
}

/// What a training reads.
pub struct Inputs<'a> {
    /// Images and labels.
    pub data: &'a Dataset,
    /// The diffusion features of its batches.
    pub features: &'a FeatureSource,
    /// The diffusion model of a method that needs features at validation and test.
    pub at_test: Option<&'a DiffusionModel>,
    /// Values to start from, in the place of random ones, by the names of the method's parameters.
    pub start: BTreeMap<String, Tensor>,
}

/// Trains the method of `settings` with the first `patients` labelled and writes [`BEST`], [`LAST`] and [`HISTORY`]
/// into `dir`. Continues from a checkpoint that it finds there.
pub fn train(
    settings: &Settings,
    patients: usize,
    inputs: &Inputs<'_>,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let Inputs { data, features, at_test, start } = inputs;
    let method = methods::build(settings, &features.shapes()?)?;
    method.params().load_some(start)?;
    let sampler = Sampler::new(data, settings, patients, features)?;
    let mut run = Run::start(settings, method, dir, monitor)?;
    let total = settings.steps();
    let mut checkpoints = Checkpoints::new(monitor);
    let finished = sampler.batches(run.state.step..total, |next| -> Result<bool> {
        loop {
            if run.row_is_due() {
                if !run.row(data, *at_test, dir, monitor)? {
                    return Ok(false);
                }
                // Before any checkpoint: one taken here would not know that the second phase has begun.
                if run.restarts() {
                    run.restart(dir, monitor)?;
                }
            }
            if monitor.stopped() {
                return Ok(false);
            }
            if run.state.step == total {
                return Ok(true);
            }
            run.step(&next()?.put(&Place::current())?)?;
            let loss = run.loss;
            let note = run.state.best.map(|best| format!("val dice {:.1} %", 100.0 * best.dice));
            monitor.progress(Progress { done: run.state.step, total, unit: "step", loss, note });
            checkpoints.when_due(|| run.save(dir))?;
        }
    })?;
    if !finished {
        run.save(dir)?;
        return Ok(Outcome::Stopped);
    }
    run.finish(dir)
}

/// A run under way.
struct Run<'a> {
    settings: &'a Settings,
    method: Box<dyn Method>,
    optimiser: Sgd,
    state: State,
    /// Figures of steps that are not in the state's sums yet: a GPU may still be computing them.
    waiting: Vec<Waiting>,
    /// The newest loss that was read.
    loss: Option<f64>,
}

/// The figures of a step.
struct Waiting {
    step: usize,
    total: Figure,
    parts: Vec<(&'static str, Figure)>,
}

impl<'a> Run<'a> {
    fn start(
        settings: &'a Settings,
        method: Box<dyn Method>,
        dir: &Path,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let optimiser = Sgd::new(settings.train.momentum, settings.train.weight_decay);
        let state = State { step: 0, history: Vec::new(), best: None, sums: Sums::default() };
        let mut run = Self { settings, method, optimiser, state, waiting: Vec::new(), loss: None };
        if let Some((mut tensors, state)) = checkpoint::load(&dir.join(checkpoint::FILE), monitor)? {
            run.state = state;
            run.optimiser.load_state(&checkpoint::take::<Vec<_>>(&mut tensors, "optimiser/"))?;
            run.method.params().load(&tensors).context("restore the checkpoint")?;
            monitor.note(format!("continues from step {}", run.state.step));
        }
        Ok(run)
    }

    /// One step on the batch that belongs to it.
    fn step(&mut self, batch: &Batch) -> Result<()> {
        let seed = &self.settings.seed;
        let step = self.state.step;
        let tape = Tape::new(Mode::Train, stream_seed(*seed, "dropout", step as u64));
        let now = Step { index: step, total: self.settings.steps() };
        let losses = self.method.loss(&tape, batch, now)?;
        self.waiting.push(Waiting { step, total: figure(&losses.total)?, parts: losses.parts });
        // A GPU is not waited for at each step.
        if !Place::current().is_gpu() || self.waiting.len() == ROW_EVERY {
            self.settle()?;
        }
        let gradients = tape.backward(&losses.total)?;
        let lr = self.lr(step);
        methods::update(&*self.method, &mut self.optimiser, &gradients, lr, now)?;
        self.state.step += 1;
        Ok(())
    }

    /// Reads what is waiting into the sums.
    ///
    /// # Errors
    /// [`Diverged`] where a loss is no number.
    fn settle(&mut self) -> Result<()> {
        for Waiting { step, total, parts } in self.waiting.drain(..) {
            let (loss, value) = (total.read()?, self.settings.train.lr);
            ensure!(loss.is_finite(), Diverged { step, loss, setting: "train.lr", value });
            self.state.sums.add(loss, &parts)?;
            self.loss = Some(loss);
        }
        Ok(())
    }

    /// The learning rate of step `step`.
    fn lr(&self, step: usize) -> f64 {
        let train = &self.settings.train;
        poly_lr(train.lr, step.saturating_sub(train.lr_lag), self.settings.steps(), train.poly)
    }

    /// Whether the first of two phases ends here.
    fn restarts(&self) -> bool {
        self.method.restart() == Some(self.state.step)
    }

    fn validates(&self) -> bool {
        let step = self.state.step;
        step.is_multiple_of(self.settings.train.validate_every)
            || self.restarts()
            || step == self.settings.steps()
    }

    /// Whether the steps done end a row of the curve that is not written yet; also after a stop between the two.
    fn row_is_due(&self) -> bool {
        let any = self.state.sums.steps > 0 || !self.waiting.is_empty();
        any && (self.validates() || self.state.step.is_multiple_of(ROW_EVERY))
    }

    /// Writes the row, and validates where that is due. False where a stop was asked for meanwhile: then the row is still
    /// due.
    fn row(
        &mut self,
        data: &Dataset,
        features: Option<&DiffusionModel>,
        dir: &Path,
        monitor: &dyn Monitor,
    ) -> Result<bool> {
        self.settle()?;
        let step = self.state.step;
        let dice = match self.validates().then(|| self.validate(data, features, monitor)).transpose() {
            Err(error) if error.is::<Stopped>() => return Ok(false),
            dice => dice?,
        };
        let mut row = self.state.sums.take(step, self.lr(step - 1));
        if let Some(dice) = dice {
            row.insert("val_dice".into(), dice.into());
            if self.state.best.is_none_or(|best| dice > best.dice) {
                self.state.best = Some(Best { step, dice });
                files::write_atomic(dir.join(BEST), self.method.params().encode()?)?;
                if self.method.restart().is_some_and(|restart| step <= restart) {
                    checkpoint::save(&dir.join(PHASE), self.tensors()?, &step)?;
                }
            }
        }
        self.state.history.push(row);
        Ok(true)
    }

    /// The mean Dice of the split that chooses the best network: validation, unless a sweep asks for the test.
    fn validate(
        &self,
        data: &Dataset,
        features: Option<&DiffusionModel>,
        monitor: &dyn Monitor,
    ) -> Result<f64> {
        let predictor = predict::Predictor { method: &*self.method, size: self.settings.size, features };
        let split = match self.settings.train.selection {
            EvaluateSplit::Val => Split::Val,
            EvaluateSplit::Test => Split::Test,
        };
        predict::mean_dice(&predictor, data, split, monitor)
    }

    /// Starts the second phase from the best network of the first and its optimiser; the best of the first counts no
    /// more. A run that is killed behind this comes here again from an earlier checkpoint and finds the same file, or
    /// one that it has just written again.
    fn restart(&mut self, dir: &Path, monitor: &dyn Monitor) -> Result<()> {
        let path = dir.join(PHASE);
        let found = checkpoint::load::<usize>(&path, monitor)?;
        let (mut tensors, _) = found.with_context(|| {
            format!("{} is lost or damaged: remove {} and run again", path.display(), dir.display())
        })?;
        self.optimiser.load_state(&checkpoint::take::<Vec<_>>(&mut tensors, "optimiser/"))?;
        self.method.params().load(&tensors).context("start the second phase")?;
        self.state.best = None;
        self.method.after_restart()
    }

    /// Networks and optimiser.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let moments = self.optimiser.state()?;
        let moments = checkpoint::prefixed("optimiser/", moments.iter().map(|(name, t)| (name.as_str(), t)));
        Ok(checkpoint::prefixed("", self.method.params().named()).chain(moments).collect())
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        self.settle()?;
        checkpoint::save(&dir.join(checkpoint::FILE), self.tensors()?, &self.state)
    }

    fn finish(self, dir: &Path) -> Result<Outcome> {
        self.method.params().to_safetensors(&dir.join(LAST))?;
        if let Err(error) = std::fs::remove_file(dir.join(PHASE))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).context("drop what the second phase started from");
        }
        files::write_unsynced(&dir.join(HISTORY), &json_lines(&self.state.history)?)?;
        let best = self.state.best.context("no validation ran")?;
        let summary: Value = json!({
            "steps": self.state.step,
            "best_step": best.step,
            "val_dice": best.dice,
            "parameters": self.method.params().count(),
        });
        Ok(Outcome::Finished(summary))
    }
}

#[cfg(test)]
mod tests;
