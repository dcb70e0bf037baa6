//! Controllers that are down, answers that are lost, runs that are left, killed or doubled.

use super::*;

#[test]
fn a_controller_that_is_down_is_asked_again_and_nothing_is_submitted_twice() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&["data", "train <- data"]);
    let down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)";
    fake.write("fail.squeue", down);
    fake.write("fail.scontrol", down);
    fake.write("lost.sbatch", "");
    let (summary, notes) = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(400));
            fs::remove_file(fake.path("fail.scontrol")).unwrap();
            until("a job", || fake.path("jobs/100/dependency").exists());
            thread::sleep(Duration::from_millis(400));
            // The job whose answer was lost is listed.
            let name = fs::read_to_string(fake.path("jobs/100/name")).unwrap();
            fake.write("queue", &format!("100|0|PENDING|Priority|{}\n", name.trim()));
            fs::remove_file(fake.path("fail.squeue")).unwrap();
        });
        on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work)
    });
    assert!(summary.complete(), "{notes:?}");
    assert_eq!(fake.calls("sbatch").len(), 2, "each once: {:?}", fake.calls("sbatch"));
    let count = |text: &str| notes.iter().filter(|note| note.contains(text)).count();
    assert_eq!(count("which Slurm had taken"), 1, "{notes:#?}");
    assert!(count("Slurm does not answer") > 0, "{notes:#?}");
    assert_eq!(count("Slurm answers again"), count("Slurm does not answer"), "{notes:#?}");
}

#[test]
fn a_submission_that_was_not_taken_is_made_again_and_one_that_is_refused_is_not() {
    // `sbatch` says this, and a moment later it takes the job.
    let submitted_late = |answer: &str| {
        let (_dir, store) = store();
        let fake = Fake::new();
        fake.write("fail.sbatch", &format!("sbatch: error: {answer}"));
        let (summary, notes) = thread::scope(|scope| {
            scope.spawn(|| {
                // The second call comes after the first has failed.
                until("two tries", || fake.calls("sbatch").len() >= 2);
                thread::sleep(Duration::from_millis(300));
                fs::remove_file(fake.path("fail.sbatch")).unwrap();
            });
            on_fake(&fake, &plan(&["data"]), &store, &options(), |_, _| Act::Work)
        });
        assert!(summary.complete(), "{notes:?}");
        (notes, fake.calls("sbatch").len())
    };
    let (notes, _) = submitted_late("Batch job submission failed: Unable to contact slurm controller");
    assert!(!notes.iter().any(|note| note.contains("array_most")), "{notes:?}");
    let (notes, tries) = submitted_late("QOSMaxSubmitJobPerUserLimit");
    let full: Vec<_> = notes.iter().filter(|note| note.contains("takes no more of your jobs")).collect();
    assert_eq!(full.len(), 1, "said once, however often it is tried: {notes:?}");
    assert!((2..=14).contains(&tries), "tried {tries} times in 300 ms and a little, ever less often");
    assert!(full[0].contains("set `array_most` in cluster.yaml"), "{notes:?}");
    assert!(!notes.iter().any(|note| note.contains("answer")), "Slurm does answer: {notes:?}");

    let fake = Fake::new();
    fake.write(
        "fail.sbatch",
        "sbatch: error: invalid partition specified: gqu\nsbatch: error: Batch job submission failed",
    );
    let plan = plan(&["a", "b <- a"]);
    let (_dir, store) = self::store();
    let (summary, _) = on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work);
    assert_eq!(words(&summary), ["failed", "skipped"]);
    assert!(message(&summary.outcomes[0]).contains("invalid partition specified: gqu"), "{summary:?}");
    assert_eq!(standings(&store).unwrap(), []);
}

#[test]
fn a_run_that_is_left_finds_its_jobs_again_and_collects_what_ended_meanwhile() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&["data", "t1 <- data", "t2 <- data", "e1 <- t1", "e2 <- t2"]);
    let stop = Stop::default();
    let left = thread::scope(|scope| {
        let engine = scope.spawn(|| {
            let mut notes = Notes::default();
            let mut executor = fake.executor(&store, quick());
            run(&plan, &store, &mut executor, &mut notes, &options(), &stop).unwrap()
        });
        until("three jobs", || fake.calls("sbatch").len() >= 3);
        stop.request();
        engine.join().unwrap()
    });
    assert!(left.interrupted && !left.complete());
    assert_eq!(fake.calls("scancel"), Vec::<String>::new(), "what was submitted goes on");
    let jobs = standings(&store).unwrap();
    let shown: Vec<_> = jobs.iter().map(|job| (job.elements, job.queued(), job.over)).collect();
    assert_eq!(shown.iter().map(|&(elements, ..)| elements).sum::<usize>(), 5);
    assert!(jobs.iter().all(|job| job.is_live() && job.id.is_some()), "{shown:?}");
    // Meanwhile the data are made.
    for record in Record::all(&store).unwrap().iter().filter(|record| record.id() == Some(100)) {
        assert!(work(&store, record, 0));
    }
    let (summary, notes) = on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work);
    assert!(summary.complete(), "{notes:?}");
    assert_eq!(summary.outcomes[0], Outcome::Found);
    assert_eq!(fake.calls("sbatch").len(), 3, "nothing is submitted twice: {:?}", fake.calls("sbatch"));
    assert_eq!(notes.iter().filter(|note| note.contains("goes on")).count(), 2, "{notes:?}");
    assert_eq!(standings(&store).unwrap(), []);
}

#[test]
fn a_crash_around_a_submission_neither_doubles_nor_loses_it() {
    for taken in [false, true] {
        let (_dir, store) = store();
        let fake = Fake::new();
        let plan = plan(&["data"]);
        // As it is left by a run that was killed before, or after, Slurm took the job.
        let key = plan.stages[0].key.clone();
        store.write_spec(&key, "data", &plan.spec(0)).unwrap();
        let record = Record::at(&store, "sweep-test-train-0123456789");
        let job = Job {
            sweep: "test".into(),
            kind: StageKind::Train,
            submitted: record::now(),
            threads: 3,
            submitter: String::new(),
        };
        record.announce(&job, &[(0, vec![key])].into()).unwrap();
        if taken {
            files::create_folder(fake.path("jobs/100/e")).unwrap();
            fake.write("jobs/100/name", "sweep-test-train-0123456789");
            fake.write("queue", "100|0|PENDING|Priority|sweep-test-train-0123456789\n");
        }
        // And one of which not even the record was whole.
        files::create_folder(store.root().join("slurm/sweep-test-train-torn")).unwrap();
        let (summary, notes) = on_fake(&fake, &plan, &store, &options(), |_, _| Act::Work);
        assert!(summary.complete(), "{notes:?}");
        assert_eq!(fake.calls("sbatch").len(), usize::from(!taken), "taken: {taken}");
        assert_eq!(standings(&store).unwrap(), []);
    }
}

#[test]
fn two_runs_at_once_submit_each_stage_once() {
    let (_dir, store) = store();
    let fake = Fake::new();
    let plan = plan(&["data", "t1 <- data", "t2 <- data", "e1 <- t1", "e2 <- t2"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let cluster = scope.spawn(|| play(&fake, &store, &|_, _| Act::Work, &over));
        let run = || {
            let mut executor = fake.executor(&store, quick());
            finish(&plan, &store, &mut executor, &options()).0
        };
        let engines = [scope.spawn(run), scope.spawn(run), scope.spawn(run)];
        for engine in engines {
            let summary = engine.join().unwrap();
            assert!(summary.complete(), "{summary:?}");
        }
        over.store(true, Ordering::SeqCst);
        cluster.join().unwrap();
    });
    assert_eq!(fake.calls("sbatch").len(), 3, "{:?}", fake.calls("sbatch"));
}
