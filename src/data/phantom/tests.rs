use super::*;
use crate::data::tests::PHANTOM;
use crate::spec::settings::DataName;

fn settings(patients: usize, seed: u64) -> DataSettings {
    DataSettings { name: DataName::Phantom, root: "".into(), patients, seed, unlabelled: false }
}

/// Voxels of a class.
fn voxels(label: &[u8], class: u8) -> usize {
    label.iter().map(|&value| usize::from(value == class)).sum()
}

/// Dice of a mask and a label's class.
fn dice(found: impl Iterator<Item = bool>, label: &[u8], class: u8) -> f64 {
    let (mut both, mut sum) = (0, 0);
    for (found, &label) in found.zip(label) {
        both += usize::from(found && label == class);
        sum += usize::from(found) + usize::from(label == class);
    }
    2.0 * both as f64 / sum.max(1) as f64
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| generate(&settings(10, 3), &|_, _| Ok(())).unwrap())
    };
    for threads in [1, 2, 3] {
        assert!(on(threads) == *PHANTOM, "{threads} threads");
    }
}

#[test]
fn another_seed_gives_other_patients() {
    let [a, b] = [0, 1].map(|seed| volumes_of(seed, 0, Split::Train));
    assert_ne!(a[0].image, b[0].image, "another heart");
    let contents = [settings(10, 0), settings(10, 1), settings(11, 0)].map(|s| inspect(&s).unwrap().content);
    assert!(
        contents[0] != contents[1] && contents[0] != contents[2],
        "seed and patients are part of the content"
    );
}

#[test]
fn splits_are_seventy_ten_twenty() {
    assert_eq!(split_sizes(100), [70, 10, 20], "the paper's");
    for patients in MIN_PATIENTS..=300 {
        let [train, val, test] = split_sizes(patients);
        assert_eq!(train + val + test, patients, "{patients} patients: all are placed");
        assert!(val >= 1 && test >= 2 && train >= 7, "{patients} patients: no split is empty");
    }
    let inspection = inspect(&settings(40, 0)).unwrap();
    assert_eq!((inspection.train_patients, inspection.volumes), (28, 80), "as inspected");
}

#[test]
fn too_few_or_too_many_patients_are_errors() {
    for patients in [0, 9, 1_000_000] {
        let error = inspect(&settings(patients, 0)).unwrap_err().to_string();
        assert!(error.contains("data.patients") && error.contains(&patients.to_string()), "{error}");
    }
}

#[test]
fn volumes_look_like_short_axis_stacks() {
    let mut empty = 0;
    let mut slices = 0;
    for (index, case) in PHANTOM.cases().iter().enumerate() {
        let name = &case.name;
        let [depth, height, width] = case.shape;
        assert!((6..=10).contains(&depth), "{name}: {depth} slices");
        assert!((96..=144).contains(&height) && (96..=144).contains(&width), "{name}: {height}×{width}");
        let (image, label) = (PHANTOM.image(index), PHANTOM.label(index));
        let low = image.iter().copied().fold(f32::MAX, f32::min);
        let high = image.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!((low, high), (0.0, 1.0), "{name}: intensities span [0, 1]");
        let count = |class| voxels(label, class);
        for class in 1..4 {
            assert!(count(class) > 50, "{name}: class {class} is there");
        }
        let heart = 1.0 - count(0) as f64 / label.len() as f64;
        assert!((0.01..0.15).contains(&heart), "{name}: {heart} of the voxels are heart");
        slices += depth;
        empty += label.chunks_exact(case.pixels()).filter(|slice| slice.iter().all(|&v| v == 0)).count();
    }
    assert!(empty > 0 && empty * 5 < slices, "a few slices lie beyond the heart: {empty} of {slices}");
}

#[test]
fn the_left_ventricle_contracts_and_its_wall_thickens() {
    for pair in 0..PHANTOM.cases().len() / 2 {
        let cavity = |case: usize| voxels(PHANTOM.label(case), 3);
        let (diastole, systole) = (cavity(2 * pair), cavity(2 * pair + 1));
        assert!(systole < diastole, "pair {pair}: {systole} against {diastole} voxels");
    }
}

#[test]
fn myocardium_surrounds_the_left_ventricle() {
    let (mut inside, mut open) = (0, 0);
    for (index, case) in PHANTOM.cases().iter().enumerate() {
        let width = case.shape[2];
        for label in PHANTOM.label(index).chunks_exact(case.pixels()) {
            for at in (0..label.len()).filter(|&at| label[at] == 3) {
                inside += 1;
                let neighbours = [at - 1, at + 1, at - width, at + width];
                open += usize::from(neighbours.iter().any(|&other| label[other] < 2));
            }
        }
    }
    assert!(open * 50 < inside, "{open} of {inside} cavity pixels touch something else");
}

#[test]
fn neither_a_threshold_nor_the_position_finds_the_cavity() {
    let cases: Vec<usize> = (0..PHANTOM.cases().len()).collect();
    let by_threshold = |low: f32| {
        let of = |&case: &usize| {
            let found = PHANTOM.image(case).iter().map(|&value| value > low && value < low + 0.35);
            dice(found, PHANTOM.label(case), 3)
        };
        cases.iter().map(of).sum::<f64>() / cases.len() as f64
    };
    let best = (4..16).map(|low| by_threshold(low as f32 * 0.05)).fold(0.0, f64::max);
    assert!(best < 0.5, "the best threshold has a Dice of {best}");
    // The best disc about the middle of the image.
    let by_disc = |radius: f32| {
        let of = |&case: &usize| {
            let [_, height, width] = PHANTOM.cases()[case].shape;
            let found = (0..PHANTOM.label(case).len()).map(|at| {
                let (y, x) = (at / width % height, at % width);
                (y as f32 - height as f32 / 2.0).hypot(x as f32 - width as f32 / 2.0) < radius
            });
            dice(found, PHANTOM.label(case), 3)
        };
        cases.iter().map(of).sum::<f64>() / cases.len() as f64
    };
    let best = (5..15).map(|radius| by_disc(radius as f32)).fold(0.0, f64::max);
    assert!(best < 0.6, "the best disc has a Dice of {best}");
}
