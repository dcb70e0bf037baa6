//! Tasks as processes of this machine.
//!
//! A process is kept for the next task after short work, and ends after long work: then what it held is given back, and
//! the next stage starts clean. So a thousand trivial stages do not cost a thousand processes, and a crash still takes
//! one stage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Device, Executor, Exit, INTERRUPTED, Line, Order, STOP, Task, Update, Verdict, Word, cores};
use crate::store::Store;
use crate::store::provenance::named_gpu;

/// A process whose task took longer is not used again.
const SHORT: Duration = Duration::from_secs(1);

/// Starts `PROGRAM stage --serve --store DIR --threads N --device D` and gives it tasks.
pub struct Local {
    program: PathBuf,
    store: Store,
    checkpoint_every: Duration,
    /// Cores that processes are held to; none where they may use all.
    cores: Vec<usize>,
    processes: BTreeMap<usize, Process>,
    next: usize,
    heard: Receiver<Heard>,
    /// Kept so that `heard` never ends; each reader has a copy.
    tell: Sender<Heard>,
}

struct Process {
    child: Child,
    /// Closed when the process shall end, or stop.
    input: Option<ChildStdin>,
    threads: usize,
    device: Device,
    /// Its cores; none where it may use all.
    cores: Vec<usize>,
    /// What it does, and since when.
    task: Option<(usize, Instant)>,
    errors: Arc<Mutex<Errors>>,
    reader: Option<JoinHandle<()>>,
    /// The machine's count of processes that were ended for want of memory, when this one started.
    kills: Option<u64>,
}

/// Where the standard error of a process goes.
#[derive(Default)]
struct Errors {
    log: PathBuf,
    /// The last line about memory that could not be had.
    memory: Option<String>,
}

/// What the readers of the processes' output pass on; each with the number of the process.
enum Heard {
    Line(Line),
    Over(usize, usize, Verdict),
    /// The output of this process has ended.
    Closed(usize),
}

impl Local {
    /// An executor that starts `program`, which is the running program itself outside tests.
    pub fn new(program: impl Into<PathBuf>, store: Store, checkpoint_every: Duration) -> Self {
        let (tell, heard) = mpsc::channel();
        let (program, processes) = (program.into(), BTreeMap::new());
        Self { program, store, checkpoint_every, cores: Vec::new(), processes, next: 0, heard, tell }
    }

    /// The same, with as many of `cores` for each process as it has threads, and no core for two at once. Another run on the
    /// machine knows nothing of that.
    #[must_use]
    pub fn pinned(mut self, cores: Vec<usize>) -> Self {
        self.cores = cores;
        self
    }

    /// The number of a process that can take `task`, started if need be.
    fn process_for(&mut self, task: &Task) -> Result<usize> {
        let fits = |process: &Process| {
            process.task.is_none()
                && process.input.is_some()
                && (process.threads, process.device) == (task.threads, task.device)
        };
        if let Some((&number, _)) = self.processes.iter().find(|(_, process)| fits(process)) {
            return Ok(number);
        }
        // Idle ones that do not fit make room.
        for process in self.processes.values_mut().filter(|process| process.task.is_none()) {
            drop(process.input.take());
        }
        let process = self.spawn(task)?;
        let number = self.next - 1;
        self.processes.insert(number, process);
        Ok(number)
    }

    fn spawn(&mut self, task: &Task) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(["stage", "--serve", "--store"]).arg(self.store.root());
        command.arg("--threads").arg(task.threads.to_string());
        // A process sees its own device alone, as the first one: no library can take memory on another.
        let device = match task.device {
            Device::Cpu => Device::Cpu,
            Device::Cuda(number) => {
                let all = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
                command.env("CUDA_VISIBLE_DEVICES", named_gpu(&all, number));
                Device::Cuda(0)
            }
        };
        command.arg("--device").arg(device.to_string());
        let busy = self.processes.values().filter(|process| process.task.is_some());
        let taken: Vec<usize> = busy.flat_map(|process| process.cores.iter().copied()).collect();
        let cores = cores::choose(&self.cores, &taken, task.threads).unwrap_or_default();
        if !cores.is_empty() {
            let list: Vec<String> = cores.iter().map(ToString::to_string).collect();
            command.arg("--cores").arg(list.join(","));
        }
        command.arg("--checkpoint-every").arg(self.checkpoint_every.as_secs_f64().to_string());
        // Also for the libraries that size their own pools.
        command.env("RAYON_NUM_THREADS", task.threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let kills = memory_kills();
        let mut child = command.spawn().with_context(|| self.program.display().to_string())?;
        let number = self.next;
        self.next += 1;
        let output = child.stdout.take().expect("it is piped");
        let tell = self.tell.clone();
        thread::spawn(move || listen(number, output, &tell));
        let errors = Arc::new(Mutex::new(Errors::default()));
        let said = child.stderr.take().expect("it is piped");
        let kept = Arc::clone(&errors);
        let reader = thread::spawn(move || keep(said, &kept));
        let input = child.stdin.take();
        let (threads, device, reader) = (task.threads, task.device, Some(reader));
        Ok(Process { child, input, threads, device, cores, task: None, errors, reader, kills })
    }

    fn pass_on(&mut self, heard: Heard) -> Result<Option<Update>> {
        match heard {
            Heard::Line(line) => Ok(Some(Update::Line(line))),
            Heard::Over(number, task, verdict) => {
                let Some(process) = self.processes.get_mut(&number) else { return Ok(None) };
                let Some((own, since)) = process.task.filter(|(own, _)| *own == task) else {
                    return Ok(None);
                };
                process.task = None;
                if verdict != Verdict::Done || since.elapsed() > SHORT {
                    drop(process.input.take());
                }
                let interrupted = verdict == Verdict::Interrupted;
                let exit = if interrupted { Exit::Interrupted } else { Exit::Orderly };
                Ok(Some(Update::Exited { task: own, exit }))
            }
            Heard::Closed(number) => {
                let Some(mut process) = self.processes.remove(&number) else { return Ok(None) };
                drop(process.input.take());
                let status = process.child.wait().context("cannot learn how a process ended")?;
                // All that it wrote is then in the log.
                let _ = process.reader.take().map(JoinHandle::join);
                Ok(process.task.map(|(task, _)| Update::Exited { task, exit: process.exit(status) }))
            }
        }
    }
}

impl Process {
    /// What the end of a process that was at work means.
    fn exit(&self, status: ExitStatus) -> Exit {
        let memory = self.errors.lock().unwrap_or_else(PoisonError::into_inner).memory.take();
        if let Some(line) = memory.filter(|_| status.code().is_none()) {
            return Exit::OutOfMemory(line);
        }
        match status.code() {
            Some(code) if code == i32::from(INTERRUPTED) => Exit::Interrupted,
            Some(0 | 1) => Exit::Orderly,
            Some(code) => Exit::Died(format!("exit status {code}")),
            None => exit_by_signal(status, self.kills),
        }
    }

    fn send(&mut self, line: &str) -> std::io::Result<()> {
        let Some(input) = &mut self.input else { return Err(std::io::ErrorKind::BrokenPipe.into()) };
        writeln!(input, "{line}")?;
        input.flush()
    }
}

impl Executor for Local {
    fn submit(&mut self, task: &Task) -> Result<()> {
        let first = task.keys.first().context("a task without stages")?;
        let order = serde_json::to_string(&Order { task: task.id, keys: task.keys.clone() })?;
        loop {
            let number = self.process_for(task)?;
            let Some(process) = self.processes.get_mut(&number) else { continue };
            let mut errors = process.errors.lock().unwrap_or_else(PoisonError::into_inner);
            *errors = Errors { log: self.store.log_path(first), memory: None };
            drop(errors);
            process.task = Some((task.id, Instant::now()));
            let fresh = number + 1 == self.next;
            match process.send(&order) {
                Ok(()) => return Ok(()),
                // It died while it was idle; its reader will say so. A fresh one that cannot be told anything has died
                // as well, and says how.
                Err(_) if fresh => return Ok(()),
                Err(_) => {
                    process.task = None;
                    process.input = None;
                }
            }
        }
    }

    fn poll(&mut self, patience: Duration) -> Result<Vec<Update>> {
        let mut updates = Vec::new();
        match self.heard.recv_timeout(patience) {
            Ok(heard) => updates.extend(self.pass_on(heard)?),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(updates),
        }
        while let Ok(heard) = self.heard.try_recv() {
            updates.extend(self.pass_on(heard)?);
        }
        Ok(updates)
    }

    fn cancel(&mut self, now: bool) {
        for process in self.processes.values_mut() {
            // One that is gone already is as stopped as can be.
            if now {
                let _ = process.child.kill();
            } else {
                let _ = process.send(STOP);
            }
            drop(process.input.take());
        }
    }
}

impl Drop for Local {
    /// Sends the idle processes home and waits for them. Those at work stop by themselves when their input ends.
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            drop(process.input.take());
        }
        for process in self.processes.values_mut().filter(|process| process.task.is_none()) {
            let _ = process.child.wait(); // it is as gone as can be
            let _ = process.reader.take().map(JoinHandle::join); // and its last words are in the log
        }
    }
}

/// Passes on what a process writes to its standard output.
fn listen(number: usize, output: ChildStdout, tell: &Sender<Heard>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        // What is no line of ours was printed by something that should not print; it is dropped.
        let heard = match serde_json::from_slice(&line) {
            Ok(Word::Line(line)) => Heard::Line(line),
            Ok(Word::Over { task, verdict }) => Heard::Over(number, task, verdict),
            Err(_) => continue,
        };
        let _ = tell.send(heard);
    }
    let _ = tell.send(Heard::Closed(number)); // nobody listens only when the engine is gone
}

/// Appends what a process writes to its standard error to the log of the stage that it is at.
fn keep(said: ChildStderr, errors: &Mutex<Errors>) {
    for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
        let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&line);
        if text.starts_with("memory allocation of ") {
            errors.memory = Some(text.into_owned());
        }
        // A log that cannot be written must not stop the work.
        let log = File::options().create(true).append(true).open(&errors.log);
        let _ = log.and_then(|mut log| log.write_all(&[&line[..], b"\n"].concat()));
    }
}

#[cfg(unix)]
fn exit_by_signal(status: ExitStatus, kills: Option<u64>) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    match status.signal() {
        // Ctrl-C in the moments before the worker listens for it.
        Some(2 | 15) => Exit::Interrupted,
        Some(9) => match (kills, memory_kills()) {
            (Some(before), Some(after)) if after > before => {
                Exit::OutOfMemory("the system ended its process (signal 9)".to_owned())
            }
            (Some(_), Some(_)) => Exit::Died(
                "killed (signal 9), by a person or a scheduler: the system ended nothing".to_owned(),
            ),
            _ => Exit::OutOfMemory("its process was killed (signal 9), most likely therefore".to_owned()),
        },
        Some(signal) => Exit::Died(format!("signal {signal}")),
        None => Exit::Died(status.to_string()),
    }
}

#[cfg(not(unix))]
fn exit_by_signal(status: ExitStatus, _: Option<u64>) -> Exit {
    Exit::Died(status.to_string())
}

/// How many processes this machine and this control group have ended for want of memory; none where it does not say.
fn memory_kills() -> Option<u64> {
    let count = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
    };
    let (machine, group) = (count("/proc/vmstat"), count("/sys/fs/cgroup/memory.events"));
    machine.or(group).map(|_| machine.unwrap_or(0) + group.unwrap_or(0))
}
