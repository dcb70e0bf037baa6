//! Files that are whole or absent, and errors that say what to do about a full or read-only disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow};

/// What marks the half-written file of a process that was killed. Such files are never read.
const PARTIAL: &str = ".partial-";

/// Writes `path` so that it holds either its old or its new content at any moment, also after a power cut: a
/// neighbouring file is written, synced and renamed over it.
///
/// # Errors
/// Where the folder is absent or not writable or the disk is full; the message names the path and the remedy.
pub fn write_atomic(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    replace(path, bytes.as_ref(), true)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// As [`write_atomic`], but not synced: a power cut may lose the new content. For what is cheap to write again.
pub(crate) fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, false)
}

/// What names the content of the file at `path`: `blake3:` and 64 digits.
pub fn content_of(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}

/// Creates `path` and its parents.
pub fn create_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|error| explain(&error, "create the folder", path))
}

/// Creates the folder `path` and finds out whether files can be written there.
///
/// # Errors
/// Names the path and the remedy.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    create_folder(path)?;
    let probe = partial_name(&path.join("probe"));
    File::create(&probe).map_err(|error| explain(&error, "write into", path))?;
    match fs::remove_file(&probe) {
        // Another process, alone in the store until now, has taken it for what a killed one left.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| explain(&error, "write into", path)),
    }
}

/// Whether `name` is a half-written file of a process that was killed.
pub(crate) fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.contains(PARTIAL)
}

/// Renames; the one place that does.
#[expect(clippy::disallowed_methods, reason = "the store is where publishing happens")]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Makes what was created or renamed in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(not(unix)) {
        return Ok(()); // folders cannot be opened as files there
    }
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| explain(&error, "sync the folder", path))
}

/// Makes a file or a folder durable.
pub(crate) fn sync(path: &Path) -> Result<()> {
    if path.is_dir() {
        return sync_folder(path);
    }
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| explain(&error, "sync", path))
}

/// An input or output error with the path and, where one is known, the remedy.
pub(crate) fn explain(error: &io::Error, doing: &str, path: &Path) -> anyhow::Error {
    let path = path.display();
    match remedy(error) {
        Some(remedy) => anyhow!("cannot {doing} {path}: {error}; {remedy}"),
        None => anyhow!("cannot {doing} {path}: {error}"),
    }
}

/// The words of the system for a disk, a quota or a limit that is full.
pub(crate) const FULL: [&str; 3] = ["No space left on device", "quota exceeded", "File too large"];

/// Whether an error means that there is no space.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// What a person can do about an error of the file system.
pub(crate) fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        kind if is_full(kind) => {
            Some("free some space and run the same command again: nothing that is finished is lost")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("make it writable, or name another folder with --store, --results or --reports")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("a file is in the way: move it, or name another folder with --store, --results or --reports")
        }
        _ => None,
    }
}

fn replace(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    let partial = partial_name(path);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    });
    written.and_then(|()| rename(&partial, path)).map_err(|error| {
        let _ = fs::remove_file(&partial); // best effort: the first error is the one to report
        explain(&error, "write", path)
    })
}

/// A name beside `path` that no other process and no other call uses.
pub(crate) fn partial_name(path: &Path) -> PathBuf {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{PARTIAL}{}-{call}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        write_atomic(&path, "old").unwrap();
        write_atomic(&path, b"new".as_slice()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a partial file was left");
    }

    #[test]
    fn a_folder_behind_a_file_is_refused_with_path_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("results");
        write_atomic(&file, "").unwrap();
        let error = check_writable(&file).unwrap_err().to_string();
        assert!(error.contains("results") && error.contains("a file is in the way"), "{error}");
        let error = check_writable(file.join("below")).unwrap_err().to_string();
        assert!(error.contains("a file is in the way"), "{error}");
    }

    #[test]
    fn a_full_disk_names_the_remedy() {
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let text = explain(&error, "write", Path::new("results/x")).to_string();
        assert!(text.contains("results/x") && text.contains("free some space"), "{text}");
    }

    #[test]
    fn a_probe_that_another_process_clears_away_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    crate::store::remove_partials(dir.path()).unwrap();
                }
            });
            let found: Vec<_> = (0..2000).map(|_| check_writable(dir.path())).collect();
            stop.store(true, Ordering::Relaxed);
            found.into_iter().for_each(Result::unwrap);
        });
    }

    #[test]
    fn only_partial_files_are_taken_for_such() {
        let partial = partial_name(Path::new("a/meta.json"));
        assert!(is_partial(&partial.file_name().unwrap().to_string_lossy()));
        assert!(!is_partial("meta.json") && !is_partial(".hidden"));
    }
}
