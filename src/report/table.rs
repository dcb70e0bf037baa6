//! Tables: one row per configuration, mean ± SD over its seeds.

use anyhow::{Context as _, Result, bail};

use super::labels::{METRICS, Metric};
use super::sweep::{Group, Kind, SEED, Sweep};
use crate::stats::Summary;

/// Place of a value in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Best,
    Second,
    Other,
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
    Value(Summary, Rank),
    /// Why there is no value: `failed`, `missing`.
    Absent(String),
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
    /// Whether the column holds an axis.
    pub(super) axis: bool,
}

/// A table with all that its formats need.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    /// Name of its files.
    pub(super) slug: String,
    pub(super) caption: String,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// Axis values as they stand in the frame, for CSV, row by row.
    pub(super) raw: Vec<Vec<String>>,
    pub(super) notes: Vec<String>,
}

/// What a table shall show.
pub(super) struct Request<'a> {
    pub(super) slug: String,
    /// Indices of the axes whose values make the rows.
    pub(super) axes: Vec<usize>,
    /// Metric columns of the frame: `dice`, `hd95`, `dice_lv`.
    pub(super) metrics: &'a [String],
    pub(super) caption: Option<&'a str>,
    /// What stands before the caption that is made where none is given.
    pub(super) subject: &'a str,
}

/// Builds the table.
pub(super) fn build(sweep: &Sweep, request: &Request) -> Result<Table> {
    let groups = sweep.groups(&request.axes);
    let metrics: Vec<(Metric, Option<&str>)> =
        request.metrics.iter().map(|name| metric(sweep, name)).collect::<Result<_>>()?;
    let mut columns: Vec<Column> = Vec::new();
    let mut rows: Vec<Vec<Cell>> =
        groups.iter().map(|group| axis_cells(sweep, &request.axes, group)).collect();
    for &axis in &request.axes {
        let axis = &sweep.axes[axis];
        let title = axis.name.short.clone();
        columns.push(Column { title, field: axis.path.clone(), higher: None, axis: true });
    }
    columns.push(Column { title: "n".into(), field: "n".into(), higher: None, axis: false });
    for (row, group) in rows.iter_mut().zip(&groups) {
        let done = group.points.iter().filter(|&&point| sweep.points[point].done()).count();
        row.push(Cell::Count { done, all: group.points.len() });
    }
    for (name, &(metric, class)) in request.metrics.iter().zip(&metrics) {
        let title =
            class.map_or(metric.title(), |class| format!("{} {class} ({})", metric.name, metric.unit));
        let field = format!("{name}_{}", if metric.unit == "%" { "percent" } else { "voxels" });
        columns.push(Column { title, field, higher: Some(metric.higher), axis: false });
        let cells = metric_cells(sweep, &groups, &sweep.metric(name)?, metric.higher);
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell));
    }
    let raw = groups.iter().map(|group| {
        let values = request.axes.iter().zip(&group.key);
        values.map(|(&axis, &value)| sweep.axes[axis].values[value].raw.clone()).collect()
    });
    Ok(Table {
        slug: request.slug.clone(),
        caption: request.caption.map_or_else(|| caption(sweep, request.subject, &groups), String::from),
        columns,
        rows,
        raw: raw.collect(),
        notes: notes(sweep, &request.axes, &groups),
    })
}

/// The metric column `name`, with its class where it has one.
pub(super) fn metric<'a>(sweep: &Sweep, name: &'a str) -> Result<(Metric, Option<&'a str>)> {
    let (column, class) = name.split_once('_').map_or((name, None), |(column, class)| (column, Some(class)));
    let metric = METRICS.iter().find(|metric| metric.column == column);
    let known = class.is_none_or(|class| sweep.classes.iter().any(|known| known == class));
    match metric {
        Some(metric) if known => Ok((*metric, class)),
        _ => {
            let names: Vec<&str> = METRICS.iter().map(|metric| metric.column).collect();
            let classes = sweep.classes.join(", ");
            bail!(
                "`{name}` is no metric: write one of {}, alone or with a class ({classes}) as in dice_CLASS",
                names.join(", ")
            )
        }
    }
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

fn axis_cells(sweep: &Sweep, axes: &[usize], group: &Group) -> Vec<Cell> {
    let cell = |(&axis, &index): (&usize, &usize)| {
        let value = &sweep.axes[axis].values[index];
        match (sweep.axes[axis].kind, value.flag) {
            (Kind::Flag, Some(flag)) => Cell::Flag(flag),
            _ => Cell::Text(value.shown.clone()),
        }
    };
    axes.iter().zip(&group.key).map(cell).collect()
}

fn metric_cells(sweep: &Sweep, groups: &[Group], values: &[Option<f64>], higher: bool) -> Vec<Cell> {
    let summary = |group: &Group| {
        Summary::of(&group.points.iter().filter_map(|&point| values[point]).collect::<Vec<_>>())
    };
    let summaries: Vec<Option<Summary>> = groups.iter().map(summary).collect();
    // Ranked as printed: what looks equal is equal.
    let printed = |summary: &Summary| (summary.mean * 100.0).round() as i64 * if higher { -1 } else { 1 };
    let mut order: Vec<i64> = summaries.iter().flatten().map(printed).collect();
    let compared = order.len();
    order.sort_unstable();
    order.dedup();
    let rank = |summary: &Summary| match order.iter().position(|&value| value == printed(summary)) {
        Some(0) if compared > 1 => Rank::Best,
        Some(1) if compared > 2 => Rank::Second,
        _ => Rank::Other,
    };
    let cell = |(summary, group): (&Option<Summary>, &Group)| match summary {
        Some(summary) => Cell::Value(*summary, rank(summary)),
        None => Cell::Absent(absence(sweep, group)),
    };
    summaries.iter().zip(groups).map(cell).collect()
}

/// Why a group has no value.
pub(super) fn absence(sweep: &Sweep, group: &Group) -> String {
    let failed = group.points.iter().any(|&point| sweep.points[point].status == "failed");
    if failed { "failed" } else { "missing" }.to_owned()
}

fn caption(sweep: &Sweep, subject: &str, groups: &[Group]) -> String {
    let split = match sweep.setting("evaluate.split").as_slice() {
        [split] if split == "test" => "the test split",
        [split] if split == "val" => "the validation split",
        _ => "the evaluated cases",
    };
    let mut cases: Vec<i64> = sweep.points.iter().filter(|p| p.done()).map(|p| p.cases).collect();
    cases.sort_unstable();
    cases.dedup();
    let cases = match cases.as_slice() {
        [1] => " (1 volume)".to_owned(),
        [cases] => format!(" ({cases} volumes)"),
        _ => String::new(),
    };
    let single = groups.iter().all(|group| group.points.len() < 2);
    let seeds = if single { "one seed per row" } else { "mean ± SD over seeds" };
    let fixed = sweep.configuration_axes().into_iter().filter(|&axis| sweep.axes[axis].values.len() == 1);
    let fixed: Vec<String> = fixed
        .map(|axis| format!("{} = {}", sweep.axes[axis].name.short, sweep.axes[axis].values[0].shown))
        .collect();
    let fixed = if fixed.is_empty() { String::new() } else { format!("; {} throughout", fixed.join(", ")) };
    format!("{subject} on {split}{cases}, {seeds}{fixed}.")
}

/// What every table says first where the test patients chose the networks.
fn test_selection(sweep: &Sweep) -> Option<String> {
    let chosen =
        sweep.setting("evaluate.select").iter().any(|select| select == crate::results::TEST_SELECTED);
    chosen.then(|| {
        "Networks were chosen by the test patients (train.selection: test): these are the best of many looks at them, and \
         not comparable with networks chosen by validation."
            .to_owned()
    })
}

fn notes(sweep: &Sweep, axes: &[usize], groups: &[Group]) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(test_selection(sweep));
    let done = |group: &Group| group.points.iter().filter(|&&p| sweep.points[p].done()).count();
    let counts: Vec<usize> = groups.iter().map(done).filter(|&n| n > 0).collect();
    if counts.iter().all(|&n| n == 1) && !counts.is_empty() {
        notes.push("n = 1 in every row: no spread can be given.".to_owned());
    } else if counts.contains(&1) {
        notes.push("Rows with n = 1 have no ±.".to_owned());
    }
    if counts.len() > 1 {
        let second = if counts.len() > 2 { ", second best underlined" } else { "" };
        notes.push(format!("Best in bold{second}; by the mean, as printed."));
    }
    let pooled: Vec<&str> = sweep
        .varying()
        .into_iter()
        .filter(|axis| !axes.contains(axis))
        .map(|axis| sweep.axes[axis].name.short.as_str())
        .collect();
    if !pooled.is_empty() {
        let pooled = pooled.join(", ");
        notes.push(format!(
            "Rows pool all values of {pooled}: ± is the spread over these and the seeds, n counts points."
        ));
    } else if axes.iter().any(|&axis| sweep.axes[axis].path == SEED) {
        notes.push("Each row is one seed.".to_owned());
    }
    let (failed, missing) = (sweep.count("failed"), sweep.count("missing"));
    if failed + missing > 0 {
        let all = sweep.points.len();
        notes.push(format!(
            "{failed} of {all} points failed, {missing} missing: they are in no mean; n says what each row stands on."
        ));
    }
    notes.push(empty_note(sweep, axes, groups));
    notes
}

/// What the rows hide: structures that were not found at all.
fn empty_note(sweep: &Sweep, axes: &[usize], groups: &[Group]) -> String {
    let classes = sweep.classes.len() as i64;
    let mut found = Vec::new();
    let (mut all, mut masks, mut labels) = (0, 0, 0);
    for group in groups {
        let points: Vec<_> = group.points.iter().map(|&point| &sweep.points[point]).collect();
        let empty: i64 = points.iter().map(|point| point.empty_predictions).sum();
        let of: i64 = points.iter().map(|point| point.cases * classes).sum();
        labels += points.iter().map(|point| point.empty_labels).sum::<i64>();
        (all, masks) = (all + empty, masks + of);
        if empty > 0 {
            found.push(format!("{} {empty} of {of}", sweep.describe(axes, group)));
        }
    }
    let truth = if labels > 0 { format!(" {labels} label masks are empty.") } else { String::new() };
    if all == 0 {
        return format!("No prediction of a class is empty ({masks} case × class masks).{truth}");
    }
    let distance = match sweep.setting("evaluate.empty").as_slice() {
        [one] if one == "zero" => "counts with distance 0, which flatters 95HD and ASD",
        [one] if one == "diagonal" => "counts with the volume's diagonal as its distance",
        _ => "has the distance that `evaluate.empty` says",
    };
    format!(
        "Empty predictions (case × class): {}. Such a structure has Dice 0 and {distance}.{truth}",
        found.join(", ")
    )
}
