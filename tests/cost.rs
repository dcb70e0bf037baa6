//! What `cost` says a store takes, against a store that was really made, with the networks of the preset `smoke`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use mcsd_sweep::cost::{self, Facts, StageCost};
use mcsd_sweep::data::{self, Dataset};
use mcsd_sweep::spec;
use mcsd_sweep::spec::settings::{EvaluateSettings, Method, Preset, Settings};
use mcsd_sweep::stage::StageKind;
use mcsd_sweep::store::Meta;

const SWEEP: &str = "
name: costs
description: one point of preset smoke, a few steps
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  method: mcsd
  label_ratio: 2 cases
  diffusion: { iterations: 2 }
  train: { iterations: 20, validate_every: 10 }
  timesteps: [50]
  blocks: [2, 6]
";

/// The finished objects: their metadata and folder.
fn objects(store: &Path) -> Vec<(Meta, std::path::PathBuf)> {
    let folders = |path: &Path| fs::read_dir(path).expect("readable").flatten().map(|entry| entry.path());
    let objects = folders(&store.join("objects")).flat_map(|shelf| folders(&shelf).collect::<Vec<_>>());
    let read = |path: std::path::PathBuf| {
        let text = fs::read(path.join("meta.json")).expect("meta.json");
        (serde_json::from_slice(&text).expect("metadata"), path)
    };
    objects.map(read).collect()
}

fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).expect("readable").flatten();
    files.map(|file| file.metadata().expect("metadata").len()).sum()
}

fn facts(data: &Dataset) -> Facts {
    Facts::of(data.cases().iter().map(|case| (case.split as usize, case.shape)))
}

#[test]
fn objects_take_the_disk_that_is_foretold() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut file = fs::File::create(dir.path().join("costs.yaml")).expect("a file");
    std::io::Write::write_all(&mut file, SWEEP.as_bytes()).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    let output = command.current_dir(dir.path()).args(["run", "costs.yaml"]).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let objects = objects(&dir.path().join("results/.store"));
    let of = |kind| objects.iter().find(|(meta, _)| meta.kind == kind).expect("there is one");
    // Not those of the training: what it does not read is neutral there.
    let sweep = spec::load(&dir.path().join("costs.yaml"), &[]).expect("a sweep");
    let settings: &Settings = &sweep.points[0].settings;
    let data = Dataset::open(&of(StageKind::Prepare).1).expect("the data set");
    let mut kinds = BTreeMap::new();
    for (meta, folder) in &objects {
        let block =
            meta.settings.get("block").and_then(serde_json::Value::as_u64).map(|block| block as usize);
        let StageCost { disk, memory, .. } = cost::stage(meta.kind, settings, block, &facts(&data));
        let found = size(folder);
        // Large files to a hundredth, small ones to what a line of text more or less is.
        let slack = found / 100 + 3_000;
        assert!(disk.abs_diff(found) <= slack, "{}: {disk} bytes foretold, {found} found", meta.label);
        assert!(memory > disk, "{}: {memory}", meta.label);
        *kinds.entry(meta.kind).or_insert(0) += 1;
    }
    let expected = [(StageKind::Prepare, 1), (StageKind::Pretrain, 1), (StageKind::Features, 2)];
    let expected = expected.into_iter().chain([(StageKind::Train, 1), (StageKind::Evaluate, 1)]);
    assert_eq!(kinds, expected.collect(), "every kind of stage");
}

#[test]
fn a_prepared_data_set_is_known_before_it_is_made() {
    let settings = Settings::preset(Preset::Smoke, Method::Mcsd);
    let inspected = data::inspect(&settings.data).expect("settings of a preset");
    let expected = Facts::expected(settings.data.name, inspected.train_patients, inspected.volumes);
    let found = facts(&data::prepare(&settings.data, &|_, _| Ok(())).expect("a phantom"));
    assert_eq!(found.volumes, expected.volumes);
    let costs = [found, expected].map(|facts| cost::evaluate(&settings, &facts).work.flops);
    assert!((costs[0] / costs[1] - 1.0).abs() < 0.15, "{costs:?}");
    let val = EvaluateSettings {
        split: mcsd_sweep::spec::settings::EvaluateSplit::Val,
        ..settings.evaluate.clone()
    };
    let val = Settings { evaluate: val, ..settings };
    assert!(cost::evaluate(&val, &found).work.flops < costs[0], "fewer volumes");
}
