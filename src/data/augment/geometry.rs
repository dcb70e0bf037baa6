//! The weak augmentation: where each pixel of the training image comes from.

use rand::Rng;

use super::{Workspace, zoom_indices};
use crate::ops::simd::multiversion;
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
        self.made(source, [height, width], side)
    }

    /// The label `source` (`height`×`width`), transformed and zoomed to `side`×`side`.
    pub fn label(self, source: &[u8], height: usize, width: usize, side: usize) -> Vec<u8> {
        self.made(source, [height, width], side)
    }

    /// Image and label of one slice, `side`×`side` each.
    pub fn both(
        self,
        image: &[f32],
        label: &[u8],
        height: usize,
        width: usize,
        side: usize,
    ) -> (Vec<f32>, Vec<u8>) {
        (self.image(image, height, width, side), self.label(label, height, width, side))
    }

    /// [`Self::grid_into`] with memory of its own.
    pub fn grid(self, height: usize, width: usize, side: usize) -> Vec<f32> {
        let mut grid = vec![0.0; side * side * 2];
        self.grid_into([height, width], &mut grid, side, &mut Workspace::default());
        grid
    }

    fn made<T: Copy + Default>(self, source: &[T], size: [usize; 2], side: usize) -> Vec<T> {
        let mut made = vec![T::default(); side * side];
        self.write(source, size, &mut made, side, &mut Workspace::default());
        made
    }

    /// Writes `source` (rows and columns `size`: an image or a label), transformed and zoomed, into `out`, `side`×`side`.
    ///
    /// # Panics
    /// If a slice has not the length of its size, or the source is empty.
    pub fn write<T: Copy + Default>(
        self,
        source: &[T],
        size: [usize; 2],
        out: &mut [T],
        side: usize,
        workspace: &mut Workspace,
    ) {
        let [height, width] = size;
        assert_eq!(source.len(), height * width, "an image of {height}×{width}");
        assert_eq!(out.len(), side * side, "an image of {side}×{side}");
        match self {
            Self::Rotate { degrees } => {
                let rotation = Rotation::new(degrees, height, width);
                workspace.turn_columns(&rotation, zoom_indices(width, side));
                let mut rows = zoom_indices(height, side).map(|row| row as f64);
                each_row(out, side, &mut rows, |row, out| {
                    rotation.find(row, width, workspace);
                    for (out, &index) in out.iter_mut().zip(&workspace.indices) {
                        *out = if index == OUTSIDE { T::default() } else { source[index as usize] };
                    }
                });
            }
            Self::Identity | Self::Flip { .. } => {
                let (turned_height, turned_width) = match self {
                    Self::Flip { turns, .. } if turns % 2 == 1 => (width, height),
                    _ => (height, width),
                };
                // Rows and columns each choose one coordinate of the source: an index is the sum of two.
                let index = |row, column| {
                    let (y, x) = self.turned_from(row, column, turned_height, turned_width);
                    y * width + x
                };
                let origin = index(0, 0);
                let columns = zoom_indices(turned_width, side);
                workspace.indices.clear();
                workspace
                    .indices
                    .extend(columns.map(|column| (index(0, column) as u32).wrapping_sub(origin as u32)));
                let mut rows = zoom_indices(turned_height, side).map(|row| index(row, 0) as u32);
                each_row(out, side, &mut rows, |row, out| {
                    for (out, &column) in out.iter_mut().zip(&workspace.indices) {
                        *out = source[row.wrapping_add(column) as usize];
                    }
                });
            }
        }
    }

    /// For each pixel of the `side`×`side` image, where it lies in the UN-augmented image (rows and columns `size`) zoomed
    /// to the same `side`×`side`: (y, x) in pixels, `out` being [side, side, 2] row-major; both −1 where the augmented
    /// image has zeros from outside. Turns and flips give whole pixels exactly; a rotation, which is one of the native
    /// image, gives the point without the rounding to whole pixels that the image goes through.
    ///
    /// # Panics
    /// If `out` has not 2·`side`² elements.
    pub fn grid_into(self, size: [usize; 2], out: &mut [f32], side: usize, workspace: &mut Workspace) {
        assert_eq!(out.len(), 2 * side * side, "a grid of {side}×{side}");
        let rows = out.chunks_exact_mut(2 * side).enumerate();
        match self {
            Self::Identity | Self::Flip { .. } => {
                // On the square, turn and flip commute with the zoom: both are symmetries of [0, 1]².
                for (row, out) in rows {
                    for (column, point) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        let (y, x) = self.turned_from(row, column, side, side);
                        *point = [y as f32, x as f32];
                    }
                }
            }
            Self::Rotate { degrees } => {
                let [height, width] = size;
                let rotation = Rotation::new(degrees, height, width);
                let last = side.saturating_sub(1) as f64;
                let scale = |n: usize| if last > 0.0 { (n - 1) as f64 / last } else { 0.0 };
                let (scale_y, scale_x) = (scale(height), scale(width));
                let back = |v: f64, scale: f64| {
                    let v = if scale > 0.0 { v / scale } else { 0.0 };
                    v.clamp(0.0, last) as f32
                };
                workspace.turn_columns(&rotation, zoom_indices(width, side));
                for ((row, out), native_row) in rows.zip(zoom_indices(height, side)) {
                    rotation.find(native_row as f64, width, workspace);
                    let points = out.as_chunks_mut::<2>().0.iter_mut();
                    for (column, (point, &index)) in points.zip(&workspace.indices).enumerate() {
                        let (y, x) = rotation.source(row as f64 * scale_y, column as f64 * scale_x);
                        let inside = [back(y, scale_y), back(x, scale_x)];
                        *point = if index == OUTSIDE { [-1.0; 2] } else { inside };
                    }
                }
            }
        }
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

/// Fills the rows of an image of `side` columns from what `rows` says of each; a row that is said to be the same as the
/// one before it is copied.
fn each_row<T: Copy, R: PartialEq + Copy>(
    out: &mut [T],
    side: usize,
    rows: &mut dyn Iterator<Item = R>,
    mut fill: impl FnMut(R, &mut [T]),
) {
    let mut last = None;
    for (at, row) in rows.enumerate() {
        let start = at * side;
        if last == Some(row) {
            out.copy_within(start - side..start, start);
        } else {
            fill(row, &mut out[start..start + side]);
        }
        last = Some(row);
    }
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

    /// Writes the indices of the source pixels of a row, or [`OUTSIDE`], into `workspace.indices`: those of the columns
    /// that [`Workspace::turn_columns`] was given.
    fn find(&self, row: f64, width: usize, workspace: &mut Workspace) {
        let Workspace { turned, indices, .. } = workspace;
        indices.resize(turned.len(), OUTSIDE);
        // The order of the sums is that of `source`.
        let start = [self.offset[0] + self.cos * row, self.offset[1] - self.sin * row];
        source_indices(start, self.last, width as f64, turned, indices);
    }
}

multiversion! {
    /// The index of the pixel of an image of `width` columns, whose last row and column are `last`, that each of `turned`
    /// beyond `start` falls on.
    #[expect(clippy::needless_bitwise_bool, reason = "a branch would keep the loop out of the vector lanes")]
    fn source_indices(start: [f64; 2], last: [f64; 2], width: f64, turned: &[[f64; 2]], indices: &mut [u32]) {
        for (index, &[along_y, along_x]) in indices.iter_mut().zip(turned) {
            let (y, x) = (start[0] + along_y, start[1] + along_x);
            let inside = (y >= 0.0) & (y <= last[0]) & (x >= 0.0) & (x <= last[1]);
            let at = floor(y + 0.5) * width + floor(x + 0.5);
            // The whole number stands in the low bits.
            let at = (at + WHOLE).to_bits() as u32;
            *index = if inside { at } else { OUTSIDE };
        }
    }
}

/// Adding and taking it away rounds a smaller number to a whole one.
const WHOLE: f64 = (1u64 << 52) as f64;

/// `f64::floor` of numbers from 0 to 2⁵¹, without the call that it is on machines without the instruction.
fn floor(v: f64) -> f64 {
    let near = (v + WHOLE) - WHOLE;
    if near > v { near - 1.0 } else { near }
}

impl Workspace {
    /// Takes what each of `columns` adds to the source of a pixel.
    fn turn_columns(&mut self, rotation: &Rotation, columns: impl Iterator<Item = usize>) {
        self.turned.clear();
        self.turned.extend(columns.map(|column| {
            let column = column as f64;
            [rotation.sin * column, rotation.cos * column]
        }));
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
