//! What a run tells while it lasts, and what it comes to.

use std::path::Path;
use std::time::Duration;

use super::Left;
use crate::plan::{Plan, PlannedStage};
use crate::stage::event::Event;

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
    /// It is not in the store, and all that reads it is: it was not needed.
    Unneeded,
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

impl Outcome {
    /// Whether the stage is in the store.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Found | Self::Done { .. })
    }

    /// Whether this run computed it.
    pub fn is_computed(&self) -> bool {
        matches!(self, Self::Done { shared: false, .. })
    }

    /// Whether it was there before, or another process computed it.
    pub fn is_found(&self) -> bool {
        self.is_finished() && !self.is_computed()
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// For each stage of the plan, what became of it.
    pub outcomes: Vec<Outcome>,
    /// Whether a request stopped it.
    pub interrupted: bool,
    /// Whether nothing more was started because the disk is full.
    pub disk_full: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// The stages whose outcome satisfies `wanted`.
    pub fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| wanted(outcome)).count()
    }

    /// Whether everything that the plan asks for is in the store.
    pub fn complete(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.is_finished() || *outcome == Outcome::Unneeded)
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
    /// The executor has something to say that is about no stage alone.
    Note {
        /// What.
        text: &'a str,
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
    /// A finished stage was found to be damaged or gone; it is computed again.
    Damaged {
        /// The stage.
        stage: &'a PlannedStage,
        /// What was found.
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
