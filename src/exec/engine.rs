//! The loop that brings a plan to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::forecast::{Forecast, Left};
use super::queue::Queue;
use super::{Executor, Exit, Life, Line, Message, Stop, Task, Update};
use crate::plan::{Plan, PlannedStage};
use crate::stage::event::Event;
use crate::store::key::Key;
use crate::store::{Cause, Failure, Store};

/// How long the loop waits for something to happen before it looks at the clock and the stop flag.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a plan is run. Nothing here changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Processes at once.
    pub workers: usize,
    /// CPU threads, shared out between the processes.
    pub threads: usize,
    /// The first failure stops the rest.
    pub fail_fast: bool,
    /// How often a stage is started again whose process died without saying why.
    pub retries: usize,
}

/// What became of a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was in the store before.
    Found,
    /// It is finished now.
    Done {
        /// Seconds of work over all tries.
        seconds: f64,
        /// Whether another sweep computed it meanwhile.
        shared: bool,
    },
    /// It failed.
    Failed {
        /// Why.
        message: String,
    },
    /// A stage that it needs failed: the index of that stage.
    Skipped {
        /// The stage that failed.
        because: usize,
    },
    /// It was stopped; what was done is saved.
    Interrupted,
    /// It was not started before the run was stopped.
    Waiting,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// For each stage of the plan, what became of it.
    pub outcomes: Vec<Outcome>,
    /// Whether a request stopped it.
    pub interrupted: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// The stages whose outcome satisfies `wanted`.
    pub fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| wanted(outcome)).count()
    }

    /// Whether everything of the plan is in the store.
    pub fn complete(&self) -> bool {
        self.outcomes.iter().all(Outcome::is_finished)
    }
}

impl Outcome {
    /// Whether the stage is in the store.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Found | Self::Done { .. })
    }
}

/// What a run tells while it lasts.
#[derive(Clone, Debug)]
pub enum Notice<'a> {
    /// It begins.
    Opened {
        /// What shall be done.
        plan: &'a Plan,
        /// How many stages are in the store already.
        finished: usize,
    },
    /// A stage was given to a process.
    Started {
        /// The stage.
        stage: &'a PlannedStage,
        /// The process's CPU threads.
        threads: usize,
    },
    /// A stage waits for another sweep that computes it.
    Waiting {
        /// The stage.
        stage: &'a PlannedStage,
        /// The other process, where known.
        holder: Option<u32>,
    },
    /// A stage speaks.
    Said {
        /// The stage.
        stage: &'a PlannedStage,
        /// What it says.
        event: &'a Event,
    },
    /// A stage's process died; it is started again.
    Retried {
        /// The stage.
        stage: &'a PlannedStage,
        /// How it died.
        message: &'a str,
    },
    /// The end of a stage is known.
    Settled {
        /// The stage.
        stage: &'a PlannedStage,
        /// Its end.
        outcome: &'a Outcome,
        /// The stage whose failure it is, where it was skipped.
        because: Option<&'a PlannedStage>,
        /// Where its processes' messages are.
        log: &'a Path,
    },
    /// Running stages were asked to stop, or ended.
    Stopping {
        /// Whether they were ended.
        now: bool,
    },
    /// Time passes.
    Tick {
        /// The time left.
        left: Left,
    },
    /// It is over.
    Ended {
        /// What it came to.
        summary: &'a Summary,
    },
}

/// Listens to a run. The only ones that print.
pub trait Reporter {
    /// Takes one notice.
    fn notice(&mut self, notice: &Notice<'_>);
}

/// Runs the stages of `plan` that are not in `store`. A failed stage stops only what needs it.
///
/// # Errors
/// Where the store or the executor cannot be used; a failed stage is no error, but an [`Outcome`].
pub fn run(
    plan: &Plan,
    store: &Store,
    executor: &mut dyn Executor,
    reporter: &mut dyn Reporter,
    options: &Options,
    stop: &Stop,
) -> Result<Summary> {
    let mut run = Run::new(plan, store, reporter, *options);
    let result = run.drive(executor, stop);
    if result.is_err() {
        executor.cancel(false); // leave nothing running behind an engine that gives up
    }
    result.map(|()| run.summary(stop))
}

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    store: &'a Store,
    reporter: &'a mut dyn Reporter,
    options: Options,
    begun: Instant,
    index: BTreeMap<&'a Key, usize>,
    outcomes: Vec<Option<Outcome>>,
    tries: Vec<usize>,
    queue: Queue,
    forecast: Forecast,
    /// The tasks that run, with their stages and threads.
    running: BTreeMap<usize, (Vec<usize>, usize)>,
    next_task: usize,
    /// Requests to stop that were passed on.
    stopping: usize,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, store: &'a Store, reporter: &'a mut dyn Reporter, options: Options) -> Self {
        let mut forecast = Forecast::default();
        let mut outcomes = Vec::with_capacity(plan.stages.len());
        for stage in &plan.stages {
            let meta = store.meta(&stage.key);
            match &meta {
                Some(meta) => forecast.known(stage, meta.seconds),
                None => forecast.waiting(stage),
            }
            outcomes.push(meta.map(|_| Outcome::Found));
        }
        let finished: Vec<bool> = outcomes.iter().map(Option::is_some).collect();
        reporter.notice(&Notice::Opened {
            plan,
            finished: finished.iter().filter(|&&finished| finished).count(),
        });
        Self {
            plan,
            store,
            reporter,
            options,
            begun: Instant::now(),
            index: plan.stages.iter().enumerate().map(|(i, stage)| (&stage.key, i)).collect(),
            tries: vec![0; outcomes.len()],
            outcomes,
            queue: Queue::new(plan, &finished),
            forecast,
            running: BTreeMap::new(),
            next_task: 0,
            stopping: 0,
        }
    }

    fn drive(&mut self, executor: &mut dyn Executor, stop: &Stop) -> Result<()> {
        loop {
            self.pass_on_requests(executor, stop.requests().min(2));
            while self.stopping == 0 && self.start_one(executor)? {}
            if self.running.is_empty() {
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

    /// Stops what runs, when asked to, or after the first failure where the options say so.
    fn pass_on_requests(&mut self, executor: &mut dyn Executor, requests: usize) {
        let failed = self.options.fail_fast
            && self.outcomes.iter().flatten().any(|outcome| matches!(outcome, Outcome::Failed { .. }));
        let wanted = requests.max(usize::from(failed));
        if wanted > self.stopping {
            self.stopping = wanted;
            executor.cancel(wanted > 1);
            self.reporter.notice(&Notice::Stopping { now: wanted > 1 });
        }
    }

    /// Starts the next process, if there is one to start and room for it.
    fn start_one(&mut self, executor: &mut dyn Executor) -> Result<bool> {
        let workers = self.options.workers.max(1);
        let used: usize = self.running.values().map(|(_, threads)| threads).sum();
        // Every worker has at least one thread, also where there are more workers than threads.
        let free = self.options.threads.max(workers).saturating_sub(used);
        if self.running.len() >= workers || free == 0 {
            return Ok(false);
        }
        let at_once = self.queue.ready().min(workers - self.running.len()).max(1);
        let Some(stages) = self.queue.take() else { return Ok(false) };
        let plan = self.plan;
        let keys: Vec<Key> = stages.iter().map(|&i| plan.stages[i].key.clone()).collect();
        for &i in &stages {
            let stage = &plan.stages[i];
            self.store.write_spec(&stage.key, &stage.label, &plan.spec(i))?;
        }
        let task = Task { id: self.next_task, keys, threads: (free / at_once).max(1) };
        self.next_task += 1;
        for &i in &stages {
            self.tries[i] += 1;
            self.forecast.started(i, &plan.stages[i], Instant::now());
            self.reporter.notice(&Notice::Started { stage: &plan.stages[i], threads: task.threads });
        }
        match executor.submit(&task).context("the stage's process could not be started") {
            Ok(()) => drop(self.running.insert(task.id, (stages, task.threads))),
            Err(error) => stages.into_iter().for_each(|i| self.fail(i, format!("{error:#}"))),
        }
        Ok(true)
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
            Message::Life(Life::Finished { seconds, shared }) => {
                self.settle(i, Outcome::Done { seconds, shared });
            }
            Message::Life(Life::Failed { message }) => self.fail(i, message),
            Message::Life(Life::Started | Life::Interrupted) => {} // the end of the process tells
        }
    }

    fn exited(&mut self, task: usize, exit: &Exit) {
        let Some((stages, _)) = self.running.remove(&task) else { return };
        for i in stages {
            if self.outcomes[i].is_some() {
                continue;
            }
            // A process may die between publishing a stage and saying so: the store is the truth.
            if let Some(meta) = self.store.meta(&self.plan.stages[i].key) {
                self.settle(i, Outcome::Done { seconds: meta.seconds, shared: false });
                continue;
            }
            match exit {
                _ if self.stopping > 0 => self.settle(i, Outcome::Interrupted),
                // A terminal's Ctrl-C reaches the processes as well, perhaps before this one.
                Exit::Interrupted => self.settle(i, Outcome::Interrupted),
                Exit::Orderly => self.fail(i, "its process ended without a word about it".to_owned()),
                Exit::Died(how) if self.tries[i] <= self.options.retries => self.retry(i, how),
                Exit::Died(how) => self.fail(i, format!("its process died: {how}")),
            }
        }
    }

    fn retry(&mut self, i: usize, how: &str) {
        let stage = &self.plan.stages[i];
        self.forecast.ended(i, stage, None);
        self.forecast.waiting(stage);
        self.queue.put_back(i);
        self.reporter.notice(&Notice::Retried { stage, message: how });
    }

    fn fail(&mut self, i: usize, message: String) {
        if self.outcomes[i].is_some() {
            return;
        }
        // The store's note is for later readers; where it cannot be written, the run still says it.
        let failure = Failure { cause: Cause::Error, message: message.clone() };
        let _ = self.store.write_failure(&self.plan.stages[i].key, &failure);
        self.settle(i, Outcome::Failed { message });
        for lost in self.queue.fail(i) {
            self.forecast.dropped(&self.plan.stages[lost]);
            self.settle(lost, Outcome::Skipped { because: i });
        }
    }

    fn settle(&mut self, i: usize, outcome: Outcome) {
        let stage = &self.plan.stages[i];
        match outcome {
            Outcome::Done { seconds, .. } => {
                self.forecast.ended(i, stage, Some(seconds));
                self.queue.finish(i);
            }
            Outcome::Failed { .. } | Outcome::Interrupted => self.forecast.ended(i, stage, None),
            Outcome::Found | Outcome::Skipped { .. } | Outcome::Waiting => {}
        }
        let because = match outcome {
            Outcome::Skipped { because } => Some(&self.plan.stages[because]),
            _ => None,
        };
        let log = self.store.log_path(&stage.key);
        self.reporter.notice(&Notice::Settled { stage, outcome: &outcome, because, log: &log });
        self.outcomes[i] = Some(outcome);
    }

    fn summary(self, stop: &Stop) -> Summary {
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Waiting)).collect();
        let summary = Summary { outcomes, interrupted: stop.requests() > 0, elapsed: self.begun.elapsed() };
        self.reporter.notice(&Notice::Ended { summary: &summary });
        summary
    }
}
