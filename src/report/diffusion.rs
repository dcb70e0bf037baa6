//! What the diffusion models learned: their loss by diffusion step, and images sampled from them.

use anyhow::{Context as _, Result};
use polars::prelude::DataFrame;

use super::chart::{self, Area, BELOW, COLUMN, Entry, PLOT, Sample, Scale, Tick};
use super::drawing::Drawing;
use super::figures::{Data, Figure, cell};
use super::labels;

/// The columns of the loss by diffusion step begin so; the first step of the bin follows.
const PREFIX: &str = "loss_t";
/// Parts of one training that are drawn apart.
const PARTS: usize = 4;

/// A line: its name and for each bin the mean loss there.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The logged rows of one model.
struct Model {
    label: String,
    /// Step, and the loss of each bin where it was seen.
    rows: Vec<(i64, Vec<Option<f64>>)>,
}

/// The loss by diffusion step: quarters of the training of one model, or the last quarter of each of several.
pub(super) fn loss_by_step(frame: &DataFrame) -> Result<Option<Figure>> {
    let mut bins: Vec<(f64, String)> = Vec::new();
    for column in frame.columns() {
        let name = column.name().as_str();
        if let Some(start) = name.strip_prefix(PREFIX).and_then(|start| start.parse().ok()) {
            bins.push((start, name.to_owned()));
        }
    }
    bins.sort_by(|a, b| a.0.total_cmp(&b.0));
    let models = models(frame, &bins)?;
    let width = match bins.as_slice() {
        [first, second, ..] => second.0 - first.0,
        _ => return Ok(None),
    };
    let centres: Vec<f64> = bins.iter().map(|(start, _)| start + width / 2.0).collect();
    let mut curves: Vec<Curve> = match models.as_slice() {
        [one] => (0..PARTS).map(|part| one.part(part, &centres)).collect(),
        several => several
            .iter()
            .map(|model| Curve { name: model.label.clone(), ..model.part(PARTS - 1, &centres) })
            .collect(),
    };
    curves.retain(|curve| !curve.points.is_empty());
    if curves.is_empty() {
        return Ok(None);
    }
    let shown = if models.len() == 1 {
        "Each line: a quarter of the training's steps."
    } else {
        "The last quarter of each training."
    };
    let caption = format!(
        "Pre-training loss (mean squared error of the predicted noise) by diffusion step t; noise grows with t. {shown}"
    );
    let mut data = Data::new(&["series", "diffusion_step", "loss"]);
    for curve in &curves {
        for &(step, loss) in &curve.points {
            data.push([curve.name.clone(), cell(step), cell(loss)]);
        }
    }
    Ok(Some(Figure {
        slug: "diffusion_loss".into(),
        caption,
        drawing: draw(&curves, bins.len() as f64 * width),
        data,
    }))
}

fn models(frame: &DataFrame, bins: &[(f64, String)]) -> Result<Vec<Model>> {
    let text = |name: &str| frame.column(name)?.str().cloned();
    let (keys, names) = (text("model")?, text("label")?);
    let steps = frame.column("step")?.i64().context("`step` of the diffusion frame is no whole number")?;
    let columns = bins.iter().map(|(_, name)| Ok(frame.column(name)?.f64()?)).collect::<Result<Vec<_>>>()?;
    let mut models: Vec<(&str, Model)> = Vec::new();
    for (row, ((key, name), step)) in keys.iter().zip(names.iter()).zip(steps.iter()).enumerate() {
        let (Some(key), Some(step)) = (key, step) else { continue };
        if models.last().is_none_or(|(last, _)| *last != key) {
            models.push((key, Model { label: name.unwrap_or(key).to_owned(), rows: Vec::new() }));
        }
        let losses = columns.iter().map(|column| column.get(row)).collect();
        if let Some((_, model)) = models.last_mut() {
            model.rows.push((step, losses));
        }
    }
    Ok(models.into_iter().map(|(_, model)| model).collect())
}

impl Model {
    /// The mean loss of each bin over one part of the training.
    fn part(&self, part: usize, centres: &[f64]) -> Curve {
        let last = self.rows.last().map_or(0, |(step, _)| *step);
        let bound = |part: usize| last * part as i64 / PARTS as i64;
        let (from, to) = (bound(part), bound(part + 1));
        let within = || self.rows.iter().filter(|(step, _)| (from + 1..=to).contains(step));
        let points = centres.iter().enumerate().filter_map(|(bin, &centre)| {
            let losses: Vec<f64> =
                within().filter_map(|(_, losses)| losses[bin]).filter(|loss| *loss > 0.0).collect();
            Some((centre, crate::stats::mean(&losses)?))
        });
        Curve { name: format!("steps {}–{to}", from + 1), points: points.collect() }
    }
}

/// `steps` is the number of diffusion steps.
fn draw(curves: &[Curve], steps: f64) -> Drawing {
    let entries: Vec<Entry> = chart::entries(curves.iter().map(|curve| curve.name.as_str()));
    let (edge, right) = (8.0, f64::from(COLUMN) - 10.0);
    let top = 8.0 + chart::legend_height(&entries, edge, right);
    let bottom = top + PLOT;
    let logs: Vec<f64> = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1.log10()).collect();
    let y = Scale::around(&logs, (f64::NEG_INFINITY, f64::INFINITY), bottom, top);
    let ticks = decades(&logs, &y);
    let area = Area { left: chart::left_of(&ticks), top, right, bottom };
    let x = Scale::new(0.0, steps, area.left, right);
    let mut drawing = Drawing::new(COLUMN, (bottom + BELOW) as u32);
    chart::axis_left(&mut drawing, area, &ticks, "Loss");
    chart::axis_below(&mut drawing, area, &chart::ticks(&x, 5), "Diffusion step t", false);
    for (index, curve) in curves.iter().enumerate() {
        let style = chart::style(index);
        let line: Vec<(f64, f64)> =
            curve.points.iter().map(|(t, loss)| (x.at(*t), y.at(loss.log10()))).collect();
        style.line(&mut drawing, &line, 1.3);
        for at in line {
            style.mark(&mut drawing, at, 2.3, 1.0);
        }
    }
    chart::legend(&mut drawing, &entries, (edge, right), 4.0, Sample::Both);
    drawing
}

/// Ticks at 1, 2 and 5 of each decade of a scale of logarithms.
fn decades(logs: &[f64], scale: &Scale) -> Vec<Tick> {
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
    let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut ticks = Vec::new();
    for decade in low.floor() as i32..=high.ceil() as i32 {
        for (factor, step) in [(1.0, 0.0), (2.0, 2_f64.log10()), (5.0, 5_f64.log10())] {
            let at = f64::from(decade) + step;
            if (low - 0.1..=high + 0.1).contains(&at) {
                ticks.push((scale.at(at), labels::number(factor * 10_f64.powi(decade))));
            }
        }
    }
    ticks
}
