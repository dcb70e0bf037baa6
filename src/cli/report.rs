//! `sweep report FILE`.

use anyhow::Result;

use super::pipeline::{OutputArgs, SweepArgs};
use super::{Ending, OrBadInput as _, say};
use crate::store::Store;

/// Write the tables, figures and report of what is finished, without running anything
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let (sweep, plan) = args.sweep.plan()?;
    let store = Store::at(&args.sweep.store);
    if !plan.points.iter().any(|point| store.object(&point.evaluate).is_some()) {
        let place = store.root().display();
        let error = anyhow::anyhow!(
            "nothing of `{}` is finished in the store {place}: run it, or name its --store",
            plan.name
        );
        return Err(error).or_bad_input();
    }
    let output = args.output.open(&sweep.name).or_bad_input()?;
    let page = output.render(&sweep, &plan, &store)?;
    say(&format!("report: {}", page.display()))?;
    Ok(Ending::Done)
}
