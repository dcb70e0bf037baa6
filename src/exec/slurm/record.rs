//! What the store knows of jobs: a folder for each array, written before it is submitted and confirmed after.
//!
//! ```text
//! slurm/NAME/          NAME is the job's name, too, and no other job's: a job whose number was lost is found by it
//!   job.json           what was asked for ([`Job`])
//!   keys               a line for each element: its index, and the keys of its stages
//!   script             what was submitted
//!   id                 the number that Slurm gave it
//!   asked              indices that this program wants ended, a line each, or `all`: written before Slurm is told
//!   cancelled          the same, written once Slurm has taken it
//!   N.begin            each time that element N began ([`Begin`])
//!   N.progress         how far it is
//!   N.end              how it ended ([`End`])
//!   N.slots            what its slots have gained ([`Slots`])
//!   N.exit             the exit status of its program, from the script
//!   N.out              what Slurm and the script said
//! ```
//!
//! The folder goes when all of its elements are over and their results collected.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::{INTERRUPTED, Line, Verdict};
use crate::stage::StageKind;
use crate::store::key::Key;
use crate::store::{Store, files};

/// The folder of the records in a store.
const FOLDER: &str = "slurm";

/// What was asked of Slurm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    /// The sweep.
    pub(super) sweep: String,
    /// The kind of its stages.
    pub(super) kind: StageKind,
    /// When: seconds since 1970.
    pub(super) submitted: f64,
    /// Threads of an element.
    pub(super) threads: usize,
    /// The process that submits it, by the name of the lock that it holds for as long as it lives.
    #[serde(default)]
    pub(super) submitter: String,
}

/// An element began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Begin {
    /// When: seconds since 1970.
    pub(super) at: f64,
    /// Seconds that it waited: since it was submitted, or since what it reads was there, or since it was stopped.
    pub(super) waited: f64,
    /// The number of its array.
    pub(super) job: Option<u64>,
    /// The node.
    pub(super) host: Option<String>,
}

/// An element ended by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct End {
    /// When: seconds since 1970.
    pub(super) at: f64,
    /// How.
    pub(super) verdict: Verdict,
    /// What became of each stage.
    pub(super) lines: Vec<Line>,
}

/// What an element has gained in the slots that its time limit ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slots {
    /// How far each stage came.
    best: BTreeMap<Key, u64>,
    /// How many stages were finished.
    finished: usize,
    /// The last slots, one after the other, that gained nothing.
    pub(super) idle: u32,
}

impl Slots {
    /// One more slot has ended, in which the stages came as far as `reached` and `finished` of them to their end.
    pub(super) fn count(&mut self, reached: impl IntoIterator<Item = (Key, u64)>, finished: usize) {
        let mut gained = finished > self.finished;
        self.finished = self.finished.max(finished);
        for (key, done) in reached {
            let best = self.best.entry(key).or_default();
            gained |= done > *best;
            *best = done.max(*best);
        }
        self.idle = if gained { 0 } else { self.idle + 1 };
    }
}

/// The folder of one array.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Its name, and that of the job.
    pub(super) name: String,
    dir: PathBuf,
}

impl Record {
    /// The folder named `name` of `store`, absolute: scripts on other nodes name it.
    pub(super) fn at(store: &Store, name: &str) -> Self {
        let dir = store.root().join(FOLDER).join(name);
        Self { name: name.to_owned(), dir: std::path::absolute(&dir).unwrap_or(dir) }
    }

    /// The record in the folder `dir`, as a job's script names it.
    pub(super) fn in_folder(dir: &Path) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, dir: dir.to_owned() }
    }

    /// All records of `store`, by name.
    pub(super) fn all(store: &Store) -> Result<Vec<Self>> {
        let folder = store.root().join(FOLDER);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
        };
        let mut names: Vec<String> = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("cannot read {}", folder.display()))?.file_name();
            names.extend(name.into_string());
        }
        names.sort_unstable();
        Ok(names.iter().map(|name| Self::at(store, name)).collect())
    }

    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down what is about to be submitted.
    pub(super) fn announce(&self, job: &Job, elements: &BTreeMap<u32, Vec<Key>>) -> Result<()> {
        files::create_folder(&self.dir)?;
        let mut keys = String::new();
        for (index, stages) in elements {
            keys.push_str(&index.to_string());
            for key in stages {
                keys.push(' ');
                keys.push_str(key.as_str());
            }
            keys.push('\n');
        }
        files::write_unsynced(&self.dir.join("keys"), keys.as_bytes())?;
        // Last, and synced: of a folder without it nothing was submitted.
        files::write_atomic(self.dir.join("job.json"), serde_json::to_vec_pretty(job)?)
    }

    /// Writes the script; returns its path.
    pub(super) fn write_script(&self, text: &str) -> Result<PathBuf> {
        let path = self.dir.join("script");
        files::write_atomic(&path, text).map(|()| path)
    }

    /// Writes down that Slurm took it under the number `id`.
    pub(super) fn confirm(&self, id: u64) -> Result<()> {
        files::write_atomic(self.dir.join("id"), id.to_string())
    }

    /// What was asked for; none where that was never written down whole.
    pub(super) fn job(&self) -> Option<Job> {
        self.json("job.json")
    }

    /// The number that Slurm gave it, as confirmed or as an element heard it.
    pub(super) fn id(&self) -> Option<u64> {
        if let Some(id) =
            fs::read_to_string(self.dir.join("id")).ok().and_then(|text| text.trim().parse().ok())
        {
            return Some(id);
        }
        self.with("begin").into_iter().find_map(|index| self.begins(index).iter().find_map(|begin| begin.job))
    }

    /// Its elements and their stages.
    ///
    /// # Errors
    /// Where the list cannot be read.
    pub(super) fn elements(&self) -> Result<BTreeMap<u32, Vec<Key>>> {
        let path = self.dir.join("keys");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let line = |line: &str| {
            let mut words = line.split(' ');
            let index: u32 = words.next()?.parse().ok()?;
            let keys: Option<Vec<Key>> = words.map(|word| word.parse().ok()).collect();
            Some((index, keys.filter(|keys| !keys.is_empty())?))
        };
        let read: Option<_> = text.lines().map(line).collect();
        read.ok_or_else(|| {
            anyhow!("{} is damaged: cancel the job `{}` and remove the folder", path.display(), self.name)
        })
    }

    /// The elements that have a file of this sort.
    pub(super) fn with(&self, what: &str) -> BTreeSet<u32> {
        let index = |name: &String| name.strip_suffix(what)?.strip_suffix('.')?.parse().ok();
        self.files().iter().filter_map(index).collect()
    }

    /// The names of the files in it; none where it is gone.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The times that an element began, the first one first.
    pub(super) fn begins(&self, index: u32) -> Vec<Begin> {
        let text = fs::read_to_string(self.file(index, "begin")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// One more time. A file that is lost costs figures, and nothing else.
    pub(super) fn note_begin(&self, index: u32, begin: &Begin) {
        let Ok(mut line) = serde_json::to_vec(begin) else { return };
        line.push(b'\n');
        let file = fs::File::options().create(true).append(true).open(self.file(index, "begin"));
        let _ = file.and_then(|mut file| file.write_all(&line));
    }

    /// How an element ended.
    pub(super) fn end(&self, index: u32) -> Option<End> {
        self.json(&format!("{index}.end"))
    }

    /// Writes down how an element ended.
    pub(super) fn note_end(&self, index: u32, end: &End) -> Result<()> {
        files::write_atomic(self.file(index, "end"), serde_json::to_vec(end)?)
    }

    /// The exit status that the script noted.
    pub(super) fn exit(&self, index: u32) -> Option<i32> {
        fs::read_to_string(self.file(index, "exit")).ok()?.trim().parse().ok()
    }

    /// How far an element is.
    pub(super) fn progress(&self, index: u32) -> Vec<Line> {
        self.json(&format!("{index}.progress")).unwrap_or_default()
    }

    /// Writes down how far an element is. Where it cannot be, the work goes on.
    pub(super) fn note_progress(&self, index: u32, lines: &[Line]) {
        if let Ok(bytes) = serde_json::to_vec(lines) {
            let _ = files::write_unsynced(&self.file(index, "progress"), &bytes);
        }
    }

    /// What the slots of an element have gained.
    pub(super) fn slots(&self, index: u32) -> Slots {
        self.json(&format!("{index}.slots")).unwrap_or_default()
    }

    /// Writes down what the slots of an element have gained. Where it cannot be, the count begins anew.
    pub(super) fn note_slots(&self, index: u32, slots: &Slots) {
        if let Ok(bytes) = serde_json::to_vec(slots) {
            let _ = files::write_unsynced(&self.file(index, "slots"), &bytes);
        }
    }

    /// Whether an element was cancelled by this program, and Slurm took it.
    pub(super) fn cancelled(&self) -> impl Fn(u32) -> bool + use<> {
        let list = self.list("cancelled");
        move |index| list.has(index)
    }

    /// Whether this program wants an element ended; Slurm may not have heard of it.
    pub(super) fn asked(&self) -> impl Fn(u32) -> bool + use<> {
        let (asked, cancelled) = (self.list("asked"), self.list("cancelled"));
        move |index| asked.has(index) || cancelled.has(index)
    }

    /// Writes down what Slurm is about to be told to end; all elements where none are named.
    pub(super) fn note_asked(&self, indices: Option<&BTreeSet<u32>>) -> Result<()> {
        self.list_more("asked", indices)
    }

    /// Takes back that anything shall be ended of which Slurm has not heard.
    pub(super) fn forget_asked(&self) {
        let _ = fs::remove_file(self.dir.join("asked")); // where it stays, what begins ends and is submitted again
    }

    /// Writes down what Slurm was told to end; all elements where none are named.
    pub(super) fn note_cancelled(&self, indices: Option<&BTreeSet<u32>>) -> Result<()> {
        self.list_more("cancelled", indices)
    }

    fn list(&self, name: &str) -> List {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        List {
            all: text.lines().any(|line| line == "all"),
            some: text.lines().filter_map(|line| line.parse().ok()).collect(),
        }
    }

    fn list_more(&self, name: &str, indices: Option<&BTreeSet<u32>>) -> Result<()> {
        let path = self.dir.join(name);
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        match indices {
            None => text.push_str("all\n"),
            Some(indices) => text.extend(indices.iter().map(|index| format!("{index}\n"))),
        }
        files::write_atomic(path, text)
    }

    /// The elements that are over by their own words: they say so, or their script has ended. What was interrupted goes on
    /// where Slurm gives it another slot.
    pub(super) fn ended(&self) -> BTreeSet<u32> {
        let (ends, exits) = (self.with("end"), self.with("exit"));
        let interrupted = |index: u32| {
            ends.contains(&index) && self.end(index).is_some_and(|end| end.verdict == Verdict::Interrupted)
        };
        let over = |&index: &u32| {
            let stopped = interrupted(index);
            ends.contains(&index) && !stopped
                || exits.contains(&index) && !(stopped && self.exit(index) == Some(i32::from(INTERRUPTED)))
        };
        ends.union(&exits).copied().filter(over).collect()
    }

    /// A file of an element.
    pub(super) fn file(&self, index: u32, what: &str) -> PathBuf {
        self.dir.join(format!("{index}.{what}"))
    }

    /// Removes the folder: what it said is known, or void.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir); // what stays is looked at again, and found to be over
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.dir.join(name)).ok()?).ok()
    }
}

/// Indices, or all of them.
struct List {
    all: bool,
    some: BTreeSet<u32>,
}

impl List {
    fn has(&self, index: u32) -> bool {
        self.all || self.some.contains(&index)
    }
}

/// A name for a job that no other one has.
pub(super) fn fresh_name(sweep: &str, kind: StageKind) -> String {
    format!("sweep-{sweep}-{}-{}", kind.name(), unique())
}

/// A name that no other process, and no other call, is given.
pub(super) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let host = super::host().unwrap_or_default();
    let unique = Key::of(format!("{host} {} {time} {count}", std::process::id()).as_bytes());
    unique.as_str()[..10].to_owned()
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// How a job stands by its record alone, for those who look without asking Slurm.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The job's name.
    pub name: String,
    /// Its number, once Slurm has given one.
    pub id: Option<u64>,
    /// The sweep that submitted it.
    pub sweep: String,
    /// The kind of its stages.
    pub kind: StageKind,
    /// Its elements.
    pub elements: usize,
    /// Those that began and are not over.
    pub running: usize,
    /// Those that are over.
    pub over: usize,
}

impl Standing {
    /// Elements that wait for their turn, or for what they read.
    pub fn queued(&self) -> usize {
        self.elements.saturating_sub(self.running + self.over)
    }

    /// Whether some of its elements wait or run.
    pub fn is_live(&self) -> bool {
        self.over < self.elements
    }

    /// On one line, for people.
    pub fn line(&self) -> String {
        let job = self.id.map_or_else(|| format!("job `{}`", self.name), |id| format!("job {id}"));
        format!(
            "{job}: {} ×{}: {} queued, {} running, {} over",
            self.kind.name(),
            self.elements,
            self.queued(),
            self.running,
            self.over
        )
    }

    /// For programs.
    pub fn object(&self) -> Value {
        serde_json::json!({
            "name": self.name, "job": self.id, "kind": self.kind, "elements": self.elements,
            "running": self.running, "queued": self.queued(), "over": self.over,
        })
    }
}

/// The jobs that `store` knows of and has not collected.
///
/// # Errors
/// Where the records cannot be listed.
pub fn standings(store: &Store) -> Result<Vec<Standing>> {
    let mut found = Vec::new();
    for record in Record::all(store)? {
        let (Some(job), Ok(elements)) = (record.job(), record.elements()) else { continue };
        let (stopped, ended) = (record.cancelled(), record.ended());
        let is_over = |index: &u32| ended.contains(index) || stopped(*index);
        let over = elements.keys().filter(|index| is_over(index)).count();
        // What was interrupted waits for another slot: its next begin takes the word away.
        let waits = record.with("end");
        let began = record.with("begin");
        let running = began.iter().filter(|index| !is_over(index) && !waits.contains(index)).count();
        found.push(Standing {
            id: record.id(),
            name: record.name,
            sweep: job.sweep,
            kind: job.kind,
            elements: elements.len(),
            running,
            over,
        });
    }
    Ok(found)
}
