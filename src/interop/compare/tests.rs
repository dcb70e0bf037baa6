use super::*;
use crate::data::nifti::{Header, write_labels};
use crate::spec::settings::EmptyDistance::Zero;

/// A label map of `frames` time points of 4×4×2 voxels, 1.5×1.25×8 mm.
fn write(path: &Path, frames: usize, labels: &[u8]) {
    let header = Header::new([4, 4, 2, frames], [1.5, 1.25, 8.0]).unwrap();
    write_labels(path, &header, labels).unwrap();
}

/// Labels with a 2×2 square of `class` at column `x` of the first slice, and one voxel of class 3 in the second.
fn square(class: u8, x: usize) -> Vec<u8> {
    let mut labels = vec![0; 32];
    for place in [4 + x, 5 + x, 8 + x, 9 + x] {
        labels[place] = class;
    }
    labels[16 + 5] = 3;
    labels
}

#[test]
fn folders_are_compared_by_name_case_by_case() {
    let dir = tempfile::tempdir().unwrap();
    let (pred, label) = (dir.path().join("pred"), dir.path().join("label"));
    files::create_folder(&pred).unwrap();
    files::create_folder(&label).unwrap();
    write(&pred.join("a.nii.gz"), 1, &square(1, 0));
    write(&label.join("a_gt.nii"), 1, &square(1, 1));
    write(&label.join("a.nii"), 1, &[0; 32]); // the image beside its label map
    write(&pred.join("b.nii"), 1, &square(2, 2));
    write(&label.join("b_gt.nii.gz"), 1, &square(2, 2));
    let pairs = pairs(&pred, &label).unwrap();
    assert_eq!(pairs.iter().map(|pair| pair.case.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let comparison = compare(&pairs, None, Zero, &|_, _| ()).unwrap();
    assert_eq!(comparison.classes, [(1, "1".into()), (2, "2".into()), (3, "3".into())]);
    assert_eq!(comparison.rows.len(), 6);
    // Class 1 of case a is moved by one column: half of it overlaps, and borders are a voxel, 1.5 mm, apart.
    let moved = &comparison.rows[0];
    assert_eq!((moved.voxel.dice, moved.voxel.hd95, moved.variants.mm.unwrap().hd95_mm), (0.5, 1.0, 1.5));
    assert_eq!(moved.variants.mm.unwrap().asd_mm, 1.5 * moved.voxel.asd);
    // Class 1 is in neither map of case b: that is no mistake.
    let absent = &comparison.rows[3];
    let mm = absent.variants.mm.unwrap();
    assert_eq!((absent.case.as_str(), absent.code, absent.voxel.dice), ("b", 1, 1.0));
    assert_eq!([mm.hd95_mm, mm.asd_mm, mm.hd95_max_mm, mm.assd_mm], [0.0; 4]);
    // A square moved by one column is as far from the other as the other from it.
    assert_eq!((moved.variants.hd95_max, moved.variants.assd), (moved.voxel.hd95, moved.voxel.asd));
    let lines = comparison.lines();
    assert_eq!(lines[0].values[0].unwrap().0, 0.75);
    assert_eq!((lines[3].class.as_str(), lines[3].n), ("mean", 2));
    assert!((lines[3].values[0].unwrap().0 - (0.5 + 1.0 + 1.0 + 3.0) / 6.0).abs() < 1e-12);
    assert_eq!(comparison.frame().unwrap().height(), 6);
    comparison.write(&dir.path().join("out")).unwrap();
    let csv = std::fs::read_to_string(dir.path().join("out/cases.csv")).unwrap();
    let columns = "case,class,label,dice,jaccard,hd95,asd,hd95_mm,asd_mm,hd95_max,assd,hd95_max_mm,assd_mm,empty_prediction";
    assert!(csv.starts_with(columns), "{csv}");
    let named = compare(&pairs, Some(&class_names("acdc")), Zero, &|_, _| ()).unwrap();
    assert!(named.markdown().contains("| Myo | 100.00 ± 0.00 |"), "{}", named.markdown());
    assert_eq!(class_names("mnms"), ["LV", "Myo", "RV"]);
}

#[test]
fn of_a_series_the_labelled_time_points_count() {
    let dir = tempfile::tempdir().unwrap();
    let (pred, label) = (dir.path().join("p.nii"), dir.path().join("l.nii"));
    write(&pred, 3, &[square(1, 0), square(1, 0), square(1, 0)].concat());
    write(&label, 3, &[square(1, 0), vec![0; 32], vec![0; 32]].concat());
    let comparison = compare(&pairs(&pred, &label).unwrap(), None, Zero, &|_, _| ()).unwrap();
    assert_eq!(comparison.rows.iter().map(|row| row.case.as_str()).collect::<Vec<_>>(), ["p t0", "p t0"]);
    assert!(comparison.footnotes().iter().any(|note| note.contains("2 time points have no label")));
}

#[test]
fn what_cannot_be_compared_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["pred", "label", "empty"] {
        files::create_folder(at(folder)).unwrap();
    }
    write(&at("pred/a.nii"), 1, &square(1, 0));
    write(&at("pred/only_here.nii"), 1, &square(1, 0));
    write(&at("label/a.nii"), 1, &square(1, 0));
    write(&at("label/only_there.nii"), 1, &square(1, 0));
    let error = |one: &str, other: &str| pairs(&at(one), &at(other)).unwrap_err().to_string();
    let wrong = error("pred", "label");
    assert!(wrong.contains("only_here of ") && wrong.contains("only_there of "), "{wrong}");
    assert!(error("pred", "empty").contains("empty holds no volume"));
    assert!(error("pred", "label/a.nii").contains("two files or two folders"));
    assert!(error("pred/a.nii", "pred/b.nii").contains("b.nii does not exist"));
    let header = Header::new([4, 2, 4, 1], [1.0; 3]).unwrap();
    write_labels(&at("other.nii"), &header, &[1; 32]).unwrap();
    let run = |one: &str, names: Option<&[String]>| {
        let pairs = pairs(&at(one), &at("label/a.nii")).unwrap();
        format!("{:#}", compare(&pairs, names, Zero, &|_, _| ()).unwrap_err())
    };
    assert!(run("other.nii", None).contains("other.nii has 4 slices of 2×4"), "sizes differ");
    let two = class_names("RV,Myo");
    assert!(run("pred/a.nii", Some(&two)).contains("the label 3 occurs, and 2 classes have names: RV, Myo"));
    write(&at("none.nii"), 1, &[0; 32]);
    let none = pairs(&at("none.nii"), &at("none.nii")).unwrap();
    assert!(compare(&none, None, Zero, &|_, _| ()).unwrap_err().to_string().contains("nothing to compare"));
}
