//! The sweep file: as written, and as resolved points.
//!
//! [`load`] reads a file, reports everything that is wrong with it at once ([`Diagnostics`]), and gives the points,
//! each with its [`settings::Settings`] resolved.
//!
//! ```yaml
//! name: blocks                   # folder of the results; without it, the name of the file
//! description: which decoder blocks to read
//! base:                          # holds for every point; nested or dotted (`train.lr: 0.01`)
//!   preset: lite                 # smoke | lite | paper: the default of everything that is not written
//!   data: { name: acdc, root: data/acdc }     # or just `data: phantom`
//!   label_ratio: 10%             # or `7 cases`
//! grid:                          # every combination
//!   blocks: [[0, 1, 2], [2, 4, 6]]
//!   seed: [0, 1]
//! zip: {}                        # axes that advance together
//! exclude: [{ seed: 1, blocks: [0, 1, 2] }]   # drops the points of grid and zip that match
//! include: [{ blocks: [5], seed: 0 }]         # further points
//! report: { tables: [{ rows: blocks }] }
//! ```

pub mod report;
pub mod settings;
pub mod stages;
pub mod validate;

mod diagnostics;
mod exclude;
mod expand;
mod schema;
#[cfg(test)]
mod tests;
mod written;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use diagnostics::{Diagnostic, Diagnostics};
pub(crate) use diagnostics::nearest;
use diagnostics::{Place, Reporter};
use report::ReportSettings;
use settings::{DataName, Method, Preset, Settings};

/// The preset of a sweep file that names none.
const PRESET: Preset = Preset::Lite;
/// The method of a sweep file that names none.
const METHOD: Method = Method::Mcsd;
/// Bytes of a sweep file at most.
const BYTES: u64 = 16 << 20;

/// A sweep: its points, resolved.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Its name, safe as the name of a folder.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// The file it came from.
    pub path: PathBuf,
    /// The points, in the order of the file.
    pub points: Vec<SweepPoint>,
    /// What the report shall show.
    pub report: ReportSettings,
    /// What a person should know and nobody must change: merged points, an `exclude` without effect.
    pub notes: Vec<String>,
}

/// One point of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepPoint {
    /// The axes of the sweep with this point's values, in the order of the file.
    pub axes: Vec<(String, Value)>,
    /// Everything resolved.
    pub settings: Settings,
}

/// Reads the sweep file at `path`, or of that bare name in `sweeps/`; `sets` are `KEY=VALUE` overrides that come on
/// top of everything and replace a whole axis.
pub fn load(path: &Path, sets: &[String]) -> Result<Sweep, Diagnostics> {
    let path = locate(path)?;
    let shown = path.display().to_string();
    let of_file = |message: String| Diagnostics::of_file(&shown, message, None);
    let size = fs::metadata(&path).map_err(|error| of_file(format!("cannot be read: {error}")))?.len();
    if size > BYTES {
        return Err(of_file(format!("has {size} bytes, more than a sweep file may have ({BYTES})")));
    }
    let bytes = fs::read(&path).map_err(|error| of_file(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let readable =
            String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        of_file(format!("is no text in UTF-8 (line {})", readable.matches('\n').count() + 1))
    })?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut sweep = parse(&shown, &stem, &text, sets)?;
    sweep.path = path;
    Ok(sweep)
}

/// A note where a folder of data is named and the phantom runs: whoever names a folder may mean the data in it.
fn unread_root(points: &[SweepPoint]) -> Option<String> {
    let data = |point: &&SweepPoint| {
        let data = &point.settings.data;
        data.name == DataName::Phantom && !data.root.as_os_str().is_empty()
    };
    let root = &points.iter().find(data)?.settings.data.root;
    Some(format!(
        "data.root `{}` is not read: data.name is phantom (--set data.name=acdc reads it)",
        root.display()
    ))
}

/// Reads a sweep from the text of a file that is shown as `file` and named `stem` where the text names nothing.
fn parse(file: &str, stem: &str, text: &str, sets: &[String]) -> Result<Sweep, Diagnostics> {
    let mut report = Reporter::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = report.source(file, text);
    let Some(root) = yaml::parse(text, source, &mut report).filter(|root| !root.is_null()) else {
        if report.clean() {
            let place = Place { source, line: 1, column: 1, len: 1 };
            report.error(place, "the sweep file is empty", Some("write at least `base` or `grid`".into()));
        }
        return Err(report.finish());
    };
    let written = written::read(&root, sets, &mut report);
    let points = expand::expand(&written, &mut report);
    let name = written.name.clone().unwrap_or_else(|| stem.to_owned());
    if written.name.is_none() && !written::is_name(&name) {
        report.error(
            written.start,
            format!("`{stem}` is no name for a folder"),
            Some("write `name: ...`".into()),
        );
    }
    if !report.clean() {
        return Err(report.finish());
    }
    let Reporter { mut notes, .. } = report;
    notes.extend(unread_root(&points));
    let written::Written { description, report, .. } = written;
    Ok(Sweep { name, description, path: file.into(), points, report, notes })
}

/// Finds the file: as it is named, with `.yaml`, or so in `sweeps/` where a bare name is given.
fn locate(path: &Path) -> Result<PathBuf, Diagnostics> {
    let is_bare = path.components().count() == 1;
    let mut tries = vec![path.to_path_buf(), suffixed(path)];
    if is_bare {
        tries.extend([Path::new("sweeps").join(path), suffixed(&Path::new("sweeps").join(path))]);
    }
    if let Some(found) = tries.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let known: Vec<PathBuf> = [folder, Path::new("sweeps")].into_iter().flat_map(sweep_files).collect();
    let stem = |path: &Path| path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let stems: Vec<String> = known.iter().map(|path| stem(path)).collect();
    let near = nearest(&stem(path), stems.iter().map(String::as_str));
    let near = near.and_then(|near| known.iter().find(|path| stem(path) == near));
    let help = match near {
        Some(near) => Some(format!("did you mean `{}`?", near.display())),
        None if known.is_empty() => None,
        None => {
            let names: Vec<String> =
                known.iter().take(8).map(|path| format!("`{}`", path.display())).collect();
            Some(format!("sweep files here: {}", names.join(", ")))
        }
    };
    let message =
        if path.is_dir() { "is a folder: expected a sweep file" } else { "there is no such sweep file" };
    Err(Diagnostics::of_file(&path.display().to_string(), message.into(), help))
}

/// The path with `.yaml` behind it.
fn suffixed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".yaml");
    name.into()
}

/// The sweep files of a folder, sorted.
fn sweep_files(folder: &Path) -> Vec<PathBuf> {
    let is_sweep = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_sweep).collect();
    files.sort();
    files.iter().map(|path| path.strip_prefix("./").unwrap_or(path).to_path_buf()).collect()
}
