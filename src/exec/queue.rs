//! Which stage may run: the plan's missing stages, each released when its parents are finished.

use std::collections::{BTreeSet, HashMap};

use crate::plan::Plan;

/// The stages of a plan that are not settled yet. Stages are known by their index in the plan.
pub(super) struct Queue {
    /// The stages that may run, in the order of the plan.
    ready: BTreeSet<usize>,
    /// For each stage, its parents that are not finished.
    missing_parents: Vec<usize>,
    /// For each stage, those that read it.
    children: Vec<Vec<usize>>,
    /// For each stage, the others of its group and itself.
    groups: HashMap<String, Vec<usize>>,
    /// For each stage, the name of its group.
    group_of: Vec<Option<String>>,
    /// For each stage, whether its end is known.
    settled: Vec<bool>,
}

impl Queue {
    /// The queue of `plan`, of which `finished` says for each stage whether it is in the store.
    pub(super) fn new(plan: &Plan, finished: &[bool]) -> Self {
        let count = plan.stages.len();
        let mut queue = Self {
            ready: BTreeSet::new(),
            missing_parents: vec![0; count],
            children: vec![Vec::new(); count],
            groups: HashMap::new(),
            group_of: plan.stages.iter().map(|stage| stage.group.clone()).collect(),
            settled: finished.to_vec(),
        };
        for (i, stage) in plan.stages.iter().enumerate().filter(|&(i, _)| !finished[i]) {
            if let Some(group) = &stage.group {
                queue.groups.entry(group.clone()).or_default().push(i);
            }
            // A parent outside the plan is none of our business: the worker says so if the store lacks it.
            for parent in plan.parents(i) {
                if !finished[parent] {
                    queue.missing_parents[i] += 1;
                    queue.children[parent].push(i);
                }
            }
            if queue.missing_parents[i] == 0 {
                queue.ready.insert(i);
            }
        }
        queue
    }

    /// The processes that could be started now.
    pub(super) fn ready(&self) -> usize {
        let mut groups = BTreeSet::new();
        let counts = |&&i: &&usize| self.group_of[i].as_ref().is_none_or(|group| groups.insert(group));
        self.ready.iter().filter(counts).count()
    }

    /// The next stages that one process shall run, in the order of the plan; they leave the queue.
    pub(super) fn take(&mut self) -> Option<Vec<usize>> {
        let first = *self.ready.first()?;
        let members = self.group_of[first].as_ref().and_then(|group| self.groups.get(group));
        let taken: Vec<usize> = match members {
            Some(members) => members.iter().copied().filter(|i| self.ready.contains(i)).collect(),
            None => vec![first],
        };
        for i in &taken {
            self.ready.remove(i);
        }
        Some(taken)
    }

    /// Puts a taken stage back.
    pub(super) fn put_back(&mut self, stage: usize) {
        self.ready.insert(stage);
    }

    /// `stage` is finished: what waited for it alone may run.
    pub(super) fn finish(&mut self, stage: usize) {
        self.settled[stage] = true;
        for child in std::mem::take(&mut self.children[stage]) {
            self.missing_parents[child] -= 1;
            if self.missing_parents[child] == 0 && !self.settled[child] {
                self.ready.insert(child);
            }
        }
    }

    /// `stage` failed: everything that needs it, however indirectly, leaves the queue and is returned in the order of
    /// the plan.
    pub(super) fn fail(&mut self, stage: usize) -> Vec<usize> {
        self.settled[stage] = true;
        let mut lost = BTreeSet::new();
        let mut next = vec![stage];
        while let Some(stage) = next.pop() {
            for &child in &self.children[stage] {
                if !self.settled[child] {
                    self.settled[child] = true;
                    lost.insert(child);
                    next.push(child);
                }
            }
        }
        lost.into_iter().collect()
    }
}
