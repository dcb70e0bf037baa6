//! What is made of each state that Slurm names, together with what a job left of itself.

use super::super::Exit;

/// What a state means for whoever waits for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits: for its turn, for what it depends on, or for somebody to release it.
    Queued,
    /// It waits, and will not run before a person does something.
    Held,
    /// It runs, or is on its way in or out.
    Running,
    /// It ended with 0.
    Completed,
    /// It ended with something else.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// What it depends on failed.
    Unmet,
    /// Its time was over.
    TimedOut,
    /// It made room for another one.
    Preempted,
    /// Its node failed, or never came up.
    NodeLost,
    /// It had too little memory.
    OutOfMemory,
    /// Slurm can no longer finish it by its deadline.
    Deadline,
    /// A word of a newer Slurm. A job is not given up for a word: it counts as running for as long as Slurm lists it so.
    Unknown,
}

/// The state that `word` stands for (`squeue --format=%T`, `sacct --format=State`), with the `reason` that Slurm gives.
pub(super) fn state(word: &str, reason: &str) -> State {
    // `CANCELLED by 1000`, `CANCELLED+`: sacct says who, or cuts the word off.
    let word = word.split([' ', '+']).next().unwrap_or_default();
    let unmet = reason.contains("DependencyNeverSatisfied");
    match word {
        "PENDING" | "CANCELLED" if unmet => State::Unmet,
        "PENDING" if reason.contains("held") || reason.contains("Held") => State::Held,
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "RESV_DEL_HOLD" => State::Queued,
        "REQUEUE_HOLD" | "SPECIAL_EXIT" => State::Held,
        "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "RESIZING" | "SIGNALING" | "STAGE_OUT"
        | "POWER_UP_NODE" | "UPDATE_DB" | "EXPEDITING" => State::Running,
        "COMPLETED" => State::Completed,
        "FAILED" => State::Failed,
        "CANCELLED" | "REVOKED" => State::Cancelled,
        "TIMEOUT" => State::TimedOut,
        "PREEMPTED" => State::Preempted,
        "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => State::NodeLost,
        "OUT_OF_MEMORY" => State::OutOfMemory,
        "DEADLINE" => State::Deadline,
        _ => State::Unknown,
    }
}

/// Everything that is known of a job that is being waited for.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each was looked at for itself")]
pub(super) struct Seen<'a> {
    /// What Slurm calls it; none where it does not list the job any more.
    pub(super) state: Option<State>,
    /// The word itself.
    pub(super) word: &'a str,
    /// The job, for messages.
    pub(super) job: &'a str,
    /// How its process says that it ended; none where it did not say.
    pub(super) left: Option<Left>,
    /// The exit status that its script noted.
    pub(super) code: Option<i32>,
    /// A line about memory that its process could not have.
    pub(super) memory: Option<&'a str>,
    /// Whether all of its stages are in the store.
    pub(super) finished: bool,
    /// Whether a checkpoint of them is there.
    pub(super) saved: bool,
    /// Whether this program cancelled it.
    pub(super) asked: bool,
    /// Whether what a node wrote has had the time to show on this one.
    pub(super) late: bool,
}

/// How a process in a job says that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its stages are published.
    Done,
    /// They are not, and it said why.
    Failed,
    /// It was asked to stop, and saved what it had.
    Interrupted,
}

/// What is made of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It waits.
    Waits,
    /// It runs.
    Runs,
    /// It is over, and what it left must still show.
    Settles,
    /// It is over.
    Over(Exit),
}

/// The one place where it is decided what becomes of a job.
pub(super) fn answer(seen: &Seen<'_>) -> Answer {
    if seen.finished {
        return Answer::Over(Exit::Orderly);
    }
    match (seen.left, seen.state) {
        // Its own word is final, whatever Slurm is about to say.
        (Some(Left::Failed), _) => return Answer::Over(Exit::Orderly),
        (Some(Left::Done), _) if seen.late => {
            return Answer::Over(Exit::Died(format!(
                "job {} says that it is done, and nothing of it shows in the store: do all nodes share its file system?",
                seen.job
            )));
        }
        (Some(Left::Done), _) => return Answer::Settles,
        _ => {}
    }
    let job = seen.job;
    let Some(state) = seen.state else { return vanished(seen) };
    match state {
        State::Queued | State::Held => Answer::Waits,
        State::Running | State::Unknown => Answer::Runs,
        State::Unmet => Answer::Over(Exit::Unmet),
        State::Cancelled if seen.asked => Answer::Over(Exit::Interrupted),
        State::Cancelled => Answer::Over(Exit::Refused(format!(
            "its job {job} was cancelled, by somebody else; the next `sweep run` submits it again"
        ))),
        State::TimedOut if seen.saved => {
            Answer::Over(Exit::Continues(format!("the time limit of job {job} ended it")))
        }
        State::TimedOut => Answer::Over(Exit::Refused(format!(
            "the time limit of job {job} ended it before anything was saved: raise `time` in cluster.yaml"
        ))),
        State::Preempted => Answer::Over(Exit::Continues(format!("job {job} made room for another one"))),
        State::NodeLost => Answer::Over(Exit::Lost(format!("the node of job {job} failed ({})", seen.word))),
        State::OutOfMemory => {
            Answer::Over(Exit::OutOfMemory(format!("job {job} used more than it had asked for")))
        }
        State::Deadline => Answer::Over(Exit::Refused(format!("job {job} could not end by its deadline"))),
        State::Completed | State::Failed => ended(seen),
    }
}

/// Of a job that ended by itself, and did not leave its stages.
fn ended(seen: &Seen<'_>) -> Answer {
    let job = seen.job;
    if seen.left == Some(Left::Interrupted) {
        return Answer::Over(Exit::Continues(format!("job {job} was asked to stop")));
    }
    match seen.code {
        Some(0) | None if !seen.late => Answer::Settles,
        Some(0) => Answer::Over(Exit::Died(format!(
            "job {job} ended well, and nothing of it shows in the store: do all nodes share its file system?"
        ))),
        None => Answer::Over(Exit::Died(format!(
            "job {job} ended ({}) before the program began; sbatch's output beside the store's records may say why",
            seen.word
        ))),
        Some(code) => {
            if let Some(line) = seen.memory {
                return Answer::Over(Exit::OutOfMemory(line.to_owned()));
            }
            let how =
                if code > 128 { format!("signal {}", code - 128) } else { format!("exit status {code}") };
            Answer::Over(Exit::Died(format!("{how} in job {job}")))
        }
    }
}

/// Of a job that Slurm does not know any more: its own words are all that is left.
fn vanished(seen: &Seen<'_>) -> Answer {
    let job = seen.job;
    match (seen.left, seen.code) {
        _ if seen.asked => Answer::Over(Exit::Interrupted),
        (Some(Left::Interrupted), _) => Answer::Over(Exit::Continues(format!("job {job} was asked to stop"))),
        (_, Some(code)) if code != 0 => ended(seen),
        _ if !seen.late => Answer::Settles,
        (_, Some(_)) => ended(seen),
        (_, None) => {
            Answer::Over(Exit::Lost(format!("Slurm does not know job {job} any more, and it left no word")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Seen<'static> = Seen {
        state: None,
        word: "",
        job: "7_3",
        left: None,
        code: None,
        memory: None,
        finished: false,
        saved: false,
        asked: false,
        late: false,
    };

    fn says(word: &'static str, reason: &str) -> Seen<'static> {
        Seen { state: Some(state(word, reason)), word, ..SEEN }
    }

    /// The answer in a word.
    fn short(seen: &Seen<'_>) -> &'static str {
        match answer(seen) {
            Answer::Waits => "waits",
            Answer::Runs => "runs",
            Answer::Settles => "settles",
            Answer::Over(Exit::Orderly) => "orderly",
            Answer::Over(Exit::Interrupted) => "interrupted",
            Answer::Over(Exit::OutOfMemory(_)) => "memory",
            Answer::Over(Exit::Died(_)) => "died",
            Answer::Over(Exit::Continues(_)) => "continues",
            Answer::Over(Exit::Lost(_)) => "lost",
            Answer::Over(Exit::Unmet) => "unmet",
            Answer::Over(Exit::Refused(_)) => "refused",
        }
    }

    #[test]
    fn every_word_of_slurm_has_its_answer() {
        let table = [
            ("PENDING", "Priority", "waits"),
            ("PENDING", "Dependency", "waits"),
            ("PENDING", "JobHeldUser", "waits"),
            ("PENDING", "launch failed requeued held", "waits"),
            ("PENDING", "DependencyNeverSatisfied", "unmet"),
            ("CONFIGURING", "None", "waits"),
            ("REQUEUED", "None", "waits"),
            ("REQUEUE_FED", "None", "waits"),
            ("REQUEUE_HOLD", "None", "waits"),
            ("SPECIAL_EXIT", "None", "waits"),
            ("RUNNING", "None", "runs"),
            ("SUSPENDED", "None", "runs"),
            ("STOPPED", "None", "runs"),
            ("COMPLETING", "None", "runs"),
            ("STAGE_OUT", "None", "runs"),
            ("SIGNALING", "None", "runs"),
            ("RESIZING", "None", "runs"),
            ("POWER_UP_NODE", "None", "runs"),
            ("UPDATE_DB", "None", "runs"),
            ("EXPEDITING", "None", "runs"),
            ("RESV_DEL_HOLD", "None", "waits"),
            ("REVOKED", "None", "refused"),
            ("SOMETHING_NEW", "None", "runs"),
            ("COMPLETED", "None", "settles"),
            ("FAILED", "NonZeroExitCode", "settles"),
            ("CANCELLED", "None", "refused"),
            ("CANCELLED by 1000", "", "refused"),
            ("PENDING", "Dependency", "waits"),
            ("CANCELLED+", "", "refused"),
            ("CANCELLED", "DependencyNeverSatisfied", "unmet"),
            ("TIMEOUT", "TimeLimit", "refused"),
            ("PREEMPTED", "None", "continues"),
            ("NODE_FAIL", "None", "lost"),
            ("BOOT_FAIL", "None", "lost"),
            ("LAUNCH_FAILED", "None", "lost"),
            ("RECONFIG_FAIL", "None", "lost"),
            ("OUT_OF_MEMORY", "OutOfMemory", "memory"),
            ("DEADLINE", "DeadLine", "refused"),
        ];
        for (word, reason, wanted) in table {
            assert_eq!(short(&says(word, reason)), wanted, "{word} ({reason})");
        }
    }

    #[test]
    fn what_a_job_left_decides_before_what_slurm_calls_it() {
        for word in ["RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"] {
            assert_eq!(short(&Seen { finished: true, ..says(word, "") }), "orderly", "{word}");
            assert_eq!(short(&Seen { left: Some(Left::Failed), ..says(word, "") }), "orderly", "{word}");
        }
        let done = Seen { left: Some(Left::Done), ..says("COMPLETED", "") };
        assert_eq!(short(&done), "settles", "another node's file may show late");
        assert_eq!(short(&Seen { late: true, ..done }), "died");
        let stopped = Seen { left: Some(Left::Interrupted), ..SEEN };
        let at = |word| Seen { state: Some(state(word, "")), ..stopped };
        assert_eq!(short(&at("PENDING")), "waits", "requeued: it goes on by itself");
        assert_eq!(short(&at("RUNNING")), "runs");
        assert_eq!(short(&at("FAILED")), "continues", "it may not requeue itself: submitted again");
        assert_eq!(short(&at("CANCELLED")), "refused");
        assert_eq!(short(&Seen { asked: true, ..at("CANCELLED") }), "interrupted");
        assert_eq!(short(&stopped), "continues");
    }

    #[test]
    fn a_time_limit_goes_on_from_a_checkpoint_and_needs_one() {
        let timed_out = says("TIMEOUT", "TimeLimit");
        assert_eq!(short(&Seen { saved: true, ..timed_out }), "continues");
        let Answer::Over(Exit::Refused(message)) = answer(&timed_out) else { panic!() };
        assert!(message.contains("raise `time`"), "{message}");
    }

    #[test]
    fn exit_codes_tell_of_signals_and_of_memory() {
        let failed = says("FAILED", "NonZeroExitCode");
        let message = |seen: &Seen<'_>| format!("{:?}", answer(seen));
        assert!(message(&Seen { code: Some(139), ..failed }).contains("signal 11"));
        assert!(message(&Seen { code: Some(2), ..failed }).contains("exit status 2"));
        let memory = Seen { code: Some(134), memory: Some("memory allocation of 9 bytes failed"), ..failed };
        assert_eq!(short(&memory), "memory");
        assert_eq!(short(&Seen { late: true, ..failed }), "died", "a script that never came to the program");
    }

    #[test]
    fn a_job_that_slurm_forgot_is_known_by_its_own_words_or_lost() {
        assert_eq!(short(&SEEN), "settles");
        assert_eq!(short(&Seen { late: true, ..SEEN }), "lost");
        assert_eq!(short(&Seen { code: Some(1), ..SEEN }), "died");
        assert_eq!(short(&Seen { code: Some(0), ..SEEN }), "settles");
        assert_eq!(short(&Seen { code: Some(0), late: true, ..SEEN }), "died");
        assert_eq!(short(&Seen { asked: true, ..SEEN }), "interrupted");
    }
}
