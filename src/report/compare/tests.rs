use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::results::stages::PROVENANCE;
use crate::results::{PointRecord, Status, collect, write};
use crate::spec::settings::{Method, Preset};
use crate::store::files;

/// A sweep of four points, {without, with DFM} × 2 seeds, whose Dice is `base`, with DFM 0.1 more.
fn sweep(dir: &TempDir, name: &str, base: f64, provenance: bool) -> Source {
    let mut points = Vec::new();
    let mut stages = String::new();
    for (index, (dfm, seed)) in [(false, 0_u64), (false, 1), (true, 0), (true, 1)].into_iter().enumerate() {
        let folder = dir.path().join(format!("{name}-{index}"));
        files::create_folder(&folder).unwrap();
        let mut lines = String::new();
        for (case, patient) in [("a_ed", "a"), ("a_es", "a"), ("b_ed", "b"), ("c_ed", "c")] {
            for class in ["LV", "RV"] {
                let dice = base + if dfm { 0.1 } else { 0.0 } + if patient == "c" { 0.05 } else { 0.0 };
                let line = json!({"case": case, "patient": patient, "class": class, "dice": dice, "jaccard": dice / 2.0,
                    "hd95": 3.0, "asd": 1.0, "empty_prediction": false, "empty_label": false});
                lines.extend([line.to_string(), "\n".to_owned()]);
            }
        }
        files::write_atomic(folder.join("cases.jsonl"), lines).unwrap();
        files::write_atomic(folder.join("history.jsonl"), "").unwrap();
        let mut settings = crate::spec::settings::Settings::preset(Preset::Smoke, Method::Mcsd);
        (settings.dfm, settings.dic, settings.seed) = (dfm, true, seed);
        let keys = ["7", "e"].map(|end| format!("{index}{}{end}", "0".repeat(30)));
        for (kind, key, settings) in [
            ("train", &keys[0], json!(settings)),
            ("evaluate", &keys[1], json!({"evaluate": {"split": "test"}, "size": 64})),
        ] {
            let line = json!({"key": key, "kind": kind, "settings": settings, "code": 2, "parents": []});
            stages.extend([line.to_string(), "\n".to_owned()]);
        }
        points.push(PointRecord {
            id: format!("{index}{name}"),
            axes: vec![
                ("dfm".into(), json!(dfm)),
                ("blocks".into(), json!([2, 4])),
                ("seed".into(), json!(seed)),
            ],
            facts: vec![("preset".into(), json!("smoke"))],
            status: Status::Done,
            train_key: keys[0].clone(),
            evaluate_key: keys[1].clone(),
            train: Some(folder.clone()),
            evaluate: Some(folder),
        });
    }
    let folder = dir.path().join(name);
    write(&collect(name, &points, &[]).unwrap(), &folder).unwrap();
    if provenance {
        files::write_atomic(folder.join(PROVENANCE), stages).unwrap();
    }
    (name.to_owned(), folder)
}

#[test]
fn two_parts_of_a_sweep_differ_in_what_their_training_reads() {
    let dir = TempDir::new().unwrap();
    let sources = [sweep(&dir, "abl", 0.5, true)];
    let side = |named: &str| find(named, &sources).unwrap();
    let comparison = compare([side("abl:dfm=false"), side("abl:dfm=true and seed=0")]).unwrap();
    assert_eq!(comparison.sides.each_ref().map(|side| side.ids.len()), [2, 1]);
    let find = |path: &str| comparison.settings.iter().find(|setting| setting.path == path);
    let values = |path: &str| find(path).unwrap().values.each_ref().map(|values| values.join(" "));
    assert_eq!(values("dfm"), ["false", "true"]);
    assert_eq!(values("seed"), ["0 1", "0"]);
    assert_eq!(values("timesteps")[0], "", "without DFM nothing reads features");
    assert!(find("tau").is_none() && find("data.name").is_none() && !comparison.settings_in_part);
    let dice = &comparison.metrics[0];
    let close = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-9, "{value}, not {wanted}");
    // Patients a, b, c, not volumes: (0.5 + 0.5 + 0.55) / 3.
    close(dice.sides[0].unwrap().mean, 155.0 / 3.0);
    let difference = dice.difference.unwrap();
    close(difference.mean, 10.0);
    let (low, high) = difference.interval.unwrap();
    close(low, 10.0);
    close(high, 10.0);
    assert_eq!(dice.sd.map(|sd| sd.map(|sd| sd < 1e-9)), [Some(true), None]);
    assert_eq!((comparison.patients, comparison.cases.len(), comparison.alone), (3, 8, [0, 0]));
    close(comparison.metrics[2].difference.unwrap().mean, 0.0);
}

#[test]
fn sweeps_without_provenance_are_compared_by_their_axes() {
    let dir = TempDir::new().unwrap();
    let sources = [sweep(&dir, "one", 0.5, true), sweep(&dir, "two", 0.7, false)];
    let side = |named: &str| find(named, &sources).unwrap();
    let comparison = compare([side("0one"), side("two:blocks=[2,4],dfm=true")]).unwrap();
    assert!(comparison.settings_in_part);
    let paths: Vec<&str> = comparison.settings.iter().map(|setting| setting.path.as_str()).collect();
    assert_eq!(paths, ["dfm", "seed"], "{:?}", comparison.settings);
    assert_eq!(comparison.settings[1].values, [vec!["0".to_owned()], vec!["0".to_owned(), "1".to_owned()]]);
}

#[test]
fn what_is_meant_by_nothing_is_an_error_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let sources = [sweep(&dir, "one", 0.5, true), sweep(&dir, "two", 0.7, false)];
    for (named, words) in [
        ("onw", "did you mean `one`"),
        ("one:dfmm=true", "did you mean `dfm`"),
        ("one:dfm", "write axis=value"),
        ("one:seed=7", "no point of `one` has seed=7"),
        ("0", "several points"),
    ] {
        let error = format!("{:#}", find(named, &sources).expect_err(named));
        assert!(error.contains(words), "{named}: {error}");
    }
}
