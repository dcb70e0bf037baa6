//! From a work folder to a finished object.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::files::{self, explain};
use super::key::Key;
use super::meta;
use super::provenance::{Provenance, QueuedJob};
use super::tidy::{clear_work, remove};
use super::verify::hash_of;
use super::{CHECKPOINT, FileMeta, META, Meta, Store, StoredSpec};

/// The file in a work folder that holds the seconds of its earlier tries.
pub(super) const SECONDS: &str = "checkpoint.seconds";

/// Files that are synced at once.
const AT_ONCE: usize = 8;
/// Seconds of work from which an object is made durable before the next stage begins. What a power cut takes of others is
/// found by its size or hash, as all that is torn, and is computed again sooner than the disk could be waited for.
const WORTH_A_SYNC: f64 = 1.0;

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
    /// Where it computes.
    device: String,
    /// The job of a cluster that computes it.
    queue: Option<QueuedJob>,
}

impl<'a> Work<'a> {
    pub(super) fn open(store: &'a Store, key: &Key) -> Result<Self> {
        let dir = store.work_path(key);
        files::create_folder(&dir)?;
        let text = fs::read_to_string(dir.join(SECONDS)).unwrap_or_default();
        let earlier = text.trim().parse().ok().filter(|&s: &f64| s.is_finite() && s >= 0.0).unwrap_or(0.0);
        Ok(Self {
            store,
            key: key.clone(),
            dir,
            earlier,
            begun: SystemTime::now(),
            device: "cpu".to_owned(),
            queue: None,
        })
    }

    /// The same on another device than the processor: `cuda:0`.
    #[must_use]
    pub fn on(mut self, device: &impl ToString) -> Self {
        self.device = device.to_string();
        self
    }

    /// The same in a job of a cluster.
    #[must_use]
    pub fn in_job(mut self, queue: Option<QueuedJob>) -> Self {
        self.queue = queue;
        self
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

    /// After a failure or an interruption: half-written files go, and all else too where no checkpoint makes use of it.
    pub fn leave(&self) -> Result<()> {
        if clear_work(&self.dir)? { Ok(()) } else { self.discard() }
    }

    /// Removes the work, checkpoints as well.
    pub fn discard(&self) -> Result<()> {
        remove(&self.dir)
    }

    /// Publishes the work: checkpoints go, the metadata is written last, every file and folder is synced (work of less than
    /// a second is not), and one rename makes it an object. Until that rename it is no object, and after it, it is a
    /// whole one.
    pub fn commit(
        &self,
        stored: &StoredSpec,
        summary: Value,
        elapsed: Duration,
        threads: usize,
    ) -> Result<Meta> {
        let (mut found, mut paths) = (Vec::new(), Vec::new());
        let seconds = self.earlier + elapsed.as_secs_f64();
        collect(&self.dir, "", &mut found, &mut paths)?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let spec = &stored.spec;
        let provenance = Provenance::of_process(self.begun, &self.device, self.store.data_of(spec));
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
            provenance: Some(Provenance { queue: self.queue.clone(), ..provenance }),
        };
        let text = meta::text(&meta).context("a stage's summary is no JSON")?;
        let path = self.dir.join(META);
        let written = File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| explain(&error, "write", &path))?;
        paths.push(path);
        let durable = seconds >= WORTH_A_SYNC;
        if durable {
            sync_together(&paths)?;
        }
        self.publish(durable)?;
        let _ = fs::remove_file(self.store.failure_path(&self.key)); // absent, most of the time
        Ok(meta)
    }

    fn publish(&self, durable: bool) -> Result<()> {
        let target = self.store.object_path(&self.key);
        let shelf = target.parent().expect("objects/ab is above objects/ab/abcd…");
        let new = !shelf.is_dir();
        files::create_folder(shelf)?;
        if target.exists() {
            self.store.put_aside(&self.key, &target)?;
        }
        files::rename(&self.dir, &target).map_err(|error| explain(&error, "publish", &target))?;
        if !durable {
            return Ok(());
        }
        files::sync_folder(shelf)?;
        if new {
            files::sync_folder(shelf.parent().expect("objects is above objects/ab"))?;
        }
        Ok(())
    }
}

/// Removes what is only for resuming from the folder `dir` and lists the rest: files with `prefix` before their names, and
/// the paths of all files and folders.
fn collect(dir: &Path, prefix: &str, found: &mut Vec<FileMeta>, paths: &mut Vec<PathBuf>) -> Result<()> {
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
            collect(&path, &format!("{prefix}{name}/"), found, paths)?;
        } else {
            found.push(measure(&path, format!("{prefix}{name}"))?);
            paths.push(path);
        }
    }
    paths.push(dir.to_owned());
    Ok(())
}

/// The size and hash of one file.
fn measure(path: &Path, name: String) -> Result<FileMeta> {
    let measured = File::open(path).and_then(|mut file| {
        let (bytes, blake3) = hash_of(&mut file)?;
        Ok(FileMeta { path: name, bytes, blake3 })
    });
    measured.map_err(|error| explain(&error, "read", path))
}

/// Makes files and folders durable, several at once: a file system that writes a journal then writes it once for them all.
fn sync_together(paths: &[PathBuf]) -> Result<()> {
    let sync = |paths: &[PathBuf]| paths.iter().try_for_each(|path| files::sync(path));
    thread::scope(|scope| {
        let mut chunks = paths.chunks(paths.len().div_ceil(AT_ONCE).max(1));
        let own = chunks.next().unwrap_or_default();
        let others: Vec<_> = chunks.map(|chunk| scope.spawn(move || sync(chunk))).collect();
        let own = sync(own);
        others.into_iter().fold(own, |so_far, other| {
            so_far.and(other.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a bug: syncing panicked"))))
        })
    })
}
