//! Numbers on their way to a GPU. The driver copies from ordinary memory only after all work before it is done; from
//! page-locked memory it copies while that work runs.
#![expect(unsafe_code, reason = "page-locked memory is the driver's")]

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result, sys};

/// Fewer bytes are copied by the driver without a wait.
const SMALLEST: usize = 64 << 10;
/// Bytes of all buffers, about: those of the batches of two steps, diffusion features included.
const MOST: usize = 1 << 30;

/// Page-locked buffers, by size, each used again when what it held is copied.
#[derive(Default)]
pub(super) struct Staging(RefCell<Kept>);

#[derive(Default)]
struct Kept {
    /// The one that was used longest ago comes first.
    by_size: HashMap<usize, VecDeque<Buffer>>,
    bytes: usize,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// Whether the last copy from it is done. The buffer's own event is recorded only by a context that tracks events.
    copied: CudaEvent,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.copied.synchronize(); // an error of the GPU is told by whoever uses what was copied
    }
}

impl Buffer {
    fn new(len: usize, stream: &Arc<CudaStream>) -> Result<Self> {
        // SAFETY: the buffer is written in full before it is read.
        let memory = unsafe { stream.context().alloc_pinned(len) }?;
        let copied = stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))?;
        Ok(Self { memory, copied })
    }
}

impl Kept {
    /// A buffer of `len` bytes that nothing is copied from any more; none where there is no page-locked memory at all.
    fn buffer(&mut self, len: usize, stream: &Arc<CudaStream>) -> Result<Option<Buffer>> {
        let kept = self.by_size.entry(len).or_default();
        let idle = kept.front().is_some_and(|oldest| oldest.copied.is_complete());
        if !idle
            && (kept.is_empty() || self.bytes + len <= MOST)
            && let Ok(buffer) = Buffer::new(len, stream)
        {
            self.bytes += len;
            return Ok(Some(buffer));
        }
        let Some(oldest) = kept.pop_front() else { return Ok(None) };
        oldest.copied.synchronize()?;
        Ok(Some(oldest))
    }
}

impl Staging {
    /// Copies `bytes` to `address` on the device of `stream`, in the order of the stream.
    pub(super) fn copy(&self, bytes: &[u8], address: u64, stream: &Arc<CudaStream>) -> Result<()> {
        stream.context().bind_to_thread()?;
        let mut kept = self.0.borrow_mut();
        let buffer = if bytes.len() < SMALLEST { None } else { kept.buffer(bytes.len(), stream)? };
        let Some(mut buffer) = buffer else {
            // SAFETY: the caller has allocated as many bytes; the driver has read `bytes` when this returns.
            return Ok(unsafe { result::memcpy_htod_async(address, bytes, stream.cu_stream()) }?);
        };
        buffer.memory.as_mut_slice()?.copy_from_slice(bytes);
        // SAFETY: the caller has allocated as many bytes, and the buffer is left alone until `copied`.
        let copied =
            unsafe { result::memcpy_htod_async(address, buffer.memory.as_slice()?, stream.cu_stream()) };
        let recorded = copied.and_then(|()| buffer.copied.record(stream));
        kept.by_size.entry(bytes.len()).or_default().push_back(buffer);
        Ok(recorded?)
    }
}
