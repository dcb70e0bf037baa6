//! Stages: pure functions of their settings, their parents' content and their code version.

pub mod event;
pub mod show;

mod evaluate;
mod features;
mod prepare;
mod pretrain;
mod train;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ops::Place;
use crate::spec::settings::Precision;
use crate::store::key::Key;
use crate::train::{Monitor, Outcome, Progress};
use event::Event;

pub use crate::train::{CHECKPOINT_EVERY, Diverged};
pub use evaluate::Trained;

/// The kinds of stages, in the order in which data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// Reads and checks a data set.
    Prepare,
    /// Trains the diffusion model.
    Pretrain,
    /// Extracts the feature maps of one decoder block at one diffusion step.
    Features,
    /// Trains one method.
    Train,
    /// Evaluates a trained network, case by case.
    Evaluate,
}

impl StageKind {
    /// Version of the stage's code. Raised when a change of the code changes the stage's result; part of the key.
    pub const fn version(self) -> u32 {
        match self {
            Self::Prepare => 1,
            // 2: convolutions by Winograd, fused norms, batch norm folded for inference.
            Self::Pretrain | Self::Features | Self::Train | Self::Evaluate => 2,
        }
    }

    /// The name as it stands in keys, files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Pretrain => "pretrain",
            Self::Features => "features",
            Self::Train => "train",
            Self::Evaluate => "evaluate",
        }
    }
}

/// One stage, as it is written into the store for `sweep stage KEY` to find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSpec {
    /// What it does.
    pub kind: StageKind,
    /// The settings that decide its result, in full.
    pub settings: Value,
    /// What it needs at run time that does not decide its result (the folder of a data set).
    pub local: Value,
    /// The stages whose results it reads, each under the role that it plays.
    pub parents: Vec<Parent>,
}

/// A stage that another one reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The role: `data`, `diffusion`, `features/t50/b2`, `train`.
    pub role: String,
    /// Its key.
    pub key: Key,
}

/// What a stage's code is given.
pub struct Context<'a> {
    /// The folder to write into. Survives a kill: what is found there was left by an earlier try.
    pub dir: PathBuf,
    /// The parents' finished folders, by role, in the order of [`StageSpec::parents`].
    pub inputs: Vec<(String, PathBuf)>,
    /// Takes progress.
    pub emit: &'a dyn Fn(Event),
    /// Set when the stage shall save a checkpoint and return [`Interrupted`].
    pub stop: &'a AtomicBool,
    /// Time between two checkpoints of long work.
    pub checkpoint_every: Duration,
}

/// The error of a stage that was asked to stop and did, its checkpoint saved.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("interrupted; what was done is saved")]
pub struct Interrupted;

impl Context<'_> {
    /// The folder of the parent that plays `role`.
    pub fn input(&self, role: &str) -> anyhow::Result<&PathBuf> {
        let found = self.inputs.iter().find(|(name, _)| name == role);
        found.map(|(_, path)| path).ok_or_else(|| anyhow::anyhow!("the stage has no input `{role}`"))
    }
}

impl Context<'_> {
    /// The summary of finished work; [`Interrupted`] of stopped work.
    fn finished(outcome: Outcome) -> Result<Value> {
        match outcome {
            Outcome::Finished(summary) => Ok(summary),
            Outcome::Stopped => Err(Interrupted.into()),
        }
    }

    /// Tells that `done` of `total` units are done.
    fn units(&self, done: usize, total: usize, unit: &'static str) {
        self.progress(Progress { done, total, unit, loss: None, note: None });
    }
}

impl Monitor for Context<'_> {
    fn progress(&self, progress: Progress) {
        let Progress { done, total, unit, loss, note } = progress;
        let (done, total, unit) = (done as u64, total as u64, unit.into());
        (self.emit)(Event::Progress { done, total, unit, loss, note });
    }

    fn note(&self, text: String) {
        (self.emit)(Event::Note { text });
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn checkpoint_every(&self) -> Duration {
        self.checkpoint_every
    }
}

/// Shapes of the diffusion maps that a trained reduction reads.
const SHAPES: &str = "shapes.json";

/// Runs stages and returns a summary of each: one stage, or the feature stages of one model and diffusion step.
pub fn run(jobs: &[(StageSpec, Context)]) -> Result<Vec<Value>> {
    let Some((spec, context)) = jobs.first() else {
        return Ok(Vec::new());
    };
    if spec.kind == StageKind::Features {
        return features::run(jobs);
    }
    ensure!(jobs.len() == 1, "{} stages of kind {} in one process", jobs.len(), spec.kind.name());
    let summary = match spec.kind {
        StageKind::Prepare => prepare::run(spec, context)?,
        StageKind::Pretrain => pretrain::run(spec, context)?,
        StageKind::Train => train::run(spec, context)?,
        StageKind::Evaluate | StageKind::Features => evaluate::run(spec, context)?,
    };
    Ok(vec![summary])
}

/// Does `work` where this thread computes, in `precision` if that is a GPU.
fn in_precision<T>(precision: Precision, context: &Context, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let place = Place::current();
    if precision != Precision::default() && !place.is_gpu() {
        context.note(format!("computes in {}: a processor knows no {precision}", Precision::default()));
    }
    place.at(precision).run(work)
}

/// The stage's settings in their type.
fn settings<T: DeserializeOwned>(spec: &StageSpec) -> Result<T> {
    let wrong = || format!("the settings of this {} stage were written by another version", spec.kind.name());
    serde_json::from_value(spec.settings.clone()).with_context(wrong)
}
