//! `sweep stage KEY…`: the command that every executor starts.

use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Ending, seconds, tell};
use crate::exec::slurm::{Element, LATE, never_began};
use crate::exec::{Device, Line, Order, STOP, Verdict, Word, Worker};
use crate::ops::affinity;
use crate::stage::CHECKPOINT_EVERY;
use crate::store::key::Key;
use crate::store::{DEFAULT_ROOT, Store};

/// Compute stages of the store in this process, as `sweep run` has it done
///
/// Writes one JSON object a line to standard output for each thing that happens. SIGINT and SIGTERM have it save its work
/// and stop.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The stages' keys, as `sweep plan --json` shows them
    #[arg(required_unless_present_any = ["serve", "job"])]
    keys: Vec<Key>,
    /// Where finished stages are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    store: PathBuf,
    /// CPU threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Where to compute: cpu, or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Time between two checkpoints of long stages [default: 60 s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    checkpoint_every: Option<Duration>,
    /// Take tasks as lines `{"task":N,"keys":[…]}` of standard input; stop, with what was done saved, at its end or at
    /// the line `stop`
    #[arg(long, conflicts_with = "keys")]
    serve: bool,
    /// Hold the threads to these cores: 0,1,2
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,
    /// The record of an array of jobs; the stages are those of the element --element of it
    #[arg(long, value_name = "DIR", requires = "element", conflicts_with_all = ["keys", "serve"])]
    job: Option<PathBuf>,
    /// The element of the array
    #[arg(long, value_name = "N", requires = "job")]
    element: Option<u32>,
}

pub(super) fn run(args: &Args) -> Ending {
    match work(args) {
        Ok(Verdict::Done) => Ending::Done,
        Ok(Verdict::Interrupted) => Ending::Interrupted,
        Ok(Verdict::Failed) => Ending::Failed,
        Err(error) => {
            // Before any stage could be looked at: said for each, so that an engine does not wait for a reason.
            for key in &args.keys {
                write(&Word::Line(Line::failed(key, &format!("{error:#}"))));
            }
            if let (Some(job), Some(index)) = (&args.job, args.element) {
                never_began(job, index, &format!("{error:#}"));
            }
            tell(&format!("error: {}", super::with_causes(&error)));
            Ending::Failed
        }
    }
}

fn work(args: &Args) -> Result<Verdict> {
    let stop = Arc::new(AtomicBool::new(false));
    let (give, orders) = mpsc::channel();
    listen(&stop, &give)?;
    // A worker opens it with its first task, so that a GPU without room for one more is an answer to that task.
    if !args.serve {
        args.device.open()?;
    }
    if !args.cores.is_empty() {
        affinity::pin(&args.cores)
            .with_context(|| format!("cannot hold the threads to the cores {:?}", args.cores))?;
    }
    let store = Store::open(&args.store)?;
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = args.threads {
        pool = pool.num_threads(threads.get());
    }
    pool.build_global().context("cannot start the threads")?;
    let mut element = match (&args.job, args.element) {
        (Some(job), Some(index)) => Some(Element::begin(&store, job, index)?),
        _ => None,
    };
    if let Some(element) = element.take_if(|element| element.is_unwanted()) {
        return element.end(&store, Verdict::Interrupted);
    }
    if args.serve {
        let at_word = Arc::clone(&stop);
        thread::spawn(move || serve(&give, &at_word));
    } else {
        let steps = element.as_ref().map_or_else(|| vec![args.keys.clone()], |element| element.steps(&store));
        // The receiver is right here.
        for keys in steps {
            let _ = give.send(Some(Order { task: 0, keys }));
        }
        let _ = give.send(None);
    }
    let verdict = obey(args, &store, &orders, &stop, element.as_ref());
    match element {
        Some(element) => element.end(&store, verdict),
        None => Ok(verdict),
    }
}

/// Works off the tasks; returns how the last one ended.
fn obey(
    args: &Args,
    store: &Store,
    orders: &Receiver<Option<Order>>,
    stop: &AtomicBool,
    element: Option<&Element>,
) -> Verdict {
    let emit = |line: Line| match element {
        Some(element) => element.hear(&line),
        None => write(&Word::Line(line)),
    };
    let every = args.checkpoint_every.unwrap_or(CHECKPOINT_EVERY);
    let mut worker = Worker::new(store, &crate::stage::run, &emit, stop, every);
    if let Some(element) = element {
        worker = worker.in_job(element.queued().clone(), LATE);
    }
    worker.on(rayon::current_num_threads(), args.device);
    let mut last = None;
    while let Ok(Some(order)) = orders.recv() {
        forget_peak();
        let (verdict, error) = worker.work(&order.keys);
        if let Some(error) = error.filter(|_| !args.serve) {
            tell(&format!("error: {}", super::with_causes(&error)));
        }
        last = Some(verdict);
        if args.serve {
            write(&Word::Over { task: order.task, verdict });
        }
        // What comes after a stage of the same job reads it.
        if stop.load(Ordering::SeqCst) || element.is_some() && verdict != Verdict::Done {
            break;
        }
    }
    // A signal may have come before the first stage.
    let stopped = !args.serve && stop.load(Ordering::SeqCst);
    match last {
        // Between two stages of a job: what came first is done, and the rest is not.
        Some(Verdict::Done) if stopped && element.is_some_and(|element| !element.is_finished(store)) => {
            Verdict::Interrupted
        }
        Some(last) => last,
        None if stopped => Verdict::Interrupted,
        None => Verdict::Done,
    }
}

/// Has a signal stop the work.
fn listen(stop: &Arc<AtomicBool>, end: &Sender<Option<Order>>) -> Result<()> {
    let (at_signal, end) = (Arc::clone(stop), end.clone());
    ctrlc::set_handler(move || {
        at_signal.store(true, Ordering::SeqCst);
        let _ = end.send(None); // nobody waits for more
    })
    .context("cannot listen for Ctrl-C")
}

/// Passes on the tasks of standard input. Its end means that nobody is there any more; an error means the same.
fn serve(give: &Sender<Option<Order>>, stop: &AtomicBool) {
    for line in io::stdin().lock().lines().map_while(Result::ok).take_while(|line| line != STOP) {
        // What is no task was written by something that is no engine of this program.
        if let Ok(order) = serde_json::from_str(&line) {
            let _ = give.send(Some(order));
        }
    }
    stop.store(true, Ordering::SeqCst);
    let _ = give.send(None);
}

/// Writes a line. Where the engine is gone, nobody wants it; the end of the input says so.
fn write(word: &Word) {
    if let Ok(text) = serde_json::to_string(word) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// Has the system measure the most memory anew, so that each task of a process has its own figure.
fn forget_peak() {
    let reset = File::options().write(true).open("/proc/self/clear_refs");
    let _ = reset.and_then(|mut file| file.write_all(b"5")); // a figure, not worth a failure
}
