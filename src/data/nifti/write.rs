//! Volumes into files.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::header::{FIRST, Header, Number, at};
use crate::store::files;

/// Writes the label map `labels` (x fastest) with the geometry of `like`, as uint8; compressed where `path` ends in
/// `.gz`. Equal input gives equal bytes; the file is whole or not there.
///
/// # Errors
/// Where there are not as many labels as `like` has voxels, or the file cannot be written; names the file.
pub fn write_labels(path: &Path, like: &Header, labels: &[u8]) -> Result<()> {
    write(path, like, Number::U8, labels.len(), labels)
}

/// Writes the intensities `image` (x fastest) with the geometry of `like`, as float32, otherwise as [`write_labels`].
///
/// # Errors
/// As [`write_labels`].
pub fn write_image(path: &Path, like: &Header, image: &[f32]) -> Result<()> {
    let mut bytes = Vec::with_capacity(4 * image.len());
    for value in image {
        bytes.extend(if like.big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }
    write(path, like, Number::F32, image.len(), &bytes)
}

fn write(path: &Path, like: &Header, number: Number, count: usize, voxels: &[u8]) -> Result<()> {
    let expected: usize = like.dims().iter().product();
    ensure!(
        count == expected,
        "{} would hold {count} voxels, and its header {} says {expected}",
        path.display(),
        like.size_text()
    );
    let mut header = like.clone();
    header.put_i16(at::DATATYPE, number.code());
    header.put_i16(at::BITPIX, 8 * number.size() as i16);
    header.put_f32(at::VOX_OFFSET, FIRST as f32);
    header.put_f32(at::SCL_SLOPE, 1.0);
    for place in [at::SCL_INTER, at::CAL_MAX, at::CAL_MIN] {
        header.put_f32(place, 0.0);
    }
    header.bytes[at::MAGIC..].copy_from_slice(b"n+1\0");
    let mut bytes = Vec::with_capacity(FIRST as usize + voxels.len());
    bytes.extend(header.bytes);
    bytes.extend([0; 4]); // no extension follows
    bytes.extend(voxels);
    let is_compressed = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gz"));
    if is_compressed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default()); // without a time: equal bytes
        let packed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
        bytes = packed.with_context(|| format!("cannot compress {}", path.display()))?;
    }
    files::write_atomic(path, bytes)
}
