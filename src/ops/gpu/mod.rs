//! The ops on a GPU: kernels of our own (`kernels/*.cuh`), products by cuBLAS, convolutions by cuDNN.
//!
//! An op that finds its values on a GPU ([`Gpu::of`]) hands over to its namesake here, which computes with device tensors
//! alone: nothing is read back. What launches kernels and owns memory is a [`Backend`]: CUDA, or in tests the same kernels
//! compiled for the processor, so that this module's code is compiled in every build and run in every test. Only
//! [`cuda`](self) needs the feature of that name.

mod consistency;
mod conv;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cudnn;
mod elementwise;
#[cfg(test)]
mod emulated;
mod loss;
mod maps;
mod matmul;
mod norm;
mod optim;
mod place;
mod rows;
mod shape;
#[cfg(feature = "cuda")]
mod staging;
mod tokens;

use std::ffi::c_void;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{DType, Device, Shape, Tensor};

use super::conv::Shape as ConvShape;
use super::random::Mask;
pub(super) use optim::Update;
pub(super) use place::give_back;
pub use place::{Place, Precision, gpus};
pub use rows::Rows;

/// Elements of a plane that one block works on; `PIECE` of the kernels.
const PIECE: usize = 16384;
/// Blocks of a kernel that strides over its elements, at most: a few for each multiprocessor of a large GPU.
const BLOCKS: usize = 4096;
/// Classes that kernels keep in registers; `MOST_CLASSES` of the kernels.
const MOST_CLASSES: usize = 16;
/// Predictions likewise.
const MOST_PREDICTIONS: usize = 4;

/// What runs kernels and owns memory.
trait Backend {
    /// Threads of a block; `THREADS` of the kernels.
    fn threads(&self) -> usize;

    /// Blocks of a kernel that leave a part of a sum each, at most: few enough for one block to join them at once.
    fn parts(&self) -> usize;

    /// Where its tensors are.
    fn device(&self) -> Device;

    /// Whether a tensor is there already.
    fn holds(&self, tensor: &Tensor) -> bool {
        tensor.device().same_device(&self.device())
    }

    /// A tensor of arbitrary content.
    fn empty(&self, kind: DType, shape: &Shape) -> Result<Tensor>;

    /// A copy of a contiguous tensor of this process.
    fn upload(&self, tensor: &Tensor) -> Result<Tensor>;

    /// Copies `bytes` into a contiguous tensor, from its byte `start` on.
    fn write(&self, tensor: &Tensor, start: usize, bytes: &[u8]) -> Result<()>;

    /// Bytes that can still be had.
    fn room(&self) -> Result<usize>;

    /// Gives memory that is kept for later back to the driver, so that other programs can have it.
    fn give_back(&self) -> Result<()>;

    /// The address of the first number of a contiguous tensor.
    fn address(&self, tensor: &Tensor) -> Result<u64>;

    /// Starts a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number, order and type, and their sizes do not exceed the memory that is
    /// behind their addresses, which stays allocated until work that is enqueued later.
    #[expect(unsafe_code, reason = "no compiler looks at a kernel's arguments")]
    unsafe fn launch(&self, kernel: &'static str, blocks: usize, arguments: &mut [*mut c_void])
    -> Result<()>;

    /// A batch of matrix products of factors in this precision.
    fn product(&self, precision: Precision, product: &Product<'_>) -> Result<()>;

    /// One of the passes of a convolution, without bias, into the last of its tensors. In bf16 all three are bf16, channels
    /// last.
    fn convolve(
        &self,
        precision: Precision,
        pass: Pass,
        shape: &ConvShape,
        tensors: [&Tensor; 3],
    ) -> Result<()>;

    /// The numbers that `make` gives for `key`, made once.
    fn table(&self, key: [usize; 4], make: &dyn Fn() -> Vec<u32>) -> Result<Tensor>;
}

/// The passes of a convolution y = w * x, and what each reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pass {
    /// y from x and w.
    Forward,
    /// dx from w and dy.
    Data,
    /// dw from x and dy.
    Weights,
}

/// A matrix, or one for each of a batch, inside a tensor: element (r, c) of matrix i at
/// `start` + i·`batch` + r·`rows` + c·`columns`; one of `rows` and `columns` is 1.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    tensor: &'a Tensor,
    start: usize,
    rows: usize,
    columns: usize,
    batch: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` numbers.
    fn new(tensor: &'a Tensor, width: usize) -> Self {
        Self { tensor, start: 0, rows: width, columns: 1, batch: 0 }
    }

    /// One for each of a batch, `batch` numbers apart, the first at `start`.
    fn every(self, batch: usize, start: usize) -> Self {
        Self { start, batch, ..self }
    }

    fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, ..self }
    }

    /// The place behind the last element that is read of `count` matrices of `rows`×`columns`.
    fn end(&self, rows: usize, columns: usize, count: usize) -> usize {
        self.start + (count - 1) * self.batch + (rows - 1) * self.rows + (columns - 1) * self.columns + 1
    }
}

#[cfg_attr(
    not(any(test, feature = "cuda")),
    expect(dead_code, reason = "a build without a backend multiplies nothing")
)]
/// out (m×n) = factor·a (m×k)·b (k×n), added to what `out` holds if `add`; `count` of them.
struct Product<'a> {
    sizes: [usize; 3],
    count: usize,
    a: Matrix<'a>,
    b: Matrix<'a>,
    out: Matrix<'a>,
    factor: f32,
    add: bool,
}

impl Product<'_> {
    /// That every matrix lies within its tensor.
    fn check(&self) -> Result<()> {
        let [m, n, k] = self.sizes;
        ensure!(m * n * k * self.count > 0, "a product of {m}×{k} and {k}×{n}");
        for (matrix, rows, columns) in [(&self.a, m, k), (&self.b, k, n), (&self.out, m, n)] {
            let (end, len) = (matrix.end(rows, columns, self.count), matrix.tensor.elem_count());
            ensure!(end <= len, "a product reads {end} numbers of a tensor of {len}");
            ensure!(matrix.rows == 1 || matrix.columns == 1, "a matrix without contiguous rows or columns");
        }
        Ok(())
    }
}

/// A GPU, and how it rounds the factors of convolutions and products; cheap to clone. Belongs to the thread that opened it.
#[derive(Clone)]
pub(crate) struct Gpu {
    backend: Rc<dyn Backend>,
    precision: Precision,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({:?}, {})", self.backend.device().location(), self.precision)
    }
}

/// How many blocks a kernel gets.
#[derive(Clone, Copy)]
enum Grid {
    /// Enough to stride over so many elements.
    Each(usize),
    /// So many.
    Blocks(usize),
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
enum Arg<'a> {
    /// A contiguous tensor, from an element on.
    Tensor(&'a Tensor, usize),
    /// What is absent.
    Null,
    /// A number, as it lies in memory.
    Bits(u64),
    /// A struct of 64-bit words.
    Words(&'a [u64]),
}

impl<'a> From<&'a Tensor> for Arg<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Tensor(tensor, 0)
    }
}

impl<'a> From<Option<&'a Tensor>> for Arg<'a> {
    fn from(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Null, Self::from)
    }
}

impl<'a> From<(&'a Tensor, usize)> for Arg<'a> {
    fn from((tensor, start): (&'a Tensor, usize)) -> Self {
        Self::Tensor(tensor, start)
    }
}

impl<'a> From<&'a [u64]> for Arg<'a> {
    fn from(words: &'a [u64]) -> Self {
        Self::Words(words)
    }
}

macro_rules! bits {
    ($($kind:ty => $bits:expr),*) => {
        $(impl From<$kind> for Arg<'_> {
            fn from(value: $kind) -> Self {
                let bits: fn($kind) -> u64 = $bits;
                Self::Bits(bits(value))
            }
        })*
    };
}
bits! {
    usize => |x| x as u64,
    bool => u64::from,
    u64 => |x| x,
    u32 => u64::from,
    f32 => |x| u64::from(x.to_bits()),
    f64 => f64::to_bits
}

/// `launch!(gpu, kernel[grid], arguments…)`: starts a kernel.
macro_rules! launch {
    ($gpu:expr, $kernel:ident[$grid:expr], $($arg:expr),* $(,)?) => {
        $gpu.launch(stringify!($kernel), $grid, &[$($crate::ops::gpu::Arg::from($arg)),*])
    };
}
use launch;

impl Gpu {
    /// The GPU that holds `tensor`, opened by this thread.
    pub(super) fn of(tensor: &Tensor) -> Option<Self> {
        place::holder(tensor)
    }

    fn launch(&self, kernel: &'static str, grid: Grid, arguments: &[Arg<'_>]) -> Result<()> {
        let blocks = match grid {
            Grid::Each(count) => count.div_ceil(self.backend.threads()).min(BLOCKS),
            Grid::Blocks(count) => count,
        };
        if blocks == 0 {
            return Ok(());
        }
        let mut slots = Vec::with_capacity(arguments.len());
        for argument in arguments {
            slots.push(match argument {
                Arg::Tensor(tensor, start) => {
                    ensure!(*start <= tensor.elem_count(), "`{kernel}` starts behind a tensor's end");
                    self.backend.address(tensor)? + (start * tensor.dtype().size_in_bytes()) as u64
                }
                Arg::Bits(bits) => *bits,
                Arg::Null | Arg::Words(_) => 0,
            });
        }
        let mut pointers: Vec<*mut c_void> = (slots.iter_mut().zip(arguments))
            .map(|(slot, argument)| match argument {
                Arg::Words(words) => words.as_ptr().cast_mut().cast(),
                _ => std::ptr::from_mut(slot).cast(),
            })
            .collect();
        // SAFETY: each call stands in the function that checked the shapes and made the outputs; the tests run every one
        // of them. Memory is freed in the order of the stream, behind what was started.
        #[expect(unsafe_code, reason = "no compiler looks at a kernel's arguments")]
        unsafe { self.backend.launch(kernel, blocks, &mut pointers) }
            .with_context(|| format!("start the kernel `{kernel}`"))
    }

    /// A tensor of arbitrary single-precision numbers.
    fn empty(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.backend.empty(DType::F32, &shape.into())
    }

    /// As many double-precision numbers.
    fn doubles(&self, count: usize) -> Result<Tensor> {
        self.backend.empty(DType::F64, &count.into())
    }

    fn filled(&self, shape: impl Into<Shape>, value: f32) -> Result<Tensor> {
        let y = self.empty(shape)?;
        let n = y.elem_count();
        launch!(self, fill[Grid::Each(n)], &y, value, n)?;
        Ok(y)
    }

    /// `tensor`, contiguous and on this GPU.
    pub(super) fn here(&self, tensor: &Tensor) -> Result<Tensor> {
        let tensor = tensor.contiguous()?;
        if self.backend.holds(&tensor) { Ok(tensor) } else { self.backend.upload(&tensor) }
    }

    /// A copy with memory of its own.
    pub(super) fn duplicate(&self, tensor: &Tensor) -> Result<Tensor> {
        let y = self.empty(tensor.shape())?;
        let n = y.elem_count();
        launch!(self, scale[Grid::Each(n)], tensor, &y, 1.0f32, n)?;
        Ok(y)
    }

    /// `sum += x`.
    pub(super) fn add_in_place(&self, sum: &Tensor, x: &Tensor) -> Result<()> {
        let n = sum.elem_count();
        ensure!(n == x.elem_count(), "gradients of {n} and {} numbers for one value", x.elem_count());
        launch!(self, add_in_place[Grid::Each(n)], sum, x, n)
    }

    /// The tensor 1, from which a backward pass starts.
    pub(super) fn one(&self) -> Result<Tensor> {
        self.filled((), 1.0)
    }

    /// Numbers of this process, put there.
    pub(super) fn upload(&self, values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
        self.here(&Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
    }

    fn upload_u32(&self, values: Vec<u32>) -> Result<Tensor> {
        let len = values.len();
        self.here(&Tensor::from_vec(values, len, &Device::Cpu)?)
    }

    /// `factor`·(Σ of `parts`) + `offset`, as a scalar.
    fn total(&self, parts: &Tensor, factor: f64, offset: f64) -> Result<Tensor> {
        let y = self.empty(())?;
        launch!(self, scaled_total[Grid::Blocks(1)], parts, parts.elem_count(), factor, offset, &y)?;
        Ok(y)
    }

    /// The blocks of a kernel that strides over `count` elements and writes a part each.
    fn parts(&self, count: usize) -> usize {
        count.div_ceil(self.backend.threads()).min(self.backend.parts())
    }

    fn product(&self, product: &Product<'_>) -> Result<()> {
        product.check()?;
        self.backend.product(self.precision, product)
    }
}

/// Planes of `size` numbers as blocks of a kernel.
#[derive(Clone, Copy)]
struct Planes {
    count: usize,
    size: usize,
    pieces: usize,
}

impl Planes {
    fn new(count: usize, size: usize) -> Self {
        Self { count, size, pieces: size.div_ceil(PIECE) }
    }

    fn grid(self) -> Grid {
        Grid::Blocks(self.count * self.pieces)
    }
}

/// A mask as arguments of a kernel: whether there is one, key, last kept value, scale.
#[derive(Clone, Copy)]
struct MaskArguments {
    on: bool,
    key: u64,
    keep_last: u32,
    scale: f32,
}

impl From<Option<Mask>> for MaskArguments {
    fn from(mask: Option<Mask>) -> Self {
        let (key, keep_last, scale) = mask.map_or((0, 0, 0.0), Mask::parts);
        Self { on: mask.is_some(), key, keep_last, scale }
    }
}

impl<'a> Product<'a> {
    /// out = a·b.
    fn one(sizes: [usize; 3], a: Matrix<'a>, b: Matrix<'a>, out: Matrix<'a>) -> Self {
        Self { sizes, count: 1, a, b, out, factor: 1.0, add: false }
    }
}

/// That a kernel has room for these classes.
fn check_classes(classes: usize) -> Result<()> {
    if classes > MOST_CLASSES {
        bail!("{classes} classes: this loss takes at most {MOST_CLASSES} on a GPU; say `--device cpu`");
    }
    Ok(())
}
