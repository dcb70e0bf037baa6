//! What a run leaves of its sweep, so that others can look at it later: without the sweep file, without the data, and
//! without planning anew.
//!
//! `sweeps/NAME.index` in the store is text. Its first line is a JSON object, [`Head`]; then comes a line for each
//! stage, a line for each point, and `end`. Cells are separated by tabs:
//!
//! ```text
//! {"sweep_index":1,"name":"tau",…,"stages":4,"points":2}
//! KEY   kind       parents   label                  parents: numbers of earlier lines, `0,3-11`
//! ID    train      evaluate  ["0.9",1]  ["smoke",…] numbers of stages; values of the axes; facts, where they are not
//! end                                               those of the head
//! ```
//!
//! A run replaces the index of its name. What is finished is not in it: the store's folders say that.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::counts::Facts;
use super::{ModelRecord, PointRecord, Status};
use crate::plan::Plan;
use crate::spec::Sweep;
use crate::spec::report::ReportSettings;
use crate::stage::StageKind;
use crate::store::key::Key;
use crate::store::{Store, files};

/// The version of the form.
const VERSION: u32 = 1;
const FOLDER: &str = "sweeps";
const SUFFIX: &str = ".index";
const END: &str = "end";

/// What holds for the whole sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The version of this form.
    pub sweep_index: u32,
    /// The sweep's name.
    pub name: String,
    /// What it is about.
    #[serde(default)]
    pub description: String,
    /// The sweep file, absolute.
    #[serde(default)]
    pub file: PathBuf,
    /// The version of the program that wrote this.
    #[serde(default)]
    pub program: String,
    /// What the report shall show.
    #[serde(default)]
    pub report: ReportSettings,
    /// The axes, in the order of the file.
    pub axes: Vec<String>,
    /// The facts of most points, in order; see [`super::facts`].
    pub facts: Vec<(String, Value)>,
    /// The number of stages.
    pub stages: usize,
    /// The number of points.
    pub points: usize,
}

/// A sweep as its last run knew it.
#[derive(Clone, Debug)]
pub struct Index {
    /// What holds for the whole sweep.
    pub head: Head,
    path: PathBuf,
    text: String,
    stages: Vec<Stage>,
    points: Vec<Point>,
}

/// A stage of the index.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its key.
    pub key: Key,
    /// Its kind.
    pub kind: StageKind,
    /// What follows the kind: parents and label, which few who look want.
    rest: Range<usize>,
}

/// A point of the index.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its training, by its place among the stages.
    pub train: usize,
    /// Its evaluation, by its place among the stages.
    pub evaluate: usize,
    /// Where its line begins.
    line: usize,
    /// The end of the id, which begins the line.
    id: usize,
    /// What follows the stages: axes and facts.
    rest: Range<usize>,
}

/// The names of the sweeps that `store` knows, sorted.
pub fn names(store: &Store) -> Result<Vec<String>> {
    let folder = store.root().join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", folder.display()))?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        names.extend(name.filter(|name| !name.starts_with('.')).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// The file of the sweep `name`.
pub fn path(store: &Store, name: &str) -> PathBuf {
    store.root().join(FOLDER).join(format!("{name}{SUFFIX}"))
}

/// Removes the index of `name`: the store forgets the sweep, and `sweep gc` may remove what it alone needed.
pub fn forget(store: &Store, name: &str) -> Result<()> {
    let path = path(store, name);
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

fn text_of(sweep: &Sweep, plan: &Plan) -> Result<String> {
    // One table of axes serves all points of a sweep.
    let axes: Vec<&str> = plan
        .points
        .first()
        .map(|point| point.axes.iter().map(|(name, _)| name).collect())
        .unwrap_or_default();
    let mut facts = Facts::new(&sweep.report);
    let first = plan.points.first().map(|point| facts.of(&point.settings)).transpose()?;
    let common = first.unwrap_or_default();
    let head = Head {
        sweep_index: VERSION,
        name: plan.name.clone(),
        description: sweep.description.clone(),
        file: std::path::absolute(&sweep.path).unwrap_or_else(|_| sweep.path.clone()),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        report: sweep.report.clone(),
        axes: axes.iter().map(|axis| (*axis).to_owned()).collect(),
        facts: common.clone(),
        stages: plan.stages.len(),
        points: plan.points.len(),
    };
    let mut text = serde_json::to_string(&head).context("a sweep's head is no JSON")?;
    text.push('\n');
    let places: HashMap<&Key, usize> =
        plan.stages.iter().enumerate().map(|(i, stage)| (&stage.key, i)).collect();
    for (i, stage) in plan.stages.iter().enumerate() {
        let parents = plan.parents(i);
        let label: String = stage.label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = [stage.key.as_str(), stage.kind.name(), &ranges(parents.collect()), &label].join("\t");
        text.push_str(&line);
        text.push('\n');
    }
    let place =
        |key: &Key| places.get(key).map(ToString::to_string).context("a point's stage is not planned");
    let mut seen: Option<(Vec<Value>, String)> = None;
    for point in &plan.points {
        let values: Vec<&Value> = point.axes.iter().map(|(_, value)| value).collect();
        let own = facts.of(&point.settings)?;
        let own = if own == common {
            String::new()
        } else {
            let values: Vec<Value> = own.into_iter().map(|(_, value)| value).collect();
            match &seen {
                Some((known, text)) if *known == values => text.clone(),
                _ => {
                    let text = serde_json::to_string(&values)?;
                    seen = Some((values, text.clone()));
                    text
                }
            }
        };
        let cells = [
            &point.id,
            &place(&point.train)?,
            &place(&point.evaluate)?,
            &serde_json::to_string(&values)?,
            &own,
        ];
        text.push_str(&cells.map(String::as_str).join("\t"));
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    Ok(text)
}

/// `0,3-11`: numbers in ascending order, runs of them as ranges.
fn ranges(mut numbers: Vec<usize>) -> String {
    numbers.sort_unstable();
    numbers.dedup();
    let mut parts: Vec<String> = Vec::new();
    let mut rest = &numbers[..];
    while let Some(&first) = rest.first() {
        let run = rest.iter().enumerate().take_while(|&(i, &n)| n == first + i).count();
        let last = first + run - 1;
        parts.push(if run > 1 { format!("{first}-{last}") } else { first.to_string() });
        rest = &rest[run..];
    }
    parts.join(",")
}

/// The numbers that [`ranges`] wrote; none where they are not all below `most`.
fn numbers(text: &str, most: usize) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= most || first > last {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

impl Index {
    /// The index of `plan`, which was made of `sweep`.
    ///
    /// # Errors
    /// Where the plan does not hold together.
    pub fn of(sweep: &Sweep, plan: &Plan) -> Result<Self> {
        Self::parse(text_of(sweep, plan)?, Path::new("the index of this plan"))
    }

    /// Leaves the index in `store`; nothing is written where the same one lies there already.
    ///
    /// To be called before a run looks at what is finished: from then on `sweep gc` keeps what the sweep needs.
    ///
    /// # Errors
    /// Where the store is not writable.
    pub fn save(&self, store: &Store) -> Result<()> {
        let path = path(store, &self.head.name);
        if fs::read(&path).is_ok_and(|old| old == self.text.as_bytes()) {
            return Ok(());
        }
        files::create_folder(store.root().join(FOLDER))?;
        files::write_atomic(path, &self.text)
    }

    /// Names its content: equal where all is equal.
    pub fn fingerprint(&self) -> Key {
        Key::of(self.text.as_bytes())
    }

    /// The index of the sweep `name`; none where the store knows no such sweep.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged or of a newer form: names the file, the line and the remedy.
    pub fn read(store: &Store, name: &str) -> Result<Option<Self>> {
        let path = path(store, name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let remedy =
            || format!("{} is damaged: `sweep run` of its sweep file writes it anew", path.display());
        let text = String::from_utf8(bytes).with_context(remedy)?;
        Self::parse(text, &path).with_context(remedy).map(Some)
    }

    fn parse(text: String, path: &Path) -> Result<Self> {
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
        let line = |number: usize| -> Result<Range<usize>> {
            let end =
                *ends.get(number).with_context(|| format!("it ends before line {} does", number + 1))?;
            Ok(number.checked_sub(1).map_or(0, |before| ends[before] + 1)..end)
        };
        let head: Head = serde_json::from_str(&text[line(0)?]).context("line 1 is no head of an index")?;
        ensure!(
            head.sweep_index == VERSION,
            "it has form {}, and this program reads {VERSION}",
            head.sweep_index
        );
        let stage = |number: usize| {
            let parsed = Stage::parse(&text, line(number)?);
            parsed.with_context(|| format!("line {} is no stage", number + 1))
        };
        let point = |number: usize| {
            let parsed = Point::parse(&text, line(number)?, head.stages);
            parsed.with_context(|| format!("line {} is no point", number + 1))
        };
        // A damaged head must not make us ask for memory that the file cannot fill.
        let last = head.stages.checked_add(head.points).filter(|&last| last < ends.len());
        let last =
            last.with_context(|| format!("it has {} lines, fewer than its head says", ends.len()))? + 1;
        ensure!(
            line(last)?.end + 1 == text.len() && text[line(last)?] == *END,
            "line {} is not the end",
            last + 1
        );
        let first = head.stages + 1;
        let (stages, points) = rayon::join(
            || (1..first).into_par_iter().map(stage).collect::<Result<Vec<_>>>(),
            || (first..last).into_par_iter().map(point).collect::<Result<Vec<_>>>(),
        );
        let (stages, points) = (stages?, points?);
        Ok(Self { head, path: path.to_owned(), text, stages, points })
    }

    /// The stages, parents first.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The points, in the order of the sweep file.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The text for people of a stage.
    pub fn label(&self, stage: usize) -> &str {
        self.stage_cells(stage).1
    }

    /// The stages that a stage reads, by their places.
    pub fn parents(&self, stage: usize) -> Result<Vec<usize>> {
        let text = self.stage_cells(stage).0;
        numbers(text, stage).with_context(|| {
            format!("{} is damaged: line {} has parents `{text}`", self.path.display(), stage + 2)
        })
    }

    fn stage_cells(&self, stage: usize) -> (&str, &str) {
        let rest = &self.text[self.stages[stage].rest.clone()];
        rest.split_once('\t').unwrap_or((rest, ""))
    }

    /// The name of a point.
    pub fn id(&self, point: usize) -> &str {
        let Point { line, id, .. } = self.points[point];
        &self.text[line..id]
    }

    /// The axes of the sweep and a point's value of each; `null` where an axis does not apply to it.
    pub fn axes(&self, point: usize) -> Result<Vec<(String, Value)>> {
        let values = self.values(point, self.point_cells(point).0, self.head.axes.len())?;
        Ok(self.head.axes.iter().cloned().zip(values).collect())
    }

    /// The settings of a point that a report names.
    pub fn facts(&self, point: usize) -> Result<Vec<(String, Value)>> {
        let own = self.point_cells(point).1;
        if own.is_empty() {
            return Ok(self.head.facts.clone());
        }
        let values = self.values(point, own, self.head.facts.len())?;
        Ok(self.head.facts.iter().map(|(name, _)| name.clone()).zip(values).collect())
    }

    fn point_cells(&self, point: usize) -> (&str, &str) {
        let rest = &self.text[self.points[point].rest.clone()];
        rest.split_once('\t').unwrap_or((rest, ""))
    }

    fn values(&self, point: usize, text: &str, count: usize) -> Result<Vec<Value>> {
        let values = serde_json::from_str::<Vec<Value>>(text).ok().filter(|v| v.len() == count);
        values.with_context(|| {
            let line = self.stages.len() + point + 2;
            format!("{} is damaged: line {line} has no list of {count} values", self.path.display())
        })
    }

    /// A point's stages with all that they read, parents first.
    pub fn stages_of(&self, point: usize) -> Result<Vec<usize>> {
        let point = &self.points[point];
        let mut found = BTreeSet::from([point.train, point.evaluate]);
        let mut next = vec![point.train, point.evaluate];
        while let Some(stage) = next.pop() {
            for parent in self.parents(stage)? {
                if found.insert(parent) {
                    next.push(parent);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Why a point is not done: the failure of a stage that it needs, the nearest to its end. `failed` are the stages
    /// that may have failed ([`Store::failed`]).
    fn failure(&self, point: usize, store: &Store, failed: &HashSet<Key>) -> Result<Option<String>> {
        if failed.is_empty() {
            return Ok(None);
        }
        let stages = self.stages_of(point)?;
        for &stage in stages.iter().rev().filter(|&&stage| failed.contains(&self.stages[stage].key)) {
            let key = &self.stages[stage].key;
            if let Some(message) = store.failure(key).filter(|_| store.object(key).is_none()) {
                return Ok(Some(format!("{}: {}", self.label(stage), message.replace('\n', "; "))));
            }
        }
        Ok(None)
    }

    /// The points with where their results lie, as [`super::collect`] wants them.
    ///
    /// # Errors
    /// Where the store cannot be read or the index is damaged.
    pub fn records(&self, store: &Store) -> Result<Vec<PointRecord>> {
        let failed: HashSet<Key> = store.failed()?.into_iter().collect();
        (0..self.points.len()).into_par_iter().map(|point| self.record(point, store, &failed)).collect()
    }

    /// The finished diffusion models, in the order of the plan.
    pub fn models(&self, store: &Store) -> Vec<ModelRecord> {
        let model = |(place, stage): (usize, &Stage)| {
            let folder = (stage.kind == StageKind::Pretrain).then(|| store.object(&stage.key)).flatten()?;
            Some(ModelRecord { key: stage.key.to_string(), label: self.label(place).to_owned(), folder })
        };
        self.stages.iter().enumerate().filter_map(model).collect()
    }

    fn record(&self, point: usize, store: &Store, failed: &HashSet<Key>) -> Result<PointRecord> {
        let Point { train, evaluate, .. } = self.points[point];
        let (train, evaluate) = (&self.stages[train].key, &self.stages[evaluate].key);
        let (trained, evaluated) = (store.object(train), store.object(evaluate));
        let status = if trained.is_some() && evaluated.is_some() {
            Status::Done
        } else {
            self.failure(point, store, failed)?.map_or(Status::Missing, Status::Failed)
        };
        Ok(PointRecord {
            id: self.id(point).to_owned(),
            axes: self.axes(point)?,
            facts: self.facts(point)?,
            status,
            train_key: train.to_string(),
            evaluate_key: evaluate.to_string(),
            train: trained,
            evaluate: evaluated,
        })
    }
}

impl Stage {
    fn parse(text: &str, line: Range<usize>) -> Option<Self> {
        let (key, rest) = text[line.clone()].split_once('\t')?;
        let (kind, rest) = rest.split_once('\t')?;
        let kind = match kind {
            "prepare" => StageKind::Prepare,
            "pretrain" => StageKind::Pretrain,
            "features" => StageKind::Features,
            "train" => StageKind::Train,
            "evaluate" => StageKind::Evaluate,
            _ => return None,
        };
        Some(Self { key: key.parse().ok()?, kind, rest: line.end - rest.len()..line.end })
    }
}

impl Point {
    fn parse(text: &str, line: Range<usize>, stages: usize) -> Option<Self> {
        let (id, rest) = text[line.clone()].split_once('\t')?;
        let (train, rest) = rest.split_once('\t')?;
        let (evaluate, rest) = rest.split_once('\t')?;
        let stage = |text: &str| text.parse().ok().filter(|&stage: &usize| stage < stages);
        Some(Self {
            train: stage(train)?,
            evaluate: stage(evaluate)?,
            line: line.start,
            id: line.start + id.len(),
            rest: line.end - rest.len()..line.end,
        })
    }
}

#[cfg(test)]
mod tests;
