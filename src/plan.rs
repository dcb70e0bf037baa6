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
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::data::{self, Inspection};
use crate::spec::Sweep;
use crate::spec::settings::{DataSettings, Settings};
use crate::stage::StageSpec;
use crate::store::key::Key;

/// A point with the stages that its result needs.
#[derive(Clone, Debug)]
pub struct PlannedPoint {
    /// Eight hexadecimal digits that name the point: a hash of its settings, but for the folder of the data.
    pub id: String,
    /// The axes of the sweep and this point's value of each, in the order of the file.
    pub axes: Vec<(String, Value)>,
    /// Everything resolved.
    pub settings: Settings,
    /// Its training stage.
    pub train: Key,
    /// Its evaluation stage.
    pub evaluate: Key,
}

/// A stage of the plan.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// Its key.
    pub key: Key,
    /// What it is.
    pub spec: StageSpec,
    /// A short text for people: `train mcsd 7 cases dfm dic seed=1`.
    pub label: String,
    /// Stages of one group run in one process (the feature blocks of one model and step).
    pub group: Option<String>,
    /// The indices of the points that need it.
    pub points: Vec<usize>,
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
    pub fn new(sweep: &Sweep) -> anyhow::Result<Self> {
        Self::with(sweep, &inspect)
    }

    /// [`Self::new`], with another way of looking at data sets. Each data set is looked at once.
    pub fn with(
        sweep: &Sweep,
        inspect: &dyn Fn(&DataSettings) -> anyhow::Result<Inspected>,
    ) -> anyhow::Result<Self> {
        let plan = build::build(sweep, inspect)?;
        effect::refuse_idle_axes(&plan)?;
        Ok(plan)
    }
}

/// Looks at a data set.
fn inspect(data: &DataSettings) -> anyhow::Result<Inspected> {
    let Inspection { content, train_patients, .. } = data::inspect(data)?;
    Ok(Inspected { content, train_patients })
}
