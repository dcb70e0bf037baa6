//! `sweep gc`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::lookup::StoreArgs;
use super::table::{bytes, table};
use super::{Ending, OrBadInput as _, count, say};
use crate::plan::Plan;
use crate::results::index::{self, Index};
use crate::spec;
use crate::store::key::Key;
use crate::store::{Store, files};

/// Remove what no sweep needs: finished stages, abandoned work, messages, objects put aside
///
/// What a sweep needs is known from its last run on the store; objects of settings that were since taken out of a sweep
/// file are needed by none. Whatever a process is computing stays, and so does what is younger than --older-than.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Sweep files whose stages stay too, beside those of all sweeps that the store knows
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Forget this sweep first: what it alone needs goes too
    #[arg(long, value_name = "NAME")]
    forget: Vec<String>,
    /// Keep what is younger, such as 30min, 12h, 7days
    #[arg(long, value_name = "AGE", default_value = "1h", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Write one JSON object instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// What goes, by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Object,
    Work,
    Aside,
    Message,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Object, Self::Work, Self::Aside, Self::Message];

    const fn name(self) -> &'static str {
        match self {
            Self::Object => "finished stages",
            Self::Work => "abandoned work",
            Self::Aside => "objects put aside",
            Self::Message => "messages and descriptions",
        }
    }
}

/// Something that goes.
struct Garbage {
    sort: Sort,
    path: PathBuf,
    /// The stage that it belongs to, which nobody may be computing.
    key: Option<Key>,
    bytes: u64,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let place = args.store.store.display();
    if !args.store.store.is_dir() {
        return Err(anyhow::anyhow!("there is no store {place}; --store names another")).or_bad_input();
    }
    let store = if args.dry_run { args.store.at() } else { Store::open(&args.store.store).or_bad_input()? };
    let known = index::names(&store)?;
    if let Some(name) = args.forget.iter().find(|name| !known.contains(name)) {
        return Err(super::lookup::unknown_sweep(name, &store)?).or_bad_input();
    }
    // Taken before the indices are read: a sweep that starts later is seen by it.
    let state = state(&store);
    let needed = needed(&store, &known, args).or_bad_input()?;
    let garbage = find(&store, &needed, args.older_than)?;
    let mut removed = Vec::new();
    if args.dry_run {
        removed = garbage;
    } else {
        args.forget.iter().try_for_each(|name| index::forget(&store, name))?;
        let state = if args.forget.is_empty() { state } else { self::state(&store) };
        for garbage in garbage {
            ensure!(
                self::state(&store) == state,
                "a sweep has begun meanwhile, which may need what was about to go: run `sweep gc` again"
            );
            if remove(&store, &garbage)? {
                removed.push(garbage);
            }
        }
        store.tidy()?;
    }
    say(&told(&removed, args))?;
    Ok(Ending::Done)
}

/// Something that changes when a sweep begins on the store.
fn state(store: &Store) -> Option<SystemTime> {
    let folder = index::path(store, "x");
    fs::metadata(folder.parent()?).and_then(|found| found.modified()).ok()
}

/// The stages that some sweep needs.
fn needed(store: &Store, known: &[String], args: &Args) -> Result<HashSet<Key>> {
    let mut needed = HashSet::new();
    let mut keep = |index: &Index| needed.extend(index.stages().iter().map(|stage| stage.key.clone()));
    for name in known.iter().filter(|name| !args.forget.contains(name)) {
        // A damaged index is an error: what it kept must not go.
        if let Some(index) = Index::read(store, name)? {
            keep(&index);
        }
    }
    for file in &args.files {
        let sweep = spec::load(file, &[]).map_err(anyhow::Error::new)?;
        keep(&Index::of(&sweep, &Plan::new(&sweep)?)?);
    }
    if known.is_empty() && args.files.is_empty() && !store.inventory()?.is_empty() {
        bail!(
            "the store {} knows no sweep (an earlier version made it), so nothing tells what is needed: run your sweep \
             files again, which computes nothing anew, or name them here",
            store.root().display()
        );
    }
    let mut names: Vec<String> = store.runs()?.into_iter().map(|run| run.name).collect();
    let runs = names.len();
    names.sort_unstable();
    names.dedup();
    // Of two runs of one name only the later one's needs are known.
    ensure!(
        names.len() == runs,
        "two runs of one sweep are at work with settings that may differ; try again when one of them has ended"
    );
    Ok(needed)
}

/// What goes, in the order of its paths.
fn find(store: &Store, needed: &HashSet<Key>, age: Duration) -> Result<Vec<Garbage>> {
    let root = store.root();
    let old = |path: &Path| {
        let modified = fs::metadata(path).and_then(|found| found.modified());
        modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|passed| passed >= age))
    };
    let mut found = Vec::new();
    let mut add = |sort, path: PathBuf, key: Option<Key>| {
        if old(&path) {
            let bytes = size(&path);
            found.push(Garbage { sort, path, key, bytes });
        }
    };
    let inventory = store.inventory()?;
    for key in inventory.keys().filter(|key| !needed.contains(key)) {
        add(
            Sort::Object,
            root.join("objects").join(&key.as_str()[..2]).join(key.as_str()),
            Some(key.clone()),
        );
    }
    for (path, key) in entries(&root.join("tmp"))? {
        // What was left of a stage that is needed may hold a checkpoint, which the next run goes on from.
        let wanted = key.as_ref().is_some_and(|key| needed.contains(key) && !inventory.has(key));
        if !wanted {
            add(Sort::Work, path, key);
        }
    }
    for (path, _) in entries(&root.join("quarantine"))? {
        add(Sort::Aside, path, None);
    }
    for (path, _) in entries(root)? {
        // Of a `sweep rerun` that was killed.
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rerun-")) {
            add(Sort::Work, path, None);
        }
    }
    for folder in ["logs", "failures", "specs"] {
        for (path, key) in entries(&root.join(folder))? {
            if key.as_ref().is_some_and(|key| !needed.contains(key)) {
                add(Sort::Message, path, key);
            }
        }
    }
    found.sort_by(|a, b| (a.sort, &a.path).cmp(&(b.sort, &b.path)));
    Ok(found)
}

/// What is in a folder, with the key that its name begins with.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, Option<Key>)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let reading = || format!("cannot read {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let key = name.get(..32).and_then(|name| name.parse().ok());
        found.push((path, key));
    }
    Ok(found)
}

/// The bytes of a file, or of all files in a folder. What goes away meanwhile counts nothing.
fn size(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}

/// Removes something, unless its stage is being computed.
fn remove(store: &Store, garbage: &Garbage) -> Result<bool> {
    let lock = garbage.key.as_ref().map(|key| store.try_lock(key)).transpose()?;
    if matches!(lock, Some(Err(_))) {
        return Ok(false);
    }
    let Garbage { path, .. } = garbage;
    let removing = || format!("cannot remove {}", path.display());
    if !path.is_dir() {
        fs::remove_file(path).with_context(removing)?;
    } else if garbage.sort == Sort::Object {
        // In one step, so that a kill leaves no half of an object where a whole one is looked for.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = store.root().join("tmp").join(format!("gc-{name}"));
        files::rename(path, &aside).with_context(removing)?;
        fs::remove_dir_all(&aside).with_context(removing)?;
    } else {
        fs::remove_dir_all(path).with_context(removing)?;
    }
    Ok(true)
}

fn told(removed: &[Garbage], args: &Args) -> String {
    let of = |sort: Sort| {
        let of = removed.iter().filter(|garbage| garbage.sort == sort);
        of.fold((0, 0), |(n, sum), garbage| (n + 1, sum + garbage.bytes))
    };
    let total: u64 = removed.iter().map(|garbage| garbage.bytes).sum();
    if args.json {
        let items = removed.iter().map(
            |garbage| json!({"what": garbage.sort.name(), "path": garbage.path, "bytes": garbage.bytes}),
        );
        let items: Vec<_> = items.collect();
        return json!({"dry_run": args.dry_run, "bytes": total, "removed": items}).to_string();
    }
    if removed.is_empty() {
        return "nothing to remove: some sweep needs everything that is there, or it is too young".to_owned();
    }
    let mut text = String::new();
    if args.dry_run {
        for garbage in removed {
            let _ = writeln!(text, "{:>9}  {}", bytes(garbage.bytes), garbage.path.display());
        }
        text.push('\n');
    }
    let rows: Vec<Vec<String>> = Sort::ALL
        .iter()
        .map(|&sort| (sort, of(sort)))
        .filter(|(_, (n, _))| *n > 0)
        .map(|(sort, (n, sum))| vec![sort.name().to_owned(), n.to_string(), bytes(sum)])
        .collect();
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    let files = count(removed.len(), "thing");
    text + &table(&["what", "number", "size"], &rows, 0)
        + &format!("\n\n{files} {verb}, {} in all", bytes(total))
}
