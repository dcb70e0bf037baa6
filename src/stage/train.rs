//! Trains one method.

use anyhow::{Result, bail};
use serde_json::Value;

use super::{Context, SHAPES, StageSpec, settings};
use crate::data::Dataset;
use crate::methods::{Needs, reads_features_at_test};
use crate::spec::settings::{FeatureMode, LabelRatio, Settings};
use crate::store::files;
use crate::train::feature_cache::FeatureCache;
use crate::train::features::{DiffusionModel, FeatureSource, MODEL};
use crate::train::method::train;

/// Runs the stage.
pub(super) fn run(spec: &StageSpec, context: &Context) -> Result<Value> {
    let settings: Settings = settings(spec)?;
    let LabelRatio::Cases(patients) = settings.label_ratio else {
        bail!("the plan left the label ratio open: {:?}", settings.label_ratio);
    };
    let data = Dataset::open(context.input("data")?)?;
    let features = features(&settings, context)?;
    let at_test = if reads_features_at_test(&settings) { Some(model(&settings, context)?) } else { None };
    let outcome = train(&settings, patients, &data, &features, at_test.as_ref(), &context.dir, context)?;
    let summary = Context::finished(outcome)?;
    files::write_atomic(context.dir.join(SHAPES), &serde_json::to_vec_pretty(&features.shapes()?)?)?;
    files::write_atomic(context.dir.join(MODEL), &serde_json::to_vec_pretty(&settings)?)?;
    Ok(summary)
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
            Ok(FeatureSource::Cached(caches))
        }
        FeatureMode::Online => Ok(FeatureSource::Online(Box::new(model(settings, context)?))),
    }
}

/// The diffusion model, read as `settings` say.
fn model(settings: &Settings, context: &Context) -> Result<DiffusionModel> {
    let Settings { timesteps, blocks, features, .. } = settings;
    DiffusionModel::open(context.input("diffusion")?, timesteps, blocks, features.noise_seed)
}
