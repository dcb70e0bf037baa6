//! Every method on the smallest phantom: its loss falls, and a run that is stopped and continued ends in the same bits.

use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;

use super::*;
use crate::data::{self, Dataset};
use crate::spec::settings::{DataName, DataSettings, Method as Name, Preset, UnetSettings};

static PHANTOM: LazyLock<Dataset> = LazyLock::new(|| {
    let settings =
        DataSettings { name: DataName::Phantom, root: "".into(), patients: 10, seed: 3, unlabelled: false };
    data::prepare(&settings, &|_, _| Ok(())).expect("the phantom needs nothing")
});

/// Stops before a step.
struct Stop {
    at: usize,
    done: Cell<usize>,
}

impl Monitor for Stop {
    fn progress(&self, progress: Progress) {
        self.done.set(progress.done);
    }
    fn note(&self, _text: String) {}
    fn stopped(&self) -> bool {
        self.done.get() == self.at
    }
}

fn settings(method: Name) -> Settings {
    let mut settings = Settings::preset(Preset::Smoke, method);
    settings.size = 32;
    settings.unet = UnetSettings { channels: [4, 4, 8, 8, 8], dropout: [0.05, 0.1, 0.1, 0.1, 0.1] };
    settings.dfm = false;
    settings.swin.channels = 12;
    settings.tau = 0.6;
    settings.train.iterations = 80;
    settings.train.batch = 4;
    settings.train.lr = 0.02;
    settings.train.validate_every = 40;
    settings.consistency.delay = settings.consistency.delay.min(5);
    // The whole weight from the start, so that short trainings have something of it.
    settings.consistency.ramp = 0.0;
    settings.bcp.pretrain = settings.bcp.pretrain.min(40);
    settings
}

fn run(settings: &Settings, dir: &Path, stop: usize) -> Outcome {
    let monitor = Stop { at: stop, done: Cell::new(0) };
    let inputs =
        Inputs { data: &PHANTOM, features: &FeatureSource::None, at_test: None, start: BTreeMap::new() };
    train(settings, 2, &inputs, dir, &monitor).unwrap()
}

/// The mean over the first and over the last rows of the curve; of BCP's second phase the last alone.
fn ends(dir: &Path) -> (f64, f64) {
    let text = std::fs::read_to_string(dir.join(HISTORY)).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let loss = |row: &Value| row["supervised"].as_f64().or_else(|| row["loss"].as_f64()).unwrap();
    (loss(&rows[0]), loss(&rows[rows.len() - 1]))
}

fn check(method: Name) {
    let settings = settings(method);
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Outcome::Finished(summary) = run(&settings, whole.path(), usize::MAX) else { panic!("not stopped") };
    assert_eq!(summary["steps"], settings.steps());
    let (first, last) = ends(whole.path());
    assert!(last < 0.9 * first, "{method:?}: from {first} to {last}");
    // Stopped in the middle of each phase, between rows, and before the first validation of the second.
    for stop in [7, settings.steps() - 37] {
        assert_eq!(run(&settings, parts.path(), stop), Outcome::Stopped, "{method:?}");
    }
    assert!(matches!(run(&settings, parts.path(), usize::MAX), Outcome::Finished(_)));
    for name in [LAST, BEST, HISTORY] {
        let [a, b] = [&whole, &parts].map(|dir| std::fs::read(dir.path().join(name)).unwrap());
        assert!(a == b, "{method:?}: {name} differs after two stops");
    }
    assert!(!whole.path().join(PHASE).exists(), "{method:?}: what only a second phase needs is dropped");
}

#[test]
fn supervised() {
    check(Name::Supervised);
}

#[test]
fn mean_teachers() {
    check(Name::MeanTeacher);
    check(Name::UaMt);
}

#[test]
fn urpc() {
    check(Name::Urpc);
}

#[test]
fn cps() {
    check(Name::Cps);
}

#[test]
fn cross_teaching() {
    check(Name::CrossTeaching);
}

#[test]
fn mc_nets() {
    check(Name::McNet);
    check(Name::McNetPlus);
}

#[test]
fn bcp() {
    check(Name::Bcp);
}

#[test]
fn sc_ssl() {
    check(Name::ScSsl);
}

#[test]
fn unimatch() {
    check(Name::Unimatch);
}

#[test]
fn mcsd() {
    check(Name::Mcsd);
}
