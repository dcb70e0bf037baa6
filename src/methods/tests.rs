//! The losses against PyTorch's (`scripts/fixtures_methods.py`), value and gradient.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::mcsd::{Config, Outputs, step_loss};
use crate::ops::{Mode, Tape};
use crate::spec::settings::{FeatureLoss, Method, Preset, SupervisedLoss, TestStream};

mod levels;
mod others;
mod steps;

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
        f_perturbed: None,
        f_strong: dic.then(|| [var("f_strong0"), var("f_strong1")]),
        f_partner: dic.then(|| input("f_partner")),
        g: dfm.then(|| [var("g_labelled"), var("g_weak")]),
    };
    let config = Config {
        loss,
        tau: 0.6,
        dic,
        feature_loss: feature,
        test_stream: TestStream::Image,
        feature_dropout: false,
    };
    let pasted = input("pasted");
    let pasted = [0, 1].map(|k| pasted.narrow(0, k, 1).unwrap().squeeze(0).unwrap().contiguous().unwrap());
    let losses = step_loss(&tape, config, &outputs, &input("target"), Some(&pasted)).unwrap();
    let expected = f64::from(values(&fixture[&format!("{case}/loss")])[0]);
    let found = f64::from(losses.total.scalar().unwrap());
    assert!((found - expected).abs() < 1e-5, "{case}: loss {found}, PyTorch {expected}");

    let gradients = tape.backward(&losses.total).unwrap();
    for n in ["f_labelled", "f_weak", "f_strong0", "f_strong1", "g_labelled", "g_weak"] {
        let expected = values(&fixture[&format!("{case}/{n}")]);
        let found = gradients.get(&fixture[&name(n)]).map_or_else(|| vec![0.0; expected.len()], values);
        assert_eq!(found.len(), expected.len(), "{case}: all of the gradient of {n}");
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

#[test]
fn every_method_is_listed_with_the_papers_numbers_of_parameters() {
    let listed: Vec<Method> = super::catalogue::CATALOGUE.iter().map(|entry| entry.method).collect();
    assert_eq!(listed, Method::ALL);
    for method in Method::ALL {
        let word = serde_json::to_value(method).unwrap();
        assert_eq!(word, method.name(), "the name in a sweep file");
        let networks = super::catalogue::networks(method, Preset::Paper).unwrap();
        let trained: Vec<(&str, usize)> =
            networks.iter().filter(|(_, n, _)| *n > 0).map(|(name, n, _)| (name.as_str(), *n)).collect();
        let unet = 1_813_764;
        let expected: &[(&str, usize)] = match method {
            Method::Supervised | Method::MeanTeacher | Method::UaMt | Method::Bcp | Method::Unimatch => {
                &[("f", unet)]
            }
            Method::Urpc => &[("f", 1_831_060)],
            Method::Cps => &[("f", unet), ("f2", unet)],
            Method::CrossTeaching => &[("f", unet), ("swin", 27_168_420)],
            Method::McNet => &[("f", 2_577_624)],
            Method::McNetPlus => &[("f", 3_210_924)],
            Method::ScSsl => &[
                ("f", unet),
                ("f2", unet),
                ("corrector", unet + 8 * 9 * 16),
                ("projection", 544),
                ("projection2", 544),
            ],
            Method::Mcsd => &[("f", unet), ("g", unet + 29 * 9 * 16), ("reduction", 230_430)],
        };
        assert_eq!(trained, expected, "{method:?}");
        let kept: usize =
            networks.iter().filter(|(name, ..)| name == "teacher").map(|(_, _, kept)| kept).sum();
        assert_eq!(kept > unet, method.has_teacher(), "{method:?}: a teacher has weights and statistics");
    }
}

#[test]
fn a_random_reduction_for_each_image_depends_on_the_image_alone() {
    use super::per_image::PerImage;
    use crate::diffusion::unet::BlockShape;
    let shapes = [BlockShape { channels: 3, side: 4 }, BlockShape { channels: 2, side: 8 }];
    let reduction = PerImage::new(5, &shapes, 1);
    let maps = |seed: f32| {
        shapes.map(|BlockShape { channels, side }| {
            let n = 2 * channels * side * side;
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37 + seed).sin()).collect();
            Tensor::from_vec(values, (2, channels, side, side), &Device::Cpu).unwrap()
        })
    };
    let run = |maps: &[Tensor], order: &[u32]| {
        let order = Tensor::new(order, &Device::Cpu).unwrap();
        let maps: Vec<Tensor> = maps.iter().map(|map| map.index_select(&order, 0).unwrap()).collect();
        let tape = Tape::new(Mode::Train, 0);
        values(reduction.forward(&tape, &maps, 16, None).unwrap().value())
    };
    let maps = maps(0.0);
    let (both, swapped) = (run(&maps, &[0, 1]), run(&maps, &[1, 0]));
    let half = both.len() / 2;
    assert_eq!((&both[..half], &both[half..]), (&swapped[half..], &swapped[..half]));
    // The same maps twice are reduced alike; two images are not.
    let twice = run(&maps, &[0, 0]);
    assert_eq!(twice[..half], twice[half..]);
}
