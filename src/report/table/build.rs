//! From points and cases to a table.

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;

use super::super::cases::{Cases, Patients};
use super::super::labels::Metric;
use super::super::published::Library;
use super::super::sweep::{Group, Kind, Sweep};
use super::compare::{Named, is_value, named, tests};
use super::quote::Quotes;
use super::{Cell, Column, Holds, Rank, Row, Table, Value, absence, axes, metric, words};
use crate::spec::report::{Published, TableSettings};
use crate::stats::{RESAMPLES, Resamples, Summary};

/// What a table shall show.
pub(in crate::report) struct Request<'a> {
    pub(in crate::report) slug: String,
    pub(in crate::report) settings: &'a TableSettings,
    /// What stands first in the caption where none is given.
    pub(in crate::report) subject: &'a str,
}

/// One metric column before it is ranked: its name, what it is, the classes of its mean.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) metric: Metric,
    /// Where it is of one class.
    class: Option<String>,
    pub(super) classes: Vec<usize>,
}

/// What a group has of a metric.
struct Measured {
    summary: Option<Summary>,
    interval: Option<(f64, f64)>,
    patients: Patients,
    empties: usize,
    partial: bool,
}

/// All that a table is made of.
pub(super) struct Frame<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) cases: &'a Cases,
    pub(super) settings: &'a TableSettings,
    /// Axes of the rows, that of the blocks first.
    pub(super) axes: Vec<usize>,
    /// The points that the table is about.
    pub(super) points: Vec<usize>,
    pub(super) blocks: Vec<Vec<Group>>,
    pub(super) wanted: Vec<Wanted>,
    /// For each block, the row to compare with.
    pub(super) references: Vec<Named>,
}

/// Builds the table.
pub(in crate::report) fn build(sweep: &Sweep, cases: &Cases, request: &Request) -> Result<Table> {
    let frame = Frame::new(sweep, cases, request.settings)?;
    let library = match request.settings.published {
        Published::None => None,
        Published::Beside | Published::All => Some(Library::load()?),
    };
    let mut quotes = library.as_ref().map(|library| Quotes::new(&frame, library));
    let mut table = Table {
        slug: request.slug.clone(),
        caption: String::new(),
        columns: frame.axis_columns(),
        rows: frame.axis_rows(),
        notes: vec![],
        sources: vec![],
        interval: request.settings.interval,
    };
    let mut absent = vec![];
    for wanted in &frame.wanted {
        if !frame.add_metric(&mut table, wanted)? {
            absent.push(wanted.metric.title());
        }
        if let Some(quotes) = &mut quotes {
            quotes.add_column(&mut table, wanted);
        }
    }
    if let Some(quotes) = quotes {
        quotes.finish(&mut table);
    }
    table.caption = words::caption(&frame, &table, request.subject);
    table.notes.splice(0..0, words::notes(&frame, &table, &absent));
    if table.columns.iter().all(|column| column.holds != Holds::Metric) {
        bail!("the table `{}` has no metric", table.slug);
    }
    Ok(table)
}

impl<'a> Frame<'a> {
    fn new(sweep: &'a Sweep, cases: &'a Cases, settings: &'a TableSettings) -> Result<Self> {
        let mut row_axes = axes(sweep, settings.rows.names())?;
        let within = axes(sweep, &settings.within)?;
        row_axes.retain(|axis| !within.contains(axis));
        row_axes.splice(0..0, within.iter().copied());
        // Beside axes, settings that all frames hold.
        let known = |axis: &String| {
            let held = sweep.points.is_empty() || sweep.raw(0, axis).is_some();
            if held { Ok(()) } else { axes(sweep, std::slice::from_ref(axis)).map(|_| ()) }
        };
        settings.only.iter().try_for_each(|(axis, _)| known(axis)).context("`where` of a table")?;
        settings.against.iter().try_for_each(|(axis, _)| known(axis)).context("`against` of a table")?;
        let chosen = |&point: &usize| {
            settings.only.iter().all(|(axis, values)| {
                sweep.raw(point, axis).is_some_and(|raw| values.iter().any(|value| is_value(&raw, value)))
            })
        };
        let points: Vec<usize> = (0..sweep.points.len()).filter(chosen).collect();
        let mut blocks = sweep.groups_of(&points, &within);
        blocks.sort_by(|a, b| a.key.cmp(&b.key));
        let blocks: Vec<Vec<Group>> =
            blocks.iter().map(|block| sweep.groups_of(&block.points, &row_axes)).collect();
        let reference = |groups: &Vec<Group>| match settings.against.as_slice() {
            [] => Named::None,
            against => named(sweep, groups, against),
        };
        let references = blocks.iter().map(reference).collect();
        let wanted = wanted(sweep, cases, settings)?;
        Ok(Self { sweep, cases, settings, axes: row_axes, points, blocks, wanted, references })
    }

    /// All rows, block by block.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.blocks.iter().flatten()
    }

    fn axis_columns(&self) -> Vec<Column> {
        let axis = |&axis: &usize| {
            let axis = &self.sweep.axes[axis];
            let (title, field) = (axis.name.short.clone(), axis.path.clone());
            Column { title, field, higher: None, holds: Holds::Axis, metric: None }
        };
        let count =
            Column { title: "n".into(), field: "n".into(), higher: None, holds: Holds::Count, metric: None };
        self.axes.iter().map(axis).chain([count]).collect()
    }

    fn axis_rows(&self) -> Vec<Row> {
        let blocks = self.blocks.iter().enumerate();
        blocks
            .flat_map(|(block, groups)| groups.iter().map(move |group| self.axis_row(block, group)))
            .collect()
    }

    fn axis_row(&self, block: usize, group: &Group) -> Row {
        let sweep = self.sweep;
        let values = || self.axes.iter().zip(&group.key).map(|(&axis, &value)| (&sweep.axes[axis], value));
        let cell = |(axis, index): (&super::super::sweep::Axis, usize)| {
            let value = &axis.values[index];
            match (axis.kind, value.flag) {
                (Kind::Flag, Some(flag)) => Cell::Flag(flag),
                _ => Cell::Text(value.shown.clone()),
            }
        };
        let done = group.points.iter().filter(|&&point| sweep.points[point].done()).count();
        let count = Cell::Count { done, all: group.points.len() };
        Row {
            block,
            cells: values().map(cell).chain([count]).collect(),
            raw: values().map(|(axis, index)| axis.values[index].raw.clone()).collect(),
            points: group.points.clone(),
        }
    }

    /// Adds the column of a metric and that of its differences; `false` where the frames do not hold the metric.
    fn add_metric(&self, table: &mut Table, wanted: &Wanted) -> Result<bool> {
        let Wanted { metric, class, classes, .. } = wanted;
        if metric.is_counted() {
            return self.add_counted(table, wanted);
        }
        let measure = self.cases.measure(*metric, self.settings.empty)?;
        let patients =
            measure.as_ref().map_or(0, |measure| measure.patients(&self.points, classes).ids.len());
        let resamples = Resamples::new(patients, RESAMPLES);
        let groups: Vec<&Group> = self.groups().collect();
        let measured: Vec<Measured> = groups
            .par_iter()
            .map(|group| {
                let values = |measure: &_| self.measured(measure, wanted, group, &resamples);
                measure.as_ref().map_or_else(Measured::nothing, values)
            })
            .collect();
        let mut cells: Vec<Cell> = Vec::with_capacity(groups.len());
        let mut differences: Vec<Cell> = Vec::with_capacity(groups.len());
        let mut start = 0;
        for (groups, reference) in self.blocks.iter().zip(&self.references) {
            let block = &measured[start..start + groups.len()];
            start += groups.len();
            let reference = match reference {
                Named::One(row) if block[*row].summary.is_some() => Some(*row),
                _ => None,
            };
            let patients: Vec<&Patients> = block.iter().map(|measured| &measured.patients).collect();
            let tests = reference.map_or(vec![None; block.len()], |row| tests(&patients, row));
            let ranks = ranks(block, metric.higher);
            for (row, (measured, group)) in block.iter().zip(groups).enumerate() {
                let base = reference.filter(|&other| other != row).and_then(|other| block[other].summary);
                differences.push(match (measured.summary, base) {
                    (Some(own), Some(base)) => Cell::Difference(own.mean - base.mean),
                    _ => Cell::Blank,
                });
                cells.push(match measured.summary {
                    Some(summary) => Cell::Value(Box::new(Value {
                        summary,
                        interval: measured.interval,
                        rank: ranks[row],
                        test: tests[row],
                        empties: measured.empties,
                        partial: measured.partial,
                        counted: false,
                    })),
                    None if group.points.iter().any(|&point| self.sweep.points[point].done()) => {
                        Cell::Absent("not recorded".into())
                    }
                    None => Cell::Absent(absence(self.sweep, group)),
                });
            }
        }
        push(table, Column::of(wanted, class.as_deref()), cells);
        if self.settings.difference {
            let column = Column {
                title: format!("Δ {}", metric.name),
                field: format!("{}_difference", metric.field(class.as_deref())),
                higher: None,
                holds: Holds::Difference,
                metric: None,
            };
            push(table, column, differences);
        }
        Ok(measure.is_some())
    }

    /// Adds the column of a metric that points have whether or not they were evaluated.
    fn add_counted(&self, table: &mut Table, wanted: &Wanted) -> Result<bool> {
        let known = self.sweep.points.is_empty() || self.sweep.raw(0, &wanted.name).is_some();
        let values =
            if known { self.sweep.metric(&wanted.name)? } else { vec![None; self.sweep.points.len()] };
        let cell = |group: &Group| {
            let values: Vec<f64> = group.points.iter().filter_map(|&point| values[point]).collect();
            let value = |summary| Value {
                summary,
                interval: None,
                rank: Rank::Other,
                test: None,
                empties: 0,
                partial: false,
                counted: true,
            };
            let summary = Summary::of(&values);
            summary
                .map_or(Cell::Absent("not recorded".into()), |summary| Cell::Value(Box::new(value(summary))))
        };
        let cells = self.groups().map(cell).collect();
        push(table, Column { higher: None, ..Column::of(wanted, None) }, cells);
        Ok(known)
    }

    fn measured(
        &self,
        measure: &super::super::cases::Measure,
        wanted: &Wanted,
        group: &Group,
        resamples: &Resamples,
    ) -> Measured {
        let Wanted { metric, classes, .. } = wanted;
        let done = || group.points.iter().copied().filter(|&point| self.sweep.points[point].done());
        let values: Vec<f64> = done().filter_map(|point| measure.point(point, classes)).collect();
        let patients = measure.patients(&group.points, classes);
        let interval = if patients.ids.len() == resamples.patients() {
            patients.interval(resamples)
        } else {
            patients.interval(&Resamples::new(patients.ids.len(), RESAMPLES))
        };
        let [_, predictions, labels] = self.cases.empties(&group.points, classes);
        Measured {
            summary: Summary::of(&values),
            interval,
            patients,
            empties: if metric.is_distance() { predictions + labels } else { 0 },
            partial: values.len() < done().count(),
        }
    }
}

impl Column {
    fn of(wanted: &Wanted, class: Option<&str>) -> Self {
        Self {
            title: wanted.metric.title_of(class),
            field: wanted.metric.field(class),
            higher: Some(wanted.metric.higher),
            holds: Holds::Metric,
            metric: Some(wanted.name.clone()),
        }
    }
}

/// Adds a column with a cell for each row.
fn push(table: &mut Table, column: Column, cells: Vec<Cell>) {
    table.columns.push(column);
    table.rows.iter_mut().zip(cells).for_each(|(row, cell)| row.cells.push(cell));
}

impl Measured {
    fn nothing() -> Self {
        Self { summary: None, interval: None, patients: Patients::default(), empties: 0, partial: false }
    }
}

/// The metric columns: each metric over all classes and, where asked for, each class.
fn wanted(sweep: &Sweep, cases: &Cases, settings: &TableSettings) -> Result<Vec<Wanted>> {
    let class = |name: &String| {
        let at = cases.classes.iter().position(|class| class == name);
        at.with_context(|| {
            format!(
                "`{name}` in `classes` of a table is no class: write some of {}",
                cases.classes.join(", ")
            )
        })
    };
    // A sweep without results has no classes yet.
    let chosen: Vec<usize> = match settings.classes.as_slice() {
        [] => (0..cases.classes.len()).collect(),
        _ if cases.classes.is_empty() => vec![],
        names => names.iter().map(class).collect::<Result<_>>()?,
    };
    let mut found = Vec::new();
    for name in &settings.metrics {
        let (metric, own) = metric(sweep, name)?;
        let classes = match own {
            Some(own) => vec![class(&own.to_owned())?],
            None => chosen.clone(),
        };
        found.push(Wanted { name: name.clone(), metric, class: own.map(String::from), classes });
        if settings.per_class && own.is_none() && !metric.is_counted() {
            found.extend(chosen.iter().map(|&class| {
                let own = cases.classes[class].clone();
                Wanted { name: format!("{name}_{own}"), metric, class: Some(own), classes: vec![class] }
            }));
        }
    }
    Ok(found)
}

/// Ranked as printed: what looks equal is equal.
fn ranks(block: &[Measured], higher: bool) -> Vec<Rank> {
    let printed = |summary: &Summary| (summary.mean * 100.0).round() as i64 * if higher { -1 } else { 1 };
    let mut order: Vec<i64> = block.iter().filter_map(|one| one.summary.as_ref()).map(printed).collect();
    let compared = order.len();
    order.sort_unstable();
    order.dedup();
    let rank = |summary: &Summary| match order.binary_search(&printed(summary)) {
        Ok(0) if compared > 1 => Rank::Best,
        Ok(1) if compared > 2 => Rank::Second,
        _ => Rank::Other,
    };
    block.iter().map(|one| one.summary.as_ref().map_or(Rank::Other, rank)).collect()
}
