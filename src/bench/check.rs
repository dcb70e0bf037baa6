//! Whether a GPU computes what the processor computes: every op with its gradients, and the optimisers.

use anyhow::{Context as _, Result};
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::ops::{
    AdamW, BatchNorm, Mode, Place, Rearrangement, Rows, Sgd, Tape, Var, Windows, ema, softmax_confidence,
};
use crate::rng::stream;

/// How far two devices are apart in one op.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The op.
    pub op: String,
    /// The largest difference of its value, over the largest number of it.
    pub value: f64,
    /// The same of its gradients and of what it writes elsewhere (running statistics), the worst of them.
    pub gradient: f64,
}

type Run = fn(&Tape, &[Var], &[Tensor]) -> Result<Var>;

/// An op with inputs that learn and others that do not.
struct Case {
    op: &'static str,
    mode: Mode,
    inputs: Vec<Tensor>,
    others: Vec<Tensor>,
    run: Run,
}

/// Normal-ish numbers of the stream (21, "check", index).
pub(super) fn random(index: u64, shape: &[usize]) -> Result<Tensor> {
    let mut rng = stream(21, "check", index);
    let mut draw = || (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Classes below `classes`.
fn classes(index: u64, shape: &[usize], classes: u8) -> Result<Tensor> {
    let mut rng = stream(22, "check", index);
    let values: Vec<u8> = (0..shape.iter().product()).map(|_| rng.random_range(0..classes)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

const BATCH_NORM: BatchNorm = BatchNorm { momentum: 0.1, eps: 1e-5 };

/// Convolutions, products, norms.
fn layers() -> Result<Vec<Case>> {
    let case = |op, inputs: Vec<Tensor>, others: Vec<Tensor>, run: Run| Case {
        op,
        mode: Mode::Train,
        inputs,
        others,
        run,
    };
    let conv = |i, b, c, o, side, k| -> Result<Vec<Tensor>> {
        Ok(vec![random(i, &[b, c, side, side])?, random(i + 1, &[o, c, k, k])?, random(i + 2, &[o])?])
    };
    // Planes of more than one piece.
    let normed = || -> Result<Vec<Tensor>> {
        Ok(vec![random(20, &[2, 4, 136, 136])?, random(21, &[4])?, random(22, &[4])?])
    };
    let running = || -> Result<Vec<Tensor>> { Ok(vec![random(23, &[4])?, random(24, &[4])?.abs()?]) };
    let grouped = || -> Result<Vec<Tensor>> {
        Ok(vec![
            random(25, &[2, 8, 9, 9])?,
            random(26, &[8])?,
            random(27, &[8])?,
            random(28, &[2, 8])?,
            random(29, &[2, 8])?,
        ])
    };
    Ok(vec![
        case("conv2d 3x3", conv(0, 2, 8, 12, 20, 3)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 1, 1)
        }),
        case("conv2d 3x3 few", conv(3, 2, 1, 5, 17, 3)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 1, 1)
        }),
        case("conv2d 1x1", conv(6, 3, 6, 4, 11, 1)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], None, 1, 0).and_then(|y| {
                t.add_channel(&y, &t.constant(&Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?)).and_then(
                    |y| t.conv2d(&y, &t.reshape(&t.narrow(&v[2], 0, 0, 4)?, (1, 4, 1, 1))?, None, 1, 0),
                )
            })
        }),
        case("conv2d stride 2", conv(9, 2, 4, 3, 16, 3)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 2, 1)
        }),
        case("conv2d 4x4 stride 4", conv(12, 2, 3, 6, 16, 4)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 4, 0)
        }),
        // Channels by eights, which bf16 takes.
        case("conv2d 3x3 by eights", conv(100, 2, 16, 24, 13, 3)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 1, 1)
        }),
        case("conv2d 1x1 by eights", conv(103, 3, 16, 8, 11, 1)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 1, 0)
        }),
        case("conv2d stride 2 by eights", conv(106, 2, 8, 16, 16, 3)?, vec![], |t, v, _| {
            t.conv2d(&v[0], &v[1], Some(&v[2]), 2, 1)
        }),
        // Gradients come with the pixels in one dimension.
        case("conv2d and attention", conv(109, 2, 40, 72, 7, 1)?, vec![], |t, v, _| {
            let y = t.conv2d(&v[0], &v[1], Some(&v[2]), 1, 0)?;
            t.attention(&t.scale(&t.reshape(&y, (2, 72, 49))?, 0.1)?, 3)
        }),
        case(
            "conv_transpose2x2",
            vec![random(15, &[2, 5, 6, 7])?, random(16, &[5, 3, 2, 2])?, random(17, &[3])?],
            vec![],
            |t, v, _| t.conv_transpose2x2(&v[0], &v[1], Some(&v[2])),
        ),
        case(
            "linear",
            vec![random(18, &[3, 70, 12])?, random(19, &[7, 12])?, random(30, &[7])?],
            vec![],
            |t, v, _| t.linear(&v[0], &v[1], Some(&v[2])),
        ),
        case("attention", vec![random(31, &[2, 24, 40])?], vec![], |t, v, _| t.attention(&v[0], 2)),
        Case {
            op: "conv2d folded norm",
            mode: Mode::Eval,
            inputs: conv(0, 2, 8, 4, 20, 3)?,
            others: [normed()?[1..].to_vec(), running()?].concat(),
            run: |t, v, o| {
                let (gamma, beta) = (t.constant(&o[0]), t.constant(&o[1]));
                let bias = t.constant(&o[1]);
                t.conv2d_folded_norm_leaky(
                    &v[0],
                    (&v[1], &bias),
                    (&gamma, &beta),
                    (&o[2], &o[3]),
                    BATCH_NORM,
                    0.01,
                    1,
                )
            },
        },
        case("batch norm leaky dropout", normed()?, running()?, |t, v, o| {
            t.batch_norm_leaky_dropout(&v[0], &v[1], &v[2], &o[0], &o[1], BATCH_NORM, 0.01, 0.3)
        }),
        Case {
            op: "conv2d norm leaky dropout",
            mode: Mode::Train,
            inputs: [&conv(0, 2, 8, 4, 20, 3)?[..2], &normed()?[1..]].concat(),
            // The gradient of the bias is rounding errors on the processor.
            others: [running()?, vec![random(19, &[4])?]].concat(),
            run: |t, v, o| {
                let (bias, affine, running) = (t.constant(&o[2]), (&v[2], &v[3]), (&o[0], &o[1]));
                let (weights, steps) = ((&v[0], (&v[1], &bias)), [1, 1]);
                t.conv2d_norm_leaky_dropout(
                    weights.0, weights.1, affine, running, BATCH_NORM, 0.01, 0.2, steps,
                )
            },
        },
        Case {
            op: "batch norm in eval mode",
            mode: Mode::Eval,
            inputs: normed()?,
            others: running()?,
            run: |t, v, o| t.batch_norm(&v[0], &v[1], &v[2], &o[0], &o[1], BATCH_NORM),
        },
        case("group norm", grouped()?[..3].to_vec(), vec![], |t, v, _| {
            t.group_norm(&v[0], &v[1], &v[2], 2, 1e-5)
        }),
        case("group norm silu", grouped()?[..3].to_vec(), vec![], |t, v, _| {
            t.group_norm_silu(&v[0], &v[1], &v[2], 4, 1e-5)
        }),
        case("group norm modulate silu dropout", grouped()?, vec![], |t, v, _| {
            t.group_norm_modulate_silu_dropout(&v[0], &v[1], &v[2], Some((&v[3], &v[4])), 2, 1e-5, 0.2)
        }),
        case("scale shift", [&grouped()?[..1], &grouped()?[3..]].concat(), vec![], |t, v, _| {
            t.scale_shift(&v[0], &v[1], &v[2])
        }),
        case("add channel", vec![random(25, &[2, 8, 9, 9])?, random(28, &[2, 8])?], vec![], |t, v, _| {
            t.add_channel(&v[0], &v[1])
        }),
        case(
            "layer norm",
            vec![random(32, &[150, 24])?, random(33, &[24])?, random(34, &[24])?],
            vec![],
            |t, v, _| t.layer_norm(&v[0], &v[1], &v[2], 1e-5),
        ),
    ])
}

/// Element by element, shapes, maps.
fn maps() -> Result<Vec<Case>> {
    let case = |op, inputs: Vec<Tensor>, others: Vec<Tensor>, run: Run| Case {
        op,
        mode: Mode::Train,
        inputs,
        others,
        run,
    };
    let x = |side| -> Result<Vec<Tensor>> { Ok(vec![random(40, &[2, 3, side, side + 1])?]) };
    let pair = || -> Result<Vec<Tensor>> { Ok(vec![random(41, &[2, 3, 8, 8])?, random(42, &[2, 3, 8, 8])?]) };
    let grid = random(43, &[2, 24, 24, 2])?.affine(8.0, 10.0)?;
    Ok(vec![
        case("leaky relu", x(9)?, vec![], |t, v, _| t.leaky_relu(&v[0], 0.01)),
        case("silu", x(9)?, vec![], |t, v, _| t.silu(&v[0])),
        case("gelu", x(9)?, vec![], |t, v, _| t.gelu(&v[0])),
        case("dropout", x(90)?, vec![], |t, v, _| t.dropout(&v[0], 0.4)),
        case("dropout2d", x(9)?, vec![], |t, v, _| t.dropout2d(&v[0], 0.5)),
        case("add to itself", pair()?, vec![], |t, v, _| t.add(&t.add(&v[0], &v[1])?, &v[0])),
        case("scale", x(9)?, vec![], |t, v, _| t.scale(&v[0], -0.7)),
        case("times", x(9)?, x(9)?, |t, v, o| t.times(&v[0], &o[0])),
        case("concat 1", pair()?, vec![], |t, v, _| t.concat(&[&v[0], &v[1], &v[0]], 1)),
        case("concat 0", pair()?, vec![], |t, v, _| t.concat(&[&v[0], &v[1]], 0)),
        case("narrow", pair()?, vec![], |t, v, _| {
            t.add(&t.narrow(&v[0], 1, 0, 2)?, &t.narrow(&v[0], 1, 1, 2)?)
                .and_then(|y| t.concat(&[&y, &v[1]], 1))
        }),
        case("reshape", x(9)?, vec![], |t, v, _| t.reshape(&v[0], (6, 90))),
        case("max pool", x(9)?, vec![], |t, v, _| t.max_pool2(&v[0])),
        case("average pool", x(9)?, vec![], |t, v, _| t.avg_pool2(&v[0])),
        case("nearest", x(9)?, vec![], |t, v, _| t.upsample_nearest2(&v[0])),
        case("bilinear, corners aligned", x(9)?, vec![], |t, v, _| {
            t.upsample_bilinear(&v[0], (18, 20), true)
        }),
        case("bilinear", x(9)?, vec![], |t, v, _| t.upsample_bilinear(&v[0], (31, 7), false)),
        case("sample", x(9)?, vec![grid], |t, v, o| t.sample(&v[0], &o[0])),
        case("rearrange", vec![random(44, &[2, 6, 5])?], vec![], |t, v, _| {
            t.rearrange(&v[0], &Rearrangement::new(vec![4, 0, 5, 2, 1, 3])?, 5, (12, 5))
        }),
        case("window attention", vec![random(45, &[64, 36])?, random(46, &[49, 3])?], vec![], |t, v, _| {
            t.window_attention(
                &v[0],
                &v[1],
                &Windows::new(4, (0..64).map(|i| u8::from(i % 16 > 9)).collect())?,
                3,
            )
        }),
    ])
}

/// Losses.
fn losses() -> Result<Vec<Case>> {
    let case = |op, inputs: Vec<Tensor>, others: Vec<Tensor>, run: Run| Case {
        op,
        mode: Mode::Train,
        inputs,
        others,
        run,
    };
    let logits = |count: u64| (0..count).map(|i| random(50 + i, &[3, 4, 40, 30])).collect::<Result<Vec<_>>>();
    let masks =
        || -> Result<Vec<Tensor>> { Ok(vec![classes(1, &[3, 40, 30], 4)?, classes(2, &[3, 40, 30], 2)?]) };
    let unit =
        |i| -> Result<Tensor> { Ok(random(i, &[2, 4, 20, 24])?.affine(0.12, 0.5)?.clamp(0f32, 1f32)?) };
    Ok(vec![
        case("softmax", logits(1)?, vec![], |t, v, _| t.softmax(&v[0])),
        case("cross-entropy", logits(1)?, masks()?, |t, v, o| t.cross_entropy(&v[0], &o[0])),
        case("cross-entropy of kept pixels", logits(1)?, masks()?, |t, v, o| {
            t.cross_entropy_kept(&v[0], &o[0], &o[1])
        }),
        case("dice", logits(1)?, masks()?, |t, v, o| t.dice(&v[0], &o[0], None, 1e-5)),
        case("dice of kept pixels", logits(1)?, masks()?, |t, v, o| t.dice(&v[0], &o[0], Some(&o[1]), 1e-5)),
        case("mse", logits(1)?, logits(2)?, |t, v, o| t.mse(&v[0], &o[1])),
        case("squares of kept pixels", logits(1)?, [masks()?, logits(2)?].concat(), |t, v, o| {
            t.squares(&v[0], &o[3], Some(&o[1]), 0.01)
        }),
        case("weighted sum", logits(1)?, masks()?, |t, v, o| {
            let (a, b) = (t.cross_entropy(&v[0], &o[0])?, t.dice(&v[0], &o[0], Some(&o[1]), 1e-5)?);
            t.weighted_sum(&[(0.5, &a), (0.25, &b), (0.1, &a), (0.2, &a), (0.3, &b)])
        }),
        case("mutual consistency", logits(3)?, vec![], |t, v, _| t.mutual_consistency(v, 0.5)),
        case("pyramid consistency", logits(4)?, vec![], |t, v, _| t.pyramid_consistency(v)),
        case("dissimilarity", vec![unit(60)?], vec![unit(61)?], |t, v, o| t.dissimilarity(&v[0], &o[0])),
        case("gather pixels and contrast", logits(2)?, vec![], |t, v, _| {
            let pixels = [(0, 3), (2, 77), (1, 500), (1, 2), (0, 1100)];
            let (a, b) = (t.gather_pixels(&v[0], &pixels)?, t.gather_pixels(&v[1], &pixels)?);
            t.info_nce(&a, &b, &[0, 1, 0, 2, 1], 0.2)
        }),
    ])
}

/// The value, and after that the gradients of the inputs and the others as the op left them.
fn outputs(case: &Case, place: &Place) -> Result<(Tensor, Vec<Tensor>)> {
    place.run(|| {
        // What an op writes into is its own.
        let own = |t: &Tensor| -> Result<Tensor> { place.put(&t.copy()?) };
        let inputs = case.inputs.iter().map(own).collect::<Result<Vec<_>>>()?;
        let others = case.others.iter().map(own).collect::<Result<Vec<_>>>()?;
        let tape = Tape::new(case.mode, 5);
        let vars: Vec<Var> = inputs.iter().map(|x| tape.param(x)).collect();
        let y = (case.run)(&tape, &vars, &others)?;
        let loss = if y.len() == 1 { y.clone() } else { tape.mse(&y, &random(99, y.dims())?)? };
        let gradients = tape.backward(&loss)?;
        let cpu = |t: &Tensor| -> Result<Tensor> { Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?) };
        let found = inputs.iter().filter_map(|x| gradients.get(x)).map(cpu);
        let all = found.chain(others.iter().map(cpu)).collect::<Result<_>>()?;
        Ok((cpu(y.value())?, all))
    })
}

/// The largest difference over the largest expected number; infinite where they cannot be compared.
fn difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if found.dims() != expected.dims() {
        return Ok(f64::INFINITY);
    }
    let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let (found, expected) = (values(found)?, values(expected)?);
    let size = expected.iter().fold(1e-6f32, |most, x| most.max(x.abs()));
    let most = found
        .iter()
        .zip(&expected)
        .fold(0.0f32, |most, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { most.max((a - b).abs()) });
    Ok(f64::from(most) / f64::from(size))
}

fn worst(found: &[Tensor], expected: &[Tensor]) -> Result<f64> {
    if found.len() != expected.len() {
        return Ok(f64::INFINITY);
    }
    found.iter().zip(expected).try_fold(0.0f64, |most, (a, b)| Ok(most.max(difference(a, b)?)))
}

fn compare(case: &Case, place: &Place) -> Result<Compared> {
    let (expected, expected_gradients) = outputs(case, &Place::cpu())?;
    let (found, gradients) = outputs(case, place).with_context(|| format!("`{}` on the GPU", case.op))?;
    Ok(Compared {
        op: case.op.into(),
        value: difference(&found, &expected)?,
        gradient: worst(&gradients, &expected_gradients)?,
    })
}

/// Every op on `place`, beside the processor.
///
/// # Errors
/// Names the op that cannot be computed.
pub fn ops(place: &Place) -> Result<Vec<Compared>> {
    let cases = layers()?.into_iter().chain(maps()?).chain(losses()?);
    let mut compared = cases.map(|case| compare(&case, place)).collect::<Result<Vec<_>>>()?;
    for (op, run) in UPDATES {
        let expected = Place::cpu().run(run)?;
        let found = place.run(run).with_context(|| format!("`{op}` on the GPU"))?;
        compared.push(Compared { op: op.into(), value: worst(&found, &expected)?, gradient: 0.0 });
    }
    Ok(compared)
}

/// Parameters of many sizes, in the thread's place, and gradients for all but every seventh.
fn parameters(index: u64) -> Result<(Vec<Tensor>, crate::ops::Gradients)> {
    let mut gradients = crate::ops::Gradients::default();
    let mut all = Vec::new();
    for k in 0..60 {
        let shape = [1 + (k as usize * 37) % 50, 1 + (k as usize * 613) % 400];
        let param = Place::current().put(&random(1000 * index + k, &shape)?)?;
        if k % 7 != 6 {
            gradients.insert(&param, Place::current().put(&random(1000 * index + 500 + k, &shape)?)?);
        }
        all.push(param);
    }
    Ok((all, gradients))
}

fn on_cpu(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    Ok(tensors.iter().map(|t| t.to_device(&Device::Cpu)).collect::<candle_core::Result<_>>()?)
}

type Updated = fn() -> Result<Vec<Tensor>>;

const UPDATES: [(&str, Updated); 6] = [
    ("sgd", || {
        let (params, gradients) = parameters(1)?;
        let mut sgd = Sgd::new(0.9, 1e-4);
        for _ in 0..3 {
            sgd.step(&params, &gradients, 0.01)?;
        }
        on_cpu(&params)
    }),
    ("sgd and average", || {
        let ((params, gradients), (average, _)) = (parameters(5)?, parameters(5)?);
        let mut sgd = Sgd::new(0.9, 1e-4);
        for _ in 0..3 {
            sgd.step_and_average(&params, &gradients, 0.01, &average, 0.99)?;
        }
        on_cpu(&[params, average].concat())
    }),
    ("adamw and average", || {
        let ((params, gradients), (average, _)) = (parameters(2)?, parameters(2)?);
        let mut adam = AdamW::new(0.9, 0.999, 1e-8, 0.01);
        for _ in 0..3 {
            adam.step_and_average(&params, &gradients, 1e-3, &average, 0.99)?;
        }
        on_cpu(&[params, average].concat())
    }),
    ("average", || {
        let ((params, _), (average, _)) = (parameters(3)?, parameters(4)?);
        let pairs: (Vec<_>, Vec<_>) = params
            .iter()
            .zip(&average)
            .filter(|(a, b)| a.dims() == b.dims())
            .map(|(a, b)| (a.clone(), b.clone()))
            .unzip();
        ema(&pairs.1, &pairs.0, 0.9)?;
        on_cpu(&pairs.1)
    }),
    ("confidence", || {
        let logits = Place::current().put(&random(70, &[3, 4, 40, 30])?)?;
        let (label, sure) = softmax_confidence(&logits)?;
        on_cpu(&[label.to_dtype(DType::F32)?, sure])
    }),
    ("rows in half precision", || {
        let (all, rows) = (random(71, &[9, 5, 60, 60])?.to_dtype(DType::F16)?, [7, 0, 3, 7]);
        if !Place::current().is_gpu() {
            let rows = rows.map(|row| row as u32);
            return Ok(vec![all.index_select(&Tensor::new(&rows, &Device::Cpu)?, 0)?.to_dtype(DType::F32)?]);
        }
        let numbers = all.flatten_all()?.to_vec1::<half::f16>()?;
        let mut bytes = numbers.iter().flat_map(|x| x.to_le_bytes());
        let kept = Rows::load(&Place::current(), all.dims(), &mut |piece| {
            piece.iter_mut().zip(&mut bytes).for_each(|(to, byte)| *to = byte);
            Ok(())
        })?;
        on_cpu(&[kept.gather(&rows)?])
    }),
];

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::Precision;

    /// The emulation of a GPU, where there is a C++ compiler; else the test says that it is skipped.
    pub(in crate::bench) fn emulated() -> Option<Place> {
        let place = Place::emulated();
        if let Err(error) = &place {
            println!("skipped: {error:#}");
        }
        place.ok()
    }

    #[test]
    fn every_kernel_computes_what_the_processor_computes() {
        let Some(place) = emulated() else { return };
        let compared = ops(&place).unwrap();
        let far: Vec<_> = compared.iter().filter(|c| !(c.value < 1e-5 && c.gradient < 1e-5)).collect();
        assert!(far.is_empty(), "{far:#?}");
        // In bf16, factors of convolutions have 8 binary digits.
        let place = place.at(Precision::Bf16);
        let cases = layers().unwrap().into_iter().filter(|case| case.op.contains("conv2d"));
        let rounded: Vec<_> = cases.map(|case| compare(&case, &place).unwrap()).collect();
        let far: Vec<_> = rounded.iter().filter(|c| !(c.value < 1e-2 && c.gradient < 1e-2)).collect();
        assert!(far.is_empty(), "{far:#?}");
        let by_eights = rounded.iter().filter(|c| c.op.contains("by eights") || c.op.contains("attention"));
        let exact: Vec<_> = by_eights.filter(|c| c.value < 1e-5 || c.gradient < 1e-5).collect();
        assert!(exact.is_empty(), "these were not rounded: {exact:#?}");
        assert_eq!(Place::kernels_not_run().unwrap(), [""; 0]);
    }
}
