//! What is known of the stages that run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::time;
use crate::plan::PlannedStage;
use crate::stage::event::Event;
use crate::store::key::Key;

/// The stages that run, and how many are over.
#[derive(Default)]
pub(super) struct Board {
    /// Stages of the plan.
    pub(super) total: usize,
    /// Stages in the store.
    pub(super) finished: usize,
    /// The stages that run.
    pub(super) running: BTreeMap<Key, Row>,
}

/// A stage that runs.
pub(super) struct Row {
    /// Its text for people.
    pub(super) label: String,
    /// When it was given to a process.
    pub(super) started: Instant,
    /// Units done and in all.
    pub(super) done: Option<(u64, u64)>,
    unit: String,
    loss: Option<f64>,
    note: Option<String>,
    /// Where it waits for another process, that process.
    waiting: Option<String>,
    /// The first progress told, and when.
    first: Option<(u64, Instant)>,
}

impl Board {
    /// A stage was given to a process.
    pub(super) fn start(&mut self, stage: &PlannedStage) {
        let row = Row {
            label: stage.label.clone(),
            started: Instant::now(),
            done: None,
            unit: String::new(),
            loss: None,
            note: None,
            waiting: None,
            first: None,
        };
        self.running.insert(stage.key.clone(), row);
    }

    /// A stage spoke.
    pub(super) fn hear(&mut self, stage: &PlannedStage, event: &Event) {
        let Some(row) = self.running.get_mut(&stage.key) else { return };
        row.waiting = None;
        if let Event::Progress { done, total, unit, loss, note } = event {
            row.first.get_or_insert((*done, Instant::now()));
            row.done = Some((*done, *total));
            row.unit.clone_from(unit);
            row.loss = *loss;
            row.note.clone_from(note);
        }
    }

    /// A stage waits for another process.
    pub(super) fn wait(&mut self, stage: &PlannedStage, holder: Option<u32>) {
        if let Some(row) = self.running.get_mut(&stage.key) {
            row.waiting = Some(holder.map_or("another process".into(), |id| format!("process {id}")));
        }
    }
}

impl Row {
    /// Its state on one line: `step 40/300, about 1 min 20 s left, loss 0.512, val dice 71.2 %, 12 s`.
    pub(super) fn state(&self, now: Instant) -> String {
        if let Some(holder) = &self.waiting {
            return format!("{holder} computes it already; waiting for the result");
        }
        let mut parts = Vec::new();
        if let Some((done, total)) = self.done {
            parts.push(format!("{} {done}/{total}", self.unit));
        }
        // Early in the line: a narrow terminal cuts off its end.
        if let Some(left) = self.left(now) {
            parts.push(format!("about {} left", time(left)));
        }
        if let Some(loss) = self.loss {
            parts.push(format!("loss {loss:.4}"));
        }
        parts.extend(self.note.clone());
        parts.push(time(now.duration_since(self.started)));
        parts.join(", ")
    }

    /// The time that it still takes, at the speed that it had so far.
    fn left(&self, now: Instant) -> Option<Duration> {
        let (first, since) = self.first?;
        let (done, total) = self.done?;
        let passed = done.checked_sub(first).filter(|&n| n > 0)?;
        let left =
            now.duration_since(since).as_secs_f64() * total.saturating_sub(done) as f64 / passed as f64;
        (left > 0.0 && left < 1e9).then(|| Duration::from_secs_f64(left))
    }
}
