//! Ablation bars: one for each combination of modules, which modules are on below it.

use anyhow::{Result, bail};

use super::chart::{self, Area, COLUMN, INK, SOFT, Scale, TEXT, TICK};
use super::drawing::{Align, Colour, Drawing, text_width};
use super::figures::{self, Asked, Data, Figure, PLACE, Place, Shown, Source};
use super::sweep::{Group, Kind, Sweep};
use super::table;

/// Height of the bars' rectangle.
const HEIGHT: f64 = 140.0;
/// Height of a line of the matrix of modules.
const LINE: f64 = 14.0;
/// More bars than this are not drawn: a table says more.
const MOST_BARS: usize = 32;
/// A bar's filling, and that of the one with all modules: they differ in grey, too.
const PLAIN: Colour = Colour::new(0xa6, 0xc8, 0xe4);
const FULL: Colour = Colour::new(0x2b, 0x6c, 0xa3);

/// A bar for each combination of the axes `x` (all that are on or off, unless it names some), over all points that have
/// it.
pub(super) fn draw(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let mut axes = if asked.x.is_empty() { asked.others(sweep, &[]) } else { asked.x.clone() };
    if asked.x.is_empty() {
        axes.retain(|&axis| sweep.axes[axis].kind == Kind::Flag);
    }
    if axes.is_empty() {
        bail!("an ablation figure needs axes that are on or off: name some with `x`");
    }
    let mut groups = sweep.groups_of(&asked.points, &axes);
    let on = |group: &Group| {
        let flags = axes.iter().zip(&group.key).map(|(&axis, &value)| sweep.axes[axis].values[value].flag);
        flags.filter(|flag| *flag == Some(true)).count()
    };
    groups.sort_by_key(on); // stable: as in the sweep file where equally many are on
    let left_out = groups.len().saturating_sub(MOST_BARS);
    groups.truncate(MOST_BARS);
    let places: Vec<Option<Place>> = groups
        .iter()
        .enumerate()
        .map(|(index, group)| Place::new(source, &shown, &group.points, index as f64))
        .collect();
    if places.iter().all(Option::is_none) {
        return Ok(None);
    }
    let drawing = plot(sweep, &axes, &groups, &places, &shown, &on);
    let shown_places: Vec<&Place> = places.iter().flatten().collect();
    let pooled = asked.others(sweep, &axes);
    let pooled: Vec<&str> = pooled.iter().map(|&axis| sweep.axes[axis].name.short.as_str()).collect();
    let pooled =
        if pooled.is_empty() { String::new() } else { format!(" Over all values of {}.", pooled.join(", ")) };
    let text = figures::legend_text(source, &shown_places)
        .replace("Large marks: mean", "Bars: mean")
        .replace(" bars:", " whiskers:");
    let paths: Vec<&str> = axes.iter().map(|&axis| sweep.axes[axis].path.as_str()).collect();
    let mut data = Data::new(&[&paths[..], &PLACE[..]].concat());
    for (group, place) in groups.iter().zip(&places) {
        let values =
            axes.iter().zip(&group.key).map(|(&axis, &value)| sweep.axes[axis].values[value].raw.clone());
        let cells = place.as_ref().map_or_else(Default::default, Place::cells);
        data.push(values.chain(cells));
    }
    let more = match left_out {
        0 => String::new(),
        _ => format!(" {left_out} more combinations, with more modules, are in the table alone."),
    };
    Ok(Some(Figure {
        slug: format!("ablation_{}_{}", figures::slugs(sweep, &axes), shown.column),
        caption: format!(
            "{} with and without the modules that the dots below name.{pooled} {text}{more}",
            shown.name()
        ),
        drawing,
        data,
    }))
}

fn plot(
    sweep: &Sweep,
    axes: &[usize],
    groups: &[Group],
    places: &[Option<Place>],
    shown: &Shown,
    on: &dyn Fn(&Group) -> usize,
) -> Drawing {
    let top = 16.0;
    let bottom = top + HEIGHT;
    let seen: Vec<f64> = places.iter().flatten().flat_map(Place::extent).collect();
    // Bars begin at 0 wherever values are not all far from it: a bar's length means its value.
    let low = seen.iter().copied().fold(f64::INFINITY, f64::min);
    let high = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let broken = low > 0.0 && (high - low) < 0.35 * high;
    let y = if broken {
        Scale::around(&seen, shown.limits(&seen), bottom, top)
    } else {
        Scale::new(low.min(0.0), high + 0.06 * (high - low.min(0.0)), bottom, top)
    };
    let ticks = chart::ticks(&y, 5);
    let names = axes.iter().map(|&axis| text_width(&sweep.axes[axis].name.short, TEXT, false));
    let left = chart::left_of(&ticks).max(names.fold(0.0, f64::max) + 12.0);
    let area = Area { left, top, right: f64::from(COLUMN) - 8.0, bottom };
    let mut drawing = Drawing::new(COLUMN, (bottom + 8.0 + LINE * axes.len() as f64 + 6.0) as u32);
    chart::axis_left(&mut drawing, area, &ticks, &shown.title());
    let lane = (area.right - area.left) / groups.len() as f64;
    let half = (lane * 0.33).min(24.0);
    let most = groups.iter().map(on).max().unwrap_or(0);
    for (index, (group, place)) in groups.iter().zip(places).enumerate() {
        let centre = area.left + lane * (index as f64 + 0.5);
        matrix(&mut drawing, sweep, axes, group, (centre, bottom + 8.0));
        let Some(place) = place else {
            let why = table::absence(sweep, group);
            drawing.text(&why, (centre, bottom - 5.0), TICK, Align::Centre, chart::FAINT);
            continue;
        };
        let height = y.at(place.summary.mean);
        let fill = if on(group) == most { FULL } else { PLAIN };
        drawing.rectangle((centre - half, height), (centre + half, bottom), fill);
        if let Some((low, high)) = place.interval {
            chart::whisker(&mut drawing, centre, (y.at(low), y.at(high)), 3.0, true, INK);
        }
        if place.values.len() > 1 {
            for &value in &place.values {
                drawing.dot((centre + half * 0.55, y.at(value)), 1.5, INK.with_alpha(0.7));
            }
        }
        if lane > 26.0 {
            let over = place.extent().map(|value| y.at(value)).fold(height, f64::min) - 4.0;
            let text = format!("{:.1}", place.summary.mean);
            // On white, so that no line of the grid runs through it.
            let half = text_width(&text, TICK, false) / 2.0 + 1.5;
            drawing.rectangle((centre - half, over - TICK * 0.8), (centre + half, over + 1.5), chart::WHITE);
            drawing.text(&text, (centre, over), TICK, Align::Centre, INK);
        }
    }
    drawing.line(&[(area.left, bottom), (area.right, bottom)], 0.7, SOFT);
    if broken {
        // Two strokes say that the axis does not begin at 0.
        for shift in [0.0, 3.0] {
            let at = bottom - 5.0 - shift;
            drawing.line(&[(area.left - 3.0, at + 2.0), (area.left + 3.0, at - 2.0)], 0.8, INK);
        }
    }
    for (line, &axis) in axes.iter().enumerate() {
        let baseline = bottom + 8.0 + LINE * (line as f64 + 0.5) + TEXT * 0.36;
        drawing.text(&sweep.axes[axis].name.short, (area.left - 6.0, baseline), TEXT, Align::Right, INK);
    }
    drawing
}

/// The modules of one bar: a full dot where one is on, an empty one where it is off, a word where it is neither.
fn matrix(drawing: &mut Drawing, sweep: &Sweep, axes: &[usize], group: &Group, (x, top): (f64, f64)) {
    for (line, (&axis, &value)) in axes.iter().zip(&group.key).enumerate() {
        let y = top + LINE * (line as f64 + 0.5);
        let value = &sweep.axes[axis].values[value];
        match value.flag {
            Some(true) => drawing.dot((x, y), 3.6, INK),
            Some(false) => {
                drawing.dot((x, y), 3.6, chart::FAINT);
                drawing.dot((x, y), 2.7, Colour::new(0xff, 0xff, 0xff));
            }
            None => drawing.text(&value.shown, (x, y + TICK * 0.36), TICK, Align::Centre, INK),
        }
    }
}
