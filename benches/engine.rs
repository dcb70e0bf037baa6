//! What the engine takes for each point of trivial work, in this process and in worker processes:
//! `cargo bench --bench engine -- [--points N]`. A stage writes one small file; it is locked, published and synced as any.

use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mcsd_sweep::exec::{
    self, Device, Executor, Inline, Line, Local, Notice, Options, Order, Reporter, STOP, Stop, Word, Worker,
};
use mcsd_sweep::plan::{Plan, PlannedStage};
use mcsd_sweep::stage::{Context, StageKind, StageSpec};
use mcsd_sweep::store::Store;
use mcsd_sweep::store::key::Key;
use serde_json::{Value, json};

/// Checkpoints play no part here.
const NEVER: Duration = Duration::from_secs(3600);

/// Says nothing.
struct Silent;

impl Reporter for Silent {
    fn notice(&mut self, _: &Notice<'_>) {}
}

/// The trivial work.
fn compute(stages: &[(StageSpec, Context<'_>)]) -> Result<Vec<Value>> {
    let one = |(_, context): &(StageSpec, Context<'_>)| {
        File::create(context.dir.join("cases.jsonl"))?.write_all(b"{}\n")?; // the store syncs it
        Ok(json!({}))
    };
    stages.iter().map(one).collect()
}

fn plan(points: usize) -> Plan {
    let stage = |point: usize| {
        let settings = json!({ "seed": point });
        let spec = StageSpec { kind: StageKind::Evaluate, settings, local: Value::Null, parents: vec![] };
        PlannedStage::new(Key::of(&point.to_le_bytes()), spec, format!("point {point}"), None, vec![])
    };
    Plan::of("bench", (0..points).map(stage).collect())
}

/// Milliseconds for each point, in a new store in `folder`.
fn timed(
    folder: &Path,
    points: usize,
    workers: usize,
    executor: impl Fn(Store) -> Result<Box<dyn Executor>>,
) -> Result<f64> {
    let store = Store::open(tempfile::tempdir_in(folder)?.keep())?;
    let plan = plan(points);
    let options = Options { workers, threads: workers, ..Options::default() };
    let mut executor = executor(store.clone())?;
    let begun = Instant::now();
    let summary = exec::run(&plan, &store, &mut *executor, &mut Silent, &options, &Stop::default())?;
    let took = begun.elapsed();
    ensure!(summary.complete(), "not all points are done");
    Ok(took.as_secs_f64() * 1e3 / points as f64)
}

/// `stage --serve --store DIR …`: this program as its own worker, with the trivial work in place of the science.
fn serve(store: &Path) -> Result<()> {
    let store = Store::open(store)?;
    let say = |word: &Word| -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(word)?)?;
        Ok(out.flush()?)
    };
    // Nobody hears it only when the engine is gone; then the input ends as well.
    let emit = |line: Line| drop(say(&Word::Line(line)));
    let stop = AtomicBool::new(false);
    let worker = Worker::new(&store, &compute, &emit, &stop, NEVER);
    worker.on(1, Device::Cpu);
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line == STOP {
            break;
        }
        let order: Order = serde_json::from_str(&line)?;
        let (verdict, _) = worker.work(&order.keys);
        say(&Word::Over { task: order.task, verdict })?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let after = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    if args.get(1).is_some_and(|arg| arg == "stage") {
        return serve(Path::new(after("--store").context("--store DIR is wanted")?));
    }
    let points = after("--points").map_or(Ok(1000), |points| points.parse())?;
    let program = std::env::current_exe()?;
    // Removed at the very end: ext4 looks for a free inode among those that were freed in the last seconds, one by one.
    let folder = tempfile::tempdir()?;
    let mut out = io::stdout().lock();
    for (name, workers, inline) in [
        ("in process", 1, true),
        ("in process", 2, true),
        ("as processes", 1, false),
        ("as processes", 2, false),
    ] {
        let executor = |store: Store| -> Result<Box<dyn Executor>> {
            Ok(if inline {
                Box::new(Inline::new(store, Arc::new(compute), NEVER))
            } else {
                Box::new(Local::new(program.clone(), store, NEVER))
            })
        };
        let mut took =
            (0..5).map(|_| timed(folder.path(), points, workers, executor)).collect::<Result<Vec<f64>>>()?;
        took.sort_by(f64::total_cmp);
        let what = format!("sweep, {name}, {points}, {workers} at once");
        writeln!(out, "{what:58} {:9.2} {:9.2}", took[0], took[2])?;
    }
    Ok(())
}
