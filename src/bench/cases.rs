//! The cases: networks, random data, and one step of each.

use std::hint::black_box;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rand::Rng;

use super::Prepared;
use crate::cost::{self, Update, Work};
use crate::data::augment::Workspace;
use crate::data::{self, CutMix, Dataset, Geometry, Strong, quantise};
use crate::diffusion::reduction::{Reduction, map_shapes};
use crate::diffusion::schedule::{Schedule, draw, training_loss};
use crate::diffusion::unet::{BlockShape, DiffusionUNet, chosen_blocks};
use crate::methods::batch::{Batch, FeatureMaps, Maps, StrongViews, View};
use crate::methods::{self, CLASSES, Step};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{AdamW, Mode, Place, Sgd, Tape, Var, softmax_eval};
use crate::rng::stream;
use crate::spec::settings::{Method, Preset, Settings};
use crate::train::features::FeatureSource;
use crate::train::sampler::Sampler;

/// The paper's settings at `size`, the diffusion model that of `preset`.
pub(super) fn settings(preset: Preset, batch: usize, size: usize) -> Settings {
    let mut settings = Settings::preset(Preset::Paper, Method::Mcsd);
    settings.diffusion = Settings::preset(preset, Method::Mcsd).diffusion;
    settings.diffusion.batch = batch;
    (settings.train.batch, settings.size) = (batch, size);
    settings
}

/// Numbers in [0, 1), a function of the name and the shape.
pub(super) fn numbers(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut rng = stream(0, name, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random()).collect();
    Place::current().put(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Numbers below `end`.
pub(super) fn labels(name: &str, shape: (usize, usize, usize), end: u8) -> Result<Tensor> {
    let mut rng = stream(0, name, 0);
    let values: Vec<u8> = (0..shape.0 * shape.1 * shape.2).map(|_| rng.random_range(0..end)).collect();
    Place::current().put(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn unet(settings: &Settings) -> Result<(UNet, Params)> {
    let mut builder = Builder::new(0);
    let net = UNet::new(&mut builder, 1, CLASSES, &settings.unet)?;
    Ok((net, builder.finish()))
}

pub(super) fn unet_step(batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(Preset::Paper, batch, size);
    let (net, params) = unet(&settings)?;
    let images = numbers("images", &[batch, 1, size, size])?;
    let target = labels("target", (batch, size, size), CLASSES as u8)?;
    let mut sgd = Sgd::new(settings.train.momentum, settings.train.weight_decay);
    let count = cost::unet(1, CLASSES, &settings.unet, size);
    let images_of = batch as f64;
    let work = count.forward(images_of) + count.backward(images_of, false) + count.update(Update::Sgd);
    let memory = count.training_state(Update::Sgd) + count.training_memory(images_of);
    let parameters = params.count();
    let mut index = 0;
    let step = move || {
        let tape = Tape::new(Mode::Train, index);
        index += 1;
        let logits = net.forward(&tape, &tape.constant(&images))?;
        let cross_entropy = tape.cross_entropy(&logits, &target)?;
        let dice = tape.dice(&logits, &target, None, 1e-5)?;
        let loss = tape.weighted_sum(&[(0.5, &cross_entropy), (0.5, &dice)])?;
        drop(logits);
        sgd.step(params.trainable(), &tape.backward(&loss)?, 0.01)
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: Some(memory) })
}

pub(super) fn unet_inference(batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(Preset::Paper, batch, size);
    let (net, params) = unet(&settings)?;
    let images = numbers("images", &[batch, 1, size, size])?;
    let count = cost::unet(1, CLASSES, &settings.unet, size);
    let memory = 4.0 * (count.parameters + count.buffers) + count.inference_memory(batch as f64);
    let parameters = params.count();
    let step = move || {
        let tape = Tape::new(Mode::Eval, 0);
        let logits = net.forward(&tape, &tape.constant(&images))?;
        black_box(softmax_eval(logits.value())?);
        Ok(())
    };
    let work = count.forward(batch as f64);
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: Some(memory) })
}

/// Shapes of the maps that `settings` read.
pub(super) fn shapes(settings: &Settings) -> Result<Vec<BlockShape>> {
    let blocks = chosen_blocks(&settings.diffusion, settings.size, &settings.blocks)?;
    Ok(map_shapes(settings.timesteps.len(), &blocks))
}

/// Feature maps of `batch` images.
fn maps(shapes: &[BlockShape], batch: usize) -> Result<Vec<Tensor>> {
    let map = |shape: &BlockShape| numbers("maps", &[batch, shape.channels, shape.side, shape.side]);
    shapes.iter().map(map).collect()
}

/// Images with features that were moved as they were.
pub(super) fn view(settings: &Settings, shapes: &[BlockShape], name: &str) -> Result<View> {
    let (batch, size) = (settings.train.batch, settings.size);
    let mut rng = stream(0, name, 1);
    let grids: Vec<f32> =
        (0..batch).flat_map(|_| Geometry::draw(&mut rng, &settings.augment).grid(216, 256, size)).collect();
    let grid = Tensor::from_vec(grids, (batch, size, size, 2), &Device::Cpu)?;
    let grid = Some(Place::current().put(&grid)?);
    let features = Some(FeatureMaps { maps: Maps::Given(maps(shapes, batch)?), grid });
    Ok(View { image: numbers(name, &[batch, 1, size, size])?, features })
}

/// A batch of random numbers for MCSD.
pub(super) fn mcsd_batch(settings: &Settings, shapes: &[BlockShape]) -> Result<Batch> {
    let (batch, size) = (settings.train.batch, settings.size);
    let image = |name| numbers(name, &[batch, 1, size, size]);
    let pasted = |name| labels(name, (batch, size, size), 2);
    Ok(Batch {
        labelled: view(settings, shapes, "labelled")?,
        target: labels("target", (batch, size, size), CLASSES as u8)?,
        unlabelled: Some(view(settings, shapes, "unlabelled")?),
        strong: Some(StrongViews {
            images: [image("first")?, image("second")?],
            pasted: [pasted("first")?, pasted("second")?],
            partner: image("partner")?,
        }),
    })
}

pub(super) fn mcsd_step(batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(Preset::Lite, batch, size);
    let shapes = shapes(&settings)?;
    let method = methods::build(&settings, &shapes)?;
    let data = mcsd_batch(&settings, &shapes)?;
    let mut sgd = Sgd::new(settings.train.momentum, settings.train.weight_decay);
    let (work, memory) = (cost::train_step(&settings), cost::train_step_memory(&settings));
    let parameters = method.params().count();
    let mut index = 0;
    let step = move || {
        let tape = Tape::new(Mode::Train, index);
        let now = Step { index: index as usize, total: settings.steps() };
        index += 1;
        let losses = method.loss(&tape, &data, now)?;
        methods::update(&*method, &mut sgd, &tape.backward(&losses.total)?, 0.01, now)
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: Some(memory) })
}

fn diffusion(settings: &Settings) -> Result<(DiffusionUNet, Params)> {
    let mut builder = Builder::new(0);
    let net = DiffusionUNet::new(&mut builder, &settings.diffusion)?;
    Ok((net, builder.finish()))
}

pub(super) fn diffusion_step(preset: Preset, batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(preset, batch, size);
    let ((net, params), (_, average)) = (diffusion(&settings)?, diffusion(&settings)?);
    let images = numbers("images", &[batch, 1, size, size])?;
    let schedule = Schedule::default();
    let mut adam = AdamW::new(0.9, 0.999, 1e-8, 0.0);
    let (decay, lr) = (settings.diffusion.ema, settings.diffusion.lr);
    let work = cost::diffusion_step(&settings.diffusion, size);
    let memory = cost::diffusion_step_memory(&settings.diffusion, size);
    let parameters = params.count();
    let mut index = 0;
    let step = move || {
        let (t, noise) = draw(&mut stream(0, "noise", index), batch, size)?;
        let tape = Tape::new(Mode::Train, index);
        index += 1;
        let loss = training_loss(&tape, &net, &schedule, &images, &t, &noise)?;
        let gradients = tape.backward(&loss.loss)?;
        adam.step_and_average(params.trainable(), &gradients, lr, average.trainable(), decay)
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: Some(memory) })
}

pub(super) fn diffusion_inference(batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(Preset::Lite, batch, size);
    let (net, params) = diffusion(&settings)?;
    let x = numbers("images", &[batch, 1, size, size])?;
    let count = cost::diffusion(&settings.diffusion, size, None);
    let memory = 4.0 * count.parameters + count.inference_memory(batch as f64);
    let parameters = params.count();
    let times = vec![150; batch];
    let step = move || {
        let tape = Tape::new(Mode::Eval, 0);
        black_box(net.forward(&tape, &tape.constant(&x), &times)?);
        Ok(())
    };
    let work = count.forward(batch as f64);
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: Some(memory) })
}

pub(super) fn reduction(batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(Preset::Paper, batch, size);
    let shapes = shapes(&settings)?;
    let mut builder = Builder::new(0);
    let reduction = Reduction::new(&mut builder, settings.feature_dim, &shapes, true)?;
    let (params, maps) = (builder.finish(), maps(&shapes, batch)?);
    let work = cost::reduction(&settings, batch as f64, false);
    let parameters = params.count();
    let step = move || {
        let tape = Tape::new(Mode::Eval, 0);
        black_box(reduction.forward(&tape, &maps, size, None)?);
        Ok(())
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters, memory: None })
}

pub(super) fn reduction_at_full_size(batch: usize, size: usize) -> Result<Prepared> {
    let settings = settings(Preset::Paper, batch, size);
    let shapes = shapes(&settings)?;
    let channels: usize = shapes.iter().map(|shape| shape.channels).sum();
    let dim = settings.feature_dim;
    let (weight, bias) = (numbers("weight", &[dim, channels, 1, 1])?, numbers("bias", &[dim])?);
    let maps = maps(&shapes, batch)?;
    let work = cost::reduction_at_full_size(&settings, batch as f64);
    let step = move || {
        let tape = Tape::new(Mode::Eval, 0);
        let large = |map: &Tensor| tape.upsample_bilinear(&tape.constant(map), (size, size), false);
        let all = {
            let large = maps.iter().map(large).collect::<Result<Vec<Var>>>()?;
            tape.concat(&large.iter().collect::<Vec<_>>(), 1)?
        };
        let (weight, bias) = (tape.constant(&weight), tape.constant(&bias));
        black_box(tape.conv2d(&all, &weight, Some(&bias), 1, 0)?);
        Ok(())
    };
    Ok(Prepared { step: Box::new(step), repeats: 1, work, parameters: dim * (channels + 1), memory: None })
}

/// A slice as large as most of ACDC's, of smooth noise.
fn slice(height: usize, width: usize) -> Vec<f32> {
    let wave = |at: usize, period: f32| (at as f32 / period).sin();
    let mut rng = stream(0, "slice", 0);
    let pixel = |at: usize| {
        let smooth = 0.5 + 0.2 * wave(at / width, 17.0) + 0.2 * wave(at % width, 23.0);
        smooth + 0.1 * (rng.random::<f32>() - 0.5)
    };
    (0..height * width).map(pixel).collect()
}

/// Samples of one call: what is drawn, and so the time, differs from one to the next.
const SAMPLES: usize = 64;

/// One unlabelled sample as the reference's loader makes it: weak view, two strong views, two boxes; one thread.
pub(super) fn augment(batch: usize, size: usize) -> Result<Prepared> {
    ensure!(batch == 1, "augment makes one sample at a time: leave --batch out, or take `batch`");
    let settings = Settings::preset(Preset::Paper, Method::Mcsd).augment;
    let (height, width) = (216, 256);
    let source = slice(height, width);
    let mut workspace = Workspace::default();
    let mut images = [const { Vec::new() }; 3];
    for image in &mut images {
        image.resize(size * size, 0.0);
    }
    let mut index = 0;
    let mut sample = move || {
        let rng = &mut stream(0, "augment", index);
        index += 1;
        let [weak, strong @ ..] = &mut images;
        Geometry::draw(rng, &settings).write(&source, [height, width], weak, size, &mut workspace);
        quantise(weak);
        for image in strong {
            image.copy_from_slice(weak);
            Strong::draw(rng, &settings).apply_quantised(image, size, &mut workspace);
            black_box(CutMix::draw(rng, size, settings.cutmix));
        }
        black_box(&mut images);
    };
    let step = move || {
        (0..SAMPLES).for_each(|_| sample());
        Ok(())
    };
    // Each view is read and written a few times; there are no operations that a network would count.
    let bytes = 4.0 * (3 * 4 * size * size + height * width) as f64;
    Ok(Prepared {
        step: Box::new(step),
        repeats: SAMPLES,
        work: Work::moved(bytes),
        parameters: 0,
        memory: None,
    })
}

/// A whole batch as training draws it, from a phantom; all threads.
pub(super) fn batch(batch: usize, size: usize) -> Result<Prepared> {
    let mut settings = settings(Preset::Paper, batch, size);
    settings.dfm = false;
    settings.data.patients = 10;
    let data: &'static Dataset = Box::leak(Box::new(data::prepare(&settings.data, &|_, _| Ok(()))?));
    let settings: &'static Settings = Box::leak(Box::new(settings));
    let sampler = Sampler::new(data, settings, 2, &FeatureSource::None)?;
    let mut index = 0;
    let step = move || {
        black_box(sampler.batch(index)?);
        index += 1;
        Ok(())
    };
    let bytes = 4.0 * (batch * 20 * size * size) as f64;
    Ok(Prepared { step: Box::new(step), repeats: 1, work: Work::moved(bytes), parameters: 0, memory: None })
}
