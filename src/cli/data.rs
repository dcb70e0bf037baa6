//! `sweep data`: data sets as they lie on a disk.

mod card;
mod sheet;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::table::table;
use super::{BadInput, Ending, OrBadInput as _, count, say, tell};
use crate::data::layout::{self, Layout};
use crate::data::survey::{self, Finding, Survey, Surveyed};
use crate::data::{self, Split};
use crate::spec::settings::{DataName, DataSettings};
use crate::store::files;

/// Look at data sets on disk, describe them, write a phantom as real files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sweep data check data/ACDC                          what is there and what is wrong, volume by volume
  sweep data check data/MnMs --sheet sheet.png        with a picture of every volume and its label
  sweep data card data/ACDC                           sizes, spacing, classes and split, as Markdown
  sweep data card data/liver --init                   writes dataset.yaml for a folder of one's own to start from
  sweep data phantom /tmp/mnms --layout mnms          the phantom as files in the form of M&Ms
  sweep data export data/MnMs out --layout ssl4mis    a set as others' training scripts read it, with the same split";

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(CheckArgs),
    Card(CardArgs),
    Phantom(PhantomArgs),
    Export(ExportArgs),
}

/// The data set that a command is about.
#[derive(Debug, clap::Args)]
struct RootArgs {
    /// The folder of the data set
    root: PathBuf,
    /// What it is; found out unless it is given
    #[arg(long = "as", value_name = "NAME", value_parser = ["acdc", "mnms", "own"])]
    name: Option<String>,
    /// Seed of the split, where no lists decide it: `data.seed` of a sweep
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Takes in patients without labels: `data.unlabelled` of a sweep
    #[arg(long)]
    unlabelled: bool,
}

impl RootArgs {
    fn settings(&self) -> Result<DataSettings> {
        let name = match self.name.as_deref() {
            Some("mnms") => DataName::Mnms,
            Some("own") => DataName::Own,
            Some(_) => DataName::Acdc,
            None => survey::detect(&self.root).or_bad_input()?,
        };
        let Self { root, seed, unlabelled, .. } = self;
        Ok(DataSettings { name, root: root.clone(), patients: 0, seed: *seed, unlabelled: *unlabelled })
    }

    fn survey(&self) -> Result<(DataSettings, Survey)> {
        let settings = self.settings()?;
        let survey = survey::survey(&settings, &progress).or_bad_input()?;
        Ok((settings, survey))
    }
}

/// Tells how far the reading is, where somebody looks.
#[expect(clippy::unnecessary_wraps, reason = "what is told may stop the work, and this never does")]
fn progress(done: usize, total: usize) -> Result<()> {
    if std::io::stderr().is_terminal() {
        eprint_line(&format!("read {done} of {total} files"), done == total);
    }
    Ok(())
}

/// Writes over the last line of standard error.
fn eprint_line(text: &str, last: bool) {
    use std::io::Write as _;
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "\r{text}{}", if last { "\n" } else { "" }); // nowhere is left to say that this failed
    let _ = out.flush();
}

/// Say what is in a data set and what is wrong with it, volume by volume
///
/// Reads every volume. The exit code is 2 where something keeps the set from being used.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    root: RootArgs,
    /// Draws a slice of every volume with its label into a PNG file
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Lists every volume, not only those with something to say
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Describe a data set in Markdown, or begin the card of one's own
#[derive(Debug, clap::Args)]
struct CardArgs {
    #[command(flatten)]
    root: RootArgs,
    /// Writes ROOT/dataset.yaml, to be completed: classes, file names, split
    #[arg(long)]
    init: bool,
    /// Writes the description to a file
    #[arg(long, value_name = "FILE", conflicts_with = "init")]
    output: Option<PathBuf>,
}

/// Write the generated phantom as the files of a real data set
#[derive(Debug, clap::Args)]
struct PhantomArgs {
    /// The folder to write, empty or absent
    out: PathBuf,
    /// The form
    #[arg(long, value_name = "LAYOUT", value_parser = layout_of)]
    layout: Layout,
    /// Patients, 10 to 2000
    #[arg(long, value_name = "N", default_value_t = 20)]
    patients: usize,
    /// Seed of the phantom
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Write a data set in another form: checked, intensities in [0, 1], with its split
#[derive(Debug, clap::Args)]
struct ExportArgs {
    #[command(flatten)]
    root: RootArgs,
    /// The folder to write, empty or absent
    out: PathBuf,
    /// The form: ssl4mis and ssl4mis-slices (HDF5) for training scripts of others, own (NIfTI with a card)
    #[arg(long, value_name = "LAYOUT", value_parser = layout_of, default_value = "ssl4mis")]
    layout: Layout,
}

fn layout_of(text: &str) -> Result<Layout, String> {
    let known = Layout::ALL.into_iter().find(|layout| layout.name() == text);
    known.ok_or_else(|| format!("layouts are {}", Layout::ALL.map(Layout::name).join(", ")))
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<Ending> {
    match &args.command {
        Command::Check(args) => check(args),
        Command::Card(args) => describe(args),
        Command::Phantom(args) => phantom(args),
        Command::Export(args) => export(args),
    }
}

fn check(args: &CheckArgs) -> Result<Ending> {
    let (settings, survey) = args.root.survey()?;
    if args.json {
        say(&serde_json::to_string_pretty(&value(&survey))?)?;
    } else {
        say(&shown(&survey, &args.root.root, args.all))?;
    }
    if let Some(path) = &args.sheet {
        let png = sheet::draw(&survey).with_context(|| format!("cannot draw {}", path.display()))?;
        files::write_atomic(path, png)?;
        tell(&format!("drew {}", path.display()));
    }
    let wrong = survey.problems.len() + survey.cases.iter().filter(|case| case.found.is_err()).count();
    if wrong == 0 {
        let (name, root) = (settings.name.name(), args.root.root.display());
        if !args.json {
            say(&format!(
                "\nNothing is wrong: `data: {{ name: {name}, root: {root} }}` in a sweep file reads it."
            ))?;
        }
        return Ok(Ending::Done);
    }
    Err(BadInput(anyhow::anyhow!("{} in {}", count(wrong, "problem"), args.root.root.display())).into())
}

/// The report of a check.
fn shown(survey: &Survey, root: &Path, all: bool) -> String {
    let mut text = format!("{}: {}\nsplit: {}", root.display(), survey.form, survey.rule);
    text.push_str("\n\n");
    text.push_str(&table(&SPLIT_HEAD, &split_rows(survey), 0));
    let mut rows = Vec::new();
    for case in &survey.cases {
        let (size, remarks) = match &case.found {
            Ok(found) => (size(found), found.remarks.join("; ")),
            Err(error) => (String::new(), format!("WRONG: {}", error.replace('\n', " "))),
        };
        if all || !remarks.is_empty() {
            rows.push(vec![case.name.clone(), case.split.name().to_owned(), size, remarks]);
        }
    }
    if !rows.is_empty() {
        let title = if all { "Volumes" } else { "Volumes with something to say (--all lists every one)" };
        let _ = write!(text, "\n\n{title}\n");
        text.push_str(&table(&["volume", "split", "slices × rows × columns", ""], &rows, 2));
    }
    for (title, lines) in [("Worth knowing", &survey.notes), ("Wrong", &survey.problems)] {
        if !lines.is_empty() {
            let _ = write!(text, "\n\n{title}");
            for line in lines {
                let _ = write!(text, "\n  - {line}");
            }
        }
    }
    text
}

fn size(found: &Finding) -> String {
    found.shape.map(|n| n.to_string()).join(" × ")
}

const SPLIT_HEAD: [&str; 7] =
    ["split", "patients", "volumes", "without labels", "slices", "without structures", "unreadable"];

/// A row for each split, and one for all.
fn split_rows(survey: &Survey) -> Vec<Vec<String>> {
    let row = |name: &str, of: &dyn Fn(&Surveyed) -> bool| {
        let cases: Vec<&Surveyed> = survey.cases.iter().filter(|case| of(case)).collect();
        let patients: std::collections::BTreeSet<&str> =
            cases.iter().map(|case| case.patient.as_str()).collect();
        let found: Vec<&Finding> = cases.iter().filter_map(|case| case.found.as_ref().ok()).collect();
        let sum = |what: &dyn Fn(&Finding) -> usize| found.iter().map(|found| what(found)).sum::<usize>();
        let numbers = [
            patients.len(),
            cases.len(),
            sum(&|found| usize::from(!found.labelled)),
            sum(&|found| found.shape[0]),
            sum(&|found| if found.labelled { found.empty_slices } else { 0 }),
            cases.len() - found.len(),
        ];
        std::iter::once(name.to_owned()).chain(numbers.map(|n| n.to_string())).collect()
    };
    let mut rows: Vec<Vec<String>> =
        Split::ALL.iter().map(|&split| row(split.name(), &move |case| case.split == split)).collect();
    rows.push(row("all", &|_| true));
    rows
}

/// The survey as JSON, without pictures.
fn value(survey: &Survey) -> Value {
    let case = |case: &Surveyed| {
        let mut value = json!({
            "name": case.name, "patient": case.patient, "split": case.split, "group": case.group,
        });
        let more = match &case.found {
            Ok(found) => json!({
                "shape": found.shape, "spacing": found.spacing, "range": found.range, "labelled": found.labelled,
                "voxels": found.voxels, "empty_slices": found.empty_slices, "remarks": found.remarks,
            }),
            Err(error) => json!({ "error": error }),
        };
        if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        value
    };
    json!({
        "form": survey.form,
        "split": survey.rule,
        "content": survey.content,
        "classes": survey.classes,
        "problems": survey.problems,
        "notes": survey.notes,
        "cases": survey.cases.iter().map(case).collect::<Vec<_>>(),
    })
}

fn describe(args: &CardArgs) -> Result<Ending> {
    if args.init {
        let text = survey::first_card(&args.root.root).or_bad_input()?;
        let path = args.root.root.join("dataset.yaml");
        files::write_atomic(&path, text)?;
        tell(&format!(
            "wrote {}: complete it, then `sweep data check {}`",
            path.display(),
            args.root.root.display()
        ));
        return Ok(Ending::Done);
    }
    let (settings, survey) = args.root.survey()?;
    let text = card::markdown(&settings, &survey);
    match &args.output {
        Some(path) => files::write_atomic(path, format!("{text}\n"))?,
        None => say(&text)?,
    }
    let unreadable = survey.cases.iter().filter(|case| case.found.is_err()).count();
    if survey.problems.len() + unreadable > 0 {
        let wrong = anyhow::anyhow!(
            "{} in {}: `sweep data check` names them",
            count(survey.problems.len() + unreadable, "problem"),
            args.root.root.display()
        );
        return Err(BadInput(wrong).into());
    }
    Ok(Ending::Done)
}

fn phantom(args: &PhantomArgs) -> Result<Ending> {
    layout::write_phantom(args.layout, args.patients, args.seed, &args.out).or_bad_input()?;
    say(&format!(
        "wrote {} of the phantom to {} as {}: `data: {{ name: {}, root: {} }}` in a sweep file reads it",
        count(args.patients, "patient"),
        args.out.display(),
        args.layout.name(),
        args.layout.data_name().name(),
        args.out.display()
    ))?;
    Ok(Ending::Done)
}

fn export(args: &ExportArgs) -> Result<Ending> {
    let settings = args.root.settings()?;
    let data = data::prepare(&settings, &progress).or_bad_input()?;
    layout::export(&data, args.layout, &args.out).or_bad_input()?;
    say(&format!(
        "wrote {} of {} to {} as {}, with the lists of its split",
        count(data.cases().len(), "volume"),
        args.root.root.display(),
        args.out.display(),
        args.layout.name()
    ))?;
    Ok(Ending::Done)
}
