//! Smooth random fields and normal deviates.

use std::f32::consts::TAU;

use rand::Rng;

/// Cells of a field's lattice along each side; a power of two, so that wrapping is a mask.
const SIDE: usize = 64;

/// A smooth random field in the plane, about [−1, 1], that repeats every 64 cells: value noise.
pub(super) struct Field {
    lattice: Vec<f32>,
}

impl Field {
    /// A field drawn from `rng`.
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        Self { lattice: (0..SIDE * SIDE).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect() }
    }

    /// The value at (x, y), in cells.
    pub(super) fn at(&self, x: f32, y: f32) -> f32 {
        let (column, row) = (x.floor(), y.floor());
        let (s, t) = (ease(x - column), ease(y - row));
        let wrap = |value: f32, step: i32| ((value as i32 + step) as usize) & (SIDE - 1);
        let (left, right) = (wrap(column, 0), wrap(column, 1));
        let (top, bottom) = (wrap(row, 0) * SIDE, wrap(row, 1) * SIDE);
        let above = mix(self.lattice[top + left], self.lattice[top + right], s);
        let below = mix(self.lattice[bottom + left], self.lattice[bottom + right], s);
        mix(above, below, t)
    }
}

/// The cubic 3t²−2t³: flat at both ends of `[0, 1]`, so that the lattice does not show.
fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Two independent standard normal deviates (Box and Muller).
pub(super) fn normal_pair(rng: &mut impl Rng) -> (f32, f32) {
    // 1 − u lies in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    let (sin, cos) = (TAU * rng.random::<f32>()).sin_cos();
    (radius * cos, radius * sin)
}

/// A normal deviate, cut off at ±2 standard deviations.
pub(super) fn normal(rng: &mut impl Rng, mean: f32, deviation: f32) -> f32 {
    mean + deviation * normal_pair(rng).0.clamp(-2.0, 2.0)
}
