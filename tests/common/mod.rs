//! What the tests of whole sweeps share: a folder with a sweep file, and the program that runs in it.
#![allow(dead_code, reason = "each test uses its part of this")]

#[cfg(unix)]
pub(crate) mod site;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with the sweep file `tiny.yaml`, of the sweep `tiny`.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new(sweep: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        write(&dir.path().join("tiny.yaml"), sweep.as_bytes());
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
        command.current_dir(self.0.path()).args(args);
        command
    }

    /// Runs to the end; standard output and standard error.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let silent = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        silent(&mut self.command(args)).expect("the program starts")
    }

    /// The frames' bytes.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let folder = self.path("results/tiny");
        let names = ["points", "cases", "history"];
        let files =
            names.iter().flat_map(|name| ["parquet", "csv"].map(|end| folder.join(format!("{name}.{end}"))));
        files.map(|path| fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).collect()
    }

    /// The finished objects of the store.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let folders = |path: &Path| -> Vec<PathBuf> {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        for shard in folders(&self.path("results/.store/objects")) {
            found.extend(folders(&shard));
        }
        found.sort();
        found
    }

    /// Waits until the store holds `count` finished objects.
    pub(crate) fn wait_for_objects(&self, count: usize) {
        let start = Instant::now();
        while self.objects().len() < count {
            assert!(start.elapsed() < Duration::from_secs(120), "{count} objects within two minutes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::File::create(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// What tells an object from one that was computed in its place later: the inode of its metadata and the time of its
/// last change, in nanoseconds.
#[cfg(unix)]
pub(crate) type Identity = (u64, i64);

#[cfg(unix)]
impl Folder {
    /// The finished objects with their identities.
    pub(crate) fn identities(&self) -> std::collections::BTreeMap<PathBuf, Identity> {
        use std::os::unix::fs::MetadataExt as _;
        let objects = self.objects().into_iter();
        objects
            .filter_map(|object| {
                let found = fs::metadata(object.join("meta.json")).ok()?;
                Some((object, (found.ino(), found.mtime() * 1_000_000_000 + found.mtime_nsec())))
            })
            .collect()
    }
}

impl Folder {
    /// What no finished sweep may leave: locks, records of runs, work folders, half-written files.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for name in ["locks", "runs", "tmp"] {
            left.extend(entries(&self.path("results/.store").join(name)));
        }
        left.retain(|path| !path.ends_with("locks/.store"));
        let mut folders = vec![self.path("results"), self.path("reports")];
        while let Some(folder) = folders.pop() {
            for path in entries(&folder) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".partial-")) {
                    left.push(path);
                }
            }
        }
        left
    }
}

/// What is in a folder.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Changes one bit in the middle of a file, leaving its size.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(path, &bytes);
}
