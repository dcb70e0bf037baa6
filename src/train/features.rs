//! Where a method's diffusion features come from.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::feature_cache::FeatureCache;
use super::pretrain;
use crate::diffusion::features::Extractor;
use crate::diffusion::reduction::map_shapes;
use crate::diffusion::unet::{BlockShape, DiffusionUNet, chosen_blocks};
use crate::methods::batch::{FeatureMaps, Maps};
use crate::ops::{Place, Rows};
use crate::spec::stages::PretrainSettings;

/// The settings of a stored model, beside its weights.
pub const MODEL: &str = "model.json";

/// Where diffusion features come from.
pub enum FeatureSource {
    /// The method needs none.
    None,
    /// Cached, one file per step and block, step-major.
    Cached(Vec<FeatureCache>),
    /// The same, on a GPU.
    Kept {
        /// The maps of all slices, step-major.
        maps: Arc<[Rows]>,
        /// Their shapes.
        shapes: Vec<BlockShape>,
    },
    /// Recomputed from the pixels that the network sees.
    Online(Box<DiffusionModel>),
}

impl FeatureSource {
    /// The shapes of the maps, in the order of the batches.
    pub fn shapes(&self) -> Result<Vec<BlockShape>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Cached(caches) => Ok(caches.iter().map(FeatureCache::shape).collect()),
            Self::Kept { shapes, .. } => Ok(shapes.clone()),
            Self::Online(model) => model.shapes(),
        }
    }

    /// The same, with cached maps on the GPU of `place` where they take no more than half of its free memory: then steps read
    /// them there. Where they stay on the disk although there is a GPU, `note` is told why.
    ///
    /// # Errors
    /// Of the GPU.
    pub fn kept_in(self, place: &Place, note: &dyn Fn(String)) -> Result<Self> {
        let (Self::Cached(caches), Some(room)) = (&self, place.room()?) else { return Ok(self) };
        let bytes: usize = caches.iter().map(FeatureCache::bytes).sum();
        if 2 * bytes > room {
            note(format!(
                "reads features from the disk at each step: they are {} MB, and the GPU has {} MB free, of which they may \
                 take half",
                bytes >> 20,
                room >> 20
            ));
            return Ok(self);
        }
        match caches.iter().map(|cache| cache.keep(place)).collect::<Result<Vec<_>>>() {
            Ok(maps) => Ok(Self::Kept { maps: maps.into(), shapes: self.shapes()? }),
            // Another program may have been faster.
            Err(error) => {
                note(format!("reads features from the disk at each step: {error:#}"));
                Ok(self)
            }
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
        Ok(FeatureMaps { maps: Maps::Given(maps), grid: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::feature_cache::{Header, Writer};
    use candle_core::{Device, Tensor};

    /// Caches of 5 slices: two blocks.
    fn caches(dir: &Path) -> Vec<FeatureCache> {
        let cache = |(at, (channels, side)): (usize, (usize, usize))| {
            let dir = dir.join(at.to_string());
            std::fs::create_dir(&dir).unwrap();
            let header = Header { slices: 5, channels, side };
            let maps = Tensor::rand(-3f32, 3f32, (5, channels, side, side), &Device::Cpu).unwrap();
            let mut writer = Writer::create(&dir, header).unwrap();
            writer.push(&maps).unwrap();
            writer.finish().unwrap();
            FeatureCache::open(&dir).unwrap()
        };
        [(3, 2), (2, 5)].into_iter().enumerate().map(cache).collect()
    }

    fn values(maps: &[Tensor]) -> Vec<Vec<f32>> {
        maps.iter().map(|map| map.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    #[test]
    fn maps_on_a_gpu_are_those_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let caches = caches(dir.path());
        let read = |rows: &[usize]| caches.iter().map(|cache| cache.rows(rows).unwrap()).collect::<Vec<_>>();
        let (few, all) = (read(&[4, 0]), read(&[4, 0, 2, 4]));
        let source = FeatureSource::Cached(caches).kept_in(&Place::cpu(), &|note| panic!("{note}")).unwrap();
        assert!(matches!(source, FeatureSource::Cached(_)), "the processor reads them from the disk");
        let Ok(place) = Place::emulated() else { return println!("skipped: no C++ compiler") };
        let source = source.kept_in(&place, &|note| panic!("{note}")).unwrap();
        let FeatureSource::Kept { maps, shapes } = source else { panic!("the emulation has room") };
        let side = |shape: &BlockShape| (shape.channels, shape.side);
        assert_eq!(shapes.iter().map(side).collect::<Vec<_>>(), [(3, 2), (2, 5)]);
        let kept = |rows: &[usize]| Maps::Kept { of: maps.clone(), rows: rows.to_vec() };
        place.run(|| {
            assert_eq!(values(&kept(&[4, 0]).tensors().unwrap()), values(&few));
            assert_eq!(values(&kept(&[4, 0]).joined(&kept(&[2, 4])).unwrap()), values(&all));
            let given = Maps::Given(few.clone());
            assert_eq!(values(&given.joined(&kept(&[2, 4])).unwrap()), values(&all));
        });
    }
}
