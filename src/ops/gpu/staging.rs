//! Numbers on their way to a GPU. The driver copies from ordinary memory only after all work before it is done; from
//! page-locked memory it copies while that work runs.
#![expect(unsafe_code, reason = "page-locked memory is the driver's")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, HostSlice as _, PinnedHostSlice, result};

/// Fewer bytes are copied by the driver without a wait.
const SMALLEST: usize = 64 << 10;
/// Bytes of the buffers of one size, about: those of the batches of a step.
const RING: usize = 64 << 20;

/// Page-locked buffers, by size, each used again in its turn.
#[derive(Default)]
pub(super) struct Staging(RefCell<HashMap<usize, Ring>>);

#[derive(Default)]
struct Ring {
    buffers: Vec<PinnedHostSlice<u8>>,
    next: usize,
}

impl Staging {
    /// Copies `bytes` to `address` on the device of `stream`, in the order of the stream.
    pub(super) fn copy(&self, bytes: &[u8], address: u64, stream: &Arc<CudaStream>) -> Result<()> {
        stream.context().bind_to_thread()?;
        if bytes.len() < SMALLEST {
            // SAFETY: the caller has allocated as many bytes; the driver has read `bytes` when this returns.
            return Ok(unsafe { result::memcpy_htod_async(address, bytes, stream.cu_stream()) }?);
        }
        let mut rings = self.0.borrow_mut();
        let ring = rings.entry(bytes.len()).or_default();
        let most = (RING / bytes.len()).clamp(2, 16);
        if ring.buffers.len() < most {
            // SAFETY: the buffer is written in full below, before it is read.
            ring.buffers.push(unsafe { stream.context().alloc_pinned(bytes.len()) }?);
            ring.next = ring.buffers.len() - 1;
        }
        let buffer = &mut ring.buffers[ring.next];
        ring.next = (ring.next + 1) % most;
        // Waits for the copy before, some batches ago.
        buffer.as_mut_slice()?.copy_from_slice(bytes);
        // SAFETY: the slice is used with this stream alone; `_done` records when the copy has ended.
        let (source, _done) = unsafe { buffer.stream_synced_slice(stream) };
        // SAFETY: the caller has allocated as many bytes.
        Ok(unsafe { result::memcpy_htod_async(address, source, stream.cu_stream()) }?)
    }
}
