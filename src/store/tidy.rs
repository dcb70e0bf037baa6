//! What kills leave behind, and how it goes.
//!
//! Every process that may write into a store is present in it: it shares a lock. What a process left that was killed can
//! be told from what another is just working on only by one that is alone; so the first that finds itself alone tidies.

use std::fs::{self, DirEntry, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::commit::SECONDS;
use super::files::explain;
use super::key::Key;
use super::{CHECKPOINT, Store, files};

/// The lock that all who may write share.
const PRESENCE: &str = ".store";

/// That this process may be writing into the store. Ends when dropped, and when the process dies.
#[derive(Debug)]
pub struct Presence(File);

impl Presence {
    /// Enters the store at `root`; waits while another process tidies, which takes a moment.
    pub(super) fn enter(root: &Path) -> Result<Self> {
        let path = root.join("locks").join(PRESENCE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| explain(&error, "open the lock", &path))?;
        file.lock_shared().map_err(|error| explain(&error, "lock", &path))?;
        Ok(Self(file))
    }

    /// Runs `work` if no other process is present.
    fn alone(&self, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        let alone = self.0.try_lock().is_ok();
        let done = if alone { work() } else { Ok(()) };
        // Also after a refusal: asking for more gives up what one has.
        self.0.lock_shared()?;
        done.map(|()| alone)
    }
}

impl Store {
    /// Removes what killed processes left: lock files, records of runs, half-written files, work folders without a
    /// checkpoint. Does nothing, and says false, while another process is using the store; and while a stage is being
    /// computed in this one it must not be called.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn tidy(&self) -> Result<bool> {
        let Some(presence) = &self.presence else { return Ok(false) };
        presence.alone(|| {
            for entry in entries(&self.root.join("locks"))? {
                if entry.file_name() != PRESENCE {
                    remove(&entry.path())?;
                }
            }
            for entry in entries(&self.root.join("runs"))? {
                remove(&entry.path())?;
            }
            remove_partials(&self.root)?;
            for name in ["specs", "failures", "logs", "sweeps"] {
                remove_partials(&self.root.join(name))?;
            }
            for entry in entries(&self.root.join("tmp"))? {
                let key = entry.file_name().to_str().and_then(|name| name.parse::<Key>().ok());
                if key.is_none_or(|key| self.object(&key).is_some()) || !clear_work(&entry.path())? {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        })
    }
}

/// Removes the half-written files of the work folder `dir` and says whether a checkpoint is in it.
pub(super) fn clear_work(dir: &Path) -> Result<bool> {
    remove_partials(dir)?;
    let names = entries(dir)?.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.into_iter().any(|name| name.starts_with(CHECKPOINT) && name != SECONDS))
}

/// Removes the half-written files in the folder `dir`, where it exists. Only for those who know that nobody is writing there.
pub fn remove_partials(dir: &Path) -> Result<()> {
    for entry in entries(dir)? {
        if files::is_partial(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// What is in the folder `dir`; nothing where it is absent.
fn entries(dir: &Path) -> Result<Vec<DirEntry>> {
    let read = fs::read_dir(dir).and_then(Iterator::collect);
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| explain(&error, "read", dir)),
    }
}

/// Removes a file or a folder.
pub(super) fn remove(path: &PathBuf) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(explain(&error, "remove", path)),
        _ => Ok(()),
    }
}
