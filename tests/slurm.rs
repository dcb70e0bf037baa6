//! Sweeps through `--executor slurm`: on a stand-in everywhere (`tests/fixtures/fake_slurm.sh`), and the same and more on a
//! real Slurm where `SLURM_CONF` names one that answers (`.ci/run` starts one with `scripts/start_slurm.sh` where it can).
#![cfg(unix)]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Folder, entries, write};

/// Every kind of stage, each as small as it gets: two rows, seven stages.
const SWEEP: &str = "
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
const STAGES: usize = 7;
/// Jobs that those are where evaluations ask for something of their own: the data; the model and the row without it; its
/// maps and that row's evaluation; the other row's training; its evaluation.
const JOBS: usize = 7;
const CLUSTER: &str =
    "default: { cpus: 1, memory: 500M, time: 10, signal: 5 }\nevaluate: { setup: 'true' }\n";
/// Where they do not, they are no jobs of their own.
const TOGETHER: &str = "default: { cpus: 1, memory: 500M, time: 10, signal: 5 }\n";

/// The frames that processes of this machine make of [`SWEEP`].
static WHOLE: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| local(SWEEP).0);

/// The frames of `sweep` as this machine's processes make them, and the seconds that it took.
fn local(sweep: &str) -> (Vec<Vec<u8>>, f64) {
    let folder = Folder::new(sweep);
    let start = Instant::now();
    let (code, out, err) = folder.run(&["run", "tiny.yaml", "--threads", "1"]);
    assert_eq!(code, 0, "{out}\n{err}");
    (folder.frames(), start.elapsed().as_secs_f64())
}

/// A cluster.
struct Site {
    /// The stand-in's programs and state; none of a real one.
    fake: Option<tempfile::TempDir>,
    /// Real ones have one node, which tests take turns on.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Site {
    fn fake() -> Self {
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
        Self { fake: Some(dir), _turn: None }
    }

    /// The real one; none where there is none, which is said so that nobody overlooks it.
    fn real(test: &str) -> Option<Self> {
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
        Some(Self { fake: None, _turn: Some(turn) })
    }

    /// The stand-in and, where there is one, the real one.
    fn all(test: &str) -> impl Iterator<Item = Self> {
        let test = test.to_owned();
        std::iter::once_with(|| Some(Self::fake()))
            .chain(std::iter::once_with(move || Self::real(&test)))
            .flatten()
    }

    fn command(&self, folder: &Folder, args: &[&str]) -> Command {
        let mut command = folder.command(args);
        if let Some(dir) = &self.fake {
            let path = std::env::var("PATH").unwrap_or_default();
            command
                .env("PATH", format!("{}:{path}", dir.path().join("bin").display()))
                .env_remove("SLURM_CONF");
        }
        command
    }

    fn run(&self, folder: &Folder, args: &[&str]) -> (i32, String, String) {
        let output = self.command(folder, args).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn spawn(&self, folder: &Folder, args: &[&str]) -> Child {
        let mut command = self.command(folder, args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// What the stand-in was asked, a line each.
    fn calls(&self, program: &str) -> usize {
        let Some(dir) = &self.fake else { return 0 };
        let text = fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
        text.lines().filter(|line| line.split(' ').nth(1) == Some(program)).count()
    }
}

const RUN: [&str; 4] = ["run", "tiny.yaml", "--executor", "slurm"];

fn folder(sweep: &str, cluster: &str) -> Folder {
    let folder = Folder::new(sweep);
    write(&folder.path("cluster.yaml"), cluster.as_bytes());
    folder
}

fn is_as_whole(folder: &Folder, said: &str) {
    assert!(folder.frames() == *WHOLE, "the frames equal those of local processes, bit for bit\n{said}");
    assert_eq!(folder.objects().len(), STAGES, "every stage is there once");
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new(), "nothing is left behind");
    assert_eq!(
        entries(&folder.path("results/.store/slurm")),
        Vec::<PathBuf>::new(),
        "all jobs are collected"
    );
}

/// What a program of the real Slurm says.
fn slurm(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits for a training of the sweep to run, and for `more`; gives its element: `12_3`.
fn running_training(more: impl Fn(&[&str]) -> bool) -> String {
    let start = Instant::now();
    loop {
        let text =
            slurm("squeue", &["--me", "--array", "--noheader", "--states=RUNNING", "--format=%F_%K %j"]);
        let of_training = text.lines().filter(|line| line.contains("-train-"));
        let running: Vec<&str> = of_training.filter_map(|line| line.split(' ').next()).collect();
        if !running.is_empty() && more(&running) {
            return running[0].to_owned();
        }
        assert!(start.elapsed() < Duration::from_secs(300), "a training runs within five minutes: {text}");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_sweep_runs_as_arrays_that_wait_for_each_other_and_gives_the_same_bits() {
    for site in Site::all("arrays with dependencies") {
        let folder = folder(SWEEP, CLUSTER);
        let (code, out, err) = site.run(&folder, &RUN);
        assert_eq!(code, 0, "{out}\n{err}");
        is_as_whole(&folder, &err);
        assert!(err.contains("train ×1, afterok:"), "{err}");
        if site.fake.is_some() {
            assert_eq!(site.calls("sbatch"), JOBS);
        }
        let page = fs::read_to_string(folder.path("reports/tiny/index.html")).expect("the report");
        assert!(page.contains("7 jobs of a cluster waited"), "the report says what the queue took");
        let (code, out, _) = site.run(&folder, &RUN);
        assert!(code == 0 && out.contains("nothing to do"), "{out}");
    }
}

/// More trainings than Slurm holds evaluations against one by one, where these ask for something of their own; and all of
/// them in the elements of the trainings, where they do not. A person's settings for calls by hand change nothing.
#[test]
fn more_evaluations_than_slurm_tells_apart_each_follow_their_training() {
    let many = SWEEP.replace("dfm: [false, true]", "seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]");
    let many = many.replace("method: mcsd", "method: supervised").replace("  tau: 0.3\n  dic: false\n", "");
    let many =
        many.replace("iterations: 8,", "iterations: 2,").replace("validate_every: 4", "validate_every: 2");
    let unread = ["diffusion:", "timesteps:", "blocks:", "feature_dim:"];
    let lines = many.lines().filter(|line| !unread.iter().any(|key| line.contains(key)));
    let plain = lines.collect::<Vec<_>>().join("\n");
    let (wanted, _) = local(&plain);
    for site in Site::all("more than ten trainings with an evaluation each") {
        for (cluster, jobs) in [(TOGETHER, 2), (CLUSTER, 4)] {
            let folder = folder(&plain, cluster);
            let mut command = site.command(&folder, &RUN);
            for (name, value) in
                [("SBATCH_PARTITION", "nowhere"), ("SQUEUE_STATES", "FAILED"), ("SACCT_FORMAT", "User")]
            {
                command.env(name, value);
            }
            let output = command.output().expect("the program starts");
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{err}");
            assert!(
                folder.frames() == wanted,
                "the frames equal those of local processes, bit for bit\n{err}"
            );
            assert_eq!(folder.objects().len(), 1 + 2 * 13, "every stage is there once");
            assert_eq!(err.matches("job ").count(), jobs, "{err}");
            let corresponds = err.matches("evaluate ×10, aftercorr:").count()
                + err.matches("evaluate ×3, aftercorr:").count();
            assert_eq!(corresponds, if jobs == 4 { 2 } else { 0 }, "{err}");
        }
    }
}

#[test]
fn an_engine_that_is_killed_half_way_finds_its_jobs_again() {
    for site in Site::all("kill of the engine and re-run") {
        let folder = folder(SWEEP, CLUSTER);
        let mut engine = site.spawn(&folder, &RUN);
        folder.wait_for_objects(2);
        engine.kill().expect("it runs");
        engine.wait().expect("it ends");
        let before = folder.identities();
        assert!(before.len() < STAGES, "it was killed half-way");
        let (code, out, err) = site.run(&folder, &RUN);
        assert_eq!(code, 0, "{out}\n{err}");
        is_as_whole(&folder, &err);
        let after = folder.identities();
        assert!(before.iter().all(|(object, identity)| after.get(object) == Some(identity)));
        if site.fake.is_some() {
            assert_eq!(site.calls("sbatch"), JOBS, "nothing is submitted twice\n{err}");
        }
    }
}

#[test]
fn ctrl_c_leaves_the_jobs_and_says_how_to_watch_and_cancel_them() {
    for site in Site::all("leaving, status and cancel") {
        let long = SWEEP.replace("iterations: 8", "iterations: 2000000").replace("[false, true]", "[false]");
        let folder = folder(&long, CLUSTER);
        let mut command = site.command(&folder, &RUN);
        let engine =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let start = Instant::now();
        while !site.run(&folder, &["status", "tiny"]).1.contains(": train ×1: 0 queued, 1 running") {
            assert!(start.elapsed() < Duration::from_secs(120), "the training begins");
            sleep(Duration::from_millis(200));
        }
        assert!(Command::new("kill").args(["-INT", &engine.id().to_string()]).status().is_ok());
        let output = engine.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{err}");
        assert!(err.contains("left: ") && err.contains("`sweep cancel tiny`"), "{err}");

        let (_, out, _) = site.run(&folder, &["status", "tiny"]);
        assert!(out.contains(": train ×1: 0 queued, 1 running, 0 over"), "{out}");
        assert!(out.contains(": evaluate ×1: 1 queued, 0 running, 0 over"), "{out}");
        assert!(out.contains("--executor slurm` watches and collects them"), "{out}");

        let (code, out, err) = site.run(&folder, &["cancel", "tiny"]);
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.matches("cancelled: what runs saves its work first").count(), 2, "{out}");
        let start = Instant::now();
        let store = mcsd_sweep::store::Store::at(folder.path("results/.store"));
        while !store.held().expect("readable").is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "it stops");
            sleep(Duration::from_millis(50));
        }
        let saved = entries(&folder.path("results/.store/tmp"));
        assert_eq!(saved.len(), 1, "the training's checkpoint: {saved:?}");
        let (code, _, err) = site.run(&folder, &["cancel", "tiny"]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("nothing runs on the store"), "{err}");
    }
}

#[test]
fn what_is_wrong_with_the_settings_of_the_cluster_is_said_before_anything_is_submitted() {
    let site = Site::fake();
    let wrong = folder(SWEEP, "default:\n  partitoin: gpu\n");
    let (code, _, err) = site.run(&wrong, &RUN);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("cluster.yaml:2:3") && err.contains("did you mean `partition`?"), "{err}");
    let fine = folder(SWEEP, CLUSTER);
    for (flag, wanted) in [("--workers=2", "throttle"), ("--threads=2", "cpus"), ("--device=cpu", "device")] {
        let (code, _, err) = site.run(&fine, &[&RUN[..], &[flag]].concat());
        assert!(code == 2 && err.contains(wanted) && err.contains("this machine"), "{flag}: {err}");
    }
    let (code, _, err) = site.run(&fine, &["run", "tiny.yaml", "--cluster", "cluster.yaml"]);
    assert!(code == 2 && err.contains("--executor slurm"), "{err}");
    assert_eq!(site.calls("sbatch"), 0);
    let (code, out, err) = site.run(&fine, &["init", "--cluster", "other"]);
    assert!(code == 0 && out.contains("other.yaml is written"), "{out}{err}");
}

#[test]
fn a_machine_without_slurm_is_told_of() {
    let folder = folder(SWEEP, CLUSTER);
    let output = folder.command(&RUN).env("PATH", "/nowhere").output().expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("there is no `scontrol` here"), "{err}");
}

#[test]
fn one_element_that_somebody_cancels_is_one_failed_stage() {
    let Some(site) = Site::real("scancel of one element") else { return };
    let two = SWEEP.replace("dfm: [false, true]", "dfm: [false]\n  train.iterations: [8, 2000000]");
    let two = two.replace("iterations: 8, ", "");
    let folder = folder(&two, CLUSTER);
    let mut command = site.command(&folder, &RUN);
    let engine = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    // The short one is done, the long one runs.
    let element = running_training(|running| running.len() == 1 && folder.objects().len() >= 3);
    slurm("scancel", &[&element]);
    let output = engine.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("was cancelled, by somebody else") && err.contains("1 of 2 points"), "{err}");
    let points = fs::read_to_string(folder.path("results/tiny/points.csv")).expect("the frame");
    assert_eq!(points.matches(",done,").count(), 1, "{points}");
}

#[test]
fn a_node_that_goes_down_and_comes_back_loses_nothing() {
    let Some(site) = Site::real("node down and up") else { return };
    let longer = one_row(800);
    let (wanted, _) = local(&longer);
    let folder = folder(&longer, CLUSTER);
    let mut command = site.command(&folder, &[&RUN[..], &["--checkpoint-every", "0.2"]].concat());
    let engine = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    running_training(|_| !entries(&folder.path("results/.store/tmp")).is_empty());
    sleep(Duration::from_millis(700));
    let node = slurm("sinfo", &["--noheader", "--format=%n"]);
    slurm("scontrol", &["update", &format!("nodename={node}"), "state=down", "reason=test"]);
    sleep(Duration::from_secs(3));
    // It may have come back by itself, and then there is nothing to resume.
    let resume = ["update", &format!("nodename={node}"), "state=resume"];
    let _ = Command::new("scontrol").args(resume).stderr(Stdio::null()).status();
    let output = engine.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(folder.frames() == wanted, "the frames equal those of local processes, bit for bit\n{err}");
    let logs = entries(&folder.path("results/.store/logs"));
    let starts = |path: &PathBuf| {
        fs::read_to_string(path)
            .is_ok_and(|log| log.contains("train") && log.matches(" starts, ").count() > 1)
    };
    assert!(logs.iter().any(starts), "a training began twice");
}

/// A sweep of one row with a training of so many steps.
fn one_row(iterations: u32) -> String {
    SWEEP.replace("iterations: 8", &format!("iterations: {iterations}")).replace("[false, true]", "[false]")
}

#[test]
fn a_controller_that_is_down_for_a_while_costs_nothing() {
    let Some(site) = Site::real("controller down for half a minute") else { return };
    let sweep = one_row(800);
    let (wanted, _) = local(&sweep);
    let folder = folder(&sweep, TOGETHER);
    let engine = site
        .command(&folder, &RUN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    running_training(|_| true);
    let conf = PathBuf::from(std::env::var_os("SLURM_CONF").expect("a real one"));
    let file = conf.with_file_name("slurmctld.pid");
    let pid = fs::read_to_string(&file).expect("its pid file").trim().to_owned();
    assert!(Command::new("kill").arg(&pid).status().is_ok_and(|status| status.success()));
    sleep(Duration::from_secs(25));
    assert!(Command::new("slurmctld").status().is_ok_and(|status| status.success()), "it comes back");
    let output = engine.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(folder.frames() == wanted, "the frames equal those of local processes, bit for bit\n{err}");
    assert_eq!(err.matches("Slurm does not answer").count(), 1, "said once: {err}");
    assert!(!err.contains("started again"), "{err}");
}

#[test]
fn a_training_that_somebody_requeues_goes_on_in_its_new_slot() {
    let Some(site) = Site::real("scontrol requeue of a running training") else { return };
    let sweep = one_row(800);
    let (wanted, _) = local(&sweep);
    let folder = folder(&sweep, TOGETHER);
    let mut command = site.command(&folder, &[&RUN[..], &["--checkpoint-every", "0.2"]].concat());
    let engine = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let element = running_training(|_| !entries(&folder.path("results/.store/tmp")).is_empty());
    sleep(Duration::from_millis(700));
    slurm("scontrol", &["requeue", &element]);
    sleep(Duration::from_secs(1));
    let (_, out, _) = site.run(&folder, &["status", "tiny"]);
    assert!(out.contains(": train ×1: ") && out.contains(", 0 over"), "it is not over: {out}");
    let output = engine.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(folder.frames() == wanted, "the frames equal those of local processes, bit for bit\n{err}");
    assert!(!err.contains("started again"), "Slurm itself gave it the new slot\n{err}");
}

/// The signal of the time limit has a training save and requeue itself; whoever cancels it meanwhile means it.
#[test]
fn a_training_that_is_cancelled_while_it_saves_does_not_come_back() {
    let Some(site) = Site::real("scancel after the signal of the time limit") else { return };
    let folder = folder(&one_row(2_000_000), TOGETHER);
    let mut engine = site.spawn(&folder, &RUN);
    let element = running_training(|_| !entries(&folder.path("results/.store/tmp")).is_empty());
    engine.kill().expect("it runs");
    engine.wait().expect("it ends");
    // Held still, so that the cancellation comes while it saves: Slurm lets it go on to end it.
    slurm("scancel", &["--full", "--signal=STOP", &element]);
    slurm("scancel", &["--batch", "--signal=USR1", &element]);
    slurm("scancel", &[&element]);
    let start = Instant::now();
    let live = || slurm("squeue", &["--me", "--array", "--noheader", "--format=%F_%K %T"]);
    while live().contains(&element) {
        let text = live();
        assert!(!text.contains(&format!("{element} PENDING")), "it was revived: {text}");
        assert!(start.elapsed() < Duration::from_secs(60), "it ends: {text}");
        sleep(Duration::from_millis(200));
    }
}

/// Minutes: Slurm's shortest limit is one.
#[test]
fn a_job_over_its_time_limit_goes_on_in_a_new_slot() {
    let Some(site) = Site::real("a job over its time limit") else { return };
    let of = one_row;
    // As long as about one slot and a half on this machine.
    let (_, short) = local(&of(500));
    let (_, longer) = local(&of(2500));
    let per_step = ((longer - short) / 2000.0).max(1e-4);
    let sweep = of((75.0 / per_step) as u32);
    let (wanted, _) = local(&sweep);
    let folder = folder(&sweep, "default: { cpus: 1, time: 1, signal: 5 }\n");
    let (code, out, err) = site.run(&folder, &RUN);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(folder.frames() == wanted, "the frames equal those of local processes, bit for bit\n{err}");
    let logs = entries(&folder.path("results/.store/logs"));
    let continued =
        |path: &PathBuf| fs::read_to_string(path).is_ok_and(|log| log.contains("continues from step"));
    assert!(logs.iter().any(continued), "it went on from a checkpoint");
    assert!(!err.contains("started again"), "Slurm itself gave it the new slot\n{err}");
}
