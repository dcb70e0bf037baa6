//! What the pre-training of diffusion models left: its curve, and images sampled from it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use polars::prelude::DataFrame;

use super::columns::Builder;
use super::read::{self, Step};

/// A trained diffusion model and where it lies.
#[derive(Clone, Debug)]
pub struct ModelRecord {
    /// Key of its pre-training stage.
    pub key: String,
    /// What it is called for people.
    pub label: String,
    /// Its folder in the store, with `history.jsonl` and `samples.png`.
    pub folder: PathBuf,
}

/// Images sampled from a diffusion model, side by side in one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Key of the model's pre-training stage.
    pub model: String,
    /// What the model is called for people.
    pub label: String,
    /// The picture, as PNG.
    pub png: Vec<u8>,
}

/// One row per model and logged step: `model` (its key), `label`, `step`, `loss` and `loss_t0`, `loss_t100`, …: mean ε error
/// over the noise levels from that diffusion step on, since the row before.
pub(super) fn frame(models: &[ModelRecord]) -> Result<DataFrame> {
    let mut rows: Vec<(&ModelRecord, Step)> = Vec::new();
    for model in models {
        let steps = read::history(&model.folder.join("history.jsonl"))?;
        rows.extend(steps.into_iter().map(|step| (model, step)));
    }
    let mut frame = Builder::new(rows.len());
    frame.texts("model", rows.iter().map(|(model, _)| Some(model.key.clone())).collect())?;
    frame.texts("label", rows.iter().map(|(model, _)| Some(model.label.clone())).collect())?;
    frame.ints("step", rows.iter().map(|(_, step)| Some(step.step)).collect())?;
    for key in super::logged(rows.iter().map(|(_, step)| step)) {
        let values = rows.iter().map(|(_, step)| step.number(&key)).collect();
        frame.floats(&frame.free_name(&key), values)?;
    }
    frame.finish()
}

/// The pictures of `models`; a model of 0 steps has none.
///
/// # Errors
/// Where one cannot be read.
pub fn samples(models: &[ModelRecord]) -> Result<Vec<Samples>> {
    let mut pictures = Vec::new();
    for model in models {
        let path = model.folder.join("samples.png");
        if path.is_file() {
            let png = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            pictures.push(Samples { model: model.key.clone(), label: model.label.clone(), png });
        }
    }
    Ok(pictures)
}
