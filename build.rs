//! Tells the program which commit it is built from, for the provenance of results.
//!
//! Without git, or from a tarball, it is told nothing, and the build is the same otherwise. It runs again only where
//! the sources change, never for a commit alone: what is built from changed sources is marked, and stays so until the
//! next change.

use std::env;
use std::process::Command;

/// What decides the program's behaviour.
const SOURCES: [&str; 5] = ["src", "assets", "Cargo.toml", "Cargo.lock", "build.rs"];

fn main() {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rerun-if-env-changed=SWEEP_COMMIT");
    // A packager who builds from a tarball may know the commit.
    let commit = env::var("SWEEP_COMMIT").ok().filter(|commit| !commit.trim().is_empty()).or_else(commit);
    if let Some(commit) = commit {
        println!("cargo:rustc-env=SWEEP_COMMIT={}", commit.trim());
    }
}

/// The commit of this folder, with `+` where the sources differ from it.
fn commit() -> Option<String> {
    // A tarball unpacked somewhere inside another repository must not take that one's commit.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changed.is_empty() { commit } else { commit + "+" })
}

/// What git says; none where there is no git or it refuses.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
