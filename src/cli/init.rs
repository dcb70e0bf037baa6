//! `sweep init [FILE]`.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};

use super::{Ending, OrBadInput as _, say};
use crate::spec::{cluster, template};

/// Write a commented sweep file to start from; it runs as it stands
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to write; `.yaml` is added where it has no ending [default: sweep.yaml, or cluster.yaml with --cluster]
    file: Option<PathBuf>,
    /// Write what the jobs of a Slurm cluster are asked for instead
    #[arg(long)]
    cluster: bool,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let default = if args.cluster { cluster::FILE } else { "sweep.yaml" };
    let mut path = args.file.clone().unwrap_or_else(|| default.into());
    if path.extension().is_none() {
        path.set_extension("yaml");
    }
    let shown = path.display();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let text = if args.cluster { Some(cluster::TEMPLATE.to_owned()) } else { template(&stem) };
    let text = text
        .ok_or_else(|| anyhow!("{shown}: the name of a sweep has letters, digits, `.`, `_` and `-` alone"))
        .or_bad_input()?;
    // Made only where nothing is: what a person has written is never lost.
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = file
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow!("{shown} is there already: name another file"),
            _ => anyhow::Error::new(error).context(format!("cannot write {shown}")),
        })
        .or_bad_input()?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
    let next = if args.cluster {
        "`sweep run FILE --executor slurm` reads it beside FILE, or in ~/.config/sweep".to_owned()
    } else {
        format!("`sweep plan {shown}` shows what it would do")
    };
    say(&format!("{shown} is written; {next}"))?;
    Ok(Ending::Done)
}
