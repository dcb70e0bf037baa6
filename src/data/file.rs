//! A prepared data set on disk: `dataset.json`, `images.f32` and `labels.u8` (little-endian, all cases in order), which
//! are mapped rather than read; and the lists of a split that was drawn.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Case, Dataset, SliceRef, Split, Voxels, lists, standard_classes};
use crate::ops::map::Mapped;

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
    /// Where they are not those of ACDC.
    #[serde(default = "standard_classes", skip_serializing_if = "is_standard")]
    classes: Vec<String>,
    /// How the split was drawn, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

fn is_standard(classes: &[String]) -> bool {
    classes == standard_classes()
}

impl Dataset {
    /// Writes the data set into the folder `dir`, the manifest last. Files of an earlier, killed try are overwritten. A
    /// split that was drawn is written down as lists, in the form of those of SSL4MIS.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_to(&dir.join(IMAGES), |out| {
            let mut bytes = Vec::new();
            for case in 0..self.cases.len() {
                let image = self.image(case);
                bytes.resize(image.len() * 4, 0);
                for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(image) {
                    *bytes = value.to_le_bytes();
                }
                out.write_all(&bytes)?;
            }
            Ok(())
        })?;
        write_to(&dir.join(LABELS), |out| {
            (0..self.cases.len()).try_for_each(|case| out.write_all(self.label(case)))
        })?;
        if self.rule.is_some() {
            self.save_lists(dir)?;
        }
        let manifest = Manifest {
            format: FORMAT,
            content: self.content.clone(),
            voxels: self.cases.iter().map(Case::voxels).sum(),
            cases: self.cases.clone(),
            train_slices: self.train_slices.iter().map(|slice| (slice.case, slice.z)).collect(),
            classes: self.classes.clone(),
            rule: self.rule.clone(),
        };
        write_to(&dir.join(MANIFEST), |out| serde_json::to_writer(out, &manifest).map_err(Into::into))
    }

    /// Writes `train.list`, `val.list`, `test.list` and `train_slices.list` into the folder `dir`.
    pub fn save_lists(&self, dir: &Path) -> Result<()> {
        for split in Split::ALL {
            write_to(&dir.join(lists::file_name(split)), |out| {
                self.cases_of(split).try_for_each(|case| writeln!(out, "{}", self.cases[case].name))
            })?;
        }
        write_to(&dir.join(lists::SLICES), |out| {
            let mut slices = self.train_slices.iter();
            slices.try_for_each(|s| writeln!(out, "{}_slice_{}", self.cases[s.case as usize].name, s.z + 1))
        })
    }

    /// Opens a data set that [`Dataset::save`] wrote into `dir`: the manifest is read, the voxels are mapped. A torn file
    /// is an error.
    pub fn open(dir: &Path) -> Result<Self> {
        let remedy = || format!("delete {} and run the sweep again, which prepares it anew", dir.display());
        let manifest = dir.join(MANIFEST);
        let text = std::fs::read(&manifest).with_context(|| {
            format!("cannot read the prepared data set {}: {}", manifest.display(), remedy())
        })?;
        let Manifest { format, content, voxels, cases, train_slices, classes, rule } =
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is no data set manifest: {}", manifest.display(), remedy()))?;
        ensure!(format == FORMAT, "{} has form {format}, not {FORMAT}: {}", manifest.display(), remedy());
        let mut starts = Vec::with_capacity(cases.len() + 1);
        starts.push(0usize);
        let counted = cases.iter().try_fold(0usize, |sum, case| {
            let voxels = case.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
            let end = sum.checked_add(voxels)?;
            starts.push(end);
            Some(end)
        });
        ensure!(
            counted == Some(voxels) && voxels <= usize::MAX / 4,
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
        let map = |name: &str, bytes: usize| {
            let path = dir.join(name);
            Mapped::open(&path, bytes as u64)
                .with_context(|| format!("cannot open {}", path.display()))
                .with_context(remedy)
        };
        let voxels = Voxels::new(map(IMAGES, voxels * 4)?, map(LABELS, voxels)?, starts);
        let train_slices = train_slices.into_iter().map(|(case, z)| SliceRef { case, z }).collect();
        Ok(Self { content, classes, cases, voxels: voxels.into(), train_slices, rule })
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
