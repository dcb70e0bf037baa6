//! What a prepared data set costs: opening it, touching every slice, and drawing batches beside the steps they feed.
//!
//! `cargo bench --bench data` uses a phantom of 100 patients; `-- ROOT` the ACDC in that folder. `SIDE` and `BATCH` change the
//! batches (256, 8).
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use mcsd_sweep::data::{self, Dataset, SliceRef};
use mcsd_sweep::methods::{Step, build};
use mcsd_sweep::ops::{Mode, Sgd, Tape};
use mcsd_sweep::spec::settings::{DataName, Method, Preset, Settings};
use mcsd_sweep::train::features::FeatureSource;
use mcsd_sweep::train::sampler::Sampler;

/// Times of some rounds, sorted, in milliseconds.
fn times(rounds: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for round in 0..rounds {
        let start = Instant::now();
        run(round)?;
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> Result<()> {
    let root = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let mut settings = Settings::preset(Preset::Paper, Method::Supervised);
    if let Some(root) = root {
        (settings.data.name, settings.data.root) = (DataName::Acdc, root.into());
    }
    let dir = tempfile::tempdir()?;
    let start = Instant::now();
    data::prepare(&settings.data, &|_, _| Ok(()))?.save(dir.path())?;
    println!("prepared and saved in {:.1} s", start.elapsed().as_secs_f64());

    let open = times(20, |_| Dataset::open(dir.path()).map(|data| drop(black_box(data))))?;
    println!("opened in {:.2} ms (median of {}; the slowest took {:.2})", open[10], open.len(), open[19]);
    let data = Dataset::open(dir.path())?;
    let touch = times(5, |_| {
        let slices = data.cases().iter().enumerate().flat_map(|(case, found)| {
            (0..found.shape[0]).map(move |z| SliceRef { case: case as u32, z: z as u32 })
        });
        let mut sum = 0.0;
        for slice in slices {
            sum += data.slice(slice).image.iter().sum::<f32>();
        }
        black_box(sum);
        Ok(())
    })?;
    let slices: usize = data.cases().iter().map(|case| case.shape[0]).sum();
    println!("every pixel of {slices} slices summed in {:.0} ms (median of 5)", touch[2]);

    for method in [Method::Supervised, Method::Unimatch] {
        let mut settings =
            Settings { data: settings.data.clone(), ..Settings::preset(Preset::Paper, method) };
        (settings.size, settings.train.batch) = (env("SIDE", 256), env("BATCH", 8));
        let features = FeatureSource::None;
        let sampler = Sampler::new(&data, &settings, 7, &features)?;
        let batches = times(9, |round| sampler.batch(round).map(|batch| drop(black_box(batch))))?;
        let network = build(&settings, &[])?;
        let mut sgd = Sgd::new(0.9, 1e-4);
        let batch = sampler.batch(0)?;
        let steps = times(5, |round| {
            let tape = Tape::new(Mode::Train, round as u64);
            let losses = network.loss(&tape, &batch, Step { index: round, total: 100 })?;
            sgd.step(network.params().trainable(), &tape.backward(&losses.total)?, 0.01)
        })?;
        println!(
            "{}: a batch of {} at {}² in {:.1} ms, its step in {:.0} ms: 1/{:.0}",
            method.name(),
            settings.train.batch,
            settings.size,
            batches[4],
            steps[2],
            steps[2] / batches[4]
        );
    }
    Ok(())
}
