//! Checkpoints as PyTorch writes them: a zip file of one pickle and the numbers of each tensor.

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};

use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::COUNTER;

/// Numbers begin at multiples of this, as PyTorch has it, so that they can be mapped.
const ALIGNMENT: u16 = 64;
/// Entries above this need the zip form for large files.
const LARGE: usize = 0xffff_0000;

/// The bytes of a `.pth` file that `torch.load(…, weights_only=True)` reads as the state dictionary `tensors`, in f32.
/// PyTorch's counters of batches are put beside each running variance. Equal tensors give equal bytes.
pub(super) fn checkpoint(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let mut pickle = Pickle::new();
    let mut storages = Vec::new();
    for (name, tensor) in tensors {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        pickle.tensor(name, "FloatStorage", storages.len(), tensor.dims());
        storages.push(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        if let Some(norm) = name.strip_suffix("running_var") {
            pickle.tensor(&format!("{norm}{COUNTER}"), "LongStorage", storages.len(), &[]);
            storages.push(vec![0; 8]);
        }
    }
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: &str, bytes: &[u8]| -> zip::result::ZipResult<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .with_alignment(ALIGNMENT)
            .large_file(bytes.len() > LARGE);
        archive.start_file(format!("archive/{name}"), options)?;
        Ok(archive.write_all(bytes)?)
    };
    let mut write = || -> zip::result::ZipResult<()> {
        entry("data.pkl", &pickle.finish())?;
        entry("byteorder", b"little")?;
        for (key, bytes) in storages.iter().enumerate() {
            entry(&format!("data/{key}"), bytes)?;
        }
        entry("version", b"3\n")
    };
    write().context("cannot put the checkpoint together")?;
    Ok(archive.finish().context("cannot put the checkpoint together")?.into_inner())
}

/// A pickle (protocol 2) of an ordered dictionary of tensors.
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        let mut pickle = Self(vec![0x80, 2]);
        pickle.empty_dict();
        pickle.0.push(b'('); // the entries follow up to `u`
        pickle
    }

    fn finish(&mut self) -> Vec<u8> {
        self.0.extend(b"u.");
        std::mem::take(&mut self.0)
    }

    /// The entry `name`: a contiguous tensor over the whole of storage `key`.
    fn tensor(&mut self, name: &str, storage: &str, key: usize, shape: &[usize]) {
        self.text(name);
        self.import("torch._utils", "_rebuild_tensor_v2");
        self.0.extend(b"((");
        self.text("storage");
        self.import("torch", storage);
        self.text(&key.to_string());
        self.text("cpu");
        self.int(shape.iter().product());
        self.0.extend(b"tQ");
        self.int(0);
        self.0.push(b'(');
        for &n in shape {
            self.int(n);
        }
        self.0.extend(b"t(");
        for axis in 0..shape.len() {
            self.int(shape[axis + 1..].iter().product());
        }
        self.0.extend(b"t\x89"); // False: no gradient
        self.empty_dict();
        self.0.extend(b"tR");
    }

    fn empty_dict(&mut self) {
        self.import("collections", "OrderedDict");
        self.0.extend(b")R");
    }

    fn import(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn int(&mut self, value: usize) {
        if let Ok(value) = i32::try_from(value) {
            self.0.push(b'J');
            self.0.extend(value.to_le_bytes());
        } else {
            self.0.extend([0x8a, 8]);
            self.0.extend((value as u64).to_le_bytes());
        }
    }
}
