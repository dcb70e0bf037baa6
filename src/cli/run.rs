//! `sweep run FILE`.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::pipeline::{Output, OutputArgs, SweepArgs};
use super::progress::{self, Style};
use super::{Ending, OrBadInput as _, count, say, tell};
use crate::exec::{self, Local, Options, Outcome, Stop, Summary};
use crate::plan::Plan;
use crate::results::index::Index;
use crate::store::Store;

/// Signals closer together than this are one request.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Run what a sweep file asks for and is not finished yet, then write its tables, figures and report
///
/// Ctrl-C saves what runs and stops; a second one stops at once. Run the same command again to go on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Stages at once, each in a process of its own
    #[arg(long, value_name = "N", default_value = "1")]
    workers: NonZero<usize>,
    /// CPU threads in all, shared out between the workers [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// How often a stage is started again whose process died
    #[arg(long, value_name = "N", default_value_t = 1)]
    retries: usize,
    /// Stop everything at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Say only what went wrong, and where the report is
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Tell progress and outcome as one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let (sweep, plan) = args.sweep.plan()?;
    let output = args.output.open(&sweep.name).or_bad_input()?;
    let store = Store::open(&args.sweep.store).or_bad_input()?;
    let index = Index::of(&sweep, &plan)?;
    index.save(&store)?; // before anything is looked at: see there
    if plan.stages.iter().all(|stage| store.object(&stage.key).is_some()) {
        if !output.is_rendered(&index, &store) {
            output.render(&index, &store)?;
        }
        return nothing_to_do(args, &plan, &output);
    }

    let stop = Stop::default();
    let handler = stop.clone();
    let mut last: Option<Instant> = None;
    ctrlc::set_handler(move || {
        // `timeout` and some schedulers signal a process and its group at once: that is one request.
        if last.is_none_or(|last| last.elapsed() > SAME_REQUEST) {
            handler.request();
        }
        last = Some(Instant::now());
    })
    .context("cannot listen for Ctrl-C")?;
    let summary = execute(args, &plan, &store, &stop)?;
    if summary.interrupted && !summary.complete() {
        let done = summary.count(Outcome::is_finished);
        tell(&format!(
            "interrupted: {done} of {} are finished; run the same command again to go on",
            count(plan.stages.len(), "stage")
        ));
        return Ok(Ending::Interrupted);
    }
    output.render(&index, &store)?;
    conclude(args, &plan, &summary, &output)
}

fn execute(args: &Args, plan: &Plan, store: &Store, stop: &Stop) -> Result<Summary> {
    let all = || thread::available_parallelism().map_or(1, NonZero::get);
    let options = Options {
        workers: args.workers.get(),
        threads: args.threads.map_or_else(all, NonZero::get),
        fail_fast: args.fail_fast,
        retries: args.retries,
    };
    let style = match (args.json, args.quiet) {
        (true, _) => Style::Json,
        (_, true) => Style::Quiet,
        _ => Style::Auto,
    };
    let program = std::env::current_exe().context("cannot find this program itself, to start its stages")?;
    let mut executor = Local::new(program, store.clone());
    let mut reporter = progress::reporter(style);
    exec::run(plan, store, &mut executor, &mut *reporter, &options, stop)
}

fn nothing_to_do(args: &Args, plan: &Plan, output: &Output) -> Result<Ending> {
    let (points, stages) = (plan.points.len(), plan.stages.len());
    if args.json {
        say(&json!({"event": "nothing_to_do", "points": points, "stages": stages}).to_string())?;
    } else {
        say(&format!("nothing to do: {}, {} finished", count(points, "point"), count(stages, "stage")))?;
    }
    report_line(args, output)?;
    Ok(Ending::Done)
}

/// The last lines: what came out, and where it is.
fn conclude(args: &Args, plan: &Plan, summary: &Summary, output: &Output) -> Result<Ending> {
    let computed = summary.count(|outcome| matches!(outcome, Outcome::Done { .. }));
    let found = summary.count(|outcome| matches!(outcome, Outcome::Found));
    let holes = plan.points.len() - finished_points(plan, summary);
    if holes > 0 {
        let failed = summary.count(|outcome| matches!(outcome, Outcome::Failed { .. }));
        tell(&format!(
            "error: {holes} of {} have no result, because {} failed; the report shows the holes",
            count(plan.points.len(), "point"),
            count(failed, "stage"),
        ));
    } else if !args.json {
        say(&format!(
            "{}: {} done in {} ({} computed, {found} found)",
            plan.name,
            count(plan.points.len(), "point"),
            progress::time(summary.elapsed),
            count(computed, "stage"),
        ))?;
    }
    report_line(args, output)?;
    Ok(if summary.complete() { Ending::Done } else { Ending::Failed })
}

/// The points whose stages are all in the store.
fn finished_points(plan: &Plan, summary: &Summary) -> usize {
    let mut finished = vec![true; plan.points.len()];
    for (stage, outcome) in plan.stages.iter().zip(&summary.outcomes) {
        for &point in &stage.points {
            finished[point] &= outcome.is_finished();
        }
    }
    finished.into_iter().filter(|&finished| finished).count()
}

fn report_line(args: &Args, output: &Output) -> Result<()> {
    let page = output.page();
    if args.json {
        return say(&json!({"event": "report", "path": page}).to_string());
    }
    say(&format!("report: {}", page.display()))
}
