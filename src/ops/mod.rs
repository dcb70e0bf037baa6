//! Training ops, forward and backward, on the processor and on a GPU: the only place with kernels and `unsafe`.
//!
//! Values are candle tensors (contiguous f32, NCHW); gradients go through a small tape of our own, because candle's
//! are wrong in places and slow (a chain of single-threaded elementary ops):
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mcsd_sweep::ops::{Mode, Sgd, Tape};
//!
//! let w = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
//! let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?;
//! let tape = Tape::new(Mode::Train, 0);
//! let y = tape.linear(&tape.constant(&x), &tape.param(&w), None)?; // 1·3 + 2·4 = 11
//! let loss = tape.mse(&y, &Tensor::new(&[[10f32]], &Device::Cpu)?)?; // 1, slope 2
//! let gradients = tape.backward(&loss)?;
//! Sgd::new(0.9, 0.0).step(&[w.clone()], &gradients, 0.1)?; // w − 0.1·2·x
//! assert!((w.to_vec2::<f32>()?[0][0] - 0.4).abs() < 1e-6);
//! # anyhow::Ok(())
//! ```
//!
//! Every op gives the same bits for any number of threads: sums are taken over fixed chunks and joined in order,
//! random masks are functions of (seed, op, element), on both devices the same. Where a tape computes, and where
//! parameters are made, is the thread's [`Place`].

pub mod affinity;
mod buffer;
mod consistency;
mod conv;
mod elementwise;
mod figure;
mod gpu;
mod grad;
mod loss;
pub mod map;
mod math;
mod matmul;
mod memory;
mod mutual;
mod norm;
mod optim;
mod pool;
mod pyramid;
mod random;
mod resize;
mod shape;
mod similarity;
pub mod simd;
mod tape;
mod tokens;

pub use figure::Figure;
pub use gpu::{Place, Precision, Rows, gpus};
pub use loss::{softmax_confidence, softmax_eval};
pub(crate) use memory::give_back_memory;
pub use norm::BatchNorm;
pub use optim::{AdamW, Sgd, ema, poly_lr};
pub use tape::{Gradients, Mode, Tape, Var, scalar};
pub use tokens::{Rearrangement, Windows};

#[cfg(test)]
mod tests;
