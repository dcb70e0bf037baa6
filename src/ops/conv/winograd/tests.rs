//! Every level against unfolding, for maps of all sizes; the same bits for any number of threads.

use super::super::unfold;
use super::*;
use crate::ops::simd;

fn numbers(len: usize, salt: u32) -> Vec<f32> {
    let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(salt).wrapping_mul(0x9E37_79B1);
    (0..len).map(|i| (hash(i) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn close(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}: as many numbers");
    let size = b.iter().fold(0.0f32, |m, b| m.max(b.abs()));
    let error = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(error < 6e-6 * size, "{what}: off by {error} of {size}");
}

#[test]
fn every_level_agrees_with_unfolding() {
    for (batch, i, o, h, w) in [
        (1, 8, 8, 1, 1),
        (2, 9, 20, 7, 9),
        (3, 8, 9, 40, 300),
        (2, 16, 48, 70, 63),
        (1, 40, 12, 33, 128),
        (5, 130, 72, 4, 4),
        (9, 30, 20, 2, 2),
        // Many weights: matrix by matrix.
        (4, 160, 170, 6, 5),
        (1, 200, 160, 8, 8),
    ] {
        let s = Shape { batch, input: (i, h, w), output: (o, h, w), kernel: 3, stride: 1, padding: 1 };
        assert!(serves(&s), "{i} to {o} channels");
        let x = numbers(batch * i * h * w, 1);
        let g = numbers(batch * o * h * w, 2);
        let weight = numbers(o * i * 9, 3);
        let bias = numbers(o, 4);
        let y = unfold::forward(&s, &x, &weight, Some(&bias));
        let dw = unfold::backward_weights(&s, &x, &g);
        let dx = unfold::backward_data(&s, &weight, &g);
        let threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let y = pool.install(|| forward(&s, &x, &weight, Some(&bias), 0.5));
            (y, pool.install(|| (backward_weights(&s, &x, &g), backward_data(&s, &weight, &g))))
        };
        let one = threads(1);
        assert!(
            one == threads(2) && one == threads(5),
            "{batch}×{i}→{o} at {h}×{w}: bits differ with threads"
        );
        for level in simd::available() {
            let case = format!("{level:?}, {batch}×{i}→{o} at {h}×{w}");
            close(&format!("y, {case}"), &forward_at(level, &s, &x, &weight, Some(&bias), 1.0), &y);
            let leaky: Vec<f32> = y.iter().map(|y| if *y > 0.0 { *y } else { y * 0.25 }).collect();
            let found = forward_at(level, &s, &x, &weight, Some(&bias), 0.25);
            close(&format!("leaky y, {case}"), &found, &leaky);
            close(&format!("dw, {case}"), &backward_weights_at(level, &s, &x, &g), &dw);
            close(&format!("dx, {case}"), &backward_data_at(level, &s, &weight, &g), &dx);
        }
    }
}
