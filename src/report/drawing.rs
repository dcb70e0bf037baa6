//! A figure as a list of shapes, drawn by plotters as SVG and as PNG. Both come from the same list, so that they agree
//! to a fraction of a pixel. A pixel is 1/96 inch, as in SVG; PNGs have 300 of theirs an inch, and say so.

use std::fmt::Write as _;
use std::sync::Once;

use anyhow::{Context as _, Result, anyhow};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use plotters::prelude::{
    BitMapBackend, DrawingBackend, FontDesc, FontFamily, FontStyle, FontTransform, IntoFont, RGBAColor,
    RGBColor, SVGBackend, ShapeStyle, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, register_font};

/// Backends take whole pixels: SVG is drawn at this scale.
const SVG_SCALE: f64 = 10.0;
/// Pixels of a PNG for one of the figure.
const PNG_SCALE: f64 = 300.0 / 96.0;
/// Pixels of a PNG in a metre: 300 an inch.
const PIXELS_PER_METRE: u32 = 11_811;
/// PNGs are drawn larger by this whole number, and shrunk, which smooths the edges.
const FINER: usize = 2;
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

/// Pixels of a picture: RGB, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) rgb: Vec<u8>,
}

/// What figures are made of.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// A picture in a rectangle, its upper left corner first; pictures lie below all other shapes.
    Picture {
        at: At,
        size: (f64, f64),
        picture: Picture,
    },
    Line {
        points: Vec<At>,
        width: f64,
        colour: Colour,
    },
    Area {
        points: Vec<At>,
        colour: Colour,
    },
    Dot {
        centre: At,
        radius: f64,
        colour: Colour,
    },
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

    /// A line of dashes and gaps of as many pixels as `pattern` says in turn.
    pub(super) fn dashed(&mut self, points: &[At], width: f64, colour: Colour, pattern: &[f64]) {
        let mut lengths = pattern.iter().copied().cycle();
        let (mut on, mut left) = (true, lengths.next().unwrap_or(f64::INFINITY));
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
                left = lengths.next().unwrap_or(f64::INFINITY);
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

    pub(super) fn picture(&mut self, at: At, size: (f64, f64), picture: Picture) {
        self.shapes.push(Shape::Picture { at, size, picture });
    }

    /// A rectangle from one corner to the other.
    pub(super) fn rectangle(&mut self, (left, top): At, (right, bottom): At, colour: Colour) {
        self.area(&[(left, top), (right, top), (right, bottom), (left, bottom)], colour);
    }

    /// The figure as one SVG element.
    pub(super) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let mut backend = SVGBackend::with_string(&mut text, self.scaled(SVG_SCALE));
            // SVG's `Top` anchor puts the baseline 0.76 em below the position.
            let canvas = Canvas { scale: SVG_SCALE, baseline: 0.76, segments: false };
            background(&mut backend)?;
            canvas.paint(&mut backend, self)?;
            drawn(backend.present())?;
        }
        let (width, height) = self.scaled(SVG_SCALE);
        let header = format!("<svg width=\"{width}\" height=\"{height}\"");
        let body = text.strip_prefix(&header).context("plotters starts an SVG with its size")?;
        let body = body.replace("font-family=\"sans-serif\"", &format!("font-family=\"{SVG_FAMILIES}\""));
        // plotters gives only areas a fill and no joins.
        let mut body = body.replace("<polyline ", "<polyline stroke-linejoin=\"round\" ");
        let pictures = self.svg_pictures()?;
        if !pictures.is_empty() {
            // Above the background, which is the first rectangle.
            let end = body.find("/>").context("plotters draws the background first")? + 2;
            body.insert_str(end, &pictures);
        }
        Ok(format!("<svg width=\"{}\" height=\"{}\" role=\"img\"{body}", self.width, self.height))
    }

    fn svg_pictures(&self) -> Result<String> {
        let mut text = String::new();
        for shape in &self.shapes {
            let Shape::Picture { at, size, picture } = shape else { continue };
            let png = encode(&picture.rgb, picture.width as u32, picture.height as u32, None)?;
            let _ = write!(
                text,
                "\n<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" \
                 style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                at.0 * SVG_SCALE,
                at.1 * SVG_SCALE,
                size.0 * SVG_SCALE,
                size.1 * SVG_SCALE,
                BASE64_STANDARD.encode(png)
            );
        }
        Ok(text)
    }

    /// The figure as a PNG of 300 pixels an inch.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = self.scaled(PNG_SCALE);
        let (wide, high) = (width as usize * FINER, height as usize * FINER);
        let mut pixels = vec![255; wide * high * 3];
        let scale = PNG_SCALE * FINER as f64;
        for shape in &self.shapes {
            if let Shape::Picture { at, size, picture } = shape {
                blit(
                    &mut pixels,
                    wide,
                    picture,
                    (at.0 * scale, at.1 * scale),
                    (size.0 * scale, size.1 * scale),
                );
            }
        }
        {
            let mut backend = BitMapBackend::with_buffer(&mut pixels, (wide as u32, high as u32));
            // plotters' own text drawing puts the baseline half the font's height below the position.
            Canvas { scale, baseline: FONT_HEIGHT / 2.0, segments: true }.paint(&mut backend, self)?;
        }
        encode(&shrink(&pixels, wide, FINER), width, height, Some(PIXELS_PER_METRE))
    }

    fn scaled(&self, scale: f64) -> (u32, u32) {
        let side = |pixels: u32| (f64::from(pixels) * scale).round() as u32;
        (side(self.width), side(self.height))
    }
}

/// RGB pixels as PNG, with their number in a metre where that is known.
pub(super) fn encode(rgb: &[u8], width: u32, height: u32, per_metre: Option<u32>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Default);
    if let Some(number) = per_metre {
        encoder.set_pixel_dims(Some(png::PixelDimensions {
            xppu: number,
            yppu: number,
            unit: png::Unit::Meter,
        }));
    }
    let mut writer = encoder.write_header().context("cannot encode a picture")?;
    writer.write_image_data(rgb).context("cannot encode a picture")?;
    writer.finish().context("cannot encode a picture")?;
    Ok(bytes)
}

/// Copies a picture into RGB pixels of `width` columns, each of its pixels a rectangle.
fn blit(pixels: &mut [u8], width: usize, picture: &Picture, at: At, size: (f64, f64)) {
    let (left, top) = (at.0.round() as usize, at.1.round() as usize);
    let (right, bottom) = ((at.0 + size.0).round() as usize, (at.1 + size.1).round() as usize);
    let rows = pixels.len() / 3 / width;
    for y in top..bottom.min(rows) {
        let from_y = ((y - top) * picture.height / (bottom - top)).min(picture.height - 1);
        for x in left..right.min(width) {
            let from_x = ((x - left) * picture.width / (right - left)).min(picture.width - 1);
            let from = (from_y * picture.width + from_x) * 3;
            let to = (y * width + x) * 3;
            pixels[to..to + 3].copy_from_slice(&picture.rgb[from..from + 3]);
        }
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

/// How a backend is drawn on.
#[derive(Clone, Copy)]
struct Canvas {
    /// Its pixels for one of the figure.
    scale: f64,
    /// How far below the position it sets its text's baseline, in em.
    baseline: f64,
    /// Whether thick lines are drawn segment by segment: plotters fills self-crossing outlines in bitmaps with holes.
    segments: bool,
}

impl Canvas {
    /// Draws all shapes but pictures.
    fn paint<B: DrawingBackend>(self, backend: &mut B, drawing: &Drawing) -> Result<()> {
        for shape in &drawing.shapes {
            match shape {
                Shape::Picture { .. } => {}
                Shape::Line { points, width, colour } => self.line(backend, points, *width, *colour)?,
                Shape::Area { points, colour } => {
                    let points = points.iter().map(|&p| self.whole(p));
                    drawn(backend.fill_polygon(points, &colour.rgba().filled()))?;
                }
                Shape::Dot { centre, radius, colour } => {
                    let radius = (radius * self.scale).round() as u32;
                    drawn(backend.draw_circle(self.whole(*centre), radius, &colour.rgba().filled(), true))?;
                }
                Shape::Text(label) => self.text(backend, label)?,
            }
        }
        Ok(())
    }

    fn line<B: DrawingBackend>(
        self,
        backend: &mut B,
        points: &[At],
        width: f64,
        colour: Colour,
    ) -> Result<()> {
        let mut points: Vec<(i32, i32)> = points.iter().map(|&p| self.whole(p)).collect();
        points.dedup();
        let stroke = ((width * self.scale).round() as u32).max(1);
        let style = ShapeStyle { color: colour.rgba(), filled: false, stroke_width: stroke };
        if points.len() < 2 {
            return Ok(());
        }
        if !self.segments {
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

    fn text<B: DrawingBackend>(self, backend: &mut B, label: &Label) -> Result<()> {
        let anchor = match label.align {
            Align::Left => HPos::Left,
            Align::Centre => HPos::Center,
            Align::Right => HPos::Right,
        };
        let colour = label.colour.rgba();
        let font = font(label.size * self.scale, label.bold);
        let font = if label.upward { font.transform(FontTransform::Rotate270) } else { font };
        let style = TextStyle::from(font).color(&colour).pos(Pos::new(anchor, VPos::Top));
        let above = self.baseline * label.size;
        // Turned upward, "above the baseline" is to its left.
        let at =
            if label.upward { (label.at.0 - above, label.at.1) } else { (label.at.0, label.at.1 - above) };
        drawn(backend.draw_text(&label.text, &style, self.whole(at)))
    }

    fn whole(self, at: At) -> (i32, i32) {
        ((at.0 * self.scale).round() as i32, (at.1 * self.scale).round() as i32)
    }
}

fn background<B: DrawingBackend>(backend: &mut B) -> Result<()> {
    let (width, height) = backend.get_size();
    let white = RGBColor(255, 255, 255).filled();
    drawn(backend.draw_rect((0, 0), (width as i32, height as i32), &white, true))
}

/// Backends' errors have a type that plotters does not name.
fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw the figure: {error}"))
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
