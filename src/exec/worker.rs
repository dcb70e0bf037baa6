//! The process of a stage, or of the stages of one group: locks, inputs, the computation, its publication.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use super::{Life, Line, Message};
use crate::stage::event::Event;
use crate::stage::{Context, Interrupted, StageSpec};
use crate::store::files;
use crate::store::key::Key;
use crate::store::{Lock, Store, StoredSpec, Work};

/// How often a worker looks whether a lock was given back.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// The least time between two progress lines of one stage.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// The least time between two notes of the seconds worked, which is what a kill can lose of them.
const TIME_EVERY: Duration = Duration::from_secs(5);

/// What computes stages: [`crate::stage::run`], and something simpler in tests.
pub type Runner<'r> = dyn Fn(&[(StageSpec, Context<'_>)]) -> Result<Vec<Value>> + 'r;

/// How a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of its stages are in the store.
    Done,
    /// Some failed; the lines said why.
    Failed,
    /// It was asked to stop and did.
    Interrupted,
}

/// Computes stages for an engine, or for a person who runs `sweep stage KEY`.
pub struct Worker<'a> {
    /// Where the stages are described, and published.
    pub store: &'a Store,
    /// CPU threads; written down, not enforced here.
    pub threads: usize,
    /// Takes what there is to say.
    pub emit: &'a dyn Fn(Line),
    /// Set when the work shall be saved and left.
    pub stop: &'a AtomicBool,
    /// The computation.
    pub run: &'a Runner<'a>,
}

/// A stage in this worker.
struct Job<'a> {
    key: Key,
    stored: StoredSpec,
    work: Work<'a>,
    _lock: Lock,
}

impl Worker<'_> {
    /// Computes and publishes `keys`. What goes wrong is said through `emit`, once for each stage that it concerns, and
    /// returned.
    pub fn work(&self, keys: &[Key]) -> (Verdict, Option<anyhow::Error>) {
        let result = self.all(keys);
        let unfinished = keys.iter().filter(|key| self.store.object(key).is_none());
        match result {
            Ok(()) => (Verdict::Done, None),
            Err(error) if error.is::<Interrupted>() => {
                unfinished.for_each(|key| self.say(key, Life::Interrupted));
                (Verdict::Interrupted, None)
            }
            Err(error) => {
                let message = one_line(&error);
                unfinished.for_each(|key| self.say(key, Life::Failed { message: message.clone() }));
                (Verdict::Failed, Some(error))
            }
        }
    }

    fn all(&self, keys: &[Key]) -> Result<()> {
        let mut stored = Vec::with_capacity(keys.len());
        for key in keys {
            stored.push(self.store.spec(key)?);
        }
        let jobs = self.jobs(keys, stored)?;
        if jobs.is_empty() {
            return Ok(()); // other processes did it all
        }
        let begun = Instant::now();
        let summaries = self.compute(&jobs, begun)?;
        let share = begun.elapsed().div_f64(jobs.len() as f64);
        for (job, summary) in jobs.into_iter().zip(summaries) {
            let meta = job.work.commit(&job.stored, summary, share, self.threads)?;
            self.say(&job.key, Life::Finished { seconds: meta.seconds, shared: false });
        }
        Ok(())
    }

    /// The stages that are left to compute, each locked. Locks are taken in the order of the keys, so that no two workers
    /// ever wait for each other.
    fn jobs(&self, keys: &[Key], stored: Vec<StoredSpec>) -> Result<Vec<Job<'_>>> {
        let mut order: Vec<(usize, StoredSpec)> = stored.into_iter().enumerate().collect();
        order.sort_by_key(|(i, _)| &keys[*i]);
        let mut jobs = Vec::with_capacity(keys.len());
        for (i, stored) in order {
            let key = &keys[i];
            let lock = self.lock(key)?;
            if let Some(meta) = self.store.meta(key) {
                self.say(key, Life::Finished { seconds: meta.seconds, shared: true });
                continue;
            }
            let work = self.store.work(key)?;
            jobs.push((i, Job { key: key.clone(), stored, work, _lock: lock }));
        }
        jobs.sort_by_key(|(i, _)| *i);
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }

    /// Takes the lock of `key`, however long another process holds it.
    fn lock(&self, key: &Key) -> Result<Lock> {
        let mut told = false;
        loop {
            match self.store.try_lock(key)? {
                Ok(lock) => return Ok(lock),
                Err(_) if self.stop.load(Ordering::Relaxed) => return Err(Interrupted.into()),
                Err(holder) => {
                    if !std::mem::replace(&mut told, true) {
                        self.say(key, Life::Waiting { holder });
                    }
                    thread::sleep(LOCK_PATIENCE);
                }
            }
        }
    }

    fn compute(&self, jobs: &[Job<'_>], begun: Instant) -> Result<Vec<Value>> {
        let share = 1.0 / jobs.len() as f64;
        let emits: Vec<_> = jobs.iter().map(|job| self.listener(job, begun, share)).collect();
        let mut stages = Vec::with_capacity(jobs.len());
        for (job, emit) in jobs.iter().zip(&emits) {
            let inputs = self.inputs(&job.stored)?;
            let context = Context { dir: job.work.dir().to_owned(), inputs, emit, stop: self.stop };
            stages.push((job.stored.spec.clone(), context));
        }
        for job in jobs {
            self.say(&job.key, Life::Started);
        }
        let run = catch_unwind(AssertUnwindSafe(|| (self.run)(&stages)));
        for job in jobs {
            let _ = job.work.note_time(begun.elapsed().mul_f64(share)); // a figure, not worth a failure
        }
        let summaries = run.unwrap_or_else(|panic| Err(anyhow!("a bug: panicked: {}", words_of(&*panic))))?;
        ensure!(
            summaries.len() == jobs.len(),
            "a bug: {} stages ran and {} summaries came",
            jobs.len(),
            summaries.len()
        );
        Ok(summaries)
    }

    /// What a stage's events go through: progress is thinned out, and the time worked is noted now and then.
    fn listener<'j>(&'j self, job: &'j Job<'_>, begun: Instant, share: f64) -> impl Fn(Event) + 'j {
        let told: Cell<Option<Instant>> = Cell::new(None);
        let noted = Cell::new(begun);
        move |event| {
            let now = Instant::now();
            if now.duration_since(noted.get()) >= TIME_EVERY {
                noted.set(now);
                let _ = job.work.note_time((now - begun).mul_f64(share)); // a figure, not worth a failure
            }
            if let Event::Progress { done, total, .. } = &event {
                let soon = told.get().is_some_and(|told| now.duration_since(told) < PROGRESS_EVERY);
                if soon && done < total {
                    return;
                }
                told.set(Some(now));
            }
            (self.emit)(Line { key: job.key.clone(), message: Message::Stage(event) });
        }
    }

    fn inputs(&self, stored: &StoredSpec) -> Result<Vec<(String, std::path::PathBuf)>> {
        let found = stored.spec.parents.iter().map(|parent| {
            let object = self.store.object(&parent.key).with_context(|| {
                format!(
                    "`{}` reads {} ({}), which is not in the store {}: run its sweep file again with `sweep run FILE`",
                    stored.label,
                    parent.role,
                    parent.key,
                    self.store.root().display()
                )
            })?;
            Ok((parent.role.clone(), object))
        });
        found.collect()
    }

    fn say(&self, key: &Key, life: Life) {
        (self.emit)(Line { key: key.clone(), message: Message::Life(life) });
    }
}

/// An error with all its causes and, where the file system has one to offer, the remedy.
fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").replace('\n', "; ");
    let remedy = error.chain().find_map(|cause| files::remedy(cause.downcast_ref::<std::io::Error>()?));
    match remedy {
        Some(remedy) if !text.contains(remedy) => format!("{text}; {remedy}"),
        _ => text,
    }
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
