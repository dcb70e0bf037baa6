//! Raw numbers of a tensor: borrowed, mutated in place, and fresh buffers without a zero fill.
#![expect(unsafe_code, reason = "buffers that a kernel overwrites in full are not zeroed first")]

use std::cell::Cell;
use std::ops::Deref;

use anyhow::{Result, bail, ensure};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor, WithDType};

/// Elements below which a pass is not worth splitting between threads; also the fixed chunk of parallel
/// reductions, whose partial sums are added in order: results do not depend on the number of threads.
pub(super) const CHUNK: usize = 1 << 14;

/// The numbers of a contiguous CPU tensor.
pub(super) struct Slice<'a, T> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(storage) => {
                let all = T::cpu_storage_as_slice(storage).expect("the kind was checked on construction");
                &all[self.start..self.start + self.len]
            }
            _ => unreachable!("the device was checked on construction"),
        }
    }
}

/// Borrows the numbers of `tensor`, which has to be contiguous, on the CPU and of kind `T`.
pub(super) fn slice<T: WithDType>(tensor: &Tensor) -> Result<Slice<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("tensor of shape {:?} is not contiguous; call .contiguous() first", tensor.dims());
    };
    match &*storage {
        Storage::Cpu(cpu) => {
            T::cpu_storage_as_slice(cpu)?;
        }
        _ => bail!("tensor of shape {:?} is not on the CPU", tensor.dims()),
    }
    Ok(Slice { storage, start, len: end - start, kind: std::marker::PhantomData })
}

/// The numbers of an f32 tensor.
pub(super) fn floats(tensor: &Tensor) -> Result<Slice<'_, f32>> {
    slice::<f32>(tensor)
}

/// A CPU tensor of `shape` that owns `values`.
pub(super) fn tensor<S: Into<Shape>, T: WithDType>(values: Vec<T>, shape: S) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

struct InPlace<F, R>(Cell<Option<F>>, Cell<Option<R>>);

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for InPlace<F, R> {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(values)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("an in-place update needs a contiguous f32 tensor");
        };
        let change = self.0.take().expect("candle calls the function once");
        self.1.set(Some(change(&mut values[start..end])));
        Ok(())
    }
}

/// Changes the numbers of `tensor` in place; every clone of it sees the change. Returns what `change` returns.
pub(super) fn update<R>(tensor: &Tensor, change: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    ensure!(tensor.device().is_cpu(), "in-place updates are for CPU tensors");
    let op = InPlace(Cell::new(Some(change)), Cell::new(None));
    tensor.inplace_op1(&op)?;
    Ok(op.1.take().expect("candle has called the function"))
}

/// A buffer of `len` numbers with arbitrary content, for kernels that write every element.
pub(super) fn uninit(len: usize) -> Vec<f32> {
    let mut values: Vec<std::mem::MaybeUninit<f32>> = Vec::with_capacity(len);
    // SAFETY: MaybeUninit needs no initialisation, and `len` is within the capacity.
    unsafe { values.set_len(len) };
    let mut values = std::mem::ManuallyDrop::new(values);
    // SAFETY: same allocation, size and alignment; every bit pattern is an f32, and each caller overwrites all
    // elements before it reads one.
    unsafe { Vec::from_raw_parts(values.as_mut_ptr().cast::<f32>(), len, values.capacity()) }
}

/// A raw pointer that may cross threads; each user says why its accesses are disjoint.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: the pointer is only dereferenced through `Shared::part`, whose callers keep the parts disjoint.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// # Safety
    /// `start` is within the slice given to [`Shared::new`], which outlives the pointer; accesses through it stay
    /// within the slice, and no two threads access the same element at a time.
    pub(super) unsafe fn at(self, start: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(start) }
    }

    /// # Safety
    /// `start + len` is within the slice given to [`Shared::new`], which outlives the returned part, and no two
    /// parts that are alive at the same time overlap.
    pub(super) unsafe fn part<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
