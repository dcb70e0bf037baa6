//! Tables: one row per configuration; what its cells say and stand on.

mod build;
mod compare;
mod quote;
mod words;

use anyhow::{Context as _, Result, bail};

use super::labels::{METRICS, Metric};
use super::sweep::{Group, Sweep};
use crate::stats::Summary;

pub(super) use build::{Request, build};
pub(super) use compare::is_value;

/// Place of a value in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Best,
    Second,
    Other,
}

/// A metric of a row, with all that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    /// Over the points of the row.
    pub(super) summary: Summary,
    /// The 95 % bootstrap interval over patients.
    pub(super) interval: Option<(f64, f64)>,
    /// Place in its block.
    pub(super) rank: Rank,
    /// Against the named row.
    pub(super) test: Option<Test>,
    /// Cases × classes that have a distance though nothing was predicted or nothing is labelled.
    pub(super) empties: usize,
    /// Whether evaluated points of the row have no value here.
    pub(super) partial: bool,
    /// Whether it is counted from the settings: it has no spread.
    pub(super) counted: bool,
}

/// A paired signed-rank test over patients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Test {
    pub(super) pairs: usize,
    pub(super) p: f64,
    /// Corrected by Holm over the rows of the column's block.
    pub(super) holm: f64,
}

impl Test {
    /// The mark of a cell; empty where nothing is shown.
    pub(super) fn mark(self) -> &'static str {
        match self.holm {
            p if p < 0.01 => "‡",
            p if p < 0.05 => "†",
            _ => "",
        }
    }
}

/// A published value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quote {
    pub(super) value: f64,
    /// Which of [`Table::sources`] have it.
    pub(super) sources: Vec<usize>,
    /// Measured less published.
    pub(super) difference: Option<f64>,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    /// The value of an axis.
    Text(String),
    /// The value of an axis that is on or off.
    Flag(bool),
    /// How many points the row stands on.
    Count {
        /// Evaluated.
        done: usize,
        /// In the sweep.
        all: usize,
    },
    /// A metric.
    Value(Box<Value>),
    /// Why there is no value: `failed`, `missing`, `not recorded`.
    Absent(String),
    /// The difference of the mean to the named row's.
    Difference(f64),
    /// Published values.
    Published(Vec<Quote>),
    /// Nothing to be said.
    Blank,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Values of an axis.
    Axis,
    /// How many points.
    Count,
    /// A metric.
    Metric,
    /// Differences of the metric before it to the named row.
    Difference,
    /// Published values of the metric before it.
    Published,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    /// The head in print.
    pub(super) title: String,
    /// The name in CSV.
    pub(super) field: String,
    /// For metrics, whether more is better.
    pub(super) higher: Option<bool>,
    pub(super) holds: Holds,
    /// For metrics, the name that asks for it: `dice`, `hd95_LV`.
    pub(super) metric: Option<String>,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The block that it belongs to.
    pub(super) block: usize,
    pub(super) cells: Vec<Cell>,
    /// Axis values as they stand in the frame, for CSV.
    pub(super) raw: Vec<String>,
    /// The points that it stands on, evaluated or not.
    pub(super) points: Vec<usize>,
}

/// A table with all that its formats need.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    /// Name of its files.
    pub(super) slug: String,
    pub(super) caption: String,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
    /// Where published values come from, by their letters.
    pub(super) sources: Vec<String>,
    /// Whether cells show intervals.
    pub(super) interval: bool,
}

impl Table {
    /// Whether the column `index` holds axis values that are on or off.
    pub(super) fn is_flag(&self, index: usize) -> bool {
        self.rows.iter().any(|row| matches!(row.cells[index], Cell::Flag(_)))
    }
}

/// The letter of a source: a, b, …, z, aa, ab, …
pub(super) fn letter(source: usize) -> String {
    let last = char::from(b'a' + (source % 26) as u8);
    if source < 26 { last.to_string() } else { letter(source / 26 - 1) + &last.to_string() }
}

/// The metric `name`, with its class where it has one.
pub(super) fn metric<'a>(sweep: &Sweep, name: &'a str) -> Result<(Metric, Option<&'a str>)> {
    if let Some(metric) = Metric::named(name) {
        return Ok((metric, None));
    }
    let known = |class: &str| sweep.classes.iter().any(|known| known == class);
    let parted = name.rmatch_indices('_').map(|(at, _)| (&name[..at], &name[at + 1..]));
    let found = parted.filter(|(_, class)| known(class)).find_map(|(column, class)| {
        let metric = Metric::named(column)?;
        Some((metric, Some(class)))
    });
    found.map_or_else(
        || {
            let names: Vec<&str> = METRICS.iter().map(|metric| metric.column).collect();
            let classes = sweep.classes.join(", ");
            bail!(
                "`{name}` is no metric: write one of {}, alone or with a class ({classes}) as in dice_CLASS",
                names.join(", ")
            )
        },
        Ok,
    )
}

/// The indices of the axes `names`.
pub(super) fn axes(sweep: &Sweep, names: &[String]) -> Result<Vec<usize>> {
    let index = |name: &String| {
        sweep.axis(name).with_context(|| {
            let known: Vec<&str> = sweep.axes.iter().map(|axis| axis.path.as_str()).collect();
            format!("`{name}` is no axis of the sweep; its axes are {}", known.join(", "))
        })
    };
    names.iter().map(index).collect()
}

/// Why a group has no value.
pub(super) fn absence(sweep: &Sweep, group: &Group) -> String {
    let failed = group.points.iter().any(|&point| sweep.points[point].status == "failed");
    if failed { "failed" } else { "missing" }.to_owned()
}
