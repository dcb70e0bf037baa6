//! From tasks to submitted jobs: what is in hand already, what becomes one array, what is written down before and after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use anyhow::Result;

use super::arrays::{self, After, New, Packed, Place, Waits};
use super::commands::{self, Trouble};
use super::record::{self, Job, Record};
use super::{ARRAY_MOST, Array, Member, Open, Slurm, script};
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

    /// Packs the tasks that were handed over, and submits them.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let Some(most) = self.array_most()? else { return Ok(()) };
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
            self.tasks.insert(task.id, Open { left: left + fresh, exit: Exit::Orderly });
            if keys.is_empty() {
                continue;
            }
            let after = task.after.iter().filter_map(|key| {
                let place = self.places.get(key).map(|&place| After::Place(place));
                place.or_else(|| packed_at.get(key).map(|&n| After::New(n)))
            });
            let after: Vec<After> = after.collect();
            packed_at.extend(keys.iter().map(|key| (key.clone(), new.len())));
            new.push(New { keys, kind: task.kind, shortages: task.shortages, after, task: task.id });
        }
        let most =
            |kind: StageKind| self.cluster.request(kind.name()).array_most.map_or(most, |own| own.min(most));
        let packed = arrays::pack(&new, self.arrays.len(), &most, &|place| self.waits_for(place));
        for pack in packed {
            self.announce(pack, &mut new)?;
        }
        self.send()?;
        drop(lock);
        Ok(())
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

    /// The most elements of an array; none while Slurm does not answer.
    fn array_most(&mut self) -> Result<Option<u32>> {
        if self.most.is_none() && self.watch.may_ask() {
            match self.watch.ask_now(&["scontrol", "show", "config"]) {
                Ok(text) => {
                    self.most = Some(commands::max_array_size(&text).unwrap_or(ARRAY_MOST));
                    self.news.extend(self.watch.is_up());
                }
                Err(Trouble::Refused(text)) => anyhow::bail!(text),
                Err(trouble) => self.news.extend(self.watch.is_down(&trouble.text())),
            }
        }
        Ok(self.most)
    }

    /// Writes down an array that is about to be submitted.
    fn announce(&mut self, pack: Packed, new: &mut [New]) -> Result<()> {
        let number = self.arrays.len();
        let record = Record::at(&self.store, &record::fresh_name(&self.sweep, pack.kind));
        let threads = self.cluster.request(pack.kind.name()).cpus.unwrap_or(1) as usize;
        let job = Job { sweep: self.sweep.clone(), kind: pack.kind, submitted: record::now(), threads };
        let mut elements = BTreeMap::new();
        for (index, n) in pack.members {
            let (keys, tasks) = (std::mem::take(&mut new[n].keys), vec![new[n].task]);
            for key in &keys {
                self.places.insert(key.clone(), Place { array: number, index });
            }
            elements.insert(index, Member { keys, tasks, ..Member::default() });
        }
        let keys = elements.iter().map(|(&index, member)| (index, member.keys.clone())).collect();
        record.announce(&job, &keys)?;
        self.known.insert(record.name.clone());
        self.unsent.push_back(number);
        self.arrays.push(Array {
            record,
            job,
            id: None,
            waits: pack.waits,
            shortages: pack.shortages,
            since: Instant::now(),
            unsure: None,
            live: elements.len(),
            elements,
            found: false,
            told: BTreeSet::new(),
        });
        Ok(())
    }

    /// Submits what is written down, as far as Slurm takes it.
    pub(super) fn send(&mut self) -> Result<()> {
        while let Some(&number) = self.unsent.front() {
            if self.arrays[number].live == 0 {
                self.unsent.pop_front();
                self.arrays[number].record.remove();
                continue;
            }
            // One that may have been taken is looked for first.
            if self.arrays[number].unsure.is_some() || !self.watch.may_send() {
                break;
            }
            let waits = match &self.arrays[number].waits {
                Waits::ForAll(places) => {
                    Waits::ForAll(places.iter().copied().filter(|&place| self.is_live(place)).collect())
                }
                &Waits::ForEach(parent) if self.arrays[parent].live == 0 => Waits::ForAll(vec![]),
                each @ Waits::ForEach(_) => each.clone(),
            };
            let unknown = match &waits {
                Waits::ForAll(places) => places.iter().any(|place| self.arrays[place.array].id.is_none()),
                &Waits::ForEach(parent) => self.arrays[parent].id.is_none(),
            };
            if unknown {
                break; // the number of a job that it waits for is not known yet
            }
            let size = |array: usize| Some((self.arrays[array].id?, self.arrays[array].elements.len()));
            let dependency = arrays::dependency(&waits, &size);
            let array = &self.arrays[number];
            let live = array.elements.iter().filter(|(_, member)| !member.over);
            let elements = live.map(|(&index, member)| (index, member.keys.clone())).collect();
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
            self.sent(number, answer, dependency)?;
        }
        Ok(())
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
                    let (kind, count) = (array.job.kind.name(), array.live);
                    let after = dependency.map(|dependency| format!(", {dependency}")).unwrap_or_default();
                    self.news.push(Update::Note(format!("job {id}: {kind} ×{count}{after}")));
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
