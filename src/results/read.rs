//! What stages wrote: one JSON object a line.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::METRICS;

/// One case and class.
pub(super) struct Case {
    pub(super) volume: String,
    pub(super) patient: Option<String>,
    pub(super) class: String,
    /// In the order of [`METRICS`].
    pub(super) metrics: [f64; 4],
    pub(super) empty_prediction: bool,
    pub(super) empty_label: bool,
    /// What else was written.
    pub(super) more: Vec<(String, Value)>,
}

/// One logged step.
pub(super) struct Step {
    pub(super) step: i64,
    /// Every other number, by its key; keys of nested objects are joined by a dot.
    pub(super) numbers: Vec<(String, f64)>,
}

impl Step {
    /// The number under `key`.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.numbers.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The validation Dice over all classes.
    pub(super) fn validation_dice(&self) -> Option<f64> {
        self.numbers.iter().find(|(name, _)| super::is_validation_dice(name)).map(|(_, value)| *value)
    }
}

/// A line of `cases.jsonl`.
#[derive(Deserialize)]
struct CaseLine {
    case: Value,
    #[serde(default)]
    patient: Value,
    class: Value,
    dice: f64,
    jaccard: f64,
    hd95: f64,
    asd: f64,
    empty_prediction: bool,
    empty_label: bool,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// Reads `cases.jsonl`; an evaluation without any case is an error.
pub(super) fn cases(path: &Path) -> Result<Vec<Case>> {
    let cases = lines(path, |line: CaseLine| {
        let metrics = [line.dice, line.jaccard, line.hd95, line.asd];
        for (name, value) in METRICS.iter().zip(metrics) {
            let most = if matches!(*name, "dice" | "jaccard") { 1.0 } else { f64::INFINITY };
            if !(0.0..=most).contains(&value) {
                bail!("`{name}` is {value}, outside 0–{most}");
            }
        }
        Ok(Case {
            volume: name(&line.case),
            patient: (!line.patient.is_null()).then(|| name(&line.patient)),
            class: name(&line.class),
            metrics,
            empty_prediction: line.empty_prediction,
            empty_label: line.empty_label,
            more: line
                .more
                .into_iter()
                .filter(|(_, value)| value.is_number() || value.is_boolean())
                .collect(),
        })
    })?;
    if cases.is_empty() {
        bail!("{} holds no case: delete the stage's folder and run the sweep again", path.display());
    }
    Ok(cases)
}

/// Reads `history.jsonl`.
pub(super) fn history(path: &Path) -> Result<Vec<Step>> {
    lines(path, |line: Map<String, Value>| {
        let step =
            line.get("step").and_then(Value::as_i64).ok_or_else(|| anyhow!("`step` is no whole number"))?;
        let mut numbers = Vec::new();
        flatten("", &line, &mut numbers);
        Ok(Step { step, numbers })
    })
}

fn flatten(prefix: &str, object: &Map<String, Value>, numbers: &mut Vec<(String, f64)>) {
    for (key, value) in object {
        match value {
            Value::Number(number) if !(prefix.is_empty() && key == "step") => {
                numbers.extend(number.as_f64().map(|number| (format!("{prefix}{key}"), number)));
            }
            Value::Object(inner) => flatten(&format!("{prefix}{key}."), inner, numbers),
            _ => {}
        }
    }
}

/// Names are mostly text; a class or patient may be a bare number.
fn name(value: &Value) -> String {
    super::columns::plain(value)
}

/// Parses each line of `path` that is not blank.
fn lines<L: DeserializeOwned, T>(path: &Path, parse: impl Fn(L) -> Result<T>) -> Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut parsed = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line).map_err(anyhow::Error::from).and_then(&parse);
        parsed.push(row.with_context(|| format!("{}, line {}", path.display(), index + 1))?);
    }
    Ok(parsed)
}
