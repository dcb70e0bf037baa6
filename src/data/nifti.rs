//! NIfTI-1 volumes (`.nii`, `.nii.gz`, `.hdr` + `.img`): read as numbers, written as label maps and images.
//!
//! What readers disagree about is decided as nibabel does: voxels begin at `vox_offset` and nowhere else, a slope of 0,
//! NaN or infinity means unscaled, gzip files may have several members, either byte order is read, voxels are never
//! re-oriented. A file is untrusted: what its header claims is held against its size before memory is asked for.

mod header;
mod write;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;

pub use header::Header;
pub use write::{write_image, write_labels};

use header::{HEADER, Kind};

/// Most voxels of a volume: twice those of the largest 4-D cardiac series known (512×428×21×30).
pub const MOST_VOXELS: usize = 1 << 28;
/// Farthest that voxels may begin, in bytes.
const MOST_OFFSET: u64 = 64 << 20;
/// The most that a byte of a deflate stream can expand to, rounded up.
pub(super) const EXPANSION: u64 = 1_033;
/// Bytes that are converted at once; a multiple of every number's size.
const CHUNK: usize = 1 << 18;
/// What may follow the voxels and is still read, so that a gzip file's checksum is compared.
const TAIL: usize = 1 << 16;

/// A volume as its file has it: no axis is turned.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it was read from.
    pub path: PathBuf,
    /// Columns (x, fastest), rows (y), slices (z), time points; 1 where the file has fewer axes.
    pub dims: [usize; 4],
    /// The distance of neighbouring voxels along x, y and z in mm.
    pub spacing: [f32; 3],
    /// The voxels after slope and intercept, x fastest.
    pub voxels: Vec<f32>,
    /// The header, for files of the same geometry.
    pub header: Header,
}

impl Volume {
    /// Slices, rows, columns: the shape of each time point, as [`super::Case::shape`] has it.
    pub fn shape(&self) -> [usize; 3] {
        let [x, y, z, _] = self.dims;
        [z, y, x]
    }

    /// The voxels of time point `t`, counted from 0; none where there is no such time point.
    pub fn frame(&self, t: usize) -> Option<&[f32]> {
        let len: usize = self.dims[..3].iter().product();
        self.voxels.get(t * len..(t + 1) * len)
    }
}

/// Reads the header of `path` alone: sizes and spacing, checked, in microseconds. The voxels may still be cut short.
///
/// # Errors
/// As [`read`].
pub fn read_header(path: &Path) -> Result<Header> {
    Ok(Source::open(path)?.header)
}

/// Reads the volume `path` with all its time points.
///
/// # Errors
/// Name the file and what is wrong with it: no NIfTI-1 (NIfTI-2, ANALYZE), numbers that are no scalars, impossible
/// sizes, voxels that are cut short, damaged compression.
pub fn read(path: &Path) -> Result<Volume> {
    let source = Source::open(path)?;
    let frames: Vec<usize> = (0..source.header.dims()[3]).collect();
    source.read(&frames)
}

/// Reads the chosen time points of `path` only (from 0, rising); memory is that of these.
///
/// # Errors
/// As [`read`], and where there is no such time point.
pub fn read_frames(path: &Path, frames: &[usize]) -> Result<Volume> {
    let source = Source::open(path)?;
    let count = source.header.dims()[3];
    let rising = frames.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(rising && !frames.is_empty(), "time points are asked for as {frames:?}: give them rising");
    if let Some(absent) = frames.iter().find(|&&t| t >= count) {
        bail!("{} has the time points 0 to {}, not {absent}", path.display(), count - 1);
    }
    source.read(frames)
}

/// A file whose header has been read and found possible.
struct Source {
    path: PathBuf,
    header: Header,
    /// Stands at byte `position` of the file with the voxels, which begin at `begin`.
    stream: Box<dyn Read>,
    position: u64,
    begin: u64,
    /// Of the file with the voxels, in bytes.
    file_size: u64,
    compressed: bool,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        Self::open_unnamed(path).with_context(|| format!("cannot read the volume {}", path.display()))
    }

    fn open_unnamed(path: &Path) -> Result<Self> {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let named = match [".img", ".img.gz"].into_iter().find(|end| name.ends_with(end)) {
            Some(end) => beside(path, end.len(), &["hdr", "hdr.gz"])?,
            None => path.to_owned(),
        };
        let (mut stream, mut file_size, mut compressed) = open(&named)?;
        let mut bytes = [0; HEADER];
        stream.read_exact(&mut bytes).map_err(|error| damaged(error, "its header"))?;
        let (header, kind) = Header::parse(&bytes)?;
        let mut position = HEADER as u64;
        if kind == Kind::Pair {
            let name = named.to_string_lossy();
            let end = if name.ends_with(".gz") { ".hdr.gz" } else { ".hdr" };
            (stream, file_size, compressed) = open(&beside(&named, end.len(), &["img", "img.gz"])?)?;
            position = 0;
        }
        let begin = header.offset(kind)?;
        let source = Self { path: path.to_owned(), header, stream, position, begin, file_size, compressed };
        source.check()?;
        Ok(source)
    }

    /// Whether the file can hold what its header claims.
    fn check(&self) -> Result<()> {
        let Header { number, .. } = self.header;
        let dims = self.header.dims();
        let count = dims.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let count = count.filter(|&count| count <= MOST_VOXELS).with_context(|| {
            format!("its header claims {} voxels; at most {MOST_VOXELS} are read", self.header.size_text())
        })?;
        let needed = self.begin + (count * number.size()) as u64;
        let most = if self.compressed { self.file_size.saturating_mul(EXPANSION) } else { self.file_size };
        ensure!(
            needed <= most,
            "its {} voxels of {} need {needed} bytes, and the file has {}{}: it is cut short, or its header is damaged; \
             fetch it again",
            self.header.size_text(),
            number.name(),
            self.file_size,
            if self.compressed { " compressed ones" } else { "" }
        );
        Ok(())
    }

    fn read(mut self, frames: &[usize]) -> Result<Volume> {
        let voxels =
            self.voxels(frames).with_context(|| format!("cannot read the volume {}", self.path.display()))?;
        let [x, y, z, _] = self.header.dims();
        Ok(Volume {
            dims: [x, y, z, frames.len()],
            spacing: self.header.spacing(),
            path: self.path,
            voxels,
            header: self.header,
        })
    }

    fn voxels(&mut self, frames: &[usize]) -> Result<Vec<f32>> {
        let Header { number, slope, inter, .. } = self.header;
        let [x, y, z, count] = self.header.dims();
        let frame = x * y * z;
        let mut voxels = Vec::new();
        if !self.compressed {
            voxels.reserve_exact(frame * frames.len()); // the file is as large: `check` has seen to it
        }
        let mut bytes = vec![0; CHUNK];
        for &t in frames {
            let start = self.begin + (t * frame * number.size()) as u64;
            self.skip_to(start)?;
            let mut left = frame * number.size();
            while left > 0 {
                let part = &mut bytes[..left.min(CHUNK)];
                self.stream.read_exact(part).map_err(|error| damaged(error, "its voxels"))?;
                number.append(part, self.header.big_endian, (slope, inter), &mut voxels);
                left -= part.len();
            }
            self.position = start + (frame * number.size()) as u64;
        }
        if frames.last() == Some(&(count - 1)) {
            self.finish(&mut bytes[..TAIL])?;
        }
        Ok(voxels)
    }

    fn skip_to(&mut self, position: u64) -> Result<()> {
        let distance = position - self.position;
        let skipped = io::copy(&mut (&mut self.stream).take(distance), &mut io::sink())
            .map_err(|error| damaged(error, "what stands before its voxels"))?;
        ensure!(skipped == distance, "it ends before its voxels begin: fetch it again");
        self.position = position;
        Ok(())
    }

    /// Reads what little follows the voxels: only at its end does a gzip file tell its checksum.
    fn finish(&mut self, bytes: &mut [u8]) -> Result<()> {
        if !self.compressed {
            return Ok(());
        }
        let mut left = TAIL;
        while left > 0 {
            let part = &mut bytes[..left];
            let read =
                self.stream.read(part).map_err(|error| damaged(error, "the end of its compression"))?;
            if read == 0 {
                break;
            }
            left -= read;
        }
        Ok(())
    }
}

/// A stream over the content of `path`, its size on disk, and whether it is compressed.
fn open(path: &Path) -> Result<(Box<dyn Read>, u64, bool)> {
    let open = || -> io::Result<_> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        let mut stream = BufReader::with_capacity(1 << 16, file);
        let compressed = stream.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        Ok((stream, about.len(), compressed))
    };
    let (stream, size, compressed) = open().with_context(|| format!("cannot open {}", path.display()))?;
    let stream: Box<dyn Read> =
        if compressed { Box::new(MultiGzDecoder::new(stream)) } else { Box::new(stream) };
    Ok((stream, size, compressed))
}

/// The other file of a pair: `path` with its last `ending` bytes replaced by the first of `endings` that exists.
fn beside(path: &Path, ending: usize, endings: &[&str]) -> Result<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.len().checked_sub(ending).and_then(|end| name.get(..end));
    let stem = stem.with_context(|| {
        format!("its header says that voxels stand in a .img file, and its name is `{name}`")
    })?;
    let mut candidates = endings.iter().map(|end| path.with_file_name(format!("{stem}.{end}")));
    candidates
        .find(|path| path.is_file())
        .with_context(|| format!("it is half of a pair, and there is no {stem}.{} beside it", endings[0]))
}

/// What a failed read means.
fn damaged(error: io::Error, what: &str) -> anyhow::Error {
    let meaning = match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("it ends inside {what}: fetch it again"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            format!("its compression is damaged at {what}: fetch it again")
        }
        _ => format!("cannot read {what}"),
    };
    anyhow::Error::new(error).context(meaning)
}

#[cfg(test)]
mod tests;
