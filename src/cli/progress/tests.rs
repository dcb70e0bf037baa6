use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::exec::{Left, Notice, Outcome, Summary};
use crate::plan::{Plan, PlannedStage};
use crate::stage::event::Event;
use crate::stage::{StageKind, StageSpec};
use crate::store::key::Key;

fn stage(label: &str) -> PlannedStage {
    let spec = StageSpec { kind: StageKind::Train, settings: json!({}), local: json!({}), parents: vec![] };
    PlannedStage::new(Key::of(label.as_bytes()), spec, label, None, vec![0])
}

/// Tells `reporter` of a run of three stages: one is done, one fails, and the third is skipped for it.
fn tell_of_a_run(reporter: &mut dyn Reporter) {
    let plan = Plan::of("small", vec![stage("a"), stage("b"), stage("c")]);
    let [a, b, c] = &plan.stages[..] else { panic!("three stages") };
    let log = Path::new("store/logs/b.log");
    let progress = Event::Progress {
        done: 3,
        total: 9,
        unit: "step".into(),
        loss: Some(0.5),
        note: Some("val dice 71.2".into()),
    };
    let done = Outcome::Done { seconds: 75.0, shared: false };
    let failed = Outcome::Failed { message: "the loss is NaN".into() };
    let skipped = Outcome::Skipped { because: 1 };
    let summary = Summary {
        outcomes: vec![done.clone(), failed.clone(), skipped.clone()],
        interrupted: false,
        disk_full: false,
        elapsed: Duration::from_secs(80),
    };
    for notice in [
        Notice::Opened { plan: &plan, finished: 0 },
        Notice::Started { stage: a, threads: 2 },
        Notice::Said { stage: a, event: &Event::Note { text: "resumed at step 2".into() } },
        Notice::Said { stage: a, event: &progress },
        Notice::Tick { left: Left { time: Duration::from_secs(60), at_least: true } },
        Notice::Settled { stage: a, outcome: &done, because: None, log },
        Notice::Started { stage: b, threads: 1 },
        Notice::Settled { stage: b, outcome: &failed, because: None, log },
        Notice::Settled { stage: c, outcome: &skipped, because: Some(b), log },
        Notice::Ended { summary: &summary },
    ] {
        reporter.notice(&notice);
    }
}

#[test]
fn lines_tell_the_start_and_end_of_each_stage() {
    let mut out = Vec::new();
    tell_of_a_run(&mut lines::Lines::new(&mut out, false));
    let expected = "\
small: 0 points need 3 stages, 0 of them finished before
[0/3] a: started, 2 threads
[0/3] a: resumed at step 2
[1/3] a: done in 1 min 15 s
[1/3] b: started, 1 thread
error: b failed: the loss is NaN
  its messages are in store/logs/b.log
[1/3] c: skipped, because b failed
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn quiet_tells_failures_only() {
    let mut out = Vec::new();
    tell_of_a_run(&mut lines::Lines::new(&mut out, true));
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, "error: b failed: the loss is NaN\n  its messages are in store/logs/b.log\n");
}

#[test]
fn json_is_one_object_a_line_with_the_stage_s_key() {
    let mut out = Vec::new();
    tell_of_a_run(&mut json::Json::new(&mut out));
    let text = String::from_utf8(out).unwrap();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = objects.iter().map(|object| object["event"].as_str().unwrap()).collect();
    let expected =
        ["opened", "started", "note", "progress", "settled", "started", "settled", "settled", "ended"];
    assert_eq!(events, expected);
    assert_eq!(objects[3]["done"], 3);
    assert_eq!(objects[3]["key"], json!(Key::of(b"a")));
    assert_eq!(objects[6]["message"], "the loss is NaN");
    assert_eq!(objects[7]["because"], json!(Key::of(b"b")));
    assert_eq!([&objects[8]["finished"], &objects[8]["failed"], &objects[8]["skipped"]], [1, 1, 1]);
}

#[test]
fn times_are_short_and_exact_enough() {
    let shown = |seconds: f64| time(Duration::from_secs_f64(seconds));
    let expected = [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (3725.0, "1 h 02 min"),
        (100_000.0, "1 d 03 h"),
    ];
    for (seconds, text) in expected {
        assert_eq!(shown(seconds), text);
    }
}
