//! Slurm's programs: started, waited for with a limit, and their answers read.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often is looked whether a program has ended.
const TICK: Duration = Duration::from_millis(5);

/// Why a program gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The controller is down or busy: the same may be answered later, and may have been done.
    Down(String),
    /// A person has as many jobs as there may be: the same may be taken once some are over.
    Full(String),
    /// It said no.
    Refused(String),
}

/// What Slurm's programs and libraries say while a controller is down or busy.
const DOWN: [&str; 16] = [
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Zero Bytes were transmitted",
    "Transport endpoint",
    "temporarily unable to accept job",
    "Resource temporarily unavailable",
    "Unexpected message received",
    "backup controller",
    "Protocol authentication error",
    "Munge",
    "munge",
    "Slurm is in the process of",
    "try again",
];
/// Words of Slurm for as many jobs of a person as there may be.
const LIMITS: [&str; 3] = ["MaxSubmit", "GrpSubmit", "MaxJobs"];

/// Whether an answer says that a person has as many jobs as there may be. Slurm ends every violation of a limit with the
/// same sentence, which names submissions among others: it counts where no limit stands before it.
fn is_limit(said: &str) -> bool {
    let named =
        said.split(|c: char| !c.is_alphanumeric()).any(|word| word.len() > 5 && word.ends_with("Limit"));
    LIMITS.iter().any(|word| said.contains(word)) || said.contains("submit limit") && !named
}

/// Where Slurm's programs are, and how long they may take.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    /// The folder that they are in; on the path where there is none.
    pub(super) folder: Option<PathBuf>,
    /// How long one may take.
    pub(super) limit: Duration,
}

/// Whether an environment variable stands for options of Slurm's programs.
fn is_override(name: &str) -> bool {
    const PROGRAMS: [&str; 5] = ["SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_"];
    name == "SLURM_CLUSTERS" || PROGRAMS.iter().any(|program| name.starts_with(program))
}

impl Trouble {
    /// What was said.
    pub(super) fn text(self) -> String {
        let (Self::Down(text) | Self::Full(text) | Self::Refused(text)) = self;
        text
    }
}

impl Commands {
    /// What `program` writes to its standard output.
    pub(super) fn call(&self, program: &str, args: &[&str]) -> Result<String, Trouble> {
        let path = self.folder.as_ref().map_or_else(|| PathBuf::from(program), |folder| folder.join(program));
        let mut command = Command::new(&path);
        command.args(args).env("LC_ALL", "C");
        // What a person has set for calls by hand would override the script and change the answers.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_override) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::Refused(format!(
                "there is no `{program}` here: run this where jobs are submitted, or leave `--executor slurm` away"
            )),
            _ => Trouble::Down(format!("cannot start `{program}`: {error}")),
        })?;
        let (out, err) = (read(child.stdout.take()), read(child.stderr.take()));
        let begun = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begun.elapsed() < self.limit => thread::sleep(TICK),
                _ => {
                    let _ = child.kill(); // it may have ended just now
                    let _ = child.wait();
                    let seconds = self.limit.as_secs();
                    return Err(Trouble::Down(format!("`{program}` gave no answer within {seconds} s")));
                }
            }
        };
        // What a child of the program keeps open is not waited for.
        let text = |stream: &mpsc::Receiver<Vec<u8>>| match stream.recv_timeout(Duration::from_secs(5)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => String::new(),
        };
        let (out, err) = (text(&out), text(&err));
        if status.success() {
            return Ok(out);
        }
        let said = if err.trim().is_empty() { out.trim() } else { err.trim() };
        let said = if said.is_empty() { status.to_string() } else { said.replace('\n', "; ") };
        let text = format!("{program}: {said}");
        Err(if DOWN.iter().any(|words| said.contains(words)) {
            Trouble::Down(text)
        } else if is_limit(&said) {
            Trouble::Full(text)
        } else {
            Trouble::Refused(text)
        })
    }
}

/// Reads a stream to its end on a thread of its own, so that none that is full holds up the other.
fn read(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (give, take) = mpsc::channel();
    if let Some(mut stream) = stream {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes); // what was read until then counts
            let _ = give.send(bytes); // nobody waits any more where the program took too long
        });
    }
    take
}

/// A job as `squeue` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The number of its array.
    pub(super) id: u64,
    /// Its place in it; none of a row that stands for those that were cancelled before they began.
    pub(super) index: Option<u32>,
    /// Its state, in Slurm's word.
    pub(super) word: String,
    /// Why it is in that state.
    pub(super) reason: String,
    /// Its name.
    pub(super) name: String,
}

/// The arguments of `squeue` that give [`rows`].
pub(super) const SQUEUE: [&str; 6] =
    ["--me", "--all", "--array", "--states=all", "--noheader", "--format=%F|%K|%T|%r|%j"];

/// The jobs in the answer of `squeue`.
pub(super) fn rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut cells = line.trim().splitn(5, '|');
        let (id, index) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok());
        let mut cell = || cells.next().map(str::to_owned);
        Some(Row { id, index, word: cell()?, reason: cell()?, name: cell()? })
    };
    text.lines().filter_map(row).collect()
}

/// The arguments of `sacct` that give [`accounts`] of `jobs`.
pub(super) fn sacct(jobs: &[String]) -> Vec<String> {
    let jobs = format!("--jobs={}", jobs.join(","));
    let fixed =
        ["--noheader", "--parsable2", "--allocations", "--duplicates", "--format=JobID,State,Reason,JobName"];
    fixed.iter().map(|&arg| arg.to_owned()).chain([jobs]).collect()
}

/// Elements of arrays as `sacct` lists them. Where one ran more than once, its last run comes last.
pub(super) fn accounts(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut cells = line.trim().splitn(4, '|');
        let (id, index) = cells.next()?.split_once('_')?;
        let (id, index) = (id.parse().ok()?, Some(index.parse().ok()?));
        let mut cell = || cells.next().map(str::to_owned);
        Some(Row { id, index, word: cell()?, reason: cell()?, name: cell()? })
    };
    text.lines().filter_map(row).collect()
}

/// Whether an answer of `sacct` says that there is no accounting, rather than that it has trouble.
pub(super) fn has_no_accounts(said: &str) -> bool {
    said.contains("accounting storage is disabled") || said.contains("there is no `sacct`")
}

/// What arrays may be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Indices are below this.
    pub(super) indices: u32,
    /// So many elements of an array are held against the elements that they wait for; all others against the whole array.
    pub(super) one_by_one: u32,
}

/// The limits in the answer of `scontrol show config`; Slurm's own defaults where it does not say.
pub(super) fn limits(text: &str) -> Limits {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
        line.trim().strip_prefix('=').map(str::trim)
    };
    let indices = value("MaxArraySize").and_then(|text| text.parse().ok());
    let parameters = value("SchedulerParameters").unwrap_or_default();
    let named = |part: &str| part.trim().strip_prefix("correspond_after_task_cnt=")?.parse().ok();
    Limits {
        indices: indices.filter(|&n| n > 0).unwrap_or(1001),
        one_by_one: parameters.split(',').find_map(named).filter(|&n| n > 0).unwrap_or(10),
    }
}

/// The number in the answer of `sbatch --parsable`: `12`, or `12;cluster`.
pub(super) fn submitted(text: &str) -> Option<u64> {
    // Sites have sbatch print greetings.
    text.lines().rev().find_map(|line| line.trim().split(';').next()?.parse().ok())
}

/// Indices as `--array` and `scancel` take them: `0-3,7`.
pub(super) fn ranges(indices: impl IntoIterator<Item = u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for index in indices {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => parts.push((index, index)),
        }
    }
    let part = |&(from, to): &(u32, u32)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_what_is_no_answer_is_passed_over() {
        let text =
            "12|3|RUNNING|None|sweep-a\n13|N/A|CANCELLED|None|else\n\n12|4|PENDING|a|b|c\nslurm: hello\n";
        let found = rows(text);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].id, found[0].index, found[0].word.as_str()), (12, Some(3), "RUNNING"));
        assert_eq!((found[1].id, found[1].index), (13, None));
        assert_eq!((found[2].reason.as_str(), found[2].name.as_str()), ("a", "b|c"));
        let found = accounts(
            "12_3|CANCELLED by 1000|None|a\n12_4|NODE_FAIL||b\n12_[5-9]|PENDING|None|a\n12|FAILED|x|a\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id, found[0].index), (12, Some(3)));
        assert_eq!((found[0].word.as_str(), found[0].name.as_str()), ("CANCELLED by 1000", "a"));
        let asked = limits(
            "Conf\nMaxArraySize            = 5000\nMaxJobCount = 9\n\
             SchedulerParameters     = bf_interval=2,correspond_after_task_cnt=64\n",
        );
        assert_eq!(asked, Limits { indices: 5000, one_by_one: 64 });
        let silent = Limits { indices: 1001, one_by_one: 10 };
        assert_eq!(limits("MaxArraySize = (null)\nSchedulerParameters     = (null)\n"), silent);
        assert!(has_no_accounts("sacct: Slurm accounting storage is disabled"));
        assert!(!has_no_accounts("sacct: error: Connection refused"));
        let overrides =
            ["SBATCH_PARTITION", "SQUEUE_FORMAT", "SACCT_FORMAT", "SCANCEL_STATE", "SLURM_CLUSTERS"];
        assert!(overrides.iter().all(|name| is_override(name)));
        assert!(!["SLURM_CONF", "PATH", "HOME"].iter().any(|name| is_override(name)));
        assert_eq!(
            [submitted("12\n"), submitted("Welcome!\n34;gpu\n"), submitted("no")],
            [Some(12), Some(34), None]
        );
        assert_eq!(ranges([0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        assert_eq!(ranges([]), "");
    }

    #[cfg(unix)]
    #[test]
    fn programs_that_are_absent_slow_or_down_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join(name);
            crate::store::files::write_atomic(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("well", "echo 12; echo note >&2");
        program("slow", "exec sleep 60");
        program(
            "down",
            "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        );
        program("wrong", "echo 'error: invalid partition specified: gpu' >&2; exit 1");
        let violates =
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)";
        program("full", &format!("echo \"error: QOSMaxSubmitJobPerUserLimit\n{violates}\" >&2; exit 1"));
        program("some", &format!("echo \"error: {violates}\" >&2; exit 1"));
        program("large", &format!("echo \"error: QOSMaxCpuPerJobLimit\n{violates}\" >&2; exit 1"));
        program("mute", "exit 3");
        let commands = Commands { folder: Some(dir.path().to_owned()), limit: Duration::from_millis(300) };
        assert_eq!(commands.call("well", &[]), Ok("12\n".to_owned()));
        let refused = |name| match commands.call(name, &[]) {
            Err(Trouble::Refused(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(refused("nowhere").contains("--executor slurm"), "{}", refused("nowhere"));
        assert!(refused("wrong").contains("invalid partition"));
        assert!(refused("mute").contains("exit status: 3"));
        assert!(matches!(commands.call("slow", &[]), Err(Trouble::Down(text)) if text.contains("no answer")));
        assert!(matches!(commands.call("down", &[]), Err(Trouble::Down(_))));
        assert!(matches!(commands.call("full", &[]), Err(Trouble::Full(_))));
        assert!(matches!(commands.call("some", &[]), Err(Trouble::Full(_))));
        assert!(refused("large").contains("QOSMaxCpuPerJobLimit"), "a larger job will never be taken");
    }
}
