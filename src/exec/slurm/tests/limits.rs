//! What Slurm takes only so much of: elements that wait one by one, questions, submissions; and tries that bring nothing.

use super::super::ends::cancel_with;
use super::super::record::Slots;
use super::*;
use crate::exec::Verdict;

const DOWN: &str = "error: Unable to contact slurm controller (connect failure)";

/// Trainings `t0`, `t1`, … and an evaluation `e0`, `e1`, … of each.
fn pairs(count: u32) -> Plan {
    let key = |name: String| Key::of(name.as_bytes());
    let stage = |i: u32| {
        let (kind, name, parents) = match i.checked_sub(count) {
            None => (StageKind::Train, format!("t{i}"), vec![]),
            Some(n) => {
                let parent = Parent { role: "train".into(), key: key(format!("t{n}")) };
                (StageKind::Evaluate, format!("e{n}"), vec![parent])
            }
        };
        let spec = StageSpec { kind, settings: json!({ "name": name }), local: json!(null), parents };
        PlannedStage::new(key(name.clone()), spec, name, None, vec![])
    };
    Plan::of("pairs", (0..2 * count).map(stage).collect())
}

/// An executor whose jobs are asked for what `cluster` says.
fn executor(fake: &Fake, store: &Store, cluster: &str, patience: Patience) -> Slurm {
    let cluster = Cluster::parse("cluster.yaml", cluster).unwrap();
    let setting =
        Setting { program: "sweep".into(), folder: "/".into(), checkpoint_every: Duration::from_secs(60) };
    Slurm::with(store.clone(), cluster, "test", setting, patience, Some(fake.path("bin"))).unwrap()
}

/// Runs `plan` through `executor`, while the fake's elements fare as `act` says.
fn run_with(
    (fake, store, mut executor): (&Fake, &Store, Slurm),
    plan: &Plan,
    options: &Options,
    act: impl Fn(&str, usize) -> Act + Sync,
) -> (Summary, Vec<String>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let cluster = scope.spawn(|| play(fake, store, &act, &over));
        let result = finish(plan, store, &mut executor, options);
        over.store(true, Ordering::SeqCst);
        cluster.join().unwrap();
        result
    })
}

/// What was asked for under the name `option` in the script of a job.
fn asked(fake: &Fake, id: u64, option: &str) -> Option<String> {
    let start = format!("#SBATCH --{option}=");
    fake.script(id).lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
}

/// The seconds at which programs were called.
fn times(fake: &Fake, program: impl Fn(&str) -> bool) -> Vec<f64> {
    let text = fs::read_to_string(fake.path("calls")).unwrap_or_default();
    let call = |line: &str| {
        let mut words = line.split(' ');
        let time = words.next()?.parse().ok()?;
        program(words.next()?).then_some(time)
    };
    text.lines().filter_map(call).collect()
}

#[test]
fn evaluations_follow_their_trainings_in_the_same_elements() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let act = |label: &str, job| match (label, job) {
        ("t1", 0) => Act::Say("OUT_OF_MEMORY", "OutOfMemory"),
        ("t2", 0) => Act::Say("NODE_FAIL", "None"),
        _ => Act::Work,
    };
    let (summary, notes) = on_fake(&fake, &pairs(12), &store, &options(), act);
    assert!(summary.complete(), "{notes:#?}");
    assert!(notes.contains(&"note job 100: train with evaluate ×12".to_owned()), "{notes:#?}");
    assert_eq!(asked(&fake, 100, "dependency"), None);
    let retried: Vec<_> = notes.iter().filter(|note| note.starts_with("retried")).collect();
    assert_eq!(retried.len(), 2, "an evaluation that never had its turn is not retried: {retried:?}");
    for id in 101..100 + fake.calls("sbatch").len() as u64 {
        assert_eq!(asked(&fake, id, "dependency"), None, "each goes with its training again");
    }
    assert_eq!(standings(&store).unwrap(), []);
}

#[test]
fn a_training_that_fails_takes_its_evaluation_along_and_an_evaluation_fails_alone() {
    let mut plan = pairs(3);
    let rename = |plan: &mut Plan, i: usize, name: &str| {
        let mut spec = plan.spec(i);
        spec.settings = json!({ "name": name });
        let stage = &plan.stages[i];
        plan.stages[i] = PlannedStage::new(stage.key.clone(), spec, stage.label.clone(), None, vec![]);
    };
    rename(&mut plan, 0, "fails");
    rename(&mut plan, 4, "panics");
    let plan = Plan::of("pairs", plan.stages);
    let (_dir, store) = store();
    let fake = Fake::new();
    let (summary, _) = on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work);
    assert_eq!(words(&summary), ["failed", "done", "done", "skipped", "failed", "done"]);
    assert!(message(&summary.outcomes[4]).contains("index out of bounds"), "{summary:?}");
    assert_eq!(fake.calls("sbatch").len(), 1);
}

#[test]
fn evaluations_that_ask_for_something_else_wait_one_by_one_as_far_as_slurm_can_tell_them_apart() {
    let (_dir, store) = store();
    let fake = Fake::new();
    fake.write("config", "SchedulerParameters     = correspond_after_task_cnt=5,bf_interval=2\n");
    let cluster = "default: { gres: 'gpu:1' }\nevaluate: { gres: ~ }";
    let executor = executor(&fake, &store, cluster, quick());
    let (summary, notes) = run_with((&fake, &store, executor), &pairs(12), &options(), |_, _| Act::Work);
    assert!(summary.complete(), "{notes:#?}");
    let mut shown: Vec<_> =
        (100..104).map(|id| (asked(&fake, id, "array").unwrap(), asked(&fake, id, "dependency"))).collect();
    shown.sort();
    assert_eq!(shown[0], ("0-11".into(), None), "{shown:?}");
    let corresponds = Some("aftercorr:100".to_owned());
    // Those whose training was over before they were sent wait for nothing.
    for (array, dependency) in &shown[1..] {
        assert!(*dependency == corresponds || dependency.is_none(), "{array}: {dependency:?}");
        let most = array
            .split_once('-')
            .map_or(1, |(from, to)| to.parse::<u32>().unwrap() - from.parse::<u32>().unwrap() + 1);
        assert!(most <= 5, "{array}");
    }
}

#[test]
fn what_is_sent_late_does_not_wait_for_what_is_over() {
    let (_dir, store) = store();
    let fake = Fake::new();
    fake.write("full", "1");
    let plan = plan(&["t0", "t1", "e0 <- t0", "e1 <- t1"]);
    let act = |label: &str, _| if label == "t0" { Act::Work } else { Act::Say("PENDING", "Priority") };
    let (stop, over) = (Stop::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let cluster = scope.spawn(|| play(&fake, &store, &act, &over));
        let engine = scope.spawn(|| {
            let mut executor = fake.executor(&store, quick());
            run(&plan, &store, &mut executor, &mut Notes::default(), &options(), &stop).unwrap()
        });
        // The engine has heard that the first training is over once it has asked again after Slurm knew.
        let queue = || fs::read_to_string(fake.path("queue")).unwrap_or_default();
        until("the first training is over", || queue().contains("COMPLETED"));
        let asked = fake.calls("squeue").len();
        until("it is heard of", || fake.calls("squeue").len() >= asked + 4);
        fs::remove_file(fake.path("full")).unwrap();
        until("two more jobs", || fake.path("jobs/102/dependency").exists());
        stop.request();
        engine.join().unwrap();
        over.store(true, Ordering::SeqCst);
        cluster.join().unwrap();
    });
    assert_eq!((asked(&fake, 101, "array").unwrap(), asked(&fake, 101, "dependency")), ("0".into(), None));
    let second = (asked(&fake, 102, "array").unwrap(), asked(&fake, 102, "dependency").unwrap());
    assert_eq!(second, ("1".into(), "aftercorr:100".into()));
}

#[test]
fn what_waits_in_slurm_for_what_is_over_is_taken_back_and_submitted_again() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&["t0", "t1", "e0 <- t0", "e1 <- t1"]);
    let act = |label: &str, job| match (label, job) {
        ("e1", 0) => Act::Say("PENDING", "Dependency"),
        _ => Act::Work,
    };
    let (summary, notes) = on_fake(&fake, &plan, &store, &options(), act);
    assert!(summary.complete(), "{notes:#?}");
    assert!(notes.iter().any(|note| note.contains("waits in Slurm for what is over")), "{notes:#?}");
    assert_eq!(fake.calls("scancel"), ["scancel 101_[1]"]);
}

#[test]
fn what_is_let_go_or_taken_away_again_and_again_fails_in_the_end() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let act = |label: &str, _| match label {
        "room" => Act::Say("PREEMPTED", "None"),
        "unmet" => Act::Say("CANCELLED", "DependencyNeverSatisfied"),
        _ => Act::Work,
    };
    let plan = plan(&["room", "unmet", "other", "after <- unmet"]);
    let (summary, _) = on_fake(&fake, &plan, &store, &options(), act);
    assert_eq!(words(&summary), ["failed", "failed", "done", "skipped"]);
    assert!(message(&summary.outcomes[0]).contains("taken away 8 times in a row"), "{summary:?}");
    assert!(message(&summary.outcomes[1]).contains("let it go 8 times"), "{summary:?}");
}

#[test]
fn slots_are_counted_that_gain_nothing() {
    let (a, b) = (Key::of(b"a"), Key::of(b"b"));
    let mut slots = Slots::default();
    let mut idle = |reached: &[(&Key, u64)], finished| {
        slots.count(reached.iter().map(|&(key, done)| (key.clone(), done)), finished);
        slots.idle
    };
    assert_eq!(idle(&[(&a, 10)], 0), 0);
    assert_eq!(idle(&[(&a, 10)], 0), 1);
    assert_eq!(idle(&[(&a, 9)], 0), 2);
    assert_eq!(idle(&[(&a, 11)], 0), 0);
    assert_eq!(idle(&[], 1), 0, "a stage was finished");
    assert_eq!(idle(&[], 1), 1, "not even begun again");
    assert_eq!(idle(&[(&b, 1)], 1), 0);
}

#[test]
fn a_time_limit_that_comes_again_and_again_with_nothing_gained_is_a_failure() {
    let (_dir, store) = store();
    let key = Key::of(b"a");
    let spec = StageSpec {
        kind: StageKind::Train,
        settings: json!({"name": "a"}),
        local: json!(null),
        parents: vec![],
    };
    store.write_spec(&key, "a", &spec).unwrap();
    let record = Record::at(&store, "sweep-a-train-0");
    let job = Job {
        sweep: "a".into(),
        kind: StageKind::Train,
        submitted: record::now(),
        threads: 1,
        submitter: String::new(),
    };
    record.announce(&job, &[(0, vec![key.clone()])].into()).unwrap();
    files::write_atomic(store.work(&key).unwrap().dir().join("checkpoint"), "half").unwrap();
    let slot = |done| {
        let element = Element::begin(&store, record.dir(), 0).unwrap();
        files::write_atomic(record.file(0, "limit"), "").unwrap();
        let event = crate::stage::event::Event::Progress {
            done,
            total: 9,
            unit: "step".into(),
            loss: None,
            note: None,
        };
        element.hear(&Line { key: key.clone(), message: crate::exec::Message::Stage(event) });
        thread::sleep(Duration::from_millis(20));
        element.end(&store, Verdict::Interrupted).unwrap()
    };
    let verdicts = [3, 5, 5, 5].map(slot);
    assert_eq!(verdicts, [Verdict::Interrupted; 4], "it came further twice, then waited twice");
    assert_eq!(slot(5), Verdict::Failed);
    let said = format!("{:?}", record.end(0).unwrap().lines);
    assert!(said.contains("3 times in a row with nothing gained") && said.contains("raise `time`"), "{said}");
    let begins = record.begins(0);
    assert!(begins[1..].iter().all(|begin| begin.waited < 60.0 && begin.waited >= 0.0), "{begins:?}");
    assert!(begins[1].waited > 0.0, "from the end of one slot to the begin of the next");
}

#[test]
fn a_cancellation_that_slurm_does_not_hear_of_is_none_and_may_be_asked_again() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let record = Record::at(&store, "sweep-a-train-0");
    let job = Job {
        sweep: "a".into(),
        kind: StageKind::Train,
        submitted: record::now(),
        threads: 1,
        submitter: String::new(),
    };
    record.announce(&job, &[(0, vec![Key::of(b"a")]), (1, vec![Key::of(b"b")])].into()).unwrap();
    record.confirm(100).unwrap();
    fake.write("queue", "100|0|RUNNING|None|sweep-a-train-0\n100|1|PENDING|Priority|sweep-a-train-0\n");
    let commands = Commands { folder: Some(fake.path("bin")), limit: Duration::from_secs(20) };
    let cancel = || cancel_with(&store, Some("a"), &commands, Duration::ZERO);
    for program in ["squeue", "scancel"] {
        fake.write(&format!("fail.{program}"), DOWN);
        let error = format!("{:#}", cancel().unwrap_err());
        assert!(error.contains("not cancelled") && error.contains("Unable to contact"), "{error}");
        assert!(standings(&store).unwrap()[0].is_live(), "{program}: it may run on");
        assert!(record.asked()(1), "and what begins ends at once");
        fs::remove_file(fake.path(&format!("fail.{program}"))).unwrap();
    }
    assert!(Element::begin(&store, record.dir(), 1).unwrap().is_unwanted());
    fake.write("fail.scancel", "scancel: error: Access/permission denied");
    cancel().unwrap_err();
    assert!(!record.asked()(1), "no is no");
    fs::remove_file(fake.path("fail.scancel")).unwrap();
    assert_eq!(cancel().unwrap().len(), 1);
    assert!(!standings(&store).unwrap()[0].is_live());
    assert_eq!(fake.calls("scancel").last().unwrap(), "scancel 100");
    assert_eq!(cancel().unwrap(), [], "nothing is left to cancel");
}

#[test]
fn what_a_failure_made_useless_is_ended_once_slurm_answers_or_by_the_next_who_asks() {
    let act = |label: &str, _| if label == "slow" { Act::Say("PENDING", "Priority") } else { Act::Work };
    let fast = Options { fail_fast: true, ..options() };
    let (_dir, store) = store();
    let fake = Fake::new();
    fake.write("fail.scancel", DOWN);
    let (summary, _) = on_fake(&fake, &plan(&["fails", "slow"]), &store, &fast, act);
    assert_eq!(words(&summary)[0], "failed");
    let jobs = standings(&store).unwrap();
    assert!(jobs.iter().any(Standing::is_live), "it is still in Slurm: {jobs:?}");
    fs::remove_file(fake.path("fail.scancel")).unwrap();
    let commands = Commands { folder: Some(fake.path("bin")), limit: Duration::from_secs(20) };
    assert_eq!(cancel_with(&store, None, &commands, Duration::ZERO).unwrap().len(), 1);
    assert!(!standings(&store).unwrap().iter().any(Standing::is_live));
}

#[test]
fn refusals_and_failures_are_paced_like_everything_else() {
    let (_dir, store) = store();
    let fake = Fake::new();
    fake.write("fail.sbatch", "sbatch: error: invalid partition specified: gqu");
    let names: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    let plan = plan(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let least = Duration::from_millis(200);
    let patience = Patience { least, ..quick() };
    let one_each = executor(&fake, &store, "default: { array_most: 1 }", patience);
    let (summary, _) = run_with((&fake, &store, one_each), &plan, &options(), |_, _| Act::Work);
    assert!(words(&summary).iter().all(|&word| word == "failed"), "{summary:?}");
    let sent = times(&fake, |program| program == "sbatch");
    assert_eq!(sent.len(), 20);
    assert!(sent[19] - sent[0] > 11.0 * 0.2, "eight at once, then one after the other: {sent:?}");

    // A controller that does not answer is not asked more often for having to end things as well.
    let (_dir, store) = self::store();
    let fake = Fake::new();
    for program in ["squeue", "scancel"] {
        fake.write(&format!("fail.{program}"), DOWN);
    }
    let mut executor = fake.executor(&store, Patience { least, most: least, down: least, ..quick() });
    let task = |id: usize| {
        let key = Key::of(&[id as u8]);
        let spec =
            StageSpec { kind: StageKind::Train, settings: json!({}), local: json!(null), parents: vec![] };
        store.write_spec(&key, "a", &spec).unwrap();
        Task {
            id,
            keys: vec![key],
            kind: StageKind::Train,
            after: vec![],
            shortages: id as u32,
            threads: 1,
            device: crate::exec::Device::Cpu,
        }
    };
    (0..5).for_each(|id| executor.submit(&task(id)).unwrap());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        executor.poll(Duration::from_millis(20)).unwrap();
        if fake.calls("sbatch").len() == 5 {
            (0..5).for_each(|id| executor.withdraw(id));
        }
    }
    let asked = times(&fake, |program| program != "sbatch");
    assert!(!fake.calls("scancel").is_empty());
    assert!(
        asked.len() as f64 <= 3.0 / 0.2 + 2.0,
        "{} questions in 3 s, one in 0.2 s: {asked:?}",
        asked.len()
    );
}

#[test]
fn an_accounting_that_is_slow_or_fails_is_asked_again() {
    for trouble in ["slow", "fail"] {
        let (_dir, store) = store();
        let fake = Fake::new();
        fake.write("accounts", "100_0|CANCELLED by 1000|None|NAME\n");
        match trouble {
            "slow" => fake.write("slow.sacct", "6"),
            _ => fake.write("fail.sacct", "sacct: error: slurm_persist_conn_open: Connection refused"),
        }
        let patience = Patience { answer: Duration::from_secs(3), late: Duration::from_secs(20), ..quick() };
        let executor = executor(&fake, &store, "default: {}", patience);
        let (summary, _) = thread::scope(|scope| {
            scope.spawn(|| {
                // Until the first one has had its answer, for there is a second one.
                let waits = Instant::now();
                while fake.calls("sacct").len() < 2 && waits.elapsed() < Duration::from_secs(60) {
                    thread::sleep(Duration::from_millis(20));
                }
                let _ = fs::remove_file(fake.path("fail.sacct"));
            });
            run_with((&fake, &store, executor), &plan(&["gone"]), &options(), |_, _| Act::Vanish)
        });
        assert!(
            message(&summary.outcomes[0]).contains("cancelled, by somebody else"),
            "{trouble}: {summary:?}"
        );
        assert!(fake.calls("sacct").len() > 1, "{trouble}");
    }
}

#[test]
fn jobs_in_hidden_partitions_are_seen_and_those_of_others_with_the_same_number_are_not() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&["data"]);
    let key = plan.stages[0].key.clone();
    store.write_spec(&key, "data", &plan.spec(0)).unwrap();
    let name = "sweep-test-train-0123456789";
    let record = Record::at(&store, name);
    let job = Job {
        sweep: "test".into(),
        kind: StageKind::Train,
        submitted: record::now(),
        threads: 3,
        submitter: String::new(),
    };
    record.announce(&job, &[(0, vec![key])].into()).unwrap();
    files::create_folder(fake.path("jobs/100/e")).unwrap();
    fake.write("jobs/100/name", name);
    fake.write("hidden", &format!("100|0|PENDING|Priority|{name}\n100|0|FAILED|NonZeroExitCode|other\n"));
    let (summary, notes) = on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work);
    assert!(summary.complete(), "{notes:?}");
    assert_eq!(fake.calls("sbatch"), Vec::<String>::new(), "it is found, and goes on");
    assert!(!notes.iter().any(|note| note.starts_with("retried")), "{notes:?}");
}

#[test]
fn what_a_run_that_lives_is_about_to_submit_is_left_to_it() {
    let (_dir, store) = store();
    let fake = Fake::new();
    fake.write("full", "0");
    let plan = plan(&["data", "t1 <- data"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let cluster = scope.spawn(|| play(&fake, &store, &|_, _| Act::Work, &over));
        let run = || {
            let mut executor = fake.executor(&store, quick());
            finish(&plan, &store, &mut executor, &options()).0
        };
        let first = scope.spawn(run);
        until("a submission", || !fake.calls("sbatch").is_empty());
        let second = scope.spawn(run);
        // Longer than a submission may take to be listed.
        thread::sleep(quick().unconfirmed * 4);
        fs::remove_file(fake.path("full")).unwrap();
        assert!(first.join().unwrap().complete() && second.join().unwrap().complete());
        over.store(true, Ordering::SeqCst);
        cluster.join().unwrap();
    });
    assert_eq!(fs::read_dir(fake.path("jobs")).unwrap().count(), 2, "each is submitted once");
}

#[test]
fn too_little_memory_that_was_never_asked_for_is_told_of_with_a_remedy() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let always = |_: &str, _| Act::Say("OUT_OF_MEMORY", "OutOfMemory");
    let executor = executor(&fake, &store, "default: { cpus: 1 }", quick());
    let (summary, _) = run_with((&fake, &store, executor), &plan(&["big"]), &options(), always);
    assert!(message(&summary.outcomes[0]).contains("set `memory` in cluster.yaml"), "{summary:?}");
}
