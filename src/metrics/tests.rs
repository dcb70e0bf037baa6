use proptest::prelude::*;
use rand::Rng;
use serde::Deserialize;

use super::*;
use crate::rng::stream;

#[derive(Deserialize)]
struct Golden {
    shape: [usize; 3],
    flat: bool,
    spacing: [f64; 3],
    pred: Vec<usize>,
    label: Vec<usize>,
    /// Per class 1, 2, 3: Dice, Jaccard, 95HD, ASD, the larger directed 95HD, the symmetric ASD; distances absent where
    /// MedPy raises.
    medpy: [Option<Expected>; 3],
}

/// Two overlaps, four distances.
type Expected = (f64, f64, Option<f64>, Option<f64>, Option<f64>, Option<f64>);

fn unpack(runs: &[usize]) -> Vec<u8> {
    runs.chunks_exact(2).flat_map(|run| std::iter::repeat_n(run[0] as u8, run[1])).collect()
}

#[test]
fn equals_medpy_on_generated_masks() {
    let golden: Vec<Golden> =
        serde_json::from_str(include_str!("../../tests/fixtures/metrics/medpy.json")).expect("valid fixture");
    let (mut compared, mut flat, mut edges, mut empty, mut worst) = (0, 0, 0, 0, 0.0_f64);
    for (index, case) in golden.iter().enumerate() {
        let (pred, label) = (unpack(&case.pred), unpack(&case.label));
        for class in 1..=3 {
            let masks = Masks { pred: &pred, label: &label, shape: case.shape, class, flat: case.flat };
            let got = if case.flat {
                let ([_, height, width], [_, y, x]) = (case.shape, case.spacing);
                slice_metrics(&pred, &label, [height, width], class, [y, x], EmptyDistance::Zero)
            } else {
                case_metrics(&pred, &label, case.shape, class, case.spacing, EmptyDistance::Zero)
            };
            let Some((dice, jaccard, hd95, asd, most, assd)) = case.medpy[usize::from(class) - 1] else {
                assert!(got.empty_prediction && got.empty_label, "pair {index} class {class} is empty");
                assert_eq!((got.dice, got.jaccard), (1.0, 1.0), "nothing found where nothing is");
                empty += 1;
                continue;
            };
            assert_eq!(hd95.is_none(), got.empty_prediction || got.empty_label, "pair {index} class {class}");
            let [_, _, our_most, our_assd] = masks.distances(case.spacing, EmptyDistance::Zero);
            let expected =
                [Some(dice), Some(jaccard), hd95, asd, most, assd].map(|value| value.unwrap_or(0.0));
            for (ours, theirs) in
                [got.dice, got.jaccard, got.hd95, got.asd, our_most, our_assd].into_iter().zip(expected)
            {
                worst = worst.max((ours - theirs).abs());
            }
            assert!(worst < 1e-9, "pair {index} class {class}: {got:?} against {expected:?}");
            compared += 1;
            flat += u32::from(case.flat);
            empty += u32::from(hd95.is_none());
            let width = case.shape[2];
            let at_edge = |map: &[u8]| map.iter().step_by(width).any(|&voxel| voxel == class);
            edges += u32::from(at_edge(&pred) || at_edge(&label));
        }
    }
    assert!(compared >= 500, "only {compared} pairs of masks compared");
    assert!(flat > 100 && edges > 100 && empty > 20, "{flat} flat, {edges} at an edge, {empty} empty");
    println!("{compared} pairs of masks, worst difference to MedPy {worst:e}");
}

#[test]
fn variants_are_the_headline_by_other_rules() {
    // Two bars in a volume of thick slices: the prediction lies a row beside the label and reaches a slice further.
    let shape = [4, 6, 5];
    let bar = |y: usize, depth: usize| -> Vec<u8> {
        (0..120).map(|i| u8::from(i / 5 % 6 == y && i / 30 < depth)).collect()
    };
    let (pred, label) = (bar(2, 3), bar(1, 2));
    let spacing = [8.0, 1.5, 1.5];
    let headline = case_metrics(&pred, &label, shape, 1, UNIT, EmptyDistance::Zero);
    let got = variants(&pred, &label, shape, 1, Some(spacing), EmptyDistance::Zero);
    let mm = got.mm.expect("a spacing");
    // From the prediction 10 voxels at distance 1 and 5 at √2; from the label 10 at 1.
    let far = 2.0_f64.sqrt();
    assert!(close(headline.asd, (10.0 + 5.0 * far) / 15.0) && close(headline.hd95, far));
    assert!(close(got.hd95_max, far) && close(got.assd, (20.0 + 5.0 * far) / 25.0));
    let far = 8.0_f64.hypot(1.5);
    assert!(close(mm.asd_mm, (15.0 + 5.0 * far) / 15.0) && close(mm.hd95_max_mm, far));
    assert!(close(mm.assd_mm, (30.0 + 5.0 * far) / 25.0) && close(mm.hd95_mm, far));
    assert!(
        close(got.diagonal, 77.0_f64.sqrt())
            && close(mm.diagonal_mm, (32.0_f64.powi(2) + 81.0 + 56.25).sqrt())
    );
    // Without a spacing nothing is said in mm; the JSON has no nulls.
    let unknown = variants(&pred, &label, shape, 1, None, EmptyDistance::Zero);
    assert_eq!(serde_json::to_value(unknown).expect("JSON").as_object().map(serde_json::Map::len), Some(3));
    assert_eq!(serde_json::to_value(got).expect("JSON").as_object().map(serde_json::Map::len), Some(8));
    let none = vec![0; 120];
    let missed = variants(&none, &label, shape, 1, Some(spacing), EmptyDistance::Diagonal);
    assert_eq!((missed.assd, missed.hd95_max), (missed.diagonal, missed.diagonal));
    assert_eq!(missed.mm.map(|mm| mm.hd95_mm), missed.mm.map(|mm| mm.diagonal_mm));
}

#[test]
fn empty_masks_follow_the_table() {
    let (none, some) = (vec![0; 24], vec![1; 24]);
    let shape = [2, 3, 4];
    let diagonal = (4.0_f64 + 9.0 + 16.0).sqrt();
    for (pred, label, empty, overlap, distance) in [
        (&none, &none, EmptyDistance::Zero, 1.0, 0.0),
        (&none, &none, EmptyDistance::Diagonal, 1.0, 0.0),
        (&none, &some, EmptyDistance::Zero, 0.0, 0.0),
        (&none, &some, EmptyDistance::Diagonal, 0.0, diagonal),
        (&some, &none, EmptyDistance::Zero, 0.0, 0.0),
        (&some, &none, EmptyDistance::Diagonal, 0.0, diagonal),
        (&some, &some, EmptyDistance::Diagonal, 1.0, 0.0),
    ] {
        let got = case_metrics(pred, label, shape, 1, UNIT, empty);
        assert_eq!((got.dice, got.jaccard), (overlap, overlap));
        assert_eq!((got.hd95, got.asd), (distance, distance));
        assert_eq!((got.empty_prediction, got.empty_label), (pred == &none, label == &none));
        assert_eq!(
            got.voxels_prediction + got.voxels_label,
            pred.iter().chain(label).filter(|&&v| v == 1).count()
        );
    }
}

#[test]
fn percentile_is_numpys() {
    // numpy.percentile([0, 1, 4, 9, 16, 25], [95, 50, 10, 100])
    let values = [25.0, 4.0, 0.0, 16.0, 1.0, 9.0];
    for (q, expected) in [(0.95, 22.75), (0.5, 6.5), (0.1, 0.5), (1.0, 25.0), (0.0, 0.0)] {
        let got = quantile(&mut values.clone(), q);
        assert!((got - expected).abs() < 1e-12, "quantile {q}: {got}");
    }
    assert_eq!(quantile(&mut [3.0], 0.95), 3.0);
}

/// Two random label maps of values 0–2 and their shape.
fn maps() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, [usize; 3])> {
    (1..5_usize, 1..6_usize, 1..6_usize, 1..9_u32).prop_flat_map(|(z, y, x, zeros)| {
        let map = || {
            let voxel = prop_oneof![zeros => Just(0_u8), 2 => Just(1_u8), 1 => Just(2_u8)];
            prop::collection::vec(voxel, z * y * x)
        };
        (map(), map(), Just([z, y, x]))
    })
}

/// The distances by their definition, from all pairs of border voxels.
fn brute_force(pred: &[u8], label: &[u8], shape: [usize; 3], spacing: [f64; 3]) -> (f64, f64) {
    let inside = |map: &[u8], v: [i64; 3]| {
        let within = (0..3).all(|axis| v[axis] >= 0 && v[axis] < shape[axis] as i64);
        within && map[((v[0] as usize * shape[1]) + v[1] as usize) * shape[2] + v[2] as usize] == 1
    };
    let border = |map: &[u8]| {
        let mut voxels = Vec::new();
        for z in 0..shape[0] as i64 {
            for y in 0..shape[1] as i64 {
                for x in 0..shape[2] as i64 {
                    let cross = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]];
                    let eroded = cross.iter().all(|d| inside(map, [z + d[0], y + d[1], x + d[2]]));
                    if inside(map, [z, y, x]) && !eroded {
                        voxels.push([z, y, x]);
                    }
                }
            }
        }
        voxels
    };
    let nearest = |from: &[[i64; 3]], to: &[[i64; 3]]| -> Vec<f64> {
        let square = |a: &[i64; 3], b: &[i64; 3]| -> f64 {
            (0..3).map(|axis| ((a[axis] - b[axis]) as f64 * spacing[axis]).powi(2)).sum()
        };
        from.iter().map(|a| to.iter().map(|b| square(a, b)).fold(f64::INFINITY, f64::min).sqrt()).collect()
    };
    let (p, l) = (border(pred), border(label));
    let mut all = nearest(&p, &l);
    let asd = all.iter().sum::<f64>() / all.len() as f64;
    all.extend(nearest(&l, &p));
    all.sort_by(f64::total_cmp);
    let position = 0.95 * (all.len() - 1) as f64;
    let (low, high) = (all[position.floor() as usize], all[position.ceil() as usize]);
    (low + (high - low) * position.fract(), asd)
}

/// Moves axis `order[i]` of a map to place i.
fn permuted(map: &[u8], shape: [usize; 3], order: [usize; 3]) -> Vec<u8> {
    let new = order.map(|axis| shape[axis]);
    let stride = [shape[1] * shape[2], shape[2], 1];
    let mut out = Vec::with_capacity(map.len());
    for i in 0..new[0] {
        for j in 0..new[1] {
            for k in 0..new[2] {
                out.push(map[i * stride[order[0]] + j * stride[order[1]] + k * stride[order[2]]]);
            }
        }
    }
    out
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn identity_is_perfect((map, _, shape) in maps()) {
        let got = case_metrics(&map, &map, shape, 1, UNIT, EmptyDistance::Diagonal);
        prop_assert_eq!((got.dice, got.jaccard, got.hd95, got.asd), (1.0, 1.0, 0.0, 0.0));
    }

    #[test]
    fn equals_brute_force((pred, label, shape) in maps(), spacing in prop::array::uniform3(0.3..4.0_f64)) {
        let got = case_metrics(&pred, &label, shape, 1, spacing, EmptyDistance::Zero);
        prop_assume!(!got.empty_prediction && !got.empty_label);
        let (hd95, asd) = brute_force(&pred, &label, shape, spacing);
        prop_assert!(close(got.hd95, hd95) && close(got.asd, asd), "{:?} against {} {}", got, hd95, asd);
    }

    #[test]
    fn pooled_metrics_are_symmetric((pred, label, shape) in maps()) {
        let there = case_metrics(&pred, &label, shape, 1, UNIT, EmptyDistance::Diagonal);
        let back = case_metrics(&label, &pred, shape, 1, UNIT, EmptyDistance::Diagonal);
        prop_assert_eq!((there.dice, there.jaccard, there.hd95), (back.dice, back.jaccard, back.hd95));
        prop_assert!(close(there.jaccard, there.dice / (2.0 - there.dice)));
    }

    #[test]
    fn axes_may_be_permuted((pred, label, shape) in maps(), spacing in prop::array::uniform3(0.3..4.0_f64)) {
        let first = case_metrics(&pred, &label, shape, 1, spacing, EmptyDistance::Diagonal);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (p, l) = (permuted(&pred, shape, order), permuted(&label, shape, order));
            let turned = (order.map(|axis| shape[axis]), order.map(|axis| spacing[axis]));
            let got = case_metrics(&p, &l, turned.0, 1, turned.1, EmptyDistance::Diagonal);
            prop_assert!(close(got.hd95, first.hd95) && close(got.asd, first.asd), "{:?}: {:?}", order, got);
            prop_assert_eq!(got.dice, first.dice);
        }
    }

    #[test]
    fn distances_scale_with_the_spacing((pred, label, shape) in maps(), scale in 1..9_u32) {
        let first = case_metrics(&pred, &label, shape, 1, UNIT, EmptyDistance::Diagonal);
        let scaled = case_metrics(&pred, &label, shape, 1, [f64::from(scale); 3], EmptyDistance::Diagonal);
        prop_assert!(close(scaled.hd95, first.hd95 * f64::from(scale)));
        prop_assert!(close(scaled.asd, first.asd * f64::from(scale)));
    }
}

#[test]
fn voxels_far_from_both_masks_change_nothing() {
    // The same masks in a larger volume (not at its edge in either): the box of the borders is what is searched.
    let mut rng = stream(3, "metrics test", 0);
    let small: Vec<(u8, u8)> = (0..125).map(|_| (rng.random_range(0..2), rng.random_range(0..2))).collect();
    let place = |side: usize, offset: usize| {
        let (mut pred, mut label) = (vec![0; side.pow(3)], vec![0; side.pow(3)]);
        for (i, &(p, l)) in small.iter().enumerate() {
            let (z, y, x) = (i / 25 + offset, i / 5 % 5 + offset, i % 5 + offset);
            (pred[(z * side + y) * side + x], label[(z * side + y) * side + x]) = (p, l);
        }
        case_metrics(&pred, &label, [side; 3], 1, UNIT, EmptyDistance::Zero)
    };
    assert_eq!(place(7, 1), place(30, 17));
}

/// Timing of one volume, three classes; `python scripts/fixtures_metrics.py --time` is MedPy's on the same pair.
#[test]
fn time_one_volume() {
    let shape = [10, 256, 216];
    let rings = |cy: f64, cx: f64| -> Vec<u8> {
        let voxel = |i: usize| {
            let (z, y, x) = (i / (256 * 216), (i / 216) % 256, i % 216);
            let (z, y, x) = (z as f64, y as f64, x as f64);
            let r = (y - cy).hypot(x - cx) + z;
            match () {
                () if r < 26.0 => 3,
                () if r < 40.0 => 2,
                () if (y - cy).hypot(x - cx + 38.0) + z < 36.0 => 1,
                () => 0,
            }
        };
        (0..shape.iter().product()).map(voxel).collect()
    };
    let (pred, label) = (rings(124.0, 112.0), rings(120.0, 110.0));
    let start = std::time::Instant::now();
    let metrics = [1, 2, 3].map(|class| case_metrics(&pred, &label, shape, class, UNIT, EmptyDistance::Zero));
    println!("{:.4} s for three classes", start.elapsed().as_secs_f64());
    // Printed by the script.
    let expected = [
        (0.868_778_280_542_986_4, 3.0, 0.670_785_007_676_287_9),
        (0.796_837_565_884_041_4, 3.0, 0.915_172_762_606_324_2),
        (0.869_072_024_053_573_9, 3.0, 0.673_101_818_726_498_3),
    ];
    for (got, (dice, hd95, asd)) in metrics.iter().zip(expected) {
        assert!(close(got.dice, dice) && close(got.hd95, hd95) && close(got.asd, asd), "{got:?}");
    }
}

/// What `scripts/fixtures_metrics.py --time` runs in turn with MedPy, on the pair of maps that it names.
#[test]
#[ignore = "needs a pair of label maps"]
fn time_given_volume() {
    let maps =
        std::fs::read(std::env::var("SWEEP_METRICS_PAIR").expect("SWEEP_METRICS_PAIR")).expect("the maps");
    let shape = std::env::var("SWEEP_METRICS_SHAPE").expect("SWEEP_METRICS_SHAPE");
    let sizes: Vec<usize> =
        shape.trim_matches(['(', ')']).split(',').map(|n| n.trim().parse().expect("a size")).collect();
    let shape: [usize; 3] = sizes.try_into().expect("three sizes");
    let (pred, label) = maps.split_at(maps.len() / 2);
    let run = || [1, 2, 3].map(|class| case_metrics(pred, label, shape, class, UNIT, EmptyDistance::Zero));
    run();
    let start = std::time::Instant::now();
    let metrics = run();
    println!("{} s for three classes", start.elapsed().as_secs_f64());
    let numbers = metrics.map(|m| [m.dice, m.jaccard, m.hd95, m.asd]);
    println!("metrics {}", serde_json::to_string(&numbers).expect("JSON"));
}
