//! From a step's number to its batch.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::feature_cache::FeatureCache;
use super::features::FeatureSource;
use crate::data::{CutMix, Dataset, Geometry, SliceRef, Strong, quantise};
use crate::methods::Needs;
use crate::methods::batch::{Batch, FeatureMaps, StrongViews, View};
use crate::rng::stream;
use crate::spec::settings::Settings;

/// Draws batches.
pub struct Sampler<'a> {
    data: &'a Dataset,
    settings: &'a Settings,
    features: &'a FeatureSource,
    needs: Needs,
    labelled: usize,
    unlabelled: usize,
}

/// Pixels and labels, image by image.
type Planes = (Vec<Vec<f32>>, Vec<Vec<u8>>);

/// A slice at its native size after drawing how it is transformed.
struct Drawn {
    /// Index into the data set's training slices.
    index: usize,
    weak: Geometry,
}

impl<'a> Sampler<'a> {
    /// A sampler over the first patients' slices as labelled and the rest as unlabelled ones.
    pub fn new(
        data: &'a Dataset,
        settings: &'a Settings,
        patients: usize,
        features: &'a FeatureSource,
    ) -> Result<Self> {
        let (labelled, unlabelled) = data.labelled(patients)?;
        let needs = Needs::of(settings);
        ensure!(
            !(needs.unlabelled && unlabelled.is_empty()),
            "all {patients} training patients are labelled: nothing is left for consistency; lower label_ratio"
        );
        Ok(Self { data, settings, features, needs, labelled: labelled.len(), unlabelled: unlabelled.len() })
    }

    /// The batch of step `step`, a function of the seed and `step` alone.
    pub fn batch(&self, step: usize) -> Result<Batch> {
        let labelled = self.draw("labelled", step, self.labelled, 0);
        let (images, targets) = self.weak_views(&labelled, true);
        let target = self.labels(&targets)?;
        let labelled = self.view(&labelled, &images)?;
        if !self.needs.unlabelled {
            return Ok(Batch { labelled, target, unlabelled: None, strong: None });
        }
        let offset = self.data.train_slices().len() - self.unlabelled;
        let drawn = self.draw("unlabelled", step, self.unlabelled, offset);
        let (images, _) = self.weak_views(&drawn, false);
        let strong = if self.needs.strong { Some(self.strong_views(step, offset, &images)?) } else { None };
        let unlabelled = Some(self.view(&drawn, &images)?);
        Ok(Batch { labelled, target, unlabelled, strong })
    }

    /// The slices of step `step`: consecutive places in an endless row of shuffled passes over `n` slices from `offset`.
    fn draw(&self, purpose: &str, step: usize, n: usize, offset: usize) -> Vec<Drawn> {
        let batch = self.settings.train.batch;
        shuffled(self.settings.seed, purpose, step * batch, batch, n)
            .into_iter()
            .enumerate()
            .map(|(i, index)| {
                let mut rng =
                    stream(self.settings.seed, &format!("weak/{purpose}"), (step * batch + i) as u64);
                Drawn { index: offset + index, weak: Geometry::draw(&mut rng, &self.settings.augment) }
            })
            .collect()
    }

    fn slice(&self, index: usize) -> SliceRef {
        self.data.train_slices()[index]
    }

    /// Weak views, pixels and labels; those of unlabelled images are rounded to 8 bits (`specs` §9).
    fn weak_views(&self, drawn: &[Drawn], labelled: bool) -> Planes {
        let side = self.settings.size;
        let views = drawn.par_iter().map(|drawn| {
            let slice = self.data.slice(self.slice(drawn.index));
            let mut image = drawn.weak.image(slice.image, slice.height, slice.width, side);
            let label = if labelled {
                drawn.weak.label(slice.label, slice.height, slice.width, side)
            } else {
                quantise(&mut image);
                Vec::new()
            };
            (image, label)
        });
        views.unzip()
    }

    fn view(&self, drawn: &[Drawn], images: &[Vec<f32>]) -> Result<View> {
        let image = self.images(images)?;
        let features = match self.features {
            FeatureSource::Cached(caches) if self.needs.features => Some(self.cached(caches, drawn)?),
            FeatureSource::Online(extractor) if self.needs.features => Some(extractor.maps(&image)?),
            _ => None,
        };
        Ok(View { image, features })
    }

    fn cached(&self, caches: &[FeatureCache], drawn: &[Drawn]) -> Result<FeatureMaps> {
        let side = self.settings.size;
        let rows: Vec<_> = drawn.iter().map(|drawn| drawn.index).collect();
        let maps = caches.par_iter().map(|cache| cache.rows(&rows)).collect::<Result<Vec<_>>>()?;
        let grids: Vec<_> = drawn
            .par_iter()
            .map(|drawn| {
                let slice = self.data.slice(self.slice(drawn.index));
                drawn.weak.grid(slice.height, slice.width, side)
            })
            .collect();
        let grid = Tensor::from_vec(grids.concat(), (drawn.len(), side, side, 2), &Device::Cpu)?;
        Ok(FeatureMaps { maps, grid: Some(grid) })
    }

    fn strong_views(&self, step: usize, offset: usize, weak: &[Vec<f32>]) -> Result<StrongViews> {
        let settings = self.settings;
        let (batch, side) = (settings.train.batch, settings.size);
        let partner = self.draw("partner", step, self.unlabelled, offset);
        let (partner, _) = self.weak_views(&partner, false);
        let branch = |k: usize| -> Result<(Tensor, Tensor)> {
            let views: Vec<(Vec<f32>, Vec<u8>)> = (0..batch)
                .into_par_iter()
                .map(|i| {
                    let index = (step * batch + i) as u64;
                    let strong = |what: &str, image: &[f32]| {
                        let mut rng = stream(settings.seed, &format!("strong/{what}/{k}"), index);
                        let mut image = image.to_vec();
                        Strong::draw(&mut rng, &settings.augment).apply(&mut image, side);
                        image
                    };
                    let (mut image, other) = (strong("own", &weak[i]), strong("partner", &partner[i]));
                    let mut pasted = vec![0; side * side];
                    let mut rng = stream(settings.seed, &format!("cutmix/{k}"), index);
                    if let Some(cut) = CutMix::draw(&mut rng, side, settings.augment.cutmix) {
                        cut.apply(&mut image, &other, side);
                        cut.apply(&mut pasted, &vec![1; side * side], side);
                    }
                    (image, pasted)
                })
                .collect();
            let (images, pasted): (Vec<_>, Vec<_>) = views.into_iter().unzip();
            Ok((self.images(&images)?, self.labels(&pasted)?))
        };
        let ((first, first_pasted), (second, second_pasted)) = (branch(0)?, branch(1)?);
        Ok(StrongViews {
            images: [first, second],
            pasted: [first_pasted, second_pasted],
            partner: self.images(&partner)?,
        })
    }

    fn images(&self, images: &[Vec<f32>]) -> Result<Tensor> {
        let (b, side) = (images.len(), self.settings.size);
        Ok(Tensor::from_vec(images.concat(), (b, 1, side, side), &Device::Cpu)?)
    }

    fn labels(&self, labels: &[Vec<u8>]) -> Result<Tensor> {
        let (b, side) = (labels.len(), self.settings.size);
        Ok(Tensor::from_vec(labels.concat(), (b, side, side), &Device::Cpu)?)
    }
}

/// Places `start..start + len` of an endless row of passes over `0..n`, each pass in an order of its own.
fn shuffled(seed: u64, purpose: &str, start: usize, len: usize, n: usize) -> Vec<usize> {
    let mut pass: Option<(usize, Arc<[usize]>)> = None;
    (start..start + len)
        .map(|place| {
            let number = place / n;
            let order = match &pass {
                Some((current, order)) if *current == number => order.clone(),
                _ => {
                    let mut order: Vec<usize> = (0..n).collect();
                    order.shuffle(&mut stream(seed, purpose, number as u64));
                    let order: Arc<[usize]> = order.into();
                    pass = Some((number, order.clone()));
                    order
                }
            };
            order[place % n]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pass_visits_every_slice_once() {
        let both = shuffled(3, "labelled", 0, 10, 5);
        for pass in both.chunks(5) {
            let mut seen = pass.to_vec();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
        }
        assert_ne!(both[..5], both[5..], "each pass has an order of its own");
    }

    #[test]
    fn a_batch_can_start_anywhere() {
        let all = shuffled(3, "labelled", 0, 30, 7);
        assert_eq!(shuffled(3, "labelled", 11, 9, 7), all[11..20]);
    }
}
