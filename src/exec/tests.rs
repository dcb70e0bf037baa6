mod failures;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use serde_json::{Value, json};

use super::*;
use crate::plan::{Plan, PlannedStage};
use crate::stage::{Context, Interrupted, Parent, StageKind, StageSpec};
use crate::store::{Cause, QueuedJob, Store, files};

/// A plan of stages written as `name` or `name <- parent parent`, where the part of the name before `/` is its group.
pub(super) fn plan(lines: &[&str]) -> Plan {
    let key = |name: &str| Key::of(name.as_bytes());
    let stage = |line: &&str| {
        let (name, parents) = line.split_once(" <- ").unwrap_or((line, ""));
        let parents = parents.split_whitespace().map(|p| Parent { role: p.into(), key: key(p) }).collect();
        let spec = StageSpec {
            kind: StageKind::Train,
            settings: json!({"name": name}),
            local: json!(null),
            parents,
        };
        let group = name.split_once('/').map(|(group, _)| group.to_owned());
        PlannedStage::new(key(name), spec, name, group, vec![])
    };
    Plan::of("test", lines.iter().map(stage).collect())
}

pub(super) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

/// Runs each task in this thread when it is polled for, by a worker with the `runner` of the test.
struct InProcess<'a> {
    store: &'a Store,
    runner: &'a Runner<'a>,
    /// Called before a task; what it returns is how its process dies.
    dies: &'a dyn Fn(&Task) -> Option<Exit>,
    tasks: VecDeque<Task>,
    stop: AtomicBool,
    /// What was submitted, as the names of the stages and the threads.
    submitted: Vec<(Vec<Key>, usize)>,
    most_at_once: usize,
}

impl<'a> InProcess<'a> {
    fn new(store: &'a Store, runner: &'a Runner<'a>) -> Self {
        Self {
            store,
            runner,
            dies: &|_| None,
            tasks: VecDeque::new(),
            stop: AtomicBool::new(false),
            submitted: Vec::new(),
            most_at_once: 0,
        }
    }
}

impl Executor for InProcess<'_> {
    fn submit(&mut self, task: &Task) -> Result<()> {
        self.submitted.push((task.keys.clone(), task.threads));
        self.tasks.push_back(task.clone());
        self.most_at_once = self.most_at_once.max(self.tasks.len());
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Vec<Update>> {
        let Some(task) = self.tasks.pop_front() else { return Ok(vec![]) };
        if let Some(exit) = (self.dies)(&task) {
            return Ok(vec![Update::Exited { task: task.id, exit }]);
        }
        let lines = RefCell::new(Vec::new());
        // Through JSON, as between processes.
        let emit = |line: Line| {
            let text = serde_json::to_string(&line).unwrap();
            lines.borrow_mut().push(Update::Line(serde_json::from_str(&text).unwrap()));
        };
        let worker = Worker::new(self.store, self.runner, &emit, &self.stop, EVERY);
        let exit = match worker.on(task.threads, task.device).work(&task.keys).0 {
            Verdict::Interrupted => Exit::Interrupted,
            Verdict::Done | Verdict::Failed => Exit::Orderly,
        };
        let mut updates = lines.into_inner();
        updates.push(Update::Exited { task: task.id, exit });
        Ok(updates)
    }

    fn cancel(&mut self, _: bool) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Writes down each notice in a word or two.
#[derive(Default)]
pub(super) struct Notes(pub(super) Vec<String>);

impl Reporter for Notes {
    fn notice(&mut self, notice: &Notice<'_>) {
        self.0.push(match notice {
            Notice::Started { stage, .. } => format!("started {}", stage.label),
            Notice::Said { stage, event: Event::Progress { done, .. } } => {
                format!("{} at {done}", stage.label)
            }
            Notice::Retried { stage, message } => format!("retried {}: {message}", stage.label),
            Notice::Damaged { stage, .. } => format!("again {}", stage.label),
            Notice::Waiting { stage, .. } => format!("waiting {}", stage.label),
            Notice::Note { text } => format!("note {text}"),
            Notice::Settled { stage, because: Some(because), .. } => {
                format!("skipped {} because of {}", stage.label, because.label)
            }
            _ => return,
        });
    }
}

pub(super) const EVERY: Duration = Duration::from_secs(60);

pub(super) fn options() -> Options {
    Options { threads: 4, ..Options::default() }
}

/// As the worker says it of a process that was killed.
fn killed() -> Exit {
    Exit::Died("signal 9".to_owned())
}

/// Writes the names of its inputs into `result`, and fails, panics or stops where the stage is called so.
pub(super) fn runner(stages: &[(StageSpec, Context<'_>)]) -> Result<Vec<Value>> {
    let mut summaries = vec![];
    for (spec, context) in stages {
        let name = spec.settings["name"].as_str().unwrap();
        (context.emit)(Event::Progress { done: 1, total: 1, unit: "step".into(), loss: None, note: None });
        match name {
            "fails" => return Err(anyhow::anyhow!("the loss is NaN").context("step 7")),
            "panics" => panic!("index out of bounds"),
            "stops" => return Err(Interrupted.into()),
            _ => {}
        }
        for (role, path) in &context.inputs {
            if !path.join("result").exists() {
                bail!("{role} has no result");
            }
        }
        files::write_atomic(context.dir.join("result"), name)?;
        summaries.push(json!({"name": name}));
    }
    Ok(summaries)
}

pub(super) fn finish(
    plan: &Plan,
    store: &Store,
    executor: &mut dyn Executor,
    options: &Options,
) -> (Summary, Vec<String>) {
    let mut notes = Notes::default();
    let summary = run(plan, store, executor, &mut notes, options, &Stop::default()).unwrap();
    (summary, notes.0)
}

#[test]
fn stages_run_after_their_parents_and_a_second_run_finds_them_all() {
    let (_dir, store) = store();
    let plan = plan(&["data", "model <- data", "features <- model data", "train <- data features"]);
    let mut executor = InProcess::new(&store, &runner);
    let (summary, notes) = finish(&plan, &store, &mut executor, &options());
    assert!(summary.complete(), "{summary:?}");
    let order: Vec<_> = notes.iter().filter_map(|note| note.strip_prefix("started ")).collect();
    assert_eq!(order, ["data", "model", "features", "train"]);
    assert_eq!(store.meta(&plan.stages[3].key).unwrap().summary, json!({"name": "train"}));

    let mut executor = InProcess::new(&store, &runner);
    let (summary, _) = finish(&plan, &store, &mut executor, &options());
    assert_eq!(summary.outcomes, vec![Outcome::Found; 4]);
    assert!(executor.submitted.is_empty(), "nothing is computed twice");
}

#[test]
fn a_failure_or_a_panic_stops_only_what_depends_on_it() {
    let (_dir, store) = store();
    let plan = plan(&[
        "data",
        "fails <- data",
        "panics <- data",
        "child <- fails",
        "grandchild <- child",
        "good <- data",
    ]);
    let mut executor = InProcess::new(&store, &runner);
    let (summary, notes) = finish(&plan, &store, &mut executor, &options());
    let message = |i: usize| match &summary.outcomes[i] {
        Outcome::Failed { message } => message.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(message(1), "step 7: the loss is NaN");
    assert!(message(2).contains("index out of bounds"), "{}", message(2));
    assert_eq!(summary.outcomes[3..5], [Outcome::Skipped { because: 1 }, Outcome::Skipped { because: 1 }]);
    assert!(summary.outcomes[5].is_finished(), "an unrelated stage goes on");
    assert!(notes.contains(&"skipped grandchild because of fails".to_owned()), "{notes:?}");
    assert_eq!(store.failure(&plan.stages[1].key).as_deref(), Some("step 7: the loss is NaN"));
}

#[test]
fn fail_fast_leaves_the_rest_for_later() {
    let (_dir, store) = store();
    let plan = plan(&["fails", "good"]);
    let mut executor = InProcess::new(&store, &runner);
    let (summary, _) = finish(&plan, &store, &mut executor, &Options { fail_fast: true, ..options() });
    assert!(matches!(summary.outcomes[..], [Outcome::Failed { .. }, Outcome::Waiting]), "{summary:?}");
}

#[test]
fn the_missing_stages_of_a_group_share_a_process_and_the_finished_ones_stay_as_they_are() {
    let (_dir, store) = store();
    let only = plan(&["data", "f/b4 <- data"]);
    finish(&only, &store, &mut InProcess::new(&store, &runner), &options());
    let all = plan(&["data", "f/b2 <- data", "g/b2 <- data", "f/b4 <- data", "f/b6 <- data"]);
    let mut executor = InProcess::new(&store, &runner);
    let (summary, _) = finish(&all, &store, &mut executor, &options());
    assert!(summary.complete());
    let tasks: Vec<_> = executor.submitted.iter().map(|(keys, _)| keys.clone()).collect();
    let keys: Vec<_> = all.stages.iter().map(|stage| stage.key.clone()).collect();
    assert_eq!(tasks, [vec![keys[1].clone(), keys[4].clone()], vec![keys[2].clone()]]);
}

#[test]
fn threads_are_shared_out_between_the_workers_that_have_work() {
    let (_dir, store) = store();
    let plan = plan(&["data", "a <- data", "b <- data", "c <- data"]);
    let mut executor = InProcess::new(&store, &runner);
    finish(&plan, &store, &mut executor, &Options { workers: 2, ..options() });
    let threads: Vec<_> = executor.submitted.iter().map(|(_, threads)| *threads).collect();
    assert_eq!(threads[..3], [4, 2, 2], "one alone has all, two have half each");
    assert_eq!(executor.most_at_once, 2);
}

#[test]
fn a_process_that_dies_is_tried_again_and_finds_what_it_left() {
    let (_dir, store) = store();
    let plan = plan(&["mortal", "child <- mortal"]);
    let tries = AtomicUsize::new(0);
    let leave_a_checkpoint_and_die = |_: &Task| {
        files::write_atomic(store.work(&plan.stages[0].key).unwrap().dir().join("checkpoint"), "half")
            .unwrap();
        (tries.fetch_add(1, Ordering::SeqCst) == 0).then(killed)
    };
    let resumes = |stages: &[(StageSpec, Context<'_>)]| {
        let (spec, context) = &stages[0];
        if spec.settings["name"] == "mortal" {
            assert_eq!(fs::read(context.dir.join("checkpoint")).unwrap(), b"half");
        }
        runner(stages)
    };
    let mut executor = InProcess { dies: &leave_a_checkpoint_and_die, ..InProcess::new(&store, &resumes) };
    let (summary, notes) = finish(&plan, &store, &mut executor, &options());
    assert!(summary.complete(), "{summary:?}");
    assert!(notes.contains(&"retried mortal: its process died: signal 9".to_owned()), "{notes:?}");
}

#[test]
fn a_process_that_always_dies_fails_its_stage_after_the_retries() {
    let (_dir, store) = store();
    let plan = plan(&["mortal", "good"]);
    let first = plan.stages[0].key.clone();
    let dies = |task: &Task| (task.keys[0] == first).then(killed);
    let mut executor = InProcess { dies: &dies, ..InProcess::new(&store, &runner) };
    let (summary, _) = finish(&plan, &store, &mut executor, &options());
    assert_eq!(executor.submitted.len(), 3, "two tries of one, one of the other");
    let Outcome::Failed { message } = &summary.outcomes[0] else { panic!("{summary:?}") };
    assert!(message.contains("signal 9"), "{message}");
    assert!(summary.outcomes[1].is_finished());
}

#[test]
fn a_request_to_stop_ends_the_run_and_the_next_one_goes_on() {
    let (_dir, store) = store();
    let plan = plan(&["data", "train <- data", "evaluate <- train"]);
    let stop = Stop::default();
    let stops_in_training = |stages: &[(StageSpec, Context<'_>)]| {
        if stages[0].0.settings["name"] == "train" {
            stop.request();
            return Err(anyhow::Error::new(Interrupted).context("while training"));
        }
        runner(stages)
    };
    let mut executor = InProcess::new(&store, &stops_in_training);
    let mut notes = Notes::default();
    let summary = run(&plan, &store, &mut executor, &mut notes, &options(), &stop).unwrap();
    // The request comes in the middle of a poll: the loop passes it on before it learns of the worker's end, or after.
    assert!(summary.interrupted);
    assert!(summary.outcomes[0].is_finished());
    assert!(!summary.outcomes[1].is_finished() && !summary.outcomes[2].is_finished(), "{summary:?}");
    assert_eq!(store.failure(&plan.stages[1].key), None, "an interruption is no failure");

    let (summary, notes) = finish(&plan, &store, &mut InProcess::new(&store, &runner), &options());
    assert!(summary.complete());
    assert!(!notes.contains(&"started data".to_owned()), "what was finished is not computed again");
}

#[test]
fn a_worker_waits_for_another_one_and_takes_its_result() {
    let (_dir, store) = store();
    let plan = plan(&["shared"]);
    let key = &plan.stages[0].key;
    store.write_spec(key, "shared", &plan.spec(0)).unwrap();
    let lock = store.try_lock(key).unwrap().unwrap();
    let lines = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let emit = |line: Line| lines.lock().unwrap().push(line.message);
            let stop = AtomicBool::new(false);
            let never = |_: &[(StageSpec, Context<'_>)]| bail!("computed twice");
            Worker::new(&store, &never, &emit, &stop, EVERY).work(std::slice::from_ref(key)).0
        });
        while lines.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        let work = store.work(key).unwrap();
        work.commit(&store.spec(key).unwrap(), json!(null), Duration::from_secs(3), 1).unwrap();
        drop(lock);
        assert_eq!(worker.join().unwrap(), Verdict::Done);
    });
    let waiting = Life::Waiting { holder: Some(std::process::id()) };
    let finished = Life::Finished { seconds: 3.0, shared: true };
    assert_eq!(lines.into_inner().unwrap(), [waiting, finished].map(Message::Life));
}

#[test]
fn a_stage_whose_input_is_missing_says_which_and_what_to_do() {
    let (_dir, store) = store();
    let plan = plan(&["data", "train <- data"]);
    let key = &plan.stages[1].key;
    store.write_spec(key, "train", &plan.spec(1)).unwrap();
    let stop = AtomicBool::new(false);
    let worker = Worker::new(&store, &runner, &|_| {}, &stop, EVERY);
    let (verdict, error) = worker.work(std::slice::from_ref(key));
    assert_eq!(verdict, Verdict::Failed);
    let error = error.unwrap().to_string();
    assert!(error.contains("`train` reads data") && error.contains("sweep run FILE"), "{error}");
}

#[test]
fn a_worker_in_a_job_waits_for_what_another_node_wrote_and_does_not_show_yet() {
    let (_dir, store) = store();
    let plan = plan(&["data", "train <- data"]);
    let [data, train] = [0, 1].map(|i| &plan.stages[i].key);
    (0..2).for_each(|i| store.write_spec(&plan.stages[i].key, &plan.stages[i].label, &plan.spec(i)).unwrap());
    let work = |late| {
        let (emit, stop) = (|_: Line| {}, AtomicBool::new(false));
        let worker = Worker::new(&store, &runner, &emit, &stop, EVERY).in_job(QueuedJob::default(), late);
        worker.work(std::slice::from_ref(train)).0
    };
    assert_eq!(work(Duration::from_millis(300)), Verdict::Failed, "it waits for no longer than that");
    let late = Duration::from_millis(300);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(late);
            let work = store.work(data).unwrap();
            files::write_atomic(work.dir().join("result"), "data").unwrap();
            work.commit(&store.spec(data).unwrap(), json!(null), Duration::ZERO, 1).unwrap();
        });
        let begun = std::time::Instant::now();
        assert_eq!(work(Duration::from_secs(60)), Verdict::Done);
        assert!(begun.elapsed() >= late, "it cannot have read what was not there");
    });
}

#[test]
fn lines_have_a_stable_form() {
    let key = Key::of(b"a");
    let event = Event::Progress { done: 3, total: 9, unit: "step".into(), loss: Some(0.25), note: None };
    for message in [
        Message::Stage(event),
        Message::Stage(Event::Note { text: "resumed".into() }),
        Message::Life(Life::Started),
        Message::Life(Life::Failed { message: "NaN".into(), cause: Cause::Diverged { step: 7 } }),
        Message::Life(Life::Missing { parents: vec![key.clone()], message: "torn".into() }),
        Message::Life(Life::Finished { seconds: 1.5, shared: true }),
    ] {
        let line = Line { key: key.clone(), message };
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with(&format!(r#"{{"key":"{key}","event":""#)), "{text}");
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }
}

/// With `tests/fixtures/fake_worker.sh`, which does what a stage's label says.
#[cfg(unix)]
mod local {
    use super::*;

    const WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fake_worker.sh");

    #[test]
    fn processes_are_heard_their_words_logged_and_their_death_noticed() {
        let (_dir, store) = store();
        let plan = plan(&["finish", "die"]);
        let mut local = Local::new(WORKER, store.clone(), EVERY);
        let (summary, notes) = finish(&plan, &store, &mut local, &Options { workers: 2, ..options() });
        assert_eq!(summary.outcomes[0], Outcome::Done { seconds: 1.5, shared: false });
        let Outcome::Failed { message } = &summary.outcomes[1] else { panic!("{summary:?}") };
        assert!(message.contains("signal 9"), "{message}");
        assert!(notes.contains(&"finish at 1".to_owned()), "{notes:?}");
        assert!(notes.iter().any(|note| note.starts_with("retried die")), "{notes:?}");
        drop(local);
        let log = fs::read_to_string(store.log_path(&plan.stages[0].key)).unwrap();
        assert_eq!(log, "a word for the log\n");
    }

    #[test]
    fn a_process_is_used_again_after_short_work_and_an_allocation_that_fails_is_told() {
        let (_dir, store) = store();
        let plan = plan(&["finish", "finish/2", "memory"]);
        let mut local = Local::new(WORKER, store.clone(), EVERY);
        let (summary, notes) = finish(&plan, &store, &mut local, &options());
        // A word may come when the next stage has begun, and is then in that one's log.
        let log = |i: usize| fs::read_to_string(store.log_path(&plan.stages[i].key)).unwrap_or_default();
        assert_eq!([log(0), log(1), log(2)].concat().matches("a word for the log\n").count(), 2);
        assert!(summary.outcomes[1].is_finished(), "{summary:?}");
        let Outcome::Failed { message } = &summary.outcomes[2] else { panic!("{summary:?}") };
        assert!(message.contains("not enough memory: memory allocation of 9 bytes"), "{message}");
        assert!(notes.iter().any(|note| note.starts_with("retried memory")), "{notes:?}");
        let starts = fs::read_to_string(store.root().join("starts")).unwrap().lines().count();
        assert_eq!(starts, 2, "one for the three stages, one after the death");
    }

    #[test]
    fn workers_on_several_devices_see_one_each_and_have_cores_of_their_own() {
        let (_dir, store) = store();
        let plan = plan(&["finish", "finish 2", "finish 3", "finish 4"]);
        let mut local = Local::new(WORKER, store.clone(), EVERY).pinned((4..12).collect());
        let devices = vec![Device::Cuda(0), Device::Cuda(1)];
        let two_each = Options { workers: 4, threads: 8, devices, ..options() };
        finish(&plan, &store, &mut local, &two_each);
        drop(local);
        let text = fs::read_to_string(store.root().join("seen")).unwrap();
        let mut seen: Vec<&str> = text.lines().collect();
        seen.sort_unstable();
        let word = |line: &str, name: &str| {
            line.split(' ').skip_while(|word| *word != name).nth(1).map(str::to_owned).unwrap_or_default()
        };
        let devices: Vec<&str> = seen.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(devices, ["sees=0", "sees=0", "sees=1", "sees=1"], "{text}");
        assert!(
            seen.iter().all(|line| word(line, "--device") == "cuda:0"),
            "the only one that it sees: {text}"
        );
        let mut cores: Vec<String> = seen.iter().map(|line| word(line, "--cores")).collect();
        cores.sort_unstable();
        assert_eq!(cores, ["10,11", "4,5", "6,7", "8,9"], "{text}");
    }

    /// Asks to stop once both run, and again when the first has stopped.
    struct Impatient<'a>(&'a Stop, usize);
    impl Reporter for Impatient<'_> {
        fn notice(&mut self, notice: &Notice<'_>) {
            match notice {
                Notice::Started { .. } => {
                    self.1 += 1;
                    (self.1 == 2).then(|| self.0.request());
                }
                Notice::Settled { stage, .. } if stage.label == "wait" => self.0.request(),
                _ => {}
            }
        }
    }

    #[test]
    fn one_request_has_a_process_save_and_stop_and_a_second_one_ends_the_deaf() {
        let (_dir, store) = store();
        let plan = plan(&["wait", "deaf"]);
        let stop = Stop::default();
        let mut local = Local::new(WORKER, store.clone(), EVERY);
        let options = Options { workers: 2, ..options() };
        let summary = run(&plan, &store, &mut local, &mut Impatient(&stop, 0), &options, &stop).unwrap();
        assert_eq!(summary.outcomes, [Outcome::Interrupted, Outcome::Interrupted]);
    }

    #[test]
    fn a_program_that_is_absent_fails_the_stage() {
        let (_dir, store) = store();
        let mut local = Local::new("/nowhere/sweep", store.clone(), EVERY);
        let (summary, _) = finish(&plan(&["finish"]), &store, &mut local, &options());
        let [Outcome::Failed { message }] = &summary.outcomes[..] else { panic!("{summary:?}") };
        assert!(message.contains("/nowhere/sweep"), "{message}");
    }
}
