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
    AugmentSettings { flip: 0.5, rotate: 0.5, jitter: 0.8, blur: 0.5, cutmix: 0.5, quantise: true }
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
    let never =
        AugmentSettings { flip: 0.0, rotate: 0.0, jitter: 0.0, blur: 0.0, cutmix: 0.0, quantise: false };
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

#[test]
fn a_workspace_remembers_nothing() {
    let mut workspace = Workspace::default();
    let mut rng = stream(9, "workspace", 0);
    for round in 0..40 {
        let (height, width, side) =
            (rng.random_range(8..40), rng.random_range(8..40), rng.random_range(8..40));
        let source = random_image(round, height * width);
        let geometry = Geometry::draw(&mut rng, &settings());
        let mut image = vec![7.0; side * side];
        geometry.write(&source, [height, width], &mut image, side, &mut workspace);
        assert_eq!(image, geometry.image(&source, height, width, side), "{geometry:?}");
        let mut grid = vec![7.0; 2 * side * side];
        geometry.grid_into([height, width], &mut grid, side, &mut workspace);
        assert_eq!(grid, geometry.grid(height, width, side), "{geometry:?}");
        let strong = Strong::draw(&mut rng, &settings());
        let mut other = image.clone();
        strong.apply(&mut other, side);
        quantise(&mut image);
        strong.apply_quantised(&mut image, side, &mut workspace);
        assert_eq!(image, other, "{strong:?}");
    }
}

#[test]
fn a_rotated_pixel_is_found_as_one_alone_would_be() {
    for (degrees, height, width) in [(-20, 21, 30), (7, 30, 21), (19, 16, 16), (-1, 5, 40)] {
        let source: Vec<u32> = (1..=(height * width) as u32).collect();
        let mut found = vec![0; 24 * 24];
        let geometry = Geometry::Rotate { degrees };
        geometry.write(&source, [height, width], &mut found, 24, &mut Workspace::default());
        let (sin, cos) = f64::from(degrees).to_radians().sin_cos();
        let middle = [(height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0];
        let offset = [
            middle[0] - (cos * middle[0] + sin * middle[1]),
            middle[1] - (-sin * middle[0] + cos * middle[1]),
        ];
        let mut expected = Vec::new();
        for row in zoom_indices(height, 24) {
            for column in zoom_indices(width, 24) {
                let (r, c) = (row as f64, column as f64);
                let (y, x) = (offset[0] + cos * r + sin * c, offset[1] - sin * r + cos * c);
                let inside =
                    (0.0..=height as f64 - 1.0).contains(&y) && (0.0..=width as f64 - 1.0).contains(&x);
                let index = (y + 0.5).floor() as usize * width + (x + 0.5).floor() as usize;
                expected.push(if inside { source[index] } else { 0 });
            }
        }
        assert_eq!(found, expected, "{height}×{width} by {degrees}°");
    }
}

#[test]
fn quantising_rounds_as_the_standard_library_and_twice_is_once() {
    let mut values = random_image(10, 20_000);
    // Halves, levels, and what is next to them; what no image holds as well.
    for level in 0..=255u8 {
        for scaled in [f32::from(level), f32::from(level) + 0.5] {
            values.extend([scaled / 255.0, (scaled / 255.0).next_up(), (scaled / 255.0).next_down()]);
        }
    }
    values.extend(values.clone().iter().map(|value| -value));
    values.extend([3e4, 3e5, -1e9, f32::MAX, 0.0]);
    let expected: Vec<f32> = values.iter().map(|value| (255.0 * value).round() / 255.0).collect();
    quantise(&mut values);
    assert_eq!(values, expected);
    quantise(&mut values);
    assert_eq!(values, expected, "levels stay");
}

#[test]
fn the_blur_sums_in_one_order_whatever_the_width() {
    let sizes = [(9, 1), (9, 7), (9, 16), (9, 37), (9, 64), (9, 65), (3, 128), (2, 200)];
    for ((height, width), sigma) in sizes.into_iter().zip([2.0, 0.4, 1.0, 2.0, 0.1, 2.0, 1.7, 2.0]) {
        let taps = gaussian(sigma);
        let mut image = random_image(11, height * width);
        let at = |image: &[f32], y: isize, x: isize| {
            let (y, x) = (y.clamp(0, height as isize - 1), x.clamp(0, width as isize - 1));
            image[y as usize * width + x as usize]
        };
        let pixels = |f: &dyn Fn(isize, isize) -> f32| -> Vec<f32> {
            let place = |i: usize| ((i / width) as isize, (i % width) as isize);
            (0..height * width).map(|i| f(place(i).0, place(i).1)).collect()
        };
        let rows = pixels(&|y, x| {
            let side = |k: usize| taps[k] * (at(&image, y, x - k as isize) + at(&image, y, x + k as isize));
            taps[0] * at(&image, y, x) + (1..taps.len()).map(side).sum::<f32>()
        });
        let both = pixels(&|y, x| {
            let side = |k: usize| taps[k] * (at(&rows, y - k as isize, x) + at(&rows, y + k as isize, x));
            (1..taps.len()).fold(taps[0] * at(&rows, y, x), |sum, k| sum + side(k))
        });
        convolve(&mut image, height, width, &taps);
        assert_eq!(image, both, "{height}×{width}, sigma {sigma}");
    }
}

#[test]
fn a_filled_box_is_one_pasted_from_ones() {
    let area = CutMix { y: 2, x: 3, height: 4, width: 2 };
    let (mut pasted, mut filled) = (vec![0u8; 2 * 64], vec![0u8; 2 * 64]);
    area.apply(&mut pasted, &[1; 2 * 64], 8);
    area.fill(&mut filled, 1, 8);
    assert_eq!(filled, pasted);
}

#[test]
fn contrast_is_about_the_mean_summed_one_by_one() {
    for round in 0..50 {
        let mut rng = stream(12, "mean", round);
        let mut image = random_image(round, 100 * 103);
        quantise(&mut image);
        let (brightness, contrast) = (rng.random_range(0.5..1.5f32), rng.random_range(0.5..1.5f32));
        for brightness_first in [true, false] {
            let scale = |image: &mut Vec<f32>, mean: f32, factor: f32| {
                for v in image {
                    *v = (mean + factor * (*v - mean)).clamp(0.0, 1.0);
                }
            };
            let mut expected = image.clone();
            if brightness_first {
                scale(&mut expected, 0.0, brightness);
            }
            let mean = expected.iter().map(|&v| f64::from(v)).sum::<f64>() / expected.len() as f64;
            scale(&mut expected, (255.0 * mean + 0.5).floor() as f32 / 255.0, contrast);
            if !brightness_first {
                scale(&mut expected, 0.0, brightness);
            }
            let mut found = image.clone();
            Strong::fixed(Some((brightness, contrast, brightness_first)), None).apply(&mut found, 100);
            assert_eq!(found, expected, "brightness {brightness}, contrast {contrast}");
        }
    }
}
