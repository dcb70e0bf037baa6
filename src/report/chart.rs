//! The parts that all figures share: scales with round ticks, axes, legends, marks.

use super::drawing::{Align, At, Colour, Drawing, Label, text_width};
use super::labels;

/// Text and axes.
pub(super) const INK: Colour = Colour::new(0x22, 0x22, 0x22);
/// Tick labels.
pub(super) const SOFT: Colour = Colour::new(0x50, 0x50, 0x50);
/// Grid lines.
pub(super) const GRID: Colour = Colour::new(0xe6, 0xe6, 0xe6);
/// The paper.
pub(super) const WHITE: Colour = Colour::new(0xff, 0xff, 0xff);
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
/// More series than this are not told apart at all: beyond [`MOST_SERIES`], marks are hollow and dashes others.
pub(super) const MOST_STYLES: usize = 2 * MOST_SERIES;
/// Dashes and gaps in pixels, by the mark of a series; those of hollow marks follow.
const DASHES: [&[f64]; 8] = [
    &[],
    &[5.0, 3.3],
    &[2.6, 1.7],
    &[8.5, 5.7],
    &[8.0, 2.0, 1.5, 2.0],
    &[1.3, 2.6],
    &[8.0, 2.0, 1.5, 2.0, 1.5, 2.0],
    &[3.0, 6.0],
];
/// Width of a figure in pixels: a column of a journal, 3.5 inches.
pub(super) const COLUMN: u32 = 336;
/// Width of a figure over both columns, 7.16 inches.
pub(super) const PAGE: u32 = 687;
/// Height of the data's rectangle.
pub(super) const PLOT: f64 = 170.0;
/// Sizes of text in pixels: 7.5 and 7 points.
pub(super) const TEXT: f64 = 10.0;
pub(super) const TICK: f64 = 9.33;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 14.0;
/// Width of a legend's sample.
const SAMPLE: f64 = 22.0;

/// How one series looks: colour, and a mark and dashes that hold in grey print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) colour: Colour,
    mark: usize,
    hollow: bool,
}

/// The style of the `index`-th series.
pub(super) fn style(index: usize) -> Style {
    let hollow = index % MOST_STYLES >= MOST_SERIES;
    // Where a colour comes again, its mark is another one, too.
    let mark = (index + if hollow { 2 } else { 0 }) % 4;
    Style { colour: PALETTE[index % PALETTE.len()], mark, hollow }
}

impl Style {
    /// Draws the mark of this series: disc, square, triangle or diamond, full or hollow.
    pub(super) fn mark(self, drawing: &mut Drawing, at: At, radius: f64, alpha: f64) {
        self.shape(drawing, at, radius, self.colour.with_alpha(alpha));
        if self.hollow {
            self.shape(drawing, at, (radius - 1.0).max(0.5 * radius), WHITE);
        }
    }

    fn shape(self, drawing: &mut Drawing, (x, y): At, r: f64, colour: Colour) {
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
        match self.dashes() {
            [] => drawing.line(points, width, self.colour),
            dashes => drawing.dashed(points, width, self.colour, dashes),
        }
    }

    fn dashes(self) -> &'static [f64] {
        DASHES[self.mark + if self.hollow { 4 } else { 0 }]
    }

    /// What is left of it in grey print but for the lightness: its mark and its dashes.
    #[cfg(test)]
    pub(super) fn in_grey(self) -> (usize, bool, &'static [f64]) {
        (self.mark, self.hollow, self.dashes())
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

    /// Values along an axis: in decades where they span more than eight to one, else evenly.
    pub(super) fn along(values: &[f64], from: f64, to: f64) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > 0.0 && high / low > 8.0 {
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

/// Where the data begins at the left of a figure whose vertical axis has these ticks and a title.
pub(super) fn left_of(ticks: &[Tick]) -> f64 {
    widest(ticks) + TEXT + 15.0
}

fn widest(ticks: &[Tick]) -> f64 {
    ticks.iter().map(|(_, text)| text_width(text, TICK, false)).fold(0.0, f64::max)
}

/// The height that ticks and title of a horizontal axis take below the data.
pub(super) const BELOW: f64 = 36.0;

/// Draws grid, axis line, ticks and title of a horizontal axis below `area`. Ticks that would touch the one before have
/// no text.
pub(super) fn axis_below(drawing: &mut Drawing, area: Area, ticks: &[Tick], title: &str, grid: bool) {
    let mut free = f64::NEG_INFINITY;
    for (x, text) in ticks {
        if grid {
            drawing.line(&[(*x, area.top), (*x, area.bottom)], 0.6, GRID);
        }
        drawing.line(&[(*x, area.bottom), (*x, area.bottom + 3.0)], 0.7, SOFT);
        let half = text_width(text, TICK, false) / 2.0;
        if x - half > free {
            free = x + half + 4.0;
            drawing.text(text, (*x, area.bottom + 13.0), TICK, Align::Centre, SOFT);
        }
    }
    drawing.line(&[(area.left, area.bottom), (area.right, area.bottom)], 0.7, SOFT);
    let centre = f64::midpoint(area.left, area.right);
    drawing.text(title, (centre, area.bottom + 28.0), TEXT, Align::Centre, INK);
}

/// Draws grid, axis line, ticks and title of a vertical axis left of `area`.
pub(super) fn axis_left(drawing: &mut Drawing, area: Area, ticks: &[Tick], title: &str) {
    for (y, text) in ticks {
        drawing.line(&[(area.left, *y), (area.right, *y)], 0.6, GRID);
        drawing.text(text, (area.left - 5.0, y + TICK * 0.36), TICK, Align::Right, SOFT);
    }
    drawing.line(&[(area.left, area.top), (area.left, area.bottom)], 0.7, SOFT);
    let at = (area.left - 5.0 - widest(ticks) - 6.0, f64::midpoint(area.top, area.bottom));
    upward(drawing, title, at);
}

/// Draws a text that is read from below to above, centred at `at`.
pub(super) fn upward(drawing: &mut Drawing, text: &str, at: At) {
    let text = text.to_owned();
    drawing.label(Label {
        text,
        at,
        size: TEXT,
        colour: INK,
        align: Align::Centre,
        bold: false,
        upward: true,
    });
}

/// Draws a bar from `low` to `high` with ends of `half` pixels to either side, upright or lying.
pub(super) fn whisker(
    drawing: &mut Drawing,
    at: f64,
    (low, high): (f64, f64),
    half: f64,
    upright: bool,
    colour: Colour,
) {
    let place = |along: f64, aside: f64| if upright { (at + aside, along) } else { (along, at + aside) };
    drawing.line(&[place(low, 0.0), place(high, 0.0)], 0.9, colour);
    for end in [low, high] {
        drawing.line(&[place(end, -half), place(end, half)], 0.9, colour);
    }
}

/// An entry of a legend.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) style: Style,
}

/// The entries of series of these names, in their order; none where there are too many to tell apart.
pub(super) fn entries<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Entry> {
    let entries: Vec<Entry> = names
        .into_iter()
        .enumerate()
        .map(|(index, name)| Entry { text: name.to_owned(), style: style(index) })
        .collect();
    if entries.len() > MOST_SERIES { Vec::new() } else { entries }
}

/// Places entries in lines between `left` and `right`: for each entry its line and its left edge.
fn places(entries: &[Entry], left: f64, right: f64) -> Vec<(usize, f64)> {
    let (mut line, mut x) = (0, left);
    let mut places = Vec::new();
    for entry in entries {
        let width = SAMPLE + 5.0 + text_width(&entry.text, TICK, false);
        if x + width > right && x > left {
            (line, x) = (line + 1, left);
        }
        places.push((line, x));
        x += width + 12.0;
    }
    places
}

/// The height of the legend; 0 where there is but one entry.
pub(super) fn legend_height(entries: &[Entry], left: f64, right: f64) -> f64 {
    if entries.len() < 2 {
        return 0.0;
    }
    let lines = places(entries, left, right).last().map_or(0, |(line, _)| line + 1);
    lines as f64 * LEGEND_LINE + 5.0
}

/// What a legend shows of each series: what the figure draws of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    Line,
    Mark,
    Both,
}

/// Draws the legend from `top` downwards; nothing where there is but one entry.
pub(super) fn legend(
    drawing: &mut Drawing,
    entries: &[Entry],
    (left, right): (f64, f64),
    top: f64,
    sample: Sample,
) {
    if entries.len() < 2 {
        return;
    }
    for (entry, (line, x)) in entries.iter().zip(places(entries, left, right)) {
        let y = top + (line as f64 + 0.5) * LEGEND_LINE;
        if sample != Sample::Mark {
            entry.style.line(drawing, &[(x, y), (x + SAMPLE, y)], 1.4);
        }
        if sample != Sample::Line {
            entry.style.mark(drawing, (x + SAMPLE / 2.0, y), 2.8, 1.0);
        }
        drawing.text(&entry.text, (x + SAMPLE + 5.0, y + TICK * 0.36), TICK, Align::Left, INK);
    }
}

/// Relative luminance of a colour, 0–1: what is left of it in grey print.
#[cfg(test)]
pub(super) fn luminance(colour: Colour) -> f64 {
    let linear = |value: u8| {
        let value = f64::from(value) / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    let (red, green, blue) = colour.rgb;
    0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
}
