//! Four scanners: signal of the tissues, resolution, coils, blur and noise; and the acquisition of a volume.

use rand::Rng;

use super::anatomy::Anatomy;
use super::body::{BodySlice, Textures};
use super::heart::HeartSlice;
use super::noise::{normal, normal_pair};
use super::{Phase, TISSUES, between};
use crate::data::CLASSES;
use crate::rng::stream;

/// Sub-samples of a pixel along each axis of the plane.
const IN_PLANE: usize = 2;
/// Sub-samples through the slice.
const THROUGH: usize = 3;

/// Signal of the tissues in the order of [`super::Tissue`], noise and blur of a scanner type.
struct Model {
    signal: [f32; TISSUES],
    /// Noise in each channel, relative to the signal of 1.
    noise: f32,
    /// Standard deviation of the point spread, pixels.
    blur: f32,
    /// Slowest signal fall-off with distance from the coils, mm.
    coil: f32,
    /// Strength of the smooth bias, logarithmic.
    bias: f32,
}

#[rustfmt::skip]
const MODELS: [Model; 4] = [
    //             air   lung  musc. fat   bone  liver vess. blood myo.  fluid
    Model { signal: [0.01, 0.06, 0.28, 0.84, 0.30, 0.40, 0.70, 0.90, 0.30, 0.98], noise: 0.016, blur: 0.40, coil: 240.0, bias: 0.12 },
    Model { signal: [0.02, 0.08, 0.32, 0.66, 0.42, 0.44, 0.62, 0.84, 0.34, 0.88], noise: 0.024, blur: 0.50, coil: 190.0, bias: 0.20 },
    Model { signal: [0.02, 0.09, 0.36, 0.76, 0.36, 0.46, 0.56, 0.80, 0.36, 0.70], noise: 0.028, blur: 0.60, coil: 260.0, bias: 0.10 },
    Model { signal: [0.01, 0.04, 0.23, 0.60, 0.25, 0.31, 0.78, 0.95, 0.25, 0.94], noise: 0.014, blur: 0.35, coil: 170.0, bias: 0.16 },
];

/// A scanner with the settings of one examination.
pub(super) struct Scanner {
    signal: [f32; TISSUES],
    noise: f32,
    blur: f32,
    coil: f32,
    /// Where the anterior coil lies (x, y), mm, and the share of the body coil.
    coil_at: [f32; 2],
    coil_floor: f32,
    /// Coefficients of x, y, x², xy, y² of the logarithmic bias.
    bias: [f32; 5],
    /// Side of a pixel and distance of slices, mm.
    pixel: f32,
    spacing: f32,
    /// Thickness of a slice in units of their distance.
    thickness: f32,
    height: usize,
    width: usize,
    /// In-plane shift between breath-holds, mm.
    breath: f32,
}

/// A finished volume.
pub(super) struct Scan {
    pub(super) shape: [usize; 3],
    pub(super) spacing: [f32; 3],
    pub(super) image: Vec<f32>,
    pub(super) label: Vec<u8>,
}

impl Scanner {
    /// Draws one of the scanner types and the settings of an examination.
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        let model = &MODELS[rng.random_range(0..MODELS.len())];
        let signal = model.signal.map(|signal| signal * normal(rng, 1.0, 0.045));
        // Rows and columns in steps of 4, the field of view about the same for all.
        let width = 4 * rng.random_range(26..=36);
        let height = 4 * rng.random_range(24..=width / 4);
        let view = between(rng, 235.0, 290.0);
        let mut flip = |a: usize, b: usize| if rng.random_bool(0.5) { (a, b) } else { (b, a) };
        let (height, width) = flip(height, width);
        Self {
            signal,
            noise: model.noise * between(rng, 0.7, 1.5),
            blur: model.blur * between(rng, 0.7, 1.3),
            coil: model.coil * between(rng, 0.8, 1.3),
            coil_at: [between(rng, -60.0, 60.0), between(rng, -140.0, -100.0)],
            coil_floor: between(rng, 0.5, 0.8),
            bias: std::array::from_fn(|_| model.bias * between(rng, -1.0, 1.0)),
            pixel: view / height.max(width) as f32,
            spacing: between(rng, 9.0, 11.5),
            thickness: between(rng, 0.6, 0.95),
            height,
            width,
            breath: between(rng, 0.2, 1.8),
        }
    }

    /// Height and width of the images, mm.
    pub(super) fn field_of_view(&self) -> [f32; 2] {
        [self.height as f32 * self.pixel, self.width as f32 * self.pixel]
    }

    /// Scans the patient at `phase`; `textures` seeds what the tissues look like in detail.
    pub(super) fn acquire(&self, anatomy: &Anatomy, phase: Phase, textures: u64, rng: &mut impl Rng) -> Scan {
        let slices = ((anatomy.coverage / self.spacing).round() as usize + 1).clamp(6, 10);
        let textures = Textures::draw(&mut stream(textures, "phantom texture", 0));
        let pixels = self.height * self.width;
        let mut image = Vec::with_capacity(slices * pixels);
        let mut label = Vec::with_capacity(slices * pixels);
        for z in 0..slices {
            let u = z as f32 * self.spacing - anatomy.above_base;
            let shift = [normal(rng, 0.0, self.breath), normal(rng, 0.0, self.breath)];
            let mut signal = self.expose(anatomy, phase, u, shift, &textures, &mut label);
            blur(&mut signal, self.height, self.width, self.blur);
            for value in &mut signal {
                // Rician: the magnitude of a complex signal with noise in both channels.
                let (real, imaginary) = normal_pair(rng);
                *value = (*value + self.noise * real).hypot(self.noise * imaginary);
            }
            image.extend(signal);
        }
        normalise(&mut image);
        let spacing = [self.spacing, self.pixel, self.pixel];
        Scan { shape: [slices, self.height, self.width], spacing, image, label }
    }

    /// The noiseless signal of the slice at `u`; appends its labels to `label`.
    fn expose(
        &self,
        anatomy: &Anatomy,
        phase: Phase,
        u: f32,
        shift: [f32; 2],
        textures: &Textures,
        label: &mut Vec<u8>,
    ) -> Vec<f32> {
        let body = anatomy.body.at(u);
        let cuts: [HeartSlice; THROUGH] = std::array::from_fn(|k| {
            let offset = (k as f32 + 0.5) / THROUGH as f32 - 0.5;
            anatomy.heart(phase).at(u + offset * self.thickness * self.spacing, shift)
        });
        let [view_y, view_x] = self.field_of_view();
        let mut signal = Vec::with_capacity(self.height * self.width);
        for row in 0..self.height {
            for column in 0..self.width {
                let corner =
                    [column as f32 * self.pixel - 0.5 * view_x, row as f32 * self.pixel - 0.5 * view_y];
                let (mean, class) = self.pixel(corner, u, shift, &cuts, &body, textures);
                let (x, y) = (2.0 * corner[0] / view_x, 2.0 * corner[1] / view_y);
                signal.push(mean * self.gain(corner, x, y));
                label.push(class);
            }
        }
        signal
    }

    /// Mean signal and majority label of the pixel at `corner` (x, y) mm.
    fn pixel(
        &self,
        corner: [f32; 2],
        u: f32,
        shift: [f32; 2],
        cuts: &[HeartSlice; THROUGH],
        body: &BodySlice,
        textures: &Textures,
    ) -> (f32, u8) {
        let step = self.pixel / IN_PLANE as f32;
        let mut sum = 0.0;
        let mut votes = [0u8; CLASSES];
        for sub in 0..IN_PLANE * IN_PLANE {
            let x = corner[0] + step * ((sub % IN_PLANE) as f32 + 0.5);
            let y = corner[1] + step * ((sub / IN_PLANE) as f32 + 0.5);
            let (coarse, fine) = textures.at(x, y, u);
            let texture = 1.0 + 0.07 * coarse + 0.06 * fine;
            // The body changes slowly along the long axis: one sample stands for the whole slice.
            let mut around = None;
            for cut in cuts {
                let tissue = if let Some(point) = cut.point(x, y, fine) {
                    votes[point.label as usize] += 1;
                    point.tissue
                } else {
                    votes[0] += 1;
                    *around.get_or_insert_with(|| body.tissue(x - shift[0], y - shift[1], coarse, fine))
                };
                sum += texture * self.signal[tissue as usize];
            }
        }
        let most = (0..CLASSES).max_by_key(|&class| votes[class]).expect("there are classes");
        (sum / (IN_PLANE * IN_PLANE * THROUGH) as f32, most as u8)
    }

    /// Coil sensitivity times bias at `at` mm, which is (x, y) in units of half the field of view.
    fn gain(&self, at: [f32; 2], x: f32, y: f32) -> f32 {
        let square = (at[0] - self.coil_at[0]).powi(2) + (at[1] - self.coil_at[1]).powi(2);
        let coil = self.coil_floor + (1.0 - self.coil_floor) * (-square / (self.coil * self.coil)).exp();
        let [bx, by, bxx, bxy, byy] = self.bias;
        coil * (bx * x + by * y + bxx * x * x + bxy * x * y + byy * y * y).exp()
    }
}

/// Gaussian blur of standard deviation `sigma` pixels, edges repeated.
fn blur(image: &mut [f32], height: usize, width: usize, sigma: f32) {
    let kernel = crate::data::augment::gaussian(sigma);
    crate::data::augment::convolve(image, height, width, &kernel);
}

/// Scales a volume to `[0, 1]` by its extremes.
fn normalise(image: &mut [f32]) {
    let (low, high) = image.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let range = (high - low).max(f32::MIN_POSITIVE);
    for value in image {
        *value = (*value - low) / range;
    }
}
