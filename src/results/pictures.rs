//! What figures of images show of finished stages: slices with the labels that trainings give them, and feature maps.
//! Made on demand from the store; nothing of it is part of a frame.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::index::Index;
use crate::spec::settings::EvaluateSettings;
use crate::stage::StageKind;
use crate::stage::show::{self, Map, Slice};
use crate::store::Store;

/// Slices of the evaluated split that are shown.
const SLICES: usize = 3;

/// What one point makes of the slices.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The point.
    pub id: String,
    /// The slices: those of its evaluated split.
    pub slices: Vec<Slice>,
    /// For each slice its labels, row by row.
    pub labels: Vec<Vec<u8>>,
}

/// The feature maps of one diffusion model and one training slice.
#[derive(Clone, Debug)]
pub struct Features {
    /// The diffusion model's label.
    pub model: String,
    /// The slice.
    pub slice: Slice,
    /// Diffusion step, decoder block, map; in the order of steps and blocks.
    pub maps: Vec<(usize, usize, Map)>,
}

/// The settings of an evaluation that decide what it sees.
#[derive(Deserialize)]
struct Evaluated {
    evaluate: EvaluateSettings,
}

/// Where the parent of `stage` that is of `kind` lies, if it is in the store.
fn parent(index: &Index, store: &Store, stage: usize, kind: StageKind) -> Result<Option<PathBuf>> {
    let parents = index.parents(stage)?;
    let found = parents.into_iter().find(|&place| index.stages()[place].kind == kind);
    Ok(found.and_then(|place| store.object(&index.stages()[place].key)))
}

/// What the points `ids` make of slices of their evaluated split.
///
/// # Errors
/// Where a point is not known or not finished, or its stages are damaged.
pub fn seen(index: &Index, store: &Store, ids: &[String]) -> Result<Vec<Seen>> {
    let one = |id: &String| -> Result<Seen> {
        let point = (0..index.points().len()).find(|&point| index.id(point) == id);
        let place = &index.points()[point.with_context(|| format!("the store knows no point `{id}`"))?];
        let key = &index.stages()[place.evaluate].key;
        let meta = store.meta(key).with_context(|| format!("point {id} is not evaluated"))?;
        let Evaluated { evaluate } = serde_json::from_value(meta.settings)
            .with_context(|| format!("the settings of {} were written by another version", meta.label))?;
        let gone = |what: &str| {
            format!("the {what} of point {id} is not in the store any more: run the sweep again")
        };
        let data =
            parent(index, store, place.evaluate, StageKind::Prepare)?.with_context(|| gone("data set"))?;
        let trained = store.object(&index.stages()[place.train].key).with_context(|| gone("training"))?;
        let diffusion = parent(index, store, place.evaluate, StageKind::Pretrain)?;
        let slices = show::slices(&data, evaluate.split, SLICES)?;
        let labels = show::labels(&trained, diffusion.as_deref(), evaluate.select, &slices)?;
        Ok(Seen { id: id.clone(), slices, labels })
    };
    ids.iter().map(|id| one(id).with_context(|| format!("cannot show what point {id} sees"))).collect()
}

/// The feature maps of each diffusion model of the sweep whose features are in the store.
///
/// # Errors
/// Where the index or a stage is damaged.
pub fn features(index: &Index, store: &Store) -> Result<Vec<Features>> {
    /// Diffusion step, decoder block, folder.
    type Found = (usize, usize, PathBuf);
    #[derive(Deserialize)]
    struct Settings {
        timestep: usize,
        block: usize,
    }
    let mut models: Vec<(usize, Vec<Found>)> = Vec::new();
    for (place, stage) in
        index.stages().iter().enumerate().filter(|(_, stage)| stage.kind == StageKind::Features)
    {
        let Some(meta) = store.meta(&stage.key) else { continue };
        let Ok(Settings { timestep, block }) = serde_json::from_value(meta.settings) else { continue };
        let parents = index.parents(place)?;
        let model = parents.into_iter().find(|&parent| index.stages()[parent].kind == StageKind::Pretrain);
        let Some(model) = model else { continue };
        let found = (timestep, block, store.folder(&stage.key));
        match models.iter_mut().find(|(known, _)| *known == model) {
            Some((_, maps)) => maps.push(found),
            None => models.push((model, vec![found])),
        }
    }
    let mut shown = Vec::new();
    for (model, mut maps) in models {
        let Some(data) = parent(index, store, model, StageKind::Prepare)? else { continue };
        let (slice, row) = show::training_slice(&data)?;
        maps.sort();
        let maps =
            maps.into_iter().map(|(t, block, dir)| Ok((t, block, show::feature_map(&dir, row, &slice)?)));
        let maps = maps.collect::<Result<_>>()?;
        shown.push(Features { model: index.label(model).to_owned(), slice, maps });
    }
    Ok(shown)
}
