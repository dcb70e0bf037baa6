//! The smallest sweep with every kind of stage, and where tests run it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Folder, entries, write};

/// Every kind of stage, each as small as it gets: two rows, seven stages.
pub(crate) const SWEEP: &str = "
name: tiny
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  method: mcsd
  label_ratio: 2 cases
  size: 32
  timesteps: [50]
  blocks: [0]
  feature_dim: 4
  tau: 0.3
  dic: false
  unet: { channels: [4, 4, 8, 8, 8] }
  diffusion: { channel_mult: [1, 1], res_blocks: 1, attention: [2], iterations: 4, batch: 2 }
  train: { iterations: 8, batch: 2, validate_every: 4 }
grid:
  dfm: [false, true]
";
pub(crate) const STAGES: usize = 7;
/// Jobs of a cluster that those are where evaluations ask for something of their own: the data; the model and the row
/// without it; its maps and that row's evaluation; the other row's training; its evaluation.
pub(crate) const JOBS: usize = 7;
pub(crate) const CLUSTER: &str =
    "default: { cpus: 1, memory: 500M, time: 10, signal: 5 }\nevaluate: { setup: 'true' }\n";
/// Where they do not, they are no jobs of their own.
pub(crate) const TOGETHER: &str = "default: { cpus: 1, memory: 500M, time: 10, signal: 5 }\n";

/// The frames that processes of this machine make of [`SWEEP`].
pub(crate) static WHOLE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| local(SWEEP).0);

/// The frames of `sweep` as this machine's processes make them, and the seconds that it took.
pub(crate) fn local(sweep: &str) -> (Vec<Vec<u8>>, f64) {
    let folder = Folder::new(sweep);
    let start = Instant::now();
    let (code, out, err) = folder.run(&["run", "tiny.yaml", "--threads", "1"]);
    assert_eq!(code, 0, "{out}\n{err}");
    (folder.frames(), start.elapsed().as_secs_f64())
}

/// Where stages are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Processes of this machine.
    Processes,
    /// A stand-in for Slurm.
    Fake,
    /// A real Slurm.
    Real,
}

/// A place to compute at.
pub(crate) struct Site {
    pub(crate) kind: Kind,
    /// The stand-in's programs and state.
    fake: Option<tempfile::TempDir>,
    /// Real ones have one node, which tests take turns on.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Site {
    fn processes() -> Self {
        Self { kind: Kind::Processes, fake: None, _turn: None }
    }

    pub(crate) fn fake() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fake_slurm.sh");
        fs::create_dir(dir.path().join("bin")).expect("a folder");
        for name in ["sbatch", "squeue", "sacct", "scancel", "scontrol"] {
            let path = dir.path().join("bin").join(name);
            let text = format!("#!/bin/sh\nexec bash '{script}' {name} '{}' \"$@\"\n", dir.path().display());
            write(&path, text.as_bytes());
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        write(&dir.path().join("run"), b"");
        Self { kind: Kind::Fake, fake: Some(dir), _turn: None }
    }

    /// The real one; none where there is none, which is said so that nobody overlooks it.
    pub(crate) fn real(test: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        static THERE: LazyLock<bool> = LazyLock::new(|| {
            let answers = || Command::new("sinfo").stdout(Stdio::null()).stderr(Stdio::null()).status();
            std::env::var_os("SLURM_CONF").is_some() && answers().is_ok_and(|status| status.success())
        });
        if !*THERE {
            // Past the harness, which shows nothing of tests that pass.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED on a real Slurm: {test}; start one: eval \"$(scripts/start_slurm.sh DIR)\""
            );
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { kind: Kind::Real, fake: None, _turn: Some(turn) })
    }

    /// This machine's processes, and the clusters.
    pub(crate) fn all(test: &str) -> impl Iterator<Item = Self> {
        std::iter::once_with(Self::processes).chain(Self::clusters(test))
    }

    /// The stand-in and, where there is one, the real one.
    pub(crate) fn clusters(test: &str) -> impl Iterator<Item = Self> {
        let test = test.to_owned();
        std::iter::once_with(|| Some(Self::fake()))
            .chain(std::iter::once_with(move || Self::real(&test)))
            .flatten()
    }

    /// `sweep run FILE` at this place.
    pub(crate) fn run_of(&self, file: &'static str) -> Vec<&'static str> {
        match self.kind {
            Kind::Processes => vec!["run", file, "--threads", "1"],
            Kind::Fake | Kind::Real => vec!["run", file, "--executor", "slurm"],
        }
    }

    pub(crate) fn command(&self, folder: &Folder, args: &[&str]) -> Command {
        let mut command = folder.command(args);
        if let Some(dir) = &self.fake {
            let path = std::env::var("PATH").unwrap_or_default();
            command
                .env("PATH", format!("{}:{path}", dir.path().join("bin").display()))
                .env_remove("SLURM_CONF");
        }
        command
    }

    pub(crate) fn run(&self, folder: &Folder, args: &[&str]) -> (i32, String, String) {
        let output = self.command(folder, args).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    pub(crate) fn spawn(&self, folder: &Folder, args: &[&str]) -> Child {
        let mut command = self.command(folder, args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// How often the stand-in's `program` was called.
    pub(crate) fn calls(&self, program: &str) -> usize {
        let Some(dir) = &self.fake else { return 0 };
        let text = fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
        text.lines().filter(|line| line.split(' ').nth(1) == Some(program)).count()
    }
}

/// A folder with the sweep `tiny` and what jobs of a cluster ask for.
pub(crate) fn folder(sweep: &str, cluster: &str) -> Folder {
    let folder = Folder::new(sweep);
    write(&folder.path("cluster.yaml"), cluster.as_bytes());
    folder
}

/// The sweep ended as on this machine, and left nothing behind.
pub(crate) fn is_as_whole(folder: &Folder, said: &str) {
    assert!(folder.frames() == *WHOLE, "the frames equal those of local processes, bit for bit\n{said}");
    assert_eq!(folder.objects().len(), STAGES, "every stage is there once");
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new(), "nothing is left behind");
    assert_eq!(
        entries(&folder.path("results/.store/slurm")),
        Vec::<PathBuf>::new(),
        "all jobs are collected"
    );
}

/// A sweep of one row with a training of so many steps.
pub(crate) fn one_row(iterations: u32) -> String {
    SWEEP.replace("iterations: 8", &format!("iterations: {iterations}")).replace("[false, true]", "[false]")
}
