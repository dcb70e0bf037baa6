//! Damaged files of every kind that is read here: read or refused by name, never a panic, a hang, or memory out of
//! proportion. A short form runs with the tests; the long one is
//! `MUTANTS=1000000 cargo test --release --lib data::tests::mutated -- --ignored --nocapture`.
//! NIfTI has its own in `data::nifti`.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::IndexedRandom as _;
use rayon::prelude::*;

use crate::data::own::{Card, Pattern};
use crate::data::{array, lists};
use crate::rng::stream;

const INFO: &str = "ED: 1\r\nES: 12\r\nGroup: DCM\r\nHeight: 184.0\r\nNbFrame: 30\r\nWeight: 95.0\r\n";
const CSV: &str = "\u{feff},External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology\n0,A0S9V9,\"Sie,mens\",A,1,0,9,51,\n\
                   1,B1D9Z7,GE,C,4,22.0,11,7,\"H\"\"CM\"\n2,C2,Canon,D,5,0,0,,NOR\n";
const LIST: &str =
    "patient099_frame01_slice_15\npatient099_frame02_slice_1.h5\r\n\npatient038_frame01_slice_2\n";
const CARD: &str = "name: brain\ndescription: a set\nclasses: [background, CSF, GM, WM]\n\
                    images: images/{patient}_{block}.nii.gz\nlabels: labels/{patient}_{block}.nii.gz\n\
                    codes: { 1: CSF, 2: GM, 4: 2, 3: WM }\nspacing: [1, 0.5, 0.5]\nintensity: { percentiles: [1, 99] }\n\
                    split: { train: 7, val: 2, test: 1, balance: { table: p.csv, patient: ID, column: Vendor } }\n";
const PIECES: [&str; 32] = [
    ":",
    "\n",
    "\r",
    ",",
    ";",
    "\t",
    "\"",
    "\"\"",
    "'",
    "/",
    "\\",
    "..",
    "../",
    "{",
    "}",
    "[",
    "]",
    "#",
    "{patient}",
    "_slice_",
    "_frame",
    "0",
    "-1",
    "1e999",
    "99999999999999999999",
    "\0",
    "\u{feff}",
    "é",
    "ED",
    "~",
    "NaN",
    " ",
];

/// Damages a text of `base` in a few places.
fn mutant(base: &str, rng: &mut impl Rng) -> String {
    let mut chars: Vec<char> = base.chars().collect();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=chars.len());
        let end = (at + rng.random_range(0..12)).min(chars.len());
        match rng.random_range(0..6) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let copy = chars[at..end].to_vec();
                let to = rng.random_range(0..=chars.len());
                chars.splice(to..to, copy);
            }
            2 => chars.truncate(at),
            3 => drop(chars.splice(at..at, char::from_u32(rng.random_range(0..0x3000)))),
            _ => {
                let piece = PIECES.choose(rng).copied().unwrap_or_default();
                drop(chars.splice(at..at, piece.chars()));
            }
        }
    }
    chars.into_iter().collect()
}

/// Reads `count` mutants of each of `inputs` on all threads; how many were accepted, and the longest time.
fn read<I: Sync + ?Sized, M>(
    count: u64,
    inputs: &[&I],
    mutate: impl Fn(&I, &mut crate::rng::ChaCha8Rng) -> M + Sync,
    accepts: impl Fn(M) -> bool + Sync,
) -> (usize, Duration) {
    let one = |index: u64| {
        let mut rng = stream(7, "data mutants", index);
        let mutant = mutate(inputs[index as usize % inputs.len()], &mut rng);
        let begun = Instant::now();
        (usize::from(accepts(mutant)), begun.elapsed())
    };
    (0..count).into_par_iter().map(one).reduce(|| (0, Duration::ZERO), |a, b| (a.0 + b.0, a.1.max(b.1)))
}

fn texts(count: u64) {
    type Accepts = fn(String) -> bool;
    let readers: [(&str, &str, Accepts); 5] = [
        ("Info.cfg", INFO, |text| crate::data::acdc::accepts_info(&text)),
        ("CSV", CSV, |text| crate::data::mnms::accepts_table(&text)),
        ("list", LIST, |text| {
            let mut found = Vec::new();
            let entries = lists::parse("x/train.list", &text, &mut found);
            assert!(entries.iter().all(|(_, name)| !name.contains(['/', '\\']) && !name.starts_with('.')));
            assert!(found.iter().all(|problem| problem.starts_with("x/train.list:")), "the place is named");
            found.is_empty()
        }),
        ("card", CARD, |text| match Card::parse("x/dataset.yaml", &text) {
            Ok(_) => true,
            Err(error) => {
                assert!(error.to_string().contains("x/dataset.yaml"), "the file is named: {error}");
                false
            }
        }),
        ("pattern", "images/{patient}_{block}.h5#image", |text| {
            Pattern::parse(&text).is_ok_and(|pattern| pattern.find(Path::new("/nowhere")).is_empty())
        }),
    ];
    for (name, base, accepts) in readers {
        assert!(accepts(base.to_owned()), "{name}: it is accepted undamaged");
        let (accepted, longest) = read(count, &[base], mutant, accepts);
        println!("{name}: {count} mutants, {accepted} accepted, the longest took {longest:?}");
        assert!(accepted > 0 && (accepted as u64) < count, "{name}: {accepted} of {count} accepted");
        assert!(longest < Duration::from_secs(2), "{name}: {longest:?} for one mutant");
    }
}

/// Damages a file in a few places; most often near its beginning, where the structure is.
fn damage(base: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        let end = (at + rng.random_range(1..64)).min(bytes.len());
        match rng.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            4 => bytes[at] ^= 1 << rng.random_range(0..8),
            // A size or an address.
            5 | 6 => {
                let value: u64 =
                    [0, 1, 96, 1 << 20, 1 << 31, 1 << 40, u64::MAX, u64::MAX - 8][rng.random_range(0..8)];
                let len = [1, 2, 4, 8][rng.random_range(0..4)].min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
            _ => rng.fill_bytes(&mut bytes[at..end]),
        }
    }
    bytes
}

const FILES: [&[u8]; 4] = [
    include_bytes!("../../../tests/fixtures/data/earliest_gzip.h5"),
    include_bytes!("../../../tests/fixtures/data/earliest_plain.h5"),
    include_bytes!("../../../tests/fixtures/data/v110_gzip.h5"),
    include_bytes!("../../../tests/fixtures/data/v110_plain.h5"),
];

fn hdf5(count: u64) {
    let accepts = |bytes: Vec<u8>| {
        let size = bytes.len();
        ["image", "label"].into_iter().all(|name| {
            match array::hdf5_numbers(Path::new("x/volume.h5"), bytes.clone(), name) {
                Ok((shape, values)) => {
                    assert_eq!(
                        shape.iter().product::<usize>(),
                        values.len(),
                        "as many numbers as the shape says"
                    );
                    assert!(values.len() <= 1_100 * size, "no more than the file can hold");
                    true
                }
                Err(error) => {
                    assert!(format!("{error:#}").contains("x/volume.h5"), "the file is named: {error:#}");
                    false
                }
            }
        })
    };
    let before = peak_memory();
    let (accepted, longest) = read(count, &FILES, damage, accepts);
    let grown = peak_memory().saturating_sub(before);
    println!(
        "HDF5: {count} mutants, {accepted} accepted, the longest took {longest:?}, memory grew by {grown} KiB"
    );
    assert!(accepted > 0 && (accepted as u64) < count, "{accepted} of {count} accepted");
    assert!(longest < Duration::from_secs(2), "{longest:?} for one mutant");
    assert!(grown < 512 << 10, "{grown} KiB for files of a few kilobytes");
}

/// The most memory that this process has held, in KiB; 0 where nobody knows.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn files_of_h5py_are_read_number_by_number() {
    for bytes in FILES {
        let read = |name| array::hdf5_numbers(Path::new("x.h5"), bytes.to_vec(), name).unwrap();
        let (shape, image) = read("image");
        assert_eq!(shape, [3, 6, 5]);
        assert!(
            image.iter().enumerate().all(|(at, &v)| v == (at as f64 / 89.0) as f32),
            "float32 and float64"
        );
        assert!(read("label").1.iter().enumerate().all(|(at, &v)| v == (at % 4) as f32));
    }
}

#[test]
fn a_thousand_million_voxels_in_a_kilobyte_are_refused() {
    let bytes = include_bytes!("../../../tests/fixtures/data/claims.h5").to_vec();
    let error = array::hdf5_numbers(Path::new("x.h5"), bytes, "image").unwrap_err().to_string();
    assert!(error.contains("x.h5 claims an image of [1000, 1000, 1000]"), "{error}");
}

#[test]
fn damaged_texts_are_read_or_refused() {
    texts(4_000);
}

#[test]
fn damaged_hdf5_files_are_read_or_refused() {
    hdf5(4_000);
}

fn long() -> u64 {
    std::env::var("MUTANTS").map_or(1_000_000, |n| n.parse().expect("MUTANTS is a number"))
}

#[test]
#[ignore = "minutes; MUTANTS says how many"]
fn a_million_damaged_texts_are_read_or_refused() {
    texts(long());
}

#[test]
#[ignore = "minutes; MUTANTS says how many"]
fn a_million_damaged_hdf5_files_are_read_or_refused() {
    hdf5(long());
}
