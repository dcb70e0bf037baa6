//! Conditional axes, `extends`, `--only` and lists in `--set`.

use std::fs::File;
use std::io::Write as _;

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::super::{Sweep, load};
use super::{errors, errors_with, read, with};

/// The points as text, one a line.
fn points(sweep: &Sweep) -> String {
    let point = |axes: &super::super::Axes| {
        axes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    sweep.points.iter().map(|p| point(&p.axes)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_conditional_axis_multiplies_the_points_that_it_applies_to() {
    let sweep = read(
        "base: { tau: 0.7 }\ngrid:\n  tau: { when: { method: mcsd, dfm: [true] }, values: [0.8, 0.9] }\n  method: [supervised, mcsd]\n  dfm:\n    when: { method: mcsd }\n    values: [false, true]\n  seed: [0, 1]\n",
    );
    assert_snapshot!(points(&sweep), @r#"
    tau=0.8 method="mcsd" dfm=true seed=0
    tau=0.8 method="mcsd" dfm=true seed=1
    tau=0.9 method="mcsd" dfm=true seed=0
    tau=0.9 method="mcsd" dfm=true seed=1
    tau=null method="supervised" dfm=null seed=0
    tau=null method="supervised" dfm=null seed=1
    tau=null method="mcsd" dfm=false seed=0
    tau=null method="mcsd" dfm=false seed=1
    "#);
    let taus: Vec<f64> = sweep.points.iter().map(|point| point.settings.tau).collect();
    assert_eq!(taus.iter().filter(|&&tau| tau == 0.7).count(), 4, "where it does not apply, `base` holds");
    assert!(sweep.notes.is_empty(), "{:?}", sweep.notes);
}

#[test]
fn conditions_see_defaults_sets_and_tables() {
    let text =
        "grid: { method: [supervised, mcsd], train.lr: { when: { train.batch: 8 }, values: [0.1, 0.2] } }";
    // Preset lite has a batch of 4.
    assert!(errors(text).contains("applies to no point"));
    assert_eq!(read(&format!("base: {{ train: {{ batch: 8 }} }}\n{text}")).points.len(), 4);
    assert_eq!(with(text, &["train.batch=8"]).points.len(), 4);
    let sweep = with(text, &["preset=paper"]);
    assert_eq!(sweep.points.len(), 3, "in preset paper only mcsd has a batch of 8");
    let table = "grid: { method: [supervised, mcsd], data: { when: { method: mcsd }, values: [phantom, { patients: 50 }] } }";
    assert_eq!(read(table).points.len(), 3);
    let sweep = with(
        "grid: { method: [mcsd], tau: { when: { method: mcsd }, values: [0.8, 0.9] } }",
        &["method=supervised"],
    );
    assert_eq!((sweep.points.len(), sweep.notes.len()), (1, 1), "--set may leave an axis without a point");
}

#[test]
fn error_conditional_axes() {
    let text = "
grid:
  method: [supervised, mcsd]
  tau: { when: { metod: mcsd }, values: [0.8] }
  dfm: { when: { method: mscd }, values: [true] }
  dic: { values: [true, false] }
  seed: { when: { method: mcsd } }
  size: { when: { method: mcsd }, values: 64, vlaues: [64] }
  feature_dim: { when: [mcsd], values: [10, 20] }
zip:
  blocks: { when: { method: mcsd }, values: [[2], [4]] }
";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:4:18: unknown setting `metod`
      4 |   tau: { when: { metod: mcsd }, values: [0.8] }
        |                  ^^^^^ did you mean `method`?
    error: a.yaml:5:26: `method: mscd`: expected `supervised`, `mean_teacher`, `ua_mt`, `urpc`, `cps`, `cross_teaching`, `mc_net`, `mc_net_plus`, `bcp`, `sc_ssl`, `unimatch` or `mcsd`
      5 |   dfm: { when: { method: mscd }, values: [true] }
        |                          ^^^^ did you mean `mcsd`?
    error: a.yaml:6:3: axis `dic` has `values` and no `when`
      6 |   dic: { values: [true, false] }
        |   ^^^ without a condition, write `dic: [...]`
    error: a.yaml:7:3: axis `seed` has a `when` and no `values`
      7 |   seed: { when: { method: mcsd } }
        |   ^^^^
    error: a.yaml:8:43: axis `size: 64`: expected a list of values
      8 |   size: { when: { method: mcsd }, values: 64, vlaues: [64] }
        |                                           ^^ write [64], or move it to `base`
    error: a.yaml:8:47: unknown key `vlaues` of axis `size`: expected `when` and `values`
      8 |   size: { when: { method: mcsd }, values: 64, vlaues: [64] }
        |                                               ^^^^^^ did you mean `values`?
    error: a.yaml:9:24: `when: [mcsd]` of axis `feature_dim`: expected a map of settings
      9 |   feature_dim: { when: [mcsd], values: [10, 20] }
        |                        ^^^^^^ such as `when: { method: mcsd }`
    error: a.yaml:11:13: axis `blocks` of `zip` has a `when`: only an axis of `grid` can
      11 |   blocks: { when: { method: mcsd }, values: [[2], [4]] }
         |             ^^^^
    ");
    assert_snapshot!(errors("grid: { tau: { when: { tau: 0.9 }, values: [0.8] } }"), @r"
    error: a.yaml:1:16: the condition of axis `tau` looks at the axis itself
      1 | grid: { tau: { when: { tau: 0.9 }, values: [0.8] } }
        |                ^^^^
    ");
    let circle =
        "grid: { tau: { when: { seed: 0 }, values: [0.8] }, seed: { when: { tau: 0.8 }, values: [0] } }";
    assert_snapshot!(errors(circle), @r"
    error: a.yaml:1:16: the conditions of the axes `tau`, `seed` go round in a circle
      1 | grid: { tau: { when: { seed: 0 }, values: [0.8] }, seed: { when: { tau: 0.8 }, values: [0] } }
        |                ^^^^
    ");
}

#[test]
fn conditional_axes_of_many_methods_stay_small() {
    // The full product would be 4^9 × 3 × 6 points.
    let mut text = String::from("base: { preset: smoke }\ngrid:\n  seed: [0, 1, 2, 3, 4, 5]\n");
    for (i, path) in
        ["train.lr", "train.momentum", "train.weight_decay", "train.poly", "augment.flip", "augment.rotate"]
            .iter()
            .enumerate()
    {
        let axis = format!("  {path}: {{ when: {{ seed: {i} }}, values: [0.1, 0.2, 0.3, 0.4] }}\n");
        text.push_str(&axis);
    }
    assert_eq!(read(&text).points.len(), 24);
}

#[test]
fn a_list_in_set_replaces_an_axis_or_makes_one() {
    let text = "base: { preset: smoke, tau: 0.8 }\ngrid: { seed: [0, 1], blocks: [[0], [1]] }\nzip: { dfm: [true, false], dic: [false, true] }";
    let sweep = with(text, &["seed=[5, 6, 7]", "blocks=[[2, 4]]", "tau=[0.85, 0.95]"]);
    assert_eq!(sweep.points.len(), 3 * 2 * 2);
    assert_eq!(
        sweep.points[0].axes.to_vec(),
        [
            ("seed".into(), json!(5)),
            ("blocks".into(), json!([2, 4])),
            ("tau".into(), json!(0.85)),
            ("dfm".into(), json!(true)),
            ("dic".into(), json!(false))
        ]
    );
    assert_eq!(with(text, &["dfm=[false, false]"]).points.len(), 8);
    let wrong = ["dfm=[false]", "seed=[1, x]", "tau=[[0.8]]", "timesteps=[[50], 7]"];
    assert_snapshot!(errors_with(text, &wrong), @r"
    error: a.yaml:3:28: axis `dic` has 2 values and `dfm` has 1
      3 | zip: { dfm: [true, false], dic: [false, true] }
        |                            ^^^ the lists of `zip` advance together
    error: --set:1:10: `seed: x`: expected a whole number, 0 or more
      1 | seed=[1, x]
        |          ^
    error: --set:1:6: `tau: [0.8]`: expected a number in (0, 1]
      1 | tau=[[0.8]]
        |      ^^^^^
    error: --set:1:18: `timesteps: 7`: expected a list of whole numbers from 0 to 999
      1 | timesteps=[[50], 7]
        |                  ^ write [7]
    ");
}

#[test]
fn one_wrong_value_hides_no_other_error() {
    let text = "base: { preset: smoke, data: { patients: 10 }, size: 96 }\ngrid:\n  tau: [2]\n  blocks: [[17, 18]]\n  seed: [0, -1]\n  label_ratio: [8]\nzip: { dfm: [true, ture], dic: [true, false] }\n";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:3:9: `tau: 2`: expected a number in (0, 1]
      3 |   tau: [2]
        |         ^
    error: a.yaml:4:17: block 18 does not exist: the diffusion model has output blocks 0 to 17
      4 |   blocks: [[17, 18]]
        |                 ^^
    error: a.yaml:5:13: `seed: -1`: expected a whole number, 0 or more
      5 |   seed: [0, -1]
        |             ^^
    error: a.yaml:6:17: 8 labelled patients, but the training split has 7
      6 |   label_ratio: [8]
        |                 ^ use 7 or fewer
    error: a.yaml:7:20: `dfm: ture`: expected `true` or `false`
      7 | zip: { dfm: [true, ture], dic: [true, false] }
        |                    ^^^^ did you mean `true`?
    ");
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }
    folder
}

fn load_in(folder: &tempfile::TempDir, name: &str) -> Result<Sweep, String> {
    let root = format!("{}/", folder.path().display());
    load(&folder.path().join(name), &[]).map_err(|errors| errors.to_string().replace(&root, ""))
}

#[test]
fn extends_merges_maps_and_replaces_lists() {
    let dir = folder(&[
        (
            "common/base.yaml",
            "name: parent\ndescription: common\nbase: { preset: smoke, data: { name: phantom, patients: 30 }, train: { lr: 0.1, batch: 2 }, tau: 0.7 }\ngrid: { dfm: [false, true], seed: [0, 1, 2], feature_dim: [10, 20] }\nexclude: [{ seed: 2 }]\nreport: { tables: [{ rows: dfm }], figures: [{ x: feature_dim }] }\n",
        ),
        (
            "child.yaml",
            "extends: common/base.yaml\nbase:\n  data: { patients: 40 }\n  train.lr: 0.2\n  feature_dim: 15\ngrid: { tau: [0.8, 0.9], seed: [0, 7] }\nreport: { tables: [{ rows: [tau, dfm] }], figures: ~ }\n",
        ),
        (
            "grandchild.yaml",
            "extends: ./child.yaml\nname: last\ngrid: { tau: ~ }\nbase: { tau: 0.95 }\nexclude: ~\nreport: ~\n",
        ),
    ]);
    let child = load_in(&dir, "child.yaml").unwrap();
    assert_eq!(
        (child.name.as_str(), child.description.as_str()),
        ("child", "common"),
        "a name is not inherited"
    );
    let settings = &child.points[0].settings;
    assert_eq!((settings.data.patients, settings.train.lr, settings.train.batch), (40, 0.2, 2));
    assert_eq!(settings.feature_dim, 15, "what this file sets in `base` takes the place of the other's axis");
    assert_snapshot!(points(&child), @r"
    dfm=false seed=0 tau=0.8
    dfm=false seed=0 tau=0.9
    dfm=false seed=7 tau=0.8
    dfm=false seed=7 tau=0.9
    dfm=true seed=0 tau=0.8
    dfm=true seed=0 tau=0.9
    dfm=true seed=7 tau=0.8
    dfm=true seed=7 tau=0.9
    ");
    assert_eq!((child.report.tables.len(), child.report.figures.len()), (1, 0));
    let last = load_in(&dir, "grandchild.yaml").unwrap();
    assert_eq!(last.name, "last");
    assert_snapshot!(points(&last), @r"
    dfm=false seed=0
    dfm=false seed=7
    dfm=true seed=0
    dfm=true seed=7
    ");
    assert!(last.points.iter().all(|point| point.settings.tau == 0.95));
}

#[test]
fn error_extends_names_the_right_file() {
    let dir = folder(&[
        ("a.yaml", "extends: b.yaml\nbase: { tua: 0.9 }\ngrid: { seed: [0, 1] }\n"),
        ("b.yaml", "base: { preset: smoke }\ngrid:\n  blocks: [[2], [17, 18]]\n  dfm: [yes]\n"),
        ("one.yaml", "extends: sub/two.yaml\n"),
        ("sub/two.yaml", "extends: ../one.yaml\n"),
        ("missing.yaml", "extends: quikstart.yaml\nbase: { tau: 7 }\n"),
        ("quickstart.yaml", "base: {}\n"),
        ("folder.yaml", "extends: sub\n"),
        ("empty.yaml", "extends: nothing.yaml\n"),
        ("nothing.yaml", "# nothing\n"),
        ("list.yaml", "extends: items.yaml\n"),
        ("items.yaml", "- a\n"),
        ("broken.yaml", "extends: torn.yaml\n"),
        ("torn.yaml", "base: { seed: 1\n"),
        ("kind.yaml", "extends: [b.yaml]\n"),
        ("itself.yaml", "extends: itself.yaml\n"),
    ]);
    assert_snapshot!(load_in(&dir, "a.yaml").unwrap_err(), @r"
    error: a.yaml:2:9: unknown setting `tua`
      2 | base: { tua: 0.9 }
        |         ^^^ did you mean `tau`?
    error: b.yaml:3:22: block 18 does not exist: the diffusion model has output blocks 0 to 17
      3 |   blocks: [[2], [17, 18]]
        |                      ^^
    error: b.yaml:4:9: `dfm: yes`: expected `true` or `false`
      4 |   dfm: [yes]
        |         ^^^ write `true`
    ");
    let names = ["one", "missing", "folder", "empty", "list", "broken", "kind", "itself"];
    let all: Vec<String> =
        names.iter().map(|name| load_in(&dir, &format!("{name}.yaml")).unwrap_err()).collect();
    assert_snapshot!(all.join("\n"), @r"
    error: sub/two.yaml:1:10: `extends: ../one.yaml`: the files extend each other: one.yaml → two.yaml → one.yaml
      1 | extends: ../one.yaml
        |          ^^^^^^^^^^^
    error: missing.yaml:1:10: `extends: quikstart.yaml`: there is no file quikstart.yaml
      1 | extends: quikstart.yaml
        |          ^^^^^^^^^^^^^^ did you mean `quickstart.yaml`?
    error: missing.yaml:2:14: `tau: 7`: expected a number in (0, 1]
      2 | base: { tau: 7 }
        |              ^
    error: folder.yaml:1:10: `extends: sub`: sub is a folder
      1 | extends: sub
        |          ^^^
    error: empty.yaml:1:10: `extends: nothing.yaml`: nothing.yaml is empty
      1 | extends: nothing.yaml
        |          ^^^^^^^^^^^^
    error: list.yaml:1:10: `extends: items.yaml`: items.yaml is no map of sections
      1 | extends: items.yaml
        |          ^^^^^^^^^^
    error: torn.yaml:1:16: cannot be read as YAML: while parsing a flow mapping, did not find expected ',' or '}'
      1 | base: { seed: 1
        |                ^
    error: kind.yaml:1:10: `extends: [b.yaml]`: expected a text
      1 | extends: [b.yaml]
        |          ^^^^^^^^
    error: itself.yaml:1:10: `extends: itself.yaml`: the files extend each other: itself.yaml → itself.yaml
      1 | extends: itself.yaml
        |          ^^^^^^^^^^^
    ");
}

const CHOICE: &str = "base: { preset: smoke }\ngrid:\n  method: [supervised, mcsd]\n  tau: { when: { method: mcsd }, values: [0.8, 0.9] }\n  label_ratio: [10%, 7 cases]\n  blocks: [[2], [2, 4]]\n  seed: [0, 1]\n";

#[test]
fn only_chooses_points() {
    let sweep = read(CHOICE);
    assert_eq!(sweep.points.len(), 24);
    let count = |text: &str| {
        let chosen = sweep.only("--only", text).unwrap_or_else(|errors| panic!("{errors}"));
        chosen.iter().filter(|&&chosen| chosen).count()
    };
    for (text, expected) in [
        ("seed=0", 12),
        ("seed = 0 and method in [mcsd, supervised]", 12),
        ("label_ratio=10% seed=1", 6),
        ("label_ratio='7 cases', seed=1", 6),
        ("label_ratio=7", 12),
        ("method=supervised or seed=1", 16),
        ("not method=supervised", 16),
        ("not (method=supervised or seed=1)", 8),
        ("method != mcsd", 8),
        ("tau=0.9", 8),
        ("tau<0.9", 8),
        ("tau >= 0.8", 16),
        ("tau != 0.9", 16),
        ("tau not in [0.8, 0.9]", 8),
        ("blocks=[2,4]", 12),
        ("blocks in [[2,4],[2]] seed=0", 12),
        ("seed=[0,1]", 24),
        ("data=phantom", 24),
        ("train.iterations > 100 and seed<=0", 12),
        ("method=supervised and seed=1 or method=mcsd and seed=0", 12),
    ] {
        assert_eq!(count(text), expected, "{text}");
    }
}

#[test]
fn error_only() {
    let sweep = read(CHOICE);
    let texts = [
        "",
        "seed=7",
        "sed=0",
        "method=mscd tau=2",
        "method < mcsd",
        "train=5",
        "seed",
        "seed=",
        "seed in 0",
        "(seed=0",
        "seed=0)",
        "seed=0 ann method=mcsd",
        "seed=0 and",
        "seed=0 or or seed=1",
        "seed=0 and seed=1",
        "label_ratio=7 cases",
        "seed=#",
        "seed=[0",
        "tau<[0.8,0.9]",
    ];
    let all: Vec<String> =
        texts.iter().map(|text| sweep.only("--only", text).unwrap_err().to_string()).collect();
    assert_snapshot!(all.join("\n"), @r"
    error: --only:1:1: expected a comparison of a setting
      1 | 
        | ^ such as `seed=0` or `method in [mcsd, supervised]`
    error: --only:1:1: no point has `seed=7`
      1 | seed=7
        | ^^^^^^ `seed` is 0, 1
    error: --only:1:1: unknown setting `sed`
      1 | sed=0
        | ^^^ did you mean `seed`?
    error: --only:1:8: `method: mscd`: expected `supervised`, `mean_teacher`, `ua_mt`, `urpc`, `cps`, `cross_teaching`, `mc_net`, `mc_net_plus`, `bcp`, `sc_ssl`, `unimatch` or `mcsd`
      1 | method=mscd tau=2
        |        ^^^^ did you mean `mcsd`?
    error: --only:1:17: `tau: 2`: expected a number in (0, 1]
      1 | method=mscd tau=2
        |                 ^
    error: --only:1:1: `method`: only numbers are smaller or larger
      1 | method < mcsd
        | ^^^^^^
    error: --only:1:1: `train` is a table: compare one of its settings
      1 | train=5
        | ^^^^^ such as `train.iterations`
    error: --only:1:1: `seed` is compared with nothing
      1 | seed
        | ^^^^ such as `seed=…`
    error: --only:1:6: expected a value of `seed`
      1 | seed=
        |      ^
    error: --only:1:9: expected a list after `in`
      1 | seed in 0
        |         ^ such as `[0, 1]`
    error: --only:1:1: this bracket is not closed
      1 | (seed=0
        | ^
    error: --only:1:7: expected `and`, `or` or the end
      1 | seed=0)
        |       ^
    error: --only:1:8: `ann` is compared with nothing
      1 | seed=0 ann method=mcsd
        |        ^^^ did you mean `and`?
    error: --only:1:11: expected a comparison of a setting
      1 | seed=0 and
        |           ^ such as `seed=0` or `method in [mcsd, supervised]`
    error: --only:1:11: expected a comparison of a setting
      1 | seed=0 or or seed=1
        |           ^^ such as `seed=0` or `method in [mcsd, supervised]`
    error: --only:1:1: none of the 24 points fulfils this
      1 | seed=0 and seed=1
        | ^^^^^^^^^^^^^^^^^
    error: --only:1:15: `cases` is compared with nothing
      1 | label_ratio=7 cases
        |               ^^^^^ a value with blanks stands in quotes: '7 cases'
    error: --only:1:6: expected a whole number, 0 or more
      1 | seed=#
        |      ^
    error: --only:1:8: cannot be read as YAML: while parsing a flow sequence, expected ',' or ']'
      1 | seed=[0
        |        ^
    error: --only:1:1: `tau`: expected one number
      1 | tau<[0.8,0.9]
        | ^^^
    ");
    assert!(
        sweep.only("--only", &"(".repeat(10_000)).is_err()
            && sweep.only("--only", &"not ".repeat(10_000)).is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No text makes `--only` panic, and each error has a place in it.
    #[test]
    fn any_text_for_only_is_read_or_refused(
        words in proptest::collection::vec(
            prop_oneof![
                Just("seed".to_owned()), Just("method".to_owned()), Just("=".to_owned()), Just(" in ".to_owned()),
                Just("[0, 1]".to_owned()), Just(" not ".to_owned()), Just(" or ".to_owned()), Just("(".to_owned()),
                Just(")".to_owned()), Just("mcsd".to_owned()), Just("tau<0.9".to_owned()), Just(" and ".to_owned()),
                Just("blocks=[[2]".to_owned()), Just("'".to_owned()), Just("\n".to_owned()), "\\PC{0,3}".prop_map(|s| s),
            ],
            0..9,
        ),
    ) {
        let text = words.concat();
        let sweep = read("base: { preset: smoke }\ngrid: { method: [supervised, mcsd], seed: [0, 1] }");
        if let Err(errors) = sweep.only("--only", &text) {
            prop_assert!(!errors.items.is_empty());
            prop_assert!(errors.items.iter().all(|item| item.line == 1 && item.column >= 1), "{}", errors);
        }
    }
}
