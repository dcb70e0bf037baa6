//! Asking frames: query, compare, plot, on the committed frames of the quickstart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

/// Exit code, standard output, standard error.
fn sweep(args: &[&str], folder: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweep"));
    let command = command.args(args).arg("--results").arg(results()).current_dir(folder);
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn good(args: &[&str], folder: &Path) -> String {
    let (code, out, err) = sweep(args, folder);
    assert_eq!(code, 0, "{args:?}\n{out}\n{err}");
    out
}

fn lines(file: &str) -> usize {
    fs::read_to_string(results().join(file)).expect("a frame").lines().count() - 1
}

#[test]
fn queries_print_tables_csv_and_json() {
    let dir = tempfile::tempdir().expect("a folder");
    let sql = "SELECT COUNT(*) AS n FROM cases WHERE sweep = 'quickstart'";
    let answer: Value = serde_json::from_str(&good(&["query", sql, "--json"], dir.path())).expect("JSON");
    assert_eq!(answer[0]["n"], lines("quickstart/cases.csv"));
    assert!(good(&["query", sql], dir.path()).starts_with("n\n"));
    let ids = "SELECT id, dice FROM points ORDER BY id";
    let csv = good(&["query", ids, "--csv", "--sweep", "quickstart"], dir.path());
    assert_eq!(csv.lines().count(), lines("quickstart/points.csv") + 1);
    assert!(csv.starts_with("id,dice\n"), "{csv}");
    let schema = good(&["query"], dir.path());
    assert!(schema.contains("best_step") && schema.contains("history"), "{schema}");
    for (args, word) in [
        (vec!["query", "SELECT dcie FROM points"], "did you mean `dice`"),
        (vec!["query", "SELECT"], "sweep query"),
        (vec!["query", sql, "--sweep", "quickstrat"], "did you mean `quickstart`"),
    ] {
        let (code, _, err) = sweep(&args, dir.path());
        assert!(code == 2 && err.contains(word), "{args:?}: {code}, {err}");
    }
}

#[test]
fn comparisons_name_settings_metrics_and_cases() {
    let dir = tempfile::tempdir().expect("a folder");
    let sides = ["quickstart:dfm=false dic=false", "quickstart:dfm=true dic=true"];
    let text = good(&["compare", sides[0], sides[1], "--json"], dir.path());
    let comparison: Value = serde_json::from_str(&text).expect("JSON");
    let settings: Vec<&str> = comparison["settings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|s| s["setting"].as_str())
        .collect();
    assert!(
        settings.contains(&"dfm") && settings.contains(&"dic") && !settings.contains(&"seed"),
        "{settings:?}"
    );
    let dice = &comparison["metrics"][0];
    let number = |value: &Value| value.as_f64().expect("a number");
    let difference = number(&dice["b"]["mean"]) - number(&dice["a"]["mean"]);
    assert!(
        (difference - number(&dice["difference"]["mean"])).abs() < 1e-9,
        "the same patients on both sides"
    );
    let (low, high) =
        (number(&dice["difference"]["interval"][0]), number(&dice["difference"]["interval"][1]));
    assert!(low <= difference && difference <= high);
    let text = good(&["compare", sides[0], sides[1]], dir.path());
    assert!(text.contains("B − A") && text.contains("p uncorrected for the number of metrics"), "{text}");
    let (code, _, err) = sweep(&["compare", "quickstart:dfm=maybe", sides[1]], dir.path());
    assert!(code == 2 && err.contains("no point"), "{err}");
}

#[test]
fn plots_are_drawn_and_exported() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = ["plot", "quickstart", "--kind", "ablation", "--kind", "box", "--y", "hd95", "--export"];
    let out = good(&args, dir.path());
    assert_eq!(out.lines().count(), 6, "{out}");
    for file in out.lines() {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
    for (args, word) in [
        (vec!["plot", "quickstart", "--kind", "sensitivity", "--x", "taw"], "no axis of the sweep"),
        (vec!["plot", "quickstart", "--kind", "heatmap"], "two axes"),
        (vec!["plot", "acdc-lite", "--kind", "overlay"], "may show patients"),
        (vec!["plot", "quickstart", "--kind", "overlay"], "--store"),
        (vec!["plot", "nothing"], "run the sweep first"),
        (vec!["plot", "quickstart", "--y", "hd95"], "--kind"),
    ] {
        let (code, _, err) = sweep(&args, dir.path());
        assert!(code == 2 && err.contains(word), "{args:?}: {code}, {err}");
    }
}
