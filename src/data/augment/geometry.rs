//! The weak augmentation: where each pixel of the training image comes from.

use rand::Rng;

use super::{zoom_indices, zoom_nearest};
use crate::spec::settings::AugmentSettings;

/// Stands for a pixel outside the source.
const OUTSIDE: u32 = u32::MAX;

/// A weak augmentation: a geometric transform at native size. [`Geometry::image`] and [`Geometry::label`] apply it and
/// then zoom to the square training size; [`Geometry::grid`] says the same for maps that belong to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// Nothing but the zoom.
    Identity,
    /// `turns` right angles counter-clockwise (`numpy.rot90`), then the flip of `axis` (0: rows, 1: columns).
    Flip {
        /// 0–3.
        turns: u8,
        /// 0 or 1.
        axis: u8,
    },
    /// A rotation about the centre by whole degrees, nearest neighbour, zeros from outside
    /// (`scipy.ndimage.rotate(order=0, reshape=False)`).
    Rotate {
        /// Degrees, counter-clockwise as the image is seen; −20 to 19 as drawn.
        degrees: i32,
    },
}

impl Geometry {
    /// Draws one: with probability `flip` a turn with a flip, else with probability `rotate` a rotation, else nothing
    /// (0.5/0.25/0.25 with the defaults).
    pub fn draw(rng: &mut impl Rng, settings: &AugmentSettings) -> Self {
        if rng.random::<f64>() < settings.flip {
            Self::Flip { turns: rng.random_range(0..4), axis: rng.random_range(0..2) }
        } else if rng.random::<f64>() < settings.rotate {
            Self::Rotate { degrees: rng.random_range(-20..20) }
        } else {
            Self::Identity
        }
    }

    /// No augmentation: just the zoom.
    pub const fn identity() -> Self {
        Self::Identity
    }

    /// The image `source` (`height`×`width`), transformed and zoomed to `side`×`side`.
    pub fn image(self, source: &[f32], height: usize, width: usize, side: usize) -> Vec<f32> {
        self.apply(source, height, width, side)
    }

    /// The label `source` (`height`×`width`), transformed and zoomed to `side`×`side`.
    pub fn label(self, source: &[u8], height: usize, width: usize, side: usize) -> Vec<u8> {
        self.apply(source, height, width, side)
    }

    /// Image and label of one slice in one pass, `side`×`side` each.
    pub fn both(
        self,
        image: &[f32],
        label: &[u8],
        height: usize,
        width: usize,
        side: usize,
    ) -> (Vec<f32>, Vec<u8>) {
        let map = self.map(height, width, side);
        (gather(image, &map), gather(label, &map))
    }

    /// For each pixel of the `side`×`side` image, where it lies in the UN-augmented image zoomed to the same
    /// `side`×`side`: (y, x) in pixels, [side, side, 2] row-major; both −1 where the augmented image has zeros from
    /// outside. Turns and flips give whole pixels exactly; a rotation, which is one of the native
    /// `height`×`width` image, gives the point without the rounding to whole pixels that the image goes through.
    pub fn grid(self, height: usize, width: usize, side: usize) -> Vec<f32> {
        let mut grid = Vec::with_capacity(side * side * 2);
        let last = side.saturating_sub(1);
        match self {
            Self::Identity | Self::Flip { .. } => {
                // On the square, turn and flip commute with the zoom: both are symmetries of [0, 1]².
                for row in 0..side {
                    for column in 0..side {
                        let (y, x) = self.turned_from(row, column, side, side);
                        grid.extend([y as f32, x as f32]);
                    }
                }
            }
            Self::Rotate { degrees } => {
                let rotation = Rotation::new(degrees, height, width);
                let scale = |n: usize| if last > 0 { (n - 1) as f64 / last as f64 } else { 0.0 };
                let (scale_y, scale_x) = (scale(height), scale(width));
                let back = |v: f64, scale: f64| {
                    let v = if scale > 0.0 { v / scale } else { 0.0 };
                    v.clamp(0.0, last as f64) as f32
                };
                let columns: Vec<usize> = zoom_indices(width, side).collect();
                for (row, native_row) in zoom_indices(height, side).enumerate() {
                    for (column, &native_column) in columns.iter().enumerate() {
                        if rotation.nearest(native_row, native_column).is_none() {
                            grid.extend([-1.0, -1.0]);
                            continue;
                        }
                        let (y, x) = rotation.source(row as f64 * scale_y, column as f64 * scale_x);
                        grid.extend([back(y, scale_y), back(x, scale_x)]);
                    }
                }
            }
        }
        grid
    }

    fn apply<T: Copy + Default>(self, source: &[T], height: usize, width: usize, side: usize) -> Vec<T> {
        assert_eq!(source.len(), height * width, "an image of {height}×{width}");
        match self {
            Self::Identity => zoom_nearest(source, height, width, side, side),
            _ => gather(source, &self.map(height, width, side)),
        }
    }

    /// For each pixel of the result, the index of its source pixel, or [`OUTSIDE`].
    fn map(self, height: usize, width: usize, side: usize) -> Vec<u32> {
        let (turned_height, turned_width) = match self {
            Self::Flip { turns, .. } if turns % 2 == 1 => (width, height),
            _ => (height, width),
        };
        let rotation = match self {
            Self::Rotate { degrees } => Some(Rotation::new(degrees, height, width)),
            _ => None,
        };
        let columns: Vec<usize> = zoom_indices(turned_width, side).collect();
        let mut map = Vec::with_capacity(side * side);
        for row in zoom_indices(turned_height, side) {
            map.extend(columns.iter().map(|&column| {
                let source = match &rotation {
                    Some(rotation) => rotation.nearest(row, column),
                    None => Some(self.turned_from(row, column, turned_height, turned_width)),
                };
                source.map_or(OUTSIDE, |(y, x)| (y * width + x) as u32)
            }));
        }
        map
    }

    /// Where the pixel (row, column) of a turned and flipped `height`×`width` image comes from.
    fn turned_from(self, row: usize, column: usize, height: usize, width: usize) -> (usize, usize) {
        let Self::Flip { turns, axis } = self else { return (row, column) };
        let (row, column) = match axis {
            0 => (height - 1 - row, column),
            _ => (row, width - 1 - column),
        };
        match turns % 4 {
            0 => (row, column),
            1 => (column, height - 1 - row),
            2 => (height - 1 - row, width - 1 - column),
            _ => (width - 1 - column, row),
        }
    }
}

/// `source` at the indices of `map`, zero outside.
fn gather<T: Copy + Default>(source: &[T], map: &[u32]) -> Vec<T> {
    map.iter().map(|&index| if index == OUTSIDE { T::default() } else { source[index as usize] }).collect()
}

/// A rotation about the centre of a `height`×`width` image.
struct Rotation {
    cos: f64,
    sin: f64,
    offset: [f64; 2],
    last: [f64; 2],
}

impl Rotation {
    fn new(degrees: i32, height: usize, width: usize) -> Self {
        let (sin, cos) = sin_cos_degrees(degrees);
        let centre = [(height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0];
        let turned = [cos * centre[0] + sin * centre[1], -sin * centre[0] + cos * centre[1]];
        Self {
            cos,
            sin,
            offset: [centre[0] - turned[0], centre[1] - turned[1]],
            last: [height as f64 - 1.0, width as f64 - 1.0],
        }
    }

    /// The source of the point (y, x), in pixels. The order of the sums is SciPy's.
    fn source(&self, y: f64, x: f64) -> (f64, f64) {
        (self.offset[0] + self.cos * y + self.sin * x, self.offset[1] - self.sin * y + self.cos * x)
    }

    /// The pixel that the pixel (row, column) comes from, or nothing outside the image.
    fn nearest(&self, row: usize, column: usize) -> Option<(usize, usize)> {
        let (y, x) = self.source(row as f64, column as f64);
        let inside = |v: f64, last: f64| (0.0..=last).contains(&v);
        (inside(y, self.last[0]) && inside(x, self.last[1]))
            .then(|| ((y + 0.5).floor() as usize, (x + 0.5).floor() as usize))
    }
}

/// Sine and cosine of whole degrees, exact at multiples of 90.
fn sin_cos_degrees(degrees: i32) -> (f64, f64) {
    match degrees.rem_euclid(360) {
        0 => (0.0, 1.0),
        90 => (1.0, 0.0),
        180 => (0.0, -1.0),
        270 => (-1.0, 0.0),
        _ => f64::from(degrees).to_radians().sin_cos(),
    }
}
