//! Layers: parameters and the op that uses them. Names and starts are PyTorch's.

use anyhow::Result;
use candle_core::Tensor;

use super::params::{Builder, Init};
use crate::ops::{BatchNorm as BatchNormConfig, Tape, Var};

/// Channels times positions of a group norm's group, in guided-diffusion.
const GROUPS: usize = 32;
/// Added to the variance by all norms, PyTorch's default.
const EPS: f64 = 1e-5;

/// A 2-D convolution with bias: `[B, in, H, W]` → `[B, out, H/stride, W/stride]`.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

impl Conv {
    /// A `kernel`×`kernel` convolution called `name`, stride 1, that keeps the size.
    pub fn new(b: &mut Builder, name: &str, from: usize, to: usize, kernel: usize) -> Result<Self> {
        Self::starting(b, name, [from, to, kernel, 1], Init::fan_in(from * kernel * kernel))
    }

    /// As [`Self::new`] with stride 2.
    pub fn halving(b: &mut Builder, name: &str, from: usize, to: usize, kernel: usize) -> Result<Self> {
        Self::starting(b, name, [from, to, kernel, 2], Init::fan_in(from * kernel * kernel))
    }

    /// As [`Self::new`], starting at zero.
    pub fn zeroed(b: &mut Builder, name: &str, from: usize, to: usize, kernel: usize) -> Result<Self> {
        Self::starting(b, name, [from, to, kernel, 1], Init::Constant(0.0))
    }

    fn starting(
        b: &mut Builder,
        name: &str,
        [from, to, kernel, stride]: [usize; 4],
        init: Init,
    ) -> Result<Self> {
        b.within(name, |b| {
            Ok(Self {
                weight: b.param("weight", &[to, from, kernel, kernel], init)?,
                bias: b.param("bias", &[to], init)?,
                stride,
                padding: kernel / 2,
            })
        })
    }

    /// The convolution of `x`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (weight, bias) = (tape.param(&self.weight), tape.param(&self.bias));
        tape.conv2d(x, &weight, Some(&bias), self.stride, self.padding)
    }
}

/// A linear layer with bias: `[…, in]` → `[…, out]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// A linear layer called `name`.
    pub fn new(b: &mut Builder, name: &str, from: usize, to: usize) -> Result<Self> {
        b.within(name, |b| {
            Ok(Self {
                weight: b.param("weight", &[to, from], Init::fan_in(from))?,
                bias: b.param("bias", &[to], Init::fan_in(from))?,
            })
        })
    }

    /// The linear map of `x`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        tape.linear(x, &tape.param(&self.weight), Some(&tape.param(&self.bias)))
    }
}

/// A convolution over positions of size 1 (PyTorch's `Conv1d` with kernel 1) on maps: `[B, in, H, W]` → `[B, out, H, W]`.
#[derive(Debug)]
pub struct Pointwise {
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    /// A layer called `name`, starting as PyTorch's default or at zero.
    pub fn new(b: &mut Builder, name: &str, from: usize, to: usize, zero: bool) -> Result<Self> {
        let init = if zero { Init::Constant(0.0) } else { Init::fan_in(from) };
        b.within(name, |b| {
            Ok(Self { weight: b.param("weight", &[to, from, 1], init)?, bias: b.param("bias", &[to], init)? })
        })
    }

    /// The 1×1 convolution of `x`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (to, from, _) = self.weight.dims3()?;
        let weight = tape.reshape(&tape.param(&self.weight), &[to, from, 1, 1])?;
        tape.conv2d(x, &weight, Some(&tape.param(&self.bias)), 1, 0)
    }
}

/// Batch norm (momentum 0.1, ε 1e-5), always followed by LeakyReLU and dropout.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// A batch norm of `channels` called `name`.
    pub fn new(b: &mut Builder, name: &str, channels: usize) -> Result<Self> {
        b.within(name, |b| {
            Ok(Self {
                weight: b.param("weight", &[channels], Init::Constant(1.0))?,
                bias: b.param("bias", &[channels], Init::Constant(0.0))?,
                running_mean: b.buffer("running_mean", &[channels], Init::Constant(0.0))?,
                running_var: b.buffer("running_var", &[channels], Init::Constant(1.0))?,
            })
        })
    }

    /// [`Self::leaky_dropout`] of the convolution `conv` of `x`; in eval mode the two are one convolution.
    pub fn leaky_dropout_of(&self, tape: &Tape, conv: &Conv, x: &Var, slope: f64, p: f64) -> Result<Var> {
        if !tape.mode().trains() && conv.stride != 1 {
            return self.leaky_dropout(tape, &conv.forward(tape, x)?, slope, p);
        }
        let weights = (tape.param(&conv.weight), tape.param(&conv.bias));
        let affine = (tape.param(&self.weight), tape.param(&self.bias));
        let running = (&self.running_mean, &self.running_var);
        let config = BatchNormConfig { momentum: 0.1, eps: EPS };
        let (w, a) = ((&weights.0, &weights.1), (&affine.0, &affine.1));
        if tape.mode().trains() {
            let steps = [conv.stride, conv.padding];
            return tape.conv2d_norm_leaky_dropout(x, w, a, running, config, slope, p, steps);
        }
        tape.conv2d_folded_norm_leaky(x, w, a, running, config, slope, conv.padding)
    }

    /// Norm, LeakyReLU with this `slope`, dropout with probability `p` of `x [B, C, H, W]`.
    pub fn leaky_dropout(&self, tape: &Tape, x: &Var, slope: f64, p: f64) -> Result<Var> {
        let (gamma, beta) = (tape.param(&self.weight), tape.param(&self.bias));
        let (mean, var) = (&self.running_mean, &self.running_var);
        let config = BatchNormConfig { momentum: 0.1, eps: EPS };
        tape.batch_norm_leaky_dropout(x, &gamma, &beta, mean, var, config, slope, p)
    }
}

/// Group norm with 32 groups (ε 1e-5).
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
}

impl GroupNorm {
    /// A group norm of `channels` (a multiple of 32) called `name`.
    pub fn new(b: &mut Builder, name: &str, channels: usize) -> Result<Self> {
        b.within(name, |b| {
            Ok(Self {
                weight: b.param("weight", &[channels], Init::Constant(1.0))?,
                bias: b.param("bias", &[channels], Init::Constant(0.0))?,
            })
        })
    }

    /// The norm of `x [B, C, H, W]`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        tape.group_norm(x, &tape.param(&self.weight), &tape.param(&self.bias), GROUPS, EPS)
    }

    /// SiLU of the norm of `x [B, C, H, W]`.
    pub fn silu(&self, tape: &Tape, x: &Var) -> Result<Var> {
        tape.group_norm_silu(x, &tape.param(&self.weight), &tape.param(&self.bias), GROUPS, EPS)
    }

    /// Norm, ·(1 + scale) + shift where there is such a pair (`[B, C]` each), SiLU and dropout with probability `p` of
    /// `x [B, C, H, W]`.
    pub fn modulate_silu_dropout(
        &self,
        tape: &Tape,
        x: &Var,
        modulation: Option<(&Var, &Var)>,
        p: f64,
    ) -> Result<Var> {
        let (gamma, beta) = (tape.param(&self.weight), tape.param(&self.bias));
        tape.group_norm_modulate_silu_dropout(x, &gamma, &beta, modulation, GROUPS, EPS, p)
    }
}
