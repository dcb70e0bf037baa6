//! Against `tests/fixtures/ops.safetensors`, written by `scripts/fixtures_ops.py` with PyTorch.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::{difference, dot};
use crate::ops::{AdamW, BatchNorm, Gradients, Mode, Sgd, Tape, Var};

struct Fixtures(HashMap<String, Tensor>);

impl Fixtures {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ops.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn get(&self, case: &str, name: &str) -> &Tensor {
        self.0.get(&format!("{case}/{name}")).unwrap_or_else(|| panic!("no fixture {case}/{name}"))
    }

    /// Runs a case whose learning inputs are `inputs` and compares its output and all gradients.
    fn check(&self, case: &str, inputs: &[&str], run: impl Fn(&Tape, &[Var]) -> Result<Var>) {
        self.check_to(case, inputs, 2e-6, run);
    }

    fn check_to(&self, case: &str, inputs: &[&str], within: f32, run: impl Fn(&Tape, &[Var]) -> Result<Var>) {
        let tape = Tape::new(Mode::Train, 3);
        let vars: Vec<Var> = inputs.iter().map(|name| tape.param(self.get(case, name))).collect();
        let y = run(&tape, &vars).unwrap();
        let error = difference(y.value(), self.get(case, "y"));
        assert!(error < within, "{case}: the output is off by {error}");
        let loss = if y.len() == 1 && y.dims().is_empty() { y } else { dot(&tape, &y, self.get(case, "r")) };
        let gradients = tape.backward(&loss).unwrap();
        assert_eq!(gradients.len(), inputs.len(), "{case}: each input has a gradient");
        for name in inputs {
            let gradient = gradients.get(self.get(case, name)).unwrap();
            let error = difference(gradient, self.get(case, &format!("d{name}")));
            assert!(error < within, "{case}: the gradient of {name} is off by {error}");
        }
    }
}

#[test]
fn convolutions() {
    let f = Fixtures::read();
    for (case, stride, padding) in [
        ("conv3", 1, 1),
        ("conv3_one", 1, 1),
        ("conv3_wide", 1, 1),
        ("conv3_tiny", 1, 1),
        ("conv3_four", 1, 1),
        ("conv1", 1, 0),
        ("conv3_stride", 2, 1),
        ("conv3_valid", 1, 0),
        ("conv4_patch", 4, 0),
        ("conv5", 1, 2),
    ] {
        f.check(case, &["x", "w", "b"], |t, v| t.conv2d(&v[0], &v[1], Some(&v[2]), stride, padding));
    }
    f.check("transpose", &["x", "w", "b"], |t, v| t.conv_transpose2x2(&v[0], &v[1], Some(&v[2])));
    f.check("linear", &["x", "w", "b"], |t, v| t.linear(&v[0], &v[1], Some(&v[2])));
}

#[test]
fn normalisations() {
    let f = Fixtures::read();
    let settings = BatchNorm::default();
    let inputs = ["x", "gamma", "beta"];
    for (case, within) in [("batch", 2e-6), ("batch_far", 3e-4)] {
        let running = || {
            let copy = |name| f.get(case, name).copy().unwrap();
            (copy("mean"), copy("var"))
        };
        let (mean, var) = running();
        f.check_to(case, &inputs, within, |t, v| t.batch_norm(&v[0], &v[1], &v[2], &mean, &var, settings));
        for (after, name) in [(&mean, "mean_after"), (&var, "var_after")] {
            let error = difference(after, f.get(case, name));
            assert!(error < 2e-6, "{case}: the running statistics move as PyTorch's: {name} off by {error}");
        }
        let (mean, var) = running();
        f.check_to(&format!("{case}_leaky"), &inputs, within, |t, v| {
            t.batch_norm_leaky_dropout(&v[0], &v[1], &v[2], &mean, &var, settings, 0.01, 0.0)
        });
    }
    // Gradients do not flow in eval mode: the values only.
    for case in ["batch_eval", "batch_far_eval"] {
        let tape = Tape::new(Mode::Eval, 0);
        let constant = |name| tape.constant(f.get(case, name));
        let (mean, var) = (f.get(case, "mean"), f.get(case, "var"));
        let y = tape
            .batch_norm(&constant("x"), &constant("gamma"), &constant("beta"), mean, var, settings)
            .unwrap();
        let error = difference(y.value(), f.get(case, "y"));
        assert!(error < 2e-6, "{case}: off by {error}");
    }
    f.check("group", &inputs, |t, v| t.group_norm(&v[0], &v[1], &v[2], 3, 1e-5));
    f.check("group_silu", &inputs, |t, v| t.group_norm_silu(&v[0], &v[1], &v[2], 3, 1e-5));
    f.check("scale_shift", &["x", "s", "t"], |t, v| t.scale_shift(&v[0], &v[1], &v[2]));
    f.check("add_channel", &["x", "v"], |t, v| t.add_channel(&v[0], &v[1]));
}

#[test]
fn elementwise() {
    let f = Fixtures::read();
    f.check("leaky", &["x"], |t, v| t.leaky_relu(&v[0], 0.01));
    f.check("silu", &["x"], |t, v| t.silu(&v[0]));
    f.check("gelu", &["x"], |t, v| t.gelu(&v[0]));
    f.check("softmax", &["x"], |t, v| t.softmax(&v[0]));
    f.check("add", &["a", "b"], |t, v| t.add(&v[0], &v[1]));
    f.check("concat", &["a", "b"], |t, v| t.concat(&[&v[0], &v[1]], 1));
    f.check("attention", &["x"], |t, v| t.attention(&v[0], 2));
}

#[test]
fn resizes() {
    let f = Fixtures::read();
    for case in ["max", "max_even", "max_ties"] {
        f.check(case, &["x"], |t, v| t.max_pool2(&v[0]));
    }
    f.check("average", &["x"], |t, v| t.avg_pool2(&v[0]));
    f.check("nearest", &["x"], |t, v| t.upsample_nearest2(&v[0]));
    for (name, size, align) in [
        ("up", (10, 14), true),
        ("up_half", (10, 14), false),
        ("odd", (11, 4), true),
        ("odd_half", (3, 13), false),
        ("same", (5, 7), true),
        ("one", (1, 1), true),
    ] {
        f.check(&format!("bilinear_{name}"), &["x"], |t, v| t.upsample_bilinear(&v[0], size, align));
    }
    f.check("sample", &["x"], |t, v| t.sample(&v[0], f.get("sample", "grid")));
}

#[test]
fn losses() {
    let f = Fixtures::read();
    f.check("cross_entropy", &["x"], |t, v| t.cross_entropy(&v[0], f.get("cross_entropy", "target")));
    f.check("mse", &["x"], |t, v| t.mse(&v[0], f.get("mse", "target")));
    for case in ["dice", "dice_kept", "dice_none"] {
        f.check(case, &["x"], |t, v| t.dice(&v[0], f.get(case, "target"), Some(f.get(case, "keep")), 1e-5));
    }
    f.check("dice", &["x"], |t, v| t.dice(&v[0], f.get("dice", "target"), None, 1e-5));
}

/// Three steps on two parameters; `step(params, gradients)`.
fn optimise(f: &Fixtures, case: &str, mut step: impl FnMut(&[Tensor], &Gradients)) {
    let params: Vec<Tensor> = (0..2).map(|i| f.get(case, &format!("before{i}")).copy().unwrap()).collect();
    for round in 0..3 {
        let mut gradients = Gradients::default();
        for (i, param) in params.iter().enumerate() {
            gradients.insert(param, f.get(case, &format!("grad{round}{i}")).clone());
        }
        step(&params, &gradients);
    }
    for (i, param) in params.iter().enumerate() {
        let error = difference(param, f.get(case, &format!("after{i}")));
        assert!(error < 5e-7, "{case}: parameter {i} is off by {error}");
    }
}

#[test]
fn optimisers_also_across_a_checkpoint() {
    let f = Fixtures::read();
    let mut sgd = Sgd::new(0.9, 1e-4);
    optimise(&f, "sgd", |params, gradients| {
        sgd.step(params, gradients, 0.01).unwrap();
        let state = sgd.state().unwrap();
        sgd = Sgd::new(0.9, 1e-4);
        sgd.load_state(&state).unwrap();
    });
    let mut adam = AdamW::new(0.9, 0.999, 1e-8, 0.01);
    optimise(&f, "adamw", |params, gradients| {
        adam.step(params, gradients, 1e-3).unwrap();
        let state = adam.state().unwrap();
        adam = AdamW::new(0.9, 0.999, 1e-8, 0.01);
        adam.load_state(&state).unwrap();
    });
}
