//! Each reader from end to end: the phantom written in each layout comes back as the same images, labels and lists.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::data::{Inspection, inspect, prepare};

fn written(layout: Layout) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_phantom(layout, 10, 3, dir.path()).unwrap();
    dir
}

fn settings(layout: Layout, dir: &TempDir) -> DataSettings {
    DataSettings {
        name: layout.data_name(),
        root: dir.path().to_path_buf(),
        patients: 0,
        seed: 0,
        unlabelled: false,
    }
}

fn load(settings: &DataSettings) -> Dataset {
    let Inspection { train_patients, volumes, content } = inspect(settings).unwrap();
    let data = prepare(settings, &|_, _| Ok(())).unwrap();
    assert_eq!(
        (data.train_patients(), data.cases().len(), data.content()),
        (train_patients, volumes, content.as_str()),
        "as was found without reading"
    );
    data
}

/// Cases, images, labels and slices are the same; only NIfTI files have a spacing.
fn same(a: &Dataset, b: &Dataset) {
    let cases = |data: &Dataset| -> Vec<Case> {
        data.cases().iter().map(|case| Case { spacing: None, ..case.clone() }).collect()
    };
    assert_eq!(cases(a), cases(b), "cases, splits and shapes");
    for case in 0..a.cases().len() {
        assert!(a.image(case) == b.image(case), "image of {}, bit for bit", a.cases()[case].name);
        assert!(a.label(case) == b.label(case), "label of {}", a.cases()[case].name);
    }
    assert_eq!(a.train_slices(), b.train_slices(), "the list of training slices");
}

#[test]
fn acdc_is_the_same_from_all_its_forms() {
    let [raw, volumes, slices] = [Layout::AcdcRaw, Layout::Ssl4mis, Layout::Ssl4misSlices].map(|layout| {
        let dir = written(layout);
        load(&settings(layout, &dir))
    });
    same(&volumes, &raw);
    same(&volumes, &slices);
    assert!(raw.cases().iter().all(|case| case.spacing.is_some()), "NIfTI files tell the spacing");
    assert_eq!(raw.train_patients(), 7);
}

/// Images by the patient's number and phase.
fn images(data: &Dataset, number: impl Fn(&str) -> usize) -> BTreeMap<(usize, usize), (Vec<f32>, Vec<u8>)> {
    let mut phases: BTreeMap<usize, usize> = BTreeMap::new();
    let case = |at: usize| {
        let number = number(&data.cases()[at].patient);
        let phase = phases.entry(number).and_modify(|phase| *phase += 1).or_insert(0);
        ((number, *phase), (data.image(at).to_vec(), data.label(at).to_vec()))
    };
    (0..data.cases().len()).map(case).collect()
}

/// The number at the end of `patient007`.
fn number(patient: &str) -> usize {
    patient.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[test]
fn every_layout_has_the_same_patients() {
    let dir = written(Layout::Ssl4mis);
    let expected = images(&load(&settings(Layout::Ssl4mis, &dir)), number);
    let dir = written(Layout::Own);
    let own = load(&settings(Layout::Own, &dir));
    assert!(images(&own, |patient| number(&patient[2..])) == expected, "a set of one's own");
    let dir = written(Layout::Mnms);
    let mnms = load(&DataSettings { unlabelled: true, ..settings(Layout::Mnms, &dir) });
    let codes: BTreeMap<String, usize> = (1..=10).map(|number| (mnms::code(number), number)).collect();
    let found = images(&mnms, |patient| codes[patient]);
    assert_eq!(found.len(), expected.len());
    let mut unlabelled = 0;
    for (at, case) in mnms.cases().iter().enumerate().filter(|(_, case)| !case.labelled) {
        assert_eq!(case.split, Split::Train);
        assert!(mnms.label(at).iter().all(|&label| label == 0), "{} has no label", case.name);
        unlabelled += 1;
    }
    assert_eq!(unlabelled, 4, "a patient without labels, and one whose mask is absent");
    for (key, (image, label)) in &found {
        let (wanted_image, wanted_label) = &expected[key];
        let is_labelled = label.iter().any(|&class| class > 0);
        // Of a patient without labels other time points are read than those of the phases.
        assert!(!is_labelled || image == wanted_image, "image of patient {key:?}");
        assert!(!is_labelled || label == wanted_label, "label of patient {key:?}, in the codes of ACDC");
    }
}

#[test]
fn patients_without_labels_are_left_out_unless_they_are_wanted() {
    let dir = written(Layout::Mnms);
    let without = load(&settings(Layout::Mnms, &dir));
    assert_eq!(without.cases().len(), 16);
    assert!(without.cases().iter().all(|case| case.labelled));
    let with = load(&DataSettings { unlabelled: true, ..settings(Layout::Mnms, &dir) });
    assert_eq!((with.cases().len(), with.train_patients()), (20, without.train_patients()));
    assert_ne!(with.content(), without.content(), "part of the key");
    let (labelled, rest) = with.labelled(with.train_patients()).unwrap();
    assert!(labelled.iter().all(|slice| with.cases()[slice.case as usize].labelled));
    assert!(!rest.is_empty() && rest.iter().all(|slice| !with.cases()[slice.case as usize].labelled));
    let error = with.labelled(with.train_patients() + 1).unwrap_err().to_string();
    assert!(error.contains("the training split has"), "{error}");
}

#[test]
fn the_seed_draws_the_split_and_lists_overrule_it() {
    for layout in [Layout::Mnms, Layout::Own] {
        let dir = written(layout);
        let first = load(&settings(layout, &dir));
        let other = load(&DataSettings { seed: 1, ..settings(layout, &dir) });
        let names =
            |data: &Dataset| -> Vec<String> { data.cases().iter().map(|case| case.name.clone()).collect() };
        assert_ne!(names(&first), names(&other), "another seed, another split");
        assert_ne!(first.content(), other.content(), "the split is part of the key");
        // What a stage leaves can be put beside the images, and is then the split for every seed.
        let stage = tempfile::tempdir().unwrap();
        first.save(stage.path()).unwrap();
        for list in ["train.list", "val.list", "test.list", "train_slices.list"] {
            std::fs::copy(stage.path().join(list), dir.path().join(list)).unwrap();
        }
        same(&first, &load(&DataSettings { seed: 1, ..settings(layout, &dir) }));
        let opened = Dataset::open(stage.path()).unwrap();
        assert!(opened == first, "mapped it is the same");
    }
}

#[test]
fn what_is_exported_is_read_back_the_same() {
    let dir = written(Layout::Mnms);
    let mnms = load(&settings(Layout::Mnms, &dir));
    for layout in [Layout::Ssl4mis, Layout::Ssl4misSlices, Layout::Own] {
        let dir = tempfile::tempdir().unwrap();
        export(&mnms, layout, dir.path()).unwrap();
        same(&mnms, &load(&settings(layout, &dir)));
        let again = export(&mnms, layout, dir.path()).unwrap_err().to_string();
        assert!(again.contains("is not empty"), "{again}");
    }
    let out = tempfile::tempdir().unwrap();
    assert!(export(&mnms, Layout::Mnms, out.path()).is_err(), "a prepared set has no raw form");
}

#[test]
fn lists_cannot_lead_out_of_the_folder() {
    for layout in [Layout::AcdcRaw, Layout::Ssl4mis] {
        let dir = written(layout);
        for wrong in
            ["../../etc/patient001_frame01", "/etc/patient001_frame01", "volumes\\patient001_frame01"]
        {
            files::write_atomic(dir.path().join("val.list"), wrong).unwrap();
            let error = inspect(&settings(layout, &dir)).unwrap_err().to_string();
            assert!(error.contains("val.list:1: `") && error.contains("is a path"), "{wrong}: {error}");
        }
    }
}

#[test]
fn a_patient_in_two_lists_is_refused_in_every_layout() {
    for layout in [Layout::AcdcRaw, Layout::Mnms, Layout::Own] {
        let dir = written(layout);
        let data = load(&settings(layout, &dir));
        data.save_lists(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("train_slices.list")).unwrap();
        let patient = &data.cases()[data.cases_of(Split::Train).next().unwrap()].patient;
        files::write_atomic(dir.path().join("test.list"), patient).unwrap();
        let error = inspect(&settings(layout, &dir)).unwrap_err().to_string();
        assert!(error.contains(&format!("{patient} is in train.list and test.list")), "{error}");
    }
}
