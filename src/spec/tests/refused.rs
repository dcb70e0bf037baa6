//! What is refused, and how that reads.

use std::fs;

use insta::assert_snapshot;

use super::super::load;
use super::{errors, errors_with};

#[test]
fn error_unknown_keys() {
    let text = "nmae: x\nbase:\n  dmf: true\n  iterations: 5\n  train: { momentun: 0.9 }\n  trian.lr: 1\n  color: red\nseed: 3\n";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:1:1: unknown section `nmae`: expected `name`, `description`, `extends`, `base`, `grid`, `zip`, `exclude`, `include` or `report`
      1 | nmae: x
        | ^^^^ did you mean `name`?
    error: a.yaml:3:3: unknown setting `dmf`
      3 |   dmf: true
        |   ^^^ did you mean `dfm`?
    error: a.yaml:4:3: unknown setting `iterations`
      4 |   iterations: 5
        |   ^^^^^^^^^^ did you mean `diffusion.iterations` or `train.iterations`?
    error: a.yaml:5:12: unknown setting `train.momentun`
      5 |   train: { momentun: 0.9 }
        |            ^^^^^^^^ did you mean `momentum`?
    error: a.yaml:6:3: unknown setting `trian.lr`
      6 |   trian.lr: 1
        |   ^^^^^^^^ did you mean `diffusion.lr` or `train.lr`?
    error: a.yaml:7:3: unknown setting `color`
      7 |   color: red
        |   ^^^^^
    error: a.yaml:8:1: unknown section `seed`: expected `name`, `description`, `extends`, `base`, `grid`, `zip`, `exclude`, `include` or `report`
      8 | seed: 3
        | ^^^^ a setting goes under `base`, an axis under `grid`
    ");
}

#[test]
fn error_wrong_values() {
    let text = "
base:
  preset: papper
  dfm: yes
  seed: -1
  tau: 1.5
  size: 100
  train:
    iterations: 1e3
    lr: '0.1'
    loss:
  blocks: 2
  timesteps: [50, 1000, x]
  unet.channels: [1, 2]
  data: [phantom]
";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:3:11: `preset: papper`: expected `smoke`, `lite` or `paper`
      3 |   preset: papper
        |           ^^^^^^ did you mean `paper`?
    error: a.yaml:4:8: `dfm: yes`: expected `true` or `false`
      4 |   dfm: yes
        |        ^^^ write `true`
    error: a.yaml:5:9: `seed: -1`: expected a whole number, 0 or more
      5 |   seed: -1
        |         ^^
    error: a.yaml:6:8: `tau: 1.5`: expected a number in (0, 1]
      6 |   tau: 1.5
        |        ^^^
    error: a.yaml:7:9: `size: 100`: expected a multiple of 32 from 32 to 4096
      7 |   size: 100
        |         ^^^
    error: a.yaml:9:17: `train.iterations: 1e3`: expected a whole number from 1 to 1000000000
      9 |     iterations: 1e3
        |                 ^^^ write 1000
    error: a.yaml:10:9: `train.lr: 0.1`: expected a number above 0
      10 |     lr: '0.1'
         |         ^^^^^ write it without quotes
    error: a.yaml:11:9: `train.loss: nothing`: expected `ce`, `ce_dice` or `half_dice`
      11 |     loss:
         |         ^
    error: a.yaml:12:11: `blocks: 2`: expected a list of whole numbers from 0 to 999
      12 |   blocks: 2
         |           ^ write [2]
    error: a.yaml:13:19: `timesteps[1]: 1000`: expected a whole number from 0 to 999
      13 |   timesteps: [50, 1000, x]
         |                   ^^^^
    error: a.yaml:13:25: `timesteps[2]: x`: expected a whole number from 0 to 999
      13 |   timesteps: [50, 1000, x]
         |                         ^
    error: a.yaml:14:18: `unet.channels: [1, 2]`: expected a list of 5 whole numbers from 1 to 65536
      14 |   unet.channels: [1, 2]
         |                  ^^^^^^
    error: a.yaml:15:9: `data: [phantom]`: expected a map of settings
      15 |   data: [phantom]
         |         ^^^^^^^^^ such as `data.name`
    ");
}

#[test]
fn error_empty_and_malformed_axes() {
    let text =
        "grid:\n  seed: []\n  tau: 0.9\n  blocks: [2, 4, 6]\n  timesteps: [[50, 50], []]\n  dic: [ture]\n";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:2:3: axis `seed` has no values
      2 |   seed: []
        |   ^^^^
    error: a.yaml:3:8: axis `tau: 0.9`: expected a list of values
      3 |   tau: 0.9
        |        ^^^ write [0.9], or move it to `base`
    error: a.yaml:4:11: `blocks: [2, 4, 6]`: one value of this axis is itself a list
      4 |   blocks: [2, 4, 6]
        |           ^^^^^^^^^ write [[2, 4, 6]]
    error: a.yaml:5:20: `timesteps` lists 50 twice
      5 |   timesteps: [[50, 50], []]
        |                    ^^
    error: a.yaml:5:25: `timesteps: []`: expected a list of whole numbers from 0 to 999
      5 |   timesteps: [[50, 50], []]
        |                         ^^
    error: a.yaml:6:9: `dic: ture`: expected `true` or `false`
      6 |   dic: [ture]
        |         ^^^^ did you mean `true`?
    ");
    assert_snapshot!(errors("base: { seed: 1 }\ngrid: {}\n"), @r"
    error: a.yaml:2:1: the grid is empty
      2 | grid: {}
        | ^^^^ list axes, or leave `grid` out to run `base` alone
    ");
    assert_snapshot!(errors("grid: [seed]\n"), @r"
    error: a.yaml:1:1: `grid: [seed]`: expected a map of axes
      1 | grid: [seed]
        | ^^^^ such as `seed: [0, 1, 2]`
    ");
}

#[test]
fn error_no_points_or_too_many() {
    assert_snapshot!(errors("grid: { seed: [0] }\nexclude:\n  - seed: 0\n"), @r"
    error: a.yaml:3:5: 0 points remain: `exclude` drops all of them
      3 |   - seed: 0
        |     ^
    ");
    let axis = format!("[{}]", (0..1001).map(|i| i.to_string()).collect::<Vec<_>>().join(", "));
    let text = format!("grid:\n  seed: {axis}\n  data.seed: {axis}\n");
    assert_snapshot!(errors(&text), @r"
    error: a.yaml:1:1: the grid has 1001 × 1001 points, more than 1000000
      1 | grid:
        | ^^^^
    ");
}

#[test]
fn error_axis_and_base_disagree() {
    let text = "base: { tau: 0.9, data: acdc }\ngrid:\n  tau: [0.8]\n  data: [phantom, { name: acdc, root: x }]\n  data.root: [a, b]\n";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:1:14: `tau` is set in `base` and is an axis of the sweep (a.yaml:3)
      1 | base: { tau: 0.9, data: acdc }
        |              ^^^ keep one of the two
    error: a.yaml:1:25: `data.name` is set in `base` and is an axis of the sweep (a.yaml:4)
      1 | base: { tau: 0.9, data: acdc }
        |                         ^^^^ keep one of the two
    error: a.yaml:5:3: axis `data.root` sets what axis `data` sets (a.yaml:4)
      5 |   data.root: [a, b]
        |   ^^^^^^^^^
    ");
    assert_snapshot!(errors("zip: { tau: [0.8, 0.9], seed: [1] }"), @r"
    error: a.yaml:1:25: axis `seed` has 1 value and `tau` has 2
      1 | zip: { tau: [0.8, 0.9], seed: [1] }
        |                         ^^^^ the lists of `zip` advance together
    ");
}

#[test]
fn error_settings_that_do_not_fit() {
    let text = "
base: { preset: smoke, data: { patients: 10 } }
grid:
  blocks: [[2, 4], [17, 18]]
  label_ratio: [7 cases, 8 cases, 10%]
  diffusion.head_channels: [32, 48]
  diffusion.channel_mult: [[1, 2, 2, 2, 2, 2], [1, 1]]
";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:4:21: block 17 does not exist: the diffusion model has output blocks 0 to 5
      4 |   blocks: [[2, 4], [17, 18]]
        |                     ^^
    error: a.yaml:4:25: block 18 does not exist: the diffusion model has output blocks 0 to 17
      4 |   blocks: [[2, 4], [17, 18]]
        |                         ^^
    error: a.yaml:4:25: block 18 does not exist: the diffusion model has output blocks 0 to 5
      4 |   blocks: [[2, 4], [17, 18]]
        |                         ^^
    error: a.yaml:5:17: all 7 training patients are labelled, which leaves none unlabelled
      5 |   label_ratio: [7 cases, 8 cases, 10%]
        |                 ^^^^^^^ `mcsd` with `dfm` or `dic` learns from unlabelled patients; `supervised` needs none
    error: a.yaml:5:26: 8 labelled patients, but the training split has 7
      5 |   label_ratio: [7 cases, 8 cases, 10%]
        |                          ^^^^^^^ use 7 or fewer
    error: a.yaml:6:33: 32 channels of level 1 do not divide into heads of 48
      6 |   diffusion.head_channels: [32, 48]
        |                                 ^^
    error: a.yaml:6:33: 64 channels of level 3 do not divide into heads of 48
      6 |   diffusion.head_channels: [32, 48]
        |                                 ^^
    error: a.yaml:7:48: attention at factor 8 matches no level: 2 levels have the factors 1 to 2
      7 |   diffusion.channel_mult: [[1, 2, 2, 2, 2, 2], [1, 1]]
        |                                                ^^^^^^
    ");
    assert_snapshot!(errors("base: { data: acdc, dfm: false, mcsd.test_stream: mean }"), @r"
    error: a.yaml:1:15: `acdc` needs `data.root`, its folder
      1 | base: { data: acdc, dfm: false, mcsd.test_stream: mean }
        |               ^^^^ set `data.root`, or say `--set data.root=FOLDER`
    error: a.yaml:1:51: `mcsd.test_stream` reads the feature stream, which only `dfm: true` builds
      1 | base: { data: acdc, dfm: false, mcsd.test_stream: mean }
        |                                                   ^^^^ use `image`, or `dfm: true`
    ");
}

#[test]
fn error_in_set() {
    let sets = ["tua=0.9", "tau=2", "blocks", "blocks=[2, 99]", "seed=[", "method=", "grid.seed=[1]"];
    assert_snapshot!(errors_with("base: { preset: smoke }", &sets), @r"
    error: --set:1:1: unknown setting `tua`
      1 | tua=0.9
        | ^^^ did you mean `tau`?
    error: --set:1:5: `tau: 2`: expected a number in (0, 1]
      1 | tau=2
        |     ^
    error: --set:1:1: expected KEY=VALUE
      1 | blocks
        | ^^^^^^ such as `train.iterations=500`
    error: --set:1:12: block 99 does not exist: the diffusion model has output blocks 0 to 17
      1 | blocks=[2, 99]
        |            ^^
    error: --set:1:7: cannot be read as YAML: while parsing a node, did not find expected node content
      1 | seed=[
        |       ^
    error: --set:1:1: `method: nothing`: expected `supervised`, `mean_teacher`, `ua_mt`, `urpc`, `cps`, `cross_teaching`, `mc_net`, `mc_net_plus`, `bcp`, `sc_ssl`, `unimatch` or `mcsd`
      1 | method=
        | ^^^^^^^
    error: --set:1:1: unknown setting `grid.seed`
      1 | grid.seed=[1]
        | ^^^^^^^^^ did you mean `data.seed`, `seed` or `diffusion.seed`?
    ");
}

#[test]
fn error_in_report() {
    let text = "
grid: { dfm: [false, true], seed: [0, 1] }
report:
  tables:
    - rows: [dmf, dic]
      metrics: [dice, hd59]
    - caption: x
  figures:
    - { kind: bar, x: tau }
  plots: []
";
    assert_snapshot!(errors(text), @r"
    error: a.yaml:5:14: `rows: dmf` is not an axis: expected `dfm` or `seed`
      5 |     - rows: [dmf, dic]
        |              ^^^ did you mean `dfm`?
    error: a.yaml:5:19: `rows: dic` is not an axis: expected `dfm` or `seed`
      5 |     - rows: [dmf, dic]
        |                   ^^^
    error: a.yaml:6:23: `metrics: hd59` is not a metric: expected `dice`, `jaccard`, `hd95`, `asd`, `hd95_mm`, `asd_mm`, `hd95_max`, `hd95_max_mm`, `assd`, `assd_mm`, `parameters`, `step_gflops` or `slice_gflops`
      6 |       metrics: [dice, hd59]
        |                       ^^^^ did you mean `hd95`?
    error: a.yaml:7:7: a table needs `rows`
      7 |     - caption: x
        |       ^
    error: a.yaml:9:15: `kind: bar` is not a kind of figure: expected `sensitivity`, `ratio`, `category`, `ablation`, `heatmap`, `learning`, `accepted`, `scatter`, `box`, `ranks`, `diffusion`, `overlay`, `features` or `samples`
      9 |     - { kind: bar, x: tau }
        |               ^^^
    error: a.yaml:9:23: `x: tau` is not an axis: expected `dfm` or `seed`
      9 |     - { kind: bar, x: tau }
        |                       ^^^
    error: a.yaml:10:3: unknown key `plots` of a report: expected `tables`, `figures` or `pictures`
      10 |   plots: []
         |   ^^^^^
    ");
}

#[test]
fn error_yaml() {
    assert_snapshot!(errors("base:\n  seed: 1\n  seed: 2\n  train: { lr: 1 }\n  train.lr: 2\n"), @r"
    error: a.yaml:3:3: key `seed` stands here twice; first on line 2
      3 |   seed: 2
        |   ^^^^
    error: a.yaml:5:13: `train.lr` is set twice; first at a.yaml:4
      5 |   train.lr: 2
        |             ^
    ");
    assert_snapshot!(errors("base: { seed: 1\n"), @r"
    error: a.yaml:1:16: cannot be read as YAML: while parsing a flow mapping, did not find expected ',' or '}'
      1 | base: { seed: 1
        |                ^
    ");
    assert_snapshot!(errors("base: &b { seed: 1 }\ngrid: *b\n"), @r"
    error: a.yaml:2:7: aliases (`*name`) are not understood: write the value out
      2 | grid: *b
        |       ^^
    ");
    assert_snapshot!(errors("base: { seed: !!int 1, ? [a] : b }\n"), @r"
    error: a.yaml:1:15: tags (`!name`) are not understood: write the value alone
      1 | base: { seed: !!int 1, ? [a] : b }
        |               ^^^^^^^
    error: a.yaml:1:26: a key must be a word
      1 | base: { seed: !!int 1, ? [a] : b }
        |                          ^^^^
    ");
    assert_snapshot!(errors("base: {}\n---\nbase: {}\n"), @r"
    error: a.yaml:2:1: a second document: a sweep file is one document
      2 | ---
        | ^^^
    ");
    assert_snapshot!(errors("# nothing\n"), @r"
    error: a.yaml:1:1: the sweep file is empty
      1 | # nothing
        | ^ write at least `base` or `grid`
    ");
    assert_snapshot!(errors("- a\n"), @r"
    error: a.yaml:1:1: a sweep file is a map of sections
      1 | - a
        | ^ the keys are `name`, `description`, `extends`, `base`, `grid`, `zip`, `exclude`, `include` or `report`
    ");
    assert_snapshot!(errors(&format!("base: {}{}", "[".repeat(60), "]".repeat(60))), @r"
    error: a.yaml:1:38: nested more than 32 levels deep
      1 | base: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
        |                                      ^
    ");
    assert_snapshot!(errors("name: ../up\ndescription: [1]\n"), @r"
    error: a.yaml:1:7: `name: ../up`: it becomes the name of a folder: expected letters, digits, `.`, `_` and `-`, at most 100, the first a letter or digit
      1 | name: ../up
        |       ^^^^^
    error: a.yaml:2:14: `description: [1]`: expected a text
      2 | description: [1]
        |              ^^^
    ");
}

#[test]
fn error_no_such_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("quickstart.yaml")).unwrap();
    let near = load(&folder.path().join("quikstart.yaml"), &[]).unwrap_err().to_string();
    assert!(near.contains("there is no such sweep file") && near.contains("did you mean"), "{near}");
    let far = load(&folder.path().join("other.yaml"), &[]).unwrap_err().to_string();
    assert!(far.contains("sweep files here") && far.contains("quickstart.yaml"), "{far}");
    let folder = load(folder.path(), &[]).unwrap_err().to_string();
    assert!(folder.contains("is a folder"), "{folder}");
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    std::io::Write::write_all(&mut fs::File::create(&path).unwrap(), b"base: {}\n\xff\xfe").unwrap();
    let error = load(&path, &[]).unwrap_err().to_string();
    assert!(error.ends_with("is no text in UTF-8 (line 2)"), "{error}");
}
