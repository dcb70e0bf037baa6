//! A cardiac short-axis phantom: cine MR as it looks, from a seed, in seconds, for machines without real data.
//!
//! Patients differ in anatomy, pathology and pose, and come from four scanners; each has a volume at end-diastole
//! (`frame01`) and one at end-systole (`frame02`). Blood looks like fat and vessels, myocardium like liver and muscle,
//! so that neither a threshold nor a mean shape finds the heart. Nothing here is fitted to any real patient.

mod anatomy;
mod body;
mod heart;
mod noise;
mod scanner;

use anyhow::{Result, ensure};
use rand::Rng;
use rand::seq::SliceRandom;

use super::{Case, Dataset, Inspection, SliceRef, Split, Told, Volume, parallel};
use crate::rng::stream;
use crate::spec::settings::DataSettings;
use anatomy::Anatomy;
use scanner::Scanner;

/// Version of the generator, part of the content hash. Raised whenever a voxel changes.
const GENERATOR: u32 = 2;

/// The fewest patients that a 70/10/20 % split makes sense for.
const MIN_PATIENTS: usize = 10;

/// The most patients: their names have four digits, and their volumes about 2.5 GB.
const MAX_PATIENTS: usize = 2_000;

/// Tissues that differ in signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Tissue {
    Air,
    Lung,
    Muscle,
    Fat,
    Bone,
    Liver,
    Vessel,
    Blood,
    Myocardium,
    Fluid,
}

/// Number of [`Tissue`]s.
const TISSUES: usize = 10;

/// The phase of the cardiac cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Diastole,
    Systole,
}

/// See [`super::inspect`].
pub(super) fn inspect(settings: &DataSettings) -> Result<Inspection> {
    let DataSettings { patients, seed, .. } = *settings;
    ensure!(
        (MIN_PATIENTS..=MAX_PATIENTS).contains(&patients),
        "data.patients is {patients}: the phantom needs {MIN_PATIENTS} to {MAX_PATIENTS} for its 70/10/20 % split"
    );
    let name = format!("phantom generator={GENERATOR} patients={patients} seed={seed}");
    let content = blake3::hash(name.as_bytes()).to_hex()[..32].to_owned();
    let [train_patients, ..] = split_sizes(patients);
    Ok(Inspection { content, train_patients, volumes: 2 * patients })
}

/// See [`super::prepare`].
pub(super) fn generate(settings: &DataSettings, progress: &Told<'_>) -> Result<Dataset> {
    let Inspection { content, .. } = inspect(settings)?;
    let mut order: Vec<usize> = (0..settings.patients).collect();
    order.shuffle(&mut stream(settings.seed, "phantom split", 0));
    let [train, val, _] = split_sizes(settings.patients);
    let patients: Vec<(usize, Split)> = order
        .into_iter()
        .enumerate()
        .map(|(place, patient)| {
            let split = match place {
                place if place < train => Split::Train,
                place if place < train + val => Split::Val,
                _ => Split::Test,
            };
            (patient, split)
        })
        .collect();
    let volumes: Vec<Volume> =
        parallel(&patients, 2, progress, |&(patient, split)| volumes_of(settings.seed, patient, split))?
            .into_iter()
            .flatten()
            .collect();
    let train_slices = shuffled_slices(&volumes, settings.seed);
    Ok(Dataset::new(content, super::standard_classes(), volumes, train_slices))
}

/// Patients of the training, validation and test splits: 70/10/20 %, none empty.
fn split_sizes(patients: usize) -> [usize; 3] {
    let val = (patients + 5) / 10;
    let test = (2 * patients + 5) / 10;
    [patients - val - test, val, test]
}

/// The training slices: patients in the order of the split, the slices of each volume shuffled, as in the list of
/// ACDC.
fn shuffled_slices(volumes: &[Volume], seed: u64) -> Vec<SliceRef> {
    let mut slices = Vec::new();
    for (index, Volume { case, .. }) in volumes.iter().enumerate() {
        if case.split != Split::Train {
            continue;
        }
        let start = slices.len();
        slices.extend((0..case.shape[0]).map(|z| SliceRef { case: index as u32, z: z as u32 }));
        slices[start..].shuffle(&mut stream(seed, "phantom slice order", index as u64));
    }
    slices
}

/// Both volumes of one patient, who was scanned once: same scanner, same pose, same slice positions.
fn volumes_of(seed: u64, patient: usize, split: Split) -> [Volume; 2] {
    let mut rng = stream(seed, "phantom patient", patient as u64);
    let scanner = Scanner::draw(&mut rng);
    let anatomy = Anatomy::draw(&mut rng, scanner.field_of_view());
    let textures = rng.random();
    let name = format!("phantom{:04}", patient + 1);
    [Phase::Diastole, Phase::Systole].map(|phase| {
        let mut noise = stream(seed, "phantom noise", 2 * patient as u64 + phase as u64);
        let scan = scanner.acquire(&anatomy, phase, textures, &mut noise);
        let case = Case {
            name: format!("{name}_frame{:02}", 1 + phase as u32),
            patient: name.clone(),
            split,
            shape: scan.shape,
            spacing: Some(scan.spacing),
            labelled: true,
        };
        Volume { case, image: scan.image, label: scan.label, range: [0.0, 1.0] }
    })
}

/// A uniform number in [low, high).
fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

#[cfg(test)]
mod tests;
