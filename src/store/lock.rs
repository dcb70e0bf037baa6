//! Locks on stages: held by the process that computes one, released by the operating system when it dies.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::files::explain;

/// How often a lock is tried whose file another machine has just removed or replaced.
const STALE_TRIES: u32 = 50;
/// The time between two such tries.
const STALE_PATIENCE: Duration = Duration::from_millis(20);

/// The right to compute one stage. Given back when dropped, and by the operating system when the process dies.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// The open file that the lock is on; closing it releases the lock.
    _file: File,
}

impl Lock {
    /// Whether a process holds the lock at `path`. Looking takes it for a moment, together with all others that look.
    pub(super) fn is_held(path: &Path) -> bool {
        let looked = File::open(path).map(|file| file.try_lock_shared());
        matches!(looked, Ok(Err(TryLockError::WouldBlock)))
    }

    /// The process that holds the lock at `path`, where one does and its number can be read.
    pub(super) fn holder_of(path: &Path) -> Option<u32> {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => holder(&mut file),
            _ => None,
        }
    }

    /// Takes the lock at `path`, or says who holds it: the number of the process, where it could be read.
    pub(super) fn try_take(path: &Path) -> Result<Result<Self, Option<u32>>> {
        let mut stale = 0;
        loop {
            let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
            let taken =
                opened.map_err(|error| (error, "open the lock")).and_then(|file| match file.try_lock() {
                    Ok(()) => Ok((file, true)),
                    Err(TryLockError::WouldBlock) => Ok((file, false)),
                    Err(TryLockError::Error(error)) => Err((error, "lock")),
                });
            let mut file = match taken {
                Ok((file, true)) => file,
                Ok((mut file, false)) => return Ok(Err(holder(&mut file))),
                // On NFS another machine has removed it since we learnt its name.
                Err((error, _)) if is_stale(&error) && stale < STALE_TRIES => {
                    stale += 1;
                    thread::sleep(STALE_PATIENCE);
                    continue;
                }
                Err((error, doing)) => return Err(refusal(&error, doing, path)),
            };
            // The former holder may have removed the file between our opening and our locking it: then what is locked
            // is a file that nobody else can find, and it does not count.
            if is_at(&file, path) {
                let _ = sign(&mut file); // only for messages: a full disk must not stop anything here
                return Ok(Ok(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked, so that nobody locks the file that is about to go (see `try_take`).
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a file went while it was in use, as another machine can have it on NFS.
#[cfg(unix)]
fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

#[cfg(not(unix))]
fn is_stale(_: &io::Error) -> bool {
    false
}

/// Whether a file system has no locks to give.
#[cfg(unix)]
fn is_without_locks(error: &io::Error) -> bool {
    [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP].iter().any(|&code| error.raw_os_error() == Some(code))
}

#[cfg(not(unix))]
fn is_without_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// Why a lock cannot be had, with the remedy.
fn refusal(error: &io::Error, doing: &str, path: &Path) -> anyhow::Error {
    if is_without_locks(error) {
        let place = path.display();
        return anyhow!(
            "cannot {doing} {place}: {error}; its file system gives no locks: have it mounted with them (NFS: a lock \
             daemon, no `nolock`; Lustre: `flock`), or name a folder elsewhere with --store"
        );
    }
    explain(error, doing, path)
}

/// Whether the open `file` is the one that `path` names now. The name is opened, not only looked at: that is when NFS asks
/// the server rather than its memory.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let named = File::open(path).and_then(|named| named.metadata());
    let (Ok(ours), Ok(named)) = (file.metadata(), named) else { return false };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_second_taker_learns_who_holds_it_until_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::try_take(&path).unwrap().expect("free");
        assert_eq!(Lock::try_take(&path).unwrap().unwrap_err(), Some(std::process::id()));
        assert!(Lock::is_held(&path));
        drop(lock);
        assert!(!Lock::is_held(&path));
        assert!(!path.exists(), "the lock file was left");
        assert!(Lock::try_take(&path).unwrap().is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_system_without_locks_is_named_with_a_remedy() {
        let path = Path::new("/somewhere/locks/a");
        for code in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP] {
            let error = refusal(&io::Error::from_raw_os_error(code), "lock", path).to_string();
            assert!(error.contains("/somewhere/locks/a") && error.contains("--store"), "{error}");
        }
        let error = refusal(&io::Error::from_raw_os_error(libc::EACCES), "lock", path).to_string();
        assert!(!error.contains("gives no locks"), "{error}");
        assert!(is_stale(&io::Error::from_raw_os_error(libc::ESTALE)), "tried again");
    }

    #[test]
    fn never_two_hold_it_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let holders = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut taken = 0;
                    while taken < 50 {
                        let Ok(_lock) = Lock::try_take(&path).unwrap() else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                        taken += 1;
                        holders.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
