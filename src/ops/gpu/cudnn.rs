//! Convolutions by cuDNN. The algorithm of a shape is chosen once and kept: the first of the library's own ranking that
//! gives the same bits each time and rounds no more than was asked for; one that needs less scratch only where there is no
//! memory for it. In `bf16` maps and weights are channels last.
#![expect(unsafe_code, reason = "cuDNN's functions take pointers")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{DType, Tensor};

use super::cuda::{address, is_out_of_memory};
use super::{Backend, ConvShape, Pass, Precision};

/// Bytes of scratch that an algorithm may ask for.
const WORKSPACE: usize = 1 << 30;
/// Places of a ranking: each algorithm with and without tensor cores.
const RANKED: usize = 16;

/// A convolution's tensors and how it is computed, as cuDNN has them.
struct Ends {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
}

impl Drop for Ends {
    fn drop(&mut self) {
        // SAFETY: the descriptors were made by `Ends::new` and are used nowhere else. What fails here frees nothing.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.x);
            let _ = result::destroy_tensor_descriptor(self.y);
            let _ = result::destroy_filter_descriptor(self.w);
            let _ = result::destroy_convolution_descriptor(self.conv);
        }
    }
}

/// How a pass of a convolution is computed.
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

impl Algorithm {
    /// What computes every convolution, in the same bits each time, whatever the ranking says.
    fn fallback(pass: Pass) -> Vec<Self> {
        use sys::{
            cudnnConvolutionBwdDataAlgo_t as Data, cudnnConvolutionBwdFilterAlgo_t as Weights,
            cudnnConvolutionFwdAlgo_t as Forward,
        };
        match pass {
            // The second needs no scratch.
            Pass::Forward => vec![
                Self::Forward(Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM),
                Self::Forward(Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM),
            ],
            Pass::Data => vec![Self::Data(Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1)],
            Pass::Weights => vec![Self::Weights(Weights::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1)],
        }
    }

    /// Bytes of scratch that it needs.
    fn workspace(self, handle: &Handle, Ends { x, w, y, conv }: &Ends) -> Result<usize, result::CudnnError> {
        let (handle, x, w, y, conv) = (handle.0, *x, *w, *y, *conv);
        // SAFETY: handle and descriptors are alive.
        unsafe {
            match self {
                Self::Forward(one) => {
                    result::get_convolution_forward_workspace_size(handle, x, w, conv, y, one)
                }
                Self::Data(one) => {
                    result::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, one)
                }
                Self::Weights(one) => {
                    result::get_convolution_backward_filter_workspace_size(handle, x, y, conv, w, one)
                }
            }
        }
    }
}

/// The library's handle and the plans of all convolutions so far.
pub(super) struct Convolutions {
    // Before the handle: descriptors go first.
    plans: RefCell<HashMap<(ConvShape, Pass, Precision), Plan>>,
    handle: Handle,
    stream: Arc<CudaStream>,
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
    fn compute_with(&self, math: sys::cudnnMathType_t) -> Result<()> {
        // SAFETY: the descriptor is alive.
        unsafe { result::set_convolution_math_type(self.conv, math) }.map_err(said("the precision"))
    }

    fn new(s: &ConvShape, precision: Precision) -> Result<Self> {
        let (kind, format) = match precision {
            Precision::F32 | Precision::Tf32 => {
                (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW)
            }
            Precision::Bf16 => {
                (sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC)
            }
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
        }
        ends.compute_with(first_math(precision))?;
        Ok(ends)
    }
}

/// What cuDNN is asked for. Its default rounds factors to tf32 on GPUs that can.
fn first_math(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

/// How an algorithm that was ranked with `math` may be computed; not at all where that rounds more than `precision` does.
fn math_of(precision: Precision, math: sys::cudnnMathType_t) -> Option<sys::cudnnMathType_t> {
    use sys::cudnnMathType_t as Math;
    match (precision, math) {
        // The one of them that never takes tensor cores.
        (Precision::F32, Math::CUDNN_FMA_MATH | Math::CUDNN_DEFAULT_MATH) => Some(Math::CUDNN_FMA_MATH),
        // Would take half precision.
        (Precision::F32, _) | (_, Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION) => None,
        (_, math) => Some(math),
    }
}

/// The ranking that cuDNN makes of a pass's algorithms, as far as they work and give the same bits each time.
macro_rules! ranking {
    ($record:ty, $kind:ident, $ask:path, $($descriptor:expr),*) => {{
        let mut count = 0;
        // SAFETY: a record of numbers may be zero, and the array is as long as is said.
        let found = unsafe {
            let mut found: [$record; RANKED] = std::mem::zeroed();
            $ask($($descriptor),*, RANKED as c_int, &raw mut count, found.as_mut_ptr()).map(|()| found)
        };
        // An error says that there is no ranking; what is not ranked can still be computed.
        let found = found.map(Vec::from).unwrap_or_default();
        found
            .into_iter()
            .take(count as usize)
            .filter(|one| is_usable(one.status, one.determinism))
            .map(|one| (Algorithm::$kind(one.algo), one.mathType))
            .collect::<Vec<_>>()
    }};
}

fn is_usable(status: sys::cudnnStatus_t, determinism: sys::cudnnDeterminism_t) -> bool {
    status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
        && determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
}

impl Convolutions {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread()?;
        let handle = Handle(result::create_handle().map_err(said("its start"))?);
        // SAFETY: both are alive for as long as this is.
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }.map_err(said("its stream"))?;
        Ok(Self { plans: RefCell::default(), handle, stream: stream.clone() })
    }

    fn ranked(&self, pass: Pass, Ends { x, w, y, conv }: &Ends) -> Vec<(Algorithm, sys::cudnnMathType_t)> {
        let (handle, x, w, y, conv) = (self.handle.0, *x, *w, *y, *conv);
        match pass {
            Pass::Forward => ranking!(
                sys::cudnnConvolutionFwdAlgoPerf_t,
                Forward,
                result::get_convolution_forward_algorithm,
                handle,
                x,
                w,
                conv,
                y
            ),
            Pass::Data => ranking!(
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                Data,
                result::get_convolution_backward_data_algorithm,
                handle,
                w,
                y,
                conv,
                x
            ),
            Pass::Weights => ranking!(
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                Weights,
                result::get_convolution_backward_filter_algorithm,
                handle,
                x,
                y,
                conv,
                w
            ),
        }
    }

    /// The best that needs no more than `most` bytes of scratch. What the ranking says of scratch belongs to the precision that
    /// it was ranked with, so it is asked for once more.
    fn plan(&self, precision: Precision, pass: Pass, shape: &ConvShape, most: usize) -> Result<Plan> {
        let ends = Ends::new(shape, precision)?;
        let ranked = self.ranked(pass, &ends);
        let ranked = ranked.into_iter().filter_map(|(one, math)| Some((one, math_of(precision, math)?)));
        let others = Algorithm::fallback(pass).into_iter().map(|one| (one, first_math(precision)));
        let mut last = None;
        for (algorithm, math) in ranked.chain(others) {
            ends.compute_with(math)?;
            match algorithm.workspace(&self.handle, &ends) {
                Ok(workspace) if workspace <= most => return Ok(Plan { ends, algorithm, workspace }),
                Ok(workspace) => last = Some(format!("{algorithm:?} needs {} MB", workspace >> 20)),
                Err(error) => last = Some(format!("{algorithm:?}: {error:?}")),
            }
        }
        bail!(
            "cuDNN has no repeatable algorithm for the {pass:?} pass of {shape:?} in {precision} with {} MB of scratch ({})",
            most >> 20,
            last.unwrap_or_default()
        )
    }

    /// Computes into the last of `tensors` from the others.
    pub(super) fn run(
        &self,
        gpu: &dyn Backend,
        precision: Precision,
        pass: Pass,
        shape: &ConvShape,
        tensors: [&Tensor; 3],
    ) -> Result<()> {
        let weights = shape.output.0 * shape.input.0 * shape.kernel * shape.kernel;
        let (x, y) = (shape.batch * shape.input_len(), shape.batch * shape.output_len());
        let wanted = match pass {
            Pass::Forward => [x, weights, y],
            Pass::Data => [weights, y, x],
            Pass::Weights => [x, y, weights],
        };
        let found = tensors.map(Tensor::elem_count);
        ensure!(wanted == found, "a convolution of {wanted:?} numbers was given {found:?}");
        let key = (*shape, pass, precision);
        let mut plans = self.plans.borrow_mut();
        if let Entry::Vacant(empty) = plans.entry(key) {
            empty.insert(self.plan(precision, pass, shape, WORKSPACE)?);
        }
        loop {
            let plan = &plans[&key];
            let scratch = match plan.workspace {
                0 => None,
                bytes => match gpu.empty(DType::U8, &bytes.into()) {
                    Ok(scratch) => Some(scratch),
                    // Slower rather than not at all.
                    Err(error) if is_out_of_memory(&error) => {
                        let Ok(less) = self.plan(precision, pass, shape, bytes / 2) else {
                            return Err(error);
                        };
                        plans.insert(key, less);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            return self.compute(plan, scratch.as_ref(), tensors);
        }
    }

    fn compute(&self, plan: &Plan, scratch: Option<&Tensor>, [a, b, out]: [&Tensor; 3]) -> Result<()> {
        let at =
            |tensor: &Tensor| -> Result<*mut c_void> { Ok(address(tensor, &self.stream)? as *mut c_void) };
        let work = scratch.map_or(Ok(std::ptr::null_mut()), at)?;
        let (a, b, out) = (at(a)?.cast_const(), at(b)?.cast_const(), at(out)?);
        let &Ends { x, w, y, conv } = &plan.ends;
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
