//! Settings of the diffusion model and of the features taken from it.

use serde::{Deserialize, Serialize};

use super::Precision;

/// The diffusion model (guided-diffusion's U-Net) and its pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionSettings {
    /// Base channels; a multiple of 32.
    pub channels: usize,
    /// Channel multiplier of each level.
    pub channel_mult: Vec<usize>,
    /// Residual blocks of each level.
    pub res_blocks: usize,
    /// Down-sampling factors with attention; 8, 16, 32 are the resolutions 32, 16, 8 at 256².
    pub attention: Vec<usize>,
    /// Channels of one attention head.
    pub head_channels: usize,
    /// Down- and up-sampling by residual blocks (else by convolutions).
    pub resblock_updown: bool,
    /// Time embedding as scale and shift of the group norm (else added before it).
    pub scale_shift_norm: bool,
    /// Dropout in residual blocks, in [0, 1).
    pub dropout: f64,
    /// Training steps; 0 leaves the model untrained (a control row).
    pub iterations: usize,
    /// Images of a step.
    pub batch: usize,
    /// AdamW learning rate.
    pub lr: f64,
    /// Decay of the weights' moving average, in [0, 1).
    pub ema: f64,
    /// Seed of initialisation, noise and batches.
    pub seed: u64,
    /// How the model sees pixels, in training, sampling and feature extraction alike.
    #[serde(default)]
    pub pixels: PixelRange,
    /// How exactly a GPU computes its training and the features that are cached from it; a processor computes in `f32` and
    /// says so.
    #[serde(default)]
    pub precision: Precision,
}

/// How the diffusion model sees images, which are in [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelRange {
    /// As 2x − 1, in [−1, 1], as guided diffusion has it.
    #[default]
    Signed,
    /// As they are, in [0, 1], as the published MCSD code does.
    Unit,
}

impl PixelRange {
    /// The least and the greatest value of a pixel.
    pub const fn bounds(self) -> (f32, f32) {
        match self {
            Self::Signed => (-1.0, 1.0),
            Self::Unit => (0.0, 1.0),
        }
    }
}

/// Feature extraction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSettings {
    /// Cached per slice, or recomputed from the augmented pixels.
    pub mode: FeatureMode,
    /// The 1×1 reduction: trained end to end, or fixed at its seeded random start.
    pub reduction: Reduction,
    /// Seed of the one noise map shared by all images and steps.
    pub noise_seed: u64,
    /// Whether cached maps move with their image; `false` leaves them as the un-augmented image has them, as the
    /// published code does.
    #[serde(default = "yes")]
    pub aligned: bool,
}

const fn yes() -> bool {
    true
}

/// Where the features of a training step come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMode {
    /// Extracted once per slice, then moved through the image's geometric transform.
    Cached,
    /// Extracted from the augmented pixels in every step.
    Online,
}

/// How the features are reduced to `feature_dim` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Trained with the networks.
    Learned,
    /// Random, seeded, shared by all images, never trained.
    FixedRandom,
    /// A random one for each image, never trained, as the published code has it.
    PerImageRandom,
}
