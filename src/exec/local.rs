//! Tasks as processes of this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Executor, Exit, INTERRUPTED, STOP, Task, Update};
use crate::store::Store;
use crate::store::key::Key;

/// Starts `PROGRAM stage --supervised --store DIR --threads N KEY…` for each task.
pub struct Local {
    program: PathBuf,
    store: Store,
    children: BTreeMap<usize, Running>,
    heard: Receiver<Heard>,
    /// Kept so that `heard` never ends; each reader has a copy.
    tell: Sender<Heard>,
}

struct Running {
    child: Child,
    /// Closed, or written to, when the child shall stop.
    input: Option<ChildStdin>,
}

/// What the readers of the children's output pass on.
enum Heard {
    Update(Update),
    /// The output of this task has ended.
    Closed(usize),
}

impl Local {
    /// An executor that starts `program`, which is the running program itself outside tests.
    pub fn new(program: impl Into<PathBuf>, store: Store) -> Self {
        let (tell, heard) = mpsc::channel();
        Self { program: program.into(), store, children: BTreeMap::new(), heard, tell }
    }

    fn command(&self, task: &Task) -> Result<Command> {
        let first = task.keys.first().context("a task without stages")?;
        let log = self.store.log_path(first);
        let errors = File::options().create(true).append(true).open(&log);
        let errors = errors.with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(["stage", "--supervised", "--store"]).arg(self.store.root());
        command.arg("--threads").arg(task.threads.to_string());
        command.args(task.keys.iter().map(Key::as_str));
        // Also for the libraries that size their own pools.
        command.env("RAYON_NUM_THREADS", task.threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        Ok(command)
    }

    fn pass_on(&mut self, heard: Heard) -> Result<Update> {
        match heard {
            Heard::Update(update) => Ok(update),
            Heard::Closed(task) => {
                let mut running = self.children.remove(&task).expect("its reader was started with it");
                drop(running.input.take());
                let status = running.child.wait().context("cannot learn how a process ended")?;
                Ok(Update::Exited { task, exit: exit_of(status) })
            }
        }
    }
}

impl Executor for Local {
    fn submit(&mut self, task: &Task) -> Result<()> {
        let mut child = self.command(task)?.spawn().with_context(|| self.program.display().to_string())?;
        let output = child.stdout.take().expect("it is piped");
        let input = child.stdin.take();
        let (id, tell) = (task.id, self.tell.clone());
        // A panic of the reader would hide the end of the child; it has nothing to panic about.
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                // What is no line of ours was printed by something that should not print; it is dropped.
                if let Ok(line) = serde_json::from_slice(&line) {
                    let _ = tell.send(Heard::Update(Update::Line(line)));
                }
            }
            let _ = tell.send(Heard::Closed(id)); // nobody listens only when the engine is gone
        });
        self.children.insert(task.id, Running { child, input });
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> Result<Vec<Update>> {
        let mut updates = Vec::new();
        match self.heard.recv_timeout(patience) {
            Ok(heard) => updates.push(self.pass_on(heard)?),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(updates),
        }
        while let Ok(heard) = self.heard.try_recv() {
            updates.push(self.pass_on(heard)?);
        }
        Ok(updates)
    }

    fn cancel(&mut self, now: bool) {
        for running in self.children.values_mut() {
            // A child that is gone already is as stopped as can be.
            if now {
                let _ = running.child.kill();
            } else if let Some(mut input) = running.input.take() {
                let _ = writeln!(input, "{STOP}");
            }
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match status.code() {
        Some(code) if code == i32::from(INTERRUPTED) => Exit::Interrupted,
        Some(0 | 1) => Exit::Orderly,
        Some(code) => Exit::Died(format!("exit status {code}")),
        None => exit_by_signal(status),
    }
}

#[cfg(unix)]
fn exit_by_signal(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    match status.signal() {
        // Ctrl-C in the moments before the worker listens for it.
        Some(2 | 15) => Exit::Interrupted,
        Some(9) => Exit::Died("it was killed (signal 9), perhaps for want of memory".to_owned()),
        Some(signal) => Exit::Died(format!("signal {signal}")),
        None => Exit::Died(status.to_string()),
    }
}

#[cfg(not(unix))]
fn exit_by_signal(status: ExitStatus) -> Exit {
    Exit::Died(status.to_string())
}
