//! The two inner loops of the 3×3 convolution, for each kind of vector.
//!
//! Positions are those of a padded map laid out flat: rows of `row` = width + 1 numbers, of which the last is the
//! zero between two rows. A tap (ky, kx) of position p is then number p + ky·row + kx, whatever p: vectors run on
//! across row ends, and only the results between rows are thrown away.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Plain, Vector};
use crate::ops::simd::Level;

/// Output channels that one call of the kernels works on: the number of biases, 8 or 4.
pub(super) fn block(level: Level) -> usize {
    match level {
        Level::Avx512 => 8,
        Level::Avx2 | Level::Portable => 4,
    }
}

/// The channels of a block of which `used` are left: half a block is enough for the last few.
pub(super) fn width(level: Level, used: usize) -> usize {
    if used <= 4 { 4 } else { block(level) }
}

/// Vectors are no longer than this; buffers have that many numbers to spare at their end.
pub(super) const LONGEST: usize = 16;

/// Flat padded input planes, one per input channel.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) values: &'a [f32],
    /// Numbers from one plane to the next.
    pub(super) stride: usize,
    pub(super) channels: usize,
    /// Numbers from one row to the next.
    pub(super) row: usize,
}

/// `O` channels × `N` vectors of output at one position: 9·channels taps each.
#[inline(always)]
unsafe fn tile<T: Vector, const O: usize, const N: usize>(
    x: *const f32,
    planes: &Planes<'_>,
    w: *const f32,
    bias: &[f32],
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: the caller checked the extents of all buffers, see `forward`.
    unsafe {
        let mut sums = [[T::splat(0.0); N]; O];
        for (sums, &b) in sums.iter_mut().zip(bias) {
            *sums = [T::splat(b); N];
        }
        let (mut x, mut w) = (x, w);
        for _ in 0..planes.channels {
            for ky in 0..3 {
                for kx in 0..3 {
                    let at = x.add(ky * planes.row + kx);
                    let mut inputs = [T::splat(0.0); N];
                    for (n, input) in inputs.iter_mut().enumerate() {
                        *input = T::load(at.add(n * T::LANES));
                    }
                    for (o, sums) in sums.iter_mut().enumerate() {
                        let weight = T::splat(*w.add(o));
                        for (sum, input) in sums.iter_mut().zip(inputs) {
                            *sum = sum.add_product(input, weight);
                        }
                    }
                    w = w.add(O);
                }
            }
            x = x.add(planes.stride);
        }
        for (o, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                sum.store(out.add(o * out_stride + n * T::LANES));
            }
        }
    }
}

#[inline(always)]
unsafe fn forward_with<T: Vector, const O: usize, const N: usize>(
    planes: &Planes<'_>,
    first: usize,
    positions: usize,
    w: &[f32],
    bias: &[f32],
    out: &mut [f32],
    out_stride: usize,
) {
    let vectors = positions.div_ceil(T::LANES);
    let reach = first + vectors * T::LANES + 2 * planes.row + 2;
    assert!(
        (planes.channels - 1) * planes.stride + reach <= planes.values.len(),
        "input planes are long enough"
    );
    assert!(planes.channels * 9 * O <= w.len() && O == bias.len(), "weights are complete");
    assert!((O - 1) * out_stride + vectors * T::LANES <= out.len(), "output rows are long enough");
    let x = planes.values.as_ptr();
    let (w, out) = (w.as_ptr(), out.as_mut_ptr());
    let mut v = 0;
    // SAFETY: the three asserts cover every access of the tiles; the machine has T's instructions (the caller).
    unsafe {
        while v + N <= vectors {
            let at = v * T::LANES;
            tile::<T, O, N>(x.add(first + at), planes, w, bias, out.add(at), out_stride);
            v += N;
        }
        while v < vectors {
            let at = v * T::LANES;
            tile::<T, O, 1>(x.add(first + at), planes, w, bias, out.add(at), out_stride);
            v += 1;
        }
    }
}

/// out[o][p] = bias[o] + Σ w·x at positions `first` + p, p in 0..`positions` rounded up to whole vectors, for
/// as many output channels as there are biases ([`width`]). Weights are packed [channel][tap][o].
pub(super) fn forward(
    level: Level,
    planes: &Planes<'_>,
    (first, positions): (usize, usize),
    w: &[f32],
    bias: &[f32],
    out: &mut [f32],
    out_stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    unsafe fn avx512(
        p: &Planes<'_>,
        f: usize,
        n: usize,
        w: &[f32],
        b: &[f32],
        out: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: compiled for the instructions of the vector.
        unsafe {
            match b.len() {
                8 => forward_with::<Avx512, 8, 3>(p, f, n, w, b, out, stride),
                _ => forward_with::<Avx512, 4, 6>(p, f, n, w, b, out, stride),
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(p: &Planes<'_>, f: usize, n: usize, w: &[f32], b: &[f32], out: &mut [f32], stride: usize) {
        // SAFETY: compiled for the instructions of the vector.
        unsafe { forward_with::<Avx2, 4, 3>(p, f, n, w, b, out, stride) }
    }
    match level {
        // SAFETY: a level is only named where the machine has its instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(planes, first, positions, w, bias, out, out_stride) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(planes, first, positions, w, bias, out, out_stride) },
        // SAFETY: plain Rust runs everywhere.
        _ => unsafe { forward_with::<Plain, 4, 1>(planes, first, positions, w, bias, out, out_stride) },
    }
}

/// Σ over positions of `O` gradient planes × three neighbouring inputs, added to dw[o·`dw_stride` + kx].
#[inline(always)]
unsafe fn products<T: Vector, const O: usize>(
    x: *const f32,
    g: *const f32,
    g_stride: usize,
    vectors: usize,
    dw: &mut [f32],
    dw_stride: usize,
    used: usize,
) {
    // SAFETY: the caller checked the extents, see `weights_with`.
    unsafe {
        let mut sums = [[T::splat(0.0); 3]; O];
        for v in 0..vectors {
            let x = x.add(v * T::LANES);
            let inputs = [T::load(x), T::load(x.add(1)), T::load(x.add(2))];
            let g = g.add(v * T::LANES);
            for (o, sums) in sums.iter_mut().enumerate() {
                let gradient = T::load(g.add(o * g_stride));
                for (sum, input) in sums.iter_mut().zip(inputs) {
                    *sum = sum.add_product(input, gradient);
                }
            }
        }
        for (o, sums) in sums.iter().enumerate().take(used) {
            for (k, sum) in sums.iter().enumerate() {
                dw[o * dw_stride + k] += sum.sum();
            }
        }
    }
}

#[inline(always)]
unsafe fn weights_with<T: Vector, const O: usize>(
    planes: &Planes<'_>,
    (first, positions): (usize, usize),
    g: &[f32],
    g_stride: usize,
    dw: &mut [f32],
    used: usize,
) {
    let vectors = positions.div_ceil(T::LANES);
    let reach = first + vectors * T::LANES + 2 * planes.row + 2;
    assert!(
        (planes.channels - 1) * planes.stride + reach <= planes.values.len(),
        "input planes are long enough"
    );
    assert!((O - 1) * g_stride + vectors * T::LANES <= g.len(), "gradient planes are long enough");
    for (c, ky) in (0..planes.channels).flat_map(|c| (0..3).map(move |ky| (c, ky))) {
        let dw = &mut dw[(c * 3 + ky) * 3..];
        // SAFETY: the two asserts cover every access; the machine has T's instructions (the caller).
        unsafe {
            let x = planes.values.as_ptr().add(c * planes.stride + first + ky * planes.row);
            products::<T, O>(x, g.as_ptr(), g_stride, vectors, dw, planes.channels * 9, used);
        }
    }
}

/// dw[o][channel][ky][kx] += Σ g[o][p]·x[channel][`first` + p + ky·row + kx] for `used` output channels of at
/// most one [`block`]; there are planes of g for [`width`] channels. `g` is zero at positions between rows and up to the next whole vector.
pub(super) fn weights(
    level: Level,
    planes: &Planes<'_>,
    range: (usize, usize),
    g: &[f32],
    g_stride: usize,
    dw: &mut [f32],
    used: usize,
) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    unsafe fn avx512(p: &Planes<'_>, r: (usize, usize), g: &[f32], s: usize, dw: &mut [f32], used: usize) {
        // SAFETY: compiled for the instructions of the vector.
        unsafe {
            if used > 4 {
                weights_with::<Avx512, 8>(p, r, g, s, dw, used);
            } else {
                weights_with::<Avx512, 4>(p, r, g, s, dw, used);
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(p: &Planes<'_>, r: (usize, usize), g: &[f32], s: usize, dw: &mut [f32], used: usize) {
        // SAFETY: compiled for the instructions of the vector.
        unsafe { weights_with::<Avx2, 4>(p, r, g, s, dw, used) }
    }
    match level {
        // SAFETY: a level is only named where the machine has its instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(planes, range, g, g_stride, dw, used) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(planes, range, g, g_stride, dw, used) },
        // SAFETY: plain Rust runs everywhere.
        _ => unsafe { weights_with::<Plain, 4>(planes, range, g, g_stride, dw, used) },
    }
}
