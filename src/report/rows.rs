//! A metric for each configuration, a row each: for sets of blocks and steps, and all else that is no number.

use std::fmt::Write as _;

use anyhow::Result;

use super::chart::{self, Area, BELOW, COLUMN, Entry, INK, MOST_SERIES, PAGE, Sample, Scale, TEXT};
use super::drawing::{Align, Drawing, text_width};
use super::figures::{self, Asked, Data, Figure, PLACE, Place, Series, Shown, Source};
use super::sweep::{Group, Kind, Sweep};
use super::table;

/// More rows than this are not drawn: a table says more.
const MOST_ROWS: usize = 60;

/// One line per configuration of the axes `x` with its mean, points and interval; other axes make series.
pub(super) fn draw(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let axes = if asked.x.is_empty() { asked.others(sweep, &[]) } else { asked.x.clone() };
    let mut others = if asked.x.is_empty() { Vec::new() } else { asked.others(sweep, &axes) };
    let mut pooled = String::new();
    if asked.by.is_none() && sweep.groups_of(&asked.points, &others).len() > MOST_SERIES {
        let names: Vec<&str> = others.iter().map(|&axis| sweep.axes[axis].name.short.as_str()).collect();
        pooled = format!(" Over all values of {}.", names.join(", "));
        others.clear();
    }
    let mut rows: Vec<Group> = sweep.groups_of(&asked.points, &axes);
    let left_out = rows.len().saturating_sub(MOST_ROWS);
    rows.truncate(MOST_ROWS);
    let names = Names::new(sweep, &axes, &rows);
    let place = |group: &Group| rows.iter().position(|row| row.key == group.key).map(|row| row as f64);
    let series = figures::series(source, &shown, &asked.points, (&axes, &others), place);
    if series.is_empty() {
        return Ok(None);
    }
    let absent: Vec<Option<String>> = rows
        .iter()
        .map(|row| {
            let evaluated = row.points.iter().any(|&point| shown.values[point].is_some());
            (!evaluated).then(|| table::absence(sweep, row))
        })
        .collect();
    let drawing = plot(&names, &absent, &series, &shown);
    let places: Vec<&Place> = series.iter().flat_map(|one| &one.places).collect();
    let short: Vec<&str> = axes.iter().map(|&axis| sweep.axes[axis].name.short.as_str()).collect();
    let text = figures::legend_text(source, &places);
    let mut caption = format!("{} by {}.{pooled} {text}", shown.name(), short.join(", "));
    if series.len() > MOST_SERIES {
        caption.push_str(" Colours repeat: see the table for the other axes.");
    }
    if left_out > 0 {
        let _ = write!(caption, " {left_out} more rows are in the table alone.");
    }
    let paths: Vec<&str> = axes.iter().map(|&axis| sweep.axes[axis].path.as_str()).collect();
    let mut data = Data::new(&[&["series"], &paths[..], &PLACE[..]].concat());
    for one in &series {
        for place in &one.places {
            let key = &rows[place.at as usize].key;
            let values =
                axes.iter().zip(key).map(|(&axis, &value)| sweep.axes[axis].values[value].raw.clone());
            data.push(std::iter::once(one.name.clone()).chain(values).chain(place.cells()));
        }
    }
    let slug = format!("configurations_{}_{}", figures::slugs(sweep, &axes), shown.column);
    Ok(Some(Figure { slug, caption, drawing, data }))
}

/// What rows are called, and what stands over them.
pub(super) struct Names {
    title: String,
    rows: Vec<String>,
}

impl Names {
    /// One axis of categories is named once, over its values.
    pub(super) fn new(sweep: &Sweep, axes: &[usize], rows: &[Group]) -> Self {
        match axes {
            [axis] if sweep.axes[*axis].kind != Kind::Flag => {
                let axis = &sweep.axes[*axis];
                let rows = rows.iter().map(|row| axis.values[row.key[0]].shown.clone());
                Self { title: axis.name.short.clone(), rows: rows.collect() }
            }
            _ => Self {
                title: String::new(),
                rows: rows.iter().map(|row| sweep.describe(axes, row)).collect(),
            },
        }
    }

    /// The names of the rows.
    pub(super) fn rows(&self) -> &[String] {
        &self.rows
    }

    /// What they take at the left of the data.
    fn wide(&self) -> f64 {
        let texts = self.rows.iter().chain([&self.title]);
        texts.map(|text| text_width(text, TEXT, false)).fold(30.0, f64::max) + 14.0
    }

    /// The width of a figure in which the data has room beside them: a column's, or a page's.
    pub(super) fn sheet(&self) -> u32 {
        if self.wide() > f64::from(COLUMN) * 0.42 { PAGE } else { COLUMN }
    }

    /// Where the data begins at their right.
    pub(super) fn left(&self) -> f64 {
        self.wide().min(f64::from(self.sheet()) * 0.55)
    }

    /// The height of what stands over the rows.
    pub(super) fn head(&self) -> f64 {
        if self.title.is_empty() { 5.0 } else { 17.0 }
    }

    /// Draws the names in the middle of rows of `height` from `area.top` on, left of `area`.
    pub(super) fn draw(&self, drawing: &mut Drawing, area: Area, height: f64) {
        for (row, name) in self.rows.iter().enumerate() {
            let baseline = area.top + height * (row as f64 + 0.5) + TEXT * 0.36;
            drawing.text(
                &shortened_name(name, area.left - 10.0),
                (area.left - 7.0, baseline),
                TEXT,
                Align::Right,
                INK,
            );
        }
        drawing.line(&[(area.left, area.top), (area.left, area.bottom)], 0.7, INK);
        drawing.text(&self.title, (area.left - 7.0, area.top - 5.0), TEXT, Align::Right, INK);
    }
}

/// A text that is not wider than `most` pixels.
pub(super) fn shortened(text: &str, most: f64) -> String {
    if text_width(text, TEXT, false) <= most {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let fits = |&count: &usize| {
        let start: String = letters[..count].iter().collect();
        text_width(&format!("{start}…"), TEXT, false) <= most
    };
    let count = (1..letters.len()).rev().find(fits).unwrap_or(1);
    letters[..count].iter().collect::<String>() + "…"
}

/// A configuration's name that is not wider than `most` pixels: its first part, the method, is what gives way.
fn shortened_name(name: &str, most: f64) -> String {
    let Some((first, rest)) = name.split_once(" · ") else { return shortened(name, most) };
    let left = most - text_width(&format!(" · {rest}"), TEXT, false);
    if left < 25.0 { shortened(name, most) } else { format!("{} · {rest}", shortened(first, left)) }
}

/// Draws the rows, and why a row is empty.
fn plot(names: &Names, absent: &[Option<String>], series: &[Series], shown: &Shown) -> Drawing {
    let entries: Vec<Entry> = chart::entries(series.iter().map(|one| one.name.as_str()));
    let (edge, right) = (8.0, f64::from(names.sheet()) - 12.0);
    let lane = 8.5;
    let height = (series.len().min(MOST_SERIES) as f64 * lane + 8.0).max(19.0);
    let top = names.head() + chart::legend_height(&entries, edge, right);
    let area = Area { left: names.left(), top, right, bottom: top + height * names.rows().len() as f64 };
    let mut drawing = Drawing::new(names.sheet(), (area.bottom + BELOW) as u32);
    let seen: Vec<f64> = series.iter().flat_map(|one| &one.places).flat_map(Place::extent).collect();
    let x = Scale::around(&seen, shown.limits(&seen), area.left + 3.0, right - 3.0);
    chart::axis_below(&mut drawing, area, &chart::ticks(&x, 5), &shown.title(), true);
    names.draw(&mut drawing, area, height);
    let middle = |row: f64| area.top + height * (row + 0.5);
    for (row, why) in absent.iter().enumerate() {
        if let Some(why) = why {
            let at = (area.left + 6.0, middle(row as f64) + TEXT * 0.36);
            drawing.text(why, at, TEXT, Align::Left, chart::FAINT);
        }
    }
    let lanes = series.len().min(MOST_SERIES);
    for (index, one) in series.iter().enumerate() {
        let style = chart::style(index);
        let shift = ((index % lanes) as f64 - (lanes - 1) as f64 / 2.0) * lane;
        for place in &one.places {
            let y = middle(place.at) + shift;
            if let Some((low, high)) = place.interval {
                chart::whisker(&mut drawing, y, (x.at(low), x.at(high)), 2.2, false, style.colour);
            }
            if place.values.len() > 1 {
                for &value in &place.values {
                    style.mark(&mut drawing, (x.at(value), y - 3.8), 1.5, 0.55);
                }
            }
            style.mark(&mut drawing, (x.at(place.summary.mean), y), 2.8, 1.0);
        }
    }
    chart::legend(&mut drawing, &entries, (edge, right), 2.0, Sample::Mark);
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_gives_way_and_the_share_stays() {
        let name = "SC-SSL (our reconstruction) · 10 % labelled";
        let short = shortened_name(name, 150.0);
        assert!(short.starts_with("SC-SSL") && short.ends_with("… · 10 % labelled"), "{short}");
        assert!(text_width(&short, TEXT, false) <= 150.0);
        assert_eq!(shortened_name(name, 500.0), name);
        let names = |rows: &[&str]| Names {
            title: String::new(),
            rows: rows.iter().map(|&r| r.to_owned()).collect(),
        };
        assert_eq!((names(&["BCP"]).sheet(), names(&["BCP", name]).sheet()), (COLUMN, PAGE));
    }
}
