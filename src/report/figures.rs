//! Figures: a metric along an axis, and a metric for each configuration.

use anyhow::Result;

use super::chart::{self, Area, Entry, INK, MOST_SERIES, Scale, TEXT, Tick};
use super::drawing::{Align, Drawing, text_width};
use super::labels::Metric;
use super::sweep::{Group, Kind, Sweep};
use super::table;
use crate::stats::Summary;

/// Width of all figures, in pixels.
pub(super) const WIDTH: u32 = 660;
/// Height of the data's rectangle.
pub(super) const PLOT: f64 = 300.0;

/// A finished figure.
pub(super) struct Figure {
    /// Name of its files.
    pub(super) slug: String,
    pub(super) caption: String,
    pub(super) drawing: Drawing,
}

/// One series of a figure: what it is called and, for each place along the axis, the values of its seeds.
struct Series {
    name: String,
    places: Vec<(f64, Vec<f64>)>,
}

/// The figure of `metric` along the axis `axis`, whatever its kind; `None` where nothing has been evaluated.
pub(super) fn along(sweep: &Sweep, axis: usize, metric: &str) -> Result<Option<Figure>> {
    if sweep.axes[axis].kind == Kind::Number {
        sensitivity(sweep, axis, metric)
    } else {
        configurations(sweep, &[axis], metric)
    }
}

/// The metric over the numbers of one axis: a line through the means, each seed a dot, bars of ± SD.
fn sensitivity(sweep: &Sweep, axis: usize, metric: &str) -> Result<Option<Figure>> {
    let (shown, class) = table::metric(sweep, metric)?;
    let values = sweep.metric(metric)?;
    let others: Vec<usize> = sweep.varying().into_iter().filter(|&other| other != axis).collect();
    let series = sensitivity_series(sweep, axis, &others, &values);
    if series.is_empty() {
        return Ok(None);
    }
    let crowded = series.len() > MOST_SERIES;
    let entries: Vec<Entry> = series
        .iter()
        .enumerate()
        .map(|(index, series)| Entry { text: series.name.clone(), style: chart::style(index) })
        .collect();
    let entries = if crowded { Vec::new() } else { entries };
    let (left, right) = (72.0, f64::from(WIDTH) - 18.0);
    let top = 14.0 + chart::legend_height(&entries, left, right);
    let area = Area { left, top, right, bottom: top + PLOT };
    let mut drawing = Drawing::new(WIDTH, (area.bottom + 54.0) as u32);
    let numbers: Vec<f64> = sweep.axes[axis].values.iter().filter_map(|value| value.number).collect();
    let x = Scale::along(&numbers, left, right);
    let seen = extent(&series);
    let y = Scale::around(&seen, limits(shown, &seen), area.bottom, area.top);
    chart::axis_left(&mut drawing, area, &chart::ticks(&y, 6), &title(shown, class));
    let name = &sweep.axes[axis].name;
    let unit = if name.unit.is_empty() { String::new() } else { format!(" ({})", name.unit) };
    chart::axis_below(
        &mut drawing,
        area,
        &value_ticks(sweep, axis, &x),
        &format!("{}{unit}", name.long),
        false,
    );
    if crowded {
        faint_lines(&mut drawing, &series, &x, &y);
    } else {
        // Series stand side by side, each with its seeds at its right, as far apart as the values allow.
        let lane = (gap(&numbers, &x) * 0.6 / series.len() as f64).min(16.0);
        for (index, one) in series.iter().enumerate() {
            let shift = (index as f64 - (series.len() - 1) as f64 / 2.0) * lane;
            draw_series(&mut drawing, one, chart::style(index), &x, &y, (shift, (lane * 0.5).min(7.0)));
        }
        chart::legend(&mut drawing, &entries, left, right, 8.0, true);
    }
    let caption = format!(
        "{} over {}. {}",
        shown.name,
        first_lower(&name.long),
        if crowded {
            format!("Grey: each of the {} settings of the other axes; black: their mean.", series.len())
        } else {
            "Line: mean; small marks at its right: seeds; bars: ± SD over seeds (none where n = 1)."
                .to_owned()
        }
    );
    let slug = format!("sensitivity_{}_{metric}", slug(&sweep.axes[axis].path));
    Ok(Some(Figure { slug, caption, drawing }))
}

fn sensitivity_series(sweep: &Sweep, axis: usize, others: &[usize], values: &[Option<f64>]) -> Vec<Series> {
    let mut series = Vec::new();
    for group in sweep.groups(others) {
        let mut places: Vec<(f64, Vec<f64>)> = Vec::new();
        for place in sweep.groups_of(&group.points, &[axis]) {
            let seeds: Vec<f64> = place.points.iter().filter_map(|&point| values[point]).collect();
            if let (Some(number), false) = (sweep.axes[axis].values[place.key[0]].number, seeds.is_empty()) {
                places.push((number, seeds));
            }
        }
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !places.is_empty() {
            series.push(Series { name: sweep.describe(others, &group), places });
        }
    }
    series
}

/// The smallest distance of two of `numbers`, in pixels.
fn gap(numbers: &[f64], x: &Scale) -> f64 {
    numbers.windows(2).map(|pair| x.at(pair[1]) - x.at(pair[0])).fold(120.0, f64::min)
}

/// Draws means, bars and seeds; `shift` moves the means, and the seeds further by `aside`.
fn draw_series(
    drawing: &mut Drawing,
    series: &Series,
    style: chart::Style,
    x: &Scale,
    y: &Scale,
    (shift, aside): (f64, f64),
) {
    let means: Vec<(f64, Summary)> = series
        .places
        .iter()
        .filter_map(|(number, seeds)| Some((x.at(*number) + shift, Summary::of(seeds)?)))
        .collect();
    let line: Vec<(f64, f64)> = means.iter().map(|(x, summary)| (*x, y.at(summary.mean))).collect();
    style.line(drawing, &line, 2.0);
    for ((number, seeds), (centre, summary)) in series.places.iter().zip(&means) {
        if let Some(sd) = summary.sd {
            let (low, high) = (y.at(summary.mean - sd), y.at(summary.mean + sd));
            drawing.line(&[(*centre, low), (*centre, high)], 1.3, style.colour);
            for end in [low, high] {
                drawing.line(&[(centre - 4.0, end), (centre + 4.0, end)], 1.3, style.colour);
            }
            for &seed in seeds {
                style.mark(drawing, (x.at(*number) + shift + aside, y.at(seed)), 2.4, 0.5);
            }
        }
        style.mark(drawing, (*centre, y.at(summary.mean)), 4.2, 1.0);
    }
}

/// Each series in grey, and the mean over those that have a value, in black.
fn faint_lines(drawing: &mut Drawing, series: &[Series], x: &Scale, y: &Scale) {
    let mut columns: Vec<(f64, Vec<f64>)> = Vec::new();
    for one in series {
        let mut line = Vec::new();
        for (number, seeds) in &one.places {
            let Some(summary) = Summary::of(seeds) else { continue };
            line.push((x.at(*number), y.at(summary.mean)));
            match columns.iter_mut().find(|(other, _)| other == number) {
                Some((_, means)) => means.push(summary.mean),
                None => columns.push((*number, vec![summary.mean])),
            }
        }
        drawing.line(&line, 1.0, chart::FAINT);
        for &at in &line {
            drawing.dot(at, 2.0, chart::FAINT);
        }
    }
    columns.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mean = |means: &Vec<f64>| crate::stats::mean(means).unwrap_or(f64::NAN);
    let line: Vec<(f64, f64)> =
        columns.iter().map(|(number, means)| (x.at(*number), y.at(mean(means)))).collect();
    drawing.line(&line, 2.2, INK);
    for &at in &line {
        drawing.dot(at, 4.0, INK);
    }
}

/// One line per configuration of `axes` with its mean, seeds and ± SD; other axes make series.
pub(super) fn configurations(sweep: &Sweep, axes: &[usize], metric: &str) -> Result<Option<Figure>> {
    let (shown, class) = table::metric(sweep, metric)?;
    let values = sweep.metric(metric)?;
    let others: Vec<usize> = sweep.varying().into_iter().filter(|other| !axes.contains(other)).collect();
    let rows: Vec<Group> = sweep.groups(axes);
    // One axis of categories is named once, over its values.
    let (rows_title, row_names): (&str, Vec<String>) = match axes {
        [axis] if sweep.axes[*axis].kind == Kind::Category => {
            let axis = &sweep.axes[*axis];
            (&axis.name.short, rows.iter().map(|row| axis.values[row.key[0]].shown.clone()).collect())
        }
        _ => ("", rows.iter().map(|row| sweep.describe(axes, row)).collect()),
    };
    let mut series: Vec<Series> = Vec::new();
    for group in sweep.groups(&others) {
        let mut places = Vec::new();
        for place in sweep.groups_of(&group.points, axes) {
            let row = rows.iter().position(|row| row.key == place.key).unwrap_or(0);
            let seeds: Vec<f64> = place.points.iter().filter_map(|&point| values[point]).collect();
            if !seeds.is_empty() {
                places.push((row as f64, seeds));
            }
        }
        if !places.is_empty() {
            series.push(Series { name: sweep.describe(&others, &group), places });
        }
    }
    if series.is_empty() {
        return Ok(None);
    }
    let crowded = series.len() > MOST_SERIES;
    let absent: Vec<Option<String>> = rows
        .iter()
        .map(|row| {
            let evaluated = row.points.iter().any(|&point| values[point].is_some());
            (!evaluated).then(|| table::absence(sweep, row))
        })
        .collect();
    let drawing = draw_rows((rows_title, &row_names, &absent), &series, shown, &title(shown, class));
    let names: Vec<&str> = axes.iter().map(|&axis| sweep.axes[axis].name.short.as_str()).collect();
    let colours = if crowded { " Colours repeat: see the table for the other axes." } else { "" };
    let caption = format!(
        "{} by {}. Large marks: mean; small marks above: seeds; bars: ± SD over seeds (none where n = 1).{colours}",
        shown.name,
        names.join(", ")
    );
    let names: Vec<String> = axes.iter().map(|&axis| slug(&sweep.axes[axis].path)).collect();
    Ok(Some(Figure { slug: format!("configurations_{}_{metric}", names.join("_")), caption, drawing }))
}

/// Draws the rows: their names under `rows_title`, and why a row is empty.
fn draw_rows(
    (rows_title, names, absent): (&str, &[String], &[Option<String>]),
    series: &[Series],
    metric: Metric,
    title: &str,
) -> Drawing {
    let entries: Vec<Entry> = series
        .iter()
        .enumerate()
        .map(|(index, series)| Entry { text: series.name.clone(), style: chart::style(index) })
        .collect();
    let entries = if series.len() > MOST_SERIES { Vec::new() } else { entries };
    let widest = names.iter().map(|name| text_width(name, TEXT, false)).fold(60.0, f64::max);
    let widest = widest.max(text_width(rows_title, TEXT, false));
    let (left, right) = ((widest + 30.0).min(f64::from(WIDTH) * 0.5), f64::from(WIDTH) - 24.0);
    let lane = 14.0;
    let row_height = (series.len() as f64 * lane + 14.0).max(32.0);
    let head = if rows_title.is_empty() { 10.0 } else { 26.0 };
    let top = head + chart::legend_height(&entries, 16.0, right);
    let area = Area { left, top, right, bottom: top + row_height * names.len() as f64 };
    let mut drawing = Drawing::new(WIDTH, (area.bottom + 54.0) as u32);
    let seen = extent(series);
    let x = Scale::around(&seen, limits(metric, &seen), left + 4.0, right - 4.0);
    chart::axis_below(&mut drawing, area, &chart::ticks(&x, 6), title, true);
    let middle = |row: f64| area.top + row_height * (row + 0.5);
    for (row, (name, why)) in names.iter().zip(absent).enumerate() {
        let baseline = middle(row as f64) + TEXT * 0.36;
        drawing.text(name, (left - 12.0, baseline), TEXT, Align::Right, INK);
        if let Some(why) = why {
            drawing.text(why, (left + 10.0, baseline), TEXT, Align::Left, chart::FAINT);
        }
    }
    drawing.line(&[(left, area.top), (left, area.bottom)], 1.0, INK);
    drawing.text(rows_title, (left - 12.0, area.top - 8.0), TEXT, Align::Right, INK);
    for (index, one) in series.iter().enumerate() {
        let style = chart::style(index);
        let shift = (index as f64 - (series.len() - 1) as f64 / 2.0) * lane;
        for (row, seeds) in &one.places {
            let y = middle(*row) + shift;
            let Some(summary) = Summary::of(seeds) else { continue };
            if let Some(sd) = summary.sd {
                let (low, high) = (x.at(summary.mean - sd), x.at(summary.mean + sd));
                drawing.line(&[(low, y), (high, y)], 1.4, style.colour);
                for end in [low, high] {
                    drawing.line(&[(end, y - 4.0), (end, y + 4.0)], 1.4, style.colour);
                }
                for &seed in seeds {
                    style.mark(&mut drawing, (x.at(seed), y - 6.0), 2.4, 0.5);
                }
            }
            style.mark(&mut drawing, (x.at(summary.mean), y), 4.4, 1.0);
        }
    }
    chart::legend(&mut drawing, &entries, 16.0, right, 4.0, true);
    drawing
}

/// All that must be seen: seeds, and the ends of the bars.
fn extent(series: &[Series]) -> Vec<f64> {
    let mut values = Vec::new();
    for seeds in series.iter().flat_map(|series| &series.places).map(|(_, seeds)| seeds) {
        values.extend(seeds);
        if let Some(Summary { mean, sd: Some(sd), .. }) = Summary::of(seeds) {
            values.extend([mean - sd, mean + sd]);
        }
    }
    values
}

/// What the scale of the metric stays within: margins do not reach where no value can be, though bars may.
fn limits(metric: Metric, values: &[f64]) -> (f64, f64) {
    let floor = if values.iter().all(|&value| value >= 0.0) { 0.0 } else { f64::NEG_INFINITY };
    let full = metric.unit == "%" && values.iter().all(|&value| value <= 100.0);
    (floor, if full { 100.0 } else { f64::INFINITY })
}

fn title(metric: Metric, class: Option<&str>) -> String {
    class.map_or(metric.title(), |class| format!("{} {class} ({})", metric.name, metric.unit))
}

/// A tick at each value of the axis, less those that would touch the one before.
fn value_ticks(sweep: &Sweep, axis: usize, x: &Scale) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    let mut free = f64::NEG_INFINITY;
    for value in &sweep.axes[axis].values {
        let Some(number) = value.number else { continue };
        let (at, half) = (x.at(number), text_width(&value.shown, 12.0, false) / 2.0);
        if at - half > free {
            free = at + half + 6.0;
            ticks.push((at, value.shown.clone()));
        }
    }
    ticks
}

/// `Feature dimension D` as it stands within a sentence.
fn first_lower(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

/// An axis' path as part of a file's name.
pub(super) fn slug(path: &str) -> String {
    path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
