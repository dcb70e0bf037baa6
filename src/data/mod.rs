//! The data: volumes in memory and on disk, where they come from, and how slices are augmented.
//!
//! [`inspect`] looks at a data set cheaply and names its content; [`prepare`] reads or generates all of it, checked;
//! [`Dataset::save`] and [`Dataset::open`] carry it between stages.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ops::map::Mapped;
use crate::spec::settings::{DataName, DataSettings};

pub mod augment;
pub mod nifti;
mod acdc;
mod array;
mod file;
pub mod layout;
mod lists;
mod mnms;
mod own;
mod phantom;
mod source;
mod split;
pub mod survey;
mod table;
mod voxels;

pub use array::read_hdf5;
pub use augment::{CutMix, Geometry, Strong, quantise, zoom_nearest};

/// Most classes of a data set, the background included: the outputs of the networks.
pub const CLASSES: usize = 4;

/// Names of the classes of ACDC and M&Ms, by label.
pub const CLASS_NAMES: [&str; CLASSES] = ["background", "RV", "Myo", "LV"];

/// Which part of a data set a case belongs to. Patients never cross parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Trained on, with or without labels.
    Train,
    /// Chooses the best network.
    Val,
    /// Reported.
    Test,
}

impl Split {
    /// All splits, in the order in which cases are stored.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// The name, as in `train.list`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// One volume: one patient at end-diastole or end-systole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Its name: `patient099_frame01`.
    pub name: String,
    /// The patient: `patient099`.
    pub patient: String,
    /// The split.
    pub split: Split,
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// Distance of neighbouring slices, rows and columns in mm, where the source tells it.
    pub spacing: Option<[f32; 3]>,
    /// Whether it has a label; only training cases may have none, whose label is background throughout.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub labelled: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_yes(value: &bool) -> bool {
    *value
}

impl Case {
    /// Voxels of the volume.
    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// Pixels of one slice.
    pub fn pixels(&self) -> usize {
        self.shape[1] * self.shape[2]
    }
}

/// One slice of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceRef {
    /// Index into [`Dataset::cases`].
    pub case: u32,
    /// Slice, from 0.
    pub z: u32,
}

/// A slice as it is trained on or evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// Intensities in `[0, 1]`, row by row.
    pub image: &'a [f32],
    /// Labels by class, row by row.
    pub label: &'a [u8],
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A data set: every volume at its native size, checked; in memory or mapped from the files of a prepare stage.
#[derive(Clone, Debug)]
pub struct Dataset {
    content: String,
    classes: Vec<String>,
    cases: Vec<Case>,
    voxels: Arc<Voxels>,
    train_slices: Vec<SliceRef>,
    /// How the split was drawn, where it was.
    rule: Option<String>,
}

/// Images and labels of all cases.
#[derive(Debug)]
enum Voxels {
    Read(Vec<(Vec<f32>, Vec<u8>)>),
    /// With where each case begins, and the end of the last.
    Mapped {
        images: Mapped,
        labels: Mapped,
        starts: Vec<usize>,
    },
}

impl Voxels {
    /// Of two files, mapped where the machine's numbers are those of the file.
    fn new(images: Mapped, labels: Mapped, starts: Vec<usize>) -> Self {
        if images.floats().is_some() {
            return Self::Mapped { images, labels, starts };
        }
        let case = |range: &[usize]| {
            let bytes = &images.bytes()[4 * range[0]..4 * range[1]];
            let image = bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
            (image, labels.bytes()[range[0]..range[1]].to_vec())
        };
        Self::Read(starts.windows(2).map(case).collect())
    }

    fn image(&self, case: usize) -> &[f32] {
        match self {
            Self::Read(all) => &all[case].0,
            Self::Mapped { images, starts, .. } => {
                &images.floats().unwrap_or_default()[starts[case]..starts[case + 1]]
            }
        }
    }

    fn label(&self, case: usize) -> &[u8] {
        match self {
            Self::Read(all) => &all[case].1,
            Self::Mapped { labels, starts, .. } => &labels.bytes()[starts[case]..starts[case + 1]],
        }
    }
}

impl PartialEq for Dataset {
    fn eq(&self, other: &Self) -> bool {
        let same = (&self.content, &self.classes, &self.cases, &self.train_slices, &self.rule)
            == (&other.content, &other.classes, &other.cases, &other.train_slices, &other.rule);
        same && (0..self.cases.len())
            .all(|case| self.image(case) == other.image(case) && self.label(case) == other.label(case))
    }
}

/// The classes of ACDC and M&Ms.
fn standard_classes() -> Vec<String> {
    CLASS_NAMES.iter().map(|&name| name.to_owned()).collect()
}

/// What can be known of a data set without reading its volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Hash of what decides the content: lists, file names, sizes, heads and tails; or the phantom's settings and
    /// generator version. 32 hexadecimal digits.
    pub content: String,
    /// Patients of the training split that have labels.
    pub train_patients: usize,
    /// Volumes of all splits.
    pub volumes: usize,
}

impl Dataset {
    /// Puts a data set together from volumes of (case, image, label) and the training slices in list order.
    fn new(content: String, classes: Vec<String>, volumes: Vec<Volume>, train_slices: Vec<SliceRef>) -> Self {
        let (mut cases, mut voxels) = (Vec::with_capacity(volumes.len()), Vec::with_capacity(volumes.len()));
        for Volume { case, image, label, .. } in volumes {
            cases.push(case);
            voxels.push((image, label));
        }
        Self { content, classes, cases, voxels: Voxels::Read(voxels).into(), train_slices, rule: None }
    }

    /// With how its split was drawn, which is then written down beside it.
    fn with_rule(self, rule: Option<String>) -> Self {
        Self { rule, ..self }
    }

    /// The class names by label, the background first: at most [`CLASSES`].
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The hash that names the content, as [`Inspection::content`].
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The cases: training, validation, test; each in the order of its list.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Indices of the cases of `split`, in order.
    pub fn cases_of(&self, split: Split) -> impl Iterator<Item = usize> + '_ {
        self.cases.iter().enumerate().filter(move |(_, case)| case.split == split).map(|(index, _)| index)
    }

    /// The intensities of a case in `[0, 1]`, (slices, rows, columns) row-major.
    pub fn image(&self, case: usize) -> &[f32] {
        self.voxels.image(case)
    }

    /// The labels 0–3 of a case, (slices, rows, columns) row-major.
    pub fn label(&self, case: usize) -> &[u8] {
        self.voxels.label(case)
    }

    /// One slice.
    pub fn slice(&self, slice: SliceRef) -> Slice<'_> {
        let case = slice.case as usize;
        let [_, height, width] = self.cases[case].shape;
        let range = slice.z as usize * height * width..(slice.z as usize + 1) * height * width;
        Slice { image: &self.image(case)[range.clone()], label: &self.label(case)[range], height, width }
    }

    /// The training slices in list order. The slices of one patient stand together, so that whole patients are
    /// prefixes.
    pub fn train_slices(&self) -> &[SliceRef] {
        &self.train_slices
    }

    /// Patients of the training slices that have labels.
    pub fn train_patients(&self) -> usize {
        let mut count = 0;
        let mut last = None;
        for slice in &self.train_slices {
            let Case { patient, labelled, .. } = &self.cases[slice.case as usize];
            if *labelled && last != Some(patient) {
                count += 1;
                last = Some(patient);
            }
        }
        count
    }

    /// The training slices as (labelled, unlabelled): the slices of the first `patients` patients, and the rest.
    pub fn labelled(&self, patients: usize) -> Result<(&[SliceRef], &[SliceRef])> {
        ensure!(patients > 0, "label_ratio asks for no labelled patient: it needs at least one");
        let available = self.train_patients();
        if patients > available {
            bail!(
                "label_ratio asks for {patients} labelled patients, but the training split has {available}"
            );
        }
        let mut seen = 0;
        let mut last = None;
        for (index, slice) in self.train_slices.iter().enumerate() {
            let patient = &self.cases[slice.case as usize].patient;
            if last != Some(patient) {
                if seen == patients {
                    return Ok(self.train_slices.split_at(index));
                }
                seen += 1;
                last = Some(patient);
            }
        }
        Ok((&self.train_slices, &[]))
    }
}

/// A volume on its way into a [`Dataset`].
struct Volume {
    case: Case,
    image: Vec<f32>,
    label: Vec<u8>,
    /// Least and largest intensity, as stored.
    range: [f32; 2],
}

/// Looks at a data set without reading its volumes, in well under a second. Finds what can be found that cheaply: a
/// missing folder or list, absent or torn files, patients that cross splits, wrong phantom settings; all at once.
pub fn inspect(settings: &DataSettings) -> Result<Inspection> {
    match settings.name {
        DataName::Phantom => phantom::inspect(settings),
        _ => source(settings)?.inspection(),
    }
}

/// Tells how many volumes of how many are done. Its error stops the work.
pub type Told<'a> = dyn Fn(usize, usize) -> Result<()> + 'a;

/// Reads or generates a data set on all cores and checks every voxel of it. `progress(done, total)` counts volumes
/// and is called on the calling thread. The result does not depend on the number of threads.
pub fn prepare(settings: &DataSettings, progress: &Told<'_>) -> Result<Dataset> {
    match settings.name {
        DataName::Phantom => phantom::generate(settings, progress),
        _ => source(settings)?.load(progress),
    }
}

/// Finds the volumes of a data set on disk, their splits, and what is wrong with it.
fn source(settings: &DataSettings) -> Result<source::Source> {
    let DataSettings { name, root, seed, unlabelled, .. } = settings;
    match name {
        DataName::Phantom => bail!("the phantom is generated: it lies in no folder"),
        DataName::Acdc => acdc::open(root),
        DataName::Mnms => mnms::open(root, *seed, *unlabelled),
        DataName::Own => own::open(root, *seed, *unlabelled),
    }
}

/// `work` on each of `items` on all cores, in order; `progress(done, total)`, in units of `weight` an item, is
/// called between batches on the calling thread, which therefore needs not be `Sync`.
fn parallel<I: Sync, O: Send>(
    items: &[I],
    weight: usize,
    progress: &Told<'_>,
    work: impl Fn(&I) -> O + Sync,
) -> Result<Vec<O>> {
    let total = items.len() * weight;
    let batch = (4 * rayon::current_num_threads()).max(1);
    let mut results = Vec::with_capacity(items.len());
    progress(0, total)?;
    for batch in items.chunks(batch) {
        results.par_extend(batch.par_iter().map(&work));
        progress(results.len() * weight, total)?;
    }
    Ok(results)
}

/// Many problems as one error: the first twenty, one a line, under `what`.
fn problems(what: &str, problems: &[String]) -> anyhow::Error {
    const SHOWN: usize = 20;
    let mut lines = vec![what.to_owned()];
    lines.extend(problems.iter().take(SHOWN).map(|problem| format!("  {problem}")));
    if problems.len() > SHOWN {
        lines.push(format!("  and {} more", problems.len() - SHOWN));
    }
    anyhow::Error::msg(lines.join("\n"))
}

#[cfg(test)]
mod tests;
