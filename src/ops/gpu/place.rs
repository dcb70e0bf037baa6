//! Where networks are built and values computed: on the processor, or on a GPU that this thread opened.

use std::cell::RefCell;

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};

use super::Gpu;
pub use crate::spec::settings::Precision;

/// Where a thread builds networks and computes. Tapes and parameters take the place of their thread when they are made.
#[derive(Clone, Debug, Default)]
pub struct Place(Option<Gpu>);

thread_local! {
    static CURRENT: RefCell<Place> = RefCell::default();
    /// What this thread has opened; kept for its life, so that a context is made once.
    #[cfg(feature = "cuda")]
    static OPEN: RefCell<Vec<super::cuda::Open>> = const { RefCell::new(Vec::new()) };
}

impl Place {
    /// The processor.
    pub fn cpu() -> Self {
        Self(None)
    }

    /// The CUDA device of this number, its convolutions and products in this precision. A thread opens a device once, for all
    /// precisions.
    ///
    /// # Errors
    /// Where this program was built without CUDA, or there is no such device, or what it needs cannot be loaded.
    #[cfg(feature = "cuda")]
    pub fn cuda(number: usize, precision: Precision) -> Result<Self> {
        OPEN.with_borrow_mut(|open| {
            let known = open.iter().find(|open| open.number == number);
            let backend = if let Some(known) = known {
                known.backend.clone()
            } else {
                let opened = super::cuda::open(number)?;
                let backend = opened.backend.clone();
                open.push(opened);
                backend
            };
            Ok(Self(Some(Gpu { backend, precision })))
        })
    }

    /// The CUDA device of this number.
    ///
    /// # Errors
    /// This program was built without CUDA.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(_number: usize, _precision: Precision) -> Result<Self> {
        gpus()?;
        Ok(Self::cpu())
    }

    /// The kernels, run on the processor.
    ///
    /// # Errors
    /// Where there is no C++ compiler.
    #[cfg(test)]
    pub(crate) fn emulated() -> Result<Self> {
        Ok(Self(Some(Gpu { backend: super::emulated::open(false)?, precision: Precision::F32 })))
    }

    /// The same without memory for what is brought there.
    ///
    /// # Errors
    /// As [`Self::emulated`].
    #[cfg(test)]
    pub(in crate::ops) fn full() -> Result<Self> {
        Ok(Self(Some(Gpu { backend: super::emulated::open(true)?, precision: Precision::F32 })))
    }

    /// The kernels that no emulation has run so far.
    #[cfg(test)]
    pub(crate) fn kernels_not_run() -> Result<Vec<String>> {
        super::emulated::not_run()
    }

    /// The same device at this precision. The processor has one alone.
    #[must_use]
    pub fn at(&self, precision: Precision) -> Self {
        Self(self.0.clone().map(|gpu| Gpu { precision, ..gpu }))
    }

    /// That of the calling thread.
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `work` with this place as the thread's.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Restore(Place);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(std::mem::take(&mut self.0));
            }
        }
        let _restore = Restore(CURRENT.replace(self.clone()));
        work()
    }

    /// `tensor`, contiguous and there.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn put(&self, tensor: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Some(gpu) => gpu.here(tensor),
            None => Ok(tensor.to_device(&Device::Cpu)?.contiguous()?),
        }
    }

    /// Whether it is a GPU: then what is computed there is ready only when it is read.
    pub fn is_gpu(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until all that was started there is done.
    ///
    /// # Errors
    /// Of anything that went wrong there meanwhile.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0 {
            Some(gpu) => Ok(gpu.backend.device().synchronize()?),
            None => Ok(()),
        }
    }

    /// Bytes that can still be had of a GPU's memory; of the processor's, none are told.
    ///
    /// # Errors
    /// Of the driver.
    pub fn room(&self) -> Result<Option<usize>> {
        self.0.as_ref().map(Gpu::room).transpose()
    }

    pub(super) fn gpu(&self) -> Result<&Gpu> {
        self.0.as_ref().context("this is for a GPU, and the place is the processor")
    }
}

/// Gives memory that this thread's GPUs keep for later back to the driver. What a driver refuses here stays kept.
#[cfg(feature = "cuda")]
pub(in crate::ops) fn give_back() {
    OPEN.with_borrow(|open| open.iter().for_each(|open| drop(open.backend.give_back())));
}

/// Gives memory that this thread's GPUs keep for later back to the driver: there are none.
#[cfg(not(feature = "cuda"))]
pub(in crate::ops) fn give_back() {}

/// The GPU that holds `tensor`.
///
/// # Errors
/// This thread has not opened it.
pub(super) fn opened(tensor: &Tensor) -> Result<Gpu> {
    holder(tensor).context("a tensor is on a GPU that this thread has not opened")
}

/// The GPU that holds `tensor`, in the precision of the thread's place.
#[cfg(feature = "cuda")]
pub(super) fn holder(tensor: &Tensor) -> Option<Gpu> {
    let Device::Cuda(device) = tensor.device() else { return emulated() };
    let precision =
        CURRENT.with_borrow(|place| place.0.as_ref().map_or_else(Precision::default, |gpu| gpu.precision));
    let known = |open: &Vec<super::cuda::Open>| {
        Some(open.iter().find(|open| open.id == device.id())?.backend.clone())
    };
    Some(Gpu { backend: OPEN.with_borrow(known)?, precision })
}

/// The GPU that holds `tensor`: none is ever opened.
#[cfg(not(feature = "cuda"))]
pub(super) fn holder(_tensor: &Tensor) -> Option<Gpu> {
    emulated()
}

/// In tests: the emulation, where it is the thread's place.
fn emulated() -> Option<Gpu> {
    if cfg!(test) { CURRENT.with_borrow(|place| place.0.clone()) } else { None }
}

/// The names of the GPUs that this program can compute on, in the order of their numbers.
///
/// # Errors
/// What keeps it from computing on any, with the remedy.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<Vec<String>> {
    super::cuda::names()
}

/// The names of the GPUs that this program can compute on, in the order of their numbers.
///
/// # Errors
/// This program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Result<Vec<String>> {
    anyhow::bail!("this program was built without CUDA: build it with scripts/build_cuda.sh")
}
