//! Raw diffusion maps on disk: one file per (model, step, block), one f16 row per training slice.

use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use crate::diffusion::unet::BlockShape;
use crate::ops::{Place, Rows};
use crate::store::files;

const MAPS: &str = "maps.f16";
const HEADER: &str = "maps.json";
/// The maps while they are being written: part of a checkpoint.
const PART: &str = "checkpoint.maps.f16";
/// How far they are.
const PROGRESS: &str = "checkpoint.maps.json";

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
    dir: PathBuf,
    file: BufWriter<File>,
    header: Header,
    /// Rows so far.
    written: usize,
    /// The hash of what was written so far.
    hash: blake3::Hasher,
}

/// What a checkpoint says of the rows before it.
#[derive(Serialize, Deserialize)]
struct Progress {
    header: Header,
    rows: usize,
    /// Of the rows' bytes, in hexadecimal digits.
    blake3: String,
}

impl Writer {
    /// Starts the cache in `dir`, or continues it after the last [`Self::save`].
    pub fn create(dir: &Path, header: Header) -> Result<Self> {
        let path = dir.join(PART);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.with_context(|| format!("create {}", path.display()))?;
        let (mut written, mut hash) = (0, blake3::Hasher::new());
        let progress = std::fs::read(dir.join(PROGRESS)).ok();
        let progress = progress.and_then(|text| serde_json::from_slice::<Progress>(&text).ok());
        if let Some(progress) = progress.filter(|progress| progress.header == header) {
            let found = hash_of(&mut file, (progress.rows * header.row() * 2) as u64)?;
            if found.finalize().to_hex().as_str() == progress.blake3 {
                (written, hash) = (progress.rows, found);
            }
        }
        let mut writer = Self { dir: dir.to_owned(), file: BufWriter::new(file), header, written, hash };
        writer.keep(written)?;
        Ok(writer)
    }

    /// The rows so far.
    pub fn rows(&self) -> usize {
        self.written
    }

    /// Drops all rows but the first `rows`, of which there must be as many.
    pub fn keep(&mut self, rows: usize) -> Result<()> {
        self.file.flush()?;
        let bytes = (rows * self.header.row() * 2) as u64;
        if rows != self.written {
            self.hash = hash_of(self.file.get_mut(), bytes)?;
        }
        self.file.get_mut().set_len(bytes)?;
        self.file.get_mut().seek(SeekFrom::Start(bytes))?;
        self.written = rows;
        Ok(())
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
        self.hash.update(&bytes);
        self.written += b;
        Ok(())
    }

    /// Makes the rows so far durable, for a later [`Self::create`] to continue from.
    pub fn save(&mut self) -> Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        let blake3 = self.hash.finalize().to_hex().to_string();
        let progress = Progress { header: self.header, rows: self.written, blake3 };
        files::write_atomic(self.dir.join(PROGRESS), serde_json::to_vec_pretty(&progress)?)
    }

    /// Ends the cache; an error if a slice is missing.
    pub fn finish(mut self) -> Result<()> {
        ensure!(
            self.written == self.header.slices,
            "{} of {} slices written",
            self.written,
            self.header.slices
        );
        self.file.flush()?;
        files::write_unsynced(&self.dir.join(HEADER), &serde_json::to_vec_pretty(&self.header)?)?;
        let (part, whole) = (self.dir.join(PART), self.dir.join(MAPS));
        files::rename(&part, &whole).with_context(|| format!("rename {}", part.display()))
    }
}

/// The hash of the first `bytes` bytes of a file.
fn hash_of(file: &mut File, bytes: u64) -> Result<blake3::Hasher> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = blake3::Hasher::new();
    std::io::copy(&mut file.take(bytes), &mut hash)?;
    Ok(hash)
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

    /// The maps of all slices, on the GPU of `place`, in half precision as they are here.
    ///
    /// # Errors
    /// Where they cannot be read, or that GPU has no room.
    pub fn keep(&self, place: &Place) -> Result<Rows> {
        let Header { slices, channels, side } = self.header;
        let mut at = 0;
        Rows::load(place, &[slices, channels, side, side], &mut |piece| {
            self.file.read_exact_at(piece, at)?;
            at += piece.len() as u64;
            Ok(())
        })
    }

    /// Bytes of all maps.
    pub fn bytes(&self) -> usize {
        self.header.slices * self.header.row() * 2
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
    fn a_cache_continues_after_what_was_saved_unless_that_was_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let header = Header { slices: 3, channels: 2, side: 2 };
        let maps = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((3, 2, 2, 2)).unwrap();
        let row = |at: usize| maps.narrow(0, at, 1).unwrap();
        let mut writer = Writer::create(dir.path(), header).unwrap();
        writer.push(&row(0)).unwrap();
        writer.push(&row(1)).unwrap();
        writer.save().unwrap();
        writer.push(&row(0)).unwrap();
        drop(writer); // killed: one row too many, and a wrong one

        let mut writer = Writer::create(dir.path(), header).unwrap();
        assert_eq!(writer.rows(), 2);
        writer.keep(1).unwrap();
        writer.push(&row(1)).unwrap();
        writer.save().unwrap();
        drop(writer);
        let mut writer = Writer::create(dir.path(), header).unwrap();
        assert_eq!(writer.rows(), 2);
        writer.push(&row(2)).unwrap();
        writer.save().unwrap();
        drop(writer);

        let path = dir.path().join(PART);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        files::write_atomic(&path, damaged).unwrap();
        assert_eq!(Writer::create(dir.path(), header).unwrap().rows(), 0);
        files::write_atomic(&path, &whole).unwrap();
        let writer = Writer::create(dir.path(), header).unwrap();
        assert_eq!(writer.rows(), 3);
        writer.finish().unwrap();
        let values = FeatureCache::open(dir.path()).unwrap().rows(&[0, 1, 2]).unwrap();
        let wanted = maps.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values.flatten_all().unwrap().to_vec1::<f32>().unwrap(), wanted);
    }

    #[test]
    fn a_missing_slice_and_a_torn_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let header = Header { slices: 2, channels: 1, side: 1 };
        let mut writer = Writer::create(dir.path(), header).unwrap();
        writer.push(&Tensor::zeros((1, 1, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert!(writer.finish().is_err(), "one of two slices");
        files::write_atomic(dir.path().join(HEADER), serde_json::to_vec(&header).unwrap()).unwrap();
        files::write_atomic(dir.path().join(MAPS), [0, 0]).unwrap();
        let error = FeatureCache::open(dir.path()).err().expect("torn").to_string();
        assert!(error.contains("2 bytes instead of 4"), "{error}");
    }
}
