//! Reads and checks a data set, or generates the phantom.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Context, Interrupted, StageSpec, settings};
use crate::data::{self, Dataset};
use crate::spec::stages::{PrepareLocal, PrepareSettings};
use crate::train::Monitor as _;

/// Runs the stage.
pub(super) fn run(spec: &StageSpec, context: &Context) -> Result<Value> {
    let settings: PrepareSettings = settings(spec)?;
    let local: PrepareLocal =
        serde_json::from_value(spec.local.clone()).context("the stage names no data folder")?;
    let settings = settings.data(local.root);
    let unit = "volume";
    let dataset = data::prepare(&settings, &|done, total| {
        context.units(done, total, unit);
        if context.stopped() { Err(Interrupted.into()) } else { Ok(()) }
    })?;
    dataset.save(&context.dir)?;
    Ok(summary(&dataset))
}

fn summary(dataset: &Dataset) -> Value {
    json!({ "cases": dataset.cases().len(), "train_slices": dataset.train_slices().len() })
}
