//! A data set looked through case by case: what is there, and what is wrong, without stopping at the first thing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::source::{Entry, read_unit};
use super::{CLASS_NAMES, Split, Told, Volume, acdc, lists, own, parallel, source};
use crate::spec::settings::{DataName, DataSettings};

/// Sides below which hardly anything can be seen.
const SMALL: usize = 64;

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// The form of the data set, for people.
    pub form: &'static str,
    /// What made the split, for people.
    pub rule: String,
    /// The hash that names the content, as [`super::Inspection::content`].
    pub content: String,
    /// Names of the classes, the background first.
    pub classes: Vec<String>,
    /// What keeps the set from being used, beside what stands at single cases.
    pub problems: Vec<String>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// Every volume: training, validation, test.
    pub cases: Vec<Surveyed>,
}

/// One volume.
#[derive(Debug)]
pub struct Surveyed {
    /// Its name.
    pub name: String,
    /// Its patient.
    pub patient: String,
    /// Its split.
    pub split: Split,
    /// What the split is balanced over, or the diagnosis.
    pub group: Option<String>,
    /// What was read, or why it could not be.
    pub found: Result<Finding, String>,
}

/// What was read of a volume.
#[derive(Debug)]
pub struct Finding {
    /// Slices, rows, columns.
    pub shape: [usize; 3],
    /// Of slices, rows, columns in mm.
    pub spacing: Option<[f32; 3]>,
    /// Least and largest intensity, as stored.
    pub range: [f32; 2],
    /// Whether it has a label.
    pub labelled: bool,
    /// Voxels of each class.
    pub voxels: Vec<usize>,
    /// Slices on which nothing is labelled.
    pub empty_slices: usize,
    /// What is odd about it.
    pub remarks: Vec<String>,
    /// The slice with most of the labelled structures, the middle one where nothing is labelled.
    pub picture: Picture,
}

/// One slice.
#[derive(Debug)]
pub struct Picture {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Intensities in [0, 1].
    pub image: Vec<f32>,
    /// Classes.
    pub label: Vec<u8>,
}

/// What kind of data set lies in `root`.
///
/// # Errors
/// Where it is none that is known; names what each would have there.
pub fn detect(root: &Path) -> Result<DataName> {
    if !root.is_dir() {
        bail!("{} is no folder: name the one that holds the data set", root.display());
    }
    if root.join(own::CARD).is_file() {
        return Ok(DataName::Own);
    }
    let has = |name: &str| root.join(name).is_dir();
    // Before M&Ms, whose folders are called the same but for the case of a letter.
    if acdc::is_raw(root) {
        return Ok(DataName::Acdc);
    }
    if has("OpenDataset") || (has("Training") && has("Testing")) {
        return Ok(DataName::Mnms);
    }
    if root.join(lists::SLICES).is_file() || has("volumes") {
        return Ok(DataName::Acdc);
    }
    bail!(
        "{} is no data set that is known: ACDC has training/ (as downloaded) or volumes/ and lists (SSL4MIS), M&Ms \
         OpenDataset/, a set of one's own {} (`sweep data card {0} --init` writes one)",
        root.display(),
        own::CARD
    )
}

/// Reads every volume and looks at it. `progress(done, total)` counts files.
///
/// # Errors
/// Where there is nothing to look through, or `progress` stops it.
pub fn survey(settings: &DataSettings, progress: &Told<'_>) -> Result<Survey> {
    let source = source(settings)?;
    let units = source.units();
    let reading = &source.reading;
    let look = |unit: &std::ops::Range<usize>| -> Vec<Result<Finding, String>> {
        let volumes = read_unit(&source.entries[unit.clone()], reading);
        let finding = |volume: Result<Volume>| match volume {
            Ok(volume) => Ok(finding(volume, &reading.classes)),
            Err(error) => Err(format!("{error:#}")),
        };
        volumes.into_iter().map(finding).collect()
    };
    let found = parallel(&units, 1, progress, look)?.into_iter().flatten();
    let cases = source.entries.into_iter().zip(found).map(|(entry, found)| {
        let Entry { name, patient, split, group, .. } = entry;
        Surveyed { name, patient, split, group, found }
    });
    let mut cases: Vec<Surveyed> = cases.collect();
    if reading.classes == CLASS_NAMES {
        compare_phases(&mut cases);
    }
    Ok(Survey {
        form: source.form,
        rule: source.rule,
        content: source.content,
        classes: source.reading.classes,
        problems: source.problems,
        notes: source.notes,
        cases,
    })
}

fn finding(volume: Volume, classes: &[String]) -> Finding {
    let Volume { case, image, label, range } = volume;
    let plane = case.pixels();
    let mut voxels = vec![0; classes.len()];
    let mut labelled = Vec::with_capacity(case.shape[0]);
    for slice in label.chunks_exact(plane) {
        let before = voxels[0];
        for &class in slice {
            voxels[usize::from(class)] += 1;
        }
        labelled.push(plane - (voxels[0] - before));
    }
    let empty_slices = labelled.iter().filter(|&&count| count == 0).count();
    let mut remarks = Vec::new();
    if case.labelled {
        let absent =
            (1..classes.len()).filter(|&class| voxels[class] == 0).map(|class| classes[class].as_str());
        let absent: Vec<&str> = absent.collect();
        if !absent.is_empty() {
            remarks.push(format!("no {}", absent.join(", no ")));
        }
        let first = labelled.iter().position(|&count| count > 0);
        let last = labelled.iter().rposition(|&count| count > 0);
        if let (Some(first), Some(last)) = (first, last)
            && let Some(gap) = (first..last).find(|&z| labelled[z] == 0)
        {
            remarks.push(format!("slice {} has no label, but slices before and behind it do", gap + 1));
        }
    } else {
        remarks.push("no label: trained on as unlabelled".into());
    }
    if let Some([_, row, column]) = case.spacing
        && (row / column - 1.0).abs() > 0.01
    {
        remarks.push(format!("pixels of {row:.2}×{column:.2} mm are not square"));
    }
    if case.shape[1].min(case.shape[2]) < SMALL {
        remarks.push(format!("slices of {}×{} pixels are small", case.shape[1], case.shape[2]));
    }
    let most =
        (0..labelled.len()).max_by_key(|&z| (labelled[z], std::cmp::Reverse(z.abs_diff(labelled.len() / 2))));
    let at = most.unwrap_or_default() * plane;
    let picture = Picture {
        size: [case.shape[1], case.shape[2]],
        image: image[at..at + plane].to_vec(),
        label: label[at..at + plane].to_vec(),
    };
    Finding {
        shape: case.shape,
        spacing: case.spacing,
        range,
        labelled: case.labelled,
        voxels,
        empty_slices,
        remarks,
        picture,
    }
}

/// A left ventricle that is larger at end-systole means that the phases are swapped, or the labels.
fn compare_phases(cases: &mut [Surveyed]) {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases.iter_mut() {
        let Ok(found) = &mut case.found else { continue };
        let cavity = found.voxels.last().copied().unwrap_or_default();
        if case.name.ends_with("_frame01") {
            first.insert(case.patient.clone(), cavity);
        } else if case.name.ends_with("_frame02")
            && let Some(&diastole) = first.get(&case.patient)
            && found.labelled
            && cavity > diastole
        {
            found.remarks.push(format!(
                "LV has {cavity} voxels, at end-diastole {diastole}: are the phases or the labels swapped?"
            ));
        }
    }
}

/// A card to start from, for the files of a folder that has none: folders of images and labels and the codes of a few
/// labels are looked up.
///
/// # Errors
/// Where there is a card already, or no NIfTI or HDF5 file.
pub fn first_card(root: &Path) -> Result<String> {
    own::first_card(root)
}
