//! Safetensors files of named tensors. What is read is untrusted: it may be truncated, foreign or hold NaN.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};

/// The bytes of a safetensors file with these tensors; the same tensors give the same bytes.
pub fn encode<'a>(named: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let named: Vec<(&str, &Tensor)> = named.into_iter().collect();
    Ok(safetensors::serialize(named, None)?)
}

/// The tensors of the safetensors file at `path`, by name, each with finite values only.
///
/// # Errors
/// Name the file, and where it applies the tensor.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    read_unnamed(path).with_context(|| format!("cannot load {}", path.display()))
}

/// The tensors whose names begin with `prefix.`, under the rest of their names: one part of a file of several.
pub fn under(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let rest = |name: &str| name.strip_prefix(prefix)?.strip_prefix('.').map(str::to_owned);
    tensors.iter().filter_map(|(name, tensor)| Some((rest(name)?, tensor.clone()))).collect()
}

/// [`read`] without the name of the file in its errors.
fn read_unnamed(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .context("not a whole safetensors file: delete it, so that it is made again")?;
    let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    for (name, tensor) in &tensors {
        check_finite(name, tensor)?;
    }
    Ok(tensors)
}

/// An error if `tensor` holds a NaN or an infinity; integers pass.
pub(crate) fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    if !matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        return Ok(());
    }
    let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        bail!("tensor `{name}` holds {} at index {at}", values[at]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn written(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn tensors_survive_a_file() {
        let a = Tensor::new(&[[1f32, -2.5], [3., 4.]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[7i64, 8], &Device::Cpu).unwrap();
        let bytes = encode([("a", &a), ("b", &b)]).unwrap();
        let (_folder, path) = written(&bytes);
        let read = read(&path).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read["a"].to_vec2::<f32>().unwrap(), a.to_vec2::<f32>().unwrap());
        assert_eq!(read["b"].to_vec1::<i64>().unwrap(), [7, 8]);
    }

    #[test]
    fn parts_of_a_file_are_found_by_prefix() {
        let one = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        let all = ["net.a", "net.b.c", "network.a", "ema.a"].map(|name| (name.to_owned(), one.clone()));
        assert_eq!(under(&all.into(), "net").keys().collect::<Vec<_>>(), ["a", "b.c"]);
    }

    #[test]
    fn broken_files_are_errors_that_name_them() {
        let good = encode([("a", &Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap())]).unwrap();
        let nan = encode([("a", &Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap())]).unwrap();
        for (bytes, word) in [
            (&good[..good.len() - 1], "not a whole"),
            (&good[..5], "not a whole"),
            (&[], "not a whole"),
            (&nan, "`a` holds NaN at index 1"),
        ] {
            let (_folder, path) = written(bytes);
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains("w.safetensors") && error.contains(word), "{error}");
        }
    }
}
