//! Dropout masks as a function of (key, plane, element): drawn again in the backward pass instead of stored, and the
//! same for any number of threads.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

/// A bijective mix of 64 bits (the finaliser of `SplitMix64`).
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A Bernoulli mask over elements that are grouped in planes (or chunks) of fewer than 2³² elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask {
    key: u64,
    /// An element is kept when its 32 random bits are below this; 2³² keeps all.
    keep_below: u64,
    /// What a kept element is multiplied with: 1/(1 − p).
    pub(super) scale: f32,
}

impl Mask {
    pub(super) fn new(key: u64, p: f64) -> Self {
        let keep = 1.0 - p;
        Self {
            key,
            keep_below: (keep * 4_294_967_296.0) as u64,
            scale: if keep > 0.0 { (1.0 / keep) as f32 } else { 0.0 },
        }
    }

    /// What a kernel needs to draw the same mask: key, largest kept value, scale.
    pub(super) fn parts(self) -> (u64, u32, f32) {
        let PlaneMask { keep_last, scale, .. } = self.plane(0);
        (self.key, keep_last, scale)
    }

    /// The mask of one plane.
    pub(super) fn plane(self, plane: usize) -> PlaneMask {
        PlaneMask {
            key: mix(self.key ^ (plane as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) as u32,
            keep_last: self.keep_below.saturating_sub(1).min(u64::from(u32::MAX)) as u32,
            scale: if self.keep_below == 0 { 0.0 } else { self.scale },
        }
    }
}

/// The mask of one plane: a factor per element, 0 or 1/(1 − p).
#[derive(Clone, Copy)]
pub(super) struct PlaneMask {
    key: u32,
    keep_last: u32,
    scale: f32,
}

impl PlaneMask {
    #[inline(always)]
    pub(super) fn factor(self, element: u32) -> f32 {
        let mut x = element.wrapping_mul(0x9E37_79B9) ^ self.key;
        x = (x ^ (x >> 16)).wrapping_mul(0x21F0_AAAD);
        x = (x ^ (x >> 15)).wrapping_mul(0xD35A_2D97);
        x ^= x >> 15;
        if x <= self.keep_last { self.scale } else { 0.0 }
    }
}
