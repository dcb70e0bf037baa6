//! `sweep`: from a YAML grid to a report. Everything is in [`mcsd_sweep::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    mcsd_sweep::cli::main()
}
