//! The loop that brings a plan to its end.

mod ends;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::forecast::Forecast;
use super::notice::{Notice, Outcome, Reporter, Summary};
use super::queue::{Order, Queue};
use super::worker::cause_of;
use super::{Device, Executor, Life, Line, Message, Stop, Task, Update};
use crate::plan::Plan;
use crate::stage::event::Event;
use crate::store::key::Key;
use crate::store::{Cause, Store};

/// How long the loop waits for something to happen before it looks at the clock and the stop flag.
const PATIENCE: Duration = Duration::from_millis(100);

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
    if result.is_err() && !executor.queues() {
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

/// A stage that was taken away and went on.
#[derive(Clone, Copy, Debug, Default)]
struct Stall {
    /// How far it had come at best.
    best: u64,
    /// How often in a row it came no further.
    idle: u32,
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
    /// For each stage, the task that it is part of.
    task_of: Vec<Option<usize>>,
    /// For each stage, whether its process runs, as far as is known.
    runs: Vec<bool>,
    /// For each stage, how often it was lost by no fault of its own, and how often it ran out of memory.
    losses: Vec<usize>,
    shortages: Vec<u32>,
    /// For each stage, how far it came, and what it has of being taken away again and again.
    reached: Vec<u64>,
    stalls: BTreeMap<usize, Stall>,
    /// For each stage, how often an executor's queue let it go although what it reads was there or on its way.
    unmet: BTreeMap<usize, u32>,
    /// Stages that go back into the queue later.
    later: Vec<(Instant, usize)>,
    /// Tasks that the executor shall take back.
    withdrawn: Vec<usize>,
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
            task_of: vec![None; outcomes.len()],
            runs: vec![false; outcomes.len()],
            losses: vec![0; outcomes.len()],
            shortages: vec![0; outcomes.len()],
            reached: vec![0; outcomes.len()],
            stalls: BTreeMap::new(),
            unmet: BTreeMap::new(),
            later: Vec::new(),
            withdrawn: Vec::new(),
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
            if self.stopping > 0 && executor.queues() {
                return Ok(()); // what is in its queue goes on without us
            }
            self.look_elsewhere();
            self.look_at_later();
            while self.stopping == 0 && !self.disk_full && self.start_one(executor) {}
            let waits = !(self.elsewhere.is_empty() && self.later.is_empty())
                && self.stopping == 0
                && !self.disk_full;
            if self.running.is_empty() && !waits {
                return Ok(());
            }
            for update in executor.poll(PATIENCE)? {
                match update {
                    Update::Line(line) => self.line(line),
                    Update::Started { task, threads } => self.started(task, threads),
                    Update::Note(text) => self.reporter.notice(&Notice::Note { text: &text }),
                    Update::Exited { task, exit } => self.exited(task, &exit),
                }
            }
            for task in std::mem::take(&mut self.withdrawn) {
                executor.withdraw(task);
            }
            // How many an executor's own queue runs at once, it shows.
            let at_once = if executor.queues() { self.forecast.running() } else { self.options.workers };
            let left = self.forecast.left(at_once, Instant::now());
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
            // A queue that outlives this run is left alone when a person leaves, and emptied when nothing shall go on.
            if !executor.queues() || requests == 0 {
                executor.cancel(wanted > 1);
                self.reporter.notice(&Notice::Stopping { now: wanted > 1 });
            }
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
        if executor.queues() {
            let Some(stages) = self.queue.take() else { return false };
            let stages = self.not_elsewhere(stages, executor);
            if !stages.is_empty() {
                self.start(executor, stages, 0, false);
            }
            return true;
        }
        let workers = self.options.workers.max(1);
        let used: usize = self.running.values().map(|task| task.threads).sum();
        // Every worker has at least one thread, also where there are more workers than threads.
        let free = self.options.threads.max(workers).saturating_sub(used);
        if self.running.len() >= workers || free == 0 || self.running.values().any(|task| task.alone) {
            return false;
        }
        let at_once = self.queue.ready(workers - self.running.len()).max(1);
        let (stages, alone) = match self.queue.take() {
            Some(stages) => (self.not_elsewhere(stages, executor), false),
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
    fn not_elsewhere(&mut self, stages: Vec<usize>, executor: &dyn Executor) -> Vec<usize> {
        let plan = self.plan;
        let theirs = |&i: &usize| {
            let key = &plan.stages[i].key;
            !executor.holds(key) && self.store.is_computed(key)
        };
        let (theirs, ours) = stages.into_iter().partition(theirs);
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
        let after: BTreeSet<usize> =
            stages.iter().flat_map(|&i| plan.parents(i)).filter(|&i| self.queue.is_submitted(i)).collect();
        let task = Task {
            id: self.next_task,
            kind: plan.stages[stages[0]].kind,
            keys,
            after: after.into_iter().map(|i| plan.stages[i].key.clone()).collect(),
            shortages: stages.iter().map(|&i| self.shortages[i]).max().unwrap_or(0),
            threads,
            device,
        };
        self.next_task += 1;
        for &i in &stages {
            self.tries[i] += 1;
            self.task_of[i] = Some(task.id);
        }
        self.running.insert(task.id, Running { stages: stages.clone(), threads, device, alone });
        if !executor.queues() {
            self.started(task.id, threads);
        }
        match executor.submit(&task).context("the stage's process could not be started") {
            Ok(()) if executor.queues() => stages.iter().for_each(|&i| self.queue.submitted(i)),
            Ok(()) => {}
            Err(error) => {
                self.running.remove(&task.id);
                for i in stages {
                    self.fail(i, format!("{error:#}"), cause_of(&error));
                }
            }
        }
    }

    /// The process of a task runs.
    fn started(&mut self, task: usize, threads: usize) {
        let Some(running) = self.running.get(&task) else { return };
        let plan = self.plan;
        for &i in &running.stages {
            if !std::mem::replace(&mut self.runs[i], true) {
                self.forecast.started(i, &plan.stages[i], Instant::now());
                self.reporter.notice(&Notice::Started { stage: &plan.stages[i], threads });
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
                    self.reached[i] = self.reached[i].max(done);
                    self.forecast.progress(i, done, total, Instant::now());
                }
                self.reporter.notice(&Notice::Said { stage, event: &event });
            }
            Message::Life(Life::Waiting { holder }) => {
                self.reporter.notice(&Notice::Waiting { stage, holder });
            }
            Message::Life(life) => {
                // An end counts once, and only of what runs.
                if self.task_of[i].is_none() {
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

    /// Stage `i` runs no more and will run again.
    fn requeue(&mut self, i: usize) {
        self.release(i);
        self.ended(i, None);
        self.forecast.waiting(&self.plan.stages[i]);
    }

    /// Stage `i` is none of its process's business any more.
    fn release(&mut self, i: usize) {
        if let Some(task) = self.task_of[i].take().and_then(|task| self.running.get_mut(&task)) {
            task.stages.retain(|&stage| stage != i);
        }
    }

    /// Stage `i` neither runs nor waits any more; with its seconds where it finished.
    fn ended(&mut self, i: usize, seconds: Option<f64>) {
        let stage = &self.plan.stages[i];
        if !std::mem::replace(&mut self.runs[i], false) {
            self.forecast.dropped(stage);
        }
        self.forecast.ended(i, stage, seconds);
    }

    fn settle(&mut self, i: usize, outcome: Outcome) {
        let stage = &self.plan.stages[i];
        self.release(i);
        match outcome {
            Outcome::Done { seconds, .. } => {
                self.ended(i, Some(seconds));
                self.queue.finish(i);
            }
            Outcome::Failed { .. } | Outcome::Interrupted => self.ended(i, None),
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
