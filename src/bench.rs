//! Whole steps, timed on this machine: what `sweep bench` runs. The same cases are built in PyTorch by
//! `scripts/bench_pytorch.py`, and their counts are those of [`crate::cost`].

mod cases;
pub mod check;
pub mod follow;
mod loading;
pub mod machine;
pub mod parts;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cost::Work;
use crate::ops::Place;
use crate::spec::settings::Preset;
use machine::Memory;

/// A step that can be timed.
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What one step is.
    pub about: &'static str,
    /// Batch and side of the images, unless asked otherwise.
    pub sizes: &'static [(usize, usize)],
    /// Whether it runs only where it is named: it is made for a GPU.
    pub alone: bool,
    build: fn(usize, usize) -> Result<Prepared>,
}

/// The cases, in the order in which they are run.
pub const CASES: [Case; 12] = [
    Case {
        name: "unet",
        about: "training step of the U-Net: forward, ½(cross-entropy + Dice), backward, SGD",
        sizes: &[(4, 256), (8, 64)],
        alone: false,
        build: cases::unet_step,
    },
    Case {
        name: "mcsd",
        about: "training step of MCSD: B labelled, B unlabelled, B mix partners, features cached, 64-channel model",
        sizes: &[(4, 128)],
        alone: false,
        build: cases::mcsd_step,
    },
    Case {
        name: "diffusion",
        about: "training step of the 64-channel diffusion U-Net: noise, forward, backward, AdamW, average",
        sizes: &[(4, 64)],
        alone: false,
        build: |batch, size| cases::diffusion_step(Preset::Lite, batch, size),
    },
    Case {
        name: "unet-inference",
        about: "class probabilities of the U-Net",
        sizes: &[(4, 256), (8, 64)],
        alone: false,
        build: cases::unet_inference,
    },
    Case {
        name: "diffusion-inference",
        about: "predicted noise of the 64-channel diffusion U-Net",
        sizes: &[(4, 64)],
        alone: false,
        build: cases::diffusion_inference,
    },
    Case {
        name: "features",
        about: "3 steps × 3 blocks of the 256-channel model reduced to 30 channels at their own resolutions",
        sizes: &[(1, 256)],
        alone: false,
        build: cases::reduction,
    },
    Case {
        name: "features-upsampled",
        about: "the same as the reference does it: up-sample, concatenate, convolve",
        sizes: &[(1, 256)],
        alone: false,
        build: cases::reduction_at_full_size,
    },
    Case {
        name: "augment",
        about: "one unlabelled 216×256 slice: weak view and two strong ones with their CutMix boxes",
        sizes: &[(1, 256)],
        alone: false,
        build: cases::augment,
    },
    Case {
        name: "batch",
        about: "a whole MCSD batch of B + B slices and B partners, without features",
        sizes: &[(8, 256)],
        alone: false,
        build: cases::batch,
    },
    Case {
        name: "diffusion-256",
        about: "as diffusion, of the paper's 256-channel model; run where it is named",
        sizes: &[(4, 256)],
        alone: true,
        build: |batch, size| cases::diffusion_step(Preset::Paper, batch, size),
    },
    Case {
        name: "extraction",
        about: "feature maps of one diffusion step of the 256-channel model, read back; run where it is named",
        sizes: &[(8, 256)],
        alone: true,
        build: |batch, size| loading::extraction(Preset::Paper, batch, size),
    },
    Case {
        name: "mcsd-loading",
        about: "as mcsd, on batches that another thread makes, features of the 256-channel model kept on the GPU (a \
                processor: none); run where it is named",
        sizes: &[(8, 256)],
        alone: true,
        build: loading::mcsd,
    },
];

/// A case at one size, ready to be stepped.
struct Prepared {
    step: Box<dyn FnMut() -> Result<()>>,
    /// A call of `step` makes so many steps: what is drawn differs from one to the next.
    repeats: usize,
    /// What one step does.
    work: Work,
    /// Trainable values.
    parameters: usize,
    /// Bytes of memory that [`crate::cost`] expects, where it has a count.
    memory: Option<f64>,
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// At least this long, but for [`Self::most`].
    pub time: Duration,
    /// At least so many steps.
    pub least: usize,
    /// At most so many.
    pub most: usize,
}

/// What was measured of one case at one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The case's name.
    pub case: String,
    /// Images.
    pub batch: usize,
    /// Their side in pixels.
    pub size: usize,
    /// Threads.
    pub threads: usize,
    /// Trainable values.
    pub parameters: usize,
    /// Steps timed, after two that were not.
    pub steps: usize,
    /// Seconds of the median step.
    pub median: f64,
    /// Seconds of the fastest step.
    pub min: f64,
    /// Half the distance of the quartiles, over the median.
    pub spread: f64,
    /// Operations of a step as PyTorch counts them.
    pub flops: f64,
    /// The same where 3×3 convolutions are Winograd's: see [`Work::winograd`].
    pub winograd: f64,
    /// Bytes that a step moves, without caches.
    pub bytes: f64,
    /// Bytes of the process before the case was built, ...
    pub memory_before: Option<u64>,
    /// ... and at the peak. Both absent where the system does not tell.
    pub memory_peak: Option<u64>,
    /// What the counts expect on top of the start.
    pub memory_expected: Option<f64>,
}

impl Measured {
    /// Bytes at the peak beyond the start.
    pub fn memory(&self) -> Option<u64> {
        Some(self.memory_peak?.saturating_sub(self.memory_before?))
    }
}

/// The case called `name`.
pub fn case(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

/// Steps on a GPU between two waits for it: it works them off while the next ones are started, as in a training.
const AT_ONCE: usize = 10;

/// Builds `case` for `batch` images of `size`² in the thread's [`Place`] and times its steps on the threads of the current
/// pool. To be run in a process of its own: memory is that of the process.
pub fn measure(case: &Case, batch: usize, size: usize, length: Length) -> Result<Measured> {
    let threads = rayon::current_num_threads();
    // Threads that have not started yet would count as memory of the case.
    rayon::broadcast(|_| ());
    let before = Memory::now();
    let built = (case.build)(batch, size);
    let Prepared { mut step, repeats, work, parameters, memory } =
        built.with_context(|| format!("build `{}` with batch {batch} and size {size}", case.name))?;
    let place = Place::current();
    let at_once = if place.is_gpu() { AT_ONCE } else { 1 };
    for _ in 0..2 {
        step()?;
    }
    place.synchronize()?;
    let repeats = repeats * at_once;
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < length.least || (start.elapsed() < length.time && times.len() < length.most) {
        let one = Instant::now();
        (0..at_once).try_for_each(|_| step())?;
        place.synchronize()?;
        times.push(one.elapsed().as_secs_f64() / repeats as f64);
    }
    let after = Memory::now();
    times.sort_by(f64::total_cmp);
    let median = quantile(&times, 0.5);
    Ok(Measured {
        case: case.name.into(),
        batch,
        size,
        threads,
        parameters,
        steps: times.len() * repeats,
        median,
        min: times[0],
        spread: (quantile(&times, 0.75) - quantile(&times, 0.25)) / 2.0 / median,
        flops: work.flops,
        winograd: work.winograd,
        bytes: work.bytes,
        memory_before: before.map(|memory| memory.now),
        memory_peak: after.map(|memory| memory.peak),
        memory_expected: memory,
    })
}

/// The `q`-quantile of sorted numbers, linear between two of them.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, rest) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] * (1.0 - rest) + sorted[high] * rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Length = Length { time: Duration::ZERO, least: 1, most: 1 };

    #[test]
    fn quantiles_are_linear_between_numbers() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[5.0], 0.25), 5.0);
    }

    #[test]
    fn every_case_runs_at_its_smallest() {
        for case in CASES.iter().filter(|case| !case.alone || case.name == "mcsd-loading") {
            let measured = measure(case, 1, 32, ONCE).unwrap_or_else(|e| panic!("{}: {e:#}", case.name));
            assert!(measured.min > 0.0 && measured.min <= measured.median, "{measured:?}");
            assert!(measured.bytes > 0.0, "{measured:?}");
        }
        assert_eq!(CASES.iter().filter(|case| super::case(case.name).is_some()).count(), CASES.len());
    }

    #[test]
    fn counts_and_networks_are_those_of_the_issue() {
        let measured = measure(&CASES[0], 1, 32, ONCE).unwrap();
        assert_eq!(measured.parameters, 1_813_764);
        let measured = measure(&CASES[1], 1, 32, ONCE).unwrap();
        // f, g, and the reduction of 3·640 channels.
        assert_eq!(measured.parameters, 1_813_764 + 1_817_940 + 30 * (1920 + 1));
        let measured = measure(&CASES[2], 1, 32, ONCE).unwrap();
        assert_eq!(measured.parameters, 34_611_649);
    }
}
