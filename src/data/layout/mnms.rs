//! M&Ms as downloaded, with what is odd about it: labels in other codes, patients without labels whose masks are empty, a
//! mask in another patient's part, an absent one, direction cosines that are not orthonormal.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::nifti::{Image, Kind, PLAIN, Style, coded};
use super::{Patient, TIMES, put, series};
use crate::data::Split;
use crate::store::files;

/// Codes of background, RV, Myo, LV.
const CODES: [u16; 4] = [0, 3, 2, 1];
/// Name, letter and centre.
const VENDORS: [(&str, &str, u32); 5] =
    [("Siemens", "A", 1), ("Philips", "B", 2), ("Philips", "B", 3), ("GE", "C", 4), ("Canon", "D", 5)];

/// What became of a patient's mask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mask {
    There,
    Empty,
    Elsewhere,
    Absent,
}

/// Writes the patients.
pub(super) fn write(patients: &[Patient], out: &Path) -> Result<()> {
    let train: Vec<usize> =
        patients.iter().filter(|p| p.split == Split::Train).map(|patient| patient.number).collect();
    let unlabelled = train.len().div_ceil(14);
    let mask = |number: usize| match train.iter().position(|&other| other == number) {
        Some(at) if at < unlabelled => Mask::Empty,
        Some(at) if at == unlabelled => Mask::Elsewhere,
        Some(at) if at == unlabelled + 1 => Mask::Absent,
        _ => Mask::There,
    };
    let parts = out.join("OpenDataset");
    let mut table =
        String::from(",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n");
    for (row, patient) in patients.iter().enumerate() {
        let (vendor, letter, centre) = vendor(patient);
        let [ed, es] = if mask(patient.number) == Mask::Empty { [0, 0] } else { phases(patient) };
        let _ = writeln!(
            table,
            "{row},{},{vendor},{letter},{centre},{ed},{es},{},NOR,{},{}.0,{}.0",
            code(patient.number),
            30 + patient.number % 50,
            ["M", "F"][patient.number % 2],
            150 + patient.number % 40,
            50 + patient.number % 45
        );
    }
    files::create_folder(&parts)?;
    put(&out.join("211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"), table.as_bytes())?;
    patients.par_iter().try_for_each(|patient| {
        let (code, mask) = (code(patient.number), mask(patient.number));
        let part = match patient.split {
            Split::Train if mask == Mask::Empty => "Training/Unlabeled",
            Split::Train => "Training/Labeled",
            Split::Val => "Validation",
            Split::Test => "Testing",
        };
        let folder = parts.join(part).join(&code);
        files::create_folder(&folder)?;
        let [depth, height, width] = patient.shape;
        let [z, y, x] = patient.spacing;
        let (dims, spacing) = ([width, height, depth, TIMES], [x, y, z]);
        let phases = phases(patient);
        let kind = if patient.number % 2 == 0 { Kind::F64 } else { Kind::I16 };
        let style = Style { kind, shear: if patient.number % 3 == 1 { 0.05 } else { 0.0 }, ..PLAIN };
        Image { dims, spacing, voxels: &series(patient, phases), style }
            .write(&folder, &format!("{code}_sa"))?;
        let mut label = vec![0; TIMES * patient.labels[0].len()];
        if mask != Mask::Empty {
            for (phase, frame) in patient.labels.iter().zip(phases) {
                label[frame * phase.len()..(frame + 1) * phase.len()].copy_from_slice(&coded(phase, CODES));
            }
        }
        let folder = match mask {
            Mask::Elsewhere => parts.join("Testing").join(&code),
            _ => folder,
        };
        if mask == Mask::Absent {
            return Ok(());
        }
        files::create_folder(&folder)?;
        let style = Style { kind: if patient.number % 2 == 0 { Kind::F64 } else { Kind::U8 }, ..style };
        Image { dims, spacing, voxels: &label, style }.write(&folder, &format!("{code}_sa_gt"))
    })
}

/// End-diastole and end-systole, from 0: many series begin elsewhere in the cycle.
fn phases(patient: &Patient) -> [usize; 2] {
    if patient.number.is_multiple_of(3) { [TIMES - 1, 1] } else { [0, 2] }
}

fn vendor(patient: &Patient) -> (&'static str, &'static str, u32) {
    VENDORS[patient.number % VENDORS.len()]
}

/// A name such as `A0S9V9`.
pub(super) fn code(number: usize) -> String {
    let mut rest = number * 7919 + 12_345;
    let mut digit = |base: usize| {
        let digit = rest % base;
        rest /= base;
        digit
    };
    // 260 values a pair of letter and digit: three of them tell two million patients apart.
    (0..3).map(|_| (digit(26), digit(10))).fold(String::new(), |mut text, (letter, number)| {
        let _ = write!(text, "{}{number}", char::from(b'A' + letter as u8));
        text
    })
}
