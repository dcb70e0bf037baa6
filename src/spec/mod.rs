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

pub mod cluster;
pub mod json_schema;
pub mod report;
pub mod settings;
pub mod stages;
pub mod validate;

mod axes;
mod axis;
pub(crate) mod diagnostics;
mod exclude;
mod expand;
mod extends;
mod grid;
mod only;
mod schema;
mod sets;
#[cfg(test)]
mod tests;
mod written;
pub(crate) mod yaml;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

pub use axes::Axes;
pub(crate) use diagnostics::nearest;
pub use diagnostics::{Diagnostic, Diagnostics};
use diagnostics::{Place, Reporter};
use report::ReportSettings;
use settings::{DataName, Method, Preset, Settings};
use written::{Leaf, Written};

/// The preset of a sweep file that names none.
const PRESET: Preset = Preset::Lite;
/// The method of a sweep file that names none.
const METHOD: Method = Method::Mcsd;

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
    pieces: Arc<Pieces>,
    written: Arc<Source>,
}

/// What a sweep was read from, for errors that are found later.
#[derive(Debug)]
struct Source {
    written: Written,
    /// Name and text of each source.
    texts: Vec<(String, String)>,
}

/// One point of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepPoint {
    /// The axes of the sweep with this point's values, in the order of the file.
    pub axes: Axes,
    /// Everything resolved.
    pub settings: Arc<Settings>,
    /// For each field of the settings, which of [`Pieces`] it is.
    pieces: Box<[u32]>,
    /// The entry of `include` that it comes from.
    include: Option<u32>,
}

impl SweepPoint {
    /// For each of [`settings::FIELDS`] a number for its value: within a sweep, equal values have equal numbers.
    pub fn pieces(&self) -> &[u32] {
        &self.pieces
    }
}

/// The distinct values of each top-level field of the settings, as JSON: points share most of them.
#[derive(Debug, Default)]
pub struct Pieces {
    values: Vec<Vec<Value>>,
}

impl Pieces {
    /// The values of the field with this index in [`settings::FIELDS`], by the numbers of [`SweepPoint::pieces`].
    pub fn of(&self, field: usize) -> &[Value] {
        &self.values[field]
    }
}

/// Something wrong with a sweep that only shows once its data sets are known or its stages planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What it is about.
    pub about: About,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// What a [`Complaint`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The axis with this index.
    Axis(usize),
    /// The first of some settings that is written anywhere, for the point with this index.
    Point(usize, Vec<String>),
}

impl Sweep {
    /// The values that the points share.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Complaints as errors with their places in the file.
    pub fn refuse(&self, complaints: Vec<Complaint>) -> Diagnostics {
        let mut report = Reporter::default();
        for (name, text) in &self.written.texts {
            report.source(name, text);
        }
        for Complaint { about, message, help } in complaints {
            let place = match about {
                About::Axis(axis) => self.place_of_axis(axis),
                About::Point(point, paths) => {
                    expand::place_of(&paths, &self.written.written, &self.leaves(&self.points[point]))
                }
            };
            report.error(place, message, help);
        }
        report.finish()
    }

    /// Where an axis stands; one that only `include` has stands there.
    fn place_of_axis(&self, axis: usize) -> Place {
        let written = &self.written.written;
        let name = written.axis_names().into_iter().nth(axis);
        let included = || {
            let leaf =
                written.include.iter().flatten().find(|leaf| Some(leaf.key.path) == name.as_deref())?;
            Some(leaf.place)
        };
        let own = written.axes.get(axis).map(|axis| axis.place);
        own.or_else(included).unwrap_or(written.start)
    }

    /// What the axis values of a point, or its entry of `include`, set.
    fn leaves(&self, point: &SweepPoint) -> Vec<&Leaf> {
        let written = &self.written.written;
        if let Some(entry) = point.include {
            return written.include[entry as usize].iter().collect();
        }
        let axes = written.axes.iter().enumerate();
        let chosen =
            axes.filter_map(|(i, axis)| axis.values.iter().find(|value| value.shown == *point.axes.value(i)));
        chosen.flat_map(|value| &value.leaves).collect()
    }
}

/// Reads the sweep file at `path`, or of that bare name in `sweeps/`; `sets` are `KEY=VALUE` overrides that come on
/// top of everything and replace a whole axis.
pub fn load(path: &Path, sets: &[String]) -> Result<Sweep, Diagnostics> {
    let path = locate(path)?;
    let shown = path.display().to_string();
    let text = extends::read_text(&path).map_err(|what| Diagnostics::of_file(&shown, what, None))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut sweep = parse(&shown, &stem, &text, sets)?;
    sweep.path = path;
    Ok(sweep)
}

/// A YAML document as JSON: for the project's own data files, which are read as strictly as a sweep file.
pub fn document(name: &str, text: &str) -> Result<Value, Diagnostics> {
    let mut report = Reporter::default();
    let source = report.source(name, text);
    let root = yaml::parse(text, source, &mut report);
    match root {
        Some(root) if report.clean() => Ok(root.json()),
        _ => Err(report.finish()),
    }
}

/// A commented sweep file named `name`, to start from; nothing where that is no name for a folder.
pub fn template(name: &str) -> Option<String> {
    written::is_name(name)
        .then(|| include_str!("template.yaml").replacen("NAME                 ", &format!("{name:<20} "), 1))
}

/// A note where a folder of data is named and the phantom runs: whoever names a folder may mean the data in it.
fn unread_root(points: &[SweepPoint]) -> Option<String> {
    let data = |point: &&SweepPoint| {
        let data = &point.settings.data;
        data.name == DataName::Phantom && !data.root.as_os_str().is_empty()
    };
    let root = &points.iter().find(data)?.settings.data.root;
    Some(format!(
        "data.root `{}` is not read: data.name is phantom (--set data.name=acdc, mnms or own reads it)",
        root.display()
    ))
}

/// Reads a sweep from the text of a file that is shown as `file` and named `stem` where the text names nothing.
fn parse(file: &str, stem: &str, text: &str, sets: &[String]) -> Result<Sweep, Diagnostics> {
    let mut report = Reporter::default();
    let Some(root) = extends::tree(file, text, Path::new(file), &mut vec![], &mut report) else {
        if report.clean() {
            let place = Place { source: 0, line: 1, column: 1, len: 1 };
            report.error(place, "the sweep file is empty", Some("write at least `base` or `grid`".into()));
        }
        return Err(report.finish());
    };
    let written = written::read(&root, sets, &mut report);
    let (points, pieces) = expand::expand(&written, &mut report);
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
    let (texts, mut notes) = report.into_sources();
    notes.extend(unread_root(&points));
    Ok(Sweep {
        name,
        description: written.description.clone(),
        path: file.into(),
        points,
        report: written.report.clone(),
        notes,
        pieces: Arc::new(pieces),
        written: Arc::new(Source { written, texts }),
    })
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
