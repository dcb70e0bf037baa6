//! Products of small matrices in registers: what Winograd's convolution spends its time in.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Plain, Vector};
use crate::ops::simd::Level;

/// Columns of a product are a multiple of this.
pub(super) const COLUMNS: usize = 16;
/// Columns that share one pass over the left matrix.
pub(super) const PANEL: usize = 32;

/// out (`rows` × `columns`) = left (`rows` × `depth`) · right (`depth` × `columns`), added to what `out` holds if
/// `add`. Element (r, k) of the left matrix is at r·`left.1` + k·`left.2`, rows of the others are `.1` apart.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    pub(super) left: (*const f32, usize, usize),
    pub(super) right: (*const f32, usize),
    pub(super) out: (*mut f32, usize),
    pub(super) add: bool,
}

/// `R` rows × `N` vectors of the result; each element is one sum in the order of the depth.
#[inline(always)]
unsafe fn tile<T: Vector, const R: usize, const N: usize>(p: &Product, row: usize, column: usize) {
    // SAFETY: the caller of `run` promised the extents.
    unsafe {
        let (left, row_step, depth_step) = p.left;
        let mut left = left.add(row * row_step);
        let mut right = p.right.0.add(column);
        let out = p.out.0.add(row * p.out.1 + column);
        let mut sums = [[T::splat(0.0); N]; R];
        for _ in 0..p.depth {
            let mut values = [T::splat(0.0); N];
            for (n, value) in values.iter_mut().enumerate() {
                *value = T::load(right.add(n * T::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = T::splat(*left.add(r * row_step));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = sum.add_product(value, factor);
                }
            }
            left = left.add(depth_step);
            right = right.add(p.right.1);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                let to = out.add(r * p.out.1 + n * T::LANES);
                // Sums of sums: the error grows more slowly than in one long sum.
                if p.add { T::load(to).plus(*sum).store(to) } else { sum.store(to) }
            }
        }
    }
}

/// All rows of `N` vectors of columns from `column` on, as many rows at a time as there are registers for.
#[inline(always)]
unsafe fn strip<T: Vector, const R: usize, const N: usize>(p: &Product, column: usize) {
    let mut row = 0;
    // SAFETY: rows and columns stay within the product.
    unsafe {
        while row + R <= p.rows {
            tile::<T, R, N>(p, row, column);
            row += R;
        }
        while row + 8 <= p.rows {
            tile::<T, 8, N>(p, row, column);
            row += 8;
        }
        while row + 4 <= p.rows {
            tile::<T, 4, N>(p, row, column);
            row += 4;
        }
        while row < p.rows {
            tile::<T, 1, N>(p, row, column);
            row += 1;
        }
    }
}

/// Computes `p`.
///
/// # Safety
/// The machine has the instructions of `level`; the three matrices are valid for the extents of `p`, `out` is not
/// used by anybody else, and `columns` is a multiple of [`COLUMNS`].
pub(super) unsafe fn run(level: Level, p: &Product) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    unsafe fn avx512(p: &Product) {
        let mut column = 0;
        // SAFETY: compiled for the instructions of the vector.
        unsafe {
            while column + 32 <= p.columns {
                strip::<Avx512, 12, 2>(p, column);
                column += 32;
            }
            if column < p.columns {
                strip::<Avx512, 16, 1>(p, column);
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(p: &Product) {
        for column in (0..p.columns).step_by(16) {
            // SAFETY: compiled for the instructions of the vector.
            unsafe { strip::<Avx2, 6, 2>(p, column) };
        }
    }
    debug_assert!(p.columns.is_multiple_of(COLUMNS), "columns come in whole vectors");
    match level {
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(p) },
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(p) },
        _ => {
            for column in (0..p.columns).step_by(8) {
                // SAFETY: plain Rust runs everywhere.
                unsafe { strip::<Plain, 4, 1>(p, column) };
            }
        }
    }
}
