//! `sweep completions SHELL` and `sweep man [DIR]`: both come from the definitions of the arguments.

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use super::{Ending, OrBadInput as _, count, say};
use crate::store::files;

/// Write completions for a shell: `source <(sweep completions bash)`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// Write the manual pages, from which `man` shows what `--help` says
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder that gets a page for each command, such as ~/.local/share/man/man1 [default: the main page goes to
    /// standard output]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::definition(), "sweep", &mut script);
    print(&script)
}

pub(super) fn man(args: &ManArgs) -> Result<Ending> {
    let pages = pages().context("cannot lay out a manual page")?;
    let Some(dir) = &args.dir else { return print(&pages[0].1) };
    files::check_writable(dir).or_bad_input()?;
    for (name, page) in &pages {
        files::write_atomic(dir.join(name), page)?;
    }
    say(&format!("{} in {}", count(pages.len(), "page"), dir.display()))?;
    Ok(Ending::Done)
}

/// The pages by their files' names: the program's own, and one for each command.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = super::definition();
    program.build();
    // Built, a command knows its whole name: `sweep-run`.
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let rendered = [program.clone()].into_iter().chain(commands).map(|command| {
        let page = clap_mangen::Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text)?;
        Ok((page.get_filename(), text))
    });
    rendered.collect()
}

fn print(bytes: &[u8]) -> Result<Ending> {
    say(String::from_utf8_lossy(bytes).trim_end())?;
    Ok(Ending::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_with_its_options() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["sweep.1", "sweep-run.1", "sweep-status.1", "sweep-gc.1"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let status = pages.iter().find(|(name, _)| name == "sweep-status.1").unwrap();
        let text = String::from_utf8_lossy(&status.1);
        assert!(text.contains("\\-\\-watch") && text.contains("130 interrupted"), "{text}");
    }
}
