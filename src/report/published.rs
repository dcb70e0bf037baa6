//! Published values: one data file, `published.yaml`, in which every number has its source.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::sweep::{SEED, Sweep, measure};
use super::table::is_value;

/// The file.
const TEXT: &str = include_str!("published.yaml");

/// Settings that only MCSD reads: rows of other methods do not depend on them.
const MODULES: [&str; 6] = ["dfm", "dic", "tau", "timesteps", "blocks", "feature_dim"];
/// Tables of settings that only MCSD reads.
const TABLES: [&str; 3] = ["mcsd.", "features.", "diffusion."];

/// All that is published.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Library {
    /// Published names by our names of methods.
    methods: BTreeMap<String, Vec<String>>,
    claims: Vec<Claim>,
    costs: Vec<Cost>,
    pub(super) rows: Vec<Row>,
}

/// What a source says of a table without giving its rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    axes: Vec<String>,
    #[serde(default)]
    dataset: Option<String>,
    #[serde(default)]
    metric: Option<String>,
    text: String,
    source: String,
}

/// What a source says that a method costs, whatever the data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    method: String,
    /// Parameters in millions.
    parameters: f64,
    source: String,
    #[serde(default)]
    settings: BTreeMap<String, Value>,
}

/// A row of a published table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    dataset: String,
    labelled_count: u32,
    labelled_percent: f64,
    pub(super) method: String,
    dice: Option<f64>,
    jaccard: Option<f64>,
    hd95: Option<f64>,
    asd: Option<f64>,
    source: String,
    protocol: Protocol,
    kind: Kind,
    note: Option<String>,
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    #[serde(default)]
    classes: Vec<String>,
}

/// On what a value was computed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
enum Protocol {
    Test20,
    ValTest30,
    Unclear,
    Unknown,
    /// In the source's words.
    Other(String),
}

impl From<String> for Protocol {
    fn from(text: String) -> Self {
        match text.as_str() {
            "test20" => Self::Test20,
            "valtest30" => Self::ValTest30,
            "unclear" => Self::Unclear,
            "unknown" => Self::Unknown,
            _ => Self::Other(text),
        }
    }
}

impl Protocol {
    fn text(&self) -> &str {
        match self {
            Self::Test20 => "20 test patients, 40 volumes",
            Self::ValTest30 => "validation and test patients together, 60 volumes",
            Self::Unclear => "the evaluated set is unclear",
            Self::Unknown => "the evaluated set is not stated",
            Self::Other(text) => text,
        }
    }
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Own,
    Secondary,
    Reproduced,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Self::Own => "the authors' own",
            Self::Secondary => "quoted by others",
            Self::Reproduced => "perhaps run again by others",
        }
    }
}

impl Library {
    /// The project's data file.
    pub(super) fn load() -> Result<Self> {
        let value = crate::spec::document("src/report/published.yaml", TEXT);
        let value = value.map_err(anyhow::Error::new).context("the published values cannot be read")?;
        serde_json::from_value(value).context("src/report/published.yaml does not have its form")
    }

    /// The rows that say what all of `points` ran: the same data set, labelled patients, method and settings, evaluated on
    /// a test split, as means over `classes` (of `all`).
    pub(super) fn of(&self, sweep: &Sweep, points: &[usize], classes: &[String]) -> Vec<&Row> {
        let runs = |row: &Row| {
            let names = self.methods.iter().find(|(_, names)| names.contains(&row.method));
            names.is_some_and(|(method, _)| {
                points.iter().all(|&point| row.is_of(sweep, point, method, classes))
            })
        };
        if points.is_empty() { vec![] } else { self.rows.iter().filter(|row| runs(row)).collect() }
    }

    /// The rows of the data set and labelled patients that all of `points` have, whatever their method.
    pub(super) fn beside(&self, sweep: &Sweep, points: &[usize], classes: &[String]) -> Vec<&Row> {
        let fits = |row: &&Row| points.iter().all(|&point| row.is_on(sweep, point, classes));
        if points.is_empty() { vec![] } else { self.rows.iter().filter(fits).collect() }
    }

    /// Whether anything is published of the data sets of `points`.
    pub(super) fn knows_data(&self, sweep: &Sweep, points: &[usize]) -> bool {
        points.iter().any(|&point| self.rows.iter().any(|row| row.is_data(sweep, point)))
    }

    /// Parameters in millions that are published of the method and the settings of all of `points`, each with its source.
    pub(super) fn parameters(&self, sweep: &Sweep, points: &[usize]) -> Vec<(f64, String)> {
        let fits = |cost: &&Cost| {
            let names = self.methods.iter().find(|(_, names)| names.contains(&cost.method));
            let same = |point: usize| {
                cost.settings.iter().all(|(path, value)| {
                    sweep.raw(point, path).is_none_or(|raw| raw.is_empty() || is_value(&raw, &plain(value)))
                })
            };
            names.is_some_and(|(method, _)| {
                points.iter().all(|&p| sweep.raw(p, "method").is_some_and(|raw| raw == *method) && same(p))
            })
        };
        let said = |cost: &Cost| (cost.parameters, cost.source.clone());
        if points.is_empty() { vec![] } else { self.costs.iter().filter(fits).map(said).collect() }
    }

    /// What is claimed of tables over these axes that have these metrics, each with its source.
    pub(super) fn claims(
        &self,
        sweep: &Sweep,
        points: &[usize],
        (axes, metrics): (&[&str], &[String]),
    ) -> Vec<String> {
        let fits = |claim: &&Claim| {
            let data = |&point: &usize| data_set(sweep, point);
            claim.axes.iter().all(|axis| axes.contains(&axis.as_str()))
                && claim.metric.as_ref().is_none_or(|metric| metrics.contains(metric))
                && claim.dataset.as_ref().is_none_or(|wanted| points.iter().any(|p| data(p) == *wanted))
        };
        let text = |claim: &Claim| format!("Published about {} ({}).", claim.text, claim.source);
        self.claims.iter().filter(fits).map(text).collect()
    }
}

impl Row {
    /// The value of a metric.
    pub(super) fn value(&self, metric: &str) -> Option<f64> {
        match metric {
            "dice" => self.dice,
            "jaccard" => self.jaccard,
            "hd95" => self.hd95,
            "asd" => self.asd,
            _ => None,
        }
    }

    /// Source and protocol, for under a table.
    pub(super) fn origin(&self) -> String {
        let note = self.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
        format!("{}: {}; {}{note}", self.source, self.kind.text(), self.protocol.text())
    }

    /// Whether two rows say that they were computed on the same volumes.
    pub(super) fn same_protocol(&self, other: &Self) -> bool {
        let known = !matches!(self.protocol, Protocol::Unclear | Protocol::Unknown);
        known && self.protocol == other.protocol
    }

    fn is_data(&self, sweep: &Sweep, point: usize) -> bool {
        data_set(sweep, point) == self.dataset
    }

    fn is_on(&self, sweep: &Sweep, point: usize, classes: &[String]) -> bool {
        let ratio = sweep.raw(point, "label_ratio").unwrap_or_default();
        let labelled = match measure(&ratio) {
            Some((percent, "%")) => percent == self.labelled_percent,
            Some((cases, _)) => cases == f64::from(self.labelled_count),
            None => false,
        };
        let named = |list: &[String]| {
            let mut list = if list.is_empty() { sweep.classes.clone() } else { list.to_vec() };
            list.sort_unstable();
            list
        };
        let test = sweep.raw(point, "evaluate.split").is_none_or(|split| split == "test");
        self.is_data(sweep, point) && labelled && test && named(&self.classes) == named(classes)
    }

    fn is_of(&self, sweep: &Sweep, point: usize, method: &str, classes: &[String]) -> bool {
        let mcsd = method == "mcsd";
        let ours = |path: &str| MODULES.contains(&path) || TABLES.iter().any(|table| path.starts_with(table));
        let same = |path: &str, raw: &str| match path {
            SEED | "method" | "label_ratio" | "preset" => true,
            _ if path == "data" || path.starts_with("data.") || path.starts_with("evaluate.") => true,
            // An axis that does not apply leaves the setting at its preset's value.
            _ if raw.is_empty() => true,
            _ if ours(path) && !mcsd => true,
            _ => self.settings.get(path).is_some_and(|value| is_value(raw, &plain(value))),
        };
        self.is_on(sweep, point, classes)
            && sweep.raw(point, "method").is_some_and(|raw| raw == method)
            && sweep.axes.iter().zip(&sweep.points[point].key).all(|(axis, &value)| {
                axis.values.len() == 1 && !ours(&axis.path) || same(&axis.path, &axis.values[value].raw)
            })
    }
}

/// The data set of a point, as published rows call it.
fn data_set(sweep: &Sweep, point: usize) -> String {
    let named = |path: &str| sweep.raw(point, path).filter(|name| !name.is_empty());
    let name = named("data.name").or_else(|| named("data")).unwrap_or_default();
    super::labels::value(&name)
}

/// A value as frames have it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
