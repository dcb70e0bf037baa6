//! Which stage may run: those that something unfinished needs, each released when its parents are finished, the one with
//! the longest way to the end first.

use std::collections::{BTreeSet, HashMap};

use crate::plan::Plan;
use crate::store::key::Key;

/// How a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the store.
    Finished,
    /// Not in the store, and nothing that is to run needs it.
    Unneeded,
    /// Waits for its parents.
    Waiting,
    /// May run.
    Ready,
    /// Taken.
    Running,
    /// Taken by an executor with a queue of its own: what reads it may be given to it as well.
    Submitted,
    /// Failed, or needs what failed.
    Lost,
}

/// The stages of a plan, known by their index in it.
pub(super) struct Queue {
    state: Vec<State>,
    parents: Vec<Vec<usize>>,
    children: Vec<Vec<usize>>,
    /// The stages that may run, by rank.
    ready: BTreeSet<usize>,
    /// For each stage its place in the order in which stages are taken, and the other way round.
    rank: Vec<usize>,
    ranked: Vec<usize>,
    /// The members of each group.
    groups: Vec<Vec<usize>>,
    /// For each stage its group.
    group: Vec<Option<usize>>,
}

/// What ranks stages.
pub(super) struct Order<'a> {
    /// The seconds that each stage takes, as far as is known or guessed.
    pub(super) seconds: &'a [f64],
    /// For each stage whether it goes before those that do not.
    pub(super) first: &'a [bool],
}

impl Queue {
    /// The queue of `plan`, of which `finished` says for each stage whether it is in the store.
    pub(super) fn new(plan: &Plan, finished: &[bool], order: &Order<'_>) -> Self {
        let index: HashMap<&Key, usize> = plan.stages.iter().enumerate().map(|(i, s)| (&s.key, i)).collect();
        let count = plan.stages.len();
        let mut children = vec![Vec::new(); count];
        let mut parents = Vec::with_capacity(count);
        for i in 0..count {
            let of: Vec<usize> = plan.parents(i).collect();
            for &parent in &of {
                children[parent].push(i);
            }
            parents.push(of);
        }
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut group = Vec::with_capacity(count);
        for (i, stage) in plan.stages.iter().enumerate() {
            group.push(stage.group.as_deref().map(|name| {
                let at = *names.entry(name).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[at].push(i);
                at
            }));
        }
        let state = finished.iter().map(|&finished| if finished { State::Finished } else { State::Unneeded });
        let ranked = ranked(&children, order);
        let mut rank = vec![0; count];
        for (place, &i) in ranked.iter().enumerate() {
            rank[i] = place;
        }
        let state = state.collect();
        let mut queue =
            Self { state, parents, children, ready: BTreeSet::new(), rank, ranked, groups, group };
        // What nothing reads is what is asked for, and the trainings: their curves are part of the results.
        let trainings = plan.points.iter().filter_map(|point| index.get(&point.train).copied());
        let last = (0..count).filter(|&i| queue.children[i].is_empty());
        let asked: Vec<usize> = last.chain(trainings).filter(|&i| !finished[i]).collect();
        for i in asked {
            queue.demand(i);
        }
        queue
    }

    /// Whether `stage` is absent and not needed.
    pub(super) fn is_unneeded(&self, stage: usize) -> bool {
        self.state[stage] == State::Unneeded
    }

    /// `stage` is needed: it waits, and so does all that it needs and that is not finished. Returns what was not needed
    /// before.
    pub(super) fn demand(&mut self, stage: usize) -> Vec<usize> {
        let mut new = Vec::new();
        let mut next = vec![stage];
        while let Some(i) = next.pop() {
            if self.state[i] != State::Unneeded {
                continue;
            }
            self.state[i] = State::Waiting;
            new.push(i);
            next.extend(&self.parents[i]);
        }
        for &i in &new {
            self.refresh(i);
        }
        new
    }

    /// The finished `stage` turned out not to be. What may run and needs it waits again. Returns what is needed now and was
    /// not before.
    pub(super) fn reopen(&mut self, stage: usize) -> Vec<usize> {
        if self.state[stage] != State::Finished {
            return Vec::new();
        }
        self.state[stage] = State::Unneeded;
        for at in 0..self.children[stage].len() {
            let child = self.children[stage][at];
            self.hold_back(child);
        }
        self.demand(stage)
    }

    /// A stage that may run waits again.
    fn hold_back(&mut self, stage: usize) {
        if self.state[stage] == State::Ready {
            self.ready.remove(&self.rank[stage]);
            self.state[stage] = State::Waiting;
        }
    }

    /// A taken stage is in the queue of an executor that has one: its children may follow.
    pub(super) fn submitted(&mut self, stage: usize) {
        self.state[stage] = State::Submitted;
        for at in 0..self.children[stage].len() {
            self.refresh(self.children[stage][at]);
        }
    }

    /// Whether a stage is in the queue of an executor that has one.
    pub(super) fn is_submitted(&self, stage: usize) -> bool {
        self.state[stage] == State::Submitted
    }

    /// Whether a stage is finished, or in the queue of an executor that has one.
    pub(super) fn is_settled(&self, stage: usize) -> bool {
        matches!(self.state[stage], State::Finished | State::Submitted)
    }

    /// A taken stage is no longer in an executor's queue, and waits until it is resumed; what reads it waits, too.
    pub(super) fn set_aside(&mut self, stage: usize) {
        self.state[stage] = State::Waiting;
        for at in 0..self.children[stage].len() {
            self.hold_back(self.children[stage][at]);
        }
    }

    /// A stage that was set aside may run, if it may otherwise.
    pub(super) fn resume(&mut self, stage: usize) {
        self.refresh(stage);
    }

    /// The processes that could be started now, counted up to `most`.
    pub(super) fn ready(&self, most: usize) -> usize {
        let mut groups = BTreeSet::new();
        let counts =
            |place: &&usize| self.group[self.ranked[**place]].is_none_or(|group| groups.insert(group));
        self.ready.iter().filter(counts).take(most).count()
    }

    /// The next stages that one process shall run, in the order of the plan.
    pub(super) fn take(&mut self) -> Option<Vec<usize>> {
        let first = self.ranked[*self.ready.first()?];
        let taken: Vec<usize> = match self.group[first] {
            Some(group) => {
                let ready = |i: &usize| self.state[*i] == State::Ready;
                self.groups[group].iter().copied().filter(ready).collect()
            }
            None => vec![first],
        };
        for &i in &taken {
            self.ready.remove(&self.rank[i]);
            self.state[i] = State::Running;
        }
        Some(taken)
    }

    /// Puts a taken stage back, to run when all of its parents are finished.
    pub(super) fn put_back(&mut self, stage: usize) {
        self.state[stage] = State::Waiting;
        for at in 0..self.children[stage].len() {
            self.hold_back(self.children[stage][at]); // it may have followed into an executor's queue
        }
        self.refresh(stage);
    }

    /// `stage` is finished: what waited for it alone may run.
    pub(super) fn finish(&mut self, stage: usize) {
        self.ready.remove(&self.rank[stage]);
        self.state[stage] = State::Finished;
        for at in 0..self.children[stage].len() {
            self.refresh(self.children[stage][at]);
        }
    }

    /// `stage` failed: everything that needs it, however indirectly, is lost with it and returned in the order of the plan.
    pub(super) fn fail(&mut self, stage: usize) -> Vec<usize> {
        self.ready.remove(&self.rank[stage]);
        self.state[stage] = State::Lost;
        let mut lost = BTreeSet::new();
        let mut next = vec![stage];
        while let Some(stage) = next.pop() {
            for &child in &self.children[stage] {
                if matches!(self.state[child], State::Waiting | State::Ready | State::Submitted) {
                    self.ready.remove(&self.rank[child]);
                    self.state[child] = State::Lost;
                    lost.insert(child);
                    next.push(child);
                }
            }
        }
        lost.into_iter().collect()
    }

    /// Releases `stage` where it waits for nothing any more.
    fn refresh(&mut self, stage: usize) {
        let settled = |&parent: &usize| self.is_settled(parent);
        if self.state[stage] == State::Waiting && self.parents[stage].iter().all(settled) {
            self.state[stage] = State::Ready;
            self.ready.insert(self.rank[stage]);
        }
    }
}

/// The stages in the order in which they are taken: the longest way to the end first, counted in seconds along the
/// children, and in the order of the plan where it is equal.
fn ranked(children: &[Vec<usize>], order: &Order<'_>) -> Vec<usize> {
    let mut way = vec![0.0f64; children.len()];
    for i in (0..children.len()).rev() {
        let after = children[i].iter().map(|&child| way[child]).fold(0.0, f64::max);
        way[i] = order.seconds[i] + after;
    }
    let mut ranked: Vec<usize> = (0..children.len()).collect();
    ranked.sort_by(|&a, &b| {
        let first = order.first[b].cmp(&order.first[a]);
        first.then(way[b].total_cmp(&way[a])).then(a.cmp(&b))
    });
    ranked
}
