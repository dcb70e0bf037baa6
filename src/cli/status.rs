//! `sweep status FILE`.

use anyhow::Result;
use serde_json::{Value, json};

use super::pipeline::SweepArgs;
use super::plan::missing_of_points;
use super::table::{shorten, table};
use super::{Ending, count, say};
use crate::plan::{Plan, PlannedStage};
use crate::store::Store;

/// Failed and running stages shown unless `--all` is given.
const MOST: usize = 20;

/// Show how far a sweep is: finished, running, failed and why
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// Show every row of long tables
    #[arg(long)]
    all: bool,
    /// Write one JSON object instead
    #[arg(long)]
    json: bool,
}

/// How a stage stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Done,
    Running,
    Failed(String),
    Missing,
}

impl State {
    fn of(stage: &PlannedStage, store: &Store) -> Self {
        if store.object(&stage.key).is_some() {
            Self::Done
        } else if store.is_computed(&stage.key) {
            Self::Running
        } else {
            store.failure(&stage.key).map_or(Self::Missing, Self::Failed)
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let (_, plan) = args.sweep.plan()?;
    let store = Store::at(&args.sweep.store);
    let states: Vec<State> = plan.stages.iter().map(|stage| State::of(stage, &store)).collect();
    if args.json {
        say(&object(&plan, &states, &store).to_string())?;
    } else {
        say(&text(&plan, &states, &store, if args.all { usize::MAX } else { MOST }))?;
    }
    Ok(Ending::Done)
}

fn text(plan: &Plan, states: &[State], store: &Store, most: usize) -> String {
    let number = |wanted: fn(&State) -> bool| states.iter().filter(|state| wanted(state)).count();
    let mut text = format!(
        "{}: {} of {} done; {} of {} done, {} running, {} failed, {} to run",
        plan.name,
        finished_points(plan, states),
        count(plan.points.len(), "point"),
        number(|state| *state == State::Done),
        count(plan.stages.len(), "stage"),
        number(|state| *state == State::Running),
        number(|state| matches!(state, State::Failed(_))),
        number(|state| *state == State::Missing),
    );
    let rows = plan.stages.iter().zip(states).filter_map(|(stage, state)| {
        let (state, why) = match state {
            State::Running => ("running", String::new()),
            State::Failed(message) => {
                ("failed", format!("{message} (messages: {})", store.log_path(&stage.key).display()))
            }
            State::Done | State::Missing => return None,
        };
        Some(vec![stage.label.clone(), state.to_owned(), why])
    });
    let (rows, more) = shorten(rows.collect(), most, "--all shows them");
    if !rows.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(&["stage", "state", "why"], &rows, 0));
        text.push_str(&more);
    }
    text
}

fn finished_points(plan: &Plan, states: &[State]) -> usize {
    let done: Vec<bool> = states.iter().map(|state| *state == State::Done).collect();
    missing_of_points(plan, &done).into_iter().filter(|&missing| missing == 0).count()
}

fn object(plan: &Plan, states: &[State], store: &Store) -> Value {
    let stages = plan.stages.iter().zip(states).map(|(stage, state)| {
        let mut value = json!({"key": stage.key, "kind": stage.kind, "label": stage.label});
        value["state"] = json!(match state {
            State::Done => "done",
            State::Running => "running",
            State::Failed(_) => "failed",
            State::Missing => "missing",
        });
        if let State::Failed(message) = state {
            value["message"] = json!(message);
            value["log"] = json!(store.log_path(&stage.key));
        }
        value
    });
    json!({
        "name": plan.name, "points": plan.points.len(), "finished_points": finished_points(plan, states),
        "stages": stages.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{StageKind, StageSpec};
    use crate::store::key::Key;

    #[test]
    fn each_state_is_told_from_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let stage = |name: &str| {
            let spec =
                StageSpec { kind: StageKind::Train, settings: json!({}), local: json!({}), parents: vec![] };
            PlannedStage::new(Key::of(name.as_bytes()), spec, name, None, vec![])
        };
        let stages: Vec<_> =
            ["done", "running", "failed", "missing"].iter().map(|name| stage(name)).collect();
        let plan = Plan::of("test", stages);
        let stages = &plan.stages;
        store.write_spec(&stages[0].key, "done", &plan.spec(0)).unwrap();
        let stored = store.spec(&stages[0].key).unwrap();
        let work = store.work(&stages[0].key).unwrap();
        work.commit(&stored, Value::Null, std::time::Duration::ZERO, 1).unwrap();
        let _lock = store.try_lock(&stages[1].key).unwrap().unwrap();
        store.write_failure(&stages[2].key, "the loss is NaN").unwrap();

        let states: Vec<_> = stages.iter().map(|stage| State::of(stage, &store)).collect();
        let failed = State::Failed("the loss is NaN".into());
        assert_eq!(states, [State::Done, State::Running, failed, State::Missing]);
        let text = text(&plan, &states, &store, MOST);
        assert!(text.contains("1 of 4 stages done, 1 running, 1 failed, 1 to run"), "{text}");
        assert!(text.contains("the loss is NaN (messages: "), "{text}");
    }
}
