//! `sweep cancel [NAME]`.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::lookup::{StoreArgs, list};
use super::{Ending, OrBadInput as _, say};
use crate::spec::nearest;
use crate::store::{RunRecord, Store};

/// How often is looked whether the runs have ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Stop running sweeps as Ctrl-C would: what runs saves its work first
///
/// Also reaches sweeps that run in another terminal, or on another machine with the same store. `sweep run` goes on where
/// they were stopped.
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
    let chosen = choose(args.name.as_deref(), args.all, runs, &store).or_bad_input()?;
    for run in &chosen {
        store.request_stop(run, args.now)?;
        let host = run.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let how = if args.now { "to stop at once" } else { "to save its work and stop" };
        say(&format!("{} (process {}{host}) is asked {how}", run.name, run.pid))?;
    }
    while args.wait && store.runs()?.iter().any(|run| chosen.contains(run)) {
        thread::sleep(PATIENCE);
    }
    Ok(Ending::Done)
}

/// The runs that are meant.
fn choose(name: Option<&str>, all: bool, runs: Vec<RunRecord>, store: &Store) -> Result<Vec<RunRecord>> {
    let place = store.root().display();
    let mut names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    names.dedup();
    if runs.is_empty() {
        return Err(anyhow!("nothing runs on the store {place}; --store names another"));
    }
    let Some(name) = name else {
        return if all || runs.len() == 1 {
            Ok(runs)
        } else {
            Err(anyhow!("several sweeps run: {}; name one, or all with --all", list(&names)))
        };
    };
    let chosen: Vec<RunRecord> = runs.into_iter().filter(|run| run.name == name).collect();
    if chosen.is_empty() {
        let near = nearest(name, names.iter().map(String::as_str));
        let help = near.map_or(format!("{} runs", list(&names)), |near| format!("did you mean `{near}`?"));
        return Err(anyhow!("no sweep `{name}` runs on the store {place}; {help}"));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, pid: u32) -> RunRecord {
        RunRecord {
            id: format!("{name}-{pid}"),
            name: name.into(),
            file: "s.yaml".into(),
            pid,
            host: None,
            started: 0,
            points: 1,
            stages: 1,
        }
    }

    #[test]
    fn one_run_needs_no_name_and_several_do() {
        let store = Store::at("results/.store");
        let (tau, blocks) = (record("tau", 1), record("blocks", 2));
        let choose = |name, all, runs: &[&RunRecord]| {
            let runs = runs.iter().map(|&run| run.clone()).collect();
            choose(name, all, runs, &store).map_err(|error| error.to_string())
        };
        assert_eq!(choose(None, false, &[&tau]), Ok(vec![tau.clone()]));
        assert_eq!(choose(Some("blocks"), false, &[&tau, &blocks]), Ok(vec![blocks.clone()]));
        assert_eq!(choose(None, true, &[&tau, &blocks]), Ok(vec![tau.clone(), blocks.clone()]));
        let several = choose(None, false, &[&tau, &blocks]).unwrap_err();
        assert!(several.contains("`tau`, `blocks`") && several.contains("--all"), "{several}");
        assert!(
            choose(Some("block"), false, &[&tau, &blocks]).unwrap_err().contains("did you mean `blocks`?")
        );
        assert!(choose(None, false, &[]).unwrap_err().contains("nothing runs"));
    }
}
