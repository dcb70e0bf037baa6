//! The strong augmentation of grey images: brightness and contrast, and a Gaussian blur.

use rand::Rng;

use super::Workspace;
use crate::ops::simd::multiversion;
use crate::spec::settings::AugmentSettings;

/// Brightness and contrast factors lie in 1 ± this.
const JITTER: f64 = 0.5;
/// The blur's standard deviation lies in this range, in pixels of the training image.
const BLUR: (f64, f64) = (0.1, 2.0);

/// A strong augmentation, to be applied to a weakly augmented image. Saturation and hue, which the colour jitter of
/// the source also changes, do nothing on grey images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strong {
    jitter: Option<Jitter>,
    /// Standard deviation in pixels.
    blur: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Jitter {
    brightness: f32,
    contrast: f32,
    brightness_first: bool,
}

impl Strong {
    /// Draws one: with probability `jitter`, brightness and contrast by factors U(0.5, 1.5) in random order; with
    /// probability `blur`, a Gaussian blur of σ ~ U(0.1, 2) pixels.
    pub fn draw(rng: &mut impl Rng, settings: &AugmentSettings) -> Self {
        let jitter = (rng.random::<f64>() < settings.jitter).then(|| Jitter {
            brightness: rng.random_range(1.0 - JITTER..1.0 + JITTER) as f32,
            contrast: rng.random_range(1.0 - JITTER..1.0 + JITTER) as f32,
            brightness_first: rng.random_bool(0.5),
        });
        let blur = (rng.random::<f64>() < settings.blur).then(|| rng.random_range(BLUR.0..BLUR.1) as f32);
        Self { jitter, blur }
    }

    /// Applies it to an image `side`×`side` in `[0, 1]`, which is quantised to 8 bits first ([`quantise`]); the result
    /// lies in `[0, 1]`. Unlike PIL, which truncates to 8 bits after each operation, the operations keep full precision,
    /// and the blur is a true Gaussian with repeated edges (PIL's is three box blurs).
    pub fn apply(&self, image: &mut [f32], side: usize) {
        quantise(image);
        self.apply_quantised(image, side, &mut Workspace::default());
    }

    /// [`Self::apply`] to an image that has been quantised already.
    pub fn apply_quantised(&self, image: &mut [f32], side: usize, workspace: &mut Workspace) {
        if let Some(Jitter { brightness, contrast, brightness_first }) = self.jitter {
            if brightness_first {
                scale(image, 0.0, brightness);
            }
            let mean = rounded_mean(image);
            scale(image, mean, contrast);
            if !brightness_first {
                scale(image, 0.0, brightness);
            }
        }
        if let Some(sigma) = self.blur {
            let Workspace { taps, padded, plane, .. } = workspace;
            gaussian_into(sigma, taps);
            convolve_in(image, side, side, taps, padded, plane);
        }
    }
}

#[cfg(test)]
impl Strong {
    /// One with these (brightness, contrast, brightness first) and this blur.
    pub(super) fn fixed(jitter: Option<(f32, f32, bool)>, blur: Option<f32>) -> Self {
        let jitter = jitter.map(|(brightness, contrast, brightness_first)| Jitter {
            brightness,
            contrast,
            brightness_first,
        });
        Self { jitter, blur }
    }

    pub(super) fn has_jitter(&self) -> bool {
        self.jitter.is_some()
    }

    pub(super) fn has_blur(&self) -> bool {
        self.blur.is_some()
    }
}

/// Pixels that are summed side by side.
const LANES: usize = 16;

multiversion! {
    /// m + f·(x − m), clipped to `[0, 1]`, of each pixel.
    fn scale(image: &mut [f32], mean: f32, factor: f32) {
        for value in image {
            *value = (mean + factor * (*value - mean)).clamp(0.0, 1.0);
        }
    }
}

/// The mean in 8-bit levels, rounded, over 255. Quantised values, brightened or not, are multiples of 2⁻³² (the smallest is
/// half a level): up to 2²⁰ of them add up without rounding, in whatever order.
fn rounded_mean(image: &[f32]) -> f32 {
    let mean = sum(image) / image.len().max(1) as f64;
    (255.0 * mean + 0.5).floor() as f32 / 255.0
}

multiversion! {
    fn sum(image: &[f32]) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (blocks, rest) = image.as_chunks::<LANES>();
        for block in blocks {
            for (sum, &value) in sums.iter_mut().zip(block) {
                *sum += f64::from(value);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
    }
}

multiversion! {
    /// Rounds an image in `[0, 1]` to the 256 levels of 8 bits, as unlabelled images go through on their way to the strong
    /// augmentation.
    pub fn quantise(image: &mut [f32]) {
        /// Adding and taking it away rounds a smaller number to a whole one, halves to the even one.
        const WHOLE: f32 = (1u32 << 23) as f32;
        for value in image {
            // `f32::round`, which is a call on machines without the instruction: halves go away from zero.
            let scaled = 255.0 * *value;
            let size = scaled.abs();
            let even = (size + WHOLE) - WHOLE;
            let whole = if size - even == 0.5 { even + 1.0 } else { even };
            *value = if size < WHOLE { whole.copysign(scaled) } else { scaled } / 255.0;
        }
    }
}

/// The taps from the centre outwards of a normalised Gaussian of standard deviation `sigma` pixels, cut off at 3σ.
pub(in crate::data) fn gaussian(sigma: f32) -> Vec<f32> {
    let mut taps = Vec::new();
    gaussian_into(sigma, &mut taps);
    taps
}

fn gaussian_into(sigma: f32, taps: &mut Vec<f32>) {
    let radius = (3.0 * sigma).ceil() as usize;
    taps.clear();
    taps.extend((0..=radius).map(|k| (-0.5 * (k as f32 / sigma).powi(2)).exp()));
    let sum = taps[0] + 2.0 * taps[1..].iter().sum::<f32>();
    for tap in taps {
        *tap /= sum;
    }
}

/// Convolves rows and columns of a `height`×`width` image with the symmetric kernel whose taps from the centre
/// outwards are `taps`; edges are repeated.
pub(in crate::data) fn convolve(image: &mut [f32], height: usize, width: usize, taps: &[f32]) {
    convolve_in(image, height, width, taps, &mut Vec::new(), &mut Vec::new());
}

/// [`convolve`] with the memory that it works in.
fn convolve_in(
    image: &mut [f32],
    height: usize,
    width: usize,
    taps: &[f32],
    padded: &mut Vec<f32>,
    plane: &mut Vec<f32>,
) {
    let radius = taps.len() - 1;
    padded.resize(width + 2 * radius, 0.0);
    plane.resize(height * width, 0.0);
    for (row, out) in image.chunks_exact(width).zip(plane.chunks_exact_mut(width)) {
        padded[..radius].fill(row[0]);
        padded[radius..radius + width].copy_from_slice(row);
        padded[radius + width..].fill(row[width - 1]);
        convolve_row(padded, out, taps);
    }
    for (y, row) in image.chunks_exact_mut(width).enumerate() {
        convolve_column(plane, height, y, row, taps);
    }
}

/// Pixels whose sums stay in registers.
const BLOCK: usize = 64;

multiversion! {
    /// The row in `padded`, which has the radius more on each side than `out`: the sides are summed outwards, and the centre is
    /// added last.
    fn convolve_row(padded: &[f32], out: &mut [f32], taps: &[f32]) {
        let radius = taps.len() - 1;
        let centre = |at: usize| radius + at;
        let mut at = 0;
        while at + BLOCK <= out.len() {
            let mut sums = [0.0f32; BLOCK];
            for (k, &tap) in taps.iter().enumerate().skip(1) {
                let (left, right) = (&padded[centre(at) - k..][..BLOCK], &padded[centre(at) + k..][..BLOCK]);
                for i in 0..BLOCK {
                    sums[i] += tap * (left[i] + right[i]);
                }
            }
            let middle = &padded[centre(at)..][..BLOCK];
            for i in 0..BLOCK {
                out[at + i] = sums[i] + taps[0] * middle[i];
            }
            at += BLOCK;
        }
        for (at, out) in out.iter_mut().enumerate().skip(at) {
            let mut sum = 0.0;
            for (k, &tap) in taps.iter().enumerate().skip(1) {
                sum += tap * (padded[centre(at) - k] + padded[centre(at) + k]);
            }
            *out = sum + taps[0] * padded[centre(at)];
        }
    }
}
multiversion! {
    /// Row `y` of `plane`, of `height` rows, convolved along its columns: from the centre outwards.
    fn convolve_column(plane: &[f32], height: usize, y: usize, out: &mut [f32], taps: &[f32]) {
        let width = out.len();
        let above = |k: usize| y.saturating_sub(k) * width;
        let below = |k: usize| (y + k).min(height - 1) * width;
        let mut at = 0;
        while at + BLOCK <= width {
            let mut sums = [0.0f32; BLOCK];
            let middle = &plane[above(0) + at..][..BLOCK];
            for i in 0..BLOCK {
                sums[i] = taps[0] * middle[i];
            }
            for (k, &tap) in taps.iter().enumerate().skip(1) {
                let (above, below) = (&plane[above(k) + at..][..BLOCK], &plane[below(k) + at..][..BLOCK]);
                for i in 0..BLOCK {
                    sums[i] += tap * (above[i] + below[i]);
                }
            }
            out[at..at + BLOCK].copy_from_slice(&sums);
            at += BLOCK;
        }
        for (at, out) in out.iter_mut().enumerate().skip(at) {
            let mut sum = taps[0] * plane[above(0) + at];
            for (k, &tap) in taps.iter().enumerate().skip(1) {
                sum += tap * (plane[above(k) + at] + plane[below(k) + at]);
            }
            *out = sum;
        }
    }
}
