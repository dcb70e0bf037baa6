//! Time to read, expand, check, key and plan sweeps of 10,000 and 100,000 points over 8 axes: `cargo bench --bench plan`.
//! `-- --once N` does N points once, in a process of its own, and tells seconds and peak memory as JSON.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use criterion::Criterion;
use mcsd_sweep::plan::{Inspected, Plan};
use mcsd_sweep::spec::load;
use mcsd_sweep::spec::settings::DataSettings;

/// A grid of 10,000 settings and `seeds` seeds; all of its points train something else.
fn sweep(seeds: usize) -> String {
    let seeds: Vec<String> = (0..seeds).map(|seed| seed.to_string()).collect();
    format!(
        "base: {{ preset: smoke }}\n\
         grid:\n  dic: [false, true]\n  tau: [0.7, 0.75, 0.8, 0.85, 0.9]\n  blocks: [[2], [4], [2, 4], [2, 4, 6]]\n  \
         timesteps: [[50], [150], [250], [50, 150], [50, 150, 250]]\n  feature_dim: [10, 20, 30, 40, 50]\n  \
         label_ratio: [5%, 10%]\n  train.lr: [0.005, 0.01, 0.02, 0.04, 0.08]\n  seed: [{}]\n",
        seeds.join(", ")
    )
}

fn plan(path: &Path) -> Result<Plan> {
    let phantom = |_: &DataSettings| Ok(Inspected { content: "phantom".into(), train_patients: 28 });
    Plan::with(&load(path, &[])?, &phantom)
}

fn write(folder: &Path, points: usize) -> Result<PathBuf> {
    let path = folder.join(format!("{points}.yaml"));
    std::fs::File::create(&path)?.write_all(sweep(points / 10_000).as_bytes())?;
    Ok(path)
}

/// The most memory that this process has had, in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

#[expect(clippy::print_stdout, reason = "the outcome of a program that is run by hand and by a script")]
fn once(folder: &Path, points: usize) -> Result<()> {
    let path = write(folder, points)?;
    let begun = Instant::now();
    let plan = plan(&path)?;
    let seconds = begun.elapsed().as_secs_f64();
    let (points, stages, peak) = (plan.points.len(), plan.stages.len(), peak().unwrap_or(0));
    println!("{{\"points\":{points},\"stages\":{stages},\"seconds\":{seconds:.4},\"peak_bytes\":{peak}}}");
    Ok(())
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--once") {
        let points =
            args.get(at + 1).and_then(|n| n.parse().ok()).context("--once N, N a multiple of 10000")?;
        return once(folder.path(), points);
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    for (name, points) in [("10,000 points", 10_000), ("100,000 points", 100_000)] {
        let path = write(folder.path(), points)?;
        plan(&path)?;
        criterion.bench_function(name, |bencher| bencher.iter(|| plan(&path)));
    }
    criterion.measurement_time(Duration::from_secs(1)).final_summary();
    Ok(())
}
