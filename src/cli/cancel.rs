//! `sweep cancel [NAME]`.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::lookup::{StoreArgs, list};
use super::{Ending, OrBadInput as _, say};
use crate::exec::slurm::{self, Standing};
use crate::spec::nearest;
use crate::store::{RunRecord, Store};

/// How often is looked whether the runs have ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Stop running sweeps as Ctrl-C would: what runs saves its work first
///
/// Also reaches sweeps that run in another terminal, or on another machine with the same store, and cancels the jobs that a
/// sweep has in a Slurm cluster; no others. `sweep run` goes on where they were stopped.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sweep; may be left out where only one runs
    name: Option<String>,
    /// All that run on the store
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Stop at once: work since the last checkpoints is lost
    #[arg(long)]
    now: bool,
    /// Return only when they have stopped
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let store = args.store.at();
    let runs = store.runs()?;
    let jobs: Vec<Standing> = slurm::standings(&store)?.into_iter().filter(Standing::is_live).collect();
    let all = runs.iter().map(|run| &run.name).chain(jobs.iter().map(|job| &job.sweep));
    let names: BTreeSet<String> = all.cloned().collect();
    let chosen = choose(args.name.as_deref(), args.all, &names, &store).or_bad_input()?;
    let runs: Vec<RunRecord> = runs.into_iter().filter(|run| chosen.contains(&run.name)).collect();
    for run in &runs {
        store.request_stop(run, args.now)?;
        let host = run.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let how = if args.now { "to stop at once" } else { "to save its work and stop" };
        say(&format!("{} (process {}{host}) is asked {how}", run.name, run.pid))?;
    }
    // Those who watch jobs leave them when they are asked to stop: they are cancelled here.
    for name in &chosen {
        for job in slurm::cancel(&store, Some(name))? {
            say(&format!("{name}: {}; cancelled: what runs saves its work first", job.line()))?;
        }
    }
    while args.wait && store.runs()?.iter().any(|run| runs.contains(run)) {
        thread::sleep(PATIENCE);
    }
    Ok(Ending::Done)
}

/// The names of the sweeps that are meant, of those that run or have jobs.
fn choose(name: Option<&str>, all: bool, names: &BTreeSet<String>, store: &Store) -> Result<Vec<String>> {
    let place = store.root().display();
    let listed: Vec<String> = names.iter().cloned().collect();
    if names.is_empty() {
        return Err(anyhow!("nothing runs on the store {place}; --store names another"));
    }
    let Some(name) = name else {
        return if all || names.len() == 1 {
            Ok(listed)
        } else {
            Err(anyhow!("several sweeps run: {}; name one, or all with --all", list(&listed)))
        };
    };
    if !names.contains(name) {
        let near = nearest(name, names.iter().map(String::as_str));
        let help = near.map_or(format!("{} runs", list(&listed)), |near| format!("did you mean `{near}`?"));
        return Err(anyhow!("no sweep `{name}` runs on the store {place}; {help}"));
    }
    Ok(vec![name.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_needs_no_name_and_several_do() {
        let store = Store::at("results/.store");
        let choose = |name, all, names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            choose(name, all, &names, &store).map_err(|error| error.to_string())
        };
        let owned = |names: &[&str]| Ok(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(choose(None, false, &["tau"]), owned(&["tau"]));
        assert_eq!(choose(Some("blocks"), false, &["tau", "blocks"]), owned(&["blocks"]));
        assert_eq!(choose(None, true, &["tau", "blocks"]), owned(&["blocks", "tau"]));
        let several = choose(None, false, &["tau", "blocks"]).unwrap_err();
        assert!(several.contains("`blocks`, `tau`") && several.contains("--all"), "{several}");
        let near = choose(Some("block"), false, &["tau", "blocks"]).unwrap_err();
        assert!(near.contains("did you mean `blocks`?"), "{near}");
        assert!(choose(None, false, &[]).unwrap_err().contains("nothing runs"));
    }
}
