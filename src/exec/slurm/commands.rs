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
    /// The controller is down, busy or full: the same may be answered later, and may have been done.
    Down(String),
    /// It said no.
    Refused(String),
}

/// What Slurm's programs and libraries say while a controller is down, busy or full. Limits of submission are among them:
/// they end when jobs do.
const DOWN: [&str; 19] = [
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
    "MaxSubmit",
    "MaxJobs",
    "submit limit",
    "try again",
];

/// Where Slurm's programs are, and how long they may take.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    /// The folder that they are in; on the path where there is none.
    pub(super) folder: Option<PathBuf>,
    /// How long one may take.
    pub(super) limit: Duration,
}

impl Commands {
    /// What `program` writes to its standard output.
    pub(super) fn call(&self, program: &str, args: &[&str]) -> Result<String, Trouble> {
        let path = self.folder.as_ref().map_or_else(|| PathBuf::from(program), |folder| folder.join(program));
        let mut command = Command::new(&path);
        command.args(args).env("LC_ALL", "C");
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
        let text =
            "12|3|RUNNING|None|sweep-a\n13|N/A|CANCELLED|None|else\n\n12|4|PENDING|a|b|c\nslurm: hello\n";
        let found = rows(text);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].id, found[0].index, found[0].word.as_str()), (12, Some(3), "RUNNING"));
        assert_eq!((found[1].id, found[1].index), (13, None));
        assert_eq!((found[2].reason.as_str(), found[2].name.as_str()), ("a", "b|c"));
        let found =
            accounts("12_3|CANCELLED by 1000|None\n12_4|NODE_FAIL|\n12_[5-9]|PENDING|None\n12|FAILED|x\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], (12, 3, "CANCELLED by 1000".into(), "None".into()));
        assert_eq!(max_array_size("Conf\nMaxArraySize            = 1001\nMaxJobCount = 9\n"), Some(1001));
        assert_eq!(max_array_size("MaxArraySize = (null)"), None);
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
    }
}
