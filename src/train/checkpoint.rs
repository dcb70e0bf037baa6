//! Checkpoints: named tensors and a JSON value in one safetensors file, replaced by one rename.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::nn::file;
use crate::store::files;

/// The tensor that carries the JSON value, byte by byte.
const STATE: &str = "__state__";

/// The checkpoint's name in a stage's work folder; the store drops it when the stage is published.
pub const FILE: &str = "checkpoint.safetensors";

/// Writes `tensors` and `state` to `path`, whole or not at all.
pub fn save(path: &Path, tensors: Vec<(String, Tensor)>, state: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(state)?;
    let len = bytes.len();
    let mut all: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    all.insert(STATE.into(), Tensor::from_vec(bytes, len, &Device::Cpu)?);
    let bytes = file::encode(all.iter().map(|(name, t)| (name.as_str(), t)))?;
    files::write_atomic(path, bytes)
}

/// Reads what [`save`] wrote; `None` where there is no checkpoint.
pub fn load<S: DeserializeOwned>(path: &Path) -> Result<Option<(BTreeMap<String, Tensor>, S)>> {
    if !path.exists() {
        return Ok(None);
    }
    let torn = || format!("{} is no whole checkpoint; delete it to start this stage again", path.display());
    let loaded = candle_core::safetensors::load(path, &Device::Cpu).with_context(torn)?;
    let mut tensors: BTreeMap<_, _> = loaded.into_iter().collect();
    let state = tensors.remove(STATE).with_context(torn)?;
    ensure!(state.dims().len() == 1, torn());
    let state = serde_json::from_slice(&state.to_vec1::<u8>().with_context(torn)?).with_context(torn)?;
    Ok(Some((tensors, state)))
}

/// `named` with `prefix` before each name.
pub(super) fn prefixed<'a>(
    prefix: &'a str,
    named: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> impl Iterator<Item = (String, Tensor)> {
    named.into_iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor.clone()))
}

/// Takes the tensors whose name starts with `prefix` out of `tensors`, under the rest of their names.
pub(super) fn take<C: FromIterator<(String, Tensor)>>(
    tensors: &mut BTreeMap<String, Tensor>,
    prefix: &str,
) -> C {
    let (taken, rest) = std::mem::take(tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
    *tensors = rest;
    let taken: BTreeMap<String, Tensor> = taken;
    taken.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_a_torn_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(load::<u64>(&path).unwrap().is_none(), "no file is no checkpoint");
        let w = Tensor::new(&[1.5f32, -2.0], &Device::Cpu).unwrap();
        save(&path, vec![("w".into(), w)], &7u64).unwrap();
        let (tensors, state) = load::<u64>(&path).unwrap().expect("saved");
        assert_eq!((tensors["w"].to_vec1::<f32>().unwrap(), state), (vec![1.5, -2.0], 7));

        let bytes = std::fs::read(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(0).unwrap();
        assert!(load::<u64>(&path).is_err(), "an empty file");
        files::write_atomic(&path, &bytes[..bytes.len() - 3]).unwrap();
        let error = format!("{:#}", load::<u64>(&path).unwrap_err());
        assert!(error.contains("delete it"), "{error}");
    }
}
