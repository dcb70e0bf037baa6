//! CutMix: a box of another image (and of its pseudo-label) pasted in.

use rand::Rng;

/// The box's share of the image.
const AREA: (f64, f64) = (0.02, 0.4);
/// Height over width of the box.
const RATIO: (f64, f64) = (0.3, 1.0 / 0.3);

/// A box of a square image, in pixels; it lies inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutMix {
    /// First row.
    pub y: usize,
    /// First column.
    pub x: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl CutMix {
    /// With probability `p`, a box in an image of `side`×`side`: area A ~ U(0.02, 0.4)·side², then ratio
    /// r ~ U(0.3, 1/0.3), ⌊√(A·r)⌋×⌊√(A/r)⌋ at a uniform corner, ratio and corner again until it lies inside.
    pub fn draw(rng: &mut impl Rng, side: usize, p: f64) -> Option<Self> {
        if rng.random::<f64>() >= p {
            return None;
        }
        let area = rng.random_range(AREA.0..AREA.1) * (side * side) as f64;
        loop {
            let ratio = rng.random_range(RATIO.0..RATIO.1);
            let (height, width) = ((area * ratio).sqrt() as usize, (area / ratio).sqrt() as usize);
            let (x, y) = (rng.random_range(0..side), rng.random_range(0..side));
            if x + width <= side && y + height <= side {
                return Some(Self { y, x, height, width });
            }
        }
    }

    /// Copies the box from `source` into `target`: one or more planes of `side`×`side`, of intensities, labels or
    /// confidences.
    ///
    /// # Panics
    /// If the two differ in length, or hold no whole planes.
    pub fn apply<T: Copy>(&self, target: &mut [T], source: &[T], side: usize) {
        assert_eq!(target.len(), source.len(), "planes to mix are of the same size");
        assert_eq!(target.len() % (side * side), 0, "planes to mix are whole");
        let planes = target.chunks_exact_mut(side * side).zip(source.chunks_exact(side * side));
        for (target, source) in planes {
            for y in self.y..self.y + self.height {
                let row = y * side + self.x..y * side + self.x + self.width;
                target[row.clone()].copy_from_slice(&source[row]);
            }
        }
    }

    /// Sets the box in `target`, one or more planes of `side`×`side`.
    ///
    /// # Panics
    /// If `target` holds no whole planes.
    pub fn fill<T: Copy>(&self, target: &mut [T], value: T, side: usize) {
        assert_eq!(target.len() % (side * side), 0, "planes to fill are whole");
        for plane in target.chunks_exact_mut(side * side) {
            for row in plane.chunks_exact_mut(side).skip(self.y).take(self.height) {
                row[self.x..self.x + self.width].fill(value);
            }
        }
    }
}
