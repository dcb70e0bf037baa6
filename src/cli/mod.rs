//! The command line: one file per command. The only part that prints.
//!
//! Exit codes: 0 all done, 1 some points failed, 2 the input is wrong, 130 interrupted.

mod bench;
mod cancel;
mod compare;
mod completions;
mod damage;
mod doctor;
mod gc;
mod init;
mod logs;
mod lookup;
mod methods;
mod pipeline;
mod plan;
mod plot;
mod progress;
mod provenance;
mod query;
mod report;
mod rerun;
mod run;
mod schema;
mod stage;
mod status;
mod table;
mod tables;
mod why;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::spec::Diagnostics;

/// YAML grids over semi-supervised segmentation of cardiac MR, from the data to tables and figures
///
/// A sweep file names settings and the values to try. `sweep run` turns it into points, the points into stages that
/// are shared wherever they are equal, runs what is not finished yet, and writes tables, figures and a report. What is
/// finished stays finished: running the same command again is the recovery from everything.
#[derive(Debug, Parser)]
#[command(name = "sweep", version, long_version = env!("SWEEP_VERSION"), after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sweep run quickstart                       run sweeps/quickstart.yaml on generated data
  sweep plan ablation.yaml                   what would run, what is shared, what is done
  sweep run ablation.yaml --set seed=0       one value of an axis only
  sweep run ablation.yaml --set data.name=acdc --set data.root=data/ACDC
  sweep why ablation.yaml 'seed=0 dic=true'  which stages of a point would run, and what makes them new
  sweep status                               how far all sweeps are
  sweep status ablation --watch              one of them, with what failed and the time left

Exit codes: 0 all done, 1 some points failed, 2 the input is wrong, 130 interrupted";

/// Of every command.
const EXIT_CODES: &str =
    "Exit codes: 0 all done, 1 some points failed, 2 the input is wrong, 130 interrupted";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Plan(plan::Args),
    Why(why::Args),
    Status(status::Args),
    Logs(logs::Args),
    Cancel(cancel::Args),
    Report(report::Args),
    Tables(tables::Args),
    Plot(plot::Args),
    Query(query::Args),
    Compare(compare::Args),
    Methods(methods::Args),
    Rerun(rerun::Args),
    Gc(gc::Args),
    Doctor(doctor::Args),
    Schema(schema::Args),
    Init(init::Args),
    Stage(stage::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(completions::ManArgs),
}

/// The arguments of all commands, each with what its exit codes mean.
fn definition() -> clap::Command {
    Cli::command().mut_subcommands(|command| match command.get_after_help() {
        None => command.after_help(EXIT_CODES),
        Some(own) => {
            let own = format!("{own}\n\n{EXIT_CODES}");
            command.after_help(own)
        }
    })
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    Failed,
    BadInput,
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Done => 0,
            Ending::Failed => 1,
            Ending::BadInput => 2,
            Ending::Interrupted => crate::exec::INTERRUPTED,
        })
    }
}

/// What is wrong with what a person gave; found before any work.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct BadInput(anyhow::Error);

/// Marks errors as the input's.
trait OrBadInput<T> {
    fn or_bad_input(self) -> Result<T>;
}

impl<T> OrBadInput<T> for Result<T> {
    fn or_bad_input(self) -> Result<T> {
        self.map_err(|error| BadInput(error).into())
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match definition().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // where even this cannot be printed, the exit code is left
            return ExitCode::from(error.exit_code().clamp(0, 255) as u8);
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Tables(args) => tables::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Methods(args) => methods::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Cancel(args) => cancel::run(&args),
        Command::Rerun(args) => rerun::run(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => completions::man(&args),
        Command::Stage(args) => Ok(stage::run(&args)),
        Command::Bench(args) => bench::run(&args),
    };
    result.unwrap_or_else(|error| explain(&error)).into()
}

/// Prints an error with its causes.
fn explain(error: &anyhow::Error) -> Ending {
    let (error, ending) = match error.downcast_ref::<BadInput>() {
        Some(BadInput(error)) => (error, Ending::BadInput),
        None => (error, Ending::Failed),
    };
    if let Some(diagnostics) = error.downcast_ref::<Diagnostics>() {
        tell(&diagnostics.to_string()); // says `error: …` of each itself
    } else {
        tell(&format!("error: {}", with_causes(error)));
    }
    ending
}

/// An error and, on a line each, its causes.
fn with_causes(error: &anyhow::Error) -> String {
    let texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    texts.join("\n  because: ")
}

/// Prints results, on standard output. A reader that has gone (`| head`) is no error.
fn say(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))
        }
        _ => Ok(()),
    }
}

/// Prints what is not a result, on standard error.
fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}"); // nowhere is left to say that this failed
}

/// A time as it is written in an argument: `90`, `30s`, `5m`, `1.5h`.
fn seconds(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        number if number.len() == text.trim().len() => (number, ""),
        number => (number, &text.trim()[number.len()..]),
    };
    let factor = match unit {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time: write s, m or h")),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| format!("`{number}` is no number"))? * factor;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is no time to wait"))
}

/// `1 point`, `2 points`.
fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_all_commands_hold() {
        definition().debug_assert();
    }

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        for (text, wanted) in [("90", 90.0), ("0.5", 0.5), ("30s", 30.0), ("5m", 300.0), ("1.5 h", 5400.0)] {
            assert_eq!(seconds(text), Ok(Duration::from_secs_f64(wanted)), "{text}");
        }
        for wrong in ["", "s", "5 days", "-1", "1e400"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn causes_follow_an_error_line_by_line() {
        let error =
            anyhow::anyhow!("No such file").context("cannot read slices/a.h5").context("data set `acdc`");
        let text = with_causes(&error);
        assert_eq!(text, "data set `acdc`\n  because: cannot read slices/a.h5\n  because: No such file");
    }
}
