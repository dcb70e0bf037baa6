//! What the commands share: a sweep file as a plan, its store, and its results and report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{OrBadInput as _, tell};
use crate::plan::{Plan, PlannedPoint, PlannedStage};
use crate::report;
use crate::results::{self, ModelRecord, PointRecord, Status};
use crate::spec::{self, Sweep};
use crate::stage::StageKind;
use crate::store::key::Key;
use crate::store::{DEFAULT_ROOT, Store, files};

/// The sweep that a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct SweepArgs {
    /// The sweep file; a bare name is also looked for in sweeps/
    file: PathBuf,
    /// Overrides a setting, or an axis by one value, by its dotted path: `seed=0`, `train.iterations=500`, `blocks=[2,4]`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Where finished stages are kept; sweeps share them there
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub(super) store: PathBuf,
}

/// Where the outcome goes.
#[derive(Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// The frames go to DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// The report goes to DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "reports")]
    reports: PathBuf,
}

impl SweepArgs {
    /// Reads the file and plans it; what is worth knowing but not wrong goes to standard error.
    pub(super) fn plan(&self) -> Result<(Sweep, Plan)> {
        let sweep = spec::load(&self.file, &self.sets).map_err(anyhow::Error::new).or_bad_input()?;
        for note in &sweep.notes {
            tell(&format!("note: {note}"));
        }
        let plan = Plan::new(&sweep).or_bad_input()?;
        Ok((sweep, plan))
    }
}

/// The folders of one sweep's outcome.
#[derive(Debug)]
pub(super) struct Output {
    /// Of the frames.
    results: PathBuf,
    /// Of the report.
    report: PathBuf,
}

impl OutputArgs {
    /// The folders of the sweep `name`, made and found writable.
    pub(super) fn open(&self, name: &str) -> Result<Output> {
        let output = Output { results: self.results.join(name), report: self.reports.join(name) };
        files::check_writable(&output.results).context("the results have nowhere to go")?;
        files::check_writable(&output.report).context("the report has nowhere to go")?;
        Ok(output)
    }
}

impl Output {
    /// The page to look at.
    pub(super) fn page(&self) -> PathBuf {
        self.report.join("index.html")
    }

    /// Collects the frames of `plan` from `store` and renders the report of `sweep`. Returns the report's page.
    pub(super) fn render(&self, sweep: &Sweep, plan: &Plan, store: &Store) -> Result<PathBuf> {
        let stages: Stages<'_> = plan.stages.iter().enumerate().map(|(i, stage)| (&stage.key, i)).collect();
        let records: Vec<PointRecord> =
            plan.points.iter().map(|point| record(point, plan, &stages, store)).collect();
        let models: Vec<ModelRecord> = plan.stages.iter().filter_map(|stage| model(stage, store)).collect();
        let frames = results::collect(&plan.name, &records, &models)?;
        results::write(&frames, &self.results)?;
        let rendered = report::render(&frames, &plan.name, &sweep.description, &sweep.report, &self.report)?;
        let whole = records.iter().all(|record| record.status == Status::Done);
        if whole {
            files::write_atomic(mark(store, &plan.name), self.fingerprint(sweep, plan))?;
        }
        Ok(rendered.index)
    }

    /// Whether the report of exactly this plan, whole, lies there already.
    pub(super) fn is_rendered(&self, sweep: &Sweep, plan: &Plan, store: &Store) -> bool {
        let mark = std::fs::read_to_string(mark(store, &plan.name));
        self.page().is_file()
            && results::FRAMES.iter().all(|name| self.results.join(format!("{name}.parquet")).is_file())
            && mark.is_ok_and(|mark| mark == self.fingerprint(sweep, plan))
    }

    /// What the report is made from and where it goes, as one number.
    fn fingerprint(&self, sweep: &Sweep, plan: &Plan) -> String {
        let points: Vec<Value> = plan
            .points
            .iter()
            .map(|point| json!([point.id, point.axes, point.train, point.evaluate]))
            .collect();
        let all = json!([
            env!("CARGO_PKG_VERSION"),
            [&self.results, &self.report],
            [&sweep.name, &sweep.description],
            sweep.report,
            points,
        ]);
        Key::of(all.to_string().as_bytes()).to_string()
    }
}

/// The file that says what the last whole report of the sweep `name` was made from.
fn mark(store: &Store, name: &str) -> PathBuf {
    store.root().join(format!("rendered-{name}"))
}

/// The stages of a plan by key.
type Stages<'a> = BTreeMap<&'a Key, usize>;

fn record(point: &PlannedPoint, plan: &Plan, stages: &Stages<'_>, store: &Store) -> PointRecord {
    let (train, evaluate) = (store.object(&point.train), store.object(&point.evaluate));
    let status = if train.is_some() && evaluate.is_some() {
        Status::Done
    } else {
        failure(point, plan, stages, store).map_or(Status::Missing, Status::Failed)
    };
    PointRecord::new(point, status, train, evaluate)
}

/// The diffusion model of `stage`, where it is one and finished.
fn model(stage: &PlannedStage, store: &Store) -> Option<ModelRecord> {
    let folder = (stage.kind == StageKind::Pretrain).then(|| store.object(&stage.key)).flatten()?;
    Some(ModelRecord { key: stage.key.to_string(), label: stage.label.clone(), folder })
}

/// Why `point` is not done: the failure of a stage that it needs, the nearest to its end.
fn failure(point: &PlannedPoint, plan: &Plan, stages: &Stages<'_>, store: &Store) -> Option<String> {
    let mut keys = vec![&point.evaluate, &point.train];
    let mut seen = 0;
    while let Some(&key) = keys.get(seen) {
        seen += 1;
        if store.object(key).is_some() {
            continue;
        }
        if let Some(message) = store.failure(key) {
            let labelled = |&stage: &usize| format!("{}: {message}", plan.stages[stage].label);
            return Some(stages.get(key).map_or_else(|| message.clone(), labelled));
        }
        for parent in stages.get(key).into_iter().flat_map(|&stage| plan.parents(stage)) {
            let key = &plan.stages[parent].key;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    None
}
