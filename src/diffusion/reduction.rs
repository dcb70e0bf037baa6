//! The reduction of diffusion features to a few channels: a 1×1 convolution of all maps at full resolution, computed
//! without ever building them there. Both bilinear sampling and a 1×1 convolution are linear, and a pixel's sampling
//! weights sum to 1, so `Σ_j W_j·Up(f_j) + b = Σ Up(Σ W_j·f_j + b)`, where the inner sum runs over maps of one size.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};

use super::unet::BlockShape;
use crate::nn::params::{Builder, Init};
use crate::ops::{Tape, Var};

/// The reduction to `dim` channels. Its matrix `weight [dim, ΣC, 1, 1]` has the maps' channels in the order in which
/// the maps are given: steps outside, blocks inside, as the reference concatenates them.
#[derive(Debug)]
pub struct Reduction {
    weight: Tensor,
    bias: Tensor,
    maps: Vec<BlockShape>,
    learned: bool,
}

/// The shapes of the maps of `steps` diffusion steps, each with the same `blocks`: the order of [`Reduction`]'s maps.
pub fn map_shapes(steps: usize, blocks: &[BlockShape]) -> Vec<BlockShape> {
    std::iter::repeat_n(blocks, steps).flatten().copied().collect()
}

impl Reduction {
    /// A reduction of maps of these shapes, starting as PyTorch's `Conv2d(ΣC, dim, 1)`. Unless `learned`, it stays as
    /// it starts: its two tensors are buffers.
    pub fn new(b: &mut Builder, dim: usize, maps: &[BlockShape], learned: bool) -> Result<Self> {
        let channels: usize = maps.iter().map(|map| map.channels).sum();
        ensure!(dim > 0 && channels > 0, "a reduction of {channels} to {dim} channels");
        let build = |b: &mut Builder| {
            let init = Init::fan_in(channels);
            Ok((b.param("weight", &[dim, channels, 1, 1], init)?, b.param("bias", &[dim], init)?))
        };
        let (weight, bias) = if learned { build(b)? } else { b.frozen(build)? };
        Ok(Self { weight, bias, maps: maps.to_vec(), learned })
    }

    /// The reduced maps `[B, dim, side, side]` of `maps`, each `[B, C, h, w]` in f32 or f16.
    ///
    /// With a `grid` (`[B, side, side, 2]`, see [`Tape::sample`]) they come out moved as the image is moved, and are 0
    /// where it leaves the image; without one they are up-sampled (bilinear, corners not aligned).
    pub fn forward(&self, tape: &Tape, maps: &[Tensor], side: usize, grid: Option<&Tensor>) -> Result<Var> {
        self.check(maps)?;
        let mut sizes: Vec<usize> = self.maps.iter().map(|map| map.side).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut sum: Option<Var> = None;
        for (index, size) in sizes.iter().enumerate() {
            // The bias once, where it costs least.
            let reduced = self.reduce(tape, maps, *size, index == 0)?;
            let part = match grid {
                Some(grid) => tape.sample(&reduced, grid)?,
                None if *size == side => reduced,
                None => tape.upsample_bilinear(&reduced, (side, side), false)?,
            };
            sum = Some(match sum {
                None => part,
                Some(sum) => tape.add(&sum, &part)?,
            });
        }
        sum.context("a reduction of no maps")
    }

    /// `Σ W_j·f_j` over the maps of `size`, at that size, `[B, dim, size, size]`.
    fn reduce(&self, tape: &Tape, maps: &[Tensor], size: usize, bias: bool) -> Result<Var> {
        let leaf = |t: &Tensor| if self.learned { tape.param(t) } else { tape.constant(t) };
        let weight = leaf(&self.weight);
        let mut bias = bias.then(|| leaf(&self.bias));
        let (mut sum, mut start): (Option<Var>, usize) = (None, 0);
        for (shape, map) in self.maps.iter().zip(maps) {
            if shape.side == size {
                let part = tape.narrow(&weight, 1, start, shape.channels)?;
                let map = tape.constant(&map.to_dtype(DType::F32)?.contiguous()?);
                let reduced = tape.conv2d(&map, &part, bias.take().as_ref(), 1, 0)?;
                sum = Some(match sum {
                    None => reduced,
                    Some(sum) => tape.add(&sum, &reduced)?,
                });
            }
            start += shape.channels;
        }
        Ok(sum.expect("a size is that of a map"))
    }

    fn check(&self, maps: &[Tensor]) -> Result<()> {
        ensure!(
            maps.len() == self.maps.len(),
            "a reduction of {} maps was given {}",
            self.maps.len(),
            maps.len()
        );
        for (index, (map, shape)) in maps.iter().zip(&self.maps).enumerate() {
            let (_, channels, height, width) = map.dims4()?;
            ensure!(
                (channels, height, width) == (shape.channels, shape.side, shape.side),
                "map {index} is {:?}, expected {} channels of {2}×{2}",
                map.dims(),
                shape.channels,
                shape.side
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::params::Params;
    use crate::nn::testing::{Fixture, close, fill, values, vec64};
    use crate::ops::Mode;
    use candle_core::Device;

    const SIDE: usize = 16;

    fn shapes() -> Vec<BlockShape> {
        let blocks = [(6, 4), (4, 8), (3, 16)].map(|(channels, side)| BlockShape { channels, side });
        map_shapes(2, &blocks)
    }

    fn maps() -> Vec<Tensor> {
        let map = |(k, shape): (usize, &BlockShape)| {
            values(&format!("map{k}"), &[2, shape.channels, shape.side, shape.side])
        };
        shapes().iter().enumerate().map(map).collect()
    }

    fn build(learned: bool) -> (Reduction, Params) {
        let mut builder = Builder::new(0);
        let reduction = Reduction::new(&mut builder, 5, &shapes(), learned).unwrap();
        let params = builder.finish();
        fill(&params);
        (reduction, params)
    }

    /// The grid of pixel centres: it moves nothing.
    fn centres() -> Tensor {
        let one = (0..SIDE * SIDE).flat_map(|at| [(at / SIDE) as f32, (at % SIDE) as f32]);
        let both: Vec<f32> = one.clone().chain(one).collect();
        Tensor::from_vec(both, (2, SIDE, SIDE, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn equals_convolving_up_sampled_maps() {
        let fixture = Fixture::open("nn_reduction");
        let (reduction, params) = build(true);
        for grid in [None, Some(centres())] {
            let tape = Tape::new(Mode::Train, 0);
            let reduced = reduction.forward(&tape, &maps(), SIDE, grid.as_ref()).unwrap();
            close(reduced.value(), &fixture["y"], 1e-5, "reduced maps");
            let loss = tape.mse(&reduced, &values("target", &[2, 5, SIDE, SIDE])).unwrap();
            let gradients = tape.backward(&loss).unwrap();
            let gradient = |name| gradients.get(params.get(name).unwrap()).unwrap();
            close(gradient("weight"), &fixture["dw"], 1e-5, "gradient of the weight");
            close(gradient("bias"), &fixture["db"], 1e-5, "gradient of the bias");
        }
    }

    #[test]
    fn a_grid_moves_the_reduced_maps() {
        let (reduction, _) = build(true);
        let tape = Tape::new(Mode::Eval, 0);
        let plain = vec64(reduction.forward(&tape, &maps(), SIDE, None).unwrap().value());
        // Mirrored left to right, and the first row outside of the image.
        let flip = (0..SIDE * SIDE).flat_map(|at| {
            let outside = at < SIDE;
            [if outside { -1.0 } else { (at / SIDE) as f32 }, (SIDE - 1 - at % SIDE) as f32]
        });
        let both: Vec<f32> = flip.clone().chain(flip).collect();
        let grid = Tensor::from_vec(both, (2, SIDE, SIDE, 2), &Device::Cpu).unwrap();
        let moved = vec64(reduction.forward(&tape, &maps(), SIDE, Some(&grid)).unwrap().value());
        for (at, value) in moved.iter().enumerate() {
            let (row, x) = (at / SIDE, at % SIDE);
            let expected = if row % SIDE == 0 { 0.0 } else { plain[row * SIDE + SIDE - 1 - x] };
            assert!((value - expected).abs() < 1e-5, "{value} at {at}, expected {expected}");
        }
    }

    #[test]
    fn half_precision_maps_are_taken() {
        let (reduction, _) = build(true);
        let tape = Tape::new(Mode::Eval, 0);
        let halves: Vec<Tensor> = maps().iter().map(|map| map.to_dtype(DType::F16).unwrap()).collect();
        let found = reduction.forward(&tape, &halves, SIDE, None).unwrap();
        let expected = reduction.forward(&tape, &maps(), SIDE, None).unwrap();
        close(found.value(), expected.value(), 1e-3, "maps from f16");
    }

    #[test]
    fn a_fixed_reduction_has_nothing_to_train() {
        let (reduction, params) = build(false);
        assert_eq!((params.trainable().len(), params.buffers().count()), (0, 2));
        let tape = Tape::new(Mode::Train, 0);
        let x = tape.param(&values("bias", &[2, 5, SIDE, SIDE]));
        let sum = tape.add(&x, &reduction.forward(&tape, &maps(), SIDE, None).unwrap()).unwrap();
        let loss = tape.mse(&sum, &values("target", &[2, 5, SIDE, SIDE])).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        assert!(params.buffers().all(|tensor| gradients.get(tensor).is_none()));
    }

    #[test]
    fn starts_as_a_convolution_of_all_channels() {
        let mut builder = Builder::new(0);
        Reduction::new(&mut builder, 30, &map_shapes(3, &[BlockShape { channels: 2560, side: 16 }]), true)
            .unwrap();
        let params = builder.finish();
        assert_eq!(params.count(), 230_430);
        let largest = vec64(&params.trainable()[0]).iter().fold(0f64, |max, w| max.max(w.abs()));
        assert!((largest - 7680f64.sqrt().recip()).abs() < 1e-5, "largest weight {largest}");
    }

    #[test]
    fn wrong_maps_are_named() {
        let (reduction, _) = build(true);
        let tape = Tape::new(Mode::Eval, 0);
        let mut wrong = maps();
        wrong.swap(0, 1);
        let error = reduction.forward(&tape, &wrong, SIDE, None).unwrap_err().to_string();
        assert!(error.contains("map 0") && error.contains("6 channels of 4×4"), "{error}");
        assert!(reduction.forward(&tape, &maps()[1..], SIDE, None).is_err());
    }
}
