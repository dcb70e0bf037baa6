//! What finished stages look like: slices with their labels and what a trained network makes of them, and the feature
//! maps that it read. For pictures only; nothing of it is kept.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Trained;
use crate::data::{Dataset, Split};
use crate::spec::settings::{EvaluateSplit, Selection};
use crate::train::feature_cache::FeatureCache;

/// A slice with its labels, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The volume.
    pub case: String,
    /// The slice within it, from 0.
    pub z: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Intensities in `[0, 1]`.
    pub image: Vec<f32>,
    /// The true labels.
    pub truth: Vec<u8>,
}

/// A map `[side, side]`, row by row, of values in `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Rows and columns.
    pub side: usize,
    /// Channels of the features that it stands for.
    pub channels: usize,
    /// The values.
    pub values: Vec<f32>,
}

/// `count` slices of the evaluated split of the data set in the folder `data`: of patients spread evenly over it, each
/// the slice with most labelled pixels.
///
/// # Errors
/// Where the data set cannot be read or the split is empty.
pub fn slices(data: &Path, split: EvaluateSplit, count: usize) -> Result<Vec<Slice>> {
    let data = Dataset::open(data)?;
    let split = match split {
        EvaluateSplit::Val => Split::Val,
        EvaluateSplit::Test => Split::Test,
    };
    let cases: Vec<usize> = data.cases_of(split).collect();
    ensure!(!cases.is_empty(), "the {} split is empty", split.name());
    let count = count.min(cases.len());
    let chosen = (0..count).map(|number| cases[(2 * number + 1) * cases.len() / (2 * count)]);
    Ok(chosen.map(|case| largest(&data, case)).collect())
}

/// The slice of a case with most labelled pixels, the first of equals.
fn largest(data: &Dataset, case: usize) -> Slice {
    let found = &data.cases()[case];
    let [_, height, width] = found.shape;
    let pixels = found.pixels();
    let labelled = |slice: &[u8]| slice.iter().filter(|&&label| label > 0).count();
    let mut best = (0, 0);
    for (z, slice) in data.label(case).chunks_exact(pixels).enumerate() {
        let count = labelled(slice);
        if count > best.1 {
            best = (z, count);
        }
    }
    let range = best.0 * pixels..(best.0 + 1) * pixels;
    Slice {
        case: found.name.clone(),
        z: best.0,
        height,
        width,
        image: data.image(case)[range.clone()].to_vec(),
        truth: data.label(case)[range].to_vec(),
    }
}

/// What the network in the training's folder `dir` makes of `slices`: labels, row by row, as its evaluation sees them.
/// `diffusion` is the folder of its diffusion model, if it reads one.
///
/// # Errors
/// Where files are missing or damaged; names them.
pub fn labels(
    dir: &Path,
    diffusion: Option<&Path>,
    select: Selection,
    slices: &[Slice],
) -> Result<Vec<Vec<u8>>> {
    let diffusion = || diffusion.context("the training reads a diffusion model that is not in the store");
    let trained = Trained::open(dir, &diffusion, select)?;
    let predictor = trained.predictor();
    slices.iter().map(|slice| predictor.volume(&slice.image, [1, slice.height, slice.width])).collect()
}

/// The training slice that [`feature_map`] shows: the one with most labelled pixels of the first patient's first volume.
///
/// # Errors
/// Where the data set cannot be read or has no training slice.
pub fn training_slice(data: &Path) -> Result<(Slice, usize)> {
    let data = Dataset::open(data)?;
    let first = data.train_slices().first().context("the data set has no training slice")?;
    let slice = largest(&data, first.case as usize);
    let row =
        data.train_slices().iter().position(|other| other.case == first.case && other.z as usize == slice.z);
    if let Some(row) = row {
        return Ok((slice, row));
    }
    // The list holds only some slices of this volume.
    let (z, found) = (first.z as usize, data.slice(*first));
    let (image, truth) = (found.image.to_vec(), found.label.to_vec());
    Ok((Slice { z, image, truth, ..slice }, 0))
}

/// The features of the training slice `row` in the folder `dir` of a feature stage, as one map: the projection onto the
/// channels' first principal component, which keeps most of what differs between pixels, stretched to `[0, 1]`. A component
/// has no sign: what is bright in `slice` is mostly bright in its map.
///
/// # Errors
/// Where the folder is damaged.
pub fn feature_map(dir: &Path, row: usize, slice: &Slice) -> Result<Map> {
    let cache = FeatureCache::open(dir)?;
    let shape = cache.shape();
    let values = cache.rows(&[row])?.flatten_all()?.to_vec1::<f32>()?;
    let mut values = principal(&values, shape.channels, shape.side * shape.side);
    if agreement(&values, shape.side, slice) < 0.0 {
        for value in &mut values {
            *value = 1.0 - *value;
        }
    }
    Ok(Map { side: shape.side, channels: shape.channels, values })
}

/// The covariance, but for its size, of a map with an image that it covers.
fn agreement(map: &[f32], side: usize, slice: &Slice) -> f64 {
    let mean = map.iter().map(|&value| f64::from(value)).sum::<f64>() / map.len() as f64;
    let pixels = slice.image.iter().enumerate().map(|(place, &pixel)| {
        let (y, x) = (place / slice.width * side / slice.height, place % slice.width * side / slice.width);
        f64::from(pixel) * (f64::from(map[y * side + x]) - mean)
    });
    pixels.sum()
}

/// The projection of `channels` × `pixels` values onto their first principal component over the pixels, in `[0, 1]`.
fn principal(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    const ROUNDS: usize = 60;
    let mut centred: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    for channel in centred.chunks_exact_mut(pixels) {
        let mean = channel.iter().sum::<f64>() / pixels as f64;
        for value in channel {
            *value -= mean;
        }
    }
    let project = |weights: &[f64]| {
        let mut map = vec![0.0; pixels];
        for (channel, weight) in centred.chunks_exact(pixels).zip(weights) {
            map.iter_mut().zip(channel).for_each(|(sum, value)| *sum += weight * value);
        }
        map
    };
    // Power iteration; the start differs between channels, so that it is orthogonal to nothing for long.
    let mut weights: Vec<f64> =
        (0..channels).map(|channel| 1.0 + 0.1 * ((channel * 7 % 13) as f64)).collect();
    for _ in 0..ROUNDS {
        let map = project(&weights);
        let next: Vec<f64> = centred
            .chunks_exact(pixels)
            .map(|channel| channel.iter().zip(&map).map(|(value, sum)| value * sum).sum())
            .collect();
        let length = next.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
        if length == 0.0 {
            break;
        }
        weights = next.iter().map(|weight| weight / length).collect();
    }
    let map = project(&weights);
    let (low, high) =
        map.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    let span = if high > low { high - low } else { 1.0 };
    map.iter().map(|value| ((value - low) / span) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_component_is_what_differs_most() {
        // Channel 0 varies by 10 along x, channel 1 by 1 along y, channel 2 not at all.
        let side = 4;
        let mut values = Vec::new();
        for channel in 0..3 {
            for y in 0..side {
                for x in 0..side {
                    values.push(match channel {
                        0 => 10.0 * x as f32,
                        1 => y as f32,
                        _ => 7.0,
                    });
                }
            }
        }
        let map = principal(&values, 3, side * side);
        let image: Vec<f32> = (0..64).map(|place| (place % 8) as f32 / 7.0).collect();
        let slice = Slice { case: "a".into(), z: 0, height: 8, width: 8, truth: vec![0; 64], image };
        let sign = agreement(&map, side, &slice);
        assert!(sign != 0.0, "one of both ends is the brighter");
        for (place, value) in map.iter().enumerate() {
            let value = if sign < 0.0 { 1.0 - value } else { *value };
            let wanted = (place % side) as f32 / 3.0;
            assert!((value - wanted).abs() < 0.05, "{place}: {value}, not {wanted}");
        }
        assert!(principal(&[2.0; 8], 2, 4).iter().all(|value| *value == 0.0), "nothing differs");
    }
}
