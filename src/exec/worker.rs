//! The process of a stage, or of the stages of one group: locks, inputs, the computation, its publication.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Device, Life, Line, Message};
use crate::stage::event::Event;
use crate::stage::{Context, Diverged, Interrupted, StageSpec};
use crate::store::files;
use crate::store::key::Key;
use crate::store::{Cause, Damage, Lock, QueuedJob, Store, StoredSpec, Work};

/// How often a worker looks whether a lock was given back.
const LOCK_PATIENCE: Duration = Duration::from_millis(50);
/// How often a worker looks whether an input has come.
const LATE_PATIENCE: Duration = Duration::from_millis(200);
/// The least time between two progress lines of one stage.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// The least time between two notes of the seconds worked, which is what a kill can lose of them.
const TIME_EVERY: Duration = Duration::from_secs(5);
/// Stack of a thread that computes stages, as large as that of a program's first thread.
pub(super) const STACK: usize = 8 << 20;

/// What computes stages: [`crate::stage::run`], and something simpler in tests.
pub type Runner<'r> = dyn Fn(&[(StageSpec, Context<'_>)]) -> Result<Vec<Value>> + Send + Sync + 'r;

/// How a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All of its stages are in the store.
    Done,
    /// Some are not; the lines said why.
    Failed,
    /// It was asked to stop and did.
    Interrupted,
}

/// Computes stages for an engine, or for a person who runs `sweep stage KEY`.
pub struct Worker<'a> {
    /// Where the stages are described, and published.
    store: &'a Store,
    /// The computation.
    run: &'a Runner<'a>,
    /// Takes what there is to say.
    emit: &'a dyn Fn(Line),
    /// Set when the work shall be saved and left.
    stop: &'a AtomicBool,
    checkpoint_every: Duration,
    /// CPU threads; written down, not enforced here.
    threads: Cell<usize>,
    device: Cell<Device>,
    /// The job of a cluster that this process is.
    queue: Option<QueuedJob>,
    /// How long an input that is absent is waited for.
    late: Duration,
    /// Inputs whose content was compared with what was published.
    verified: RefCell<BTreeSet<Key>>,
}

/// A stage in this worker.
struct Job<'a> {
    key: Key,
    stored: StoredSpec,
    work: Work<'a>,
    _lock: Lock,
}

/// Inputs are absent, or were damaged and put aside.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Missing {
    parents: Vec<Key>,
    message: String,
}

impl<'a> Worker<'a> {
    /// A worker that computes the stages of `store` with `run`, tells `emit` what happens, stops at `stop`, and saves its
    /// work every `checkpoint_every`.
    pub fn new(
        store: &'a Store,
        run: &'a Runner<'a>,
        emit: &'a dyn Fn(Line),
        stop: &'a AtomicBool,
        checkpoint_every: Duration,
    ) -> Self {
        let (threads, device) = (Cell::new(1), Cell::new(Device::Cpu));
        let (queue, late, verified) = (None, Duration::ZERO, RefCell::default());
        Self { store, run, emit, stop, checkpoint_every, threads, device, queue, late, verified }
    }

    /// The same in a job of a cluster, where what another node has written may show up to `late` later.
    #[must_use]
    pub fn in_job(self, queue: QueuedJob, late: Duration) -> Self {
        Self { queue: Some(queue), late, ..self }
    }

    /// With `threads` CPU threads, on `device`.
    pub fn on(&self, threads: usize, device: Device) -> &Self {
        self.threads.set(threads);
        self.device.set(device);
        self
    }

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
                let life = match error.downcast_ref::<Missing>() {
                    Some(Missing { parents, message }) => {
                        Life::Missing { parents: parents.clone(), message: message.clone() }
                    }
                    None => Life::Failed { message: message_of(&error), cause: cause_of(&error) },
                };
                for key in unfinished {
                    self.log(key, &format!("failed: {}", message_of(&error)));
                    self.say(key, life.clone());
                }
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
        let result = self.compute(&jobs, begun).and_then(|summaries| self.publish(&jobs, summaries, begun));
        if let Err(error) = &result {
            // What a failure leaves is of use for going on from a checkpoint, or of none.
            let diverged = error.is::<Diverged>();
            for job in jobs.iter().filter(|job| self.store.object(&job.key).is_none()) {
                let left = if diverged { job.work.discard() } else { job.work.leave() };
                drop(left); // the first error is the one to report
            }
        }
        result
    }

    fn publish(&self, jobs: &[Job<'_>], summaries: Vec<Value>, begun: Instant) -> Result<()> {
        let share = begun.elapsed().div_f64(jobs.len() as f64);
        for (job, summary) in jobs.iter().zip(summaries) {
            let meta = job.work.commit(&job.stored, summary, share, self.threads.get())?;
            self.log(&job.key, &format!("finished after {:.3} s of work in all", meta.seconds));
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
            let work = self.store.work(key)?.on(&self.device.get()).in_job(self.queue.clone());
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
            let (dir, inputs) = (job.work.dir().to_owned(), self.inputs(&job.stored)?);
            let context =
                Context { dir, inputs, emit, stop: self.stop, checkpoint_every: self.checkpoint_every };
            stages.push((job.stored.spec.clone(), context));
        }
        for job in jobs {
            let (threads, device) = (self.threads.get(), self.device.get());
            let process = std::process::id();
            let text = format!("{}: process {process} starts, {threads} threads, {device}", job.stored.label);
            self.log(&job.key, &text);
            self.say(&job.key, Life::Started);
        }
        // In this thread, which opens the device once and keeps it.
        let run = || self.device.get().open()?.run(|| (self.run)(&stages));
        let run = catch_unwind(AssertUnwindSafe(run));
        if !matches!(run, Ok(Ok(_))) {
            for job in jobs {
                let _ = job.work.note_time(begun.elapsed().mul_f64(share)); // a figure, not worth a failure
            }
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
            if let Event::Note { text } = &event {
                self.log(&job.key, text);
            }
            (self.emit)(Line { key: job.key.clone(), message: Message::Stage(event) });
        }
    }

    /// The folders of the parents, the content of each compared with what was published: once in the life of a worker.
    /// What is damaged is put into quarantine, so that whoever plans computes it again.
    fn inputs(&self, stored: &StoredSpec) -> Result<Vec<(String, PathBuf)>> {
        let parents = &stored.spec.parents;
        let known = self.verified.borrow().clone();
        let (store, stop) = (self.store, self.stop);
        let patient_until = Instant::now() + self.late;
        let looked = parents.par_iter().map(|parent| {
            if known.contains(&parent.key) && store.object(&parent.key).is_some() {
                return Ok(None);
            }
            loop {
                let damage = store.verify(&parent.key, |_| true)?.err();
                let late = damage != Some(Damage::Absent) || Instant::now() >= patient_until;
                if late || stop.load(Ordering::Relaxed) {
                    return Ok(damage);
                }
                thread::sleep(LATE_PATIENCE);
                store.look_anew(&parent.key);
            }
        });
        let looked: Vec<Option<Damage>> = looked.collect::<Result<_>>()?;
        let mut missing = Missing { parents: Vec::new(), message: String::new() };
        let mut inputs = Vec::with_capacity(parents.len());
        for (parent, damage) in parents.iter().zip(looked) {
            let Some(damage) = damage else {
                self.verified.borrow_mut().insert(parent.key.clone());
                inputs.push((parent.role.clone(), store.folder(&parent.key)));
                continue;
            };
            store.quarantine(&parent.key)?;
            missing.parents.push(parent.key.clone());
            missing.message = format!(
                "`{}` reads {} ({}) in the store {}: {damage}; `sweep run FILE` computes it again",
                stored.label,
                parent.role,
                parent.key,
                store.root().display()
            );
        }
        if missing.parents.is_empty() { Ok(inputs) } else { Err(missing.into()) }
    }

    /// Appends a line to the log of the stage `key`. A log that cannot be written must not stop the work.
    fn log(&self, key: &Key, text: &str) {
        let log = std::fs::File::options().create(true).append(true).open(self.store.log_path(key));
        let _ = log.and_then(|mut log| io::Write::write_all(&mut log, format!("{text}\n").as_bytes()));
    }

    fn say(&self, key: &Key, life: Life) {
        (self.emit)(Line { key: key.clone(), message: Message::Life(life) });
    }
}

/// An error with all its causes, a line each, and, where the file system has one to offer, the remedy.
fn message_of(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some errors repeat their cause.
        if texts.last().is_none_or(|last| !last.contains(&cause)) {
            texts.push(cause);
        }
    }
    let text = texts.join(": ");
    match io_errors(error).find_map(files::remedy) {
        Some(remedy) if !text.contains(remedy) => format!("{text}; {remedy}"),
        _ => text,
    }
}

/// The words of those who find no memory: the system and the NVIDIA driver, cuBLAS and cuDNN, cuDNN and cuRAND.
const NO_MEMORY: [&str; 4] = ["out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED", "ALLOCATION_FAILED"];

/// What sort of failure an error is.
pub(super) fn cause_of(error: &anyhow::Error) -> Cause {
    if let Some(Diverged { step, .. }) = error.downcast_ref::<Diverged>() {
        return Cause::Diverged { step: *step };
    }
    let text = format!("{error:#}");
    let full = |error: &io::Error| files::is_full(error.kind());
    if io_errors(error).any(full) || files::FULL.iter().any(|words| text.contains(words)) {
        Cause::DiskFull
    } else if NO_MEMORY.iter().any(|words| text.contains(words)) {
        Cause::OutOfMemory
    } else {
        Cause::Error
    }
}

/// The errors of the file system in the chain of `error`.
fn io_errors(error: &anyhow::Error) -> impl Iterator<Item = &io::Error> {
    error.chain().filter_map(|cause| cause.downcast_ref())
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_no_memory_says_so_in_words_of_its_own() {
        let words = [
            "cannot allocate: out of memory",
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"…\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)",
            "CurandError(CURAND_STATUS_ALLOCATION_FAILED)",
        ];
        for words in words {
            assert_eq!(
                cause_of(&anyhow!("{words}").context("train a network")),
                Cause::OutOfMemory,
                "{words}"
            );
        }
        assert_eq!(cause_of(&anyhow!("CUDNN_STATUS_BAD_PARAM")), Cause::Error);
    }
}
