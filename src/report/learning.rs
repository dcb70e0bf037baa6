//! Learning curves: what was logged over the training steps, one line per configuration.

use anyhow::{Context as _, Result, bail};
use polars::prelude::DataFrame;

use super::chart::{
    self, Area, BELOW, COLUMN, Entry, INK, MOST_SERIES, MOST_STYLES, PAGE, PLOT, Sample, Scale,
};
use super::drawing::Drawing;
use super::ends::{self, End};
use super::figures::{Asked, Data, Figure, Source, cell};
use super::sweep::Sweep;
use crate::results::{axis_names, is_validation_dice};

/// A line has at most this many points; more steps are averaged.
const MOST_POINTS: usize = 110;

/// One configuration: step, mean over seeds, lowest and highest seed.
struct Curve {
    name: String,
    points: Vec<(f64, f64, f64, f64)>,
    /// The mean evaluated Dice.
    dice: f64,
}

impl Curve {
    /// Whether seeds differ anywhere.
    fn has_band(&self) -> bool {
        self.points.iter().any(|point| point.2 < point.3)
    }
}

/// A column of the history that is drawn.
struct Logged {
    column: String,
    slug: String,
    title: String,
    caption: String,
    factor: f64,
}

impl Logged {
    /// What `column` is called in print.
    fn new(column: &str) -> Self {
        let (slug, title, caption, factor) = match column {
            "loss" => ("loss", "Training loss", "Training loss", 1.0),
            "accepted" => (
                "accepted",
                "Accepted pixels (%)",
                "Share of the unlabelled pixels whose pseudo-label passes the confidence threshold,",
                100.0,
            ),
            "lr" => ("lr", "Learning rate", "Learning rate", 1.0),
            dice if is_validation_dice(dice) => ("val_dice", "Validation Dice (%)", "Validation Dice", 100.0),
            other => {
                let title = other.replace('_', " ");
                let slug = super::figures::slug(other);
                return Self {
                    column: other.into(),
                    slug,
                    caption: format!("Logged `{other}`"),
                    title,
                    factor: 1.0,
                };
            }
        };
        let [slug, title, caption] = [slug, title, caption].map(str::to_owned);
        Self { column: column.to_owned(), slug, title, caption, factor }
    }

    /// What the scale stays within: nothing logged as a share or a loss is below 0, and no share above 100 %.
    fn limits(&self, values: &[f64]) -> (f64, f64) {
        let floor = if values.iter().all(|&value| value >= 0.0) { 0.0 } else { f64::NEG_INFINITY };
        let share = self.factor == 100.0 && values.iter().all(|&value| value <= 100.0);
        (floor, if share { 100.0 } else { f64::INFINITY })
    }
}

/// The columns of a history that hold logged numbers.
fn logged(history: &DataFrame, sweep: &Sweep) -> Vec<String> {
    let axes = axis_names(&sweep.frame);
    let names = history.columns().iter().filter(|column| column.f64().is_ok());
    names.map(|column| column.name().to_string()).filter(|name| !axes.contains(name)).collect()
}

/// The curves of what `y` names or, where it names nothing, of the training loss and the validation Dice, as far as they
/// were logged.
pub(super) fn curves(source: &Source, asked: &Asked) -> Result<Vec<Figure>> {
    let columns = logged(source.history, source.sweep);
    let wanted: Vec<&String> = if let Some(name) = &asked.y {
        let means =
            |column: &&String| *column == name || (is_validation_dice(name) && is_validation_dice(column));
        let Some(found) = columns.iter().find(means) else {
            bail!("`{name}` was not logged: the history has {}", columns.join(", "));
        };
        vec![found]
    } else {
        let loss = columns.iter().find(|name| *name == "loss");
        loss.into_iter().chain(columns.iter().find(|name| is_validation_dice(name))).collect()
    };
    let figures = wanted.into_iter().map(|name| figure(source, asked, &Logged::new(name)));
    Ok(figures.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The share of accepted pixels over training; `None` where no method of the sweep drops any.
pub(super) fn accepted(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    if logged(source.history, source.sweep).iter().any(|name| name == "accepted") {
        figure(source, asked, &Logged::new("accepted"))
    } else {
        Ok(None)
    }
}

fn figure(source: &Source, asked: &Asked, logged: &Logged) -> Result<Option<Figure>> {
    let (sweep, history) = (source.sweep, source.history);
    let rows = rows(sweep, history, logged)?;
    let last = rows.iter().flatten().map(|(step, _)| *step).fold(0.0, f64::max);
    let dice = sweep.metric("dice")?;
    let (axes, groups) = asked.configurations(sweep);
    let (mut curves, mut averaged) = (Vec::new(), false);
    for group in &groups {
        let seeds: Vec<&[(f64, f64)]> = group
            .points
            .iter()
            .map(|&point| rows[point].as_slice())
            .filter(|rows| !rows.is_empty())
            .collect();
        let longest = seeds.iter().map(|rows| rows.len()).max().unwrap_or(0);
        averaged |= longest > MOST_POINTS;
        let width = if longest > MOST_POINTS { last / MOST_POINTS as f64 } else { 0.0 };
        if longest > 0 {
            let dice: Vec<f64> = group.points.iter().filter_map(|&point| dice[point]).collect();
            let dice = crate::stats::mean(&dice).unwrap_or(0.0);
            curves.push(Curve { name: sweep.describe(&axes, group), points: merge(&seeds, width), dice });
        }
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let mut caption = format!("{} over training steps.", logged.caption);
    let seeds = groups.iter().any(|group| group.points.len() > 1);
    caption.push_str(match curves.len() {
        count if count > MOST_STYLES => {
            " Each line is a configuration's mean over its seeds; black: the one of the best evaluated Dice."
        }
        count if count > MOST_SERIES && seeds => " Line: mean over seeds.",
        _ if curves.iter().any(Curve::has_band) => " Line: mean over seeds; band: lowest to highest seed.",
        _ => "",
    });
    if averaged {
        caption.push_str(" Neighbouring steps are averaged.");
    }
    let mut data = Data::new(&["configuration", "step", "mean", "lowest", "highest"]);
    for curve in &curves {
        for &(step, mean, low, high) in &curve.points {
            data.push([curve.name.clone(), cell(step), cell(mean), cell(low), cell(high)]);
        }
    }
    let slug = format!("learning_{}", logged.slug);
    Ok(Some(Figure { slug, caption, drawing: draw(&curves, last, logged), data }))
}

/// For each point its logged (step, value), in order.
fn rows(sweep: &Sweep, history: &DataFrame, logged: &Logged) -> Result<Vec<Vec<(f64, f64)>>> {
    let ids = history.column("id")?.str().context("`id` of the history frame is no text")?;
    let steps = history.column("step")?.i64().context("`step` of the history frame is no whole number")?;
    let values = history.column(&logged.column)?.f64().context("a logged column holds no numbers")?;
    let places: std::collections::HashMap<&str, usize> =
        sweep.points.iter().enumerate().map(|(index, point)| (point.id.as_str(), index)).collect();
    let mut rows = vec![Vec::new(); sweep.points.len()];
    for ((id, step), value) in ids.iter().zip(steps.iter()).zip(values.iter()) {
        let place = id.and_then(|id| places.get(id));
        if let (Some(&place), Some(step), Some(value)) = (place, step, value) {
            rows[place].push((step as f64, value * logged.factor));
        }
    }
    Ok(rows)
}

/// Merges seeds step by step, or bin by bin of `width` steps where that is not 0.
fn merge(seeds: &[&[(f64, f64)]], width: f64) -> Vec<(f64, f64, f64, f64)> {
    let bin = |step: f64| if width > 0.0 { (step / width).floor() as i64 } else { step as i64 };
    // bin → per seed: sum of steps, sum of values, count
    let mut bins: std::collections::BTreeMap<i64, Vec<(f64, f64, f64)>> = std::collections::BTreeMap::new();
    for (index, rows) in seeds.iter().enumerate() {
        for &(step, value) in *rows {
            let sums = bins.entry(bin(step)).or_insert_with(|| vec![(0.0, 0.0, 0.0); seeds.len()]);
            let sum = &mut sums[index];
            *sum = (sum.0 + step, sum.1 + value, sum.2 + 1.0);
        }
    }
    let point = |sums: Vec<(f64, f64, f64)>| {
        let seen: Vec<(f64, f64)> =
            sums.iter().filter(|sum| sum.2 > 0.0).map(|sum| (sum.0 / sum.2, sum.1 / sum.2)).collect();
        let mean = |part: fn(&(f64, f64)) -> f64| seen.iter().map(part).sum::<f64>() / seen.len() as f64;
        let low = seen.iter().map(|s| s.1).fold(f64::INFINITY, f64::min);
        let high = seen.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
        (mean(|s| s.0), mean(|s| s.1), low, high)
    };
    bins.into_values().map(point).collect()
}

fn draw(curves: &[Curve], last: f64, logged: &Logged) -> Drawing {
    let crowded = curves.len() > MOST_STYLES;
    let named = !crowded && curves.len() > MOST_SERIES;
    let entries: Vec<Entry> = chart::entries(curves.iter().map(|curve| curve.name.as_str()));
    let names = if named { ends::width(curves.iter().map(|curve| curve.name.as_str())) } else { 0.0 };
    let width = if named { PAGE } else { COLUMN };
    let (edge, right) = (8.0, f64::from(width) - 10.0 - names);
    let top = 8.0 + chart::legend_height(&entries, edge, right);
    let bottom = top + if named { (1.3 * PLOT).max(curves.len() as f64 * ends::LINE) } else { PLOT };
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let values: Vec<f64> = if crowded || named {
        points().map(|point| point.1).collect()
    } else {
        points().flat_map(|point| [point.2, point.3]).collect()
    };
    let y = Scale::around(&values, logged.limits(&values), bottom, top);
    let ticks = chart::ticks(&y, 5);
    let area = Area { left: chart::left_of(&ticks), top, right, bottom };
    let first = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    // A log that begins near the start shows the start.
    let first = if first < 0.2 * last { 0.0 } else { first };
    let x = Scale::new(first, last, area.left, right);
    let mut drawing = Drawing::new(width, (bottom + BELOW) as u32);
    chart::axis_left(&mut drawing, area, &ticks, &logged.title);
    chart::axis_below(&mut drawing, area, &chart::ticks(&x, 5), "Training step", false);
    for (index, curve) in curves.iter().enumerate() {
        let colour = chart::style(index).colour;
        let lower = curve.points.iter().map(|point| (x.at(point.0), y.at(point.2)));
        let upper = curve.points.iter().rev().map(|point| (x.at(point.0), y.at(point.3)));
        let band: Vec<(f64, f64)> = lower.chain(upper).collect();
        if !crowded && !named && curve.has_band() {
            drawing.area(&band, colour.with_alpha(0.16));
        }
    }
    for (index, curve) in curves.iter().enumerate().rev() {
        let line: Vec<(f64, f64)> = curve.points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
        if crowded {
            drawing.line(&line, 0.6, chart::FAINT);
        } else {
            chart::style(index).line(&mut drawing, &line, 1.3);
        }
        if line.len() < 13 && !crowded {
            for &at in &line {
                chart::style(index).mark(&mut drawing, at, 2.3, 1.0);
            }
        }
    }
    if named {
        let ends = curves.iter().enumerate().filter_map(|(index, curve)| {
            let last = curve.points.last()?;
            let at = (x.at(last.0), y.at(last.1));
            Some(End { at, name: curve.name.as_str(), style: chart::style(index) })
        });
        ends::draw(&mut drawing, ends.collect(), area);
    }
    if crowded && let Some(best) = curves.iter().max_by(|a, b| a.dice.total_cmp(&b.dice)) {
        let line: Vec<(f64, f64)> = best.points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
        drawing.line(&line, 1.5, INK);
    }
    let marks = curves.iter().any(|curve| curve.points.len() < 13);
    let sample = if marks { Sample::Both } else { Sample::Line };
    chart::legend(&mut drawing, &entries, (edge, right), 4.0, sample);
    drawing
}
