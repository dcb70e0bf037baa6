//! ACDC as downloaded: `training/patient001/` with `Info.cfg`, `patient001_4d.nii.gz` and, of end-diastole and
//! end-systole, `patient001_frame01.nii.gz` and `patient001_frame01_gt.nii.gz`.
//!
//! Volumes are named as SSL4MIS names them: `frame01` is the earlier of the two frames and `frame02` the later one,
//! whatever their numbers. Each is scaled by its extremes. The published lists decide the split, unless the folder has
//! lists of its own; the testing part is read where those lists name its patients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::data::Split;
use crate::data::array::Stored;
use crate::data::lists::{self, Listed};
use crate::data::source::{Entry, Order, Reading, Slices, Source, digits, look_at_all};
use crate::data::split::{self, Candidate};
use crate::data::voxels::Intensity;

/// Version of this reader, part of the content hash.
const READER: u32 = 1;
/// Longest `Info.cfg` that is read, in bytes.
const LONGEST: u64 = 1 << 16;
/// The names of a patient's volumes.
pub(in crate::data) const FRAMES: [&str; 2] = ["frame01", "frame02"];
/// The published split, with the order of the training slices.
const PUBLISHED: &str = include_str!("published.txt");

/// A patient's folder.
pub(super) struct Patient {
    name: String,
    path: PathBuf,
    /// Of the part that was kept for the challenge's test.
    testing: bool,
}

/// What `Info.cfg` says.
#[derive(Debug, PartialEq, Eq)]
struct Info {
    /// Frame numbers, from 1.
    diastole: usize,
    systole: usize,
    group: Option<String>,
    frames: Option<usize>,
}

/// The patients' folders of both parts in order, where `root` holds any.
pub(super) fn find(root: &Path) -> Option<Vec<Patient>> {
    let mut patients = Vec::new();
    for base in [root.to_owned(), root.join("database")] {
        for (folder, testing) in
            [(base.clone(), false), (base.join("training"), false), (base.join("testing"), true)]
        {
            patients.extend(patients_in(&folder, testing));
        }
    }
    (!patients.is_empty()).then_some(patients)
}

/// The patients' folders in `folder`, by name.
fn patients_in(folder: &Path, testing: bool) -> Vec<Patient> {
    let mut patients: Vec<Patient> = folder_of(folder)
        .into_iter()
        .filter(|(name, path)| {
            let number = name.strip_prefix("patient");
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) && path.is_dir()
        })
        .map(|(name, path)| Patient { name, path, testing })
        .collect();
    patients.sort_by(|a, b| a.name.cmp(&b.name));
    patients
}

/// Names and paths in a folder; none where it cannot be read.
pub(in crate::data) fn folder_of(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut entries: Vec<(String, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    entries.sort();
    entries
}

/// Finds the volumes of all patients and their splits.
pub(super) fn open(root: &Path, patients: &[Patient]) -> Source {
    let mut found = Vec::new();
    let mut notes = Vec::new();
    let mut hash = blake3::Hasher::new();
    hash.update(format!("acdc raw reader={READER}").as_bytes());
    let has_lists = lists::file_name(Split::Train);
    let has_lists = root.join(has_lists).is_file();
    let mut candidates = Vec::new();
    let mut seen = BTreeSet::new();
    for patient in patients {
        if !seen.insert(patient.name.as_str()) {
            found.push(format!(
                "{} is there twice, the second time in {}",
                patient.name,
                patient.path.display()
            ));
            continue;
        }
        match volumes_of(patient, &mut notes) {
            Ok(volumes) => candidates.extend(volumes),
            // What the published split does not use needs not be whole.
            Err(error) if patient.testing && !has_lists => {
                notes.push(format!("not used, and broken: {error:#}"));
            }
            Err(error) => found.push(format!("{error:#}")),
        }
    }
    let testing = patients.iter().filter(|patient| patient.testing).count();
    let (entries, order, rule) = if has_lists {
        let (entries, order) = split::by_lists(root, &candidates, 0, &mut hash, &mut found);
        (entries, order, format!("the lists in {}", root.display()))
    } else {
        if testing > 0 {
            notes.push(format!(
                "{testing} patients of the testing part are not used: the published lists divide the training part"
            ));
        }
        let (entries, order) = published(root, candidates, &mut hash, &mut found);
        (entries, order, "the published lists (SSL4MIS)".to_owned())
    };
    look_at_all(&entries, &mut hash, &mut found);
    Source {
        root: root.to_owned(),
        form: "ACDC as downloaded",
        entries,
        order,
        reading: Reading::cardiac(Intensity::MinMax),
        rule,
        drawn: false,
        content: digits(&hash),
        notes,
        problems: found,
    }
}

/// The two volumes of a patient.
fn volumes_of(patient: &Patient, notes: &mut Vec<String>) -> Result<[Candidate; 2]> {
    let Patient { name, path, .. } = patient;
    let config = path.join("Info.cfg");
    let text = lists::read_text(&config, LONGEST)
        .with_context(|| format!("cannot read {}, which says where the two phases are", config.display()))?;
    let info = parse_info(&text).with_context(|| config.display().to_string())?;
    let mut frames = [info.diastole, info.systole];
    if frames[0] > frames[1] {
        notes.push(format!(
            "{name}: end-systole (frame {}) comes before end-diastole (frame {})",
            frames[1], frames[0]
        ));
        frames.sort_unstable();
    }
    let series =
        ["nii.gz", "nii"].map(|end| path.join(format!("{name}_4d.{end}"))).into_iter().find(|p| p.is_file());
    let mut volume = |phase: usize| {
        let frame = frames[phase];
        let file = |what: &str| {
            let ends = ["nii.gz", "nii"].map(|end| path.join(format!("{name}_frame{frame:02}{what}.{end}")));
            ends.into_iter().find(|path| path.is_file())
        };
        let image = match (file(""), &series) {
            (Some(path), _) => Stored::Nifti { path, frame: None },
            (None, Some(series)) => {
                notes.push(format!("{name}: frame {frame} is read from the 4-D file"));
                Stored::Nifti { path: series.clone(), frame: Some(frame - 1) }
            }
            (None, None) => bail!(
                "{} has neither {name}_frame{frame:02}.nii.gz nor {name}_4d.nii.gz: fetch the patient again",
                path.display()
            ),
        };
        let label = file("_gt").map(|path| Stored::Nifti { path, frame: None }).with_context(|| {
            format!("{} has no {name}_frame{frame:02}_gt.nii.gz: fetch the patient again", path.display())
        })?;
        Ok(Candidate {
            name: format!("{name}_{}", FRAMES[phase]),
            patient: name.clone(),
            group: info.group.clone(),
            image,
            label: Some(label),
        })
    };
    Ok([volume(0)?, volume(1)?])
}

/// Reads `key: value` lines.
fn parse_info(text: &str) -> Result<Info> {
    let mut values = BTreeMap::new();
    for (line, entry) in text.lines().enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
        let Some((key, value)) = entry.split_once(':') else {
            let shown: String = entry.chars().take(60).collect();
            bail!("line {}: `{}` is not of the form `ED: 1`", line + 1, shown.escape_default());
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if let Some((first, _)) = values.insert(key.clone(), (line + 1, value)) {
            bail!("line {}: `{}` stands on line {first} already", line + 1, key.escape_default());
        }
    }
    let number = |key: &str| {
        values.get(&key.to_ascii_lowercase()).map(|(line, value)| {
            let number = value.parse::<usize>().ok().filter(|&n| n > 0 && n < 100_000);
            let shown: String = value.chars().take(60).collect();
            number.with_context(|| {
                format!("line {line}: {key} is `{}`: a frame number from 1 is needed", shown.escape_default())
            })
        })
    };
    let needed = |key: &str| number(key).with_context(|| format!("has no line `{key}: …`"))?;
    let (diastole, systole) = (needed("ED")?, needed("ES")?);
    ensure!(diastole != systole, "ED and ES are both frame {diastole}");
    let frames = number("NbFrame").transpose()?;
    if let Some(frames) = frames {
        ensure!(
            diastole.max(systole) <= frames,
            "ED {diastole} and ES {systole} lie beyond the {frames} frames that NbFrame states"
        );
    }
    let group = values.get("group").map(|(_, value)| (*value).to_owned()).filter(|group| !group.is_empty());
    Ok(Info { diastole, systole, group, frames })
}

/// The published split of the training patients.
fn published(
    root: &Path,
    candidates: Vec<Candidate>,
    hash: &mut blake3::Hasher,
    found: &mut Vec<String>,
) -> (Vec<Entry>, Order) {
    let mut by_name: BTreeMap<String, Candidate> =
        candidates.into_iter().map(|candidate| (candidate.name.clone(), candidate)).collect();
    hash.update(PUBLISHED.as_bytes());
    let (volumes, slices) = published_lists();
    let mut entries = Vec::new();
    let mut absent = BTreeSet::new();
    for Listed { name, patient, split } in volumes {
        match by_name.remove(&name) {
            Some(candidate) => entries.push(candidate.into_entry(split)),
            None => {
                absent.insert(patient);
            }
        }
    }
    if !absent.is_empty() && found.is_empty() {
        let names: Vec<&str> = absent.iter().take(5).map(String::as_str).collect();
        found.push(format!(
            "{} of the 100 patients of the published lists are absent from {} ({}{}): fetch the training part again, or \
             put train.list, val.list and test.list of your own there",
            absent.len(),
            root.display(),
            names.join(", "),
            if absent.len() > names.len() { ", …" } else { "" }
        ));
    }
    (entries, Order::Listed { slices, place: "the published list".into(), whole: true })
}

/// The published lists: volumes, and training slices as (volume, slice from 0, line).
fn published_lists() -> (Vec<Listed>, Slices) {
    let (mut volumes, mut slices) = (Vec::new(), Slices::new());
    for line in PUBLISHED.lines().filter(|line| !line.starts_with('#')) {
        let (split, rest) = line.split_once(' ').unwrap_or_default();
        let (number, orders) = rest.split_once(' ').unwrap_or((rest, ""));
        let Some(split) = Split::ALL.into_iter().find(|known| known.name() == split) else { continue };
        let mut orders = orders.split('/');
        for frame in FRAMES {
            for z in orders.next().unwrap_or_default().split_whitespace() {
                let z: usize = z.parse().unwrap_or(1);
                slices.push((volumes.len(), z - 1, slices.len() + 1));
            }
            let patient = format!("patient{number}");
            volumes.push(Listed { name: format!("{patient}_{frame}"), patient, split });
        }
    }
    (volumes, slices)
}

/// Whether a text is an `Info.cfg`, for the tests with damaged ones.
#[cfg(test)]
pub(in crate::data) fn accepts_info(text: &str) -> bool {
    parse_info(text).is_ok()
}

#[cfg(test)]
mod tests;
