//! What a running stage tells. `sweep stage` writes each event as one line of JSON to its standard output.

use serde::{Deserialize, Serialize};

/// Something that happened in a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// `done` of `total` units are done.
    Progress {
        /// Units done, also by earlier tries.
        done: u64,
        /// Units in all.
        total: u64,
        /// What a unit is: `step`, `slice`, `case`, `volume`.
        unit: String,
        /// The newest loss, where there is one.
        loss: Option<f64>,
        /// A short further figure: `val dice 71.2`.
        note: Option<String>,
    },
    /// Something a person should read: a data set's oddity, a resumed checkpoint.
    Note {
        /// The text.
        text: String,
    },
}
