//! What a sweep file asks of its report.

use insta::assert_snapshot;

use super::super::report::{OneOrMany, Published, ReportSettings, TableSettings};
use super::super::settings::EmptyDistance;
use super::{errors, read};

fn table(text: &str) -> TableSettings {
    let grid = "grid: { dfm: [false, true], blocks: [[2], [2, 4]], tau: [0.8, 0.9], seed: [0, 1] }";
    let sweep = read(&format!("{grid}\nreport: {{ tables: [{{ {text} }}] }}"));
    sweep.report.tables[0].clone()
}

#[test]
fn a_table_says_what_it_shows() {
    let found = table(
        "name: all, rows: [dfm, tau], within: [blocks], metrics: [dice, hd95_mm, parameters], classes: [LV], per_class: true, \
         where: { data.name: phantom, blocks: [[2], [2, 4], ~], tau: 0.90 }, against: { dfm: true, blocks: [2, 4] }, \
         difference: true, interval: false, empty: diagonal, published: all, caption: text",
    );
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(found.rows, OneOrMany::Many(texts(&["dfm", "tau"])));
    assert_eq!((found.name.as_deref(), found.caption.as_deref()), (Some("all"), Some("text")));
    assert_eq!((found.within, found.classes), (texts(&["blocks"]), texts(&["LV"])));
    assert_eq!(found.metrics, texts(&["dice", "hd95_mm", "parameters"]));
    assert_eq!((found.per_class, found.difference, found.interval), (true, true, false));
    assert_eq!((found.empty, found.published), (Some(EmptyDistance::Diagonal), Published::All));
    // A list of numbers is a value of an axis of lists, and several values of another: both are kept.
    let blocks = texts(&["[2]", "[2, 4]", "", "[[2], [2, 4], ]"]);
    let only = [("data.name", texts(&["phantom"])), ("blocks", blocks), ("tau", texts(&["0.90"]))];
    assert_eq!(found.only, only.map(|(axis, values)| (axis.to_owned(), values)));
    let against = [("dfm", "true"), ("blocks", "[2, 4]")];
    assert_eq!(found.against, against.map(|(axis, value)| (axis.to_owned(), value.to_owned())));
}

#[test]
fn a_table_of_an_older_index_is_read() {
    // What stores hold of sweeps that ran before tables had more than these.
    let older =
        r#"{"tables":[{"rows":"tau","metrics":["dice"],"caption":null}],"figures":[],"pictures":true}"#;
    let settings: ReportSettings = serde_json::from_str(older).unwrap();
    assert_eq!(
        settings.tables[0],
        TableSettings { metrics: vec!["dice".into()], ..TableSettings::of(OneOrMany::One("tau".into())) }
    );
    // And what is at its default is not written, so that older programs read what they can.
    let text = serde_json::to_string(&settings).unwrap();
    assert_eq!(text, older);
    let all = table("rows: tau, within: blocks, against: { tau: 0.9 }, difference: true, published: beside");
    let text = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<TableSettings>(&text).unwrap(), all);
}

#[test]
fn wrong_tables_are_refused() {
    let text = "
grid: { dfm: [false, true], seed: [0, 1] }
report:
  tables:
    - { rows: dfm, within: tau, where: { dmf: true }, against: { tau: 0.9 } }
    - { rows: dfm, difference: true, name: a/b, published: yes, empty: nan, interval: 1 }
    - { rows: dfm, against: { dfm: { a: b } }, wehre: {} }
";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:5:28: `within: tau` is not an axis: expected `dfm` or `seed`
      5 |     - { rows: dfm, within: tau, where: { dmf: true }, against: { tau: 0.9 } }
        |                            ^^^
    error: a.yaml:5:42: `dmf` in `where` is no axis: expected `dfm`, `seed`, `preset`, `data.name`, `method` or `label_ratio`
      5 |     - { rows: dfm, within: tau, where: { dmf: true }, against: { tau: 0.9 } }
        |                                          ^^^ did you mean `dfm`?
    error: a.yaml:5:66: `tau` in `against` is no axis: expected `dfm`, `seed`, `preset`, `data.name`, `method` or `label_ratio`
      5 |     - { rows: dfm, within: tau, where: { dmf: true }, against: { tau: 0.9 } }
        |                                                                  ^^^
    error: a.yaml:6:7: a table with `difference` needs `against`, the row to compare with
      6 |     - { rows: dfm, difference: true, name: a/b, published: yes, empty: nan, interval: 1 }
        |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ such as `against: { dfm: true, dic: true }`
    error: a.yaml:6:44: `name: a/b`: it becomes the name of files
      6 |     - { rows: dfm, difference: true, name: a/b, published: yes, empty: nan, interval: 1 }
        |                                            ^^^ write letters, digits, `.`, `_` and `-`
    error: a.yaml:6:60: `published: yes` is not a choice: expected `none`, `beside` or `all`
      6 |     - { rows: dfm, difference: true, name: a/b, published: yes, empty: nan, interval: 1 }
        |                                                            ^^^
    error: a.yaml:6:72: `empty: nan` is not a rule: expected `zero` or `diagonal`
      6 |     - { rows: dfm, difference: true, name: a/b, published: yes, empty: nan, interval: 1 }
        |                                                                        ^^^
    error: a.yaml:6:87: `interval: 1` is not a truth value: expected `true` or `false`
      6 |     - { rows: dfm, difference: true, name: a/b, published: yes, empty: nan, interval: 1 }
        |                                                                                       ^
    error: a.yaml:7:36: `dfm: {a: b}` is no value of an axis
      7 |     - { rows: dfm, against: { dfm: { a: b } }, wehre: {} }
        |                                    ^^^^^^^^^
    error: a.yaml:7:48: unknown key `wehre` of a table: expected `rows`, `name`, `within`, `metrics`, `classes`, `per_class`, `where`, `against`, `difference`, `interval`, `empty`, `published` or `caption`
      7 |     - { rows: dfm, against: { dfm: { a: b } }, wehre: {} }
        |                                                ^^^^^ did you mean `where`?
    ");
}

/// The sweep files of the project run on the phantom at the smallest size, and at the paper's.
#[test]
fn the_sweep_files_are_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        let path = entry.path();
        let load = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
            super::load(&path, &sets).unwrap_or_else(|errors| panic!("{errors}"))
        };
        let small = load(&["preset=smoke", "data=phantom"]);
        let paper = load(&["preset=paper"]);
        assert!(!small.points.is_empty() && small.points.len() <= paper.points.len(), "{}", path.display());
        assert!(!paper.report.tables.is_empty(), "{} has no table", path.display());
        names.push(small.name);
    }
    for name in
        ["acdc", "mnms", "ablation", "blocks", "timesteps", "feature_dim", "tau", "complexity", "paper"]
    {
        assert!(names.iter().any(|known| known == name), "there is no sweep file of `{name}`: {names:?}");
    }
}
