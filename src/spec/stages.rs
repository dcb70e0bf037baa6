//! The settings of each kind of stage, as they stand in [`crate::stage::StageSpec::settings`]. A training's are the
//! whole [`Settings`](super::settings::Settings), with what cannot influence it at fixed values.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::settings::{DataName, DataSettings, DiffusionSettings, EvaluateSettings, TestStream};

/// Of `prepare`. The folder of the data stands in [`crate::stage::StageSpec::local`] as `root`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareSettings {
    /// Which data set.
    pub name: DataName,
    /// What [`crate::data`] found to decide the content.
    pub content: String,
    /// Patients of the phantom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patients: Option<usize>,
    /// Seed of the phantom, or of a split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether patients without labels are trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<bool>,
}

impl PrepareSettings {
    /// The settings of the data set whose content was found to be `content`.
    pub fn new(data: &DataSettings, content: String) -> Self {
        let (phantom, drawn) = (data.name == DataName::Phantom, data.name.draws_split());
        Self {
            name: data.name,
            content,
            patients: phantom.then_some(data.patients),
            seed: (phantom || drawn).then_some(data.seed),
            unlabelled: drawn.then_some(data.unlabelled),
        }
    }

    /// The data set at `root`.
    pub fn data(&self, root: PathBuf) -> DataSettings {
        DataSettings {
            name: self.name,
            root,
            patients: self.patients.unwrap_or_default(),
            seed: self.seed.unwrap_or_default(),
            unlabelled: self.unlabelled.unwrap_or_default(),
        }
    }
}

/// What `prepare` needs where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareLocal {
    /// The folder of the data set, absolute; empty for the phantom.
    pub root: PathBuf,
}

/// What a training needs where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainLocal {
    /// The weights that it starts from, absolute; their content stands in `swin.weights`.
    pub weights: PathBuf,
}

/// Of `pretrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSettings {
    /// Side of the images in pixels.
    pub size: usize,
    /// The model and its training.
    pub diffusion: DiffusionSettings,
    /// Probability of a right-angle rotation with a flip.
    pub flip: f64,
    /// Probability, where there was no flip, of a rotation by a small angle.
    pub rotate: f64,
}

/// Of `features`: one decoder block at one diffusion step, of the model that is the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturesSettings {
    /// Diffusion step, in 0..1000.
    pub timestep: usize,
    /// `output_blocks` index.
    pub block: usize,
    /// Seed of the noise map.
    pub noise_seed: u64,
}

/// Of `evaluate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateStage {
    /// Split, rules, which network.
    pub evaluate: EvaluateSettings,
    /// Side that slices are resized to, in pixels.
    pub size: usize,
    /// Which stream predicts.
    pub test_stream: TestStream,
}
