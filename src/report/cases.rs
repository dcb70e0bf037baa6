//! The cases frame as arrays: what intervals and tests over patients, single classes and other definitions of a
//! distance are computed from.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context as _, Result};
use polars::prelude::{Column, DataFrame};

use super::labels::Metric;
use super::sweep::Sweep;
use crate::spec::settings::EmptyDistance;
use crate::stats::{self, Resamples};

/// Nothing was predicted.
const NO_PREDICTION: u8 = 1;
/// Nothing is labelled.
const NO_LABEL: u8 = 2;

/// The rows of the cases frame, by point.
pub(super) struct Cases {
    /// The classes, in the order of the points frame.
    pub(super) classes: Vec<String>,
    /// The patients of all points, in the order in which they first appear.
    pub(super) patients: Vec<String>,
    /// For each point, its part of [`Self::order`].
    ranges: Vec<Range<usize>>,
    /// Rows of the frame, point by point.
    order: Vec<u32>,
    patient: Vec<u32>,
    class: Vec<u32>,
    empty: Vec<u8>,
    frame: DataFrame,
}

/// One metric of all cases.
pub(super) struct Measure<'a> {
    cases: &'a Cases,
    /// As printed, row by row of the frame; NaN where there is none.
    values: Vec<f64>,
}

/// What some points say of each patient.
#[derive(Clone, Debug, Default)]
pub(super) struct Patients {
    /// The patients, by number, ascending.
    pub(super) ids: Vec<u32>,
    /// Each one's mean: over its volumes and the points, then over the classes.
    pub(super) means: Vec<f64>,
    /// For each class, each patient's sum.
    sums: Vec<Vec<f64>>,
    /// For each class, how many values each sum has.
    counts: Vec<Vec<f64>>,
}

impl Cases {
    /// Reads the frame; `sweep` holds the points that its rows belong to.
    pub(super) fn new(frame: &DataFrame, sweep: &Sweep) -> Result<Self> {
        let rows = frame.height();
        let points: HashMap<&str, u32> =
            sweep.points.iter().enumerate().map(|(index, point)| (point.id.as_str(), index as u32)).collect();
        let owner = numbered(frame, "id", |id| {
            points
                .get(id)
                .copied()
                .with_context(|| format!("case of a point `{id}` that the points frame lacks"))
        })?;
        let classes = sweep.classes.clone();
        let class = numbered(frame, "class", |name| {
            let at = classes.iter().position(|class| class == name);
            at.map(|at| at as u32)
                .with_context(|| format!("class `{name}` is none of {}", classes.join(", ")))
        })?;
        let (mut names, mut patients) = (HashMap::new(), Vec::new());
        let column = if rows > 0 && column(frame, "patient")?.null_count() == 0 { "patient" } else { "case" };
        let patient = numbered(frame, column, |name| {
            let next = names.len() as u32;
            Ok(*names.entry(name.to_owned()).or_insert_with(|| {
                patients.push(name.to_owned());
                next
            }))
        })?;
        let mut empty = flags(frame, "empty_prediction", NO_PREDICTION)?;
        for (flag, label) in empty.iter_mut().zip(flags(frame, "empty_label", NO_LABEL)?) {
            *flag |= label;
        }
        let (ranges, order) = by_point(&owner, sweep.points.len());
        Ok(Self { classes, patients, ranges, order, patient, class, empty, frame: frame.clone() })
    }

    /// The values of `metric`; `empty` overrides what an empty mask's distances are. `None` where the frame does not
    /// hold what that needs, which `evaluate.variants` writes.
    pub(super) fn measure(
        &self,
        metric: Metric,
        empty: Option<EmptyDistance>,
    ) -> Result<Option<Measure<'_>>> {
        let Some(mut values) = self.numbers(metric.column)? else { return Ok(None) };
        if let Some(rule) = empty.filter(|_| metric.unit != "%") {
            let one_empty = |flag: u8| flag == NO_PREDICTION || flag == NO_LABEL;
            let diagonals = match rule {
                EmptyDistance::Zero => None,
                EmptyDistance::Diagonal => {
                    let name = if metric.unit == "mm" { "diagonal_mm" } else { "diagonal" };
                    match self.numbers(name)? {
                        Some(diagonals) => Some(diagonals),
                        None if self.empty.iter().any(|&flag| one_empty(flag)) => return Ok(None),
                        None => None,
                    }
                }
            };
            for (row, value) in values.iter_mut().enumerate().filter(|(row, _)| one_empty(self.empty[*row])) {
                *value = diagonals.as_ref().map_or(0.0, |diagonals| diagonals[row]);
            }
        }
        for value in &mut values {
            *value *= metric.factor;
        }
        Ok(Some(Measure { cases: self, values }))
    }

    /// The column `name` as numbers, NaN for null; `None` where the frame has no such column.
    fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Ok(column) = self.frame.column(name) else { return Ok(None) };
        let numbers =
            column.f64().with_context(|| format!("`{name}` of the cases frame holds no numbers"))?;
        Ok(Some(numbers.iter().map(|value| value.unwrap_or(f64::NAN)).collect()))
    }

    /// Over `points` and `classes`: masks, those that were predicted empty, those that are labelled so.
    pub(super) fn empties(&self, points: &[usize], classes: &[usize]) -> [usize; 3] {
        let mut found = [0; 3];
        for row in points.iter().flat_map(|&point| self.rows(point)) {
            if classes.contains(&(self.class[row] as usize)) {
                found[0] += 1;
                found[1] += usize::from(self.empty[row] & NO_PREDICTION > 0);
                found[2] += usize::from(self.empty[row] & NO_LABEL > 0);
            }
        }
        found
    }

    fn rows(&self, point: usize) -> impl Iterator<Item = usize> + '_ {
        self.order[self.ranges[point].clone()].iter().map(|&row| row as usize)
    }
}

impl Measure<'_> {
    /// The value of a point: mean over its volumes, class by class, then over `classes`. `None` without any.
    pub(super) fn point(&self, point: usize, classes: &[usize]) -> Option<f64> {
        let (mut sums, mut counts) =
            (vec![0.0; self.cases.classes.len()], vec![0_u32; self.cases.classes.len()]);
        for row in self.cases.rows(point).filter(|&row| !self.values[row].is_nan()) {
            sums[self.cases.class[row] as usize] += self.values[row];
            counts[self.cases.class[row] as usize] += 1;
        }
        let means = classes.iter().filter(|&&class| counts[class] > 0);
        stats::mean(&means.map(|&class| sums[class] / f64::from(counts[class])).collect::<Vec<_>>())
    }

    /// What `points` say of each patient.
    pub(super) fn patients(&self, points: &[usize], classes: &[usize]) -> Patients {
        let cases = self.cases;
        let mut all = vec![(0.0, 0.0); cases.patients.len() * classes.len()];
        let mut places = vec![None; cases.classes.len()];
        classes.iter().enumerate().for_each(|(place, &class)| places[class] = Some(place));
        for row in points.iter().flat_map(|&point| cases.rows(point)) {
            if let Some(place) = places[cases.class[row] as usize].filter(|_| !self.values[row].is_nan()) {
                let (sum, count) = &mut all[place * cases.patients.len() + cases.patient[row] as usize];
                *sum += self.values[row];
                *count += 1.0;
            }
        }
        let of = |place: usize, id: u32| all[place * cases.patients.len() + id as usize];
        let seen = |id: &u32| (0..classes.len()).any(|place| of(place, *id).1 > 0.0);
        let ids: Vec<u32> = (0..cases.patients.len() as u32).filter(seen).collect();
        let column = |place: usize| ids.iter().map(move |&id| of(place, id));
        let mean = |&id: &u32| {
            let classes = (0..classes.len()).map(|place| of(place, id)).filter(|(_, count)| *count > 0.0);
            stats::mean(&classes.map(|(sum, count)| sum / count).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        Patients {
            means: ids.iter().map(mean).collect(),
            sums: (0..classes.len()).map(|place| column(place).map(|(sum, _)| sum).collect()).collect(),
            counts: (0..classes.len()).map(|place| column(place).map(|(_, count)| count).collect()).collect(),
            ids,
        }
    }
}

impl Patients {
    /// The 95 % bootstrap interval over the patients; `None` for fewer than two of them.
    pub(super) fn interval(&self, resamples: &Resamples) -> Option<(f64, f64)> {
        let first = self.counts.first()?.first()?;
        // Where all have as many volumes, the mean of the patients' means is the mean over classes of means.
        if self.counts.iter().flatten().all(|count| count == first) {
            resamples.of_mean(&self.means)
        } else {
            resamples.of_class_means(&self.sums, &self.counts)
        }
    }

    /// The differences to `other`, patient by patient, of those that both have.
    pub(super) fn less(&self, other: &Self) -> Vec<f64> {
        let pair = |(id, mean): (&u32, &f64)| {
            let at = other.ids.binary_search(id).ok()?;
            Some(mean - other.means[at])
        };
        self.ids.iter().zip(&self.means).filter_map(pair).collect()
    }
}

fn column<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a Column> {
    frame.column(name).with_context(|| format!("the cases frame has no column `{name}`"))
}

/// The texts of a column as numbers. Neighbours are mostly equal, which spares asking.
fn numbered(frame: &DataFrame, name: &str, mut number: impl FnMut(&str) -> Result<u32>) -> Result<Vec<u32>> {
    let texts =
        column(frame, name)?.str().with_context(|| format!("`{name}` of the cases frame is no text"))?;
    let mut last: Option<(&str, u32)> = None;
    let mut numbers = Vec::with_capacity(texts.len());
    for text in texts.iter() {
        let text = text.unwrap_or_default();
        let found = match last {
            Some((known, found)) if known == text => found,
            _ => number(text)?,
        };
        last = Some((text, found));
        numbers.push(found);
    }
    Ok(numbers)
}

fn flags(frame: &DataFrame, name: &str, flag: u8) -> Result<Vec<u8>> {
    let values = column(frame, name)?.bool();
    let values = values.with_context(|| format!("`{name}` of the cases frame holds no truth values"))?;
    Ok(values.iter().map(|value| if value == Some(true) { flag } else { 0 }).collect())
}

/// For each point the range of its rows in a list of all rows.
fn by_point(owner: &[u32], points: usize) -> (Vec<Range<usize>>, Vec<u32>) {
    let mut ends = vec![0; points];
    for &point in owner {
        ends[point as usize] += 1;
    }
    let mut start = 0;
    let ranges: Vec<Range<usize>> = ends
        .iter()
        .map(|&count| {
            start += count;
            start - count..start
        })
        .collect();
    let mut next: Vec<usize> = ranges.iter().map(|range| range.start).collect();
    let mut order = vec![0; owner.len()];
    for (row, &point) in owner.iter().enumerate() {
        order[next[point as usize]] = row as u32;
        next[point as usize] += 1;
    }
    (ranges, order)
}
