//! `sweep why FILE POINT`.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::pipeline::SweepArgs;
use super::plan::shown;
use super::{Ending, OrBadInput as _, count, say};
use crate::plan::Plan;
use crate::plan::why::{Change, Reason, why};
use crate::spec::Sweep;
use crate::store::key::Key;
use crate::store::{Meta, Store};

/// Points shown unless `--all` is given.
const MOST: usize = 10;

/// Show which stages of a point would run, and which setting, parent or code version makes each of them new
///
/// Each stage that is not finished is set beside the nearest finished one of its kind in the store.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// The point: the first digits of its name in `sweep plan`, or an expression as for --only: `seed=0 dfm=true`
    #[arg(value_name = "POINT")]
    point: String,
    /// Show every point that the expression holds of
    #[arg(long)]
    all: bool,
    /// Write one JSON object instead
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let (sweep, plan) = args.sweep.plan()?;
    let points = points(&sweep, &plan, &args.point).or_bad_input()?;
    let store = Store::at(&args.sweep.store);
    let finished = store.finished();
    let needed: Vec<usize> = (0..plan.stages.len())
        .filter(|&stage| points.iter().any(|point| plan.stages[stage].points.binary_search(point).is_ok()))
        .collect();
    let reasons: Vec<(usize, Reason)> = needed
        .into_iter()
        .map(|stage| {
            let found = store.object(&plan.stages[stage].key).is_some();
            (stage, why(&plan, stage, found, &finished))
        })
        .collect();
    if args.json {
        let all = points.iter().map(|&point| object(&plan, point, &reasons));
        say(&Value::from(all.collect::<Vec<_>>()).to_string())?;
        return Ok(Ending::Done);
    }
    let most = if args.all { usize::MAX } else { MOST };
    let texts = points.iter().take(most).map(|&point| text(&plan, point, &reasons, &finished));
    say(&texts.collect::<Vec<_>>().join("\n\n"))?;
    if points.len() > most {
        say(&format!("\n… and {} (--all shows them)", count(points.len() - most, "more point")))?;
    }
    Ok(Ending::Done)
}

/// The points that a text means.
fn points(sweep: &Sweep, plan: &Plan, text: &str) -> Result<Vec<usize>> {
    let digits = |text: &str| (2..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if digits(text) {
        let wanted = text.to_lowercase();
        let found: Vec<usize> =
            (0..plan.points.len()).filter(|&i| plan.points[i].id.starts_with(&wanted)).collect();
        if found.is_empty() {
            let name = &sweep.name;
            return Err(anyhow!(
                "no point of `{name}` has a name that begins with `{text}`: `sweep plan` lists them"
            ));
        }
        return Ok(found);
    }
    let chosen = sweep.only("POINT", text)?;
    Ok((0..plan.points.len()).filter(|&i| chosen[i]).collect())
}

/// The point's stages with their reasons, in the order of the plan.
fn of_point<'a>(
    plan: &'a Plan,
    point: usize,
    reasons: &'a [(usize, Reason)],
) -> impl Iterator<Item = (usize, &'a Reason)> {
    let needs = move |stage: usize| plan.stages[stage].points.binary_search(&point).is_ok();
    reasons.iter().filter(move |(stage, _)| needs(*stage)).map(|(stage, reason)| (*stage, reason))
}

fn text(plan: &Plan, point: usize, reasons: &[(usize, Reason)], finished: &[Meta]) -> String {
    let stages: Vec<(usize, &Reason)> = of_point(plan, point, reasons).collect();
    let left = stages.iter().filter(|(_, reason)| **reason != Reason::Finished).count();
    let axes: Vec<String> = plan.points[point]
        .axes
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{name}={}", shown(value)))
        .collect();
    let mut lines = vec![format!(
        "point {}{}{}: {left} of {} to run",
        plan.points[point].id,
        if axes.is_empty() { "" } else { "  " },
        axes.join(" "),
        count(stages.len(), "stage")
    )];
    let mut rest = &stages[..];
    while let Some((first, reason)) = rest.first() {
        // Stages of one kind that are new for one reason are told together.
        let kind = plan.stages[*first].kind;
        let same =
            |(stage, other): &&(usize, &Reason)| plan.stages[*stage].kind == kind && alike(reason, other);
        let n = rest.iter().take_while(same).count();
        let state = if **reason == Reason::Finished { "finished" } else { "new     " };
        let more = if n > 1 { format!(", and {} more", n - 1) } else { String::new() };
        lines.push(format!("  {state}  {}{more}", plan.stages[*first].label));
        lines.extend(
            because(plan, *first, reason, finished).into_iter().map(|line| format!("            {line}")),
        );
        rest = &rest[n..];
    }
    lines.join("\n")
}

/// Whether two reasons say the same.
fn alike(a: &Reason, b: &Reason) -> bool {
    match (a, b) {
        (Reason::Differs { changes: a, .. }, Reason::Differs { changes: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

fn because(plan: &Plan, stage: usize, reason: &Reason, finished: &[Meta]) -> Vec<String> {
    let kind = plan.stages[stage].kind.name();
    match reason {
        Reason::Finished => vec![],
        Reason::First => vec![format!("no {kind} stage is finished in this store")],
        Reason::Differs { label, key, changes } => {
            let map = |change: &&Change| matches!(change, Change::Parent { role, .. } if role.starts_with("features/"));
            let maps = changes.iter().filter(map).count();
            // Many maps of one model are told together.
            let told_one_by_one = |change: &&Change| maps < 3 || !map(change);
            let mut lines: Vec<String> =
                changes.iter().filter(told_one_by_one).map(|change| told(plan, change, finished)).collect();
            if maps >= 3 {
                lines.push(format!("reads {maps} other feature maps"));
            }
            lines.push(format!("(beside the nearest finished one, {label}, {})", &key.as_str()[..8]));
            lines
        }
    }
}

fn told(plan: &Plan, change: &Change, finished: &[Meta]) -> String {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), shown);
    let label = |key: &Key| {
        let planned = plan.stages.iter().find(|stage| stage.key == *key).map(|stage| stage.label.clone());
        let known = || finished.iter().find(|meta| meta.key == *key).map(|meta| meta.label.clone());
        let label = planned.or_else(known).unwrap_or_else(|| "a stage that is gone".to_owned());
        format!("{label} ({})", &key.as_str()[..8])
    };
    match change {
        Change::Version { from, to } => format!("code version: {from} there, {to} here"),
        Change::Setting { path, from, to } => format!("{path}: {} there, {} here", value(from), value(to)),
        Change::Parent { role, from: Some(from), to: Some(to) } => {
            format!("{role}: reads {} there, {} here", label(from), label(to))
        }
        Change::Parent { role, from: None, to: Some(to) } => {
            format!("{role}: reads {} here alone", label(to))
        }
        Change::Parent { role, from: Some(from), .. } => format!("{role}: reads {} there alone", label(from)),
        Change::Parent { role, .. } => role.clone(),
    }
}

fn object(plan: &Plan, point: usize, reasons: &[(usize, Reason)]) -> Value {
    let change = |change: &Change| match change {
        Change::Version { from, to } => json!({"what": "version", "from": from, "to": to}),
        Change::Setting { path, from, to } => {
            json!({"what": "setting", "path": path, "from": from, "to": to})
        }
        Change::Parent { role, from, to } => json!({"what": "parent", "role": role, "from": from, "to": to}),
    };
    let stages = of_point(plan, point, reasons).map(|(stage, reason)| {
        let mut value = json!({"key": plan.stages[stage].key, "label": plan.stages[stage].label});
        value["state"] = json!(if *reason == Reason::Finished { "finished" } else { "new" });
        if let Reason::Differs { label, key, changes } = reason {
            value["nearest"] = json!({"key": key, "label": label});
            value["changes"] = changes.iter().map(change).collect();
        }
        value
    });
    json!({"point": plan.points[point].id, "stages": stages.collect::<Vec<_>>()})
}
