//! Time to read and plan a sweep of 10,000 and 100,000 points: `cargo bench --bench plan`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use criterion::Criterion;
use mcsd_sweep::plan::{Inspected, Plan};
use mcsd_sweep::spec::load;
use mcsd_sweep::spec::settings::DataSettings;

/// A grid of 100 settings and `seeds` seeds.
fn sweep(seeds: usize) -> String {
    let seeds: Vec<String> = (0..seeds).map(|seed| seed.to_string()).collect();
    format!(
        "base: {{ preset: smoke }}\n\
         grid: {{ dfm: [false, true], tau: [0.7, 0.75, 0.8, 0.85, 0.9], blocks: [[2], [4]], \
         feature_dim: [10, 20, 30, 40, 50], seed: [{}] }}",
        seeds.join(", ")
    )
}

fn plan(path: &Path) -> Result<Plan> {
    let phantom = |_: &DataSettings| Ok(Inspected { content: "phantom".into(), train_patients: 28 });
    Plan::with(&load(path, &[])?, &phantom)
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let folder = tempfile::tempdir()?;
    for (name, seeds) in [("10,000 points", 100), ("100,000 points", 1000)] {
        let path = folder.path().join(format!("{seeds}.yaml"));
        std::io::Write::write_all(&mut std::fs::File::create(&path)?, sweep(seeds).as_bytes())?;
        plan(&path)?;
        criterion.bench_function(name, |bencher| bencher.iter(|| plan(&path)));
    }
    criterion.measurement_time(Duration::from_secs(1)).final_summary();
    Ok(())
}
