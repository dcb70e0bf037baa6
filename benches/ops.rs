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
use mcsd_sweep::ops::{
    AdamW, BatchNorm, Mode, Rearrangement, Sgd, Tape, Var, Windows, ema, softmax_confidence, softmax_eval,
};
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

fn classes(shape: &[usize], below: u8) -> Result<Tensor> {
    let mut numbers = rng::stream(0, "bench classes", 1);
    let values: Vec<u8> = (0..shape.iter().product()).map(|_| numbers.random_range(0..below)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn ones(n: usize) -> Result<Tensor> {
    Ok(Tensor::ones(n, DType::F32, &Device::Cpu)?)
}

fn convolutions(criterion: &mut Criterion) -> Result<()> {
    for (i, o, side) in
        [(16, 16, 256), (32, 16, 256), (32, 32, 128), (64, 64, 64), (128, 128, 32), (256, 256, 16)]
    {
        let (x, w) = (noise(&[4, i, side, side])?, noise(&[o, i, 3, 3])?);
        both(criterion, &format!("conv3/{i}_{o}_{side}"), &x, |t, x| t.conv2d(x, &t.param(&w), None, 1, 1))?;
    }
    // First and last layer, decoder, strided (halving and patches).
    for (name, i, o, side, [kernel, stride, padding]) in [
        ("conv3_direct", 1, 16, 256, [3, 1, 1]),
        ("conv3_direct", 16, 4, 256, [3, 1, 1]),
        ("conv1", 256, 128, 16, [1, 1, 0]),
        ("conv1", 32, 16, 128, [1, 1, 0]),
        ("conv3_stride2", 64, 64, 64, [3, 2, 1]),
        ("conv4_stride4", 3, 96, 224, [4, 4, 0]),
    ] {
        let (x, w) = (noise(&[4, i, side, side])?, noise(&[o, i, kernel, kernel])?);
        both(criterion, &format!("{name}/{i}_{o}_{side}"), &x, |t, x| {
            t.conv2d(x, &t.param(&w), None, stride, padding)
        })?;
    }
    let (x, w) = (noise(&[4, 128, 32, 32])?, noise(&[128, 64, 2, 2])?);
    both(criterion, "conv_transpose2x2/128_64_32", &x, |t, x| t.conv_transpose2x2(x, &t.param(&w), None))?;
    let (x, w, b) = (noise(&[4, 16, 256, 256])?, noise(&[16, 16, 3, 3])?, noise(&[16])?);
    let one = ones(16)?;
    criterion.bench_function("conv3_folded_norm_leaky/16_16_256", |bencher| {
        bencher.iter(|| {
            let t = Tape::new(Mode::Eval, 0);
            let [w, b, gamma] = [&w, &b, &one].map(|tensor| t.constant(tensor));
            let (x, settings) = (t.constant(&x), BatchNorm::default());
            let folded =
                t.conv2d_folded_norm_leaky(&x, (&w, &b), (&gamma, &b), (b.value(), &one), settings, 0.01, 1);
            black_box(folded.expect("valid sizes"))
        });
    });
    Ok(())
}

fn norms(criterion: &mut Criterion) -> Result<()> {
    let x = noise(&[4, 16, 256, 256])?;
    let (one, zeros) = (ones(16)?, noise(&[16])?);
    for p in [0.0, 0.05] {
        let (mean, var) = (zeros.copy()?, one.copy()?);
        both(criterion, &format!("batch_norm_leaky_dropout/{p}"), &x, |t, x| {
            let (gamma, beta) = (t.param(&one), t.param(&zeros));
            t.batch_norm_leaky_dropout(x, &gamma, &beta, &mean, &var, BatchNorm::default(), 0.01, p)
        })?;
    }
    let (x, one, zeros) = (noise(&[4, 128, 64, 64])?, ones(128)?, noise(&[128])?);
    both(criterion, "group_norm", &x, |t, x| t.group_norm(x, &t.param(&one), &t.param(&zeros), 32, 1e-5))?;
    both(criterion, "group_norm_silu", &x, |t, x| {
        t.group_norm_silu(x, &t.param(&one), &t.param(&zeros), 32, 1e-5)
    })?;
    let (scale, shift) = (noise(&[4, 128])?, noise(&[4, 128])?);
    both(criterion, "group_norm_modulate_silu_dropout", &x, |t, x| {
        let (gamma, beta) = (t.param(&one), t.param(&zeros));
        let (scale, shift) = (t.param(&scale), t.param(&shift));
        t.group_norm_modulate_silu_dropout(x, &gamma, &beta, Some((&scale, &shift)), 32, 1e-5, 0.1)
    })?;
    both(criterion, "add_channel", &x, |t, x| t.add_channel(x, &t.param(&shift)))?;
    let (x, one, zeros) = (noise(&[4 * 56 * 56, 96])?, ones(96)?, noise(&[96])?);
    both(criterion, "layer_norm", &x, |t, x| t.layer_norm(x, &t.param(&one), &t.param(&zeros), 1e-5))
}

fn tokens(criterion: &mut Criterion) -> Result<()> {
    let x = noise(&[4 * 56 * 56, 96])?;
    let (w, b) = (noise(&[384, 96])?, noise(&[384])?);
    both(criterion, "linear/96_384", &x, |t, x| t.linear(x, &t.param(&w), Some(&t.param(&b))))?;
    both(criterion, "gelu", &x, Tape::gelu)?;
    let windows = Windows::new(7, vec![])?;
    let (qkv, table) = (noise(&[4 * 56 * 56, 3 * 96])?, noise(&[windows.offsets(), 3])?);
    both(criterion, "window_attention", &qkv, |t, x| t.window_attention(x, &t.param(&table), &windows, 3))?;
    let back = Rearrangement::new((0..56 * 56).rev().collect())?;
    both(criterion, "rearrange", &x, |t, x| t.rearrange(x, &back, 96, (4 * 56 * 56, 96)))?;
    let qkv = noise(&[4, 3 * 128, 256])?;
    both(criterion, "attention", &qkv, |t, x| t.attention(x, 2))
}

fn maps(criterion: &mut Criterion) -> Result<()> {
    let x = noise(&[4, 16, 256, 256])?;
    both(criterion, "max_pool2", &x, Tape::max_pool2)?;
    both(criterion, "avg_pool2", &x, Tape::avg_pool2)?;
    both(criterion, "concat", &x, |t, x| t.concat(&[x, x], 1))?;
    both(criterion, "add", &x, |t, x| t.add(x, x))?;
    both(criterion, "silu", &x, Tape::silu)?;
    both(criterion, "dropout", &x, |t, x| t.dropout(x, 0.5))?;
    both(criterion, "dropout2d", &x, |t, x| t.dropout2d(x, 0.5))?;
    let half = noise(&[4, 16, 128, 128])?;
    both(criterion, "upsample_bilinear", &half, |t, x| t.upsample_bilinear(x, (256, 256), true))?;
    both(criterion, "upsample_nearest2", &half, Tape::upsample_nearest2)?;
    // The reduced features of four images, moved as their images are.
    let (small, grid) = (noise(&[4, 30, 32, 32])?, noise(&[4, 256, 256, 2])?.affine(120.0, 128.0)?);
    both(criterion, "sample", &small, |t, x| t.sample(x, &grid))
}

fn losses(criterion: &mut Criterion) -> Result<()> {
    let shape = [4, 4, 256, 256];
    let (x, other) = (noise(&shape)?.affine(3.0, 0.0)?, noise(&shape)?.affine(3.0, 0.0)?);
    let (target, keep) = (classes(&[4, 256, 256], 4)?, classes(&[4, 256, 256], 2)?);
    let probabilities = softmax_eval(&other)?;
    both(criterion, "softmax", &x, Tape::softmax)?;
    criterion.bench_function("softmax_eval", |bencher| {
        bencher.iter(|| black_box(softmax_eval(&x).expect("class maps")));
    });
    criterion.bench_function("softmax_confidence", |bencher| {
        bencher.iter(|| black_box(softmax_confidence(&x).expect("class maps")));
    });
    both(criterion, "cross_entropy", &x, |t, x| t.cross_entropy(x, &target))?;
    both(criterion, "cross_entropy_kept", &x, |t, x| t.cross_entropy_kept(x, &target, &keep))?;
    both(criterion, "dice", &x, |t, x| t.dice(x, &target, None, 1e-5))?;
    both(criterion, "dice_kept", &x, |t, x| t.dice(x, &target, Some(&keep), 1e-5))?;
    both(criterion, "mse", &x, |t, x| t.mse(x, &probabilities))?;
    both(criterion, "squares_kept", &x, |t, x| t.squares(x, &probabilities, Some(&keep), 1e-6))?;
    both(criterion, "times", &x, |t, x| t.times(x, &probabilities))?;
    both(criterion, "pyramid_consistency", &x, |t, x| {
        let other = t.constant(&other);
        t.pyramid_consistency(&[x.clone(), other.clone(), x.clone(), other])
    })?;
    both(criterion, "mutual_consistency", &x, |t, x| {
        t.mutual_consistency(&[x.clone(), t.constant(&other), x.clone()], 0.1)
    })?;
    both(criterion, "dissimilarity", &probabilities, |t, x| t.dissimilarity(x, &probabilities))?;
    let pixels: Vec<(usize, usize)> = (0..256).map(|at| (at % 4, 251 * at)).collect();
    both(criterion, "gather_pixels", &noise(&[4, 16, 256, 256])?, |t, x| t.gather_pixels(x, &pixels))?;
    let (rows, labels) = (noise(&[256, 32])?, classes(&[256], 4)?.to_vec1::<u8>()?);
    both(criterion, "info_nce", &rows, |t, x| t.info_nce(x, &t.constant(&rows), &labels, 0.1))
}

fn updates(criterion: &mut Criterion) -> Result<()> {
    let count = 1_800_000;
    let (weights, average) = ([noise(&[count])?], [noise(&[count])?]);
    let mut gradients = mcsd_sweep::ops::Gradients::default();
    gradients.insert(&weights[0], noise(&[count])?);
    let (mut sgd, mut adam) = (Sgd::new(0.9, 1e-4), AdamW::new(0.9, 0.999, 1e-8, 0.0));
    criterion.bench_function("sgd/1.8M", |bencher| {
        bencher.iter(|| sgd.step(&weights, &gradients, 1e-9).expect("equal shapes"));
    });
    criterion.bench_function("adamw/1.8M", |bencher| {
        bencher.iter(|| adam.step(&weights, &gradients, 1e-9).expect("equal shapes"));
    });
    criterion.bench_function("adamw_and_average/1.8M", |bencher| {
        let mut step = || adam.step_and_average(&weights, &gradients, 1e-9, &average, 0.99);
        bencher.iter(|| step().expect("equal shapes"));
    });
    criterion.bench_function("ema/1.8M", |bencher| {
        bencher.iter(|| ema(&average, &weights, 0.99).expect("equal shapes"));
    });
    Ok(())
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    steps(&mut criterion)?;
    for group in [convolutions, norms, tokens, maps, losses, updates] {
        group(&mut criterion)?;
    }
    criterion.final_summary();
    Ok(())
}
