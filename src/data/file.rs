//! A prepared data set on disk: `dataset.json`, `images.f32` and `labels.u8` (little-endian, all cases in order).

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Case, Dataset, SliceRef};

/// Version of the three files' form.
const FORMAT: u32 = 1;
const MANIFEST: &str = "dataset.json";
const IMAGES: &str = "images.f32";
const LABELS: &str = "labels.u8";

/// What `dataset.json` holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    content: String,
    voxels: usize,
    cases: Vec<Case>,
    /// (case, slice) in list order.
    train_slices: Vec<(u32, u32)>,
}

impl Dataset {
    /// Writes the data set into the folder `dir`, the manifest last. Files of an earlier, killed try are overwritten.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_to(&dir.join(IMAGES), |out| {
            let mut bytes = Vec::new();
            for image in &self.images {
                bytes.resize(image.len() * 4, 0);
                for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(image) {
                    *bytes = value.to_le_bytes();
                }
                out.write_all(&bytes)?;
            }
            Ok(())
        })?;
        write_to(&dir.join(LABELS), |out| self.labels.iter().try_for_each(|label| out.write_all(label)))?;
        let manifest = Manifest {
            format: FORMAT,
            content: self.content.clone(),
            voxels: self.cases.iter().map(Case::voxels).sum(),
            cases: self.cases.clone(),
            train_slices: self.train_slices.iter().map(|slice| (slice.case, slice.z)).collect(),
        };
        write_to(&dir.join(MANIFEST), |out| serde_json::to_writer(out, &manifest).map_err(Into::into))
    }

    /// Reads a data set that [`Dataset::save`] wrote into `dir`, each file in one pass. A torn file is an error.
    pub fn open(dir: &Path) -> Result<Self> {
        let remedy = || format!("delete {} and run the sweep again, which prepares it anew", dir.display());
        let manifest = dir.join(MANIFEST);
        let text = std::fs::read(&manifest).with_context(|| {
            format!("cannot read the prepared data set {}: {}", manifest.display(), remedy())
        })?;
        let Manifest { format, content, voxels, cases, train_slices } = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no data set manifest: {}", manifest.display(), remedy()))?;
        ensure!(format == FORMAT, "{} has form {format}, not {FORMAT}: {}", manifest.display(), remedy());
        let counted = cases.iter().try_fold(0usize, |sum, case| {
            let voxels = case.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
            sum.checked_add(voxels)
        });
        ensure!(
            counted == Some(voxels),
            "{} names {voxels} voxels but its cases do not add up to them: {}",
            manifest.display(),
            remedy()
        );
        let inside = |&(case, z): &(u32, u32)| {
            cases.get(case as usize).is_some_and(|case: &Case| (z as usize) < case.shape[0])
        };
        ensure!(
            train_slices.iter().all(inside),
            "{} names training slices that its cases do not have: {}",
            manifest.display(),
            remedy()
        );
        let mut file = open_exact(&dir.join(IMAGES), voxels * 4).with_context(remedy)?;
        let mut images = Vec::with_capacity(cases.len());
        let mut bytes = Vec::new();
        for case in &cases {
            bytes.resize(case.voxels() * 4, 0);
            file.read_exact(&mut bytes)
                .with_context(|| format!("cannot read {}", dir.join(IMAGES).display()))?;
            let (values, _) = bytes.as_chunks::<4>();
            images.push(values.iter().map(|&value| f32::from_le_bytes(value)).collect());
        }
        let mut file = open_exact(&dir.join(LABELS), voxels).with_context(remedy)?;
        let mut labels = Vec::with_capacity(cases.len());
        for case in &cases {
            let mut label = vec![0; case.voxels()];
            file.read_exact(&mut label)
                .with_context(|| format!("cannot read {}", dir.join(LABELS).display()))?;
            labels.push(label);
        }
        let train_slices = train_slices.into_iter().map(|(case, z)| SliceRef { case, z }).collect();
        Ok(Self { content, cases, images, labels, train_slices })
    }
}

/// Creates `path`, lets `write` fill it and syncs it.
fn write_to(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let create = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        write(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    create().with_context(|| {
        format!("cannot write {}: is the disk full or the folder read-only?", path.display())
    })
}

/// Opens `path`, which must be exactly `bytes` long.
fn open_exact(path: &Path, bytes: usize) -> Result<File> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let found = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
    ensure!(found == bytes as u64, "{} is torn: {found} bytes instead of {bytes}", path.display());
    Ok(file)
}
