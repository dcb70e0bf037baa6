//! Vectors of the machine: the few instructions that the direct kernels are made of.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

/// A register of `LANES` numbers.
///
/// # Safety
/// Every function may only run on a machine that has the instructions of the implementing type, and pointers are
/// valid for `LANES` numbers. All are inlined into functions compiled for these instructions.
pub(super) unsafe trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// self + a·b.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    unsafe fn times(self, other: Self) -> Self;
    /// The larger of each pair of numbers.
    unsafe fn larger(self, other: Self) -> Self;
    /// Turns a square of numbers over: number j at `from(i)` goes to number i at `to(j)`.
    unsafe fn transpose(from: impl Fn(usize) -> *const f32, to: impl Fn(usize) -> *mut f32);
    /// The sum of its numbers, in an order that is fixed for the type.
    unsafe fn sum(self) -> f32;
}

/// Eight numbers in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

// SAFETY: plain Rust runs everywhere; the pointers are the caller's promise.
unsafe impl Vector for Plain {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for ((sum, a), b) in self.0.iter_mut().zip(a.0).zip(b.0) {
            *sum += a * b;
        }
        self
    }

    #[inline(always)]
    unsafe fn plus(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }

    #[inline(always)]
    unsafe fn minus(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a -= b);
        self
    }

    #[inline(always)]
    unsafe fn times(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a *= b);
        self
    }

    #[inline(always)]
    unsafe fn larger(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a = if *a > b { *a } else { b });
        self
    }

    #[inline(always)]
    unsafe fn transpose(from: impl Fn(usize) -> *const f32, to: impl Fn(usize) -> *mut f32) {
        for i in 0..Self::LANES {
            // SAFETY: the caller's promise.
            let row = unsafe { Self::load(from(i)) };
            for (j, value) in row.0.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { *to(j).add(i) = value };
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps,
        _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps,
        _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps,
        _mm256_storeu_ps, _mm256_sub_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_storeu_ps, _mm512_sub_ps,
        _mm512_unpackhi_ps, _mm512_unpacklo_ps,
    };

    use super::Vector;

    #[derive(Clone, Copy)]
    pub(in crate::ops::conv) struct Avx2(__m256);

    // SAFETY: each function asks its caller for a machine with AVX2 and FMA.
    unsafe impl Vector for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller's promise, here and below.
            Self(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn times(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn larger(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn transpose(from: impl Fn(usize) -> *const f32, to: impl Fn(usize) -> *mut f32) {
            // SAFETY: as above.
            unsafe {
                let mut a = [_mm256_setzero_ps(); 8];
                for (i, a) in a.iter_mut().enumerate() {
                    *a = _mm256_loadu_ps(from(i));
                }
                // Pairs of rows, then squares of four within each half, then the halves.
                let mut b = a;
                for i in 0..4 {
                    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
                }
                for i in 0..2 {
                    let [p, q, r, s] = [b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]];
                    a[4 * i] = _mm256_shuffle_ps::<0x44>(p, r);
                    a[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(p, r);
                    a[4 * i + 2] = _mm256_shuffle_ps::<0x44>(q, s);
                    a[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(q, s);
                }
                for j in 0..4 {
                    _mm256_storeu_ps(to(j), _mm256_permute2f128_ps::<0x20>(a[j], a[j + 4]));
                    _mm256_storeu_ps(to(j + 4), _mm256_permute2f128_ps::<0x31>(a[j], a[j + 4]));
                }
            }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe {
                let half = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
                _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(in crate::ops::conv) struct Avx512(__m512);

    // SAFETY: each function asks its caller for a machine with AVX-512F.
    unsafe impl Vector for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller's promise, here and below.
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn times(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn larger(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn transpose(from: impl Fn(usize) -> *const f32, to: impl Fn(usize) -> *mut f32) {
            // SAFETY: as above.
            unsafe {
                let mut a = [_mm512_setzero_ps(); 16];
                for (i, a) in a.iter_mut().enumerate() {
                    *a = _mm512_loadu_ps(from(i));
                }
                // Pairs of rows, then squares of four within each quarter, then the quarters in two steps.
                let mut b = a;
                for i in 0..8 {
                    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                    b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
                }
                for i in 0..4 {
                    let [p, q, r, s] = [b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]];
                    a[4 * i] = _mm512_shuffle_ps::<0x44>(p, r);
                    a[4 * i + 1] = _mm512_shuffle_ps::<0xEE>(p, r);
                    a[4 * i + 2] = _mm512_shuffle_ps::<0x44>(q, s);
                    a[4 * i + 3] = _mm512_shuffle_ps::<0xEE>(q, s);
                }
                // a[4i + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4i..4i + 4.
                for j in 0..4 {
                    let low = _mm512_shuffle_f32x4::<0x88>(a[j], a[4 + j]);
                    let high = _mm512_shuffle_f32x4::<0xDD>(a[j], a[4 + j]);
                    let low2 = _mm512_shuffle_f32x4::<0x88>(a[8 + j], a[12 + j]);
                    let high2 = _mm512_shuffle_f32x4::<0xDD>(a[8 + j], a[12 + j]);
                    _mm512_storeu_ps(to(j), _mm512_shuffle_f32x4::<0x88>(low, low2));
                    _mm512_storeu_ps(to(4 + j), _mm512_shuffle_f32x4::<0x88>(high, high2));
                    _mm512_storeu_ps(to(8 + j), _mm512_shuffle_f32x4::<0xDD>(low, low2));
                    _mm512_storeu_ps(to(12 + j), _mm512_shuffle_f32x4::<0xDD>(high, high2));
                }
            }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};
