//! What the page's script shows on demand: points, the stages behind them with their settings, logs and provenance, and
//! which points each row of a table stands on. One JSON object; what stages of a kind have in common stands in it once.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::labels::METRICS;
use super::sweep::Sweep;
use super::table::Table;
use crate::results::stages::{Stage, Stages, State};
use crate::store::provenance::Provenance;

/// Bytes of logs of finished stages that a page carries; those of failed ones are always there.
const LOGS: usize = 2 << 20;

/// The object as text that can stand in a page.
pub(super) fn json(sweep: &Sweep, tables: &[Table], stages: &Stages) -> Result<String> {
    let mut columns = Vec::new();
    for metric in METRICS {
        columns.push(sweep.metric(metric.column)?);
    }
    let points: Vec<Value> = (0..sweep.points.len()).map(|at| point(sweep, stages, &columns, at)).collect();
    let (common, all, left) = written(stages);
    let rows = tables.iter().map(|table| {
        let rows: Vec<Value> = table.rows.iter().map(|row| json!(row.points)).collect();
        (table.slug.clone(), Value::Array(rows))
    });
    let object = json!({
        "axes": sweep.axes.iter().map(|axis| json!({"path": axis.path, "name": axis.name.short})).collect::<Vec<_>>(),
        "metrics": METRICS.map(super::labels::Metric::title),
        "columns": METRICS.map(|metric| metric.column),
        "points": points,
        "common": common,
        "stages": all,
        "tables": rows.collect::<Map<_, _>>(),
        "logs_left_out": left,
    });
    // No text of a log ends the element.
    Ok(serde_json::to_string(&object)?.replace('<', "\\u003c"))
}

fn point(sweep: &Sweep, stages: &Stages, columns: &[Vec<Option<f64>>], at: usize) -> Value {
    let point = &sweep.points[at];
    let values: Vec<&str> =
        sweep.axes.iter().zip(&point.key).map(|(axis, &value)| axis.values[value].shown.as_str()).collect();
    let round = |value: f64| (value * 1e4).round() / 1e4;
    let metrics: Vec<Option<f64>> = columns.iter().map(|column| column[at].map(round)).collect();
    let keys = [&point.train_key, &point.evaluate_key];
    let places: Vec<Option<usize>> = keys.iter().map(|key| stages.place(key)).collect();
    let mut object = json!({"id": point.id, "v": values, "s": point.status, "m": metrics, "t": places});
    let mut also = |name: &str, value: Value| object[name] = value;
    if let Some(step) = point.best_step {
        also("b", step.into());
    }
    if let Some(error) = &point.error {
        also("e", error.as_str().into());
    }
    if places.contains(&None) {
        also("k", json!(keys));
    }
    object
}

/// The settings that all stages of a kind share, the stages, and of how many the log is left out.
fn written(stages: &Stages) -> (Value, Vec<Value>, usize) {
    // Of a kind with one stage nothing is common: its settings are its own.
    let mut counts: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for stage in stages.all.iter().filter(|stage| stage.state == State::Done) {
        let kind = stage.kind.name();
        *totals.entry(kind).or_default() += 1;
        for (path, value) in &stage.settings {
            *counts.entry((kind, path, value)).or_default() += 1;
        }
    }
    let is_common = |kind: &str, path: &str, value: &str| {
        totals.get(kind).is_some_and(|&all| all > 1 && counts.get(&(kind, path, value)) == Some(&all))
    };
    let mut common: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for stage in stages.all.iter().filter(|stage| stage.state == State::Done) {
        let shared = common.entry(stage.kind.name()).or_default();
        if shared.is_empty() {
            let pairs =
                stage.settings.iter().filter(|(path, value)| is_common(stage.kind.name(), path, value));
            shared.extend(pairs.map(|(path, value)| (path.clone(), value.as_str().into())));
        }
    }
    let (mut logs, mut left) = (0, 0);
    let mut object = |stage: &Stage| {
        let own = stage.settings.iter().filter(|(path, value)| !is_common(stage.kind.name(), path, value));
        let own: Map<String, Value> =
            own.map(|(path, value)| (path.clone(), value.as_str().into())).collect();
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| {
            object.insert(name.to_owned(), value);
        };
        put("kind", stage.kind.name().into());
        put("key", stage.key.as_str().into());
        put("label", stage.label.as_str().into());
        put("state", stage.state.name().into());
        put("parents", json!(stage.parents));
        put("own", own.into());
        if stage.state == State::Done {
            put("seconds", json!((stage.seconds * 10.0).round() / 10.0));
            put("threads", stage.threads.into());
            put("bytes", stage.bytes.into());
            put("by", format!("sweep {}, code version {}", stage.code.1, stage.code.0).into());
        }
        if let Some(Provenance { commit, data, device, model, start, end, peak_memory, queue, .. }) =
            &stage.provenance
        {
            let model = model.as_ref().map(|model| format!(" ({model})")).unwrap_or_default();
            put("where", format!("{device}{model}").into());
            put("when", json!([start, end]));
            put("commit", json!(commit));
            put("data", json!(data));
            put("memory", json!(peak_memory));
            if let Some(queue) = queue {
                put("queue", json!([queue.seconds, queue.job]));
            }
        }
        if !stage.files.is_empty() {
            put("files", json!(stage.files));
        }
        if let Some(failure) = &stage.failure {
            put("failure", failure.as_str().into());
        }
        let wanted = stage.state != State::Done || logs + stage.log.len() <= LOGS;
        if wanted && !stage.log.is_empty() {
            logs += stage.log.len();
            put("log", stage.log.as_str().into());
        }
        left += usize::from(!wanted);
        Value::Object(object)
    };
    let all: Vec<Value> = stages.all.iter().map(&mut object).collect();
    (json!(common), all, left)
}
