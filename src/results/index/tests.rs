use std::path::Path;

use super::*;
use crate::results::facts;
use crate::spec::load;

const SWEEP: &str = "
name: small
description: two thresholds and a baseline
base: { data: { name: phantom, patients: 10 }, preset: smoke, timesteps: [50, 250] }
grid: { method: [mcsd], tau: [0.9, 0.95], blocks: [[2], [2, 4]] }
include: [{ method: supervised, tau: 0.9, blocks: [2] }]
report: { tables: [{ rows: tau }] }
";

fn planned() -> (Sweep, Plan) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.yaml");
    files::write_atomic(&path, SWEEP).unwrap();
    let sweep = load(&path, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let plan = Plan::new(&sweep).unwrap();
    (sweep, plan)
}

#[test]
fn an_index_says_of_points_and_stages_what_the_plan_says() {
    let (sweep, plan) = planned();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(names(&store).unwrap(), Vec::<String>::new());
    assert!(Index::read(&store, "small").unwrap().is_none());
    Index::of(&sweep, &plan).unwrap().save(&store).unwrap();
    assert_eq!(names(&store).unwrap(), ["small"]);
    let index = Index::read(&store, "small").unwrap().unwrap();

    assert_eq!(index.head.description, sweep.description);
    assert_eq!(index.head.report, sweep.report);
    assert_eq!((index.stages().len(), index.points().len()), (plan.stages.len(), plan.points.len()));
    for (i, stage) in plan.stages.iter().enumerate() {
        assert_eq!(
            (index.stages()[i].key.clone(), index.label(i)),
            (stage.key.clone(), stage.label.as_str())
        );
        assert_eq!(index.stages()[i].kind, stage.kind);
        let parents: BTreeSet<&Key> =
            index.parents(i).unwrap().into_iter().map(|p| &index.stages()[p].key).collect();
        assert_eq!(
            parents,
            plan.spec(i).parents.iter().map(|parent| &parent.key).collect(),
            "{}",
            stage.label
        );
    }
    for (i, point) in plan.points.iter().enumerate() {
        assert_eq!(index.id(i), point.id);
        assert_eq!(index.axes(i).unwrap(), point.axes.to_vec());
        assert_eq!(index.facts(i).unwrap(), facts(&point.settings), "{}", point.id);
        assert_eq!(index.stages()[index.points()[i].train].key, point.train);
        assert_eq!(index.stages()[index.points()[i].evaluate].key, point.evaluate);
        let needed: Vec<&Key> =
            plan.stages.iter().filter(|stage| stage.points.contains(&i)).map(|stage| &stage.key).collect();
        let told: Vec<usize> = index.stages_of(i).unwrap();
        assert_eq!(told.iter().map(|&stage| &index.stages()[stage].key).collect::<Vec<_>>(), needed);
    }
}

#[test]
fn the_failure_of_a_shared_stage_is_told_of_the_points_that_need_it() {
    let (sweep, plan) = planned();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let index = Index::of(&sweep, &plan).unwrap();
    let pretrain = index.stages().iter().find(|stage| stage.kind == StageKind::Pretrain).unwrap();
    let failure = crate::store::Failure { cause: crate::store::Cause::Error, message: "no memory".into() };
    store.write_failure(&pretrain.key, &failure).unwrap();
    let records = index.records(&store).unwrap();
    let failed = Status::Failed("pretrain phantom: no memory".into());
    assert!(records[..4].iter().all(|record| record.status == failed), "{records:?}");
    assert_eq!(records[4].status, Status::Missing, "the baseline needs no diffusion model");
}

#[test]
fn an_index_is_written_once_and_forgotten_when_asked() {
    let (sweep, plan) = planned();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let index = Index::of(&sweep, &plan).unwrap();
    index.save(&store).unwrap();
    let modified = || fs::metadata(path(&store, "small")).unwrap().modified().unwrap();
    let before = modified();
    index.save(&store).unwrap();
    assert_eq!(modified(), before);
    forget(&store, "small").unwrap();
    assert!(Index::read(&store, "small").unwrap().is_none());
    assert!(format!("{:#}", forget(&store, "small").unwrap_err()).contains("small.index"));
}

#[test]
fn numbers_are_written_as_ranges_and_read_back() {
    for (list, text) in
        [(vec![], ""), (vec![7], "7"), (vec![0, 1], "0-1"), (vec![9, 3, 4, 5, 0, 4], "0,3-5,9")]
    {
        assert_eq!(ranges(list.clone()), text);
        let mut sorted = list;
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(numbers(text, 10), Some(sorted));
    }
    for wrong in ["x", "1-", "5-3", "10", "3-10", "-"] {
        assert_eq!(numbers(wrong, 10), None, "{wrong}");
    }
}

#[test]
fn damage_is_told_with_file_line_and_remedy_and_never_panics() {
    let (sweep, plan) = planned();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let whole = text_of(&sweep, &plan).unwrap();
    let read = |text: &str| {
        files::create_folder(dir.path().join(FOLDER)).unwrap();
        files::write_atomic(path(&store, "small"), text).unwrap();
        Index::read(&store, "small")
    };
    let message = |text: &str| format!("{:#}", read(text).expect_err("damaged"));
    let got = message(&whole[..whole.len() / 2]);
    assert!(got.contains("small.index is damaged") && got.contains("sweep run"), "{got}");
    assert!(message("").contains("it ends before line 1"), "{}", message(""));
    let newer = whole.replacen("\"sweep_index\":1", "\"sweep_index\":2", 1);
    assert!(message(&newer).contains("form 2"), "{}", message(&newer));
    let kind = whole.replacen("\tprepare\t", "\tprepair\t", 1);
    assert!(message(&kind).contains("line 2 is no stage"), "{}", message(&kind));
    let huge = whole.replacen("\"points\":5", "\"points\":99999999999999", 1);
    assert!(message(&huge).contains("fewer than its head says"), "{}", message(&huge));
    // Cut short anywhere, and with any byte changed: an answer, be it that it looks whole.
    for end in 0..whole.len() {
        if whole.is_char_boundary(end) {
            assert!(Index::parse(whole[..end].to_owned(), Path::new("x")).is_err(), "cut at {end}");
        }
    }
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] = b'\t';
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if let Ok(index) = Index::parse(text, Path::new("x")) {
            let _ = index.records(&store);
        }
    }
}
