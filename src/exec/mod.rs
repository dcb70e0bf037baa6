//! From a plan to finished stages: which stage may run ([`queue`](self)), where it runs ([`Executor`]), what it says
//! while it does ([`Line`]), and what comes out ([`Outcome`]).
//!
//! Executors run the same code, that of `sweep stage KEY…`: one stage, or the stages of one group, at a time, in a process
//! of its own ([`Local`]), in a job of a cluster ([`Slurm`]) or, for work that is not worth a process, in a thread
//! ([`Inline`]). Work emits, reporters print.

pub mod cores;
mod device;
mod engine;
mod forecast;
mod inline;
mod local;
mod notice;
mod queue;
pub mod slurm;
mod worker;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::stage::StageKind;
use crate::stage::event::Event;
use crate::store::Cause;
use crate::store::key::Key;
use crate::store::runs::stop_requests;

pub use device::{Device, Devices};
pub use engine::{Options, run};
pub use forecast::Left;
pub use inline::Inline;
pub use local::Local;
pub use notice::{Notice, Outcome, Reporter, Summary};
pub use slurm::Slurm;
pub use worker::{Runner, Verdict, Worker};

/// The exit status of a worker that was asked to stop and did, its checkpoint saved.
pub const INTERRUPTED: u8 = 130;

/// What an engine writes to a worker's standard input to have it stop. The end of that input means the same, so that
/// workers also stop when their engine is killed.
pub const STOP: &str = "stop";

/// Work for one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// A number that no other task of this run has.
    pub id: usize,
    /// The stages, in the order of the plan.
    pub keys: Vec<Key>,
    /// Their kind.
    pub kind: StageKind,
    /// What they read that is not finished; only for executors that have a queue of their own.
    pub after: Vec<Key>,
    /// How often they ran out of memory in this run.
    pub shortages: u32,
    /// CPU threads it may use.
    pub threads: usize,
    /// Where it computes.
    pub device: Device,
}

/// A task as a line on the standard input of `sweep stage --serve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number.
    pub task: usize,
    /// The stages.
    pub keys: Vec<Key>,
}

/// A line on the standard output of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// Something about a stage.
    Line(Line),
    /// A task is over, and the worker is ready for the next one.
    Over {
        /// The task's number.
        task: usize,
        /// How it ended.
        verdict: Verdict,
    },
}

/// Where tasks run.
pub trait Executor {
    /// Starts a task.
    ///
    /// # Errors
    /// Where it cannot be started; then nothing more is heard of it.
    fn submit(&mut self, task: &Task) -> Result<()>;

    /// What happened since the last call; waits up to `patience` for something to.
    fn poll(&mut self, patience: Duration) -> Result<Vec<Update>>;

    /// Asks all running tasks to save a checkpoint and stop or, with `now`, ends them.
    fn cancel(&mut self, now: bool);

    /// Whether it has a queue of its own, which outlives this process. It is then given every task at once, each with those
    /// that it comes after, has as many workers as it likes, and is left to itself when the run is stopped.
    fn queues(&self) -> bool {
        false
    }

    /// Whether some task of it, perhaps of an earlier run, has the stage `key` in hand: to submit it is to wait for that.
    fn holds(&self, _key: &Key) -> bool {
        false
    }

    /// Takes back a task that nobody wants any more; nothing is heard of it again.
    fn withdraw(&mut self, _task: usize) {}
}

/// What an executor has to say about a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A line that it wrote.
    Line(Line),
    /// It waited in the executor's queue, and runs now.
    Started {
        /// The task's number.
        task: usize,
        /// Its CPU threads.
        threads: usize,
    },
    /// Something that a person should know: a job that was submitted, a controller that does not answer.
    Note(String),
    /// It is over. All of its lines came before.
    Exited {
        /// The task's number.
        task: usize,
        /// How it ended.
        exit: Exit,
    },
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By its own decision; its lines say what became of each stage.
    Orderly,
    /// It was asked to stop and did.
    Interrupted,
    /// Its process died for want of memory.
    OutOfMemory(String),
    /// Its process died of something else: of a signal, with its machine.
    Died(String),
    /// It was taken away with its work saved, as by a time limit: it goes on where it was.
    Continues(String),
    /// It was lost by no fault of its own, as with its node.
    Lost(String),
    /// What it comes after failed, and it was never started.
    Unmet,
    /// It was not taken, or somebody put an end to it: the same again would end the same.
    Refused(String),
}

/// One line of a worker's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The stage that it is about.
    pub key: Key,
    /// What it says.
    #[serde(flatten)]
    pub message: Message,
}

impl Line {
    /// The stage `key` failed.
    pub fn failed(key: &Key, message: &str) -> Self {
        let message = message.to_owned();
        Self { key: key.clone(), message: Message::Life(Life::Failed { message, cause: Cause::Error }) }
    }
}

/// What a worker says of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// The stage itself speaks.
    Stage(Event),
    /// Something became of it.
    Life(Life),
}

/// The life of a stage in a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Life {
    /// Another process computes it; this one waits for the result.
    Waiting {
        /// That process, where known.
        holder: Option<u32>,
    },
    /// Its computation starts.
    Started,
    /// It is in the store.
    Finished {
        /// Seconds of work over all tries.
        seconds: f64,
        /// Whether another process had finished it meanwhile.
        shared: bool,
    },
    /// It cannot start: stages that it reads are not in the store, or were damaged and put aside.
    Missing {
        /// Those stages.
        parents: Vec<Key>,
        /// What was found.
        message: String,
    },
    /// It failed.
    Failed {
        /// Why, with all causes, a line each.
        message: String,
        /// What sort of failure it is.
        cause: Cause,
    },
    /// It was asked to stop and did; what was done is saved.
    Interrupted,
}

/// Counts the requests to stop: none, one (save and stop), two or more (stop now).
#[derive(Clone, Debug, Default)]
pub struct Stop {
    count: Arc<AtomicUsize>,
    /// Where other processes leave requests; see [`crate::store::runs`].
    file: Option<Arc<PathBuf>>,
}

impl Stop {
    /// Requests of this process and those in the file at `path`.
    pub fn with_file(path: &Path) -> Self {
        Self { count: Arc::default(), file: Some(Arc::new(path.to_owned())) }
    }

    /// One more request.
    pub fn request(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// The requests so far.
    pub fn requests(&self) -> usize {
        let asked = self.file.as_ref().map_or(0, |path| stop_requests(path));
        self.count.load(Ordering::SeqCst).max(asked)
    }
}
