//! The store: one folder per finished stage, published by one rename. What is on disk is the only truth.
//!
//! ```text
//! objects/ab/abcd…/   finished: the stage's files, and meta.json with their sizes and hashes, and its own
//! tmp/abcd…/          being worked on, or left by a kill: checkpoints are found again here
//! specs/abcd….json    what the stage is, for `sweep stage KEY`
//! locks/abcd…         held while it is computed
//! logs/abcd….log      what its processes said
//! failures/abcd…      why its last try failed; gone once it succeeds
//! quarantine/         objects that were found damaged, put aside
//! runs/               the sweeps that run now
//! ```

pub mod files;
pub mod key;
pub mod provenance;
pub mod runs;
mod commit;
mod failure;
mod inventory;
mod list;
mod listing;
mod lock;
mod meta;
mod tidy;
mod verify;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stage::{Parent, StageKind, StageSpec};
use key::Key;
use provenance::Provenance;
pub use provenance::QueuedJob;

pub use commit::Work;
pub use failure::{Cause, Failure};
pub use inventory::{Held, Inventory};
pub use lock::Lock;
pub use runs::{RunRecord, Running};
pub use tidy::{Presence, remove_partials};
pub use verify::Damage;

/// Where the store lies unless `--store` says otherwise.
pub const DEFAULT_ROOT: &str = "results/.store";

/// The file that makes a folder a finished object; written last.
pub const META: &str = "meta.json";

/// Files whose name starts so are for resuming only, and removed when the stage is finished.
pub const CHECKPOINT: &str = "checkpoint";

/// Why an object of the store is as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// The stage's key.
    pub key: Key,
    /// Its kind.
    pub kind: StageKind,
    /// The version of the kind's code.
    pub code: u32,
    /// The version of this program.
    pub program: String,
    /// The text for people.
    pub label: String,
    /// The settings that decide the result.
    pub settings: Value,
    /// What it was computed from.
    pub parents: Vec<Parent>,
    /// Seconds of work over all tries, not those that a kill took with it.
    pub seconds: f64,
    /// CPU threads of the last try.
    pub threads: usize,
    /// What the stage says of itself in short.
    pub summary: Value,
    /// The files, sorted by path.
    pub files: Vec<FileMeta>,
    /// How it came to be; none of objects that older programs made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// A file of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Its path inside the object, with `/` between the parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 hash of its content, in hexadecimal digits.
    pub blake3: String,
}

/// What the store keeps for `sweep stage KEY`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredSpec {
    /// The text for people.
    pub label: String,
    /// The stage.
    pub spec: StageSpec,
}

/// Finished stages, and those being worked on, in one folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Says that this process may be writing; none of a store for reading only.
    presence: Option<Arc<Presence>>,
}

impl Store {
    /// Opens the store at `root`, creating it where it is absent.
    ///
    /// # Errors
    /// Where the folder is not writable; the message names it and the remedy.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let mut store = Self::at(root);
        let opened = files::check_writable(&store.root).and_then(|()| {
            ["objects", "tmp", "specs", "locks", "logs", "failures", "runs"]
                .iter()
                .try_for_each(|name| files::create_folder(store.root.join(name)))?;
            Presence::enter(&store.root)
        });
        let presence =
            opened.with_context(|| format!("the store {} cannot be used", store.root.display()))?;
        store.presence = Some(Arc::new(presence));
        Ok(store)
    }

    /// The store at `root` for reading only: nothing is created, and a folder that is absent is an empty store.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), presence: None }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the finished stage `key`; none where it is unfinished or torn (a file lost or cut short).
    pub fn object(&self, key: &Key) -> Option<PathBuf> {
        self.meta(key).map(|_| self.object_path(key))
    }

    /// Where the finished stage `key` lies, if it is finished.
    pub fn folder(&self, key: &Key) -> PathBuf {
        self.object_path(key)
    }

    /// What is known of the finished stage `key`; none where [`Self::object`] is none.
    pub fn meta(&self, key: &Key) -> Option<Meta> {
        read_meta(&self.object_path(key)).filter(|meta| meta.key == *key)
    }

    /// The content of the data set that a stage reads, at whatever distance; none where it is unknown.
    fn data_of(&self, spec: &StageSpec) -> Option<String> {
        let content = |kind: StageKind, settings: &Value| match kind {
            StageKind::Prepare => settings.get("content")?.as_str().map(str::to_owned),
            _ => None,
        };
        content(spec.kind, &spec.settings).or_else(|| {
            spec.parents.iter().find_map(|parent| {
                let meta = self.meta(&parent.key)?;
                meta.provenance.and_then(|found| found.data).or_else(|| content(meta.kind, &meta.settings))
            })
        })
    }

    /// Writes down what `key` is, for `sweep stage`.
    pub fn write_spec(&self, key: &Key, label: &str, spec: &StageSpec) -> Result<()> {
        let path = self.spec_path(key);
        let stored = StoredSpec { label: label.to_owned(), spec: spec.clone() };
        let bytes = serde_json::to_vec_pretty(&stored).context("a stage's settings are no JSON")?;
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        files::write_unsynced(&path, &bytes)
    }

    /// What `key` is, as [`Self::write_spec`] left it.
    pub fn spec(&self, key: &Key) -> Result<StoredSpec> {
        let path = self.spec_path(key);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::anyhow!(
                "the store {} does not know the stage {key}: `sweep run FILE` writes down the stages of a file first",
                self.root.display()
            ),
            _ => files::explain(&error, "read", &path),
        })?;
        serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is damaged: remove it and run `sweep run FILE` again", path.display())
        })
    }

    /// The right to compute `key`, or else the process that has it, where known.
    pub fn try_lock(&self, key: &Key) -> Result<Result<Lock, Option<u32>>> {
        Lock::try_take(&self.lock_path(key))
    }

    /// The right to write the frames and the report of the sweep `name`; waits for it.
    pub fn lock_report(&self, name: &str) -> Result<Lock> {
        self.lock_named(&format!("report-{name}"))
    }

    /// The right to submit jobs to a cluster; waits for it.
    pub fn lock_submissions(&self) -> Result<Lock> {
        self.lock_named("submissions")
    }

    /// Says for as long as it is held that the process which calls itself `name` lives and submits jobs.
    pub fn lock_submitter(&self, name: &str) -> Result<Lock> {
        self.lock_named(&format!("submitter-{name}"))
    }

    /// Whether the process that called itself `name` lives ([`Self::lock_submitter`]).
    pub fn is_submitter(&self, name: &str) -> bool {
        Lock::is_held(&self.root.join("locks").join(format!("submitter-{name}")))
    }

    fn lock_named(&self, name: &str) -> Result<Lock> {
        let path = self.root.join("locks").join(name);
        loop {
            match Lock::try_take(&path)? {
                Ok(lock) => return Ok(lock),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
    }

    /// Whether a process is computing `key`.
    pub fn is_computed(&self, key: &Key) -> bool {
        Lock::is_held(&self.lock_path(key))
    }

    /// The process that computes `key`, where one does and its number could be read.
    pub fn holder(&self, key: &Key) -> Option<u32> {
        Lock::holder_of(&self.lock_path(key))
    }

    /// The work folder of `key`, created where it is absent; what an earlier try left is still in it.
    /// Only for the holder of the lock.
    pub fn work(&self, key: &Key) -> Result<Work<'_>> {
        Work::open(self, key)
    }

    /// Whether a checkpoint of `key` is there, from which its next try goes on.
    pub fn is_begun(&self, key: &Key) -> bool {
        let names = fs::read_dir(self.work_path(key)).into_iter().flatten().flatten();
        let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.starts_with(CHECKPOINT) && name != commit::SECONDS)
    }

    /// Has the names of finished stages on the shelf of `key` looked up anew: a file system of several machines may
    /// remember for a while that one was absent.
    pub fn look_anew(&self, key: &Key) {
        if let Some(shelf) = self.object_path(key).parent() {
            // Opening a folder asks the server whether it has changed.
            drop(fs::read_dir(shelf).map(|entries| entries.take(1).count()));
        }
    }

    /// The file that the processes of `key` write their messages to.
    pub fn log_path(&self, key: &Key) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }

    fn lock_path(&self, key: &Key) -> PathBuf {
        self.root.join("locks").join(key.as_str())
    }

    fn failure_path(&self, key: &Key) -> PathBuf {
        self.root.join("failures").join(key.as_str())
    }

    fn spec_path(&self, key: &Key) -> PathBuf {
        self.root.join("specs").join(format!("{key}.json"))
    }

    fn object_path(&self, key: &Key) -> PathBuf {
        self.root.join("objects").join(&key.as_str()[..2]).join(key.as_str())
    }

    fn work_path(&self, key: &Key) -> PathBuf {
        self.root.join("tmp").join(key.as_str())
    }
}

/// The metadata of the object at `dir`, where it is whole: readable, and each file there with its size.
fn read_meta(dir: &Path) -> Option<Meta> {
    let whole = |file: &FileMeta| {
        fs::metadata(dir.join(&file.path)).is_ok_and(|found| found.is_file() && found.len() == file.bytes)
    };
    parse_meta(dir).filter(|meta| meta.files.iter().all(whole))
}

/// The metadata of the object at `dir`, where it can be read and is as it was written.
fn parse_meta(dir: &Path) -> Option<Meta> {
    meta::parse(&fs::read(dir.join(META)).ok()?)
}
