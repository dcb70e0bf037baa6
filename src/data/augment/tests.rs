//! The weak augmentation against SciPy and NumPy (`scripts/fixtures_augment.py`), and the properties of the rest.

use proptest::prelude::*;
use rand::Rng;
use serde::Deserialize;

use super::*;
use crate::rng::stream;
use crate::spec::settings::AugmentSettings;

#[derive(Deserialize)]
struct Fixtures {
    zooms: Vec<Zoom>,
    rotations: Vec<Rotated>,
    flips: Vec<Flipped>,
}

#[derive(Deserialize)]
struct Array {
    shape: [usize; 2],
    pixels: Vec<u8>,
}

#[derive(Deserialize)]
struct Zoom {
    from: [usize; 2],
    to: Array,
}

#[derive(Deserialize)]
struct Rotated {
    from: [usize; 2],
    degrees: i32,
    to: Array,
}

#[derive(Deserialize)]
struct Flipped {
    from: [usize; 2],
    turns: u8,
    axis: u8,
    to: Array,
}

fn fixtures() -> Fixtures {
    serde_json::from_str(include_str!("../../../tests/fixtures/augment.json")).expect("the fixtures are JSON")
}

/// The image that the fixtures start from: 1, 2, 3, … modulo 251, never 0.
fn image([height, width]: [usize; 2]) -> Vec<u8> {
    (0..height * width).map(|at| (at % 251 + 1) as u8).collect()
}

fn settings() -> AugmentSettings {
    AugmentSettings { flip: 0.5, rotate: 0.5, jitter: 0.8, blur: 0.5, cutmix: 0.5 }
}

fn random_image(seed: u64, pixels: usize) -> Vec<f32> {
    let mut rng = stream(seed, "test image", 0);
    (0..pixels).map(|_| rng.random()).collect()
}

#[test]
fn the_zoom_is_that_of_scipy_but_for_its_zero_edges() {
    let mut quirks = 0;
    for Zoom { from, to } in fixtures().zooms {
        let [height, width] = to.shape;
        let ours = zoom_nearest(&image(from), from[0], from[1], height, width);
        for (at, (&ours, &scipy)) in ours.iter().zip(&to.pixels).enumerate() {
            if scipy == 0 {
                // SciPy's last coordinate rounds past the edge, and the whole last row or column is 0.
                assert!(
                    at / width == height - 1 || at % width == width - 1,
                    "{from:?}→{:?} at {at}",
                    to.shape
                );
                quirks += 1;
            } else {
                assert_eq!(ours, scipy, "{from:?}→{:?} at {at}", to.shape);
            }
        }
    }
    assert!(quirks > 0, "the fixtures hold such sizes");
}

#[test]
fn the_rotation_is_that_of_scipy() {
    for Rotated { from, degrees, to } in fixtures().rotations {
        let rotation = Geometry::Rotate { degrees };
        let [height, width] = from;
        // The training image is square: rows and columns are compared by zooming SciPy's result as well.
        for side in [height, width, 24] {
            let ours = rotation.label(&image(from), height, width, side);
            assert_eq!(
                ours,
                zoom_nearest(&to.pixels, height, width, side, side),
                "{from:?} by {degrees}°, side {side}"
            );
        }
    }
}

#[test]
fn turns_and_flips_are_those_of_numpy() {
    for Flipped { from, turns, axis, to } in fixtures().flips {
        let flip = Geometry::Flip { turns, axis };
        let [height, width] = to.shape;
        for side in [height, width, 24] {
            let ours = flip.label(&image(from), from[0], from[1], side);
            assert_eq!(
                ours,
                zoom_nearest(&to.pixels, height, width, side, side),
                "{from:?}, {turns} turns, axis {axis}"
            );
        }
    }
}

/// Any geometry.
fn geometries() -> impl Strategy<Value = Geometry> {
    prop_oneof![
        Just(Geometry::Identity),
        (0u8..4, 0u8..2).prop_map(|(turns, axis)| Geometry::Flip { turns, axis }),
        (-20i32..20).prop_map(|degrees| Geometry::Rotate { degrees }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_grid_points_at_what_the_image_shows(
        geometry in geometries(), height in 8usize..40, width in 8usize..40, side in 8usize..40
    ) {
        // The image's intensities are its own coordinates, so that what is shown says where it comes from.
        let rows: Vec<f32> = (0..height * width).map(|at| (at / width) as f32).collect();
        let columns: Vec<f32> = (0..height * width).map(|at| (at % width) as f32).collect();
        let ones = vec![1.0; height * width];
        let [shown_rows, shown_columns, inside] =
            [rows, columns, ones].map(|source| geometry.image(&source, height, width, side));
        let grid = geometry.grid(height, width, side);
        let to_native = |v: f32, n: usize| v * (n - 1) as f32 / (side - 1) as f32;
        // The zoom rounds by half a native pixel, the rotation by half a pixel more, in each direction.
        let slack = if matches!(geometry, Geometry::Rotate { .. }) { 1.25 } else { 0.5 + 1e-3 };
        for at in 0..side * side {
            let (y, x) = (grid[2 * at], grid[2 * at + 1]);
            if inside[at] == 0.0 {
                prop_assert_eq!((y, x), (-1.0, -1.0), "outside is outside in both");
                continue;
            }
            let last = (side - 1) as f32;
            prop_assert!((0.0..=last).contains(&y) && (0.0..=last).contains(&x), "({}, {}) is inside", y, x);
            let (off_y, off_x) = (to_native(y, height) - shown_rows[at], to_native(x, width) - shown_columns[at]);
            prop_assert!(off_y.abs() <= slack && off_x.abs() <= slack, "off by ({}, {}) pixels at {}", off_y, off_x, at);
        }
    }

    #[test]
    fn on_square_images_turns_and_flips_are_exact(turns in 0u8..4, axis in 0u8..2, size in 2usize..30) {
        let geometry = Geometry::Flip { turns, axis };
        let source = random_image(1, size * size);
        let shown = geometry.image(&source, size, size, size);
        let grid = geometry.grid(size, size, size);
        for (shown, from) in shown.iter().zip(grid.as_chunks::<2>().0) {
            prop_assert_eq!(*shown, source[from[0] as usize * size + from[1] as usize]);
        }
    }

    #[test]
    fn turns_and_flips_commute_with_the_zoom(
        turns in 0u8..4, axis in 0u8..2, height in 4usize..30, width in 4usize..30
    ) {
        // 31 is odd: no coordinate falls half-way between two pixels, where rounding is not symmetric.
        let side = 32;
        let geometry = Geometry::Flip { turns, axis };
        let source = random_image(2, height * width);
        let zoomed = zoom_nearest(&source, height, width, side, side);
        let shown = geometry.image(&source, height, width, side);
        let grid = geometry.grid(height, width, side);
        let equal = shown.iter().zip(grid.as_chunks::<2>().0);
        let equal = equal.filter(|(shown, from)| **shown == zoomed[from[0] as usize * side + from[1] as usize]).count();
        prop_assert_eq!(equal, side * side, "every pixel");
    }

    #[test]
    fn boxes_lie_inside_and_have_the_asked_size(seed in any::<u64>(), side in 16usize..300) {
        let area = CutMix::draw(&mut stream(seed, "box", 0), side, 1.0).expect("drawn with probability 1");
        prop_assert!(area.y + area.height <= side && area.x + area.width <= side);
        let share = (area.height * area.width) as f64 / (side * side) as f64;
        prop_assert!(share <= 0.4, "{} of the image", share);
        // Rounding down costs less than one row and one column.
        let most = ((area.height + 1) * (area.width + 1)) as f64 / (side * side) as f64;
        prop_assert!(most >= 0.02, "at most {} of the image", most);
    }

    #[test]
    fn strong_images_stay_in_range(seed in any::<u64>()) {
        let strong = Strong::draw(&mut stream(seed, "strong", 0), &settings());
        let mut image = random_image(seed, 24 * 24);
        strong.apply(&mut image, 24);
        // The kernel's taps add up to 1 but for rounding.
        prop_assert!(image.iter().all(|value| (-1e-6..=1.0 + 1e-6).contains(value)));
    }
}

#[test]
fn a_half_a_quarter_and_a_quarter_are_drawn() {
    let mut counts = [0; 3];
    let mut degrees = std::collections::BTreeSet::new();
    let mut flips = std::collections::BTreeSet::new();
    let mut rng = stream(5, "weak", 0);
    for _ in 0..8_000 {
        match Geometry::draw(&mut rng, &settings()) {
            Geometry::Flip { turns, axis } => {
                counts[0] += 1;
                flips.insert((turns, axis));
            }
            Geometry::Rotate { degrees: drawn } => {
                counts[1] += 1;
                degrees.insert(drawn);
            }
            Geometry::Identity => counts[2] += 1,
        }
    }
    for (count, expected) in counts.into_iter().zip([4_000i32, 2_000, 2_000]) {
        assert!((count - expected).abs() < 200, "{counts:?}");
    }
    assert_eq!(flips.len(), 8, "four turns with two flips");
    assert!(degrees.iter().copied().eq(-20..20), "−20° to 19°: {degrees:?}");
}

#[test]
fn both_is_image_and_label() {
    let (height, width) = (11, 9);
    let source = random_image(3, height * width);
    let label = image([height, width]);
    for geometry in
        [Geometry::identity(), Geometry::Flip { turns: 1, axis: 0 }, Geometry::Rotate { degrees: 12 }]
    {
        let both = geometry.both(&source, &label, height, width, 16);
        assert_eq!(both.0, geometry.image(&source, height, width, 16), "{geometry:?}: the image");
        assert_eq!(both.1, geometry.label(&label, height, width, 16), "{geometry:?}: the label");
    }
}

#[test]
fn a_single_pixel_can_be_zoomed_both_ways() {
    assert_eq!(zoom_nearest(&[7u8], 1, 1, 3, 2), [7; 6], "up");
    assert_eq!(zoom_nearest(&[1u8, 2, 3, 4], 2, 2, 1, 1), [1], "down to the first");
    assert_eq!(Geometry::Rotate { degrees: 5 }.grid(1, 1, 1), [0.0, 0.0], "its grid");
}

#[test]
fn quantised_images_have_256_levels() {
    let mut levels = random_image(4, 1_000);
    let before = levels.clone();
    quantise(&mut levels);
    for (value, before) in levels.iter().zip(&before) {
        assert!((value - before).abs() <= 0.5 / 255.0 + 1e-6, "{before} became {value}");
        assert!((value * 255.0 - (value * 255.0).round()).abs() < 1e-4, "{value} is a level");
    }
}

/// A jitter alone.
fn jitter(brightness: f32, contrast: f32) -> Strong {
    Strong::fixed(Some((brightness, contrast, true)), None)
}

#[test]
fn brightness_scales_and_contrast_scales_about_the_rounded_mean() {
    let levels = [0.0, 51.0, 102.0, 153.0].map(|level: f32| level / 255.0);
    let mut image = levels;
    jitter(1.5, 1.0).apply(&mut image, 2);
    for (value, level) in image.iter().zip([0.0, 76.5, 153.0, 229.5]) {
        assert!((value * 255.0 - level).abs() < 1e-3, "{value} is 1.5 times as bright");
    }
    let mut image = levels;
    jitter(1.0, 0.5).apply(&mut image, 2);
    // The mean is 76.5, rounded to 77.
    for (value, level) in image.iter().zip([38.5, 64.0, 89.5, 115.0]) {
        assert!((value * 255.0 - level).abs() < 1e-3, "{value} has half the contrast");
    }
}

#[test]
fn the_blur_is_a_gaussian_with_repeated_edges() {
    let (side, sigma) = (19, 1.3f32);
    let mut image = random_image(6, side * side);
    quantise(&mut image);
    let source = image.clone();
    Strong::fixed(None, Some(sigma)).apply(&mut image, side);
    let weight = |k: isize| (-0.5 * (k as f64 / f64::from(sigma)).powi(2)).exp();
    let reach = 4;
    let sum: f64 = (-reach..=reach).map(weight).sum();
    let last = side as isize - 1;
    for (at, value) in image.iter().enumerate() {
        let (y, x) = ((at / side) as isize, (at % side) as isize);
        let mut expected = 0.0;
        for dy in -reach..=reach {
            for dx in -reach..=reach {
                let from = (y + dy).clamp(0, last) * side as isize + (x + dx).clamp(0, last);
                expected += weight(dy) * weight(dx) * f64::from(source[from as usize]);
            }
        }
        expected /= sum * sum;
        assert!((f64::from(*value) - expected).abs() < 1e-5, "pixel {at}: {value} instead of {expected}");
    }
}

#[test]
fn jitter_and_blur_come_as_often_as_asked() {
    let mut rng = stream(8, "strong", 0);
    let drawn: Vec<Strong> = (0..4_000).map(|_| Strong::draw(&mut rng, &settings())).collect();
    let jitters = drawn.iter().filter(|strong| strong.has_jitter()).count() as f64 / 4_000.0;
    let blurs = drawn.iter().filter(|strong| strong.has_blur()).count() as f64 / 4_000.0;
    assert!((jitters - 0.8).abs() < 0.03, "{jitters} have jitter");
    assert!((blurs - 0.5).abs() < 0.03, "{blurs} have blur");
    let never = AugmentSettings { flip: 0.0, rotate: 0.0, jitter: 0.0, blur: 0.0, cutmix: 0.0 };
    let none = Strong::draw(&mut rng, &never);
    assert!(!none.has_jitter() && !none.has_blur(), "never with probability 0");
    assert_eq!(Geometry::draw(&mut rng, &never), Geometry::Identity, "no geometry with probability 0");
    assert_eq!(CutMix::draw(&mut rng, 32, 0.0), None, "no box with probability 0");
}

#[test]
fn only_the_box_is_pasted_into_every_plane() {
    let side = 8;
    let area = CutMix { y: 2, x: 3, height: 4, width: 2 };
    let mut target = vec![0u8; 2 * side * side];
    area.apply(&mut target, &vec![1u8; 2 * side * side], side);
    for (at, &value) in target.iter().enumerate() {
        let (y, x) = (at / side % side, at % side);
        let inside = (2..6).contains(&y) && (3..5).contains(&x);
        assert_eq!(value == 1, inside, "row {y}, column {x}");
    }
}
