//! Whether an object still holds what was published.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::files::{self, explain};
use super::key::Key;
use super::{FileMeta, Meta, Store};

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is not there, or its metadata cannot be read.
    #[error("it is not in the store, or its metadata is torn")]
    Absent,
    /// A file is absent or has another size.
    #[error("{0} is absent or was cut short")]
    Torn(String),
    /// A file has its size and another content.
    #[error("{0} has another content than was written")]
    Changed(String),
}

impl Store {
    /// Reads the files of the finished stage `key` whose names satisfy `wanted` and compares their content with what was
    /// published. Files are read in parallel.
    ///
    /// # Errors
    /// Where a file cannot be read; what is damaged is no error but the value.
    pub fn verify(
        &self,
        key: &Key,
        wanted: impl Fn(&str) -> bool + Sync,
    ) -> Result<std::result::Result<Meta, Damage>> {
        let dir = self.object_path(key);
        let Some(meta) = super::parse_meta(&dir).filter(|meta| meta.key == *key) else {
            return Ok(Err(Damage::Absent));
        };
        let checked = meta.files.par_iter().map(|file| {
            // The size of every file: that costs nothing.
            check(&dir, file, wanted(&file.path))
        });
        let found: Vec<Option<Damage>> = checked.collect::<Result<_>>()?;
        Ok(found.into_iter().flatten().next().map_or(Ok(meta), Err))
    }

    /// Puts the damaged object `key` into quarantine, where it counts as absent, if it is still damaged: another process
    /// may have computed it anew. Returns whether it is gone.
    ///
    /// # Errors
    /// Where it can be neither read nor moved.
    pub fn quarantine(&self, key: &Key) -> Result<bool> {
        // Without the lock it might be taken away from under the process that is just publishing it.
        let Ok(_lock) = self.try_lock(key)? else { return Ok(false) };
        if self.verify(key, |_| true)?.is_ok() {
            return Ok(false);
        }
        let object = self.object_path(key);
        if object.exists() {
            self.put_aside(key, &object)?;
        }
        Ok(true)
    }

    /// Moves a damaged object out of the way, for a person to look at.
    pub(super) fn put_aside(&self, key: &Key, torn: &Path) -> Result<()> {
        let quarantine = self.root().join("quarantine");
        files::create_folder(&quarantine)?;
        let mut number = 1;
        let mut free = quarantine.join(format!("{key}-{number}"));
        while free.exists() {
            number += 1;
            free = quarantine.join(format!("{key}-{number}"));
        }
        files::rename(torn, &free).map_err(|error| explain(&error, "put aside", torn))
    }
}

fn check(dir: &Path, file: &FileMeta, content: bool) -> Result<Option<Damage>> {
    let path = dir.join(&file.path);
    let torn = || Ok(Some(Damage::Torn(file.path.clone())));
    match fs::metadata(&path) {
        Ok(found) if found.is_file() && found.len() == file.bytes => {}
        Ok(_) => return torn(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return torn(),
        Err(error) => return Err(explain(&error, "read", &path)),
    }
    if !content {
        return Ok(None);
    }
    let same = hash(&path)? == file.blake3;
    Ok((!same).then(|| Damage::Changed(file.path.clone())))
}

/// The BLAKE3 hash of the file at `path`, in hexadecimal digits. A bad sector reads as a content that is not the file's.
fn hash(path: &Path) -> Result<String> {
    let hashed = File::open(path).and_then(|mut file| hash_of(&mut file));
    match hashed {
        Ok((_, hash)) => Ok(hash),
        Err(error) if error.raw_os_error() == Some(5) => Ok(String::new()), // EIO
        Err(error) => Err(explain(&error, "read", path)),
    }
}

/// The size and the BLAKE3 hash of what `file` holds from here on.
pub(super) fn hash_of(file: &mut File) -> io::Result<(u64, String)> {
    let mut hash = blake3::Hasher::new();
    hash.update_reader(file)?;
    Ok((hash.count(), hash.finalize().to_hex().to_string()))
}
