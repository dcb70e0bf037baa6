//! From what is written to resolved points.
//!
//! A setting's value is the last of: the preset's (for the point's method), `base`, the point's axis values or its
//! `include` entry, `--set`. Most points share most of their settings, so each combination of the axes that touch
//! one top-level field is resolved once, and a point is put together from such fields.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::axes::{Axes, Table};
use super::axis::shown;
use super::diagnostics::{Place, Reporter};
use super::exclude::Excludes;
use super::grid::{ABSENT, Choices, Grid, at, defaults_of};
use super::settings::{FIELDS, Settings, TAKE};
use super::validate::{Violation, validate};
use super::written::{Axis, Leaf, Written};
use super::{Pieces, SweepPoint};

/// Distinct errors of points after which the rest is not looked at.
const ENOUGH: usize = 50;
/// Points that are put together before their errors are counted.
const CHUNK: usize = 1 << 16;

/// The resolved points of a sweep, in the order of the file, the last axis running fastest.
pub(super) fn expand(written: &Written, report: &mut Reporter) -> (Vec<SweepPoint>, Pieces) {
    let grid = Grid::new(written);
    let Some(choices) = grid.choices(report) else { return Default::default() };
    let mut expansion = Expansion::new(written, &grid);
    let mut rows = expansion.grid(&choices, report);
    for (i, leaves) in written.include.iter().enumerate() {
        rows.push(expansion.included(i, leaves));
    }
    if rows.is_empty() && report.clean() {
        let place = written.exclude.first().map(|e| e.place).or(written.grid).unwrap_or(written.start);
        report.error(place, "0 points remain: `exclude` drops all of them", None);
    }
    expansion.note_unused_axes(&rows, report);
    let conditional = written.axes.iter().any(|axis| axis.when.is_some());
    if conditional || !written.include.is_empty() || written.axes.iter().any(tables) || written.zipped > 0 {
        merge_twins(&mut rows, written, report);
    }
    (expansion.finish(&choices, rows, report), expansion.pieces())
}

/// Whether values of this axis set several things, or different ones, so that two may resolve to the same.
fn tables(axis: &Axis) -> bool {
    axis.values.iter().any(|value| value.leaves.len() != 1)
}

/// Points that resolve to the same settings are one.
fn merge_twins(rows: &mut Vec<Row>, written: &Written, report: &mut Reporter) {
    let mut seen: HashSet<Box<[u32]>> = HashSet::with_capacity(rows.len());
    let mut merged = 0;
    rows.retain(|row| {
        let new = seen.insert(row.pieces.clone());
        match row.origin {
            _ if new => {}
            Origin::Grid(_) => merged += 1,
            Origin::Include(i) => {
                report.note(written.include_places[i], "this point repeats another and was merged with it");
            }
        }
        new
    });
    let place = written.grid.unwrap_or(written.start);
    match merged {
        0 => {}
        1 => report.note(place, "1 point repeats another and was merged with it"),
        n => report.note(place, &format!("{n} points repeat others and were merged with them")),
    }
}

/// Where a point comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// The combination with this index.
    Grid(usize),
    /// The entry of `include` with this index.
    Include(usize),
}

/// A point in numbers.
struct Row {
    origin: Origin,
    /// Which root its settings start from.
    root: usize,
    /// For each field, which of its values.
    pieces: Box<[u32]>,
    /// For each axis, which of its values.
    axes: Box<[u32]>,
}

/// The settings for one preset and method, without what the other axes set.
struct Root {
    settings: Settings,
    pieces: Box<[u32]>,
    /// The values of the axes that only `include` has.
    more: Vec<u32>,
}

/// The distinct values of one field.
#[derive(Default)]
struct Field {
    known: HashMap<String, u32>,
    values: Vec<Value>,
    /// Settings that have the value.
    holders: Vec<Arc<Settings>>,
}

impl Field {
    fn piece(&mut self, field: &str, settings: &Arc<Settings>) -> u32 {
        let value = settings.field(field);
        let Self { known, values, holders } = self;
        *known.entry(value.to_string()).or_insert_with(|| {
            values.push(value);
            holders.push(Arc::clone(settings));
            values.len() as u32 - 1
        })
    }
}

/// A field that dimensions other than those of preset and method touch.
struct Touched {
    field: usize,
    dimensions: Vec<usize>,
    known: HashMap<(usize, u128), u32>,
    /// The last one looked up: often the next one, too.
    last: Option<((usize, u128), u32)>,
}

struct Expansion<'a> {
    written: &'a Written,
    grid: &'a Grid<'a>,
    /// The dimensions that choose preset or method.
    rooting: Vec<usize>,
    touched: Vec<Touched>,
    roots: Vec<Root>,
    root_of: HashMap<u128, usize>,
    fields: Vec<Field>,
    table: Table,
    /// For each axis, the index in the table of each of its values.
    indices: Vec<Vec<u32>>,
    /// For each axis, the index in the table where it does not apply.
    absent: Vec<u32>,
}

impl<'a> Expansion<'a> {
    fn new(written: &'a Written, grid: &'a Grid<'a>) -> Self {
        let roots = |path: &str| matches!(path, "preset" | "method");
        let dimensions = 0..grid.dimensions.len();
        let rooting = dimensions.clone().filter(|&d| grid.sets(d, &roots)).collect();
        let touched = |field: usize| {
            let touches = |path: &str| path.split('.').next() == Some(FIELDS[field]);
            let dimensions: Vec<usize> = dimensions.clone().filter(|&d| grid.sets(d, &touches)).collect();
            (!dimensions.is_empty()).then(|| Touched { field, dimensions, known: HashMap::new(), last: None })
        };
        let touched = (0..FIELDS.len()).filter_map(touched).collect();
        let names = written.axis_names();
        let mut table = Table { values: vec![vec![]; names.len()], names };
        let indices = written.axes.iter().enumerate().map(|(i, axis)| {
            // A long list without repetition is not searched for one.
            let zipped = i + written.zipped >= written.axes.len();
            let index = |value: &super::written::AxisValue| {
                if zipped {
                    return table.index(i, value.shown.clone());
                }
                table.values[i].push(value.shown.clone());
                table.values[i].len() as u32 - 1
            };
            axis.values.iter().map(index).collect()
        });
        let indices: Vec<Vec<u32>> = indices.collect();
        let absent = written.axes.iter().enumerate().map(|(i, axis)| {
            if axis.when.is_some() || axis.values.is_empty() { table.index(i, Value::Null) } else { 0 }
        });
        let absent = absent.collect();
        let fields = FIELDS.iter().map(|_| Field::default()).collect();
        Self {
            written,
            grid,
            rooting,
            touched,
            roots: vec![],
            root_of: HashMap::new(),
            fields,
            table,
            indices,
            absent,
        }
    }

    /// The points of `grid` and `zip` less those of `exclude`.
    fn grid(&mut self, choices: &Choices, report: &mut Reporter) -> Vec<Row> {
        if self.grid.dimensions.is_empty() && !self.written.include.is_empty() {
            return vec![];
        }
        let mut excludes = Excludes::new(self.written);
        let mut rows = Vec::with_capacity(choices.len());
        let mut values = vec![ABSENT; self.written.axes.len()];
        for at in 0..choices.len() {
            let choice = choices.get(at);
            for (dimension, &chosen) in self.grid.dimensions.iter().zip(choice) {
                for &axis in &dimension.axes {
                    values[axis] = chosen;
                }
            }
            if excludes.is_empty() || !excludes.drop(&values) {
                rows.push(self.row(Origin::Grid(at), choice, &values));
            }
        }
        excludes.note_unused(report);
        rows
    }

    /// The choices of some dimensions as one number.
    fn mixed(grid: &Grid, dimensions: &[usize], choice: &[u32]) -> u128 {
        let number = |n: u128, &d: &usize| {
            n * (grid.dimensions[d].len as u128 + 1) + u128::from(choice[d].wrapping_add(1))
        };
        dimensions.iter().fold(0, number)
    }

    fn row(&mut self, origin: Origin, choice: &[u32], values: &[u32]) -> Row {
        let root = self.root(choice);
        let mut pieces = self.roots[root].pieces.clone();
        let (grid, written) = (self.grid, self.written);
        for touched in &mut self.touched {
            let key = (root, Self::mixed(grid, &touched.dimensions, choice));
            let piece = match touched.last {
                Some((last, piece)) if last == key => piece,
                _ => *touched.known.entry(key).or_insert_with(|| {
                    let dimensions = self.rooting.iter().chain(&touched.dimensions);
                    let leaves: Vec<&Leaf> = dimensions.flat_map(|&d| grid.leaves(d, choice)).collect();
                    let settings = Arc::new(resolve(written, &leaves, Some(touched.field)));
                    self.fields[touched.field].piece(FIELDS[touched.field], &settings)
                }),
            };
            touched.last = Some((key, piece));
            pieces[touched.field] = piece;
        }
        let axes = values.iter().enumerate().map(|(axis, &value)| match value {
            ABSENT => self.absent[axis],
            value => self.indices[axis][value as usize],
        });
        let axes = axes.chain(self.roots[root].more.iter().copied()).collect();
        Row { origin, root, pieces, axes }
    }

    fn root(&mut self, choice: &[u32]) -> usize {
        let key = Self::mixed(self.grid, &self.rooting, choice);
        if let Some(&root) = self.root_of.get(&key) {
            return root;
        }
        let leaves: Vec<&Leaf> = self.rooting.iter().flat_map(|&d| self.grid.leaves(d, choice)).collect();
        let settings = Arc::new(resolve(self.written, &leaves, None));
        let pieces = self.pieces_of(&settings);
        let own = self.written.axes.len();
        let names = self.table.names[own..].to_vec();
        let tree = if names.is_empty() { Value::Null } else { json!(*settings) };
        let index = |(i, name): (usize, &String)| self.table.index(own + i, at(&tree, name));
        let more = names.iter().enumerate().map(index).collect();
        self.roots.push(Root { settings: (*settings).clone(), pieces, more });
        self.root_of.insert(key, self.roots.len() - 1);
        self.roots.len() - 1
    }

    fn pieces_of(&mut self, settings: &Arc<Settings>) -> Box<[u32]> {
        let fields = self.fields.iter_mut().zip(FIELDS);
        fields.map(|(field, name)| field.piece(name, settings)).collect()
    }

    /// A point of `include`.
    fn included(&mut self, entry: usize, leaves: &'a [Leaf]) -> Row {
        let chosen: Vec<&Leaf> = leaves.iter().collect();
        let settings = Arc::new(resolve(self.written, &chosen, None));
        let pieces = self.pieces_of(&settings);
        let tree = json!(*settings);
        let axes: Box<[u32]> = (0..self.table.names.len())
            .map(|i| {
                let value = match self.written.axes.get(i) {
                    None => at(&tree, &self.table.names[i]),
                    Some(axis) if !applies(axis, &tree) => Value::Null,
                    Some(axis) => axis_value(axis, &tree),
                };
                self.table.index(i, value)
            })
            .collect();
        self.roots.push(Root { settings: (*settings).clone(), pieces: pieces.clone(), more: vec![] });
        Row { origin: Origin::Include(entry), root: self.roots.len() - 1, pieces, axes }
    }

    /// An axis that applies to no point is a mistake, unless `--set` chose so.
    fn note_unused_axes(&self, rows: &[Row], report: &mut Reporter) {
        for (i, axis) in self.written.axes.iter().enumerate() {
            let Some(when) = &axis.when else { continue };
            let broken = when.matches.iter().any(|(_, values)| values.is_empty());
            if broken
                || rows.is_empty()
                || axis.values.is_empty()
                || rows.iter().any(|row| row.axes[i] != self.absent[i])
            {
                continue;
            }
            let message = format!("axis `{}` applies to no point", axis.name);
            if self.written.sets.is_empty() {
                report.error(when.place, message, Some("no point fulfils its `when`".into()));
            } else {
                report.note(when.place, &message);
            }
        }
    }

    /// Puts the points together, checked; errors are reported once each, at the place of the value to change.
    fn finish(&mut self, choices: &Choices, rows: Vec<Row>, report: &mut Reporter) -> Vec<SweepPoint> {
        let table = Arc::new(std::mem::take(&mut self.table));
        let mut points = Vec::with_capacity(rows.len());
        let errors = report.count();
        let mut rows = rows.into_iter();
        while rows.len() > 0 && report.count() - errors < ENOUGH {
            let chunk: Vec<Row> = rows.by_ref().take(CHUNK).collect();
            let origins: Vec<Origin> = chunk.iter().map(|row| row.origin).collect();
            let made: Vec<(SweepPoint, Vec<Violation>)> =
                chunk.into_par_iter().map(|row| self.point(row, &table)).collect();
            for ((point, violations), origin) in made.into_iter().zip(origins) {
                points.push(point);
                if report.count() - errors < ENOUGH {
                    self.report(violations, origin, choices, report);
                }
            }
        }
        points
    }

    fn point(&self, row: Row, table: &Arc<Table>) -> (SweepPoint, Vec<Violation>) {
        let root = &self.roots[row.root];
        let mut settings = root.settings.clone();
        for &Touched { field, .. } in &self.touched {
            if root.pieces[field] != row.pieces[field] {
                TAKE[field](&mut settings, &self.fields[field].holders[row.pieces[field] as usize]);
            }
        }
        let violations = validate(&settings);
        let include = match row.origin {
            Origin::Grid(_) => None,
            Origin::Include(i) => Some(i as u32),
        };
        let axes = Axes::new(table, row.axes);
        (SweepPoint { axes, settings: Arc::new(settings), pieces: row.pieces, include }, violations)
    }

    fn report(&self, violations: Vec<Violation>, origin: Origin, choices: &Choices, report: &mut Reporter) {
        for violation in violations {
            let broken = |path: &String| self.written.broken.iter().any(|b| *b == bare(path));
            if violation.paths.iter().any(broken) {
                continue;
            }
            let chosen: Vec<&Leaf> = match origin {
                Origin::Include(i) => self.written.include[i].iter().collect(),
                Origin::Grid(at) => {
                    let choice = choices.get(at);
                    (0..choice.len()).flat_map(|d| self.grid.leaves(d, choice)).collect()
                }
            };
            let place = place_of(&violation.paths, self.written, &chosen);
            report.error(place, violation.message, violation.help);
        }
    }

    fn pieces(self) -> Pieces {
        Pieces { values: self.fields.into_iter().map(|field| field.values).collect() }
    }
}

/// A path without the index of a list's item.
fn bare(path: &str) -> &str {
    path.split('[').next().unwrap_or(path)
}

/// Where the first of `paths` that is written anywhere was written, for a point with these axis values.
pub(super) fn place_of(paths: &[String], written: &Written, chosen: &[&Leaf]) -> Place {
    paths.iter().find_map(|path| origin(path, written, chosen)).unwrap_or(written.start)
}

fn origin(path: &str, written: &Written, chosen: &[&Leaf]) -> Option<Place> {
    let (bare, item) =
        path.split_once('[').map_or((path, None), |(bare, i)| (bare, i.trim_end_matches(']').parse().ok()));
    let all = written.sets.iter().rev().chain(chosen.iter().rev().copied()).chain(written.base.iter().rev());
    let leaf = all.into_iter().find(|leaf| leaf.key.path == bare)?;
    let item: Option<usize> = item;
    Some(item.and_then(|i| leaf.items.get(i)).copied().unwrap_or(leaf.place))
}

/// Preset, then `base`, then `leaves`, then `--set`; only one field where one is named.
fn resolve(written: &Written, leaves: &[&Leaf], only: Option<usize>) -> Settings {
    let all = || written.base.iter().chain(leaves.iter().copied()).chain(&written.sets);
    let last =
        |path: &str| all().rev().find(|leaf| leaf.key.path == path).and_then(|leaf| leaf.value.as_str());
    let mut settings = defaults_of(last("preset"), last("method"));
    for field in FIELDS.iter().enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i)).map(|(_, f)| f)
    {
        let mut own = all()
            .filter_map(|leaf| Some((leaf, leaf.key.path.strip_prefix(field)?)))
            .filter(|(_, rest)| rest.is_empty() || rest.starts_with('.'))
            .peekable();
        if own.peek().is_none() {
            continue;
        }
        let mut tree = settings.field(field);
        for (leaf, rest) in own {
            if let Some(slot) = tree.pointer_mut(&rest.replace('.', "/")) {
                slot.clone_from(&leaf.value);
            }
        }
        settings
            .set_field(field, &tree)
            .expect("checked values fit the settings, which a test of every key shows");
    }
    settings
}

/// Whether an axis applies to a point with these settings.
fn applies(axis: &Axis, settings: &Value) -> bool {
    let matches = axis.when.iter().flat_map(|when| &when.matches);
    matches.into_iter().all(|(key, values)| values.contains(&at(settings, key.path)))
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
