use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;

fn stored() -> StoredSpec {
    let settings = json!({"tau": 0.95});
    let spec = StageSpec { kind: StageKind::Train, settings, local: json!({}), parents: vec![] };
    StoredSpec { label: "train mcsd".into(), spec }
}

fn open() -> (tempfile::TempDir, Store, Key) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store, Key::of(b"a stage"))
}

/// Writes a file into the work folder of `key`.
fn put(store: &Store, key: &Key, name: &str, content: &str) {
    let path = store.work(key).unwrap().dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    files::write_atomic(path, content).unwrap();
}

fn commit(store: &Store, key: &Key) -> Meta {
    let work = store.work(key).unwrap();
    work.commit(&stored(), json!({"dice": 0.8}), Duration::from_secs(2), 2).unwrap()
}

#[test]
fn a_commit_publishes_the_files_without_checkpoints_and_with_their_hashes() {
    let (_dir, store, key) = open();
    put(&store, &key, "net.safetensors", "weights");
    put(&store, &key, "grid/0.png", "pixels");
    put(&store, &key, "checkpoint.safetensors", "state");
    put(&store, &key, "checkpoint/step", "7");
    put(&store, &key, ".net.partial-1-1", "half");
    assert_eq!(store.object(&key), None, "work in progress is no object");
    commit(&store, &key);

    let object = store.object(&key).unwrap();
    assert_eq!(fs::read(object.join("net.safetensors")).unwrap(), b"weights");
    let meta = store.meta(&key).unwrap();
    let names: Vec<_> = meta.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["grid/0.png", "net.safetensors"]);
    assert_eq!(meta.files[1].bytes, 7);
    assert_eq!(meta.files[1].blake3, blake3::hash(b"weights").to_hex().as_str());
    assert_eq!(meta.summary, json!({"dice": 0.8}));
    let mut left: Vec<_> = fs::read_dir(&object).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["grid", "meta.json", "net.safetensors"]);
    assert!(!store.work_path(&key).exists(), "the work folder became the object");
}

#[test]
fn an_object_says_how_it_came_to_be() {
    let (_dir, store, data) = open();
    let settings = json!({"name": "phantom", "content": "abc"});
    let spec = StageSpec { kind: StageKind::Prepare, settings, local: json!({}), parents: vec![] };
    let prepared = StoredSpec { label: "prepare".into(), spec };
    let work = store.work(&data).unwrap();
    work.commit(&prepared, json!({}), Duration::ZERO, 2).unwrap();
    let mut trained = stored();
    let middle = Key::of(b"pretrain");
    trained.spec.parents = vec![Parent { role: "data".into(), key: data }];
    store.work(&middle).unwrap().commit(&trained, json!({}), Duration::ZERO, 2).unwrap();
    trained.spec.parents = vec![Parent { role: "diffusion".into(), key: middle }];
    let key = Key::of(b"train");
    store.work(&key).unwrap().commit(&trained, json!({}), Duration::ZERO, 2).unwrap();

    let found = store.meta(&key).unwrap().provenance.unwrap();
    assert_eq!(found.data.as_deref(), Some("abc"), "the data set is known through all parents");
    assert_eq!(found.device, "cpu");
    assert!(found.start <= found.end && found.end.ends_with('Z'), "{found:?}");
}

#[test]
fn a_kill_at_any_step_of_a_commit_leaves_no_object_and_the_next_commit_makes_one() {
    let (_dir, store, key) = open();
    // Killed before the metadata, then after the metadata and before the rename.
    put(&store, &key, "net", "weights");
    assert_eq!(store.object(&key), None);
    put(&store, &key, META, "{ \"half");
    assert_eq!(store.object(&key), None);
    commit(&store, &key);
    let names: Vec<_> = store.meta(&key).unwrap().files.into_iter().map(|file| file.path).collect();
    assert_eq!(names, ["net"], "the metadata of the killed commit is not listed as a file");
}

#[test]
fn a_torn_object_counts_as_absent_and_is_put_aside_by_the_next_commit() {
    let (_dir, store, key) = open();
    put(&store, &key, "net", "weights");
    commit(&store, &key);
    let object = store.object(&key).unwrap();
    files::write_atomic(object.join("net"), "wei").unwrap();
    assert_eq!(store.object(&key), None, "a file that was cut short");
    fs::remove_file(object.join("net")).unwrap();
    assert_eq!(store.object(&key), None, "a file that was lost");

    put(&store, &key, "net", "weights");
    commit(&store, &key);
    assert!(store.object(&key).is_some());
    assert!(store.root().join(format!("quarantine/{key}-1/meta.json")).exists());

    files::write_atomic(object.join(META), "{").unwrap();
    assert_eq!(store.object(&key), None, "metadata that was cut short");
}

#[test]
fn metadata_in_which_a_digit_has_changed_counts_as_torn() {
    let (_dir, store, key) = open();
    put(&store, &key, "net", "weights");
    let meta = commit(&store, &key);
    let path = store.object(&key).unwrap().join(META);
    let text = fs::read_to_string(&path).unwrap();
    let changed = text.replacen(&format!("\"threads\": {}", meta.threads), "\"threads\": 9", 1);
    assert_ne!(text, changed);
    assert!(serde_json::from_str::<Meta>(&changed).is_ok(), "it can be read, and is wrong");
    files::write_atomic(&path, &changed).unwrap();
    assert_eq!(store.meta(&key), None);
    assert_eq!(store.verify(&key, |_| false).unwrap(), Err(Damage::Absent));

    // As older programs wrote it.
    let (body, _) = text.rsplit_once(",\n  \"sum\": ").unwrap();
    files::write_atomic(&path, format!("{body}\n}}")).unwrap();
    assert_eq!(store.meta(&key), Some(meta));
}

/// Changes one bit of the file at `path`, leaving its size.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    files::write_atomic(path, bytes).unwrap();
}

#[test]
fn a_changed_bit_is_found_where_it_is_looked_for_and_the_object_put_into_quarantine() {
    let (_dir, store, key) = open();
    put(&store, &key, "net", "weights");
    put(&store, &key, "history", "steps");
    let meta = commit(&store, &key);
    assert_eq!(store.verify(&key, |_| true).unwrap(), Ok(meta));
    assert!(!store.quarantine(&key).unwrap(), "a whole object stays");
    flip(&store.object(&key).unwrap().join("net"));
    assert!(store.object(&key).is_some(), "its size is right");
    assert!(store.verify(&key, |name| name == "history").unwrap().is_ok());
    assert_eq!(store.verify(&key, |_| true).unwrap(), Err(Damage::Changed("net".into())));
    let lock = store.try_lock(&key).unwrap().unwrap();
    assert!(!store.quarantine(&key).unwrap(), "not while another process has it");
    drop(lock);
    assert!(store.quarantine(&key).unwrap());
    assert_eq!(store.object(&key), None);
    assert!(store.root().join(format!("quarantine/{key}-1/net")).exists());
    assert_eq!(store.verify(&key, |_| true).unwrap(), Err(Damage::Absent));
}

#[test]
fn what_kills_leave_is_tidied_up_once_nobody_else_is_there() {
    let (_dir, store, key) = open();
    let (finished, resumable) = (Key::of(b"finished"), Key::of(b"resumable"));
    put(&store, &finished, "net", "weights");
    commit(&store, &finished);
    put(&store, &finished, "net", "again");
    put(&store, &key, "net", "half");
    put(&store, &resumable, "checkpoint.safetensors", "state");
    put(&store, &resumable, "best", "weights");
    put(&store, &resumable, ".checkpoint.safetensors.partial-1-1", "half");
    let left = ["locks/abc", "runs/tau-1.json", "specs/.x.json.partial-1-1", ".probe.partial-1-1"];
    for name in left {
        files::write_atomic(store.root().join(name), "").unwrap();
    }
    let other = Store::open(store.root()).unwrap();
    assert!(!store.tidy().unwrap(), "another one is present");
    drop(other);
    assert!(store.tidy().unwrap());
    for name in left {
        assert!(!store.root().join(name).exists(), "{name} is left");
    }
    let mut works: Vec<_> =
        fs::read_dir(store.root().join("tmp")).unwrap().map(|e| e.unwrap().path()).collect();
    works.sort();
    assert_eq!(works, [store.work_path(&resumable)]);
    assert_eq!(fs::read_dir(&works[0]).unwrap().count(), 2, "the checkpoint and what it makes use of");
    assert!(store.object(&finished).is_some());
    assert!(store.tidy().unwrap(), "and again");
}

#[test]
fn failed_work_stays_only_with_a_checkpoint() {
    let (_dir, store, key) = open();
    put(&store, &key, "net", "half");
    let work = store.work(&key).unwrap();
    work.note_time(Duration::from_secs(1)).unwrap();
    work.leave().unwrap();
    assert!(!work.dir().exists());
    put(&store, &key, "checkpoint.safetensors", "state");
    let work = store.work(&key).unwrap();
    work.leave().unwrap();
    assert!(work.dir().join("checkpoint.safetensors").exists());
    work.discard().unwrap();
    assert!(!work.dir().exists());
}

#[test]
fn seconds_add_up_over_tries() {
    let (_dir, store, key) = open();
    store.work(&key).unwrap().note_time(Duration::from_secs(3)).unwrap();
    let second = store.work(&key).unwrap();
    second.note_time(Duration::from_secs(4)).unwrap();
    assert_eq!(commit(&store, &key).seconds, 9.0);
}

#[test]
fn specs_are_read_back_and_an_unknown_or_damaged_one_is_explained() {
    let (_dir, store, key) = open();
    let error = store.spec(&key).unwrap_err().to_string();
    assert!(error.contains(key.as_str()) && error.contains("sweep run"), "{error}");
    store.write_spec(&key, "train mcsd", &stored().spec).unwrap();
    assert_eq!(store.spec(&key).unwrap(), stored());
    files::write_atomic(store.spec_path(&key), "{").unwrap();
    assert!(format!("{:#}", store.spec(&key).unwrap_err()).contains("damaged"));
}

#[test]
fn a_failure_is_remembered_until_the_stage_succeeds() {
    let (_dir, store, key) = open();
    assert_eq!(store.failure(&key), None);
    let failure = Failure { cause: Cause::Diverged { step: 7 }, message: "loss is NaN at step 7".into() };
    store.write_failure(&key, &failure).unwrap();
    assert_eq!(store.failure_record(&key), Some(failure));
    assert_eq!(store.failure(&key).as_deref(), Some("loss is NaN at step 7"));
    // As earlier versions wrote it.
    files::write_atomic(store.failure_path(&key), "out of luck").unwrap();
    assert_eq!(
        store.failure_record(&key),
        Some(Failure { cause: Cause::Error, message: "out of luck".into() })
    );
    commit(&store, &key);
    assert_eq!(store.failure(&key), None);
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_its_name_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("results");
    files::write_atomic(&file, "").unwrap();
    let error = format!("{:#}", Store::open(file.join(".store")).unwrap_err());
    assert!(error.contains(".store") && error.contains("--store"), "{error}");
}

#[test]
fn reading_an_absent_store_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("none"));
    assert_eq!(store.object(&Key::of(b"x")), None);
    assert!(!store.root().exists());
}
