//! What this machine can do: the rates that floors are made of, and the memory of the process.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ops::{Mode, Place, Precision, Tape};

/// Measured rates of the machine with the threads of the current pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Operations a second of a large matrix product in single precision.
    pub flops: f64,
    /// Bytes a second, read and written, of a copy that fits no cache.
    pub bytes: f64,
}

/// Side of the product's matrices.
const SIDE: usize = 1024;
/// Bytes that are copied.
const COPIED: usize = 256 << 20;
/// The best of so many tries.
const TRIES: usize = 8;

impl Rates {
    /// Measures both, in about a second.
    pub fn measure() -> Result<Self> {
        let matrix = Tensor::ones((SIDE, SIDE), DType::F32, &Device::Cpu)?;
        let product = fastest(|| {
            std::hint::black_box(matrix.matmul(&matrix)?);
            Ok(())
        })?;
        let source = vec![1u8; COPIED];
        let mut target = vec![0u8; COPIED];
        let copy = fastest(|| {
            let chunks = target.par_chunks_mut(1 << 20).zip(source.par_chunks(1 << 20));
            chunks.for_each(|(to, from)| to.copy_from_slice(from));
            Ok(())
        })?;
        Ok(Self { flops: 2.0 * (SIDE as f64).powi(3) / product, bytes: 2.0 * COPIED as f64 / copy })
    }
}

impl Rates {
    /// The same of the thread's place, a GPU, the product in this precision; without what starting the work costs.
    ///
    /// # Errors
    /// Of the GPU.
    pub fn of_gpu(precision: Precision) -> Result<Self> {
        const SIDE: usize = 8192;
        const REPEATS: usize = 8;
        let place = Place::current();
        let tape = Tape::new(Mode::Eval, 0);
        let ones = |rows: usize| place.put(&Tensor::ones((rows, SIDE), DType::F32, &Device::Cpu)?);
        let (a, large) = (tape.constant(&ones(SIDE)?), ones(2 * SIDE)?);
        let repeated = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
            work()?;
            place.synchronize()?;
            let seconds = fastest(|| {
                (0..REPEATS).try_for_each(|_| work())?;
                place.synchronize()
            })?;
            Ok(seconds / REPEATS as f64)
        };
        let product = match precision {
            Precision::Bf16 => {
                let half = a.value().to_dtype(DType::BF16)?;
                repeated(&|| half.matmul(&half).map(drop).map_err(Into::into))?
            }
            Precision::F32 | Precision::Tf32 => repeated(&|| tape.linear(&a, &a, None).map(drop))?,
        };
        let copy = repeated(&|| large.copy().map(drop).map_err(Into::into))?;
        let bytes = 2.0 * 4.0 * large.elem_count() as f64;
        Ok(Self { flops: 2.0 * (SIDE as f64).powi(3) / product, bytes: bytes / copy })
    }
}

/// Seconds of the fastest of a few tries.
fn fastest(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Memory of this process, in bytes of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most so far.
    pub peak: u64,
}

impl Memory {
    /// As the system tells it (`/proc/self/status`); `None` where there is no such file.
    pub fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    fn read(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        Some(Self { now: field("VmRSS")?, peak: field("VmHWM")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tsweep\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(Memory::read(status), Some(Memory { now: 1 << 20, peak: 2 << 20 }));
        assert_eq!(Memory::read("Name:\tsweep\n"), None);
        if let Some(memory) = Memory::now() {
            assert!(memory.peak >= memory.now && memory.now > 1 << 20, "{memory:?}");
        }
    }

    #[test]
    fn rates_are_those_of_a_computer() {
        let Rates { flops, bytes } = Rates::measure().unwrap();
        assert!((1e8..1e15).contains(&flops) && (1e8..1e14).contains(&bytes), "{flops} and {bytes}");
    }
}
