//! A metric along the numbers of an axis: sensitivity, and methods over label ratios.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

use super::chart::{
    self, Area, BELOW, COLUMN, Entry, INK, MOST_SERIES, MOST_STYLES, PAGE, PLOT, Sample, Scale, TICK, Tick,
    WHITE,
};
use super::drawing::{Align, Drawing, text_width};
use super::ends::{self, End};
use super::figures::{self, Asked, Data, Figure, PLACE, Place, Series, Shown, Source, first_lower};
use super::rows;
use super::sweep::{self, Kind, Sweep};

/// The metric along the axis `x`, whatever its kind; `None` where nothing has been evaluated.
pub(super) fn along(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let &[axis] = &asked.x[..] else {
        bail!("a sensitivity figure needs `x`, the one axis that it runs along")
    };
    if source.sweep.axes[axis].kind != Kind::Number {
        return rows::draw(source, asked);
    }
    draw(source, asked, axis, ("sensitivity", None))
}

/// Methods over the label ratio.
pub(super) fn ratio(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let sweep = source.sweep;
    let axis = match asked.x[..] {
        [axis] => axis,
        _ => sweep.axis("label_ratio").context("a ratio figure needs the axis `label_ratio`")?,
    };
    if sweep.axes[axis].kind != Kind::Number {
        bail!(
            "`{}` holds percentages and numbers of patients: a ratio figure needs one of both",
            sweep.axes[axis].path
        );
    }
    let methods = sweep.axis("method").filter(|_| asked.by.is_none()).map(|axis| vec![axis]);
    let by = methods.or_else(|| asked.by.clone());
    let mut asked =
        Asked { x: vec![axis], by, points: asked.points.clone(), y: asked.y.clone(), against: Vec::new() };
    let bound = Bound::split(source, &mut asked, axis)?;
    draw(source, &asked, axis, ("ratio", bound))
}

/// What one method reaches where every patient is labelled: a level for the others, no place of their lines.
struct Bound {
    name: String,
    place: Place,
}

impl Bound {
    /// Takes the points at 100 % out of `asked` where they are of one series, and others have less.
    fn split(source: &Source, asked: &mut Asked, axis: usize) -> Result<Option<Self>> {
        let (sweep, shown) = (source.sweep, asked.shown(source)?);
        let whole = |value: &sweep::Value| value.number == Some(100.0) && value.raw.ends_with('%');
        let Some(whole) = sweep.axes[axis].values.iter().position(whole) else { return Ok(None) };
        let is_whole = |point: &usize| sweep.points[*point].key[axis] == whole;
        let (all, part): (Vec<usize>, Vec<usize>) = asked.points.iter().partition(|point| is_whole(point));
        let others = asked.others(sweep, &[axis]);
        let groups = sweep.groups_of(&all, &others);
        let ([group], false) = (&groups[..], part.is_empty()) else { return Ok(None) };
        let Some(place) = Place::new(source, &shown, &all, 100.0) else { return Ok(None) };
        let name =
            format!("{}, {} labelled", sweep.describe(&others, group), sweep.axes[axis].values[whole].shown);
        asked.points = part;
        Ok(Some(Self { name, place }))
    }

    /// A dotted level over the whole width, and its name.
    fn draw(&self, drawing: &mut Drawing, y: &Scale, area: Area) {
        let at = y.at(self.place.summary.mean);
        drawing.dashed(&[(area.left, at), (area.right, at)], 0.9, INK, &[1.0, 2.2]);
        let text = format!("{}: {:.2}", self.name, self.place.summary.mean);
        // Below it where there is no room above.
        let baseline = if at - TICK - 3.0 > area.top { at - 3.0 } else { at + TICK + 1.0 };
        // On white, for lines may run through it.
        let (left, wide) = (area.left + 5.0, text_width(&text, TICK, false));
        drawing.rectangle((left - 1.5, baseline - TICK * 0.8), (left + wide + 1.5, baseline + 1.5), WHITE);
        drawing.text(&text, (left, baseline), TICK, Align::Left, INK);
    }
}

/// A line through the means, each point a mark, bars of the interval over patients.
fn draw(
    source: &Source,
    asked: &Asked,
    axis: usize,
    (kind, bound): (&str, Option<Bound>),
) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let others = asked.others(sweep, &[axis]);
    let values = &sweep.axes[axis].values;
    let series = figures::series(source, &shown, &asked.points, (&[axis], &others), |place| {
        values[place.key[0]].number
    });
    if series.is_empty() {
        return Ok(None);
    }
    let drawing = plot(sweep, axis, &shown, &series, bound.as_ref());
    let name = &sweep.axes[axis].name;
    let places: Vec<&Place> = series.iter().flat_map(|one| &one.places).collect();
    let mut how = if is_named(&series) {
        "Means over seeds and patients; their intervals are in the data behind the figure.".to_owned()
    } else if series.len() > MOST_STYLES {
        format!("Grey: each of the {} settings of the other axes; black: their mean.", series.len())
    } else {
        figures::legend_text(source, &places)
    };
    let mut data = Data::new(&[&["series", sweep.axes[axis].path.as_str()], &PLACE[..]].concat());
    let bound_row = bound.as_ref().map(|bound| (&bound.name, &bound.place));
    let rows = series.iter().flat_map(|one| one.places.iter().map(move |place| (&one.name, place)));
    for (name, place) in rows.chain(bound_row) {
        data.push([vec![name.clone(), figures::cell(place.at)], place.cells().to_vec()].concat());
    }
    if let Some(Bound { name, .. }) = bound {
        let _ = write!(how, " Dotted: {name}.");
    }
    Ok(Some(Figure {
        slug: format!("{kind}_{}_{}", figures::slugs(sweep, &[axis]), shown.column),
        caption: format!("{} over {}. {how}", shown.name(), first_lower(&name.long)),
        drawing,
        data,
    }))
}

/// Whether there are too many series for a legend, and few enough for names at their ends.
fn is_named(series: &[Series]) -> bool {
    (MOST_SERIES + 1..=MOST_STYLES).contains(&series.len())
}

fn plot(sweep: &Sweep, axis: usize, shown: &Shown, series: &[Series], bound: Option<&Bound>) -> Drawing {
    let (crowded, named) = (series.len() > MOST_SERIES, is_named(series));
    let entries: Vec<Entry> = chart::entries(series.iter().map(|one| one.name.as_str()));
    let names = if named { ends::width(series.iter().map(|one| one.name.as_str())) } else { 0.0 };
    let width = if named { PAGE } else { COLUMN };
    let (edge, right) = (8.0, f64::from(width) - 8.0 - names);
    let top = 8.0 + chart::legend_height(&entries, edge, right);
    let bottom = top + if named { (1.3 * PLOT).max(series.len() as f64 * ends::LINE) } else { PLOT };
    let level = bound.map(|bound| bound.place.summary.mean);
    let places = || series.iter().flat_map(|one| &one.places);
    let seen: Vec<f64> = if crowded {
        places().map(|place| place.summary.mean).chain(level).collect()
    } else {
        places().flat_map(Place::extent).chain(level).collect()
    };
    let y = Scale::around(&seen, shown.limits(&seen), bottom, top);
    let ticks = chart::ticks(&y, 5);
    let area = Area { left: chart::left_of(&ticks), top, right, bottom };
    let here = |number: f64| places().any(|place| place.at == number);
    let values =
        sweep.axes[axis].values.iter().filter_map(|value| Some((value.number?, value.shown.clone())));
    let values: Vec<(f64, String)> = values.filter(|(number, _)| here(*number)).collect();
    let numbers: Vec<f64> = values.iter().map(|(number, _)| *number).collect();
    let x = Scale::along(&numbers, area.left, right);
    let mut drawing = Drawing::new(width, (bottom + BELOW) as u32);
    chart::axis_left(&mut drawing, area, &ticks, &shown.title());
    let name = &sweep.axes[axis].name;
    let unit = if name.unit.is_empty() { String::new() } else { format!(" ({})", name.unit) };
    let values: Vec<Tick> = values.into_iter().map(|(number, text)| (x.at(number), text)).collect();
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
        chart::legend(&mut drawing, &entries, (edge, right), 4.0, Sample::Both);
    }
    if let Some(bound) = bound {
        bound.draw(&mut drawing, &y, area);
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

/// The means of each series, and its name beside its end.
fn named_lines(drawing: &mut Drawing, series: &[Series], (x, y): (&Scale, &Scale), area: Area) {
    let line = |one: &Series| -> Vec<(f64, f64)> {
        one.places.iter().map(|place| (x.at(place.at), y.at(place.summary.mean))).collect()
    };
    let lines: Vec<Vec<(f64, f64)>> = series.iter().map(line).collect();
    for (index, line) in lines.iter().enumerate() {
        chart::style(index).line(drawing, line, 1.2);
    }
    for (index, line) in lines.iter().enumerate() {
        for &at in line {
            chart::style(index).mark(drawing, at, 2.8, 1.0);
        }
    }
    let ends = lines.iter().zip(series).enumerate();
    let ends = ends.filter_map(|(index, (line, one))| {
        Some(End { at: *line.last()?, name: &one.name, style: chart::style(index) })
    });
    ends::draw(drawing, ends.collect(), area);
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
