//! Data sets in memory and on disk, on the smallest phantom.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use super::*;

mod mutated;

/// Settings of the smallest phantom.
fn settings() -> DataSettings {
    DataSettings { name: DataName::Phantom, root: "".into(), patients: 10, seed: 3, unlabelled: false }
}

/// The smallest phantom, generated once for all tests.
pub(super) static PHANTOM: LazyLock<Dataset> =
    LazyLock::new(|| prepare(&settings(), &|_, _| Ok(())).expect("the phantom needs nothing"));

fn patients<'a>(data: &'a Dataset, slices: &'a [SliceRef]) -> BTreeSet<&'a str> {
    slices.iter().map(|slice| data.cases()[slice.case as usize].patient.as_str()).collect()
}

#[test]
fn labelled_sets_are_nested_prefixes_of_whole_patients() {
    let data = &*PHANTOM;
    assert_eq!(data.train_patients(), 7, "70 % of 10 patients");
    let mut last = 0;
    for count in 1..=7 {
        let (labelled, unlabelled) = data.labelled(count).unwrap();
        assert_eq!(
            [labelled, unlabelled].concat(),
            data.train_slices(),
            "{count} patients: a prefix and the rest"
        );
        assert!(labelled.len() > last, "{count} patients have more slices than one less");
        last = labelled.len();
        let (seen, unseen) = (patients(data, labelled), patients(data, unlabelled));
        assert_eq!(seen.len(), count, "as many patients as asked for");
        assert!(seen.is_disjoint(&unseen), "{count} patients: none is on both sides");
    }
    assert!(data.labelled(7).unwrap().1.is_empty(), "with all patients labelled nothing is left");
}

#[test]
fn too_many_or_no_labelled_patients_are_errors() {
    let error = PHANTOM.labelled(8).unwrap_err().to_string();
    assert!(error.contains('8') && error.contains('7'), "names both numbers: {error}");
    assert!(PHANTOM.labelled(0).is_err(), "no labelled patient");
}

#[test]
fn training_slices_are_each_slice_of_the_training_cases_once() {
    let data = &*PHANTOM;
    let listed: BTreeSet<SliceRef> = data.train_slices().iter().copied().collect();
    let all: BTreeSet<SliceRef> = data
        .cases_of(Split::Train)
        .flat_map(|case| {
            (0..data.cases()[case].shape[0]).map(move |z| SliceRef { case: case as u32, z: z as u32 })
        })
        .collect();
    assert_eq!(listed, all, "no slice of another split, none missing");
    assert_eq!(listed.len(), data.train_slices().len(), "none twice");
}

#[test]
fn a_slice_is_the_part_of_its_volume() {
    let data = &*PHANTOM;
    let slice = data.slice(SliceRef { case: 3, z: 2 });
    let pixels = data.cases()[3].pixels();
    assert_eq!(slice.height * slice.width, pixels, "its size");
    assert_eq!(slice.image, &data.image(3)[2 * pixels..3 * pixels], "its image");
    assert_eq!(slice.label, &data.label(3)[2 * pixels..3 * pixels], "its label");
}

#[test]
fn patients_stay_in_their_split() {
    let data = &*PHANTOM;
    let of =
        |split| data.cases_of(split).map(|case| data.cases()[case].patient.as_str()).collect::<BTreeSet<_>>();
    let [train, val, test] = Split::ALL.map(of);
    assert_eq!([train.len(), val.len(), test.len()], [7, 1, 2], "70/10/20 %");
    assert!(
        train.is_disjoint(&val) && train.is_disjoint(&test) && val.is_disjoint(&test),
        "no patient in two"
    );
}

#[test]
fn saved_and_opened_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    PHANTOM.save(dir.path()).unwrap();
    // Once more over an earlier try.
    PHANTOM.save(dir.path()).unwrap();
    let opened = Dataset::open(dir.path()).unwrap();
    assert!(opened == *PHANTOM, "every case, voxel and slice");
    assert_eq!(opened.content(), inspect(&settings()).unwrap().content, "the content that inspection named");
}

#[test]
fn torn_and_foreign_files_are_clear_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = |what: &str| {
        let error = format!("{:#}", Dataset::open(dir.path()).expect_err(what));
        assert!(error.contains("run the sweep again"), "{what}: the remedy is named: {error}");
        error
    };
    assert!(error("an empty folder").contains("dataset.json"), "the file is named");
    PHANTOM.save(dir.path()).unwrap();
    for name in ["images.f32", "labels.u8"] {
        let file = OpenOptions::new().write(true).open(dir.path().join(name)).unwrap();
        let whole = file.metadata().unwrap().len();
        file.set_len(whole - 1).unwrap();
        let text = error("a short file");
        assert!(text.contains("torn") && text.contains(name), "{name}: {text}");
        file.set_len(whole + 1).unwrap();
        assert!(error("a long file").contains(name), "{name} is too long");
        file.set_len(whole).unwrap();
    }
    assert!(Dataset::open(dir.path()).is_ok(), "the files are whole again");
    let manifest = dir.path().join("dataset.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let put = |text: &str| File::create(&manifest).unwrap().write_all(text.as_bytes()).unwrap();
    put(&text[..text.len() / 2]);
    assert!(error("half a manifest").contains("manifest"), "half a manifest");
    put(&text.replace("\"format\":1", "\"format\":99"));
    assert!(error("a later form").contains("99"), "another form");
    put(&text.replace("\"train_slices\":[[", "\"train_slices\":[[999,0],["));
    assert!(error("a wrong slice").contains("training slices"), "a slice of no case");
}

#[test]
fn writing_where_nothing_can_be_written_names_the_place() {
    let error = format!("{:#}", PHANTOM.save(Path::new("/proc/no/such/folder")).unwrap_err());
    assert!(error.contains("/proc/no/such/folder"), "{error}");
}

#[test]
fn an_error_of_the_listener_stops_the_work() {
    let stop = |done: usize, _: usize| if done > 0 { anyhow::bail!("stopped") } else { Ok(()) };
    assert_eq!(prepare(&settings(), &stop).unwrap_err().to_string(), "stopped");
}

#[test]
fn progress_counts_all_volumes_on_the_calling_thread() {
    let calls = std::cell::RefCell::new(Vec::new());
    let items: Vec<u32> = (0..37).collect();
    let tell = |done, total| {
        calls.borrow_mut().push((done, total));
        Ok(())
    };
    let results = parallel(&items, 2, &tell, |item| item * 3).unwrap();
    assert_eq!(results, items.iter().map(|item| item * 3).collect::<Vec<_>>(), "results keep the order");
    let calls = calls.into_inner();
    assert_eq!((calls[0], calls[calls.len() - 1]), ((0, 74), (74, 74)), "from nothing to all");
    assert!(calls.is_sorted(), "never back");
}

#[test]
fn long_lists_of_problems_are_cut() {
    let many: Vec<String> = (0..30).map(|n| format!("problem {n}")).collect();
    let text = problems("it cannot be used:", &many).to_string();
    assert_eq!(text.lines().count(), 22, "a head, twenty problems, the rest as a number");
    assert!(text.ends_with("and 10 more"), "{text}");
}
