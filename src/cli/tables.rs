//! `sweep tables [NAME…]`.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::lookup::StoreArgs;
use super::pipeline::{Declared, Output, OutputArgs};
use super::table::{bytes, table};
use super::{Ending, OrBadInput as _, count, say, tell};
use crate::report::{Evidence, Stale, Tables};
use crate::results;
use crate::spec::{self, nearest};
use crate::store::Store;
use crate::store::key::Key;

/// Compute tables anew from the frames: Markdown, LaTeX, CSV and HTML
///
/// Needs the frames in results/NAME and nothing else. What the tables show is declared in the sweep file (`report.tables`) and
/// kept beside the frames; a NAME that ends in .yaml is a sweep file whose declarations replace those.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folders under results/, or sweep files; all that have frames where none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Write nothing: fail where a file under reports/ does not follow from its frames, byte for byte
    #[arg(long, conflicts_with = "print")]
    check: bool,
    /// Write nothing: print the tables in this format
    #[arg(long, value_name = "FORMAT", value_parser = ["md", "tex", "csv", "html"])]
    print: Option<String>,
    /// Write nothing: show what a cell stands on: its points, their stages, checkpoints and how they came to be. A cell is
    /// TABLE.ROW.METRIC; the row is a number or values of its axes: `by_dfm_dic.4.dice`, `dfm=true dic=true.hd95`
    #[arg(long, value_name = "CELL", conflicts_with_all = ["check", "print"])]
    why: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// One sweep that tables are computed of.
struct Job {
    name: String,
    output: Output,
    declared: Declared,
    /// Whether the declarations are a sweep file's.
    of_file: bool,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let names = if args.names.is_empty() { args.output.names() } else { args.names.clone() };
    if names.is_empty() {
        return Err(anyhow!("there are no frames here: run a sweep, or name their folder with --results"))
            .or_bad_input();
    }
    if args.why.is_some() && names.len() > 1 {
        return Err(anyhow!("--why is about one sweep: name it ({})", names.join(", "))).or_bad_input();
    }
    let mut ending = Ending::Done;
    for name in &names {
        let job = job(args, name).or_bad_input()?;
        let frames = results::read_tables(&job.output.results)?;
        let tables = Tables::new(&frames, &job.declared.report)
            .with_context(|| format!("cannot build the tables of `{}`", job.name))
            .or_bad_input()?;
        if let Some(format) = &args.print {
            say(tables.texts(format).join("\n").trim_end())?;
        } else if let Some(cell) = &args.why {
            let evidence = tables.evidence(cell).or_bad_input()?;
            say(&shown(&evidence, &args.store.at(), &job.output.results))?;
        } else if args.check {
            if !check(&job, &tables)? {
                ending = Ending::Failed;
            }
        } else {
            if job.of_file {
                job.declared.write(&job.output.results)?;
            }
            let written = tables.write(&job.output.report)?;
            say(&written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(ending)
}

/// Finds what `named` means: a sweep file, or a folder of frames.
fn job(args: &Args, named: &str) -> Result<Job> {
    let is_file = Path::new(named).extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let (name, declared) = if is_file {
        let sweep = spec::load(Path::new(named), &[]).map_err(anyhow::Error::new)?;
        (sweep.name.clone(), Some(Declared::of(&sweep.description, &sweep.report)))
    } else {
        (named.to_owned(), None)
    };
    let output = args.output.at(&name);
    if !output.has_frames() {
        let known = args.output.names();
        let help = match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there are none: run a sweep first".to_owned(),
            None => format!("there are frames of {}", super::lookup::list(&known)),
        };
        bail!("{} holds no frames; {help}", output.results.display());
    }
    let of_file = declared.is_some();
    let declared = declared.map_or_else(|| output.declared(), Ok)?;
    Ok(Job { name, output, declared, of_file })
}

/// Says what does not follow from the frames; whether all does.
fn check(job: &Job, tables: &Tables) -> Result<bool> {
    let (fine, stale) = tables.check(&job.output.report);
    for stale in &stale {
        tell(&match stale {
            Stale::Missing(path) => format!("error: {} is not there", path.display()),
            Stale::Differs(path, line) => {
                format!("error: {} does not follow from the frames: line {line} differs", path.display())
            }
            Stale::Superfluous(path) => format!("error: {} is of no table of the sweep", path.display()),
        });
    }
    if stale.is_empty() {
        say(&format!("{}: {} from the frames", job.name, follow(fine)))?;
    } else {
        tell(&format!(
            "{}: {}, {} not: `sweep tables {}` writes them anew",
            job.name,
            follow(fine),
            stale.len(),
            job.name
        ));
    }
    Ok(stale.is_empty())
}

fn follow(files: usize) -> String {
    format!("{} follow{}", count(files, "file"), if files == 1 { "s" } else { "" })
}

/// The evidence as text: points, then each of their stages once, with what is known of it.
fn shown(evidence: &Evidence, store: &Store, results: &Path) -> String {
    let mut out = format!("{}\n", evidence.cell);
    if !evidence.says.is_empty() {
        let _ = writeln!(out, "{}", evidence.says);
    }
    let rows: Vec<Vec<String>> = evidence
        .points
        .iter()
        .map(|point| {
            let axes: Vec<String> = point
                .axes
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(axis, value)| format!("{axis}={value}"))
                .collect();
            let value = point.value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            let best = point.best_step.map_or("–".to_owned(), |step| step.to_string());
            let keys = [&point.train_key, &point.evaluate_key].map(|key| short(key));
            let [train, evaluate] = keys;
            vec![point.id.clone(), point.status.clone(), value, best, train, evaluate, axes.join(" ")]
        })
        .collect();
    let head = ["point", "status", "value", "best step", "training", "evaluation", "axes"];
    let _ = write!(out, "\n{}\n", table(&head, &rows, 0));
    for point in &evidence.points {
        if let Some(error) = &point.error {
            let _ = writeln!(out, "\n{} failed: {error}", point.id);
        }
    }
    let stages = provenance(results);
    let mut seen = HashSet::new();
    let mut next: Vec<String> = evidence
        .points
        .iter()
        .flat_map(|point| [point.evaluate_key.clone(), point.train_key.clone()])
        .rev()
        .collect();
    while let Some(key) = next.pop() {
        if seen.insert(key.clone()) {
            let stage = stages.get(&key);
            let _ = write!(out, "\n{}", stage_text(&key, stage, store));
            let parents = stage.and_then(|stage| stage["parents"].as_array()).into_iter().flatten();
            let keys = parents.filter_map(|parent| parent["key"].as_str().map(String::from));
            next.splice(0..0, keys);
        }
    }
    let from = results.join("provenance.jsonl");
    let _ = if stages.is_empty() {
        writeln!(out, "\nthere is no {}: how the stages came to be is not known here", from.display())
    } else {
        writeln!(out, "\nthe settings of each stage: {}", from.display())
    };
    out.trim_end().to_owned()
}

fn short(key: &str) -> String {
    key.get(..8).unwrap_or(key).to_owned()
}

/// What `provenance.jsonl` says of each stage.
fn provenance(results: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(results.join("provenance.jsonl")).unwrap_or_default();
    let stages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    stages.filter_map(|stage| Some((stage["key"].as_str()?.to_owned(), stage))).collect()
}

/// A stage: what it is, how it came to be, and where its files lie.
fn stage_text(key: &str, stage: Option<&Value>, store: &Store) -> String {
    let text = |value: &Value| value.as_str().map(String::from);
    let label = stage.and_then(|stage| text(&stage["label"])).unwrap_or_else(|| "a stage".to_owned());
    let mut out = format!("{label}  {key}\n");
    if let Some(stage) = stage {
        let made = &stage["provenance"];
        let mut said = Vec::new();
        said.extend(text(&made["end"]).map(|end| format!("finished {end}")));
        said.extend(stage["seconds"].as_f64().map(|seconds| format!("{seconds:.1} s of work")));
        said.extend(text(&made["device"]).map(|device| format!("on {device}")));
        said.extend(text(&made["commit"]).map(|commit| format!("commit {commit}")));
        let _ = writeln!(out, "  {}", said.join(", "));
    }
    let parsed = key.parse::<Key>().ok();
    match parsed.and_then(|key| Some((store.object(&key)?, store.meta(&key)?))) {
        Some((folder, meta)) => {
            let weights = meta.files.iter().filter(|file| file.path.ends_with(".safetensors"));
            let names: Vec<String> =
                weights.map(|file| format!("{} ({})", file.path, bytes(file.bytes))).collect();
            let _ = writeln!(out, "  {}", folder.display());
            if !names.is_empty() {
                let _ = writeln!(out, "  checkpoints {}", names.join(", "));
            }
        }
        None => {
            let _ = writeln!(out, "  not in the store {}", store.root().display());
        }
    }
    out
}
