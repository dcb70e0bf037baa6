//! CUDA: the context, kernels, memory, products. Its libraries are opened at run time, so that one program runs with and
//! without them.
#![expect(unsafe_code, reason = "the driver's and the libraries' functions take pointers")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_longlong, c_void};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use candle_core::cuda_backend::cudarc::cublas::{result as blas, sys as blas_sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr as _, DeviceRepr, result, sys,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Shape, Storage, Tensor};

use super::cudnn::Convolutions;
use super::staging::Staging;
use super::{Backend, ConvShape, Matrix, Pass, Precision, Product};
use crate::ops::buffer;

/// The kernels of this folder as PTX (build.rs).
const KERNELS: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));
/// The version of CUDA that compiled them, as the driver counts: 13000 is 13.0 (build.rs).
const COMPILED_BY: &str = env!("SWEEP_CUDA");
/// Threads of a block; `THREADS` of the kernels.
const THREADS: usize = 256;
/// Where less of a GPU's memory is free, a library that does not start may well have wanted more.
const LITTLE: usize = 1 << 30;

/// A device that a thread has opened.
pub(super) struct Open {
    pub(super) number: usize,
    pub(super) id: DeviceId,
    pub(super) backend: Rc<dyn Backend>,
}

/// Whether the driver, cuBLAS, cuRAND and cuDNN can be opened: tried once.
#[cfg(feature = "dynamic-loading")]
fn present() -> [bool; 4] {
    use candle_core::cuda_backend::cudarc::{cublas, cudnn, curand};
    static PRESENT: OnceLock<[bool; 4]> = OnceLock::new();
    // SAFETY: these functions only try to open libraries.
    *PRESENT.get_or_init(|| unsafe {
        [
            sys::is_culib_present(),
            cublas::sys::is_culib_present(),
            curand::sys::is_culib_present(),
            cudnn::sys::is_culib_present(),
        ]
    })
}

/// A program that was linked with them does not start without them.
#[cfg(not(feature = "dynamic-loading"))]
fn present() -> [bool; 4] {
    [true; 4]
}

/// The names of the GPUs; an error where none can be computed on. Opens no context.
pub(super) fn names() -> Result<Vec<String>> {
    libraries()?;
    let said = |error: result::DriverError| anyhow!("the NVIDIA driver names no GPU: {error}");
    let count = CudaContext::device_count().map_err(said)?;
    if count == 0 {
        bail!("there is no NVIDIA GPU");
    }
    let name = |number| result::device::get(number).and_then(result::device::get_name).map_err(said);
    (0..count).map(name).collect()
}

/// That all libraries can be opened, which must be asked before anything else: cudarc panics where one cannot.
fn libraries() -> Result<()> {
    let place =
        "; put its folder into LD_LIBRARY_PATH (an installed PyTorch has it in site-packages/nvidia/*/lib)";
    let [driver, blas, random, dnn] = present();
    if !driver {
        bail!("there is no NVIDIA driver (libcuda.so.1)");
    }
    let libraries = [(blas, "cuBLAS"), (random, "cuRAND"), (dnn, "cuDNN 9")];
    let missing: Vec<&str> = libraries.iter().filter(|(there, _)| !there).map(|(_, name)| *name).collect();
    if !missing.is_empty() {
        bail!("{} cannot be loaded{place}", missing.join(" and "));
    }
    new_enough()?;
    result::init().map_err(|error| anyhow!("the NVIDIA driver does not start: {error}"))
}

/// That the driver knows what the kernels were compiled to: it refuses those of a newer CUDA.
fn new_enough() -> Result<()> {
    static VERSION: OnceLock<Option<i32>> = OnceLock::new();
    let found = VERSION.get_or_init(|| {
        let mut version = 0;
        // SAFETY: the function writes to the address that it is given, and may be called before any other.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().ok().map(|()| version)
    });
    match (*found, COMPILED_BY.parse::<i32>()) {
        (Some(found), Ok(wanted)) if found < wanted => {
            let text = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
            bail!(
                "the NVIDIA driver is for CUDA {}, and this program was built with CUDA {}: install a newer driver, or \
                 build it with that CUDA (scripts/build_cuda.sh)",
                text(found),
                text(wanted)
            )
        }
        _ => Ok(()),
    }
}

/// Opens the device of this number for the calling thread.
pub(super) fn open(number: usize) -> Result<Open> {
    let count = names().with_context(|| format!("cuda:{number} cannot be used"))?.len();
    if number >= count {
        bail!("cuda:{number} is not there: this machine has {count} (cuda:0 to cuda:{})", count - 1);
    }
    let device = CudaDevice::new_with_stream(number).map_err(short_of_memory);
    let device = device.with_context(|| format!("open cuda:{number}"))?;
    // SAFETY: everything of this thread runs on the one stream of `device`.
    unsafe { device.disable_event_tracking() };
    let stream = device.cuda_stream();
    let pool = keep_memory(&stream)?;
    let module = stream.context().load_module(KERNELS.into()).map_err(|error| {
        anyhow!("load the kernels: {error}; they need an NVIDIA GPU from Ampere (2020) on")
    })?;
    let cuda = Cuda {
        functions: RefCell::default(),
        tables: RefCell::default(),
        convolutions: Convolutions::new(&stream).map_err(short_of_memory)?,
        staging: Staging::default(),
        pool,
        module,
        stream,
        device: device.clone(),
    };
    Ok(Open { number, id: device.id(), backend: Rc::new(cuda) })
}

/// An error of a library that does not start. Where there is little memory left, some say something else than that.
fn short_of_memory(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    match result::mem_get_info() {
        Ok((free, _)) if free < LITTLE => {
            error.context(format!("out of memory? {} MB of the GPU's are free", free >> 20))
        }
        _ => error,
    }
}

/// Has the driver keep freed memory for the next allocation instead of giving it back at each synchronisation.
fn keep_memory(stream: &CudaStream) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: both functions write to or read from what they are given addresses of.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()).result()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast()).result()?;
    }
    Ok(pool)
}

/// Whether an error is that of a GPU without memory left.
pub(super) fn is_out_of_memory(error: &impl std::fmt::Debug) -> bool {
    format!("{error:?}").contains("OUT_OF_MEMORY")
}

struct Cuda {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// Where all memory comes from.
    pool: sys::CUmemoryPool,
    module: Arc<candle_core::cuda_backend::cudarc::driver::CudaModule>,
    functions: RefCell<HashMap<&'static str, CudaFunction>>,
    tables: RefCell<HashMap<[usize; 4], Tensor>>,
    convolutions: Convolutions,
    staging: Staging,
}

impl Cuda {
    /// Memory for `n` numbers. Where there is none, what is kept is given back to the driver, which can then join it.
    fn memory<T: DeviceRepr>(&self, n: usize) -> Result<CudaSlice<T>> {
        // SAFETY: whoever asks writes every number before one is read.
        let mut found = unsafe { self.device.alloc::<T>(n) };
        if found.as_ref().is_err_and(is_out_of_memory) {
            self.give_back()?;
            // SAFETY: as above.
            found = unsafe { self.device.alloc::<T>(n) };
        }
        found.with_context(|| format!("ask the GPU for {} MB", (n * size_of::<T>()) >> 20))
    }
}

/// The address of a contiguous tensor on `stream`'s device.
pub(super) fn address(tensor: &Tensor, stream: &CudaStream) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, _) = layout.contiguous_offsets().context("a kernel needs contiguous tensors")?;
    let Storage::Cuda(storage) = &*storage else {
        bail!("a tensor of shape {:?} is not on the GPU", tensor.dims());
    };
    let base = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(stream).0,
        DType::F64 => storage.as_cuda_slice::<f64>()?.device_ptr(stream).0,
        DType::U8 => storage.as_cuda_slice::<u8>()?.device_ptr(stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(stream).0,
        DType::BF16 => storage.as_cuda_slice::<half::bf16>()?.device_ptr(stream).0,
        DType::F16 => storage.as_cuda_slice::<half::f16>()?.device_ptr(stream).0,
        kind => bail!("kernels know no tensors of {kind:?}"),
    };
    Ok(base + (start * tensor.dtype().size_in_bytes()) as u64)
}

impl Backend for Cuda {
    fn threads(&self) -> usize {
        THREADS
    }

    fn parts(&self) -> usize {
        1024
    }

    fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    fn empty(&self, kind: DType, shape: &Shape) -> Result<Tensor> {
        let n = shape.elem_count().max(1);
        macro_rules! of {
            ($kind:ty) => {
                CudaStorage::wrap_cuda_slice(self.memory::<$kind>(n)?, self.device.clone())
            };
        }
        let storage = match kind {
            DType::F32 => of!(f32),
            DType::F64 => of!(f64),
            DType::U8 => of!(u8),
            DType::U32 => of!(u32),
            DType::BF16 => of!(half::bf16),
            DType::F16 => of!(half::f16),
            kind => bail!("kernels make no tensors of {kind:?}"),
        };
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        let kind = tensor.dtype();
        if !matches!(kind, DType::F32 | DType::U8 | DType::U32) {
            return Ok(tensor.to_device(&self.device())?);
        }
        let copy = self.empty(kind, tensor.shape())?;
        let address = address(&copy, &self.stream)?;
        match kind {
            DType::F32 => {
                self.staging.copy(bytemuck::cast_slice(&buffer::floats(tensor)?), address, &self.stream)?;
            }
            DType::U32 => {
                let numbers = buffer::slice::<u32>(tensor)?;
                self.staging.copy(bytemuck::cast_slice(&numbers), address, &self.stream)?;
            }
            _ => self.staging.copy(&buffer::slice::<u8>(tensor)?, address, &self.stream)?,
        }
        Ok(copy)
    }

    fn write(&self, tensor: &Tensor, start: usize, bytes: &[u8]) -> Result<()> {
        let size = tensor.elem_count() * tensor.dtype().size_in_bytes();
        ensure!(start + bytes.len() <= size, "{} bytes from {start} on of {size}", bytes.len());
        self.staging.copy(bytes, address(tensor, &self.stream)? + start as u64, &self.stream)
    }

    fn room(&self) -> Result<usize> {
        self.stream.context().bind_to_thread()?;
        Ok(result::mem_get_info()?.0)
    }

    fn give_back(&self) -> Result<()> {
        // What is freed in the order of the stream is free only when the stream has come there.
        self.stream.synchronize()?;
        // SAFETY: the pool is the device's and lives as long as its context.
        Ok(unsafe { sys::cuMemPoolTrimTo(self.pool, 0) }.result()?)
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        address(tensor, &self.stream)
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        blocks: usize,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let mut functions = self.functions.borrow_mut();
        let function = match functions.entry(kernel) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                empty.insert(self.module.load_function(kernel)?)
            }
        };
        let (function, stream) = (function.cu_function(), self.stream.cu_stream());
        let grid = (u32::try_from(blocks)?, 1, 1);
        self.stream.context().bind_to_thread()?;
        // SAFETY: the caller's promise; function and stream are of the bound context.
        unsafe { result::launch_kernel(function, grid, (THREADS as u32, 1, 1), 0, stream, arguments) }?;
        Ok(())
    }

    fn product(&self, precision: Precision, product: &Product<'_>) -> Result<()> {
        let [m, n, k] = product.sizes;
        // Address, whether cuBLAS has to transpose, and the distance of rows or columns; of a single one that may be anything
        // to us, but not to cuBLAS.
        let side = |matrix: &Matrix<'_>,
                    rows: usize,
                    columns: usize|
         -> Result<(u64, blas_sys::cublasOperation_t, c_int)> {
            let start = address(matrix.tensor, &self.stream)? + 4 * matrix.start as u64;
            // cuBLAS counts down columns: what lies in rows is transposed to it.
            Ok(if matrix.columns == 1 {
                (start, blas_sys::cublasOperation_t::CUBLAS_OP_N, c_int::try_from(matrix.rows.max(columns))?)
            } else {
                (start, blas_sys::cublasOperation_t::CUBLAS_OP_T, c_int::try_from(matrix.columns.max(rows))?)
            })
        };
        let compute = match precision {
            Precision::F32 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Precision::Tf32 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            Precision::Bf16 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_16BF,
        };
        let single = blas_sys::cudaDataType::CUDA_R_32F;
        let ((a, of_a, lda), (b, of_b, ldb)) = (side(&product.a, m, k)?, side(&product.b, k, n)?);
        let out = address(product.out.tensor, &self.stream)? + 4 * product.out.start as u64;
        let (alpha, beta) = (product.factor, if product.add { 1.0f32 } else { 0.0 });
        let handle = self.device.cublas_handle();
        self.stream.context().bind_to_thread()?;
        // outᵀ = bᵀ·aᵀ. SAFETY: `Product::check` has compared every extent with its tensor.
        unsafe {
            blas::gemm_strided_batched_ex(
                *handle.handle(),
                of_b,
                of_a,
                c_int::try_from(n)?,
                c_int::try_from(m)?,
                c_int::try_from(k)?,
                (&raw const alpha).cast(),
                b as *const c_void,
                single,
                ldb,
                product.b.batch as c_longlong,
                a as *const c_void,
                single,
                lda,
                product.a.batch as c_longlong,
                (&raw const beta).cast(),
                out as *mut c_void,
                single,
                c_int::try_from(product.out.rows.max(n))?,
                product.out.batch as c_longlong,
                c_int::try_from(product.count)?,
                compute,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|error| anyhow!("a product of {m}×{k} and {k}×{n}: {error:?}"))
    }

    fn convolve(
        &self,
        precision: Precision,
        pass: Pass,
        shape: &ConvShape,
        tensors: [&Tensor; 3],
    ) -> Result<()> {
        self.stream.context().bind_to_thread()?;
        self.convolutions.run(self, precision, pass, shape, tensors)
    }

    fn table(&self, key: [usize; 4], make: &dyn Fn() -> Vec<u32>) -> Result<Tensor> {
        if let Some(found) = self.tables.borrow().get(&key) {
            return Ok(found.clone());
        }
        let values = make();
        let len = values.len();
        let table = self.upload(&Tensor::from_vec(values, len, &Device::Cpu)?)?;
        self.tables.borrow_mut().insert(key, table.clone());
        Ok(table)
    }
}
