use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::plan::Plan;
use crate::spec;
use crate::stage::{StageKind, StageSpec};
use crate::store::key::Key;
use crate::store::{Cause, Failure, StoredSpec, files};

const SWEEP: &str = "
name: small
description: two thresholds
base: { data: { name: phantom, patients: 10 }, preset: smoke, method: mcsd, dfm: false, label_ratio: 2 cases }
grid: { tau: [0.9, 0.95], seed: [0, 1] }
";

fn index() -> Index {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.yaml");
    files::write_atomic(&path, SWEEP).unwrap();
    let sweep = spec::load(&path, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let mut index = Index::of(&sweep, &Plan::new(&sweep).unwrap()).unwrap();
    index.head.file = PathBuf::from("/sweeps/small.yaml");
    index
}

/// The stages of a kind.
fn of_kind(index: &Index, kind: StageKind) -> Vec<Key> {
    index.stages().iter().filter(|stage| stage.kind == kind).map(|stage| stage.key.clone()).collect()
}

fn finish(store: &Store, key: &Key) {
    let spec = StageSpec { kind: StageKind::Train, settings: json!({}), local: json!({}), parents: vec![] };
    let stored = StoredSpec { label: "of a test".into(), spec };
    store.work(key).unwrap().commit(&stored, json!({}), Duration::from_secs(2), 1).unwrap();
}

/// `text` with what differs between versions and processes replaced.
fn steady(text: &str, index: &Index) -> String {
    let mut text = text.to_owned();
    for (place, stage) in index.stages().iter().enumerate() {
        text = text.replace(stage.key.as_str(), &format!("KEY-OF-STAGE-{place}"));
        text = text.replace(&stage.key.as_str()[..8], &format!("stage-{place:02}"));
    }
    for point in 0..index.points().len() {
        text = text.replace(index.id(point), &format!("point-{point:02}"));
    }
    let pid = std::process::id().to_string();
    text.replace(&format!("{pid:7}"), &format!("{:7}", "PID")).replace(&pid, "PID")
}

#[test]
fn a_sweep_in_the_middle_is_told_stage_by_stage() {
    let index = index();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (prepare, train, evaluate) = (
        of_kind(&index, StageKind::Prepare),
        of_kind(&index, StageKind::Train),
        of_kind(&index, StageKind::Evaluate),
    );
    for key in [&prepare[0], &train[0], &train[1], &evaluate[0]] {
        finish(&store, key);
    }
    let _lock = store.try_lock(&train[2]).unwrap().unwrap();
    let failure = Failure { cause: Cause::Error, message: "the loss is NaN\nat step 7".into() };
    store.write_failure(&train[3], &failure).unwrap();

    let view = View::new(&index, &Look::new(&store).unwrap(), &store).unwrap();
    let states: Vec<&str> = view.point_states.iter().map(|state| state.name()).collect();
    assert_eq!(states, ["done", "waiting", "running", "failed"]);
    insta::assert_snapshot!(steady(&show::text(&view, MOST).unwrap(), &index), @r"
    small: 1 of 4 points done, 1 running, 1 failed, 1 waiting

    stages    total  done  running  failed  waiting
    prepare   1      1     0        0       0
    train     4      2     1        1       0
    evaluate  4      1     0        0       3
    all       9      4     1        1       3

    key       running                                 process  progress
    stage-03  train mcsd 2 cases dic tau=0.95 seed=0  PID

    key       failed                                  why
    stage-04  train mcsd 2 cases dic tau=0.95 seed=1  the loss is NaN; at step 7

    `sweep logs KEY` shows what a stage said
    ");
    insta::assert_snapshot!(steady(&show::overview(&[view], &store), &index), @r"
    sweep  points  done  running  failed  state
    small  4       1     1        1       running
    ");
}

#[test]
fn a_sweep_for_programs_has_counts_and_with_all_each_stage_and_how_it_came_to_be() {
    let index = index();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let train = of_kind(&index, StageKind::Train);
    finish(&store, &train[0]);
    let failure = Failure { cause: Cause::Error, message: "no".into() };
    store.write_failure(&train[1], &failure).unwrap();
    let view = View::new(&index, &Look::new(&store).unwrap(), &store).unwrap();

    let mut value = show::object(&view, &store);
    value["failed"][0]["log"] = json!("LOG");
    insta::assert_snapshot!(steady(&serde_json::to_string(&value).unwrap(), &index), @r#"{"description":"two thresholds","failed":[{"key":"KEY-OF-STAGE-2","kind":"train","label":"train mcsd 2 cases dic tau=0.9 seed=1","log":"LOG","message":"no"}],"file":"/sweeps/small.yaml","jobs":[],"kinds":[{"done":0,"failed":0,"kind":"prepare","running":0,"total":1,"waiting":1},{"done":1,"failed":1,"kind":"train","running":0,"total":4,"waiting":2},{"done":0,"failed":0,"kind":"evaluate","running":0,"total":4,"waiting":4}],"name":"small","points":{"done":0,"failed":1,"running":0,"total":4,"waiting":3},"running":[],"runs":[],"stages":{"done":1,"failed":1,"running":0,"total":9,"waiting":7}}"#);

    let whole = show::whole(&view, &store).unwrap();
    assert_eq!(whole["all"]["points"].as_array().map(Vec::len), Some(4));
    assert_eq!(whole["all"]["points"][0]["stages"].as_array().map(Vec::len), Some(3));
    let stage = &whole["all"]["stages"][1];
    assert_eq!((&stage["state"], &stage["seconds"]), (&json!("done"), &json!(2.0)));
    assert_eq!(stage["provenance"]["device"], json!("cpu"));
    assert!(stage["provenance"]["start"].as_str().is_some_and(|time| time.ends_with('Z')), "{stage}");
}

#[test]
fn what_nobody_works_on_is_told_with_the_command_that_goes_on() {
    let index = index();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let view = View::new(&index, &Look::new(&store).unwrap(), &store).unwrap();
    let text = show::text(&view, usize::MAX).unwrap();
    assert!(text.ends_with("nothing works on it now: `sweep run /sweeps/small.yaml` goes on"), "{text}");
    insta::assert_snapshot!(steady(text.split("\n\n").nth(2).unwrap(), &index), @r"
    point     tau   seed  state
    point-00  0.9   0     waiting
    point-01  0.9   1     waiting
    point-02  0.95  0     waiting
    point-03  0.95  1     waiting
    ");
    assert!(show::overview(&[], &store).contains("knows no sweep yet"));
}
