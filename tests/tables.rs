//! `sweep tables` as a person calls it, on the committed frames of the quickstart.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs the program in `dir`; returns exit code, standard output and standard error.
fn sweep(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_sweep")).current_dir(dir).args(args).output();
    let run = run.expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (run.status.code().expect("no signal"), text(&run.stdout), text(&run.stderr))
}

/// A folder with the frames of the quickstart and nothing else.
fn frames() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/quickstart");
    let to = folder.path().join("results/quickstart");
    fs::create_dir_all(&to).expect("writable");
    for name in ["points", "cases", "history", "diffusion"] {
        let file = format!("{name}.parquet");
        fs::copy(from.join(&file), to.join(&file)).expect("a committed frame");
    }
    folder
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("the file");
    assert!(text.contains(from), "{text}");
    let file = fs::File::create(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.replacen(from, to, 1).as_bytes()))
        .expect("writable");
}

#[test]
fn tables_follow_from_frames_alone() {
    let folder = frames();
    let dir = folder.path();
    let (code, out, err) = sweep(dir, &["tables"]);
    assert_eq!((code, out.lines().count()), (0, 8), "{err}");
    let (code, out, err) = sweep(dir, &["tables", "--check"]);
    assert_eq!((code, out.trim()), (0, "quickstart: 8 files follow from the frames"), "{err}");

    let table = dir.join("reports/quickstart/tables/results.md");
    let text = fs::read_to_string(&table).expect("the table");
    assert!(text.contains("| ✓ | ✓ | 2 |") && text.contains("<br><sub>["), "{text}");
    let (code, out, _) = sweep(dir, &["tables", "quickstart", "--print", "md"]);
    assert!(code == 0 && out.starts_with(text.trim_end()), "{out}");

    // A number that somebody changed.
    replace(&table, "±", "+-");
    let (code, out, err) = sweep(dir, &["tables", "--check"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("results.md does not follow from the frames: line 1 differs"), "{err}");
    assert!(err.contains("7 files follow, 1 not: `sweep tables quickstart` writes them anew"), "{err}");
    let (code, out, err) = sweep(dir, &["tables", "quickstart", "--print", "word"]);
    assert!(code == 2 && out.is_empty() && err.contains("possible values"), "{err}");
}

#[test]
fn a_sweep_file_declares_other_tables() {
    let folder = frames();
    let dir = folder.path();
    let declared = "
name: quickstart
base: { preset: smoke, data: phantom }
grid: { dfm: [false, true], dic: [false, true], seed: [0, 1] }
report:
  tables: [{ name: modules, rows: [dfm, dic], against: { dfm: true, dic: true }, difference: true, published: beside }]
";
    let file = fs::File::create(dir.join("mine.yaml"));
    file.and_then(|mut file| std::io::Write::write_all(&mut file, declared.as_bytes())).expect("writable");
    let (code, out, err) = sweep(dir, &["tables", "mine.yaml"]);
    assert_eq!((code, out.lines().count()), (0, 4), "{err}");
    let text = fs::read_to_string(dir.join("reports/quickstart/tables/modules.md")).expect("the table");
    assert!(text.contains("Δ Dice") && text.contains("against DFM ✓, DIC ✓"), "{text}");
    assert!(text.contains("Nothing is published of this data set"), "{text}");
    // From now on the frames know.
    let (code, out, err) = sweep(dir, &["tables", "--check"]);
    assert_eq!((code, out.trim()), (0, "quickstart: 4 files follow from the frames"), "{err}");

    let (code, out, err) = sweep(dir, &["tables", "--why", "dfm=true dic=true.dice"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("modules, row 4 (dfm=true dic=true), Dice (%)\nmean 44.8"), "{out}");
    assert!(out.contains("dfm=true dic=true seed=1") && out.contains("not in the store"), "{out}");
    let (code, _, err) = sweep(dir, &["tables", "--why", "modules.5.dice"]);
    assert!(code == 2 && err.contains("the rows are 1 to 4"), "{err}");
}

#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    let folder = frames();
    let dir = folder.path();
    let (code, _, err) = sweep(dir, &["tables", "quickstrat"]);
    assert!(code == 2 && err.contains("did you mean `quickstart`?"), "{err}");
    let (code, _, err) = sweep(dir, &["tables", "--results", "elsewhere"]);
    assert!(code == 2 && err.contains("run a sweep, or name their folder with --results"), "{err}");
    let (code, _, err) = sweep(dir, &["tables", "absent.yaml"]);
    assert!(code == 2 && err.contains("absent.yaml"), "{err}");
    let file = fs::File::create(dir.join("results/quickstart/report.json"));
    file.and_then(|mut file| std::io::Write::write_all(&mut file, b"{\"report\": 3}")).expect("writable");
    let (code, _, err) = sweep(dir, &["tables"]);
    assert!(code == 2 && err.contains("report.json is not as a run writes it"), "{err}");
    let damaged = fs::File::create(dir.join("results/quickstart/cases.parquet")).expect("writable");
    drop(damaged);
    fs::remove_file(dir.join("results/quickstart/report.json")).expect("there");
    let (code, _, err) = sweep(dir, &["tables"]);
    assert!(code == 1 && err.contains("cases.parquet is no frame of this program"), "{err}");
}
