//! Split lists: `train.list`, `val.list`, `test.list` and the list of training slices, whose prefixes are the labelled
//! sets. A list is untrusted text: names stay names, and never lead out of the data set's folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Split;
use super::source::{Order, Slices};

/// The list of training slices.
pub(super) const SLICES: &str = "train_slices.list";
/// Longest list that is read, in bytes; ACDC's has 35 KB.
const LONGEST: u64 = 64 << 20;
/// Longest name of a volume.
const LONGEST_NAME: usize = 200;

/// One volume of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) patient: String,
    pub(super) split: Split,
}

/// The file of a split's list: `train.list`.
pub(super) fn file_name(split: Split) -> String {
    format!("{}.list", split.name())
}

/// The text of a file of at most `most` bytes.
pub(super) fn read_text(path: &Path, most: u64) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > most {
        return Err(std::io::Error::other(format!("it has {size} bytes, more than {most}")));
    }
    std::fs::read_to_string(path)
}

/// The entries of a list with their line numbers, from 1, without `.h5`; blank lines are skipped. What is no name of a
/// volume goes to `found`, with its place.
pub(super) fn parse(place: &str, text: &str, found: &mut Vec<String>) -> Vec<(usize, String)> {
    let mut entries = Vec::new();
    for (line, entry) in text.lines().enumerate() {
        let entry = entry.trim().trim_end_matches(".h5");
        if entry.is_empty() {
            continue;
        }
        if let Some(wrong) = no_name(entry) {
            let shown: String =
                entry.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect();
            found.push(format!("{place}:{}: `{shown}` {wrong}: a list holds names of volumes", line + 1));
            continue;
        }
        entries.push((line + 1, entry.to_owned()));
    }
    entries
}

/// Why a text is no name of a volume, if it is none.
pub(super) fn no_name(text: &str) -> Option<&'static str> {
    match text {
        _ if text.contains(['/', '\\']) || text.starts_with('.') => Some("is a path"),
        _ if text.len() > LONGEST_NAME => Some("is too long"),
        _ if text.chars().any(char::is_control) => Some("has control characters"),
        _ => None,
    }
}

/// The entries of the list at `path`; what decides the content goes into `hash`.
pub(super) fn read(path: &Path, hash: &mut blake3::Hasher, found: &mut Vec<String>) -> Vec<(usize, String)> {
    let text = match read_text(path, LONGEST) {
        Ok(text) => text,
        Err(error) => {
            found.push(format!(
                "cannot read {}: {error}: the lists of SSL4MIS (train, val, test, train_slices) belong beside the volumes",
                path.display()
            ));
            return Vec::new();
        }
    };
    let entries = parse(&path.display().to_string(), &text, found);
    // Blank lines and line ends do not change the content.
    hash.update(&(entries.len() as u64).to_le_bytes());
    for (_, entry) in &entries {
        hash.update(entry.as_bytes());
        hash.update(b"\n");
    }
    entries
}

/// Finds volumes that are listed twice and patients in more than one split.
pub(super) fn check_patients(root: &Path, volumes: &[Listed], found: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    let mut patients: BTreeMap<&str, BTreeSet<Split>> = BTreeMap::new();
    for volume in volumes {
        if !names.insert(volume.name.as_str()) {
            let list = root.join(file_name(volume.split));
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
            let lists: Vec<String> = splits.iter().map(|&split| file_name(split)).collect();
            found.push(format!(
                "{patient} is in {} of {}: a patient belongs to one split, or the test would be of seen patients",
                lists.join(" and "),
                root.display()
            ));
        }
    }
}

/// Reads the list of training slices, `patient099_frame01_slice_15` with slices from 1, against the training volumes.
pub(super) fn read_slices(
    path: &Path,
    volumes: &[Listed],
    hash: &mut blake3::Hasher,
    found: &mut Vec<String>,
) -> Order {
    let index: BTreeMap<&str, usize> =
        volumes.iter().enumerate().map(|(index, volume)| (volume.name.as_str(), index)).collect();
    let before = found.len();
    let mut slices = Slices::new();
    let mut seen = BTreeSet::new();
    let mut told = BTreeSet::new();
    // Patients in the order of the list; a set beside it, because lists can be long.
    let (mut last, mut named) = (None, BTreeSet::new());
    for (line, entry) in read(path, hash, found) {
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
                    "{place}: {name} is in {}: only training volumes may be trained on; remove its lines",
                    file_name(*split)
                ));
            }
            continue;
        }
        if !seen.insert((volume, z)) {
            found.push(format!("{place}: `{entry}` is listed before: remove one"));
        }
        if last != Some(patient.as_str()) {
            if !named.insert(patient.as_str()) {
                found.push(format!(
                    "{place}: {patient} stands apart from its other slices: labelled sets are prefixes of whole patients"
                ));
            }
            last = Some(patient);
        }
        slices.push((volume, z - 1, line));
    }
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
    Order::Listed { slices, place: path.display().to_string(), whole: false }
}
