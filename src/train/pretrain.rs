//! Pre-training of the diffusion model on all training slices, without labels (`specs` §10.1).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::prefetch::ahead;
use super::sampler::{shuffled, with_workspace};
use super::{Checkpoints, Diverged, Monitor, Outcome, Progress, Row, checkpoint, json_lines};
use crate::data::{Dataset, Geometry};
use crate::diffusion::sample::{Picture, Sampling, ddim, grid};
use crate::diffusion::schedule::{STEPS, Schedule, draw, training_loss};
use crate::diffusion::unet::DiffusionUNet;
use crate::nn::params::{Builder, Params};
use crate::ops::{AdamW, Figure, Mode, Place, Tape};
use crate::rng::{stream, stream_seed};
use crate::spec::settings::{AugmentSettings, DiffusionSettings};
use crate::spec::stages::PretrainSettings;
use crate::store::files;

/// The moving average of the weights: what features are read from.
pub const EMA: &str = "ema.safetensors";
/// The loss by diffusion step, in ten bins, over the training: one JSON object a line.
pub const HISTORY: &str = "history.jsonl";
/// A grid of sampled images.
pub const SAMPLES: &str = "samples.png";

/// Steps between two rows of the curve, at most.
const ROW_EVERY: usize = 20;
/// Bins of the loss by diffusion step.
const BINS: usize = 10;
/// Images on each side of the sampled grid.
const GRID: usize = 3;
/// Steps of the DDIM sampler.
const DDIM_STEPS: usize = 25;

#[derive(Serialize, Deserialize)]
struct State {
    step: usize,
    history: Vec<Row>,
    /// Sum of losses and count, by bin of the diffusion step, since the last row.
    bins: [(f64, usize); BINS],
}

/// A model under training.
struct Run<'a> {
    settings: &'a PretrainSettings,
    net: DiffusionUNet,
    params: Params,
    average: Params,
    optimiser: AdamW,
    schedule: Schedule,
    state: State,
    /// Losses of steps that are not in the state's bins yet: a GPU may still be computing them.
    waiting: Vec<Waiting>,
    /// The newest loss that was read.
    loss: Option<f64>,
}

/// The losses of a step.
struct Waiting {
    step: usize,
    t: Vec<usize>,
    total: Figure,
    per_sample: Tensor,
}

/// Trains the diffusion model and writes [`EMA`], [`HISTORY`] and [`SAMPLES`] into `dir`. Continues from a checkpoint
/// that it finds there. With 0 iterations the weights are the random start.
pub fn pretrain(
    settings: &PretrainSettings,
    data: &Dataset,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<Outcome> {
    let mut run = Run::start(settings, dir, monitor)?;
    let total = settings.diffusion.iterations;
    let mut checkpoints = Checkpoints::new(monitor);
    let make = |step| Drawn::of(settings, data, step);
    let finished = ahead(run.state.step..total, make, |next| -> Result<bool> {
        while run.state.step < total {
            if monitor.stopped() {
                return Ok(false);
            }
            run.step(&next()?)?;
            let step = run.state.step;
            if step.is_multiple_of(ROW_EVERY) || step == total {
                run.settle()?;
                let row = run.row();
                run.state.history.push(row);
            }
            monitor.progress(Progress { done: step, total, unit: "step", loss: run.loss, note: None });
            if step < total {
                checkpoints.when_due(|| run.save(dir))?;
            }
        }
        Ok(true)
    })?;
    if !finished {
        run.save(dir)?;
        return Ok(Outcome::Stopped);
    }
    run.finish(dir, monitor)
}

/// What a step draws, a function of its number: made on another thread while the step before runs.
struct Drawn {
    images: Tensor,
    t: Vec<usize>,
    noise: Tensor,
}

impl Drawn {
    fn of(settings: &PretrainSettings, data: &Dataset, step: usize) -> Result<Self> {
        let DiffusionSettings { batch, seed, .. } = settings.diffusion;
        let images = images(settings, data, step)?;
        let (t, noise) = draw(&mut stream(seed, "diffusion/noise", step as u64), batch, settings.size)?;
        Ok(Self { images, t, noise })
    }
}

/// A model to read features from: the weights of [`EMA`] in the pre-training's folder `dir`.
pub fn load(settings: &PretrainSettings, dir: &Path) -> Result<DiffusionUNet> {
    let (net, params) = build(settings)?;
    params.from_safetensors(&dir.join(EMA))?;
    Ok(net)
}

fn build(settings: &PretrainSettings) -> Result<(DiffusionUNet, Params)> {
    let mut builder = Builder::new(stream_seed(settings.diffusion.seed, "diffusion/init", 0));
    let net = DiffusionUNet::new(&mut builder, &settings.diffusion)?;
    Ok((net, builder.finish()))
}

impl<'a> Run<'a> {
    fn start(settings: &'a PretrainSettings, dir: &Path, monitor: &dyn Monitor) -> Result<Self> {
        let (net, params) = build(settings)?;
        let average = build(settings)?.1;
        let state = State { step: 0, history: Vec::new(), bins: [(0.0, 0); BINS] };
        let optimiser = AdamW::new(0.9, 0.999, 1e-8, 0.0);
        let schedule = Schedule::default();
        let (waiting, loss) = (Vec::new(), None);
        let mut run = Self { settings, net, params, average, optimiser, schedule, state, waiting, loss };
        if let Some((mut tensors, state)) = checkpoint::load(&dir.join(checkpoint::FILE), monitor)? {
            run.state = state;
            run.optimiser.load_state(&checkpoint::take::<Vec<_>>(&mut tensors, "optimiser/"))?;
            let average: BTreeMap<_, _> = checkpoint::take(&mut tensors, "ema/");
            run.average.load(&average).context("restore the checkpoint")?;
            run.params.load(&tensors).context("restore the checkpoint")?;
            monitor.note(format!("continues from step {}", run.state.step));
        }
        Ok(run)
    }

    fn step(&mut self, drawn: &Drawn) -> Result<()> {
        let DiffusionSettings { lr, ema: decay, seed, .. } = self.settings.diffusion;
        let step = self.state.step;
        let Drawn { images, t, noise } = drawn;
        let tape = Tape::new(Mode::Train, stream_seed(seed, "diffusion/dropout", step as u64));
        let loss = training_loss(&tape, &self.net, &self.schedule, images, t, noise)?;
        let total = Figure::of(loss.loss.value())?;
        self.waiting.push(Waiting { step, t: t.clone(), total, per_sample: loss.per_sample });
        // A GPU is not waited for at each step.
        if !Place::current().is_gpu() {
            self.settle()?;
        }
        let gradients = tape.backward(&loss.loss)?;
        let trainable = self.params.trainable();
        self.optimiser.step_and_average(trainable, &gradients, lr, self.average.trainable(), decay)?;
        self.state.step += 1;
        Ok(())
    }

    /// Reads what is waiting into the bins.
    ///
    /// # Errors
    /// [`Diverged`] where a loss is no number.
    fn settle(&mut self) -> Result<()> {
        for Waiting { step, t, total, per_sample } in self.waiting.drain(..) {
            let (loss, value) = (total.read()?, self.settings.diffusion.lr);
            ensure!(loss.is_finite(), Diverged { step, loss, setting: "diffusion.lr", value });
            for (t, loss) in t.iter().zip(per_sample.to_vec1::<f32>()?) {
                let bin = &mut self.state.bins[t * BINS / STEPS];
                *bin = (bin.0 + f64::from(loss), bin.1 + 1);
            }
            self.loss = Some(loss);
        }
        Ok(())
    }

    /// The mean losses since the last row, overall and by bin of the diffusion step.
    fn row(&mut self) -> Row {
        let bins = std::mem::replace(&mut self.state.bins, [(0.0, 0); BINS]);
        let mut row = Row::new();
        row.insert("step".into(), self.state.step.into());
        let (sum, count) = bins.iter().fold((0.0, 0), |(sum, count), bin| (sum + bin.0, count + bin.1));
        row.insert("loss".into(), (sum / count as f64).into());
        for (i, (sum, count)) in bins.iter().enumerate().filter(|(_, bin)| bin.1 > 0) {
            row.insert(format!("loss_t{}", i * STEPS / BINS), (sum / *count as f64).into());
        }
        row
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        self.settle()?;
        let moments = self.optimiser.state()?;
        let moments = checkpoint::prefixed("optimiser/", moments.iter().map(|(name, t)| (name.as_str(), t)));
        let average = checkpoint::prefixed("ema/", self.average.named());
        let tensors = checkpoint::prefixed("", self.params.named()).chain(moments).chain(average).collect();
        checkpoint::save(&dir.join(checkpoint::FILE), tensors, &self.state)
    }

    fn finish(mut self, dir: &Path, monitor: &dyn Monitor) -> Result<Outcome> {
        self.average.to_safetensors(&dir.join(EMA))?;
        files::write_unsynced(&dir.join(HISTORY), &json_lines(&self.state.history)?)?;
        let (side, seed) = (self.settings.size, self.settings.diffusion.seed);
        let sampling = Sampling { count: GRID * GRID, side, steps: DDIM_STEPS, seed };
        let net = load(self.settings, dir)?;
        let samples = ddim(&net, &self.schedule, sampling, |_, _| {
            ensure!(!monitor.stopped(), "stopped");
            Ok(())
        });
        if monitor.stopped() {
            self.save(dir)?;
            return Ok(Outcome::Stopped);
        }
        write_png(&grid(&samples?, GRID)?, &dir.join(SAMPLES))?;
        let loss = self.state.history.last().and_then(|row| row.get("loss")).cloned();
        let summary: Value =
            json!({ "steps": self.state.step, "loss": loss, "parameters": self.params.count() });
        Ok(Outcome::Finished(summary))
    }
}

/// Writes a grey picture as PNG.
fn write_png(picture: &Picture, path: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.pixels)?;
    writer.finish()?;
    files::write_atomic(path, bytes)
}

/// The images of step `step`, `[B, 1, S, S]` in `[0, 1]`: shuffled passes over all training slices, weakly augmented.
fn images(settings: &PretrainSettings, data: &Dataset, step: usize) -> Result<Tensor> {
    let DiffusionSettings { batch, seed, .. } = settings.diffusion;
    let slices = data.train_slices();
    let PretrainSettings { flip, rotate, .. } = *settings;
    let augment = AugmentSettings { flip, rotate, jitter: 0.0, blur: 0.0, cutmix: 0.0, quantise: false };
    let (side, plane) = (settings.size, settings.size * settings.size);
    let order = shuffled(seed, "diffusion/order", step * batch, batch, slices.len());
    let mut pixels = vec![0.0; batch * plane];
    pixels.par_chunks_exact_mut(plane).zip(order).enumerate().for_each(|(i, (out, index))| {
        let slice = data.slice(slices[index]);
        let weak = Geometry::draw(&mut stream(seed, "diffusion/weak", (step * batch + i) as u64), &augment);
        let size = [slice.height, slice.width];
        with_workspace(|workspace| weak.write(slice.image, size, out, side, workspace));
    });
    Ok(Tensor::from_vec(pixels, (batch, 1, side, side), &Device::Cpu)?)
}
