//! Tasks as jobs of a Slurm cluster.
//!
//! Slurm has the queue, and it outlives this process: every task is handed over at once, those of one kind as one array,
//! with the arrays that it waits for. An element runs the same `sweep stage` as a worker of this machine does. What was
//! submitted stands in the store (`record`), written before and confirmed after: a run that begins again finds its live
//! jobs, submits none of them twice, and collects what ended meanwhile. Nothing is asked of Slurm more than once a second.

mod arrays;
mod commands;
mod element;
mod record;
mod script;
mod state;
mod submit;
mod watch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::arrays::{Place, Waits};
use self::commands::Commands;
use self::record::{Job, Record};
use self::watch::Watch;
use super::{Executor, Exit, Line, Task, Update};
use crate::spec::cluster::Cluster;
use crate::store::Store;
use crate::store::key::Key;

pub use element::{Element, LATE, never_began};
pub use record::{Standing, standings};
pub use script::Setting;

/// The most elements of an array where Slurm does not say: its own default.
const ARRAY_MOST: u32 = 1001;

/// How long things are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The least time between two questions to Slurm.
    pub least: Duration,
    /// The most, while nothing changes.
    pub most: Duration,
    /// The most, while Slurm does not answer.
    pub down: Duration,
    /// How long one of Slurm's programs may take.
    pub answer: Duration,
    /// How long what a node has written may take to show here.
    pub late: Duration,
    /// How long a job may take to be listed whose submission was not answered.
    pub unconfirmed: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            least: seconds(1),
            most: seconds(15),
            down: seconds(60),
            answer: seconds(60),
            late: LATE,
            unconfirmed: seconds(20),
        }
    }
}

/// Hands tasks over to Slurm, and watches them.
pub struct Slurm {
    store: Store,
    cluster: Cluster,
    setting: Setting,
    sweep: String,
    commands: Commands,
    patience: Patience,
    /// Arrays that this process submitted or found, by their number; those that are over stay in the list.
    arrays: Vec<Array>,
    /// The names of their records.
    known: BTreeSet<String>,
    /// Where a stage is that some job has in hand.
    places: HashMap<Key, Place>,
    /// Tasks that were handed over since the last poll.
    fresh: Vec<Task>,
    tasks: HashMap<usize, Open>,
    /// Tasks that are not wanted any more.
    withdrawn: BTreeSet<usize>,
    /// Arrays that are to be submitted, those that others wait for first.
    unsent: VecDeque<usize>,
    /// What is to be told.
    news: Vec<Update>,
    watch: Watch,
    /// Indices of arrays are below this; none before Slurm was asked.
    most: Option<u32>,
}

/// An array of jobs.
struct Array {
    record: Record,
    job: Job,
    /// Its number in Slurm.
    id: Option<u64>,
    waits: Waits,
    /// How often its stages ran out of memory.
    shortages: u32,
    /// When it was given to Slurm, or found in the store; what was listed before says nothing about it.
    since: Instant,
    /// It may or may not have been taken: it is looked for by its name until then.
    unsure: Option<Instant>,
    elements: BTreeMap<u32, Member>,
    /// Elements that are not over.
    live: usize,
    /// It is one of an earlier run or of another one.
    found: bool,
    /// What was said of it already, so that it is not said again.
    told: BTreeSet<String>,
}

/// An element of an array.
#[derive(Default)]
struct Member {
    keys: Vec<Key>,
    /// The tasks that wait for it.
    tasks: Vec<usize>,
    /// That it runs was told.
    runs: bool,
    /// Since when it is known to have ended, while what it left does not show yet.
    ended: Option<Instant>,
    account: Account,
    over: bool,
}

/// What the accounting says of an element that Slurm's controller has forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Account {
    /// It was not asked.
    #[default]
    Unasked,
    /// It shall be asked.
    Wanted,
    /// State and reason.
    Says(String, String),
    /// Nothing.
    Silent,
}

/// A task that is not over.
struct Open {
    /// Its elements that are not over.
    left: usize,
    exit: Exit,
}

impl Slurm {
    /// An executor of the sweep `sweep` over the jobs that `store` knows of.
    ///
    /// # Errors
    /// Where the records of jobs cannot be read.
    pub fn new(store: Store, cluster: Cluster, sweep: &str, setting: Setting) -> Result<Self> {
        Self::with(store, cluster, sweep, setting, Patience::default(), None)
    }

    /// [`Self::new`] with other times to wait, and Slurm's programs in `folder` rather than on the path.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn with(
        store: Store,
        cluster: Cluster,
        sweep: &str,
        setting: Setting,
        patience: Patience,
        folder: Option<PathBuf>,
    ) -> Result<Self> {
        let commands = Commands { folder, limit: patience.answer };
        let mut slurm = Self {
            store,
            cluster,
            setting,
            sweep: sweep.to_owned(),
            watch: Watch::new(commands.clone(), patience),
            commands,
            patience,
            arrays: Vec::new(),
            known: BTreeSet::new(),
            places: HashMap::new(),
            fresh: Vec::new(),
            tasks: HashMap::new(),
            withdrawn: BTreeSet::new(),
            unsent: VecDeque::new(),
            news: Vec::new(),
            most: None,
        };
        let lock = slurm.store.lock_submissions()?;
        slurm.load()?;
        drop(lock);
        Ok(slurm)
    }

    /// An element is over: the tasks that wait for it hear of it.
    fn finish(&mut self, place: Place, exit: &Exit, lines: Vec<Line>) {
        let array = &mut self.arrays[place.array];
        let Some(member) = array.elements.get_mut(&place.index).filter(|member| !member.over) else { return };
        member.over = true;
        array.live -= 1;
        for key in &member.keys {
            if self.places.get(key) == Some(&place) {
                self.places.remove(key);
            }
        }
        if array.live == 0 && array.job.sweep == self.sweep {
            array.record.remove();
        }
        let tasks = std::mem::take(&mut member.tasks);
        if !tasks.is_empty() {
            self.news.extend(lines.into_iter().map(Update::Line));
        }
        for task in tasks {
            let Some(open) = self.tasks.get_mut(&task) else { continue };
            open.left = open.left.saturating_sub(1);
            if open.exit == Exit::Orderly {
                open.exit = exit.clone();
            }
            if open.left == 0
                && let Some(Open { exit, .. }) = self.tasks.remove(&task)
            {
                self.news.push(Update::Exited { task, exit });
            }
        }
    }

    /// Has Slurm end the elements of withdrawn tasks that no other task waits for.
    fn take_back(&mut self) {
        let withdrawn = std::mem::take(&mut self.withdrawn);
        if withdrawn.is_empty() {
            return;
        }
        let mut unwanted = BTreeSet::new();
        for (number, array) in self.arrays.iter_mut().enumerate().filter(|(_, array)| array.live > 0) {
            for (&index, member) in array.elements.iter_mut().filter(|(_, member)| !member.over) {
                let before = member.tasks.len();
                member.tasks.retain(|task| !withdrawn.contains(task));
                if member.tasks.is_empty() && before > 0 {
                    unwanted.insert(Place { array: number, index });
                }
            }
        }
        self.end_elements(&unwanted);
    }

    fn end_elements(&mut self, unwanted: &BTreeSet<Place>) {
        let mut by_array: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for place in unwanted {
            by_array.entry(place.array).or_default().push(place.index);
        }
        for (number, indices) in by_array {
            let array = &self.arrays[number];
            if array.job.sweep == self.sweep && !self.unsent.contains(&number) {
                // Where the note cannot be written, a later run takes it for somebody else's doing and says so.
                let _ = array.record.note_cancelled(Some(&indices));
                // A job that has ended meanwhile is none to cancel, and one that Slurm does not hear of now finds its
                // inputs missing.
                // Not by the name: then `scancel` takes those that wait for one, and ends them all.
                if let Some(id) = array.id {
                    let jobs = format!("{id}_[{}]", commands::ranges(indices.iter().copied()));
                    let _ = self.commands.call("scancel", &[&jobs]);
                }
            }
            for index in indices {
                self.finish(Place { array: number, index }, &Exit::Interrupted, Vec::new());
            }
        }
    }
}

impl Array {
    /// As a person names it.
    fn shown(&self) -> String {
        self.id.map_or_else(|| format!("job `{}`", self.record.name), |id| format!("job {id}"))
    }
}

impl Executor for Slurm {
    fn queues(&self) -> bool {
        true
    }

    fn holds(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    fn submit(&mut self, task: &Task) -> Result<()> {
        self.fresh.push(task.clone());
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> Result<Vec<Update>> {
        self.take_back();
        self.hand_over()?;
        self.send()?;
        self.look(patience)?;
        Ok(std::mem::take(&mut self.news))
    }

    fn withdraw(&mut self, task: usize) {
        self.fresh.retain(|fresh| fresh.id != task);
        if self.tasks.remove(&task).is_some() {
            self.withdrawn.insert(task);
        }
    }

    /// Cancels what this sweep has in Slurm.
    fn cancel(&mut self, _now: bool) {
        let live = self.arrays.iter().filter(|array| array.live > 0 && array.job.sweep == self.sweep);
        for array in live {
            let _ = array.record.note_cancelled(None);
            let _ = self.commands.call("scancel", &[&format!("--name={}", array.record.name)]);
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.take_back(); // what a last failure made useless
    }
}

/// Cancels the jobs in `store` of the sweep `sweep`, or of all sweeps; returns those that there were. What runs saves its
/// work first.
///
/// # Errors
/// Where the records cannot be read or written, or Slurm does not take it.
pub fn cancel(store: &Store, sweep: Option<&str>) -> Result<Vec<Standing>> {
    let commands = Commands { folder: None, limit: Patience::default().answer };
    let ours = |job: &Standing| sweep.is_none_or(|sweep| job.sweep == sweep) && job.over < job.elements;
    let jobs: Vec<Standing> = standings(store)?.into_iter().filter(ours).collect();
    for job in &jobs {
        Record::at(store, &job.name).note_cancelled(None)?;
        // By its name, which no other job has: a number may be another user's by now.
        let answer = commands.call("scancel", &[&format!("--name={}", job.name)]);
        answer.map_err(|trouble| anyhow::anyhow!("{}: {}", job.name, trouble.text()))?;
    }
    Ok(jobs)
}

/// The name of this machine.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
