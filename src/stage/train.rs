//! Trains one method.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::Tensor;
use serde_json::Value;

use super::{Context, SHAPES, StageSpec, in_precision, settings};
use crate::data::Dataset;
use crate::methods::{Needs, cross_teaching, reads_features_at_test};
use crate::nn::file;
use crate::ops::Place;
use crate::spec::settings::{FeatureMode, LabelRatio, Settings};
use crate::spec::stages::TrainLocal;
use crate::store::files;
use crate::train::Monitor as _;
use crate::train::feature_cache::FeatureCache;
use crate::train::features::{DiffusionModel, FeatureSource, MODEL};
use crate::train::method::{Inputs, train};

/// Runs the stage.
pub(super) fn run(spec: &StageSpec, context: &Context) -> Result<Value> {
    let settings: Settings = settings(spec)?;
    in_precision(settings.train.precision, context, || run_with(&settings, spec, context))
}

fn run_with(settings: &Settings, spec: &StageSpec, context: &Context) -> Result<Value> {
    let LabelRatio::Cases(patients) = settings.label_ratio else {
        bail!("the plan left the label ratio open: {:?}", settings.label_ratio);
    };
    let data = Dataset::open(context.input("data")?)?;
    let features = features(settings, context)?;
    let at_test = if reads_features_at_test(settings) { Some(model(settings, context)?) } else { None };
    let start = if spec.local.is_null() { BTreeMap::new() } else { start(settings, spec, context)? };
    let inputs = Inputs { data: &data, features: &features, at_test: at_test.as_ref(), start };
    let outcome = train(settings, patients, &inputs, &context.dir, context)?;
    let summary = Context::finished(outcome)?;
    files::write_unsynced(&context.dir.join(SHAPES), &serde_json::to_vec_pretty(&features.shapes()?)?)?;
    files::write_unsynced(&context.dir.join(MODEL), &serde_json::to_vec_pretty(settings)?)?;
    Ok(summary)
}

/// The values to start from.
fn start(settings: &Settings, spec: &StageSpec, context: &Context) -> Result<BTreeMap<String, Tensor>> {
    let TrainLocal { weights: path } =
        serde_json::from_value(spec.local.clone()).context("what the stage needs of this machine")?;
    let content = files::content_of(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        settings.swin.weights.as_os_str() == content.as_str(),
        "{} has changed since the sweep was planned (`swin.weights`): run the same command again",
        path.display()
    );
    let found = file::read(&path)?;
    let start = cross_teaching::start(settings, &found)
        .with_context(|| format!("`swin.weights`: {}", path.display()))?;
    context.note(format!("{} tensors of the Swin-Unet start from {}", start.len(), path.display()));
    Ok(start)
}

fn features(settings: &Settings, context: &Context) -> Result<FeatureSource> {
    if !Needs::of(settings).features {
        return Ok(FeatureSource::None);
    }
    let Settings { timesteps, blocks, features, .. } = settings;
    match features.mode {
        FeatureMode::Cached => {
            let mut caches = Vec::new();
            for t in timesteps {
                for b in blocks {
                    caches.push(FeatureCache::open(context.input(&format!("features/t{t}/b{b}"))?)?);
                }
            }
            FeatureSource::Cached(caches).kept_in(&Place::current(), &|note| context.note(note))
        }
        FeatureMode::Online => Ok(FeatureSource::Online(Box::new(model(settings, context)?))),
    }
}

/// The diffusion model, read as `settings` say.
fn model(settings: &Settings, context: &Context) -> Result<DiffusionModel> {
    let Settings { timesteps, blocks, features, .. } = settings;
    DiffusionModel::open(context.input("diffusion")?, timesteps, blocks, features.noise_seed)
}
