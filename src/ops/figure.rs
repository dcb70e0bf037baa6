//! Figures of a step, for its curve: at hand, or on a GPU until somebody reads them. Reading waits for the GPU; a step that
//! reads nothing can be followed by the next one while the GPU is still busy with it.

use std::ops::{Add, Mul};

use anyhow::Result;
use candle_core::Tensor;

use super::scalar;

/// A number, or a sum of numbers some of which are still on a GPU.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    known: f64,
    /// Scalars with their factors.
    waiting: Vec<(f64, Tensor)>,
}

impl Figure {
    /// The number in a scalar.
    ///
    /// # Errors
    /// Where it is none.
    pub fn of(value: &Tensor) -> Result<Self> {
        if value.device().is_cpu() {
            return Ok(Self { known: f64::from(scalar(value)?), waiting: Vec::new() });
        }
        Ok(Self { known: 0.0, waiting: vec![(1.0, value.clone())] })
    }

    /// The number. Waits for the GPU that computes it, if one does.
    ///
    /// # Errors
    /// Of that GPU.
    pub fn read(&self) -> Result<f64> {
        self.waiting
            .iter()
            .try_fold(self.known, |sum, (factor, value)| Ok(sum + factor * f64::from(scalar(value)?)))
    }
}

impl Add for Figure {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.known += other.known;
        self.waiting.extend(other.waiting);
        self
    }
}

impl Mul<Figure> for f64 {
    type Output = Figure;

    fn mul(self, mut figure: Figure) -> Figure {
        figure.known *= self;
        figure.waiting.iter_mut().for_each(|(factor, _)| *factor *= self);
        figure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn sums_and_multiples_are_those_of_the_numbers() {
        let scalar = |x: f32| Tensor::new(x, &Device::Cpu).unwrap();
        let known = Figure::of(&scalar(3.0)).unwrap();
        let waiting = Figure { known: 0.0, waiting: vec![(1.0, scalar(8.0))] };
        assert_eq!((0.5 * known.clone()).read().unwrap(), 1.5);
        assert_eq!((0.5 * (known + waiting.clone()) + waiting).read().unwrap(), 13.5);
        assert_eq!(Figure::default().read().unwrap(), 0.0);
    }
}
