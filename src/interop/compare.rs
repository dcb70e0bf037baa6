//! Label maps against label maps, of whatever origin: every metric of each case and class.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use polars::prelude::{Column, CsvWriter, DataFrame, ParquetWriter, SerWriter};
use rayon::prelude::*;

use super::volumes::{LABEL_MARKS, Volume, list, named};
use crate::data::CLASS_NAMES;
use crate::metrics::{CaseMetrics, UNIT, Variants, case_metrics, variants};
use crate::spec::settings::EmptyDistance;
use crate::stats;
use crate::store::files;

/// A prediction and the label map that it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name that both have.
    pub case: String,
    /// The predicted label map.
    pub pred: PathBuf,
    /// The true one.
    pub label: PathBuf,
}

/// The predictions at `pred` with the label maps at `label`: two files, or two folders whose files have the same names, the
/// endings of format and a `_gt` or `_label` aside.
///
/// # Errors
/// Where a prediction has no label map or the other way round, all of them at once.
pub fn pairs(pred: &Path, label: &Path) -> Result<Vec<Pair>> {
    if !pred.is_dir() && !label.is_dir() {
        let (pred, label) = (list(pred)?.remove(0), list(label)?.remove(0));
        return Ok(vec![Pair { case: case(&pred), pred, label }]);
    }
    ensure!(
        pred.is_dir() && label.is_dir(),
        "{} and {} need to be two files or two folders",
        pred.display(),
        label.display()
    );
    let (preds, labels) = (by_case(pred, false)?, by_case(label, true)?);
    let missing = |some: &BTreeMap<String, PathBuf>, others: &BTreeMap<String, PathBuf>| {
        some.keys().filter(|case| !others.contains_key(*case)).cloned().collect::<Vec<_>>()
    };
    let (no_label, no_pred) = (missing(&preds, &labels), missing(&labels, &preds));
    let mut wrong = Vec::new();
    for (cases, there, absent) in [(&no_label, pred, label), (&no_pred, label, pred)] {
        if !cases.is_empty() {
            let shown = cases.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let more = cases.len().saturating_sub(5);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            wrong.push(format!("{shown}{more} of {} not in {}", there.display(), absent.display()));
        }
    }
    ensure!(wrong.is_empty(), "predictions and label maps need the same names: {}", wrong.join("; "));
    let pair = |(case, pred): (String, PathBuf)| {
        let label = labels[&case].clone();
        Pair { case, pred, label }
    };
    Ok(preds.into_iter().map(pair).collect())
}

/// The label maps of a folder by case. Where `marked`, a folder that holds images too: then those alone whose name says so.
fn by_case(folder: &Path, marked: bool) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = list(folder)?;
    let is_marked = |path: &PathBuf| named(path).is_some_and(|(name, _)| unmarked(&name) != name);
    if marked && files.iter().any(is_marked) {
        files.retain(is_marked);
    }
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in files {
        if let Some(other) = found.insert(case(&path), path.clone()) {
            bail!("{} and {} are label maps of one case: keep one", other.display(), path.display());
        }
    }
    Ok(found)
}

/// The case that a file is of.
fn case(path: &Path) -> String {
    named(path).map(|(name, _)| unmarked(&name).to_owned()).unwrap_or_default()
}

fn unmarked(name: &str) -> &str {
    LABEL_MARKS
        .iter()
        .find_map(|mark| name.strip_suffix(mark))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(name)
}

/// The names of the labels from 1 on, as a person writes them: `RV,Myo,LV`, or `acdc` or `mnms` for those of the sets,
/// which number the same classes in opposite order.
pub fn class_names(text: &str) -> Vec<String> {
    let ours = CLASS_NAMES[1..].iter().map(|&name| name.to_owned());
    match text.to_ascii_lowercase().as_str() {
        "acdc" => ours.collect(),
        "mnms" => ours.rev().collect(),
        _ => text.split(',').map(|name| name.trim().to_owned()).collect(),
    }
}

/// The metrics of one class of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The case; a time point of several has its number behind it.
    pub case: String,
    /// The label.
    pub code: u8,
    /// By MedPy's definitions, distances in voxels.
    pub voxel: CaseMetrics,
    /// The other definitions; in mm where a file tells the spacing.
    pub variants: Variants,
}

/// What a comparison came to.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Case by case, class by class.
    pub rows: Vec<Row>,
    /// The labels that were compared and their names, rising.
    pub classes: Vec<(u8, String)>,
    /// What a distance to an empty mask is.
    pub empty: EmptyDistance,
    /// What is odd, for people.
    pub notes: Vec<String>,
}

/// One pair of volumes: its rows, and what was odd.
struct Compared {
    /// The name of each time point.
    cases: Vec<String>,
    rows: Vec<Row>,
    shape: [usize; 3],
    /// In mm, where it is known.
    spacing: Option<[f64; 3]>,
    notes: Vec<String>,
}

/// Compares all `pairs`, on all cores. `names` are those of the labels from 1 on; without them every label above 0 that
/// occurs anywhere is a class, named by its number. Distances to an empty mask are what `empty` says. `told(done, total)`
/// is called between pairs.
///
/// # Errors
/// Where a file cannot be read, is no label map, has a label without a name, or two of a pair differ in size.
pub fn compare(
    pairs: &[Pair],
    names: Option<&[String]>,
    empty: EmptyDistance,
    told: &dyn Fn(usize, usize),
) -> Result<Comparison> {
    let mut compared = Vec::with_capacity(pairs.len());
    for batch in pairs.chunks(2 * rayon::current_num_threads().max(1)) {
        let found: Result<Vec<Compared>> = batch.par_iter().map(|pair| of_pair(pair, empty)).collect();
        compared.extend(found?);
        told(compared.len(), pairs.len());
    }
    let found: BTreeSet<u8> = compared.iter().flat_map(|pair| &pair.rows).map(|row| row.code).collect();
    let classes: Vec<(u8, String)> = match names {
        Some(names) => {
            if let Some(code) = found.iter().find(|&&code| usize::from(code) > names.len()) {
                bail!(
                    "the label {code} occurs, and {} classes have names: {}",
                    names.len(),
                    names.join(", ")
                );
            }
            (1..).zip(names.iter().cloned()).collect()
        }
        None => found.iter().map(|&code| (code, code.to_string())).collect(),
    };
    ensure!(!classes.is_empty(), "no label above 0 occurs in any of the files: there is nothing to compare");
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for pair in compared {
        for case in &pair.cases {
            for (code, _) in &classes {
                let known = pair.rows.iter().find(|row| row.code == *code && row.case == *case);
                // Neither map has the class: of such masks the size alone matters.
                let absent = || {
                    let nothing = vec![0; pair.shape.iter().product()];
                    row(case, (&nothing, &nothing), pair.shape, *code, pair.spacing, empty)
                };
                rows.push(known.cloned().unwrap_or_else(absent));
            }
        }
        notes.extend(pair.notes);
    }
    Ok(Comparison { rows, classes, empty, notes })
}

/// The row of a class of one time point of `shape`; `spacing` in mm.
fn row(
    case: &str,
    (pred, truth): (&[u8], &[u8]),
    shape: [usize; 3],
    code: u8,
    spacing: Option<[f64; 3]>,
    empty: EmptyDistance,
) -> Row {
    Row {
        case: case.to_owned(),
        code,
        voxel: case_metrics(pred, truth, shape, code, UNIT, empty),
        variants: variants(pred, truth, shape, code, spacing, empty),
    }
}

fn of_pair(pair: &Pair, empty: EmptyDistance) -> Result<Compared> {
    let (pred, label) = (Volume::label_map(&pair.pred)?, Volume::label_map(&pair.label)?);
    let size = |volume: &Volume| {
        let [slices, rows, columns] = volume.shape;
        let frames =
            if volume.frames > 1 { format!(", {} time points", volume.frames) } else { String::new() };
        format!("{slices} slices of {rows}×{columns}{frames}")
    };
    ensure!(
        pred.shape == label.shape && pred.frames == label.frames,
        "{} has {}, {} has {}: both need the same size",
        pair.pred.display(),
        size(&pred),
        pair.label.display(),
        size(&label)
    );
    let mut notes = Vec::new();
    if let (Some(one), Some(other)) = (pred.spacing, label.spacing)
        && one.iter().zip(other).any(|(a, b)| (a - b).abs() > 1e-3 * b)
    {
        notes.push(format!(
            "{}: the prediction has voxels of {one:?} mm, the label map of {other:?}, which counts",
            pair.case
        ));
    }
    let spacing = label.spacing.or(pred.spacing);
    let voxels: usize = label.shape.iter().product();
    let (pred, truth) = (pred.labels()?, label.labels()?);
    let mut compared = Compared { cases: Vec::new(), rows: Vec::new(), shape: label.shape, spacing, notes };
    let mut skipped = 0;
    for (t, (pred, truth)) in pred.chunks_exact(voxels).zip(truth.chunks_exact(voxels)).enumerate() {
        // Series are labelled at a few time points only.
        if label.frames > 1 && truth.iter().all(|&code| code == 0) {
            skipped += 1;
            continue;
        }
        let case = if label.frames > 1 { format!("{} t{t}", pair.case) } else { pair.case.clone() };
        let mut present = [false; 256];
        for &code in pred.iter().chain(truth) {
            present[usize::from(code)] = true;
        }
        for code in (1..=255u8).filter(|&code| present[usize::from(code)]) {
            compared.rows.push(row(&case, (pred, truth), label.shape, code, spacing, empty));
        }
        compared.cases.push(case);
    }
    if skipped > 0 {
        compared.notes.push(format!("{}: {skipped} time points have no label and are left out", pair.case));
    }
    Ok(compared)
}

/// The mean and spread of a class, or of the means over the classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The class, or `mean`.
    pub class: String,
    /// Cases.
    pub n: usize,
    /// Mean and sample standard deviation over the cases of Dice, Jaccard, 95HD and ASD in voxels, 95HD and ASD in mm.
    pub values: [Option<(f64, Option<f64>)>; 6],
    /// Cases in which the class is missing from the prediction alone.
    pub missed: usize,
    /// Cases in which it is missing from the label map alone.
    pub invented: usize,
}

impl Comparison {
    /// A line for each class, and one for the mean over the classes of each case.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self
            .classes
            .iter()
            .map(|(code, name)| {
                let rows: Vec<&Row> = self.rows.iter().filter(|row| row.code == *code).collect();
                let values = std::array::from_fn(|metric| {
                    spread(&rows.iter().filter_map(|row| value(row, metric)).collect::<Vec<_>>())
                });
                line(name, &rows, rows.len(), values)
            })
            .collect();
        let mut cases: Vec<Vec<&Row>> = Vec::new();
        for row in &self.rows {
            match cases.last_mut().filter(|case| case[0].case == row.case) {
                Some(case) => case.push(row),
                None => cases.push(vec![row]),
            }
        }
        let values = std::array::from_fn(|metric| {
            let mean = |case: &Vec<&Row>| {
                stats::mean(&case.iter().filter_map(|row| value(row, metric)).collect::<Vec<_>>())
            };
            spread(&cases.iter().filter_map(mean).collect::<Vec<_>>())
        });
        lines.push(line("mean", &self.rows.iter().collect::<Vec<_>>(), cases.len(), values));
        lines
    }

    /// The summary as a table of Markdown, with what it stands on below.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| class | Dice (%) | Jaccard (%) | 95HD (voxel) | ASD (voxel) | 95HD (mm) | ASD (mm) | n |\n\
             |:--|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for line in self.lines() {
            let (class, cells) = (line.class.replace('|', "\\|"), line.cells().join(" | "));
            let _ = writeln!(text, "| {class} | {cells} | {} |", line.n);
        }
        for note in self.footnotes() {
            let _ = write!(text, "\n{note}  ");
        }
        text.trim_end().to_owned() + "\n"
    }

    /// What a table of the comparison has to say below it.
    pub fn footnotes(&self) -> Vec<String> {
        let mut notes = vec!["Mean ± SD over cases, by MedPy's definitions.".to_owned()];
        if let Some(all) = self.lines().last().filter(|line| line.missed + line.invented > 0) {
            let distance = match self.empty {
                EmptyDistance::Zero => "0, which flatters",
                EmptyDistance::Diagonal => "the volume's diagonal",
            };
            notes.push(format!(
                "A class is missing from the prediction alone {} times, from the label map alone {} times: its distances \
                 are {distance} there.",
                all.missed, all.invented
            ));
        }
        notes.extend(self.notes.iter().cloned());
        notes
    }

    /// One row per case and class.
    ///
    /// # Errors
    /// Where the frame cannot be put together.
    pub fn frame(&self) -> Result<DataFrame> {
        let name = |code: u8| self.classes.iter().find(|(own, _)| *own == code).map(|(_, name)| name.clone());
        let floats = |name: &str, metric: usize| {
            Column::new(name.into(), self.rows.iter().map(|row| value(row, metric)).collect::<Vec<_>>())
        };
        let flags = |name: &str, flag: fn(&CaseMetrics) -> bool| {
            Column::new(name.into(), self.rows.iter().map(|row| flag(&row.voxel)).collect::<Vec<_>>())
        };
        let counts = |name: &str, count: fn(&CaseMetrics) -> usize| {
            Column::new(name.into(), self.rows.iter().map(|row| count(&row.voxel) as i64).collect::<Vec<_>>())
        };
        let mut columns = vec![
            Column::new("case".into(), self.rows.iter().map(|row| row.case.clone()).collect::<Vec<_>>()),
            Column::new("class".into(), self.rows.iter().map(|row| name(row.code)).collect::<Vec<_>>()),
            Column::new("label".into(), self.rows.iter().map(|row| i64::from(row.code)).collect::<Vec<_>>()),
        ];
        columns.extend(COLUMNS.iter().enumerate().map(|(metric, name)| floats(name, metric)));
        columns.push(flags("empty_prediction", |metrics| metrics.empty_prediction));
        columns.push(flags("empty_label", |metrics| metrics.empty_label));
        columns.push(counts("voxels_prediction", |metrics| metrics.voxels_prediction));
        columns.push(counts("voxels_label", |metrics| metrics.voxels_label));
        DataFrame::new(self.rows.len(), columns).context("the columns of the comparison differ in height")
    }

    /// Writes `cases.parquet`, `cases.csv` and `summary.md` into `folder`, each whole or not at all.
    ///
    /// # Errors
    /// Where the folder is not writable; names it.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::create_folder(folder)?;
        let mut frame = self.frame()?;
        let (mut parquet, mut csv) = (Vec::new(), Vec::new());
        ParquetWriter::new(&mut parquet)
            .set_parallel(false)
            .finish(&mut frame)
            .context("cannot encode cases.parquet")?;
        CsvWriter::new(&mut csv).finish(&mut frame).context("cannot encode cases.csv")?;
        files::write_atomic(folder.join("cases.parquet"), parquet)?;
        files::write_atomic(folder.join("cases.csv"), csv)?;
        files::write_atomic(folder.join("summary.md"), self.markdown())
    }
}

impl Line {
    /// The values as a table shows them; overlaps in per cent.
    pub fn cells(&self) -> Vec<String> {
        let cell = |(metric, value): (usize, &Option<(f64, Option<f64>)>)| {
            let scale = if metric < 2 { 100.0 } else { 1.0 };
            match value {
                Some((mean, Some(sd))) => format!("{:.2} ± {:.2}", scale * mean, scale * sd),
                Some((mean, None)) => format!("{:.2}", scale * mean),
                None => "–".to_owned(),
            }
        };
        self.values.iter().enumerate().map(cell).collect()
    }
}

/// The names of the values of a row, in order.
const COLUMNS: [&str; 10] =
    ["dice", "jaccard", "hd95", "asd", "hd95_mm", "asd_mm", "hd95_max", "assd", "hd95_max_mm", "assd_mm"];

fn value(row: &Row, metric: usize) -> Option<f64> {
    let CaseMetrics { dice, jaccard, hd95, asd, .. } = row.voxel;
    let Variants { hd95_max, assd, mm, .. } = row.variants;
    let voxels = [dice, jaccard, hd95, asd, hd95_max, assd];
    match metric {
        0..4 => Some(voxels[metric]),
        6 | 7 => Some(voxels[metric - 2]),
        _ => mm.map(|mm| match metric {
            4 => mm.hd95_mm,
            5 => mm.asd_mm,
            8 => mm.hd95_max_mm,
            _ => mm.assd_mm,
        }),
    }
}

fn spread(values: &[f64]) -> Option<(f64, Option<f64>)> {
    stats::mean(values).map(|mean| (mean, stats::sample_sd(values)))
}

fn line(class: &str, rows: &[&Row], n: usize, values: [Option<(f64, Option<f64>)>; 6]) -> Line {
    let count = |kind: fn(&CaseMetrics) -> bool| rows.iter().filter(|row| kind(&row.voxel)).count();
    Line {
        class: class.to_owned(),
        n,
        values,
        missed: count(|metrics| metrics.empty_prediction && !metrics.empty_label),
        invented: count(|metrics| metrics.empty_label && !metrics.empty_prediction),
    }
}

#[cfg(test)]
mod tests;
