//! From a work folder to a finished object.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::files::{self, explain};
use super::key::Key;
use super::provenance::Provenance;
use super::{CHECKPOINT, FileMeta, META, Meta, Store, StoredSpec};

/// The file in a work folder that holds the seconds of its earlier tries.
const SECONDS: &str = "checkpoint.seconds";

/// The folder that a stage is computed in.
#[derive(Debug)]
pub struct Work<'a> {
    store: &'a Store,
    key: Key,
    dir: PathBuf,
    /// Seconds of the tries before this one.
    earlier: f64,
    /// When this try began.
    begun: SystemTime,
}

impl<'a> Work<'a> {
    pub(super) fn open(store: &'a Store, key: &Key) -> Result<Self> {
        let dir = store.work_path(key);
        files::create_folder(&dir)?;
        let text = fs::read_to_string(dir.join(SECONDS)).unwrap_or_default();
        let earlier = text.trim().parse().ok().filter(|&s: &f64| s.is_finite() && s >= 0.0).unwrap_or(0.0);
        Ok(Self { store, key: key.clone(), dir, earlier, begun: SystemTime::now() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down that this try has taken `elapsed` so far, so that a kill does not lose it.
    pub fn note_time(&self, elapsed: Duration) -> Result<()> {
        let seconds = self.earlier + elapsed.as_secs_f64();
        files::write_unsynced(&self.dir.join(SECONDS), seconds.to_string().as_bytes())
    }

    /// Publishes the work: checkpoints go, every file is synced, the metadata is written last, and one rename makes it
    /// an object. Until that rename it is no object, and after it, it is a whole one.
    pub fn commit(
        self,
        stored: &StoredSpec,
        summary: Value,
        elapsed: Duration,
        threads: usize,
    ) -> Result<Meta> {
        let mut found = Vec::new();
        let seconds = self.earlier + elapsed.as_secs_f64();
        collect(&self.dir, "", &mut found)?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let spec = &stored.spec;
        let meta = Meta {
            key: self.key.clone(),
            kind: spec.kind,
            code: spec.kind.version(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            label: stored.label.clone(),
            settings: spec.settings.clone(),
            parents: spec.parents.clone(),
            seconds,
            threads,
            summary,
            files: found,
            provenance: Some(Provenance::of_process(self.begun, self.store.data_of(spec))),
        };
        let bytes = serde_json::to_vec_pretty(&meta).context("a stage's summary is no JSON")?;
        files::write_atomic(self.dir.join(META), bytes)?;
        self.publish()?;
        let _ = fs::remove_file(self.store.failure_path(&self.key)); // absent, most of the time
        Ok(meta)
    }

    fn publish(&self) -> Result<()> {
        let target = self.store.object_path(&self.key);
        let shelf = target.parent().expect("objects/ab is above objects/ab/abcd…");
        files::create_folder(shelf)?;
        if target.exists() {
            put_aside(self.store, &self.key, &target)?;
        }
        files::rename(&self.dir, &target).map_err(|error| explain(&error, "publish", &target))?;
        files::sync_folder(shelf)?;
        files::sync_folder(shelf.parent().expect("objects is above objects/ab"))
    }
}

/// Moves a torn object out of the way, for a person to look at.
fn put_aside(store: &Store, key: &Key, torn: &Path) -> Result<()> {
    let quarantine = store.root().join("quarantine");
    files::create_folder(&quarantine)?;
    let mut number = 1;
    let mut free = quarantine.join(format!("{key}-{number}"));
    while free.exists() {
        number += 1;
        free = quarantine.join(format!("{key}-{number}"));
    }
    files::rename(torn, &free).map_err(|error| explain(&error, "put aside", torn))
}

/// Removes what is only for resuming from the folder `dir`, syncs the rest, and lists it with `prefix` before the names.
fn collect(dir: &Path, prefix: &str, found: &mut Vec<FileMeta>) -> Result<()> {
    let reading = |error| explain(&error, "read", dir);
    for entry in fs::read_dir(dir).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let path = entry.path();
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| anyhow::anyhow!("{} is no UTF-8 file name", name.display()))?;
        let folder = entry.file_type().map_err(reading)?.is_dir();
        if name.starts_with(CHECKPOINT) || files::is_partial(&name) || (prefix.is_empty() && name == META) {
            let removed = if folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| explain(&error, "remove", &path))?;
        } else if folder {
            collect(&path, &format!("{prefix}{name}/"), found)?;
        } else {
            found.push(seal(&path, format!("{prefix}{name}"))?);
        }
    }
    files::sync_folder(dir)
}

/// Makes one file durable and takes its size and hash.
fn seal(path: &Path, name: String) -> Result<FileMeta> {
    let sealed = File::open(path).and_then(|mut file| {
        file.sync_all()?;
        let mut hash = blake3::Hasher::new();
        let bytes = std::io::copy(&mut file, &mut hash)?;
        Ok(FileMeta { path: name, bytes, blake3: hash.finalize().to_hex().to_string() })
    });
    sealed.map_err(|error| explain(&error, "sync", path))
}
