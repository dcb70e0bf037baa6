//! Whole steps of every method against PyTorch (`scripts/fixtures_steps.py`): [`Method::loss`] from images to the loss,
//! its gradient with respect to every weight, and the running statistics that its passes leave. Networks, images and
//! labels are computed from names on both sides; noise, masks and boxes are those of the random streams.

use candle_core::{DType, Device, Tensor};

use crate::diffusion::unet::BlockShape;
use crate::methods::batch::{Batch, FeatureMaps, Maps, StrongViews, View};
use crate::methods::{Method, Step, build};
use crate::nn::params::Params;
use crate::nn::testing::{Fixture, fill, uniform, values, vec64};
use crate::ops::{Mode, Tape};
use crate::spec::settings::{
    ConsistencySettings, FeatureLoss, Method as Name, Preset, Settings, SupervisedLoss, UnetSettings,
};

/// Images of each kind in the batch, and their side.
const B: usize = 4;
const SIDE: usize = 32;
/// The seed of the tape, and where the training stands.
const TAPE: u64 = 5;
const STEP: Step = Step { index: 60, total: 100 };
/// Diffusion features: (channels, side) of each map.
const MAPS: [(usize, usize); 4] = [(6, 4), (4, 8), (6, 4), (4, 8)];

fn settings(method: Name) -> Settings {
    let mut settings = Settings::preset(Preset::Smoke, method);
    settings.size = SIDE;
    settings.seed = 9;
    settings.tau = 0.6;
    settings.unet = UnetSettings { channels: [4, 4, 8, 8, 8], dropout: [0.0; 5] };
    settings.swin.channels = 6;
    settings.swin.window = 2;
    settings.swin.drop_path = 0.0;
    settings.feature_dim = 5;
    settings.train.batch = B;
    settings.consistency = ConsistencySettings { delay: 0, ..ConsistencySettings::default() };
    settings.bcp.pretrain = 50;
    settings
}

/// Begins the names of inputs.
const SET: &str = "a";

fn image(name: &str) -> Tensor {
    values(&format!("{SET}{name}"), &[B, 1, SIDE, SIDE]).affine(0.5, 0.5).unwrap()
}

fn classes(name: &str) -> Tensor {
    let labels: Vec<u8> = uniform(&format!("{SET}{name}"))
        .take(B * SIDE * SIDE)
        .map(|u| (2.0 * (u + 1.0)).floor() as u8)
        .collect();
    Tensor::from_vec(labels, (B, SIDE, SIDE), &Device::Cpu).unwrap()
}

/// 1 in boxes: (image, rows, columns).
fn boxes(boxes: &[(usize, [usize; 2], [usize; 2])]) -> Tensor {
    let mut mask = vec![0u8; B * SIDE * SIDE];
    for (image, rows, columns) in boxes {
        for row in rows[0]..rows[1] {
            let start = (image * SIDE + row) * SIDE;
            mask[start + columns[0]..start + columns[1]].fill(1);
        }
    }
    Tensor::from_vec(mask, (B, SIDE, SIDE), &Device::Cpu).unwrap()
}

fn features(name: &str) -> FeatureMaps {
    let map =
        |(k, (c, h)): (usize, &(usize, usize))| values(&format!("{SET}{name}/map{k}"), &[B, *c, *h, *h]);
    let grid = values(&format!("{SET}{name}/grid"), &[B, SIDE, SIDE, 2]).affine(18.0, 14.0).unwrap();
    FeatureMaps { maps: Maps::Given(MAPS.iter().enumerate().map(map).collect()), grid: Some(grid) }
}

fn batch() -> Batch {
    Batch {
        labelled: View { image: image("x"), features: Some(features("labelled")) },
        target: classes("y"),
        unlabelled: Some(View { image: image("u"), features: Some(features("unlabelled")) }),
        strong: Some(StrongViews {
            images: [image("strong0"), image("strong1")],
            pasted: [
                boxes(&[(0, [4, 20], [6, 30]), (2, [10, 32], [0, 12])]),
                boxes(&[(1, [2, 9], [3, 31]), (2, [0, 16], [16, 32])]),
            ],
            partner: image("partner"),
        }),
    }
}

/// The method with weights of their names, heads made sharper and running variances smaller so that some predictions
/// are sure.
fn method(settings: &Settings) -> Box<dyn Method> {
    let shapes = MAPS.map(|(channels, side)| BlockShape { channels, side });
    let method = build(settings, if settings.uses_features() { &shapes } else { &[] }).unwrap();
    fill(method.params());
    let factor = |name: &str| match name {
        _ if name.ends_with("running_var") => Some(0.125),
        _ if !name.ends_with("out_conv.weight") => None,
        _ if name.starts_with("corrector.") => Some(1.65),
        _ => Some(4.0),
    };
    let sharper = method
        .params()
        .named()
        .filter_map(|(name, tensor)| Some((name.to_owned(), tensor.affine(factor(name)?, 0.0).unwrap())));
    method.params().load_some(&sharper.collect()).unwrap();
    method
}

/// Norms and products with fixed vectors of `named`, in the order of the names, are the rows of `expected`.
fn compare(case: &str, what: &str, mut named: Vec<(&str, Tensor)>, expected: &Tensor, tolerance: f64) {
    named.sort_by_key(|(name, _)| *name);
    let rows: Vec<Vec<f64>> = expected.to_vec2().unwrap();
    assert_eq!(
        named.len(),
        rows[0].len(),
        "{case}: {what}s: {:?}",
        named.iter().map(|n| n.0).collect::<Vec<_>>()
    );
    let largest = rows[0].iter().fold(0f64, |max, norm| max.max(*norm));
    for (at, (name, tensor)) in named.iter().enumerate() {
        let found = vec64(tensor);
        let norm = found.iter().map(|value| value * value).sum::<f64>().sqrt();
        let dot: f64 = found.iter().zip(uniform(&format!("v:{name}"))).map(|(value, v)| value * v).sum();
        // What the norm behind it takes away again (a bias before a batch norm) is nothing but rounding errors.
        let allowed = tolerance * rows[0][at] + 2e-6 * largest;
        for (found, expected) in [(norm, rows[0][at]), (dot, rows[1][at])] {
            assert!(
                (found - expected).abs() <= allowed,
                "{case}: {what} of `{name}`: {found}, PyTorch {expected} (allowed {allowed:e})"
            );
        }
    }
}

fn running(params: &Params) -> Vec<(&str, Tensor)> {
    let found = params.named().filter(|(name, _)| name.contains(".running_"));
    found.map(|(name, tensor)| (name, tensor.clone())).collect()
}

/// One step of the method of `settings` is that of the fixture's `case`.
fn check(case: &str, settings: &Settings) {
    let fixture = Fixture::open("methods_steps");
    let method = method(settings);
    let tape = Tape::new(Mode::Train, TAPE);
    let losses = method.loss(&tape, &batch(), STEP).unwrap();
    let expected = vec64(&fixture[&format!("{case}/loss")])[0];
    let found = f64::from(losses.total.scalar().unwrap());
    assert!((found - expected).abs() < 1e-5, "{case}: loss {found}, PyTorch {expected}");
    let params = method.params();
    compare(case, "statistic", running(params), &fixture[&format!("{case}/running")], 1e-5);
    let gradients = tape.backward(&losses.total).unwrap();
    let trained = params.trainable_names().zip(params.trainable());
    let trained = trained.filter_map(|(name, tensor)| Some((name, gradients.get(tensor)?.clone())));
    compare(case, "gradient", trained.collect(), &fixture[&format!("{case}/gradients")], 4e-4);
}

#[test]
fn supervised() {
    let mut settings = settings(Name::Supervised);
    check("supervised", &settings);
    settings.train.loss = SupervisedLoss::Ce;
    check("supervised_ce", &settings);
}

#[test]
fn teachers() {
    for (case, method) in [("mean_teacher", Name::MeanTeacher), ("ua_mt", Name::UaMt)] {
        check(case, &settings(method));
    }
}

#[test]
fn urpc() {
    check("urpc", &settings(Name::Urpc));
}

#[test]
fn two_networks() {
    for (case, method) in [("cps", Name::Cps), ("cross_teaching", Name::CrossTeaching)] {
        check(case, &settings(method));
    }
}

#[test]
fn several_decoders() {
    for (case, method) in [("mc_net", Name::McNet), ("mc_net_plus", Name::McNetPlus)] {
        check(case, &settings(method));
    }
}

#[test]
fn both_phases_of_copy_paste() {
    let mut settings = settings(Name::Bcp);
    check("bcp", &settings);
    settings.bcp.pretrain = 61;
    check("bcp_first", &settings);
}

#[test]
fn self_correction() {
    check("sc_ssl", &settings(Name::ScSsl));
}

#[test]
fn unimatch() {
    check("unimatch", &settings(Name::Unimatch));
}

#[test]
fn mcsd() {
    let mut settings = settings(Name::Mcsd);
    for (case, feature_loss) in [
        ("mcsd", FeatureLoss::Mutual),
        ("mcsd_literal", FeatureLoss::Literal),
        ("mcsd_fused", FeatureLoss::Fused),
    ] {
        settings.mcsd.feature_loss = feature_loss;
        check(case, &settings);
    }
    settings.mcsd.feature_loss = FeatureLoss::Mutual;
    settings.mcsd.feature_dropout = true;
    check("mcsd_perturbed", &settings);
}

/// Unaligned maps are those of the reduction without a grid: another step than the fixture's.
#[test]
fn maps_that_are_not_aligned_do_not_move() {
    let mut settings = settings(Name::Mcsd);
    settings.features.aligned = false;
    let loss = |still: bool| {
        let mut batch = batch();
        for view in [Some(&mut batch.labelled), batch.unlabelled.as_mut()].into_iter().flatten() {
            let features = view.features.as_mut().unwrap();
            features.grid = features.grid.take().filter(|_| !still);
        }
        let tape = Tape::new(Mode::Train, TAPE);
        method(&settings).loss(&tape, &batch, STEP).unwrap().total.scalar().unwrap()
    };
    let aligned = vec64(&Fixture::open("methods_steps")["mcsd/loss"].to_dtype(DType::F64).unwrap())[0];
    assert_eq!(loss(false), loss(true), "the grid is not read");
    assert!((f64::from(loss(false)) - aligned).abs() > 1e-3, "and makes a difference where it is");
}
