//! What an element of an array does around its stages: it writes down when it began, how far it is and how it ended, so
//! that whoever waits for it needs neither a connection to it nor a memory of Slurm's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::super::{Life, Line, Message, Verdict};
use super::record::{Begin, End, Job, Record, now};
use crate::stage::StageKind;
use crate::stage::event::Event;
use crate::store::key::Key;
use crate::store::{Cause, Failure, QueuedJob, Store};

/// The least time between two notes of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Slots that may end one after the other with nothing gained; then more of them would not help.
const IDLE_SLOTS: u32 = 3;
/// How long a stage waits for files that other nodes have written: attributes and names are remembered for a minute on
/// NFS at most, unless a site says otherwise.
pub const LATE: Duration = Duration::from_secs(90);

/// One element of an array, in its own process.
pub struct Element {
    record: Record,
    index: u32,
    keys: Vec<Key>,
    job: Job,
    queued: QueuedJob,
    /// It is not wanted any more, and Slurm had no time to end it.
    unwanted: bool,
    /// The end of each stage.
    ends: RefCell<BTreeMap<Key, Line>>,
    /// The newest progress of each stage.
    progress: RefCell<BTreeMap<Key, Line>>,
    noted: Cell<Option<Instant>>,
}

impl Element {
    /// Element `index` of the array with the record in the folder `dir`; it begins now.
    ///
    /// # Errors
    /// Where the record is gone or damaged.
    pub fn begin(store: &Store, dir: &Path, index: u32) -> Result<Self> {
        let record = Record::in_folder(dir);
        let shown = dir.display();
        let job =
            record.job().with_context(|| format!("{shown} holds no record of a job: was it cancelled?"))?;
        let keys = record.elements()?.remove(&index);
        let keys = keys.with_context(|| format!("{shown} knows no element {index}"))?;
        let at = now();
        let unwanted = record.asked()(index);
        let earlier = record.begins(index);
        // It waited since it could have run: since what it reads was there, or since it was stopped.
        let since = if earlier.is_empty() {
            Some(parents_end(store, &keys).map_or(job.submitted, |end| end.max(job.submitted)))
        } else {
            record.end(index).map(|end| end.at)
        };
        let waited = since.map_or(0.0, |since| (at - since).max(0.0));
        let id = std::env::var("SLURM_ARRAY_JOB_ID").ok().and_then(|id| id.parse::<u64>().ok());
        record.note_begin(index, &Begin { at, waited, job: id, host: super::host() });
        let _ = std::fs::remove_file(record.file(index, "end")); // of an earlier slot, if any
        let waited = earlier.iter().map(|begin| begin.waited).sum::<f64>() + waited;
        let name = id.map_or_else(|| format!("{}_{index}", record.name), |id| format!("{id}_{index}"));
        let queued = QueuedJob { job: name, seconds: waited };
        Ok(Self {
            record,
            index,
            keys,
            job,
            queued,
            unwanted,
            ends: RefCell::default(),
            progress: RefCell::default(),
            noted: Cell::new(None),
        })
    }

    /// Its stages, those together that one computation makes: maps of one pass through a model are computed at once, all
    /// else one after the other, as an evaluation after its training.
    pub fn steps(&self, store: &Store) -> Vec<Vec<Key>> {
        let is_map = |key: &Key| store.spec(key).is_ok_and(|stored| stored.spec.kind == StageKind::Features);
        if self.keys.iter().all(is_map) {
            return vec![self.keys.clone()];
        }
        self.keys.iter().map(|key| vec![key.clone()]).collect()
    }

    /// Whether all of its stages are in the store.
    pub fn is_finished(&self, store: &Store) -> bool {
        self.keys.iter().all(|key| store.object(key).is_some())
    }

    /// Whether it was taken back before it began: then it ends at once.
    pub fn is_unwanted(&self) -> bool {
        self.unwanted
    }

    /// The job and how long it waited, for the stages' provenance.
    pub fn queued(&self) -> &QueuedJob {
        &self.queued
    }

    /// Takes what the worker says.
    pub fn hear(&self, line: &Line) {
        match &line.message {
            Message::Stage(Event::Progress { .. }) => {
                self.progress.borrow_mut().insert(line.key.clone(), line.clone());
                let now = Instant::now();
                if self.noted.get().is_none_or(|noted| now.duration_since(noted) >= PROGRESS_EVERY) {
                    self.noted.set(Some(now));
                    let lines: Vec<Line> = self.progress.borrow().values().cloned().collect();
                    self.record.note_progress(self.index, &lines);
                }
            }
            Message::Life(Life::Finished { .. } | Life::Missing { .. } | Life::Failed { .. }) => {
                self.ends.borrow_mut().insert(line.key.clone(), line.clone());
            }
            Message::Stage(_) | Message::Life(_) => {}
        }
    }

    /// Writes down how it ended; returns that. Work that was stopped at the time limit with nothing to go on from, or with
    /// nothing gained slot after slot, has failed: the next slot would end in the same way.
    ///
    /// # Errors
    /// Where it cannot be written down.
    pub fn end(self, store: &Store, verdict: Verdict) -> Result<Verdict> {
        let limit = self.record.file(self.index, "limit").exists();
        let useless = if verdict == Verdict::Interrupted && limit { self.useless(store) } else { None };
        let verdict = if let Some(message) = useless {
            let left = self.keys.iter().filter(|key| store.object(key).is_none());
            for key in left.take(if self.job.kind == StageKind::Train { 1 } else { usize::MAX }) {
                self.ends.borrow_mut().insert(key.clone(), Line::failed(key, &message));
            }
            Verdict::Failed
        } else {
            verdict
        };
        let lines: Vec<Line> = self.ends.into_inner().into_values().collect();
        for line in &lines {
            // Nobody may be watching: the store tells those who look later.
            if let Message::Life(Life::Failed { message, cause }) = &line.message {
                let failure = Failure { cause: *cause, message: message.clone() };
                let _ = store.write_failure(&line.key, &failure);
            }
        }
        let end = End { at: now(), verdict, lines };
        self.record.note_end(self.index, &end)?;
        Ok(verdict)
    }

    /// Why another slot like this one, which its time limit ended, would be of no use; none where it would be.
    fn useless(&self, store: &Store) -> Option<String> {
        let finished = self.keys.iter().filter(|key| store.object(key).is_some()).count();
        if finished == 0 && !self.keys.iter().any(|key| store.is_begun(key)) {
            let why = "the time limit of its job came before anything could be saved";
            return Some(format!("{why}: raise `time` in cluster.yaml"));
        }
        let progress = self.progress.borrow();
        let reached = progress.iter().filter_map(|(key, line)| match &line.message {
            Message::Stage(Event::Progress { done, .. }) => Some((key.clone(), *done)),
            _ => None,
        });
        let mut slots = self.record.slots(self.index);
        slots.count(reached, finished);
        self.record.note_slots(self.index, &slots);
        (slots.idle >= IDLE_SLOTS).then(|| {
            format!(
                "the time limit of its job came {IDLE_SLOTS} times in a row with nothing gained: raise `time` in \
                 cluster.yaml, or lower `signal` there if saving is quick"
            )
        })
    }

    /// The threads that were asked for.
    pub fn threads(&self) -> usize {
        self.job.threads
    }
}

/// Writes down that element `index` failed before it could begin.
pub fn never_began(dir: &Path, index: u32, message: &str) {
    let record = Record::in_folder(dir);
    let Some(keys) = record.elements().ok().and_then(|mut elements| elements.remove(&index)) else { return };
    // What comes after a stage that failed is nobody's to name: it never had its turn.
    let leads = record.job().is_some_and(|job| job.kind == StageKind::Train);
    let keys = if leads { &keys[..1] } else { &keys[..] };
    let line = |key: &Key| Line {
        key: key.clone(),
        message: Message::Life(Life::Failed { message: message.to_owned(), cause: Cause::Error }),
    };
    let end = End { at: now(), verdict: Verdict::Failed, lines: keys.iter().map(line).collect() };
    let _ = record.note_end(index, &end); // its exit status is left
}

/// When the last of what `keys` read was finished, in seconds since 1970; none where they read nothing.
fn parents_end(store: &Store, keys: &[Key]) -> Option<f64> {
    let parents = keys.iter().filter_map(|key| store.spec(key).ok()).flat_map(|stored| stored.spec.parents);
    let end = |key: &Key| {
        let end = store.meta(key)?.provenance?.end;
        let time = humantime::parse_rfc3339(&end).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    };
    parents.filter_map(|parent| end(&parent.key)).max_by(f64::total_cmp)
}
