//! Gradients on their way back: vectors of this process, or tensors on a GPU.

use std::ops::Deref;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use candle_core::{Shape, Tensor};
use rayon::prelude::*;

use super::buffer::{self, CHUNK};
use super::gpu::Gpu;
use super::tape::NodeId;

/// The gradient of one value.
pub(super) enum Grad {
    Host(Vec<f32>),
    Device(DeviceGrad),
}

/// A gradient on a GPU. Clones share it; nobody writes into what is shared.
#[derive(Clone)]
pub(super) struct DeviceGrad(Rc<Tensor>);

impl From<Tensor> for DeviceGrad {
    fn from(tensor: Tensor) -> Self {
        Self(Rc::new(tensor))
    }
}

impl Deref for DeviceGrad {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl DeviceGrad {
    /// The gradient as a tensor that may be written into.
    fn own(self, gpu: &Gpu) -> Result<Tensor> {
        Rc::try_unwrap(self.0).or_else(|shared| gpu.duplicate(&shared))
    }
}

impl Grad {
    /// For an op that computes on the processor.
    pub(super) fn into_host(self) -> Result<Vec<f32>> {
        match self {
            Self::Host(values) => Ok(values),
            Self::Device(tensor) => Ok(tensor.flatten_all()?.to_vec1()?),
        }
    }

    /// For an op that computes on `gpu`.
    pub(super) fn into_device(self, gpu: &Gpu) -> Result<DeviceGrad> {
        match self {
            Self::Host(values) => {
                let len = values.len();
                Ok(gpu.upload(values, len)?.into())
            }
            Self::Device(tensor) => Ok(tensor),
        }
    }

    /// As the gradient of a parameter of this shape.
    pub(super) fn into_tensor(self, shape: Shape) -> Result<Tensor> {
        match self {
            Self::Host(values) => buffer::tensor(values, shape),
            Self::Device(tensor) => Ok(tensor.reshape(shape)?),
        }
    }
}

/// What has arrived at each value. An op gets the gradient of its output and adds those of its inputs.
pub(super) struct Sink {
    slots: Vec<Option<Grad>>,
    /// The first error of an addition that could not return it.
    error: Option<anyhow::Error>,
}

impl Sink {
    /// For `count` values, of which `start` has the gradient `one`.
    pub(super) fn new(count: usize, start: NodeId, one: Grad) -> Self {
        let mut slots: Vec<Option<Grad>> = (0..count).map(|_| None).collect();
        slots[start.index] = Some(one);
        Self { slots, error: None }
    }

    /// What arrived at the last value, which is left out from now on.
    pub(super) fn pop(&mut self) -> Option<Grad> {
        self.slots.pop().flatten()
    }

    /// Adds `gradient` to that of `node`; nothing happens for a constant.
    pub(super) fn add(&mut self, node: Option<NodeId>, gradient: Vec<f32>) {
        let Some(node) = node else { return };
        match &mut self.slots[node.index] {
            Some(Grad::Host(sum)) => add_into(sum, &gradient),
            Some(Grad::Device(sum)) => {
                // The op ran on the processor, another one that used the same value on a GPU.
                let gpu = Gpu::of(sum).context("a gradient is on a GPU that this thread has not opened");
                let len = gradient.len();
                let added =
                    gpu.and_then(|gpu| gpu.upload(gradient, len)).and_then(|g| self.give(Some(node), g));
                self.error = self.error.take().or(added.err());
            }
            empty => *empty = Some(Grad::Host(gradient)),
        }
    }

    /// [`add`](Self::add) of a gradient on a GPU.
    pub(super) fn give(&mut self, node: Option<NodeId>, gradient: impl Into<DeviceGrad>) -> Result<()> {
        let (Some(node), gradient) = (node, gradient.into()) else { return Ok(()) };
        let slot = &mut self.slots[node.index];
        *slot = Some(match slot.take() {
            None => Grad::Device(gradient),
            Some(found) => {
                let gpu =
                    Gpu::of(&gradient).context("a gradient is on a GPU that this thread has not opened")?;
                let sum = found.into_device(&gpu)?.own(&gpu)?;
                gpu.add_in_place(&sum, &gradient)?;
                Grad::Device(sum.into())
            }
        });
        Ok(())
    }

    /// Takes what has arrived at `node` so far, so that a kernel can add to it in place; give it back with `add`.
    pub(super) fn take(&mut self, node: Option<NodeId>) -> Result<Option<Vec<f32>>> {
        let Some(found) = node.and_then(|node| self.slots[node.index].take()) else { return Ok(None) };
        found.into_host().map(Some)
    }

    /// [`take`](Self::take) for a kernel on a GPU; give it back with `give`.
    pub(super) fn take_on(&mut self, node: Option<NodeId>, gpu: &Gpu) -> Result<Option<Tensor>> {
        let Some(found) = node.and_then(|node| self.slots[node.index].take()) else { return Ok(None) };
        found.into_device(gpu)?.own(gpu).map(Some)
    }

    /// The error that an addition had, if any.
    pub(super) fn failed(self) -> Result<()> {
        self.error.map_or(Ok(()), Err)
    }
}

/// `sum += other`, in parallel.
pub(super) fn add_into(sum: &mut [f32], other: &[f32]) {
    debug_assert_eq!(sum.len(), other.len(), "gradients of one value have one size");
    sum.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK)).for_each(|(sum, other)| {
        sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
    });
}
