//! Where a method's diffusion features come from.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::feature_cache::FeatureCache;
use super::pretrain;
use crate::diffusion::features::Extractor;
use crate::diffusion::reduction::map_shapes;
use crate::diffusion::unet::{BlockShape, DiffusionUNet, chosen_blocks};
use crate::methods::batch::FeatureMaps;
use crate::spec::stages::PretrainSettings;

/// The settings of a stored model, beside its weights.
pub const MODEL: &str = "model.json";

/// Where diffusion features come from.
pub enum FeatureSource {
    /// The method needs none.
    None,
    /// Cached, one file per step and block, step-major.
    Cached(Vec<FeatureCache>),
    /// Recomputed from the pixels that the network sees.
    Online(Box<DiffusionModel>),
}

impl FeatureSource {
    /// The shapes of the maps, in the order of the batches.
    pub fn shapes(&self) -> Result<Vec<BlockShape>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Cached(caches) => Ok(caches.iter().map(FeatureCache::shape).collect()),
            Self::Online(model) => model.shapes(),
        }
    }
}

/// A pre-trained diffusion model and what is read from it.
pub struct DiffusionModel {
    net: DiffusionUNet,
    size: usize,
    timesteps: Vec<usize>,
    blocks: Vec<usize>,
    noise_seed: u64,
}

impl DiffusionModel {
    /// The model in the pre-training's folder `dir`, to be read at `timesteps` and `blocks`.
    pub fn open(dir: &Path, timesteps: &[usize], blocks: &[usize], noise_seed: u64) -> Result<Self> {
        let settings = Self::settings(dir)?;
        let net = pretrain::load(&settings, dir)?;
        let (timesteps, blocks) = (timesteps.to_vec(), blocks.to_vec());
        Ok(Self { net, size: settings.size, timesteps, blocks, noise_seed })
    }

    /// The settings of the model in the pre-training's folder `dir`.
    pub fn settings(dir: &Path) -> Result<PretrainSettings> {
        let path = dir.join(MODEL);
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Side of the images.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The shapes of [`Self::maps`].
    pub fn shapes(&self) -> Result<Vec<BlockShape>> {
        let blocks = chosen_blocks(self.net.settings(), self.size, &self.blocks)?;
        Ok(map_shapes(self.timesteps.len(), &blocks))
    }

    /// The maps of `images` `[B, 1, S, S]` in `[0, 1]`, step-major, block-minor.
    pub fn maps(&self, images: &Tensor) -> Result<FeatureMaps> {
        let extractor = Extractor::new(&self.net, self.size, self.noise_seed)?;
        let steps = self.timesteps.iter().map(|t| extractor.extract(images, *t, &self.blocks));
        let maps = steps.collect::<Result<Vec<_>>>()?.concat();
        Ok(FeatureMaps { maps, grid: None })
    }
}
