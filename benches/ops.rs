//! Times of whole U-Net training steps and of the ops they are made of.
//!
//! `cargo bench --bench ops` runs everything; `-- step` the two steps that `scripts/bench_pytorch.py` compares with
//! PyTorch's. `RAYON_NUM_THREADS` sets the threads.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use criterion::Criterion;
use mcsd_sweep::nn::params::{Builder, Params};
use mcsd_sweep::nn::unet::UNet;
use mcsd_sweep::ops::{BatchNorm, Mode, Sgd, Tape, Var};
use mcsd_sweep::rng;
use mcsd_sweep::spec::settings::UnetSettings;
use rand::Rng;

/// The paper's U-Net with its optimiser, one batch of noise and classes.
struct Step {
    net: UNet,
    params: Params,
    sgd: Sgd,
    images: Tensor,
    target: Tensor,
    index: u64,
}

impl Step {
    fn new(batch: usize, side: usize) -> Result<Self> {
        let settings = UnetSettings { channels: [16, 32, 64, 128, 256], dropout: [0.05, 0.1, 0.2, 0.3, 0.5] };
        let mut builder = Builder::new(0);
        let net = UNet::new(&mut builder, 1, 4, &settings)?;
        let mut classes = rng::stream(0, "bench classes", 0);
        let target: Vec<u8> = (0..batch * side * side).map(|_| classes.random_range(0..4)).collect();
        Ok(Self {
            net,
            params: builder.finish(),
            sgd: Sgd::new(0.9, 1e-4),
            images: noise(&[batch, 1, side, side])?,
            target: Tensor::from_vec(target, (batch, side, side), &Device::Cpu)?,
            index: 0,
        })
    }

    /// Forward, ½(cross-entropy + Dice), backward, update.
    fn run(&mut self) -> Result<()> {
        let tape = Tape::new(Mode::Train, self.index);
        self.index += 1;
        let logits = self.net.forward(&tape, &tape.constant(&self.images))?;
        let cross_entropy = tape.cross_entropy(&logits, &self.target)?;
        let dice = tape.dice(&logits, &self.target, None, 1e-5)?;
        let loss = tape.weighted_sum(&[(0.5, &cross_entropy), (0.5, &dice)])?;
        self.sgd.step(self.params.trainable(), &tape.backward(&loss)?, 0.01)
    }
}

fn noise(shape: &[usize]) -> Result<Tensor> {
    let mut numbers = rng::stream(0, "bench noise", 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.random_range(-1.0..1.0)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn steps(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4));
    for (batch, side) in [(4, 256), (8, 64)] {
        let mut step = Step::new(batch, side)?;
        group.bench_function(format!("unet_{batch}x{side}"), |bencher| {
            bencher.iter(|| step.run().expect("a step of valid sizes"));
        });
    }
    group.finish();
    Ok(())
}

/// Times `run` forward, and forward with backward.
fn both(
    criterion: &mut Criterion,
    name: &str,
    x: &Tensor,
    run: impl Fn(&Tape, &Var) -> Result<Var>,
) -> Result<()> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| {
            let tape = Tape::new(Mode::TrainNoGrad, 0);
            black_box(run(&tape, &tape.constant(x)).expect("valid sizes"))
        });
    });
    let tape = Tape::new(Mode::TrainNoGrad, 0);
    let shape = run(&tape, &tape.constant(x))?.dims().to_vec();
    let target = noise(&shape)?;
    group.bench_function("forward_backward", |bencher| {
        bencher.iter(|| {
            let tape = Tape::new(Mode::Train, 0);
            let y = run(&tape, &tape.param(x)).expect("valid sizes");
            let loss = tape.mse(&y, &target).expect("equal shapes");
            black_box(tape.backward(&loss).expect("the loss is on the tape"))
        });
    });
    group.finish();
    Ok(())
}

fn single(criterion: &mut Criterion) -> Result<()> {
    for (i, o, side) in
        [(16, 16, 256), (32, 16, 256), (32, 32, 128), (64, 64, 64), (128, 128, 32), (256, 256, 16)]
    {
        let (x, w) = (noise(&[4, i, side, side])?, noise(&[o, i, 3, 3])?);
        both(criterion, &format!("conv3/{i}_{o}_{side}"), &x, |t, x| t.conv2d(x, &t.param(&w), None, 1, 1))?;
    }
    let x = noise(&[4, 16, 256, 256])?;
    let (ones, zeros) = (Tensor::ones(16, DType::F32, &Device::Cpu)?, noise(&[16])?);
    for p in [0.0, 0.05] {
        let (mean, var) = (zeros.copy()?, ones.copy()?);
        both(criterion, &format!("batch_norm_leaky_dropout/{p}"), &x, |t, x| {
            let (gamma, beta) = (t.param(&ones), t.param(&zeros));
            t.batch_norm_leaky_dropout(x, &gamma, &beta, &mean, &var, BatchNorm::default(), 0.01, p)
        })?;
    }
    both(criterion, "max_pool2", &x, Tape::max_pool2)?;
    both(criterion, "concat", &x, |t, x| t.concat(&[x, x], 1))?;
    both(criterion, "silu", &x, Tape::silu)?;
    let half = noise(&[4, 16, 128, 128])?;
    both(criterion, "upsample_bilinear", &half, |t, x| t.upsample_bilinear(x, (256, 256), true))?;
    let qkv = noise(&[4, 3 * 128, 256])?;
    both(criterion, "attention", &qkv, |t, x| t.attention(x, 2))?;
    let mut sgd = Sgd::new(0.9, 1e-4);
    let weights = [noise(&[1_800_000])?];
    let mut gradients = mcsd_sweep::ops::Gradients::default();
    gradients.insert(&weights[0], noise(&[1_800_000])?);
    criterion.bench_function("sgd/1.8M", |bencher| {
        bencher.iter(|| sgd.step(&weights, &gradients, 1e-9).expect("equal shapes"));
    });
    Ok(())
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    steps(&mut criterion)?;
    single(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
