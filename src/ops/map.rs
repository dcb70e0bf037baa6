//! Files as memory: what many processes read and nobody writes, without a copy.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file as memory, read-only. Pages are read when they are touched, and shared with every process that maps the file.
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps the whole of `path`, which must be `bytes` long and must not be changed while it is mapped: the files of
    /// finished stages never are. A file that is cut short under a running process ends that process (SIGBUS).
    ///
    /// # Errors
    /// Of the file system, and where the file is not `bytes` long.
    pub fn open(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let found = file.metadata()?.len();
        if found != bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is torn: {found} bytes instead of {bytes}"),
            ));
        }
        // SAFETY: the file is opened for reading and finished objects of the store are never written again; the slices
        // that are given out borrow the map.
        #[expect(unsafe_code, reason = "mapping a file is unsafe, for others could write it")]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as little-endian floats; nothing on machines that are not little-endian, and where the length is no
    /// multiple of four.
    pub fn floats(&self) -> Option<&[f32]> {
        if cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(&self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files;

    #[test]
    fn a_mapped_file_has_the_numbers_that_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.f32");
        let numbers = [0.0f32, 1.5, -2.25, f32::MIN_POSITIVE];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        files::write_atomic(&path, &bytes).unwrap();
        let mapped = Mapped::open(&path, 16).unwrap();
        assert_eq!((mapped.bytes(), mapped.floats().unwrap()), (bytes.as_slice(), numbers.as_slice()));
        let error = Mapped::open(&path, 20).unwrap_err().to_string();
        assert!(error.contains("torn: 16 bytes instead of 20"), "{error}");
        files::write_atomic(&path, [1, 2, 3]).unwrap();
        assert_eq!(Mapped::open(&path, 3).unwrap().floats(), None, "three bytes are no float");
        files::write_atomic(&path, []).unwrap();
        assert_eq!(Mapped::open(&path, 0).unwrap().floats(), Some(&[][..]), "an empty file");
    }
}
