//! `sweep stage KEY…`: the command that every executor starts.

use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use super::{Ending, tell};
use crate::exec::{Line, Verdict, Worker};
use crate::store::key::Key;
use crate::store::{DEFAULT_ROOT, Store};

/// Compute stages of the store in this process, as `sweep run` has it done
///
/// Writes one JSON object a line to standard output for each thing that happens.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The stages' keys, as `sweep plan --json` shows them
    #[arg(required = true)]
    keys: Vec<Key>,
    /// Where finished stages are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    store: PathBuf,
    /// CPU threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Stop, with what was done saved, at the line `stop` or at the end of standard input
    #[arg(long)]
    supervised: bool,
}

pub(super) fn run(args: &Args) -> Ending {
    match work(args) {
        Ok(Verdict::Done) => Ending::Done,
        Ok(Verdict::Interrupted) => Ending::Interrupted,
        Ok(Verdict::Failed) => Ending::Failed,
        Err(error) => {
            // Before any stage could be looked at: said for each, so that an engine does not wait for a reason.
            for key in &args.keys {
                write(&Line::failed(key, &format!("{error:#}")));
            }
            tell(&format!("error: {}", super::with_causes(&error)));
            Ending::Failed
        }
    }
}

fn work(args: &Args) -> Result<Verdict> {
    let stop = Arc::new(AtomicBool::new(false));
    listen(&stop, args.supervised)?;
    let store = Store::open(&args.store)?;
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = args.threads {
        pool = pool.num_threads(threads.get());
    }
    pool.build_global().context("cannot start the threads")?;
    let worker = Worker {
        store: &store,
        threads: rayon::current_num_threads(),
        emit: &|line| write(&line),
        stop: &stop,
        run: &crate::stage::run,
    };
    let (verdict, error) = worker.work(&args.keys);
    if let Some(error) = error {
        tell(&format!("error: {error:?}"));
    }
    Ok(verdict)
}

/// Sets `stop` at a signal (Ctrl-C, SIGTERM) and, where an engine supervises, at its word or its end.
fn listen(stop: &Arc<AtomicBool>, supervised: bool) -> Result<()> {
    let at_signal = Arc::clone(stop);
    ctrlc::set_handler(move || at_signal.store(true, Ordering::SeqCst))
        .context("cannot listen for Ctrl-C")?;
    if supervised {
        let at_word = Arc::clone(stop);
        thread::spawn(move || {
            let mut word = String::new();
            let _ = io::stdin().read_line(&mut word); // an error means what the end means: nobody is there
            at_word.store(true, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// Writes a line. Where the engine is gone, nobody wants it; the end of the input says so.
fn write(line: &Line) {
    if let Ok(text) = serde_json::to_string(line) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}
