//! The time and peak memory of a training step of every method, beside the sum of the passes that it consists of.
//!
//! `cargo bench --bench methods` prints a table; `-- NAME…` measures some methods. Each is measured in a process of its
//! own, on random images: 128×128, four labelled and four unlabelled; `SIDE` and `BATCH` change that.
//!
//! The passes are measured too: the same networks on the same images, forward and, where the method learns through them,
//! backward from a mean square, then one optimiser step over all parameters. What a method computes from logits, noise on
//! images and averages of weights are no part of them. Step and passes take turns, so that both meet the same machine, and
//! the fastest round of each counts, which other work disturbs least. `ROUNDS` is their number.
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use mcsd_sweep::diffusion::reduction::{Reduction, map_shapes};
use mcsd_sweep::diffusion::unet::{BlockShape, chosen_blocks};
use mcsd_sweep::methods::batch::{Batch, FeatureMaps, Maps, StrongViews, View};
use mcsd_sweep::methods::{CLASSES, Step, build};
use mcsd_sweep::nn::mcnet::McNet;
use mcsd_sweep::nn::params::{Builder, Params};
use mcsd_sweep::nn::swin::SwinUnet;
use mcsd_sweep::nn::unet::UNet;
use mcsd_sweep::ops::{Mode, Sgd, Tape, Var};
use mcsd_sweep::rng;
use mcsd_sweep::spec::settings::{Method, Preset, Settings};
use rand::Rng;

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn noise(shape: &[usize]) -> Result<Tensor> {
    let mut rng = rng::stream(0, "bench", shape.iter().product::<usize>() as u64);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn classes(shape: &[usize], below: u8) -> Result<Tensor> {
    let mut rng = rng::stream(1, "bench", below.into());
    let values: Vec<u8> = (0..shape.iter().product()).map(|_| rng.random_range(0..below)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// What one round does.
type Work<'a> = Box<dyn FnMut(usize) -> Result<()> + 'a>;

/// How long `work` takes in round `index`, in milliseconds.
fn time(work: &mut [Work], index: usize) -> Result<f64> {
    let start = Instant::now();
    work.iter_mut().try_for_each(|one| one(index))?;
    Ok(1e3 * start.elapsed().as_secs_f64())
}

/// The highest memory of this process so far, in MiB.
fn peak() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// Settings of a bench: the paper's, on small images.
fn settings(method: Method) -> Settings {
    let mut settings = Settings::preset(Preset::Paper, method);
    settings.size = env("SIDE", 128);
    settings.train.batch = env("BATCH", 4);
    settings.diffusion.channels = 64;
    settings.consistency.delay = 0;
    settings.bcp.pretrain = 0;
    // Divides 32, 16, 8 and 4.
    settings.swin.window = if settings.size.is_multiple_of(224) { 7 } else { 4 };
    settings
}

fn shapes(settings: &Settings) -> Result<Vec<BlockShape>> {
    if !settings.uses_features() {
        return Ok(vec![]);
    }
    let blocks = chosen_blocks(&settings.diffusion, settings.size, &settings.blocks)?;
    Ok(map_shapes(settings.timesteps.len(), &blocks))
}

fn view(settings: &Settings, shapes: &[BlockShape]) -> Result<View> {
    let (b, s) = (settings.train.batch, settings.size);
    let maps = shapes.iter().map(|shape| noise(&[b, shape.channels, shape.side, shape.side]));
    let maps = maps.collect::<Result<Vec<_>>>()?;
    let features = (!maps.is_empty()).then_some(FeatureMaps { maps: Maps::Given(maps), grid: None });
    Ok(View { image: noise(&[b, 1, s, s])?, features })
}

fn batch(settings: &Settings) -> Result<Batch> {
    let (b, s, shapes) = (settings.train.batch, settings.size, shapes(settings)?);
    let image = || noise(&[b, 1, s, s]);
    let strong = StrongViews {
        images: [image()?, image()?],
        pasted: [classes(&[b, s, s], 2)?, classes(&[b, s, s], 2)?],
        partner: image()?,
    };
    Ok(Batch {
        labelled: view(settings, &shapes)?,
        target: classes(&[b, s, s], CLASSES as u8)?,
        unlabelled: if settings.uses_unlabelled() { Some(view(settings, &shapes)?) } else { None },
        strong: settings.uses_strong().then_some(strong),
    })
}

/// A step of the method.
fn step(settings: &Settings) -> Result<Work<'static>> {
    let method = build(settings, &shapes(settings)?)?;
    let batch = batch(settings)?;
    let mut sgd = Sgd::new(0.9, 1e-4);
    Ok(Box::new(move |index| {
        let tape = Tape::new(Mode::Train, index as u64);
        let step = Step { index, total: 100 };
        let losses = method.loss(&tape, &batch, step)?;
        sgd.step(method.params().trainable(), &tape.backward(&losses.total)?, 1e-4)?;
        method.after_step(step)
    }))
}

/// Passes of networks alone.
struct Passes<'a> {
    settings: &'a Settings,
    all: Vec<Work<'a>>,
}

impl<'a> Passes<'a> {
    /// Forward and backward of a network on `count` images of `channels`, with an optimiser step over its parameters.
    fn learn<N>(
        &mut self,
        (count, channels): (usize, usize),
        make: impl Fn(&mut Builder) -> Result<N>,
        run: impl Fn(&N, &Tape, &Var) -> Result<Var> + 'a,
    ) -> Result<()>
    where
        N: 'a,
    {
        let mut builder = Builder::new(0);
        let net = make(&mut builder)?;
        let params: Params = builder.finish();
        let image = noise(&[count, channels, self.settings.size, self.settings.size])?;
        let mut sgd = Sgd::new(0.9, 1e-4);
        self.all.push(Box::new(move |index| {
            let tape = Tape::new(Mode::Train, index as u64);
            let y = run(&net, &tape, &tape.constant(&image))?;
            let loss = tape.mse(&y, &Tensor::zeros(y.dims(), candle_core::DType::F32, &Device::Cpu)?)?;
            sgd.step(params.trainable(), &tape.backward(&loss)?, 1e-4)
        }));
        Ok(())
    }

    fn unet(&self, channels: usize) -> impl Fn(&mut Builder) -> Result<UNet> + use<> {
        let settings = self.settings.unet.clone();
        move |b| UNet::new(b, channels, CLASSES, &settings)
    }

    fn learn_unet(&mut self, count: usize, channels: usize) -> Result<()> {
        let make = self.unet(channels);
        self.learn((count, channels), make, UNet::forward)
    }

    /// Forward alone of a U-Net.
    fn look(&mut self, count: usize, mode: Mode) -> Result<()> {
        let net = self.unet(1)(&mut Builder::new(0))?;
        let image = noise(&[count, 1, self.settings.size, self.settings.size])?;
        self.all.push(Box::new(move |index| {
            let tape = Tape::new(mode, index as u64);
            net.forward(&tape, &tape.constant(&image)).map(|_| ())
        }));
        Ok(())
    }
}

/// The passes of a step.
fn passes(settings: &Settings) -> Result<Vec<Work<'_>>> {
    let mut p = Passes { settings, all: vec![] };
    let b = settings.train.batch;
    let joined = |all: Vec<Var>, tape: &Tape| tape.concat(&all.iter().collect::<Vec<_>>(), 0);
    let (unet, swin) = (settings.unet.clone(), settings.swin.clone());
    // Encoder once, decoder on the features and their dropped copies.
    let perturbed = |net: &UNet, tape: &Tape, x: &Var| {
        let features = net.encode(tape, x)?;
        let both = features.iter().map(|f| tape.concat(&[f, &tape.dropout2d(f, 0.5)?], 0));
        net.decode(tape, &both.collect::<Result<Vec<_>>>()?)
    };
    match settings.method {
        Method::Supervised => p.learn_unet(b, 1)?,
        Method::MeanTeacher => {
            p.learn_unet(2 * b, 1)?;
            p.look(b, Mode::TrainNoGrad)?;
        }
        Method::UaMt => {
            p.learn_unet(2 * b, 1)?;
            p.look(b, Mode::TrainNoGrad)?;
            (0..4).try_for_each(|_| p.look(2 * b, Mode::TrainNoGrad))?;
        }
        Method::Urpc => p.learn(
            (2 * b, 1),
            |builder| mcsd_sweep::nn::pyramid::PyramidNet::new(builder, CLASSES, &unet),
            move |net, tape, x| joined(net.forward(tape, x, 0)?, tape),
        )?,
        Method::Cps => (0..2).try_for_each(|_| p.learn_unet(2 * b, 1))?,
        Method::CrossTeaching => {
            p.learn_unet(2 * b, 1)?;
            let make = |builder: &mut Builder| SwinUnet::new(builder, settings.size, CLASSES, &swin);
            p.learn((2 * b, 1), make, SwinUnet::forward)?;
        }
        Method::McNet | Method::McNetPlus => {
            let decoders = if settings.method == Method::McNet { 2 } else { 3 };
            p.learn(
                (2 * b, 1),
                |builder| McNet::new(builder, CLASSES, decoders, &unet),
                move |net, tape, x| joined(net.forward(tape, x)?, tape),
            )?;
        }
        Method::Bcp => (0..2).try_for_each(|_| {
            p.learn_unet(b / 2, 1)?;
            p.look(b / 2, Mode::TrainNoGrad)
        })?,
        Method::ScSsl => {
            (0..2).try_for_each(|_| p.learn_unet(2 * b, 1))?;
            p.learn_unet(2 * b, 1 + 2 * CLASSES)?;
        }
        Method::Unimatch => {
            p.look(b, Mode::Eval)?;
            let make = p.unet(1);
            p.learn((2 * b, 1), make, perturbed)?;
            p.learn_unet(2 * b, 1)?;
        }
        Method::Mcsd => {
            p.look(b, Mode::Eval)?;
            (0..2).try_for_each(|_| p.learn_unet(2 * b, 1))?;
            let shapes = shapes(settings)?;
            let (dim, side) = (settings.feature_dim, settings.size);
            let maps = shapes.iter().map(|shape| noise(&[2 * b, shape.channels, shape.side, shape.side]));
            let maps = maps.collect::<Result<Vec<_>>>()?;
            p.learn(
                (1, 1),
                |builder| {
                    let reduction = Reduction::new(builder, dim, &shapes, true)?;
                    Ok((reduction, UNet::new(builder, dim, CLASSES, &unet)?))
                },
                move |(reduction, net), tape, _| {
                    net.forward(tape, &reduction.forward(tape, &maps, side, None)?)
                },
            )?;
        }
    }
    Ok(p.all)
}

/// Measures one method in this process: a line of numbers.
fn measure(name: &str) -> Result<()> {
    let method = Method::ALL.into_iter().find(|method| method.name() == name);
    let settings = settings(method.with_context(|| format!("there is no method `{name}`"))?);
    let mut step = [step(&settings)?];
    time(&mut step, 0)?;
    time(&mut step, 1)?;
    let peak = peak()?;
    let mut passes = passes(&settings)?;
    time(&mut passes, 0)?;
    let mut fastest = [f64::INFINITY; 2];
    for round in 1..=env("ROUNDS", 15) {
        for (best, work) in fastest.iter_mut().zip([&mut step[..], &mut passes[..]]) {
            *best = best.min(time(work, round + 1)?);
        }
    }
    println!("{} {} {peak}", fastest[0], fastest[1]);
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [one, name] = &args[..]
        && one == "measure"
    {
        return measure(name);
    }
    println!("| method | step (ms) | its passes (ms) | ratio | peak memory (MiB) |\n|---|---|---|---|---|");
    for method in Method::ALL.iter().map(|method| method.name()) {
        if !(args.is_empty() || args.iter().any(|arg| arg == method)) {
            continue;
        }
        let output = Command::new(std::env::current_exe()?).args(["measure", method]).output()?;
        ensure!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [step, passes, peak] = numbers[..] else { anyhow::bail!("{method}: `{text}`") };
        println!("| {method} | {step:.0} | {passes:.0} | {:.2} | {peak:.0} |", step / passes);
    }
    Ok(())
}
