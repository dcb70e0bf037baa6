//! `sweep schema`.

use anyhow::Result;

use super::{Ending, say};
use crate::spec::json_schema;

/// Print the JSON Schema of a sweep file, from which editors complete and check
///
/// Save it (`sweep schema > sweep.schema.json`) and begin a sweep file with
/// `# yaml-language-server: $schema=sweep.schema.json`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Result<Ending> {
    say(&format!("{:#}", json_schema::schema()))?;
    Ok(Ending::Done)
}
