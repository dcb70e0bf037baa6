//! Points to a deduplicated graph of stages.
//!
//! | stage    | settings that decide it                              | parents                                   |
//! |----------|------------------------------------------------------|-------------------------------------------|
//! | prepare  | data set, its content                                | –                                         |
//! | pretrain | size, `diffusion`, weak augmentation                 | data                                      |
//! | features | time step, block, noise seed                         | diffusion, data                           |
//! | train    | all settings that can influence this training        | data, features/t*/b*, diffusion           |
//! | evaluate | `evaluate`, size, test stream                        | train, data, diffusion                    |
//!
//! A stage's key is made of these ([`Key::of_stage`]), so that points, and sweeps, that need the same stage share it.

mod build;
mod effect;
mod label;
pub mod price;
mod text;
mod weights;
pub mod why;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::data::{self, Inspection};
use crate::spec::settings::{DataSettings, Method, Settings};
use crate::spec::{Axes, Sweep};
use crate::stage::{Parent, StageKind, StageSpec};
use crate::store::key::Key;
use weights::Weights;

pub use effect::idle_paths;

/// A point with the stages that its result needs.
#[derive(Clone, Debug)]
pub struct PlannedPoint {
    /// Eight hexadecimal digits that name the point: a hash of its settings, but for the folder of the data.
    pub id: String,
    /// The axes of the sweep and this point's value of each, in the order of the file.
    pub axes: Axes,
    /// Everything resolved.
    pub settings: Arc<Settings>,
    /// Its training stage.
    pub train: Key,
    /// Its evaluation stage.
    pub evaluate: Key,
}

/// A stage of the plan. What it is in full, [`Plan::spec`] works out.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// Its key.
    pub key: Key,
    /// Its kind.
    pub kind: StageKind,
    /// The method that it trains, where it is a training.
    pub method: Option<Method>,
    /// A short text for people: `train mcsd 7 cases dfm dic seed=1`.
    pub label: String,
    /// Stages of one group run in one process (the feature blocks of one model and step).
    pub group: Option<String>,
    /// The indices of the points that need it.
    pub points: Vec<usize>,
    /// The indices of the stages that it reads.
    parents: Arc<[u32]>,
    recipe: Recipe,
}

/// How the settings of a stage are worked out.
#[derive(Clone, Debug)]
enum Recipe {
    /// They are known.
    Known(Arc<StageSpec>),
    /// From the settings of its first point, which has so many labelled patients.
    Train(u32),
    /// From the settings of its first point.
    Evaluate,
}

impl PlannedStage {
    /// A stage whose spec is known.
    pub fn new(
        key: Key,
        spec: StageSpec,
        label: impl Into<String>,
        group: Option<String>,
        points: Vec<usize>,
    ) -> Self {
        let method = match (spec.kind, spec.settings.get("method")) {
            (StageKind::Train, Some(method)) => serde_json::from_value(method.clone()).ok(),
            _ => None,
        };
        let (label, kind, parents) = (label.into(), spec.kind, Arc::default());
        Self { key, kind, method, label, group, points, parents, recipe: Recipe::Known(Arc::new(spec)) }
    }
}

/// A sweep as a graph: stages in an order in which parents come first.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The sweep's name.
    pub name: String,
    /// The points, in the order of the file.
    pub points: Vec<PlannedPoint>,
    /// The stages, parents first: by kind, within a kind in the order of the points, groups together.
    pub stages: Vec<PlannedStage>,
    /// What stands in a training's settings where nothing is read.
    neutral: Arc<Settings>,
    /// The files that trainings start from.
    weights: Weights,
}

/// What planning needs to know of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Hash of what decides the content.
    pub content: String,
    /// Patients of the training split.
    pub train_patients: usize,
}

impl Plan {
    /// Plans a sweep: looks at its data sets and works out the stages and their keys.
    ///
    /// # Errors
    /// Where a data set cannot be read, a label ratio does not fit its data set, or an axis changes nothing; the latter
    /// two as [`crate::spec::Diagnostics`].
    pub fn new(sweep: &Sweep) -> anyhow::Result<Self> {
        Self::with(sweep, &inspect)
    }

    /// [`Self::new`], with another way of looking at data sets. Each data set is looked at once.
    pub fn with(
        sweep: &Sweep,
        inspect: &dyn Fn(&DataSettings) -> anyhow::Result<Inspected>,
    ) -> anyhow::Result<Self> {
        let plan = build::build(sweep, inspect)?;
        let idle = effect::idle_axes(&plan);
        if !idle.is_empty() {
            return Err(sweep.refuse(idle).into());
        }
        Ok(plan)
    }

    /// A plan of stages whose specs are known, without points. Parents are found by their keys; one that is not among
    /// the stages is left out of [`Self::parents`].
    pub fn of(name: impl Into<String>, mut stages: Vec<PlannedStage>) -> Self {
        let index: HashMap<Key, u32> =
            stages.iter().enumerate().map(|(i, stage)| (stage.key.clone(), i as u32)).collect();
        for stage in &mut stages {
            if let Recipe::Known(spec) = &stage.recipe {
                stage.parents =
                    spec.parents.iter().filter_map(|parent| index.get(&parent.key).copied()).collect();
            }
        }
        Self {
            name: name.into(),
            points: vec![],
            stages,
            neutral: Arc::new(build::neutral()),
            weights: Weights::default(),
        }
    }

    /// The part of the plan that the `chosen` points need; everything keeps its name, key and label.
    ///
    /// # Panics
    /// Where `chosen` does not say of each point whether it is chosen.
    #[must_use]
    pub fn select(&self, chosen: &[bool]) -> Self {
        assert_eq!(chosen.len(), self.points.len(), "each point is chosen or not");
        let renumber = |kept: &dyn Fn(usize) -> bool, n: usize| {
            let mut next = 0;
            let number = |at: usize| {
                next += u32::from(kept(at));
                next.wrapping_sub(1)
            };
            (0..n).map(number).collect::<Vec<u32>>()
        };
        let point = renumber(&|at| chosen[at], self.points.len());
        let needed: Vec<bool> =
            self.stages.iter().map(|stage| stage.points.iter().any(|&point| chosen[point])).collect();
        let stage = renumber(&|at| needed[at], self.stages.len());
        let stages =
            self.stages.iter().zip(&needed).filter(|(_, needed)| **needed).map(|(old, _)| PlannedStage {
                points: old.points.iter().filter(|&&at| chosen[at]).map(|&at| point[at] as usize).collect(),
                parents: old.parents.iter().map(|&at| stage[at as usize]).collect(),
                ..old.clone()
            });
        let points =
            self.points.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(point, _)| point.clone());
        Self {
            name: self.name.clone(),
            points: points.collect(),
            stages: stages.collect(),
            neutral: Arc::clone(&self.neutral),
            weights: self.weights.clone(),
        }
    }

    /// The stages that a stage reads, by their indices.
    pub fn parents(&self, stage: usize) -> impl ExactSizeIterator<Item = usize> {
        self.stages[stage].parents.iter().map(|&parent| parent as usize)
    }

    /// A stage in full.
    pub fn spec(&self, stage: usize) -> StageSpec {
        let planned = &self.stages[stage];
        // A stage without a known spec is there because of some point.
        let settings = |at: Option<&usize>| &self.points[at.copied().unwrap_or_default()].settings;
        let (settings, local) = match &planned.recipe {
            Recipe::Known(spec) => return (**spec).clone(),
            Recipe::Train(patients) => {
                let settings = settings(planned.points.first());
                build::train_settings(settings, &self.neutral, &self.weights, *patients as usize)
            }
            Recipe::Evaluate => (build::evaluate_settings(settings(planned.points.first())), Value::Null),
        };
        let parents = self.parents(stage).map(|parent| self.as_parent(parent)).collect();
        StageSpec { kind: planned.kind, settings, local, parents }
    }

    /// A stage as another one reads it.
    fn as_parent(&self, stage: usize) -> Parent {
        let PlannedStage { key, recipe, kind, .. } = &self.stages[stage];
        let role = match recipe {
            Recipe::Known(spec) => build::role(*kind, &spec.settings),
            _ => build::role(*kind, &Value::Null),
        };
        Parent { role, key: key.clone() }
    }
}

/// Looks at a data set.
fn inspect(data: &DataSettings) -> anyhow::Result<Inspected> {
    let Inspection { content, train_patients, .. } = data::inspect(data)?;
    Ok(Inspected { content, train_patients })
}
