//! Whether what a run leaves is still what it left: the objects that frames are made from, and the frames and the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;

use crate::plan::Plan;
use crate::store::key::Key;
use crate::store::{self, Store};

/// The files of finished stages that frames are made from; they are small, and read in full anyway.
const READ: [&str; 2] = ["cases.jsonl", "history.jsonl"];

/// Puts the finished trainings and evaluations of `plan` into quarantine whose results have another content than was
/// written. Returns how many.
pub(super) fn put_aside(plan: &Plan, store: &Store) -> Result<usize> {
    let mut keys: Vec<&Key> = plan.points.iter().flat_map(|point| [&point.train, &point.evaluate]).collect();
    keys.sort_unstable();
    keys.dedup();
    let looked = keys.par_iter().map(|key| {
        if store.object(key).is_none() || store.verify(key, |name| READ.contains(&name))?.is_ok() {
            return Ok(0);
        }
        store.quarantine(key).map(usize::from)
    });
    looked.sum()
}

/// The BLAKE3 hash of each file in `folders`, by its path.
pub(super) type Files = BTreeMap<PathBuf, String>;

/// The files in `folders` and below, and the folders.
fn walk(folders: &[&Path]) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut walked) = (Vec::new(), Vec::new());
    let mut next: Vec<PathBuf> = folders.iter().map(|&folder| folder.to_owned()).collect();
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { next.push(path) } else { files.push(path) }
        }
        walked.push(folder);
    }
    Ok((files, walked))
}

/// Removes the half-written files of killed processes in `folders` and below.
pub(super) fn remove_partials(folders: &[&Path]) -> Result<()> {
    walk(folders)?.1.iter().try_for_each(|folder| store::remove_partials(folder))
}

/// The files in `folders` and below, with their hashes.
pub(super) fn files(folders: &[&Path]) -> Result<Files> {
    let found = walk(folders)?.0;
    let hashed = found.into_par_iter().map(|path| {
        let hash = hash(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path, hash))
    });
    hashed.collect()
}

/// Whether each of `files` is there with the content that it had.
pub(super) fn are_whole(files: &Files) -> bool {
    !files.is_empty()
        && files.par_iter().all(|(path, expected)| hash(path).is_ok_and(|hash| hash == *expected))
}

fn hash(path: &Path) -> std::io::Result<String> {
    Ok(blake3::hash(&fs::read(path)?).to_hex().to_string())
}
