//! What holds wherever stages are computed: by processes of this machine, by the jobs of a stand-in for Slurm, and by those
//! of a real Slurm where there is one (see `slurm.rs`). One case each, the same for all.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::site::{
    CLUSTER, JOBS, Kind, STAGES, SWEEP, Site, TOGETHER, WHOLE, folder, is_as_whole, local, one_row,
};
use common::{Folder, entries, flip, write};

/// Waits for `what`.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(180), "{what} within three minutes");
        sleep(Duration::from_millis(20));
    }
}

/// The processes that compute a stage in `folder`, whoever started them.
fn workers(folder: &Folder) -> Vec<u32> {
    let here = fs::canonicalize(folder.path("")).expect("it is there");
    let is_one = |process: &u32| {
        let place = PathBuf::from(format!("/proc/{process}"));
        let arguments = fs::read(place.join("cmdline")).unwrap_or_default();
        let stage = arguments.split(|&byte| byte == 0).nth(1) == Some(b"stage");
        stage && fs::read_link(place.join("cwd")).is_ok_and(|cwd| cwd == here)
    };
    let numbers = entries(&PathBuf::from("/proc")).into_iter();
    numbers.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).filter(is_one).collect()
}

/// Waits until a training has saved something, and is at work.
fn wait_for_a_checkpoint(folder: &Folder) {
    let saved = |work: &PathBuf| work.join("checkpoint.safetensors").exists();
    wait_until("a checkpoint", || {
        entries(&folder.path("results/.store/tmp")).iter().any(saved) && !workers(folder).is_empty()
    });
}

/// What the processes of all stages wrote.
fn logs(folder: &Folder) -> Vec<String> {
    let logs = entries(&folder.path("results/.store/logs"));
    logs.iter().map(|path| fs::read_to_string(path).expect("a log")).collect()
}

/// Runs the sweep to its end, which must be a good one; what it said.
fn succeed(site: &Site, folder: &Folder, file: &'static str) -> String {
    let (code, out, err) = site.run(folder, &site.run_of(file));
    assert_eq!(code, 0, "{:?}\n{out}\n{err}", site.kind);
    format!("{out}{err}")
}

#[test]
fn the_same_bits_and_a_second_run_does_nothing() {
    for site in Site::all("a whole sweep") {
        let folder = folder(SWEEP, CLUSTER);
        let said = succeed(&site, &folder, "tiny.yaml");
        is_as_whole(&folder, &said);
        let before = folder.identities();
        assert!(succeed(&site, &folder, "tiny.yaml").contains("nothing to do"));
        assert_eq!(folder.identities(), before);
    }
}

#[test]
fn an_engine_that_is_killed_half_way_is_followed_by_one_that_goes_on() {
    for site in Site::all("kill of the engine and re-run") {
        let folder = folder(SWEEP, CLUSTER);
        let mut engine = site.spawn(&folder, &site.run_of("tiny.yaml"));
        folder.wait_for_objects(2);
        engine.kill().expect("it runs");
        engine.wait().expect("it ends");
        let before = folder.identities();
        assert!(before.len() < STAGES, "it was killed half-way");
        let said = succeed(&site, &folder, "tiny.yaml");
        is_as_whole(&folder, &said);
        let after = folder.identities();
        assert!(before.iter().all(|(object, identity)| after.get(object) == Some(identity)));
        if site.kind == Kind::Fake {
            assert_eq!(site.calls("sbatch"), JOBS, "nothing is submitted twice\n{said}");
        }
    }
}

#[test]
fn a_process_that_dies_at_work_is_followed_by_one_that_goes_on_from_its_checkpoint() {
    let sweep = one_row(2_000);
    let (wanted, _) = local(&sweep);
    for site in Site::all("kill of a stage's process") {
        let folder = folder(&sweep, TOGETHER);
        let run = [&site.run_of("tiny.yaml")[..], &["--checkpoint-every", "0.1"]].concat();
        let mut command = site.command(&folder, &run);
        let engine =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        wait_for_a_checkpoint(&folder);
        for process in workers(&folder) {
            let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
        }
        let output = engine.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{:?}\n{err}", site.kind);
        assert!(folder.frames() == wanted, "{:?}: the same bits\n{err}", site.kind);
        assert_eq!(folder.leftovers(), Vec::<PathBuf>::new());
        assert!(logs(&folder).iter().any(|log| log.contains("continues from step")), "{err}");
    }
}

#[test]
fn a_cancelled_sweep_goes_on_where_it_was() {
    let sweep = one_row(3_000);
    let (wanted, _) = local(&sweep);
    for site in Site::all("cancel and re-run") {
        let folder = folder(&sweep, TOGETHER);
        let mut engine =
            site.spawn(&folder, &[&site.run_of("tiny.yaml")[..], &["--checkpoint-every", "0.1"]].concat());
        wait_for_a_checkpoint(&folder);
        let (code, out, err) = site.run(&folder, &["cancel", "tiny"]);
        assert_eq!(code, 0, "{:?}\n{out}\n{err}", site.kind);
        assert_eq!(engine.wait().expect("it ends").code(), Some(130), "{:?}", site.kind);
        let store = mcsd_sweep::store::Store::at(folder.path("results/.store"));
        wait_until("nothing works on it", || store.held().expect("readable").is_empty());
        assert!(folder.objects().len() < 3, "{:?}: it was not at its end", site.kind);
        let said = succeed(&site, &folder, "tiny.yaml");
        assert!(folder.frames() == wanted, "{:?}: the same bits\n{said}", site.kind);
        assert_eq!(folder.leftovers(), Vec::<PathBuf>::new());
        assert!(logs(&folder).iter().any(|log| log.contains("continues from step")), "{said}");
    }
}

#[test]
fn a_training_that_diverges_ends_alone_and_is_not_trained_again() {
    let sweep = SWEEP.replace("dfm: [false, true]", "dfm: [false]\n  train.lr: [0.01, 1.0e30]");
    for site in Site::all("a training that diverges") {
        let folder = folder(&sweep, TOGETHER);
        let run = |more: &[&str]| site.run(&folder, &[&site.run_of("tiny.yaml")[..], more].concat());
        let (code, out, err) = run(&[]);
        assert_eq!(code, 1, "{:?}\n{out}\n{err}", site.kind);
        assert!(err.contains("diverged") && err.contains("at step") && err.contains("train.lr"), "{err}");
        let (code, out, err) = run(&["--json"]);
        assert_eq!(code, 1, "{err}");
        assert!(!out.contains("\"event\":\"started\""), "{out}");
        assert!(err.contains("1 of 2 points"), "{err}");
        let points = fs::read_to_string(folder.path("results/tiny/points.csv")).expect("the frame");
        assert!(
            points.contains("diverged: the loss is") && points.matches(",done,").count() == 1,
            "{points}"
        );
        let (code, out, err) = run(&["--json", "--retry-diverged"]);
        assert_eq!(code, 1, "{err}");
        assert!(out.contains("\"event\":\"started\""), "{out}");
    }
}

#[test]
fn a_damaged_object_is_computed_again_in_the_same_run_and_nothing_else_is() {
    for site in Site::all("a flipped bit") {
        let folder = folder(SWEEP, TOGETHER);
        succeed(&site, &folder, "tiny.yaml");
        let meta = |object: &PathBuf| fs::read_to_string(object.join("meta.json")).expect("an object");
        let find =
            |wanted: &dyn Fn(&PathBuf) -> bool| folder.objects().into_iter().find(|object| wanted(object));
        // A bit of the maps that a training reads, and the training itself and its evaluation gone.
        let maps = find(&|object| object.join("maps.f16").exists()).expect("maps");
        flip(&maps.join("maps.f16"));
        let trained = find(&|object| meta(object).contains("\"features/t50/b0\"")).expect("a training");
        let key = trained.file_name().and_then(|name| name.to_str()).expect("a key").to_owned();
        let reads = |object: &PathBuf| *object != trained && meta(object).contains(&key);
        let evaluated = find(&reads).expect("an evaluation");
        let before = folder.identities();
        fs::remove_dir_all(&trained).expect("gone");
        fs::remove_dir_all(&evaluated).expect("gone");
        let said = succeed(&site, &folder, "tiny.yaml");
        assert!(said.contains("computed again"), "{:?}\n{said}", site.kind);
        assert!(said.contains("3 stages computed, 4 found"), "{:?}\n{said}", site.kind);
        is_as_whole(&folder, &said);
        assert_eq!(entries(&folder.path("results/.store/quarantine")).len(), 1);
        let after = folder.identities();
        let same = before.iter().filter(|(object, identity)| after.get(*object) == Some(identity)).count();
        assert_eq!(same, STAGES - 3);
    }
}

#[test]
fn engines_at_once_share_the_work() {
    for site in Site::all("three engines at once") {
        let folder = folder(SWEEP, CLUSTER);
        let run = [&site.run_of("tiny.yaml")[..], &["--json"]].concat();
        let start = || {
            let mut command = site.command(&folder, &run);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
        };
        let engines = [start(), start(), start()];
        let mut computed = 0;
        for engine in engines {
            let output = engine.wait_with_output().expect("ends");
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{:?}\n{err}", site.kind);
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                if event["event"] == "ended" {
                    computed += event["computed"].as_u64().expect("a number") as usize;
                    assert_eq!(
                        event["finished"].as_u64(),
                        Some(STAGES as u64),
                        "each knows that all is there"
                    );
                }
            }
        }
        if site.kind == Kind::Processes {
            assert_eq!(computed, STAGES, "each stage was computed once");
        }
        if site.kind == Kind::Fake {
            assert_eq!(site.calls("sbatch"), JOBS, "nothing was submitted twice");
        }
        is_as_whole(&folder, "");
    }
}

#[test]
fn a_part_first_and_then_the_rest_and_what_another_sweep_shares() {
    for site in Site::all("a part, the rest, and another sweep") {
        let folder = folder(SWEEP, TOGETHER);
        let part = [&site.run_of("tiny.yaml")[..], &["--only", "dfm=false"]].concat();
        let (code, out, err) = site.run(&folder, &part);
        assert_eq!(code, 0, "{:?}\n{out}\n{err}", site.kind);
        assert_eq!(folder.objects().len(), 3, "data, training, evaluation");
        let said = succeed(&site, &folder, "tiny.yaml");
        assert!(said.contains("4 stages computed, 3 found"), "{:?}\n{said}", site.kind);
        assert!(folder.frames() == *WHOLE);
        let other = SWEEP.replace("dfm: [false, true]", "dfm: [false, true]\n  tau: [0.3, 0.9]");
        let other = other.replace("name: tiny", "name: other").replace("  tau: 0.3\n", "");
        let other = other.replace("dic: false", "dic: true");
        write(&folder.path("other.yaml"), other.as_bytes());
        let said = succeed(&site, &folder, "other.yaml");
        assert!(said.contains("3 found"), "{:?}: data, model and maps are shared:\n{said}", site.kind);
    }
}
