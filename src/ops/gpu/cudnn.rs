//! Convolutions by cuDNN. The algorithm of a shape is chosen once and kept: the first of the library's own ranking that
//! gives the same bits each time. In `bf16` maps and weights are channels last.
#![expect(unsafe_code, reason = "cuDNN's functions take pointers")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{DType, Tensor};

use super::cuda::address;
use super::{Backend, ConvShape, Pass, Precision};

/// Bytes of scratch that an algorithm may ask for.
const WORKSPACE: usize = 1 << 30;

/// One side of a convolution's numbers.
#[derive(Clone, Copy)]
struct Ends {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
}

/// A convolution as cuDNN has it, and how each pass is computed.
struct Plan {
    ends: Ends,
    algorithm: Algorithm,
    workspace: usize,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Data(sys::cudnnConvolutionBwdDataAlgo_t),
    Weights(sys::cudnnConvolutionBwdFilterAlgo_t),
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the descriptors were made by `Ends::new` and are used nowhere else. What fails here frees nothing.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.ends.x);
            let _ = result::destroy_tensor_descriptor(self.ends.y);
            let _ = result::destroy_filter_descriptor(self.ends.w);
            let _ = result::destroy_convolution_descriptor(self.ends.conv);
        }
    }
}

/// The library's handle and the plans of all convolutions so far.
pub(super) struct Convolutions {
    // Before the handle: descriptors go first.
    plans: RefCell<HashMap<(ConvShape, Pass), Plan>>,
    handle: Handle,
    stream: Arc<CudaStream>,
    precision: Precision,
}

struct Handle(sys::cudnnHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle was made by `Convolutions::new` and is used nowhere else. What fails here frees nothing.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

fn said(what: &str) -> impl Fn(result::CudnnError) -> anyhow::Error {
    move |error| anyhow!("cuDNN: {what}: {error:?}")
}

fn size(n: usize) -> Result<c_int> {
    c_int::try_from(n).context("a convolution is larger than cuDNN takes")
}

impl Ends {
    fn new(s: &ConvShape, precision: Precision) -> Result<Self> {
        let (kind, format) = match precision {
            Precision::F32 | Precision::Tf32 => {
                (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW)
            }
            Precision::Bf16 => {
                (sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC)
            }
        };
        let math = match precision {
            Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            Precision::Tf32 | Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        let (c, h, w) = s.input;
        let (o, oh, ow) = s.output;
        let (k, stride, padding) = (size(s.kernel)?, size(s.stride)?, size(s.padding)?);
        let ends = Self {
            x: result::create_tensor_descriptor().map_err(said("a descriptor"))?,
            w: result::create_filter_descriptor().map_err(said("a descriptor"))?,
            y: result::create_tensor_descriptor().map_err(said("a descriptor"))?,
            conv: result::create_convolution_descriptor().map_err(said("a descriptor"))?,
        };
        let input = [size(s.batch)?, size(c)?, size(h)?, size(w)?];
        let output = [size(s.batch)?, size(o)?, size(oh)?, size(ow)?];
        let single = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the descriptors have just been made.
        unsafe {
            result::set_tensor4d_descriptor(ends.x, format, kind, input).map_err(said("the input"))?;
            result::set_tensor4d_descriptor(ends.y, format, kind, output).map_err(said("the output"))?;
            let filter = [output[1], input[1], k, k];
            result::set_filter4d_descriptor(ends.w, kind, format, filter).map_err(said("the weights"))?;
            result::set_convolution2d_descriptor(
                ends.conv, padding, padding, stride, stride, 1, 1, mode, single,
            )
            .map_err(said("the convolution"))?;
            result::set_convolution_math_type(ends.conv, math).map_err(said("the precision"))?;
        }
        Ok(ends)
    }
}

/// The first of a ranking that works, gives the same bits each time and needs no more than [`WORKSPACE`].
macro_rules! first_of {
    ($found:expr, $count:expr) => {
        $found
            .iter()
            .take($count as usize)
            .find(|one| is_usable(one.status, one.determinism, one.memory))
            .map(|one| (one.algo, one.memory))
    };
}

fn is_usable(status: sys::cudnnStatus_t, determinism: sys::cudnnDeterminism_t, memory: usize) -> bool {
    status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
        && determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
        && memory <= WORKSPACE
}

impl Convolutions {
    pub(super) fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        stream.context().bind_to_thread()?;
        let handle = Handle(result::create_handle().map_err(said("its start"))?);
        // SAFETY: both are alive for as long as this is.
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }.map_err(said("its stream"))?;
        Ok(Self { plans: RefCell::default(), handle, stream: stream.clone(), precision })
    }

    /// Tensor cores take channels by eights; a first or last layer of few channels is computed without bf16.
    pub(super) fn precision_of(&self, shape: &ConvShape) -> Precision {
        let few = !(shape.input.0.is_multiple_of(8) && shape.output.0.is_multiple_of(8));
        if few && self.precision == Precision::Bf16 { Precision::Tf32 } else { self.precision }
    }

    fn plan(&self, pass: Pass, shape: &ConvShape) -> Result<Plan> {
        let mut plan = Plan {
            ends: Ends::new(shape, self.precision_of(shape))?,
            algorithm: Algorithm::Forward(
                sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
            ),
            workspace: 0,
        };
        let Ends { x, w, y, conv } = plan.ends;
        let (mut count, handle) = (0, self.handle.0);
        // SAFETY: the arrays are as long as is said, and a record of numbers may be zero.
        let found = unsafe {
            match pass {
                Pass::Forward => {
                    let mut found: [sys::cudnnConvolutionFwdAlgoPerf_t; 8] = std::mem::zeroed();
                    let ranked = &raw mut count;
                    result::get_convolution_forward_algorithm(
                        handle,
                        x,
                        w,
                        conv,
                        y,
                        8,
                        ranked,
                        found.as_mut_ptr(),
                    )
                    .map_err(said("the choice of an algorithm"))?;
                    first_of!(found, count).map(|(a, m)| (Algorithm::Forward(a), m))
                }
                Pass::Data => {
                    let mut found: [sys::cudnnConvolutionBwdDataAlgoPerf_t; 6] = std::mem::zeroed();
                    let ranked = &raw mut count;
                    result::get_convolution_backward_data_algorithm(
                        handle,
                        w,
                        y,
                        conv,
                        x,
                        6,
                        ranked,
                        found.as_mut_ptr(),
                    )
                    .map_err(said("the choice of an algorithm"))?;
                    first_of!(found, count).map(|(a, m)| (Algorithm::Data(a), m))
                }
                Pass::Weights => {
                    let mut found: [sys::cudnnConvolutionBwdFilterAlgoPerf_t; 7] = std::mem::zeroed();
                    let ranked = &raw mut count;
                    result::get_convolution_backward_filter_algorithm(
                        handle,
                        x,
                        y,
                        conv,
                        w,
                        7,
                        ranked,
                        found.as_mut_ptr(),
                    )
                    .map_err(said("the choice of an algorithm"))?;
                    first_of!(found, count).map(|(a, m)| (Algorithm::Weights(a), m))
                }
            }
        };
        let Some((algorithm, workspace)) = found else {
            bail!(
                "cuDNN has no repeatable algorithm for the {pass:?} pass of {shape:?} in {}",
                self.precision
            );
        };
        (plan.algorithm, plan.workspace) = (algorithm, workspace);
        Ok(plan)
    }

    pub(super) fn run(
        &self,
        gpu: &dyn Backend,
        pass: Pass,
        shape: &ConvShape,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
    ) -> Result<()> {
        let weights = shape.output.0 * shape.input.0 * shape.kernel * shape.kernel;
        let (x, y) = (shape.batch * shape.input_len(), shape.batch * shape.output_len());
        let wanted = match pass {
            Pass::Forward => [x, weights, y],
            Pass::Data => [weights, y, x],
            Pass::Weights => [x, y, weights],
        };
        let found = [a, b, out].map(Tensor::elem_count);
        ensure!(wanted == found, "a convolution of {wanted:?} numbers was given {found:?}");
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.entry((*shape, pass)) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => empty.insert(self.plan(pass, shape)?),
        };
        self.compute(gpu, plan, a, b, out)
    }

    fn compute(&self, gpu: &dyn Backend, plan: &Plan, a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
        let at =
            |tensor: &Tensor| -> Result<*mut c_void> { Ok(address(tensor, &self.stream)? as *mut c_void) };
        let scratch = match plan.workspace {
            0 => None,
            bytes => Some(gpu.empty(DType::U8, &bytes.into())?),
        };
        let work = scratch.as_ref().map_or(Ok(std::ptr::null_mut()), at)?;
        let (a, b, out) = (at(a)?.cast_const(), at(b)?.cast_const(), at(out)?);
        let Ends { x, w, y, conv } = plan.ends;
        let (one, zero, bytes, handle) = (1.0f32, 0.0f32, plan.workspace, self.handle.0);
        let (one, zero): (*const c_void, *const c_void) = ((&raw const one).cast(), (&raw const zero).cast());
        // SAFETY: the tensors have the sizes of the descriptors (`run`) and the scratch has its own.
        unsafe {
            match plan.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle, one, x, a, w, b, conv, algorithm, work, bytes, zero, y, out,
                ),
                Algorithm::Data(algorithm) => result::convolution_backward_data(
                    handle, one, w, a, y, b, conv, algorithm, work, bytes, zero, x, out,
                ),
                Algorithm::Weights(algorithm) => result::convolution_backward_filter(
                    handle, one, x, a, y, b, conv, algorithm, work, bytes, zero, w, out,
                ),
            }
        }
        .map_err(said("a convolution"))
    }
}
