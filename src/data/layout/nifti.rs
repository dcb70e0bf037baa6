//! NIfTI-1 files of every kind that a disk may hold. Written apart from the reader, so that one does not repeat the other's
//! mistakes.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::put;

/// How voxels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I16,
    F32,
    F64,
}

/// What files of the same numbers differ in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) kind: Kind,
    pub(super) big_endian: bool,
    /// As it stands in the header; numbers are stored so that these are undone.
    pub(super) slope: f32,
    pub(super) inter: f32,
    /// Bytes between the header's end and the voxels, beyond the four that there always are.
    pub(super) gap: usize,
    /// Gzip members; none where the file is not compressed.
    pub(super) members: usize,
    /// How far the first axis leans into the second one: direction cosines that are not orthonormal.
    pub(super) shear: f32,
}

/// What is common.
pub(super) const PLAIN: Style =
    Style { kind: Kind::I16, big_endian: false, slope: 1.0, inter: 0.0, gap: 0, members: 1, shear: 0.0 };

/// What is found on disks; whole numbers from 0 to 2000 are the same in all of them.
pub(super) const STYLES: [Style; 9] = [
    PLAIN,
    Style { slope: f32::NAN, inter: f32::NAN, ..PLAIN },
    Style { big_endian: true, ..PLAIN },
    Style { kind: Kind::F64, ..PLAIN },
    Style { members: 3, ..PLAIN },
    Style { gap: 160, ..PLAIN },
    Style { slope: 0.0, inter: 7.0, ..PLAIN },
    Style { slope: 2.0, inter: -3.0, ..PLAIN },
    Style { kind: Kind::F32, big_endian: true, members: 0, ..PLAIN },
];

/// A volume to be written.
pub(super) struct Image<'a> {
    /// Columns, rows, slices, time points.
    pub(super) dims: [usize; 4],
    /// Of columns, rows, slices in mm.
    pub(super) spacing: [f32; 3],
    pub(super) voxels: &'a [u16],
    pub(super) style: Style,
}

impl Image<'_> {
    /// Writes `stem.nii.gz`, or `stem.nii` where the style is not compressed.
    pub(super) fn write(&self, folder: &Path, stem: &str) -> Result<()> {
        let bytes = self.bytes();
        if self.style.members == 0 {
            return put(&folder.join(format!("{stem}.nii")), &bytes);
        }
        let path = folder.join(format!("{stem}.nii.gz"));
        let mut packed = Vec::new();
        for part in bytes.chunks(bytes.len().div_ceil(self.style.members)) {
            let mut encoder = GzEncoder::new(packed, Compression::fast());
            let done = encoder.write_all(part).and_then(|()| encoder.finish());
            packed = done.with_context(|| format!("cannot compress {}", path.display()))?;
        }
        put(&path, &packed)
    }

    fn bytes(&self) -> Vec<u8> {
        let Style { kind, big_endian, slope, inter, gap, shear, .. } = self.style;
        let mut header = [0; 352];
        let put16 = |header: &mut [u8], at: usize, value: i16| {
            header[at..at + 2].copy_from_slice(&if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            });
        };
        let put32 = |header: &mut [u8], at: usize, value: f32| {
            header[at..at + 4].copy_from_slice(&if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            });
        };
        header[..4].copy_from_slice(&if big_endian { 348i32.to_be_bytes() } else { 348i32.to_le_bytes() });
        let axes = if self.dims[3] > 1 { 4 } else { 3 };
        put16(&mut header, 40, axes);
        for (axis, &n) in self.dims.iter().chain(&[1, 1, 1]).enumerate() {
            put16(&mut header, 42 + 2 * axis, n as i16);
        }
        let (code, bits) = match kind {
            Kind::U8 => (2, 8),
            Kind::I16 => (4, 16),
            Kind::F32 => (16, 32),
            Kind::F64 => (64, 64),
        };
        put16(&mut header, 70, code);
        put16(&mut header, 72, bits);
        let [x, y, z] = self.spacing;
        for (axis, &mm) in [1.0, x, y, z, 1.0].iter().enumerate() {
            put32(&mut header, 76 + 4 * axis, mm);
        }
        put32(&mut header, 108, (352 + gap) as f32);
        put32(&mut header, 112, slope);
        put32(&mut header, 116, inter);
        header[123] = 2; // mm
        put16(&mut header, 254, 1); // scanner coordinates, by three rows
        for (row, values) in [[-x, shear * y, 0.0], [0.0, -y, 0.0], [0.0, 0.0, z]].iter().enumerate() {
            for (column, &value) in values.iter().enumerate() {
                put32(&mut header, 280 + 16 * row + 4 * column, value);
            }
        }
        header[344..348].copy_from_slice(b"n+1\0");
        let mut bytes = header.to_vec();
        // What lies between header and voxels is nobody's business; voxels read from here would show.
        bytes.resize(352 + gap, 0xa5);
        let scaled = slope.is_finite() && slope != 0.0;
        for &value in self.voxels {
            // slope·stored + inter = slope·value + inter: a volume is scaled by its extremes, so nothing of it is left.
            let stored = value;
            match (kind, big_endian) {
                (Kind::U8, _) => bytes.push(stored as u8),
                (Kind::I16, false) => bytes.extend((stored as i16).to_le_bytes()),
                (Kind::I16, true) => bytes.extend((stored as i16).to_be_bytes()),
                (Kind::F32, false) => bytes.extend(f32::from(stored).to_le_bytes()),
                (Kind::F32, true) => bytes.extend(f32::from(stored).to_be_bytes()),
                (Kind::F64, false) => bytes.extend(f64::from(stored).to_le_bytes()),
                (Kind::F64, true) => bytes.extend(f64::from(stored).to_be_bytes()),
            }
        }
        debug_assert!(!scaled || slope > 0.0, "a negative slope would turn the intensities over");
        bytes
    }
}

/// Labels as numbers, each class under its code.
pub(super) fn coded(label: &[u8], codes: [u16; 4]) -> Vec<u16> {
    label.iter().map(|&class| codes[usize::from(class)]).collect()
}
