//! PyTorch's checkpoint files: the zip form (since 1.6) and the older one of pickles in a row.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use zip::ZipArchive;

use super::pickle::{Id, Object, Pickle, Storage, TensorRef};

/// What begins a checkpoint of the older form: a pickle of this number.
const OLD: &[u8] = &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// How deep dictionaries are looked into: `{"model": {…}}`, `{"state": {"model": {…}}}`.
const DEEPEST: usize = 4;
/// Bytes of the path of a dictionary that is looked into.
const LONGEST_PATH: usize = 256;

/// An open checkpoint: its dictionaries of tensors, and where their numbers lie.
pub(super) struct Checkpoint {
    /// By their path: `model`, `net`, empty for a file that is itself such a dictionary.
    groups: BTreeMap<String, BTreeMap<String, TensorRef>>,
    numbers: Numbers,
}

/// Where storages lie.
enum Numbers {
    Zip {
        archive: Box<ZipArchive<BufReader<File>>>,
        folder: String,
        file_size: u64,
    },
    /// The whole file, and for each storage where its numbers begin.
    Old {
        bytes: Vec<u8>,
        begins: BTreeMap<String, usize>,
    },
}

impl Checkpoint {
    /// Whether a file that begins with `head` is a checkpoint of PyTorch.
    pub(super) fn is(head: &[u8]) -> bool {
        head.starts_with(b"PK\x03\x04") || head.starts_with(&OLD[..3])
    }

    /// Opens the checkpoint at `path`: reads what it consists of, and no numbers yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        file.by_ref().take(OLD.len() as u64).read_to_end(&mut head)?;
        if head.starts_with(&OLD[..3]) {
            ensure!(
                head == OLD,
                "it is a pickle of something else than a checkpoint: save model.state_dict() with torch.save"
            );
            return Self::open_old(std::fs::read(path)?);
        }
        let file_size = file.metadata()?.len();
        let mut archive = ZipArchive::new(BufReader::new(File::open(path)?))
            .context("its zip directory cannot be read: it is cut short or damaged")?;
        let names: Vec<String> =
            archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
        let described = names.iter().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
        let described = described.context("it is a zip file without data.pkl, no checkpoint of PyTorch")?;
        let folder = described.trim_end_matches("data.pkl").to_owned();
        let order = format!("{folder}byteorder");
        if names.contains(&order) {
            let order = entry(&mut archive, &order, file_size)?;
            ensure!(
                order == b"little",
                "it was saved on a machine of the other byte order: save it again on a common one"
            );
        }
        let bytes = entry(&mut archive, described, file_size)?;
        let (pickle, _) = Pickle::read(&bytes)?;
        let groups = groups(&pickle)?;
        Ok(Self { groups, numbers: Numbers::Zip { archive: Box::new(archive), folder, file_size } })
    }

    fn open_old(bytes: Vec<u8>) -> Result<Self> {
        let mut at = 0;
        let mut next = || -> Result<Pickle> {
            let (pickle, length) = Pickle::read(&bytes[at..])?;
            at += length;
            Ok(pickle)
        };
        let (_mark, _protocol, system, described, keys) = (next()?, next()?, next()?, next()?, next()?);
        if let Some(little) = system.entry(system.root(), "little_endian") {
            ensure!(
                *system.get(little) == Object::Bool(true),
                "it was saved on a machine of the other byte order"
            );
        }
        let mut sizes = BTreeMap::new();
        storages(&described, &mut sizes);
        let Object::Items(keys_in_order) = keys.get(keys.root()) else {
            bail!("its list of storages is missing");
        };
        let mut begins = BTreeMap::new();
        for &key in keys_in_order {
            let key = keys.text(key).context("its list of storages holds what is no name")?;
            let count = bytes.get(at..at + 8).and_then(|count| count.try_into().ok()).map(u64::from_le_bytes);
            let size = sizes.get(key).context("its list of storages names one that no tensor has")?;
            let length = count.and_then(|count| usize::try_from(count).ok()?.checked_mul(*size));
            let end =
                length.and_then(|length| (at + 8).checked_add(length)).filter(|&end| end <= bytes.len());
            begins.insert(key.to_owned(), at);
            at = end
                .with_context(|| format!("it ends inside the numbers of storage `{key}`: fetch it again"))?;
        }
        let groups = groups(&described)?;
        Ok(Self { groups, numbers: Numbers::Old { bytes, begins } })
    }

    /// The dictionaries of tensors: for each its path and the names in it.
    pub(super) fn groups(&self) -> &BTreeMap<String, BTreeMap<String, TensorRef>> {
        &self.groups
    }

    /// The tensors `names` of the dictionary `group` as f32.
    pub(super) fn tensors(&mut self, group: &str, names: &[String]) -> Result<BTreeMap<String, Tensor>> {
        let mut found = BTreeMap::new();
        for name in names {
            let tensor = self.groups.get(group).and_then(|group| group.get(name));
            let tensor = tensor.with_context(|| format!("it has no tensor `{name}`"))?.clone();
            let read =
                self.numbers.tensor(&tensor).with_context(|| format!("tensor `{name}` cannot be read"))?;
            found.insert(name.clone(), read);
        }
        Ok(found)
    }
}

impl Numbers {
    fn tensor(&mut self, tensor: &TensorRef) -> Result<Tensor> {
        let TensorRef { storage, offset, shape, stride } = tensor;
        let dtype = storage.dtype.context("its numbers are whole ones or truth values, not weights")?;
        let length = storage
            .count
            .checked_mul(storage.size)
            .context("its storage claims more than a machine can hold")?;
        let values = match self {
            Self::Zip { archive, folder, file_size } => {
                let name = format!("{folder}data/{}", storage.key);
                let bytes = entry(archive, &name, *file_size)?;
                ensure!(
                    bytes.len() == length,
                    "its storage `{name}` has {} bytes instead of {length}",
                    bytes.len()
                );
                floats(&bytes, dtype)?
            }
            Self::Old { bytes, begins } => {
                let begin = *begins.get(&storage.key).context("its storage is not in the file")?;
                let count = bytes
                    .get(begin..begin + 8)
                    .and_then(|count| count.try_into().ok())
                    .map(u64::from_le_bytes);
                let stated = bytes.get(begin + 8..).and_then(|rest| rest.get(..length));
                ensure!(
                    count == Some(storage.count as u64),
                    "its storage has another size than its tensor says"
                );
                floats(stated.context("its storage is cut short")?, dtype)?
            }
        };
        let values = gather(values, *offset, shape, stride);
        Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
    }
}

/// The numbers of a view of `values`, in row-major order.
fn gather(values: Vec<f32>, offset: usize, shape: &[usize], stride: &[usize]) -> Vec<f32> {
    let count = shape.iter().product::<usize>();
    let mut plain = 1;
    let is_plain = shape.iter().zip(stride).rev().all(|(&n, &step)| {
        let fits = n <= 1 || step == plain;
        plain *= n;
        fits
    });
    if is_plain && offset == 0 && count == values.len() {
        return values;
    }
    let place = |mut index: usize| {
        let mut at = offset;
        for (&n, &step) in shape.iter().zip(stride).rev() {
            at += index % n * step;
            index /= n;
        }
        at
    };
    (0..count).map(|index| values[place(index)]).collect()
}

/// Little-endian numbers as f32.
fn floats(bytes: &[u8], dtype: DType) -> Result<Vec<f32>> {
    Ok(match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        DType::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => bail!("its numbers are whole ones, not weights"),
    })
}

/// The content of an entry, which is never larger than the file: checkpoints are not compressed.
fn entry(archive: &mut ZipArchive<BufReader<File>>, name: &str, file_size: u64) -> Result<Vec<u8>> {
    let entry = archive.by_name(name).with_context(|| format!("its entry `{name}` is missing or damaged"))?;
    let (size, packed) = (entry.size(), entry.compressed_size());
    ensure!(
        size == packed && size <= file_size,
        "its entry `{name}` claims {size} bytes in {packed} of a file of {file_size}: a checkpoint is not compressed"
    );
    let mut bytes = Vec::with_capacity(size as usize);
    entry.take(size + 1).read_to_end(&mut bytes).with_context(|| format!("its entry `{name}` is damaged"))?;
    ensure!(bytes.len() as u64 == size, "its entry `{name}` is cut short");
    Ok(bytes)
}

/// The dictionaries of `pickle` that hold tensors by name, by their path; each once.
fn groups(pickle: &Pickle) -> Result<BTreeMap<String, BTreeMap<String, TensorRef>>> {
    let mut found = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut next = vec![(String::new(), pickle.root(), 0)];
    while let Some((path, id, depth)) = next.pop() {
        let Object::Dict(entries) = pickle.get(id) else { continue };
        if !seen.insert(id) {
            continue;
        }
        let mut tensors = BTreeMap::new();
        for &(key, value) in entries {
            let Some(key) = pickle.text(key) else { continue };
            match pickle.get(value) {
                Object::Tensor(tensor) => {
                    tensors.insert(key.to_owned(), TensorRef::clone(tensor));
                }
                Object::Dict(_) if depth < DEEPEST && path.len() + key.len() < LONGEST_PATH => {
                    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    next.push((path, value, depth + 1));
                }
                _ => {}
            }
        }
        if !tensors.is_empty() {
            found.insert(path, tensors);
        }
    }
    ensure!(!found.is_empty(), "it holds no dictionary of tensors: save model.state_dict() with torch.save");
    Ok(found)
}

/// Bytes of a number of each storage that `pickle` refers to, by name.
fn storages(pickle: &Pickle, sizes: &mut BTreeMap<String, usize>) {
    for id in 0..pickle.len() {
        if let Object::Storage(storage) = pickle.get(id as Id) {
            let Storage { key, size, .. } = &**storage;
            sizes.insert(key.clone(), *size);
        }
    }
}
