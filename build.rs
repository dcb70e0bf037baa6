//! Tells the program which commit it is built from, for the provenance of results; with the feature `cuda`, compiles the
//! kernels.
//!
//! Without git, or from a tarball, it is told nothing, and the build is the same otherwise. It runs again only where
//! the sources change, never for a commit alone: what is built from changed sources is marked, and stays so until the
//! next change.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

/// What decides the program's behaviour.
const SOURCES: [&str; 5] = ["src", "assets", "Cargo.toml", "Cargo.lock", "build.rs"];

/// The libraries that `sweep doctor` names.
const LIBRARIES: [&str; 8] =
    ["candle-core", "gemm", "rayon", "polars", "safetensors", "hdf5-pure", "saphyr-parser", "blake3"];

fn main() -> ExitCode {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rustc-env=SWEEP_LIBRARIES={}", libraries().unwrap_or_default());
    println!("cargo:rerun-if-env-changed=SWEEP_COMMIT");
    // A packager who builds from a tarball may know the commit.
    let commit = env::var("SWEEP_COMMIT").ok().filter(|commit| !commit.trim().is_empty()).or_else(commit);
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    match commit.as_deref().map(str::trim) {
        Some(commit) => {
            println!("cargo:rustc-env=SWEEP_COMMIT={commit}");
            println!("cargo:rustc-env=SWEEP_VERSION={version} ({commit})");
        }
        None => println!("cargo:rustc-env=SWEEP_VERSION={version}"),
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(error) = kernels()
    {
        println!("cargo::error={error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The GPU's kernels as PTX, which the driver compiles for the GPU at hand. $NVCC names the compiler,
/// $CUDA_COMPUTE_CAP the oldest GPUs that will do (80 unless said otherwise).
fn kernels() -> Result<(), String> {
    for name in ["NVCC", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let compiler = env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    let oldest = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let folder = env::var("OUT_DIR").map_err(|error| error.to_string())?;
    let output = Path::new(&folder).join("kernels.ptx");
    let wanted = format!("cannot start `{compiler}`: scripts/build_cuda.sh brings a CUDA compiler along");
    let version = version_of(&compiler).ok_or(wanted)?;
    println!("cargo:rustc-env=SWEEP_CUDA={version}");
    let mut command = Command::new(&compiler);
    command.args(["--ptx", "-O3", "-std=c++17", "-arch", &format!("compute_{oldest}"), "-o"]);
    let status = command.arg(&output).arg("src/ops/gpu/kernels/all.cu").status();
    let status = status.map_err(|error| {
        format!("cannot start `{compiler}` ({error}): scripts/build_cuda.sh brings a CUDA compiler along")
    })?;
    if status.success() { Ok(()) } else { Err(format!("`{compiler}` could not compile the kernels")) }
}

/// The version of a CUDA compiler, as a driver counts: 13000 is 13.0.
fn version_of(compiler: &str) -> Option<u32> {
    let output = Command::new(compiler).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (major, rest) = text.split_once("release ")?.1.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(1000 * major.trim().parse::<u32>().ok()? + 10 * minor.parse::<u32>().ok()?)
}

/// `name version` of the libraries that results and files depend on, as Cargo.lock has them.
fn libraries() -> Option<String> {
    let lock = std::fs::read_to_string("Cargo.lock").ok()?;
    let field = |package: &str, name: &str| {
        let start = package.find(&format!("{name} = \""))? + name.len() + 4;
        Some(package[start..].split('"').next()?.to_owned())
    };
    let packages: Vec<(String, String)> = lock
        .split("[[package]]")
        .filter_map(|package| Some((field(package, "\nname")?, field(package, "\nversion")?)))
        .collect();
    let found = LIBRARIES.iter().filter_map(|library| packages.iter().find(|(name, _)| name == library));
    Some(found.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "))
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
