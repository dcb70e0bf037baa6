//! The reader against small data sets of the same form, whole and broken; and against the real one, where
//! `SWEEP_ACDC_ROOT` names its folder.

use std::fs::{File, OpenOptions};

use tempfile::TempDir;

use super::*;
use crate::data::{Dataset, Inspection, Told};

fn inspect(root: &Path) -> Result<Inspection> {
    open(root)?.inspection()
}

fn load(root: &Path, progress: &Told<'_>) -> Result<Dataset> {
    open(root)?.load(progress)
}

const SHAPE: [u64; 3] = [3, 6, 5];
const VOXELS: usize = 90;

/// A data set of 4 patients (2 train, 1 val, 1 test) in a folder of its own.
struct Fake {
    dir: TempDir,
}

impl Fake {
    fn new() -> Self {
        let fake = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(fake.root().join("volumes")).unwrap();
        for patient in 1..=4 {
            for frame in 1..=2 {
                fake.volume(&format!("patient{patient:03}_frame{frame:02}"), |_, _| ());
            }
        }
        fake.list(
            "train.list",
            &["patient002_frame01", "patient002_frame02", "patient001_frame01", "patient001_frame02"],
        );
        fake.list("val.list", &["patient003_frame01", "patient003_frame02"]);
        fake.list("test.list", &["patient004_frame01", "patient004_frame02"]);
        fake.list(
            "train_slices.list",
            &["patient002_frame01_slice_3", "patient002_frame02_slice_1", "patient001_frame01_slice_2"],
        );
        fake
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join("volumes").join(format!("{name}.h5"))
    }

    /// Writes one volume, `change`d; `frame02` as float64.
    fn volume(&self, name: &str, change: impl FnOnce(&mut Vec<f32>, &mut Vec<u8>)) {
        let mut image: Vec<f32> = (0..VOXELS).map(|at| at as f32 / (VOXELS - 1) as f32).collect();
        let mut label: Vec<u8> = (0..VOXELS).map(|at| (at % 4) as u8).collect();
        change(&mut image, &mut label);
        let mut file = hdf5_pure::FileBuilder::new();
        let (depth, plane) = (image.len() as u64 / 30, [SHAPE[1], SHAPE[2]]);
        let dataset = file.create_dataset("image");
        if name.ends_with('2') {
            let image: Vec<f64> = image.iter().map(|&value| f64::from(value)).collect();
            dataset.with_f64_data(&image).with_shape(&[depth, plane[0], plane[1]]);
        } else {
            dataset.with_f32_data(&image).with_shape(&[depth, plane[0], plane[1]]);
        }
        let depth = label.len() as u64 / 30;
        file.create_dataset("label").with_u8_data(&label).with_shape(&[depth, plane[0], plane[1]]);
        file.write(self.path(name)).unwrap();
    }

    fn list(&self, name: &str, entries: &[&str]) {
        std::io::Write::write_all(
            &mut File::create(self.root().join(name)).unwrap(),
            format!("{}\n", entries.join("\n")).as_bytes(),
        )
        .unwrap();
    }

    fn content(&self) -> String {
        inspect(self.root()).unwrap().content
    }

    /// The error of the inspection, which must name everything in `parts`.
    fn refused(&self, parts: &[&str]) {
        let error = inspect(self.root()).expect_err("it is broken").to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
        assert!(load(self.root(), &|_, _| Ok(())).is_err(), "what is not inspected is not loaded");
    }

    /// The error of loading, which inspection does not see.
    fn refused_late(&self, parts: &[&str]) {
        assert!(inspect(self.root()).is_ok(), "inspection does not read voxels");
        let error = load(self.root(), &|_, _| Ok(())).expect_err("it is broken").to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

#[test]
fn both_precisions_are_read_in_list_order() {
    let fake = Fake::new();
    let inspection = inspect(fake.root()).unwrap();
    assert_eq!((inspection.train_patients, inspection.volumes), (2, 8), "as the lists say");
    let data = load(fake.root(), &|_, _| Ok(())).unwrap();
    assert_eq!(data.content(), inspection.content, "the inspected content");
    assert_eq!(data.cases()[0].name, "patient002_frame01", "the first of train.list");
    assert_eq!(data.cases()[0].shape, [3, 6, 5], "slices, rows, columns");
    for case in [0, 1] {
        assert_eq!(data.image(case)[VOXELS - 1], 1.0, "the last voxel of float32 and float64");
        assert_eq!(data.image(case)[7], 7.0 / 89.0, "a voxel between");
        assert_eq!(data.label(case)[7], 3, "its label");
    }
    let slices: Vec<(u32, u32)> = data.train_slices().iter().map(|slice| (slice.case, slice.z)).collect();
    assert_eq!(slices, [(0, 2), (1, 0), (2, 1)], "slices from 1 become slices from 0");
    assert_eq!(data.labelled(1).unwrap().0.len(), 2, "the first patient's slices");
}

#[test]
fn the_nesting_of_ssl4mis_and_windows_line_ends_are_read_too() {
    let fake = Fake::new();
    let before = fake.content();
    let file = File::create(fake.root().join("val.list")).unwrap();
    std::io::Write::write_all(&mut &file, b"patient003_frame01\r\n\r\npatient003_frame02").unwrap();
    assert_eq!(fake.content(), before, "line ends do not change the content");
    #[expect(clippy::disallowed_methods, reason = "moves a folder of a test")]
    std::fs::rename(fake.root().join("volumes"), fake.root().join("data")).unwrap();
    assert_eq!(fake.content(), before, "data/ is as good as volumes/");
}

#[test]
fn the_content_follows_what_is_read_and_nothing_else() {
    let fake = Fake::new();
    let before = fake.content();
    fake.volume("patient001_frame01", |_, _| ());
    assert_eq!(fake.content(), before, "the same file written again");
    fake.volume("patient001_frame01", |image, _| image[5] = 0.5);
    let changed = fake.content();
    assert_ne!(changed, before, "another voxel");
    fake.list("train_slices.list", &["patient002_frame01_slice_3", "patient001_frame01_slice_2"]);
    assert_ne!(fake.content(), changed, "another list");
}

#[test]
fn a_wrong_root_says_which_key_to_set() {
    for root in ["", "/no/such/folder"] {
        let error = inspect(Path::new(root)).unwrap_err().to_string();
        assert!(error.contains("data.root"), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = inspect(empty.path()).unwrap_err().to_string();
    assert!(error.contains("volumes/"), "{error}");
}

#[test]
fn all_problems_of_lists_and_files_are_named_at_once() {
    let fake = Fake::new();
    std::fs::remove_file(fake.path("patient001_frame02")).unwrap();
    std::fs::remove_file(fake.root().join("val.list")).unwrap();
    let file = OpenOptions::new().write(true).open(fake.path("patient002_frame01")).unwrap();
    let whole = file.metadata().unwrap().len();
    file.set_len(whole - 10).unwrap();
    File::create(fake.path("patient004_frame01")).unwrap();
    fake.refused(&[
        "patient001_frame02.h5 is absent",
        "val.list",
        "patient002_frame01.h5 is cut short",
        "patient004_frame01.h5 is no HDF5 file",
    ]);
}

#[test]
fn a_patient_in_two_splits_is_named() {
    let fake = Fake::new();
    fake.list("test.list", &["patient004_frame01", "patient001_frame02"]);
    fake.refused(&["patient001 is in train.list and test.list", "patient001_frame02 which is listed before"]);
}

#[test]
fn wrong_lines_of_lists_are_named_with_their_numbers() {
    let fake = Fake::new();
    fake.list(
        "train_slices.list",
        &[
            "patient002_frame01_slice_0",
            "patient002_frame01",
            "patient009_frame01_slice_1",
            "patient003_frame01_slice_1",
            "patient002_frame01_slice_1",
            "patient001_frame01_slice_1",
            "patient002_frame01_slice_2",
            "patient002_frame01_slice_2",
        ],
    );
    fake.refused(&[
        "list:1: slice 0",
        "list:2: `patient002_frame01` is not of the form",
        "list:3: patient009_frame01 is in no list",
        "list:4: patient003_frame01 is in val.list",
        "list:7: patient002 stands apart",
        "list:8: `patient002_frame01_slice_2` is listed before",
    ]);
    fake.list("train_slices.list", &["patient002_frame01_slice_1"]);
    fake.refused(&["no slice of patient001"]);
    fake.list("val.list", &["case3"]);
    fake.refused(&["val.list:1: `case3`"]);
}

#[test]
fn a_slice_that_its_volume_does_not_have_is_named() {
    let fake = Fake::new();
    fake.list("train_slices.list", &["patient002_frame01_slice_4", "patient001_frame01_slice_2"]);
    fake.refused_late(&["train_slices.list:1: patient002_frame01 has slices 1 to 3, not 4"]);
}

#[test]
fn bad_voxels_of_several_volumes_are_named_at_once() {
    let fake = Fake::new();
    fake.volume("patient001_frame01", |image, _| image[31] = f32::NAN);
    fake.volume("patient001_frame02", |image, _| image[0] = f32::INFINITY);
    fake.volume("patient002_frame01", |_, label| label[89] = 4);
    fake.volume("patient003_frame01", |image, _| image[2] = 1.5);
    fake.volume("patient004_frame01", |_, label| label.truncate(60));
    fake.refused_late(&[
        "patient001_frame01.h5 has the intensity NaN at slice 2, row 0, column 1",
        "patient001_frame02.h5 has the intensity inf",
        "patient002_frame01.h5 has the label 4 at slice 3, row 5, column 4",
        "patient003_frame01.h5 has the intensity 1.5",
        "patient004_frame01.h5 has an image of [3, 6, 5] but a label of [2, 6, 5]",
    ]);
}

#[test]
fn damaged_bytes_never_panic() {
    let fake = Fake::new();
    let path = fake.path("patient001_frame01");
    let whole = std::fs::read(&path).unwrap();
    for at in (8..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::io::Write::write_all(&mut File::create(&path).unwrap(), &damaged).unwrap();
        // Damaged voxels may still be voxels; nothing else may come through.
        if let Ok(data) = load(fake.root(), &|_, _| Ok(())) {
            assert!(data.label(2).iter().all(|&value| value < 4), "byte {at}: labels stay labels");
        }
    }
}

#[test]
fn the_real_data_set_has_the_published_counts() {
    let Some(root) = std::env::var_os("SWEEP_ACDC_ROOT") else {
        println!("skipped: SWEEP_ACDC_ROOT is not set");
        return;
    };
    let started = std::time::Instant::now();
    let inspection = inspect(root.as_ref()).unwrap();
    println!("inspected in {:?}", started.elapsed());
    assert_eq!((inspection.train_patients, inspection.volumes), (70, 200), "70 of 100 patients");
    let started = std::time::Instant::now();
    let data = load(root.as_ref(), &|_, _| Ok(())).unwrap();
    println!("loaded in {:?}", started.elapsed());
    for (patients, slices) in [(1, 32), (3, 68), (7, 136), (14, 256), (21, 396), (70, 1312)] {
        assert_eq!(data.labelled(patients).unwrap().0.len(), slices, "{patients} patients");
    }
    let slices = |split| data.cases_of(split).map(|case| data.cases()[case].shape[0]).sum::<usize>();
    assert_eq!(Split::ALL.map(slices), [1312, 210, 380], "slices of the splits");
    assert_eq!(data.cases_of(Split::Test).count(), 40, "test volumes");
    let labels = (0..data.cases().len()).flat_map(|case| data.label(case));
    let background = labels.filter(|&&label| label == 0).count() as f64;
    let voxels = data.cases().iter().map(crate::data::Case::voxels).sum::<usize>() as f64;
    assert!((background / voxels - 0.962).abs() < 5e-4, "96.2 % of the pixels are background");
    for case in 0..data.cases().len() {
        let low = data.image(case).iter().copied().fold(f32::MAX, f32::min);
        let high = data.image(case).iter().copied().fold(f32::MIN, f32::max);
        assert_eq!((low, high), (0.0, 1.0), "every volume spans [0, 1]");
    }
}
