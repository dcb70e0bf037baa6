//! Tasks as threads of this process: no start of a process, and none of its protection. For trivial work and for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::worker::{self, Runner};
use super::{Executor, Exit, Task, Update, Verdict, Worker};
use crate::store::Store;

/// Runs each task in a thread of this process, with the CPU threads of the whole process.
pub struct Inline {
    store: Store,
    runner: Arc<Runner<'static>>,
    checkpoint_every: Duration,
    stop: Arc<AtomicBool>,
    heard: Receiver<Update>,
    tell: Sender<Update>,
    /// The threads that wait for a task, by what they listen to.
    idle: Vec<Sender<Task>>,
    /// The thread of each task that runs.
    busy: Vec<(usize, Sender<Task>)>,
}

impl Inline {
    /// An executor that computes with `runner`, which is [`crate::stage::run`] outside tests.
    pub fn new(store: Store, runner: Arc<Runner<'static>>, checkpoint_every: Duration) -> Self {
        let (tell, heard) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        Self { store, runner, checkpoint_every, stop, heard, tell, idle: Vec::new(), busy: Vec::new() }
    }

    /// A thread that works off what it is sent until nobody can send any more.
    fn thread(&self) -> Sender<Task> {
        let (submit, tasks) = mpsc::channel::<Task>();
        let (store, runner, tell) = (self.store.clone(), Arc::clone(&self.runner), self.tell.clone());
        let (stop, checkpoint_every) = (Arc::clone(&self.stop), self.checkpoint_every);
        let work = move || {
            let emit = |line| drop(tell.send(Update::Line(line))); // nobody listens only when the engine is gone
            let worker = Worker::new(&store, &*runner, &emit, &stop, checkpoint_every);
            for task in tasks {
                let exit = match worker.on(task.threads, task.device).work(&task.keys).0 {
                    Verdict::Interrupted => Exit::Interrupted,
                    Verdict::Done | Verdict::Failed => Exit::Orderly,
                };
                let _ = tell.send(Update::Exited { task: task.id, exit });
            }
        };
        // Where no thread can be started, sending to it fails.
        drop(thread::Builder::new().name("stage".to_owned()).stack_size(worker::STACK).spawn(work));
        submit
    }

    fn hear(&mut self, update: Update) -> Update {
        if let Update::Exited { task, .. } = &update
            && let Some(at) = self.busy.iter().position(|(id, _)| id == task)
        {
            self.idle.push(self.busy.swap_remove(at).1);
        }
        update
    }
}

impl Executor for Inline {
    fn submit(&mut self, task: &Task) -> Result<()> {
        let thread = self.idle.pop().unwrap_or_else(|| self.thread());
        thread.send(task.clone()).map_err(|_| anyhow::anyhow!("no thread could be started for it"))?;
        self.busy.push((task.id, thread));
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> Result<Vec<Update>> {
        let mut updates = Vec::new();
        match self.heard.recv_timeout(patience) {
            Ok(update) => updates.push(self.hear(update)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(updates),
        }
        while let Ok(update) = self.heard.try_recv() {
            updates.push(self.hear(update));
        }
        Ok(updates)
    }

    /// Threads cannot be ended from outside: `now` asks no more than to save and stop.
    fn cancel(&mut self, _now: bool) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
