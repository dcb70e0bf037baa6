//! ACDC in the HDF5 form of SSL4MIS: one file a volume (`image` float, `label` uint8; slices, rows, columns), the split
//! lists, and the list of training slices whose prefixes are the labelled sets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::{CLASSES, Case, Dataset, Inspection, SliceRef, Split, Told, Volume, parallel, problems};

/// Version of this reader, part of the content hash. Raised whenever what it makes of the same files changes.
const READER: u32 = 1;
/// The list of training slices.
const SLICES: &str = "train_slices.list";
/// Head and tail of each volume that go into the content hash, in bytes.
const SAMPLE: u64 = 16 << 10;
/// What begins every HDF5 file.
const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";
/// How far an intensity may stray from `[0, 1]`: the rounding of float64 to float32.
const SLACK: f32 = 1e-6;

/// What the lists say and where the volumes lie.
struct Lists {
    /// In the order of training, validation, test list.
    volumes: Vec<Listed>,
    /// The training slices: index of the volume, slice from 0, line of the list.
    slices: Vec<(usize, usize, usize)>,
    content: String,
}

/// One volume of a list.
struct Listed {
    name: String,
    patient: String,
    split: Split,
    path: PathBuf,
}

/// See [`super::inspect`].
pub(super) fn inspect(root: &Path) -> Result<Inspection> {
    let lists = Lists::read(root)?;
    let patients: BTreeSet<&str> =
        lists.slices.iter().map(|&(volume, ..)| lists.volumes[volume].patient.as_str()).collect();
    Ok(Inspection { train_patients: patients.len(), volumes: lists.volumes.len(), content: lists.content })
}

/// See [`super::prepare`].
pub(super) fn load(root: &Path, progress: &Told<'_>) -> Result<Dataset> {
    let lists = Lists::read(root)?;
    let mut volumes = Vec::with_capacity(lists.volumes.len());
    let mut found = Vec::new();
    for result in parallel(&lists.volumes, 1, progress, read_volume)? {
        match result {
            Ok(volume) => volumes.push(volume),
            Err(error) => found.push(format!("{error:#}")),
        }
    }
    if found.is_empty() {
        for &(volume, z, line) in &lists.slices {
            let Case { name, shape, .. } = &volumes[volume].case;
            if z >= shape[0] {
                found.push(format!(
                    "{}:{line}: {name} has slices 1 to {}, not {}: correct the list",
                    root.join(SLICES).display(),
                    shape[0],
                    z + 1
                ));
            }
        }
    }
    if !found.is_empty() {
        return Err(problems(&format!("the data set in {} cannot be used:", root.display()), &found));
    }
    let slice = |&(volume, z, _): &(usize, usize, usize)| SliceRef { case: volume as u32, z: z as u32 };
    Ok(Dataset::new(lists.content, volumes, lists.slices.iter().map(slice).collect()))
}

impl Lists {
    /// Reads the lists and looks at the head and tail of each volume; every problem found is in the error.
    fn read(root: &Path) -> Result<Self> {
        let remedy =
            "set data.root (`--set data.root=DIR`) to the folder that holds volumes/ and the four lists";
        if root.as_os_str().is_empty() {
            bail!("data.root is not set: {remedy}");
        }
        if !root.is_dir() {
            bail!("data.root is {}, which is no folder: {remedy}", root.display());
        }
        let Some(folder) = ["volumes", "data"].iter().map(|name| root.join(name)).find(|dir| dir.is_dir())
        else {
            bail!("{} has neither volumes/ nor data/ with the .h5 files: {remedy}", root.display());
        };
        let mut hash = blake3::Hasher::new();
        hash.update(format!("acdc reader={READER}").as_bytes());
        let mut found = Vec::new();
        let mut volumes = Vec::new();
        for split in Split::ALL {
            let path = root.join(format!("{}.list", split.name()));
            let entries = read_list(&path, &mut hash, &mut found);
            if entries.is_empty() && found.is_empty() {
                found.push(format!(
                    "{} is empty: it names the volumes of the {} split",
                    path.display(),
                    split.name()
                ));
            }
            for (line, name) in entries {
                match name.split_once("_frame") {
                    Some((patient, _)) => volumes.push(Listed {
                        patient: patient.to_owned(),
                        split,
                        path: folder.join(format!("{name}.h5")),
                        name,
                    }),
                    None => found.push(format!(
                        "{}:{line}: `{name}` is not of the form patient001_frame01",
                        path.display()
                    )),
                }
            }
        }
        check_patients(root, &volumes, &mut found);
        let slices = read_slices(&root.join(SLICES), &volumes, &mut hash, &mut found);
        let looked: Vec<_> = volumes.par_iter().map(|volume| look_at(&volume.path)).collect();
        for result in looked {
            match result {
                Ok(digest) => {
                    hash.update(digest.as_bytes());
                }
                Err(problem) => found.push(problem),
            }
        }
        if !found.is_empty() {
            return Err(problems(&format!("the data set in {} cannot be used:", root.display()), &found));
        }
        Ok(Self { volumes, slices, content: hash.finalize().to_hex()[..32].to_owned() })
    }
}

/// The entries of a list with their line numbers, from 1; blank lines are skipped.
fn read_list(path: &Path, hash: &mut blake3::Hasher, found: &mut Vec<String>) -> Vec<(usize, String)> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            found.push(format!(
                "cannot read {}: {error}: the lists of SSL4MIS (train, val, test, train_slices) belong beside the volumes",
                path.display()
            ));
            return Vec::new();
        }
    };
    let entries: Vec<_> = text
        .lines()
        .enumerate()
        .map(|(line, entry)| (line + 1, entry.trim().trim_end_matches(".h5").to_owned()))
        .filter(|(_, entry)| !entry.is_empty())
        .collect();
    // Blank lines and line ends do not change the content.
    hash.update(&(entries.len() as u64).to_le_bytes());
    for (_, entry) in &entries {
        hash.update(entry.as_bytes());
        hash.update(b"\n");
    }
    entries
}

/// Finds volumes that are listed twice and patients in more than one split.
fn check_patients(root: &Path, volumes: &[Listed], found: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    let mut patients: BTreeMap<&str, BTreeSet<Split>> = BTreeMap::new();
    for volume in volumes {
        if !names.insert(volume.name.as_str()) {
            let list = root.join(format!("{}.list", volume.split.name()));
            found.push(format!(
                "{} names {} which is listed before: remove one",
                list.display(),
                volume.name
            ));
        }
        patients.entry(&volume.patient).or_default().insert(volume.split);
    }
    for (patient, splits) in patients {
        if splits.len() > 1 {
            let lists: Vec<String> = splits.iter().map(|split| format!("{}.list", split.name())).collect();
            found.push(format!(
                "{patient} is in {} of {}: a patient belongs to one split, or the test would be of seen patients",
                lists.join(" and "),
                root.display()
            ));
        }
    }
}

/// Reads the list of training slices, `patient099_frame01_slice_15` with slices from 1, against the training volumes.
fn read_slices(
    path: &Path,
    volumes: &[Listed],
    hash: &mut blake3::Hasher,
    found: &mut Vec<String>,
) -> Vec<(usize, usize, usize)> {
    let index: BTreeMap<&str, usize> =
        volumes.iter().enumerate().map(|(index, volume)| (volume.name.as_str(), index)).collect();
    let before = found.len();
    let mut slices = Vec::new();
    let mut seen = BTreeSet::new();
    let mut told = BTreeSet::new();
    let mut patients: Vec<&str> = Vec::new();
    for (line, entry) in read_list(path, hash, found) {
        let place = format!("{}:{line}", path.display());
        let parsed =
            entry.rsplit_once("_slice_").and_then(|(name, z)| Some((name, z.parse::<usize>().ok()?)));
        let Some((name, z)) = parsed else {
            found.push(format!("{place}: `{entry}` is not of the form patient001_frame01_slice_1"));
            continue;
        };
        if z == 0 {
            found.push(format!("{place}: slice 0 of {name}: slices are numbered from 1"));
            continue;
        }
        // A volume has many slices: what is wrong with it is said once, at the first of them.
        let Some(&volume) = index.get(name) else {
            if told.insert(name.to_owned()) {
                found.push(format!(
                    "{place}: {name} is in no list of volumes: add it to train.list or remove its lines"
                ));
            }
            continue;
        };
        let Listed { patient, split, .. } = &volumes[volume];
        if *split != Split::Train {
            if told.insert(name.to_owned()) {
                found.push(format!(
                    "{place}: {name} is in {}.list: only training volumes may be trained on; remove its lines",
                    split.name()
                ));
            }
            continue;
        }
        if !seen.insert((volume, z)) {
            found.push(format!("{place}: `{entry}` is listed before: remove one"));
        }
        if patients.last() != Some(&patient.as_str()) {
            if patients.contains(&patient.as_str()) {
                found.push(format!(
                    "{place}: {patient} stands apart from its other slices: labelled sets are prefixes of whole patients"
                ));
            }
            patients.push(patient);
        }
        slices.push((volume, z - 1, line));
    }
    let named: BTreeSet<&str> = patients.iter().copied().collect();
    let listed: BTreeSet<&str> =
        volumes.iter().filter(|v| v.split == Split::Train).map(|v| v.patient.as_str()).collect();
    if found.len() == before {
        for patient in listed.difference(&named) {
            found.push(format!(
                "{} has no slice of {patient}, which train.list names: add its slices",
                path.display()
            ));
        }
    }
    slices
}

/// Hash of name, size, head and tail of a volume; finds it absent, of another kind, or cut short.
fn look_at(path: &Path) -> Result<blake3::Hash, String> {
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
    if !head.starts_with(SIGNATURE) {
        return Err(format!("{place} is no HDF5 file: fetch it again"));
    }
    if let Some(expected) = stated_size(&head)
        && expected > size
    {
        return Err(format!("{place} is cut short: {size} of {expected} bytes: fetch it again"));
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

/// Reads one volume and checks each voxel.
fn read_volume(listed: &Listed) -> Result<Volume> {
    let place = listed.path.display();
    let file = hdf5_pure::File::open(&listed.path)
        .with_context(|| format!("cannot open {place}: fetch it again if it is damaged"))?;
    let dataset = |name: &str| {
        file.dataset(name)
            .with_context(|| format!("{place} has no dataset `{name}`, or is damaged: fetch it again"))
    };
    let read = |name: &str| format!("cannot read `{name}` of {place}: fetch it again if it is damaged");
    let (images, labels) = (dataset("image")?, dataset("label")?);
    let shape = images.shape().with_context(|| read("image"))?;
    let label_shape = labels.shape().with_context(|| read("label"))?;
    if shape != label_shape {
        bail!("{place} has an image of {shape:?} but a label of {label_shape:?}: both need the same shape");
    }
    let &[depth, height, width] = shape.as_slice() else {
        bail!("{place} has an image of {} axes: slices, rows and columns are needed", shape.len());
    };
    let shape = [depth as usize, height as usize, width as usize];
    if shape.contains(&0) {
        bail!("{place} is empty ({shape:?}): remove it from the lists");
    }
    let image = images.read_f32().with_context(|| read("image"))?;
    let label = labels.read_i32().with_context(|| read("label"))?;
    let voxels = shape.iter().product::<usize>();
    if image.len() != voxels || label.len() != voxels {
        bail!("{place} holds {} and {} voxels instead of {voxels}: fetch it again", image.len(), label.len());
    }
    check_voxels(&listed.path, shape, &image, &label)?;
    let case = Case {
        name: listed.name.clone(),
        patient: listed.patient.clone(),
        split: listed.split,
        shape,
        spacing: None,
    };
    let image = image.into_iter().map(|value| value.clamp(0.0, 1.0)).collect();
    Ok(Volume { case, image, label: label.into_iter().map(|value| value as u8).collect() })
}

/// Finds intensities that are no numbers or outside `[0, 1]`, and labels that are no class.
fn check_voxels(path: &Path, shape: [usize; 3], image: &[f32], label: &[i32]) -> Result<()> {
    let place = path.display();
    let at = |index: usize| {
        let (z, pixel) = (index / (shape[1] * shape[2]), index % (shape[1] * shape[2]));
        format!("slice {}, row {}, column {}", z + 1, pixel / shape[2], pixel % shape[2])
    };
    if let Some(index) = image.iter().position(|value| !value.is_finite()) {
        bail!("{place} has the intensity {} at {}: repair or remove the volume", image[index], at(index));
    }
    if let Some(index) = image.iter().position(|value| !(-SLACK..=1.0 + SLACK).contains(value)) {
        bail!("{place} has the intensity {} at {}: scale each volume to [0, 1]", image[index], at(index));
    }
    if let Some(index) = label.iter().position(|&value| !(0..CLASSES as i32).contains(&value)) {
        bail!(
            "{place} has the label {} at {}: labels are 0 to 3 (background, RV, Myo, LV)",
            label[index],
            at(index)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
