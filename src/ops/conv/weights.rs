//! The weights' side of Winograd's convolution: U = G·w·Gᵀ and its transpose.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

use rayon::prelude::*;

use super::product::{COLUMNS, PANEL};
use super::tiles::by_level;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Plain, Vector};
use crate::ops::buffer::{Shared, uninit};
use crate::ops::simd::Level;

/// Weights [first][second][3][3] as the convolution that multiplies `rows` (inputs) with `columns` (outputs).
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    /// The sizes of the two axes.
    pub(super) axes: (usize, usize),
    /// Whether the second axis are the columns and the nine taps are turned by 180°: the gradient of the input.
    pub(super) turned: bool,
}

/// Vectors are no longer than this.
const LONGEST: usize = 16;

impl Weights<'_> {
    /// Sixteen matrices, each of panels [row][up to 32 columns], padded with zeros to whole vectors.
    pub(super) fn transformed(&self, level: Level) -> Vec<f32> {
        let (first, second) = (self.axes.0.next_multiple_of(COLUMNS), self.axes.1.next_multiple_of(COLUMNS));
        let mut u = uninit(16 * first * second);
        let out = Shared::new(&mut u);
        assert!(self.values.len() >= self.axes.0 * self.axes.1 * 9, "nine weights for each pair");
        let blocks = second / COLUMNS;
        (0..first / COLUMNS * blocks).into_par_iter().with_min_len(4).for_each(|task| {
            // SAFETY: each task has rows and columns of its own.
            unsafe { spread(level, *self, (task / blocks * COLUMNS, task % blocks * COLUMNS), out) };
        });
        u
    }
}

by_level! {
    /// The transformed weights of sixteen times sixteen channels from `at` on.
    ///
    /// # Safety
    /// `out` holds all matrices, and nobody else uses these rows and columns; the machine has the level's instructions.
    spread = spread_with(weights: Weights<'_>, at: (usize, usize), out: Shared)
}

#[inline(always)]
unsafe fn spread_with<T: Vector>(weights: Weights<'_>, at: (usize, usize), out: Shared) {
    for a in (at.0..at.0 + COLUMNS).step_by(T::LANES) {
        for b in (at.1..at.1 + COLUMNS).step_by(T::LANES) {
            // SAFETY: the caller's promise.
            unsafe { spread_block::<T>(weights, (a, b), out) };
        }
    }
}

/// One square of `LANES`² pairs.
#[inline(always)]
unsafe fn spread_block<T: Vector>(weights: Weights<'_>, (a, b): (usize, usize), out: Shared) {
    let (first, second) = weights.axes;
    let (rows, columns) = if weights.turned { (first, second) } else { (second, first) };
    let (rows, columns) = (rows.next_multiple_of(COLUMNS), columns.next_multiple_of(COLUMNS));
    let zeros = [0.0f32; 9 * LONGEST];
    let mut copies = [[0.0f32; 9 * LONGEST]; LONGEST];
    let mut taps = [[0.0f32; LONGEST]; 9 * LONGEST];
    let mut results = [[[0.0f32; LONGEST]; LONGEST]; 16];
    // SAFETY: whole lines of weights are read where they exist, copies elsewhere; the rest is the caller's promise.
    unsafe {
        let mut lines = [zeros.as_ptr(); LONGEST];
        for (lane, line) in lines.iter_mut().enumerate().take(T::LANES) {
            let exist = if a + lane < first { second.saturating_sub(b).min(T::LANES) } else { 0 };
            if exist == T::LANES {
                *line = weights.values.as_ptr().add(((a + lane) * second + b) * 9);
            } else if exist > 0 {
                let from = ((a + lane) * second + b) * 9;
                copies[lane][..9 * exist].copy_from_slice(&weights.values[from..from + 9 * exist]);
                *line = copies[lane].as_ptr();
            }
        }
        for part in (0..9 * T::LANES).step_by(T::LANES) {
            let to = taps.as_mut_ptr().add(part).cast::<f32>();
            T::transpose(|lane| lines[lane].add(part), |i| to.add(i * LONGEST));
        }
        for i in 0..T::LANES {
            let tap = |tap: usize| {
                let tap = if weights.turned { 8 - tap } else { tap };
                T::load(taps[9 * i + tap].as_ptr())
            };
            let mut half = [[T::splat(0.0); 3]; 4];
            for j in 0..3 {
                let column = thirds([tap(j), tap(3 + j), tap(6 + j)]);
                for (half, value) in half.iter_mut().zip(column) {
                    half[j] = value;
                }
            }
            for (k, half) in half.into_iter().enumerate() {
                for (j, value) in thirds(half).into_iter().enumerate() {
                    value.store(results[4 * k + j][i].as_mut_ptr());
                }
            }
        }
        let (row, column) = if weights.turned { (a, b) } else { (b, a) };
        let panel = column / PANEL * PANEL;
        let width = PANEL.min(columns - panel);
        for (matrix, result) in results.iter().enumerate() {
            let to = out.at(matrix * rows * columns + panel * rows + row * width + column - panel);
            if weights.turned {
                T::transpose(|i| result[i].as_ptr(), |lane| to.add(lane * width));
            } else {
                for (i, result) in result.iter().enumerate().take(T::LANES) {
                    T::load(result.as_ptr()).store(to.add(i * width));
                }
            }
        }
    }
}

/// G of one column or row.
#[inline(always)]
unsafe fn thirds<T: Vector>([a, b, c]: [T; 3]) -> [T; 4] {
    // SAFETY: the caller's promise of the instructions.
    unsafe {
        let zero = T::splat(0.0);
        let half = T::splat(0.5);
        let (outer, middle) = (zero.add_product(a.plus(c), half), zero.add_product(b, half));
        [a, outer.plus(middle), outer.minus(middle), c]
    }
}

/// dw [o][c][3][3] = Gᵀ·dU·G, where dU are the sums over `parts` of sixteen matrices [output][input] each, with
/// `pitch` numbers a row and `matrix` numbers a matrix.
pub(super) fn gradient(
    level: Level,
    parts: &[Vec<f32>],
    (inputs, outputs): (usize, usize),
    pitch: usize,
    matrix: usize,
) -> Vec<f32> {
    assert!(
        parts.iter().all(|part| part.len() >= 16 * matrix) && matrix >= outputs * pitch,
        "complete parts"
    );
    let mut dw = uninit(outputs * inputs * 9);
    let grain = (4096 / inputs).max(1);
    dw.par_chunks_mut(inputs * 9).enumerate().with_min_len(grain).for_each(|(o, dw)| {
        // SAFETY: the parts hold a row for every output; the machine has the level's instructions.
        unsafe { narrow(level, parts, o * pitch, matrix, dw) };
    });
    dw
}

by_level! {
    /// The gradient of the weights of one output, from number `at` of each matrix on.
    ///
    /// # Safety
    /// Sixteen matrices hold a row, rounded up to whole vectors, from `at` on; the machine has the level's instructions.
    narrow = narrow_with(parts: &[Vec<f32>], at: usize, matrix: usize, dw: &mut [f32])
}

#[inline(always)]
unsafe fn narrow_with<T: Vector>(parts: &[Vec<f32>], at: usize, matrix: usize, dw: &mut [f32]) {
    for (block, dw) in dw.chunks_mut(9 * T::LANES).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let mut u = [T::splat(0.0); 16];
            for part in parts {
                for (index, u) in u.iter_mut().enumerate() {
                    *u = u.plus(T::load(part.as_ptr().add(index * matrix + at + block * T::LANES)));
                }
            }
            let mut half = [[T::splat(0.0); 4]; 3];
            for j in 0..4 {
                let column = fold([u[j], u[4 + j], u[8 + j], u[12 + j]]);
                for (half, value) in half.iter_mut().zip(column) {
                    half[j] = value;
                }
            }
            let mut lanes = [[0.0f32; LONGEST]; 9];
            for (lanes, half) in lanes.chunks_exact_mut(3).zip(half) {
                for (lanes, value) in lanes.iter_mut().zip(fold(half)) {
                    value.store(lanes.as_mut_ptr());
                }
            }
            for (lane, dw) in dw.chunks_exact_mut(9).enumerate() {
                for (dw, lanes) in dw.iter_mut().zip(&lanes) {
                    *dw = lanes[lane];
                }
            }
        }
    }
}

/// Gᵀ of one column or row.
#[inline(always)]
unsafe fn fold<T: Vector>([a, b, c, d]: [T; 4]) -> [T; 3] {
    // SAFETY: the caller's promise of the instructions.
    unsafe {
        let half = T::splat(0.5);
        let zero = T::splat(0.0);
        let both = zero.add_product(b.plus(c), half);
        [a.plus(both), zero.add_product(b.minus(c), half), both.plus(d)]
    }
}
