//! The whole path on a phantom of ten patients with networks of a few thousand weights: from a sweep file to frames and
//! a report, again, through kills and torn files, and bit for bit.

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::{Folder, write};

const SWEEP: &str = "
name: tiny
description: every kind of stage, seconds long
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  method: mcsd
  label_ratio: 2 cases
  size: 32
  timesteps: [50, 250]
  blocks: [0, 2]
  feature_dim: 4
  tau: 0.3
  unet: { channels: [4, 4, 8, 8, 8] }
  diffusion: { channel_mult: [1, 1], res_blocks: 1, attention: [2], iterations: 3, batch: 2 }
  train: { iterations: 6, batch: 2, validate_every: 3 }
grid:
  dfm: [false, true]
  dic: [false, true]
";

#[test]
fn a_sweep_ends_in_frames_and_a_report_and_a_second_run_does_nothing() {
    let folder = Folder::new(SWEEP);
    let (code, out, err) = folder.run(&["run", "tiny.yaml"]);
    assert_eq!(code, 0, "{out}\n{err}");
    // prepare, pretrain, four features, four trainings, four evaluations
    assert_eq!(folder.objects().len(), 14, "{err}");
    let report = fs::read_to_string(folder.path("reports/tiny/index.html")).expect("the report");
    assert!(report.contains("</html>") && report.contains("tiny"));
    for kind in ["tables", "figures"] {
        let files = fs::read_dir(folder.path("reports/tiny").join(kind)).expect("the folder").count();
        assert!(files >= 2, "{kind} has {files} files");
    }
    let points = fs::read_to_string(folder.path("results/tiny/points.csv")).expect("the frame");
    assert_eq!(points.lines().count(), 5, "a head and four points:\n{points}");
    let cases = fs::read_to_string(folder.path("results/tiny/cases.csv")).expect("the frame");
    // Two test patients, two phases, three classes, four points.
    assert_eq!(cases.lines().count(), 1 + 2 * 2 * 3 * 4, "{cases}");

    let before = folder.frames();
    let (code, out, err) = folder.run(&["run", "tiny.yaml"]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(format!("{out}{err}").contains("nothing to do"), "{out}\n{err}");
    assert_eq!(folder.frames(), before, "a second run changes nothing");
    assert_eq!(folder.objects().len(), 14);
}

#[test]
fn kills_and_torn_files_lose_nothing_and_change_no_bit() {
    let whole = Folder::new(SWEEP);
    let (code, out, err) = whole.run(&["run", "tiny.yaml", "--threads", "2"]);
    assert_eq!(code, 0, "{out}\n{err}");

    let broken = Folder::new(SWEEP);
    // Killed without warning after the first, the fifth and the ninth finished stage, on another number of threads.
    for objects in [1, 5, 9] {
        let mut run = broken.spawn(&["run", "tiny.yaml", "--threads", "1"]);
        broken.wait_for_objects(objects);
        run.kill().expect("kill -9");
        run.wait().expect("gone");
    }
    // A finished object whose file is torn.
    let kept = broken.objects();
    let maps =
        kept.iter().map(|object| object.join("maps.f16")).find(|path| path.exists()).expect("features");
    let bytes = fs::read(&maps).expect("readable");
    write(&maps, &bytes[..bytes.len() / 2]);

    let (code, out, err) = broken.run(&["run", "tiny.yaml", "--threads", "1"]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert_eq!(broken.objects().len(), 14, "every stage is there once");
    assert!(
        broken.frames() == whole.frames(),
        "the frames equal those of a run without accidents, bit for bit"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_a_checkpoint_that_the_next_run_continues_from() {
    let long = SWEEP.replace(
        "iterations: 6, batch: 2, validate_every: 3",
        "iterations: 400, batch: 2, validate_every: 400",
    );
    let long = format!("{long}exclude: [{{ dfm: true }}, {{ dic: true }}]\n");
    let whole = Folder::new(&long);
    let (code, out, err) = whole.run(&["run", "tiny.yaml"]);
    assert_eq!(code, 0, "{out}\n{err}");

    let folder = Folder::new(&long);
    let mut run = folder.spawn(&["run", "tiny.yaml"]);
    folder.wait_for_objects(1);
    std::thread::sleep(Duration::from_millis(300));
    let status = Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
    let code = run.wait().expect("ends").code();
    if code == Some(130) {
        let (code, out, err) = folder.run(&["run", "tiny.yaml"]);
        assert_eq!(code, 0, "{out}\n{err}");
        assert!(err.contains("continues from step"), "{err}");
    } else {
        assert_eq!(code, Some(0), "the training ended before the signal came");
    }
    assert!(folder.frames() == whole.frames(), "the same bits as without the interrupt");
}

#[test]
fn every_choice_of_mcsd_runs() {
    let (base, _) = SWEEP.split_once("grid:").expect("the sweep has a grid");
    let sweep = format!(
        "{base}zip:
  mcsd.feature_loss: [literal, fused, mutual, fused, mutual]
  mcsd.test_stream: [mean, feature, image, mean, feature]
  features.mode: [cached, online, online, cached, cached]
  features.reduction: [learned, fixed_random, learned, learned, per_image_random]
include:
  - {{ method: supervised, train.loss: ce, evaluate.empty: diagonal, evaluate.select: last }}
  - {{ diffusion.iterations: 0 }}
  - {{ features.aligned: false }}
  - {{ mcsd.feature_dropout: true, augment.quantise: false }}
  - {{ diffusion.resblock_updown: false, diffusion.scale_shift_norm: false }}
  - {{ train.precision: bf16, diffusion.precision: tf32 }}
"
    )
    .replace("  method: mcsd\n", "");
    let folder = Folder::new(&sweep);
    let (code, out, err) = folder.run(&["run", "tiny.yaml"]);
    assert_eq!(code, 0, "{out}\n{err}");
    let points = fs::read_to_string(folder.path("results/tiny/points.csv")).expect("the frame");
    assert_eq!(points.matches(",done,").count(), 11, "{points}");
    let logs = fs::read_dir(folder.path("results/.store/logs")).expect("the logs").flatten();
    let logs: String = logs.map(|log| fs::read_to_string(log.path()).expect("readable")).collect();
    for (precision, stages) in [("bf16", 1), ("tf32", 3)] {
        let said = logs.matches(&format!("computes in f32: a processor knows no {precision}")).count();
        assert_eq!(said, stages, "trainings, and models with their features: {logs}");
    }
}
