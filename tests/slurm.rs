//! What is Slurm's alone of `--executor slurm`: on a stand-in everywhere (`tests/fixtures/fake_slurm.sh`), and the same and
//! more on a real Slurm where `SLURM_CONF` names one that answers (`.ci/run` starts one with `scripts/start_slurm.sh` where it
//! can). What holds for every executor is in `executors.rs`.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::entries;
use common::site::{CLUSTER, JOBS, Kind, SWEEP, Site, TOGETHER, folder, is_as_whole, local, one_row};

const RUN: [&str; 4] = ["run", "tiny.yaml", "--executor", "slurm"];

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
    for site in Site::clusters("arrays with dependencies") {
        let folder = folder(SWEEP, CLUSTER);
        let (code, out, err) = site.run(&folder, &RUN);
        assert_eq!(code, 0, "{out}\n{err}");
        is_as_whole(&folder, &err);
        assert!(err.contains("train ×1, afterok:"), "{err}");
        if site.kind == Kind::Fake {
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
    for site in Site::clusters("more than ten trainings with an evaluation each") {
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
fn ctrl_c_leaves_the_jobs_and_says_how_to_watch_and_cancel_them() {
    for site in Site::clusters("leaving, status and cancel") {
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
