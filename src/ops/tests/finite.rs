//! Every gradient against central differences of the op itself.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::{dot, random, random_classes, values};
use crate::ops::{BatchNorm, Mode, Tape, Var};

/// Compares the gradients of Σ y·r with central differences, for every element of every input.
pub(super) fn check(name: &str, inputs: &[Tensor], run: impl Fn(&Tape, &[Var]) -> Result<Var>) {
    // The seed of the tape is fixed: dropout masks are the same in each evaluation.
    let forward = |inputs: &[Tensor]| {
        let tape = Tape::new(Mode::Train, 5);
        let vars: Vec<Var> = inputs.iter().map(|x| tape.param(x)).collect();
        let y = run(&tape, &vars).unwrap();
        (tape, y)
    };
    let (tape, y) = forward(inputs);
    let r = random(99, y.dims());
    let loss = |inputs: &[Tensor]| {
        let (_, y) = forward(inputs);
        values(y.value()).iter().zip(values(&r)).map(|(y, r)| f64::from(*y) * f64::from(r)).sum::<f64>()
    };
    let gradients = tape.backward(&dot(&tape, &y, &r)).unwrap();
    let step = 1.0 / 128.0;
    for (index, input) in inputs.iter().enumerate() {
        let gradient =
            values(gradients.get(input).unwrap_or_else(|| panic!("{name}: input {index} has a gradient")));
        let size = gradient.iter().fold(0.1f32, |m, g| m.max(g.abs()));
        let start = values(input);
        for (element, &got) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut moved = start.clone();
                moved[element] += by;
                let mut all = inputs.to_vec();
                all[index] = Tensor::from_vec(moved, input.dims(), &Device::Cpu).unwrap();
                loss(&all)
            };
            let wanted = (shifted(step) - shifted(-step)) / f64::from(2.0 * step);
            let error = (f64::from(got) - wanted).abs() / f64::from(size);
            assert!(error < 4e-3, "{name}: input {index}, element {element}: {got} against {wanted}");
        }
    }
}

/// Numbers that are at least 0.1 apart and at least 0.05 from 0, so that no maximum and no kink is crossed.
fn apart(index: u64, shape: &[usize]) -> Tensor {
    let noise = values(&random(index, shape));
    let mut order: Vec<usize> = (0..noise.len()).collect();
    order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
    let mut spread = vec![0.0; noise.len()];
    for (rank, &at) in order.iter().enumerate() {
        spread[at] = (rank as f32 - noise.len() as f32 / 2.0 + 0.5) * 0.1;
    }
    Tensor::from_vec(spread, shape, &Device::Cpu).unwrap()
}

#[test]
fn convolutions() {
    for (i, (b, c, o, h, w, k, stride, padding)) in [
        (2, 2, 3, 3, 4, 3, 1, 1),
        (2, 3, 2, 2, 3, 1, 1, 0),
        (1, 2, 2, 5, 4, 3, 2, 1),
        (1, 1, 2, 4, 4, 2, 2, 0),
        // By Winograd's algorithm.
        (1, 8, 9, 3, 2, 3, 1, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let inputs = [random(3 * i as u64, &[b, c, h, w]), random(40, &[o, c, k, k]), random(41, &[o])];
        check("conv2d", &inputs, |t, v| t.conv2d(&v[0], &v[1], Some(&v[2]), stride, padding));
        check("conv2d without bias", &inputs[..2], |t, v| t.conv2d(&v[0], &v[1], None, stride, padding));
    }
    let inputs = [random(1, &[2, 2, 2, 3]), random(2, &[2, 3, 2, 2]), random(3, &[3])];
    check("conv_transpose2x2", &inputs, |t, v| t.conv_transpose2x2(&v[0], &v[1], Some(&v[2])));
    let inputs = [random(1, &[2, 2, 3]), random(2, &[4, 3]), random(3, &[4])];
    check("linear", &inputs, |t, v| t.linear(&v[0], &v[1], Some(&v[2])));
    check("attention", &[random(1, &[2, 12, 3])], |t, v| t.attention(&v[0], 2));
}

#[test]
fn normalisations() {
    let inputs = [random(1, &[2, 4, 2, 3]), random(2, &[4]), random(3, &[4])];
    let running = || (Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap(), random(4, &[4]));
    check("batch_norm", &inputs, |t, v| {
        let (mean, var) = running();
        t.batch_norm(&v[0], &v[1], &v[2], &mean, &var, BatchNorm::default())
    });
    // Slope 1 has no kink; dropout is linear for a fixed mask.
    check("batch_norm_leaky_dropout", &inputs, |t, v| {
        let (mean, var) = running();
        t.batch_norm_leaky_dropout(&v[0], &v[1], &v[2], &mean, &var, BatchNorm::default(), 1.0, 0.4)
    });
    check("group_norm", &inputs, |t, v| t.group_norm(&v[0], &v[1], &v[2], 2, 1e-5));
    check("group_norm_silu", &inputs, |t, v| t.group_norm_silu(&v[0], &v[1], &v[2], 2, 1e-5));
    let all =
        [random(1, &[2, 4, 2, 3]), random(2, &[4]), random(3, &[4]), random(4, &[2, 4]), random(5, &[2, 4])];
    check("group_norm_modulate_silu_dropout", &all, |t, v| {
        t.group_norm_modulate_silu_dropout(&v[0], &v[1], &v[2], Some((&v[3], &v[4])), 2, 1e-5, 0.3)
    });
    let inputs = [random(1, &[2, 3, 2, 2]), random(2, &[2, 3]), random(3, &[2, 3])];
    check("scale_shift", &inputs, |t, v| t.scale_shift(&v[0], &v[1], &v[2]));
    check("add_channel", &inputs[..2], |t, v| t.add_channel(&v[0], &v[1]));
}

#[test]
fn elementwise_and_shapes() {
    let x = [apart(1, &[2, 3, 3, 2])];
    check("leaky_relu", &x, |t, v| t.leaky_relu(&v[0], 0.2));
    check("silu", &x, |t, v| t.silu(&v[0]));
    check("gelu", &x, |t, v| t.gelu(&v[0]));
    check("dropout", &x, |t, v| t.dropout(&v[0], 0.3));
    check("dropout2d", &x, |t, v| t.dropout2d(&v[0], 0.5));
    check("scale", &x, |t, v| t.scale(&v[0], -0.7));
    check("softmax", &x, |t, v| t.softmax(&v[0]));
    check("narrow 0", &x, |t, v| t.narrow(&v[0], 0, 1, 1));
    check("reshape", &x, |t, v| t.reshape(&v[0], (3, 12)));
    // Used twice: the gradients of both uses add up, one of them in place.
    check("narrow 1", &x, |t, v| t.add(&t.narrow(&v[0], 1, 0, 2)?, &t.narrow(&v[0], 1, 1, 2)?));
    let pair = [random(1, &[2, 2, 3]), random(2, &[2, 1, 3])];
    check("concat 1", &pair, |t, v| t.concat(&[&v[0], &v[1], &v[0]], 1));
    let pair = [random(1, &[1, 2, 3]), random(2, &[2, 2, 3])];
    check("concat 0", &pair, |t, v| t.concat(&[&v[0], &v[1]], 0));
    check("add", &[random(1, &[5]), random(2, &[5])], |t, v| t.add(&v[0], &v[1]));
    check("add to itself", &[random(1, &[5])], |t, v| t.add(&v[0], &v[0]));
}

#[test]
fn resizes() {
    let x = [apart(1, &[2, 2, 3, 4])];
    check("max_pool2", &x, |t, v| t.max_pool2(&v[0]));
    check("avg_pool2", &x, |t, v| t.avg_pool2(&v[0]));
    check("upsample_nearest2", &x, |t, v| t.upsample_nearest2(&v[0]));
    for align in [true, false] {
        check("upsample_bilinear", &x, |t, v| t.upsample_bilinear(&v[0], (7, 5), align));
    }
    let grid = random(2, &[2, 3, 3, 2]).affine(1.0, 1.0).unwrap();
    check("sample", &x, |t, v| t.sample(&v[0], &grid));
}

#[test]
fn losses() {
    let x = [random(1, &[2, 3, 2, 3])];
    let target = random_classes(1, &[2, 2, 3], 3);
    let keep = random_classes(2, &[2, 2, 3], 2);
    check("cross_entropy", &x, |t, v| t.cross_entropy(&v[0], &target));
    check("dice", &x, |t, v| t.dice(&v[0], &target, None, 1e-5));
    check("dice of kept pixels", &x, |t, v| t.dice(&v[0], &target, Some(&keep), 1e-5));
    let other = random(3, &[2, 3, 2, 3]);
    check("mse", &x, |t, v| t.mse(&v[0], &other));
    check("weighted_sum", &x, |t, v| {
        t.weighted_sum(&[(0.5, &t.cross_entropy(&v[0], &target)?), (2.0, &t.mse(&v[0], &other)?)])
    });
}
