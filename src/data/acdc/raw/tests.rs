//! The reader of the downloaded form; whole data sets are read in `layout/tests.rs`.

use super::*;
use crate::data::layout::{Layout, write_phantom};
use crate::data::nifti::{Header, write_image, write_labels};
use crate::store::files;

#[test]
fn info_is_read_whatever_its_line_ends_and_case() {
    let text = "ED: 1\r\nES: 12\r\nGroup: DCM\r\nHeight: 184.0\r\nNbFrame: 30\r\nWeight: 95.0\r\n";
    let expected = Info { diastole: 1, systole: 12, group: Some("DCM".into()), frames: Some(30) };
    assert_eq!(parse_info(text).unwrap(), expected);
    let short = parse_info("es:3\n\n  ed : 9").unwrap();
    assert_eq!((short.diastole, short.systole, short.frames), (9, 3, None));
}

#[test]
fn wrong_info_names_line_and_key() {
    for (text, part) in [
        ("", "no line `ED"),
        ("ED: 1", "no line `ES"),
        ("ED 1\nES: 2", "line 1: `ED 1`"),
        ("ED: 0\nES: 2", "line 1: ED is `0`"),
        ("ED: -1\nES: 2", "ED is `-1`"),
        ("ED: one\nES: 2", "ED is `one`"),
        ("ED: 99999999999999999999\nES: 2", "ED is"),
        ("ED: 2\nES: 2", "both frame 2"),
        ("ED: 1\nED: 3\nES: 2", "line 2: `ed` stands on line 1"),
        ("ED: 1\nES: 12\nNbFrame: 9", "beyond the 9 frames"),
    ] {
        let error = parse_info(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
}

#[test]
fn the_published_lists_have_the_published_counts() {
    let (volumes, slices) = published_lists();
    let count = |split| volumes.iter().filter(|volume| volume.split == split).count();
    assert_eq!(Split::ALL.map(count), [140, 20, 40]);
    let patients: BTreeSet<&str> = volumes.iter().map(|volume| volume.patient.as_str()).collect();
    assert_eq!(patients.len(), 100);
    assert_eq!((patients.first(), patients.last()), (Some(&"patient001"), Some(&"patient100")));
    assert_eq!(slices.len(), 1312);
    // The labelled sets of the literature: 3, 7 and 14 patients are 68, 136 and 256 slices.
    for (patients, expected) in [(3, 68), (7, 136), (14, 256), (70, 1312)] {
        let first = slices.iter().filter(|&&(volume, ..)| volume < 2 * patients).count();
        assert_eq!(first, expected, "{patients} patients");
    }
    assert_eq!(volumes[0].name, "patient099_frame01");
    assert_eq!(slices[0], (0, 14, 1), "patient099_frame01_slice_15");
    // Each volume's slices are 1 to n, each once.
    for (volume, Listed { name, .. }) in volumes.iter().enumerate().take(140) {
        let mut its: Vec<usize> = slices.iter().filter(|&&(v, ..)| v == volume).map(|&(_, z, _)| z).collect();
        its.sort_unstable();
        assert!(its.iter().copied().eq(0..its.len()), "{name}");
    }
}

/// The training part of ACDC with volumes of 2×2 pixels, as deep as the published list says; `change` sees each depth.
fn tiny(change: impl Fn(&str, usize) -> usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (volumes, slices) = published_lists();
    for (at, Listed { name, patient, .. }) in volumes.iter().enumerate() {
        let depth = slices.iter().filter(|&&(volume, ..)| volume == at).count().max(2);
        let header = Header::new([2, 2, change(name, depth), 1], [1.0, 1.0, 10.0]).unwrap();
        let voxels = header.dims().iter().product();
        let folder = dir.path().join("database/training").join(patient);
        files::create_folder(&folder).unwrap();
        // End-systole is frame 9, so that names have to be made.
        let frame = if name.ends_with("01") { "frame01" } else { "frame09" };
        let image: Vec<f32> = (0..voxels).map(|v| (v + at) as f32).collect();
        write_image(&folder.join(format!("{patient}_{frame}.nii")), &header, &image).unwrap();
        write_labels(&folder.join(format!("{patient}_{frame}_gt.nii")), &header, &vec![0; voxels]).unwrap();
        files::write_atomic(folder.join("Info.cfg"), "ED: 1\nES: 9\n").unwrap();
    }
    dir
}

#[test]
fn without_lists_the_published_ones_hold() {
    let dir = tiny(|_, depth| depth);
    let found = find(dir.path()).unwrap();
    let source = open(dir.path(), &found);
    let inspection = source.inspection().unwrap();
    assert_eq!((inspection.train_patients, inspection.volumes), (70, 200));
    let data = source.load(&|_, _| Ok(())).unwrap();
    assert_eq!(data.train_slices().len(), 1312);
    for (patients, slices) in [(3, 68), (7, 136), (14, 256)] {
        assert_eq!(data.labelled(patients).unwrap().0.len(), slices);
    }
    let first = data.train_slices()[0];
    assert_eq!((data.cases()[first.case as usize].name.as_str(), first.z), ("patient099_frame01", 14));
    assert_eq!(data.cases()[0].spacing, Some([10.0, 1.0, 1.0]));
}

#[test]
fn another_depth_than_the_published_one_is_refused() {
    for (by, part) in
        [(1, "has 17 slices, but the published list names 16"), (-1, "has slices 1 to 15, not 16")]
    {
        let dir = tiny(
            |name, depth| {
                if name == "patient099_frame01" { depth.saturating_add_signed(by) } else { depth }
            },
        );
        let error =
            open(dir.path(), &find(dir.path()).unwrap()).load(&|_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_absent_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    write_phantom(Layout::AcdcRaw, 10, 1, dir.path()).unwrap();
    let error = |dir: &Path| open(dir, &find(dir).unwrap()).check().unwrap_err().to_string();
    let training = folder_of(&dir.path().join("training"));
    let (name, folder) = &training[0];
    let gt = folder_of(folder).into_iter().find(|(name, _)| name.contains("_gt")).unwrap().1;
    std::fs::remove_file(&gt).unwrap();
    assert!(error(dir.path()).contains("_gt.nii.gz: fetch the patient again"));
    std::fs::remove_file(folder.join("Info.cfg")).unwrap();
    assert!(error(dir.path()).contains("Info.cfg"), "{name}");
    std::fs::remove_dir_all(folder).unwrap();
    assert!(error(dir.path()).contains(&format!("there is no volume or patient `{name}")));
    std::fs::remove_file(dir.path().join("train.list")).unwrap();
    let text = error(dir.path());
    assert!(text.contains("of the 100 patients of the published lists are absent"), "{text}");
}
