//! What a sweep survives: kills of its engine and its workers, flipped bits, lost files, a full disk, another engine on the
//! same store. After each the same command again ends in the same bits, with nothing finished computed twice and nothing
//! left behind.
//!
//! The long form, two hundred kills: `SWEEP_KILLS=200 cargo test --release --test faults -- --ignored --nocapture`.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::site::{STAGES, SWEEP};
use common::{Folder, entries, flip};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The frames of a run that nothing happened to, and how long it took.
static WHOLE: LazyLock<(Vec<Vec<u8>>, Duration)> = LazyLock::new(|| {
    let folder = Folder::new(SWEEP);
    let start = Instant::now();
    succeed(&folder, &[]);
    let time = start.elapsed();
    assert_eq!(folder.objects().len(), STAGES);
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new());
    (folder.frames(), time)
});

/// Runs the sweep to its end, which must be a good one; standard output and standard error together.
fn succeed(folder: &Folder, more: &[&str]) -> String {
    let (code, out, err) = folder.run(&[&["run", "tiny.yaml", "--threads", "2"], more].concat());
    assert_eq!(code, 0, "{out}\n{err}");
    format!("{out}{err}")
}

fn is_as_whole(folder: &Folder) {
    assert!(folder.frames() == WHOLE.0, "the frames equal those of a run without accidents, bit for bit");
    assert_eq!(folder.objects().len(), STAGES, "every stage is there once");
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new(), "nothing is left behind");
}

/// The finished object that holds the file `name`.
fn object_with(folder: &Folder, name: &str) -> PathBuf {
    folder.objects().into_iter().find(|object| object.join(name).exists()).expect("such a stage ran")
}

fn quarantined(folder: &Folder) -> usize {
    entries(&folder.path("results/.store/quarantine")).len()
}

fn signal(name: &str, process: u32) {
    // A process that is gone is as dead as it can be.
    let _ = Command::new("kill").args([name, &process.to_string()]).stderr(Stdio::null()).status();
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let numbers = entries(Path::new("/proc")).into_iter();
    let numbers = numbers.filter_map(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after = text.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after.split(' ').nth(1) == Some(parent.to_string().as_str())
    };
    numbers.filter(is_child).collect()
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Engine,
    Worker,
    Both,
}

/// Figures of a campaign.
#[derive(Debug, Default)]
struct Figures {
    /// Kills that came while the sweep ran.
    hit: usize,
    /// Objects that were finished before a kill.
    kept: usize,
    by_victim: [usize; 3],
}

/// Kills a sweep at `moment`, runs it again, and compares everything.
fn kill_once(victim: Victim, moment: Duration, workers: &str, figures: &mut Figures) {
    let folder = Folder::new(SWEEP);
    let args = ["run", "tiny.yaml", "--threads", "2", "--checkpoint-every", "0.05", "--workers", workers];
    let mut engine: Child = folder.spawn(&args);
    sleep(moment);
    let running = engine.try_wait().expect("a child").is_none();
    let workers_of = children(engine.id());
    match victim {
        Victim::Engine => signal("-9", engine.id()),
        Victim::Worker => workers_of.iter().take(1).for_each(|&worker| signal("-9", worker)),
        Victim::Both => {
            signal("-9", engine.id());
            for worker in workers_of {
                signal("-9", worker);
            }
        }
    }
    let code = engine.wait().expect("ends").code();
    if victim == Victim::Worker {
        assert_eq!(code, Some(0), "the engine tries again");
    }
    let before = folder.identities();
    succeed(&folder, &["--workers", workers]);
    is_as_whole(&folder);
    let after = folder.identities();
    for (object, identity) in &before {
        assert_eq!(
            after.get(object),
            Some(identity),
            "{victim:?} at {moment:?}: finished and computed again"
        );
    }
    assert_eq!(quarantined(&folder), 0, "{victim:?} at {moment:?}: an object was torn");
    figures.hit += usize::from(running);
    figures.kept += before.len();
    figures.by_victim[victim as usize] += 1;
}

fn campaign(kills: usize, seed: u64) -> Figures {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut figures = Figures::default();
    for _ in 0..kills {
        let victim = [Victim::Engine, Victim::Worker, Victim::Both][random.random_range(0..3)];
        let moment = WHOLE.1.mul_f64(random.random_range(0.0..1.0));
        let workers = if random.random_bool(0.5) { "1" } else { "2" };
        kill_once(victim, moment, workers, &mut figures);
    }
    figures
}

#[test]
fn kills_at_random_moments_lose_nothing_and_change_no_bit() {
    campaign(6, 1);
}

#[test]
#[ignore = "minutes; SWEEP_KILLS says how many kills"]
fn a_long_campaign_of_kills() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("SWEEP_KILLS").unwrap_or(200);
    let start = Instant::now();
    let figures = campaign(kills as usize, number("SWEEP_SEED").unwrap_or(2));
    println!(
        "{kills} runs killed ({} while they ran; engine {}, a worker {}, both {}), {} stages finished before a kill and \
         none of them computed again, all frames equal, nothing left behind; {:.0} s",
        figures.hit,
        figures.by_victim[0],
        figures.by_victim[1],
        figures.by_victim[2],
        figures.kept,
        start.elapsed().as_secs_f64()
    );
}

#[test]
fn damaged_results_and_outputs_are_noticed_and_made_again() {
    let folder = Folder::new(SWEEP);
    succeed(&folder, &[]);
    let outputs = ["results/tiny/points.csv", "results/tiny/cases.parquet", "reports/tiny/index.html"];
    for name in outputs {
        let whole = fs::read(folder.path(name)).expect("an output");
        flip(&folder.path(name));
        let said = succeed(&folder, &[]);
        assert!(said.contains("nothing to do"), "{name}: no stage runs\n{said}");
        assert!(fs::read(folder.path(name)).expect("made again") == whole, "{name}");
        fs::remove_file(folder.path(name)).expect("gone");
        succeed(&folder, &[]);
        assert!(fs::read(folder.path(name)).expect("made again") == whole, "{name}");
    }
    // A result that frames are made from, of the same size, found when they are made anew.
    flip(&object_with(&folder, "cases.jsonl").join("cases.jsonl"));
    flip(&object_with(&folder, "last.safetensors").join("history.jsonl"));
    fs::remove_file(folder.path("results/tiny/points.csv")).expect("gone");
    let said = succeed(&folder, &[]);
    assert!(said.contains("damaged"), "{said}");
    is_as_whole(&folder);
    assert_eq!(quarantined(&folder), 2);
}

#[test]
fn what_finished_points_no_longer_need_is_not_computed_again() {
    let folder = Folder::new(SWEEP);
    succeed(&folder, &[]);
    fs::remove_dir_all(object_with(&folder, "maps.f16")).expect("gone");
    fs::remove_dir_all(object_with(&folder, "ema.safetensors")).expect("gone");
    let said = succeed(&folder, &[]);
    assert!(said.contains("nothing to do"), "{said}");
    fs::remove_dir_all(folder.path("results/tiny")).expect("gone");
    succeed(&folder, &[]);
    assert!(folder.frames() == WHOLE.0);
    assert_eq!(folder.objects().len(), STAGES - 2);
}

#[test]
fn a_full_disk_ends_in_a_reason_and_a_remedy_and_leaves_nothing_half_written() {
    let folder = Folder::new(SWEEP);
    // A limit on the size of files stands in for the disk; what is larger than 64 KiB cannot be written.
    let program = env!("CARGO_BIN_EXE_sweep");
    let command = format!("trap '' XFSZ; ulimit -f 128; exec {program} run tiny.yaml --threads 2");
    let output = Command::new("sh").current_dir(folder.path("")).args(["-c", &command]).output().expect("sh");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    assert!(err.contains("free some space") && err.contains("the disk is full"), "{err}");
    assert!(
        folder.path("reports/tiny/index.html").exists() || err.contains("report could not be written"),
        "{err}"
    );
    assert_eq!(folder.leftovers(), Vec::<PathBuf>::new());
    succeed(&folder, &[]);
    is_as_whole(&folder);
}

#[test]
fn a_second_request_ends_at_once_and_both_ways_of_asking_count() {
    let long = SWEEP.replace("iterations: 8", "iterations: 100000");
    let folder = Folder::new(&long);
    let mut engine = folder.spawn(&["run", "tiny.yaml", "--threads", "2"]);
    folder.wait_for_objects(1);
    sleep(Duration::from_millis(1500));
    signal("-INT", engine.id());
    sleep(Duration::from_millis(700));
    let start = Instant::now();
    signal("-INT", engine.id());
    assert_eq!(engine.wait().expect("ends").code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(5));

    let mut engine = folder.spawn(&["run", "tiny.yaml", "--threads", "2"]);
    let store = mcsd_sweep::store::Store::at(folder.path("results/.store"));
    let run = loop {
        if let Some(run) = store.runs().expect("readable").pop() {
            break run;
        }
        sleep(Duration::from_millis(20));
    };
    assert_eq!((run.name.as_str(), run.pid), ("tiny", engine.id()));
    sleep(Duration::from_millis(500));
    store.request_stop(&run, false).expect("asked");
    assert_eq!(engine.wait().expect("ends").code(), Some(130));
    assert_eq!(store.runs().expect("readable"), []);
}

#[test]
fn stages_in_this_process_give_the_same_bits() {
    let folder = Folder::new(SWEEP);
    succeed(&folder, &["--in-process"]);
    is_as_whole(&folder);
}

#[test]
fn devices_and_priorities_that_do_not_exist_are_refused() {
    let folder = Folder::new(SWEEP);
    for (args, word) in [
        (["--device", "cuda:1"], "cuda:1"),
        (["--first", "seed=77"], "no point"),
        (["--device", "gpu"], "gpu"),
    ] {
        let (code, _, err) = folder.run(&[&["run", "tiny.yaml"], &args[..]].concat());
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(word), "{err}");
    }
    assert_eq!(folder.objects().len(), 0);
}
