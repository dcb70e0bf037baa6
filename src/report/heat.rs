//! A metric over two axes: a cell for each pair of values, its mean written in it.

use anyhow::{Result, bail};

use super::chart::{self, COLUMN, INK, PAGE, TEXT, TICK};
use super::drawing::{Align, Colour, Drawing, text_width};
use super::figures::{self, Asked, Data, Figure, PLACE, Place, Shown, Source};
use super::sweep::Sweep;
use super::table;

/// Cividis (Nuñez, Anderton, Renslow 2018) at nine places from low to high: the colour-blind see it as others do, and its
/// lightness rises evenly, so that it holds in grey.
const RAMP: [(u8, u8, u8); 9] = [
    (0, 34, 78),
    (26, 56, 111),
    (64, 77, 107),
    (92, 99, 110),
    (124, 123, 120),
    (156, 148, 120),
    (188, 174, 108),
    (221, 203, 88),
    (254, 232, 56),
];
/// Height of a cell, at least.
const LEAST: f64 = 20.0;
/// A map has at most this many cells on a side.
const MOST: usize = 40;

/// The colour at `t`, 0–1.
pub(super) fn ramp(t: f64) -> Colour {
    let along = t.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let index = (along as usize).min(RAMP.len() - 2);
    let part = along - index as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
    let (low, high) = (RAMP[index], RAMP[index + 1]);
    Colour::new(mix(low.0, high.0), mix(low.1, high.1), mix(low.2, high.2))
}

/// The two axes of `x`, the first along x; all other axes are pooled.
pub(super) fn draw(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let both = match (&asked.x[..], asked.by.as_deref()) {
        (&[across, down], None) | (&[across], Some(&[down])) => [across, down],
        _ => bail!("a heat map needs two axes: `x: [one, other]`"),
    };
    let [across, down] = both;
    let (columns, rows) = (sweep.axes[across].values.len(), sweep.axes[down].values.len());
    if columns > MOST || rows > MOST {
        bail!("a heat map has at most {MOST} × {MOST} cells, not {columns} × {rows}");
    }
    let mut places: Vec<Vec<Option<Place>>> = vec![vec![None; columns]; rows];
    let mut absent: Vec<Vec<Option<String>>> = vec![vec![None; columns]; rows];
    for group in sweep.groups_of(&asked.points, &both) {
        let (column, row) = (group.key[0], group.key[1]);
        absent[row][column] = Some(table::absence(sweep, &group));
        places[row][column] = Place::new(source, &shown, &group.points, column as f64);
    }
    if places.iter().flatten().all(Option::is_none) {
        return Ok(None);
    }
    let drawing = plot(sweep, both, &places, &absent, &shown);
    let paths = both.map(|axis| sweep.axes[axis].path.as_str());
    let mut data = Data::new(&[&paths[..], &PLACE[..]].concat());
    for (row, line) in places.iter().enumerate() {
        for (column, place) in line.iter().enumerate() {
            let Some(place) = place else { continue };
            let values = [&sweep.axes[across].values[column], &sweep.axes[down].values[row]];
            data.push(values.into_iter().map(|value| value.raw.clone()).chain(place.cells()));
        }
    }
    let asked =
        Asked { by: None, x: both.to_vec(), points: asked.points.clone(), y: None, against: Vec::new() };
    let pooled = asked.others(sweep, &both);
    let pooled: Vec<&str> = pooled.iter().map(|&axis| sweep.axes[axis].name.short.as_str()).collect();
    let pooled =
        if pooled.is_empty() { String::new() } else { format!(", over all values of {}", pooled.join(", ")) };
    let better = if shown.metric.higher { "higher" } else { "lower" };
    let names = both.map(|axis| figures::first_lower(&sweep.axes[axis].name.long));
    Ok(Some(Figure {
        slug: format!("heatmap_{}_{}", figures::slugs(sweep, &both), shown.column),
        caption: format!(
            "{} over {} and {}: mean over points{pooled}; {better} is better, the best is framed.",
            shown.name(),
            names[0],
            names[1]
        ),
        drawing,
        data,
    }))
}

fn plot(
    sweep: &Sweep,
    [across, down]: [usize; 2],
    places: &[Vec<Option<Place>>],
    absent: &[Vec<Option<String>>],
    shown: &Shown,
) -> Drawing {
    let heads: Vec<&str> = sweep.axes[across].values.iter().map(|value| value.shown.as_str()).collect();
    let names: Vec<&str> = sweep.axes[down].values.iter().map(|value| value.shown.as_str()).collect();
    let widest = |texts: &[&str]| texts.iter().map(|text| text_width(text, TICK, false)).fold(0.0, f64::max);
    let left = (widest(&names) + TEXT + 16.0).min(f64::from(COLUMN) * 0.5);
    // A cell holds its number; long heads are written upward.
    let upward = widest(&heads) > 52.0;
    let needed = if upward { 30.0 } else { widest(&heads).max(24.0) + 6.0 };
    let width = if left + needed * heads.len() as f64 + 44.0 > f64::from(COLUMN) { PAGE } else { COLUMN };
    let right = f64::from(width) - 48.0;
    let cell = ((right - left) / heads.len() as f64).min(90.0);
    let right = left + cell * heads.len() as f64;
    let below = if upward { widest(&heads).min(90.0) + 8.0 } else { 13.0 };
    // The title of the rows is written upward beside them.
    let row_height =
        LEAST.max((text_width(&title(sweep, down), TEXT, false) + 6.0) / names.len() as f64).min(48.0);
    let (top, height) = (8.0, row_height * names.len() as f64);
    let mut drawing = Drawing::new(width, (top + height + below + 18.0) as u32);
    let means = || places.iter().flatten().flatten().map(|place| place.summary.mean);
    let (low, high) = (means().fold(f64::INFINITY, f64::min), means().fold(f64::NEG_INFINITY, f64::max));
    let best = if shown.metric.higher { high } else { low };
    let share = |value: f64| if high > low { (value - low) / (high - low) } else { 0.5 };
    for (row, line) in places.iter().enumerate() {
        // Numbers grow upward, as along any axis.
        let y = top + row_height * (places.len() - 1 - row) as f64;
        let baseline = y + row_height / 2.0 + TICK * 0.36;
        drawing.text(names[row], (left - 6.0, baseline), TICK, Align::Right, chart::SOFT);
        for (column, place) in line.iter().enumerate() {
            let x = left + cell * column as f64;
            let middle = (x + cell / 2.0, baseline);
            let Some(place) = place else {
                let why = absent[row][column].as_deref().unwrap_or("–");
                drawing.text(why, middle, TICK, Align::Centre, chart::FAINT);
                continue;
            };
            let t = share(place.summary.mean);
            drawing.rectangle((x + 0.5, y + 0.5), (x + cell - 0.5, y + row_height - 0.5), ramp(t));
            let ink = if t > 0.55 { INK } else { Colour::new(0xff, 0xff, 0xff) };
            drawing.text(&format!("{:.1}", place.summary.mean), middle, TICK, Align::Centre, ink);
            if place.summary.mean == best {
                let (a, b) = ((x + 1.0, y + 1.0), (x + cell - 1.0, y + row_height - 1.0));
                let frame = [a, (b.0, a.1), b, (a.0, b.1), a];
                drawing.line(&frame, 2.4, Colour::new(0xff, 0xff, 0xff));
                drawing.line(&frame, 1.2, INK);
            }
        }
    }
    for (column, head) in heads.iter().enumerate() {
        let x = left + cell * (column as f64 + 0.5);
        if upward {
            chart::upward(&mut drawing, head, (x + TICK * 0.36, top + height + 6.0 + below / 2.0));
        } else {
            drawing.text(head, (x, top + height + 13.0), TICK, Align::Centre, chart::SOFT);
        }
    }
    let centre = f64::midpoint(left, right);
    drawing.text(&title(sweep, across), (centre, top + height + below + 14.0), TEXT, Align::Centre, INK);
    chart::upward(&mut drawing, &title(sweep, down), (TEXT + 1.0, top + height / 2.0));
    key(&mut drawing, right + 10.0, (top, top + height.max(60.0)), (low, high), shown);
    drawing
}

/// The name of an axis with its unit.
fn title(sweep: &Sweep, axis: usize) -> String {
    let name = &sweep.axes[axis].name;
    if name.unit.is_empty() { name.long.clone() } else { format!("{} ({})", name.long, name.unit) }
}

/// The bar that says which colour is which value.
fn key(drawing: &mut Drawing, left: f64, (top, bottom): (f64, f64), (low, high): (f64, f64), shown: &Shown) {
    const STEPS: usize = 24;
    let bottom = bottom.min(top + 130.0);
    let step = (bottom - top) / STEPS as f64;
    for index in 0..STEPS {
        let y = bottom - step * (index + 1) as f64;
        drawing.rectangle((left, y), (left + 8.0, y + step + 0.3), ramp(index as f64 / (STEPS - 1) as f64));
    }
    for (value, baseline) in [(high, top + TICK * 0.8), (low, bottom)] {
        drawing.text(&format!("{value:.1}"), (left + 11.0, baseline), TICK, Align::Left, chart::SOFT);
    }
    let middle = f64::midpoint(top, bottom) + TICK * 0.36;
    drawing.text(shown.metric.unit, (left + 11.0, middle), TICK, Align::Left, chart::SOFT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_rises_in_grey() {
        let grey: Vec<f64> = (0..=64).map(|i| chart::luminance(ramp(f64::from(i) / 64.0))).collect();
        assert!(grey.windows(2).all(|pair| pair[0] < pair[1]), "{grey:?}");
        assert!(grey[0] < 0.03 && grey[64] > 0.7);
        assert_eq!(ramp(-1.0), ramp(0.0));
    }
}
