//! How much longer a run takes, from the stages that are done and the progress of those that run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::plan::PlannedStage;
use crate::stage::StageKind;

/// The time that is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Left {
    /// As far as is known.
    pub time: Duration,
    /// Some stages are of a sort that nothing is known of yet: it takes longer than `time`.
    pub at_least: bool,
}

/// Stages that take about equally long.
#[derive(Clone, Copy, Debug, Default)]
struct Sort {
    /// Seconds of the finished ones.
    seconds: f64,
    /// The finished ones.
    finished: usize,
    /// Those that neither run nor are finished.
    waiting: usize,
}

/// A stage that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    started: Instant,
    /// The first progress that it told (a resumed stage starts in the middle), and when.
    first: Option<(u64, Instant)>,
    /// The last one: units done and in all, and when.
    last: Option<(u64, u64, Instant)>,
}

/// Learns from what has happened how long the rest takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Forecast {
    sorts: BTreeMap<String, Sort>,
    running: BTreeMap<usize, (String, Running)>,
}

impl Forecast {
    /// A stage that took `seconds` in an earlier run.
    pub(super) fn known(&mut self, stage: &PlannedStage, seconds: f64) {
        let sort = self.sorts.entry(sort(stage)).or_default();
        sort.seconds += seconds;
        sort.finished += 1;
    }

    /// The seconds that a stage will take: the mean of its sort, else a guess that ranks the kinds.
    pub(super) fn expected(&self, stage: &PlannedStage) -> f64 {
        self.mean(&sort(stage)).unwrap_or(match stage.kind {
            StageKind::Prepare => 10.0,
            StageKind::Pretrain => 600.0,
            StageKind::Features | StageKind::Evaluate => 60.0,
            StageKind::Train => 300.0,
        })
    }

    /// A stage that is to run.
    pub(super) fn waiting(&mut self, stage: &PlannedStage) {
        self.sorts.entry(sort(stage)).or_default().waiting += 1;
    }

    /// A waiting stage will not run.
    pub(super) fn dropped(&mut self, stage: &PlannedStage) {
        let sort = self.sorts.entry(sort(stage)).or_default();
        sort.waiting = sort.waiting.saturating_sub(1);
    }

    /// A waiting stage starts.
    pub(super) fn started(&mut self, index: usize, stage: &PlannedStage, now: Instant) {
        self.dropped(stage);
        self.running.insert(index, (sort(stage), Running { started: now, first: None, last: None }));
    }

    /// A running stage has done `done` of `total`.
    pub(super) fn progress(&mut self, stage: usize, done: u64, total: u64, now: Instant) {
        if let Some((_, running)) = self.running.get_mut(&stage) {
            running.first.get_or_insert((done, now));
            running.last = Some((done, total, now));
        }
    }

    /// A running stage is over; with its seconds where it finished.
    pub(super) fn ended(&mut self, index: usize, stage: &PlannedStage, seconds: Option<f64>) {
        self.running.remove(&index);
        if let Some(seconds) = seconds {
            self.known(stage, seconds);
        }
    }

    /// The stages that run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// What is left with `workers` stages at once.
    pub(super) fn left(&self, workers: usize, now: Instant) -> Left {
        let mut seconds = 0.0;
        let mut at_least = false;
        let mut stages = self.running.len();
        let mut projected: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, running) in self.running.values() {
            let elapsed = now.duration_since(running.started).as_secs_f64();
            let left = remaining(running, now).or_else(|| Some((self.mean(name)? - elapsed).max(0.0)));
            match left {
                Some(left) => {
                    seconds += left;
                    projected.insert(name, elapsed + left);
                }
                None => at_least = true,
            }
        }
        for (name, sort) in self.sorts.iter().filter(|(_, sort)| sort.waiting > 0) {
            stages += sort.waiting;
            match self.mean(name).or_else(|| projected.get(name.as_str()).copied()) {
                Some(mean) => seconds += mean * sort.waiting as f64,
                None => at_least = true,
            }
        }
        let at_once = workers.min(stages).max(1) as f64;
        Left { time: Duration::from_secs_f64((seconds / at_once).clamp(0.0, 1e9)), at_least }
    }

    fn mean(&self, name: &str) -> Option<f64> {
        let sort = self.sorts.get(name).filter(|sort| sort.finished > 0)?;
        Some(sort.seconds / sort.finished as f64)
    }
}

/// Seconds that a running stage still takes, at the speed that it had so far.
fn remaining(running: &Running, now: Instant) -> Option<f64> {
    let (first, since) = running.first?;
    let (done, total, at) = running.last?;
    let speed = done.checked_sub(first).filter(|&n| n > 0)? as f64 / at.duration_since(since).as_secs_f64();
    let left = total.saturating_sub(done) as f64 / speed - now.duration_since(at).as_secs_f64();
    Some(left.max(0.0)).filter(|left| left.is_finite())
}

/// The name of the stages that take about as long as `stage`: its kind and, where it has one, its method.
fn sort(stage: &PlannedStage) -> String {
    match stage.method {
        Some(method) => format!("{} {method:?}", stage.kind.name()),
        None => stage.kind.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stage::StageSpec;
    use crate::store::key::Key;

    fn stage(kind: StageKind) -> PlannedStage {
        let spec = StageSpec { kind, settings: json!({}), local: json!({}), parents: vec![] };
        PlannedStage::new(Key::of(b"stage"), spec, kind.name(), None, vec![])
    }

    #[test]
    fn progress_and_finished_stages_give_the_time_left() {
        let (train, evaluate) = (stage(StageKind::Train), stage(StageKind::Evaluate));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut forecast = Forecast::default();
        (0..2).for_each(|_| forecast.waiting(&train));
        forecast.waiting(&evaluate);
        forecast.started(0, &train, start);
        assert!(forecast.left(1, start).at_least, "nothing is known yet");

        // Resumed at step 50 of 100; ten steps in ten seconds: 40 s left.
        forecast.progress(0, 50, 100, after(0));
        forecast.progress(0, 60, 100, after(10));
        let left = forecast.left(1, after(10));
        assert!(left.at_least, "nothing is known of evaluations");
        assert_eq!(left.time.as_secs(), 40 + 50, "the waiting training takes as long as the running one");

        forecast.known(&evaluate, 7.0);
        forecast.ended(0, &train, Some(100.0));
        assert_eq!(forecast.left(1, after(50)), Left { time: Duration::from_secs(107), at_least: false });
        forecast.dropped(&train);
        forecast.dropped(&evaluate);
        assert_eq!(forecast.left(1, after(50)).time, Duration::ZERO);
    }
}
