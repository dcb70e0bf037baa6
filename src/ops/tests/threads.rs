//! What holds besides the numbers: independence of the number of threads, modes, masks, messages.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{difference, random, random_classes, values};
use crate::ops::{AdamW, BatchNorm, Gradients, Mode, Sgd, Tape, Var, ema, softmax_confidence, softmax_eval};

/// A small network through most ops; the bits of its loss and of all its gradients.
fn step(side: usize) -> Vec<u32> {
    let tape = Tape::new(Mode::Train, 9);
    let params = [
        random(1, &[20, 3, 3, 3]),
        random(2, &[20]),
        random(3, &[20]),
        random(4, &[20]),
        random(5, &[9, 20, 1, 1]),
        random(6, &[4, 29, 3, 3]),
        random(7, &[9]),
        random(8, &[9]),
    ];
    let running = (random(9, &[20]), random(10, &[20]).abs().unwrap());
    let p: Vec<Var> = params.iter().map(|t| tape.param(t)).collect();
    let x = tape.constant(&random(0, &[3, 3, side, side]));
    let run = || -> anyhow::Result<Var> {
        let a = tape.conv2d(&x, &p[0], Some(&p[1]), 1, 1)?;
        let cfg = BatchNorm::default();
        let a = tape.batch_norm_leaky_dropout(&a, &p[2], &p[3], &running.0, &running.1, cfg, 0.01, 0.3)?;
        let b = tape.conv2d(&tape.max_pool2(&a)?, &p[4], None, 1, 0)?;
        let b = tape.dropout(&tape.group_norm_silu(&b, &p[6], &p[7], 3, 1e-5)?, 0.2)?;
        let b = tape.upsample_bilinear(&b, (side, side), true)?;
        let logits = tape.conv2d(&tape.concat(&[&a, &b], 1)?, &p[5], None, 1, 1)?;
        let target = random_classes(1, &[3, side, side], 4);
        let ce = tape.cross_entropy(&logits, &target)?;
        let dice = tape.dice(&logits, &target, None, 1e-5)?;
        tape.weighted_sum(&[(0.5, &ce), (0.5, &dice)])
    };
    let loss = run().unwrap();
    let gradients = tape.backward(&loss).unwrap();
    let mut bits = vec![loss.scalar().unwrap().to_bits()];
    for param in &params {
        bits.extend(values(gradients.get(param).unwrap()).iter().map(|g| g.to_bits()));
    }
    bits
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for side in [17, 66] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| step(side))
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert!(one == run(threads), "side {side}: {threads} threads give other bits than one");
        }
    }
}

#[test]
fn modes_decide_about_gradients_dropout_and_statistics() {
    let x = random(1, &[2, 3, 4, 4]);
    let (gamma, beta) = (Tensor::ones(3, DType::F32, &Device::Cpu).unwrap(), random(3, &[3]));
    for mode in [Mode::Train, Mode::TrainNoGrad, Mode::Eval] {
        let tape = Tape::new(mode, 1);
        let (mean, var) = (random(4, &[3]), random(5, &[3]).abs().unwrap());
        let before = values(&mean);
        let (g, b) = (tape.param(&gamma), tape.param(&beta));
        let y = tape.batch_norm(&tape.param(&x), &g, &b, &mean, &var, BatchNorm::default()).unwrap();
        assert_eq!(values(&mean) != before, mode.trains(), "{mode:?}: running statistics");
        let dropped = tape.dropout(&y, 0.5).unwrap();
        let zeros = values(dropped.value()).iter().filter(|v| **v == 0.0).count();
        assert_eq!(zeros > 0, mode.trains(), "{mode:?}: dropout");
        let loss = tape.mse(&dropped, &x).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        assert_eq!(gradients.get(&x).is_some(), mode == Mode::Train, "{mode:?}: gradients");
    }
}

#[test]
fn fused_op_equals_the_three_in_turn() {
    let inputs = [random(1, &[3, 5, 7, 9]), random(2, &[5]), random(3, &[5])];
    let r = random(4, &[3, 5, 7, 9]);
    let run = |fused: bool| {
        let tape = Tape::new(Mode::Train, 1);
        let v: Vec<Var> = inputs.iter().map(|t| tape.param(t)).collect();
        let (mean, var) = (random(5, &[5]), random(6, &[5]));
        let cfg = BatchNorm::default();
        let y = if fused {
            tape.batch_norm_leaky_dropout(&v[0], &v[1], &v[2], &mean, &var, cfg, 0.01, 0.0)
        } else {
            tape.leaky_relu(&tape.batch_norm(&v[0], &v[1], &v[2], &mean, &var, cfg).unwrap(), 0.01)
        };
        let loss = tape.mse(&y.unwrap(), &r).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        inputs.iter().map(|t| gradients.get(t).unwrap().clone()).collect::<Vec<_>>()
    };
    for (a, b) in run(true).iter().zip(run(false)) {
        assert!(difference(a, &b) < 1e-6, "fused and separate gradients agree");
    }
}

#[test]
fn modulated_norm_equals_the_four_in_turn() {
    let inputs =
        [random(1, &[3, 6, 7, 9]), random(2, &[6]), random(3, &[6]), random(4, &[3, 6]), random(5, &[3, 6])];
    let r = random(6, &[3, 6, 7, 9]);
    let run = |fused: bool| {
        let tape = Tape::new(Mode::Train, 1);
        let v: Vec<Var> = inputs.iter().map(|t| tape.param(t)).collect();
        let y = if fused {
            tape.group_norm_modulate_silu_dropout(&v[0], &v[1], &v[2], Some((&v[3], &v[4])), 2, 1e-5, 0.0)
        } else {
            let norm = tape.group_norm(&v[0], &v[1], &v[2], 2, 1e-5).unwrap();
            tape.silu(&tape.scale_shift(&norm, &v[3], &v[4]).unwrap())
        };
        let loss = tape.mse(&y.unwrap(), &r).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        inputs.iter().map(|t| gradients.get(t).unwrap().clone()).collect::<Vec<_>>()
    };
    for (a, b) in run(true).iter().zip(run(false)) {
        assert!(difference(a, &b) < 1e-5, "fused and separate gradients agree");
    }
}

#[test]
fn folded_norm_equals_convolution_and_norm() {
    // With Winograd's algorithm, the direct one, and unfolding.
    for (i, o, k) in [(9, 12, 3), (2, 5, 3), (3, 4, 1)] {
        let (x, w, b) = (random(1, &[2, i, 6, 7]), random(2, &[o, i, k, k]), random(3, &[o]));
        let (gamma, beta) = (random(4, &[o]), random(5, &[o]));
        let (mean, var) = (random(6, &[o]), random(7, &[o]).abs().unwrap());
        let tape = Tape::new(Mode::Eval, 0);
        let [x, w, b, gamma, beta] = [&x, &w, &b, &gamma, &beta].map(|t| tape.constant(t));
        let cfg = BatchNorm::default();
        let y = tape.conv2d(&x, &w, Some(&b), 1, k / 2).unwrap();
        let y = tape.batch_norm_leaky_dropout(&y, &gamma, &beta, &mean, &var, cfg, 0.01, 0.3).unwrap();
        let folded = tape
            .conv2d_folded_norm_leaky(&x, (&w, &b), (&gamma, &beta), (&mean, &var), cfg, 0.01, k / 2)
            .unwrap();
        assert!(difference(folded.value(), y.value()) < 1e-5, "{i} to {o} channels, kernel {k}");
    }
}

#[test]
fn step_and_average_equals_the_two_in_turn() {
    let start = random(1, &[70, 300]);
    // The second parameter has no gradient: it stays, and its average moves.
    let run = |adam: bool, fused: bool| {
        let w = [start.copy().unwrap(), start.copy().unwrap()];
        let average = [random(2, &[70, 300]), random(3, &[70, 300])];
        let (mut by_adam, mut by_sgd) = (AdamW::new(0.9, 0.999, 1e-8, 0.01), Sgd::new(0.9, 1e-2));
        for step in 0..3 {
            let mut gradients = Gradients::default();
            gradients.insert(&w[0], random(3 + step, &[70, 300]));
            match (adam, fused) {
                (true, true) => by_adam.step_and_average(&w, &gradients, 0.1, &average, 0.9),
                (true, false) => by_adam.step(&w, &gradients, 0.1),
                (false, true) => by_sgd.step_and_average(&w, &gradients, 0.1, &average, 0.9),
                (false, false) => by_sgd.step(&w, &gradients, 0.1),
            }
            .unwrap();
            if !fused {
                ema(&average, &w, 0.9).unwrap();
            }
        }
        assert!(values(&w[0]) != values(&start) && values(&w[1]) == values(&start));
        [&w[0], &average[0], &average[1]].map(values)
    };
    for adam in [true, false] {
        assert!(run(adam, true) == run(adam, false), "the same bits");
    }
}

#[test]
fn dropout_keeps_the_right_share_and_differs_between_ops_and_seeds() {
    let ones = Tensor::ones((4, 4, 64, 64), DType::F32, &Device::Cpu).unwrap();
    let draw = |seed| {
        let tape = Tape::new(Mode::TrainNoGrad, seed);
        let x = tape.constant(&ones);
        let first = values(tape.dropout(&x, 0.3).unwrap().value());
        (first, values(tape.dropout(&x, 0.3).unwrap().value()))
    };
    let (first, second) = draw(1);
    let kept = first.iter().filter(|v| **v > 0.0).count() as f64 / first.len() as f64;
    assert!((kept - 0.7).abs() < 0.006, "kept {kept} of the elements, 0.7 ± 3.3 σ expected");
    let planes = first.chunks(64 * 64).map(|p| p.iter().filter(|v| **v > 0.0).count() as f64 / 4096.0);
    for share in planes {
        assert!((share - 0.7).abs() < 0.03, "each plane keeps its share, here {share}");
    }
    assert!(first.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-6), "kept elements are scaled");
    let equal =
        |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
    // Independent masks agree where both keep or both drop: 0.49 + 0.09.
    assert!((equal(&first, &second) - 0.58).abs() < 0.01, "two ops draw independent masks");
    assert!((equal(&first, &draw(2).0) - 0.58).abs() < 0.01, "two seeds draw independent masks");
    assert_eq!(first, draw(1).0, "the same seed draws the same mask");
}

#[test]
fn a_grid_of_pixel_centres_is_bilinear_interpolation() {
    let x = random(1, &[2, 3, 5, 4]);
    let side = 9;
    let grid: Vec<f32> =
        (0..2 * side * side).flat_map(|i| [(i / side % side) as f32, (i % side) as f32]).collect();
    let grid = Tensor::from_vec(grid, (2, side, side, 2), &Device::Cpu).unwrap();
    let tape = Tape::new(Mode::Eval, 0);
    let x = tape.constant(&x);
    let sampled = tape.sample(&x, &grid).unwrap();
    let resized = tape.upsample_bilinear(&x, (side, side), false).unwrap();
    assert!(difference(sampled.value(), resized.value()) < 1e-6, "the two agree");
}

#[test]
fn confidence_is_the_largest_probability() {
    let logits = random(1, &[2, 4, 33, 17]);
    let (classes, confidence) = softmax_confidence(&logits).unwrap();
    let p = softmax_eval(&logits).unwrap();
    assert!(difference(&confidence, &p.max(1).unwrap()) < 1e-6, "the largest probability");
    let wanted: Vec<u32> = p.argmax(1).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let got: Vec<u8> = classes.flatten_all().unwrap().to_vec1().unwrap();
    assert!(got.iter().zip(&wanted).all(|(g, w)| u32::from(*g) == *w), "and its class");
}

#[test]
fn mistakes_are_errors_with_the_values_in_them() {
    let tape = Tape::new(Mode::Train, 0);
    let x = tape.param(&random(1, &[1, 3, 4, 4]));
    let w = tape.param(&random(2, &[2, 5, 3, 3]));
    let message = tape.conv2d(&x, &w, None, 1, 1).unwrap_err().to_string();
    assert!(message.contains("[2, 5, 3, 3]") && message.contains("[1, 3, 4, 4]"), "{message}");
    let target = Tensor::full(7u8, (1, 4, 4), &Device::Cpu).unwrap();
    let message = tape.cross_entropy(&x, &target).unwrap_err().to_string();
    assert!(message.contains("class 7"), "{message}");
    let other = Tape::new(Mode::Train, 0);
    assert!(other.silu(&x).is_err(), "a value of another tape is refused");
    assert!(other.silu(&x.detach()).is_ok(), "its detached copy is not");
    let loss = tape.mse(&x, &random(3, &[1, 3, 4, 4])).unwrap();
    tape.backward(&loss).unwrap();
    assert!(tape.backward(&loss).is_err(), "a tape is played once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// <A x, r> = <x, Aᵀ r> for the linear ops: their backward is the exact transpose of their forward.
    #[test]
    fn linear_ops_and_their_transposes_agree(
        b in 1usize..3, c in 1usize..5, o in 1usize..10, h in 2usize..20, w in 2usize..20, which in 0usize..6,
    ) {
        let tape = Tape::new(Mode::Train, 0);
        let t = random((h * w) as u64, &[b, c, h, w]);
        let x = tape.param(&t);
        let weight = |k| tape.constant(&random(7, &[o, c, k, k]));
        let y = match which {
            0 => tape.conv2d(&x, &weight(3), None, 1, 1),
            1 => tape.conv2d(&x, &weight(1), None, 1, 0),
            2 => tape.avg_pool2(&x),
            3 => tape.upsample_bilinear(&x, (h + 3, 2 * w), true),
            4 => tape.upsample_bilinear(&x, (h + 3, 2 * w), false),
            _ => tape.upsample_nearest2(&x),
        }.unwrap();
        let r = random(5, y.dims());
        let loss = super::dot(&tape, &y, &r);
        let gradients = tape.backward(&loss).unwrap();
        let back = values(gradients.get(&t).unwrap());
        let products = || back.iter().zip(values(&t)).map(|(g, x)| f64::from(*g) * f64::from(x));
        let size = products().map(f64::abs).sum::<f64>() + 1.0;
        prop_assert!((products().sum::<f64>() - f64::from(loss.scalar().unwrap())).abs() < 1e-5 * size);
    }
}
