//! Reading sweep files: what resolves to what. What is refused, and how that reads, is in [`refused`].

mod language;
mod mutated;
mod refused;
mod report;
mod schema_file;

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::settings::{DataName, FIELDS, FeatureMode, LabelRatio, Method, Preset, Settings};
use super::{Sweep, load, parse, schema};

fn read(text: &str) -> Sweep {
    with(text, &[])
}

fn with(text: &str, sets: &[&str]) -> Sweep {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    parse("a.yaml", "a", text, &sets).unwrap_or_else(|errors| panic!("refused:\n{errors}"))
}

fn errors(text: &str) -> String {
    errors_with(text, &[])
}

fn errors_with(text: &str, sets: &[&str]) -> String {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    parse("a.yaml", "a", text, &sets).expect_err("was accepted").to_string()
}

/// One value that is right for each kind of setting.
fn sample(kind: schema::Kind) -> &'static str {
    use schema::Kind;
    match kind {
        Kind::Flag => "true",
        Kind::Count(_) => "64",
        Kind::Number(_) => "0.5",
        Kind::Word(words) => words[0],
        Kind::Folder => "some/folder",
        Kind::File => "some/file",
        Kind::Ratio => "7 cases",
        Kind::Counts(_, None, _) => "[1]",
        Kind::Counts(_, Some(_), _) => "[1, 2, 3, 4, 5]",
        Kind::Numbers(..) => "[0.1, 0.2, 0.3, 0.4, 0.5]",
    }
}

#[test]
fn the_table_of_keys_is_the_settings() {
    let mut paths = vec![];
    for (field, value) in json!(Settings::preset(Preset::Lite, Method::Mcsd)).as_object().unwrap() {
        match value.as_object() {
            Some(table) => paths.extend(table.keys().map(|key| format!("{field}.{key}"))),
            None => paths.push(field.clone()),
        }
    }
    let mut known: Vec<_> = schema::KEYS.iter().map(|key| key.path.to_owned()).collect();
    paths.sort();
    known.sort();
    assert_eq!(known, paths);
    let mut fields: Vec<_> = known.iter().map(|path| path.split('.').next().unwrap()).collect();
    fields.dedup();
    let mut expected = FIELDS.to_vec();
    expected.sort_unstable();
    assert_eq!(fields, expected);
}

#[test]
fn the_words_of_a_choice_are_those_of_its_type() {
    for key in &schema::KEYS {
        let schema::Kind::Word(words) = key.kind else { continue };
        let mut tree = json!(Settings::preset(Preset::Lite, Method::Mcsd));
        *tree.pointer_mut(&format!("/{}", key.path.replace('.', "/"))).unwrap() = json!("no such word");
        let error = serde_json::from_value::<Settings>(tree).unwrap_err().to_string();
        let mut of_type: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        of_type.sort_unstable();
        let mut words = words.to_vec();
        words.sort_unstable();
        assert_eq!(words, of_type, "{}: {error}", key.path);
    }
}

#[test]
fn every_setting_can_be_set_and_arrives() {
    for key in &schema::KEYS {
        let sweep = parse("a.yaml", "a", &format!("base:\n  {}: {}", key.path, sample(key.kind)), &[]);
        // What does not fit the other settings is refused as that, never as a wrong value.
        if let Err(errors) = sweep {
            assert!(!errors.to_string().contains("expected"), "{errors}");
        }
    }
    let sweep =
        read("base: { train.lr: 1, train: { momentum: 0.5 }, features: online, data: phantom, seed: 3 }");
    let settings = &sweep.points[0].settings;
    assert_eq!((settings.train.lr, settings.train.momentum, settings.seed), (1.0, 0.5, 3));
    assert_eq!((settings.features.mode, settings.data.name), (FeatureMode::Online, DataName::Phantom));
    assert_eq!(sweep.points.len(), 1);
    assert_eq!(sweep.name, "a", "the name of the file");
}

#[test]
fn presets_and_defaults_are_themselves_valid() {
    for preset in [Preset::Smoke, Preset::Lite, Preset::Paper] {
        for method in Method::ALL {
            let tree = json!(Settings::preset(preset, method));
            let mut text = String::from("base:\n");
            for key in &schema::KEYS {
                let value = &tree.pointer(&format!("/{}", key.path.replace('.', "/"))).unwrap();
                if key.path != "data.root" {
                    text = format!("{text}  {}: {value}\n", key.path);
                }
            }
            assert_eq!(json!(*read(&text).points[0].settings), tree);
        }
    }
}

#[test]
fn points_run_through_the_grid_with_the_last_axis_fastest() {
    let sweep = read(
        "base: { preset: smoke }\ngrid: { dfm: [false, true], train.iterations: [5, 6], seed: [0, 1, 2] }",
    );
    let seen: Vec<_> =
        sweep.points.iter().map(|p| (p.settings.dfm, p.settings.train.iterations, p.settings.seed)).collect();
    let mut expected = vec![];
    for dfm in [false, true] {
        for iterations in [5, 6] {
            for seed in 0..3 {
                expected.push((dfm, iterations, seed));
            }
        }
    }
    assert_eq!(seen, expected);
    let axes: Vec<_> = sweep.points[7].axes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(axes, ["dfm=true", "train.iterations=5", "seed=1"]);
}

#[test]
fn preset_and_method_can_be_axes_and_decide_the_defaults() {
    let sweep = read("base: { train.batch: 3 }\ngrid: { method: [supervised, mcsd], preset: [lite, paper] }");
    for point in &sweep.points {
        let mut expected = Settings::preset(point.settings.preset, point.settings.method);
        expected.train.batch = 3;
        assert_eq!(*point.settings, expected);
    }
    let presets: Vec<_> = sweep.points.iter().map(|p| (p.settings.method, p.settings.preset)).collect();
    assert_eq!(presets.len(), 4);
    assert_eq!(presets[3], (Method::Mcsd, Preset::Paper));
}

#[test]
fn tables_can_be_axes() {
    let sweep = read("grid: { data: [phantom, { patients: 50, seed: 1 }, { name: acdc, root: x }] }");
    let data: Vec<_> =
        sweep.points.iter().map(|p| (p.settings.data.name, p.settings.data.patients)).collect();
    assert_eq!(data, [(DataName::Phantom, 100), (DataName::Phantom, 50), (DataName::Acdc, 100)]);
    assert_eq!(sweep.points[0].axes.value(0), "phantom");
    assert_eq!(sweep.points[1].axes.value(0), &json!({"patients": 50, "seed": 1}));
}

#[test]
fn set_comes_on_top_and_replaces_a_whole_axis() {
    let text = "base: { preset: smoke, tau: 0.8 }\ngrid: { seed: [0, 1], blocks: [[0], [1]] }";
    let sets = ["seed=5", "blocks=[2,4]", "tau = 0.95", "data.patients=20", "preset=lite", "name=other"];
    let sweep = with(text, &sets);
    assert_eq!(sweep.points.len(), 1);
    let settings = &sweep.points[0].settings;
    assert_eq!((settings.seed, &settings.blocks[..], settings.tau), (5, &[2, 4][..], 0.95));
    assert_eq!((settings.data.patients, settings.preset, settings.size), (20, Preset::Lite, 96));
    assert_eq!(sweep.points[0].axes.to_vec(), [("seed".into(), json!(5)), ("blocks".into(), json!([2, 4]))]);
    assert_eq!(sweep.name, "other");
    let sweep = with("grid: { data: [phantom, { patients: 50 }] }", &["data=phantom", "data.seed=2"]);
    assert!(sweep.points.iter().all(|point| point.settings.data.seed == 2));
}

#[test]
fn zip_include_and_exclude() {
    let text = "
grid: { dfm: [false, true], seed: [0, 1] }
zip: { tau: [0.8, 0.9], feature_dim: [10, 20] }
exclude:
  - { dfm: false, tau: 0.8 }
  - { seed: [0, 1], feature_dim: 20, dfm: true }
  - { seed: 7 }
include:
  - { seed: 9, train.lr: 0.5 }
  - { seed: 0, dfm: false, tau: 0.9, feature_dim: 20 }
";
    let sweep = read(text);
    let seen: Vec<_> = sweep
        .points
        .iter()
        .map(|p| {
            (p.settings.dfm, p.settings.seed, p.settings.tau, p.settings.feature_dim, p.settings.train.lr)
        })
        .collect();
    let expected = [
        (false, 0, 0.9, 20, 0.01),
        (false, 1, 0.9, 20, 0.01),
        (true, 0, 0.8, 10, 0.01),
        (true, 1, 0.8, 10, 0.01),
        (true, 9, 0.9, 30, 0.5),
    ];
    assert_eq!(seen, expected);
    let names: Vec<_> = sweep.points[0].axes.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["dfm", "seed", "tau", "feature_dim", "train.lr"]);
    assert_eq!(sweep.points[4].axes.value(3), 30, "an axis that the entry leaves alone shows the default");
    assert_snapshot!(sweep.notes.join("\n"), @r"
    a.yaml:7:5: this `exclude` matches no point
    a.yaml:10:5: this point repeats another and was merged with it
    ");
}

#[test]
fn label_ratios_in_every_form() {
    for (text, expected) in [
        ("10%", LabelRatio::Percent(10.0)),
        ("2.5 %", LabelRatio::Percent(2.5)),
        ("7", LabelRatio::Cases(7)),
        ("'7'", LabelRatio::Cases(7)),
        ("7 cases", LabelRatio::Cases(7)),
        ("1 case", LabelRatio::Cases(1)),
    ] {
        assert_eq!(
            read(&format!("base: {{ label_ratio: {text} }}")).points[0].settings.label_ratio,
            expected,
            "{text}"
        );
    }
    let twice = read("grid: { label_ratio: [7, 7 cases, 10%, 10.0%] }");
    assert_eq!(twice.points.len(), 2);
    assert_snapshot!(twice.notes.join("\n"), @r#"
    a.yaml:1:26: axis `label_ratio` lists "7 cases" twice; once is enough
    a.yaml:1:40: axis `label_ratio` lists "10%" twice; once is enough
    "#);
    assert_snapshot!(errors("grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }"), @r"
    error: a.yaml:1:23: `label_ratio: 0.1`: `0.1` is no label ratio: write `10%`, `7 cases` or 7
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                       ^^^ write `10%`
    error: a.yaml:1:28: `label_ratio: 0%`: `0%` is outside (0 %, 100 %]
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                            ^^
    error: a.yaml:1:32: `label_ratio: 0`: needs at least one labelled patient
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                                ^
    error: a.yaml:1:35: `label_ratio: 101%`: `101%` is outside (0 %, 100 %]
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                                   ^^^^
    error: a.yaml:1:41: `label_ratio: x`: `x` is no label ratio: write `10%`, `7 cases` or 7
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                                         ^
    error: a.yaml:1:44: `label_ratio: -3`: `-3` is no label ratio: write `10%`, `7 cases` or 7
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                                            ^^
    error: a.yaml:1:48: `label_ratio: [7]`: expected `10%`, `7 cases` or a number of patients
      1 | grid: { label_ratio: [0.1, 0%, 0, 101%, x, -3, [7]] }
        |                                                ^^^
    ");
}

#[test]
fn the_lists_of_a_zip_may_repeat_a_value() {
    let sweep = read("zip: { tau: [0.8, 0.9, 0.9], seed: [0, 0, 1] }");
    let values = sweep.points.iter().map(|point| (point.settings.tau, point.settings.seed));
    assert_eq!(values.collect::<Vec<_>>(), [(0.8, 0), (0.9, 0), (0.9, 1)]);
    assert!(sweep.notes.is_empty(), "{:?}", sweep.notes);
}

#[test]
fn a_folder_that_the_phantom_does_not_read_is_noted() {
    let sweep = with("base: { data: phantom }\ngrid: { seed: [0, 1] }", &["data.root=data/ACDC"]);
    let expected = "data.root `data/ACDC` is not read: data.name is phantom (--set data.name=acdc, mnms or own reads it)";
    assert_eq!(sweep.notes, [expected]);
    let sweep = with("grid: { seed: [0, 1] }", &["data.name=acdc", "data.root=data/ACDC"]);
    assert!(sweep.notes.is_empty(), "{:?}", sweep.notes);
}

#[test]
fn the_sweeps_of_the_project_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let sweep = load(&file, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(sweep.name, file.file_stem().unwrap().to_string_lossy());
        assert!(sweep.notes.is_empty(), "{:?}", sweep.notes);
        assert!(sweep.points.len() > 1 && !sweep.description.is_empty());
    }
}

const VALID: &str = "
name: x
base: { preset: smoke, train: { lr: 0.1 }, label_ratio: 10%, data: { name: phantom } }
grid:
  blocks: [[0, 1], [2]]
  seed: [0, 1]
exclude: [{ seed: 1, blocks: [2] }]
report: { tables: [{ rows: [blocks] }], figures: [{ kind: sensitivity, x: seed, y: dice }] }
";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A damaged file is read or refused, never a panic, and each error names a line of it.
    #[test]
    fn damaged_files_are_refused_in_order(
        cuts in proptest::collection::vec((0..VALID.len(), 0..4_usize, "[\\PC\n\t]{0,4}"), 1..4),
    ) {
        let mut text: Vec<char> = VALID.chars().collect();
        for (at, len, insert) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse("a.yaml", "a", &text, &[]) {
            prop_assert!(!errors.items.is_empty());
            for item in &errors.items {
                prop_assert!(item.line >= 1 && item.line <= text.split('\n').count() + 1, "{}", item);
            }
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
