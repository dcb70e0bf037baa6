//! From a step's number to its batch.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::features::FeatureSource;
use super::prefetch::{ahead, in_turn};
use crate::data::augment::Workspace;
use crate::data::{CutMix, Dataset, Geometry, Slice, Strong, quantise};
use crate::methods::Needs;
use crate::methods::batch::{Batch, FeatureMaps, Maps, StrongViews, View};
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

    /// Calls `work` with a function that gives the batches of `steps`, in order. The next one is made on another thread
    /// while a step runs, but where features are computed online: that takes all threads and much memory itself.
    pub fn batches<R>(
        &self,
        steps: Range<usize>,
        work: impl FnOnce(&mut dyn FnMut() -> Result<Batch>) -> R,
    ) -> R {
        match self.features {
            FeatureSource::Online(_) => in_turn(steps, |step| self.batch(step), work),
            FeatureSource::None | FeatureSource::Cached(_) | FeatureSource::Kept { .. } => {
                ahead(steps, |step| self.batch(step), work)
            }
        }
    }

    /// The batch of step `step`, a function of the seed and `step` alone.
    pub fn batch(&self, step: usize) -> Result<Batch> {
        let drawn = self.draw("labelled", "weak/labelled", step, self.labelled, 0);
        let image = self.planes(self.weak(&drawn, false))?;
        let target = self.targets(&drawn)?;
        let labelled = self.view(&drawn, image)?;
        if !self.needs.unlabelled {
            return Ok(Batch { labelled, target, unlabelled: None, strong: None });
        }
        let offset = self.data.train_slices().len() - self.unlabelled;
        let drawn = self.draw("unlabelled", "weak/unlabelled", step, self.unlabelled, offset);
        let weak = self.weak(&drawn, self.settings.augment.quantise);
        let strong = if self.needs.strong { Some(self.strong_views(step, offset, &weak)?) } else { None };
        let unlabelled = Some(self.view(&drawn, self.planes(weak)?)?);
        Ok(Batch { labelled, target, unlabelled, strong })
    }

    /// The slices of step `step`: consecutive places in an endless row of shuffled passes over `n` slices from `offset`.
    fn draw(&self, purpose: &str, weak: &str, step: usize, n: usize, offset: usize) -> Vec<Drawn> {
        let Settings { seed, augment, train, .. } = self.settings;
        let indices = shuffled(*seed, purpose, step * train.batch, train.batch, n);
        let drawn = indices.into_iter().enumerate().map(|(i, index)| {
            let mut rng = stream(*seed, weak, (step * train.batch + i) as u64);
            Drawn { index: offset + index, weak: Geometry::draw(&mut rng, augment) }
        });
        drawn.collect()
    }

    fn slice(&self, drawn: &Drawn) -> Slice<'a> {
        self.data.slice(self.data.train_slices()[drawn.index])
    }

    /// Pixels of one image of the network.
    fn plane(&self) -> usize {
        self.settings.size * self.settings.size
    }

    /// Weak views, rounded to 8 bits if asked for.
    fn weak(&self, drawn: &[Drawn], rounded: bool) -> Vec<f32> {
        let side = self.settings.size;
        let mut images = vec![0.0; drawn.len() * self.plane()];
        let planes = images.par_chunks_exact_mut(self.plane()).zip(drawn);
        planes.for_each(|(out, drawn)| {
            let slice = self.slice(drawn);
            let size = [slice.height, slice.width];
            with_workspace(|workspace| drawn.weak.write(slice.image, size, out, side, workspace));
            if rounded {
                quantise(out);
            }
        });
        images
    }

    /// The labels of weak views.
    fn targets(&self, drawn: &[Drawn]) -> Result<Tensor> {
        let side = self.settings.size;
        let mut labels = vec![0; drawn.len() * self.plane()];
        let planes = labels.par_chunks_exact_mut(self.plane()).zip(drawn);
        planes.for_each(|(out, drawn)| {
            let slice = self.slice(drawn);
            let size = [slice.height, slice.width];
            with_workspace(|workspace| drawn.weak.write(slice.label, size, out, side, workspace));
        });
        Ok(Tensor::from_vec(labels, (drawn.len(), side, side), &Device::Cpu)?)
    }

    fn view(&self, drawn: &[Drawn], image: Tensor) -> Result<View> {
        let features = match self.features {
            FeatureSource::Cached(caches) if self.needs.features => {
                let rows = rows_of(drawn);
                let maps = caches.par_iter().map(|cache| cache.rows(&rows)).collect::<Result<_>>()?;
                Some(self.moved(Maps::Given(maps), drawn)?)
            }
            FeatureSource::Kept { maps, .. } if self.needs.features => {
                Some(self.moved(Maps::Kept { of: maps.clone(), rows: rows_of(drawn) }, drawn)?)
            }
            FeatureSource::Online(extractor) if self.needs.features => Some(extractor.maps(&image)?),
            _ => None,
        };
        Ok(View { image, features })
    }

    /// Maps of slices as they are, with how each is transformed.
    fn moved(&self, maps: Maps, drawn: &[Drawn]) -> Result<FeatureMaps> {
        let side = self.settings.size;
        let mut grids = vec![0.0; drawn.len() * 2 * self.plane()];
        let planes = grids.par_chunks_exact_mut(2 * self.plane()).zip(drawn);
        planes.for_each(|(out, drawn)| {
            let slice = self.slice(drawn);
            let size = [slice.height, slice.width];
            with_workspace(|workspace| drawn.weak.grid_into(size, out, side, workspace));
        });
        let grid = Tensor::from_vec(grids, (drawn.len(), side, side, 2), &Device::Cpu)?;
        Ok(FeatureMaps { maps, grid: Some(grid) })
    }

    fn strong_views(&self, step: usize, offset: usize, weak: &[f32]) -> Result<StrongViews> {
        let drawn = self.draw("partner", "weak/partner", step, self.unlabelled, offset);
        let partner = self.weak(&drawn, self.settings.augment.quantise);
        let branch = |names| self.strong_branch(names, step, weak, &partner);
        let ((first, first_pasted), (second, second_pasted)) = (branch(&STRONG[0])?, branch(&STRONG[1])?);
        Ok(StrongViews {
            images: [first, second],
            pasted: [first_pasted, second_pasted],
            partner: self.planes(partner)?,
        })
    }

    /// One strong view of each image, a box of the partner's strong view pasted in, and where it was.
    fn strong_branch(
        &self,
        names: &Streams,
        step: usize,
        weak: &[f32],
        partner: &[f32],
    ) -> Result<(Tensor, Tensor)> {
        let Settings { seed, augment, train, size: side, .. } = self.settings;
        let mut images = weak.to_vec();
        let mut pasted = vec![0; images.len()];
        let planes = images.par_chunks_exact_mut(self.plane()).zip(pasted.par_chunks_exact_mut(self.plane()));
        let planes = planes.zip(partner.par_chunks_exact(self.plane())).enumerate();
        planes.for_each(|(i, ((image, pasted), partner))| {
            let index = (step * train.batch + i) as u64;
            let strong = |name, image: &mut [f32], workspace: &mut Workspace| {
                let strong = Strong::draw(&mut stream(*seed, name, index), augment);
                // Jitter and blur are those of 8-bit images, whatever the weak view is.
                if !augment.quantise {
                    quantise(image);
                }
                strong.apply_quantised(image, *side, workspace);
            };
            with_workspace(|workspace| {
                strong(names.own, image, workspace);
                let cut = CutMix::draw(&mut stream(*seed, names.cutmix, index), *side, augment.cutmix);
                // Streams are named: a partner that nobody sees needs not be made.
                if let Some(cut) = cut {
                    let mut other = std::mem::take(&mut workspace.partner);
                    other.clear();
                    other.extend_from_slice(partner);
                    strong(names.partner, &mut other, workspace);
                    cut.apply(image, &other, *side);
                    cut.fill(pasted, 1, *side);
                    workspace.partner = other;
                }
            });
        });
        let shape = (train.batch, *side, *side);
        Ok((self.planes(images)?, Tensor::from_vec(pasted, shape, &Device::Cpu)?))
    }

    /// Images as `[B, 1, S, S]`.
    fn planes(&self, images: Vec<f32>) -> Result<Tensor> {
        let (b, side) = (images.len() / self.plane(), self.settings.size);
        Ok(Tensor::from_vec(images, (b, 1, side, side), &Device::Cpu)?)
    }
}

/// Their indices into the training slices.
fn rows_of(drawn: &[Drawn]) -> Vec<usize> {
    drawn.iter().map(|drawn| drawn.index).collect()
}

/// The names of the random streams of one branch of strong views.
struct Streams {
    own: &'static str,
    partner: &'static str,
    cutmix: &'static str,
}

const STRONG: [Streams; 2] = [
    Streams { own: "strong/own/0", partner: "strong/partner/0", cutmix: "cutmix/0" },
    Streams { own: "strong/own/1", partner: "strong/partner/1", cutmix: "cutmix/1" },
];

/// Runs `work` with this thread's memory for augmentation.
pub(super) fn with_workspace<R>(work: impl FnOnce(&mut Workspace) -> R) -> R {
    thread_local! {
        static WORKSPACE: RefCell<Workspace> = RefCell::default();
    }
    WORKSPACE.with_borrow_mut(work)
}

/// Places `start..start + len` of an endless row of passes over `0..n`, each pass in an order of its own.
pub(super) fn shuffled(seed: u64, purpose: &str, start: usize, len: usize, n: usize) -> Vec<usize> {
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
    use crate::spec::settings::{Method, Preset};

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

    fn numbers(batch: &Batch) -> Vec<Vec<f32>> {
        let strong = batch.strong.as_ref().unwrap();
        let unlabelled = &batch.unlabelled.as_ref().unwrap().image;
        let all = [
            &batch.labelled.image,
            &batch.target,
            unlabelled,
            &strong.images[0],
            &strong.images[1],
            &strong.pasted[0],
            &strong.pasted[1],
            &strong.partner,
        ];
        let values = |t: &&Tensor| t.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1();
        all.iter().map(|t| values(t).unwrap()).collect()
    }

    #[test]
    fn batches_ahead_are_batches_one_by_one_on_any_number_of_threads() {
        let mut settings = Settings::preset(Preset::Smoke, Method::Mcsd);
        (settings.dfm, settings.data.patients, settings.size) = (false, 10, 32);
        let data = crate::data::prepare(&settings.data, &|_, _| Ok(())).unwrap();
        let sampler = Sampler::new(&data, &settings, 2, &FeatureSource::None).unwrap();
        let expected: Vec<_> = (3..9).map(|step| numbers(&sampler.batch(step).unwrap())).collect();
        let ahead = |next: &mut dyn FnMut() -> Result<Batch>| {
            (3..9).map(|_| numbers(&next().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(sampler.batches(3..9, ahead), expected);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| (3..9).map(|step| numbers(&sampler.batch(step).unwrap())).collect());
            let found: Vec<_> = found;
            assert_eq!(found, expected, "{threads} threads");
        }
        let pasted = expected.iter().filter(|numbers| numbers[5].contains(&1.0)).count();
        assert!(pasted > 0, "boxes are pasted in some batches");
    }
}
