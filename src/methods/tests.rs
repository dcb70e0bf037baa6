//! The losses against PyTorch's (`scripts/fixtures_methods.py`), value and gradient.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::mcsd::{Config, Outputs, step_loss};
use super::scalar;
use crate::ops::{Mode, Tape};
use crate::spec::settings::{FeatureLoss, SupervisedLoss, TestStream};

fn fixture() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/methods.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).expect("the fixture is committed")
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Loss and gradients of one variant.
fn check(
    fixture: &HashMap<String, Tensor>,
    dfm: bool,
    dic: bool,
    feature: FeatureLoss,
    loss: SupervisedLoss,
) {
    let name = |name: &str| format!("in/{name}");
    let case = format!(
        "{}{}/{}/{}",
        u8::from(dfm),
        u8::from(dic),
        serde_json::to_value(feature).unwrap().as_str().unwrap(),
        serde_json::to_value(loss).unwrap().as_str().unwrap()
    );
    let tape = Tape::new(Mode::Train, 0);
    let input = |n: &str| fixture[&name(n)].clone();
    let var = |n: &str| tape.param(&fixture[&name(n)]);
    let on = dfm || dic;
    let outputs = Outputs {
        f_labelled: var("f_labelled"),
        f_weak: on.then(|| var("f_weak")),
        f_strong: dic.then(|| [var("f_strong0"), var("f_strong1")]),
        f_partner: dic.then(|| input("f_partner")),
        g: dfm.then(|| [var("g_labelled"), var("g_weak")]),
    };
    let config = Config { loss, tau: 0.6, dic, feature_loss: feature, test_stream: TestStream::Image };
    let pasted = input("pasted");
    let pasted = [0, 1].map(|k| pasted.narrow(0, k, 1).unwrap().squeeze(0).unwrap().contiguous().unwrap());
    let losses = step_loss(&tape, config, &outputs, &input("target"), Some(&pasted)).unwrap();
    let expected = f64::from(values(&fixture[&format!("{case}/loss")])[0]);
    let found = scalar(&losses.total).unwrap();
    assert!((found - expected).abs() < 1e-5, "{case}: loss {found}, PyTorch {expected}");

    let gradients = tape.backward(&losses.total).unwrap();
    for n in ["f_labelled", "f_weak", "f_strong0", "g_labelled", "g_weak"] {
        let expected = values(&fixture[&format!("{case}/{n}")]);
        let found = match gradients.get(&fixture[&name(n)]) {
            Some(gradient) => values(&gradient.narrow(0, 0, 1).unwrap().narrow(2, 3, 1).unwrap()),
            None => vec![0.0; expected.len()],
        };
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{case}: gradient of {n}: {found}, PyTorch {expected}");
        }
    }
}

#[test]
fn mcsd_equals_pytorch_in_every_variant() {
    let fixture = fixture();
    for loss in [SupervisedLoss::Ce, SupervisedLoss::CeDice] {
        for dic in [false, true] {
            check(&fixture, false, dic, FeatureLoss::Mutual, loss);
            for feature in [FeatureLoss::Literal, FeatureLoss::Mutual, FeatureLoss::Fused] {
                check(&fixture, true, dic, feature, loss);
            }
        }
    }
}

#[test]
fn the_literal_feature_loss_gives_the_image_stream_no_gradient() {
    let fixture = fixture();
    let weak = &fixture["10/literal/ce/f_weak"];
    assert_eq!(
        weak.to_dtype(DType::F32).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(),
        0.0
    );
    assert!(values(&fixture["10/mutual/ce/f_weak"]).iter().any(|g| *g != 0.0), "the mutual one does");
}
