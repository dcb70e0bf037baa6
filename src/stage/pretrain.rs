//! Trains the diffusion model.

use anyhow::Result;
use serde_json::Value;

use super::{Context, StageSpec, in_precision, settings};
use crate::data::Dataset;
use crate::spec::stages::PretrainSettings;
use crate::store::files;
use crate::train::features::MODEL;
use crate::train::pretrain::pretrain;

/// Runs the stage.
pub(super) fn run(spec: &StageSpec, context: &Context) -> Result<Value> {
    let settings: PretrainSettings = settings(spec)?;
    let data = Dataset::open(context.input("data")?)?;
    let work = || pretrain(&settings, &data, &context.dir, context);
    let summary = Context::finished(in_precision(settings.diffusion.precision, context, work)?)?;
    files::write_unsynced(&context.dir.join(MODEL), &serde_json::to_vec_pretty(&settings)?)?;
    Ok(summary)
}
