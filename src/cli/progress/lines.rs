//! Progress as lines, for a pipe or a log.

use std::io::Write;
use std::time::{Duration, Instant};

use super::board::Board;
use super::time;
use crate::exec::{Notice, Outcome, Reporter};
use crate::stage::event::Event;

/// The time between two lines about the stages that run.
const EVERY: Duration = Duration::from_secs(10);

/// Writes the start and the end of each stage, and every ten seconds how far those that run are.
pub(super) struct Lines<W> {
    out: W,
    /// Only what went wrong is written.
    quiet: bool,
    board: Board,
    last: Instant,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W, quiet: bool) -> Self {
        Self { out, quiet, board: Board::default(), last: Instant::now() }
    }

    /// A line about the run. Nothing can be done where it cannot be written.
    fn line(&mut self, text: &str) {
        if !self.quiet {
            let _ = writeln!(self.out, "{text}");
        }
    }

    /// A line with the number of finished stages before it.
    fn counted(&mut self, text: &str) {
        let (finished, total) = (self.board.finished, self.board.total);
        let width = total.to_string().len();
        self.line(&format!("[{finished:width$}/{total}] {text}"));
    }

    fn tick(&mut self, left: Option<String>) {
        let now = Instant::now();
        if now.duration_since(self.last) < EVERY {
            return;
        }
        self.last = now;
        let states: Vec<_> =
            self.board.running.values().map(|row| format!("{}: {}", row.label, row.state(now))).collect();
        for state in states {
            self.counted(&state);
        }
        if let Some(left) = left {
            self.counted(&left);
        }
    }
}

impl<W: Write> Reporter for Lines<W> {
    fn notice(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Opened { plan, finished } => {
                self.board.total = plan.stages.len();
                self.board.finished = *finished;
                self.line(&opening(plan, *finished));
            }
            Notice::Started { stage, threads } => {
                self.board.start(stage);
                let threads = if *threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
                self.counted(&format!("{}: started, {threads}", stage.label));
            }
            Notice::Waiting { stage, holder } => {
                self.board.wait(stage, *holder);
                self.counted(&format!("{}: {}", stage.label, waiting(*holder)));
            }
            Notice::Said { stage, event } => {
                self.board.hear(stage, event);
                if let Event::Note { text } = event {
                    self.counted(&format!("{}: {text}", stage.label));
                }
            }
            Notice::Retried { stage, message } => {
                self.board.running.remove(&stage.key);
                self.counted(&format!("{}: {message}; it is started again", stage.label));
            }
            Notice::Damaged { stage, message } => {
                self.board.finished = self.board.finished.saturating_sub(1);
                self.counted(&format!("{}: computed again: {message}", stage.label));
            }
            Notice::Settled { stage, outcome, .. } => {
                self.board.running.remove(&stage.key);
                self.board.finished += usize::from(outcome.is_finished());
                let text = ending(notice).unwrap_or_default();
                match outcome {
                    Outcome::Failed { .. } => drop(writeln!(self.out, "{text}")), // also when quiet
                    _ => self.counted(&text),
                }
            }
            Notice::Note { text } => self.counted(text),
            Notice::Stopping { now } => self.line(stopping(*now)),
            Notice::Tick { left } => self.tick(remaining(left)),
            Notice::Ended { .. } => {}
        }
    }
}

/// The first line of a run.
pub(super) fn opening(plan: &crate::plan::Plan, finished: usize) -> String {
    let (points, stages) = (plan.points.len(), plan.stages.len());
    format!("{}: {points} points need {stages} stages, {finished} of them finished before", plan.name)
}

/// The line about the end of a stage; none for other notices.
pub(super) fn ending(notice: &Notice<'_>) -> Option<String> {
    let Notice::Settled { stage, outcome, because, log } = notice else { return None };
    let label = &stage.label;
    Some(match outcome {
        Outcome::Found => format!("{label}: found in the store"),
        Outcome::Unneeded => format!("{label}: not needed"),
        Outcome::Done { shared: true, .. } => format!("{label}: done by another process"),
        Outcome::Done { seconds, .. } => {
            format!("{label}: done in {}", time(Duration::from_secs_f64(seconds.max(0.0))))
        }
        Outcome::Failed { message } => {
            format!("error: {label} failed: {message}\n  its messages are in {}", log.display())
        }
        Outcome::Skipped { .. } => {
            let because = because.map_or("a stage that it needs", |stage| stage.label.as_str());
            format!("{label}: skipped, because {because} failed")
        }
        Outcome::Interrupted => format!("{label}: stopped; what was done is saved"),
        Outcome::Waiting => format!("{label}: not started"),
    })
}

/// What is said of a stage that another process computes.
pub(super) fn waiting(holder: Option<u32>) -> String {
    let who = holder.map_or("another process".to_owned(), |id| format!("process {id}"));
    format!("{who} computes it already; waiting for the result")
}

/// What is said when a run is stopped.
pub(super) fn stopping(now: bool) -> &'static str {
    if now {
        "stopping now: work since the last checkpoints is lost"
    } else {
        "stopping: what runs saves its work first (Ctrl-C again stops it now)"
    }
}

/// The time left; none where nothing is known of it yet.
pub(super) fn remaining(left: &crate::exec::Left) -> Option<String> {
    match (left.at_least, time(left.time)) {
        (true, _) if left.time < Duration::from_secs(1) => None,
        (true, time) => Some(format!("more than {time} left")),
        (false, time) => Some(format!("about {time} left")),
    }
}
