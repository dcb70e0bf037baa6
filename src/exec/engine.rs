//! The loop that brings a plan to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::forecast::Forecast;
use super::notice::{Notice, Outcome, Reporter, Summary};
use super::queue::{Order, Queue};
use super::worker::cause_of;
use super::{Device, Executor, Exit, Life, Line, Message, Stop, Task, Update};
use crate::plan::Plan;
use crate::stage::event::Event;
use crate::store::key::Key;
use crate::store::{Cause, Failure, Store};

/// How long the loop waits for something to happen before it looks at the clock and the stop flag.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often a finished stage that turns out to be damaged is computed again in one run.
const REPAIRS: usize = 3;

/// How a plan is run. Nothing here changes a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Processes at once.
    pub workers: usize,
    /// CPU threads, shared out between the processes.
    pub threads: usize,
    /// Where they compute; the processes are spread evenly.
    pub devices: Vec<Device>,
    /// The first failure stops the rest.
    pub fail_fast: bool,
    /// How often a stage is started again whose process died or had too little memory.
    pub retries: usize,
    /// Trainings that diverged in an earlier run are tried again.
    pub retry_diverged: bool,
    /// For each point of the plan, whether it goes before the others; of any length, the rest do not.
    pub first: Vec<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            threads: 1,
            devices: vec![Device::Cpu],
            fail_fast: false,
            retries: 1,
            retry_diverged: false,
            first: Vec::new(),
        }
    }
}

/// Runs the stages of `plan` that are not in `store` and that something unfinished needs. A failed stage stops only what
/// needs it; a stage whose result is damaged is computed again when it is needed.
///
/// # Errors
/// Where the executor cannot be used; a failed stage is no error, but an [`Outcome`].
pub fn run(
    plan: &Plan,
    store: &Store,
    executor: &mut dyn Executor,
    reporter: &mut dyn Reporter,
    options: &Options,
    stop: &Stop,
) -> Result<Summary> {
    let mut run = Run::new(plan, store, reporter, options, stop);
    let result = run.drive(executor);
    if result.is_err() {
        executor.cancel(false); // leave nothing running behind an engine that gives up
    }
    result.map(|()| run.summary())
}

/// A task that runs.
struct Running {
    /// Its stages whose end is not known yet.
    stages: Vec<usize>,
    threads: usize,
    device: Device,
    /// Nothing else may run beside it.
    alone: bool,
}

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    store: &'a Store,
    reporter: &'a mut dyn Reporter,
    options: &'a Options,
    stop: &'a Stop,
    begun: Instant,
    index: BTreeMap<&'a Key, usize>,
    outcomes: Vec<Option<Outcome>>,
    /// For each stage, how often it was started.
    tries: Vec<usize>,
    /// For each stage, how often its result was found to be damaged.
    repairs: Vec<usize>,
    queue: Queue,
    forecast: Forecast,
    running: BTreeMap<usize, Running>,
    /// Stages that other processes compute.
    elsewhere: BTreeSet<usize>,
    /// Stages that had too little memory: each runs alone, when nothing else can.
    alone: BTreeSet<usize>,
    next_task: usize,
    /// Requests to stop that were passed on.
    stopping: usize,
    failed: bool,
    disk_full: bool,
}

impl<'a> Run<'a> {
    fn new(
        plan: &'a Plan,
        store: &'a Store,
        reporter: &'a mut dyn Reporter,
        options: &'a Options,
        stop: &'a Stop,
    ) -> Self {
        let mut forecast = Forecast::default();
        let mut finished = Vec::with_capacity(plan.stages.len());
        for stage in &plan.stages {
            let meta = store.meta(&stage.key);
            if let Some(meta) = &meta {
                forecast.known(stage, meta.seconds);
            }
            finished.push(meta.is_some());
        }
        let seconds: Vec<f64> = plan.stages.iter().map(|stage| forecast.expected(stage)).collect();
        let goes_first = |&point: &usize| options.first.get(point).copied().unwrap_or(false);
        let first: Vec<bool> = plan.stages.iter().map(|stage| stage.points.iter().any(goes_first)).collect();
        let queue = Queue::new(plan, &finished, &Order { seconds: &seconds, first: &first });
        let mut outcomes = Vec::with_capacity(plan.stages.len());
        for (i, stage) in plan.stages.iter().enumerate() {
            outcomes.push(match finished[i] {
                true => Some(Outcome::Found),
                false if queue.is_unneeded(i) => Some(Outcome::Unneeded),
                false => {
                    forecast.waiting(stage);
                    None
                }
            });
        }
        let finished = outcomes.iter().filter(|outcome| outcome.is_some()).count();
        reporter.notice(&Notice::Opened { plan, finished });
        Self {
            plan,
            store,
            reporter,
            options,
            stop,
            begun: Instant::now(),
            index: plan.stages.iter().enumerate().map(|(i, stage)| (&stage.key, i)).collect(),
            tries: vec![0; outcomes.len()],
            repairs: vec![0; outcomes.len()],
            outcomes,
            queue,
            forecast,
            running: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            alone: BTreeSet::new(),
            next_task: 0,
            stopping: 0,
            failed: false,
            disk_full: false,
        }
    }

    fn drive(&mut self, executor: &mut dyn Executor) -> Result<()> {
        self.remember_divergence();
        loop {
            self.pass_on_requests(executor, self.stop.requests().min(2));
            self.look_elsewhere();
            while self.stopping == 0 && !self.disk_full && self.start_one(executor) {}
            let waits = !self.elsewhere.is_empty() && self.stopping == 0 && !self.disk_full;
            if self.running.is_empty() && !waits {
                return Ok(());
            }
            for update in executor.poll(PATIENCE)? {
                match update {
                    Update::Line(line) => self.line(line),
                    Update::Exited { task, exit } => self.exited(task, &exit),
                }
            }
            let left = self.forecast.left(self.options.workers, Instant::now());
            self.reporter.notice(&Notice::Tick { left });
        }
    }

    /// Fails the trainings that diverged in an earlier run: the same again would diverge again.
    fn remember_divergence(&mut self) {
        if self.options.retry_diverged {
            return;
        }
        for i in 0..self.outcomes.len() {
            let key = &self.plan.stages[i].key;
            let record = || self.store.failure_record(key);
            if let Some(failure) = self.outcomes[i].is_none().then(record).flatten()
                && let Cause::Diverged { .. } = failure.cause
            {
                let again = "found in an earlier run; `--retry-diverged` trains it again";
                self.settle_failure(i, format!("{}\n{again}", failure.message));
            }
        }
    }

    /// Stops what runs, when asked to, or after the first failure where the options say so.
    fn pass_on_requests(&mut self, executor: &mut dyn Executor, requests: usize) {
        let wanted = requests.max(usize::from(self.options.fail_fast && self.failed));
        if wanted > self.stopping {
            self.stopping = wanted;
            executor.cancel(wanted > 1);
            self.reporter.notice(&Notice::Stopping { now: wanted > 1 });
        }
    }

    /// Looks after the stages that other processes compute.
    fn look_elsewhere(&mut self) {
        for i in self.elsewhere.clone() {
            let key = &self.plan.stages[i].key;
            // In this order: a stage is published before its lock is given back.
            let held = self.store.is_computed(key);
            if let Some(meta) = self.store.meta(key) {
                self.elsewhere.remove(&i);
                self.settle(i, Outcome::Done { seconds: meta.seconds, shared: true });
            } else if !held {
                self.elsewhere.remove(&i);
                self.queue.put_back(i);
            }
        }
    }

    /// Starts the next process, if there is one to start and room for it.
    fn start_one(&mut self, executor: &mut dyn Executor) -> bool {
        let workers = self.options.workers.max(1);
        let used: usize = self.running.values().map(|task| task.threads).sum();
        // Every worker has at least one thread, also where there are more workers than threads.
        let free = self.options.threads.max(workers).saturating_sub(used);
        if self.running.len() >= workers || free == 0 || self.running.values().any(|task| task.alone) {
            return false;
        }
        let at_once = self.queue.ready(workers - self.running.len()).max(1);
        let (stages, alone) = match self.queue.take() {
            Some(stages) => (self.not_elsewhere(stages), false),
            None if self.running.is_empty() => match self.alone.pop_first() {
                Some(stage) => (vec![stage], true),
                None => return false,
            },
            None => return false,
        };
        if stages.is_empty() {
            return true;
        }
        let threads = if alone { free } else { (free / at_once).max(1) };
        self.start(executor, stages, threads, alone);
        true
    }

    /// Those of `stages` that no other process computes; the others are looked after.
    fn not_elsewhere(&mut self, stages: Vec<usize>) -> Vec<usize> {
        let plan = self.plan;
        let (theirs, ours) = stages.into_iter().partition(|&i| self.store.is_computed(&plan.stages[i].key));
        let theirs: Vec<usize> = theirs;
        for i in theirs {
            self.elsewhere.insert(i);
            let holder = self.store.holder(&plan.stages[i].key);
            self.reporter.notice(&Notice::Waiting { stage: &plan.stages[i], holder });
        }
        ours
    }

    fn start(&mut self, executor: &mut dyn Executor, stages: Vec<usize>, threads: usize, alone: bool) {
        let plan = self.plan;
        let keys: Vec<Key> = stages.iter().map(|&i| plan.stages[i].key.clone()).collect();
        let written = stages.iter().try_for_each(|&i| {
            let stage = &plan.stages[i];
            self.store.write_spec(&stage.key, &stage.label, &plan.spec(i))
        });
        if let Err(error) = written {
            let cause = cause_of(&error);
            for i in stages {
                self.fail(i, format!("{error:#}"), cause);
            }
            return;
        }
        let load = |device: &&Device| self.running.values().filter(|task| task.device == **device).count();
        let device = self.options.devices.iter().min_by_key(load).copied().unwrap_or_default();
        let task = Task { id: self.next_task, keys, threads, device };
        self.next_task += 1;
        for &i in &stages {
            self.tries[i] += 1;
            self.forecast.started(i, &plan.stages[i], Instant::now());
            self.reporter.notice(&Notice::Started { stage: &plan.stages[i], threads });
        }
        match executor.submit(&task).context("the stage's process could not be started") {
            Ok(()) => drop(self.running.insert(task.id, Running { stages, threads, device, alone })),
            Err(error) => {
                for i in stages {
                    self.fail(i, format!("{error:#}"), cause_of(&error));
                }
            }
        }
    }

    fn line(&mut self, line: Line) {
        let plan = self.plan;
        let Some(&i) = self.index.get(&line.key) else { return };
        let stage = &plan.stages[i];
        match line.message {
            Message::Stage(event) => {
                if let Event::Progress { done, total, .. } = event {
                    self.forecast.progress(i, done, total, Instant::now());
                }
                self.reporter.notice(&Notice::Said { stage, event: &event });
            }
            Message::Life(Life::Waiting { holder }) => {
                self.reporter.notice(&Notice::Waiting { stage, holder });
            }
            Message::Life(life) => {
                // An end counts once, and only of what runs.
                let runs = |task: &Running| task.stages.contains(&i);
                if !self.running.values().any(runs) {
                    return;
                }
                match life {
                    Life::Finished { seconds, shared } => self.settle(i, Outcome::Done { seconds, shared }),
                    Life::Missing { parents, message } => self.repair(i, &parents, &message),
                    Life::Failed { message, cause } => self.failed(i, message, cause),
                    // The end of the process tells.
                    Life::Started | Life::Interrupted | Life::Waiting { .. } => {}
                }
            }
        }
    }

    fn exited(&mut self, task: usize, exit: &Exit) {
        let Some(Running { stages, .. }) = self.running.remove(&task) else { return };
        for i in stages {
            // A process may die between publishing a stage and saying so: the store is the truth.
            if let Some(meta) = self.store.meta(&self.plan.stages[i].key) {
                self.settle(i, Outcome::Done { seconds: meta.seconds, shared: false });
                continue;
            }
            match exit {
                // A terminal's Ctrl-C reaches the processes as well, perhaps before it was passed on.
                _ if self.stopping > 0 || self.stop.requests() > 0 => self.settle(i, Outcome::Interrupted),
                Exit::Interrupted => {
                    self.failed(i, "its process was asked to stop, not by this one".to_owned(), Cause::Died);
                }
                Exit::Orderly => {
                    self.failed(i, "its process ended without a word about it".to_owned(), Cause::Error);
                }
                Exit::OutOfMemory(how) => {
                    self.failed(i, format!("there was not enough memory: {how}"), Cause::OutOfMemory);
                }
                Exit::Died(how) => self.failed(i, format!("its process died: {how}"), Cause::Died),
            }
        }
    }

    /// A stage failed: it is tried again where that may help.
    fn failed(&mut self, i: usize, message: String, cause: Cause) {
        let stage = &self.plan.stages[i];
        let parents = self.plan.parents(i).map(|parent| &self.plan.stages[parent].key);
        let gone: Vec<Key> = parents.filter(|key| self.store.object(key).is_none()).cloned().collect();
        if !gone.is_empty() && cause != Cause::DiskFull {
            return self.repair(i, &gone, "it was taken out of the store while it was being read");
        }
        let retried = matches!(cause, Cause::OutOfMemory | Cause::Died);
        if !retried || self.stopping > 0 || self.tries[i] > self.options.retries {
            return self.fail(i, message, cause);
        }
        self.requeue(i);
        if cause == Cause::OutOfMemory {
            self.alone.insert(i);
        } else {
            self.queue.put_back(i);
        }
        self.reporter.notice(&Notice::Retried { stage, message: &message });
    }

    /// Stages that stage `i` reads are damaged or gone: they are computed again, and it waits for them.
    fn repair(&mut self, i: usize, parents: &[Key], message: &str) {
        let plan = self.plan;
        let mut again = Vec::new();
        for key in parents {
            let Some(&parent) = self.index.get(key) else {
                return self.fail(
                    i,
                    format!("it reads {key}, which is not in the store: {message}"),
                    Cause::Error,
                );
            };
            self.repairs[parent] += 1;
            if self.repairs[parent] > REPAIRS {
                let label = &plan.stages[parent].label;
                let message =
                    format!("`{label}` was damaged {REPAIRS} times in this run: {message}; check the disk");
                return self.fail(i, message, Cause::Error);
            }
            again.push(parent);
        }
        for parent in again {
            for stage in self.queue.reopen(parent) {
                self.outcomes[stage] = None;
                self.forecast.waiting(&plan.stages[stage]);
                self.reporter.notice(&Notice::Damaged { stage: &plan.stages[stage], message });
            }
        }
        self.requeue(i);
        self.tries[i] = self.tries[i].saturating_sub(1);
        self.queue.put_back(i);
    }

    /// Stage `i` runs no more and will run again.
    fn requeue(&mut self, i: usize) {
        let stage = &self.plan.stages[i];
        self.release(i);
        self.forecast.ended(i, stage, None);
        self.forecast.waiting(stage);
    }

    /// Stage `i` is none of its process's business any more.
    fn release(&mut self, i: usize) {
        for task in self.running.values_mut() {
            task.stages.retain(|&stage| stage != i);
        }
    }

    fn fail(&mut self, i: usize, message: String, cause: Cause) {
        if self.outcomes[i].is_some() {
            return;
        }
        self.disk_full |= cause == Cause::DiskFull;
        let failure = Failure { cause, message };
        // The store's note is for later readers; where it cannot be written, the run still says it.
        let _ = self.store.write_failure(&self.plan.stages[i].key, &failure);
        self.settle_failure(i, failure.message);
    }

    fn settle_failure(&mut self, i: usize, message: String) {
        self.failed = true;
        self.settle(i, Outcome::Failed { message });
        for lost in self.queue.fail(i) {
            self.forecast.dropped(&self.plan.stages[lost]);
            self.settle(lost, Outcome::Skipped { because: i });
        }
    }

    fn settle(&mut self, i: usize, outcome: Outcome) {
        let stage = &self.plan.stages[i];
        self.release(i);
        match outcome {
            Outcome::Done { seconds, .. } => {
                self.forecast.ended(i, stage, Some(seconds));
                self.queue.finish(i);
            }
            Outcome::Failed { .. } | Outcome::Interrupted => self.forecast.ended(i, stage, None),
            Outcome::Found | Outcome::Unneeded | Outcome::Skipped { .. } | Outcome::Waiting => {}
        }
        let because = match outcome {
            Outcome::Skipped { because } => Some(&self.plan.stages[because]),
            _ => None,
        };
        let log = self.store.log_path(&stage.key);
        self.reporter.notice(&Notice::Settled { stage, outcome: &outcome, because, log: &log });
        self.outcomes[i] = Some(outcome);
    }

    fn summary(self) -> Summary {
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Waiting)).collect();
        let summary = Summary {
            outcomes,
            interrupted: self.stop.requests() > 0,
            disk_full: self.disk_full,
            elapsed: self.begun.elapsed(),
        };
        self.reporter.notice(&Notice::Ended { summary: &summary });
        summary
    }
}
