//! `sweep logs POINT|STAGE`.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::lookup::{self, StoreArgs, Target};
use super::plan::shown;
use super::table::table;
use super::{Ending, provenance, say};
use crate::results::index::Index;
use crate::store::Store;
use crate::store::key::Key;

/// How often is looked for something new.
const PATIENCE: Duration = Duration::from_millis(200);

/// Show what became of a point or a stage: how it came to be, why it failed, what its processes said
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The id of a point, or the first digits of a stage's key
    #[arg(value_name = "POINT|STAGE")]
    named: String,
    /// Go on showing what is said until nothing of it runs
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// A stage that is looked at.
struct Watched {
    key: Key,
    label: String,
    log: PathBuf,
    /// The bytes that were shown.
    shown: u64,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let store = args.store.at();
    let mut stages = match lookup::target(&args.named, &store)? {
        Target::Point(index, point) => {
            say(&point_text(&index, point, &store)?)?;
            let places = index.stages_of(point)?;
            let stage =
                |place: &usize| watched(&store, &index.stages()[*place].key, Some(index.label(*place)));
            places.iter().map(stage).collect()
        }
        Target::Stage(key, label) => {
            let stage = watched(&store, &key, label.as_deref());
            say(&stage_text(&stage, &store))?;
            vec![stage]
        }
    };
    let several = stages.len() > 1;
    let mut last = None;
    loop {
        // Looked at before reading: what is said last is not missed.
        let active = args.follow && stages.iter().any(|stage| store.is_computed(&stage.key));
        for (number, stage) in stages.iter_mut().enumerate() {
            let text = news(stage)?;
            if !text.is_empty() {
                if last.replace(number) != Some(number) {
                    let title = if several { stage.label.as_str() } else { "messages" };
                    say(&format!("\n── {title} ──"))?;
                }
                say(text.trim_end())?;
            }
        }
        if !active {
            break;
        }
        thread::sleep(PATIENCE);
    }
    if last.is_none() {
        say("\nits processes left no messages")?;
    }
    Ok(Ending::Done)
}

fn watched(store: &Store, key: &Key, label: Option<&str>) -> Watched {
    let label = label.map(str::to_owned).or_else(|| store.meta(key).map(|meta| meta.label));
    let label = label.or_else(|| store.spec(key).ok().map(|stored| stored.label));
    Watched {
        key: key.clone(),
        label: label.unwrap_or_else(|| key.to_string()),
        log: store.log_path(key),
        shown: 0,
    }
}

/// What was written to the log since the last look.
fn news(stage: &mut Watched) -> Result<String> {
    let reading = || format!("cannot read {}", stage.log.display());
    let Ok(length) = fs::metadata(&stage.log).map(|found| found.len()) else { return Ok(String::new()) };
    if length < stage.shown {
        stage.shown = 0; // begun anew
    }
    let mut file = File::open(&stage.log).with_context(reading)?;
    file.seek(SeekFrom::Start(stage.shown)).with_context(reading)?;
    let mut bytes = Vec::new();
    file.take(length - stage.shown).read_to_end(&mut bytes).with_context(reading)?;
    stage.shown += bytes.len() as u64;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A stage's state, and how it came to be.
fn stage_text(stage: &Watched, store: &Store) -> String {
    let mut lines = vec![("key", stage.key.to_string()), ("state", state(&stage.key, store).to_owned())];
    match store.meta(&stage.key) {
        Some(meta) => {
            lines.extend(provenance::lines(&meta));
            lines.push(("settings", meta.settings.to_string()));
        }
        None => lines.extend(store.failure(&stage.key).map(|message| ("why", message))),
    }
    if stage.log.is_file() {
        lines.push(("log", stage.log.display().to_string()));
    }
    let lines: Vec<String> = lines.iter().map(|(name, value)| format!("  {name:8}  {value}")).collect();
    format!("{}\n{}", stage.label, lines.join("\n"))
}

/// A point's axes and stages.
fn point_text(index: &Index, point: usize, store: &Store) -> Result<String> {
    let axes = index.axes(point)?;
    let axes = axes.iter().filter(|(_, value)| !value.is_null());
    let axes: Vec<String> = axes.map(|(name, value)| format!("{name}={}", shown(value))).collect();
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for place in index.stages_of(point)? {
        let key = &index.stages()[place].key;
        let meta = store.meta(key);
        let told = meta.as_ref().map(provenance::lines).unwrap_or_default();
        let told =
            |name: &str| told.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap_or_default();
        if meta.is_none()
            && let Some(message) = store.failure(key)
        {
            failures.push(format!("\n{} failed: {message}", index.label(place)));
        }
        let short = key.as_str()[..8].to_owned();
        rows.push(vec![
            short,
            index.label(place).to_owned(),
            state(key, store).to_owned(),
            told("took"),
            told("memory"),
        ]);
    }
    let title = format!("point {} of {}: {}", index.id(point), index.head.name, axes.join(" "));
    let table = table(&["key", "stage", "state", "took", "memory"], &rows, 0);
    Ok(format!("{title}\n\n{table}{}", failures.concat()))
}

fn state(key: &Key, store: &Store) -> &'static str {
    if store.object(key).is_some() {
        "done"
    } else if store.is_computed(key) {
        "running"
    } else if store.failure(key).is_some() {
        "failed"
    } else {
        "waiting"
    }
}
