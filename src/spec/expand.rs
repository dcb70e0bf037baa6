//! From what is written to resolved points.
//!
//! A setting's value is the last of: the preset's (for the point's method), `base`, the point's axis values or its
//! `include` entry, `--set`. Most points share most of their settings, so each combination of the axes that touch
//! one top-level field is resolved once, and a point is put together from such fields.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::SweepPoint;
use super::diagnostics::{Place, Reporter};
use super::exclude::Excludes;
use super::settings::{FIELDS, Method, Preset, Settings};
use super::validate::validate;
use super::written::{Axis, Leaf, Written, shown};

/// Points of a sweep at most.
const POINTS: usize = 1_000_000;
/// Distinct errors of points after which the rest is not looked at.
const ENOUGH: usize = 50;

/// The resolved points of a sweep, in the order of the file, the last axis running fastest.
pub(super) fn expand(written: &Written, report: &mut Reporter) -> Vec<SweepPoint> {
    let Some(dimensions) = dimensions(written, report) else { return vec![] };
    let mut expansion = Expansion::new(written, dimensions);
    let mut points = expansion.grid(report);
    for leaves in &written.include {
        points.push(expansion.included(leaves, report));
    }
    if points.is_empty() {
        let place = written.exclude.first().map(|e| e.place).or(written.grid).unwrap_or(written.start);
        report.error(place, "0 points remain: `exclude` drops all of them", None);
    }
    let uncertain = !written.include.is_empty() || written.axes.iter().any(tables) || written.zipped > 0;
    if uncertain {
        merge_twins(&mut points, written, report);
    }
    points
}

/// Whether values of this axis set several things, or different ones, so that two may resolve to the same.
fn tables(axis: &Axis) -> bool {
    axis.values.iter().any(|value| value.leaves.len() != 1)
}

/// Points that resolve to the same settings are one.
fn merge_twins(points: &mut Vec<SweepPoint>, written: &Written, report: &mut Reporter) {
    let mut seen = HashSet::with_capacity(points.len());
    let before = points.len();
    points.retain(|point| serde_json::to_string(&point.settings).is_ok_and(|text| seen.insert(text)));
    match before - points.len() {
        0 => {}
        1 => report.note(written.start, "1 point repeats another and was merged with it"),
        n => report.note(written.start, &format!("{n} points repeat others and were merged with them")),
    }
}

/// The axes that advance together, each group one dimension of the grid.
struct Dimension {
    axes: Vec<usize>,
    len: usize,
}

fn dimensions(written: &Written, report: &mut Reporter) -> Option<Vec<Dimension>> {
    let single = written.axes.len() - written.zipped;
    let mut dimensions: Vec<Dimension> =
        (0..single).map(|i| Dimension { axes: vec![i], len: written.axes[i].values.len() }).collect();
    if written.zipped > 0 {
        let axes: Vec<usize> = (single..written.axes.len()).collect();
        let len = axes.iter().map(|&i| written.axes[i].values.len()).min().unwrap_or(0);
        dimensions.push(Dimension { axes, len });
    }
    let product = dimensions.iter().try_fold(1_usize, |n, dimension| n.checked_mul(dimension.len));
    if product.is_none_or(|n| n > POINTS) {
        let lens: Vec<String> = dimensions.iter().map(|dimension| dimension.len.to_string()).collect();
        let place = written.grid.unwrap_or(written.start);
        let message = format!("the grid has {} points, more than {POINTS}", lens.join(" × "));
        report.error(place, message, None);
        return None;
    }
    // An axis without a valid value was reported.
    product.filter(|&n| n > 0)?;
    Some(dimensions)
}

/// Settings for one preset and method, without what the other axes set.
struct Root {
    settings: Settings,
    json: Value,
}

struct Expansion<'a> {
    written: &'a Written,
    dimensions: Vec<Dimension>,
    /// The dimensions that choose preset or method.
    rooting: Vec<usize>,
    /// Each field that some other dimension touches, with those dimensions.
    touched: Vec<(&'static str, Vec<usize>)>,
    roots: HashMap<u64, Root>,
    fields: HashMap<(u64, usize, u64), Settings>,
    /// Axis names, then the settings of `include` that are no axis.
    names: Vec<String>,
}

impl<'a> Expansion<'a> {
    fn new(written: &'a Written, dimensions: Vec<Dimension>) -> Self {
        let leaves = |d: &Dimension| {
            d.axes
                .iter()
                .flat_map(|&a| &written.axes[a].values)
                .flat_map(|value| &value.leaves)
                .collect::<Vec<_>>()
        };
        let all = || dimensions.iter().enumerate();
        let roots = |leaf: &&Leaf| matches!(leaf.key.path, "preset" | "method");
        let rooting = all().filter(|(_, d)| leaves(d).iter().any(roots)).map(|(i, _)| i).collect();
        let touches = |d: &Dimension, field: &str| {
            leaves(d).iter().any(|l| l.key.path.split('.').next() == Some(field))
        };
        let touched = FIELDS
            .iter()
            .map(|&field| {
                (field, all().filter(|(_, d)| touches(d, field)).map(|(i, _)| i).collect::<Vec<_>>())
            })
            .filter(|(_, dimensions)| !dimensions.is_empty())
            .collect();
        let names = written.axis_names();
        Self { written, rooting, touched, names, dimensions, roots: HashMap::new(), fields: HashMap::new() }
    }

    /// The points of `grid` and `zip` less those of `exclude`.
    fn grid(&mut self, report: &mut Reporter) -> Vec<SweepPoint> {
        if self.dimensions.is_empty() && !self.written.include.is_empty() {
            return vec![];
        }
        let mut excludes = Excludes::new(self.written);
        let mut points = vec![];
        let mut choice = vec![0; self.dimensions.len()];
        let errors = report.count();
        loop {
            let values = self.values(&choice);
            if !excludes.drop(&values) {
                points.push(self.point(&choice, &values, report));
            }
            if !self.advance(&mut choice) || report.count() - errors >= ENOUGH {
                break;
            }
        }
        excludes.note_unused(report);
        points
    }

    /// The next choice, the last dimension running fastest; false after the last one.
    fn advance(&self, choice: &mut [usize]) -> bool {
        for (i, dimension) in self.dimensions.iter().enumerate().rev() {
            choice[i] += 1;
            if choice[i] < dimension.len {
                return true;
            }
            choice[i] = 0;
        }
        false
    }

    /// The index of each axis's value.
    fn values(&self, choice: &[usize]) -> Vec<usize> {
        self.dimensions.iter().zip(choice).flat_map(|(d, &at)| d.axes.iter().map(move |_| at)).collect()
    }

    /// The choices of some dimensions as one number.
    fn mixed(&self, dimensions: &[usize], choice: &[usize]) -> u64 {
        dimensions.iter().fold(0, |n, &d| n * self.dimensions[d].len as u64 + choice[d] as u64)
    }

    /// What the chosen values of some dimensions set.
    fn leaves(&self, dimensions: &[usize], choice: &[usize]) -> Vec<&'a Leaf> {
        let axes =
            dimensions.iter().flat_map(|&d| self.dimensions[d].axes.iter().map(move |&a| (a, choice[d])));
        axes.flat_map(|(a, at)| &self.written.axes[a].values[at].leaves).collect()
    }

    fn point(&mut self, choice: &[usize], values: &[usize], report: &mut Reporter) -> SweepPoint {
        let root = self.mixed(&self.rooting, choice);
        if !self.roots.contains_key(&root) {
            let settings = resolve(self.written, &self.leaves(&self.rooting, choice));
            let json = if self.names.len() > self.written.axes.len() { json!(settings) } else { Value::Null };
            self.roots.insert(root, Root { settings, json });
        }
        let mut settings = self.roots[&root].settings.clone();
        for i in 0..self.touched.len() {
            let (field, dimensions) = &self.touched[i];
            let key = (root, i, self.mixed(dimensions, choice));
            if !self.fields.contains_key(&key) {
                let mut leaves = self.leaves(&self.rooting, choice);
                leaves.extend(self.leaves(dimensions, choice));
                self.fields.insert(key, resolve(self.written, &leaves));
            }
            settings.take_field(field, &self.fields[&key]);
        }
        let mut axes: Vec<(String, Value)> = Vec::with_capacity(self.names.len());
        for (axis, &at) in self.written.axes.iter().zip(values) {
            axes.push((axis.name.clone(), axis.values[at].shown.clone()));
        }
        let json = &self.roots[&root].json;
        axes.extend(self.names[axes.len()..].iter().map(|name| (name.clone(), at(json, name))));
        let all: Vec<usize> = (0..self.dimensions.len()).collect();
        self.check(&settings, || self.leaves(&all, choice), report);
        SweepPoint { axes, settings }
    }

    /// A point of `include`.
    fn included(&mut self, leaves: &'a [Leaf], report: &mut Reporter) -> SweepPoint {
        let chosen: Vec<&Leaf> = leaves.iter().collect();
        let settings = resolve(self.written, &chosen);
        let json = json!(settings);
        let mut axes = vec![];
        for (i, name) in self.names.iter().enumerate() {
            let value =
                self.written.axes.get(i).map_or_else(|| at(&json, name), |axis| axis_value(axis, &json));
            axes.push((name.clone(), value));
        }
        self.check(&settings, || chosen.clone(), report);
        SweepPoint { axes, settings }
    }

    /// Reports what does not fit together, each once, at the place of the value to change.
    fn check<'b>(&self, settings: &Settings, leaves: impl Fn() -> Vec<&'b Leaf>, report: &mut Reporter) {
        for violation in validate(settings) {
            let broken = |path: &String| self.written.broken.iter().any(|b| *b == bare(path));
            if violation.paths.iter().any(broken) {
                continue;
            }
            let chosen = leaves();
            let place = violation.paths.iter().find_map(|path| origin(path, self.written, &chosen));
            report.error(place.unwrap_or(self.written.start), violation.message, violation.help);
        }
    }
}

/// A path without the index of a list's item.
fn bare(path: &str) -> &str {
    path.split('[').next().unwrap_or(path)
}

/// Where the value of `path` was written for a point with these axis values.
fn origin(path: &str, written: &Written, chosen: &[&Leaf]) -> Option<Place> {
    let (bare, item) =
        path.split_once('[').map_or((path, None), |(bare, i)| (bare, i.trim_end_matches(']').parse().ok()));
    let all = written.sets.iter().rev().chain(chosen.iter().rev().copied()).chain(written.base.iter().rev());
    let leaf = all.into_iter().find(|leaf| leaf.key.path == bare)?;
    let item: Option<usize> = item;
    Some(item.and_then(|i| leaf.items.get(i)).copied().unwrap_or(leaf.place))
}

/// Preset, then `base`, then `leaves`, then `--set`.
fn resolve(written: &Written, leaves: &[&Leaf]) -> Settings {
    let all = || written.base.iter().chain(leaves.iter().copied()).chain(&written.sets);
    let last = |path: &str| all().rev().find(|leaf| leaf.key.path == path).map(|leaf| leaf.value.clone());
    let preset: Option<Preset> = last("preset").and_then(|value| serde_json::from_value(value).ok());
    let method: Option<Method> = last("method").and_then(|value| serde_json::from_value(value).ok());
    let defaults = Settings::preset(preset.unwrap_or(super::PRESET), method.unwrap_or(super::METHOD));
    let mut tree = json!(defaults);
    for leaf in all() {
        if let Some(slot) = tree.pointer_mut(&format!("/{}", leaf.key.path.replace('.', "/"))) {
            *slot = leaf.value.clone();
        }
    }
    serde_json::from_value(tree).expect("checked values fit the settings, which a test of every key shows")
}

/// The value at a dotted path, or the table.
fn at(settings: &Value, path: &str) -> Value {
    settings.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default()
}

/// The value of an axis for settings that no choice of that axis made.
fn axis_value(axis: &Axis, settings: &Value) -> Value {
    let fits = |leaf: &Leaf| at(settings, leaf.key.path) == leaf.value;
    if let Some(value) = axis.values.iter().find(|value| value.leaves.iter().all(fits)) {
        return value.shown.clone();
    }
    let mut leaves: Vec<Leaf> = axis.values.first().map(|value| value.leaves.clone()).unwrap_or_default();
    for leaf in &mut leaves {
        leaf.value = at(settings, leaf.key.path);
    }
    shown(&axis.name, &leaves)
}
