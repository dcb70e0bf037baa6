//! The 348 bytes that begin a NIfTI-1 file.

use anyhow::{Result, bail, ensure};

use super::MOST_OFFSET;

/// Bytes of a header.
pub(super) const HEADER: usize = 348;
/// Where voxels of a single file begin when nothing stands between.
pub(super) const FIRST: u64 = 352;

/// Places of fields, in bytes.
pub(super) mod at {
    pub(in super::super) const DIM: usize = 40;
    pub(in super::super) const DATATYPE: usize = 70;
    pub(in super::super) const BITPIX: usize = 72;
    pub(in super::super) const PIXDIM: usize = 76;
    pub(in super::super) const VOX_OFFSET: usize = 108;
    pub(in super::super) const SCL_SLOPE: usize = 112;
    pub(in super::super) const SCL_INTER: usize = 116;
    pub(in super::super) const XYZT_UNITS: usize = 123;
    pub(in super::super) const CAL_MAX: usize = 124;
    pub(in super::super) const CAL_MIN: usize = 128;
    pub(in super::super) const QFORM_CODE: usize = 252;
    pub(in super::super) const MAGIC: usize = 344;
}

/// A NIfTI-1 header: what it says, and its bytes for files of the same geometry.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub(super) bytes: [u8; HEADER],
    pub(super) big_endian: bool,
    pub(super) number: Number,
    /// 1 where the file does not scale.
    pub(super) slope: f64,
    /// 0 where the file does not scale.
    pub(super) inter: f64,
}

/// Whether voxels follow the header or stand in a file of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Pair,
}

impl Header {
    /// A header of volumes of `dims` voxels (x, y, z, time points) at `spacing` mm, whose axes point right, anterior and
    /// superior from the origin.
    ///
    /// # Errors
    /// Where a size is 0 or above 32767, or a distance is not above 0.
    pub fn new(dims: [usize; 4], spacing: [f32; 3]) -> Result<Self> {
        ensure!(
            dims.iter().all(|n| (1..=i16::MAX as usize).contains(n)),
            "a NIfTI-1 volume has 1 to 32767 voxels along each axis, not {dims:?}"
        );
        ensure!(
            spacing.iter().all(|d| *d > 0.0 && d.is_finite()),
            "the distances of voxels are {spacing:?} mm: all need to be above 0"
        );
        let mut header =
            Self { bytes: [0; HEADER], big_endian: false, number: Number::U8, slope: 1.0, inter: 0.0 };
        header.bytes[..4].copy_from_slice(&(HEADER as i32).to_le_bytes());
        header.put_dims(dims);
        for (i, distance) in [1.0, spacing[0], spacing[1], spacing[2], 1.0].into_iter().enumerate() {
            header.put_f32(at::PIXDIM + 4 * i, distance);
        }
        header.bytes[at::XYZT_UNITS] = 2 | 8; // mm and seconds
        header.put_i16(at::QFORM_CODE, 1); // scanner coordinates by a quaternion, which is left at no rotation
        header.bytes[at::MAGIC..].copy_from_slice(b"n+1\0");
        Ok(header)
    }

    /// Columns (x), rows (y), slices (z), time points.
    pub fn dims(&self) -> [usize; 4] {
        let axes = self.i16(at::DIM) as usize;
        std::array::from_fn(|axis| if axis < axes { self.i16(at::DIM + 2 * (axis + 1)) as usize } else { 1 })
    }

    /// The distance of neighbouring voxels along x, y and z in mm; 1 where the file has none.
    pub fn spacing(&self) -> [f32; 3] {
        let unit = match self.bytes[at::XYZT_UNITS] & 7 {
            1 => 1e3,
            3 => 1e-3,
            _ => 1.0,
        };
        let axes = self.i16(at::DIM) as usize;
        std::array::from_fn(|axis| {
            if axis >= axes {
                return 1.0;
            }
            let distance = self.f32(at::PIXDIM + 4 * (axis + 1)).abs() * unit;
            if distance > 0.0 && distance.is_finite() { distance } else { 1.0 }
        })
    }

    /// The same geometry with `frames` time points.
    ///
    /// # Errors
    /// Where `frames` is 0 or above 32767.
    pub fn with_frames(&self, frames: usize) -> Result<Self> {
        ensure!(
            (1..=i16::MAX as usize).contains(&frames),
            "a volume has 1 to 32767 time points, not {frames}"
        );
        let [x, y, z, _] = self.dims();
        let mut header = self.clone();
        header.put_dims([x, y, z, frames]);
        Ok(header)
    }

    pub(super) fn parse(bytes: &[u8; HEADER]) -> Result<(Self, Kind)> {
        let size = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let big_endian = match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
            (348, _) => false,
            (_, 348) => true,
            (540, _) | (_, 540) => bail!(
                "it is NIfTI-2, and NIfTI-1 is read: convert it (nibabel: Nifti1Image.from_image(image); FSL: fslchfiletype)"
            ),
            _ => bail!("it is no NIfTI-1 file: its first number is {} and not 348", i32::from_le_bytes(size)),
        };
        let kind = match &bytes[at::MAGIC..] {
            b"n+1\0" => Kind::Single,
            b"ni1\0" => Kind::Pair,
            [0, ..] => {
                bail!("it is an ANALYZE 7.5 file, which has no geometry to rely on: convert it to NIfTI-1")
            }
            magic => bail!(
                "it is no NIfTI-1 file: its mark is {:?} and not \"n+1\"",
                String::from_utf8_lossy(magic)
            ),
        };
        let mut header = Self { bytes: *bytes, big_endian, number: Number::U8, slope: 1.0, inter: 0.0 };
        header.number = Number::of(header.i16(at::DATATYPE))?;
        header.check_dims()?;
        let (slope, inter) = (header.f32(at::SCL_SLOPE), header.f32(at::SCL_INTER));
        if slope.is_finite() && slope != 0.0 {
            ensure!(
                inter.is_finite(),
                "its voxels are scaled by {slope} and shifted by {inter}: set scl_inter to a number"
            );
            (header.slope, header.inter) = (f64::from(slope), f64::from(inter));
        }
        Ok((header, kind))
    }

    fn check_dims(&self) -> Result<()> {
        let axes = self.i16(at::DIM);
        ensure!((1..=7).contains(&axes), "it has {axes} axes, not 1 to 7: its header is damaged");
        for axis in 1..=axes as usize {
            let size = self.i16(at::DIM + 2 * axis);
            ensure!(size >= 1, "it has {size} voxels along axis {axis}: its header is damaged");
            ensure!(
                axis <= 4 || size == 1,
                "it has {size} voxels along axis {axis}: volumes have three axes and time, no more"
            );
        }
        Ok(())
    }

    /// Where voxels begin in their file. A single file that says 0 is refused: nibabel reads its voxels from byte 0,
    /// SimpleITK from byte 348.
    pub(super) fn offset(&self, kind: Kind) -> Result<u64> {
        let stated = self.f32(at::VOX_OFFSET);
        let first = if kind == Kind::Single { FIRST } else { 0 };
        ensure!(
            stated >= first as f32 && stated <= MOST_OFFSET as f32,
            "its voxels begin at byte {stated} (vox_offset), not between {first} and {MOST_OFFSET}: its header is damaged"
        );
        Ok(stated as u64)
    }

    /// `216×256×10`.
    pub(super) fn size_text(&self) -> String {
        let axes = self.i16(at::DIM).clamp(1, 4) as usize;
        self.dims()[..axes].iter().map(usize::to_string).collect::<Vec<_>>().join("×")
    }

    pub(super) fn put_dims(&mut self, dims: [usize; 4]) {
        let axes = if dims[3] > 1 { 4 } else { 3 };
        self.put_i16(at::DIM, axes);
        for axis in 1..=7 {
            self.put_i16(at::DIM + 2 * axis, dims.get(axis - 1).map_or(1, |&n| n as i16));
        }
    }

    pub(super) fn put_i16(&mut self, at: usize, value: i16) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes[at..at + 2].copy_from_slice(&bytes);
    }

    pub(super) fn put_f32(&mut self, at: usize, value: f32) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes[at..at + 4].copy_from_slice(&bytes);
    }

    fn i16(&self, at: usize) -> i16 {
        let bytes = [self.bytes[at], self.bytes[at + 1]];
        if self.big_endian { i16::from_be_bytes(bytes) } else { i16::from_le_bytes(bytes) }
    }

    fn f32(&self, at: usize) -> f32 {
        let bytes = [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]];
        if self.big_endian { f32::from_be_bytes(bytes) } else { f32::from_le_bytes(bytes) }
    }
}

/// The numbers that voxels are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Number {
    fn of(code: i16) -> Result<Self> {
        Ok(match code {
            2 => Self::U8,
            256 => Self::I8,
            512 => Self::U16,
            4 => Self::I16,
            768 => Self::U32,
            8 => Self::I32,
            1280 => Self::U64,
            1024 => Self::I64,
            16 => Self::F32,
            64 => Self::F64,
            _ => {
                let name = match code {
                    1 => "bits",
                    32 | 1792 | 2048 => "complex numbers",
                    128 | 2304 => "colours",
                    1536 => "128-bit numbers",
                    _ => "unknown",
                };
                bail!(
                    "its voxels are of type {code} ({name}), not whole or real numbers: convert it to float32"
                )
            }
        })
    }

    /// The code in a header.
    pub(super) const fn code(self) -> i16 {
        match self {
            Self::U8 => 2,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::I16 => 4,
            Self::U32 => 768,
            Self::I32 => 8,
            Self::U64 => 1280,
            Self::I64 => 1024,
            Self::F32 => 16,
            Self::F64 => 64,
        }
    }

    /// Bytes of one.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// Appends the numbers in `bytes`, a multiple of their size, times `scale.0` plus `scale.1`. Scaled in f64, as nibabel
    /// does.
    pub(super) fn append(self, bytes: &[u8], big_endian: bool, scale: (f64, f64), to: &mut Vec<f32>) {
        macro_rules! append {
            ($type:ty, $size:literal) => {{
                let numbers = bytes.as_chunks::<$size>().0.iter().map(|&bytes| {
                    if big_endian { <$type>::from_be_bytes(bytes) } else { <$type>::from_le_bytes(bytes) }
                });
                if scale == (1.0, 0.0) {
                    to.extend(numbers.map(|number| number as f32));
                } else {
                    to.extend(numbers.map(|number| (number as f64 * scale.0 + scale.1) as f32));
                }
            }};
        }
        match self {
            Self::U8 => append!(u8, 1),
            Self::I8 => append!(i8, 1),
            Self::U16 => append!(u16, 2),
            Self::I16 => append!(i16, 2),
            Self::U32 => append!(u32, 4),
            Self::I32 => append!(i32, 4),
            Self::U64 => append!(u64, 8),
            Self::I64 => append!(i64, 8),
            Self::F32 => append!(f32, 4),
            Self::F64 => append!(f64, 8),
        }
    }
}
