//! The cases in which data move: a training that makes its batches, and the extraction of features.

use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, Result};
use candle_core::Tensor;

use super::Prepared;
use super::cases::{self, numbers};
use crate::cost;
use crate::data::{self, Dataset};
use crate::diffusion::features::Extractor;
use crate::diffusion::unet::{BlockShape, DiffusionUNet};
use crate::methods::{self, Step};
use crate::nn::params::Builder;
use crate::ops::{Mode, Place, Rows, Sgd, Tape};
use crate::spec::settings::{Preset, Settings};
use crate::train::features::FeatureSource;
use crate::train::sampler::Sampler;

/// Patients of the phantom that batches are made from.
const PATIENTS: usize = 10;

/// Feature maps of all slices on the thread's GPU; none on the processor.
fn features(shapes: &[BlockShape], slices: usize) -> Result<FeatureSource> {
    let place = Place::current();
    if !place.is_gpu() {
        return Ok(FeatureSource::None);
    }
    let keep = |shape: &BlockShape| {
        Rows::load(&place, &[slices, shape.channels, shape.side, shape.side], &mut |piece| {
            // Halves between 0.5 and 1.
            piece.chunks_exact_mut(2).enumerate().for_each(|(at, half)| {
                half.copy_from_slice(&(0x3800 | ((at as u16).wrapping_mul(40_503) >> 6)).to_le_bytes());
            });
            Ok(())
        })
    };
    let maps = shapes.iter().map(keep).collect::<Result<Vec<_>>>()?;
    Ok(FeatureSource::Kept { maps: maps.into(), shapes: shapes.to_vec() })
}

/// Steps of MCSD on batches that another thread makes, as in a training. Features are on the GPU, from the 256-channel model;
/// a processor trains without them.
pub(super) fn mcsd(batch: usize, size: usize) -> Result<Prepared> {
    let mut settings = cases::settings(Preset::Paper, batch, size);
    settings.data.patients = PATIENTS;
    settings.dfm = Place::current().is_gpu();
    let data: &'static Dataset = Box::leak(Box::new(data::prepare(&settings.data, &|_, _| Ok(()))?));
    let shapes = if settings.dfm { cases::shapes(&settings)? } else { Vec::new() };
    let features: &'static FeatureSource = Box::leak(Box::new(features(&shapes, data.train_slices().len())?));
    let settings: &'static Settings = Box::leak(Box::new(settings));
    let method = methods::build(settings, &shapes)?;
    let sampler = Sampler::new(data, settings, 2, features)?;
    let (give, take) = sync_channel(0);
    thread::spawn(move || {
        let mut batches = (0..).map(|step| sampler.batch(step));
        // Until nobody takes them any more.
        while batches.next().is_some_and(|batch| give.send(batch).is_ok()) {}
    });
    let mut sgd = Sgd::new(settings.train.momentum, settings.train.weight_decay);
    let (work, memory) = (cost::train_step(settings), cost::train_step_memory(settings));
    let parameters = method.params().count();
    let mut index = 0;
    let step = move || {
        let batch = take.recv().context("the thread that makes batches has ended")??;
        let tape = Tape::new(Mode::Train, index);
        let now = Step { index: index as usize, total: settings.steps() };
        index += 1;
        let losses = method.loss(&tape, &batch.put(&Place::current())?, now)?;
        methods::update(&*method, &mut sgd, &tape.backward(&losses.total)?, 0.01, now)
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: Some(memory) })
}

/// Feature maps of `batch` images at one diffusion step of `preset`'s model, read back as they are for the cache.
pub(super) fn extraction(preset: Preset, batch: usize, size: usize) -> Result<Prepared> {
    let settings = cases::settings(preset, batch, size);
    let mut builder = Builder::new(0);
    let net = DiffusionUNet::new(&mut builder, &settings.diffusion)?;
    let parameters = builder.finish().count();
    let images = numbers("images", &[batch, 1, size, size])?;
    let deepest = settings.blocks.iter().copied().max().unwrap_or(0);
    let work = cost::features_pass(&settings.diffusion, size, deepest, batch as f64);
    let step = move || {
        let extractor = Extractor::new(&net, size, 0)?;
        for map in extractor.extract(&images, 150, &settings.blocks)? {
            black_box(read(&map)?);
        }
        Ok(())
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: None })
}

fn read(map: &Tensor) -> Result<Vec<f32>> {
    Ok(map.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::check::tests::emulated;

    #[test]
    fn features_are_extracted_and_read_by_a_training_on_a_gpu() {
        let mut extraction = extraction(Preset::Smoke, 2, 32).unwrap();
        (extraction.step)().unwrap();
        assert!(extraction.work.flops > 0.0);
        let Some(place) = emulated() else { return };
        let shapes = [BlockShape { channels: 3, side: 4 }];
        let FeatureSource::Kept { maps, .. } = place.run(|| features(&shapes, 7)).unwrap() else {
            panic!("a GPU keeps them")
        };
        let values = place.run(|| read(&maps[0].gather(&[6, 1]).unwrap())).unwrap();
        assert_eq!(values.len(), 2 * 3 * 16);
        assert!(values.iter().all(|value| (0.5..1.0).contains(value)), "{values:?}");
    }
}
