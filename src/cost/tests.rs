//! The counts against PyTorch's (`scripts/count_flops.py`) and against the networks when they are built.

use super::*;
use crate::data;
use crate::diffusion::unet::{DiffusionUNet, parameter_count};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::spec::settings::{Method, Preset, UnetSettings};

fn settings(preset: Preset, method: Method) -> Settings {
    Settings::preset(preset, method)
}

fn paper_unet() -> UnetSettings {
    settings(Preset::Paper, Method::Mcsd).unet
}

/// The network "convolutions, added time" of the script.
fn plain() -> DiffusionSettings {
    DiffusionSettings {
        channels: 64,
        channel_mult: vec![1, 2, 2],
        res_blocks: 1,
        attention: vec![2, 4],
        head_channels: 32,
        resblock_updown: false,
        scale_shift_norm: false,
        ..settings(Preset::Paper, Method::Mcsd).diffusion
    }
}

#[test]
fn operations_are_those_that_pytorch_counts() {
    let unet = |channels, side| unet(channels, 4, &paper_unet(), side);
    let diffusion = |preset, side| diffusion(&settings(preset, Method::Mcsd).diffusion, side, None);
    // As `scripts/count_flops.py` prints them: parameters, forward, forward and backward.
    let cases = [
        ("unet 4×256", unet(1, 256), 4.0, false, [1_813_764.0, 23_597_154_304.0, 70_715_965_440.0]),
        ("unet 8×64", unet(1, 64), 8.0, false, [1_813_764.0, 2_949_644_288.0, 8_839_495_680.0]),
        ("g 8×128", unet(30, 128), 8.0, true, [1_817_940.0, 12_893_290_496.0, 38_679_871_488.0]),
        (
            "lite",
            diffusion(Preset::Lite, 64),
            4.0,
            false,
            [34_611_649.0, 34_872_754_176.0, 104_599_257_088.0],
        ),
        ("smoke", diffusion(Preset::Smoke, 64), 4.0, false, [8_673_505.0, 8_739_520_512.0, 26_209_091_584.0]),
        (
            "paper",
            diffusion(Preset::Paper, 256),
            1.0,
            false,
            [552_797_953.0, 2_237_551_607_808.0, 6_712_352_309_248.0],
        ),
        (
            "plain",
            super::diffusion(&plain(), 64, None),
            4.0,
            false,
            [4_634_305.0, 40_104_886_272.0, 120_295_653_376.0],
        ),
    ];
    for (name, net, batch, input_gradient, [parameters, forward, both]) in cases {
        assert_eq!(net.parameters, parameters, "{name}: parameters");
        assert_eq!(net.forward(batch).flops, forward, "{name}: forward");
        let counted = net.forward(batch).flops + net.backward(batch, input_gradient).flops;
        assert_eq!(counted, both, "{name}: forward and backward");
    }
}

#[test]
fn winograd_takes_16_products_where_the_direct_way_takes_36() {
    let step = |net: Network, batch: f64| net.forward(batch) + net.backward(batch, false);
    let unet = |side| unet(1, 4, &paper_unet(), side);
    let lite = diffusion(&settings(Preset::Lite, Method::Mcsd).diffusion, 64, None);
    for (work, gigas) in [(step(unet(256), 4.0), 32.5), (step(unet(64), 8.0), 4.07), (step(lite, 4.0), 49.6)]
    {
        assert!((work.winograd / 1e9 - gigas).abs() < 0.01 * gigas, "{} for {gigas}", work.winograd / 1e9);
        assert!(work.winograd > 16.0 / 36.0 * work.flops, "first, last and 1×1 layers are not Winograd's");
    }
    // Maps of one pixel fill a quarter of a tile.
    let (one, two) = (unet(16), unet(32));
    assert!(4.0 * one.forward(1.0).winograd > two.forward(1.0).winograd);
    assert_eq!(4.0 * one.forward(1.0).flops, two.forward(1.0).flops);
}

#[test]
fn what_is_fused_moves_nothing_of_its_own() {
    let with = |dropout| {
        let settings = DiffusionSettings { dropout, ..settings(Preset::Lite, Method::Mcsd).diffusion };
        diffusion(&settings, 64, None)
    };
    assert_eq!(with(0.0), with(0.1), "dropout is a part of the norm before it");
    let apart = DiffusionSettings { scale_shift_norm: false, ..plain() };
    let fused = DiffusionSettings { scale_shift_norm: true, ..plain() };
    let bytes = |settings: &DiffusionSettings| diffusion(settings, 64, None).forward(1.0).bytes;
    let weights = |settings: &DiffusionSettings| 4.0 * diffusion(settings, 64, None).parameters;
    assert!(bytes(&fused) - weights(&fused) < bytes(&apart) - weights(&apart));
}

fn sizes(params: &Params) -> [f64; 3] {
    let buffers: usize = params.buffers().map(candle_core::Tensor::elem_count).sum();
    [params.count() as f64, buffers as f64, params.named().count() as f64]
}

#[test]
fn parameters_buffers_and_files_are_those_of_the_built_networks() {
    let mut builder = Builder::new(0);
    UNet::new(&mut builder, 1, 4, &paper_unet()).unwrap();
    let params = builder.finish();
    let net = unet(1, 4, &paper_unet(), 64);
    assert_eq!([net.parameters, net.buffers, net.tensors], sizes(&params));
    let bytes = params.encode().unwrap().len() as f64;
    assert!((net.file() / bytes - 1.0).abs() < 0.005, "{} bytes for {bytes}", net.file());

    for settings in [settings(Preset::Smoke, Method::Mcsd).diffusion, plain()] {
        let mut builder = Builder::shapes_only();
        DiffusionUNet::new(&mut builder, &settings).unwrap();
        let net = diffusion(&settings, 64, None);
        assert_eq!([net.parameters, net.buffers, net.tensors], sizes(&builder.finish()));
        assert_eq!(net.parameters, parameter_count(&settings).unwrap() as f64);
    }
}

#[test]
fn work_grows_with_images_and_area_but_weights_are_moved_once() {
    let net = unet(1, 4, &paper_unet(), 64);
    assert_eq!(net.forward(4.0).flops, 4.0 * net.forward(1.0).flops);
    assert!(net.forward(4.0).bytes < 4.0 * net.forward(1.0).bytes);
    let larger = unet(1, 4, &paper_unet(), 128);
    assert_eq!(larger.forward(1.0).flops, 4.0 * net.forward(1.0).flops, "convolutions follow the area");
    assert_eq!(larger.training_memory(1.0), 4.0 * net.training_memory(1.0), "and so do values");
}

#[test]
fn features_stop_at_the_deepest_block_that_is_read() {
    let settings = settings(Preset::Lite, Method::Mcsd).diffusion;
    let all = blocks(&settings, 64).len();
    let flops = |block| features_pass(&settings, 64, block, 1.0).flops;
    for block in 1..all {
        assert!(flops(block) > flops(block - 1), "block {block} comes on top");
    }
    let whole = diffusion(&settings, 64, None).forward(1.0).flops;
    assert!(flops(all - 1) < whole && flops(all - 1) > 0.99 * whole, "only the last convolution is left");
}

#[test]
fn a_group_runs_its_deepest_pass_once() {
    let facts = Facts { volumes: [10, 2, 4], slices: [80, 16, 32], voxels: 1_000_000 };
    let settings = settings(Preset::Smoke, Method::Mcsd);
    let one = |block| stage(StageKind::Features, &settings, Some(block), &facts);
    let (two, six) = (one(2), one(6));
    let both = group([two, six]);
    assert_eq!((both.work, both.disk), (six.work, two.disk + six.disk));
}

#[test]
fn modules_cost_what_they_add() {
    let with = |dfm, dic| Settings { dfm, dic, ..settings(Preset::Smoke, Method::Mcsd) };
    let flops = |dfm, dic| train_step(&with(dfm, dic)).flops;
    let supervised = train_step(&settings(Preset::Smoke, Method::Supervised)).flops;
    assert_eq!(flops(false, false), supervised, "without both it is the supervised step");
    let f = unet(1, 4, &with(true, true).unet, 64);
    let batch = 4.0;
    let step = |images: f64| f.forward(images).flops + f.backward(images, false).flops;
    assert_eq!(
        flops(false, true),
        step(4.0 * batch) + f.forward(batch).flops,
        "4 + 4 and 2·4 strong, 4 partners"
    );
    assert!(flops(true, true) > flops(false, true) + step(2.0 * batch), "g and the reduction on top");
    let online = Settings {
        features: crate::spec::settings::FeatureSettings {
            mode: FeatureMode::Online,
            ..with(true, true).features
        },
        ..with(true, true)
    };
    assert!(train_step(&online).flops > flops(true, true), "features are computed in every step");
}

#[test]
fn networks_of_every_method_are_about_those_that_are_built() {
    for entry in &crate::methods::catalogue::CATALOGUE {
        let settings = settings(Preset::Paper, entry.method);
        let (mut learn, mut kept) = (0.0, 0.0);
        for (name, learns, keeps) in crate::methods::catalogue::networks(entry.method, Preset::Paper).unwrap()
        {
            if !["g", "reduction"].contains(&name.as_str()) {
                (learn, kept) = (learn + learns as f64, kept + keeps as f64);
            }
        }
        let f = unet(1, 4, &settings.unet, 256);
        let Networks { learning, stored } = Networks::of(&settings);
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.02, "{}: {a} for {b}", entry.title);
        near(learning * f.parameters, learn);
        near(stored * (f.parameters + f.buffers), learn + kept);
    }
}

#[test]
fn the_reduction_is_the_cheaper_by_its_size() {
    let settings = settings(Preset::Paper, Method::Mcsd);
    let (ours, reference) = (reduction(&settings, 1.0, false), reduction_at_full_size(&settings, 1.0));
    // 3·(1024·16² + 1024·16² + 512·32²)·30 against 7680·256²·30.
    assert_eq!(ours.flops, 2.0 * 3.0 * (1024.0 * 256.0 * 2.0 + 512.0 * 1024.0) * 30.0);
    assert_eq!(reference.flops, 2.0 * 7680.0 * 65_536.0 * 30.0);
    assert!(ours.bytes < 0.02 * reference.bytes);
}

#[test]
fn a_phantom_is_about_as_large_as_expected() {
    let mut data = settings(Preset::Smoke, Method::Mcsd).data;
    data.patients = 60;
    let found = data::prepare(&data, &|_, _| Ok(())).unwrap();
    let inspected = data::inspect(&data).unwrap();
    let expected = Facts::expected(data.name, inspected.train_patients, inspected.volumes);
    let facts = Facts::of(found.cases().iter().map(|case| (case.split as usize, case.shape)));
    assert_eq!(facts.volumes, expected.volumes);
    let near = |a: f64, b: f64, what: &str| assert!((a / b - 1.0).abs() < 0.1, "{what}: {a} for {b}");
    near(expected.slices[0] as f64, facts.slices[0] as f64, "training slices");
    near(expected.voxels as f64, facts.voxels as f64, "voxels");
}

#[test]
fn acdc_has_the_size_that_it_has() {
    let facts = Facts::expected(DataName::Acdc, 70, 200);
    assert_eq!((facts.volumes, facts.slices), ([140, 20, 40], [1312, 210, 380]));
    assert!((facts.voxels as f64 / 102_053_024.0 - 1.0).abs() < 1e-3, "{} voxels", facts.voxels);
}
