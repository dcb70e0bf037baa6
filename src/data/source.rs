//! A data set before it is read: which volumes, where each lies, which split, and how its numbers become intensities
//! and labels. Every form of data set is brought to this, and read here.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rand::seq::SliceRandom as _;

use super::array::{self, Array, Stored};
use super::voxels::{self, Codes, Intensity};
use super::{CLASS_NAMES, Case, Dataset, Inspection, SliceRef, Split, Told, Volume, parallel, problems};
use crate::rng::stream;

/// Head and tail of each file that go into the content hash, in bytes.
const SAMPLE: u64 = 16 << 10;
/// What begins every HDF5 file.
const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Training slices as (entry, slice from 0, line of the list).
pub(super) type Slices = Vec<(usize, usize, usize)>;

/// One volume that has not been read.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) patient: String,
    pub(super) split: Split,
    pub(super) image: Stored,
    /// Nothing where the volume has no label.
    pub(super) label: Option<Stored>,
    /// What the split is balanced over: the vendor.
    pub(super) group: Option<String>,
}

/// The order of the training slices.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// As a list has it.
    Listed {
        /// In its order.
        slices: Slices,
        /// The list, for errors.
        place: String,
        /// Whether it has to name every slice of each volume.
        whole: bool,
    },
    /// Entry by entry, the slices of each shuffled by the seed.
    Shuffled(u64),
}

/// How stored numbers become intensities and labels.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Names of the classes, the background first.
    pub(super) classes: Vec<String>,
    pub(super) codes: Codes,
    pub(super) intensity: Intensity,
    /// Slices, rows, columns in mm, for files that do not say.
    pub(super) spacing: Option<[f32; 3]>,
}

impl Reading {
    /// Of ACDC: its classes, by their codes.
    pub(super) fn cardiac(intensity: Intensity) -> Self {
        Self {
            classes: CLASS_NAMES.iter().map(|&name| name.to_owned()).collect(),
            codes: Codes::default(),
            intensity,
            spacing: None,
        }
    }
}

/// A data set before it is read.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it lies.
    pub(super) root: PathBuf,
    /// Its form, for people: `ACDC as downloaded`.
    pub(super) form: &'static str,
    /// Training, validation, test; labelled training patients before unlabelled ones.
    pub(super) entries: Vec<Entry>,
    pub(super) order: Order,
    pub(super) reading: Reading,
    /// What made the split, for people.
    pub(super) rule: String,
    /// Whether the split was drawn from a seed, so that it has to be written down.
    pub(super) drawn: bool,
    /// Hash of what decides the content.
    pub(super) content: String,
    /// What is worth knowing and not wrong.
    pub(super) notes: Vec<String>,
    /// What keeps it from being used.
    pub(super) problems: Vec<String>,
}

impl Source {
    /// The error of all problems, where there are any.
    pub(super) fn check(&self) -> Result<()> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.refuse(&self.problems)) }
    }

    fn refuse(&self, found: &[String]) -> anyhow::Error {
        problems(&format!("the data set in {} cannot be used:", self.root.display()), found)
    }

    /// What is known without reading a volume.
    pub(super) fn inspection(&self) -> Result<Inspection> {
        self.check()?;
        let patients = |labelled: bool| {
            let train = self.entries.iter().filter(|e| e.split == Split::Train);
            let names = train.filter(|e| e.label.is_some() == labelled).map(|e| e.patient.as_str());
            names.collect::<BTreeSet<_>>()
        };
        let train_patients = match &self.order {
            Order::Shuffled(_) => patients(true).len(),
            Order::Listed { slices, .. } => {
                let names: BTreeSet<&str> =
                    slices.iter().map(|&(entry, ..)| self.entries[entry].patient.as_str()).collect();
                names.intersection(&patients(true)).count()
            }
        };
        Ok(Inspection { train_patients, volumes: self.entries.len(), content: self.content.clone() })
    }

    /// Reads and checks every voxel.
    pub(super) fn load(self, progress: &Told<'_>) -> Result<Dataset> {
        self.check()?;
        let units = self.units();
        let mut volumes = Vec::with_capacity(self.entries.len());
        let mut found = Vec::new();
        let read =
            parallel(&units, 1, progress, |unit| read_unit(&self.entries[unit.clone()], &self.reading))?;
        for result in read.into_iter().flatten() {
            match result {
                Ok(volume) => volumes.push(volume),
                Err(error) => found.push(format!("{error:#}")),
            }
        }
        if found.is_empty() {
            self.check_slices(&volumes, &mut found);
        }
        if !found.is_empty() {
            return Err(self.refuse(&found));
        }
        let slices = self.train_slices(&volumes);
        let lists = self.drawn.then_some(self.rule);
        Ok(Dataset::new(self.content, self.reading.classes, volumes, slices).with_rule(lists))
    }

    /// Entries that are read together: neighbours in one file.
    pub(super) fn units(&self) -> Vec<std::ops::Range<usize>> {
        let mut units = Vec::new();
        let mut start = 0;
        for unit in self.entries.chunk_by(|a, b| a.image.path() == b.image.path()) {
            units.push(start..start + unit.len());
            start += unit.len();
        }
        units
    }

    fn check_slices(&self, volumes: &[Volume], found: &mut Vec<String>) {
        let Order::Listed { slices, place, whole } = &self.order else { return };
        let mut named = vec![0; volumes.len()];
        for &(volume, z, line) in slices {
            named[volume] += 1;
            let Case { name, shape, .. } = &volumes[volume].case;
            if z >= shape[0] {
                found.push(format!(
                    "{place}:{line}: {name} has slices 1 to {}, not {}: correct the list",
                    shape[0],
                    z + 1
                ));
            }
        }
        let train = volumes.iter().zip(named).filter(|(volume, _)| volume.case.split == Split::Train);
        for (Volume { case, .. }, named) in
            train.filter(|(volume, named)| *whole && volume.case.shape[0] > *named)
        {
            found.push(format!(
                "{} has {} slices, but {place} names {named}: is this ACDC? Lists of your own go beside it",
                case.name, case.shape[0]
            ));
        }
    }

    fn train_slices(&self, volumes: &[Volume]) -> Vec<SliceRef> {
        let slice = |case: usize, z: usize| SliceRef { case: case as u32, z: z as u32 };
        match &self.order {
            Order::Listed { slices, .. } => slices.iter().map(|&(case, z, _)| slice(case, z)).collect(),
            Order::Shuffled(seed) => shuffled(*seed, volumes.iter().map(|volume| &volume.case)),
        }
    }
}

/// The training slices of `cases`: case by case, the slices of each in a random order.
pub(super) fn shuffled<'a>(seed: u64, cases: impl Iterator<Item = &'a Case>) -> Vec<SliceRef> {
    let mut slices = Vec::new();
    for (case, Case { name, shape, .. }) in cases.enumerate().filter(|(_, case)| case.split == Split::Train) {
        let start = slices.len();
        slices.extend((0..shape[0]).map(|z| SliceRef { case: case as u32, z: z as u32 }));
        // By name, so that another patient more or less leaves the order of the others as it was.
        slices[start..].shuffle(&mut stream(seed, &format!("slice order {name}"), 0));
    }
    slices
}

/// Reads entries whose images lie in one file.
pub(super) fn read_unit(entries: &[Entry], reading: &Reading) -> Vec<Result<Volume>> {
    let stored =
        |of: fn(&Entry) -> Option<&Stored>| -> Vec<Option<&Stored>> { entries.iter().map(of).collect() };
    let images = array::read_all(&stored(|entry| Some(&entry.image)));
    let labels = array::read_all(&stored(|entry| entry.label.as_ref()));
    let arrays = images.into_iter().zip(labels);
    let read = entries.iter().zip(arrays).map(|(entry, (image, label)): (_, (Option<Result<Array>>, _))| {
        volume(entry, image.context("no image")??, label.transpose()?, reading)
    });
    read.collect()
}

/// Checks and scales one volume.
fn volume(entry: &Entry, image: Array, label: Option<Array>, reading: &Reading) -> Result<Volume> {
    let place = entry.image.path().display();
    let shape = image.shape;
    if shape.contains(&0) {
        bail!("{place} is empty ({shape:?}): remove it from the lists");
    }
    if let (Some(label), Some(stored)) = (&label, &entry.label) {
        ensure!(
            label.shape == shape,
            "{place} has an image of {shape:?} but a label of {:?}{}: both need the same shape",
            label.shape,
            if stored.path() == entry.image.path() {
                String::new()
            } else {
                format!(" in {}", stored.path().display())
            }
        );
    }
    let labelled = label.is_some();
    let range = voxels::range(&image.values);
    let image_values = reading.intensity.scale(image.values, shape, entry.image.path())?;
    let label_values = match (label, &entry.label) {
        (Some(label), Some(stored)) => {
            reading.codes.classes(&label.values, shape, stored.path(), &reading.classes)?
        }
        _ => vec![0; image_values.len()],
    };
    let case = Case {
        name: entry.name.clone(),
        patient: entry.patient.clone(),
        split: entry.split,
        shape,
        spacing: image.spacing.or(reading.spacing),
        labelled,
    };
    Ok(Volume { case, image: image_values, label: label_values, range })
}

/// Hash of name, size, head and tail of a file; finds it absent, of another kind, or cut short.
pub(super) fn look_at(path: &Path) -> Result<blake3::Hash, String> {
    let place = path.display();
    let broken = |error: std::io::Error| format!("cannot read {place}: {error}");
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(format!("{place} is absent, but a list names it: add the file or remove the line"));
        }
        Err(error) => return Err(broken(error)),
    };
    let size = file.metadata().map_err(broken)?.len();
    let mut head = vec![0; size.min(SAMPLE) as usize];
    file.read_exact(&mut head).map_err(broken)?;
    if path.extension().is_some_and(|end| end == "h5" || end == "hdf5") {
        if !head.starts_with(SIGNATURE) {
            return Err(format!("{place} is no HDF5 file: fetch it again"));
        }
        if let Some(expected) = stated_size(&head)
            && expected > size
        {
            return Err(format!("{place} is cut short: {size} of {expected} bytes: fetch it again"));
        }
    } else if !looks_like_nifti(&head) {
        return Err(format!("{place} is no NIfTI file: fetch it again"));
    }
    let mut tail = vec![0; (size - head.len() as u64).min(SAMPLE) as usize];
    file.seek(SeekFrom::Start(size - tail.len() as u64)).map_err(broken)?;
    file.read_exact(&mut tail).map_err(broken)?;
    let mut hash = blake3::Hasher::new();
    hash.update(path.file_name().map_or(&[][..], |name| name.as_encoded_bytes()));
    hash.update(&size.to_le_bytes());
    hash.update(&head);
    hash.update(&tail);
    Ok(hash.finalize())
}

/// Looks at all files of `entries`, each once; what decides the content goes into `hash`.
pub(super) fn look_at_all(entries: &[Entry], hash: &mut blake3::Hasher, found: &mut Vec<String>) {
    use rayon::prelude::*;
    let stored = entries.iter().flat_map(|entry| std::iter::once(&entry.image).chain(&entry.label));
    let mut seen = BTreeSet::new();
    let paths: Vec<&Path> = stored.flat_map(Stored::paths).filter(|path| seen.insert(*path)).collect();
    let looked: Vec<_> = paths.par_iter().map(|path| look_at(path)).collect();
    for result in looked {
        match result {
            Ok(digest) => {
                hash.update(digest.as_bytes());
            }
            Err(problem) => found.push(problem),
        }
    }
}

/// Whether a file begins as gzip or as a NIfTI header of either byte order.
fn looks_like_nifti(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b])
        || [348_i32, 540]
            .iter()
            .any(|size| head.starts_with(&size.to_le_bytes()) || head.starts_with(&size.to_be_bytes()))
}

/// The size that an HDF5 file states in its superblock (HDF5 File Format Specification 3.0, §II.A), where its addresses
/// have eight bytes and count from the file's start.
fn stated_size(head: &[u8]) -> Option<u64> {
    let number = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let (offset_size, base, end) = match head.get(8)? {
        0 => (13, 24, 40),
        1 => (13, 28, 44),
        2 | 3 => (9, 12, 28),
        _ => return None,
    };
    (*head.get(offset_size)? == 8 && number(base)? == 0).then(|| number(end)).flatten()
}

/// The first 32 digits of what was hashed.
pub(super) fn digits(hash: &blake3::Hasher) -> String {
    hash.finalize().to_hex()[..32].to_owned()
}
