//! ACDC as downloaded.

use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::nifti::{Image, Kind, PLAIN, STYLES, Style, coded};
use super::{Patient, TIMES, put, series};
use crate::data::Split;
use crate::store::files;

const GROUPS: [&str; 5] = ["NOR", "MINF", "DCM", "HCM", "RV"];

/// Writes the patients: those of the test split into the testing part.
pub(super) fn write(patients: &[Patient], out: &Path) -> Result<()> {
    patients.par_iter().try_for_each(|patient| {
        let part = if patient.split == Split::Test { "testing" } else { "training" };
        let name = format!("patient{:03}", patient.number);
        let folder = out.join(part).join(&name);
        files::create_folder(&folder)?;
        // One in nine has end-diastole later in the series.
        let phases = if patient.number % 9 == 5 { [2, 4] } else { [0, 2] };
        let [depth, height, width] = patient.shape;
        let [z, y, x] = patient.spacing;
        let dims = [width, height, depth, 1];
        let spacing = [x, y, z];
        let style = STYLES[patient.number % STYLES.len()];
        let info = format!(
            "ED: {}\nES: {}\nGroup: {}\nHeight: {:.1}\nNbFrame: {TIMES}\nWeight: {:.1}\n",
            phases[0] + 1,
            phases[1] + 1,
            GROUPS[patient.number % GROUPS.len()],
            150.0 + (patient.number * 7 % 45) as f32,
            50.0 + (patient.number * 11 % 50) as f32
        );
        put(&folder.join("Info.cfg"), info.as_bytes())?;
        let all =
            Image { dims: [width, height, depth, TIMES], spacing, voxels: &series(patient, phases), style };
        all.write(&folder, &format!("{name}_4d"))?;
        for (phase, time) in phases.into_iter().enumerate() {
            let frame = format!("{name}_frame{:02}", time + 1);
            // One in seven has end-systole in the series alone.
            if !(phase == 1 && patient.number % 7 == 3) {
                Image { dims, spacing, voxels: &patient.images[phase], style }.write(&folder, &frame)?;
            }
            let kind = if patient.number % 4 == 2 { Kind::F64 } else { Kind::U8 };
            let style = Style { kind, ..PLAIN };
            let label = coded(&patient.labels[phase], [0, 1, 2, 3]);
            Image { dims, spacing, voxels: &label, style }.write(&folder, &format!("{frame}_gt"))?;
        }
        Ok(())
    })
}
