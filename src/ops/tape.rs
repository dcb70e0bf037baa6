//! The tape: values are computed at once, what the backward pass needs is written down behind them.
//!
//! A step is: `Tape::new`, `param` for every weight that learns, ops, `backward`. The tape is used once: `backward`
//! plays it from its end and frees what each op had saved as soon as it has been used.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Shape, Tensor, TensorId};

use super::gpu::{Gpu, Place};
use super::grad::{DeviceGrad, Grad};
pub(super) use super::grad::{Sink, add_into};

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Gradients are recorded; batch statistics (running ones are updated) and dropout.
    Train,
    /// As `Train`, without gradients: a teacher in train mode.
    TrainNoGrad,
    /// No gradients, running statistics, no dropout.
    Eval,
}

impl Mode {
    /// Batch statistics and dropout are on.
    pub fn trains(self) -> bool {
        self != Self::Eval
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NodeId {
    tape: u64,
    pub(super) index: usize,
}

/// A value of a [`Tape`]: a contiguous f32 tensor, and where its gradient goes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    pub(super) node: Option<NodeId>,
}

impl Var {
    /// The numbers.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The same numbers as a constant: no gradient flows through it.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { value: self.value.clone(), node: None }
    }

    /// The sizes of its axes.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// The four sizes of an NCHW value.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        Ok(self.value.dims4()?)
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.value.elem_count()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a value with one element (a loss). On a GPU, waits for it.
    pub fn scalar(&self) -> Result<f32> {
        ensure!(self.len() == 1, "a value of shape {:?} is not a scalar", self.dims());
        scalar(&self.value)
    }
}

/// The number of a tensor with one element. On a GPU, waits for it.
///
/// # Errors
/// Where it has none, or cannot be read.
pub fn scalar(tensor: &Tensor) -> Result<f32> {
    tensor
        .flatten_all()?
        .to_vec1::<f32>()?
        .first()
        .copied()
        .context("a tensor without elements is not a scalar")
}

/// Gradients by parameter, as [`Tape::backward`] returns them.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient of `param`, of its shape; `None` where the loss does not depend on it.
    pub fn get(&self, param: &Tensor) -> Option<&Tensor> {
        self.0.get(&param.id())
    }

    /// Sets the gradient of `param` (tests, clipping).
    pub fn insert(&mut self, param: &Tensor, gradient: Tensor) {
        self.0.insert(param.id(), gradient);
    }

    /// The number of parameters that have a gradient.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no parameter has a gradient.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Backward = Box<dyn FnOnce(Grad, &mut Sink) -> Result<()>>;

enum Node {
    Leaf { id: TensorId, shape: Shape },
    Op(Backward),
}

/// Records ops and plays their gradients back. See the module's documentation.
pub struct Tape {
    id: u64,
    mode: Mode,
    seed: u64,
    place: Place,
    draws: Cell<u64>,
    nodes: RefCell<Vec<Node>>,
    leaves: RefCell<HashMap<TensorId, usize>>,
    /// The first error of bringing a tensor to where this computes, which the next op returns.
    error: Cell<Option<anyhow::Error>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({:?}, {} nodes)", self.mode, self.nodes.borrow().len())
    }
}

impl Tape {
    /// An empty tape in the thread's [`Place`]. `seed` decides the dropout masks: one tape per step, with a seed per step.
    pub fn new(mode: Mode, seed: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            mode,
            seed,
            place: Place::current(),
            draws: Cell::new(0),
            nodes: RefCell::default(),
            leaves: RefCell::default(),
            error: Cell::default(),
        }
    }

    /// What this pass is for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A value to learn. The same tensor given twice is one leaf: its gradients add up.
    pub fn param(&self, tensor: &Tensor) -> Var {
        if self.mode != Mode::Train {
            return self.constant(tensor);
        }
        let id = tensor.id();
        let index = *self.leaves.borrow_mut().entry(id).or_insert_with(|| {
            let mut nodes = self.nodes.borrow_mut();
            nodes.push(Node::Leaf { id, shape: tensor.shape().clone() });
            nodes.len() - 1
        });
        Var { value: self.here(tensor), node: Some(NodeId { tape: self.id, index }) }
    }

    /// A value without a gradient: data, a teacher's output.
    pub fn constant(&self, tensor: &Tensor) -> Var {
        Var { value: self.here(tensor), node: None }
    }

    /// `tensor`, contiguous and where this tape computes.
    fn here(&self, tensor: &Tensor) -> Tensor {
        self.place.put(tensor).unwrap_or_else(|error| {
            let shape = tensor.dims();
            let error =
                error.context(format!("bring a tensor of shape {shape:?} to where it is computed with"));
            self.error.set(self.error.take().or(Some(error)));
            tensor.clone()
        })
    }

    /// An error that could not be returned where it happened.
    fn arrived(&self) -> Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// The GPU that holds an input of an op, asked before the op looks at any.
    ///
    /// # Errors
    /// Of a tensor that could not be brought there.
    pub(super) fn gpu(&self, input: &Var) -> Result<Option<Gpu>> {
        self.arrived()?;
        Ok(Gpu::of(input.value()))
    }

    /// The gradients of the scalar `loss`; empties the tape.
    pub fn backward(&self, loss: &Var) -> Result<Gradients> {
        ensure!(
            loss.len() == 1,
            "backward starts from a scalar, not from a value of shape {:?}",
            loss.dims()
        );
        self.arrived()?;
        let mut nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        self.leaves.borrow_mut().clear();
        let mut found = HashMap::new();
        let Some(start) = loss.node else { return Ok(Gradients(found)) };
        ensure!(
            start.tape == self.id && start.index < nodes.len(),
            "the loss is not on this tape, or backward was called twice"
        );
        let one = match Gpu::of(loss.value()) {
            Some(gpu) => Grad::Device(gpu.one()?.into()),
            None => Grad::Host(vec![1.0]),
        };
        let mut sink = Sink::new(nodes.len(), start, one);
        while let Some(node) = nodes.pop() {
            let Some(gradient) = sink.pop() else { continue };
            match node {
                Node::Op(backward) => backward(gradient, &mut sink)?,
                Node::Leaf { id, shape } => {
                    found.insert(id, gradient.into_tensor(shape)?);
                }
            }
        }
        sink.failed()?;
        Ok(Gradients(found))
    }

    /// Writes an op down: its output, its inputs, and how the output's gradient becomes theirs.
    pub(super) fn record(
        &self,
        value: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(Vec<f32>, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var> {
        self.write_down(value, inputs, || Box::new(move |g: Grad, sink| backward(g.into_host()?, sink)))
    }

    /// As [`record`](Self::record), of an op on a GPU.
    pub(super) fn record_on(
        &self,
        gpu: &Gpu,
        value: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(DeviceGrad, &mut Sink) -> Result<()> + 'static,
    ) -> Result<Var> {
        let gpu = gpu.clone();
        self.write_down(value, inputs, || Box::new(move |g: Grad, sink| backward(g.into_device(&gpu)?, sink)))
    }

    fn write_down(&self, value: Tensor, inputs: &[&Var], backward: impl FnOnce() -> Backward) -> Result<Var> {
        debug_assert_eq!(value.dtype(), DType::F32, "values of a tape are f32");
        let mut wanted = false;
        for node in inputs.iter().filter_map(|input| input.node) {
            ensure!(node.tape == self.id, "an input belongs to another tape; detach it to use its value");
            wanted = true;
        }
        if !wanted {
            return Ok(Var { value, node: None });
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node::Op(backward()));
        Ok(Var { value, node: Some(NodeId { tape: self.id, index: nodes.len() - 1 }) })
    }

    /// The key of the next random op of this tape: the same sequence of ops draws the same masks.
    pub(super) fn next_key(&self) -> u64 {
        let draw = self.draws.get();
        self.draws.set(draw + 1);
        super::random::mix(self.seed ^ super::random::mix(draw.wrapping_add(0x9E37_79B9_7F4A_7C15)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_cannot_be_brought_to_a_gpu_is_told_by_the_next_op() {
        let Ok(full) = Place::full() else { return println!("skipped: no C++ compiler") };
        let number = Tensor::new(1f32, &Device::Cpu).unwrap();
        full.run(|| {
            let tape = Tape::new(Mode::Train, 0);
            let (x, y) = (tape.param(&number), tape.constant(&number));
            let error = format!("{:#}", tape.add(&x, &y).unwrap_err());
            assert!(error.contains("shape []") && error.contains("out of memory"), "{error}");
            tape.param(&number);
            assert!(tape.backward(&x).is_err(), "also where no op follows");
        });
    }
}
