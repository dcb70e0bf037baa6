//! Two sets of points beside each other: the settings in which they differ, their metrics, and the cases of both.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use polars::prelude::{AnyValue, DataFrame};

use super::cases::Cases;
use super::labels::METRICS;
use super::sweep::Sweep;
use crate::results::query::Source;
use crate::results::stages::Stages;
use crate::results::{axis_names, read_frame};
use crate::spec::nearest;
use crate::stats::{self, RESAMPLES, Resamples};

/// Points of one sweep.
#[derive(Clone, Debug)]
pub struct Side {
    /// As a person named them.
    pub named: String,
    /// Their sweep.
    pub sweep: String,
    /// Their ids.
    pub ids: Vec<String>,
    /// How many of them were evaluated.
    pub done: usize,
    folder: PathBuf,
    /// For each point its axes and the settings that reports name, as text.
    named_settings: Vec<Vec<(String, String)>>,
    /// For each point the keys of its training and its evaluation.
    keys: Vec<[String; 2]>,
    /// For each point whether it was evaluated.
    evaluated: Vec<bool>,
}

/// A setting in which two sides differ, with all values that it has on either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its dotted path.
    pub path: String,
    /// Its values on each side; empty where nothing on that side reads it.
    pub values: [Vec<String>; 2],
}

/// A mean over patients, with its 95 % bootstrap interval over patients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean, as printed: Dice and Jaccard in percent, distances in voxels.
    pub mean: f64,
    /// The interval; none of a single patient.
    pub interval: Option<(f64, f64)>,
}

/// A metric of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its column.
    pub name: &'static str,
    /// Its name in print, with the unit.
    pub title: String,
    /// Whether more is better.
    pub higher: bool,
    /// Over the patients of each side.
    pub sides: [Option<Estimate>; 2],
    /// The sample standard deviation over the points of each side; none of a single point.
    pub sd: [Option<f64>; 2],
    /// The second less the first, over the patients of both.
    pub difference: Option<Estimate>,
    /// The p of Wilcoxon's signed-rank test over the patients of both, two-sided.
    pub p: Option<f64>,
}

/// One class of one volume on both sides: means over the points of each, as printed, in the order of
/// [`crate::results::METRICS`].
#[derive(Clone, Debug, PartialEq)]
pub struct CasePair {
    /// The volume.
    pub case: String,
    /// The class.
    pub class: String,
    /// What was measured on each side.
    pub metrics: [[f64; 4]; 2],
}

/// Two sides beside each other.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Both.
    pub sides: [Side; 2],
    /// In what they differ.
    pub settings: Vec<Setting>,
    /// Whether the provenance of a side is not there, so that only axes and a few settings were compared.
    pub settings_in_part: bool,
    /// The metrics.
    pub metrics: Vec<Metric>,
    /// Patients that both have.
    pub patients: usize,
    /// The cases that both have.
    pub cases: Vec<CasePair>,
    /// How many cases and classes only one side has.
    pub alone: [usize; 2],
}

/// The points that `named` means among `sources`: `SWEEP`, `SWEEP:axis=value axis=value`, or the beginning of a point's
/// id.
///
/// # Errors
/// Where it means none, or points of several sweeps.
pub fn find(named: &str, sources: &[Source]) -> Result<Side> {
    let (name, filter) = named.split_once(':').map_or((named, None), |(name, rest)| (name, Some(rest)));
    if let Some((sweep, folder)) = sources.iter().find(|(sweep, _)| sweep == name) {
        let points = read_frame(folder, "points", None)?;
        let wanted =
            filter.map(parse).transpose().with_context(|| format!("`{named}` is no part of a sweep"))?;
        let wanted = wanted.unwrap_or_default();
        known(&points, &wanted)?;
        let side = side(named, sweep, folder, &points, |settings, _| {
            wanted.iter().all(|(name, value)| {
                settings.iter().any(|(known, found)| known == name && equal(found, value))
            })
        })?;
        ensure!(!side.ids.is_empty(), "no point of `{sweep}` has {}", filter.unwrap_or_default().trim());
        return Ok(side);
    }
    let mut found: Vec<Side> = Vec::new();
    for (sweep, folder) in sources.iter().filter(|_| filter.is_none()) {
        let points = read_frame(folder, "points", None)?;
        let side = side(named, sweep, folder, &points, |_, id| id.starts_with(named))?;
        found.extend((!side.ids.is_empty()).then_some(side));
    }
    match (found.len(), found.pop()) {
        (1, Some(side)) if side.ids.len() == 1 => Ok(side),
        (0, _) => {
            let near = nearest(name, sources.iter().map(|(sweep, _)| sweep.as_str()));
            let help = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("`{named}` is neither a sweep with frames nor a point of one{help}")
        }
        _ => bail!("several points begin with `{named}`: write more of the id, or SWEEP:POINT's axes"),
    }
}

/// `dfm=true dic=false`, also with commas or `and` between: names and values.
fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let mut parts: Vec<String> = vec![String::new()];
    let (mut depth, mut quote) = (0_usize, None);
    for letter in text.chars() {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            (' ' | ',', None) if depth == 0 => parts.push(String::new()),
            _ => {
                match letter {
                    '[' => depth += 1,
                    ']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if let Some(part) = parts.last_mut() {
                    part.push(letter);
                }
            }
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty() && *part != "and");
    let pair = |part: &str| match part.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.trim().to_owned(), value.trim_start_matches('=').to_owned()))
        }
        _ => Err(anyhow!("`{part}`: write axis=value, such as `dfm=true seed=0`")),
    };
    parts.map(pair).collect()
}

/// Refuses names that the points frame does not have.
fn known(points: &DataFrame, wanted: &[(String, String)]) -> Result<()> {
    let names = setting_names(points);
    for (name, _) in wanted {
        if !names.contains(name) {
            let near = nearest(name, names.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("the points have no `{name}`, but {}{near}", names.join(", "));
        }
    }
    Ok(())
}

/// Whether a cell is meant by a value: the same text, the same number, the same list.
fn equal(cell: &str, value: &str) -> bool {
    let dense = |text: &str| text.replace(' ', "");
    let number = |text: &str| text.parse::<f64>().ok();
    dense(cell) == dense(value) || number(cell).zip(number(value)).is_some_and(|(a, b)| a == b)
}

/// The axes of a points frame, and the settings that reports name.
fn setting_names(points: &DataFrame) -> Vec<String> {
    let mut names = axis_names(points);
    let facts = points.columns().iter().map(|column| column.name().to_string());
    names.extend(facts.skip_while(|name| name != "error").skip(1).take_while(|name| name != "n_cases"));
    names
}

fn text(frame: &DataFrame, name: &str, row: usize) -> Result<String> {
    let column = frame.column(name).with_context(|| format!("the points frame has no column `{name}`"))?;
    Ok(match column.get(row)? {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => text.to_owned(),
        other => other.to_string(),
    })
}

fn side(
    named: &str,
    sweep: &str,
    folder: &Path,
    points: &DataFrame,
    wanted: impl Fn(&[(String, String)], &str) -> bool,
) -> Result<Side> {
    let names = setting_names(points);
    let mut side = Side {
        named: named.to_owned(),
        sweep: sweep.to_owned(),
        ids: Vec::new(),
        done: 0,
        folder: folder.to_owned(),
        named_settings: Vec::new(),
        keys: Vec::new(),
        evaluated: Vec::new(),
    };
    for row in 0..points.height() {
        let settings = names.iter().map(|name| Ok((name.clone(), text(points, name, row)?)));
        let settings: Vec<(String, String)> = settings.collect::<Result<_>>()?;
        let id = text(points, "id", row)?;
        if wanted(&settings, &id) {
            let done = text(points, "status", row)? == "done";
            side.done += usize::from(done);
            side.evaluated.push(done);
            side.ids.push(id);
            side.named_settings.push(settings);
            side.keys.push([text(points, "train_key", row)?, text(points, "evaluate_key", row)?]);
        }
    }
    Ok(side)
}

/// The columns of the cases frame that are compared.
const COLUMNS: [&str; 10] =
    ["id", "case", "patient", "class", "dice", "jaccard", "hd95", "asd", "empty_prediction", "empty_label"];

/// For each volume and class the sums of the metrics, and how many there are.
type Sums = BTreeMap<(String, String), ([f64; 4], u32)>;

/// The cases of one side.
struct Measured {
    cases: Cases,
    frame: DataFrame,
    /// Those of its points that were evaluated, by their places in the sweep.
    points: Vec<usize>,
}

impl Measured {
    fn new(side: &Side) -> Result<Self> {
        let sweep = Sweep::new(&read_frame(&side.folder, "points", None)?)?;
        let frame = read_frame(&side.folder, "cases", Some(&COLUMNS))?;
        let ids: HashSet<&str> = side.ids.iter().map(String::as_str).collect();
        let is_meant =
            |point: &usize| sweep.points[*point].done() && ids.contains(sweep.points[*point].id.as_str());
        let points = (0..sweep.points.len()).filter(is_meant).collect();
        Ok(Self { cases: Cases::new(&frame, &sweep)?, frame, points })
    }

    /// For each class and volume of the side's points the sums of the metrics, as printed, and how many there are.
    fn sums(&self, side: &Side) -> Result<Sums> {
        let text = |name: &str| -> Result<_> { Ok(self.frame.column(name)?.str()?.clone()) };
        let number = |name: &str| -> Result<_> { Ok(self.frame.column(name)?.f64()?.clone()) };
        let (ids, cases, classes) = (text("id")?, text("case")?, text("class")?);
        let metrics = METRICS.iter().map(|metric| number(metric.column)).collect::<Result<Vec<_>>>()?;
        let wanted: HashSet<&str> = side.ids.iter().map(String::as_str).collect();
        let mut sums = Sums::new();
        for row in 0..self.frame.height() {
            if !ids.get(row).is_some_and(|id| wanted.contains(id)) {
                continue;
            }
            let name = [&cases, &classes].map(|column| column.get(row).unwrap_or_default().to_owned());
            let sum = sums.entry(name.into()).or_default();
            for ((total, column), metric) in sum.0.iter_mut().zip(&metrics).zip(METRICS) {
                *total += column.get(row).unwrap_or(f64::NAN) * metric.factor;
            }
            sum.1 += 1;
        }
        Ok(sums)
    }
}

/// Sets two sides beside each other.
///
/// # Errors
/// Where frames cannot be read, or a side has no evaluated point.
pub fn compare(sides: [Side; 2]) -> Result<Comparison> {
    for side in &sides {
        ensure!(side.done > 0, "none of the {} of `{}` was evaluated", side.ids.len(), side.named);
    }
    let (settings, settings_in_part) = differing(&sides)?;
    let measured = [Measured::new(&sides[0])?, Measured::new(&sides[1])?];
    let (mut metrics, mut patients) = (Vec::new(), 0);
    for shown in METRICS {
        let (mut by_patient, mut of_sides, mut sd) = (Vec::new(), [None; 2], [None; 2]);
        for (side, Measured { cases, points, .. }) in measured.iter().enumerate() {
            let measure = cases.measure(shown, None)?.context("the cases frame has all metrics")?;
            let classes: Vec<usize> = (0..cases.classes.len()).collect();
            let means: Vec<f64> = points.iter().filter_map(|&point| measure.point(point, &classes)).collect();
            sd[side] = stats::sample_sd(&means);
            let found = measure.patients(points, &classes);
            // As tables have it, to the last digit.
            let interval = found.interval(&Resamples::new(found.ids.len(), RESAMPLES));
            of_sides[side] = stats::mean(&found.means).map(|mean| Estimate { mean, interval });
            let names = found.ids.iter().map(|&id| cases.patients[id as usize].clone());
            by_patient.push(names.zip(found.means.iter().copied()).collect::<BTreeMap<String, f64>>());
        }
        let both: Vec<f64> = by_patient[0]
            .iter()
            .filter_map(|(patient, first)| Some(by_patient[1].get(patient)? - first))
            .collect();
        patients = both.len();
        metrics.push(Metric {
            name: shown.column,
            title: shown.title(),
            higher: shown.higher,
            sides: of_sides,
            sd,
            difference: estimate(&both),
            p: stats::signed_rank(&both).map(|test| test.p),
        });
    }
    let (cases, alone) = pairs(&sides, &measured)?;
    Ok(Comparison { sides, settings, settings_in_part, metrics, patients, cases, alone })
}

fn estimate(values: &[f64]) -> Option<Estimate> {
    let mean = stats::mean(values)?;
    Some(Estimate { mean, interval: Resamples::new(values.len(), RESAMPLES).of_mean(values) })
}

/// The cases of both sides, and how many only one has.
fn pairs(sides: &[Side; 2], measured: &[Measured; 2]) -> Result<(Vec<CasePair>, [usize; 2])> {
    let [first, second] = [measured[0].sums(&sides[0])?, measured[1].sums(&sides[1])?];
    let mean = |(sums, count): &([f64; 4], u32)| sums.map(|sum| sum / f64::from(*count));
    let mut pairs = Vec::new();
    for ((case, class), sums) in &first {
        if let Some(others) = second.get(&(case.clone(), class.clone())) {
            let metrics = [mean(sums), mean(others)];
            pairs.push(CasePair { case: case.clone(), class: class.clone(), metrics });
        }
    }
    let alone = [first.len() - pairs.len(), second.len() - pairs.len()];
    Ok((pairs, alone))
}

/// The settings in which the sides differ, and whether only some could be compared.
fn differing(sides: &[Side; 2]) -> Result<(Vec<Setting>, bool)> {
    let (mut in_part, mut values) = (false, [BTreeMap::new(), BTreeMap::new()]);
    for (side, values) in sides.iter().zip(&mut values) {
        let Some(known) = settings_of(side)? else {
            in_part = true;
            break;
        };
        *values = known;
    }
    if in_part {
        for (side, values) in sides.iter().zip(&mut values) {
            *values = collected(side.named_settings.iter().flatten().cloned());
        }
    }
    let [first, second] = &values;
    let paths: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let setting = |path: &String| {
        let values = [first, second].map(|side| side.get(path).cloned().unwrap_or_default());
        (values[0] != values[1]).then(|| Setting {
            path: path.clone(),
            values: values.map(|values| values.into_iter().filter(|value| !value.is_empty()).collect()),
        })
    };
    Ok((paths.into_iter().filter_map(setting).collect(), in_part))
}

/// For each path the values that it has.
type Values = BTreeMap<String, BTreeSet<String>>;

fn collected(settings: impl Iterator<Item = (String, String)>) -> Values {
    let mut values = Values::new();
    for (path, value) in settings {
        values.entry(path).or_default().insert(value);
    }
    values
}

/// What the stages behind a side's points were made with; `None` where that is not written down for all of them.
fn settings_of(side: &Side) -> Result<Option<Values>> {
    let stages = Stages::of_folder(&side.folder)?;
    let (mut seen, mut pairs) = (BTreeSet::new(), Vec::new());
    for (keys, done) in side.keys.iter().zip(&side.evaluated) {
        // Of a point that was not evaluated nothing may be known.
        let Some(places) = stages.behind(keys.iter().map(String::as_str)) else {
            if *done {
                return Ok(None);
            }
            continue;
        };
        for place in places.into_iter().filter(|&place| seen.insert(place)) {
            let stage = &stages.all[place];
            // What is read of single features stands in the training's settings.
            if stage.kind.name() != "features" {
                pairs.extend(stage.settings.iter().cloned());
            }
            pairs.push((format!("code version of {}", stage.kind.name()), stage.code.0.to_string()));
        }
    }
    Ok(Some(collected(pairs.into_iter())))
}

#[cfg(test)]
mod tests;
