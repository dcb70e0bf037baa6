//! The published extractor's reduction: a new random 1×1 convolution for each image, never trained (`specs` §10.6).

use anyhow::Result;
use candle_core::Tensor;

use crate::diffusion::reduction::Reduction;
use crate::diffusion::unet::BlockShape;
use crate::nn::params::Builder;
use crate::ops::{Mode, Tape, Var};
use crate::rng::stream_seed;

/// Draws a reduction for every image, from its own diffusion features: the same image always gets the same one, as
/// features that are extracted and reduced once would have it.
#[derive(Debug)]
pub(super) struct PerImage {
    dim: usize,
    maps: Vec<BlockShape>,
    seed: u64,
}

impl PerImage {
    pub(super) fn new(dim: usize, maps: &[BlockShape], seed: u64) -> Self {
        Self { dim, maps: maps.to_vec(), seed }
    }

    /// As [`Reduction::forward`], without gradient.
    pub(super) fn forward(
        &self,
        tape: &Tape,
        maps: &[Tensor],
        side: usize,
        grid: Option<&Tensor>,
    ) -> Result<Var> {
        let images = maps.first().map_or(Ok(0), |map| map.dim(0))?;
        let mut reduced = Vec::with_capacity(images);
        for image in 0..images {
            let own = |all: &Tensor| all.narrow(0, image, 1)?.contiguous();
            let maps = maps.iter().map(own).collect::<candle_core::Result<Vec<_>>>()?;
            let grid = grid.map(own).transpose()?;
            let mut builder = Builder::new(stream_seed(self.seed, "reduction of an image", print(&maps[0])?));
            let reduction = Reduction::new(&mut builder, self.dim, &self.maps, false)?;
            let tape = Tape::new(Mode::Eval, 0);
            reduced.push(reduction.forward(&tape, &maps, side, grid.as_ref())?.value().clone());
        }
        Ok(tape.constant(&Tensor::cat(&reduced, 0)?))
    }
}

/// A number that tells maps apart.
fn print(map: &Tensor) -> Result<u64> {
    let mut hash = blake3::Hasher::new();
    for value in map.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()? {
        hash.update(&value.to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    Ok(u64::from_le_bytes(first))
}
