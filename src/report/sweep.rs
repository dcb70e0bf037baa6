//! The points frame as a report sees it: axes with their values in order, points, and groups of points.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use polars::prelude::{AnyValue, Column, DataFrame, DataType};

use super::labels::{self, AxisName, Metric};
use crate::results::{IMAGENET, START, axis_names};

/// The axis whose values are repetitions, not configurations.
pub(super) const SEED: &str = "seed";

/// What kind of values an axis has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// On or off.
    Flag,
    /// Numbers, also such as `10%` and `7 cases`.
    Number,
    /// All else.
    Category,
}

/// One value of an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    /// As it stands in the frame; empty where the point has none.
    pub(super) raw: String,
    /// As it is printed.
    pub(super) shown: String,
    pub(super) number: Option<f64>,
    pub(super) flag: Option<bool>,
}

/// An axis of the sweep.
#[derive(Debug)]
pub(super) struct Axis {
    /// Its name in the sweep file.
    pub(super) path: String,
    pub(super) name: AxisName,
    pub(super) kind: Kind,
    /// Its values: numbers from low to high, all else as they first appear.
    pub(super) values: Vec<Value>,
}

/// A point of the sweep.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) id: String,
    /// The index of its value for each axis.
    pub(super) key: Vec<usize>,
    /// `done`, `failed` or `missing`.
    pub(super) status: String,
    pub(super) error: Option<String>,
    pub(super) cases: i64,
    pub(super) best_step: Option<i64>,
    pub(super) train_key: String,
    pub(super) evaluate_key: String,
}

impl Point {
    pub(super) fn done(&self) -> bool {
        self.status == "done"
    }
}

/// Points that agree on some axes.
#[derive(Debug)]
pub(super) struct Group {
    /// The index of the shared value for each of the axes grouped by.
    pub(super) key: Vec<usize>,
    /// Indices of the points, in the frame's order.
    pub(super) points: Vec<usize>,
}

/// All that the points frame holds.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) axes: Vec<Axis>,
    pub(super) points: Vec<Point>,
    /// Names of the classes, in the order of the frame.
    pub(super) classes: Vec<String>,
    /// The points frame.
    pub(super) frame: DataFrame,
}

impl Sweep {
    /// Reads the points frame.
    pub(super) fn new(frame: &DataFrame) -> Result<Self> {
        let mut axes = Vec::new();
        let mut keys = vec![Vec::new(); frame.height()];
        for path in axis_names(frame) {
            let (axis, indices) = axis(&path, column(frame, &path)?)?;
            for (key, index) in keys.iter_mut().zip(indices) {
                key.push(index);
            }
            axes.push(axis);
        }
        name_starts(frame, &mut axes);
        let points =
            keys.into_iter().enumerate().map(|(row, key)| point(frame, row, key)).collect::<Result<_>>()?;
        let classes = frame.columns().iter().filter_map(|c| c.name().strip_prefix("dice_").map(String::from));
        Ok(Self { axes, points, classes: classes.collect(), frame: frame.clone() })
    }

    /// The index of the axis `path`.
    pub(super) fn axis(&self, path: &str) -> Option<usize> {
        self.axes.iter().position(|axis| axis.path == path)
    }

    /// The indices of all axes but the seed.
    pub(super) fn configuration_axes(&self) -> Vec<usize> {
        (0..self.axes.len()).filter(|&index| self.axes[index].path != SEED).collect()
    }

    /// The indices of those of [`Self::configuration_axes`] that have several values.
    pub(super) fn varying(&self) -> Vec<usize> {
        let several = |&index: &usize| self.axes[index].values.len() > 1;
        self.configuration_axes().into_iter().filter(several).collect()
    }

    /// The points grouped by `axes`, groups in the order in which they first appear.
    pub(super) fn groups(&self, axes: &[usize]) -> Vec<Group> {
        self.groups_of(&(0..self.points.len()).collect::<Vec<_>>(), axes)
    }

    /// Some of the points grouped by `axes`.
    pub(super) fn groups_of(&self, points: &[usize], axes: &[usize]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut places = HashMap::new();
        for &index in points {
            let key: Vec<usize> = axes.iter().map(|&axis| self.points[index].key[axis]).collect();
            let place = *places.entry(key.clone()).or_insert_with(|| {
                groups.push(Group { key, points: Vec::new() });
                groups.len() - 1
            });
            groups[place].points.push(index);
        }
        groups
    }

    /// What sets `group` apart; `axes` are those that it was grouped by.
    pub(super) fn describe(&self, axes: &[usize], group: &Group) -> String {
        let axes: Vec<&Axis> = axes.iter().map(|&axis| &self.axes[axis]).collect();
        labels::configuration(&axes, &group.key)
    }

    /// The printed values of the metric column `name` (`dice`, `dice_lv`) over all points; `None` where not evaluated.
    pub(super) fn metric(&self, name: &str) -> Result<Vec<Option<f64>>> {
        let metric = Metric::named(name).or_else(|| Metric::named(name.split('_').next()?));
        let factor = metric.map_or(1.0, |metric| metric.factor);
        let values =
            column(&self.frame, name)?.f64().with_context(|| format!("`{name}` holds no numbers"))?;
        Ok(values.iter().map(|value| value.map(|value| value * factor)).collect())
    }

    /// What a point has of the axis or setting `path`, as it stands in the frame; empty where it has none, `None` where the
    /// frame has no such column.
    pub(super) fn raw(&self, point: usize, path: &str) -> Option<String> {
        match self.axis(path) {
            Some(axis) => Some(self.axes[axis].values[self.points[point].key[axis]].raw.clone()),
            None => column(&self.frame, path).ok().map(|column| cell(column, point)),
        }
    }

    /// The values of the setting `path` over all points, each once, as printed; empty where the frame has none.
    pub(super) fn setting(&self, path: &str) -> Vec<String> {
        let Ok(column) = column(&self.frame, path) else { return Vec::new() };
        let mut values: Vec<String> = Vec::new();
        for row in 0..column.len() {
            let value = cell(column, row);
            if !value.is_empty() && !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// Whether all data of the sweep are generated, so that no image shows a patient.
    pub(super) fn is_generated(&self) -> bool {
        let path = if self.setting("data.name").is_empty() { "data" } else { "data.name" };
        let names = self.setting(path);
        !names.is_empty() && names.iter().all(|name| name == "phantom")
    }

    /// The points with `status`.
    pub(super) fn count(&self, status: &str) -> usize {
        self.points.iter().filter(|point| point.status == status).count()
    }
}

fn column<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a Column> {
    frame.column(name).with_context(|| format!("the points frame has no column `{name}`"))
}

/// A cell as text; empty for null.
fn cell(column: &Column, row: usize) -> String {
    match column.get(row) {
        Ok(AnyValue::Null) | Err(_) => String::new(),
        Ok(AnyValue::String(text)) => text.to_owned(),
        Ok(AnyValue::StringOwned(text)) => text.to_string(),
        Ok(AnyValue::Float64(number)) => format!("{number}"),
        Ok(other) => other.to_string(),
    }
}

fn axis(path: &str, column: &Column) -> Result<(Axis, Vec<usize>)> {
    let raw: Vec<String> = (0..column.len()).map(|row| cell(column, row)).collect();
    let numeric = matches!(column.dtype(), DataType::Int64 | DataType::Float64);
    let kind = if column.dtype() == &DataType::Boolean {
        Kind::Flag
    } else if numeric || same_unit(&raw) {
        Kind::Number
    } else {
        Kind::Category
    };
    let mut values: Vec<Value> = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for text in &raw {
        if seen.insert(text) {
            values.push(value(kind, text));
        }
    }
    if kind == Kind::Number {
        // Stable, so that points without a value come last in their order.
        values.sort_by(|a, b| {
            let order = |value: &Value| value.number.unwrap_or(f64::INFINITY);
            order(a).total_cmp(&order(b))
        });
    }
    let places: HashMap<&str, usize> =
        values.iter().enumerate().map(|(index, value)| (value.raw.as_str(), index)).collect();
    let place = |text: &String| places.get(text.as_str()).copied();
    let indices = raw.iter().map(|text| place(text).context("each value of an axis is listed"));
    let indices = indices.collect::<Result<_>>()?;
    Ok((Axis { path: path.to_owned(), name: labels::axis_name(path), kind, values }, indices))
}

/// Published results of cross teaching start from ImageNet weights: rows of trainings that do not say so.
fn name_starts(frame: &DataFrame, axes: &mut [Axis]) {
    let methods = axes.iter_mut().filter(|axis| axis.path == "method");
    for value in methods.flat_map(|axis| &mut axis.values).filter(|value| value.raw == "cross_teaching") {
        let starts = column(frame, START).ok().zip(column(frame, "method").ok());
        let is_loaded = starts.is_some_and(|(start, method)| {
            (0..frame.height())
                .filter(|&row| cell(method, row) == value.raw)
                .all(|row| cell(start, row) == IMAGENET)
        });
        if !is_loaded {
            value.shown.push_str(" (from scratch)");
        }
    }
}

fn value(kind: Kind, raw: &str) -> Value {
    let number = if kind == Kind::Number { measure(raw).map(|(number, _)| number) } else { None };
    let flag = if kind == Kind::Flag { raw.parse().ok() } else { None };
    let shown = match (number, flag) {
        _ if raw.is_empty() => "–".to_owned(),
        (_, Some(true)) => "✓".to_owned(),
        (_, Some(false)) => "–".to_owned(),
        (Some(number), _) => match measure(raw) {
            Some((_, "%")) => format!("{} %", labels::number(number)),
            Some((_, "")) => labels::number(number),
            _ => raw.to_owned(),
        },
        _ => labels::value(raw),
    };
    Value { raw: raw.to_owned(), shown, number, flag }
}

/// A number and its unit: `10%` as 10 and `%`, `7 cases` as 7 and `cases`, `0.9` as 0.9 and no unit.
pub(super) fn measure(text: &str) -> Option<(f64, &'static str)> {
    let units = [("%", "%"), ("cases", "cases"), ("case", "cases"), ("", "")];
    let (unit, number) =
        units.iter().find_map(|(suffix, unit)| Some((*unit, text.strip_suffix(suffix)?.trim())))?;
    number.parse().ok().filter(|number: &f64| number.is_finite()).map(|number| (number, unit))
}

/// Whether all texts that say something are numbers of one unit.
fn same_unit(raw: &[String]) -> bool {
    let mut said = raw.iter().filter(|text| !text.is_empty()).map(|text| measure(text).map(|(_, unit)| unit));
    match said.next() {
        Some(Some(unit)) => said.all(|other| other == Some(unit)),
        _ => false,
    }
}

fn point(frame: &DataFrame, row: usize, key: Vec<usize>) -> Result<Point> {
    let text = |name: &str| column(frame, name).map(|column| cell(column, row));
    let count = |name: &str| text(name).map(|text| text.parse().ok());
    let error = text("error")?;
    Ok(Point {
        id: text("id")?,
        key,
        status: text("status")?,
        error: (!error.is_empty()).then_some(error),
        cases: count("n_cases")?.unwrap_or(0),
        best_step: count("best_step")?,
        train_key: text("train_key")?,
        evaluate_key: text("evaluate_key")?,
    })
}
