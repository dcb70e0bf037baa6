//! Damaged sweep files: read or refused, never a panic, never a hang. A short form runs with the tests; the long one is
//! `MUTANTS=1000000 cargo test --release --lib damaged_files -- --ignored --nocapture`.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngCore as _};
use rayon::prelude::*;

use super::super::parse;
use crate::rng::stream;

/// A file with everything in it.
const RICH: &str = "
name: x
description: everything
base: { preset: smoke, train: { lr: 0.1 }, label_ratio: 10%, data: { name: phantom } }
grid:
  method: [supervised, mcsd]
  tau: { when: { method: mcsd }, values: [0.8, 0.9] }
  blocks:
    - [0, 1]
    - [2]
  train: { batch: [2, 4] }
zip:
  seed: [0, 1]
  augment.flip: [0.5, 0.25]
exclude: [{ seed: 1, blocks: [2] }]
include:
  - { method: mcsd, tau: 0.95, seed: 7 }
  - { method: supervised, seed: '8' }
report: { tables: [{ rows: [blocks] }], figures: [{ kind: sensitivity, x: seed, y: dice }] }
";

/// What a mutation puts in.
const PIECES: [&str; 44] = [
    ":",
    ": ",
    "- ",
    "-",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\n",
    "\n  ",
    "\n\n",
    "\t",
    " ",
    "#",
    "'",
    "\"",
    "|",
    ">",
    "&a",
    "*a",
    "!x",
    "? ",
    "~",
    "null",
    "true",
    "0",
    "-1",
    "1e9",
    "99999999999999999999",
    "0.5",
    "%",
    "7 cases",
    "\u{feff}",
    "ä",
    "\u{0}",
    "...",
    "---",
    "when",
    "values",
    "extends",
    "seed: [0, 1]",
    "train.lr",
    "[[[[",
];

fn seeds() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts.chain([RICH.to_owned(), include_str!("../template.yaml").to_owned()]).collect()
}

/// A damaged copy of one of the files: a few cuts, copies, swaps and insertions of pieces, lines or parts of others.
fn mutant(seeds: &[String], number: u64) -> String {
    let mut rng = stream(0, "mutant", number);
    let mut text: Vec<char> = seeds.choose(&mut rng).unwrap().chars().collect();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=text.len());
        let end = (at + rng.random_range(0..=12)).min(text.len());
        match rng.random_range(0..7) {
            0 => drop(text.drain(at..end)),
            1 => drop(text.splice(at..end, PIECES.choose(&mut rng).unwrap().chars())),
            2 => drop(text.splice(at..at, PIECES.choose(&mut rng).unwrap().chars())),
            3 => {
                let part: Vec<char> = text[at..end].to_vec();
                let to = rng.random_range(0..=text.len());
                text.splice(to..to, part);
            }
            4 => {
                let other: Vec<char> = seeds.choose(&mut rng).unwrap().chars().collect();
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..=200)).min(other.len());
                text.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let mut lines: Vec<String> =
                    text.iter().collect::<String>().split('\n').map(str::to_owned).collect();
                let (a, b) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
                match rng.random_range(0..3) {
                    0 => lines.swap(a, b),
                    1 => drop(lines.remove(a)),
                    _ => lines.insert(a, lines[b].clone()),
                }
                text = lines.join("\n").chars().collect();
            }
            _ => {
                if let Some(c) = text.get_mut(at) {
                    *c = char::from_u32(rng.next_u32() % 0x250).unwrap_or('?');
                }
            }
        }
    }
    text.into_iter().collect()
}

/// Reads so many damaged files; tells how many were accepted and the longest time of one.
fn read_mutants(n: u64) -> (usize, Duration) {
    let seeds = seeds();
    let accepted = AtomicUsize::new(0);
    let longest = (0..n)
        .into_par_iter()
        .map(|number| {
            let text = mutant(&seeds, number);
            let begun = Instant::now();
            match parse("no/such/folder/a.yaml", "a", &text, &[]) {
                Ok(sweep) => {
                    assert!(!sweep.points.is_empty(), "{text}");
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                Err(errors) => {
                    assert!(!errors.items.is_empty() && !errors.to_string().is_empty(), "{text}");
                    let lines = text.split('\n').count() + 1;
                    assert!(
                        errors.items.iter().all(|item| (1..=lines).contains(&item.line)),
                        "{errors}\n{text}"
                    );
                }
            }
            begun.elapsed()
        })
        .max();
    (accepted.into_inner(), longest.unwrap_or_default())
}

#[test]
fn damaged_files_are_read_or_refused() {
    let (accepted, longest) = read_mutants(5_000);
    assert!((100..4_900).contains(&accepted), "{accepted} accepted: the mutations are too mild or too wild");
    assert!(longest < Duration::from_secs(2), "{longest:?} for one file");
}

#[test]
#[ignore = "minutes; MUTANTS says how many"]
fn a_million_damaged_files_are_read_or_refused() {
    let n = std::env::var("MUTANTS").map_or(1_000_000, |n| n.parse().expect("MUTANTS is a number"));
    let begun = Instant::now();
    let (accepted, longest) = read_mutants(n);
    println!("{n} files in {:?}: {accepted} accepted, longest {longest:?}", begun.elapsed());
    assert!(longest < Duration::from_secs(2), "{longest:?} for one file");
}
