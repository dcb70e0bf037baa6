//! A [`View`] as text and as JSON.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::super::progress::{Snapshot, time};
use super::super::table::{shorten, table};
use super::super::{count, provenance};
use super::view::{Counts, KINDS, State, View};
use crate::exec::slurm::Standing;
use crate::store::provenance::utc;
use crate::store::{RunRecord, Store};

/// Said of rows that are left out.
const HOW: &str = "--all shows them";

/// A sweep for people.
pub(super) fn text(view: &View<'_>, most: usize) -> Result<String> {
    let Counts { total, done, running, failed, waiting } = view.points;
    let mut text = format!(
        "{}: {done} of {} done, {running} running, {failed} failed, {waiting} waiting\n\n",
        view.index.head.name,
        count(total, "point"),
    );
    text.push_str(&kinds(view));
    for (run, snapshot) in &view.runs {
        let _ = write!(text, "\n\n{}", run_line(run, snapshot.as_ref()));
    }
    if !view.jobs.is_empty() {
        let lines: Vec<String> = view.jobs.iter().map(Standing::line).collect();
        let _ = write!(text, "\n\n{}", lines.join("\n"));
        if view.runs.is_empty() {
            let file = view.index.head.file.display();
            let _ = write!(text, "\n`sweep run {file} --executor slurm` watches and collects them");
        }
    }
    if !view.running.is_empty() {
        let rows = view.running.iter().map(|running| {
            let key = view.index.stages()[running.stage].key.as_str()[..8].to_owned();
            let said = running.progress.as_ref().map(|said| said.text.clone());
            let process = running.pid.map(|pid| pid.to_string()).unwrap_or_default();
            vec![key, view.index.label(running.stage).to_owned(), process, said.unwrap_or_default()]
        });
        let (rows, more) = shorten(rows.collect(), most, HOW);
        let _ = write!(text, "\n\n{}{more}", table(&["key", "running", "process", "progress"], &rows, 0));
    }
    if !view.failed.is_empty() {
        let rows = view.failed.iter().map(|(stage, message)| {
            let key = view.index.stages()[*stage].key.as_str()[..8].to_owned();
            vec![key, view.index.label(*stage).to_owned(), message.replace('\n', "; ")]
        });
        let (rows, more) = shorten(rows.collect(), most, HOW);
        let _ = write!(text, "\n\n{}{more}", table(&["key", "failed", "why"], &rows, 0));
        text.push_str("\n\n`sweep logs KEY` shows what a stage said");
    }
    if most == usize::MAX {
        let _ = write!(text, "\n\n{}", points(view)?);
    }
    if done < total && !view.is_running() {
        let file = view.index.head.file.display();
        let _ = write!(text, "\n\nnothing works on it now: `sweep run {file}` goes on");
    }
    Ok(text)
}

/// A row for each kind of stage, and one for all.
fn kinds(view: &View<'_>) -> String {
    let row = |name: &str, counts: &Counts| {
        let Counts { total, done, running, failed, waiting } = *counts;
        let numbers = [total, done, running, failed, waiting].map(|n| n.to_string());
        [vec![name.to_owned()], numbers.to_vec()].concat()
    };
    let kinds = KINDS.iter().zip(&view.kinds).filter(|(_, counts)| counts.total > 0);
    let mut rows: Vec<_> = kinds.map(|(kind, counts)| row(kind.name(), counts)).collect();
    rows.push(row("all", &view.stages));
    table(&["stages", "total", "done", "running", "failed", "waiting"], &rows, 0)
}

/// A row for each point.
fn points(view: &View<'_>) -> Result<String> {
    let index = view.index;
    let axes = &index.head.axes;
    let mut rows = Vec::with_capacity(index.points().len());
    for (point, state) in view.point_states.iter().enumerate() {
        let values = index.axes(point)?;
        let mut row = vec![index.id(point).to_owned()];
        let shown =
            |value: &Value| if value.is_null() { String::new() } else { super::super::plan::shown(value) };
        row.extend(values.iter().map(|(_, value)| shown(value)));
        row.push(state.name().to_owned());
        rows.push(row);
    }
    let head: Vec<&str> =
        ["point"].into_iter().chain(axes.iter().map(String::as_str)).chain(["state"]).collect();
    Ok(table(&head, &rows, 0))
}

/// `run by process 12 on host since 2026-…Z: about 3 min left`
fn run_line(run: &RunRecord, snapshot: Option<&Snapshot>) -> String {
    let host = run.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
    let since = utc(UNIX_EPOCH + Duration::from_secs(run.started));
    let left = snapshot.and_then(left_text).map(|left| format!(": {left}")).unwrap_or_default();
    format!("run by process {}{host} since {since}{left}", run.pid)
}

fn left_text(snapshot: &Snapshot) -> Option<String> {
    // It was true when it was written.
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .saturating_sub(snapshot.at);
    let left = Duration::try_from_secs_f64((snapshot.left? - age as f64).max(0.0)).ok()?;
    match (snapshot.at_least, time(left)) {
        (true, _) if left < Duration::from_secs(1) => None,
        (true, time) => Some(format!("more than {time} left")),
        (false, time) => Some(format!("about {time} left")),
    }
}

/// A row for each sweep.
pub(super) fn overview(views: &[View<'_>], store: &Store) -> String {
    if views.is_empty() {
        return format!(
            "the store {} knows no sweep yet: `sweep run FILE` makes one known",
            store.root().display()
        );
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            let Counts { total, done, running, failed, .. } = view.points;
            let state = if view.is_running() {
                let left = view.runs.iter().find_map(|(_, snapshot)| left_text(snapshot.as_ref()?));
                left.map_or("running".to_owned(), |left| format!("running, {left}"))
            } else if done == total {
                "done".to_owned()
            } else {
                "stopped".to_owned()
            };
            let numbers = [total, done, running, failed].map(|n| n.to_string());
            [vec![view.index.head.name.clone()], numbers.to_vec(), vec![state]].concat()
        })
        .collect();
    table(&["sweep", "points", "done", "running", "failed", "state"], &rows, 0)
}

/// A sweep for programs.
pub(super) fn object(view: &View<'_>, store: &Store) -> Value {
    let index = view.index;
    let stage = |place: usize| {
        let stage = &index.stages()[place];
        json!({"key": stage.key, "kind": stage.kind, "label": index.label(place)})
    };
    let kinds = KINDS.iter().zip(&view.kinds).filter(|(_, counts)| counts.total > 0).map(|(kind, counts)| {
        let mut value = counts_object(counts);
        value["kind"] = json!(kind);
        value
    });
    let running = view.running.iter().map(|running| {
        let mut value = stage(running.stage);
        value["process"] = json!(running.pid);
        if let Some(said) = &running.progress {
            value["done"] = json!(said.done.map(|(done, _)| done));
            value["total"] = json!(said.done.map(|(_, total)| total));
            value["seconds"] = json!(said.seconds);
            value["text"] = json!(said.text);
        }
        value
    });
    let failed = view.failed.iter().map(|(place, message)| {
        let mut value = stage(*place);
        value["message"] = json!(message);
        value["log"] = json!(store.log_path(&index.stages()[*place].key));
        value
    });
    let runs = view.runs.iter().map(|(run, snapshot)| {
        json!({
            "id": run.id, "process": run.pid, "host": run.host,
            "started": utc(UNIX_EPOCH + Duration::from_secs(run.started)),
            "left_seconds": snapshot.as_ref().and_then(|s| s.left),
            "left_is_at_least": snapshot.as_ref().is_some_and(|s| s.at_least),
        })
    });
    json!({
        "name": index.head.name, "description": index.head.description, "file": index.head.file,
        "points": counts_object(&view.points), "stages": counts_object(&view.stages),
        "kinds": kinds.collect::<Vec<_>>(), "runs": runs.collect::<Vec<_>>(),
        "jobs": view.jobs.iter().map(Standing::object).collect::<Vec<_>>(),
        "running": running.collect::<Vec<_>>(), "failed": failed.collect::<Vec<_>>(),
    })
}

fn counts_object(counts: &Counts) -> Value {
    let Counts { total, done, running, failed, waiting } = *counts;
    json!({"total": total, "done": done, "running": running, "failed": failed, "waiting": waiting})
}

/// [`object`], and beside it each point with its stages and each stage with how it came to be.
pub(super) fn whole(view: &View<'_>, store: &Store) -> Result<Value> {
    let index = view.index;
    let mut value = object(view, store);
    let mut points = Vec::with_capacity(index.points().len());
    for (point, state) in view.point_states.iter().enumerate() {
        let axes: serde_json::Map<String, Value> = index.axes(point)?.into_iter().collect();
        let stages: Vec<_> =
            index.stages_of(point)?.into_iter().map(|stage| &index.stages()[stage].key).collect();
        points.push(json!({"id": index.id(point), "axes": axes, "state": state.name(), "stages": stages}));
    }
    let stages: Vec<Value> = (0..index.stages().len())
        .into_par_iter()
        .map(|place| {
            let stage = &index.stages()[place];
            let meta = (view.states[place] == State::Done).then(|| store.meta(&stage.key)).flatten();
            let mut value = meta.map_or_else(
                || json!({"key": stage.key, "kind": stage.kind, "label": index.label(place)}),
                |meta| provenance::object(&meta),
            );
            value["state"] = json!(view.states[place].name());
            value
        })
        .collect();
    value["all"] = json!({"points": points, "stages": stages});
    Ok(value)
}
