//! Training: the loop that serves every method, the diffusion model's pre-training, validation and checkpoints.
//!
//! Every random choice of step `i` is drawn from a stream named by `i` ([`crate::rng`]), so a checkpoint is the
//! networks, the optimiser and the step; resuming is bit for bit.

pub mod checkpoint;
pub mod feature_cache;
pub mod features;
pub mod method;
pub mod predict;
mod prefetch;
pub mod pretrain;
pub mod sampler;

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

/// How a long piece of work talks to whoever started it.
pub trait Monitor {
    /// Takes progress.
    fn progress(&self, progress: Progress);
    /// Takes a line for people.
    fn note(&self, text: String);
    /// Whether the work shall save a checkpoint and stop.
    fn stopped(&self) -> bool;
    /// Time between two checkpoints, at least.
    fn checkpoint_every(&self) -> Duration {
        CHECKPOINT_EVERY
    }
}

/// The error of a training whose loss is no number. The same training diverges at the same step each time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("diverged: the loss is {loss} at step {step}; lower {setting} (now {value})")]
pub struct Diverged {
    /// The step, counted from 0.
    pub step: usize,
    /// The loss: NaN or an infinity.
    pub loss: f64,
    /// The learning rate's name in a sweep file.
    pub setting: &'static str,
    /// The learning rate.
    pub value: f64,
}

/// The error of work that was stopped in the middle of a part that leaves nothing behind.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// How far the work is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Units done, also by earlier tries.
    pub done: usize,
    /// Units in all.
    pub total: usize,
    /// What a unit is.
    pub unit: &'static str,
    /// The newest loss.
    pub loss: Option<f64>,
    /// A short further figure.
    pub note: Option<String>,
}

/// How a piece of work ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Finished, with a few figures for the store.
    Finished(Value),
    /// Stopped on request; a checkpoint holds what was done.
    Stopped,
}

/// One row of a training curve.
pub type Row = Map<String, Value>;

/// Time between two checkpoints, unless the run says otherwise.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// Saves checkpoints by time: as often as is asked for, less often where saving itself takes long.
pub struct Checkpoints {
    last: Instant,
    wanted: Duration,
    every: Duration,
}

impl Checkpoints {
    /// As often as `monitor` wants, from now on.
    pub fn new(monitor: &dyn Monitor) -> Self {
        let wanted = monitor.checkpoint_every();
        Self { last: Instant::now(), wanted, every: wanted }
    }

    /// Calls `save` if a checkpoint is due.
    ///
    /// # Errors
    /// Those of `save`.
    pub fn when_due(&mut self, save: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        if self.last.elapsed() < self.every {
            return Ok(());
        }
        let start = Instant::now();
        save()?;
        self.last = Instant::now();
        // At most a twentieth of the time goes into saving: a large model's checkpoint is gigabytes.
        self.every = self.wanted.max(20 * start.elapsed());
        Ok(())
    }
}

/// The rows as JSON lines.
fn json_lines(rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    Ok(text)
}
