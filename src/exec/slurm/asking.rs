//! Questions to Slurm: what may be asked when, and what follows from how it answers.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::Patience;
use super::commands::{Commands, Trouble};
use crate::exec::Update;

/// Arrays that are submitted at once; further ones one by one, each after [`Patience::least`].
const BURST: f64 = 8.0;

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
    pub(super) full: Option<Full>,
    /// How many arrays may be submitted at once: what was saved up until the time beside it.
    credit: (f64, Instant),
    /// There is no accounting.
    pub(super) no_accounts: bool,
    /// The last question was about accounts.
    pub(super) asked_accounts: bool,
    /// Until when the accounting is left alone, which gave no answer.
    pub(super) accounts: Option<Full>,
}

/// Until when something is not tried that did not work.
pub(super) struct Full {
    until: Instant,
    /// How long it is from one try to the next.
    wait: Duration,
}

impl Full {
    /// After one more failure: twice as long as after the last one, within `least` and `most`.
    pub(super) fn again(before: Option<&Self>, least: Duration, most: Duration) -> Self {
        let wait = before.map_or(least, |full| (2 * full.wait).min(most));
        Self { until: Instant::now() + wait, wait }
    }

    /// Whether it is not to be tried yet.
    pub(super) fn holds(&self) -> bool {
        Instant::now() < self.until
    }
}

/// An answer.
pub(super) struct Heard {
    /// When it was asked for: what happened later is not in it.
    pub(super) begun: Instant,
    /// Whether it is the accounting's.
    pub(super) accounts: bool,
    pub(super) text: Result<String, Trouble>,
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
            credit: (BURST, Instant::now()),
            no_accounts: false,
            asked_accounts: false,
            accounts: None,
        }
    }

    /// Whether something may be asked now.
    pub(super) fn may_ask(&self) -> bool {
        !self.asking && Instant::now() >= self.next
    }

    /// How long it is until something may be asked.
    pub(super) fn until_next(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// What is asked next goes at once: nothing else is waited for any more.
    pub(super) fn ask_anyway(&mut self) {
        self.asking = false;
        self.next = Instant::now();
    }

    /// Whether something may be submitted now: not while Slurm does not answer, nor right after it took no more, and not
    /// too much at once, whatever comes of it.
    pub(super) fn may_send(&mut self) -> bool {
        let (credit, since) = self.credit;
        let saved = since.elapsed().as_secs_f64() / self.patience.least.as_secs_f64();
        self.credit = ((credit + saved).min(BURST), Instant::now());
        self.credit.0 >= 1.0 && !self.down && !self.full.as_ref().is_some_and(Full::holds)
    }

    /// Something was submitted, or tried to be.
    pub(super) fn has_sent(&mut self) {
        self.credit.0 -= 1.0;
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask_now(&mut self, words: &[&str]) -> Result<String, Trouble> {
        let begun = Instant::now();
        let text = self.commands.call(words[0], &words[1..]);
        self.next = begun + self.patience.least;
        text
    }

    /// Asks; [`Self::hear`] gives the answer.
    pub(super) fn ask(&mut self, program: &'static str, args: Vec<String>) {
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

    /// The answer, where it comes within `patience`.
    pub(super) fn hear(&mut self, patience: Duration) -> Option<Heard> {
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
        let full = Full::again(self.full.as_ref(), self.patience.least, self.patience.down);
        self.full.replace(full).is_none().then(|| {
            Update::Note(format!("Slurm takes no more of your jobs for now; it is tried again: {why}"))
        })
    }

    /// Slurm took a job; the next look comes soon.
    pub(super) fn has_taken(&mut self) {
        self.full = None;
        self.soon();
    }

    /// The next look, after one that had something to tell or had not.
    pub(super) fn pace(&mut self, begun: Instant, changed: bool) {
        self.interval = if changed {
            self.patience.least
        } else {
            (self.interval * 3 / 2).clamp(self.patience.least, self.patience.most)
        };
        self.next = self.next.max(begun + self.interval);
    }
}
