//! Progress as bars on a terminal.

use std::collections::BTreeMap;
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::board::Board;
use super::lines::{ending, opening, remaining, stopping, waiting};
use crate::exec::{Notice, Outcome, Reporter};
use crate::stage::event::Event;
use crate::store::key::Key;

const WHOLE: &str = "{prefix} {bar:24} {pos}/{len} {wide_msg}";
/// Two lines: labels differ in their ends, which a narrow terminal would cut off.
const STAGE: &str = "  {prefix}\n    {bar:12} {wide_msg}";

/// A bar for the whole run and one for each stage that runs, on standard error.
pub(super) struct Bars {
    screen: MultiProgress,
    whole: ProgressBar,
    stages: BTreeMap<Key, ProgressBar>,
    board: Board,
}

impl Bars {
    pub(super) fn new() -> Self {
        let screen = MultiProgress::new();
        let whole = screen.add(ProgressBar::new(0).with_style(style(WHOLE)));
        Self { screen, whole, stages: BTreeMap::new(), board: Board::default() }
    }

    /// A line above the bars. Nothing can be done where it cannot be written.
    fn line(&self, text: &str) {
        let _ = self.screen.println(text);
    }

    fn remove(&mut self, key: &Key) {
        self.board.running.remove(key);
        if let Some(bar) = self.stages.remove(key) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }

    fn redraw(&self) {
        let now = Instant::now();
        for (key, row) in &self.board.running {
            let Some(bar) = self.stages.get(key) else { continue };
            let (done, total) = row.done.unwrap_or((0, 1));
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(row.state(now));
        }
        self.whole.set_position(self.board.finished as u64);
    }
}

impl Reporter for Bars {
    fn notice(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Opened { plan, finished } => {
                self.board.total = plan.stages.len();
                self.board.finished = *finished;
                self.line(&opening(plan, *finished));
                self.whole.set_length(plan.stages.len() as u64);
                self.whole.set_prefix(plan.name.clone());
                self.redraw();
            }
            Notice::Started { stage, .. } => {
                self.board.start(stage);
                let bar = ProgressBar::new(1).with_style(style(STAGE));
                let bar = self.screen.add(bar);
                bar.set_prefix(stage.label.clone());
                self.stages.insert(stage.key.clone(), bar);
                self.redraw();
            }
            Notice::Waiting { stage, holder } => {
                self.board.wait(stage, *holder);
                if !self.board.running.contains_key(&stage.key) {
                    self.line(&format!("{}: {}", stage.label, waiting(*holder)));
                }
            }
            Notice::Damaged { stage, message } => {
                self.board.finished = self.board.finished.saturating_sub(1);
                self.line(&format!("{}: computed again: {message}", stage.label));
            }
            Notice::Said { stage, event } => {
                self.board.hear(stage, event);
                if let Event::Note { text } = event {
                    self.line(&format!("{}: {text}", stage.label));
                }
            }
            Notice::Retried { stage, message } => {
                self.remove(&stage.key);
                self.line(&format!("{}: {message}; it is started again", stage.label));
            }
            Notice::Settled { stage, outcome, .. } => {
                self.remove(&stage.key);
                self.board.finished += usize::from(outcome.is_finished());
                // What waited for a failed stage is counted at the end; a line for each would bury the failure.
                if !matches!(outcome, Outcome::Skipped { .. }) {
                    self.line(&ending(notice).unwrap_or_default());
                }
                self.redraw();
            }
            Notice::Note { text } => self.line(text),
            Notice::Stopping { now } => self.line(stopping(*now)),
            Notice::Tick { left } => {
                let left = remaining(left).map_or(String::new(), |left| format!(", {left}"));
                self.whole.set_message(format!("stages{left}"));
                self.redraw();
            }
            Notice::Ended { .. } => {
                for key in self.stages.keys().cloned().collect::<Vec<_>>() {
                    self.remove(&key);
                }
                self.whole.finish_and_clear();
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
    style.progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn bars_are_drawn_without_a_terminal_too() {
        let mut bars = Bars::new();
        let plan = Plan::of("test", vec![]);
        bars.notice(&Notice::Opened { plan: &plan, finished: 0 });
        assert_eq!(bars.whole.prefix(), "test");
    }
}
