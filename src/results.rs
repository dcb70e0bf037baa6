//! The store's finished points as tidy frames, one row per thing.
//!
//! | frame | a row is | columns |
//! |---|---|---|
//! | `points` | a point | `sweep`, `id`, axes, `status`, `error`, settings that a report names, counts, means, `best_step`, keys |
//! | `cases` | a point × case × class | `id`, axes, `case`, `patient`, `class`, metrics, flags, what else was logged |
//! | `history` | a point × logged step | `id`, axes, `step`, every number that was logged |
//! | `diffusion` | a diffusion model × logged step | `model`, `label`, `step`, `loss`, the loss by diffusion step |
//!
//! Dice and Jaccard are fractions 0–1, distances voxels. Metrics of a point are means over its cases, class by class,
//! and then over the classes. Axes keep their type: truth values, whole numbers and numbers as such, lists and all
//! else as text. Equal input gives equal bytes. The frames lie as Parquet and CSV; both open in Polars and pandas, which
//! `scripts/check_frames.py` shows and checks: `pl.read_parquet("results/NAME/cases.parquet")`, `pd.read_parquet(…)`.

pub mod index;
pub mod pictures;
pub mod query;
pub mod stages;
mod columns;
mod counts;
mod diffusion;
mod read;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use polars::prelude::{Column, CsvWriter, DataFrame, ParquetReader, ParquetWriter, SerReader, SerWriter};
use rayon::prelude::*;
use serde_json::Value;

use crate::spec::settings::{EvaluateSplit, Method, Selection, Settings};
use crate::stats;
use crate::store::files;
use columns::Builder;
use read::{Case, Step};

pub use diffusion::{ModelRecord, Samples, samples};

/// The metrics of a case, in the order of all tables.
pub use crate::spec::report::METRICS;

/// The names of the frames, which are also their files' names.
pub const FRAMES: [&str; 4] = ["points", "cases", "history", "diffusion"];

/// How far a point came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Evaluated.
    Done,
    /// A stage that it needs failed, with this error.
    Failed(String),
    /// Not run, or not to its end.
    Missing,
}

impl Status {
    /// The word in the frames.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Missing => "missing",
        }
    }
}

/// A point and where its results lie.
#[derive(Clone, Debug)]
pub struct PointRecord {
    /// Its name.
    pub id: String,
    /// Its axes, in the order of the sweep file.
    pub axes: Vec<(String, Value)>,
    /// Resolved settings that a report names, by their dotted path; see [`facts`].
    pub facts: Vec<(String, Value)>,
    /// How far it came.
    pub status: Status,
    /// Key of its training stage.
    pub train_key: String,
    /// Key of its evaluation stage.
    pub evaluate_key: String,
    /// The folder of its finished training, with `history.jsonl`.
    pub train: Option<PathBuf>,
    /// The folder of its finished evaluation, with `cases.jsonl`.
    pub evaluate: Option<PathBuf>,
}

/// What `evaluate.select` is in [`facts`] where the test patients chose the network (`train.selection: test`).
pub const TEST_SELECTED: &str = "best_on_test";

/// The name in [`facts`] of what networks start from: `scratch`, or [`IMAGENET`].
pub const START: &str = "start";
/// Networks that start from weights of ImageNet (`swin.weights`).
pub const IMAGENET: &str = "imagenet";

/// The settings that every report names, because a number means little without them, by their dotted paths.
pub fn facts(settings: &Settings) -> Vec<(String, Value)> {
    let Settings { preset, data, method, label_ratio, evaluate, train, swin, .. } = settings;
    // The best of many looks at the test is no result: it goes by a name of its own.
    let select = match (evaluate.select, train.selection) {
        (Selection::Best, EvaluateSplit::Test) => Ok(TEST_SELECTED.into()),
        (select, _) => serde_json::to_value(select),
    };
    let is_loaded = *method == Method::CrossTeaching && !swin.weights.as_os_str().is_empty();
    let facts = [
        ("preset", serde_json::to_value(preset)),
        ("data.name", serde_json::to_value(data.name)),
        ("method", serde_json::to_value(method)),
        ("label_ratio", serde_json::to_value(label_ratio)),
        ("evaluate.split", serde_json::to_value(evaluate.split)),
        ("evaluate.empty", serde_json::to_value(evaluate.empty)),
        ("evaluate.select", select),
        (START, Ok(if is_loaded { IMAGENET } else { "scratch" }.into())),
    ];
    facts.into_iter().filter_map(|(path, value)| Some((path.to_owned(), value.ok()?))).collect()
}

/// The frames of a sweep.
#[derive(Clone, Debug)]
pub struct Frames {
    /// One row per point.
    pub points: DataFrame,
    /// One row per point, case and class.
    pub cases: DataFrame,
    /// One row per point and logged step.
    pub history: DataFrame,
    /// One row per diffusion model and logged step.
    pub diffusion: DataFrame,
    /// Images sampled from the diffusion models.
    pub samples: Vec<Samples>,
}

/// Everything read of one point.
struct Loaded<'a> {
    record: &'a PointRecord,
    cases: Vec<Case>,
    history: Vec<Step>,
}

/// Reads the results of `points`, and of the diffusion `models` behind them, into the frames of the sweep `name`.
///
/// # Errors
/// When a finished point lacks its files or a file holds something else than stages write; names file, line and field.
pub fn collect(name: &str, points: &[PointRecord], models: &[ModelRecord]) -> Result<Frames> {
    let loaded: Vec<Loaded> = points
        .par_iter()
        .map(|record| load(record).with_context(|| format!("cannot collect point {} of `{name}`", record.id)))
        .collect::<Result<_>>()?;
    let axes = union(points.iter().map(|point| &point.axes));
    Ok(Frames {
        points: points_frame(name, &loaded, &axes)?,
        cases: cases_frame(&loaded, &axes)?,
        history: history_frame(&loaded, &axes)?,
        diffusion: diffusion::frame(models)?,
        samples: diffusion::samples(models)?,
    })
}

fn load(record: &PointRecord) -> Result<Loaded<'_>> {
    let cases = match (&record.status, &record.evaluate) {
        (Status::Done, None) => bail!("it is done, but no folder of its evaluation is named"),
        (Status::Done, Some(folder)) => read::cases(&folder.join("cases.jsonl"))?,
        _ => Vec::new(),
    };
    let history = record.train.as_ref().map(|folder| read::history(&folder.join("history.jsonl")));
    Ok(Loaded { record, cases, history: history.transpose()?.unwrap_or_default() })
}

/// The names in `lists`, each once, in the order in which they first appear.
fn union<'a>(lists: impl Iterator<Item = &'a Vec<(String, Value)>>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in lists.flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn points_frame(name: &str, loaded: &[Loaded], axes: &[&str]) -> Result<DataFrame> {
    let mut frame = Builder::new(loaded.len());
    let each = |value: &dyn Fn(&Loaded) -> String| loaded.iter().map(|l| Some(value(l))).collect();
    frame.texts("sweep", vec![Some(name.to_owned()); loaded.len()])?;
    frame.texts("id", each(&|l| l.record.id.clone()))?;
    for axis in axes {
        frame.values(axis, &loaded.iter().map(|l| value_of(&l.record.axes, axis)).collect::<Vec<_>>())?;
    }
    frame.texts("status", each(&|l| l.record.status.name().to_owned()))?;
    let error = |l: &Loaded| match &l.record.status {
        Status::Failed(error) => Some(error.clone()),
        _ => None,
    };
    frame.texts("error", loaded.iter().map(error).collect())?;
    for fact in union(loaded.iter().map(|l| &l.record.facts)) {
        if !axes.contains(&fact) {
            frame
                .values(fact, &loaded.iter().map(|l| value_of(&l.record.facts, fact)).collect::<Vec<_>>())?;
        }
    }
    let count = |l: &Loaded, flag: fn(&Case) -> bool| {
        (!l.cases.is_empty()).then(|| l.cases.iter().filter(|case| flag(case)).count() as i64)
    };
    frame.ints("n_cases", loaded.iter().map(|l| case_count(&l.cases)).collect())?;
    let classes = classes(loaded);
    for (index, metric) in METRICS.iter().enumerate() {
        let overall = loaded.iter().map(|l| mean_over_classes(&l.cases, &classes, index)).collect();
        frame.floats(metric, overall)?;
    }
    for (index, metric) in METRICS.iter().enumerate() {
        for class in &classes {
            let means = loaded.iter().map(|l| class_mean(&l.cases, class, index)).collect();
            frame.floats(&format!("{metric}_{class}"), means)?;
        }
    }
    frame.ints("empty_predictions", loaded.iter().map(|l| count(l, |c| c.empty_prediction)).collect())?;
    frame.ints("empty_labels", loaded.iter().map(|l| count(l, |c| c.empty_label)).collect())?;
    frame.ints("best_step", loaded.iter().map(|l| best_step(&l.history)).collect())?;
    frame.texts("train_key", each(&|l| l.record.train_key.clone()))?;
    frame.texts("evaluate_key", each(&|l| l.record.evaluate_key.clone()))?;
    frame.finish()
}

fn cases_frame(loaded: &[Loaded], axes: &[&str]) -> Result<DataFrame> {
    let rows: Vec<(&Loaded, &Case)> =
        loaded.iter().flat_map(|l| l.cases.iter().map(move |case| (l, case))).collect();
    let mut frame = Builder::new(rows.len());
    let owners: Vec<&Loaded> = rows.iter().map(|(l, _)| *l).collect();
    owner_columns(&mut frame, &owners, axes)?;
    frame.texts("case", rows.iter().map(|(_, case)| Some(case.volume.clone())).collect())?;
    frame.texts("patient", rows.iter().map(|(_, case)| case.patient.clone()).collect())?;
    frame.texts("class", rows.iter().map(|(_, case)| Some(case.class.clone())).collect())?;
    for (index, metric) in METRICS.iter().enumerate() {
        frame.floats(metric, rows.iter().map(|(_, case)| Some(case.metrics[index])).collect())?;
    }
    frame.bools("empty_prediction", rows.iter().map(|(_, case)| Some(case.empty_prediction)).collect())?;
    frame.bools("empty_label", rows.iter().map(|(_, case)| Some(case.empty_label)).collect())?;
    for key in union(rows.iter().map(|(_, case)| &case.more)) {
        let values: Vec<_> = rows.iter().map(|(_, case)| value_of(&case.more, key)).collect();
        frame.values(&frame.free_name(key), &values)?;
    }
    frame.finish()
}

fn history_frame(loaded: &[Loaded], axes: &[&str]) -> Result<DataFrame> {
    let rows: Vec<(&Loaded, &Step)> =
        loaded.iter().flat_map(|l| l.history.iter().map(move |step| (l, step))).collect();
    let mut frame = Builder::new(rows.len());
    let owners: Vec<&Loaded> = rows.iter().map(|(l, _)| *l).collect();
    owner_columns(&mut frame, &owners, axes)?;
    frame.ints("step", rows.iter().map(|(_, step)| Some(step.step)).collect())?;
    for key in logged(rows.iter().map(|(_, step)| *step)) {
        let number = |step: &Step| step.number(&key);
        frame.floats(&frame.free_name(&key), rows.iter().map(|(_, step)| number(step)).collect())?;
    }
    frame.finish()
}

/// The names of all numbers of `steps`, in the order in which they first appear.
fn logged<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in steps.flat_map(|step| &step.numbers) {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    keys
}

/// The columns that say whose a row is.
fn owner_columns(frame: &mut Builder, owners: &[&Loaded], axes: &[&str]) -> Result<()> {
    frame.texts("id", owners.iter().map(|l| Some(l.record.id.clone())).collect())?;
    for axis in axes {
        frame.values(axis, &owners.iter().map(|l| value_of(&l.record.axes, axis)).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn value_of<'a>(list: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    list.iter().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_null())
}

/// The classes of all cases, in the order in which they first appear.
fn classes(loaded: &[Loaded]) -> Vec<String> {
    let mut classes: Vec<String> = Vec::new();
    for case in loaded.iter().flat_map(|l| &l.cases) {
        if !classes.contains(&case.class) {
            classes.push(case.class.clone());
        }
    }
    classes
}

fn case_count(cases: &[Case]) -> Option<i64> {
    let mut names: Vec<&str> = cases.iter().map(|case| case.volume.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then_some(names.len() as i64)
}

fn class_mean(cases: &[Case], class: &str, metric: usize) -> Option<f64> {
    let of_class = cases.iter().filter(|case| case.class == class);
    stats::mean(&of_class.map(|case| case.metrics[metric]).collect::<Vec<_>>())
}

fn mean_over_classes(cases: &[Case], classes: &[String], metric: usize) -> Option<f64> {
    stats::mean(&classes.iter().filter_map(|class| class_mean(cases, class, metric)).collect::<Vec<_>>())
}

/// The step of the best validation Dice (the first of equals), where any was logged.
fn best_step(history: &[Step]) -> Option<i64> {
    let mut best: Option<(f64, i64)> = None;
    for step in history {
        if let Some(dice) = step.validation_dice()
            && best.is_none_or(|(value, _)| dice > value)
        {
            best = Some((dice, step.step));
        }
    }
    best.map(|(_, step)| step)
}

/// Whether a key of the history is the validation Dice over all classes.
pub(crate) fn is_validation_dice(key: &str) -> bool {
    matches!(key, "val_dice" | "val.dice" | "validation_dice" | "validation.dice" | "dice_val")
}

/// Writes `{points,cases,history,diffusion}.{parquet,csv}` into `dir`, each by one rename.
pub fn write(frames: &Frames, dir: &Path) -> Result<()> {
    files::create_folder(dir)?;
    let Frames { points, cases, history, diffusion, .. } = frames;
    for (name, frame) in FRAMES.iter().zip([points, cases, history, diffusion]) {
        let mut frame = frame.clone();
        let mut bytes = Vec::new();
        let parquet = dir.join(format!("{name}.parquet"));
        ParquetWriter::new(&mut bytes)
            .set_parallel(false)
            .finish(&mut frame)
            .with_context(|| format!("cannot encode {}", parquet.display()))?;
        files::write_atomic(&parquet, &bytes)?;
        let mut bytes = Vec::new();
        let csv = dir.join(format!("{name}.csv"));
        CsvWriter::new(&mut bytes)
            .finish(&mut frame)
            .with_context(|| format!("cannot encode {}", csv.display()))?;
        files::write_atomic(&csv, &bytes)?;
    }
    Ok(())
}

/// Reads what [`write()`] wrote; sampled images are not among it.
pub fn read(dir: &Path) -> Result<Frames> {
    let [points, cases, history, diffusion] = FRAMES.map(|name| read_frame(dir, name, None));
    Ok(Frames {
        points: points?,
        cases: cases?,
        history: history?,
        diffusion: diffusion?,
        samples: Vec::new(),
    })
}

/// Reads what tables are made of: points and cases; the other frames are empty.
pub fn read_tables(dir: &Path) -> Result<Frames> {
    Ok(Frames {
        points: read_frame(dir, FRAMES[0], None)?,
        cases: read_frame(dir, FRAMES[1], None)?,
        history: DataFrame::empty(),
        diffusion: DataFrame::empty(),
        samples: Vec::new(),
    })
}

/// Reads one of [`FRAMES`] from `dir`: all of it, or some of its columns.
///
/// # Errors
/// Where the file is not there or is no such frame; names it and the remedy.
pub fn read_frame(dir: &Path, name: &str, columns: Option<&[&str]>) -> Result<DataFrame> {
    let columns = columns.map(|columns| columns.iter().map(|&column| column.to_owned()).collect());
    open(dir, name)?.with_columns(columns).finish().with_context(|| foreign(dir, name))
}

fn open(dir: &Path, name: &str) -> Result<ParquetReader<File>> {
    let path = dir.join(format!("{name}.parquet"));
    let file = File::open(&path).with_context(|| {
        format!("cannot open {}: run the sweep first, or name its folder with --results", path.display())
    })?;
    Ok(ParquetReader::new(file))
}

fn foreign(dir: &Path, name: &str) -> String {
    let path = dir.join(format!("{name}.parquet"));
    format!("{} is no frame of this program: delete it and run the sweep again", path.display())
}

/// The names of the axes of a points frame: what stands between `id` and `status`.
pub fn axis_names(points: &DataFrame) -> Vec<String> {
    let names = points.columns().iter().map(|column: &Column| column.name().to_string());
    names.skip_while(|name| name != "id").skip(1).take_while(|name| name != "status").collect()
}

#[cfg(test)]
mod tests;
