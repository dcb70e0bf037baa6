//! The contact sheet: a slice of every volume, the outlines of its label, its name.

use std::sync::Once;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::{
    BitMapBackend, DrawingBackend, FontFamily, FontStyle, IntoFont, RGBColor, TextStyle,
};
use plotters::style::{Color as _, register_font};

use crate::data::survey::{Picture, Survey, Surveyed};
use crate::data::zoom_nearest;

/// Side of a picture, and height of the line of text under it, in pixels.
const SIDE: usize = 128;
const TEXT: usize = 16;
const GAP: usize = 4;
/// Pictures in a row, and most pictures of a sheet.
const COLUMNS: usize = 12;
const MOST: usize = 1_200;
/// Of the classes behind the background: the colours of the reports.
const COLOURS: [[u8; 3]; 3] = [[0x44, 0x99, 0xee], [0x33, 0xbb, 0x77], [0xee, 0x77, 0x33]];
const FAMILY: &str = "sweep sheet";

/// The sheet as a PNG.
pub(super) fn draw(survey: &Survey) -> Result<Vec<u8>> {
    let cases = &survey.cases[..survey.cases.len().min(MOST)];
    let columns = COLUMNS.min(cases.len()).max(1);
    let (width, height) =
        (columns * (SIDE + GAP) + GAP, cases.len().div_ceil(columns) * (SIDE + TEXT + GAP) + GAP);
    let mut pixels = vec![255; 3 * width * height];
    let corner = |at: usize| (GAP + at % columns * (SIDE + GAP), GAP + at / columns * (SIDE + TEXT + GAP));
    for (at, case) in cases.iter().enumerate() {
        let (x, y) = corner(at);
        let tile = case.found.as_ref().ok().map(|found| tile(&found.picture));
        for row in 0..SIDE {
            let line = &mut pixels[3 * ((y + row) * width + x)..][..3 * SIDE];
            match &tile {
                Some(tile) => line.copy_from_slice(&tile[3 * row * SIDE..][..3 * SIDE]),
                None => line.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&[0xdd, 0xcc, 0xcc])),
            }
        }
    }
    write_names(&mut pixels, (width, height), cases, corner)?;
    encode(&pixels, width, height)
}

/// A picture of [`SIDE`]² RGB pixels: the slice, whole and undistorted, with the outlines of its classes.
fn tile(picture: &Picture) -> Vec<u8> {
    let [rows, columns] = picture.size;
    let longest = rows.max(columns).max(1);
    let (height, width) = ((rows * SIDE / longest).max(1), (columns * SIDE / longest).max(1));
    let image = zoom_nearest(&picture.image, rows, columns, height, width);
    let label = zoom_nearest(&picture.label, rows, columns, height, width);
    let mut pixels = vec![0; 3 * SIDE * SIDE];
    let (top, left) = ((SIDE - height) / 2, (SIDE - width) / 2);
    for y in 0..height {
        for x in 0..width {
            let class = label[y * width + x];
            let other = |dy: usize, dx: usize| {
                let (y, x) = ((y + dy).wrapping_sub(1), (x + dx).wrapping_sub(1));
                y < height && x < width && label[y * width + x] != class
            };
            let is_edge = other(0, 1) || other(2, 1) || other(1, 0) || other(1, 2);
            let grey = (image[y * width + x].clamp(0.0, 1.0) * 255.0).round() as u8;
            let colour = match usize::from(class).checked_sub(1).and_then(|class| COLOURS.get(class)) {
                Some(colour) if is_edge => *colour,
                _ => [grey; 3],
            };
            pixels[3 * ((top + y) * SIDE + left + x)..][..3].copy_from_slice(&colour);
        }
    }
    pixels
}

/// The name under each picture, in red where the volume could not be read.
fn write_names(
    pixels: &mut [u8],
    (width, height): (usize, usize),
    cases: &[Surveyed],
    corner: impl Fn(usize) -> (usize, usize),
) -> Result<()> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let font = include_bytes!("../../../assets/font/SweepSans-Regular.ttf");
        let registered = register_font(FAMILY, FontStyle::Normal, font);
        debug_assert!(registered.is_ok(), "the bundled font is a font");
    });
    let mut backend = BitMapBackend::with_buffer(pixels, (width as u32, height as u32));
    for (at, case) in cases.iter().enumerate() {
        let colour = match &case.found {
            Ok(found) if found.remarks.is_empty() => RGBColor(0x33, 0x33, 0x33),
            Ok(_) => RGBColor(0xbb, 0x66, 0x00),
            Err(_) => RGBColor(0xcc, 0x00, 0x00),
        };
        let colour = colour.to_rgba();
        let style = TextStyle::from((FontFamily::Name(FAMILY), 13.0).into_font()).color(&colour);
        // The end of a name tells more than its beginning.
        let name: Vec<char> = case.name.chars().collect();
        let shown: String = name[name.len().saturating_sub(20)..].iter().collect();
        let (x, y) = corner(at);
        let drawn = backend.draw_text(&shown, &style, (x as i32, (y + SIDE + 1) as i32));
        drawn.map_err(|error| anyhow!("cannot write a name: {error}"))?;
    }
    Ok(())
}

fn encode(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().context("cannot begin the PNG")?;
    writer.write_image_data(pixels).context("cannot encode the PNG")?;
    writer.finish().context("cannot end the PNG")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_whole_and_shows_the_outlines() {
        let mut label = vec![0; 40 * 20];
        for y in 10..20 {
            label[y * 20 + 5..y * 20 + 15].fill(2);
        }
        let tile = tile(&Picture { size: [40, 20], image: vec![1.0; 800], label });
        let pixel = |y: usize, x: usize| &tile[3 * (y * SIDE + x)..][..3];
        assert_eq!(pixel(64, 5), [0, 0, 0], "black beside a narrow slice");
        assert_eq!(pixel(5, 64), [255, 255, 255], "white where it is bright");
        assert_eq!(pixel(45, 64), [255, 255, 255], "inside a class the image is seen");
        assert!(
            tile.chunks_exact(3).any(|pixel| pixel == COLOURS[1]),
            "the outline has the colour of its class"
        );
    }
}
