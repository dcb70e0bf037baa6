//! Why the last try of a stage failed, for later readers and later runs.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::{Store, files};

/// What sort of failure it was: it decides what is done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Anything else. Tried again by the next run, not by this one.
    #[default]
    Error,
    /// The loss of a training was no number. The same again would diverge again at the same step: it is tried again only
    /// when asked for.
    Diverged {
        /// The step, counted from 0.
        step: usize,
    },
    /// There was not enough memory. Tried again by the same run, alone.
    OutOfMemory,
    /// The disk is full. Nothing new is started until there is space.
    DiskFull,
    /// Its process died of something else. Tried again by the same run.
    Died,
}

/// A stage's failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its sort.
    pub cause: Cause,
    /// Why, with all causes; may have several lines.
    pub message: String,
}

impl Store {
    /// Why the last try of `key` failed; none where it was never tried, or is finished.
    pub fn failure(&self, key: &Key) -> Option<String> {
        self.failure_record(key).map(|failure| failure.message)
    }

    /// [`Self::failure`] with its sort.
    pub fn failure_record(&self, key: &Key) -> Option<Failure> {
        let text = fs::read_to_string(self.failure_path(key)).ok()?;
        // Earlier versions left the bare message.
        let bare = |_| Failure { cause: Cause::Error, message: text.clone() };
        Some(serde_json::from_str(&text).unwrap_or_else(bare))
    }

    /// Writes down why `key` failed.
    pub fn write_failure(&self, key: &Key, failure: &Failure) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(failure).context("a failure is no JSON")?;
        files::write_unsynced(&self.failure_path(key), &bytes)
    }
}
