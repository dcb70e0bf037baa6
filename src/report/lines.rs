//! A metric along the numbers of an axis: sensitivity, and methods over label ratios.

use anyhow::{Context as _, Result, bail};

use super::chart::{self, Area, BELOW, COLUMN, Entry, INK, MOST_SERIES, PLOT, Scale, TICK, Tick};
use super::drawing::{Align, Drawing, text_width};
use super::figures::{self, Asked, Data, Figure, PLACE, Place, Series, Shown, Source, first_lower};
use super::rows;
use super::sweep::{Kind, Sweep};

/// The metric along the axis `x`, whatever its kind; `None` where nothing has been evaluated.
pub(super) fn along(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let &[axis] = &asked.x[..] else {
        bail!("a sensitivity figure needs `x`, the one axis that it runs along")
    };
    if source.sweep.axes[axis].kind != Kind::Number {
        return rows::draw(source, asked);
    }
    draw(source, asked, axis, "sensitivity")
}

/// Methods over the label ratio.
pub(super) fn ratio(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let axis = match asked.x[..] {
        [axis] => axis,
        _ => source.sweep.axis("label_ratio").context("a ratio figure needs the axis `label_ratio`")?,
    };
    if source.sweep.axes[axis].kind != Kind::Number {
        bail!(
            "`{}` holds percentages and numbers of patients: a ratio figure needs one of both",
            source.sweep.axes[axis].path
        );
    }
    let methods = source.sweep.axis("method").filter(|_| asked.by.is_none()).map(|axis| vec![axis]);
    let by = methods.or_else(|| asked.by.clone());
    let asked =
        Asked { x: vec![axis], by, points: asked.points.clone(), y: asked.y.clone(), against: Vec::new() };
    draw(source, &asked, axis, "ratio")
}

/// A line through the means, each point a mark, bars of the interval over patients.
fn draw(source: &Source, asked: &Asked, axis: usize, kind: &str) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let others = asked.others(sweep, &[axis]);
    let values = &sweep.axes[axis].values;
    let series = figures::series(source, &shown, &asked.points, (&[axis], &others), |place| {
        values[place.key[0]].number
    });
    if series.is_empty() {
        return Ok(None);
    }
    let crowded = series.len() > MOST_SERIES;
    let drawing = plot(sweep, axis, &shown, &series);
    let name = &sweep.axes[axis].name;
    let places: Vec<&Place> = series.iter().flat_map(|one| &one.places).collect();
    let how = if is_named(&series) {
        "Means over seeds and patients; their intervals are in the data behind the figure.".to_owned()
    } else if crowded {
        format!("Grey: each of the {} settings of the other axes; black: their mean.", series.len())
    } else {
        figures::legend_text(source, &places)
    };
    let mut data = Data::new(&[&["series", sweep.axes[axis].path.as_str()], &PLACE[..]].concat());
    for one in &series {
        for place in &one.places {
            data.push([vec![one.name.clone(), figures::cell(place.at)], place.cells().to_vec()].concat());
        }
    }
    Ok(Some(Figure {
        slug: format!("{kind}_{}_{}", figures::slugs(sweep, &[axis]), shown.column),
        caption: format!("{} over {}. {how}", shown.name(), first_lower(&name.long)),
        drawing,
        data,
    }))
}

/// Most series that have their names at their ends.
const MOST_NAMED: usize = 16;

/// Whether there are too many series for a legend, and few enough for names at their ends.
fn is_named(series: &[Series]) -> bool {
    (MOST_SERIES + 1..=MOST_NAMED).contains(&series.len())
}

fn plot(sweep: &Sweep, axis: usize, shown: &Shown, series: &[Series]) -> Drawing {
    let (crowded, named) = (series.len() > MOST_SERIES, is_named(series));
    let entries: Vec<Entry> = chart::entries(series.iter().map(|one| one.name.as_str()));
    let names = if named {
        series.iter().map(|one| text_width(&one.name, TICK, false)).fold(0.0, f64::max) + ASIDE
    } else {
        0.0
    };
    // As wide as a column, but names must not take the place of the lines.
    let width = f64::from(COLUMN).max(names + 240.0);
    let (edge, right) = (8.0, width - 8.0 - names);
    let top = 8.0 + chart::legend_height(&entries, edge, right);
    let bottom = top + if named { PLOT.max(series.len() as f64 * LINE) } else { PLOT };
    let seen: Vec<f64> = if crowded {
        series.iter().flat_map(|one| &one.places).map(|place| place.summary.mean).collect()
    } else {
        series.iter().flat_map(|one| &one.places).flat_map(Place::extent).collect()
    };
    let y = Scale::around(&seen, shown.limits(&seen), bottom, top);
    let ticks = chart::ticks(&y, 5);
    let area = Area { left: chart::left_of(&ticks), top, right, bottom };
    let numbers: Vec<f64> = sweep.axes[axis].values.iter().filter_map(|value| value.number).collect();
    let x = Scale::along(&numbers, area.left, right);
    let mut drawing = Drawing::new(width.ceil() as u32, (bottom + BELOW) as u32);
    chart::axis_left(&mut drawing, area, &ticks, &shown.title());
    let name = &sweep.axes[axis].name;
    let unit = if name.unit.is_empty() { String::new() } else { format!(" ({})", name.unit) };
    let values: Vec<Tick> = sweep.axes[axis]
        .values
        .iter()
        .filter_map(|value| Some((x.at(value.number?), value.shown.clone())))
        .collect();
    chart::axis_below(&mut drawing, area, &values, &format!("{}{unit}", name.long), false);
    if named {
        named_lines(&mut drawing, series, (&x, &y), area);
    } else if crowded {
        faint_lines(&mut drawing, series, &x, &y);
    } else {
        // Series stand side by side, each with its points at its right, as far apart as the values allow.
        let lane = (gap(&numbers, &x) * 0.6 / series.len() as f64).min(9.0);
        for (index, one) in series.iter().enumerate() {
            let shift = (index as f64 - (series.len() - 1) as f64 / 2.0) * lane;
            draw_series(&mut drawing, one, chart::style(index), &x, &y, (shift, (lane * 0.5).min(4.5)));
        }
        chart::legend(&mut drawing, &entries, edge, right, 4.0, true);
    }
    drawing
}

/// The smallest distance of two of `numbers`, in pixels.
fn gap(numbers: &[f64], x: &Scale) -> f64 {
    numbers.windows(2).map(|pair| x.at(pair[1]) - x.at(pair[0])).fold(70.0, f64::min)
}

/// Draws means, bars and points; `shift` moves the means, and the points further by `aside`.
fn draw_series(
    drawing: &mut Drawing,
    series: &Series,
    style: chart::Style,
    x: &Scale,
    y: &Scale,
    (shift, aside): (f64, f64),
) {
    let centre = |place: &Place| x.at(place.at) + shift;
    let line: Vec<(f64, f64)> =
        series.places.iter().map(|place| (centre(place), y.at(place.summary.mean))).collect();
    style.line(drawing, &line, 1.4);
    for place in &series.places {
        if let Some((low, high)) = place.interval {
            chart::whisker(drawing, centre(place), (y.at(low), y.at(high)), 2.2, true, style.colour);
        }
        if place.values.len() > 1 {
            for &value in &place.values {
                style.mark(drawing, (centre(place) + aside, y.at(value)), 1.5, 0.55);
            }
        }
        style.mark(drawing, (centre(place), y.at(place.summary.mean)), 2.8, 1.0);
    }
}

/// The distance of the names of lines from the data's rectangle, and of one from the next.
const ASIDE: f64 = 16.0;
const LINE: f64 = 11.5;

/// The means of each series, and its name beside its end.
fn named_lines(drawing: &mut Drawing, series: &[Series], (x, y): (&Scale, &Scale), area: Area) {
    let mut ends = Vec::new();
    for (index, one) in series.iter().enumerate() {
        let line: Vec<(f64, f64)> =
            one.places.iter().map(|place| (x.at(place.at), y.at(place.summary.mean))).collect();
        let style = chart::style(index);
        style.line(drawing, &line, 1.2);
        for &at in &line {
            style.mark(drawing, at, 2.4, 1.0);
        }
        ends.extend(line.last().map(|&end| (end, one.name.as_str(), style.colour)));
    }
    ends.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
    let wanted: Vec<f64> = ends.iter().map(|(end, ..)| end.1).collect();
    for ((end, name, colour), at) in ends.iter().zip(spread(&wanted, LINE, (area.top, area.bottom))) {
        let (from, to) = (end.0 + 4.0, area.right + ASIDE - 3.0);
        drawing.line(&[(from, end.1), (area.right.max(from), at), (to, at)], 0.5, colour.with_alpha(0.6));
        drawing.text(name, (area.right + ASIDE, at + TICK * 0.36), TICK, Align::Left, INK);
    }
}

/// Places near `wanted` (in ascending order), at least `gap` apart, within the limits as far as there is room.
fn spread(wanted: &[f64], gap: f64, (top, bottom): (f64, f64)) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut free = top;
    for place in &mut places {
        *place = place.max(free);
        free = *place + gap;
    }
    let mut free = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(free);
        free = *place - gap;
    }
    places
}

/// Each series in grey, and the mean over those that have a value, in black.
fn faint_lines(drawing: &mut Drawing, series: &[Series], x: &Scale, y: &Scale) {
    let mut columns: Vec<(f64, Vec<f64>)> = Vec::new();
    for one in series {
        let mut line = Vec::new();
        for place in &one.places {
            let mean = place.summary.mean;
            line.push((x.at(place.at), y.at(mean)));
            match columns.iter_mut().find(|(other, _)| *other == place.at) {
                Some((_, means)) => means.push(mean),
                None => columns.push((place.at, vec![mean])),
            }
        }
        drawing.line(&line, 0.6, chart::FAINT);
    }
    columns.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mean = |means: &Vec<f64>| crate::stats::mean(means).unwrap_or(f64::NAN);
    let line: Vec<(f64, f64)> =
        columns.iter().map(|(number, means)| (x.at(*number), y.at(mean(means)))).collect();
    drawing.line(&line, 1.6, INK);
    for &at in &line {
        drawing.dot(at, 2.6, INK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_apart_within_the_limits_and_where_they_belong_if_there_is_room() {
        assert_eq!(spread(&[20.0, 50.0], 10.0, (0.0, 100.0)), [20.0, 50.0]);
        assert_eq!(spread(&[20.0, 21.0, 22.0], 10.0, (0.0, 100.0)), [20.0, 30.0, 40.0]);
        assert_eq!(spread(&[95.0, 96.0, 99.0], 10.0, (0.0, 100.0)), [80.0, 90.0, 100.0]);
    }
}
