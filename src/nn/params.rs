//! Named parameters of networks. Names are PyTorch's, so that state dictionaries can be copied; each tensor's start
//! depends on the seed and its own name only, never on what else is built.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use rand::Rng;

use super::file;
use crate::ops::{Place, give_back_memory};
use crate::rng;

/// The parameters and buffers of a network, named, in the order of building. Tensors share their storage with the
/// network's layers: an update in place is seen by both.
#[derive(Debug, Default)]
pub struct Params {
    entries: Vec<Entry>,
    trainable: Vec<Tensor>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    tensor: Tensor,
    trainable: bool,
}

impl Params {
    /// The tensors that an optimiser updates, in order.
    pub fn trainable(&self) -> &[Tensor] {
        &self.trainable
    }

    /// The tensors that no optimiser updates (running statistics, frozen weights), in order.
    pub fn buffers(&self) -> impl Iterator<Item = &Tensor> {
        self.entries.iter().filter(|entry| !entry.trainable).map(|entry| &entry.tensor)
    }

    /// Every tensor with its name, in order.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), &entry.tensor))
    }

    /// The names of [`Self::trainable`], in order.
    pub fn trainable_names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|entry| entry.trainable).map(|entry| entry.name.as_str())
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.named().find(|(found, _)| *found == name).map(|(_, tensor)| tensor)
    }

    /// The number of trainable values: what papers call the number of parameters.
    pub fn count(&self) -> usize {
        self.trainable.iter().map(Tensor::elem_count).sum()
    }

    /// Overwrites every value, buffers included, with that of the same name in `other`.
    pub fn copy_from(&self, other: &Params) -> Result<()> {
        let named = other.named().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        self.load(&named)
    }

    /// Overwrites every value, buffers included, with that of the same name in `found`. Nothing is changed unless
    /// the names and shapes are the same. PyTorch's `num_batches_tracked` is ignored.
    ///
    /// # Errors
    /// Name what is missing, too much, or of another shape or type.
    pub fn load(&self, found: &BTreeMap<String, Tensor>) -> Result<()> {
        let expected: BTreeSet<&str> = self.named().map(|(name, _)| name).collect();
        let missing: Vec<&str> =
            expected.iter().filter(|name| !found.contains_key(**name)).copied().collect();
        let ignored = |name: &str| name.ends_with("num_batches_tracked");
        let extra: Vec<&str> = found
            .keys()
            .map(String::as_str)
            .filter(|name| !expected.contains(name) && !ignored(name))
            .collect();
        ensure!(
            missing.is_empty() && extra.is_empty(),
            "these are the weights of another network: {} missing{}, {} unknown{}",
            missing.len(),
            examples(&missing),
            extra.len(),
            examples(&extra)
        );
        for (name, tensor) in self.named() {
            let new = &found[name];
            if new.shape() != tensor.shape() {
                bail!("tensor `{name}` has shape {:?}, expected {:?}", new.dims(), tensor.dims());
            }
            ensure!(new.dtype() == DType::F32, "tensor `{name}` holds {:?}, expected f32", new.dtype());
        }
        for (name, tensor) in self.named() {
            overwrite(tensor, &found[name])?;
        }
        Ok(())
    }

    /// Overwrites the values that `found` has, and leaves the others as they are. Nothing is changed unless every name is
    /// known and of the same shape.
    ///
    /// # Errors
    /// Name what is unknown or of another shape or type.
    pub fn load_some(&self, found: &BTreeMap<String, Tensor>) -> Result<()> {
        let all = self.named().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
        self.load(&all.chain(found.iter().map(|(name, tensor)| (name.clone(), tensor.clone()))).collect())
    }

    /// The bytes of a safetensors file with all values.
    pub fn encode(&self) -> Result<Vec<u8>> {
        file::encode(self.named())
    }

    /// Writes all values to `path`. The write is not atomic: `path` is to lie in a folder that is published later.
    pub fn to_safetensors(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            let mut out = File::create(path)?;
            out.write_all(&self.encode()?)?;
            Ok(out.sync_all()?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Overwrites all values by those of the file at `path`, checked as [`Self::load`] and [`file::read`] say.
    pub fn from_safetensors(&self, path: &Path) -> Result<()> {
        let found = file::read(path)?;
        self.load(&found).with_context(|| format!("cannot load {}", path.display()))
    }
}

/// Up to three of `names`, to stand in an error.
fn examples(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [first, ..] if names.len() == 1 => format!(" (`{first}`)"),
        _ => format!(" (`{}`, …)", names[..names.len().min(3)].join("`, `")),
    }
}

/// Copies the values of `source` into the storage of `target`, of the same shape.
fn overwrite(target: &Tensor, source: &Tensor) -> Result<()> {
    if target.id() != source.id() {
        let source = source.to_device(target.device())?.flatten_all()?.contiguous()?;
        target.flatten_all()?.slice_set(&source, 0, 0)?;
    }
    Ok(())
}

/// Builds the parameters of a network: names them by scope, starts them from a seed, remembers them in order.
#[derive(Debug)]
pub struct Builder {
    seed: u64,
    shapes_only: bool,
    frozen: bool,
    scope: Vec<String>,
    names: BTreeSet<String>,
    params: Params,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every value the same.
    Constant(f32),
    /// Uniform in ±bound.
    Uniform(f64),
    /// Normal with this deviation.
    Normal(f64),
}

impl Init {
    /// PyTorch's default for weights and biases of convolutions and linear layers: U(±1/√`fan_in`).
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in as f64).sqrt())
    }
}

impl Builder {
    /// Parameters that start from `seed`, in the thread's [`Place`]. Two networks that shall start differently need different seeds or scopes.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            shapes_only: false,
            frozen: false,
            scope: Vec::new(),
            names: BTreeSet::new(),
            params: Params::default(),
        }
    }

    /// Parameters that have shapes and names but no memory: for counting. They cannot be computed with.
    pub fn shapes_only() -> Self {
        Self { shapes_only: true, ..Self::new(0) }
    }

    /// Runs `build` with `name.` before every name.
    pub fn within<T>(&mut self, name: impl Display, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scope.push(name.to_string());
        let built = build(self);
        self.scope.pop();
        built
    }

    /// Runs `build` with every parameter made a buffer: saved and loaded, but never trained.
    pub fn frozen<T>(&mut self, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.frozen, true);
        let built = build(self);
        self.frozen = before;
        built
    }

    /// A trainable parameter (a buffer inside [`Self::frozen`]).
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let trainable = !self.frozen;
        self.add(name, shape, init, trainable)
    }

    /// A tensor that is saved but not trained.
    pub fn buffer(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        self.add(name, shape, init, false)
    }

    /// What was built. The memory that it was drawn in goes back to the system.
    pub fn finish(self) -> Params {
        give_back_memory();
        self.params
    }

    fn add(&mut self, name: &str, shape: &[usize], init: Init, trainable: bool) -> Result<Tensor> {
        let mut name = name.to_owned();
        if !self.scope.is_empty() {
            name = format!("{}.{name}", self.scope.join("."));
        }
        ensure!(self.names.insert(name.clone()), "two parameters are called `{name}`");
        let tensor = if self.shapes_only {
            Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)?
        } else {
            Place::current().put(&start(self.seed, &name, shape, init)?)?
        };
        if trainable {
            self.params.trainable.push(tensor.clone());
        }
        self.params.entries.push(Entry { name, tensor: tensor.clone(), trainable });
        Ok(tensor)
    }
}

/// The start of the parameter `name`.
fn start(seed: u64, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f32> = match init {
        Init::Constant(value) => vec![value; count],
        Init::Uniform(bound) => {
            let mut rng = rng::stream(seed, &format!("init/{name}"), 0);
            (0..count).map(|_| (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32).collect()
        }
        Init::Normal(deviation) => {
            let mut rng = rng::stream(seed, &format!("init/{name}"), 0);
            let mut draw = || {
                // Box–Muller; 1 − u is in (0, 1], where the logarithm is finite.
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                (deviation * radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
            };
            (0..count).map(|_| draw()).collect()
        }
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(seed: u64) -> Params {
        let mut builder = Builder::new(seed);
        builder
            .within("layer", |b| {
                b.param("weight", &[2, 3], Init::fan_in(3))?;
                b.buffer("mean", &[2], Init::Constant(0.5))
            })
            .unwrap();
        builder.finish()
    }

    fn values(params: &Params, name: &str) -> Vec<f32> {
        params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn starts_depend_on_seed_and_name_only() {
        assert_eq!(values(&small(1), "layer.weight"), values(&small(1), "layer.weight"));
        assert_ne!(values(&small(1), "layer.weight"), values(&small(2), "layer.weight"));
        let mut builder = Builder::new(1);
        builder.param("before", &[4], Init::fan_in(3)).unwrap();
        builder.within("layer", |b| b.param("weight", &[2, 3], Init::fan_in(3))).unwrap();
        assert_eq!(values(&builder.finish(), "layer.weight"), values(&small(1), "layer.weight"));
    }

    #[test]
    fn uniform_start_fills_its_range() {
        let mut builder = Builder::new(3);
        builder.param("w", &[10_000], Init::fan_in(16)).unwrap();
        let w = values(&builder.finish(), "w");
        let max = w.iter().fold(0f32, |max, value| max.max(value.abs()));
        let mean = w.iter().sum::<f32>() / 1e4;
        let variance = w.iter().map(|value| value * value).sum::<f32>() / 1e4;
        assert!(max <= 0.25 && max > 0.249, "largest {max}");
        assert!(mean.abs() < 0.005, "mean {mean}");
        assert!((variance - 0.0625 / 3.0).abs() < 5e-4, "variance {variance}");
    }

    #[test]
    fn kinds_names_and_counts() {
        let params = small(0);
        assert_eq!(params.named().map(|(name, _)| name).collect::<Vec<_>>(), ["layer.weight", "layer.mean"]);
        assert_eq!((params.trainable().len(), params.buffers().count(), params.count()), (1, 1, 6));
        let mut builder = Builder::shapes_only();
        builder.param("huge", &[1 << 20, 1 << 20], Init::Constant(0.)).unwrap();
        builder.frozen(|b| b.param("held", &[5], Init::Constant(0.))).unwrap();
        assert!(builder.param("held", &[1], Init::Constant(0.)).is_err(), "a name is used once");
        assert_eq!(builder.finish().count(), 1 << 40);
    }

    #[test]
    fn files_restore_every_value_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.safetensors");
        let (from, to) = (small(1), small(2));
        let shared = to.get("layer.weight").unwrap().clone();
        from.to_safetensors(&path).unwrap();
        to.from_safetensors(&path).unwrap();
        let shared: Vec<f32> = shared.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(shared, values(&from, "layer.weight"));
        let copy = small(3);
        copy.copy_from(&from).unwrap();
        assert_eq!(values(&copy, "layer.weight"), values(&from, "layer.weight"));
        copy.copy_from(&copy).unwrap();
    }

    #[test]
    fn foreign_weights_change_nothing() {
        let params = small(1);
        let before = values(&params, "layer.weight");
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let with = |weight: &[usize], mean: &str| {
            BTreeMap::from([("layer.weight".to_owned(), tensor(weight)), (mean.to_owned(), tensor(&[2]))])
        };
        for (found, word) in [
            (with(&[3, 2], "layer.mean"), "`layer.weight` has shape [3, 2], expected [2, 3]"),
            (with(&[2, 3], "layer.other"), "1 missing (`layer.mean`), 1 unknown (`layer.other`)"),
        ] {
            let error = params.load(&found).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert_eq!(values(&params, "layer.weight"), before);
        }
        let mut found = with(&[2, 3], "layer.mean");
        found.insert("layer.num_batches_tracked".into(), Tensor::new(3i64, &Device::Cpu).unwrap());
        params.load(&found).unwrap();
        assert_eq!(values(&params, "layer.weight"), [1.; 6]);
    }
}
