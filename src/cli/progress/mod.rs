//! What a person sees of a run: bars on a terminal, lines in a pipe, JSON for programs. All but JSON goes to standard
//! error, so that standard output holds results only.

mod bars;
mod board;
mod json;
mod lines;
mod record;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use crate::exec::Reporter;
use crate::store::Store;

pub(super) use record::{Running as RunningStage, Snapshot, read as snapshot};

/// How a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Bars on a terminal, else lines.
    Auto,
    /// Errors only.
    Quiet,
    /// One JSON object a line, on standard output.
    Json,
}

/// The reporter of `style`.
pub(super) fn reporter(style: Style) -> Box<dyn Reporter> {
    match style {
        Style::Json => Box::new(json::Json::new(io::stdout())),
        Style::Quiet => Box::new(lines::Lines::new(io::stderr(), true)),
        Style::Auto if io::stderr().is_terminal() => Box::new(bars::Bars::new()),
        Style::Auto => Box::new(lines::Lines::new(io::stderr(), false)),
    }
}

/// `reporter`, and beside it the file that tells others in `store` how the run `id` stands; see [`snapshot`].
pub(super) fn recorded(reporter: Box<dyn Reporter>, store: &Store, id: &str) -> Box<dyn Reporter> {
    Box::new(record::Record::new(reporter, snapshot_path(store, id)))
}

/// The file that tells how the run `id` stands.
pub(super) fn snapshot_path(store: &Store, id: &str) -> PathBuf {
    store.root().join("runs").join(format!("{id}.progress"))
}

/// A duration for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {:02} s", seconds % 60),
        3600..86400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{} d {:02} h", hours / 24, hours % 24),
    }
}
