//! Tasks as jobs of a Slurm cluster.
//!
//! Slurm has the queue, and it outlives this process: every task is handed over at once, those of one kind as one array,
//! with the arrays that it waits for. An element runs the same `sweep stage` as a worker of this machine does. What was
//! submitted stands in the store (`record`), written before and confirmed after: a run that begins again finds its live
//! jobs, submits none of them twice, and collects what ended meanwhile. Nothing is asked of Slurm more than once a second.

mod arrays;
mod asking;
mod commands;
mod element;
mod ends;
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
use self::asking::Watch;
use self::commands::{Commands, Limits};
use self::record::{Job, Record};
use super::{Executor, Exit, Line, Task, Update};
use crate::spec::cluster::Cluster;
use crate::stage::StageKind;
use crate::store::key::Key;
use crate::store::{Lock, Store};

pub use element::{Element, LATE, never_began};
pub use ends::cancel;
pub use record::{Standing, standings};
pub use script::Setting;

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
    /// Elements that Slurm shall end and was not told of, by array.
    ends: BTreeMap<usize, BTreeSet<u32>>,
    /// What is to be told.
    news: Vec<Update>,
    watch: Watch,
    /// None before Slurm was asked.
    limits: Option<Limits>,
    /// The name by which others know that what this process wrote down will be submitted, and the lock that says so.
    submitter: (String, Lock),
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
    /// Since when it waits in Slurm for what is over.
    idle: Option<Instant>,
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
    /// The kind of its stages.
    kind: StageKind,
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
        let name = record::unique();
        let submitter = (name.clone(), store.lock_submitter(&name)?);
        let mut slurm = Self {
            submitter,
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
            ends: BTreeMap::new(),
            news: Vec::new(),
            limits: None,
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
        if array.live == 0 && array.job.sweep == self.sweep && !self.ends.contains_key(&place.array) {
            array.record.remove();
        }
        let mut tasks = std::mem::take(&mut member.tasks);
        // What comes after a training in its element never had its turn where that is not done. The training's end is
        // told first: then it is known why.
        let kind = array.job.kind;
        let follows = |task: &usize| self.tasks.get(task).is_some_and(|open| open.kind != kind);
        tasks.sort_by_key(follows);
        let led = tasks.iter().any(follows)
            && member.keys.first().is_some_and(|key| self.store.object(key).is_some());
        if !tasks.is_empty() {
            // What began and ended between two questions began all the same.
            let next = |key: &Key| kind == StageKind::Train && member.keys.first() != Some(key);
            let spoke = |follows| lines.iter().any(|line| next(&line.key) == follows);
            let began = tasks.iter().filter(|task| spoke(follows(task)));
            let threads = array.job.threads;
            self.news.extend(began.map(|&task| Update::Started { task, threads }));
            self.news.extend(lines.into_iter().map(Update::Line));
        }
        for task in tasks {
            let Some(open) = self.tasks.get_mut(&task) else { continue };
            open.left = open.left.saturating_sub(1);
            if open.exit == Exit::Orderly {
                open.exit = if open.kind == kind || led { exit.clone() } else { Exit::Unmet };
            }
            if open.left == 0
                && let Some(Open { exit, .. }) = self.tasks.remove(&task)
            {
                self.news.push(Update::Exited { task, exit });
            }
        }
    }
}

impl Array {
    /// As a person names it.
    fn shown(&self) -> String {
        self.id.map_or_else(|| format!("job `{}`", self.record.name), |id| format!("job {id}"))
    }

    /// What its elements compute.
    fn what(&self) -> String {
        let kind = self.job.kind;
        let followed = kind == StageKind::Train && self.elements.values().any(|member| member.keys.len() > 1);
        format!("{}{}", kind.name(), if followed { " with evaluate" } else { "" })
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
        self.send_ends();
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
        self.end_all();
        self.send_ends();
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.send_last_ends(); // what a last failure made useless
    }
}

/// The name of this machine.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
