//! Extracts the maps of decoder blocks at one diffusion step, for every training slice: one forward pass a slice
//! yields every block that is asked for.

use anyhow::{Context as _, Result, ensure};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Context, Interrupted, StageSpec, in_precision, settings};
use crate::data::{Dataset, Geometry};
use crate::spec::stages::FeaturesSettings;
use crate::train::feature_cache::{Header, Writer};
use crate::train::features::DiffusionModel;
use crate::train::{Checkpoints, Monitor as _};

/// Slices of one forward pass.
const BATCH: usize = 8;

/// Runs the stages of one model and one diffusion step.
pub(super) fn run(jobs: &[(StageSpec, Context)]) -> Result<Vec<Value>> {
    let context = &jobs[0].1;
    let precision = DiffusionModel::settings(context.input("diffusion")?)?.diffusion.precision;
    in_precision(precision, context, || run_all(jobs))
}

fn run_all(jobs: &[(StageSpec, Context)]) -> Result<Vec<Value>> {
    let stages = jobs.iter().map(|(spec, _)| settings(spec)).collect::<Result<Vec<FeaturesSettings>>>()?;
    let (context, first) = (&jobs[0].1, stages[0]);
    let shared =
        |stage: &FeaturesSettings| (stage.timestep, stage.noise_seed) == (first.timestep, first.noise_seed);
    let model = context.input("diffusion")?;
    let same_model = |context: &Context| context.input("diffusion").is_ok_and(|other| other == model);
    ensure!(
        stages.iter().all(shared) && jobs.iter().all(|(_, context)| same_model(context)),
        "feature stages of different models or steps were put into one process"
    );
    let data = Dataset::open(context.input("data")?)?;
    let blocks: Vec<usize> = stages.iter().map(|stage| stage.block).collect();
    let model = DiffusionModel::open(model, &[first.timestep], &blocks, first.noise_seed)?;
    let side = model.size();
    let slices = data.train_slices();
    let mut writers = Vec::new();
    for (shape, (_, context)) in model.shapes()?.into_iter().zip(jobs) {
        let header = Header { slices: slices.len(), channels: shape.channels, side: shape.side };
        writers.push(Writer::create(&context.dir, header)?);
    }
    // The group may have other members than when it was stopped: it goes on where the shortest is, at a whole batch, so
    // that every pass sees the slices that it would have seen.
    let start = writers.iter().map(Writer::rows).min().unwrap_or(0) / BATCH * BATCH;
    writers.iter_mut().try_for_each(|writer| writer.keep(start))?;
    if start > 0 {
        for (_, context) in jobs {
            context.note(format!("continues from slice {start}"));
        }
    }
    let mut checkpoints = Checkpoints::new(context);
    for (i, batch) in slices.chunks(BATCH).enumerate().skip(start / BATCH) {
        if context.stopped() {
            writers.iter_mut().try_for_each(Writer::save)?;
            return Err(Interrupted.into());
        }
        let pixels: Vec<Vec<f32>> = batch
            .par_iter()
            .map(|slice| {
                let slice = data.slice(*slice);
                Geometry::Identity.image(slice.image, slice.height, slice.width, side)
            })
            .collect();
        let shape = (batch.len(), 1, side, side);
        let images = candle_core::Tensor::from_vec(pixels.concat(), shape, &candle_core::Device::Cpu)?;
        for (writer, maps) in writers.iter_mut().zip(model.maps(&images)?.maps.tensors()?) {
            writer.push(&maps).context("write the feature maps")?;
        }
        context.units((i * BATCH + batch.len()).min(slices.len()), slices.len(), "slice");
        checkpoints.when_due(|| writers.iter_mut().try_for_each(Writer::save))?;
    }
    writers.into_iter().try_for_each(Writer::finish)?;
    Ok(jobs.iter().map(|_| json!({ "slices": slices.len() })).collect())
}
