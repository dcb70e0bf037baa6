//! Data sets in real files, from the command line: the phantom in every layout is checked, described, exported, and
//! carried through a sweep; what is wrong with a set is named, and nothing is run on it.

mod common;

use std::fs;

use common::{Folder, write};

/// A sweep of seconds on the data set `name` in the folder `root`.
fn sweep(name: &str, root: &str, more: &str) -> String {
    format!(
        "name: tiny
base:
  preset: smoke
  data: {{ name: {name}, root: {root}{more} }}
  label_ratio: 2 cases
  size: 32
  unet: {{ channels: [4, 4, 8, 8, 8] }}
  train: {{ iterations: 4, batch: 2, validate_every: 2 }}
grid: {{ method: [supervised, unimatch] }}
"
    )
}

const LAYOUTS: [(&str, &str); 5] =
    [("acdc-raw", "acdc"), ("ssl4mis", "acdc"), ("ssl4mis-slices", "acdc"), ("mnms", "mnms"), ("own", "own")];

#[test]
fn the_phantom_goes_through_a_sweep_in_every_layout() {
    let mut frames = Vec::new();
    for (layout, name) in LAYOUTS {
        let folder = Folder::new(&sweep(name, "set", ""));
        let made =
            folder.run(&["data", "phantom", "set", "--layout", layout, "--patients", "10", "--seed", "1"]);
        assert_eq!(made.0, 0, "{layout}: {}{}", made.1, made.2);
        assert!(made.1.contains(&format!("data: {{ name: {name}, root: set }}")), "{}", made.1);

        let (code, out, err) = folder.run(&["data", "check", "set", "--sheet", "sheet.png"]);
        assert_eq!(code, 0, "{layout}: {out}{err}");
        assert!(out.contains("Nothing is wrong") && out.contains("train"), "{layout}: {out}");
        let png = fs::read(folder.path("sheet.png")).expect("the contact sheet");
        assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{layout}: {} bytes", png.len());

        let (code, out, err) = folder.run(&["data", "card", "set"]);
        assert_eq!(code, 0, "{layout}: {out}{err}");
        for part in ["## Split", "## Geometry", "## Classes", "| 3 | LV |"] {
            assert!(out.contains(part), "{layout}: `{part}` is not in\n{out}");
        }

        let (code, out, err) = folder.run(&["run", "tiny.yaml"]);
        assert_eq!(code, 0, "{layout}: {out}{err}");
        let cases = fs::read_to_string(folder.path("results/tiny/cases.csv")).expect("the frame");
        assert!(cases.lines().count() > 2 * 3, "{layout}: {cases}");
        if name == "acdc" {
            frames.push(cases);
        }
    }
    // Another form of the same images: the points have other names, the numbers are the same.
    let numbers = |frame: &String| -> Vec<String> {
        let lines = frame.lines().map(|line| line.split(',').skip(1).collect::<Vec<_>>().join(","));
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    };
    let first = numbers(&frames[0]);
    assert!(
        frames.iter().all(|frame| numbers(frame) == first),
        "raw, volumes and slices give the same results"
    );
}

#[test]
fn a_set_is_exported_with_its_split() {
    let folder = Folder::new(&sweep("acdc", "out", ""));
    assert_eq!(folder.run(&["data", "phantom", "set", "--layout", "mnms", "--patients", "10"]).0, 0);
    let (code, out, err) = folder.run(&["data", "export", "set", "out", "--seed", "3"]);
    assert_eq!(code, 0, "{out}{err}");
    let lists = fs::read_to_string(folder.path("out/train.list")).expect("the list");
    assert!(lists.lines().count() >= 2 && lists.contains("_frame01"), "{lists}");
    let (code, out, err) = folder.run(&["data", "check", "out"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = folder.run(&["data", "export", "set", "out"]);
    assert!(code == 2 && err.contains("is not empty"), "{err}");
}

#[test]
fn patients_without_labels_join_the_training() {
    let folder = Folder::new(&sweep("mnms", "set", ", unlabelled: true"));
    assert_eq!(folder.run(&["data", "phantom", "set", "--layout", "mnms", "--patients", "10"]).0, 0);
    // All that have labels are labelled, and there are unlabelled ones nevertheless.
    let (code, out, err) = folder.run(&["run", "tiny.yaml", "--set", "label_ratio=100%"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = folder.run(&["data", "check", "set", "--unlabelled", "--json"]);
    assert_eq!(code, 0);
    assert!(out.contains("\"labelled\": false") && out.contains("trained on as unlabelled"), "{out}");
}

#[test]
fn what_is_wrong_is_named_and_nothing_runs() {
    let folder = Folder::new(&sweep("mnms", "set", ""));
    assert_eq!(folder.run(&["data", "phantom", "set", "--layout", "mnms", "--patients", "10"]).0, 0);
    let csv = folder.path("set/211230_M&Ms_Dataset_information_diagnosis_opendataset.csv");
    let text = fs::read_to_string(&csv).expect("the CSV");
    write(&csv, text.replacen(",ED,", ",EDV,", 1).as_bytes());
    for args in [&["data", "check", "set"][..], &["plan", "tiny.yaml"], &["run", "tiny.yaml"]] {
        let (code, out, err) = folder.run(args);
        assert!(
            code == 2 && err.contains("no column `ED`") && err.contains("211230"),
            "{args:?}: {out}{err}"
        );
    }
    // One volume that cannot be read does not hide the others.
    write(&csv, text.as_bytes());
    let mut broken = Vec::new();
    let mut folders = vec![folder.path("set/OpenDataset/Training/Labeled")];
    while let Some(path) = folders.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(&path).expect("a folder").flatten().map(|e| e.path()).collect();
        entries.sort();
        folders.extend(entries.iter().filter(|path| path.is_dir()).cloned());
        broken.extend(entries.into_iter().filter(|path| path.to_string_lossy().ends_with("_sa_gt.nii.gz")));
    }
    let bytes = fs::read(&broken[0]).expect("a mask");
    write(&broken[0], &bytes[..bytes.len() / 2]);
    let (code, out, err) = folder.run(&["data", "check", "set"]);
    assert!(code == 2 && out.contains("WRONG: ") && out.contains("_sa_gt.nii.gz"), "{out}{err}");
    assert!(err.contains("problem"), "{err}");
}

#[test]
fn a_card_is_begun_for_a_folder_of_ones_own() {
    let folder = Folder::new(&sweep("own", "set", ""));
    assert_eq!(folder.run(&["data", "phantom", "set", "--layout", "own", "--patients", "10"]).0, 0);
    fs::remove_file(folder.path("set/dataset.yaml")).expect("the card");
    let (code, _, err) = folder.run(&["plan", "tiny.yaml"]);
    assert!(code == 2 && err.contains("dataset.yaml") && err.contains("--init"), "{err}");
    let (code, out, err) = folder.run(&["data", "card", "set", "--init", "--as", "own"]);
    assert_eq!(code, 0, "{out}{err}");
    let card = fs::read_to_string(folder.path("set/dataset.yaml")).expect("the card");
    assert!(card.contains("0, 85, 170, 255") && card.contains("images/{patient}.nii.gz"), "{card}");
    let (code, _, err) = folder.run(&["data", "card", "set", "--init", "--as", "own"]);
    assert!(code == 2 && err.contains("is there already"), "{err}");
}

#[test]
fn choosing_networks_by_the_test_needs_a_flag_and_is_told() {
    let text = "name: tiny
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  method: supervised
  size: 32
  unet: { channels: [4, 4, 8, 8, 8] }
  train: { iterations: 4, batch: 2, validate_every: 2, selection: test }
grid: { seed: [0] }
";
    let folder = Folder::new(text);
    for command in ["run", "plan"] {
        let (code, _, err) = folder.run(&[command, "tiny.yaml"]);
        assert!(code == 2 && err.contains("tiny.yaml:8:") && err.contains("--allow-test-selection"), "{err}");
    }
    let (code, out, err) = folder.run(&["run", "tiny.yaml", "--allow-test-selection"]);
    assert_eq!(code, 0, "{out}{err}");
    let points = fs::read_to_string(folder.path("results/tiny/points.csv")).expect("the frame");
    assert!(points.contains("best_on_test"), "{points}");
    for entry in fs::read_dir(folder.path("reports/tiny/tables")).expect("tables").flatten() {
        if entry.path().extension().is_some_and(|end| end == "md") {
            let table = fs::read_to_string(entry.path()).expect("a table");
            assert!(
                table.contains("were chosen by the test patients"),
                "{}: {table}",
                entry.path().display()
            );
        }
    }
}
