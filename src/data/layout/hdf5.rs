//! The form of SSL4MIS: `image` and `label` in an HDF5 file a volume, or a slice.

use std::path::Path;

use anyhow::{Context as _, Result};
use rayon::prelude::*;

use super::put;
use crate::data::Split;
use crate::store::files;

/// Intensities in either precision.
pub(super) enum Numbers {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// A volume to be written.
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) split: Split,
    /// Slices, rows, columns.
    pub(super) shape: [usize; 3],
    pub(super) image: Numbers,
    pub(super) label: Vec<u8>,
}

/// Writes `volumes/NAME.h5`; or `data/NAME.h5`, training volumes as `data/slices/NAME_slice_1.h5` and so on.
pub(super) fn write(volumes: &[Volume], slices: bool, out: &Path) -> Result<()> {
    let folder = out.join(if slices { "data" } else { "volumes" });
    files::create_folder(&folder)?;
    if slices {
        files::create_folder(folder.join("slices"))?;
    }
    volumes.par_iter().try_for_each(|volume| {
        let [depth, height, width] = volume.shape;
        if !(slices && volume.split == Split::Train) {
            let shape = [depth, height, width].map(|n| n as u64);
            return file(&folder.join(format!("{}.h5", volume.name)), volume, 0..volume.label.len(), &shape);
        }
        let plane = height * width;
        (0..depth).try_for_each(|z| {
            let path = folder.join("slices").join(format!("{}_slice_{}.h5", volume.name, z + 1));
            file(&path, volume, z * plane..(z + 1) * plane, &[height as u64, width as u64])
        })
    })
}

fn file(path: &Path, volume: &Volume, voxels: std::ops::Range<usize>, shape: &[u64]) -> Result<()> {
    let mut file = hdf5_pure::FileBuilder::new();
    // A chunk a slice, compressed, as h5py writes them.
    let mut chunk = shape.to_vec();
    if let [depth, _, _] = chunk.as_mut_slice() {
        *depth = 1;
    }
    let image = file.create_dataset("image");
    match &volume.image {
        Numbers::F32(values) => image.with_f32_data(&values[voxels.clone()]),
        Numbers::F64(values) => image.with_f64_data(&values[voxels.clone()]),
    };
    image.with_shape(shape).with_chunks(&chunk).with_deflate(4);
    let label = file.create_dataset("label").with_u8_data(&volume.label[voxels]);
    label.with_shape(shape).with_chunks(&chunk).with_deflate(4);
    let bytes = file.finish().with_context(|| format!("cannot write {}", path.display()))?;
    put(path, &bytes)
}
