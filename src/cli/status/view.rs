//! How a sweep stands: its index beside what is on disk.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use rayon::prelude::*;

use super::super::progress::{self, Snapshot};
use crate::exec::slurm::{self, Standing};
use crate::results::index::Index;
use crate::stage::StageKind;
use crate::store::key::Key;
use crate::store::{Inventory, RunRecord, Store};

/// The kinds in the order in which data flows.
pub(super) const KINDS: [StageKind; 5] =
    [StageKind::Prepare, StageKind::Pretrain, StageKind::Features, StageKind::Train, StageKind::Evaluate];

/// What is in a store at one moment; one look serves all of its sweeps.
pub(super) struct Look {
    inventory: Inventory,
    /// The stages that are computed, and by which process.
    held: HashMap<Key, Option<u32>>,
    failed: Vec<Key>,
    runs: Vec<(RunRecord, Option<Snapshot>)>,
    jobs: Vec<Standing>,
}

impl Look {
    pub(super) fn new(store: &Store) -> Result<Self> {
        let runs = store.runs()?.into_iter().map(|run| {
            let snapshot = progress::snapshot(&progress::snapshot_path(store, &run.id));
            (run, snapshot)
        });
        // What is held is looked at first: a stage that ends meanwhile is then finished, not absent.
        let held = store.held()?.into_iter().map(|held| (held.key, held.pid)).collect();
        let jobs = slurm::standings(store)?.into_iter().filter(Standing::is_live).collect();
        Ok(Self { held, failed: store.failed()?, runs: runs.collect(), jobs, inventory: store.inventory()? })
    }
}

/// How a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Done,
    Running,
    Failed,
    Waiting,
}

impl State {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
        }
    }
}

/// How many of some things stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: usize,
    pub(super) done: usize,
    pub(super) running: usize,
    pub(super) failed: usize,
    pub(super) waiting: usize,
}

impl Counts {
    fn add(&mut self, state: State) {
        self.total += 1;
        match state {
            State::Done => self.done += 1,
            State::Running => self.running += 1,
            State::Failed => self.failed += 1,
            State::Waiting => self.waiting += 1,
        }
    }
}

/// A stage that is computed.
#[derive(Clone, Debug)]
pub(super) struct RunningStage {
    /// Its place in the index.
    pub(super) stage: usize,
    /// The process, where known.
    pub(super) pid: Option<u32>,
    /// What its run last said of it.
    pub(super) progress: Option<progress::RunningStage>,
}

/// How a sweep stands.
pub(super) struct View<'a> {
    pub(super) index: &'a Index,
    /// Of each stage.
    pub(super) states: Vec<State>,
    /// Of each point: a point is done once it is trained and evaluated, failed where a stage failed that it needs, and
    /// running where one of its own two stages is.
    pub(super) point_states: Vec<State>,
    pub(super) points: Counts,
    /// Of all stages.
    pub(super) stages: Counts,
    /// Of each kind.
    pub(super) kinds: [Counts; 5],
    pub(super) running: Vec<RunningStage>,
    /// Failed stages with their messages.
    pub(super) failed: Vec<(usize, String)>,
    /// The runs of this sweep.
    pub(super) runs: Vec<(RunRecord, Option<Snapshot>)>,
    /// The jobs that it has in a cluster, as far as the store knows.
    pub(super) jobs: Vec<Standing>,
}

impl<'a> View<'a> {
    pub(super) fn new(index: &'a Index, look: &Look, store: &Store) -> Result<Self> {
        let mut states: Vec<State> = index
            .stages()
            .par_iter()
            .map(|stage| {
                let done = look.inventory.has(&stage.key);
                let held = !done && !look.held.is_empty() && look.held.contains_key(&stage.key);
                if done {
                    State::Done
                } else if held {
                    State::Running
                } else {
                    State::Waiting
                }
            })
            .collect();
        let failed = failures(index, &mut states, look, store);
        let running = running(index, &states, look);
        let point_states = point_states(index, &states)?;
        let mut view = Self {
            index,
            running,
            failed,
            points: Counts::default(),
            stages: Counts::default(),
            kinds: [Counts::default(); 5],
            runs: look.runs.iter().filter(|(run, _)| run.name == index.head.name).cloned().collect(),
            jobs: look.jobs.iter().filter(|job| job.sweep == index.head.name).cloned().collect(),
            point_states,
            states,
        };
        for (stage, &state) in index.stages().iter().zip(&view.states) {
            view.stages.add(state);
            view.kinds[stage.kind as usize].add(state);
        }
        view.point_states.iter().for_each(|&state| view.points.add(state));
        Ok(view)
    }

    /// Whether some process works on it.
    pub(super) fn is_running(&self) -> bool {
        !self.runs.is_empty() || !self.running.is_empty() || !self.jobs.is_empty()
    }
}

/// Marks the failed stages and tells why each failed.
fn failures(index: &Index, states: &mut [State], look: &Look, store: &Store) -> Vec<(usize, String)> {
    if look.failed.is_empty() {
        return Vec::new();
    }
    let places: HashMap<&Key, usize> =
        index.stages().iter().enumerate().map(|(place, stage)| (&stage.key, place)).collect();
    let mut failed: BTreeMap<usize, String> = BTreeMap::new();
    for key in &look.failed {
        let Some(&place) = places.get(key).filter(|&&place| states[place] == State::Waiting) else {
            continue;
        };
        if let Some(message) = store.failure(key) {
            states[place] = State::Failed;
            failed.insert(place, message);
        }
    }
    failed.into_iter().collect()
}

fn running(index: &Index, states: &[State], look: &Look) -> Vec<RunningStage> {
    let said: HashMap<&Key, &progress::RunningStage> = look
        .runs
        .iter()
        .filter_map(|(_, snapshot)| snapshot.as_ref())
        .flat_map(|snapshot| snapshot.stages.iter().map(|stage| (&stage.key, stage)))
        .collect();
    let running = states.iter().enumerate().filter(|&(_, &state)| state == State::Running);
    running
        .map(|(stage, _)| {
            let key = &index.stages()[stage].key;
            let pid = look.held.get(key).copied().flatten();
            RunningStage { stage, pid, progress: said.get(key).map(|&said| said.clone()) }
        })
        .collect()
}

fn point_states(index: &Index, states: &[State]) -> Result<Vec<State>> {
    let lost = lost(index, states)?;
    let state = |point: &crate::results::index::Point| match (states[point.train], states[point.evaluate]) {
        (State::Done, State::Done) => State::Done,
        _ if lost.as_ref().is_some_and(|lost| lost[point.train] || lost[point.evaluate]) => State::Failed,
        (State::Running, _) | (_, State::Running) => State::Running,
        _ => State::Waiting,
    };
    Ok(index.points().iter().map(state).collect())
}

/// For each stage, whether it or one that it needs failed; none where nothing failed.
fn lost(index: &Index, states: &[State]) -> Result<Option<Vec<bool>>> {
    if !states.contains(&State::Failed) {
        return Ok(None);
    }
    let mut lost = vec![false; states.len()];
    for (stage, &state) in states.iter().enumerate() {
        lost[stage] = match state {
            State::Failed => true,
            State::Done => false,
            // Parents come first.
            State::Running | State::Waiting => index.parents(stage)?.into_iter().any(|parent| lost[parent]),
        };
    }
    Ok(Some(lost))
}
