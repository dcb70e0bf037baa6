//! Rules of the repository that a compiler does not hold: which module may import which, where `unsafe` stands, how
//! long a file grows.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate and the modules it may import, beside itself, `rng` and the settings types
/// (`spec::settings`, `spec::stages`), which everybody may see.
const IMPORTS: [(&str, &[&str]); 19] = [
    ("bench", &["cost", "data", "diffusion", "methods", "nn", "ops", "train"]),
    (
        "cli",
        &[
            "bench", "cost", "data", "exec", "interop", "methods", "ops", "plan", "report", "results",
            "spec", "stage", "store",
        ],
    ),
    ("cost", &["diffusion", "methods", "stage"]),
    ("data", &["ops", "spec", "store"]),
    ("diffusion", &["nn", "ops"]),
    ("exec", &["ops", "plan", "spec", "stage", "store"]),
    (
        "interop",
        &["data", "diffusion", "methods", "metrics", "nn", "ops", "stage", "stats", "store", "train"],
    ),
    ("methods", &["diffusion", "nn", "ops"]),
    ("metrics", &["stats"]),
    ("nn", &["ops"]),
    ("ops", &[]),
    ("plan", &["cost", "data", "spec", "stage", "store"]),
    ("report", &["results", "spec", "stats", "store"]),
    ("results", &["cost", "methods", "plan", "spec", "stage", "stats", "store"]),
    ("spec", &[]),
    ("stage", &["data", "diffusion", "methods", "metrics", "nn", "ops", "store", "train"]),
    ("stats", &[]),
    // The store writes down what a stage is; it knows nothing of what stages do.
    ("store", &["stage"]),
    ("train", &["data", "diffusion", "methods", "metrics", "nn", "ops", "store"]),
];

const LONGEST: usize = 600;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src is there") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((path.strip_prefix(&root).expect("below src").to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 30, "found the sources");
    found
}

/// The crate's module that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.components().next().expect("a relative path").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

/// The text without its tests: from a line `#[cfg(test)]` on.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The modules that follow `crate::` in code.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let settings = rest.starts_with("spec::settings") || rest.starts_with("spec::stages");
            if !settings {
                found.push(rest[..end].to_string());
            }
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
            assert!(["lib", "main", "rng"].contains(&module.as_str()), "{} is in no rule", path.display());
            continue;
        };
        for import in imports(without_tests(&text)) {
            let fine = import == module || import == "rng" || allowed.contains(&import.as_str());
            if !(fine || is_test) {
                wrong.push(format!("{} imports crate::{import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_in_ops_alone() {
    for (path, text) in sources() {
        let has = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        assert!(!has || path.starts_with("ops"), "{} has unsafe code", path.display());
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines, more than {LONGEST}", path.display());
    }
}
