//! The sweeps that run on a store at this moment: who they are, and how to ask one to stop without a signal.
//!
//! ```text
//! runs/ID        held while the sweep runs, and released by the operating system when it dies
//! runs/ID.json   what it is ([`RunRecord`])
//! runs/ID.stop   a request: `1` save and stop, `2` stop now
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::files::{self, explain};
use super::{Lock, Store};

/// A sweep that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// A name that no other run of the store has.
    pub id: String,
    /// The sweep's name.
    pub name: String,
    /// The sweep file, absolute.
    pub file: PathBuf,
    /// The number of the engine's process.
    pub pid: u32,
    /// The machine that it runs on, where known.
    pub host: Option<String>,
    /// When it began: seconds since 1970 by that machine's clock.
    pub started: u64,
    /// Points of the plan.
    pub points: usize,
    /// Stages of the plan.
    pub stages: usize,
}

/// The entry of this process in the list of runs; taken out when dropped.
#[derive(Debug)]
pub struct Running {
    record: RunRecord,
    paths: Paths,
    /// Dropped after the files beside it are gone.
    _lock: Lock,
}

/// Where the files of a run are.
#[derive(Clone, Debug)]
struct Paths {
    lock: PathBuf,
    record: PathBuf,
    stop: PathBuf,
}

impl Paths {
    fn new(store: &Store, id: &str) -> Self {
        let at = |end: &str| store.root().join("runs").join(format!("{id}{end}"));
        Self { lock: at(""), record: at(".json"), stop: at(".stop") }
    }
}

impl Store {
    /// Enters this process as a run of the sweep `name` with a plan of `points` and `stages`.
    ///
    /// # Errors
    /// Where the store is not writable.
    pub fn begin_run(&self, name: &str, file: &Path, points: usize, stages: usize) -> Result<Running> {
        let pid = std::process::id();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{name}-{pid}-{:x}", now.as_nanos());
        let paths = Paths::new(self, &id);
        files::create_folder(self.root().join("runs"))?;
        let lock = Lock::try_take(&paths.lock)?
            .ok()
            .context("a run of this name has begun before the clock moved")?;
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let (name, started) = (name.to_owned(), now.as_secs());
        let record = RunRecord { id, name, file, pid, host: host(), started, points, stages };
        let bytes = serde_json::to_vec_pretty(&record).context("a run's record is no JSON")?;
        files::write_unsynced(&paths.record, &bytes)?;
        Ok(Running { record, paths, _lock: lock })
    }

    /// The sweeps that run now, the oldest first. Needs no right to write.
    pub fn runs(&self) -> Result<Vec<RunRecord>> {
        let folder = self.root().join("runs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(explain(&error, "read", &folder)),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| explain(&error, "read", &folder))?.path();
            let Some(record) = path.extension().is_some_and(|end| end == "json").then(|| fs::read(&path))
            else {
                continue;
            };
            // A record that goes away or is cut short while we look belongs to a run that has ended.
            let record = record.ok().and_then(|bytes| serde_json::from_slice::<RunRecord>(&bytes).ok());
            runs.extend(record.filter(|record| Lock::is_held(&Paths::new(self, &record.id).lock)));
        }
        runs.sort_by(|a: &RunRecord, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        Ok(runs)
    }

    /// Asks a run to save what it does and stop or, with `now`, to stop at once. It looks several times a second.
    pub fn request_stop(&self, run: &RunRecord, now: bool) -> Result<()> {
        let paths = Paths::new(self, &run.id);
        files::write_unsynced(&paths.stop, if now { b"2" } else { b"1" })
    }
}

impl Running {
    /// What is known of it.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// The file that holds the requests to stop; see [`stop_requests`].
    pub fn stop_file(&self) -> &Path {
        &self.paths.stop
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for path in [&self.paths.record, &self.paths.stop] {
            let _ = fs::remove_file(path); // what stays is known to be stale, for nobody holds the lock
        }
    }
}

/// The requests to stop in the file `path`: none, one (save and stop) or two (stop now).
pub fn stop_requests(path: &Path) -> usize {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The name of this machine.
fn host() -> Option<String> {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_listed_asked_to_stop_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        assert_eq!(store.runs().unwrap(), []);
        let running = store.begin_run("tau", Path::new("sweeps/tau.yaml"), 12, 40).unwrap();
        let listed = store.runs().unwrap();
        assert_eq!(listed, [running.record().clone()]);
        assert_eq!((listed[0].name.as_str(), listed[0].pid), ("tau", std::process::id()));
        assert!(listed[0].file.is_absolute());
        assert_eq!(stop_requests(running.stop_file()), 0);
        store.request_stop(&listed[0], false).unwrap();
        assert_eq!(stop_requests(running.stop_file()), 1);
        store.request_stop(&listed[0], true).unwrap();
        assert_eq!(stop_requests(running.stop_file()), 2);
        drop(running);
        assert_eq!(store.runs().unwrap(), []);
        assert_eq!(fs::read_dir(store.root().join("runs")).unwrap().count(), 0, "nothing is left of it");
    }

    #[test]
    fn the_record_of_a_killed_run_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let running = store.begin_run("tau", Path::new("tau.yaml"), 1, 1).unwrap();
        let record = fs::read(&running.paths.record).unwrap();
        let path = running.paths.record.clone();
        drop(running);
        files::write_atomic(&path, record).unwrap();
        assert_eq!(store.runs().unwrap(), []);
    }
}
