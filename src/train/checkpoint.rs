//! Checkpoints: named tensors and a JSON value in one safetensors file, replaced by one rename.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Monitor;
use crate::nn::file;
use crate::store::files;

/// The tensor that carries the JSON value, byte by byte.
const STATE: &str = "__state__";

/// The checkpoint's name in a stage's work folder; the store drops it when the stage is published.
pub const FILE: &str = "checkpoint.safetensors";

/// Bytes of the BLAKE3 hash that ends a checkpoint.
const HASH: usize = blake3::OUT_LEN;

/// Writes `tensors` and `state` to `path`, whole or not at all, and their hash behind them.
pub fn save(path: &Path, tensors: Vec<(String, Tensor)>, state: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(state)?;
    let len = bytes.len();
    let mut all: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    all.insert(STATE.into(), Tensor::from_vec(bytes, len, &Device::Cpu)?);
    let mut bytes = file::encode(all.iter().map(|(name, t)| (name.as_str(), t)))?;
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    files::write_atomic(path, bytes)
}

/// Reads what [`save`] wrote; `None` where there is no checkpoint, or one that is not what was written: then `monitor` is
/// told, the file is removed, and the work begins again.
///
/// # Errors
/// Where the file cannot be read or removed, or is whole and not of this program.
pub fn load<S: DeserializeOwned>(
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<Option<(BTreeMap<String, Tensor>, S)>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let whole = bytes
        .split_at_checked(bytes.len().wrapping_sub(HASH))
        .filter(|(content, hash)| blake3::hash(content).as_bytes().as_slice() == *hash);
    let Some((content, _)) = whole else {
        monitor.note(format!("{} is damaged: the work begins again", path.display()));
        std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        return Ok(None);
    };
    let foreign = || format!("{} is of another program; delete it to start this stage again", path.display());
    let loaded = candle_core::safetensors::load_buffer(content, &Device::Cpu).with_context(foreign)?;
    let mut tensors: BTreeMap<_, _> = loaded.into_iter().collect();
    let state = tensors.remove(STATE).with_context(foreign)?;
    ensure!(state.dims().len() == 1, foreign());
    let state =
        serde_json::from_slice(&state.to_vec1::<u8>().with_context(foreign)?).with_context(foreign)?;
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

    /// Keeps what it is told.
    #[derive(Default)]
    struct Notes(std::cell::RefCell<Vec<String>>);

    impl Monitor for Notes {
        fn progress(&self, _: super::super::Progress) {}
        fn note(&self, text: String) {
            self.0.borrow_mut().push(text);
        }
        fn stopped(&self) -> bool {
            false
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_a_damaged_file_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let notes = Notes::default();
        assert!(load::<u64>(&path, &notes).unwrap().is_none(), "no file is no checkpoint");
        let w = Tensor::new(&[1.5f32, -2.0], &Device::Cpu).unwrap();
        save(&path, vec![("w".into(), w)], &7u64).unwrap();
        let (tensors, state) = load::<u64>(&path, &notes).unwrap().expect("saved");
        assert_eq!((tensors["w"].to_vec1::<f32>().unwrap(), state), (vec![1.5, -2.0], 7));
        assert!(notes.0.borrow().is_empty());

        let bytes = std::fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for damaged in [&[][..], &bytes[..5], &bytes[..bytes.len() - 3], &flipped] {
            files::write_atomic(&path, damaged).unwrap();
            assert!(load::<u64>(&path, &notes).unwrap().is_none());
            assert!(!path.exists(), "it is not looked at twice");
            assert!(notes.0.borrow_mut().pop().is_some_and(|note| note.contains("damaged")));
        }
    }
}
