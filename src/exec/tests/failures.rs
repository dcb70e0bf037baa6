//! What the engine makes of damage, deaths, too little memory, divergence and a full disk, and in which order it works.

use std::fs;

use anyhow::bail;
use serde_json::json;

use super::*;

/// Changes one bit of the result of `stage`, leaving its size.
fn flip(store: &Store, plan: &Plan, stage: usize) {
    let path = store.folder(&plan.stages[stage].key).join("result");
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    files::write_atomic(path, bytes).unwrap();
}

/// Takes a stage out of the store.
fn forget(store: &Store, plan: &Plan, stage: usize) {
    fs::remove_dir_all(store.folder(&plan.stages[stage].key)).unwrap();
}

#[test]
fn what_nothing_unfinished_reads_is_not_needed() {
    let (_dir, store) = store();
    let plan = plan(&["data", "model <- data", "a <- model", "b <- data"]);
    finish(&plan, &store, &mut InProcess::new(&store, &runner), &options());
    for stage in [1, 3] {
        forget(&store, &plan, stage);
    }
    let mut executor = InProcess::new(&store, &runner);
    let (summary, _) = finish(&plan, &store, &mut executor, &options());
    assert!(summary.complete());
    assert_eq!(summary.outcomes[..3], [Outcome::Found, Outcome::Unneeded, Outcome::Found]);
    assert!(summary.outcomes[3].is_computed(), "{summary:?}");
    assert_eq!(executor.submitted.len(), 1);
}

#[test]
fn damaged_and_missing_inputs_are_computed_again_in_the_same_run_and_nothing_else_is() {
    let (_dir, store) = store();
    let plan = plan(&["data", "model <- data", "map <- model", "train <- map data", "other <- model"]);
    finish(&plan, &store, &mut InProcess::new(&store, &runner), &options());
    forget(&store, &plan, 3);
    flip(&store, &plan, 2); // the same size
    forget(&store, &plan, 0);
    let mut executor = InProcess::new(&store, &runner);
    let (summary, notes) = finish(&plan, &store, &mut executor, &options());
    assert!(summary.complete(), "{summary:?}");
    let started: Vec<_> = notes.iter().filter_map(|note| note.strip_prefix("started ")).collect();
    assert_eq!(started, ["data", "train", "map", "train"]);
    assert!(notes.contains(&"again map".to_owned()), "{notes:?}");
    let quarantine = store.root().join("quarantine");
    assert_eq!(fs::read_dir(quarantine).unwrap().count(), 1, "the damaged one is kept to look at");
    assert_eq!(fs::read(store.folder(&plan.stages[2].key).join("result")).unwrap(), b"map");
}

#[test]
fn a_disk_that_damages_everything_ends_in_a_failure() {
    let (_dir, store) = store();
    let plan = plan(&["data", "train <- data"]);
    let damages = |stages: &[(StageSpec, Context<'_>)]| {
        if stages[0].0.settings["name"] == "train" {
            forget(&store, &plan, 0);
            bail!("no such file");
        }
        runner(stages)
    };
    let (summary, _) = finish(&plan, &store, &mut InProcess::new(&store, &damages), &options());
    let Outcome::Failed { message } = &summary.outcomes[1] else { panic!("{summary:?}") };
    assert!(message.contains("`data` was damaged 3 times"), "{message}");
}

#[test]
fn what_had_too_little_memory_is_tried_again_alone() {
    let (_dir, store) = store();
    let plan = plan(&["big", "a", "b", "child <- a"]);
    let big = plan.stages[0].key.clone();
    let tries = AtomicUsize::new(0);
    let dies = |task: &Task| {
        let out = task.keys[0] == big && tries.fetch_add(1, Ordering::SeqCst) == 0;
        out.then(|| Exit::OutOfMemory("memory allocation of 9 bytes failed".to_owned()))
    };
    let mut executor = InProcess { dies: &dies, ..InProcess::new(&store, &runner) };
    let (summary, notes) = finish(&plan, &store, &mut executor, &Options { workers: 2, ..options() });
    assert!(summary.complete(), "{summary:?}");
    let (last, threads) = executor.submitted.last().unwrap();
    assert_eq!((last, *threads), (&vec![big.clone()], 4), "after all others, with all threads");
    assert!(notes.iter().any(|n| n.starts_with("retried big: there was not enough memory")), "{notes:?}");

    let always = |task: &Task| (task.keys[0] == big).then(|| Exit::OutOfMemory("9 bytes".to_owned()));
    forget(&store, &plan, 0);
    let mut executor = InProcess { dies: &always, ..InProcess::new(&store, &runner) };
    let (summary, _) = finish(&plan, &store, &mut executor, &options());
    assert!(
        matches!(&summary.outcomes[0], Outcome::Failed { message } if message.contains("not enough memory"))
    );
    assert_eq!(store.failure_record(&big).unwrap().cause, Cause::OutOfMemory);
}

#[test]
fn a_training_that_diverged_is_not_tried_again_unless_asked_for() {
    let (_dir, store) = store();
    let plan = plan(&["train", "evaluate <- train", "other"]);
    let diverges = |stages: &[(StageSpec, Context<'_>)]| {
        if stages[0].0.settings["name"] == "train" {
            let loss = f64::NAN;
            return Err(crate::stage::Diverged { step: 7, loss, setting: "train.lr", value: 1e9 }.into());
        }
        runner(stages)
    };
    let mut executor = InProcess::new(&store, &diverges);
    let (summary, _) = finish(&plan, &store, &mut executor, &options());
    assert!(matches!(&summary.outcomes[0], Outcome::Failed { message } if message.contains("at step 7")));
    assert!(summary.outcomes[2].is_finished(), "the rest goes on");
    assert_eq!(store.failure_record(&plan.stages[0].key).unwrap().cause, Cause::Diverged { step: 7 });

    let mut executor = InProcess::new(&store, &diverges);
    let (summary, _) = finish(&plan, &store, &mut executor, &options());
    assert!(executor.submitted.is_empty(), "the same again would diverge again");
    assert!(
        matches!(&summary.outcomes[0], Outcome::Failed { message } if message.contains("--retry-diverged"))
    );
    assert_eq!(summary.outcomes[1], Outcome::Skipped { because: 0 });

    let again = Options { retry_diverged: true, ..options() };
    let (summary, _) = finish(&plan, &store, &mut InProcess::new(&store, &runner), &again);
    assert!(summary.complete(), "{summary:?}");
}

#[test]
fn a_process_that_somebody_else_stops_is_started_again() {
    let (_dir, store) = store();
    let plan = plan(&["stopped", "child <- stopped"]);
    let tries = AtomicUsize::new(0);
    let stops = |_: &Task| (tries.fetch_add(1, Ordering::SeqCst) == 0).then_some(Exit::Interrupted);
    let mut executor = InProcess { dies: &stops, ..InProcess::new(&store, &runner) };
    let (summary, notes) = finish(&plan, &store, &mut executor, &options());
    assert!(summary.complete(), "{summary:?}");
    assert!(notes.iter().any(|note| note.starts_with("retried stopped")), "{notes:?}");
}

#[test]
fn a_full_disk_starts_nothing_more_and_leaves_nothing_half_written() {
    let (_dir, store) = store();
    let plan = plan(&["first", "second"]);
    let full = |stages: &[(StageSpec, Context<'_>)]| {
        files::write_atomic(stages[0].1.dir.join("half"), "of it")?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into())
    };
    let (summary, _) = finish(&plan, &store, &mut InProcess::new(&store, &full), &options());
    assert!(summary.disk_full);
    let Outcome::Failed { message } = &summary.outcomes[0] else { panic!("{summary:?}") };
    assert!(message.contains("free some space"), "{message}");
    assert_eq!(summary.outcomes[1], Outcome::Waiting);
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_longest_way_to_the_end_goes_first_and_what_is_asked_for_before_it() {
    let (_dir, store) = store();
    let plan = plan(&["short", "long", "middle <- long", "end <- middle"]);
    let started = |options: &Options| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (_, notes) = finish(&plan, &store, &mut InProcess::new(&store, &runner), options);
        let names = notes.iter().filter_map(|note| note.strip_prefix("started ").map(str::to_owned));
        names.collect::<Vec<_>>()
    };
    drop(store);
    assert_eq!(
        started(&options()),
        ["long", "middle", "short", "end"],
        "equal ones in the order of the plan"
    );
    let mut first = plan.clone();
    first.stages[0].points = vec![1];
    let options = Options { first: vec![false, true], ..options() };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (_, notes) = finish(&first, &store, &mut InProcess::new(&store, &runner), &options);
    assert_eq!(notes.iter().find(|note| note.starts_with("started")).unwrap(), "started short");
}

#[test]
fn what_another_process_computes_is_left_to_it_while_there_is_other_work() {
    let (_dir, store) = store();
    let plan = plan(&["theirs", "ours", "child <- theirs"]);
    let key = &plan.stages[0].key;
    store.write_spec(key, "theirs", &plan.spec(0)).unwrap();
    let lock = store.try_lock(key).unwrap().unwrap();
    let lock = std::sync::Mutex::new(Some(lock));
    // The other process ends once our own stage is done.
    let ends = |stages: &[(StageSpec, Context<'_>)]| {
        if stages[0].0.settings["name"] == "ours" {
            let work = store.work(key)?;
            work.commit(&store.spec(key)?, json!(null), Duration::from_secs(3), 1)?;
            drop(lock.lock().unwrap().take());
        }
        assert!(stages[0].0.settings["name"] != "theirs", "computed twice");
        Ok(vec![json!(null)])
    };
    let (summary, notes) = finish(&plan, &store, &mut InProcess::new(&store, &ends), &options());
    assert_eq!(summary.outcomes[0], Outcome::Done { seconds: 3.0, shared: true });
    assert!(summary.complete() && summary.outcomes[0].is_found());
    assert!(notes.contains(&"waiting theirs".to_owned()), "{notes:?}");
}

#[test]
fn stages_run_in_threads_of_this_process_too() {
    let (_dir, store) = store();
    let plan = plan(&["data", "a <- data", "b <- data", "panics <- data", "c <- a b"]);
    let mut executor = Inline::new(store.clone(), Arc::new(runner), EVERY);
    let (summary, _) = finish(&plan, &store, &mut executor, &Options { workers: 2, ..options() });
    let finished: Vec<_> = summary.outcomes.iter().map(Outcome::is_finished).collect();
    assert_eq!(finished, [true, true, true, false, true]);
}
