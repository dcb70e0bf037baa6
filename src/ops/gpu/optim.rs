//! Optimisers and averages: all tensors in few launches.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::{Gpu, Grid, launch};

/// Tensors of one launch; `MOST_TENSORS` of the kernels.
const MOST: usize = 24;
/// Elements of one block; `STRETCH` of the kernels.
const STRETCH: usize = 8192;
/// Tensors that one update reads or writes, at most.
const ROLES: usize = 5;

/// What happens to each number.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) enum Update {
    /// Of w, v, g and, where there is one, the average: learning rate, momentum, weight decay; then decay and 1 − decay.
    Sgd([f32; 3], [f32; 2]),
    /// Of w, m, v, g and, where there is one, the average: as in [`crate::ops::optim`], then decay and 1 − decay.
    Adam([f32; 7], [f32; 2]),
    /// Of average and value: decay and 1 − decay.
    Ema([f32; 2]),
}

impl Gpu {
    /// Updates many tensors; each row names those that belong together, in the order that `update` says.
    pub(in crate::ops) fn update(&self, update: Update, rows: &[Vec<&Tensor>]) -> Result<()> {
        for rows in rows.chunks(MOST) {
            let mut words = vec![0u64; ROLES * MOST + MOST + MOST + 1 + 1];
            let (pointers, rest) = words.split_at_mut(ROLES * MOST);
            let (lengths, rest) = rest.split_at_mut(MOST);
            let (starts, count) = rest.split_at_mut(MOST + 1);
            let mut blocks = 0;
            for (k, row) in rows.iter().enumerate() {
                let length = row[0].elem_count();
                for (role, tensor) in row.iter().enumerate() {
                    ensure!(tensor.elem_count() == length, "tensors of an update differ in size");
                    pointers[role * MOST + k] = self.backend.address(tensor)?;
                }
                lengths[k] = length as u64;
                starts[k] = blocks as u64;
                blocks += length.div_ceil(STRETCH);
            }
            starts[rows.len()] = blocks as u64;
            count[0] = rows.len() as u64;
            let (grid, words) = (Grid::Blocks(blocks), &words[..]);
            match update {
                Update::Sgd([lr, momentum, weight_decay], [decay, rest]) => {
                    launch!(self, sgd[grid], words, lr, momentum, weight_decay, decay, rest)?;
                }
                Update::Adam([shrink, b1, r1, b2, r2, step, eps], [decay, rest]) => {
                    launch!(self, adam[grid], words, shrink, b1, r1, b2, r2, step, eps, decay, rest)?;
                }
                Update::Ema([decay, rest]) => launch!(self, ema[grid], words, decay, rest)?,
            }
        }
        Ok(())
    }
}
