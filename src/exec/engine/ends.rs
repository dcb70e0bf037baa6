//! What the engine makes of the end of a task: what is tried again, and what is given up.

use std::time::{Duration, Instant};

use super::super::Exit;
use super::super::notice::{Notice, Outcome};
use super::{Run, Running};
use crate::store::key::Key;
use crate::store::{Cause, Failure};

/// How often a finished stage that turns out to be damaged is computed again in one run.
const REPAIRS: usize = 3;
/// How often a stage is started again in one run that was lost by no fault of its own.
const LOSSES: usize = 5;
/// How often in a row a stage may be taken away without having come further.
const STALLS: u32 = 8;
/// How often an executor's queue may let a stage go for want of what is there.
const UNMET: u32 = 8;
/// How long such a stage waits before it is tried once more: the second time, and at most.
const UNMET_WAIT: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
const UNMET_WAIT_MOST: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// A task is over.
    pub(super) fn exited(&mut self, task: usize, exit: &Exit) {
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
                Exit::Continues(how) => self.goes_on(i, how),
                Exit::Lost(how) => {
                    self.losses[i] += 1;
                    if self.losses[i] > LOSSES {
                        self.fail(i, format!("it was lost {LOSSES} times: {how}"), Cause::Died);
                    } else {
                        self.again(i, Some(how));
                    }
                }
                Exit::Unmet => self.unmet(i),
                Exit::Refused(how) => self.fail(i, how.clone(), Cause::Error),
            }
        }
    }

    /// A stage was taken away with its work saved: it goes on, as long as that brings it further.
    fn goes_on(&mut self, i: usize, how: &str) {
        let (reached, stall) = (self.reached[i], self.stalls.entry(i).or_default());
        stall.idle = if reached > stall.best { 0 } else { stall.idle + 1 };
        stall.best = stall.best.max(reached);
        if stall.idle >= STALLS {
            let message =
                format!("it was taken away {STALLS} times in a row without having come further: {how}");
            self.fail(i, message, Cause::Died);
        } else {
            self.again(i, Some(how));
        }
    }

    /// An executor's queue let a stage go for want of what it reads. Where that is not done, it is known by now why. Where it
    /// is, or is on its way, the stage was submitted too late or too early, and again it goes, ever more slowly.
    fn unmet(&mut self, i: usize) {
        let plan = self.plan;
        let given_back = plan.parents(i).any(|parent| !self.queue.is_settled(parent));
        if given_back {
            return self.again(i, None);
        }
        let times = self.unmet.entry(i).or_default();
        *times += 1;
        let times = *times;
        if times > UNMET {
            let message = format!(
                "the cluster let it go {UNMET} times because of a dependency, although what it reads is there or on its way"
            );
            return self.fail(i, message, Cause::Error);
        }
        if times == 1 {
            return self.again(i, None);
        }
        self.requeue(i);
        self.tries[i] = self.tries[i].saturating_sub(1);
        let wait = (UNMET_WAIT * (1 << (times - 2))).min(UNMET_WAIT_MOST);
        self.queue.set_aside(i);
        self.later.push((Instant::now() + wait, i));
    }

    /// What waited long enough goes back into the queue.
    pub(super) fn look_at_later(&mut self) {
        let now = Instant::now();
        for (time, i) in std::mem::take(&mut self.later) {
            if self.outcomes[i].is_some() {
                continue; // lost meanwhile, with what it reads
            }
            if time <= now {
                self.queue.resume(i);
            } else {
                self.later.push((time, i));
            }
        }
    }

    /// A stage goes back to where it was, and the try does not count.
    fn again(&mut self, i: usize, why: Option<&str>) {
        self.requeue(i);
        self.tries[i] = self.tries[i].saturating_sub(1);
        self.queue.put_back(i);
        if let Some(message) = why {
            self.reporter.notice(&Notice::Retried { stage: &self.plan.stages[i], message });
        }
    }

    /// A stage failed: it is tried again where that may help.
    pub(super) fn failed(&mut self, i: usize, message: String, cause: Cause) {
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
        let queued = self.queue.is_submitted(i);
        self.requeue(i);
        self.shortages[i] += u32::from(cause == Cause::OutOfMemory);
        if cause == Cause::OutOfMemory && !queued {
            self.alone.insert(i);
        } else {
            self.queue.put_back(i);
        }
        self.reporter.notice(&Notice::Retried { stage, message: &message });
    }

    /// Stages that stage `i` reads are damaged or gone: they are computed again, and it waits for them.
    pub(super) fn repair(&mut self, i: usize, parents: &[Key], message: &str) {
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
        self.again(i, None);
    }

    pub(super) fn fail(&mut self, i: usize, message: String, cause: Cause) {
        if self.outcomes[i].is_some() {
            return;
        }
        self.disk_full |= cause == Cause::DiskFull;
        let failure = Failure { cause, message };
        // The store's note is for later readers; where it cannot be written, the run still says it.
        let _ = self.store.write_failure(&self.plan.stages[i].key, &failure);
        self.settle_failure(i, failure.message);
    }

    pub(super) fn settle_failure(&mut self, i: usize, message: String) {
        self.failed = true;
        self.settle(i, Outcome::Failed { message });
        for lost in self.queue.fail(i) {
            if let Some(task) = self.task_of[lost] {
                self.release(lost);
                if self.running.get(&task).is_some_and(|task| task.stages.is_empty()) {
                    self.running.remove(&task);
                    self.withdrawn.push(task);
                }
            }
            self.ended(lost, None);
            self.settle(lost, Outcome::Skipped { because: i });
        }
    }
}
