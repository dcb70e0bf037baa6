//! Arrays in files: HDF5 datasets and NIfTI volumes, whole or one time point of them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::nifti::{self, EXPANSION, MOST_VOXELS};

/// Where an array lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// A dataset of an HDF5 file.
    Hdf5 { path: PathBuf, dataset: String },
    /// One HDF5 file for each slice, from the first.
    Slices { paths: Vec<PathBuf>, dataset: String },
    /// A NIfTI volume, or a time point of one, from 0.
    Nifti { path: PathBuf, frame: Option<usize> },
}

impl Stored {
    /// The dataset `name` of an HDF5 file.
    pub(super) fn hdf5(path: PathBuf, name: &str) -> Self {
        Self::Hdf5 { path, dataset: name.to_owned() }
    }

    /// The file, the first of several.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Hdf5 { path, .. } | Self::Nifti { path, .. } => path,
            Self::Slices { paths, .. } => paths.first().map_or(Path::new(""), PathBuf::as_path),
        }
    }

    /// All files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let (one, many) = match self {
            Self::Hdf5 { path, .. } | Self::Nifti { path, .. } => (Some(path), &[][..]),
            Self::Slices { paths, .. } => (None, paths.as_slice()),
        };
        one.into_iter().chain(many).map(PathBuf::as_path)
    }
}

/// An array of numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    /// Slices, rows, columns.
    pub(super) shape: [usize; 3],
    /// Row-major.
    pub(super) values: Vec<f32>,
    /// Distance of slices, rows and columns in mm, where the file tells it.
    pub(super) spacing: Option<[f32; 3]>,
}

/// Reads what there is, in order. Time points of one file are read in one pass.
pub(super) fn read_all(stored: &[Option<&Stored>]) -> Vec<Option<Result<Array>>> {
    let mut arrays: Vec<Option<Result<Array>>> = stored.iter().map(|_| None).collect();
    for at in 0..stored.len() {
        let Some(wanted) = stored[at] else { continue };
        if arrays[at].is_some() {
            continue;
        }
        let Stored::Nifti { path, frame: Some(_) } = wanted else {
            arrays[at] = Some(read(wanted));
            continue;
        };
        let same: Vec<(usize, usize)> = (at..stored.len())
            .filter_map(|other| match stored[other] {
                Some(Stored::Nifti { path: its, frame: Some(frame) }) if its == path => Some((other, *frame)),
                _ => None,
            })
            .collect();
        let mut frames: Vec<usize> = same.iter().map(|&(_, frame)| frame).collect();
        frames.sort_unstable();
        frames.dedup();
        match nifti::read_frames(path, &frames) {
            Ok(volume) => {
                for (other, frame) in same {
                    let at = frames.iter().position(|&read| read == frame).unwrap_or_default();
                    arrays[other] = Some(time_point(&volume, at));
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                for (other, _) in same {
                    arrays[other] = Some(Err(anyhow!("{text}")));
                }
            }
        }
    }
    arrays
}

/// Reads one array.
pub(super) fn read(stored: &Stored) -> Result<Array> {
    match stored {
        Stored::Hdf5 { path, dataset } => {
            let (shape, values) = read_hdf5(path, dataset)?;
            let &[depth, height, width] = shape.as_slice() else {
                bail!(
                    "{} has an {dataset} of {} axes: slices, rows and columns are needed",
                    path.display(),
                    shape.len()
                );
            };
            Ok(Array { shape: [depth, height, width], values, spacing: None })
        }
        Stored::Slices { paths, dataset } => read_slices(paths, dataset),
        Stored::Nifti { path, frame: Some(frame) } => time_point(&nifti::read_frames(path, &[*frame])?, 0),
        Stored::Nifti { path, frame: None } => {
            let volume = nifti::read(path)?;
            ensure!(
                volume.dims[3] == 1,
                "{} has {} time points where one volume is needed: name one of them",
                path.display(),
                volume.dims[3]
            );
            Ok(Array { shape: volume.shape(), spacing: spacing(&volume), values: volume.voxels })
        }
    }
}

fn time_point(volume: &nifti::Volume, at: usize) -> Result<Array> {
    let values = volume
        .frame(at)
        .with_context(|| format!("{} has no time point {at}", volume.path.display()))?
        .to_vec();
    Ok(Array { shape: volume.shape(), spacing: spacing(volume), values })
}

/// Slices, rows, columns in mm; nothing where the header says something impossible.
fn spacing(volume: &nifti::Volume) -> Option<[f32; 3]> {
    let [x, y, z] = volume.spacing;
    [z, y, x].iter().all(|&d| d.is_finite() && d > 0.0).then_some([z, y, x])
}

/// Files of a slice each, one above the other.
fn read_slices(paths: &[PathBuf], dataset: &str) -> Result<Array> {
    let mut plane: Option<[usize; 2]> = None;
    let mut values = Vec::new();
    for path in paths {
        let (shape, slice) = read_hdf5(path, dataset)?;
        let shape = match *shape.as_slice() {
            [height, width] | [1, height, width] => [height, width],
            _ => bail!("{} has an {dataset} of {shape:?}: rows and columns are needed", path.display()),
        };
        let first = *plane.get_or_insert(shape);
        ensure!(
            first == shape,
            "{} has an {dataset} of {shape:?}, but the first slice of its volume one of {first:?}",
            path.display()
        );
        values.extend(slice);
    }
    let [height, width] = plane.unwrap_or_default();
    Ok(Array { shape: [paths.len(), height, width], values, spacing: None })
}

/// The axes and numbers of the dataset `name` of an HDF5 file. What the file claims is held against its size before memory is
/// asked for.
///
/// # Errors
/// Name the file and what is wrong with it.
pub fn read_hdf5(path: &Path, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot open {}", path.display()))?;
    hdf5_numbers(path, bytes, name)
}

/// Shape and numbers of a dataset of the file `path`, which has these bytes.
pub(super) fn hdf5_numbers(path: &Path, bytes: Vec<u8>, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let place = path.display();
    let size = bytes.len() as u64;
    let file = hdf5_pure::File::from_bytes(bytes)
        .with_context(|| format!("cannot open {place}: fetch it again if it is damaged"))?;
    let dataset = file
        .dataset(name)
        .with_context(|| format!("{place} has no dataset `{name}`, or is damaged: fetch it again"))?;
    let damaged = || format!("cannot read `{name}` of {place}: fetch it again if it is damaged");
    let shape = dataset.shape().with_context(damaged)?;
    let element = dataset.element_size().with_context(damaged)?;
    let voxels = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    let needed = voxels.and_then(|voxels| voxels.checked_mul(element));
    let Some((voxels, needed)) = voxels.zip(needed).filter(|&(voxels, _)| voxels <= MOST_VOXELS as u64)
    else {
        bail!("{place} claims an {name} of {shape:?}, more than {MOST_VOXELS} voxels: is it damaged?");
    };
    ensure!(
        needed <= size.saturating_mul(EXPANSION),
        "{place} claims an {name} of {shape:?}, more than its {size} bytes can hold: is it damaged?"
    );
    let values = dataset.read_f32().with_context(damaged)?;
    ensure!(
        values.len() as u64 == voxels,
        "{place} holds {} voxels of `{name}` instead of {voxels}: fetch it again",
        values.len()
    );
    Ok((shape.into_iter().map(|n| n as usize).collect(), values))
}
