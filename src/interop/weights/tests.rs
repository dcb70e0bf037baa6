use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::*;
use crate::diffusion::unet::DiffusionUNet;
use crate::nn::params::Builder;
use crate::nn::testing::close;
use crate::nn::unet::UNet;
use crate::ops::{Mode, Tape};
use crate::rng::stream;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights")
}

fn expected(name: &str) -> Tensor {
    file::read(&folder().join("expected.safetensors")).unwrap()[name].clone()
}

/// The network of `weights` on the fixture's images; a diffusion model at steps 7 and 250 of their corner.
fn output(weights: &Weights) -> Tensor {
    let x = expected("x");
    let tape = Tape::new(Mode::Eval, 0);
    let mut builder = Builder::new(1);
    match &weights.network {
        Network::Unet { inputs, classes, unet, .. } => {
            let net = UNet::new(&mut builder, *inputs, *classes, unet).unwrap();
            builder.finish().load(&weights.tensors).unwrap();
            net.forward(&tape, &tape.constant(&x)).unwrap().value().clone()
        }
        Network::Swin { .. } => unreachable!("it predicts nothing"),
        Network::Diffusion { diffusion, .. } => {
            let net = DiffusionUNet::new(&mut builder, diffusion).unwrap();
            builder.finish().load(&weights.tensors).unwrap();
            let x = x.narrow(2, 0, 16).unwrap().narrow(3, 0, 16).unwrap().contiguous().unwrap();
            net.forward(&tape, &tape.constant(&x), &[7, 250]).unwrap().value().clone()
        }
    }
}

fn hints() -> Hints {
    Hints { size: Some(32), head_channels: Some(32), ..Hints::default() }
}

#[test]
fn checkpoints_predict_as_in_pytorch() {
    let grey = Hints { grey: true, ..hints() };
    for (name, hints, wanted, word) in [
        ("ssl4mis.pth", hints(), "unet", "U-Net of 4-6-8-10-12 channels, 1 in, 4 classes, images of 32²"),
        ("unimatch.pth", hints(), "unet", "4-6-8-10-12"),
        ("bcp_old_form.pth", hints(), "unet", "4-6-8-10-12"),
        ("unet.safetensors", hints(), "unet", "4-6-8-10-12"),
        ("half.pt", hints(), "half", "4-6-8-10-12"),
        ("urpc.pth", hints(), "urpc", "1 in, 3 classes"),
        (
            "diffusion_half.pt",
            hints(),
            "diffusion",
            "32 channels × [1, 2], 1 residual blocks, attention at 1/[2]",
        ),
        (
            "diffusion_variance.pt",
            hints(),
            "plain",
            "32 channels × [1, 1], 2 residual blocks, attention at 1/[]",
        ),
        ("diffusion_colour.pt", grey, "colour", "32 channels × [1, 1]"),
    ] {
        let weights = read(&folder().join(name), &hints).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(weights.network.describe().contains(word), "{name}: {}", weights.network.describe());
        close(&output(&weights), &expected(wanted), 2e-5, name);
    }
}

#[test]
fn what_was_left_out_is_said() {
    let notes = |name: &str, hints: &Hints| read(&folder().join(name), hints).unwrap().notes.join("; ");
    assert!(notes("urpc.pth", &hints()).contains("3 tensors of its further heads"));
    assert!(notes("diffusion_variance.pt", &hints()).contains("learned variance"));
    assert!(
        notes("diffusion_half.pt", &Hints { head_channels: None, size: Some(32), ..hints() })
            .contains("64 channels")
    );
    assert_eq!(notes("ssl4mis.pth", &hints()), "");
}

#[test]
fn foreign_and_dangerous_files_are_refused_by_name() {
    let other = tempfile::tempdir().unwrap();
    let text = other.path().join("notes.pth");
    files::write_atomic(&text, "no weights at all").unwrap();
    let folder = folder();
    for (path, hints, parts) in [
        (folder.join("refused_code.pth"), hints(), &["posix.getpid", "not read"][..]),
        (folder.join("refused_module.pth"), hints(), &["Whole", "state_dict"]),
        (folder.join("refused_unknown.pth"), hints(), &["no network that is known", "weight"]),
        (folder.join("refused_two.pth"), hints(), &["2 networks", "--key \"a\""]),
        (folder.join("refused_nan.pth"), hints(), &["decoder.out_conv.bias", "NaN at index 2"]),
        (
            folder.join("ssl4mis.pth"),
            Hints { key: Some("ema".into()), ..hints() },
            &["no network that is known"],
        ),
        (folder.join("diffusion_colour.pt"), hints(), &["3 channels", "--grey"]),
        (
            folder.join("diffusion_half.pt"),
            Hints { head_channels: Some(48), ..hints() },
            &["head_channels is 48"],
        ),
        (text, hints(), &["no checkpoint"]),
        (folder.join("absent.pth"), hints(), &["cannot import"]),
        (folder.clone(), hints(), &["a folder"]),
    ] {
        let error = format!("{:#}", read(&path, &hints).unwrap_err());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(parts.iter().chain([&name.as_str()]).all(|part| error.contains(part)), "{error}");
    }
    let second = Hints { key: Some("b".into()), ..hints() };
    assert!(read(&folder.join("refused_two.pth"), &second).is_ok(), "one of two can be named");
}

/// `scripts/fixtures_weights.py --check` loads the same files into PyTorch. `WRITE_FIXTURES=1` writes them.
#[test]
fn exported_files_are_those_that_pytorch_loads() {
    let scratch = tempfile::tempdir().unwrap();
    let to = if std::env::var_os("WRITE_FIXTURES").is_some() { folder() } else { scratch.path().to_owned() };
    let weights = read(&folder().join("unimatch.pth"), &hints()).unwrap();
    for name in ["exported.pth", "exported.safetensors"] {
        weights.write(&to.join(name)).unwrap();
        assert!(fs::read(to.join(name)).unwrap() == fs::read(folder().join(name)).unwrap(), "{name}");
        let back = read(&to.join(name), &hints()).unwrap();
        assert_eq!(back.network, weights.network, "{name}");
        assert!(back.notes.is_empty(), "{name}: {:?}", back.notes);
        for (tensor, original) in &weights.tensors {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&back.tensors[tensor]), values(original), "{name}: {tensor}");
        }
    }
    let error = weights.write(&to.join("weights.onnx")).unwrap_err().to_string();
    assert!(error.contains("weights.onnx ends in neither"), "{error}");
}

#[test]
fn the_projects_form_says_what_network_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("w.safetensors");
    let hints = Hints { size: Some(96), ..hints() };
    let weights = read(&folder().join("diffusion_half.pt"), &hints).unwrap();
    weights.write(&path).unwrap();
    // Neither the size nor the heads have to be told again.
    let back = read(&path, &Hints::default()).unwrap();
    assert_eq!(back.network, weights.network);
    close(&output(&back), &expected("diffusion"), 2e-5, "the project's form");
}

/// A pickle of one line, and a part of the error that it gives.
#[test]
fn a_pickle_gets_nothing_but_data() {
    for (bytes, part) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."[..], "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x80\x02cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes"),
        (b"\x80\x02(S'ls'\nios\nsystem\n.", "instruction 0x53"),
        (b"\x80\x02(ios\nsystem\n.", "makes objects of any class"),
        (b"\x80\x02}X\x01\0\0\0a", "cut short"),
        (b"\x80\x09.", "protocol above 5"),
        (b"\x80\x02h\x05.", "has not remembered"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "cut short"),
        (b"\x80\x02.", "stack is empty"),
        (b"\x80\x02N)R.", "no function"),
        (b"", "cut short"),
    ] {
        let error = format!("{:#}", pickle::Pickle::read(bytes).unwrap_err());
        assert!(error.contains(part), "{error}");
    }
    // Deep, cyclic and shared objects cost their bytes and no more.
    let deep = [&b"\x80\x02"[..], b"N", &vec![0x85; 100_000], b"."].concat();
    assert_eq!(pickle::Pickle::read(&deep).unwrap().0.len(), 100_001);
    let doubling = [&b"\x80\x02N"[..], &b"2\x86".repeat(10_000), b"."].concat();
    assert_eq!(pickle::Pickle::read(&doubling).unwrap().0.len(), 10_001);
}

/// Mutated checkpoints: `MUTANTS=1000000 cargo test --release --lib weights -- --ignored --nocapture` is the long form.
#[test]
fn damaged_checkpoints_are_errors_that_name_the_file() {
    mutants(600, 1);
}

#[test]
#[ignore = "the long form: MUTANTS=1000000"]
fn damaged_checkpoints_long() {
    let count = std::env::var("MUTANTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    mutants(count, 2);
}

/// Reads `count` mutants of the smaller fixtures: no panic, none slow, and the name of the file in each error.
fn mutants(count: u64, seed: u64) {
    let names = [
        "ssl4mis.pth",
        "unimatch.pth",
        "bcp_old_form.pth",
        "refused_code.pth",
        "exported.safetensors",
        "urpc.pth",
    ];
    let originals = names.map(|name| fs::read(folder().join(name)).unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("mutant.pth");
    let (mut slowest, mut whole) = (Duration::ZERO, 0u64);
    for index in 0..count {
        let mut rng = stream(seed, "weights/mutant", index);
        let mut bytes = originals[rng.random_range(0..originals.len())].clone();
        mutate(&mut bytes, &mut rng);
        fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        let started = Instant::now();
        let found = read(&path, &hints());
        slowest = slowest.max(started.elapsed());
        match found {
            Ok(_) => whole += 1,
            Err(error) => assert!(format!("{error:#}").contains("mutant.pth"), "mutant {index}: {error:#}"),
        }
    }
    assert!(slowest < Duration::from_secs(10), "the slowest took {slowest:?}");
    eprintln!("{count} mutants: {whole} read, slowest {slowest:?}");
}

/// Changes a few bytes: in the head, where pickles and directories of tensors stand, at the end, where a zip file's
/// directory stands, or anywhere.
fn mutate(bytes: &mut Vec<u8>, rng: &mut impl rand::Rng) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let at = match rng.random_range(0..4) {
            0 => rng.random_range(0..len),
            1 => len - 1 - rng.random_range(0..len.min(12_000)),
            _ => rng.random_range(0..len.min(16_000)),
        };
        match rng.random_range(0..8) {
            0 if rng.random_bool(0.2) => bytes.truncate(at),
            0 | 1 => {
                let end = (at + rng.random_range(1..16)).min(len);
                bytes.drain(at..end);
            }
            2 => {
                let end = (at + rng.random_range(1..64)).min(len);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'(', b'2', b'q', b'h', b'R', b't', b'c']
                    [rng.random_range(0..12)];
            }
            4 => bytes[at] ^= 1 << rng.random_range(0..8),
            5 => {
                let value: u32 =
                    [0, 1, 0xffff, 0xffff_ffff, 0x7fff_ffff, 0x1000_0000][rng.random_range(0..6)];
                if let Some(place) = bytes.get_mut(at..at + 4) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            _ => bytes[at] = rng.random(),
        }
    }
}

#[test]
fn swin_t_is_what_a_swin_unet_starts_from() {
    use crate::nn::swin::{SwinUnet, from_imagenet};
    use crate::spec::settings::SwinSettings;
    let settings = SwinSettings { channels: 6, window: 2, drop_path: 0.0, ..SwinSettings::default() };
    let mut builder = Builder::new(3);
    SwinUnet::new(&mut builder, 64, 4, &settings).unwrap();
    let own = builder.finish();
    let encoder = |name: &str| ["patch_embed.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
    let all = own.named().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let mut whole: BTreeMap<String, Tensor> = all.collect();
    let error = Weights::of(whole.clone(), &Hints::default()).unwrap_err().to_string();
    assert!(error.contains("whole Swin-Unet"), "{error}");
    // A Swin-T has six blocks in its third stage, a head, and no decoder.
    whole.retain(|name, _| encoder(name));
    let wanted = whole.clone();
    whole.insert("head.weight".into(), own.get("norm.weight").unwrap().clone());
    whole.insert("layers.2.blocks.5.norm1.bias".into(), own.get("norm.weight").unwrap().clone());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swin.pth");
    files::write_atomic(&path, write::checkpoint(&whole).unwrap()).unwrap();
    let weights = read(&path, &Hints::default()).unwrap();
    assert_eq!(weights.network, Network::Swin { channels: 6, window: 2 });
    assert!(weights.notes[0].contains("2 tensors"), "{:?}", weights.notes);
    assert_eq!(shapes_of(&weights.tensors), shapes_of(&wanted));
    let imported = folder.path().join("swin.safetensors");
    weights.write(&imported).unwrap();
    let again = read(&imported, &Hints::default()).unwrap();
    assert_eq!((&again.network, again.notes.len()), (&weights.network, 0));
    let start = from_imagenet(&file::read(&imported).unwrap(), &own).unwrap();
    assert!(start.len() > wanted.len(), "decoder stages start from the encoder's, too");
    // A window that no table of biases is of.
    whole.insert(
        "layers.0.blocks.0.attn.relative_position_bias_table".into(),
        own.get("norm.weight").unwrap().clone(),
    );
    let error = Weights::of(whole, &Hints::default()).unwrap_err().to_string();
    assert!(error.contains("fits no window"), "{error}");
}
