//! The program as a person calls it, where no science is needed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn sweep(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sweep"))
        .current_dir(dir)
        .args(args)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the program in a folder with the sweep file `s.yaml`; returns exit code, standard output and standard error.
fn with_file(yaml: &str, args: &[&str]) -> (tempfile::TempDir, i32, String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    fs::File::create(dir.path().join("s.yaml"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, yaml.as_bytes()))
        .expect("the sweep file");
    let output = sweep(dir.path(), args);
    let code = output.status.code().expect("no signal");
    (dir, code, text(&output.stdout), text(&output.stderr))
}

const GOOD: &str = "
name: small
description: two thresholds
base: { data: phantom, preset: smoke }
grid:
  tau: [0.9, 0.95]
";

#[test]
fn help_names_the_commands_and_the_exit_codes() {
    let output = sweep(Path::new("."), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in
        ["run", "plan", "why", "schema", "init", "status", "report", "stage", "Examples:", "130 interrupted"]
    {
        assert!(help.contains(word), "`{word}` is missing in\n{help}");
    }
}

#[test]
fn wrong_arguments_end_with_2() {
    let none = Path::new(".");
    for args in [&["rnu"][..], &["run"], &["run", "x", "--workers", "0"], &["stage", "nokey"], &[]] {
        assert_eq!(sweep(none, args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_file_that_is_absent_is_named() {
    let (dir, code, out, err) = with_file(GOOD, &["run", "absent"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("error: ") && err.contains("absent"), "{err}");
    assert!(!dir.path().join("results").exists(), "nothing is made for a file that is absent");
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_nothing_is_made() {
    let (dir, code, _, err) = with_file("base: { taau: 0.9 }\ngrid: { seed: [0, 1] }\n", &["run", "s.yaml"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("s.yaml:1:9") && err.contains("taau") && err.contains("tau"), "{err}");
    assert!(!dir.path().join("results").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_before_any_work() {
    for option in ["--results", "--reports", "--store"] {
        // A file in the way: permissions do not hold back a root user, who runs this in a container.
        let (dir, code, _, err) = with_file(GOOD, &["run", "s.yaml", option, "s.yaml"]);
        assert_eq!(code, 2, "{option}: {err}");
        assert!(err.contains("s.yaml") && err.contains("a file is in the way"), "{option}: {err}");
        let specs = dir.path().join("results/.store/specs");
        assert!(
            !specs.exists() || fs::read_dir(specs).expect("a folder").next().is_none(),
            "{option}: work started"
        );
    }
}

#[test]
fn a_plan_shows_points_stages_and_sharing_and_makes_nothing() {
    let (dir, code, out, err) = with_file(GOOD, &["plan", "s.yaml"]);
    assert_eq!(code, 0, "{err}");
    for part in ["small: two thresholds", "0.95", "prepare", "evaluate", "without sharing", "2 points need"] {
        assert!(out.contains(part), "`{part}` is missing in\n{out}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "a plan writes nothing");
}

#[test]
fn a_plan_as_json_lists_keys_that_stage_accepts_and_does_not_know_yet() {
    let (dir, code, out, err) = with_file(GOOD, &["plan", "s", "--json"]);
    assert_eq!(code, 0, "{err}");
    let plan: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!(plan["points"].as_array().map(Vec::len), Some(2));
    let key = plan["stages"][0]["key"].as_str().expect("a key");

    let output = sweep(dir.path(), &["stage", key]);
    assert_eq!(output.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!((line["key"].as_str(), line["event"].as_str()), (Some(key), Some("failed")));
    assert!(text(&output.stderr).contains("sweep run FILE"), "{}", text(&output.stderr));
}

#[test]
fn the_status_of_a_sweep_that_never_ran_is_told() {
    let (dir, code, out, err) = with_file(GOOD, &["status", "s.yaml"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("small: 0 of 2 points done"), "{out}");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "a look writes nothing");
}

#[test]
fn init_writes_a_sweep_that_plans_and_never_overwrites() {
    let dir = tempfile::tempdir().expect("a folder");
    let written = sweep(dir.path(), &["init", "mine"]);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    let plan = sweep(dir.path(), &["plan", "mine.yaml"]);
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan.stderr));
    assert!(text(&plan.stdout).contains("6 points need"), "{}", text(&plan.stdout));
    let again = sweep(dir.path(), &["init", "mine.yaml"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("mine.yaml is there already"), "{}", text(&again.stderr));
    assert_eq!(sweep(dir.path(), &["init", "my sweep"]).status.code(), Some(2), "no name for a folder");
}

#[test]
fn a_schema_is_json() {
    let output = sweep(Path::new("."), &["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn only_plans_a_part_and_explains_what_is_wrong() {
    let (_dir, code, out, err) = with_file(GOOD, &["plan", "s.yaml", "--only", "tau=0.9"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("1 point needs") && !out.contains("0.95"), "{out}");
    let (_dir, code, out, err) = with_file(GOOD, &["plan", "s.yaml", "--only", "tua=0.9"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(
        err,
        "error: --only:1:1: unknown setting `tua`\n  1 | tua=0.9\n    | ^^^ did you mean `tau`?\n"
    );
}

#[test]
fn why_explains_each_stage_of_a_point() {
    let (dir, code, out, err) = with_file(GOOD, &["why", "s.yaml", "tau=0.9"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("13 of 13 stages to run") && out.contains("no prepare stage is finished"), "{out}");
    let id = out.split_whitespace().nth(1).expect("the name of the point").trim_end_matches(':');
    let again = sweep(dir.path(), &["why", "s.yaml", &id[..6], "--json"]);
    let points: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!((&points[0]["point"], &points[0]["stages"][0]["state"]), (&id.into(), &"new".into()));
    let none = sweep(dir.path(), &["why", "s.yaml", "00000000"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("`sweep plan` lists them"), "{}", text(&none.stderr));
}

#[test]
fn errors_of_the_plan_have_their_place() {
    let wrong = "base: { preset: smoke, dfm: false }\ngrid:\n  blocks: [[2], [4]]\n  seed: [0, 1]\n";
    let (_dir, code, out, err) = with_file(wrong, &["plan", "s.yaml"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("error: s.yaml:3:3: axis `blocks` changes nothing: "), "{err}");
    assert!(err.contains("  3 |   blocks: [[2], [4]]\n    |   ^^^^^^ every point needs"), "{err}");
}
