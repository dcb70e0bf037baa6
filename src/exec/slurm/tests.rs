//! The executor against `tests/fixtures/fake_slurm.sh`: a cluster that says and does what each test wants.
#![cfg(unix)]

mod limits;
mod recovery;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use serde_json::json;

use super::super::tests::{EVERY, Notes, finish, options, plan, runner, store};
use super::super::{Inline, Options, Outcome, Stop, Summary, Worker, run};
use super::*;
use crate::plan::{Plan, PlannedStage};
use crate::stage::{Parent, StageKind, StageSpec};
use crate::store::files;

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fake_slurm.sh");

/// Slurm's programs, which stand in a folder and keep their state in another one.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sbatch", "squeue", "sacct", "scancel", "scontrol"] {
            let path = dir.path().join("bin").join(name);
            let text = format!("#!/bin/sh\nexec bash '{FAKE}' {name} '{}' \"$@\"\n", dir.path().display());
            files::create_folder(dir.path().join("bin")).unwrap();
            files::write_atomic(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        files::write_atomic(self.path(name), text).unwrap();
    }

    /// What was called, a line each, without the times.
    fn calls(&self, program: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned()));
        lines.filter(|line| line.starts_with(program)).collect()
    }

    /// The script of a job.
    fn script(&self, id: u64) -> String {
        fs::read_to_string(self.path(&format!("jobs/{id}/script"))).unwrap()
    }

    fn executor(&self, store: &Store, patience: Patience) -> Slurm {
        let cluster = Cluster::parse("cluster.yaml", "default: { memory: 1000M, cpus: 3 }").unwrap();
        let setting = Setting {
            program: "sweep".into(),
            folder: "/".into(),
            checkpoint_every: Duration::from_secs(60),
        };
        let folder = Some(self.path("bin"));
        Slurm::with(store.clone(), cluster, "test", setting, patience, folder).unwrap()
    }
}

fn quick() -> Patience {
    let milliseconds = Duration::from_millis;
    Patience {
        least: milliseconds(30),
        most: milliseconds(60),
        down: milliseconds(60),
        answer: Duration::from_secs(20),
        late: milliseconds(1500),
        unconfirmed: milliseconds(200),
    }
}

/// Waits for `what`, and fails where it does not come.
fn until(what: &str, mut come: impl FnMut() -> bool) {
    let start = Instant::now();
    while !come() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what} within five minutes");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What becomes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Its stages are computed, and say so.
    Work,
    /// Slurm says this of it, and nothing of it runs.
    Say(&'static str, &'static str),
    /// Its work is begun and saved, and then Slurm says this.
    Save(&'static str),
    /// It is computed, and Slurm forgets it at once.
    Forget,
    /// It begins, leaves no word, and Slurm forgets it.
    Vanish,
    /// Slurm does not list it any more, and it never began.
    Unlist,
    /// It is done, and that shows only after a while.
    Late,
}

/// Plays the cluster until `over`: what `act` says becomes of each element, by its label and the how-manieth job it is.
fn play(fake: &Fake, store: &Store, act: &dyn Fn(&str, usize) -> Act, over: &AtomicBool) {
    let mut seen: BTreeSet<(String, u32)> = BTreeSet::new();
    let mut jobs: BTreeMap<String, usize> = BTreeMap::new();
    let mut rows: Vec<String> = Vec::new();
    let mut late: Vec<(Instant, Record, u32, u64)> = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let before = rows.len();
        // In the order of their numbers: what a job waits for comes before it.
        let mut records: Vec<(u64, Record)> = Record::all(store)
            .unwrap()
            .into_iter()
            .filter_map(|record| Some((record.id()?, record)))
            .collect();
        records.sort_by_key(|(id, _)| *id);
        for (id, record) in records {
            let Ok(elements) = record.elements() else { continue };
            for (index, keys) in elements {
                if !seen.insert((record.name.clone(), index)) {
                    continue;
                }
                let stored = store.spec(&keys[0]).unwrap();
                let missing = stored.spec.parents.iter().any(|parent| store.object(&parent.key).is_none());
                let number = jobs.entry(stored.label.clone()).or_default();
                let chosen = if missing {
                    Act::Say("CANCELLED", "DependencyNeverSatisfied")
                } else {
                    act(&stored.label, *number)
                };
                *number += usize::from(!missing);
                let name = &record.name;
                let mut row =
                    |word: &str, reason: &str| rows.push(format!("{id}|{index}|{word}|{reason}|{name}"));
                match chosen {
                    Act::Work | Act::Forget => {
                        let well = work(store, &record, index);
                        let (word, reason) =
                            if well { ("COMPLETED", "None") } else { ("FAILED", "NonZeroExitCode") };
                        if chosen == Act::Work {
                            row(word, reason);
                        }
                    }
                    Act::Say(word, reason) => row(word, reason),
                    Act::Save(word) => {
                        files::write_atomic(store.work(&keys[0]).unwrap().dir().join("checkpoint"), "half")
                            .unwrap();
                        row(word, "None");
                    }
                    Act::Vanish => {
                        let begin =
                            record::Begin { at: record::now(), waited: 0.0, job: Some(id), host: None };
                        record.note_begin(index, &begin);
                    }
                    Act::Unlist => {}
                    Act::Late => {
                        row("COMPLETED", "None");
                        late.push((Instant::now() + Duration::from_millis(300), record.clone(), index, id));
                    }
                }
            }
        }
        late.retain(|(time, record, index, _)| {
            let due = Instant::now() >= *time;
            if due {
                work(store, record, *index);
            }
            !due
        });
        if rows.len() > before {
            fake.write("queue", &(rows.join("\n") + "\n"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// As `sweep stage --job` does it.
fn work(store: &Store, record: &Record, index: u32) -> bool {
    // Its record goes when a run has learnt by another way what became of it.
    let Ok(element) = Element::begin(store, record.dir(), index) else { return false };
    let stop = AtomicBool::new(false);
    let emit = |line: Line| element.hear(&line);
    let worker =
        Worker::new(store, &runner, &emit, &stop, EVERY).in_job(element.queued().clone(), Duration::ZERO);
    let mut verdict = super::super::Verdict::Done;
    for keys in element.steps(store) {
        if verdict == super::super::Verdict::Done {
            verdict = worker.work(&keys).0;
        }
    }
    element.end(store, verdict).is_ok_and(|verdict| verdict == super::super::Verdict::Done)
}

/// Runs `plan` on the fake, whose elements fare as `act` says.
fn on_fake(
    fake: &Fake,
    plan: &Plan,
    store: &Store,
    options: &Options,
    act: impl Fn(&str, usize) -> Act + Sync,
) -> (Summary, Vec<String>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let cluster = scope.spawn(|| play(fake, store, &act, &over));
        let mut executor = fake.executor(store, quick());
        let result = finish(plan, store, &mut executor, options);
        over.store(true, Ordering::SeqCst);
        cluster.join().unwrap();
        result
    })
}

fn message(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { message } => message,
        other => panic!("{other:?}"),
    }
}

/// The outcomes in a word each.
fn words(summary: &Summary) -> Vec<&'static str> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Found => "found",
        Outcome::Done { .. } => "done",
        Outcome::Unneeded => "unneeded",
        Outcome::Failed { .. } => "failed",
        Outcome::Skipped { .. } => "skipped",
        Outcome::Interrupted => "interrupted",
        Outcome::Waiting => "waiting",
    };
    summary.outcomes.iter().map(word).collect()
}

#[test]
fn the_same_cases_end_the_same_here_and_on_a_cluster() {
    let cases: [&[&str]; 6] = [
        &["data", "model <- data", "features <- model data", "train <- data features", "evaluate <- train"],
        &["data", "fails <- data", "panics <- data", "child <- fails", "grandchild <- child", "good <- data"],
        &["data", "f/b2 <- data", "g/b2 <- data", "f/b4 <- data", "t <- f/b2 f/b4", "u <- f/b2 g/b2"],
        &["a", "b", "c", "d <- a b", "e <- b c", "f <- d e", "fails <- d", "g <- fails e"],
        &["fails", "other"],
        &["data", "t1 <- data", "t2 <- data", "t3 <- data", "e1 <- t1", "e2 <- t2", "e3 <- t3"],
    ];
    for case in cases {
        let plan = plan(case);
        let (_here, local) = store();
        let mut inline = Inline::new(local.clone(), Arc::new(runner), EVERY);
        let (wanted, _) = finish(&plan, &local, &mut inline, &options());
        let (_there, shared) = store();
        let fake = Fake::new();
        let (summary, notes) = on_fake(&fake, &plan, &shared, &options(), |_, _| Act::Work);
        assert_eq!(words(&summary), words(&wanted), "{case:?}\n{notes:#?}");
        for (i, outcome) in summary.outcomes.iter().enumerate() {
            let key = &plan.stages[i].key;
            if let Outcome::Failed { message } = outcome {
                assert_eq!(message, self::message(&wanted.outcomes[i]));
                assert_eq!(shared.failure_record(key), local.failure_record(key));
            }
            let result = |store: &Store| fs::read(store.folder(key).join("result")).ok();
            assert_eq!(result(&shared), result(&local));
            let queue = shared.meta(key).and_then(|meta| meta.provenance).and_then(|found| found.queue);
            assert_eq!(
                queue.is_some(),
                outcome.is_finished(),
                "the job and its time in the queue are written down"
            );
        }
        assert_eq!(standings(&shared).unwrap(), [], "records go when their results are collected");

        let (summary, _) = on_fake(&Fake::new(), &plan, &shared, &options(), |_, _| Act::Work);
        assert!(summary.outcomes.iter().all(|outcome| !outcome.is_computed()), "{case:?}");
    }
}

#[test]
fn stages_of_a_sort_are_one_array_and_all_wait_in_slurm() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&["data", "t1 <- data", "t2 <- data", "t3 <- data", "e1 <- t1", "e2 <- t2", "e3 <- t3"]);
    let (summary, notes) = on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work);
    assert!(summary.complete());
    assert_eq!(fake.calls("sbatch").len(), 3);
    let asked = |id, option: &str| {
        let start = format!("#SBATCH --{option}=");
        fake.script(id).lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    };
    assert_eq!(asked(100, "dependency"), None);
    assert_eq!(
        (asked(101, "array").unwrap(), asked(101, "dependency").unwrap()),
        ("0-2".into(), "afterok:100".into())
    );
    assert_eq!(
        (asked(102, "array").unwrap(), asked(102, "dependency").unwrap()),
        ("0-2".into(), "aftercorr:101".into())
    );
    assert!(notes.contains(&"note job 102: train ×3, aftercorr:101".to_owned()), "{notes:?}");
    assert_eq!(fake.calls("scontrol"), ["scontrol show config"]);
}

#[test]
fn what_is_taken_away_goes_on_and_what_is_lost_is_submitted_again() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&[
        "limit",
        "room",
        "node",
        "boot",
        "forgotten",
        "vanished",
        "late",
        "asked <- limit",
        "end <- node",
    ]);
    let act = |label: &str, job| match (label, job) {
        ("limit", 0) => Act::Save("TIMEOUT"),
        ("room", 0) => Act::Say("PREEMPTED", "None"),
        ("node", 0 | 1) => Act::Say("NODE_FAIL", "None"),
        ("boot", 0) => Act::Say("BOOT_FAIL", "None"),
        ("forgotten", _) => Act::Forget,
        ("vanished", 0) => Act::Vanish,
        ("late", _) => Act::Late,
        _ => Act::Work,
    };
    let (summary, notes) = on_fake(&fake, &plan, &store, &options(), act);
    assert!(summary.complete(), "{summary:?}\n{notes:#?}");
    let has = |text: &str| assert!(notes.iter().any(|note| note.contains(text)), "{text}: {notes:#?}");
    has("retried limit: the time limit of job");
    has("retried room: job");
    has("retried node: the node of job");
    has("retried boot: the node of job");
    has("retried vanished: Slurm does not know job");
    assert!(!notes.iter().any(|note| note.starts_with("retried late")), "{notes:#?}");
    assert!(!fake.calls("sacct").is_empty(), "the accounting is asked about what Slurm forgot");
    assert_eq!(fake.calls("sacct").len(), 1, "and not again once it says that it is switched off");
}

#[test]
fn a_node_that_always_fails_and_a_time_limit_that_is_too_short_end_in_a_reason() {
    let (_dir, store) = store();
    let plan = plan(&["node", "short", "other"]);
    let act = |label: &str, _| match label {
        "node" => Act::Say("NODE_FAIL", "None"),
        "short" => Act::Say("TIMEOUT", "TimeLimit"),
        _ => Act::Work,
    };
    let (summary, _) = on_fake(&Fake::new(), &plan, &store, &options(), act);
    assert!(message(&summary.outcomes[0]).contains("lost 5 times"), "{summary:?}");
    assert!(message(&summary.outcomes[1]).contains("raise `time`"), "{summary:?}");
    assert!(summary.outcomes[2].is_finished());
}

#[test]
fn what_ran_out_of_memory_gets_more_of_it() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let act = |_: &str, job| if job < 2 { Act::Say("OUT_OF_MEMORY", "OutOfMemory") } else { Act::Work };
    let more = Options { retries: 2, ..options() };
    let (summary, notes) = on_fake(&fake, &plan(&["big"]), &store, &more, act);
    assert!(summary.complete(), "{notes:?}");
    let memory: Vec<bool> = ["--mem=1000M", "--mem=2000M", "--mem=4000M"]
        .iter()
        .zip(100..)
        .map(|(option, id)| fake.script(id).contains(option))
        .collect();
    assert_eq!(memory, [true; 3]);
    let (_dir, store) = self::store();
    let always = |_: &str, _| Act::Say("OUT_OF_MEMORY", "OutOfMemory");
    let (summary, _) = on_fake(&Fake::new(), &plan(&["big"]), &store, &options(), always);
    assert!(message(&summary.outcomes[0]).contains("not enough memory"), "{summary:?}");
}

#[test]
fn an_element_that_somebody_cancels_is_a_failed_stage_and_its_followers_are_taken_back() {
    let plan = plan(&["t1", "t2", "e1 <- t1", "e2 <- t2", "last <- e1"]);
    // While it runs; or before, of which no trace is left in an array of which others are listed.
    for how in [Act::Say("CANCELLED", "None"), Act::Unlist] {
        let (_dir, store) = self::store();
        let act = |label: &str, job| match (label, job) {
            ("t1", 0) => how,
            _ => Act::Work,
        };
        let (summary, _) = on_fake(&Fake::new(), &plan, &store, &options(), act);
        assert_eq!(words(&summary), ["failed", "done", "skipped", "done", "skipped"], "{how:?}");
        assert!(message(&summary.outcomes[0]).contains("cancelled, by somebody else"), "{summary:?}");
        let (summary, _) = on_fake(&Fake::new(), &plan, &store, &options(), |_, _| Act::Work);
        assert!(summary.complete(), "the next run submits it again");
    }
}

#[test]
fn what_the_accounting_knows_decides_where_slurm_forgot() {
    let (_dir, store) = store();
    let fake = Fake::new();
    // Of another job that had the number before, nothing is to be learnt.
    fake.write("accounts", "100_0|CANCELLED by 1000|None|NAME\n100_0|NODE_FAIL|None|sweep-old\n");
    let (summary, _) = on_fake(&fake, &plan(&["forgotten"]), &store, &options(), |_, _| Act::Vanish);
    assert!(message(&summary.outcomes[0]).contains("cancelled, by somebody else"), "{summary:?}");
}

#[test]
fn fail_fast_empties_the_queue() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let act = |label: &str, _| if label == "fails" { Act::Work } else { Act::Say("PENDING", "Priority") };
    let fast = Options { fail_fast: true, ..options() };
    let (summary, _) = on_fake(&fake, &plan(&["fails", "slow"]), &store, &fast, act);
    assert_eq!(words(&summary)[0], "failed");
    assert!(!fake.calls("scancel").is_empty());
    assert!(standings(&store).unwrap().iter().all(|job| !job.is_live()));
}

/// Seconds that this thread has had a processor.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Ten thousand stages from a sweep file: five thousand trainings on one data set, and an evaluation of each.
fn many() -> Plan {
    let seeds = (0..5_000).map(|seed| seed.to_string()).collect::<Vec<_>>().join(", ");
    let text = format!(
        "name: many\nbase: {{ preset: smoke, data: {{ name: phantom }}, method: supervised }}\ngrid:\n  seed: [{seeds}]\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.yaml");
    files::write_atomic(&path, text).unwrap();
    let sweep = crate::spec::load(&path, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    Plan::new(&sweep).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn ten_thousand_stages_are_submitted_and_collected_in_little_time_with_one_question_a_second() {
    let (_dir, store) = store();
    let fake = Fake::new();
    fake.write("config", "MaxArraySize            = 1001\n");
    let start = Instant::now();
    let plan = many();
    let planned = start.elapsed().as_secs_f64();
    assert_eq!(plan.stages.len(), 10_001);
    let (done, finished) = mpsc::channel();
    let (took, summary) = thread::scope(|scope| {
        let (plan, store, fake) = (&plan, &store, &fake);
        scope.spawn(move || {
            let before = busy();
            let mut executor = fake.executor(store, Patience::default());
            let summary = finish(plan, store, &mut executor, &options()).0;
            done.send((busy() - before, summary)).unwrap();
        });
        // The cluster: every stage is published, and Slurm says so, once all is submitted.
        let mut published = BTreeSet::new();
        loop {
            if let Ok(result) = finished.recv_timeout(Duration::from_millis(200)) {
                return result;
            }
            let mut rows = Vec::new();
            for record in Record::all(store).unwrap() {
                let (Some(id), Ok(elements)) = (record.id(), record.elements()) else { continue };
                for (index, keys) in elements {
                    for key in keys.iter().filter(|key| published.insert((*key).clone())) {
                        let work = store.work(key).unwrap();
                        work.commit(&store.spec(key).unwrap(), json!(null), Duration::ZERO, 1).unwrap();
                    }
                    rows.push(format!("{id}|{index}|COMPLETED|None|{}", record.name));
                }
            }
            fake.write("queue", &rows.join("\n"));
        }
    });
    assert!(summary.complete());
    assert_eq!(
        fake.calls("sbatch").len(),
        6,
        "the data, and arrays of 1,001 elements at most, evaluations in them"
    );
    let took = planned + took;
    assert!(took < 10.0, "{took} s of our own time");
    let text = fs::read_to_string(fake.path("calls")).unwrap();
    let questions: Vec<f64> = text
        .lines()
        .filter(|line| !line.contains(" sbatch "))
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    println!("{took:.2} s of our own time, {planned:.2} of them to plan, {} questions", questions.len());
    // The fake notes the time when its shell has come up, which takes a moment now more, now less.
    assert!(questions.windows(2).all(|pair| pair[1] - pair[0] > 0.8), "{questions:?}");
}

#[test]
fn records_say_how_jobs_stand_without_slurm() {
    let (_dir, store) = store();
    let record = Record::at(&store, "sweep-a-train-0");
    let job = Job {
        sweep: "a".into(),
        kind: StageKind::Train,
        submitted: record::now(),
        threads: 1,
        submitter: String::new(),
    };
    let elements: BTreeMap<u32, Vec<Key>> = (0..4).map(|i| (i, vec![Key::of(&[i as u8])])).collect();
    record.announce(&job, &elements).unwrap();
    assert_eq!(record.elements().unwrap(), elements);
    let begin = record::Begin { at: record::now(), waited: 2.0, job: Some(7), host: None };
    record.note_begin(0, &begin);
    record.note_begin(1, &begin);
    let end = record::End { at: record::now(), verdict: super::super::Verdict::Done, lines: vec![] };
    record.note_end(1, &end).unwrap();
    let standing = standings(&store).unwrap().remove(0);
    assert_eq!(standing.id, Some(7), "an element knows the number that a crash lost");
    assert_eq!((standing.running, standing.over, standing.queued()), (1, 1, 2));
    assert_eq!(standing.line(), "job 7: train ×4: 2 queued, 1 running, 1 over");
    record.note_asked(Some(&[2].into())).unwrap();
    assert_eq!(standings(&store).unwrap()[0].over, 1, "Slurm has not taken it yet");
    record.note_cancelled(Some(&[2].into())).unwrap();
    assert_eq!(standings(&store).unwrap()[0].over, 2);
    // What was interrupted waits for another slot, and is not over.
    let interrupted =
        record::End { at: record::now(), verdict: super::super::Verdict::Interrupted, lines: vec![] };
    record.note_end(0, &interrupted).unwrap();
    for exit in [None, Some("130")] {
        if let Some(code) = exit {
            files::write_atomic(record.file(0, "exit"), code).unwrap();
        }
        let standing = standings(&store).unwrap().remove(0);
        assert_eq!((standing.running, standing.over, standing.queued()), (0, 2, 2), "{exit:?}");
    }
    files::write_atomic(record.file(0, "exit"), "1").unwrap();
    assert_eq!(standings(&store).unwrap()[0].over, 3, "it did not end as it said");
    record.note_cancelled(None).unwrap();
    assert!(!standings(&store).unwrap()[0].is_live());
    assert!(Path::new(record.dir()).is_absolute());
}
