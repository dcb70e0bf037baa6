//! ACDC, in the HDF5 form of SSL4MIS (here) or as downloaded ([`raw`]).
//!
//! SSL4MIS has a file a volume (`image` float, `label` uint8; slices, rows, columns), or a file a slice, the split lists,
//! and the list of training slices whose prefixes are the labelled sets.

mod raw;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Split;
use super::array::Stored;
use super::lists::{self, Listed};
use super::source::{Entry, Reading, Source, digits, look_at_all};
use super::voxels::Intensity;

#[cfg(test)]
pub(super) use raw::accepts_info;
pub(super) use raw::{FRAMES, folder_of};

/// Version of this reader, part of the content hash. Raised whenever what it makes of the same files changes.
const READER: u32 = 1;

/// Slices of a volume are looked for up to this number.
const MOST_SLICES: usize = 10_000;

/// Finds the data set at `root` in either form.
pub(super) fn open(root: &Path) -> Result<Source> {
    let remedy = "set data.root (`--set data.root=DIR`) to the folder that holds volumes/ and the four lists, or to that \
                  of ACDC as downloaded, which holds training/";
    if root.as_os_str().is_empty() {
        bail!("data.root is not set: {remedy}");
    }
    if !root.is_dir() {
        bail!("data.root is {}, which is no folder: {remedy}", root.display());
    }
    if let Some(folders) = raw::find(root) {
        return Ok(raw::open(root, &folders));
    }
    match ["volumes", "data"].iter().map(|name| root.join(name)).find(|dir| dir.is_dir()) {
        Some(folder) => Ok(ssl4mis(root, &folder)),
        None => bail!(
            "{} has neither volumes/ nor data/ with the .h5 files, nor training/ with a folder for each patient: {remedy}",
            root.display()
        ),
    }
}

/// Whether the downloaded form lies in `root`.
pub(super) fn is_raw(root: &Path) -> bool {
    raw::find(root).is_some()
}

/// Reads the lists and looks at the head and tail of each volume; every problem found is in the source.
fn ssl4mis(root: &Path, folder: &Path) -> Source {
    let mut hash = blake3::Hasher::new();
    hash.update(format!("acdc reader={READER}").as_bytes());
    let mut found = Vec::new();
    let mut volumes = Vec::new();
    for split in Split::ALL {
        let path = root.join(lists::file_name(split));
        let entries = lists::read(&path, &mut hash, &mut found);
        if entries.is_empty() && found.is_empty() {
            found.push(format!(
                "{} is empty: it names the volumes of the {} split",
                path.display(),
                split.name()
            ));
        }
        for (line, name) in entries {
            match name.split_once("_frame") {
                Some((patient, _)) => volumes.push(Listed { patient: patient.to_owned(), split, name }),
                None => found.push(format!(
                    "{}:{line}: `{name}` is not of the form patient001_frame01",
                    path.display()
                )),
            }
        }
    }
    lists::check_patients(root, &volumes, &mut found);
    let order = lists::read_slices(&root.join(lists::SLICES), &volumes, &mut hash, &mut found);
    let mut from_slices = 0;
    let entries: Vec<Entry> = volumes
        .into_iter()
        .map(|Listed { name, patient, split }| {
            let whole = folder.join(format!("{name}.h5"));
            let slices = if whole.is_file() { Vec::new() } else { slice_files(root, folder, &name) };
            from_slices += usize::from(!slices.is_empty());
            let stored = |dataset: &str| match slices.as_slice() {
                [] => Stored::hdf5(whole.clone(), dataset),
                paths => Stored::Slices { paths: paths.to_vec(), dataset: dataset.to_owned() },
            };
            let (image, label) = (stored("image"), Some(stored("label")));
            Entry { name, patient, split, image, label, group: None }
        })
        .collect();
    look_at_all(&entries, &mut hash, &mut found);
    let mut notes = Vec::new();
    if from_slices > 0 {
        notes.push(format!("{from_slices} of {} volumes are put together from their slices", entries.len()));
    }
    Source {
        root: root.to_owned(),
        form: "ACDC in the HDF5 form of SSL4MIS",
        entries,
        order,
        reading: Reading::cardiac(Intensity::Given),
        rule: "the lists beside the volumes".into(),
        drawn: false,
        content: digits(&hash),
        notes,
        problems: found,
    }
}

/// The files of the slices of a volume, numbered from 1, as far as they go without a gap.
fn slice_files(root: &Path, folder: &Path, name: &str) -> Vec<PathBuf> {
    let folders = [folder.join("slices"), root.join("slices")];
    let Some(folder) = folders.into_iter().find(|folder| folder.join(format!("{name}_slice_1.h5")).is_file())
    else {
        return Vec::new();
    };
    (1..=MOST_SLICES)
        .map(|z| folder.join(format!("{name}_slice_{z}.h5")))
        .take_while(|path| path.is_file())
        .collect()
}

#[cfg(test)]
mod tests;
