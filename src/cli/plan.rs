//! `sweep plan FILE`.

use anyhow::Result;
use serde_json::{Value, json};

use super::pipeline::SweepArgs;
use super::table::{shorten, table};
use super::{Ending, count, say};
use crate::plan::Plan;
use crate::spec::Sweep;
use crate::stage::StageKind;
use crate::store::Store;

/// Rows of a table unless `--all` is given.
const MOST: usize = 40;

/// Show the points and stages of a sweep file, what they share, and what is finished; run nothing
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

pub(super) fn run(args: &Args) -> Result<Ending> {
    let (sweep, plan) = args.sweep.plan()?;
    let store = Store::at(&args.sweep.store);
    let done: Vec<bool> = plan.stages.iter().map(|stage| store.object(&stage.key).is_some()).collect();
    if args.json {
        say(&object(&sweep, &plan, &done).to_string())?;
    } else {
        say(&text(&sweep, &plan, &done, if args.all { usize::MAX } else { MOST }))?;
    }
    Ok(Ending::Done)
}

/// For each point, how many of its stages are missing.
pub(super) fn missing_of_points(plan: &Plan, done: &[bool]) -> Vec<usize> {
    let mut missing = vec![0; plan.points.len()];
    for (stage, _) in plan.stages.iter().zip(done).filter(|&(_, &done)| !done) {
        stage.points.iter().for_each(|&point| missing[point] += 1);
    }
    missing
}

/// A value of an axis as a person writes it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn text(sweep: &Sweep, plan: &Plan, done: &[bool], most: usize) -> String {
    let title = match sweep.description.trim() {
        "" => sweep.name.clone(),
        description => format!("{}: {description}", sweep.name),
    };
    format!(
        "{title}\n\n{}\n\n{}\n\n{}\n\n{}",
        points(plan, done, most),
        stages(plan, done, most),
        kinds(plan, done),
        conclusion(plan, done)
    )
}

fn points(plan: &Plan, done: &[bool], most: usize) -> String {
    let missing = missing_of_points(plan, done);
    let axes: Vec<&str> = plan
        .points
        .first()
        .map(|point| point.axes.iter().map(|(name, _)| name).collect())
        .unwrap_or_default();
    let rows = plan.points.iter().zip(missing).map(|(point, missing)| {
        let mut row = vec![point.id.clone()];
        let value = |name: &str| point.axes.get(name).filter(|value| !value.is_null()).map(shown);
        row.extend(axes.iter().map(|axis| value(axis).unwrap_or_default()));
        row.push(if missing == 0 { "done".into() } else { format!("{} to run", count(missing, "stage")) });
        row
    });
    let (rows, more) = shorten(rows.collect(), most, "--all shows them");
    let head: Vec<&str> = ["point"].into_iter().chain(axes.iter().copied()).chain(["state"]).collect();
    table(&head, &rows, 0) + &more
}

fn stages(plan: &Plan, done: &[bool], most: usize) -> String {
    let rows = plan.stages.iter().zip(done).map(|(stage, &done)| {
        let points = count(stage.points.len(), "point");
        let state = if done { "done" } else { "to run" };
        vec![stage.key.as_str()[..8].to_owned(), stage.label.clone(), points, state.to_owned()]
    });
    let (rows, more) = shorten(rows.collect(), most, "--all shows them");
    table(&["key", "stage", "needed by", "state"], &rows, 0) + &more
}

const KINDS: [StageKind; 5] =
    [StageKind::Prepare, StageKind::Pretrain, StageKind::Features, StageKind::Train, StageKind::Evaluate];

/// For each kind: its stages, those that are done, and how many there would be if each point had its own.
fn counts(plan: &Plan, done: &[bool]) -> Vec<(StageKind, usize, usize, usize)> {
    let of_kind = |kind: StageKind| {
        let stages = plan.stages.iter().zip(done).filter(move |(stage, _)| stage.kind == kind);
        stages.fold((kind, 0, 0, 0), |(kind, all, finished, unshared), (stage, &done)| {
            (kind, all + 1, finished + usize::from(done), unshared + stage.points.len().max(1))
        })
    };
    KINDS.into_iter().map(of_kind).filter(|&(_, all, _, _)| all > 0).collect()
}

fn kinds(plan: &Plan, done: &[bool]) -> String {
    let row = |(kind, all, finished, unshared): (StageKind, usize, usize, usize)| {
        vec![
            kind.name().to_owned(),
            all.to_string(),
            unshared.to_string(),
            finished.to_string(),
            (all - finished).to_string(),
        ]
    };
    let rows: Vec<_> = counts(plan, done).into_iter().map(row).collect();
    table(&["kind", "stages", "without sharing", "done", "to run"], &rows, 0)
}

fn conclusion(plan: &Plan, done: &[bool]) -> String {
    let unshared: usize = counts(plan, done).iter().map(|&(_, _, _, unshared)| unshared).sum();
    let (points, stages) = (plan.points.len(), plan.stages.len());
    let finished = done.iter().filter(|&&done| done).count();
    format!(
        "{} need {}; without sharing it would be {unshared}. {finished} done, {} to run.",
        count(points, "point"),
        count(stages, "stage"),
        stages - finished
    )
}

fn object(sweep: &Sweep, plan: &Plan, done: &[bool]) -> Value {
    let missing = missing_of_points(plan, done);
    let points = plan.points.iter().zip(missing).map(|(point, missing)| {
        let axes: serde_json::Map<String, Value> = point.axes.to_vec().into_iter().collect();
        json!({
            "id": point.id, "axes": axes, "train": point.train, "evaluate": point.evaluate,
            "stages_to_run": missing,
        })
    });
    let stages = plan.stages.iter().zip(done).enumerate().map(|(i, (stage, done))| {
        json!({
            "key": stage.key, "kind": stage.kind, "label": stage.label, "parents": plan.spec(i).parents,
            "points": stage.points.len(), "done": done,
        })
    });
    let kinds = counts(plan, done).into_iter().map(|(kind, all, finished, unshared)| {
        json!({"kind": kind, "stages": all, "done": finished, "without_sharing": unshared})
    });
    json!({
        "name": sweep.name, "description": sweep.description,
        "points": points.collect::<Vec<_>>(), "stages": stages.collect::<Vec<_>>(),
        "kinds": kinds.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlannedStage;
    use crate::stage::StageSpec;
    use crate::store::key::Key;

    #[test]
    fn sharing_is_counted() {
        let stage = |kind, points: &[usize]| {
            let spec = StageSpec { kind, settings: json!({}), local: json!({}), parents: vec![] };
            let label = format!("{} {points:?}", spec.kind.name());
            PlannedStage::new(Key::of(label.as_bytes()), spec, label, None, points.to_vec())
        };
        let stages = vec![
            stage(StageKind::Prepare, &[0, 1]),
            stage(StageKind::Train, &[0]),
            stage(StageKind::Train, &[1]),
        ];
        let plan = Plan::of("test", stages);
        let done = [true, true, false];
        assert_eq!(counts(&plan, &done), [(StageKind::Prepare, 1, 1, 2), (StageKind::Train, 2, 1, 2)]);
        let text = conclusion(&plan, &done);
        assert!(text.ends_with("need 3 stages; without sharing it would be 4. 2 done, 1 to run."), "{text}");
    }

    #[test]
    fn values_are_shown_as_written() {
        assert_eq!(shown(&json!([[0, 1], "a", true])), "[[0, 1], a, true]");
    }
}
