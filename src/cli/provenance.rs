//! How the results of a sweep came to be: `results/NAME/provenance.jsonl`, a line for each finished stage. Times and
//! machines stand here and not in the frames, which are equal bit for bit between equal runs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::progress::time;
use super::table::bytes;
use crate::results::index::Index;
use crate::results::stages::PROVENANCE;
use crate::store::{Meta, Store, files};

/// Writes the file into `dir`.
pub(super) fn write(index: &Index, store: &Store, dir: &Path) -> Result<()> {
    let stages = index.stages().par_iter();
    let lines: Vec<String> =
        stages.filter_map(|stage| Some(format!("{}\n", object(&store.meta(&stage.key)?)))).collect();
    files::write_atomic(dir.join(PROVENANCE), lines.concat())
}

/// What is known of a finished stage, but its files.
pub(super) fn object(meta: &Meta) -> Value {
    json!({
        "key": meta.key, "kind": meta.kind, "label": meta.label, "settings": meta.settings,
        "parents": meta.parents, "code": meta.code, "program": meta.program, "seconds": meta.seconds,
        "threads": meta.threads, "bytes": size(meta), "provenance": meta.provenance,
    })
}

/// The same for people, a line for each thing.
pub(super) fn lines(meta: &Meta) -> Vec<(&'static str, String)> {
    let threads = super::count(meta.threads, "thread");
    let took = time(Duration::from_secs_f64(meta.seconds.max(0.0)));
    let mut lines = vec![("took", format!("{took} with {threads}")), ("size", bytes(size(meta)))];
    let mut program = format!("sweep {}, {} version {}", meta.program, meta.kind.name(), meta.code);
    if let Some(found) = &meta.provenance {
        if let Some(commit) = &found.commit {
            let _ = write!(program, ", commit {commit}");
        }
        let model = found.model.as_ref().map(|model| format!(" ({model})")).unwrap_or_default();
        let driver = found.driver.as_ref().map(|driver| format!(", driver {driver}")).unwrap_or_default();
        lines.push(("when", format!("{} to {}", found.start, found.end)));
        lines.push(("where", format!("{}{model}{driver}", found.device)));
        lines.extend(found.queue.as_ref().map(|queue| {
            let waited = time(Duration::from_secs_f64(queue.seconds.clamp(0.0, 1e9)));
            ("queue", format!("{waited} in the queue, as job {}", queue.job))
        }));
        lines.extend(found.peak_memory.map(|most| ("memory", format!("{} at most", bytes(most)))));
        lines.extend(found.data.as_ref().map(|data| ("data", data.clone())));
    }
    lines.push(("by", program));
    lines
}

/// The bytes of a stage's files.
pub(super) fn size(meta: &Meta) -> u64 {
    meta.files.iter().map(|file| file.bytes).sum()
}
