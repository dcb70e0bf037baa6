//! Between maps and the sixteen matrices of Winograd's F(2×2, 3×3): pixels with their channels side by side, and the
//! three transforms, all of them vectors of channels. Tiles of any map, however small, thus fill whole vectors.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Plain, Vector};
use crate::ops::simd::Level;

/// Compiles a generic function for each kind of vector.
macro_rules! by_level {
    ($(#[$meta:meta])* $name:ident = $generic:ident($($arg:ident: $kind:ty),* $(,)?)) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
        pub(super) unsafe fn $name(level: Level, $($arg: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
            unsafe fn avx512($($arg: $kind),*) {
                // SAFETY: compiled for the instructions of the vector; the rest is the caller's promise.
                unsafe { $generic::<Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments, reason = "kernels take their sizes one by one")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $kind),*) {
                // SAFETY: as above.
                unsafe { $generic::<Avx2>($($arg),*) }
            }
            match level {
                // SAFETY: a level is only named where the machine has its instructions.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: plain Rust runs everywhere.
                _ => unsafe { $generic::<Plain>($($arg),*) },
            }
        }
    };
}

pub(super) use by_level;

/// Vectors are no longer than this.
const LONGEST: usize = 16;

/// Planes of one image, `plane` numbers apart, of which `channels` exist.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) values: *const f32,
    pub(super) plane: usize,
    pub(super) channels: usize,
}

by_level! {
    /// Copies pixels `first`.. of all planes to `out`, pixel i with its channels (`padded` of them, zeros behind the
    /// last) at `places[i]`·`padded`.
    ///
    /// # Safety
    /// The planes hold `first + places.len()` pixels, `out` every place; the machine has the level's instructions.
    pack = pack_with(source: Source, first: usize, places: &[u32], padded: usize, out: *mut f32)
}

#[inline(always)]
unsafe fn pack_with<T: Vector>(source: Source, first: usize, places: &[u32], padded: usize, out: *mut f32) {
    let zeros = [0.0f32; LONGEST];
    let n = places.len();
    // SAFETY: the caller's promise; channels that do not exist are read from `zeros`.
    unsafe {
        for c in (0..padded).step_by(T::LANES) {
            let mut at = 0;
            while n >= T::LANES && at < n {
                // The last block overlaps the one before it.
                at = at.min(n - T::LANES);
                let from = |lane: usize| {
                    if c + lane < source.channels {
                        source.values.add((c + lane) * source.plane + first + at)
                    } else {
                        zeros.as_ptr()
                    }
                };
                T::transpose(from, |lane| out.add(places[at + lane] as usize * padded + c));
                at += T::LANES;
            }
            for (i, &place) in places.iter().enumerate().skip(at) {
                for lane in 0..T::LANES {
                    let exists = c + lane < source.channels;
                    let value =
                        if exists { *source.values.add((c + lane) * source.plane + first + i) } else { 0.0 };
                    *out.add(place as usize * padded + c + lane) = value;
                }
            }
        }
    }
}

/// Planes of one image to write to.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) values: *mut f32,
    pub(super) plane: usize,
    pub(super) channels: usize,
}

by_level! {
    /// The way back of [`pack`]: pixel i of `from`, at `places[i]`·`padded`, becomes pixel `first + i` of all planes.
    ///
    /// # Safety
    /// As [`pack`].
    unpack = unpack_with(target: Target, first: usize, places: &[u32], padded: usize, from: *const f32)
}

#[inline(always)]
unsafe fn unpack_with<T: Vector>(
    target: Target,
    first: usize,
    places: &[u32],
    padded: usize,
    from: *const f32,
) {
    let mut nowhere = [0.0f32; LONGEST];
    let nowhere = nowhere.as_mut_ptr();
    let n = places.len();
    // SAFETY: the caller's promise; channels that do not exist go `nowhere`.
    unsafe {
        for c in (0..padded).step_by(T::LANES) {
            let mut at = 0;
            while n >= T::LANES && at < n {
                at = at.min(n - T::LANES);
                let to = |lane: usize| {
                    if c + lane < target.channels {
                        target.values.add((c + lane) * target.plane + first + at)
                    } else {
                        nowhere
                    }
                };
                T::transpose(|lane| from.add(places[at + lane] as usize * padded + c), to);
                at += T::LANES;
            }
            for (i, &place) in places.iter().enumerate().skip(at) {
                for lane in 0..T::LANES.min(target.channels.saturating_sub(c)) {
                    *target.values.add((c + lane) * target.plane + first + i) =
                        *from.add(place as usize * padded + c + lane);
                }
            }
        }
    }
}

/// Tiles in rows, and the sixteen matrices [tile][channel] that they are transformed to or from.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// Rows of tiles and tiles of a row.
    pub(super) rows: usize,
    pub(super) row: usize,
    /// Channels, a multiple of 16.
    pub(super) channels: usize,
    /// Pixels from one row of pixels to the next.
    pub(super) pitch: usize,
    /// The first tile's channels in the first matrix, and the distance of the matrices.
    pub(super) matrices: *mut f32,
    pub(super) stride: usize,
}

/// Bᵀ of one column or row: the four numbers that meet the transformed kernel.
#[inline(always)]
unsafe fn spread<T: Vector>([a, b, c, d]: [T; 4]) -> [T; 4] {
    // SAFETY: the caller's promise of the instructions, here and in the other transforms.
    unsafe { [a.minus(c), b.plus(c), c.minus(b), b.minus(d)] }
}

by_level! {
    /// V = Bᵀ·d·B of 4×4 pixels each; tiles are two pixels apart.
    ///
    /// # Safety
    /// `pixels` holds 2·rows + 2 rows of `pitch` pixels, the matrices all tiles; the machine has the instructions.
    input = input_with(tiles: Tiles, pixels: *const f32)
}

#[expect(clippy::needless_range_loop, reason = "columns of a matrix that is stored by rows")]
#[inline(always)]
unsafe fn input_with<T: Vector>(tiles: Tiles, pixels: *const f32) {
    let Tiles { rows, row, channels, pitch, matrices, stride } = tiles;
    // SAFETY: the caller's promise.
    unsafe {
        for tile in 0..rows * row {
            let corner = pixels.add((2 * (tile / row) * pitch + 2 * (tile % row)) * channels);
            let to = matrices.add(tile * channels);
            for c in (0..channels).step_by(T::LANES) {
                let mut d = [[T::splat(0.0); 4]; 4];
                for (i, d) in d.iter_mut().enumerate() {
                    for (j, d) in d.iter_mut().enumerate() {
                        *d = T::load(corner.add((i * pitch + j) * channels + c));
                    }
                    *d = spread(*d);
                }
                for j in 0..4 {
                    let column = spread([d[0][j], d[1][j], d[2][j], d[3][j]]);
                    for (i, value) in column.into_iter().enumerate() {
                        value.store(to.add((4 * i + j) * stride + c));
                    }
                }
            }
        }
    }
}

/// A of one column or row.
#[inline(always)]
unsafe fn widen<T: Vector>([a, b]: [T; 2]) -> [T; 4] {
    // SAFETY: as in `spread`.
    unsafe { [a, a.plus(b), a.minus(b), T::splat(0.0).minus(b)] }
}

by_level! {
    /// A·g·Aᵀ of 2×2 pixels each: the transpose of [`output`].
    ///
    /// # Safety
    /// As [`input`], with 2·rows rows of pixels.
    gradient = gradient_with(tiles: Tiles, pixels: *const f32)
}

#[inline(always)]
unsafe fn gradient_with<T: Vector>(tiles: Tiles, pixels: *const f32) {
    let Tiles { rows, row, channels, pitch, matrices, stride } = tiles;
    // SAFETY: the caller's promise.
    unsafe {
        for tile in 0..rows * row {
            let corner = pixels.add((2 * (tile / row) * pitch + 2 * (tile % row)) * channels);
            let to = matrices.add(tile * channels);
            for c in (0..channels).step_by(T::LANES) {
                let at = |i: usize, j: usize| T::load(corner.add((i * pitch + j) * channels + c));
                let top = widen([at(0, 0), at(0, 1)]);
                let bottom = widen([at(1, 0), at(1, 1)]);
                for j in 0..4 {
                    for (i, value) in widen([top[j], bottom[j]]).into_iter().enumerate() {
                        value.store(to.add((4 * i + j) * stride + c));
                    }
                }
            }
        }
    }
}

/// Aᵀ of one column or row.
#[inline(always)]
unsafe fn gather<T: Vector>([a, b, c, d]: [T; 4]) -> [T; 2] {
    // SAFETY: as in `spread`.
    unsafe { [a.plus(b).plus(c), b.minus(c).minus(d)] }
}

by_level! {
    /// Y = Aᵀ·M·A + bias, times `slope` (at most 1) where it is negative: 2×2 pixels of each tile.
    ///
    /// # Safety
    /// As [`gradient`]; `bias` holds all channels.
    output = output_with(tiles: Tiles, bias: &[f32], slope: f32, pixels: *mut f32)
}

#[expect(clippy::needless_range_loop, reason = "columns of a matrix that is stored by rows")]
#[inline(always)]
unsafe fn output_with<T: Vector>(tiles: Tiles, bias: &[f32], slope: f32, pixels: *mut f32) {
    let Tiles { rows, row, channels, pitch, matrices, stride } = tiles;
    assert!(bias.len() >= channels, "a bias for every channel");
    // SAFETY: the caller's promise.
    unsafe {
        let slopes = T::splat(slope);
        for tile in 0..rows * row {
            let corner = pixels.add((2 * (tile / row) * pitch + 2 * (tile % row)) * channels);
            let from = matrices.add(tile * channels);
            for c in (0..channels).step_by(T::LANES) {
                let b = T::load(bias.as_ptr().add(c));
                let mut half = [[T::splat(0.0); 2]; 4];
                for (i, half) in half.iter_mut().enumerate() {
                    let at = |j: usize| T::load(from.add((4 * i + j) * stride + c));
                    *half = gather([at(0), at(1), at(2), at(3)]);
                }
                for j in 0..2 {
                    let [top, bottom] = gather([half[0][j], half[1][j], half[2][j], half[3][j]]);
                    let [top, bottom] = [top.plus(b), bottom.plus(b)];
                    top.larger(top.times(slopes)).store(corner.add(j * channels + c));
                    bottom.larger(bottom.times(slopes)).store(corner.add((pitch + j) * channels + c));
                }
            }
        }
    }
}
