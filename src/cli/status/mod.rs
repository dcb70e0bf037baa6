//! `sweep status [NAME]`: from the index that a run left and the names of the folders in the store. The data set and
//! the sweep file may be gone, and no metadata of an object is read.

mod view;
mod show;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::lookup::{self, NamedSweep};
use super::{Ending, OrBadInput as _, say};
use crate::results::index::Index;
use crate::store::Store;
use view::{Look, View};

/// Rows of a table unless `--all` is given.
const MOST: usize = 20;

/// Show how far sweeps are: done, running, failed and why, and the time left
///
/// Needs neither the data set nor the sweep file: every run leaves in the store what its sweep consists of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A sweep that the store knows, or its sweep file [default: an overview of all that the store knows]
    name: Option<String>,
    #[command(flatten)]
    sweep: NamedSweep,
    /// Show it again every SECONDS until all is done
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    watch: Option<f64>,
    /// Show every row of long tables; with --json also each point and stage, and how each came to be
    #[arg(long)]
    all: bool,
    /// Write one JSON object instead (a line each time with --watch)
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let store = args.sweep.store.at();
    let period = args.watch.map(Duration::try_from_secs_f64).transpose();
    let Ok(period) = period else {
        return Err(anyhow::anyhow!("--watch wants seconds, such as 2 or 0.5")).or_bad_input();
    };
    if args.watch.is_none() && args.name.is_none() && !store.root().is_dir() {
        let place = store.root().display();
        return Err(anyhow::anyhow!(
            "there is no store {place}: `sweep run FILE` makes one, --store names another"
        ))
        .or_bad_input();
    }
    loop {
        let begun = Instant::now();
        let (text, over) = match &args.name {
            Some(name) => {
                let (index, look) = rayon::join(|| args.sweep.index(name), || Look::new(&store));
                one(args, &index?, &look?, &store)?
            }
            None => overview(args, &store)?,
        };
        let Some(period) = period else {
            say(&text)?;
            return Ok(Ending::Done);
        };
        if io::stdout().is_terminal() && !args.json {
            // Home, the text, and nothing below it: without the flicker of clearing first.
            say(&format!("\x1b[H{}\x1b[K\n\x1b[J", text.trim_end().replace('\n', "\x1b[K\n")))?;
        } else {
            say(&text)?;
        }
        if over {
            return Ok(Ending::Done);
        }
        thread::sleep(period.saturating_sub(begun.elapsed()).max(Duration::from_millis(50)));
    }
}

/// A sweep, and whether all of it is done.
fn one(args: &Args, index: &Index, look: &Look, store: &Store) -> Result<(String, bool)> {
    let view = View::new(index, look, store)?;
    let text = match (args.json, args.all) {
        (true, false) => show::object(&view, store).to_string(),
        (true, true) => show::whole(&view, store)?.to_string(),
        (false, all) => show::text(&view, if all { usize::MAX } else { MOST })?,
    };
    Ok((text, view.points.done == view.points.total))
}

/// All sweeps that the store knows, and whether all of them are done.
fn overview(args: &Args, store: &Store) -> Result<(String, bool)> {
    let (indices, look) = rayon::join(|| lookup::all(store), || Look::new(store));
    let (indices, look) = (indices?, look?);
    let views = indices.iter().map(|index| View::new(index, &look, store)).collect::<Result<Vec<_>>>()?;
    let text = if args.json {
        let sweeps: Vec<Value> = views.iter().map(|view| show::object(view, store)).collect();
        json!({"store": store.root(), "sweeps": sweeps}).to_string()
    } else {
        show::overview(&views, store)
    };
    Ok((text, views.iter().all(|view| view.points.done == view.points.total)))
}
