//! Watching jobs: what is asked of Slurm and how often, and what its answers mean for what is waited for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arrays::Place;
use super::commands::{self, Commands, Row, SQUEUE, Trouble};
use super::state::{Answer, Left, Seen, State, answer, state};
use super::{Account, Patience, Slurm};
use crate::exec::{Exit, Line, Update, Verdict};

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

/// Questions to Slurm: one at a time, on a thread of its own, no more than one a second.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they say different things, each about one of Slurm's programs"
)]
pub(super) struct Watch {
    commands: Commands,
    patience: Patience,
    heard: Receiver<Heard>,
    tell: Sender<Heard>,
    /// A question is on its way.
    asking: bool,
    /// The next one goes no sooner.
    next: Instant,
    interval: Duration,
    /// Slurm did not answer last time.
    down: bool,
    /// It takes no more jobs of this person.
    full: Option<Full>,
    /// The accounting is switched off, or does not answer.
    no_accounts: bool,
    /// The last question was about accounts.
    asked_accounts: bool,
}

/// Until when nothing is submitted, since Slurm took no more jobs of this person.
struct Full {
    until: Instant,
    /// How long it is from one try to the next.
    wait: Duration,
}

/// An answer.
struct Heard {
    /// When it was asked for: what happened later is not in it.
    begun: Instant,
    /// Whether it is the accounting's.
    accounts: bool,
    text: Result<String, Trouble>,
}

impl Watch {
    pub(super) fn new(commands: Commands, patience: Patience) -> Self {
        let (tell, heard) = mpsc::channel();
        Self {
            commands,
            patience,
            heard,
            tell,
            asking: false,
            next: Instant::now(),
            interval: patience.least,
            down: false,
            full: None,
            no_accounts: false,
            asked_accounts: false,
        }
    }

    /// Whether something may be asked now.
    pub(super) fn may_ask(&self) -> bool {
        !self.asking && Instant::now() >= self.next
    }

    /// Whether something may be submitted now: not while Slurm does not answer, nor right after it took no more.
    pub(super) fn may_send(&self) -> bool {
        !self.down && self.full.as_ref().is_none_or(|full| Instant::now() >= full.until)
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask_now(&mut self, words: &[&str]) -> Result<String, Trouble> {
        let begun = Instant::now();
        let text = self.commands.call(words[0], &words[1..]);
        self.next = begun + self.patience.least;
        text
    }

    fn ask(&mut self, program: &'static str, args: Vec<String>) {
        let (commands, tell) = (self.commands.clone(), self.tell.clone());
        let (begun, accounts) = (Instant::now(), program == "sacct");
        self.asking = true;
        self.asked_accounts = accounts;
        self.next = begun + self.patience.least;
        thread::spawn(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let text = commands.call(program, &args);
            let _ = tell.send(Heard { begun, accounts, text }); // nobody listens only when the run is over
        });
    }

    fn hear(&mut self, patience: Duration) -> Option<Heard> {
        let heard = self.heard.recv_timeout(patience).ok()?;
        self.asking = false;
        Some(heard)
    }

    /// Something happened, or is about to: the next look comes soon.
    pub(super) fn soon(&mut self) {
        self.interval = self.patience.least;
        self.next = self.next.min(Instant::now() + self.patience.least);
    }

    /// Slurm did not answer; what is to be said of it, the first time.
    pub(super) fn is_down(&mut self, why: &str) -> Option<Update> {
        self.interval = (self.interval * 2).clamp(self.patience.least, self.patience.down);
        self.next = Instant::now() + self.interval;
        let first = !std::mem::replace(&mut self.down, true);
        first.then(|| {
            Update::Note(format!("Slurm does not answer; what runs goes on, and it is asked again: {why}"))
        })
    }

    /// Slurm answered; what is to be said of it, where it had not before.
    pub(super) fn is_up(&mut self) -> Option<Update> {
        let first = std::mem::replace(&mut self.down, false);
        first.then(|| Update::Note("Slurm answers again".to_owned()))
    }

    /// Slurm takes no more jobs of this person; what is to be said of it, once until it takes one. It is tried again ever
    /// less often.
    pub(super) fn is_full(&mut self, why: &str) -> Option<Update> {
        let before = self.full.as_ref().map(|full| full.wait);
        let wait = before.map_or(self.patience.least, |wait| (2 * wait).min(self.patience.down));
        self.full = Some(Full { until: Instant::now() + wait, wait });
        before.is_none().then(|| {
            Update::Note(format!("Slurm takes no more of your jobs for now; it is tried again: {why}"))
        })
    }

    /// Slurm took a job; the next look comes soon.
    pub(super) fn has_taken(&mut self) {
        self.full = None;
        self.soon();
    }

    /// The next look, after one that had something to tell or had not.
    fn pace(&mut self, begun: Instant, changed: bool) {
        self.interval = if changed {
            self.patience.least
        } else {
            (self.interval * 3 / 2).clamp(self.patience.least, self.patience.most)
        };
        self.next = self.next.max(begun + self.interval);
    }
}

/// What Slurm lists: elements by array and index, and of each array the word for those that it does not list one by one.
#[derive(Default)]
struct Listing<'a> {
    elements: HashMap<(u64, u32), (&'a str, &'a str)>,
    rest: HashMap<u64, (&'a str, &'a str)>,
}

impl<'a> Listing<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut listing = Self::default();
        for row in rows {
            let said = (row.word.as_str(), row.reason.as_str());
            match row.index {
                Some(index) => {
                    listing.elements.insert((row.id, index), said);
                    // Elements that are cancelled before they begin leave no trace in an array of which others are listed.
                    listing.rest.entry(row.id).or_insert(("CANCELLED", "None"));
                }
                None => drop(listing.rest.insert(row.id, said)),
            }
        }
        listing
    }

    /// State and reason of an element; `began` says whether it ever did.
    fn of(&self, id: u64, index: u32, began: impl FnOnce() -> bool) -> Option<(&'a str, &'a str)> {
        let listed = self.elements.get(&(id, index)).copied();
        listed.or_else(|| self.rest.get(&id).copied().filter(|_| !began()))
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
            (true, Ok(text)) => self.accounted(&text),
            // A site without accounting, or with one that does not answer: jobs' own words must do.
            (true, Err(_)) => {
                self.watch.no_accounts = true;
                self.accounted("");
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
        if self.watch.no_accounts || self.watch.asked_accounts {
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
        let mut said: HashMap<(u64, u32), (String, String)> = HashMap::new();
        for (id, index, word, reason) in commands::accounts(text) {
            said.insert((id, index), (word, reason));
        }
        for array in self.arrays.iter_mut().filter(|array| array.live > 0) {
            let Some(id) = array.id else { continue };
            for (&index, member) in &mut array.elements {
                if member.account == Account::Wanted {
                    member.account = match said.remove(&(id, index)) {
                        Some((word, reason)) => Account::Says(word, reason),
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
            array.record.confirm(id)?;
            (array.id, array.unsure) = (Some(id), None);
            self.watch.full = None;
            self.unsent.retain(|&other| other != number);
            let (kind, live) = (array.job.kind.name(), array.live);
            self.news.push(Update::Note(format!("job {id}: {kind} ×{live}, which Slurm had taken")));
            return Ok(true);
        }
        if begun < since + self.patience.unconfirmed {
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
        let mut asked = |index| cancelled.get_or_insert_with(|| record.cancelled())(index);
        let mut settles = false;
        let mut over: Vec<(u32, Exit, Vec<Line>)> = Vec::new();
        for (&index, member) in array.elements.iter_mut().filter(|(_, member)| !member.over) {
            let began = || record.file(index, "begin").exists();
            let said = listing.and_then(|listing| listing.of(id, index, began)).or(match &member.account {
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
                saved: gone && member.keys.iter().any(|key| self.store.is_begun(key)),
                asked: gone && asked(index),
                late: member.ended.is_some_and(|since| since.elapsed() >= self.patience.late),
            };
            match answer(&seen) {
                Answer::Waits => {
                    member.runs = false;
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
                    if listed == Some(State::Unknown) && array.told.insert(word.to_owned()) {
                        let text = format!("job {job} is in a state that this program does not know, {word}");
                        self.news.push(Update::Note(text));
                    }
                    if !std::mem::replace(&mut member.runs, true) {
                        let threads = array.job.threads;
                        self.news.extend(member.tasks.iter().map(|&task| Update::Started { task, threads }));
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
                    let lines = end.filter(|_| !finished || left == Some(Left::Done));
                    over.push((index, exit, lines.map(|end| end.lines).unwrap_or_default()));
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
        settles
    }

    /// Tells how far some of those that run are.
    fn read_progress(&mut self) {
        let running = self.arrays.iter().filter(|array| array.live > 0).flat_map(|array| {
            let running = array.elements.iter().filter(|(_, member)| member.runs && !member.over);
            running.filter(|(_, member)| !member.tasks.is_empty()).map(|(&index, _)| (&array.record, index))
        });
        let lines: Vec<Line> =
            running.take(PROGRESS_AT_ONCE).flat_map(|(record, index)| record.progress(index)).collect();
        self.news.extend(lines.into_iter().map(Update::Line));
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
