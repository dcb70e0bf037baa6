//! `sweep bench --check`: whether a GPU computes what the processor computes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::bench::check::{self, Compared};
use crate::bench::follow::{self, Followed};
use crate::cli::table::table;
use crate::cli::{Ending, say, tell};
use crate::exec::Device;
use crate::ops::{Place, Precision};
use crate::spec::settings::Method;

/// Steps of the short trainings of every method.
const SHORT: usize = 5;
/// Steps of the long one.
const LONG: usize = 300;
/// Of the long one, the steps within which a difference is not yet chaos.
const STEADY: usize = 20;

/// How far an op, a short training and the end of the long one may be from the processor.
struct Limits {
    op: f64,
    training: f64,
    end: f64,
}

impl Limits {
    fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self { op: 1e-5, training: 1e-3, end: 0.05 },
            Precision::Tf32 | Precision::Bf16 => Self { op: 1e-2, training: 0.05, end: 0.1 },
        }
    }
}

/// Compares all ops, then trainings until `patience` is over.
pub(super) fn run(device: Device, precision: Precision, patience: Duration, as_json: bool) -> Result<Ending> {
    let begun = Instant::now();
    let place = device.open_at(precision)?;
    let limits = Limits::of(precision);
    let ops = check::ops(&place)?;
    let mut trainings = Vec::new();
    let mut left = Vec::new();
    for (name, work) in trainings_of() {
        if begun.elapsed() > patience {
            left.push(name);
            continue;
        }
        if !as_json {
            tell(&format!("{name} …"));
        }
        trainings.push(work(&place)?);
    }
    let far_op = |one: &Compared| !(one.value <= limits.op && one.gradient <= limits.op);
    let far_training = |one: &Followed| {
        let [expected, found] = one.ends();
        let short = one.difference(STEADY.min(one.expected.len())) <= limits.training;
        !(short && (found - expected).abs() <= limits.end * expected.abs().max(1e-3))
    };
    let broken = ops.iter().any(far_op) || trainings.iter().any(far_training);
    if as_json {
        let object = json!({
            "device": device.to_string(), "precision": precision.to_string(), "seconds": begun.elapsed().as_secs_f64(),
            "ok": !broken, "ops": ops, "trainings": trainings, "left_out": left,
        });
        say(&object.to_string())?;
        return Ok(if broken { Ending::Failed } else { Ending::Done });
    }
    let mark = |far: bool| if far { "FAR" } else { "ok" }.to_owned();
    let rows: Vec<Vec<String>> = ops
        .iter()
        .map(|one| {
            vec![
                one.op.clone(),
                format!("{:.1e}", one.value),
                format!("{:.1e}", one.gradient),
                mark(far_op(one)),
            ]
        })
        .collect();
    let mut text = table(&["op", "value", "gradients", ""], &rows, 0);
    let rows: Vec<Vec<String>> = trainings
        .iter()
        .map(|one| {
            let [expected, found] = one.ends();
            let steps = one.expected.len();
            vec![
                one.training.clone(),
                steps.to_string(),
                format!("{:.1e}", one.difference(STEADY.min(steps))),
                format!("{:.1e}", one.difference(steps)),
                format!("{expected:.4}"),
                format!("{found:.4}"),
                mark(far_training(one)),
            ]
        })
        .collect();
    let head = ["training", "steps", "first 20", "all", "end, cpu", "end", ""];
    text.push_str("\n\n");
    text.push_str(&table(&head, &rows, 0));
    if !left.is_empty() {
        let _ = write!(text, "\n\nLeft out for want of time (--seconds): {}", left.join(", "));
    }
    say(&text)?;
    Ok(if broken { Ending::Failed } else { Ending::Done })
}

type Training = Box<dyn Fn(&Place) -> Result<Followed>>;

/// The trainings, the most telling first.
fn trainings_of() -> Vec<(String, Training)> {
    let mut all: Vec<(String, Training)> = vec![
        ("diffusion".into(), Box::new(|place| follow::diffusion(place, SHORT))),
        ("mcsd with features".into(), Box::new(|place| follow::with_features(place, SHORT))),
    ];
    for method in Method::ALL {
        all.push((
            format!("{method:?}"),
            Box::new(move |place| follow::training(place, method, SHORT, false)),
        ));
    }
    let long = move |place: &Place| follow::training(place, Method::Mcsd, LONG, true);
    all.push(("mcsd, long".into(), Box::new(long)));
    all
}
