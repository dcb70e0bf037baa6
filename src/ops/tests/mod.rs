//! Every op against PyTorch (fixtures) and against finite differences; the same bits for any number of threads.

mod finite;
mod methods;
mod pytorch;
mod threads;

use super::buffer::{floats, tensor};
use super::tape::{Tape, Var};
use candle_core::{Device, Tensor};
use rand::Rng;

/// Σ y·r, the scalar whose gradients the tests look at.
fn dot(tape: &Tape, y: &Var, r: &Tensor) -> Var {
    assert_eq!(y.dims(), r.dims(), "the cotangent has the shape of the output");
    let sum: f64 =
        floats(y.value()).unwrap().iter().zip(floats(r).unwrap().iter()).map(|(a, b)| f64::from(a * b)).sum();
    let (node, r) = (y.node, r.clone());
    let value = tensor(vec![sum as f32], ()).unwrap();
    tape.record(value, &[y], move |g, sink| {
        sink.add(node, floats(&r)?.iter().map(|r| r * g[0]).collect());
        Ok(())
    })
    .unwrap()
}

/// Normal-ish numbers (a sum of uniform ones) of the stream (11, "ops test", index).
fn random(index: u64, shape: &[usize]) -> Tensor {
    let mut rng = crate::rng::stream(11, "ops test", index);
    let mut draw = || (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Classes below `classes`, u8, of the stream (12, "ops test", index).
fn random_classes(index: u64, shape: &[usize], classes: u8) -> Tensor {
    let mut rng = crate::rng::stream(12, "ops test", index);
    let values: Vec<u8> = (0..shape.iter().product()).map(|_| rng.random_range(0..classes)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest |a − b| relative to the largest |b| (at least 1e-3).
fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims(), "equal shapes");
    let (a, b) = (values(a), values(b));
    assert!(a.iter().all(|a| a.is_finite()), "all numbers are finite");
    let size = b.iter().fold(1e-3f32, |m, b| m.max(b.abs()));
    a.iter().zip(&b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / size
}
