//! `sweep report NAME`.

use std::path::Path;

use anyhow::{Result, anyhow};

use super::lookup::NamedSweep;
use super::pipeline::OutputArgs;
use super::{Ending, OrBadInput as _, say};
use crate::results::index::Index;

/// Write the tables, figures and report of what is finished, without running anything
///
/// Needs neither the data set nor the sweep file: from the store where it knows the sweep, else from the frames in
/// results/NAME.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A sweep that the store knows, its sweep file, or a folder's name under results/
    name: String,
    #[command(flatten)]
    sweep: NamedSweep,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let store = args.sweep.store.at();
    let frames = args.output.at(&args.name);
    let is_name = Path::new(&args.name).file_name().is_some_and(|name| name == args.name.as_str());
    let index = match args.sweep.index(&args.name) {
        // What a clone of the repository has: frames without a store.
        Err(_) if is_name && frames.has_frames() => None,
        index => Some(index?),
    };
    let finished = |index: &Index| {
        index.points().iter().any(|point| store.object(&index.stages()[point.evaluate].key).is_some())
    };
    let page = match index {
        Some(index) if finished(&index) => {
            args.output.open(&index.head.name).or_bad_input()?.render(&index, &store)?
        }
        index => {
            let head = index.map(|index| index.head);
            let name = head.as_ref().map_or(args.name.as_str(), |head| &head.name);
            if !args.output.at(name).has_frames() {
                let place = store.root().display();
                let error = anyhow!(
                    "nothing of `{name}` is finished in the store {place}: run it, or name its --store"
                );
                return Err(error).or_bad_input();
            }
            let output = args.output.open(name).or_bad_input()?;
            if let Some(head) = &head {
                output.render_frames(name, &head.description, &head.report)?
            } else {
                let declared = output.declared()?;
                output.render_frames(name, &declared.description, &declared.report)?
            }
        }
    };
    say(&format!("report: {}", page.display()))?;
    Ok(Ending::Done)
}
