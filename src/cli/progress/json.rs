//! Progress for programs: one JSON object a line.

use std::io::Write;

use serde_json::{Value, json};

use crate::exec::{Notice, Outcome, Reporter};
use crate::plan::PlannedStage;

/// Writes each notice as one JSON object.
pub(super) struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> Reporter for Json<W> {
    fn notice(&mut self, notice: &Notice<'_>) {
        if let Some(value) = object(notice) {
            // A reader that has gone does not stop the work.
            let _ = writeln!(self.out, "{value}").and_then(|()| self.out.flush());
        }
    }
}

fn object(notice: &Notice<'_>) -> Option<Value> {
    Some(match notice {
        Notice::Opened { plan, finished } => json!({
            "event": "opened", "sweep": plan.name, "points": plan.points.len(), "stages": plan.stages.len(),
            "finished": finished,
        }),
        Notice::Started { stage, threads } => of(stage, json!({"event": "started", "threads": threads})),
        Notice::Waiting { stage, holder } => of(stage, json!({"event": "waiting", "holder": holder})),
        Notice::Said { stage, event } => of(stage, serde_json::to_value(event).ok()?),
        Notice::Retried { stage, message } => of(stage, json!({"event": "retried", "message": message})),
        Notice::Damaged { stage, message } => of(stage, json!({"event": "damaged", "message": message})),
        Notice::Settled { stage, outcome, because, log } => {
            let mut value = json!({"event": "settled", "outcome": name(outcome)});
            match outcome {
                Outcome::Done { seconds, shared } => {
                    value["seconds"] = json!(seconds);
                    value["shared"] = json!(shared);
                }
                Outcome::Failed { message } => {
                    value["message"] = json!(message);
                    value["log"] = json!(log);
                }
                Outcome::Skipped { .. } => value["because"] = json!(because.map(|stage| &stage.key)),
                Outcome::Found | Outcome::Unneeded | Outcome::Interrupted | Outcome::Waiting => {}
            }
            of(stage, value)
        }
        Notice::Note { text } => json!({"event": "note", "text": text}),
        Notice::Stopping { now } => json!({"event": "stopping", "now": now}),
        Notice::Tick { .. } => return None,
        Notice::Ended { summary } => json!({
            "event": "ended",
            "finished": summary.count(Outcome::is_finished),
            "computed": summary.count(Outcome::is_computed),
            "failed": summary.count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            "skipped": summary.count(|outcome| matches!(outcome, Outcome::Skipped { .. })),
            "interrupted": summary.interrupted,
            "seconds": summary.elapsed.as_secs_f64(),
        }),
    })
}

fn of(stage: &PlannedStage, mut value: Value) -> Value {
    value["key"] = json!(stage.key);
    value["label"] = json!(stage.label);
    value
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Found => "found",
        Outcome::Done { .. } => "done",
        Outcome::Unneeded => "unneeded",
        Outcome::Failed { .. } => "failed",
        Outcome::Skipped { .. } => "skipped",
        Outcome::Interrupted => "interrupted",
        Outcome::Waiting => "waiting",
    }
}
