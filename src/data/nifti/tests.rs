use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::Rng as _;
use serde::Deserialize;

use super::*;
use crate::rng::stream;
use crate::store::files;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nifti")
}

/// What nibabel reads, or a part of our error.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Error { error: String },
    Read { dims: [usize; 4], spacing: [f32; 3], voxels: Vec<f32> },
}

fn expected() -> BTreeMap<String, Expected> {
    serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
}

#[test]
fn every_file_reads_as_in_nibabel_or_is_refused_by_name() {
    let all = expected();
    assert!(all.len() > 60);
    for (name, expected) in all {
        let found = read(&fixtures().join(&name));
        match expected {
            Expected::Read { dims, spacing, voxels } => {
                let found = found.unwrap_or_else(|error| panic!("{name}: {error:#}"));
                assert_eq!((found.dims, found.spacing), (dims, spacing), "{name}");
                assert_eq!(found.voxels, voxels, "{name}");
            }
            Expected::Error { error: part } => {
                let error = format!("{:#}", found.expect_err(&name));
                assert!(error.contains(&name) && error.contains(&part), "{name}: {error}");
            }
        }
    }
}

#[test]
fn a_pair_is_read_from_either_end() {
    let (header, pixels) = (read(&fixtures().join("pair.hdr")), read(&fixtures().join("pair.img")));
    assert_eq!(header.unwrap().voxels, pixels.unwrap().voxels);
}

#[test]
fn chosen_time_points_are_those_of_the_whole() {
    let path = fixtures().join("four_axes.nii");
    let whole = read(&path).unwrap();
    assert_eq!((whole.dims, whole.shape()), ([3, 2, 2, 3], [2, 2, 3]));
    let some = read_frames(&path, &[0, 2]).unwrap();
    assert_eq!(some.dims, [3, 2, 2, 2]);
    assert_eq!(some.frame(1), whole.frame(2));
    assert_eq!(some.header.with_frames(1).unwrap().dims(), [3, 2, 2, 1]);
    assert!(whole.frame(3).is_none());
    for (frames, part) in [(&[3][..], "0 to 2, not 3"), (&[1, 0], "rising"), (&[], "rising")] {
        let error = format!("{:#}", read_frames(&path, frames).unwrap_err());
        assert!(error.contains(part), "{error}");
    }
}

/// `scripts/fixtures_nifti.py --check` opens the same files with nibabel and SimpleITK. `WRITE_FIXTURES=1` writes them.
#[test]
fn written_files_are_those_that_other_readers_open() {
    let header = |name: &str| read_header(&fixtures().join(name)).unwrap();
    let labels: Vec<u8> = (0..24).map(|i| i % 4).collect();
    let image: Vec<f32> = labels.iter().map(|&label| f32::from(label) / 4.0).collect();
    let folder = tempfile::tempdir().unwrap();
    let folder =
        if std::env::var_os("WRITE_FIXTURES").is_some() { fixtures() } else { folder.path().to_owned() };
    let place = |name: &str| folder.join(name);
    write_labels(&place("written_labels.nii"), &header("far_voxels.nii"), &labels).unwrap();
    write_labels(&place("written_labels.nii.gz"), &header("far_voxels.nii"), &labels).unwrap();
    write_labels(&place("written_big_endian.nii"), &header("f8_be.nii"), &labels).unwrap();
    write_image(&place("written_image.nii"), &header("slope.nii"), &image).unwrap();
    let fresh = Header::new([4, 3, 2, 1], [1.5, 1.25, 8.0]).unwrap();
    write_labels(&place("written_fresh.nii"), &fresh, &labels).unwrap();
    for name in
        ["labels.nii", "big_endian.nii", "image.nii", "fresh.nii"].map(|name| format!("written_{name}"))
    {
        assert!(fs::read(place(&name)).unwrap() == fs::read(fixtures().join(&name)).unwrap(), "{name}");
    }
    let names =
        ["written_labels.nii", "written_labels.nii.gz", "written_big_endian.nii", "written_fresh.nii"];
    for name in names {
        let read = read(&place(name)).unwrap();
        let wanted: Vec<f32> = labels.iter().map(|&label| f32::from(label)).collect();
        assert_eq!((read.voxels, read.spacing), (wanted, [1.5, 1.25, 8.0]), "{name}");
    }
    assert_eq!(read(&place("written_image.nii")).unwrap().voxels, image);
    let error = write_labels(&place("short.nii"), &fresh, &labels[1..]).unwrap_err().to_string();
    assert!(error.contains("short.nii would hold 23 voxels") && error.contains("4×3×2 says 24"), "{error}");
    for (dims, spacing) in
        [([0, 1, 1, 1], [1.0; 3]), ([40_000, 1, 1, 1], [1.0; 3]), ([1; 4], [1.0, 0.0, 1.0])]
    {
        assert!(Header::new(dims, spacing).is_err());
    }
}

#[test]
fn a_gzip_bomb_is_refused_or_not_inflated() {
    let folder = tempfile::tempdir().unwrap();
    let small = fs::read(fixtures().join("u1_le.nii")).unwrap();
    let bomb = |head: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let zeros = vec![0; 1 << 20];
        encoder.write_all(head).unwrap();
        for _ in 0..64 {
            encoder.write_all(&zeros).unwrap();
        }
        let path = folder.path().join("bomb.nii.gz");
        files::write_atomic(&path, encoder.finish().unwrap()).unwrap();
        path
    };
    // An honest header with 64 MiB behind its voxels: only the voxels are inflated.
    let started = Instant::now();
    assert_eq!(read(&bomb(&small)).unwrap().voxels.len(), 24);
    assert!(started.elapsed() < Duration::from_secs(5));
    // A header that claims all of it and more than a reader takes.
    let mut header = small.clone();
    for (axis, size) in [1000i16, 1000, 1000].into_iter().enumerate() {
        header[42 + 2 * axis..44 + 2 * axis].copy_from_slice(&size.to_le_bytes());
    }
    let error = format!("{:#}", read(&bomb(&header)).unwrap_err());
    assert!(error.contains("bomb.nii.gz") && error.contains("1000×1000×1000"), "{error}");
}

/// Mutated volumes: `MUTANTS=1000000 cargo test --release --lib nifti -- --ignored --nocapture` is the long form.
#[test]
fn damaged_volumes_are_errors_that_name_the_file() {
    mutants(3_000, 1);
}

#[test]
#[ignore = "the long form: MUTANTS=1000000"]
fn damaged_volumes_long() {
    let count = std::env::var("MUTANTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    mutants(count, 2);
}

/// Reads `count` mutants of the fixtures: no panic, none slow, none with more voxels than its bytes can hold, and the
/// name of the file in each error.
fn mutants(count: u64, seed: u64) {
    let originals: Vec<(String, Vec<u8>)> = expected()
        .into_keys()
        .filter(|name| !name.contains("pair") && !name.contains("lonely"))
        .map(|name| (name.clone(), fs::read(fixtures().join(&name)).unwrap()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (mut slowest, mut read_count, mut most) = (Duration::ZERO, 0u64, 0.0f64);
    for index in 0..count {
        let mut rng = stream(seed, "nifti/mutant", index);
        let (name, original) = &originals[rng.random_range(0..originals.len())];
        let mut bytes = original.clone();
        let mut inflated = Vec::new();
        let packed = bytes.starts_with(&[0x1f, 0x8b]) && rng.random_bool(0.7);
        if packed && MultiGzDecoder::new(&original[..]).read_to_end(&mut inflated).is_ok() {
            mutate(&mut inflated, &mut rng);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&inflated).unwrap();
            bytes = encoder.finish().unwrap();
        } else {
            mutate(&mut bytes, &mut rng);
        }
        let path = folder.path().join(if is_gz(name) { "mutant.nii.gz" } else { "mutant.nii" });
        fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        let started = Instant::now();
        let found = read(&path);
        slowest = slowest.max(started.elapsed());
        match found {
            Ok(volume) => {
                read_count += 1;
                let ratio = 4.0 * volume.voxels.capacity() as f64 / bytes.len() as f64;
                most = most.max(ratio);
                assert!(
                    ratio <= 8.0 * EXPANSION as f64,
                    "mutant {index}: {ratio} bytes for each of the file"
                );
            }
            Err(error) => {
                let text = format!("{error:#}");
                assert!(text.contains("mutant.nii"), "mutant {index}: {text}");
            }
        }
    }
    assert!(slowest < Duration::from_secs(10), "the slowest took {slowest:?}");
    eprintln!(
        "{count} mutants: {read_count} read, slowest {slowest:?}, at most {most:.1} bytes of voxels for a byte of file"
    );
}

fn is_gz(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "gz")
}

/// Changes a few bytes, mostly of the header, to anything or to what is often a limit; or cuts, repeats, drops a piece.
fn mutate(bytes: &mut Vec<u8>, rng: &mut impl rand::Rng) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let head = bytes.len().min(if rng.random_bool(0.8) { 352 } else { usize::MAX });
        let at = rng.random_range(0..head);
        match rng.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => {
                let end = (at + rng.random_range(1..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                let end = (at + rng.random_range(1..64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            4 => bytes[at] ^= 1 << rng.random_range(0..8),
            // A size, a type or an offset in particular.
            5 => {
                let field = 40 + 2 * rng.random_range(0..8);
                let value: i16 = [0, 1, 2, 4, 16, 300, 32_767, -1, -32_768][rng.random_range(0..9)];
                if let Some(place) = bytes.get_mut(field..field + 2) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            6 => {
                let value = [0.0f32, 348.0, 352.0, 353.5, 1e9, -1.0, f32::NAN, f32::INFINITY, 1e-40]
                    [rng.random_range(0..9)];
                let field = [76, 80, 84, 88, 108, 112, 116][rng.random_range(0..7)];
                if let Some(place) = bytes.get_mut(field..field + 4) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            _ => bytes[at] = rng.random(),
        }
    }
}
