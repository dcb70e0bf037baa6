//! What a run leaves for others to see while it lasts: `runs/ID.progress` in the store, anew about once a second.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::board::Board;
use crate::exec::{Notice, Reporter};
use crate::store::files;
use crate::store::key::Key;

/// The least time between two writes.
const EVERY: Duration = Duration::from_secs(1);

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Snapshot {
    /// When this was written: seconds since 1970.
    pub(in crate::cli) at: u64,
    /// Seconds that are left, as far as is known.
    pub(in crate::cli) left: Option<f64>,
    /// It takes longer than `left`: of some stages nothing is known.
    pub(in crate::cli) at_least: bool,
    /// The stages that run.
    pub(in crate::cli) stages: Vec<Running>,
}

/// A stage that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Running {
    /// Its key.
    pub(in crate::cli) key: Key,
    /// Units done and in all.
    pub(in crate::cli) done: Option<(u64, u64)>,
    /// The same and more for people: `step 40/300, about 1 min 20 s left, loss 0.512, 12 s`.
    pub(in crate::cli) text: String,
    /// Seconds since it was given to a process.
    pub(in crate::cli) seconds: f64,
}

/// Passes all on, and keeps the file. It goes with the reporter.
pub(super) struct Record {
    inner: Box<dyn Reporter>,
    path: PathBuf,
    board: Board,
    last: Option<Instant>,
}

impl Record {
    pub(super) fn new(inner: Box<dyn Reporter>, path: PathBuf) -> Self {
        Self { inner, path, board: Board::default(), last: None }
    }

    fn snapshot(&self, left: &crate::exec::Left, now: Instant) -> Snapshot {
        let stages = self.board.running.iter().map(|(key, row)| Running {
            key: key.clone(),
            done: row.done,
            text: row.state(now),
            seconds: now.duration_since(row.started).as_secs_f64(),
        });
        Snapshot {
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            left: Some(left.time.as_secs_f64()),
            at_least: left.at_least,
            stages: stages.collect(),
        }
    }
}

impl Reporter for Record {
    fn notice(&mut self, notice: &Notice<'_>) {
        self.inner.notice(notice);
        match notice {
            Notice::Started { stage, .. } => self.board.start(stage),
            Notice::Waiting { stage, holder } => self.board.wait(stage, *holder),
            Notice::Said { stage, event } => self.board.hear(stage, event),
            Notice::Retried { stage, .. } | Notice::Settled { stage, .. } => {
                self.board.running.remove(&stage.key);
            }
            Notice::Tick { left } => {
                let now = Instant::now();
                if self.last.is_some_and(|last| now.duration_since(last) < EVERY) {
                    return;
                }
                self.last = Some(now);
                // Only for those who look: where it cannot be written, the run goes on.
                if let Ok(bytes) = serde_json::to_vec(&self.snapshot(left, now)) {
                    let _ = files::write_unsynced(&self.path, &bytes);
                }
            }
            _ => {}
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // absent, where the run was short
    }
}

/// What the run with the file `path` last said of itself; none where it has said nothing yet.
pub(in crate::cli) fn read(path: &Path) -> Option<Snapshot> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
