//! Where networks are built and values computed: on the processor, or on a GPU that this thread opened.

use std::cell::RefCell;

use anyhow::Result;
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

    /// The CUDA device of this number.
    ///
    /// # Errors
    /// Where this program was built without CUDA, or there is no such device, or what it needs cannot be loaded.
    #[cfg(feature = "cuda")]
    pub fn cuda(number: usize, precision: Precision) -> Result<Self> {
        OPEN.with_borrow_mut(|open| {
            if let Some(found) = open.iter().find(|open| (open.number, open.precision) == (number, precision))
            {
                return Ok(Self(Some(found.gpu.clone())));
            }
            let opened = super::cuda::open(number, precision)?;
            let gpu = opened.gpu.clone();
            open.push(opened);
            Ok(Self(Some(gpu)))
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
        Ok(Self(Some(Gpu(super::emulated::open()?))))
    }

    /// The kernels that no emulation has run so far.
    #[cfg(test)]
    pub(crate) fn kernels_not_run() -> Result<Vec<String>> {
        super::emulated::not_run()
    }

    /// The same device at this precision. The processor has one alone.
    ///
    /// # Errors
    /// As [`Self::cuda`].
    #[cfg(feature = "cuda")]
    pub fn at(&self, precision: Precision) -> Result<Self> {
        let Some(gpu) = &self.0 else { return Ok(Self::cpu()) };
        let Device::Cuda(device) = gpu.0.device() else { return Ok(self.clone()) };
        let number =
            OPEN.with_borrow(|open| open.iter().find(|open| open.id == device.id()).map(|open| open.number));
        number.map_or_else(|| Ok(self.clone()), |number| Self::cuda(number, precision))
    }

    /// The same device at this precision. The processor has one alone.
    ///
    /// # Errors
    /// None without CUDA.
    #[cfg(not(feature = "cuda"))]
    pub fn at(&self, _precision: Precision) -> Result<Self> {
        Ok(self.clone())
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
            Some(gpu) => Ok(gpu.0.device().synchronize()?),
            None => Ok(()),
        }
    }
}

/// The GPU that holds `tensor`.
#[cfg(feature = "cuda")]
pub(super) fn holder(tensor: &Tensor) -> Option<Gpu> {
    if let Device::Cuda(device) = tensor.device() {
        return OPEN.with_borrow(|open| Some(open.iter().find(|open| open.id == device.id())?.gpu.clone()));
    }
    emulated()
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
