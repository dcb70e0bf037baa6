//! `sweep doctor`.

use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Result;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::lookup::StoreArgs;
use super::table::bytes;
use super::{Ending, count, say};
use crate::ops::gpus;
use crate::ops::simd::{self, Level};
use crate::results::index::{self, Index};
use crate::stage::StageKind;
use crate::store::provenance::{COMMIT, driver, processor};
use crate::store::{Store, files};

/// Less free space than this is worth a warning.
const LITTLE_SPACE: u64 = 5 << 30;
/// With less than this nothing should be started.
const NO_SPACE: u64 = 256 << 20;
/// Less free memory than this is worth a warning.
const LITTLE_MEMORY: u64 = 2 << 30;
/// Things named of a longer list.
const SHOWN: usize = 5;

/// Look at the machine, the program and the store, and say what is wrong and what to do about it
///
/// Ends with 1 where something is broken; a warning is none.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also read every file of the store and compare it with the hash that it was published with
    #[arg(long)]
    verify: bool,
    /// Write one JSON object instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Fine,
    Warning,
    Broken,
}

/// Something that was looked at.
#[derive(Clone, Debug)]
struct Check {
    name: &'static str,
    level: Health,
    found: String,
    /// What to do, where it is not fine.
    remedy: Option<String>,
}

impl Check {
    fn fine(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Health::Fine, found: found.into(), remedy: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level: Health::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn broken(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level: Health::Broken, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let store = args.store.at();
    let mut checks = vec![program(), libraries(), processor_check(), threads()];
    checks.extend(memory());
    checks.push(accelerator());
    checks.extend(disk(store.root()));
    checks.push(writable(store.root()));
    if store.root().is_dir() {
        checks.extend(sweeps(&store)?);
        checks.extend(objects(&store, args.verify)?);
        checks.extend(leftovers(&store)?);
    }
    say(&if args.json { object(&checks).to_string() } else { text(&checks) })?;
    let broken = checks.iter().any(|check| check.level == Health::Broken);
    Ok(if broken { Ending::Failed } else { Ending::Done })
}

fn program() -> Check {
    let version = env!("CARGO_PKG_VERSION");
    Check::fine(
        "program",
        match COMMIT {
            Some(commit) if commit.ends_with('+') => {
                format!("sweep {version}, commit {} with changes", commit.trim_end_matches('+'))
            }
            Some(commit) => format!("sweep {version}, commit {commit}"),
            None => format!("sweep {version}, built without git"),
        },
    )
}

fn libraries() -> Check {
    Check::fine("libraries", env!("SWEEP_LIBRARIES"))
}

fn processor_check() -> Check {
    let name = processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let best = simd::available().into_iter().max().unwrap_or(Level::Portable);
    let used = simd::level();
    let text = |level| match level {
        Level::Portable => "no vector instructions beyond the basic ones",
        Level::Avx2 => "AVX2",
        Level::Avx512 => "AVX-512",
    };
    let found = format!("{name}; uses {}", text(used));
    if used < best {
        let remedy = format!("unset SWEEP_SIMD to use {}", text(best));
        return Check::warning("processor", found, remedy);
    }
    if used == Level::Portable && cfg!(target_arch = "x86_64") {
        return Check::warning("processor", found, "training is several times slower than with AVX2");
    }
    Check::fine("processor", found)
}

fn threads() -> Check {
    let all = thread::available_parallelism().map_or(1, NonZero::get);
    match std::env::var("RAYON_NUM_THREADS").ok() {
        Some(wanted) if wanted != all.to_string() => Check::warning(
            "threads",
            format!("{all}, and RAYON_NUM_THREADS={wanted}"),
            "unset RAYON_NUM_THREADS; `sweep run --threads N` shares N out",
        ),
        _ => Check::fine("threads", all.to_string()),
    }
}

fn memory() -> Option<Check> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
    };
    let (all, free) = (field("MemTotal:")?, field("MemAvailable:")?);
    let found = format!("{} free of {}", bytes(free), bytes(all));
    Some(if free < LITTLE_MEMORY {
        Check::warning("memory", found, "run fewer stages at once (--workers), or end other programs")
    } else {
        Check::fine("memory", found)
    })
}

/// What stages can compute on.
fn accelerator() -> Check {
    match (gpus(), driver()) {
        (Ok(found), driver) => {
            let all: Vec<String> =
                found.iter().enumerate().map(|(number, name)| format!("cuda:{number} ({name})")).collect();
            let driver = driver.map_or_else(String::new, |driver| format!("; {driver}"));
            Check::fine("devices", format!("cpu, {}{driver}", all.join(", ")))
        }
        // A GPU that lies idle is worth a word; a machine without one is as it should be.
        (Err(error), Some(driver)) => {
            Check::warning("devices", format!("cpu; there is a GPU ({driver})"), format!("{error:#}"))
        }
        (Err(_), None) => Check::fine("devices", "cpu"),
    }
}

/// The nearest folder at or above `path` that exists.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|path| path.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

fn disk(root: &Path) -> Option<Check> {
    let place = existing(root);
    let (free, all) = (fs4::available_space(&place).ok()?, fs4::total_space(&place).ok()?);
    let found = format!("{} free of {} at {}", bytes(free), bytes(all), place.display());
    let remedy = "`sweep gc --dry-run` shows what could go; --store names another disk";
    Some(match free {
        0..NO_SPACE => Check::broken("disk", found, remedy),
        NO_SPACE..LITTLE_SPACE => Check::warning("disk", found, remedy),
        _ => Check::fine("disk", found),
    })
}

fn writable(root: &Path) -> Check {
    let place = root.display();
    if !root.is_dir() {
        return Check::fine("store", format!("{place}: not there yet; `sweep run` makes it"));
    }
    match files::check_writable(root) {
        Ok(()) => Check::fine("store", format!("{place}: writable")),
        Err(error) => {
            Check::broken("store", error.to_string(), "make it writable, or name another one with --store")
        }
    }
}

/// What the store knows of sweeps, and whether their data are where they were.
fn sweeps(store: &Store) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let names = index::names(store)?;
    for name in &names {
        let index = match Index::read(store, name) {
            Ok(Some(index)) => index,
            Ok(None) => continue,
            Err(error) => {
                let remedy = format!("run the sweep again, or remove {}", index::path(store, name).display());
                checks.push(Check::broken("sweep", format!("{error:#}"), remedy));
                continue;
            }
        };
        for stage in index.stages().iter().filter(|stage| stage.kind == StageKind::Prepare) {
            let Ok(stored) = store.spec(&stage.key) else { continue };
            let root = stored.spec.local.get("root").and_then(Value::as_str).unwrap_or_default();
            if root.is_empty() || Path::new(root).is_dir() {
                continue;
            }
            let found = format!("{name}: its data folder {root} is not there");
            checks.push(if store.object(&stage.key).is_some() {
                Check::fine("data", format!("{found}; it is prepared, and not needed again"))
            } else {
                Check::warning("data", found, "mount it, or name where it is with --set data.root=FOLDER")
            });
        }
    }
    checks.insert(0, Check::fine("sweeps", if names.is_empty() { "none".into() } else { names.join(", ") }));
    Ok(checks)
}

fn objects(store: &Store, verify: bool) -> Result<Vec<Check>> {
    let inventory = store.inventory()?;
    let keys: Vec<_> = inventory.keys().collect();
    let found = count(keys.len(), "finished stage");
    if !verify {
        return Ok(vec![Check::fine("objects", format!("{found} (--verify reads and compares all files)"))]);
    }
    let results: Vec<_> =
        keys.par_iter().map(|key| Ok((key, store.verify(key, |_| true)?))).collect::<Result<_>>()?;
    let damaged: Vec<String> = results
        .iter()
        .filter_map(|(key, verified)| {
            let damage = verified.as_ref().err()?;
            Some(format!("{key}: {damage}"))
        })
        .collect();
    if damaged.is_empty() {
        let size: u64 =
            results.iter().filter_map(|(_, meta)| meta.as_ref().ok()).map(super::provenance::size).sum();
        return Ok(vec![Check::fine("objects", format!("{found}, {} read, all as published", bytes(size)))]);
    }
    let more = damaged.len().saturating_sub(SHOWN);
    let mut text =
        format!("{} of {found} damaged: {}", damaged.len(), damaged[..damaged.len().min(SHOWN)].join("; "));
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    let remedy = format!(
        "remove their folders under {} and run the sweeps again, which computes them anew",
        store.root().join("objects").display()
    );
    Ok(vec![Check::broken("objects", text, remedy)])
}

/// What failed, and what is left over.
fn leftovers(store: &Store) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let inventory = store.inventory()?;
    let failed = store.failed()?.into_iter().filter(|key| !inventory.has(key)).count();
    if failed > 0 {
        let found = format!("{} failed at the last try", count(failed, "stage"));
        checks.push(Check::warning("failures", found, "`sweep status` shows why; `sweep run` tries again"));
    }
    let entries = |name: &str| fs::read_dir(store.root().join(name)).into_iter().flatten().flatten().count();
    let aside = entries("quarantine");
    if aside > 0 {
        let found = format!("{} found damaged and put aside", count(aside, "object"));
        checks.push(Check::warning(
            "quarantine",
            found,
            "look at the disk's health; `sweep gc` removes them",
        ));
    }
    let (work, held) = (entries("tmp"), store.held()?.len());
    if work > held {
        let found = format!("{} left by runs that were stopped", count(work - held, "work folder"));
        checks.push(Check::fine("work", format!("{found}; the next run goes on from there")));
    }
    Ok(checks)
}

fn text(checks: &[Check]) -> String {
    let lines = checks.iter().map(|check| {
        let mark = match check.level {
            Health::Fine => "ok     ",
            Health::Warning => "warning",
            Health::Broken => "BROKEN ",
        };
        let remedy = check.remedy.as_ref().map(|remedy| format!("\n{:21}→ {remedy}", "")).unwrap_or_default();
        format!("{mark}  {:10}  {}{remedy}", check.name, check.found)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn object(checks: &[Check]) -> Value {
    let items = checks.iter().map(|check| {
        let level = match check.level {
            Health::Fine => "ok",
            Health::Warning => "warning",
            Health::Broken => "broken",
        };
        json!({"name": check.name, "level": level, "found": check.found, "remedy": check.remedy})
    });
    let items: Vec<Value> = items.collect();
    let broken = checks.iter().any(|check| check.level == Health::Broken);
    json!({"ok": !broken, "checks": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_with_a_remedy() {
        let checks = [
            Check::fine("threads", "2"),
            Check::warning("disk", "1.0 GiB free", "free some"),
            Check::broken("store", "not writable", "chmod"),
        ];
        insta::assert_snapshot!(text(&checks), @r"
        ok       threads     2
        warning  disk        1.0 GiB free
                             → free some
        BROKEN   store       not writable
                             → chmod
        ");
        let value = object(&checks);
        assert_eq!((&value["ok"], &value["checks"][1]["remedy"]), (&json!(false), &json!("free some")));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b/c")), std::path::absolute(dir.path()).unwrap());
    }
}
