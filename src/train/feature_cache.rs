//! Raw diffusion maps on disk: one file per (model, step, block), one f16 row per training slice.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use crate::diffusion::unet::BlockShape;
use crate::store::files;

const MAPS: &str = "maps.f16";
const HEADER: &str = "maps.json";

/// What a cache file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Rows: training slices, in the data set's order.
    pub slices: usize,
    /// Channels of a map.
    pub channels: usize,
    /// Rows and columns of a map.
    pub side: usize,
}

impl Header {
    fn row(self) -> usize {
        self.channels * self.side * self.side
    }
}

/// A cache that is being written, row by row.
pub struct Writer {
    file: BufWriter<File>,
    header: Header,
    written: usize,
}

impl Writer {
    /// Starts the cache in `dir`.
    pub fn create(dir: &Path, header: Header) -> Result<Self> {
        let path = dir.join(MAPS);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        files::write_atomic(dir.join(HEADER), &serde_json::to_vec_pretty(&header)?)?;
        Ok(Self { file: BufWriter::new(file), header, written: 0 })
    }

    /// Appends the rows of `maps` `[B, C, h, h]`, rounded to f16.
    pub fn push(&mut self, maps: &Tensor) -> Result<()> {
        let (b, c, h, w) = maps.dims4()?;
        let Header { channels, side, .. } = self.header;
        ensure!(
            (c, h, w) == (channels, side, side),
            "maps of {c}×{h}×{w} in a cache of {channels}×{side}×{side}"
        );
        let values = maps.flatten_all()?.to_vec1::<f32>()?;
        let mut bytes = Vec::with_capacity(values.len() * 2);
        for value in values {
            let half = f16::from_f32(value);
            ensure!(
                half.is_finite(),
                "a feature map holds {value}, which half precision cannot: set features.mode to online"
            );
            bytes.extend(half.to_le_bytes());
        }
        self.file.write_all(&bytes)?;
        self.written += b;
        Ok(())
    }

    /// Ends the cache; an error if a slice is missing.
    pub fn finish(mut self) -> Result<()> {
        ensure!(
            self.written == self.header.slices,
            "{} of {} slices written",
            self.written,
            self.header.slices
        );
        Ok(self.file.flush()?)
    }
}

/// A finished cache; rows are read when they are asked for.
pub struct FeatureCache {
    file: File,
    header: Header,
}

impl FeatureCache {
    /// Opens the cache in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let (path, json) = (dir.join(MAPS), dir.join(HEADER));
        let text = std::fs::read(&json).with_context(|| format!("read {}", json.display()))?;
        let header: Header =
            serde_json::from_slice(&text).with_context(|| format!("read {}", json.display()))?;
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let (is, wanted) = (file.metadata()?.len(), (header.slices * header.row() * 2) as u64);
        ensure!(
            is == wanted,
            "{} has {is} bytes instead of {wanted}: delete its folder to extract again",
            path.display()
        );
        Ok(Self { file, header })
    }

    /// The maps of the training slices `rows`: `[B, C, h, h]`, f32.
    pub fn rows(&self, rows: &[usize]) -> Result<Tensor> {
        let Header { slices, channels, side } = self.header;
        let row = self.header.row();
        let mut bytes = vec![0; row * 2];
        let mut halves = vec![f16::ZERO; row];
        let mut values = vec![0.0f32; rows.len() * row];
        for (&index, out) in rows.iter().zip(values.chunks_exact_mut(row)) {
            ensure!(index < slices, "slice {index} of a cache of {slices}");
            self.file.read_exact_at(&mut bytes, (index * row * 2) as u64)?;
            for (half, pair) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
                *half = f16::from_le_bytes([pair[0], pair[1]]);
            }
            halves.convert_to_f32_slice(out);
        }
        Ok(Tensor::from_vec(values, (rows.len(), channels, side, side), &Device::Cpu)?)
    }

    /// The shape of a map.
    pub fn shape(&self) -> BlockShape {
        BlockShape { channels: self.header.channels, side: self.header.side }
    }

    /// The number of slices.
    pub fn slices(&self) -> usize {
        self.header.slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let header = Header { slices: 3, channels: 2, side: 2 };
        let maps = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((3, 2, 2, 2)).unwrap();
        let mut writer = Writer::create(dir.path(), header).unwrap();
        writer.push(&maps.narrow(0, 0, 2).unwrap()).unwrap();
        writer.push(&maps.narrow(0, 2, 1).unwrap()).unwrap();
        writer.finish().unwrap();
        let cache = FeatureCache::open(dir.path()).unwrap();
        let rows = cache.rows(&[2, 0]).unwrap();
        assert_eq!(rows.dims(), [2, 2, 2, 2]);
        let values = rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values[..3], [16.0, 17.0, 18.0], "small whole numbers are exact in f16");
        assert_eq!(values[8], 0.0);
        assert!(cache.rows(&[3]).is_err(), "a slice that is not there");
    }

    #[test]
    fn a_missing_slice_and_a_torn_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let header = Header { slices: 2, channels: 1, side: 1 };
        let mut writer = Writer::create(dir.path(), header).unwrap();
        writer.push(&Tensor::zeros((1, 1, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert!(writer.finish().is_err(), "one of two slices");
        let error = FeatureCache::open(dir.path()).err().expect("torn").to_string();
        assert!(error.contains("2 bytes instead of 4"), "{error}");
    }
}
