use super::*;
use crate::nn::params::Params;
use crate::nn::testing::{Fixture, close, fill, values, vec64};
use crate::ops::Mode;
use crate::spec::settings::{Method, Preset, Settings};

fn preset(preset: Preset) -> DiffusionSettings {
    Settings::preset(preset, Method::Mcsd).diffusion
}

fn build(settings: &DiffusionSettings) -> (DiffusionUNet, Params) {
    let mut builder = Builder::new(0);
    let net = DiffusionUNet::new(&mut builder, settings).unwrap();
    (net, builder.finish())
}

#[test]
fn parameter_counts_are_pytorchs() {
    let fixture = Fixture::open("nn_counts");
    let paper = preset(Preset::Paper);
    assert_eq!(parameter_count(&paper).unwrap(), 552_797_953);
    assert_eq!(parameter_count(&paper).unwrap(), fixture.number("diffusion_256"));
    assert_eq!(parameter_count(&preset(Preset::Lite)).unwrap(), 34_611_649);
    assert_eq!(parameter_count(&preset(Preset::Lite)).unwrap(), fixture.number("diffusion_64"));
    assert_eq!(parameter_count(&preset(Preset::Smoke)).unwrap(), fixture.number("diffusion_32"));
    let plain = DiffusionSettings { resblock_updown: false, scale_shift_norm: false, ..preset(Preset::Lite) };
    assert_eq!(parameter_count(&plain).unwrap(), fixture.number("diffusion_64_conv"));
}

#[test]
fn blocks_are_the_specs_table() {
    let table: Vec<_> =
        blocks(&preset(Preset::Paper), 256).iter().map(|block| (block.channels, block.side)).collect();
    let expected = [
        [(1024, 8), (1024, 8), (1024, 16)],
        [(1024, 16), (1024, 16), (1024, 32)],
        [(512, 32), (512, 32), (512, 64)],
        [(512, 64), (512, 64), (512, 128)],
        [(256, 128), (256, 128), (256, 256)],
        [(256, 256), (256, 256), (256, 256)],
    ];
    assert_eq!(table, expected.concat());
    let error = chosen_blocks(&preset(Preset::Paper), 256, &[2, 18]).unwrap_err().to_string();
    assert!(error.contains("block 18") && error.contains("0 to 17"), "{error}");
}

#[test]
fn wrong_settings_are_named() {
    let lite = preset(Preset::Lite);
    for (settings, size, word) in [
        (DiffusionSettings { channels: 48, ..lite.clone() }, 128, "diffusion.channels is 48"),
        (DiffusionSettings { channel_mult: vec![], ..lite.clone() }, 128, "diffusion.channel_mult"),
        (DiffusionSettings { head_channels: 60, ..lite.clone() }, 128, "diffusion.head_channels is 60"),
        (DiffusionSettings { dropout: 1.0, ..lite.clone() }, 128, "diffusion.dropout is 1"),
        (lite.clone(), 100, "size is 100, needs a multiple of 32"),
    ] {
        let error = check(&settings, size).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    check(&lite, 128).unwrap();
}

/// Output, gradients and block outputs of the network of `fixture` are PyTorch's.
fn compare(fixture: &str, settings: &DiffusionSettings, side: usize) {
    let fixture = Fixture::open(fixture);
    let (net, params) = build(settings);
    assert_eq!(fixture.names(), params.trainable_names().map(str::to_owned).collect::<Vec<_>>());
    fill(&params);
    let t: Vec<usize> = vec64(&fixture["t"]).iter().map(|t| *t as usize).collect();
    let shape = [t.len(), 1, side, side];
    let (x, target) = (values("x", &shape), values("target", &shape));
    let tape = Tape::new(Mode::Train, 0);
    let y = net.forward(&tape, &tape.param(&x), &t).unwrap();
    close(y.value(), &fixture["y"], 1e-4, "output");
    let gradients = tape.backward(&tape.mse(&y, &target).unwrap()).unwrap();
    fixture.check_gradients(&params, &gradients, 1e-3);
    close(gradients.get(&x).unwrap(), &fixture["dx"], 1e-3, "gradient of the input");

    let table = blocks(settings, side);
    let channels: Vec<f64> = table.iter().map(|block| block.channels as f64).collect();
    let sides: Vec<f64> = table.iter().map(|block| block.side as f64).collect();
    assert_eq!((channels, sides), (vec64(&fixture["channels"]), vec64(&fixture["sides"])));
    let chosen: Vec<usize> = (0..table.len()).rev().filter(|b| fixture.has(&format!("block{b}"))).collect();
    assert!(!chosen.is_empty(), "the fixture holds blocks");
    let eval = Tape::new(Mode::Eval, 0);
    let maps = net.features(&eval, &eval.constant(&x), &t, &chosen).unwrap();
    for (block, map) in chosen.iter().zip(&maps) {
        assert_eq!(map.dims(), [t.len(), table[*block].channels, table[*block].side, table[*block].side]);
        // The fixture holds every eighth channel.
        let index: Vec<u32> = (0..map.dims()[1] as u32).step_by(8).collect();
        let index = Tensor::new(index, &Device::Cpu).unwrap();
        let map = map.index_select(&index, 1).unwrap();
        close(&map, &fixture[format!("block{block}").as_str()], 1e-4, &format!("block {block}"));
    }
}

#[test]
fn network_is_pytorchs() {
    let settings = DiffusionSettings {
        channel_mult: vec![1, 2],
        attention: vec![2],
        dropout: 0.0,
        ..preset(Preset::Smoke)
    };
    compare("nn_diffusion", &settings, 16);
}

#[test]
fn network_with_convolutions_between_levels_is_pytorchs() {
    let settings = DiffusionSettings {
        channel_mult: vec![1, 2],
        res_blocks: 1,
        attention: vec![1, 2],
        head_channels: 16,
        resblock_updown: false,
        scale_shift_norm: false,
        dropout: 0.0,
        ..preset(Preset::Smoke)
    };
    compare("nn_diffusion_conv", &settings, 16);
}

#[test]
fn network_of_the_smoke_preset_is_pytorchs() {
    compare("nn_diffusion_smoke", &DiffusionSettings { dropout: 0.0, ..preset(Preset::Smoke) }, 32);
}

#[test]
fn a_new_network_predicts_nothing() {
    let (net, _) = build(&DiffusionSettings { channel_mult: vec![1], ..preset(Preset::Smoke) });
    let tape = Tape::new(Mode::Eval, 0);
    let y = net.forward(&tape, &tape.constant(&values("x", &[1, 1, 8, 8])), &[3]).unwrap();
    assert!(vec64(y.value()).iter().all(|value| *value == 0.0), "the last convolution starts at zero");
    let wrong = net.forward(&tape, &tape.constant(&values("x", &[1, 1, 8, 8])), &[3, 4]);
    assert!(wrong.is_err(), "one step for each image");
}
