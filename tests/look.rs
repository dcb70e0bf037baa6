//! Looking at sweeps that ran, or run: status, logs, report, gc, doctor, rerun, cancel. The sweeps take seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SWEEP: &str = "
name: tiny
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  method: supervised
  label_ratio: 2 cases
  size: 32
  unet: { channels: [4, 4, 8, 8, 8] }
  train: { iterations: 4, batch: 2, validate_every: 2 }
grid:
  seed: [0, 1]
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(sweep: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        write(&dir.path().join("tiny.yaml"), sweep.as_bytes());
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
        command.current_dir(self.0.path()).args(args);
        command
    }

    /// Runs to the end: exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    /// Runs to the end, which must be a good one; standard output.
    fn good(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}\n{out}\n{err}");
        out
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.good(args)).expect("one JSON object")
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let names = ["points", "cases", "history"];
        let files =
            names.iter().flat_map(|name| ["parquet", "csv"].map(|end| format!("results/tiny/{name}.{end}")));
        files.map(|name| fs::read(self.path(&name)).expect("a frame")).collect()
    }

    /// The folders of the finished stages of a kind.
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let all = self.json(&["status", "tiny", "--json", "--all"]);
        let stages = all["all"]["stages"].as_array().expect("stages");
        let keys = stages.iter().filter(|stage| stage["kind"] == kind && stage["state"] == "done");
        let object = |stage: &Value| {
            let key = stage["key"].as_str().expect("a key");
            self.path(&format!("results/.store/objects/{}/{key}", &key[..2]))
        };
        keys.map(object).collect()
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::File::create(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Changes a byte in the middle of a file.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(path, &bytes);
}

#[test]
fn a_finished_sweep_is_looked_at_without_its_file() {
    let folder = Folder::new(SWEEP);
    folder.good(&["run", "tiny.yaml"]);
    let frames = folder.frames();
    fs::remove_file(folder.path("tiny.yaml")).expect("removed");

    let text = folder.good(&["status", "tiny"]);
    assert!(text.starts_with("tiny: 2 of 2 points done, 0 running, 0 failed, 0 waiting"), "{text}");
    let overview = folder.good(&["status"]);
    assert_eq!(overview.lines().nth(1), Some("tiny   2       2     0        0       done"), "{overview}");
    let value = folder.json(&["status", "--json"]);
    assert_eq!(value["sweeps"][0]["points"]["done"], 2);
    assert!(folder.good(&["status", "tiny", "--watch"]).contains("2 of 2"), "a watch ends where all is done");

    // The report again: from the store, then from the frames alone.
    for gone in ["reports", "results/.store"] {
        fs::remove_dir_all(folder.path(gone)).expect("removed");
        let out = folder.good(&["report", "tiny"]);
        assert!(
            out.starts_with("report: ") && folder.path("reports/tiny/index.html").is_file(),
            "{gone}: {out}"
        );
        assert!(folder.frames() == frames, "the same frames, bit for bit");
    }
    let (code, _, err) = folder.run(&["report", "tinny"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_sweep_is_told_with_how_each_stage_came_to_be() {
    let folder = Folder::new(SWEEP);
    folder.good(&["run", "tiny.yaml", "--threads", "1"]);
    let all = folder.json(&["status", "tiny", "--json", "--all"]);
    let stages = all["all"]["stages"].as_array().expect("stages");
    assert_eq!(stages.len(), 5);
    for stage in stages {
        let provenance = &stage["provenance"];
        assert_eq!(
            (&stage["threads"], &provenance["device"]),
            (&Value::from(1), &Value::from("cpu")),
            "{stage}"
        );
        assert_eq!(provenance["data"], stages[0]["settings"]["content"], "{stage}");
        let moment = |name: &str| provenance[name].as_str().expect("a moment").to_owned();
        assert!(moment("start") <= moment("end"), "{stage}");
        assert!(!cfg!(target_os = "linux") || provenance["peak_memory"].as_u64() > Some(1 << 20), "{stage}");
    }
    let lines = fs::read_to_string(folder.path("results/tiny/provenance.jsonl")).expect("the file");
    assert_eq!(lines.lines().count(), 5);
    let point = all["all"]["points"][0]["id"].as_str().expect("an id");
    let text = folder.good(&["logs", point]);
    assert!(text.contains(&format!("point {point} of tiny: seed=0")) && text.contains("MiB"), "{text}");
    let key = all["all"]["points"][0]["stages"][1].as_str().expect("a key");
    let text = folder.good(&["logs", &key[..10]]);
    for part in ["train supervised", "state     done", "where     cpu", "settings  {"] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}

#[test]
fn what_is_not_known_is_refused_with_the_nearest_that_is() {
    let folder = Folder::new(SWEEP);
    let (code, _, err) = folder.run(&["status"]);
    assert!(code == 2 && err.contains("there is no store"), "{err}");
    folder.good(&["run", "tiny.yaml", "--quiet"]);
    let (code, _, err) = folder.run(&["status", "tinny"]);
    assert!(code == 2 && err.contains("did you mean `tiny`?"), "{err}");
    let point = folder.json(&["status", "tiny", "--json", "--all"])["all"]["points"][0]["id"].clone();
    let point = point.as_str().expect("an id");
    let other = if point.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{other}", &point[..7]);
    let (code, _, err) = folder.run(&["logs", &wrong]);
    assert!(code == 2 && err.contains(&format!("did you mean `{point}`?")), "{err}");
    let (code, _, err) = folder.run(&["logs", ""]);
    assert!(code == 2 && err.contains("may mean several things"), "{err}");
    let (code, _, err) = folder.run(&["cancel", "tiny"]);
    assert!(code == 2 && err.contains("nothing runs"), "{err}");
}

#[test]
fn a_failure_is_told_with_its_reason_and_what_its_process_said() {
    let folder = Folder::new(&SWEEP.replace("  seed: [0, 1]", "  train.lr: [0.01, 1.0e30]"));
    assert_eq!(folder.run(&["run", "tiny.yaml"]).0, 1);
    let text = folder.good(&["status", "tiny"]);
    assert!(text.contains("1 of 2 points done, 0 running, 1 failed") && text.contains("diverged"), "{text}");
    let value = folder.json(&["status", "tiny", "--json", "--all"]);
    let point = value["all"]["points"][1].clone();
    assert_eq!(point["state"], "failed");
    let text = folder.good(&["logs", point["id"].as_str().expect("an id")]);
    assert!(text.contains("failed: ") && text.contains("── train supervised"), "{text}");
}

#[test]
fn a_damaged_index_is_named_and_keeps_gc_from_removing() {
    let folder = Folder::new(SWEEP);
    folder.good(&["run", "tiny.yaml"]);
    let index = folder.path("results/.store/sweeps/tiny.index");
    let whole = fs::read(&index).expect("the index");
    write(&index, &whole[..whole.len() / 2]);
    for args in
        [&["status", "tiny"][..], &["gc", "--older-than", "0s"], &["report", "tiny", "--results", "none"]]
    {
        let (code, _, err) = folder.run(args);
        assert!(
            code != 0 && err.contains("tiny.index is damaged") && err.contains("sweep run"),
            "{args:?}: {err}"
        );
    }
    let (code, out, _) = folder.run(&["doctor"]);
    assert!(code == 1 && out.contains("tiny.index is damaged"), "{out}");
    folder.good(&["run", "tiny.yaml"]);
    assert_eq!(fs::read(&index).expect("the index"), whole, "the next run writes it anew");
}

#[test]
fn gc_removes_what_no_sweep_needs_and_nothing_else() {
    let folder = Folder::new(SWEEP);
    folder.good(&["run", "tiny.yaml"]);
    let before = folder.frames();
    assert!(folder.good(&["gc", "--older-than", "0s"]).contains("nothing to remove"));
    // One seed is taken out of the sweep: a training and an evaluation are needed by none.
    folder.good(&["run", "tiny.yaml", "--set", "seed=0"]);
    assert!(folder.good(&["gc"]).contains("nothing to remove"), "young things stay");
    let planned = folder.json(&["gc", "--older-than", "0s", "--dry-run", "--json"]);
    let objects = |value: &Value| {
        let items = value["removed"].as_array().expect("a list").iter();
        items.filter(|item| item["what"] == "finished stages").count()
    };
    assert_eq!((objects(&planned), &planned["dry_run"]), (2, &Value::Bool(true)));
    let text = folder.good(&["gc", "--older-than", "0s", "--dry-run"]);
    assert!(text.contains("would be removed") && text.contains("KiB"), "{text}");
    let text = folder.good(&["gc", "--older-than", "0s"]);
    assert!(text.contains("finished stages") && text.contains(" removed, "), "{text}");
    assert_eq!(folder.json(&["status", "tiny", "--json"])["stages"]["done"], 3, "what is needed is there");
    assert_eq!(folder.json(&["plan", "tiny.yaml", "--json"])["points"][1]["stages_to_run"], 2);
    folder.good(&["run", "tiny.yaml"]);
    assert!(folder.frames() == before, "computed again, bit for bit");
    // Forgotten: all goes.
    folder.good(&["gc", "--older-than", "0s", "--forget", "tiny"]);
    assert!(folder.good(&["status"]).contains("knows no sweep yet"));
    let (code, _, err) = folder.run(&["gc", "--forget", "tiny"]);
    assert!(code == 2 && err.contains("knows no sweep `tiny`"), "{err}");
}

#[test]
fn doctor_finds_a_changed_byte() {
    let folder = Folder::new(SWEEP);
    let value = folder.json(&["doctor", "--json"]);
    assert_eq!(value["ok"], true, "{value}");
    assert!(!folder.path("results").exists(), "looking makes nothing");
    folder.good(&["run", "tiny.yaml"]);
    assert!(folder.good(&["doctor", "--verify"]).contains("5 finished stages, "));
    let object = folder.objects("train").remove(0);
    spoil(&object.join("history.jsonl"));
    assert!(folder.run(&["doctor"]).0 == 0, "sizes are as they were");
    let (code, out, _) = folder.run(&["doctor", "--verify"]);
    let key = object.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(code == 1 && out.contains(&key) && out.contains("history.jsonl") && out.contains("→ "), "{out}");
}

#[test]
fn a_point_runs_again_and_every_difference_is_named() {
    let folder = Folder::new(SWEEP);
    folder.good(&["run", "tiny.yaml"]);
    let point = folder.json(&["status", "tiny", "--json", "--all"])["all"]["points"][0]["id"].clone();
    let point = point.as_str().expect("an id");
    assert_eq!(folder.run(&["rerun", point]).0, 2, "--check is wanted");
    let out = folder.good(&["rerun", point, "--check"]);
    assert!(out.contains("3 stages again") && out.contains("equal bit for bit"), "{out}");
    let left = fs::read_dir(folder.path("results/.store")).expect("the store").flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("rerun-")));

    let object = folder.objects("evaluate").remove(0);
    let file = object.join("cases.jsonl");
    let before = fs::read_to_string(&file).expect("readable");
    spoil(&file);
    let (code, _, err) = folder.run(&["rerun", point, "--check", "--from", "evaluate"]);
    assert!(code == 1 && err.contains("cases.jsonl is damaged in the store"), "{err}");

    // As though an older program had published it: the hash fits the content, and the metadata has none of its own.
    let hash = |text: &[u8]| blake3::hash(text).to_hex().to_string();
    let spoiled = fs::read(&file).expect("readable");
    let meta = fs::read_to_string(object.join("meta.json")).expect("readable");
    let (meta, _) = meta.rsplit_once(",\n  \"sum\": ").expect("its own hash");
    let meta = meta.replace(&hash(before.as_bytes()), &hash(&spoiled));
    write(&object.join("meta.json"), format!("{meta}\n}}").as_bytes());
    let (code, _, err) = folder.run(&["rerun", point, "--check", "--from", "evaluate"]);
    assert!(code == 1 && err.contains("cases.jsonl differs from byte"), "{err}");
}

/// Waits until `done` holds.
fn wait(child: &mut Child, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(child.try_wait().expect("its state").is_none(), "it ended before {what}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn a_running_sweep_is_seen_and_stopped_and_goes_on() {
    let long = SWEEP
        .replace(
            "iterations: 4, batch: 2, validate_every: 2",
            "iterations: 3000, batch: 2, validate_every: 3000",
        )
        .replace("seed: [0, 1]", "seed: [0]");
    let folder = Folder::new(&long);
    let mut child = folder
        .command(&["run", "tiny.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let pid = child.id();
    let mut seen = Value::Null;
    wait(&mut child, "it is seen", || {
        let (code, out, _) = folder.run(&["status", "tiny", "--json"]);
        seen = if code == 0 { serde_json::from_str(&out).expect("JSON") } else { Value::Null };
        let train = seen["running"].as_array().into_iter().flatten().find(|stage| stage["kind"] == "train");
        train.is_some_and(|stage| stage["total"] == 3000)
    });
    assert_eq!(seen["runs"][0]["process"], pid);
    assert!(folder.good(&["status", "tiny"]).contains(&format!("run by process {pid}")));
    let (code, _, err) = folder.run(&["cancel", "tinny"]);
    assert!(code == 2 && err.contains("did you mean `tiny`?"), "{err}");
    let out = folder.good(&["cancel", "--wait"]);
    assert!(out.contains("is asked to save its work and stop"), "{out}");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    let text = folder.good(&["status", "tiny"]);
    assert!(text.contains("nothing works on it now"), "{text}");
    let left = fs::read_dir(folder.path("results/.store/runs")).expect("a folder").count();
    assert_eq!(left, 0, "nothing is left of the run");
}

#[test]
fn completions_and_manual_pages_come_from_the_definitions() {
    let folder = Folder::new(SWEEP);
    for shell in ["bash", "zsh", "fish"] {
        let script = folder.good(&["completions", shell]);
        assert!(script.contains("older-than") && script.contains("rerun"), "{shell}");
    }
    assert!(folder.good(&["man"]).contains(".TH sweep 1"));
    assert!(folder.good(&["man", "pages"]).contains("pages"));
    let page = fs::read_to_string(folder.path("pages/sweep-status.1")).expect("a page");
    assert!(page.contains("130 interrupted"), "{page}");
    for command in ["run", "plan", "status", "logs", "cancel", "report", "rerun", "gc", "doctor", "stage"] {
        let help = folder.good(&[command, "--help"]);
        assert!(help.contains("Exit codes: 0 all done, 1 some points failed"), "{command}\n{help}");
    }
}
