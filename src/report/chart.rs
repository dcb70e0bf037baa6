//! The parts that all figures share: scales with round ticks, axes, legends, marks.

use super::drawing::{Align, At, Colour, Drawing, Label, text_width};
use super::labels;

/// Text and axes.
pub(super) const INK: Colour = Colour::new(0x22, 0x22, 0x22);
/// Tick labels.
const SOFT: Colour = Colour::new(0x50, 0x50, 0x50);
/// Grid lines.
const GRID: Colour = Colour::new(0xe6, 0xe6, 0xe6);
/// Lines that are context, not content.
pub(super) const FAINT: Colour = Colour::new(0xb0, 0xb0, 0xb0);
/// Colours of Okabe and Ito, which the colour-blind tell apart, ordered so that neighbours differ in lightness too.
const PALETTE: [Colour; 8] = [
    Colour::new(0x00, 0x72, 0xb2),
    Colour::new(0xd5, 0x5e, 0x00),
    Colour::new(0x00, 0x9e, 0x73),
    Colour::new(0xcc, 0x79, 0xa7),
    Colour::new(0xe6, 0x9f, 0x00),
    Colour::new(0x56, 0xb4, 0xe9),
    Colour::new(0x22, 0x22, 0x22),
    Colour::new(0x8c, 0x56, 0x4b),
];
/// More series than this are not told apart by colour.
pub(super) const MOST_SERIES: usize = PALETTE.len();
/// Sizes of text, in pixels.
pub(super) const TEXT: f64 = 13.0;
const TICK: f64 = 12.0;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 22.0;

/// How one series looks: colour, and a mark and dashes that hold in grey print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) colour: Colour,
    mark: usize,
}

/// The style of the `index`-th series.
pub(super) fn style(index: usize) -> Style {
    Style { colour: PALETTE[index % PALETTE.len()], mark: index % 4 }
}

impl Style {
    /// Draws the mark of this series: disc, square, triangle or diamond.
    pub(super) fn mark(self, drawing: &mut Drawing, (x, y): At, radius: f64, alpha: f64) {
        let colour = self.colour.with_alpha(alpha);
        let r = radius;
        match self.mark {
            0 => drawing.dot((x, y), r, colour),
            1 => {
                let s = r * 0.9;
                drawing.area(&[(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)], colour);
            }
            2 => {
                drawing.area(
                    &[(x, y - r * 1.2), (x + r * 1.1, y + r * 0.8), (x - r * 1.1, y + r * 0.8)],
                    colour,
                );
            }
            _ => {
                let s = r * 1.25;
                drawing.area(&[(x, y - s), (x + s, y), (x, y + s), (x - s, y)], colour);
            }
        }
    }

    /// Draws a line in this series' colour and dashes.
    pub(super) fn line(self, drawing: &mut Drawing, points: &[At], width: f64) {
        match self.mark {
            0 => drawing.line(points, width, self.colour),
            1 => drawing.dashed(points, width, self.colour, 8.0),
            2 => drawing.dashed(points, width, self.colour, 4.5),
            _ => drawing.dashed(points, width, self.colour, 13.0),
        }
    }
}

/// A mapping of values to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// `low..high` to the pixels `from..to`.
    pub(super) fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
        Self { low, high, from, to, log: false }
    }

    /// The range of `values` (finite; not empty) with a margin, within `floor..=ceiling`.
    pub(super) fn around(values: &[f64], (floor, ceiling): (f64, f64), from: f64, to: f64) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let margin = if high > low { (high - low) * 0.08 } else { (high.abs() * 0.02).max(0.01) };
        Self::new((low - margin).max(floor), (high + margin).min(ceiling), from, to)
    }

    /// Values along an axis: in decades where they span more than fifty to one, else evenly.
    pub(super) fn along(values: &[f64], from: f64, to: f64) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > 0.0 && high / low > 50.0 {
            let margin = (high / low).ln() * 0.06;
            let (low, high) = (low.ln() - margin, high.ln() + margin);
            return Self { low, high, from, to, log: true };
        }
        let margin = (high - low) * 0.06;
        Self::new(low - margin, high + margin, from, to)
    }

    /// The pixel of `value`.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.ln() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values within the range, about `count` of them.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / count.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|s| s * power).find(|&s| s >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        // Divided where that is exact in decimal: 3 · 0.1 is not 0.3.
        let value =
            |i: i64| if step < 1.0 { i as f64 / (1.0 / step).round_to(1e-6) } else { i as f64 * step };
        (first..=last).map(value).collect()
    }
}

/// Rounding to a grid.
trait RoundTo {
    fn round_to(self, grid: f64) -> f64;
}

impl RoundTo for f64 {
    fn round_to(self, grid: f64) -> f64 {
        (self / grid).round() * grid
    }
}

/// The rectangle that data is drawn in, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

/// A tick: its pixel and its text.
pub(super) type Tick = (f64, String);

/// Round ticks as text.
pub(super) fn ticks(scale: &Scale, count: usize) -> Vec<Tick> {
    let values = scale.ticks(count);
    values.iter().map(|&value| scale.at(value)).zip(labels::numbers(&values)).collect()
}

/// Draws grid, axis line, ticks and title of a horizontal axis below `area`.
pub(super) fn axis_below(drawing: &mut Drawing, area: Area, ticks: &[Tick], title: &str, grid: bool) {
    for (x, text) in ticks {
        if grid {
            drawing.line(&[(*x, area.top), (*x, area.bottom)], 0.8, GRID);
        }
        drawing.line(&[(*x, area.bottom), (*x, area.bottom + 4.0)], 1.0, SOFT);
        drawing.text(text, (*x, area.bottom + 18.0), TICK, Align::Centre, SOFT);
    }
    drawing.line(&[(area.left, area.bottom), (area.right, area.bottom)], 1.0, SOFT);
    let centre = f64::midpoint(area.left, area.right);
    drawing.text(title, (centre, area.bottom + 40.0), TEXT, Align::Centre, INK);
}

/// Draws grid, axis line, ticks and title of a vertical axis left of `area`.
pub(super) fn axis_left(drawing: &mut Drawing, area: Area, ticks: &[Tick], title: &str) {
    let mut widest = 0.0_f64;
    for (y, text) in ticks {
        drawing.line(&[(area.left, *y), (area.right, *y)], 0.8, GRID);
        drawing.text(text, (area.left - 8.0, y + TICK * 0.36), TICK, Align::Right, SOFT);
        widest = widest.max(text_width(text, TICK, false));
    }
    drawing.line(&[(area.left, area.top), (area.left, area.bottom)], 1.0, SOFT);
    let at = (area.left - 8.0 - widest - 12.0, f64::midpoint(area.top, area.bottom));
    drawing.label(Label {
        text: title.to_owned(),
        at,
        size: TEXT,
        colour: INK,
        align: Align::Centre,
        bold: false,
        upward: true,
    });
}

/// An entry of a legend.
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) style: Style,
}

/// Places entries in lines between `left` and `right`: for each entry its line and its left edge.
fn places(entries: &[Entry], left: f64, right: f64) -> Vec<(usize, f64)> {
    let (mut line, mut x) = (0, left);
    let mut places = Vec::new();
    for entry in entries {
        let width = 39.0 + text_width(&entry.text, TICK, false);
        if x + width > right && x > left {
            (line, x) = (line + 1, left);
        }
        places.push((line, x));
        x += width + 20.0;
    }
    places
}

/// The height of the legend; 0 where there is but one entry.
pub(super) fn legend_height(entries: &[Entry], left: f64, right: f64) -> f64 {
    if entries.len() < 2 {
        return 0.0;
    }
    let lines = places(entries, left, right).last().map_or(0, |(line, _)| line + 1);
    lines as f64 * LEGEND_LINE + 8.0
}

/// Draws the legend from `top` downwards; nothing where there is but one entry.
pub(super) fn legend(drawing: &mut Drawing, entries: &[Entry], left: f64, right: f64, top: f64, marks: bool) {
    if entries.len() < 2 {
        return;
    }
    for (entry, (line, x)) in entries.iter().zip(places(entries, left, right)) {
        let y = top + (line as f64 + 0.5) * LEGEND_LINE;
        entry.style.line(drawing, &[(x, y), (x + 31.0, y)], 2.0);
        if marks {
            entry.style.mark(drawing, (x + 15.5, y), 4.0, 1.0);
        }
        drawing.text(&entry.text, (x + 38.0, y + TICK * 0.36), TICK, Align::Left, INK);
    }
}
