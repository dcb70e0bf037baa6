//! What a computation costs: operations, bytes, disk and memory, as pure functions of the settings. Nothing is built or
//! allocated, so that a plan of many thousand stages can be priced. `sweep bench` sets measured times beside the same
//! counts.

mod network;
mod networks;

pub use network::{Network, Update, Work, diffusion, unet};

use crate::diffusion::unet::blocks;
use crate::methods::{CLASSES, Needs};
use crate::spec::settings::{
    DataName, DiffusionSettings, EvaluateSplit, FeatureMode, Reduction, Settings, TestStream,
};
use crate::stage::StageKind;
use network::FLOAT;
use networks::Networks;

/// Bytes of the program itself, before it opens anything.
const PROGRAM: f64 = 24e6;
/// Bytes of an object's `meta.json` and the small files beside the large ones.
const SMALL_FILES: f64 = 4_000.0;
/// Images and steps of the sampled grid at the end of a pre-training.
const SAMPLES: (f64, f64) = (9.0, 25.0);
/// Slices of one forward pass at validation, test and feature extraction.
const SLICES_AT_ONCE: f64 = 8.0;

/// What a stage costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageCost {
    /// Operations and bytes.
    pub work: Work,
    /// Bytes that its result takes on disk.
    pub disk: u64,
    /// Bytes of memory at the peak, the program included: an estimate.
    pub memory: u64,
}

/// The size of a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Volumes of the training, validation and test splits.
    pub volumes: [usize; 3],
    /// Slices of the three.
    pub slices: [usize; 3],
    /// Voxels of all volumes.
    pub voxels: u64,
}

impl Facts {
    /// What a data set that has been read holds, from its volumes' (split, shape).
    ///
    /// The split is 0 for training, 1 for validation, 2 for test; the shape is (slices, rows, columns).
    pub fn of(volumes: impl IntoIterator<Item = (usize, [usize; 3])>) -> Self {
        let mut facts = Self { volumes: [0; 3], slices: [0; 3], voxels: 0 };
        for (split, shape) in volumes {
            facts.volumes[split] += 1;
            facts.slices[split] += shape[0];
            facts.voxels += shape.iter().product::<usize>() as u64;
        }
        facts
    }

    /// What is to be expected of a data set with `volumes` volumes and `train_patients` training patients (two volumes
    /// each), before it has been read: the phantom's mean over many seeds, ACDC's own averages.
    pub fn expected(name: DataName, train_patients: usize, volumes: usize) -> Self {
        // Slices of a volume in each split, pixels of a slice.
        let (slices, pixels) = match name {
            DataName::Phantom => ([8.9; 3], 13_600.0),
            DataName::Acdc | DataName::Own => ([9.371, 10.5, 9.5], 53_656.0),
            // The median volume of the labelled training cases: 11 slices of 256².
            DataName::Mnms => ([11.0; 3], 65_536.0),
        };
        let train = (2 * train_patients).min(volumes);
        let val = (volumes - train).div_ceil(3);
        let volumes = [train, val, volumes - train - val];
        let slices = [0, 1, 2].map(|i| (volumes[i] as f64 * slices[i]).round() as usize);
        let voxels = (slices.iter().sum::<usize>() as f64 * pixels) as u64;
        Self { volumes, slices, voxels }
    }

    /// Bytes of all volumes and labels.
    fn bytes(&self) -> f64 {
        5.0 * self.voxels as f64
    }
}

/// What the stage of `kind` costs for a point with these settings. `block` is the decoder block that a features stage
/// reads; the other kinds ignore it.
pub fn stage(kind: StageKind, settings: &Settings, block: Option<usize>, facts: &Facts) -> StageCost {
    match kind {
        StageKind::Prepare => prepare(facts),
        StageKind::Pretrain => pretrain(&settings.diffusion, settings.size, facts),
        StageKind::Features => features(&settings.diffusion, settings.size, block.unwrap_or(0), facts),
        StageKind::Train => train(settings, facts),
        StageKind::Evaluate => evaluate(settings, facts),
    }
}

/// What stages that run as one group cost together (the feature blocks of one diffusion step, which share the forward
/// pass of the deepest reader): the work of the most expensive, the disk of all.
pub fn group(stages: impl IntoIterator<Item = StageCost>) -> StageCost {
    stages.into_iter().fold(StageCost::default(), |all, one| StageCost {
        work: if one.work.flops > all.work.flops { one.work } else { all.work },
        disk: all.disk + one.disk,
        memory: all.memory.max(one.memory),
    })
}

fn cost(work: Work, disk: f64, memory: f64) -> StageCost {
    StageCost { work, disk: (disk + SMALL_FILES) as u64, memory: (memory + PROGRAM) as u64 }
}

/// Reading and checking, or generating, a data set.
pub fn prepare(facts: &Facts) -> StageCost {
    let volumes: usize = facts.volumes.iter().sum();
    let disk = facts.bytes() + 160.0 * volumes as f64 + 8.0 * facts.slices[0] as f64;
    cost(Work::moved(2.0 * facts.bytes()), disk, 1.3 * facts.bytes())
}

/// One step of the pre-training, `diffusion.batch` images of `side`².
pub fn diffusion_step(settings: &DiffusionSettings, side: usize) -> Work {
    let (net, batch) = (diffusion(settings, side, None), settings.batch as f64);
    net.forward(batch) + net.backward(batch, false) + net.update(Update::AdamWithAverage)
}

/// Bytes of memory of [`diffusion_step`].
pub fn diffusion_step_memory(settings: &DiffusionSettings, side: usize) -> f64 {
    let net = diffusion(settings, side, None);
    net.training_state(Update::AdamWithAverage) + net.training_memory(settings.batch as f64)
}

/// Training the diffusion model on images of `side`².
pub fn pretrain(settings: &DiffusionSettings, side: usize, facts: &Facts) -> StageCost {
    let net = diffusion(settings, side, None);
    let steps = settings.iterations as f64;
    let work = diffusion_step(settings, side) * steps + net.forward(SAMPLES.0) * SAMPLES.1;
    // The averaged weights, a row of the curve every 20 steps, the samples.
    let disk = net.file() + 280.0 * (steps / 20.0).ceil() + 0.9 * SAMPLES.0 * (side * side) as f64;
    cost(work, disk, facts.bytes() + diffusion_step_memory(settings, side))
}

/// One forward pass of `batch` images of `side`² that reads the decoder blocks up to `block`.
pub fn features_pass(settings: &DiffusionSettings, side: usize, block: usize, batch: f64) -> Work {
    diffusion(settings, side, Some(block + 1)).forward(batch)
}

/// Extracting one decoder block at one diffusion step from every training slice.
pub fn features(settings: &DiffusionSettings, side: usize, block: usize, facts: &Facts) -> StageCost {
    let slices = facts.slices[0] as f64;
    let net = diffusion(settings, side, Some(block + 1));
    let passes = (slices / SLICES_AT_ONCE).ceil();
    let weights = Work::moved(FLOAT * net.parameters);
    let map = blocks(settings, side).get(block).map_or(0, |map| map.channels * map.side * map.side);
    let work = net.forward(slices) + weights * (passes - 1.0).max(0.0);
    let whole = diffusion(settings, side, None);
    let memory = facts.bytes() + FLOAT * whole.parameters + net.inference_memory(slices.min(SLICES_AT_ONCE));
    cost(work, 2.0 * slices * map as f64, memory)
}

/// The networks of a method: stream f, and with its diffusion features stream g.
fn streams(settings: &Settings) -> (Network, Option<Network>) {
    let side = settings.size;
    let f = unet(1, CLASSES, &settings.unet, side);
    let g = Needs::of(settings).features.then(|| unet(settings.feature_dim, CLASSES, &settings.unet, side));
    (f, g)
}

/// Channels that the reduction reads, and (channels, side) of each map.
fn maps(settings: &Settings) -> (usize, Vec<(usize, usize)>) {
    let all = blocks(&settings.diffusion, settings.size);
    let chosen = settings.blocks.iter().filter_map(|&block| all.get(block));
    let one: Vec<(usize, usize)> = chosen.map(|map| (map.channels, map.side)).collect();
    let all: Vec<_> = settings.timesteps.iter().flat_map(|_| one.iter().copied()).collect();
    (all.iter().map(|(channels, _)| channels).sum(), all)
}

/// The reduction of the maps of `batch` images to `feature_dim` channels at full size, forward, and backward to its
/// weights where it learns.
pub fn reduction(settings: &Settings, batch: f64, backward: bool) -> Work {
    let (_, maps) = maps(settings);
    let dim = settings.feature_dim;
    let full = FLOAT * (dim * settings.size * settings.size) as f64;
    let mut work = Work::default();
    let mut sides = Vec::new();
    for (channels, side) in maps {
        let pixels = (side * side) as f64;
        let flops = 2.0 * (channels * dim) as f64 * pixels;
        let one = Work::done(flops, FLOAT * (channels + dim) as f64 * pixels);
        work += one * if backward { 2.0 } else { 1.0 };
        if !sides.contains(&side) {
            sides.push(side);
            // Sampled to full size, and added to the sum.
            let resized = FLOAT * dim as f64 * pixels + full;
            work += Work::moved((resized + 2.0 * full) * if backward { 2.0 } else { 1.0 });
        }
    }
    work * batch
}

/// The same reduction as the reference does it: every map up-sampled to full size, all of them concatenated, one 1×1
/// convolution.
pub fn reduction_at_full_size(settings: &Settings, batch: f64) -> Work {
    let (channels, maps) = maps(settings);
    let (dim, pixels) = (settings.feature_dim as f64, (settings.size * settings.size) as f64);
    let small: f64 = maps.iter().map(|(channels, side)| (channels * side * side) as f64).sum();
    let large = channels as f64 * pixels;
    let flops = 2.0 * channels as f64 * dim * pixels;
    Work::done(flops, FLOAT * (small + 4.0 * large + dim * pixels)) * batch
}

/// One training step of the method, `train.batch` slices of each kind that it uses; feature maps come from the cache
/// unless `features.mode` is online.
pub fn train_step(settings: &Settings) -> Work {
    let (f, g) = streams(settings);
    let batch = settings.train.batch as f64;
    let networks = Networks::of(settings);
    let (learned, looked) = settings.unet_passes();
    let (learned, looked) = (learned * batch, looked * batch);
    let mut work = f.forward(learned) + f.backward(learned, false) + f.forward(looked);
    work += f.update(Update::Sgd) * networks.learning;
    if let Some(g) = g {
        let weak = weak(settings);
        let learned = settings.features.reduction == Reduction::Learned;
        work += g.forward(weak) + g.backward(weak, learned) + g.update(Update::Sgd);
        work += reduction(settings, weak, learned);
        if settings.features.mode == FeatureMode::Online {
            work += extraction(settings, weak);
        }
    }
    work
}

/// Weak views of a step: of labelled and, where they are used, as many unlabelled images.
fn weak(settings: &Settings) -> f64 {
    settings.train.batch as f64 * if Needs::of(settings).unlabelled { 2.0 } else { 1.0 }
}

/// Reading all steps and blocks of `batch` images.
fn extraction(settings: &Settings, batch: f64) -> Work {
    let deepest = settings.blocks.iter().copied().max().unwrap_or(0);
    let passes = settings.timesteps.len() as f64;
    features_pass(&settings.diffusion, settings.size, deepest, batch) * passes
}

/// Bytes of memory of [`train_step`].
pub fn train_step_memory(settings: &Settings) -> f64 {
    let (f, g) = streams(settings);
    let (networks, weak) = (Networks::of(settings), weak(settings));
    let (learned, _) = settings.unet_passes();
    let mut bytes = f.training_state(Update::Sgd) * networks.learning
        + FLOAT * f.parameters * (networks.stored - networks.learning)
        + f.training_memory(learned * settings.train.batch as f64);
    if let Some(g) = g {
        let (channels, maps) = maps(settings);
        let small: f64 = maps.iter().map(|(channels, side)| (channels * side * side) as f64).sum();
        bytes += g.training_state(Update::Sgd) + g.training_memory(weak);
        bytes += 3.0 * FLOAT * (settings.feature_dim * channels) as f64 + 2.0 * FLOAT * small * weak;
        if settings.features.mode == FeatureMode::Online {
            bytes += diffusion_memory(settings, weak);
        }
    }
    bytes
}

/// The diffusion model, read for `batch` images.
fn diffusion_memory(settings: &Settings, batch: f64) -> f64 {
    let net = diffusion(&settings.diffusion, settings.size, None);
    FLOAT * net.parameters + net.inference_memory(batch)
}

/// Predicting `batch` slices, as validation and test do.
pub fn predict(settings: &Settings, batch: f64) -> Work {
    let (f, g) = streams(settings);
    match (g, settings.mcsd.test_stream) {
        (None, _) | (_, TestStream::Image) => f.forward(batch),
        (Some(g), stream) => {
            let read = extraction(settings, batch) + reduction(settings, batch, false) + g.forward(batch);
            if stream == TestStream::Mean { read + f.forward(batch) } else { read }
        }
    }
}

/// Training one point.
pub fn train(settings: &Settings, facts: &Facts) -> StageCost {
    let steps = settings.steps() as f64;
    let validations = (steps / settings.train.validate_every.max(1) as f64).ceil();
    let work = train_step(settings) * steps + predict(settings, facts.slices[1] as f64) * validations;
    let (f, g) = streams(settings);
    let mut file = f.file() * Networks::of(settings).stored;
    let mut row = 110.0;
    if let Some(g) = g {
        let reduced = (settings.feature_dim * (maps(settings).0 + 1)) as f64;
        file += g.file() + FLOAT * reduced + 240.0;
        row += 100.0;
    }
    // The best and the last network, a row of the curve every 10 steps.
    let disk = 2.0 * file + row * (steps / 10.0).ceil() + 2_000.0;
    cost(work, disk, facts.bytes() + train_step_memory(settings))
}

/// Evaluating one point.
pub fn evaluate(settings: &Settings, facts: &Facts) -> StageCost {
    let split = match settings.evaluate.split {
        EvaluateSplit::Val => 1,
        EvaluateSplit::Test => 2,
    };
    let (slices, volumes) = (facts.slices[split] as f64, facts.volumes[split] as f64);
    let (f, g) = streams(settings);
    let reads = g.is_some() && settings.mcsd.test_stream != TestStream::Image;
    let mut memory = facts.bytes() + FLOAT * f.parameters + f.inference_memory(SLICES_AT_ONCE);
    if let Some(g) = g {
        memory += FLOAT * g.parameters;
    }
    if reads {
        memory += diffusion_memory(settings, SLICES_AT_ONCE);
    }
    cost(predict(settings, slices), 190.0 * (CLASSES - 1) as f64 * volumes, memory)
}

#[cfg(test)]
mod tests;
