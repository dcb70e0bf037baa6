//! What Slurm is told to end: elements that nobody waits for any more, and the jobs of a sweep that is cancelled.
//!
//! It is written down twice, as asked before Slurm is told and as cancelled once it has taken that, so that a controller
//! which does not answer neither loses a request nor a job: what was only asked for counts as alive, is asked for again,
//! and ends by itself should it begin ([`Element::is_unwanted`](super::Element::is_unwanted)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::arrays::Place;
use super::commands::{self, Commands, SQUEUE, Trouble};
use super::record::{Record, Standing, standings};
use super::{Patience, Slurm};
use crate::exec::Exit;
use crate::store::Store;

/// Jobs, or groups of elements of one, in one call of `scancel`.
const AT_ONCE: usize = 100;

impl Slurm {
    /// Has Slurm end the elements of withdrawn tasks that no other task waits for.
    pub(super) fn take_back(&mut self) {
        let withdrawn = std::mem::take(&mut self.withdrawn);
        if withdrawn.is_empty() {
            return;
        }
        let mut unwanted = BTreeSet::new();
        for (number, array) in self.arrays.iter_mut().enumerate().filter(|(_, array)| array.live > 0) {
            for (&index, member) in array.elements.iter_mut().filter(|(_, member)| !member.over) {
                let before = member.tasks.len();
                member.tasks.retain(|task| !withdrawn.contains(task));
                if member.tasks.is_empty() && before > 0 {
                    unwanted.insert(Place { array: number, index });
                }
            }
        }
        self.end_elements(&unwanted);
    }

    /// Elements are over for this run, and Slurm is told so when it may be asked something.
    pub(super) fn end_elements(&mut self, unwanted: &BTreeSet<Place>) {
        let mut by_array: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for place in unwanted {
            by_array.entry(place.array).or_default().insert(place.index);
        }
        for (number, indices) in by_array {
            if self.arrays[number].job.sweep == self.sweep && self.is_taken(number) {
                self.ask_to_end(number, &indices);
            }
            for index in indices {
                self.finish(Place { array: number, index }, &Exit::Interrupted, Vec::new());
            }
        }
    }

    /// Everything that this sweep has in Slurm shall end; what waits here to be submitted is over at once.
    pub(super) fn end_all(&mut self) {
        for number in 0..self.arrays.len() {
            let array = &self.arrays[number];
            let live = array.elements.iter().filter(|(_, member)| !member.over).map(|(&index, _)| index);
            let live: BTreeSet<u32> = live.collect();
            if live.is_empty() || array.job.sweep != self.sweep {
                continue;
            }
            if self.is_taken(number) {
                self.ask_to_end(number, &live);
            } else {
                for index in live {
                    self.finish(Place { array: number, index }, &Exit::Interrupted, Vec::new());
                }
            }
        }
    }

    /// Whether Slurm has an array, or may have it.
    fn is_taken(&self, number: usize) -> bool {
        !self.unsent.contains(&number) || self.arrays[number].unsure.is_some()
    }

    /// Notes that Slurm shall end some of the elements of an array.
    pub(super) fn ask_to_end(&mut self, number: usize, indices: &BTreeSet<u32>) {
        // Where the note cannot be written, a later run takes it for somebody else's doing and says so.
        let _ = self.arrays[number].record.note_asked(Some(indices));
        self.ends.entry(number).or_default().extend(indices);
    }

    /// Tells Slurm what shall end, in one call, where it may be asked something now.
    pub(super) fn send_ends(&mut self) {
        if self.ends.is_empty() || !self.watch.may_ask() {
            return;
        }
        // What has no number yet is ended by its name, which no other job has. By its name alone: with a name beside
        // them, `scancel` takes numbers for a choice among the jobs of that name, and ends those that wait for one.
        let nameless = self.ends.keys().copied().find(|&number| self.arrays[number].id.is_none());
        let numbers: Vec<usize> = match nameless {
            Some(number) => vec![number],
            None => self.ends.keys().copied().take(AT_ONCE).collect(),
        };
        let mut words = vec!["scancel".to_owned()];
        for &number in &numbers {
            let array = &self.arrays[number];
            words.push(match array.id {
                Some(id) => format!("{id}_[{}]", commands::ranges(self.ends[&number].iter().copied())),
                None => format!("--name={}", array.record.name),
            });
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match self.watch.ask_now(&words) {
            // It was not told, or did not hear: once more.
            Err(Trouble::Down(text)) => self.news.extend(self.watch.is_down(&text)),
            // A job that has ended meanwhile is none to cancel.
            Ok(_) | Err(Trouble::Full(_) | Trouble::Refused(_)) => {
                self.news.extend(self.watch.is_up());
                for number in numbers {
                    let Some(indices) = self.ends.remove(&number) else { continue };
                    let array = &self.arrays[number];
                    let _ = array.record.note_cancelled(Some(&indices)); // as above
                    if array.live == 0 {
                        array.record.remove();
                    }
                }
            }
        }
    }

    /// Tells Slurm what shall end before this process does. Where it does not hear, the records say what was asked for.
    pub(super) fn send_last_ends(&mut self) {
        self.take_back();
        while !self.ends.is_empty() {
            let before = self.ends.len();
            thread::sleep(self.watch.until_next().min(self.patience.least));
            self.watch.ask_anyway();
            self.send_ends();
            if self.ends.len() == before {
                break;
            }
        }
    }
}

/// Cancels the jobs in `store` of the sweep `sweep`, or of all sweeps; returns those that there were. What runs saves its
/// work first.
///
/// # Errors
/// Where the records cannot be read or written, or Slurm does not take it; then the jobs count as alive, and the same may
/// be asked again.
pub fn cancel(store: &Store, sweep: Option<&str>) -> Result<Vec<Standing>> {
    let patience = Patience::default();
    cancel_with(store, sweep, &Commands { folder: None, limit: patience.answer }, patience.least)
}

pub(super) fn cancel_with(
    store: &Store,
    sweep: Option<&str>,
    commands: &Commands,
    least: Duration,
) -> Result<Vec<Standing>> {
    let ours = |job: &Standing| sweep.is_none_or(|sweep| job.sweep == sweep) && job.is_live();
    if !standings(store)?.iter().any(ours) {
        return Ok(Vec::new());
    }
    // Nobody submits meanwhile; a run that would afterwards finds that its jobs are not wanted.
    let lock = store.lock_submissions()?;
    let jobs: Vec<Standing> = standings(store)?.into_iter().filter(ours).collect();
    let records: Vec<Record> = jobs.iter().map(|job| Record::at(store, &job.name)).collect();
    for record in &records {
        record.note_asked(None)?;
    }
    drop(lock);
    let told = tell(&records, commands, least);
    if let Err(trouble) = told {
        // No is no; of a controller that gave no answer nobody knows what it has heard.
        if !matches!(trouble, Trouble::Down(_)) {
            records.iter().for_each(Record::forget_asked);
        }
        return Err(anyhow::anyhow!(trouble.text()))
            .context("the jobs were not cancelled; run the same command again once Slurm answers");
    }
    for record in &records {
        record.note_cancelled(None)?;
    }
    Ok(jobs)
}

/// Has Slurm end those of the jobs that it has. They are looked for by their names: a number may be another job's by now.
fn tell(records: &[Record], commands: &Commands, least: Duration) -> Result<(), Trouble> {
    let rows = commands::rows(&commands.call("squeue", &SQUEUE)?);
    let ids: HashMap<&str, u64> = rows.iter().map(|row| (row.name.as_str(), row.id)).collect();
    let ids: BTreeSet<u64> =
        records.iter().filter_map(|record| ids.get(record.name.as_str())).copied().collect();
    let words: Vec<String> = ids.iter().map(u64::to_string).collect();
    for chunk in words.chunks(AT_ONCE) {
        thread::sleep(least);
        let words: Vec<&str> = chunk.iter().map(String::as_str).collect();
        match commands.call("scancel", &words) {
            // A job that has ended meanwhile is none to cancel.
            Err(trouble) if !is_over(&trouble) => return Err(trouble),
            _ => {}
        }
    }
    Ok(())
}

/// Whether `scancel` refuses because jobs have ended.
fn is_over(trouble: &Trouble) -> bool {
    let ended = ["Invalid job id", "already completing or completed"];
    matches!(trouble, Trouble::Refused(text) if ended.iter().any(|words| text.contains(words)))
}
