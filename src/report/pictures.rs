//! Figures of images: slices with truth, labels and errors of each configuration; feature maps; samples of diffusion
//! models. They show patients where the data are real.

use anyhow::{Context as _, Result, ensure};

use super::chart::{COLUMN, INK, PAGE, TEXT, TICK};
use super::drawing::{Align, Colour, Drawing, Picture, text_width};
use super::figures::{Asked, Data, Figure, Source};
use super::heat::ramp;
use super::sweep::Group;
use crate::results::Samples;
use crate::results::pictures::{self, Features, Seen};
use crate::stats::mean;

/// More configurations than these are not shown beside each other.
const MOST: usize = 8;
/// Right ventricle, myocardium, left ventricle: dark, middle and light, so that they differ in grey.
const CLASSES: [(&str, Colour); 3] = [
    ("RV", Colour::new(0x00, 0x72, 0xb2)),
    ("Myo", Colour::new(0xd5, 0x5e, 0x00)),
    ("LV", Colour::new(0xf0, 0xe4, 0x42)),
];
/// What a pixel is called that is wrong, light to dark.
const ERRORS: [(&str, Colour); 3] = [
    ("labelled, though background", Colour::new(0xff, 0xff, 0xff)),
    ("of another class", Colour::new(0x56, 0xb4, 0xe9)),
    ("missed", Colour::new(0xcc, 0x79, 0xa7)),
];
/// Blank between two pictures.
const GAP: f64 = 3.0;

/// Slices of the evaluated split: image, truth, then for each configuration its labels and below them its errors; of the
/// first evaluated point of each.
pub(super) fn overlay(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let Some((index, store)) = source.store else { return Ok(None) };
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let (axes, groups) = asked.configurations(sweep);
    let first = |points: &[usize]| points.iter().copied().find(|&point| sweep.points[point].done());
    let value = |group: &Group| {
        let values: Vec<f64> = group.points.iter().filter_map(|&point| shown.values[point]).collect();
        mean(&values).map(|mean| if shown.metric.higher { mean } else { -mean })
    };
    let is_mcsd = |group: &Group| {
        group.points.iter().all(|&point| sweep.raw(point, "method").is_some_and(|name| name == "mcsd"))
    };
    let values: Vec<(Option<f64>, bool)> =
        groups.iter().map(|group| (value(group), is_mcsd(group))).collect();
    let reference = asked.reference(sweep, &axes, &groups)?;
    let chosen: Vec<(String, String)> = order(reference, &values)
        .into_iter()
        .filter_map(|at| {
            let group = &groups[at];
            Some((sweep.describe(&axes, group), sweep.points[first(&group.points)?].id.clone()))
        })
        .collect();
    let left_out: Vec<&str> = chosen.iter().skip(MOST).map(|(name, _)| name.as_str()).collect();
    let ids: Vec<String> = chosen.iter().take(MOST).map(|(_, id)| id.clone()).collect();
    if ids.is_empty() {
        return Ok(None);
    }
    let mut seen = pictures::seen(index, store, &ids)?;
    // Configurations of several data sets have no slices in common: those of the first are shown.
    let slices = seen[0].slices.clone();
    seen.retain(|one| one.slices == slices);
    let names: Vec<String> = seen
        .iter()
        .filter_map(|one| chosen.iter().find(|(_, id)| *id == one.id))
        .map(|(name, _)| name.clone())
        .collect();
    let mut data =
        Data::new(&["case", "slice", "configuration", "point", "class", "truth", "predicted", "both"]);
    for (name, one) in names.iter().zip(&seen) {
        for (slice, labels) in one.slices.iter().zip(&one.labels) {
            for (class, (word, _)) in CLASSES.iter().enumerate() {
                let is = |label: &u8| usize::from(*label) == class + 1;
                let both = slice.truth.iter().zip(labels).filter(|(a, b)| is(a) && is(b)).count();
                let count = |labels: &[u8]| labels.iter().filter(|label| is(label)).count();
                let counts = [count(&slice.truth), count(labels), both].map(|count| count.to_string());
                let names = [
                    slice.case.clone(),
                    slice.z.to_string(),
                    name.clone(),
                    one.id.clone(),
                    (*word).to_owned(),
                ];
                data.push(names.into_iter().chain(counts));
            }
        }
    }
    let (drawing, letters) = plot(&names, &seen);
    let named = letters.map(|letters| format!(" {letters}.")).unwrap_or_default();
    let more =
        if left_out.is_empty() { String::new() } else { format!(" Not shown: {}.", left_out.join("; ")) };
    let cases: Vec<String> = slices.iter().map(|slice| format!("{} slice {}", slice.case, slice.z)).collect();
    Ok(Some(Figure {
        slug: "overlay".to_owned(),
        caption: format!(
            "Image, truth, and the labels of each configuration with their errors below, of its first evaluated point. \
             The slice with most labelled pixels of patients spread evenly over the split, not the best nor the worst: {}.\
             {named}{more}",
            cases.join("; ")
        ),
        drawing,
        data,
    }))
}

/// In which order configurations are shown, which [`MOST`] may cut: the reference, the best, the best of MCSD, then the
/// others as they stand. `values` says of each how good it is, and whether it is MCSD.
fn order(reference: usize, values: &[(Option<f64>, bool)]) -> Vec<usize> {
    let best = |wanted: &dyn Fn(bool) -> bool| {
        let of = values.iter().enumerate().filter(|(_, (value, mcsd))| value.is_some() && wanted(*mcsd));
        of.max_by(|a, b| a.1.0.unwrap_or(f64::NAN).total_cmp(&b.1.0.unwrap_or(f64::NAN))).map(|(at, _)| at)
    };
    let mut order = vec![reference];
    for at in best(&|_| true).into_iter().chain(best(&|mcsd| mcsd)).chain(0..values.len()) {
        if !order.contains(&at) {
            order.push(at);
        }
    }
    order
}

/// A square of a slice around its true labels, so that the heart fills the picture.
#[derive(Clone, Copy)]
struct Crop {
    top: usize,
    left: usize,
    side: usize,
    width: usize,
}

impl Crop {
    fn around(truth: &[u8], (height, width): (usize, usize)) -> Self {
        let (mut top, mut bottom, mut left, mut right) = (height, 0, width, 0);
        for (place, _) in truth.iter().enumerate().filter(|(_, label)| **label > 0) {
            let (y, x) = (place / width, place % width);
            (top, bottom) = (top.min(y), bottom.max(y + 1));
            (left, right) = (left.min(x), right.max(x + 1));
        }
        let whole = height.min(width);
        if bottom == 0 {
            return Self { top: (height - whole) / 2, left: (width - whole) / 2, side: whole, width };
        }
        let side = ((bottom - top).max(right - left) * 8 / 5).clamp(8.min(whole), whole);
        let start = |low: usize, high: usize, most: usize| {
            usize::midpoint(low, high).saturating_sub(side / 2).min(most - side)
        };
        Self { top: start(top, bottom, height), left: start(left, right, width), side, width }
    }

    /// The picture of what `colour` makes of each pixel of the slice.
    fn picture(self, colour: impl Fn(usize) -> [f64; 3]) -> Picture {
        let mut rgb = Vec::with_capacity(self.side * self.side * 3);
        for y in self.top..self.top + self.side {
            for x in self.left..self.left + self.side {
                rgb.extend(
                    colour(y * self.width + x).map(|value| (value * 255.0).round().clamp(0.0, 255.0) as u8),
                );
            }
        }
        Picture { width: self.side, height: self.side, rgb }
    }
}

fn grey(value: f32) -> [f64; 3] {
    [f64::from(value.clamp(0.0, 1.0)); 3]
}

/// `under` with a share of `colour` over it.
fn over(under: [f64; 3], colour: Colour, share: f64) -> [f64; 3] {
    let (red, green, blue) = colour.rgb;
    let top = [red, green, blue].map(|value| f64::from(value) / 255.0);
    [0, 1, 2].map(|channel| under[channel] * (1.0 - share) + top[channel] * share)
}

/// Labels over an image: translucent, with a full line where they end.
fn labelled(crop: Crop, image: &[f32], labels: &[u8]) -> Picture {
    let width = crop.width;
    crop.picture(|place| {
        let label = labels[place];
        let under = grey(image[place]);
        let Some((_, colour)) = usize::from(label).checked_sub(1).and_then(|class| CLASSES.get(class)) else {
            return under;
        };
        let near = [place.checked_sub(1), Some(place + 1), place.checked_sub(width), Some(place + width)];
        let edge = near.iter().flatten().any(|&near| labels.get(near).is_some_and(|&other| other != label));
        over(under, *colour, if edge { 1.0 } else { 0.45 })
    })
}

/// Where labels are wrong, and how.
fn errors(crop: Crop, image: &[f32], truth: &[u8], labels: &[u8]) -> Picture {
    crop.picture(|place| {
        let under = grey(image[place] * 0.45);
        let colour = match (truth[place], labels[place]) {
            (a, b) if a == b => return under,
            (0, _) => ERRORS[0].1,
            (_, 0) => ERRORS[2].1,
            _ => ERRORS[1].1,
        };
        over(under, colour, 1.0)
    })
}

/// Draws the slices; where names are too long for their columns they are letters, which the second value explains.
fn plot(names: &[String], seen: &[Seen]) -> (Drawing, Option<String>) {
    let columns = names.len() + 2;
    let width = if columns > 4 { PAGE } else { COLUMN };
    let cell = ((f64::from(width) - 8.0) / columns as f64 - GAP).min(150.0);
    let fits = names.iter().all(|name| text_width(name, TICK, false) <= cell);
    let letter = |index: usize| format!("({})", char::from(b'a' + index as u8));
    let heads: Vec<String> = if fits { names.to_vec() } else { (0..names.len()).map(letter).collect() };
    let letters = (!fits).then(|| {
        let pairs: Vec<String> =
            names.iter().enumerate().map(|(index, name)| format!("{} {name}", letter(index))).collect();
        pairs.join("; ")
    });
    let slices = &seen[0].slices;
    let top = 16.0;
    let row = 2.0 * (cell + GAP) + 5.0;
    let bottom = top + row * slices.len() as f64;
    let mut drawing = Drawing::new(width, (bottom + 32.0) as u32);
    let left = |column: usize| 4.0 + (cell + GAP) * column as f64;
    for (column, head) in ["Image", "Truth"].into_iter().chain(heads.iter().map(String::as_str)).enumerate() {
        drawing.text(head, (left(column) + cell / 2.0, 11.0), TICK, Align::Centre, INK);
    }
    for (number, slice) in slices.iter().enumerate() {
        let y = top + row * number as f64;
        let crop = Crop::around(&slice.truth, (slice.height, slice.width));
        let size = (cell, cell);
        drawing.picture((left(0), y), size, crop.picture(|place| grey(slice.image[place])));
        drawing.picture((left(1), y), size, labelled(crop, &slice.image, &slice.truth));
        for (column, one) in seen.iter().enumerate() {
            let (x, labels) = (left(column + 2), &one.labels[number]);
            drawing.picture((x, y), size, labelled(crop, &slice.image, labels));
            drawing.picture((x, y + cell + GAP), size, errors(crop, &slice.image, &slice.truth, labels));
        }
    }
    for (line, (title, entries)) in [("Labels", CLASSES), ("Errors", ERRORS)].into_iter().enumerate() {
        let y = bottom + 9.0 + 14.0 * line as f64;
        drawing.text(title, (4.0, y), TICK, Align::Left, INK);
        let mut x = 42.0;
        for (text, colour) in entries {
            drawing.rectangle((x, y - 7.5), (x + 9.0, y + 1.0), INK);
            drawing.rectangle((x + 0.6, y - 6.9), (x + 8.4, y + 0.4), colour);
            drawing.text(text, (x + 13.0, y), TICK, Align::Left, INK);
            x += 13.0 + text_width(text, TICK, false) + 10.0;
        }
    }
    (drawing, letters)
}

/// Feature maps of one training slice for each diffusion model: steps down, blocks across.
pub(super) fn features(source: &Source) -> Result<Vec<Figure>> {
    let Some((index, store)) = source.store else { return Ok(Vec::new()) };
    let shown = pictures::features(index, store)?;
    Ok(shown.iter().enumerate().map(|(number, features)| features_figure(features, number)).collect())
}

fn features_figure(features: &Features, number: usize) -> Figure {
    let mut steps: Vec<usize> = features.maps.iter().map(|(step, ..)| *step).collect();
    let mut blocks: Vec<usize> = features.maps.iter().map(|(_, block, _)| *block).collect();
    steps.dedup();
    blocks.sort_unstable();
    blocks.dedup();
    let columns = blocks.len() + 1;
    let width = if columns > 5 { PAGE } else { COLUMN };
    let left = 40.0;
    let cell = ((f64::from(width) - left - 4.0) / columns as f64 - GAP).min(110.0);
    let top = 28.0;
    let mut drawing = Drawing::new(width, (top + (cell + GAP) * steps.len() as f64 + 6.0) as u32);
    let x = |column: usize| left + (cell + GAP) * column as f64;
    let slice = &features.slice;
    let picture = Picture {
        width: slice.width,
        height: slice.height,
        rgb: slice
            .image
            .iter()
            .flat_map(|&value| grey(value).map(|value| (value * 255.0).round() as u8))
            .collect(),
    };
    drawing.text("Image", (x(0) + cell / 2.0, 23.0), TICK, Align::Centre, INK);
    drawing.picture((x(0), top), (cell, cell), picture);
    let mut data = Data::new(&["diffusion_step", "block", "channels", "side", "mean"]);
    for (column, block) in blocks.iter().enumerate() {
        let centre = x(column + 1) + cell / 2.0;
        drawing.text(&format!("block {block}"), (centre, 11.0), TEXT, Align::Centre, INK);
        if let Some((.., map)) = features.maps.iter().find(|(_, other, _)| other == block) {
            drawing.text(
                &format!("{}×{}²", map.channels, map.side),
                (centre, 23.0),
                TICK,
                Align::Centre,
                INK,
            );
        }
    }
    for (row, step) in steps.iter().enumerate() {
        let y = top + (cell + GAP) * row as f64;
        drawing.text(&format!("t = {step}"), (left - 4.0, y + cell / 2.0), TICK, Align::Right, INK);
        for (at, block, map) in features.maps.iter().filter(|(at, ..)| at == step) {
            let Some(column) = blocks.iter().position(|other| other == block) else { continue };
            let rgb = map.values.iter().flat_map(|&value| {
                let (red, green, blue) = ramp(f64::from(value)).rgb;
                [red, green, blue]
            });
            let picture = Picture { width: map.side, height: map.side, rgb: rgb.collect() };
            drawing.picture((x(column + 1), y), (cell, cell), picture);
            let values: Vec<f64> = map.values.iter().map(|&value| f64::from(value)).collect();
            let cells = [at, block, &map.channels, &map.side].map(ToString::to_string);
            data.push(cells.into_iter().chain([super::figures::cell(mean(&values))]));
        }
    }
    Figure {
        slug: if number == 0 { "features".into() } else { format!("features_{}", number + 1) },
        caption: format!(
            "Features that {} gives of {} slice {}, at diffusion step t (down) and decoder block (across), at their own \
             resolution: the first principal component over the channels, dark to bright.",
            features.model, slice.case, slice.z
        ),
        drawing,
        data,
    }
}

/// The images sampled from each diffusion model.
pub(super) fn samples(samples: &[Samples]) -> Result<Vec<Figure>> {
    let one = |(number, found): (usize, &Samples)| {
        let picture =
            decode(&found.png).with_context(|| format!("the samples of {} are no picture", found.label))?;
        let wide = f64::from(COLUMN) - 8.0;
        let high = wide * picture.height as f64 / picture.width as f64;
        let mut drawing = Drawing::new(COLUMN, (high + 8.0) as u32);
        let mut data = Data::new(&["model", "label", "width", "height"]);
        data.push([
            found.model.clone(),
            found.label.clone(),
            picture.width.to_string(),
            picture.height.to_string(),
        ]);
        drawing.picture((4.0, 4.0), (wide, high), picture);
        Ok(Figure {
            slug: format!("diffusion_samples_{}", number + 1),
            caption: format!(
                "Sampled from noise by the diffusion model {} ({}): what its training has made of it.",
                found.model, found.label
            ),
            drawing,
            data,
        })
    };
    samples.iter().enumerate().map(one).collect()
}

/// A PNG of eight bits, grey or in colours, as RGB.
fn decode(png: &[u8]) -> Result<Picture> {
    let mut decoder = png::Decoder::new(png);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut bytes)?;
    bytes.truncate(info.buffer_size());
    let channels = info.color_type.samples();
    let rgb: Vec<u8> = match channels {
        1 | 2 => bytes.chunks_exact(channels).flat_map(|pixel| [pixel[0]; 3]).collect(),
        _ => bytes.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    };
    let (width, height) = (info.width as usize, info.height as usize);
    ensure!(rgb.len() == width * height * 3 && width > 0 && height > 0, "{width} × {height} pixels");
    Ok(Picture { width, height, rgb })
}

#[cfg(test)]
mod tests {
    use super::super::chart::luminance;
    use super::*;

    #[test]
    fn classes_and_errors_differ_in_grey() {
        for colours in [CLASSES, ERRORS] {
            let mut grey: Vec<f64> = colours.iter().map(|(_, colour)| luminance(*colour)).collect();
            grey.sort_by(f64::total_cmp);
            assert!(grey.windows(2).all(|pair| pair[1] > 1.3 * pair[0]), "{grey:?}");
        }
    }

    #[test]
    fn crops_hold_the_labels_and_stay_within() {
        let (height, width) = (20, 30);
        let mut truth = vec![0; height * width];
        (truth[2 * width + 25], truth[6 * width + 28]) = (1, 3);
        let crop = Crop::around(&truth, (height, width));
        assert!(crop.top <= 2 && crop.top + crop.side > 6 && crop.left <= 25 && crop.left + crop.side > 28);
        assert!(crop.top + crop.side <= height && crop.left + crop.side <= width);
        let empty = Crop::around(&vec![0; height * width], (height, width));
        assert_eq!((empty.side, empty.left), (20, 5), "without labels, the middle");
        let whole = Crop::around(&vec![1; height * width], (height, width));
        assert_eq!(whole.side, 20);
    }

    #[test]
    fn errors_are_told_by_what_is_wrong() {
        let (truth, labels) = ([0, 1, 1, 2], [3, 0, 1, 1]);
        let crop = Crop { top: 0, left: 0, side: 2, width: 2 };
        let picture = errors(crop, &[0.0; 4], &truth, &labels);
        let wanted = [ERRORS[0].1.rgb, ERRORS[2].1.rgb, (0, 0, 0), ERRORS[1].1.rgb];
        for (pixel, (red, green, blue)) in picture.rgb.chunks_exact(3).zip(wanted) {
            assert_eq!(pixel, [red, green, blue]);
        }
    }

    #[test]
    fn the_reference_the_best_and_mcsd_are_shown_first() {
        let some = |value: f64| (Some(value), false);
        let values =
            [some(0.5), some(0.6), (None, false), some(0.9), some(0.7), (Some(0.8), true), (Some(0.6), true)];
        assert_eq!(order(1, &values), [1, 3, 5, 0, 2, 4, 6]);
        assert_eq!(order(0, &[some(0.5)]), [0]);
        assert_eq!(order(0, &[(None, true), (Some(0.2), true)]), [0, 1]);
    }

    #[test]
    fn grey_pngs_become_rgb() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[7, 200]).unwrap();
        assert_eq!(decode(&bytes).unwrap().rgb, [7, 7, 7, 200, 200, 200]);
        assert!(decode(b"no picture").is_err());
    }
}
