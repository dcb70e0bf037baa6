//! The kernels compiled for the processor (`kernels/shim.h`): what tests run in the place of a GPU. Tensors stay where they
//! are; products and convolutions are those of the processor.
#![expect(unsafe_code, reason = "kernels take pointers")]

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor};

use super::{Backend, ConvShape, Pass, Precision, Product};
use crate::ops::{buffer, conv, matmul};

// Of the C library, which every program of this kind is linked with.
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

/// A kernel's entry: blocks, and a pointer to each argument.
type Entry = unsafe extern "C" fn(u32, *mut *mut c_void);

/// The library of all kernels, for the life of the process.
struct Library {
    handle: *mut c_void,
    threads: usize,
}

// SAFETY: the handle is only given to `dlsym`, which any thread may call.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// The library, compiled by the first test that asks. An error where there is no compiler.
    fn get() -> Result<&'static Self> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY
            .get_or_init(|| Self::open().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn open() -> Result<Self> {
        let path = compile()?;
        let name = CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: the library has no initialisers; 2 is RTLD_NOW.
        let handle = unsafe { dlopen(name.as_ptr(), 2) };
        if handle.is_null() {
            // SAFETY: after a failure there is a text, which is copied at once.
            let text = unsafe { CStr::from_ptr(dlerror()) }.to_string_lossy().into_owned();
            bail!("cannot open {}: {text}", path.display());
        }
        let mut library = Self { handle, threads: 0 };
        // SAFETY: the function of this name takes nothing and returns an unsigned number.
        let threads: extern "C" fn() -> u32 = unsafe { std::mem::transmute(library.symbol("shim_threads")?) };
        library.threads = threads() as usize;
        Ok(library)
    }

    fn symbol(&self, name: &str) -> Result<*mut c_void> {
        let text = CString::new(name)?;
        // SAFETY: the handle is that of an open library.
        let found = unsafe { dlsym(self.handle, text.as_ptr()) };
        ensure!(!found.is_null(), "the library of kernels has no `{name}`");
        Ok(found)
    }
}

/// Makes the library, or finds the one that was made of the same sources.
fn compile() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/gpu/kernels");
    let mut hash = blake3::Hasher::new();
    let mut sources: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&root)? {
        sources.push(entry?.path());
    }
    sources.sort();
    for source in &sources {
        hash.update(&std::fs::read(source)?);
    }
    let folder = std::env::temp_dir();
    let name = format!("sweep-kernels-{}.so", &hash.finalize().to_hex()[..16]);
    let path = folder.join(&name);
    if path.is_file() {
        return Ok(path);
    }
    let part = folder.join(format!("{name}.{}", std::process::id()));
    // No fused multiply-add and no fast maths: the arithmetic is to be the written one.
    let arguments = ["-O1", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off", "-w", "-x", "c++"];
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let output =
        Command::new(&compiler).args(arguments).arg(root.join("all.cu")).arg("-o").arg(&part).output();
    let output = output.with_context(|| format!("no C++ compiler (`{compiler}`)"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    #[expect(clippy::disallowed_methods, reason = "a library for this test run, not a result")]
    std::fs::rename(&part, &path)?;
    Ok(path)
}

/// The kernels that have been run so far, by any test.
static RUN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The kernels that the sources define and no test has run so far.
pub(super) fn not_run() -> Result<Vec<String>> {
    let run = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/gpu/kernels"))? {
        let text = std::fs::read_to_string(entry?.path())?;
        let names = text.lines().filter_map(|line| line.strip_prefix("KERNEL ")?.split_once('('));
        missing.extend(names.filter(|(name, _)| !run.contains(name)).map(|(name, _)| name.to_owned()));
    }
    missing.sort();
    Ok(missing)
}

struct Emulated {
    library: &'static Library,
    entries: RefCell<HashMap<&'static str, Entry>>,
    tables: RefCell<HashMap<[usize; 4], Tensor>>,
    /// Whether there is no memory for what is brought there.
    full: bool,
}

/// The emulation; an error where the kernels cannot be compiled here.
pub(super) fn open(full: bool) -> Result<Rc<dyn Backend>> {
    let (entries, tables) = (RefCell::default(), RefCell::default());
    Ok(Rc::new(Emulated { library: Library::get()?, entries, tables, full }))
}

/// Overwrites the numbers of a tensor.
fn write(tensor: &Tensor, values: &[f32]) -> Result<()> {
    buffer::update(tensor, |to| to.copy_from_slice(values))
}

/// Matrices of `rows` by `columns`, each turned over.
fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let matrices = values.chunks_exact(rows * columns);
    matrices.flat_map(|m| (0..rows * columns).map(move |at| m[at % rows * columns + at / rows])).collect()
}

/// Matrix `at` of a batch, as the processor multiplies it.
fn part<'a>(values: &'a [f32], matrix: &super::Matrix<'_>, at: usize) -> matmul::Matrix<'a> {
    let values = &values[matrix.start + at * matrix.batch..];
    if matrix.columns == 1 {
        matmul::Matrix::new(values, matrix.rows)
    } else {
        matmul::Matrix::new(values, matrix.columns).transposed()
    }
}

impl Backend for Emulated {
    fn threads(&self) -> usize {
        self.library.threads
    }

    fn parts(&self) -> usize {
        5
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn holds(&self, _tensor: &Tensor) -> bool {
        !self.full
    }

    fn empty(&self, kind: DType, shape: &Shape) -> Result<Tensor> {
        // Not zeros, so that a kernel that leaves numbers out is noticed.
        let n = shape.elem_count();
        Ok(match kind {
            DType::F64 => Tensor::from_vec(vec![f64::NAN; n], shape, &Device::Cpu)?,
            DType::F32 => Tensor::from_vec(vec![f32::NAN; n], shape, &Device::Cpu)?,
            DType::BF16 => Tensor::from_vec(vec![half::bf16::NAN; n], shape, &Device::Cpu)?,
            DType::F16 => Tensor::from_vec(vec![half::f16::NAN; n], shape, &Device::Cpu)?,
            DType::U8 => Tensor::from_vec(vec![255u8; n], shape, &Device::Cpu)?,
            kind => Tensor::zeros(shape, kind, &Device::Cpu)?,
        })
    }

    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        ensure!(!self.full, "out of memory");
        Ok(tensor.clone())
    }

    fn write(&self, tensor: &Tensor, start: usize, bytes: &[u8]) -> Result<()> {
        let size = tensor.elem_count() * tensor.dtype().size_in_bytes();
        ensure!(start + bytes.len() <= size, "{} bytes from {start} on of {size}", bytes.len());
        let to = (self.address(tensor)? as *mut u8).wrapping_add(start);
        // SAFETY: as many bytes lie there, and nobody else looks at them meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn room(&self) -> Result<usize> {
        Ok(1 << 30)
    }

    fn give_back(&self) -> Result<()> {
        Ok(())
    }

    fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, _) = layout.contiguous_offsets().context("a kernel needs contiguous tensors")?;
        let Storage::Cpu(storage) = &*storage else { bail!("a tensor of the emulation is not on the CPU") };
        let bytes = match storage {
            CpuStorage::F32(values) => values[start..].as_ptr() as u64,
            CpuStorage::F64(values) => values[start..].as_ptr() as u64,
            CpuStorage::U8(values) => values[start..].as_ptr() as u64,
            CpuStorage::U32(values) => values[start..].as_ptr() as u64,
            CpuStorage::BF16(values) => values[start..].as_ptr() as u64,
            CpuStorage::F16(values) => values[start..].as_ptr() as u64,
            _ => bail!("kernels know no tensors of {:?}", tensor.dtype()),
        };
        Ok(bytes)
    }

    unsafe fn launch(
        &self,
        kernel: &'static str,
        blocks: usize,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let known = self.entries.borrow().get(kernel).copied();
        let entry = if let Some(entry) = known {
            entry
        } else {
            let symbol = self.library.symbol(&format!("shim_{kernel}"))?;
            // SAFETY: all symbols with this prefix have this type.
            let entry = unsafe { std::mem::transmute::<*mut c_void, Entry>(symbol) };
            self.entries.borrow_mut().insert(kernel, entry);
            RUN.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel);
            entry
        };
        // SAFETY: the caller's promise.
        unsafe { entry(blocks as u32, arguments.as_mut_ptr()) };
        Ok(())
    }

    fn product(&self, _precision: Precision, product: &Product<'_>) -> Result<()> {
        let [m, n, _] = product.sizes;
        let (a, b) = (product.a.tensor.flatten_all()?, product.b.tensor.flatten_all()?);
        let (a, b) = (a.to_vec1::<f32>()?, b.to_vec1::<f32>()?);
        let mut result = buffer::uninit(m * n);
        buffer::update(product.out.tensor, |out| {
            for at in 0..product.count {
                matmul::matmul(
                    &mut result,
                    product.sizes,
                    part(&a, &product.a, at),
                    part(&b, &product.b, at),
                    false,
                );
                let to = &mut out[product.out.start + at * product.out.batch..];
                for (r, row) in result.chunks(n).enumerate() {
                    for (to, &sum) in to[r * product.out.rows..][..n].iter_mut().zip(row) {
                        let sum = product.factor * sum;
                        *to = if product.add { *to + sum } else { sum };
                    }
                }
            }
        })
    }

    fn convolve(
        &self,
        precision: Precision,
        pass: Pass,
        shape: &ConvShape,
        [a, b, out]: [&Tensor; 3],
    ) -> Result<()> {
        let [forward, weights, data] = conv::passes(shape);
        let compute = match pass {
            Pass::Forward => forward,
            Pass::Weights => weights,
            Pass::Data => data,
        };
        if precision != Precision::Bf16 {
            return write(out, &compute(&buffer::floats(a)?, &buffer::floats(b)?));
        }
        let ((i, h, w), (o, oh, ow)) = (shape.input, shape.output);
        let (x, of_w, y) = ((i, h * w), (i, shape.kernel * shape.kernel), (o, oh * ow));
        let [of_a, of_b, of_out] = match pass {
            Pass::Forward => [x, of_w, y],
            Pass::Data => [of_w, y, x],
            Pass::Weights => [x, y, of_w],
        };
        let first = |tensor: &Tensor, extent| -> Result<Vec<f32>> {
            let values = tensor.flatten_all()?.to_vec1::<half::bf16>()?;
            let (channels, positions) = extent;
            Ok(turned(&values.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), positions, channels))
        };
        let result = compute(&first(a, of_a)?, &first(b, of_b)?);
        let result = turned(&result, of_out.0, of_out.1);
        let bytes: Vec<u8> = result.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        self.write(out, 0, &bytes)
    }

    fn table(&self, key: [usize; 4], make: &dyn Fn() -> Vec<u32>) -> Result<Tensor> {
        if let Some(found) = self.tables.borrow().get(&key) {
            return Ok(found.clone());
        }
        let values = make();
        let len = values.len();
        let table = Tensor::from_vec(values, len, &Device::Cpu)?;
        self.tables.borrow_mut().insert(key, table.clone());
        Ok(table)
    }
}
