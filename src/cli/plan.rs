//! `sweep plan FILE`.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::pipeline::{PartArgs, SweepArgs};
use super::table::table;
use super::{Ending, count, progress, say};
use crate::plan::price::{Basis, Computer, Price, prices};
use crate::plan::{Plan, PlannedStage};
use crate::spec::Sweep;
use crate::spec::cluster::Cluster;
use crate::stage::StageKind;
use crate::store::{Meta, Store};

/// Rows of a table unless `--all` is given.
const MOST: usize = 40;

/// Show the points and stages of a sweep file, what they share, what is finished, and what the rest costs; run nothing
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    part: PartArgs,
    /// Show every row of long tables
    #[arg(long)]
    all: bool,
    /// Write one JSON object instead
    #[arg(long)]
    json: bool,
}

/// A plan beside the store.
struct View<'a> {
    plan: &'a Plan,
    /// For each stage, whether it is finished.
    done: Vec<bool>,
    prices: Vec<Price>,
    /// The threads of a stage that the prices are for.
    threads: usize,
    /// The stages as jobs of a cluster.
    jobs: Jobs,
}

/// The stages of a plan as jobs of a cluster.
struct Jobs {
    /// Seconds of each stage, with the threads and on the device that its job is asked for.
    seconds: Vec<f64>,
    /// Of each stage, whether its job has a GPU of which the store knows no time.
    unknown: Vec<bool>,
    /// Who asks for them.
    asked: String,
}

impl Jobs {
    /// As the `cluster.yaml` of the sweep file at `file` asks for them; with `threads` each where there is none.
    fn of(plan: &Plan, file: &Path, threads: usize, price: impl Fn(Computer) -> Vec<Price>) -> Self {
        // One that is wrong is told of when jobs are submitted.
        let cluster = Cluster::find(None, file).ok().filter(|cluster| cluster.file.is_some());
        let wanted = |stage: &PlannedStage| match &cluster {
            Some(cluster) => {
                let request = cluster.request(stage.kind.name());
                Computer { threads: request.cpus.unwrap_or(1) as usize, gpu: request.device == "cuda" }
            }
            None => Computer { threads, gpu: false },
        };
        let mut prices: BTreeMap<Computer, Vec<Price>> = BTreeMap::new();
        let (mut seconds, mut unknown) = (Vec::new(), Vec::new());
        for (i, stage) in plan.stages.iter().enumerate() {
            let computer = wanted(stage);
            let price = prices.entry(computer).or_insert_with(|| price(computer))[i];
            seconds.push(price.seconds);
            let computes = stage.kind != StageKind::Prepare;
            unknown.push(computes && computer.gpu && price.basis == Basis::Counted);
        }
        let asked = match cluster.and_then(|cluster| cluster.file) {
            Some(path) => format!("as {} asks for them", path.display()),
            None => format!("{} each", count(threads, "thread")),
        };
        Self { seconds, unknown, asked }
    }
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let planned = args.sweep.part(&args.part)?;
    let plan = planned.plan();
    let store = Store::at(&args.sweep.store);
    let found: Vec<Option<Meta>> = plan.stages.iter().map(|stage| store.meta(&stage.key)).collect();
    let done: Vec<bool> = found.iter().map(Option::is_some).collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let finished = store.finished();
    let price = |computer| prices(plan, &found, &finished, computer);
    let jobs = Jobs::of(plan, &args.sweep.file, threads, price);
    let prices = price(Computer { threads, gpu: false });
    let view = View { plan, done, prices, threads, jobs };
    if args.json {
        say(&view.object(&planned.sweep).to_string())?;
    } else {
        say(&view.text(&planned.sweep, if args.all { usize::MAX } else { MOST }))?;
    }
    Ok(Ending::Done)
}

/// For each point, how many of its stages are missing.
pub(super) fn missing_of_points(plan: &Plan, done: &[bool]) -> Vec<usize> {
    let mut missing = vec![0; plan.points.len()];
    for (stage, _) in plan.stages.iter().zip(done).filter(|&(_, &done)| !done) {
        stage.points.iter().for_each(|&point| missing[point] += 1);
    }
    missing
}

/// A value of an axis as a person writes it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

const KINDS: [StageKind; 5] =
    [StageKind::Prepare, StageKind::Pretrain, StageKind::Features, StageKind::Train, StageKind::Evaluate];

/// What the stages of some kind, or all, come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    stages: usize,
    done: usize,
    /// Stages, seconds and bytes if each point had its own.
    unshared: (usize, f64, f64),
    seconds: f64,
    disk: f64,
    /// Of those that are to run.
    left: (f64, f64),
}

impl Sum {
    fn add(&mut self, price: &Price, done: bool, points: usize) {
        let (points, disk) = (points.max(1), price.disk as f64);
        self.stages += 1;
        self.seconds += price.seconds;
        self.disk += disk;
        self.unshared.0 += points;
        self.unshared.1 += price.seconds * points as f64;
        self.unshared.2 += disk * points as f64;
        if done {
            self.done += 1;
        } else {
            self.left.0 += price.seconds;
            self.left.1 += disk;
        }
    }
}

impl View<'_> {
    fn text(&self, sweep: &Sweep, most: usize) -> String {
        let title = match sweep.description.trim() {
            "" => sweep.name.clone(),
            description => format!("{}: {description}", sweep.name),
        };
        format!(
            "{title}\n\n{}\n\n{}\n\n{}\n\n{}",
            self.points(most),
            self.stages(most),
            self.kinds(),
            self.conclusion()
        )
    }

    fn points(&self, most: usize) -> String {
        let missing = missing_of_points(self.plan, &self.done);
        let rows = self.plan.points.iter().zip(missing).take(most).map(|(point, missing)| {
            let mut row = vec![point.id.clone()];
            row.extend(point.axes.iter().map(|(_, value)| match value {
                Value::Null => "–".into(),
                value => shown(value),
            }));
            row.push(if missing == 0 {
                "done".into()
            } else {
                format!("{} to run", count(missing, "stage"))
            });
            row
        });
        let names =
            self.plan.points.first().into_iter().flat_map(|point| point.axes.iter().map(|(name, _)| name));
        let head: Vec<&str> = ["point"].into_iter().chain(names).chain(["state"]).collect();
        table(&head, &rows.collect::<Vec<_>>(), 0) + &more(self.plan.points.len(), most)
    }

    fn stages(&self, most: usize) -> String {
        let stages = self.plan.stages.iter().zip(&self.done).zip(&self.prices).take(most);
        let rows = stages.map(|((stage, &done), price)| {
            vec![
                stage.key.as_str()[..8].to_owned(),
                stage.label.clone(),
                count(stage.points.len(), "point"),
                time(price.seconds),
                bytes(price.disk as f64),
                if done { "done" } else { "to run" }.to_owned(),
            ]
        });
        let head = ["key", "stage", "needed by", "time", "disk", "state"];
        table(&head, &rows.collect::<Vec<_>>(), 0) + &more(self.plan.stages.len(), most)
    }

    /// Each kind of which there are stages, and what they come to.
    fn sums(&self) -> Vec<(StageKind, Sum)> {
        let mut sums = KINDS.map(|kind| (kind, Sum::default()));
        for ((stage, &done), price) in self.plan.stages.iter().zip(&self.done).zip(&self.prices) {
            sums[stage.kind as usize].1.add(price, done, stage.points.len());
        }
        sums.into_iter().filter(|(_, sum)| sum.stages > 0).collect()
    }

    fn total(&self) -> Sum {
        let mut total = Sum::default();
        for ((stage, &done), price) in self.plan.stages.iter().zip(&self.done).zip(&self.prices) {
            total.add(price, done, stage.points.len());
        }
        total
    }

    fn kinds(&self) -> String {
        let row = |(kind, sum): (StageKind, Sum)| {
            vec![
                kind.name().to_owned(),
                sum.stages.to_string(),
                sum.unshared.0.to_string(),
                sum.done.to_string(),
                (sum.stages - sum.done).to_string(),
                time(sum.left.0),
                bytes(sum.left.1),
            ]
        };
        let rows: Vec<_> = self.sums().into_iter().map(row).collect();
        table(
            &["kind", "stages", "without sharing", "done", "to run", "time to run", "disk to fill"],
            &rows,
            0,
        )
    }

    fn conclusion(&self) -> String {
        let total = self.total();
        let points = self.plan.points.len();
        let mut lines = vec![format!(
            "{} {} {}; without sharing it would be {}. {} done, {} to run.",
            count(points, "point"),
            if points == 1 { "needs" } else { "need" },
            count(total.stages, "stage"),
            total.unshared.0,
            total.done,
            total.stages - total.done
        )];
        if total.done < total.stages {
            let (seconds, disk) = total.left;
            let basis = self.basis();
            lines.push(format!(
                "To run: about {} of work, one stage at a time, and {} of disk{basis}.",
                time(seconds),
                bytes(disk)
            ));
            lines.push(format!(
                "As jobs of a cluster, {}: {} node hours, and {} with a node for every stage that can run.",
                self.jobs.asked,
                hours(self.seconds_of_jobs()),
                time(self.longest_way())
            ));
            let unknown =
                self.jobs.unknown.iter().zip(&self.done).filter(|(unknown, done)| **unknown && !**done);
            let unknown = unknown.count();
            if unknown > 0 {
                let ask = if unknown == 1 { "asks for a GPU and is" } else { "ask for a GPU and are" };
                lines.push(format!(
                    "{} {ask} counted as if without: none like it has run on a GPU in this store.",
                    count(unknown, "stage")
                ));
            }
        }
        let (_, seconds, disk) = total.unshared;
        if total.unshared.0 > total.stages {
            lines.push(format!(
                "Sharing saves {} of {} and {} of {}.",
                time(seconds - total.seconds),
                time(seconds),
                bytes(disk - total.disk),
                bytes(disk)
            ));
        }
        lines.join("\n")
    }

    /// Seconds of all jobs that are to run.
    fn seconds_of_jobs(&self) -> f64 {
        self.jobs.seconds.iter().zip(&self.done).filter(|(_, done)| !**done).map(|(seconds, _)| seconds).sum()
    }

    /// Seconds of the longest way through what is to run: each stage begins when what it reads is there.
    fn longest_way(&self) -> f64 {
        let mut end = vec![0.0; self.plan.stages.len()];
        for (i, seconds) in self.jobs.seconds.iter().enumerate().filter(|(i, _)| !self.done[*i]) {
            let begin = self.plan.parents(i).map(|parent| end[parent]).fold(0.0, f64::max);
            end[i] = begin + seconds;
        }
        end.into_iter().fold(0.0, f64::max)
    }

    /// Where the times of what is to run come from.
    fn basis(&self) -> String {
        let left = || self.plan.stages.iter().zip(&self.prices).zip(&self.done).filter(|(_, done)| !**done);
        let kinds = |test: fn(&Basis) -> bool| {
            let mut kinds: Vec<&str> = left()
                .filter(|((_, price), _)| test(&price.basis))
                .map(|((stage, _), _)| stage.kind.name())
                .collect();
            kinds.dedup();
            kinds.join(", ")
        };
        let (runs, counted) =
            (kinds(|basis| matches!(basis, Basis::Runs(_))), kinds(|b| *b == Basis::Counted));
        match (runs.is_empty(), counted.is_empty()) {
            (true, _) => " (from a count of operations: nothing like it is finished here)".into(),
            (_, true) => " (from finished stages in this store)".into(),
            _ => {
                format!(" ({runs} from finished stages in this store, {counted} from a count of operations)")
            }
        }
    }

    fn object(&self, sweep: &Sweep) -> Value {
        let missing = missing_of_points(self.plan, &self.done);
        let points = self.plan.points.iter().zip(missing).map(|(point, missing)| {
            let axes: serde_json::Map<String, Value> = point.axes.to_vec().into_iter().collect();
            json!({
                "id": point.id, "axes": axes, "train": point.train, "evaluate": point.evaluate,
                "stages_to_run": missing,
            })
        });
        let stages = self.plan.stages.iter().enumerate().map(|(i, stage)| {
            let Price { seconds, disk, basis } = self.prices[i];
            let basis = match basis {
                Basis::Measured => json!("measured"),
                Basis::Runs(n) => json!({"runs": n}),
                Basis::Counted => json!("counted"),
            };
            json!({
                "key": stage.key, "kind": stage.kind, "label": stage.label, "parents": self.plan.spec(i).parents,
                "points": stage.points.len(), "done": self.done[i],
                "seconds": seconds, "disk": disk, "basis": basis,
            })
        });
        let sum = |sum: Sum| {
            json!({
                "stages": sum.stages, "done": sum.done, "seconds": sum.seconds, "disk": sum.disk,
                "seconds_to_run": sum.left.0, "disk_to_fill": sum.left.1, "without_sharing": sum.unshared.0,
                "seconds_without_sharing": sum.unshared.1, "disk_without_sharing": sum.unshared.2,
            })
        };
        let kinds = self.sums().into_iter().map(|(kind, of_kind)| {
            let mut value = sum(of_kind);
            value["kind"] = json!(kind);
            value
        });
        json!({
            "name": sweep.name, "description": sweep.description,
            "points": points.collect::<Vec<_>>(), "stages": stages.collect::<Vec<_>>(),
            "kinds": kinds.collect::<Vec<_>>(), "total": sum(self.total()),
            "node_hours_to_run": self.seconds_of_jobs() / 3600.0, "longest_way_seconds": self.longest_way(),
            "threads": self.threads,
        })
    }
}

/// What is said of the rows that are not shown.
fn more(rows: usize, most: usize) -> String {
    match rows.saturating_sub(most) {
        0 => String::new(),
        more => format!("\n  … and {more} more (--all shows them)"),
    }
}

/// Seconds as a person says them: `0.4 s`, `3 min`, `2 h 10 min`, `12 d`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.05 => "0 s".into(),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 48.0 * 3600.0 => progress::time(Duration::from_secs_f64(s.round())),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Hours of so many seconds: `0.02`, `1.5`, `230`.
fn hours(seconds: f64) -> String {
    match seconds / 3600.0 {
        hours if hours < 1.0 => format!("{hours:.2}"),
        hours if hours < 100.0 => format!("{hours:.1}"),
        hours => format!("{hours:.0}"),
    }
}

/// `12 kB`, `3.4 MB`.
fn bytes(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes.max(0.0);
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 10.0 && unit > 0 {
        format!("{value:.1} {}", units[unit])
    } else {
        format!("{value:.0} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlannedStage;
    use crate::stage::StageSpec;
    use crate::store::key::Key;

    fn plan() -> Plan {
        let stage = |kind, points: &[usize]| {
            let spec = StageSpec { kind, settings: json!({}), local: json!({}), parents: vec![] };
            let label = format!("{} {points:?}", spec.kind.name());
            PlannedStage::new(Key::of(label.as_bytes()), spec, label, None, points.to_vec())
        };
        let stages = vec![
            stage(StageKind::Prepare, &[0, 1]),
            stage(StageKind::Train, &[0]),
            stage(StageKind::Train, &[1]),
        ];
        Plan::of("test", stages)
    }

    #[test]
    fn sharing_is_counted() {
        let plan = plan();
        let price = |seconds, disk, basis| Price { seconds, disk, basis };
        let prices = vec![
            price(100.0, 1_000_000, Basis::Measured),
            price(60.0, 5_000, Basis::Measured),
            price(70.0, 5_000, Basis::Runs(1)),
        ];
        let jobs = Jobs::of(&plan, Path::new("/nowhere/sweep.yaml"), 2, |_| prices.clone());
        let view = View { plan: &plan, done: vec![true, true, false], prices, threads: 2, jobs };
        let sums = view.sums();
        assert_eq!((sums[0].1.stages, sums[0].1.done, sums[0].1.unshared), (1, 1, (2, 200.0, 2e6)));
        assert_eq!((sums[1].1.stages, sums[1].1.done, sums[1].1.left), (2, 1, (70.0, 5_000.0)));
        insta::assert_snapshot!(view.conclusion(), @r"
        0 points need 3 stages; without sharing it would be 4. 2 done, 1 to run.
        To run: about 1 min 10 s of work, one stage at a time, and 5.0 kB of disk (from finished stages in this store).
        As jobs of a cluster, 2 threads each: 0.02 node hours, and 1 min 10 s with a node for every stage that can run.
        Sharing saves 1 min 40 s of 5 min 30 s and 1.0 MB of 2.0 MB.
        ");
    }

    #[test]
    fn jobs_have_the_threads_that_the_cluster_gives_them() {
        let dir = tempfile::tempdir().unwrap();
        let text = "default: { cpus: 8 }\nprepare: { cpus: 1 }\n";
        crate::store::files::write_atomic(dir.path().join("cluster.yaml"), text).unwrap();
        let plan = plan();
        let price = |computer: Computer| {
            let one = Price { seconds: 80.0 / computer.threads as f64, disk: 0, basis: Basis::Counted };
            vec![one; plan.stages.len()]
        };
        let jobs = Jobs::of(&plan, &dir.path().join("mine.yaml"), 2, price);
        assert_eq!(jobs.seconds, [80.0, 10.0, 10.0]);
        assert_eq!(jobs.unknown, [false; 3]);
        assert!(jobs.asked.ends_with("cluster.yaml asks for them"), "{}", jobs.asked);

        // On a GPU, as its stages were; of what never was on one, that is said.
        let text = "default: { cpus: 8, gres: 'gpu:1', device: cuda }\n";
        crate::store::files::write_atomic(dir.path().join("cluster.yaml"), text).unwrap();
        let price = |computer: Computer| {
            assert!(computer.gpu);
            let one = |seconds, basis| Price { seconds, disk: 0, basis };
            vec![one(9.0, Basis::Counted), one(2.0, Basis::Runs(3)), one(7.0, Basis::Counted)]
        };
        let jobs = Jobs::of(&plan, &dir.path().join("mine.yaml"), 2, price);
        assert_eq!((&jobs.seconds[..], &jobs.unknown[..]), (&[9.0, 2.0, 7.0][..], &[false, false, true][..]));
    }

    #[test]
    fn values_are_shown_as_written() {
        assert_eq!(shown(&json!([[0, 1], "a", true])), "[[0, 1], a, true]");
        assert_eq!([0.0, 0.44, 75.0, 2e6].map(time), ["0 s", "0.4 s", "1 min 15 s", "23.1 days"]);
        assert_eq!([0.0, 999.0, 1e3, 34.4e6, 2e12].map(bytes), ["0 B", "999 B", "1.0 kB", "34 MB", "2.0 TB"]);
    }
}
