//! Data sets as files, in every form that can be read: the phantom, so that each reader is exercised from end to end, and
//! any prepared set, for other programs.
//!
//! The files of the phantom differ among each other as real ones do: number types, byte order, slopes, offsets, gzip
//! members, direction cosines, time points, absent and misplaced masks. What is read from them is the same in each layout.

mod acdc;
mod hdf5;
mod mnms;
mod nifti;
mod own;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::{Case, Dataset, Split, phantom};
use crate::spec::settings::{DataName, DataSettings};
use crate::store::files;

/// A form of a data set on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// ACDC as downloaded: folders of patients with NIfTI files, training and testing part, and lists.
    AcdcRaw,
    /// ACDC in the form of SSL4MIS: an HDF5 file a volume, and lists.
    Ssl4mis,
    /// The same with an HDF5 file a slice for training.
    Ssl4misSlices,
    /// M&Ms as downloaded: 4-D NIfTI files and a CSV.
    Mnms,
    /// NIfTI pairs with a card.
    Own,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Self; 5] = [Self::AcdcRaw, Self::Ssl4mis, Self::Ssl4misSlices, Self::Mnms, Self::Own];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcdcRaw => "acdc-raw",
            Self::Ssl4mis => "ssl4mis",
            Self::Ssl4misSlices => "ssl4mis-slices",
            Self::Mnms => "mnms",
            Self::Own => "own",
        }
    }

    /// How a sweep file names a set in this layout.
    pub const fn data_name(self) -> DataName {
        match self {
            Self::AcdcRaw | Self::Ssl4mis | Self::Ssl4misSlices => DataName::Acdc,
            Self::Mnms => DataName::Mnms,
            Self::Own => DataName::Own,
        }
    }
}

/// Writes the phantom of `patients` and `seed` into the folder `out`, which must be empty or absent.
///
/// # Errors
/// Where the folder holds something or cannot be written.
pub fn write_phantom(layout: Layout, patients: usize, seed: u64, out: &Path) -> Result<()> {
    let settings =
        DataSettings { name: DataName::Phantom, root: PathBuf::new(), patients, seed, unlabelled: false };
    let data = phantom::generate(&settings, &|_, _| Ok(()))?;
    empty(out)?;
    let patients = scanned(&data);
    match layout {
        Layout::AcdcRaw => acdc::write(&patients, out)?,
        Layout::Ssl4mis => hdf5::write(&stored(&patients), false, out)?,
        Layout::Ssl4misSlices => hdf5::write(&stored(&patients), true, out)?,
        Layout::Mnms => mnms::write(&patients, out)?,
        Layout::Own => own::write_phantom(&patients, out)?,
    }
    if layout.data_name() == DataName::Acdc {
        // By other names, the split and the order of slices of the phantom.
        let mut renamed = data;
        for case in &mut renamed.cases {
            case.patient = patient_name(&case.patient);
            case.name = patient_name(&case.name);
        }
        renamed.save_lists(out)?;
    }
    Ok(())
}

/// Writes a data set into the folder `out`, which must be empty or absent: intensities in [0, 1], classes as they are.
///
/// # Errors
/// Where the folder holds something or cannot be written, or the layout is not one of what has been prepared.
pub fn export(data: &Dataset, layout: Layout, out: &Path) -> Result<()> {
    match layout {
        Layout::Ssl4mis | Layout::Ssl4misSlices => {
            ensure!(
                data.cases().iter().all(|case| case.labelled),
                "the layout {} has no place for volumes without labels: export as `own`",
                layout.name()
            );
            ensure!(
                data.cases().iter().all(|case| case.name.contains("_frame")),
                "the layout {} names volumes patient001_frame01: export as `own`",
                layout.name()
            );
            empty(out)?;
            let volumes: Vec<hdf5::Volume> = (0..data.cases().len())
                .map(|at| {
                    let Case { name, split, shape, .. } = &data.cases()[at];
                    let image = hdf5::Numbers::F32(data.image(at).to_vec());
                    hdf5::Volume {
                        name: name.clone(),
                        split: *split,
                        shape: *shape,
                        image,
                        label: data.label(at).to_vec(),
                    }
                })
                .collect();
            hdf5::write(&volumes, layout == Layout::Ssl4misSlices, out)?;
        }
        Layout::Own => {
            empty(out)?;
            own::export(data, out)?;
        }
        Layout::AcdcRaw | Layout::Mnms => {
            anyhow::bail!(
                "a prepared set is exported as ssl4mis, ssl4mis-slices or own, not {}",
                layout.name()
            )
        }
    }
    data.save_lists(out)
}

/// Makes the folder `out`, or finds it empty.
fn empty(out: &Path) -> Result<()> {
    files::create_folder(out)?;
    let is_empty = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(is_empty, "{} is not empty: name another folder, or remove it", out.display());
    Ok(())
}

/// A patient as scanners store one.
struct Patient {
    /// From 1.
    number: usize,
    split: Split,
    /// Slices, rows, columns.
    shape: [usize; 3],
    /// Of slices, rows, columns in mm.
    spacing: [f32; 3],
    /// End-diastole and end-systole: whole numbers from 0 to `top`.
    images: [Vec<u16>; 2],
    labels: [Vec<u8>; 2],
    top: u16,
}

/// The phantom's patients with intensities as whole numbers, in the order of their numbers.
fn scanned(data: &Dataset) -> Vec<Patient> {
    let pairs: Vec<usize> = (0..data.cases().len()).step_by(2).collect();
    let mut patients: Vec<Patient> = pairs
        .into_par_iter()
        .map(|at| {
            let case = &data.cases()[at];
            let number =
                case.patient.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(at + 1);
            // Scanners differ in the range of their numbers; one stores bytes.
            let top = [255, 460, 905, 1741][number % 4];
            let image = |at| data.image(at).iter().map(|&v| (v * f32::from(top)).round() as u16).collect();
            Patient {
                number,
                split: case.split,
                shape: case.shape,
                spacing: case.spacing.unwrap_or([10.0, 1.5, 1.5]),
                images: [image(at), image(at + 1)],
                labels: [data.label(at).to_vec(), data.label(at + 1).to_vec()],
                top,
            }
        })
        .collect();
    patients.sort_by_key(|patient| patient.number);
    patients
}

/// The volumes as SSL4MIS stores them: by their extremes in [0, 1], some in double precision.
fn stored(patients: &[Patient]) -> Vec<hdf5::Volume> {
    let volume = |patient: &Patient, phase: usize| {
        let scaled = |&value: &u16| f64::from(value) / f64::from(patient.top);
        let values = &patient.images[phase];
        let image = if patient.number.is_multiple_of(3) {
            hdf5::Numbers::F64(values.iter().map(scaled).collect())
        } else {
            hdf5::Numbers::F32(values.iter().map(|value| scaled(value) as f32).collect())
        };
        hdf5::Volume {
            name: format!("patient{:03}_frame{:02}", patient.number, phase + 1),
            split: patient.split,
            shape: patient.shape,
            image,
            label: patient.labels[phase].clone(),
        }
    };
    patients.iter().flat_map(|patient| [volume(patient, 0), volume(patient, 1)]).collect()
}

/// `phantom0007_frame01` as `patient007_frame01`.
fn patient_name(name: &str) -> String {
    let (patient, rest) =
        name.split_once('_').map_or((name, String::new()), |(p, rest)| (p, format!("_{rest}")));
    let number: usize = patient.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default();
    format!("patient{number:03}{rest}")
}

/// Time points of a series.
const TIMES: usize = 5;

/// The time points of a patient, from end-diastole at `phases[0]` to end-systole at `phases[1]` and back, each a mixture
/// of the two.
fn series(patient: &Patient, phases: [usize; 2]) -> Vec<u16> {
    let [diastole, systole] = phases;
    let mut voxels = Vec::with_capacity(TIMES * patient.images[0].len());
    for time in 0..TIMES {
        let away = |from: usize| time.abs_diff(from).min(TIMES - time.abs_diff(from)) as f32;
        let (from, to) = (away(diastole), away(systole));
        let part = if time == systole { 1.0 } else { from / (from + to) };
        let mixed = patient.images[0].iter().zip(&patient.images[1]).map(|(&a, &b)| match part {
            0.0 => a,
            1.0 => b,
            _ => (f32::from(a) + (f32::from(b) - f32::from(a)) * part).round() as u16,
        });
        voxels.extend(mixed);
    }
    voxels
}

/// Writes a file; what is interrupted is made again, so nothing waits for the disk.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write_unsynced(path, bytes)
}

#[cfg(test)]
mod tests;
