use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A finished point in `dir` with the lines of its files.
fn record(dir: &TempDir, id: &str, axes: &Value, cases: &[Value], history: &[Value]) -> PointRecord {
    let folder = dir.path().join(id);
    files::create_folder(&folder).unwrap();
    let lines = |rows: &[Value]| {
        let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
        rows.join("\n")
    };
    files::write_atomic(folder.join("cases.jsonl"), lines(cases).as_bytes()).unwrap();
    files::write_atomic(folder.join("history.jsonl"), lines(history).as_bytes()).unwrap();
    PointRecord {
        id: id.into(),
        axes: axes
            .as_array()
            .unwrap()
            .iter()
            .map(|a| (a[0].as_str().unwrap().into(), a[1].clone()))
            .collect(),
        facts: vec![("evaluate.split".into(), json!("test"))],
        status: Status::Done,
        train_key: format!("train-{id}"),
        evaluate_key: format!("evaluate-{id}"),
        train: Some(folder.clone()),
        evaluate: Some(folder),
    }
}

fn case(case: &str, class: &str, dice: f64, hd95: f64) -> Value {
    json!({"case": case, "patient": "p", "class": class, "dice": dice, "jaccard": dice / (2.0 - dice), "hd95": hd95,
        "asd": hd95 / 2.0, "empty_prediction": dice == 0.0, "empty_label": false, "voxels_label": 7})
}

fn sample(dir: &TempDir) -> Vec<PointRecord> {
    let axes = |tau: f64, dfm: bool, seed: u64| {
        json!([["tau", tau], ["dfm", dfm], ["blocks", [2, 4, 6]], ["label_ratio", "10%"], ["seed", seed]])
    };
    // Classes with unequal numbers of cases: the mean of class means is not the mean of rows.
    let cases = [case("a", "lv", 0.9, 1.0), case("b", "lv", 0.7, 3.0), case("a", "rv", 0.0, 0.0)];
    let history = [
        json!({"step": 100, "loss": 1.5, "val": {"dice": 0.5}}),
        json!({"step": 200, "loss": 1.0, "lr": 0.01, "val": {"dice": 0.7}, "seed": 9}),
        json!({"step": 300, "loss": 0.5, "val": {"dice": 0.7}}),
    ];
    let mut points = vec![
        record(dir, "one", &axes(0.9, true, 0), &cases, &history),
        record(dir, "two", &axes(0.95, false, 1), &cases, &history[..1]),
        record(dir, "three", &axes(0.9, false, 0), &[], &[]),
        record(dir, "four", &axes(0.9, false, 1), &[], &[]),
    ];
    points[2].status = Status::Failed("out of memory".into());
    points[3].status = Status::Missing;
    (points[3].train, points[3].evaluate) = (None, None);
    points
}

#[test]
fn frames_hold_each_point_case_and_step() {
    let dir = TempDir::new().unwrap();
    let frames = collect("demo", &sample(&dir), &[]).unwrap();
    assert_eq!((frames.points.height(), frames.cases.height(), frames.history.height()), (4, 6, 4));
    assert_eq!(axis_names(&frames.points), ["tau", "dfm", "blocks", "label_ratio", "seed"]);
    let column = |frame: &DataFrame, name: &str| frame.column(name).unwrap().clone();
    let types: Vec<String> = ["tau", "dfm", "blocks", "seed"]
        .map(|axis| column(&frames.points, axis).dtype().to_string())
        .to_vec();
    assert_eq!(types, ["f64", "bool", "str", "i64"]);
    assert_eq!(column(&frames.points, "blocks").str().unwrap().get(0), Some("[2, 4, 6]"));
    let dice = column(&frames.points, "dice");
    assert!((dice.f64().unwrap().get(0).unwrap() - 0.4).abs() < 1e-15, "mean over cases, then over classes");
    assert_eq!(dice.f64().unwrap().get(2), None, "a failed point has no mean");
    assert_eq!(column(&frames.points, "hd95_lv").f64().unwrap().get(0), Some(2.0));
    assert_eq!(column(&frames.points, "n_cases").i64().unwrap().get(0), Some(2));
    assert_eq!(column(&frames.points, "empty_predictions").i64().unwrap().get(1), Some(1));
    assert_eq!(column(&frames.points, "best_step").i64().unwrap().get(0), Some(200), "the first of equals");
    assert_eq!(column(&frames.points, "error").str().unwrap().get(2), Some("out of memory"));
    assert_eq!(column(&frames.points, "evaluate.split").str().unwrap().get(3), Some("test"));
    assert_eq!(column(&frames.cases, "voxels_label").i64().unwrap().get(5), Some(7));
    let history = &frames.history;
    assert_eq!(
        column(history, "lr").f64().unwrap().iter().collect::<Vec<_>>(),
        [None, Some(0.01), None, None]
    );
    assert_eq!(column(history, "logged.seed").f64().unwrap().get(1), Some(9.0), "no axis is overwritten");
}

#[test]
fn written_frames_read_back_and_repeat_bit_for_bit() {
    let dir = TempDir::new().unwrap();
    let frames = collect("demo", &sample(&dir), &[]).unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("deep/second"));
    write(&frames, &first).unwrap();
    write(&collect("demo", &sample(&dir), &[]).unwrap(), &second).unwrap();
    let back = read(&first).unwrap();
    for (ours, theirs) in
        [(&frames.points, &back.points), (&frames.cases, &back.cases), (&frames.history, &back.history)]
    {
        assert_eq!(ours.schema(), theirs.schema());
        assert!(ours.equals_missing(theirs), "{ours} became {theirs}");
    }
    for name in FRAMES {
        for kind in ["parquet", "csv"] {
            let file = format!("{name}.{kind}");
            assert_eq!(fs::read(first.join(&file)).unwrap(), fs::read(second.join(&file)).unwrap(), "{file}");
        }
    }
    let csv = fs::read_to_string(first.join("cases.csv")).unwrap();
    insta::assert_snapshot!(csv.lines().take(2).collect::<Vec<_>>().join("\n"), @r#"
    id,tau,dfm,blocks,label_ratio,seed,case,patient,class,dice,jaccard,hd95,asd,empty_prediction,empty_label,voxels_label
    one,0.9,true,"[2, 4, 6]",10%,0,a,p,lv,0.9,0.8181818181818181,1.0,0.5,false,false,7
    "#);
}

#[test]
fn a_sweep_without_results_has_frames() {
    let dir = TempDir::new().unwrap();
    let missing = sample(&dir).split_off(3);
    let frames = collect("demo", &missing, &[]).unwrap();
    assert_eq!((frames.points.height(), frames.cases.height(), frames.history.height()), (1, 0, 0));
    write(&frames, dir.path()).unwrap();
    assert!(read(dir.path()).unwrap().points.equals_missing(&frames.points));
    write(&collect("empty", &[], &[]).unwrap(), dir.path()).unwrap();
}

#[test]
fn bad_files_are_named() {
    let dir = TempDir::new().unwrap();
    let message = |cases: &[Value]| {
        let points = [record(&dir, "bad", &json!([["tau", 0.9]]), cases, &[])];
        format!("{:#}", collect("demo", &points, &[]).expect_err("bad input"))
    };
    let mut broken = case("a", "lv", 0.9, 1.0);
    assert!(message(&[]).contains("holds no case"));
    broken["dice"] = json!(1.5);
    let got = message(&[case("a", "lv", 0.5, 1.0), broken.clone()]);
    assert!(
        got.contains("point bad") && got.contains("cases.jsonl, line 2") && got.contains("`dice` is 1.5"),
        "{got}"
    );
    broken.as_object_mut().unwrap().remove("dice");
    assert!(message(&[broken]).contains("missing field `dice`"));
    let clash = [record(&dir, "clash", &json!([["dice", 1]]), &[case("a", "lv", 0.9, 1.0)], &[])];
    assert!(format!("{:#}", collect("demo", &clash, &[]).unwrap_err()).contains("named `dice`"));
    let mut gone = sample(&dir);
    gone[0].evaluate = Some(dir.path().join("nowhere"));
    assert!(format!("{:#}", collect("demo", &gone, &[]).unwrap_err()).contains("nowhere"));
    assert!(format!("{:#}", read(&dir.path().join("nothing")).unwrap_err()).contains("points.parquet"));
}

#[test]
fn facts_are_settings_by_their_paths() {
    use crate::spec::settings::{Method, Preset};
    let mut swin = Settings::preset(Preset::Smoke, Method::CrossTeaching);
    let start = |settings: &Settings| value_of(&facts(settings), START).cloned();
    assert_eq!(start(&swin), Some(json!("scratch")));
    swin.swin.weights = "swin.safetensors".into();
    assert_eq!(start(&swin), Some(json!("imagenet")));
    let facts = facts(&Settings::preset(Preset::Smoke, Method::Mcsd));
    let find = |name: &str| value_of(&facts, name).cloned();
    assert_eq!(find("evaluate.split"), Some(json!("test")));
    assert_eq!(find("evaluate.empty"), Some(json!("zero")));
    assert_eq!(find("label_ratio"), Some(json!("10%")));
    assert_eq!(find("preset"), Some(json!("smoke")));
}
