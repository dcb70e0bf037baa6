//! Watching jobs: what is asked of Slurm and how often, and what its answers mean for what is waited for.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arrays::Place;
use super::asking::{Full, Heard};
use super::commands::{self, Row, SQUEUE};
use super::state::{Answer, Left, Seen, State, answer, state};
use super::{Account, Patience, Slurm};
use crate::exec::{Exit, Line, Update, Verdict};
use crate::stage::StageKind;
use crate::store::key::Key;

/// Elements whose progress is read after each look at the queue.
const PROGRESS_AT_ONCE: usize = 64;
/// Elements that the accounting is asked about at once.
const ACCOUNTS_AT_ONCE: usize = 500;
/// The end of a log that is searched for words about memory.
const LOG_TAIL: i64 = 4096;

/// Reasons why a job waits that time alone does not mend.
const STUCK: [&str; 10] = [
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "PartitionDown",
    "PartitionInactive",
    "BadConstraints",
    "AccountNotAllowed",
    "InvalidAccount",
    "InvalidQOS",
    "QOSNotAllowed",
    "AssocGrpCPUMinutesLimit",
];

/// What Slurm lists: elements by array and index, and of each array the word for those that it does not list one by one.
/// An array is known by number and name: once Slurm has begun to count anew, a number may be another job's.
#[derive(Default)]
struct Listing<'a> {
    elements: HashMap<(u64, &'a str, u32), (&'a str, &'a str)>,
    rest: HashMap<(u64, &'a str), (&'a str, &'a str)>,
}

impl<'a> Listing<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut listing = Self::default();
        for row in rows {
            let (said, array) = ((row.word.as_str(), row.reason.as_str()), (row.id, row.name.as_str()));
            match row.index {
                Some(index) => {
                    listing.elements.insert((array.0, array.1, index), said);
                    // Elements that are cancelled before they begin leave no trace in an array of which others are listed.
                    listing.rest.entry(array).or_insert(("CANCELLED", "None"));
                }
                None => drop(listing.rest.insert(array, said)),
            }
        }
        listing
    }

    /// State and reason of an element; `began` says whether it ever did.
    fn of(
        &self,
        (id, name): (u64, &str),
        index: u32,
        began: impl FnOnce() -> bool,
    ) -> Option<(&'a str, &'a str)> {
        let listed = self.elements.get(&(id, name, index)).copied();
        listed.or_else(|| self.rest.get(&(id, name)).copied().filter(|_| !began()))
    }
}

impl Slurm {
    /// Asks Slurm where it is time to, and waits up to `patience` for an answer.
    pub(super) fn look(&mut self, patience: Duration) -> Result<()> {
        let watched =
            self.arrays.iter().any(|array| array.live > 0 && (array.id.is_some() || array.unsure.is_some()));
        if watched && self.watch.may_ask() {
            match self.unaccounted() {
                jobs if jobs.is_empty() => {
                    self.watch.ask("squeue", SQUEUE.iter().map(|&arg| arg.to_owned()).collect());
                }
                jobs => self.watch.ask("sacct", commands::sacct(&jobs)),
            }
        }
        let patience = if self.news.is_empty() { patience } else { Duration::ZERO };
        let Some(Heard { begun, accounts, text }) = self.watch.hear(patience) else { return Ok(()) };
        match (accounts, text) {
            (true, Ok(text)) => {
                self.watch.accounts = None;
                self.accounted(&text);
            }
            // A site without accounting: jobs' own words must do.
            (true, Err(trouble)) if commands::has_no_accounts(&trouble.clone().text()) => {
                self.watch.no_accounts = true;
                self.accounted("");
            }
            // It may answer another time; jobs that it is too late for are lost, and submitted again.
            (true, Err(_)) => {
                let Patience { least, down, .. } = self.patience;
                self.watch.accounts = Some(Full::again(self.watch.accounts.as_ref(), least, down));
            }
            (false, Ok(text)) => {
                self.news.extend(self.watch.is_up());
                let settles = self.listed(begun, &commands::rows(&text))?;
                let changed = settles || !self.news.is_empty();
                self.watch.pace(begun, changed);
            }
            // It has answered before, or the run would not have come here: whatever is wrong may pass.
            (false, Err(trouble)) => {
                self.news.extend(self.watch.is_down(&trouble.text()));
                for number in 0..self.arrays.len() {
                    self.judge(number, None); // what ended says so itself
                }
            }
        }
        Ok(())
    }

    /// The elements that Slurm's controller does not know any more, that left no word, and that the accounting was not asked
    /// about yet; none right after it was asked.
    fn unaccounted(&self) -> Vec<String> {
        let pauses = self.watch.accounts.as_ref().is_some_and(Full::holds);
        if self.watch.no_accounts || self.watch.asked_accounts || pauses {
            return Vec::new();
        }
        let mut jobs = Vec::new();
        for array in self.arrays.iter().filter(|array| array.live > 0) {
            let Some(id) = array.id else { continue };
            let forgotten = array.elements.iter().filter(|(_, member)| member.account == Account::Wanted);
            jobs.extend(forgotten.map(|(index, _)| format!("{id}_{index}")));
            if jobs.len() >= ACCOUNTS_AT_ONCE {
                jobs.truncate(ACCOUNTS_AT_ONCE);
                break;
            }
        }
        jobs
    }

    /// Takes in what the accounting says; of what it does not name it knows nothing.
    fn accounted(&mut self, text: &str) {
        let rows = commands::accounts(text);
        let listing = Listing::new(&rows);
        for array in self.arrays.iter_mut().filter(|array| array.live > 0) {
            let Some(id) = array.id else { continue };
            for (&index, member) in &mut array.elements {
                if member.account == Account::Wanted {
                    let listed = listing.elements.get(&(id, array.record.name.as_str(), index));
                    member.account = match listed {
                        Some(&(word, reason)) => Account::Says(word.to_owned(), reason.to_owned()),
                        None => Account::Silent,
                    };
                }
            }
        }
    }

    /// Takes in what Slurm lists. Says whether something is about to be known.
    fn listed(&mut self, begun: Instant, rows: &[Row]) -> Result<bool> {
        let by_name: HashMap<&str, u64> = rows.iter().map(|row| (row.name.as_str(), row.id)).collect();
        let listing = Listing::new(rows);
        let mut settles = false;
        for number in 0..self.arrays.len() {
            if self.arrays[number].live == 0 {
                continue;
            }
            if self.arrays[number].id.is_none() && !self.identify(number, begun, &by_name)? {
                settles = true;
                continue;
            }
            if begun >= self.arrays[number].since {
                settles |= self.judge(number, Some(&listing));
            }
        }
        self.read_progress();
        Ok(settles)
    }

    /// Finds the number of an array whose submission was not answered. Says whether it is known.
    fn identify(&mut self, number: usize, begun: Instant, by_name: &HashMap<&str, u64>) -> Result<bool> {
        let array = &mut self.arrays[number];
        let Some(since) = array.unsure else { return Ok(false) };
        // An element that ran knows the number, too.
        if let Some(id) = by_name.get(array.record.name.as_str()).copied().or_else(|| array.record.id()) {
            let confirmed = array.record.confirm(id);
            if !array.found {
                confirmed?; // another run's record may be gone: that run has collected the job
            }
            (array.id, array.unsure) = (Some(id), None);
            self.watch.full = None;
            self.unsent.retain(|&other| other != number);
            let (what, live) = (array.what(), array.live);
            self.news.push(Update::Note(format!("job {id}: {what} ×{live}, which Slurm had taken")));
            return Ok(true);
        }
        let collected = array.found && array.record.job().is_none();
        if begun < since + self.patience.unconfirmed && !collected {
            return Ok(false);
        }
        if array.found && !collected && self.store.is_submitter(&array.job.submitter) {
            array.unsure = Some(Instant::now()); // another run is about to submit it
            return Ok(false);
        }
        // Slurm has not taken it.
        array.unsure = None;
        if !self.unsent.contains(&number) {
            // It is one that an earlier run left: its stages are handed over again.
            let indices: Vec<u32> = array.elements.keys().copied().collect();
            array.record.remove();
            for index in indices {
                self.finish(Place { array: number, index }, &Exit::Unmet, Vec::new());
            }
        }
        Ok(false)
    }

    /// Works out what became of each element of an array, from what Slurm lists (where it answered) and what each left. Says
    /// whether one is about to be known.
    fn judge(&mut self, number: usize, listing: Option<&Listing<'_>>) -> bool {
        let array = &mut self.arrays[number];
        let Some(id) = array.id.filter(|_| array.live > 0) else { return false };
        let (ends, record) = (array.record.with("end"), array.record.clone());
        let mut cancelled = None;
        let mut asked = |index| cancelled.get_or_insert_with(|| record.asked())(index);
        let name = record.name.as_str();
        let remedy = self.cluster.request(array.job.kind.name()).shortage_remedy(array.shortages);
        let mut settles = false;
        let mut over: Vec<(u32, Exit, Vec<Line>)> = Vec::new();
        let mut idle: Vec<u32> = Vec::new();
        for (&index, member) in array.elements.iter_mut().filter(|(_, member)| !member.over) {
            let began = || record.file(index, "begin").exists();
            let said =
                listing.and_then(|listing| listing.of((id, name), index, began)).or(match &member.account {
                    Account::Says(word, reason) => Some((word.as_str(), reason.as_str())),
                    _ => None,
                });
            let listed = said.map(|(word, reason)| state(word, reason));
            let end = if ends.contains(&index) { record.end(index) } else { None };
            let left = end.as_ref().map(|end| match end.verdict {
                Verdict::Done => Left::Done,
                Verdict::Failed => Left::Failed,
                Verdict::Interrupted => Left::Interrupted,
            });
            let final_word = matches!(left, Some(Left::Done | Left::Failed));
            if listing.is_none() && !final_word {
                continue;
            }
            let alive = matches!(listed, Some(State::Queued | State::Held | State::Running | State::Unknown));
            let ended = final_word || !alive;
            if ended {
                member.ended.get_or_insert_with(Instant::now);
            } else {
                member.ended = None;
            }
            let finished = ended && {
                member.keys.iter().all(|key| {
                    self.store.object(key).is_some() || {
                        self.store.look_anew(key);
                        self.store.object(key).is_some()
                    }
                })
            };
            let gone = ended && !finished && !final_word;
            let code = if gone { record.exit(index) } else { None };
            let log = member.keys.first().map(|key| self.store.log_path(key));
            let memory = log.filter(|_| code == Some(134)).and_then(|log| memory_words(&log));
            let (word, reason) = said.unwrap_or_default();
            let job = format!("{id}_{index}");
            let seen = Seen {
                state: listed,
                word,
                job: &job,
                left,
                code,
                memory: memory.as_deref(),
                finished,
                saved: gone
                    && member
                        .keys
                        .iter()
                        .any(|key| self.store.is_begun(key) || self.store.object(key).is_some()),
                asked: gone && asked(index),
                late: member.ended.is_some_and(|since| since.elapsed() >= self.patience.late),
            };
            match answer(&seen) {
                Answer::Waits => {
                    member.runs = false;
                    if reason == "Dependency" {
                        idle.push(index);
                    }
                    let stuck = STUCK.contains(&reason) || listed == Some(State::Held);
                    if stuck && array.told.insert(reason.to_owned()) {
                        let what =
                            "`scontrol show job` says more; cancel it and mend cluster.yaml, or release it";
                        self.news.push(Update::Note(format!(
                            "job {job} does not start ({word}, {reason}): {what}"
                        )));
                    }
                }
                Answer::Runs => {
                    member.idle = None;
                    if listed == Some(State::Unknown) && array.told.insert(word.to_owned()) {
                        let text = format!("job {job} is in a state that this program does not know, {word}");
                        self.news.push(Update::Note(text));
                    }
                    if !std::mem::replace(&mut member.runs, true) {
                        let threads = array.job.threads;
                        // What follows in the same element begins later.
                        let leads = |task: &&usize| {
                            self.tasks.get(task).is_some_and(|open| open.kind == array.job.kind)
                        };
                        let leads = member.tasks.iter().filter(leads);
                        self.news.extend(leads.map(|&task| Update::Started { task, threads }));
                    }
                }
                Answer::Settles => {
                    settles = true;
                    if listed.is_none() && left.is_none() && member.account == Account::Unasked {
                        member.account = Account::Wanted;
                    }
                }
                Answer::Over(exit) => {
                    // What is in the store did not fail, whatever came after.
                    let said = end.filter(|_| !finished || left == Some(Left::Done));
                    let mut lines = said.map(|end| end.lines).unwrap_or_default();
                    if matches!(exit, Exit::Continues(_)) {
                        lines.extend(record.progress(index)); // how far it came tells whether to go on
                    }
                    let exit = match (exit, &remedy) {
                        (Exit::OutOfMemory(text), Some(remedy)) => {
                            Exit::OutOfMemory(format!("{text}; {remedy}"))
                        }
                        (exit, _) => exit,
                    };
                    over.push((index, exit, lines));
                }
            }
        }
        for (index, exit, lines) in over {
            let place = Place { array: number, index };
            // What it waited for is told first: then it is known why.
            if exit == Exit::Unmet && !self.waits_for(place).is_empty() {
                settles = true;
                continue;
            }
            self.finish(place, &exit, lines);
        }
        self.wake(number, &idle);
        settles
    }

    /// Takes elements back that Slurm has wait for what has long been over: where it has forgotten that, they would wait for
    /// ever. They are handed over again.
    fn wake(&mut self, number: usize, waiting: &[u32]) {
        if self.arrays[number].job.sweep != self.sweep {
            return; // another sweep's are its own to take back
        }
        let mut idle = BTreeSet::new();
        for &index in waiting {
            let place = Place { array: number, index };
            let free = self.waits_for(place).is_empty();
            let array = &mut self.arrays[number];
            let Some(member) = array.elements.get_mut(&index) else { continue };
            if !free {
                member.idle = None;
                continue;
            }
            let since = *member.idle.get_or_insert_with(Instant::now);
            if since.elapsed() < self.patience.late {
                continue;
            }
            // What an earlier run had it wait for is not known: then the store says whether that is there.
            let is_there = |key: &Key| {
                let spec = self.store.spec(key);
                spec.is_ok_and(|stored| {
                    stored.spec.parents.iter().all(|p| self.store.object(&p.key).is_some())
                })
            };
            if array.found && !member.keys.first().is_some_and(is_there) {
                member.idle = None;
                continue;
            }
            if array.told.insert("idle".to_owned()) {
                let job = array.shown();
                self.news.push(Update::Note(format!(
                    "{job} waits in Slurm for what is over: such elements are taken back and submitted again"
                )));
            }
            idle.insert(index);
        }
        if idle.is_empty() {
            return;
        }
        self.ask_to_end(number, &idle);
        for index in idle {
            self.finish(Place { array: number, index }, &Exit::Unmet, Vec::new());
        }
    }

    /// Tells how far some of those that run are.
    fn read_progress(&mut self) {
        let running = self.arrays.iter().filter(|array| array.live > 0).flat_map(|array| {
            let running = array.elements.iter().filter(|(_, member)| member.runs && !member.over);
            running
                .filter(|(_, member)| !member.tasks.is_empty())
                .map(move |(&index, member)| (array, index, member))
        });
        for (array, index, member) in running.take(PROGRESS_AT_ONCE) {
            let lines = array.record.progress(index);
            let follows = |key: &Key| member.keys.first() != Some(key) && array.job.kind == StageKind::Train;
            if lines.iter().any(|line| follows(&line.key)) {
                let is_next =
                    |task: &&usize| self.tasks.get(task).is_some_and(|open| open.kind != array.job.kind);
                let (next, threads) = (member.tasks.iter().filter(is_next), array.job.threads);
                self.news.extend(next.map(|&task| Update::Started { task, threads }));
            }
            self.news.extend(lines.into_iter().map(Update::Line));
        }
    }
}

/// The last line about memory that could not be had at the end of a log.
fn memory_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    if file.seek(SeekFrom::End(-LOG_TAIL)).is_err() {
        file.rewind().ok()?; // it is shorter
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| line.starts_with("memory allocation of ")).map(str::to_owned)
}
