//! `sweep run FILE`.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::pipeline::{Output, OutputArgs, PartArgs, SweepArgs};
use super::progress::{self, Style};
use super::{Ending, OrBadInput as _, count, damage, say, seconds, tell};
use crate::exec::slurm::{Setting, Standing, standings};
use crate::exec::{
    self, Device, Devices, Executor, Inline, Local, Options, Outcome, Slurm, Stop, Summary, cores,
};
use crate::plan::Plan;
use crate::results::index::Index;
use crate::spec::cluster::{self, Cluster};
use crate::spec::settings::Settings;
use crate::stage::CHECKPOINT_EVERY;
use crate::store::Store;

/// Signals closer together than this are one request.
const SAME_REQUEST: Duration = Duration::from_millis(500);
/// How often the results are computed again that turn out to be damaged when they are read.
const REPAIRS: usize = 3;

/// Run what a sweep file asks for and is not finished yet, then write its tables, figures and report
///
/// Ctrl-C saves what runs and stops; a second one stops at once. Run the same command again to go on.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Where stages run: processes of this machine, or jobs of a Slurm cluster
    #[arg(long, value_name = "WHERE", value_enum, default_value = "local")]
    executor: Place,
    /// What jobs are asked for [default: cluster.yaml beside the sweep file, else ~/.config/sweep/cluster.yaml]
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Stages at once, each in a process of its own [default: one for each device]
    #[arg(long, value_name = "N")]
    workers: Option<NonZero<usize>>,
    /// Stages at once on each device
    #[arg(long, value_name = "N", conflicts_with = "workers")]
    per_device: Option<NonZero<usize>>,
    /// Hold each worker to cores of its own, as many as it has threads; for a machine that runs nothing else
    #[arg(long, conflicts_with = "in_process")]
    pin: bool,
    /// CPU threads in all, shared out between the workers [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Where to compute: cpu, cuda, a list like cuda:0,cuda:1, or auto
    #[arg(long, value_name = "DEVICES", default_value = "auto")]
    device: Devices,
    /// How often a stage is started again whose process died, or had too little memory (then alone)
    #[arg(long, value_name = "N", default_value_t = 1)]
    retries: usize,
    /// Train again what diverged in an earlier run
    #[arg(long)]
    retry_diverged: bool,
    /// Stop everything at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Begin with the points that have this setting, such as `method=mcsd` or `seed=0`; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    first: Vec<String>,
    /// Time between two checkpoints of long stages, such as 90, 30s, 5m [default: 60 s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    checkpoint_every: Option<Duration>,
    /// Compute in this process: for stages that take less time than a process needs to start. A crash ends the run
    #[arg(long)]
    in_process: bool,
    /// Say only what went wrong, and where the report is
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Tell progress and outcome as one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Where stages run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    Local,
    Slurm,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let cluster = cluster(args).or_bad_input()?;
    let planned = args.sweep.part(&args.part)?;
    // The report shows the whole sweep, also where a part of it is run.
    let (sweep, whole, plan) = (&planned.sweep, &planned.whole, planned.plan());
    let devices = match &cluster {
        Some(_) => vec![Device::Cpu], // its jobs know better
        None => args.device.resolve().or_bad_input()?,
    };
    if let Some(reason) = args.device.passed_over().filter(|_| cluster.is_none()) {
        tell(&reason);
    }
    let first = first(&args.first, plan).or_bad_input()?;
    let output = args.output.open(&sweep.name).or_bad_input()?;
    let store = Store::open(&args.sweep.store).or_bad_input()?;
    let index = Index::of(sweep, whole)?;
    index.save(&store)?; // before anything is looked at: see there
    tidy(&store, &output);
    let finished = plan.points.iter().all(|point| store.object(&point.evaluate).is_some());
    if finished && output.is_rendered(&index, &store) {
        return nothing_to_do(args, plan, &output);
    }

    let running = store.begin_run(&sweep.name, &args.sweep.file, plan.points.len(), plan.stages.len())?;
    let stop = Stop::with_file(running.stop_file());
    listen(&stop)?;
    let options = options(args, devices, first);
    let on_cluster = cluster.is_some();
    let job = Job { args, plan, store: &store, id: &running.record().id, cluster };
    let result = job.bring_to_end(&options, &stop);
    let summary = result?;
    let stopped = summary.interrupted && !summary.complete();
    let rendered = if stopped { Ok(()) } else { render(&output, &index, &store, &summary) };
    drop(running);
    tidy(&store, &output); // also of an engine that was killed before, whose workers may have lived until now
    if stopped {
        let done = summary.count(Outcome::is_finished);
        let finished = format!("{done} of {} are finished", count(plan.stages.len(), "stage"));
        let jobs: Vec<Standing> =
            standings(&store)?.into_iter().filter(|job| job.sweep == sweep.name && job.is_live()).collect();
        tell(&left(&finished, &jobs, &sweep.name));
        return Ok(Ending::Interrupted);
    }
    if options.fail_fast && on_cluster && !summary.complete() {
        let live = standings(&store)?.iter().filter(|job| job.sweep == sweep.name && job.is_live()).count();
        if live > 0 {
            let (jobs, name) = (count(live, "job"), &sweep.name);
            tell(&format!(
                "{jobs} could not be cancelled, for Slurm does not answer: `sweep cancel {name}` tries again"
            ));
        }
    }
    let nothing = summary.complete() && summary.count(|outcome| matches!(outcome, Outcome::Done { .. })) == 0;
    if nothing && rendered.is_ok() {
        return nothing_to_do(args, plan, &output);
    }
    // Whatever became of the report: what the run came to is said.
    conclude(args, plan, &summary)?;
    rendered.context("the report could not be written")?;
    report_line(args, &output)?;
    Ok(if summary.complete() { Ending::Done } else { Ending::Failed })
}

/// What is said when a run is left of which so much is finished.
fn left(finished: &str, jobs: &[Standing], name: &str) -> String {
    let (sent, unsent): (Vec<&Standing>, Vec<&Standing>) = jobs.iter().partition(|job| job.id.is_some());
    let those = |jobs: &[&Standing]| {
        let elements = jobs.iter().map(|job| job.elements - job.over).sum::<usize>();
        format!("{} in {}", count(elements, "element"), count(jobs.len(), "job"))
    };
    let mut text = if sent.is_empty() {
        format!("interrupted: {finished}; run the same command again to go on")
    } else {
        format!(
            "left: {finished}, and {} go on; run the same command again to watch and collect them, \
             `sweep status {name}` shows them, `sweep cancel {name}` cancels them",
            those(&sent)
        )
    };
    if !unsent.is_empty() {
        let those = those(&unsent);
        text = format!(
            "{text}\n{those} were not submitted yet, or Slurm has not confirmed them: only a run that stays submits them"
        );
    }
    text
}

/// Writes the frames and the report, unless another engine of the same sweep just did.
fn render(output: &Output, index: &Index, store: &Store, summary: &Summary) -> Result<()> {
    let _lock = store.lock_report(&index.head.name)?;
    if summary.complete() && output.is_rendered(index, store) {
        return Ok(());
    }
    output.render(index, store).map(drop)
}

/// Removes what killed processes left, once nobody else uses the store. What cannot be removed is in nobody's way.
fn tidy(store: &Store, output: &Output) {
    // Jobs on other machines may be at work where locks do not reach from one machine to another.
    let jobs = standings(store).is_ok_and(|jobs| jobs.iter().any(Standing::is_live));
    if !jobs && store.tidy().unwrap_or(false) {
        let _ = output.tidy();
    }
}

/// Has Ctrl-C and SIGTERM count as requests to stop.
fn listen(stop: &Stop) -> Result<()> {
    let handler = stop.clone();
    let mut last: Option<Instant> = None;
    ctrlc::set_handler(move || {
        // `timeout` and some schedulers signal a process and its group at once: that is one request.
        if last.is_none_or(|last| last.elapsed() > SAME_REQUEST) {
            handler.request();
        }
        last = Some(Instant::now());
    })
    .context("cannot listen for Ctrl-C")
}

fn options(args: &Args, devices: Vec<Device>, first: Vec<bool>) -> Options {
    let all = || thread::available_parallelism().map_or(1, NonZero::get);
    let on_all = args.per_device.map_or(1, NonZero::get) * devices.len();
    Options {
        workers: args.workers.map_or(on_all, NonZero::get),
        threads: args.threads.map_or_else(all, NonZero::get),
        devices,
        fail_fast: args.fail_fast,
        retries: args.retries,
        retry_diverged: args.retry_diverged,
        first,
    }
}

/// What the jobs of a cluster are asked for; none where stages run on this machine.
fn cluster(args: &Args) -> Result<Option<Cluster>> {
    if args.executor == Place::Local {
        match args.cluster {
            Some(_) => bail!("`--cluster` is for `--executor slurm`"),
            None => return Ok(None),
        }
    }
    let given = [
        ("--workers", args.workers.is_some(), "throttle"),
        ("--per-device", args.per_device.is_some(), "throttle"),
        ("--threads", args.threads.is_some(), "cpus"),
        ("--device", args.device != Devices::Auto, "device"),
        ("--pin", args.pin, "sbatch"),
        ("--in-process", args.in_process, "time"),
    ];
    if let Some((flag, _, key)) = given.iter().find(|(_, given, _)| *given) {
        bail!(
            "`{flag}` is about this machine; of jobs the key `{key}` of {} says such things",
            cluster::FILE
        );
    }
    let cluster = Cluster::find(args.cluster.as_deref(), &args.sweep.file)?;
    if cluster.file.is_none() {
        let place = cluster::FILE;
        tell(&format!(
            "note: there is no {place}: the cluster's defaults hold; `sweep init --cluster` writes one"
        ));
    }
    Ok(Some(cluster))
}

/// A run of a plan.
struct Job<'a> {
    args: &'a Args,
    plan: &'a Plan,
    store: &'a Store,
    /// The run's name in the store.
    id: &'a str,
    cluster: Option<Cluster>,
}

impl Job<'_> {
    /// Runs what is missing, and again where what the frames are made of turns out to be damaged.
    fn bring_to_end(&self, options: &Options, stop: &Stop) -> Result<Summary> {
        let mut summary = self.execute(options, stop)?;
        for _ in 0..REPAIRS {
            let damaged = if stop.requests() == 0 { damage::put_aside(self.plan, self.store)? } else { 0 };
            if damaged == 0 {
                break;
            }
            tell(&format!("{} of finished stages were damaged: computed again", count(damaged, "result")));
            let again = self.execute(options, stop)?;
            let outcomes = again.outcomes.into_iter().zip(summary.outcomes);
            // What was computed in the first round is found in the second.
            let outcomes = outcomes.map(|(new, old)| if new == Outcome::Found { old } else { new });
            summary =
                Summary { outcomes: outcomes.collect(), elapsed: summary.elapsed + again.elapsed, ..again };
        }
        Ok(summary)
    }

    fn execute(&self, options: &Options, stop: &Stop) -> Result<Summary> {
        let style = match (self.args.json, self.args.quiet) {
            (true, _) => Style::Json,
            (_, true) => Style::Quiet,
            _ => Style::Auto,
        };
        let mut executor = self.executor(options)?;
        let mut reporter = progress::recorded(progress::reporter(style), self.store, self.id);
        exec::run(self.plan, self.store, &mut *executor, &mut *reporter, options, stop)
    }

    fn executor(&self, options: &Options) -> Result<Box<dyn Executor>> {
        let every = self.args.checkpoint_every.unwrap_or(CHECKPOINT_EVERY);
        let store = self.store.clone();
        if self.args.in_process {
            // It is built already where the results were damaged and this is the second round.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
            return Ok(Box::new(Inline::new(store, Arc::new(crate::stage::run), every)));
        }
        let program =
            std::env::current_exe().context("cannot find this program itself, to start its stages")?;
        if let Some(cluster) = &self.cluster {
            let folder = std::env::current_dir().context("cannot tell in which folder this runs")?;
            let setting = Setting { program, folder, checkpoint_every: every };
            return Ok(Box::new(Slurm::new(store, cluster.clone(), &self.plan.name, setting)?));
        }
        let local = Local::new(program, store, every);
        Ok(Box::new(if self.args.pin { local.pinned(cores::allowed()) } else { local }))
    }
}

/// For each point, whether one of `wanted` is among its settings.
fn first(wanted: &[String], plan: &Plan) -> Result<Vec<bool>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut first = vec![false; plan.points.len()];
    for text in wanted {
        let Some((key, value)) = text.split_once('=') else {
            bail!("`--first {text}`: write KEY=VALUE, such as `--first seed=0`");
        };
        let pointer = format!("/{}", key.replace('.', "/"));
        let mut found = false;
        for (point, first) in plan.points.iter().zip(&mut first) {
            let settings: &Settings = &point.settings;
            let all = serde_json::to_value(settings).context("settings are no JSON")?;
            let equal = |found: &Value| {
                *found == *value || serde_json::from_str(value).is_ok_and(|v: Value| v == *found)
            };
            if all.pointer(&pointer).is_some_and(equal) {
                (*first, found) = (true, true);
            }
        }
        if !found {
            bail!("`--first {text}`: no point of the sweep has this setting; `sweep plan` shows them");
        }
    }
    Ok(first)
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

/// The last line but that about the report: what came out.
fn conclude(args: &Args, plan: &Plan, summary: &Summary) -> Result<()> {
    let computed = summary.count(Outcome::is_computed);
    let found = summary.count(Outcome::is_found);
    let holes = plan.points.len() - finished_points(plan, summary);
    if holes > 0 {
        let failed = summary.count(|outcome| matches!(outcome, Outcome::Failed { .. }));
        let full = "; the disk is full: free some space and run the same command again";
        tell(&format!(
            "error: {holes} of {} have no result, because {} failed; the report shows the holes{}",
            count(plan.points.len(), "point"),
            count(failed, "stage"),
            if summary.disk_full { full } else { "" },
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
    Ok(())
}

/// The points whose stages are all in the store, or not needed.
fn finished_points(plan: &Plan, summary: &Summary) -> usize {
    let mut finished = vec![true; plan.points.len()];
    for (stage, outcome) in plan.stages.iter().zip(&summary.outcomes) {
        for &point in &stage.points {
            finished[point] &= outcome.is_finished() || *outcome == Outcome::Unneeded;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::StageKind;

    #[test]
    fn leaving_tells_what_goes_on_from_what_still_waits_to_be_submitted() {
        let job = |id, elements, over| Standing {
            name: "sweep-tau-train-0".into(),
            id,
            sweep: "tau".into(),
            kind: StageKind::Train,
            elements,
            running: 0,
            over,
        };
        let text = left("3 of 9 stages are finished", &[job(Some(7), 4, 1), job(None, 5, 0)], "tau");
        assert!(text.contains("3 elements in 1 job go on") && text.contains("`sweep cancel tau`"), "{text}");
        assert!(text.contains("5 elements in 1 job were not submitted yet"), "{text}");
        assert!(text.contains("only a run that stays"), "{text}");
        let text = left("none is", &[job(Some(7), 4, 1)], "tau");
        assert!(!text.contains("not submitted"), "{text}");
        let text = left("none is", &[job(None, 1, 0)], "tau");
        assert!(text.starts_with("interrupted: ") && !text.contains("go on;"), "{text}");
        assert!(left("none is", &[], "tau").starts_with("interrupted: "));
    }
}
