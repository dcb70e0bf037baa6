//! A set of one's own: NIfTI pairs with a card.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::nifti::{Image, Kind, PLAIN, STYLES, Style, coded};
use super::{Patient, put};
use crate::data::nifti::{Header, write_image, write_labels};
use crate::data::{Case, Dataset};
use crate::store::files;

/// Codes of background, RV, Myo, LV.
const CODES: [u16; 4] = [0, 85, 170, 255];
const PHASES: [&str; 2] = ["ED", "ES"];

/// The card of the phantom.
const CARD: &str = "\
# A phantom as a set of one's own: every key of a card but `description` and `spacing`.
name: phantom
classes: [background, RV, Myo, LV]
images: images/{patient}_{phase}.nii.gz
labels: labels/{patient}_{phase}.nii.gz
codes: { 85: RV, 170: Myo, 255: LV }
intensity: minmax
split: { train: 70, val: 10, test: 20, balance: { table: patients.csv, patient: ID, column: Scanner } }
";

/// Writes the phantom's patients.
pub(super) fn write_phantom(patients: &[Patient], out: &Path) -> Result<()> {
    for folder in ["images", "labels"] {
        files::create_folder(out.join(folder))?;
    }
    put(&out.join("dataset.yaml"), CARD.as_bytes())?;
    let mut table = String::from("Scanner;ID\n");
    for patient in patients {
        let _ = writeln!(table, "{};p_{:04}", ["north", "south"][patient.number % 2], patient.number);
    }
    put(&out.join("patients.csv"), table.as_bytes())?;
    patients.par_iter().try_for_each(|patient| {
        let [depth, height, width] = patient.shape;
        let [z, y, x] = patient.spacing;
        let (dims, spacing) = ([width, height, depth, 1], [x, y, z]);
        let style = Style { members: 1, ..STYLES[patient.number % STYLES.len()] };
        for (phase, name) in PHASES.iter().enumerate() {
            let stem = format!("p_{:04}_{name}", patient.number);
            let voxels = &patient.images[phase];
            Image { dims, spacing, voxels, style }.write(&out.join("images"), &stem)?;
            let label = coded(&patient.labels[phase], CODES);
            let style = Style { kind: Kind::U8, ..PLAIN };
            Image { dims, spacing, voxels: &label, style }.write(&out.join("labels"), &stem)?;
        }
        Ok(())
    })
}

/// Writes a prepared set.
pub(super) fn export(data: &Dataset, out: &Path) -> Result<()> {
    let classes: Vec<String> =
        data.classes().iter().map(|name| serde_json::json!(name).to_string()).collect();
    let card = format!(
        "# Written by `sweep data export`.\nname: export\nclasses: [{}]\nimages: images/{{patient}}/{{volume}}.nii.gz\n\
         labels: labels/{{patient}}/{{volume}}.nii.gz\nintensity: given\n",
        classes.join(", ")
    );
    put(&out.join("dataset.yaml"), card.as_bytes())?;
    (0..data.cases().len()).into_par_iter().try_for_each(|at| {
        let Case { name, patient, shape: [depth, height, width], spacing, labelled, .. } = &data.cases()[at];
        let volume =
            name.strip_prefix(patient.as_str()).and_then(|rest| rest.strip_prefix('_')).unwrap_or(name);
        let [z, y, x] = spacing.unwrap_or([1.0; 3]);
        let header = Header::new([*width, *height, *depth, 1], [x, y, z])?;
        for (folder, wanted) in [("images", true), ("labels", *labelled)] {
            if !wanted {
                continue;
            }
            let folder = out.join(folder).join(patient);
            files::create_folder(&folder)?;
            let path = folder.join(format!("{volume}.nii.gz"));
            if folder.starts_with(out.join("images")) {
                write_image(&path, &header, data.image(at))?;
            } else {
                write_labels(&path, &header, data.label(at))?;
            }
        }
        Ok(())
    })
}
