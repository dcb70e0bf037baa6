//! From tasks to submitted jobs: what is in hand already, what becomes one array, what is written down before and after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use anyhow::Result;

use super::arrays::{self, After, New, Packed, Place, Waits};
use super::commands::{self, Limits, Trouble};
use super::record::{self, Job, Record};
use super::{Array, Member, Open, Slurm, script};
use crate::exec::{Exit, Task, Update, Verdict};
use crate::spec::cluster::FILE;
use crate::stage::StageKind;
use crate::store::key::Key;

/// Seconds after which the record of a job that is over is anybody's to remove.
const ABANDONED: f64 = 7.0 * 86_400.0;

impl Slurm {
    /// Takes in the jobs that the store knows of and this executor does not. Records of what is over go. Only for the holder
    /// of the right to submit.
    pub(super) fn load(&mut self) -> Result<()> {
        for record in Record::all(&self.store)? {
            if self.known.contains(&record.name) {
                continue;
            }
            let Some(job) = record.job() else {
                record.remove(); // a run was killed before it submitted this
                continue;
            };
            let cancelled = record.cancelled();
            let ends = record.with("end");
            let over = |index: u32| {
                let end = || record.end(index).map(|end| end.verdict);
                cancelled(index) || ends.contains(&index) && end() != Some(Verdict::Interrupted)
            };
            let elements: BTreeMap<u32, Member> = record
                .elements()?
                .into_iter()
                .map(|(index, keys)| (index, Member { keys, over: over(index), ..Member::default() }))
                .collect();
            let live = elements.values().filter(|member| !member.over).count();
            if live == 0 {
                // Others' are left to them, unless they never come for them.
                if job.sweep == self.sweep || record::now() - job.submitted > ABANDONED {
                    record.remove();
                }
                continue;
            }
            let number = self.arrays.len();
            for (&index, member) in elements.iter().filter(|(_, member)| !member.over) {
                for key in &member.keys {
                    self.places.entry(key.clone()).or_insert(Place { array: number, index });
                }
            }
            self.known.insert(record.name.clone());
            let (id, since) = (record.id(), Instant::now());
            self.arrays.push(Array {
                unsure: id.is_none().then_some(since),
                record,
                job,
                id,
                waits: Waits::ForAll(vec![]),
                shortages: 0,
                since,
                elements,
                live,
                found: true,
                told: BTreeSet::new(),
            });
        }
        Ok(())
    }

    /// Packs the tasks that were handed over, and writes down the arrays that they become.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let Some(limits) = self.limits()? else { return Ok(()) };
        // Whoever else submits for this store does it before or after, and then one of us finds the other's jobs.
        let lock = self.store.lock_submissions()?;
        self.load()?;
        let mut new: Vec<New> = Vec::new();
        let mut packed_at: HashMap<Key, usize> = HashMap::new();
        for task in std::mem::take(&mut self.fresh) {
            let left = self.attach(&task);
            let open = |key: &&Key| !self.places.contains_key(key) && self.store.object(key).is_none();
            let keys: Vec<Key> = task.keys.iter().filter(open).cloned().collect();
            if keys.is_empty() && left == 0 {
                // Another run's jobs have finished it, and that run has collected them.
                self.news.push(Update::Exited { task: task.id, exit: Exit::Orderly });
                continue;
            }
            let fresh = usize::from(!keys.is_empty());
            let open = Open { kind: task.kind, left: left + fresh, exit: Exit::Orderly };
            self.tasks.insert(task.id, open);
            if keys.is_empty() {
                continue;
            }
            let after = task.after.iter().filter_map(|key| {
                let place = self.places.get(key).map(|&place| After::Place(place));
                place.or_else(|| packed_at.get(key).map(|&n| After::New(n)))
            });
            let after: Vec<After> = after.collect();
            let waits_for = |place| self.waits_for(place);
            let leader = arrays::leader(&new, task.kind, &after, &waits_for)
                .filter(|&n| self.can_follow(task.kind, new[n].kind, task.shortages));
            if let Some(n) = leader {
                packed_at.extend(keys.iter().map(|key| (key.clone(), n)));
                new[n].keys.extend(keys);
                new[n].tasks.push(task.id);
                continue;
            }
            packed_at.extend(keys.iter().map(|key| (key.clone(), new.len())));
            let (kind, shortages) = (task.kind, task.shortages);
            new.push(New { keys, kind, shortages, after, tasks: vec![task.id] });
        }
        let most = |kind: StageKind| {
            let own = self.cluster.request(kind.name()).array_most;
            own.map_or(limits.indices, |own| own.min(limits.indices))
        };
        let limits = (&most as &dyn Fn(StageKind) -> u32, limits.one_by_one);
        let packed = arrays::pack(&new, self.arrays.len(), limits, &|place| self.waits_for(place));
        for pack in packed {
            self.announce(pack, &mut new)?;
        }
        drop(lock);
        Ok(())
    }

    /// Whether stages of one kind that ran out of memory so often may follow those of another in the same element.
    fn can_follow(&self, kind: StageKind, leader: StageKind, shortages: u32) -> bool {
        let request = |kind: StageKind| self.cluster.request(kind.name());
        shortages == 0 && request(leader).serves(request(kind))
    }

    /// Has `task` wait for the elements that have stages of it in hand already; returns how many.
    fn attach(&mut self, task: &Task) -> usize {
        let places: BTreeSet<Place> =
            task.keys.iter().filter_map(|key| self.places.get(key)).copied().collect();
        for place in &places {
            let array = &mut self.arrays[place.array];
            let Some(member) = array.elements.get_mut(&place.index) else { continue };
            member.tasks.push(task.id);
            if array.found && array.told.insert("found".to_owned()) {
                let (job, live) = (array.shown(), array.live);
                let kind = array.job.kind.name();
                self.news.push(Update::Note(format!(
                    "{job} ({kind}) goes on: {live} of its elements are not over"
                )));
            }
        }
        places.len()
    }

    /// What an element waits for that is not over.
    pub(super) fn waits_for(&self, place: Place) -> Vec<Place> {
        let Some(array) = self.arrays.get(place.array) else { return Vec::new() };
        match &array.waits {
            Waits::ForAll(places) => places.iter().copied().filter(|&place| self.is_live(place)).collect(),
            &Waits::ForEach(parent) => {
                let place = Place { array: parent, index: place.index };
                if self.is_live(place) { vec![place] } else { Vec::new() }
            }
        }
    }

    fn is_live(&self, place: Place) -> bool {
        let member = self.arrays.get(place.array).and_then(|array| array.elements.get(&place.index));
        member.is_some_and(|member| !member.over)
    }

    /// What arrays may be like; none while Slurm does not answer.
    fn limits(&mut self) -> Result<Option<Limits>> {
        if self.limits.is_none() && self.watch.may_ask() {
            match self.watch.ask_now(&["scontrol", "show", "config"]) {
                Ok(text) => {
                    self.limits = Some(commands::limits(&text));
                    self.news.extend(self.watch.is_up());
                }
                Err(Trouble::Refused(text)) => anyhow::bail!(text),
                Err(trouble) => self.news.extend(self.watch.is_down(&trouble.text())),
            }
        }
        Ok(self.limits)
    }

    /// Writes down an array that is about to be submitted.
    fn announce(&mut self, pack: Packed, new: &mut [New]) -> Result<()> {
        let mut elements = BTreeMap::new();
        for (index, n) in pack.members {
            let (keys, tasks) = (std::mem::take(&mut new[n].keys), std::mem::take(&mut new[n].tasks));
            elements.insert(index, Member { keys, tasks, ..Member::default() });
        }
        let number = self.add(pack.kind, pack.waits, pack.shortages, elements)?;
        self.unsent.push_back(number);
        Ok(())
    }

    /// Writes down a new array; returns its number.
    fn add(
        &mut self,
        kind: StageKind,
        waits: Waits,
        shortages: u32,
        elements: BTreeMap<u32, Member>,
    ) -> Result<usize> {
        let number = self.arrays.len();
        let record = Record::at(&self.store, &record::fresh_name(&self.sweep, kind));
        let threads = self.cluster.request(kind.name()).cpus.unwrap_or(1) as usize;
        let (sweep, submitter) = (self.sweep.clone(), self.submitter.0.clone());
        let job = Job { sweep, kind, submitted: record::now(), threads, submitter };
        record.announce(&job, &keys_of(&elements))?;
        for (&index, member) in &elements {
            for key in &member.keys {
                self.places.insert(key.clone(), Place { array: number, index });
            }
        }
        self.known.insert(record.name.clone());
        self.arrays.push(Array {
            record,
            job,
            id: None,
            waits,
            shortages,
            since: Instant::now(),
            unsure: None,
            live: elements.len(),
            elements,
            found: false,
            told: BTreeSet::new(),
        });
        Ok(number)
    }

    /// Of an unsent array that follows another one element by element, those whose turn it is become an array of their own:
    /// Slurm may have forgotten what they waited for, and then they would wait for ever.
    fn set_free(&mut self, number: usize) -> Result<()> {
        let Waits::ForEach(parent) = self.arrays[number].waits else { return Ok(()) };
        let is_free = |index: u32| !self.is_live(Place { array: parent, index });
        let live = self.arrays[number].elements.iter().filter(|(_, member)| !member.over);
        let free: Vec<u32> = live.map(|(&index, _)| index).filter(|&index| is_free(index)).collect();
        if free.len() == self.arrays[number].live {
            self.arrays[number].waits = Waits::ForAll(vec![]);
        } else if !free.is_empty() {
            let array = &mut self.arrays[number];
            let members = free.iter().filter_map(|&index| Some((index, array.elements.remove(&index)?)));
            let members: BTreeMap<u32, Member> = members.collect();
            array.live -= members.len();
            let (kind, shortages) = (array.job.kind, array.shortages);
            let first = self.add(kind, Waits::ForAll(vec![]), shortages, members)?;
            let array = &self.arrays[number];
            array.record.announce(&array.job, &keys_of(&array.elements))?;
            self.unsent.push_front(first);
        }
        Ok(())
    }

    /// Submits what is written down, as far as Slurm takes it.
    pub(super) fn send(&mut self) -> Result<()> {
        let Some(&first) = self.unsent.front() else { return Ok(()) };
        if self.arrays[first].unsure.is_some() || !self.watch.may_send() {
            return Ok(());
        }
        // Whoever cancels this sweep does it before or after.
        let lock = self.store.lock_submissions()?;
        let sent = self.send_locked();
        drop(lock);
        sent
    }

    fn send_locked(&mut self) -> Result<()> {
        while let Some(&number) = self.unsent.front() {
            self.drop_unwanted(number);
            if self.arrays[number].live == 0 {
                self.unsent.pop_front();
                self.arrays[number].record.remove();
                continue;
            }
            // One that may have been taken is looked for first.
            if self.arrays[number].unsure.is_some() || !self.watch.may_send() {
                break;
            }
            self.set_free(number)?;
            if self.unsent.front() != Some(&number) {
                continue;
            }
            let waits = match &self.arrays[number].waits {
                Waits::ForAll(places) => {
                    Waits::ForAll(places.iter().copied().filter(|&place| self.is_live(place)).collect())
                }
                each @ Waits::ForEach(_) => each.clone(),
            };
            let unknown = match &waits {
                Waits::ForAll(places) => places.iter().any(|place| self.arrays[place.array].id.is_none()),
                &Waits::ForEach(parent) => self.arrays[parent].id.is_none(),
            };
            if unknown {
                break; // the number of a job that it waits for is not known yet
            }
            let array = &mut self.arrays[number];
            if array.elements.len() > array.live {
                // What is over is none of its elements, also for those who read the record later.
                array.elements.retain(|_, member| !member.over);
                array.record.announce(&array.job, &keys_of(&array.elements))?;
            }
            let size = |array: usize| Some((self.arrays[array].id?, self.arrays[array].elements.len()));
            let dependency = arrays::dependency(&waits, &size);
            let array = &self.arrays[number];
            let elements = keys_of(&array.elements);
            let request = self.cluster.request(array.job.kind.name());
            let place = (&self.setting, &self.store);
            let text = script::script(
                &array.record,
                &elements,
                request,
                dependency.as_deref(),
                array.shortages,
                place,
            );
            let path = array.record.write_script(&text)?;
            let answer = self.commands.call("sbatch", &["--parsable", &path.display().to_string()]);
            self.watch.has_sent();
            self.sent(number, answer, dependency)?;
        }
        Ok(())
    }

    /// Elements of an unsent array that somebody has cancelled meanwhile are over.
    fn drop_unwanted(&mut self, number: usize) {
        let array = &self.arrays[number];
        let asked = array.record.asked();
        let live = array.elements.iter().filter(|(_, member)| !member.over).map(|(&index, _)| index);
        let unwanted: Vec<u32> = live.filter(|&index| asked(index)).collect();
        for index in unwanted {
            self.finish(Place { array: number, index }, &Exit::Interrupted, Vec::new());
        }
    }

    /// What `sbatch` said of an array.
    fn sent(
        &mut self,
        number: usize,
        answer: Result<String, Trouble>,
        dependency: Option<String>,
    ) -> Result<()> {
        let array = &mut self.arrays[number];
        array.since = Instant::now();
        match answer {
            Ok(text) => match commands::submitted(&text) {
                Some(id) => {
                    array.record.confirm(id)?;
                    array.id = Some(id);
                    self.unsent.pop_front();
                    let (what, count) = (array.what(), array.live);
                    let after = dependency.map(|dependency| format!(", {dependency}")).unwrap_or_default();
                    self.news.push(Update::Note(format!("job {id}: {what} ×{count}{after}")));
                    self.watch.has_taken();
                }
                None => array.unsure = Some(array.since),
            },
            Err(Trouble::Down(text)) => {
                array.unsure = Some(array.since);
                self.news.extend(self.watch.is_down(&text));
            }
            Err(Trouble::Full(text)) => {
                let count = array.live;
                self.news.extend(self.watch.is_full(&format!(
                    "{text}; if {count} at once are more than you may ever submit, set `array_most` in {FILE}"
                )));
            }
            Err(Trouble::Refused(text)) => {
                self.unsent.pop_front();
                // What it waits for may have failed, or been forgotten, just now.
                let exit = if text.contains("ependency") { Exit::Unmet } else { Exit::Refused(text) };
                let indices: Vec<u32> = array.elements.keys().copied().collect();
                for index in indices {
                    self.finish(Place { array: number, index }, &exit, Vec::new());
                }
            }
        }
        Ok(())
    }
}

/// The stages of elements, as a record has them.
fn keys_of(elements: &BTreeMap<u32, Member>) -> BTreeMap<u32, Vec<Key>> {
    elements.iter().map(|(&index, member)| (index, member.keys.clone())).collect()
}
