//! A figure as a list of shapes, drawn by plotters as SVG and as PNG. Both come from the same list, so that they agree
//! to a fraction of a pixel.

use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::{
    BitMapBackend, DrawingBackend, FontDesc, FontFamily, FontStyle, FontTransform, IntoFont, RGBAColor,
    RGBColor, SVGBackend, ShapeStyle, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, register_font};

/// Backends take whole pixels: everything is drawn at this scale.
const SCALE: f64 = 4.0;
/// Pixels of the PNG for one of the figure; what [`SCALE`] has beyond it smooths the edges.
pub(super) const PNG_SCALE: u32 = 2;
/// plotters divides font sizes by this for SVG, and the bundled font's height is this many em.
const FONT_HEIGHT: f64 = 1.24;
/// The name that the bundled font is registered under, and SVG's generic family.
const FAMILY: &str = "sans-serif";
/// What SVG asks for before the generic family: the bundled font has the same widths.
const SVG_FAMILIES: &str = "Helvetica, Arial, Liberation Sans, sans-serif";

/// An opaque or translucent colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colour {
    pub(super) rgb: (u8, u8, u8),
    pub(super) alpha: f64,
}

impl Colour {
    pub(super) const fn new(red: u8, green: u8, blue: u8) -> Self {
        Self { rgb: (red, green, blue), alpha: 1.0 }
    }

    pub(super) const fn with_alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    fn rgba(self) -> RGBAColor {
        RGBColor(self.rgb.0, self.rgb.1, self.rgb.2).mix(self.alpha)
    }
}

/// A point in pixels from the upper left corner.
pub(super) type At = (f64, f64);

/// Where a text stands relative to its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// A line of text; `at` is on its baseline.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) text: String,
    pub(super) at: At,
    /// Height of the em, in pixels.
    pub(super) size: f64,
    pub(super) colour: Colour,
    pub(super) align: Align,
    pub(super) bold: bool,
    /// Read from below to above.
    pub(super) upward: bool,
}

/// What figures are made of.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Line { points: Vec<At>, width: f64, colour: Colour },
    Area { points: Vec<At>, colour: Colour },
    Dot { centre: At, radius: f64, colour: Colour },
    Text(Label),
}

/// A figure on white.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) shapes: Vec<Shape>,
}

impl Drawing {
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { width, height, shapes: Vec::new() }
    }

    pub(super) fn line(&mut self, points: &[At], width: f64, colour: Colour) {
        self.shapes.push(Shape::Line { points: points.to_vec(), width, colour });
    }

    /// A line of dashes of `dash` pixels, with gaps of two thirds of that.
    pub(super) fn dashed(&mut self, points: &[At], width: f64, colour: Colour, dash: f64) {
        let (mut on, mut left) = (true, dash);
        let mut piece: Vec<At> = points.first().copied().into_iter().collect();
        for pair in points.windows(2) {
            let (mut from, to) = (pair[0], pair[1]);
            loop {
                let length = (to.0 - from.0).hypot(to.1 - from.1);
                if length < left {
                    left -= length;
                    piece.push(to);
                    break;
                }
                let t = left / length;
                from = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
                piece.push(from);
                if on {
                    self.line(&piece, width, colour);
                }
                on = !on;
                left = if on { dash } else { dash * 2.0 / 3.0 };
                piece = vec![from];
            }
        }
        if on && piece.len() > 1 {
            self.line(&piece, width, colour);
        }
    }

    pub(super) fn area(&mut self, points: &[At], colour: Colour) {
        self.shapes.push(Shape::Area { points: points.to_vec(), colour });
    }

    pub(super) fn dot(&mut self, centre: At, radius: f64, colour: Colour) {
        self.shapes.push(Shape::Dot { centre, radius, colour });
    }

    pub(super) fn text(&mut self, text: &str, at: At, size: f64, align: Align, colour: Colour) {
        let text = text.to_owned();
        self.shapes.push(Shape::Text(Label { text, at, size, colour, align, bold: false, upward: false }));
    }

    pub(super) fn label(&mut self, label: Label) {
        self.shapes.push(Shape::Text(label));
    }

    /// The figure as one SVG element.
    pub(super) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let mut backend = SVGBackend::with_string(&mut text, self.scaled(SCALE));
            // SVG's `Top` anchor puts the baseline 0.76 em below the position.
            paint(&mut backend, self, 0.76, false)?;
            drawn(backend.present())?;
        }
        let (width, height) = self.scaled(SCALE);
        let header = format!("<svg width=\"{width}\" height=\"{height}\"");
        let body = text.strip_prefix(&header).context("plotters starts an SVG with its size")?;
        let body = body.replace("font-family=\"sans-serif\"", &format!("font-family=\"{SVG_FAMILIES}\""));
        // plotters gives only areas a fill and no joins.
        let body = body.replace("<polyline ", "<polyline stroke-linejoin=\"round\" ");
        Ok(format!("<svg width=\"{}\" height=\"{}\" role=\"img\"{body}", self.width, self.height))
    }

    /// The figure as a PNG of [`PNG_SCALE`] times its size. plotters encodes into files only: `scratch`, which must end
    /// in `.png`, is written and removed.
    pub(super) fn png(&self, scratch: &Path) -> Result<Vec<u8>> {
        let (width, height) = self.scaled(SCALE);
        let mut pixels = vec![255; width as usize * height as usize * 3];
        {
            let mut backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            // plotters' own text drawing puts the baseline half the font's height below the position.
            paint(&mut backend, self, FONT_HEIGHT / 2.0, true)?;
        }
        let small = shrink(&pixels, width as usize, (SCALE as usize) / PNG_SCALE as usize);
        let size = self.scaled(f64::from(PNG_SCALE));
        let write = || {
            let mut backend = BitMapBackend::new(scratch, size);
            drawn(backend.blit_bitmap((0, 0), size, &small))?;
            drawn(backend.present())?;
            fs::read(scratch).map_err(anyhow::Error::from)
        };
        let bytes = write().with_context(|| format!("cannot write {}", scratch.display()));
        let _ = fs::remove_file(scratch);
        bytes
    }

    fn scaled(&self, scale: f64) -> (u32, u32) {
        ((f64::from(self.width) * scale) as u32, (f64::from(self.height) * scale) as u32)
    }
}

/// Width of `text` in pixels at an em of `size` pixels.
pub(super) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    // Asked at ten times the size, for the answer is in whole pixels.
    let font = font(size * 10.0, bold);
    let width = font.layout_box(text).map_or(0, |((left, _), (right, _))| right - left);
    f64::from(width) / 10.0
}

fn font(size: f64, bold: bool) -> FontDesc<'static> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let regular = include_bytes!("../../assets/font/SweepSans-Regular.ttf");
        let heavy = include_bytes!("../../assets/font/SweepSans-Bold.ttf");
        for (style, bytes) in [(FontStyle::Normal, &regular[..]), (FontStyle::Bold, &heavy[..])] {
            let registered = register_font(FAMILY, style, bytes);
            debug_assert!(registered.is_ok(), "the bundled font is a font");
        }
    });
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    (FontFamily::SansSerif, size * FONT_HEIGHT, style).into_font()
}

/// Draws all shapes. `baseline` is how far below the position a backend sets its text's baseline, in em; bitmaps want
/// their thick lines as single segments (`segments`), because plotters fills self-crossing outlines with holes.
fn paint<B: DrawingBackend>(backend: &mut B, drawing: &Drawing, baseline: f64, segments: bool) -> Result<()> {
    let white = RGBColor(255, 255, 255).filled();
    let (width, height) = backend.get_size();
    drawn(backend.draw_rect((0, 0), (width as i32, height as i32), &white, true))?;
    for shape in &drawing.shapes {
        match shape {
            Shape::Line { points, width, colour } => line(backend, points, *width, *colour, segments)?,
            Shape::Area { points, colour } => {
                drawn(backend.fill_polygon(points.iter().map(|&p| whole(p)), &colour.rgba().filled()))?;
            }
            Shape::Dot { centre, radius, colour } => {
                let radius = (radius * SCALE).round() as u32;
                drawn(backend.draw_circle(whole(*centre), radius, &colour.rgba().filled(), true))?;
            }
            Shape::Text(label) => text(backend, label, baseline)?,
        }
    }
    Ok(())
}

/// Backends' errors have a type that plotters does not name.
fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw the figure: {error}"))
}

fn line<B: DrawingBackend>(
    backend: &mut B,
    points: &[At],
    width: f64,
    colour: Colour,
    segments: bool,
) -> Result<()> {
    let mut points: Vec<(i32, i32)> = points.iter().map(|&p| whole(p)).collect();
    points.dedup();
    let stroke = ((width * SCALE).round() as u32).max(1);
    let style = ShapeStyle { color: colour.rgba(), filled: false, stroke_width: stroke };
    if points.len() < 2 {
        return Ok(());
    }
    if !segments {
        return drawn(backend.draw_path(points, &style));
    }
    for pair in points.windows(2) {
        drawn(backend.draw_path(pair.iter().copied(), &style))?;
    }
    for &joint in &points[1..points.len() - 1] {
        drawn(backend.draw_circle(joint, stroke / 2, &colour.rgba().filled(), true))?;
    }
    Ok(())
}

fn text<B: DrawingBackend>(backend: &mut B, label: &Label, baseline: f64) -> Result<()> {
    let anchor = match label.align {
        Align::Left => HPos::Left,
        Align::Centre => HPos::Center,
        Align::Right => HPos::Right,
    };
    let colour = label.colour.rgba();
    let font = font(label.size * SCALE, label.bold);
    let font = if label.upward { font.transform(FontTransform::Rotate270) } else { font };
    let style = TextStyle::from(font).color(&colour).pos(Pos::new(anchor, VPos::Top));
    let above = baseline * label.size;
    // Turned upward, "above the baseline" is to its left.
    let at = if label.upward { (label.at.0 - above, label.at.1) } else { (label.at.0, label.at.1 - above) };
    drawn(backend.draw_text(&label.text, &style, whole(at)))
}

fn whole(at: At) -> (i32, i32) {
    ((at.0 * SCALE).round() as i32, (at.1 * SCALE).round() as i32)
}

/// Averages squares of `factor`² pixels of an RGB image of `width` pixels.
fn shrink(pixels: &[u8], width: usize, factor: usize) -> Vec<u8> {
    let (columns, rows) = (width / factor, pixels.len() / 3 / width / factor);
    let mut small = Vec::with_capacity(columns * rows * 3);
    for row in 0..rows {
        for column in 0..columns {
            for channel in 0..3 {
                let mut sum = 0;
                for y in 0..factor {
                    for x in 0..factor {
                        let at = (row * factor + y) * width + column * factor + x;
                        sum += usize::from(pixels[at * 3 + channel]);
                    }
                }
                small.push(((sum + factor * factor / 2) / (factor * factor)) as u8);
            }
        }
    }
    small
}
