//! What is shared, what a key depends on, and what it does not.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::price::{Basis, Computer, Price, prices};
use super::why::{Change, Reason, why};
use super::{Inspected, Plan};
use crate::spec::settings::{DataName, DataSettings, LabelRatio, Settings};
use crate::spec::stages::{EvaluateStage, FeaturesSettings, PrepareLocal, PrepareSettings, PretrainSettings};
use crate::spec::validate::phantom_train_patients;
use crate::spec::{Sweep, load};
use crate::stage::StageKind;
use crate::store::Meta;
use crate::store::key::{Key, canonical};

/// Data sets as the plan sees them, without data.
#[expect(clippy::unnecessary_wraps, reason = "has the type of looking at real data")]
fn inspect(data: &DataSettings) -> anyhow::Result<Inspected> {
    Ok(match data.name {
        DataName::Acdc => Inspected { content: "acdc".into(), train_patients: 70 },
        DataName::Phantom => Inspected { content: "phantom".into(), train_patients: data.patients * 7 / 10 },
        name => Inspected { content: name.name().into(), train_patients: 224 },
    })
}

fn sweep(text: &str) -> Sweep {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.yaml");
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
    load(&path, &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn plan(text: &str) -> Plan {
    Plan::with(&sweep(text), &inspect).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Why a sweep cannot be planned; the file is called `test.yaml`.
fn refused(text: &str) -> String {
    let sweep = sweep(text);
    let folder = format!("{}/", sweep.path.parent().unwrap().display());
    format!("{:#}", Plan::with(&sweep, &inspect).unwrap_err()).replace(&folder, "")
}

fn counts(plan: &Plan) -> [usize; 5] {
    use StageKind::{Evaluate, Features, Prepare, Pretrain, Train};
    [Prepare, Pretrain, Features, Train, Evaluate]
        .map(|kind| plan.stages.iter().filter(|stage| stage.kind == kind).count())
}

fn train_keys(plan: &Plan) -> BTreeSet<String> {
    plan.points.iter().map(|point| point.train.to_string()).collect()
}

fn labels(plan: &Plan, kind: StageKind) -> Vec<&str> {
    plan.stages.iter().filter(|stage| stage.kind == kind).map(|stage| stage.label.as_str()).collect()
}

#[test]
fn the_quickstart_shares_data_model_and_features() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps/quickstart.yaml");
    let plan = Plan::with(&load(&path, &[]).unwrap(), &inspect).unwrap();
    assert_eq!(counts(&plan), [1, 1, 9, 8, 8]);
    assert_eq!(plan.stages[0].points.len(), 8, "all points need the data");
    assert_eq!(plan.stages[1].points, [4, 5, 6, 7], "points with DFM need the model");
    let groups: BTreeSet<_> = plan.stages.iter().filter_map(|stage| stage.group.as_ref()).collect();
    assert_eq!(groups.len(), 3, "one pass for each time step");
    insta::assert_snapshot!(labels(&plan, StageKind::Train).join("\n"), @r"
    train mcsd 3 cases seed=0
    train mcsd 3 cases seed=1
    train mcsd 3 cases dic seed=0
    train mcsd 3 cases dic seed=1
    train mcsd 3 cases dfm seed=0
    train mcsd 3 cases dfm seed=1
    train mcsd 3 cases dfm dic seed=0
    train mcsd 3 cases dfm dic seed=1
    ");
    insta::assert_snapshot!(
        plan.stages[..4].iter().map(|stage| stage.label.as_str()).collect::<Vec<_>>().join("\n"), @r"
    prepare phantom 40 patients
    pretrain phantom
    features t=50 block=2
    features t=50 block=4
    ");
}

#[test]
fn reading_a_file_counts_the_phantoms_patients_as_the_data_do() {
    for patients in (10..=120).chain([500, 1999, 2000]) {
        let data =
            DataSettings { name: DataName::Phantom, root: "".into(), patients, seed: 0, unlabelled: false };
        let found = crate::data::inspect(&data).unwrap();
        assert_eq!(phantom_train_patients(patients), found.train_patients, "{patients}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps/quickstart.yaml");
    assert_eq!(counts(&Plan::new(&load(&path, &[]).unwrap()).unwrap()), [1, 1, 9, 8, 8]);
}

#[test]
fn parents_come_first_and_exist() {
    let text = "base: { preset: smoke }\ngrid: { features.mode: [cached, online], mcsd.test_stream: [image, mean], timesteps: [[9, 5]], blocks: [[3, 1]] }";
    let plan = plan(text);
    let at = |key| plan.stages.iter().position(|stage| stage.key == key);
    for (i, stage) in plan.stages.iter().enumerate() {
        for (parent, index) in plan.spec(i).parents.iter().zip(plan.parents(i)) {
            assert_eq!(at(parent.key.clone()), Some(index), "{} of {}", parent.role, stage.label);
            assert!(index < i, "{} of {}", parent.role, stage.label);
        }
    }
    let roles = |i: usize, kind: StageKind| {
        let point = &plan.points[i];
        let key = if kind == StageKind::Train { &point.train } else { &point.evaluate };
        let stage = plan.stages.iter().position(|stage| stage.key == *key).unwrap();
        plan.spec(stage).parents.into_iter().map(|parent| parent.role).collect::<Vec<_>>()
    };
    let maps = ["features/t9/b3", "features/t9/b1", "features/t5/b3", "features/t5/b1"];
    assert_eq!(
        roles(0, StageKind::Train),
        [&["data"][..], &maps].concat(),
        "step-major, block-minor, as written"
    );
    assert_eq!(roles(1, StageKind::Train), [&["data"][..], &maps, &["diffusion"]].concat());
    assert_eq!(roles(2, StageKind::Train), ["data", "diffusion"], "online");
    assert_eq!(roles(0, StageKind::Evaluate), ["train", "data"]);
    assert_eq!(roles(1, StageKind::Evaluate), ["train", "data", "diffusion"]);
}

#[test]
fn stage_settings_read_back_as_their_types() {
    let plan = plan("base: { preset: smoke, dic: false }\ngrid: { tau: [0.8, 0.9] }");
    for (i, stage) in plan.stages.iter().enumerate() {
        let spec = plan.spec(i);
        let settings = spec.settings;
        match stage.kind {
            StageKind::Prepare => {
                let prepare: PrepareSettings = serde_json::from_value(settings).unwrap();
                let local: PrepareLocal = serde_json::from_value(spec.local).unwrap();
                assert_eq!(prepare.data(local.root), plan.points[0].settings.data);
            }
            StageKind::Pretrain => {
                let pretrain: PretrainSettings = serde_json::from_value(settings).unwrap();
                assert_eq!(pretrain.diffusion, plan.points[0].settings.diffusion);
            }
            StageKind::Features => {
                serde_json::from_value::<FeaturesSettings>(settings).unwrap();
            }
            StageKind::Train => {
                let train: Settings = serde_json::from_value(settings).unwrap();
                assert_eq!(train.label_ratio, LabelRatio::Cases(3), "10 % of 28 patients");
                assert_eq!(train.size, 64);
            }
            StageKind::Evaluate => {
                serde_json::from_value::<EvaluateStage>(settings).unwrap();
            }
        }
    }
}

#[test]
fn what_cannot_matter_is_no_part_of_a_training() {
    let supervised = "base: { preset: smoke, method: supervised }";
    let same = plan(supervised);
    for idle in [
        "tau: 0.5",
        "dfm: false",
        "dic: false",
        "blocks: [1]",
        "timesteps: [1]",
        "feature_dim: 3",
        "diffusion.iterations: 7",
        "augment.cutmix: 0.1",
        "augment.quantise: false",
        "mcsd.feature_loss: fused",
        "evaluate.split: val",
        "features.mode: online",
        "label_ratio: 3 cases",
        "data.root: elsewhere",
    ] {
        let other = plan(&format!("base: {{ preset: smoke, method: supervised, {idle} }}"));
        assert_eq!(train_keys(&same), train_keys(&other), "{idle}");
    }
    for matters in [
        "seed: 1",
        "size: 96",
        "train.lr: 0.5",
        "augment.flip: 0.1",
        "label_ratio: 4",
        "data.seed: 1",
        "unet.dropout: [0, 0, 0, 0, 0]",
        "data.patients: 30",
        "train.loss: ce",
    ] {
        let other = plan(&format!("base: {{ preset: smoke, method: supervised, {matters} }}"));
        assert_ne!(train_keys(&same), train_keys(&other), "{matters}");
    }
    let full = plan("base: { preset: smoke }");
    for matters in [
        "tau: 0.5",
        "dfm: false",
        "dic: false",
        "blocks: [1]",
        "timesteps: [1]",
        "feature_dim: 3",
        "diffusion.iterations: 7",
        "augment.cutmix: 0.1",
        "augment.quantise: false",
        "mcsd.feature_loss: fused",
        "features.noise_seed: 1",
        "features.reduction: fixed_random",
        "blocks: [4, 2, 6]",
    ] {
        let other = plan(&format!("base: {{ preset: smoke, {matters} }}"));
        assert_ne!(train_keys(&full), train_keys(&other), "{matters}");
    }
}

#[test]
fn a_new_value_of_one_setting_shares_what_it_does_not_touch() {
    let blocks = plan(
        "base: { preset: smoke }\ngrid: { blocks: [[2, 4, 6], [2], [4, 6, 8]], feature_dim: [10, 30], tau: [0.8, 0.9] }",
    );
    assert_eq!(counts(&blocks), [1, 1, 12, 12, 12], "4 blocks at 3 steps");
    let evaluation = plan("base: { preset: smoke }\ngrid: { evaluate.split: [val, test] }");
    assert_eq!(counts(&evaluation), [1, 1, 9, 1, 2]);
    let ratios = plan("base: { preset: smoke }\ngrid: { label_ratio: [10%, 3 cases, 4] }");
    assert_eq!(counts(&ratios), [1, 1, 9, 2, 2], "10 % of 28 patients are 3");
    assert_eq!(ratios.points[0].evaluate, ratios.points[1].evaluate);
    assert_ne!(ratios.points[0].id, ratios.points[1].id);
    let data =
        plan("base: { preset: smoke }\ngrid: { data: [phantom, { seed: 1 }, { name: acdc, root: here }] }");
    assert_eq!(counts(&data), [3, 3, 27, 3, 3]);
}

#[test]
fn the_papers_pairs_of_acdc() {
    let plan = plan("base: { data: { name: acdc, root: here } }\ngrid: { label_ratio: [5%, 10%, 20%] }");
    let cases =
        |i: usize| plan.stages.iter().find(|stage| stage.key == plan.points[i].train).unwrap().label.clone();
    insta::assert_snapshot!([cases(0), cases(1), cases(2)].join("\n"), @r"
    train mcsd 3 cases dfm dic seed=0
    train mcsd 7 cases dfm dic seed=0
    train mcsd 14 cases dfm dic seed=0
    ");
    let local: PrepareLocal = serde_json::from_value(plan.spec(0).local).unwrap();
    assert!(local.root.is_absolute() && local.root.ends_with("here"));
    let text = "base: { data: { name: acdc, root: here }, label_ratio: 71 cases }";
    insta::assert_snapshot!(refused(text), @r"
    error: test.yaml:1:56: `label_ratio: 71 cases` does not fit the data set: 71 labelled patients, but the training split has 70
      1 | base: { data: { name: acdc, root: here }, label_ratio: 71 cases }
        |                                                        ^^^^^^^^ use 70 or fewer
    ");
}

#[test]
fn an_axis_without_effect_is_refused_with_the_reason() {
    let why = |text: &str| refused(text);
    insta::assert_snapshot!(why("base: { method: supervised }\ngrid: { seed: [0, 1], tau: [0.8, 0.9] }"), @r"
    error: test.yaml:2:23: axis `tau` changes nothing: `method: supervised` learns from labelled slices alone, without MCSD's modules
      2 | grid: { seed: [0, 1], tau: [0.8, 0.9] }
        |                       ^^^ every point needs the same stages as with `tau: 0.8`
    ");
    insta::assert_snapshot!(why("base: { dfm: false }\ngrid: { blocks: [[1], [2]], seed: [0, 1] }"), @r"
    error: test.yaml:2:9: axis `blocks` changes nothing: only `method: mcsd` with `dfm: true` reads diffusion features
      2 | grid: { blocks: [[1], [2]], seed: [0, 1] }
        |         ^^^^^^ every point needs the same stages as with `blocks: [1]`
    ");
    insta::assert_snapshot!(why("grid: { data.root: [a, b] }"), @r#"
    error: test.yaml:1:9: axis `data.root` changes nothing: the folder of the data is no part of a result, its content is
      1 | grid: { data.root: [a, b] }
        |         ^^^^^^^^^ every point needs the same stages as with `data.root: "a"`
    "#);
    insta::assert_snapshot!(why("base: { dfm: false }\ngrid: { diffusion.iterations: [5, 6] }"), @r"
    error: test.yaml:2:9: axis `diffusion.iterations` changes nothing: only features from the diffusion model depend on it, and nothing reads them
      2 | grid: { diffusion.iterations: [5, 6] }
        |         ^^^^^^^^^^^^^^^^^^^^ every point needs the same stages as with `diffusion.iterations: 5`
    ");
    // Every one at once, with label ratios that fit the phantom and not the data set that is found.
    insta::assert_snapshot!(why("base: { dfm: false }\ngrid:\n  blocks: [[1], [2]]\n  timesteps: [[1], [2]]\n"), @r"
    error: test.yaml:3:3: axis `blocks` changes nothing: only `method: mcsd` with `dfm: true` reads diffusion features
      3 |   blocks: [[1], [2]]
        |   ^^^^^^ every point needs the same stages as with `blocks: [1]`
    error: test.yaml:4:3: axis `timesteps` changes nothing: only `method: mcsd` with `dfm: true` reads diffusion features
      4 |   timesteps: [[1], [2]]
        |   ^^^^^^^^^ every point needs the same stages as with `timesteps: [1]`
    ");
    insta::assert_snapshot!(why("base: { data: { name: acdc, root: x } }\ngrid:\n  label_ratio: [71, 10%, 70]\n  method: [supervised, mcsd]\n"), @r"
    error: test.yaml:3:17: `label_ratio: 71 cases` does not fit the data set: 71 labelled patients, but the training split has 70
      3 |   label_ratio: [71, 10%, 70]
        |                 ^^ use 70 or fewer
    error: test.yaml:3:26: `label_ratio: 70 cases` does not fit the data set: all 70 training patients are labelled, which leaves none unlabelled
      3 |   label_ratio: [71, 10%, 70]
        |                          ^^ `mcsd` with `dfm` or `dic` learns from unlabelled patients; `supervised` needs none
    ");
    // With DFM at one point only, tau has an effect there, and that is enough.
    plan("base: { dic: false }\ngrid: { dfm: [false, true], tau: [0.8, 0.9] }");
}

#[test]
fn keys_never_change_by_accident() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps/quickstart.yaml");
    let text = "base: { preset: paper, data: { name: acdc, root: x } }\ngrid: { method: [supervised, mcsd] }";
    let mut lines = vec![];
    for plan in [Plan::with(&load(&path, &["seed=0".into()]).unwrap(), &inspect).unwrap(), plan(text)] {
        lines.extend(plan.stages.iter().map(|stage| format!("{} {}", stage.key, stage.label)));
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    1794e0283ec4c6d5b0fb08d0ef2d1085 prepare phantom 40 patients
    217d56abfdb731e4737646753f58fa03 pretrain phantom
    589190f39e8f380a2d2c89c49e456f98 features t=50 block=2
    7356c6d33fa5a7d4df8939e67c9f44b1 features t=50 block=4
    a416a7296a6c6a0dfdab28e5f6dec830 features t=50 block=6
    e2c0f2c51b3e10d2afff21d4372e250d features t=150 block=2
    cbced89d066fcad0de668e844c137e2d features t=150 block=4
    04a2e2759ca52742949cbc9bd64990cc features t=150 block=6
    965839e3ebcdd974ee2dca0618725466 features t=250 block=2
    4ad4eeee9334a7beb9c49ebc85f70735 features t=250 block=4
    e63e61c06b5afc3f4b9d23a6fcf29e22 features t=250 block=6
    8cd58b5e85bb47ebb17f3bcff6e08ac9 train mcsd 3 cases seed=0
    407e3e5b7ab569510b975dfae73359e7 train mcsd 3 cases dic seed=0
    3b1f048f3fb6919015d2f0053516ce97 train mcsd 3 cases dfm seed=0
    3369a975bba6298939e7763a2efae477 train mcsd 3 cases dfm dic seed=0
    a97e0022e8e8919a3fb7d9c020aca46e evaluate mcsd 3 cases seed=0
    0f4cdebcb380c33f02bd6c0025cfa90e evaluate mcsd 3 cases dic seed=0
    7af1e2e409721f57601c92b2c64b9e72 evaluate mcsd 3 cases dfm seed=0
    9eb335121b352bbbc0d0511da344b0bf evaluate mcsd 3 cases dfm dic seed=0
    4c34355c4e806cc47872831af4fcb022 prepare acdc
    949b4fc83b866b02853f174105bac116 pretrain acdc
    8418d28775d7f95e32a6c3b8da79425f features t=50 block=2
    f2329e8d75d7acd2721d94cc0a8bc6e2 features t=50 block=4
    f7f64d28853d8eab3f1d8f692ec1c617 features t=50 block=6
    ba9e749d03ef21ec8ddc8297b3de5b2b features t=150 block=2
    375ed6a9a8c188f26ac1d43ae0f810c0 features t=150 block=4
    e65b9fdd8eef8f884dae007dbf235ec3 features t=150 block=6
    c1f243b6c60bfc31a534e9829cafd959 features t=250 block=2
    d654be4c561f18f7addd9593739a786d features t=250 block=4
    8ed791fdae212565069dcb9bebff5eb0 features t=250 block=6
    8a5145cbf38a725d30f22250e03651d8 train supervised 7 cases seed=0
    be7069783c0512baf953a5497f83323c train mcsd 7 cases dfm dic seed=0
    20af6ffc0ec694cbd9be49ae2ae47ea7 evaluate supervised 7 cases seed=0
    a288efc40674b8cee3f2a7f0637143dd evaluate mcsd 7 cases dfm dic seed=0
    ");
}

#[test]
fn a_selected_part_keeps_names_keys_and_labels() {
    let text = "base: { preset: smoke }\ngrid: { method: [supervised, mcsd], seed: [0, 1], timesteps: { when: { method: mcsd }, values: [[50], [50, 150]] } }";
    let sweep = sweep(text);
    let whole = Plan::with(&sweep, &inspect).unwrap();
    let chosen = sweep.only("--only", "seed=1 and not timesteps=[50]").unwrap();
    let part = whole.select(&chosen);
    assert_eq!((whole.points.len(), part.points.len()), (6, 2));
    assert_eq!(counts(&part), [1, 1, 6, 2, 2]);
    let mut kept =
        chosen.iter().zip(&whole.points).filter(|(chosen, _)| **chosen).map(|(_, point)| &point.id);
    assert!(part.points.iter().all(|point| kept.next() == Some(&point.id)));
    for (i, stage) in part.stages.iter().enumerate() {
        let at = whole.stages.iter().position(|other| other.key == stage.key).unwrap();
        assert_eq!(stage.label, whole.stages[at].label);
        assert_eq!(part.spec(i), whole.spec(at));
        assert!(part.parents(i).all(|parent| parent < i));
        assert!(stage.points.iter().all(|&point| point < part.points.len()));
    }
}

/// A key is the hash of the canonical text of what the store is told of the stage, less what cannot matter: a stage whose
/// spec is built on demand tells the truth.
#[test]
fn specs_on_demand_are_those_of_the_keys() {
    let plan = plan(
        "base: { preset: smoke }\ngrid: { method: [supervised, mcsd], seed: [0, 1], evaluate.split: [val, test] }",
    );
    for (i, stage) in plan.stages.iter().enumerate() {
        let spec = plan.spec(i);
        let parents = spec.parents.iter().map(|parent| (parent.role.as_str(), &parent.key));
        let text = canonical(&spec.settings, &super::build::later());
        let key = Key::of_stage(spec.kind.name(), spec.kind.version(), &text, parents);
        // Of a training some settings are no part of the key.
        assert_eq!(key == stage.key, spec.kind != StageKind::Train, "{}", stage.label);
    }
}

#[test]
fn all_data_sets_that_cannot_be_read_are_named_at_once() {
    let sweep = sweep(
        "base: { preset: smoke }\ngrid:\n  data: [phantom, { name: acdc, root: a }, { name: acdc, root: b }]\n  seed: [0, 1]",
    );
    let inspect = |data: &DataSettings| match data.name {
        DataName::Phantom => inspect(data),
        _ => Err(anyhow::anyhow!("there is no `train.list`")),
    };
    let error = Plan::with(&sweep, &inspect).unwrap_err().to_string();
    for root in ["`a`", "`b`"] {
        assert_eq!(
            error.matches(&format!("data set `acdc` at {root}: there is no `train.list`")).count(),
            1,
            "{error}"
        );
    }
    assert!(error.contains("test.yaml:3:"), "{error}");
}

/// The file that a training starts from counts by its content, not by its path, and only where it is read.
#[test]
fn weights_to_start_from_are_named_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &str| {
        let path = dir.path().join(name);
        crate::store::files::write_atomic(&path, bytes).unwrap();
        path.display().to_string()
    };
    let plan_with = |method: &str, weights: &str| {
        plan(&format!("base: {{ preset: smoke, method: {method}, swin.weights: '{weights}' }}"))
    };
    let key = |plan: &Plan| plan.points[0].train.clone();
    let (a, same, other) = (file("a", "one"), file("same", "one"), file("other", "two"));
    let scratch = key(&plan("base: { preset: smoke, method: cross_teaching }"));
    let found = plan_with("cross_teaching", &a);
    assert_eq!(key(&found), key(&plan_with("cross_teaching", &same)));
    assert_ne!(key(&found), key(&plan_with("cross_teaching", &other)));
    assert_ne!(key(&found), scratch);
    assert_eq!(key(&plan_with("cps", &a)), key(&plan("base: { preset: smoke, method: cps }")));

    let train = found.stages.iter().position(|stage| stage.kind == StageKind::Train).unwrap();
    let spec = found.spec(train);
    assert_eq!(spec.local, json!({ "weights": a }));
    assert_eq!(spec.settings["swin"]["weights"], json!(crate::store::files::content_of(a.as_ref()).unwrap()));

    let error = refused("base: { method: cross_teaching, swin.weights: gone.st }");
    assert!(
        error.contains("test.yaml:1:") && error.contains("gone.st") && error.contains("from scratch"),
        "{error}"
    );
}

fn meta(plan: &Plan, stage: usize) -> Meta {
    let spec = plan.spec(stage);
    serde_json::from_value(json!({
        "key": plan.stages[stage].key, "kind": spec.kind, "code": spec.kind.version(), "program": "0", "label": plan.stages[stage].label,
        "settings": spec.settings, "parents": spec.parents, "seconds": 60.0, "threads": 2, "summary": null,
        "files": [{"path": "a", "bytes": 1000, "blake3": ""}],
    }))
    .unwrap()
}

#[test]
fn why_names_the_setting_the_parent_or_the_version() {
    let before = plan("base: { preset: smoke }\ngrid: { seed: [0, 1] }");
    let mut finished: Vec<Meta> = (0..before.stages.len()).map(|i| meta(&before, i)).collect();
    let after =
        plan("base: { preset: smoke, diffusion.iterations: 200, train.lr: 0.02 }\ngrid: { seed: [1, 2] }");
    let told = |finished: &[Meta]| {
        let of = |i: usize| {
            let found = finished.iter().any(|meta| meta.key == after.stages[i].key);
            let text = match why(&after, i, found, finished) {
                Reason::Differs { label, mut changes, .. } => {
                    changes.retain(|change| !matches!(change, Change::Parent { role, .. } if role.starts_with("features/t1") || role.starts_with("features/t2")));
                    let change = |change: &Change| match change {
                        Change::Version { from, to } => format!("version {from} → {to}"),
                        Change::Setting { path, from, to } => {
                            format!("{path} {} → {}", json!(from), json!(to))
                        }
                        Change::Parent { role, .. } => role.clone(),
                    };
                    let changes: Vec<String> = changes.iter().map(change).collect();
                    format!("beside {label}: {}", changes.join(", "))
                }
                other => format!("{other:?}"),
            };
            format!("{}: {text}", after.stages[i].label)
        };
        [0, 1, 2, 11, 12, 13].map(of).join("\n")
    };
    insta::assert_snapshot!(told(&finished), @r"
    prepare phantom 40 patients: Finished
    pretrain phantom: beside pretrain phantom: diffusion.iterations 120 → 200
    features t=50 block=2: beside features t=50 block=2: diffusion
    train mcsd 3 cases dfm dic seed=1: beside train mcsd 3 cases dfm dic seed=1: train.lr 0.01 → 0.02, features/t50/b2, features/t50/b4, features/t50/b6
    train mcsd 3 cases dfm dic seed=2: beside train mcsd 3 cases dfm dic seed=1: seed 1 → 2, train.lr 0.01 → 0.02, features/t50/b2, features/t50/b4, features/t50/b6
    evaluate mcsd 3 cases dfm dic seed=1: beside evaluate mcsd 3 cases dfm dic seed=1: train
    ");
    finished.iter_mut().filter(|meta| meta.kind == StageKind::Pretrain).for_each(|meta| meta.code = 0);
    finished.retain(|meta| meta.kind != StageKind::Evaluate);
    insta::assert_snapshot!(told(&finished), @r"
    prepare phantom 40 patients: Finished
    pretrain phantom: beside pretrain phantom: version 0 → 2, diffusion.iterations 120 → 200
    features t=50 block=2: beside features t=50 block=2: diffusion
    train mcsd 3 cases dfm dic seed=1: beside train mcsd 3 cases dfm dic seed=1: train.lr 0.01 → 0.02, features/t50/b2, features/t50/b4, features/t50/b6
    train mcsd 3 cases dfm dic seed=2: beside train mcsd 3 cases dfm dic seed=1: seed 1 → 2, train.lr 0.01 → 0.02, features/t50/b2, features/t50/b4, features/t50/b6
    evaluate mcsd 3 cases dfm dic seed=1: First
    ");
}

fn cpu(threads: usize) -> Computer {
    Computer { threads, gpu: false }
}

#[test]
fn prices_come_from_the_stage_then_from_its_kind_then_from_counts() {
    let plan = plan("base: { preset: smoke }\ngrid: { method: [supervised, mcsd], seed: [0, 1] }");
    let none = vec![None; plan.stages.len()];
    let counted = prices(&plan, &none, &[], cpu(2));
    assert!(
        counted.iter().all(|price| price.basis == Basis::Counted && price.seconds > 0.0 && price.disk > 0)
    );
    let at = |label: &str| plan.stages.iter().position(|stage| stage.label.starts_with(label)).unwrap();
    let (one, two) = (at("train mcsd"), at("train supervised"));
    assert!(counted[one].seconds > counted[two].seconds, "two streams cost more than one");
    assert!(prices(&plan, &none, &[], cpu(4))[one].seconds < counted[one].seconds);

    let metas: Vec<Meta> = (0..=one)
        .filter(|&i| plan.stages[i].method != plan.stages[two].method)
        .map(|i| meta(&plan, i))
        .collect();
    let mut found = none.clone();
    found[one] = metas.last().cloned();
    let priced = prices(&plan, &found, &metas, cpu(2));
    assert_eq!(priced[one], Price { seconds: 60.0, disk: 1000, basis: Basis::Measured });
    let other = &priced[one + 1];
    assert_eq!(
        (other.basis, other.seconds.round(), other.disk),
        (Basis::Runs(1), 60.0, 1000),
        "another seed"
    );
    assert_eq!(priced[two].basis, Basis::Counted, "of another method");
    // A GPU is as fast as trainings on one were, and those say nothing of a processor.
    let gpu = Computer { threads: 2, gpu: true };
    assert_eq!(prices(&plan, &none, &metas, gpu)[one], counted[one]);
    let mut on_gpu = metas.clone();
    let last = on_gpu.last_mut().unwrap();
    last.provenance = serde_json::from_value(json!({ "device": "cuda:NVIDIA H200" })).unwrap();
    let priced = |computer| prices(&plan, &none, &on_gpu, computer)[one];
    assert_eq!((priced(gpu).basis, priced(gpu).seconds.round()), (Basis::Runs(1), 60.0));
    assert_eq!(priced(cpu(2)), counted[one]);
    // Of a pass of three maps each is published with its part of the seconds.
    let maps: Vec<usize> =
        (0..plan.stages.len()).filter(|&i| plan.stages[i].kind == StageKind::Features).collect();
    let metas: Vec<Meta> = (0..=maps[2]).map(|i| meta(&plan, i)).collect();
    let found: Vec<Option<Meta>> = (0..plan.stages.len()).map(|i| metas.get(i).cloned()).collect();
    let priced = prices(&plan, &found, &metas, cpu(2));
    assert_eq!(maps[..3].iter().map(|&i| priced[i].seconds.round()).sum::<f64>(), 180.0);
    let (third, fourth) = (priced[maps[3]], priced[maps[4]]);
    assert_eq!((third.basis, (third.seconds + fourth.seconds).round()), (Basis::Runs(3), 120.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The order of axes, of base keys and of values makes other files of the same trainings.
    #[test]
    fn order_never_changes_keys(
        axes in Just(vec!["dfm: [false, true]", "tau: [0.8, 0.9]", "blocks: [[2], [4]]", "train.lr: [0.1, 0.01]"])
            .prop_shuffle(),
        base in Just(vec!["preset: smoke", "seed: 4", "train: { batch: 2 }", "data: { patients: 20 }"]).prop_shuffle(),
    ) {
        let ordered = "base: { data.patients: 20, preset: smoke, seed: 4, train.batch: 2 }\ngrid: { train: { lr: [0.01, 0.1] }, dfm: [true, false], tau: [0.9, 0.8], blocks: [[4], [2]] }";
        let shuffled = plan(&format!("base: {{ {} }}\ngrid: {{ {} }}", base.join(", "), axes.join(", ")));
        let ordered = plan(ordered);
        prop_assert_eq!(train_keys(&shuffled), train_keys(&ordered));
        let ids = |plan: &Plan| plan.points.iter().map(|point| point.id.clone()).collect::<BTreeSet<_>>();
        prop_assert_eq!(ids(&shuffled), ids(&ordered));
    }
}
