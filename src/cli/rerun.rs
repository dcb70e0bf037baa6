//! `sweep rerun POINT --check`: the same again, beside what is stored.

use std::collections::HashMap;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::lookup::{self, StoreArgs};
use super::progress::time;
use super::{Ending, OrBadInput as _, count, say, tell};
use crate::results::index::Index;
use crate::stage::StageKind;
use crate::store::key::Key;
use crate::store::{META, Meta, Store, StoredSpec, files};

/// Run the stages of a finished point again, in a folder beside, and compare them bit for bit with what is stored
///
/// Names the first file that differs and ends with 1. The store itself is not changed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The point's id
    point: String,
    /// Compare; nothing else is done with what comes out
    #[arg(long, required = true)]
    check: bool,
    /// Begin with stages of this kind, and take what they read from the store
    #[arg(long, value_name = "KIND", value_parser = kind)]
    from: Option<StageKind>,
    /// Where the stages are computed; the folder is removed afterwards [default: beside the store]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// CPU threads; any number gives the same bits [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    #[command(flatten)]
    store: StoreArgs,
}

/// A stage that runs again.
struct Again {
    key: Key,
    stored: StoredSpec,
    meta: Meta,
}

fn kind(text: &str) -> Result<StageKind, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "expected prepare, pretrain, features, train or evaluate".to_owned())
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    ensure!(args.check, "--check is the only thing to do with a point again");
    let store = args.store.at();
    let (index, point) = lookup::point(&args.point, &store)?;
    let stages = stages(&index, point, &store).or_bad_input()?;
    let scratch = Scratch::new(args)?;
    let begun = Instant::now();
    let first = args.from.unwrap_or(StageKind::Prepare);
    let (kept, again): (Vec<Again>, Vec<Again>) =
        stages.into_iter().partition(|stage| stage.stored.spec.kind < first);
    for stage in &kept {
        scratch.take(&store, &stage.key)?;
    }
    let mut compared = 0;
    for group in groups(again) {
        let labels: Vec<&str> = group.iter().map(|stage| stage.stored.label.as_str()).collect();
        tell(&format!("{}: again", labels.join(", ")));
        scratch.compute(&group, args.threads)?;
        for stage in &group {
            let differs = differs(stage, &object(&store, &stage.key), &object(&scratch.store, &stage.key))?;
            if let Some(differs) = differs {
                tell(&format!("error: {}: {differs}", stage.stored.label));
                return Ok(Ending::Failed);
            }
            compared += 1;
        }
    }
    say(&format!(
        "point {}: {} again in {}, equal bit for bit",
        index.id(point),
        count(compared, "stage"),
        time(begun.elapsed())
    ))?;
    Ok(Ending::Done)
}

/// The point's stages, all finished.
fn stages(index: &Index, point: usize, store: &Store) -> Result<Vec<Again>> {
    let mut stages = Vec::new();
    for place in index.stages_of(point)? {
        let key = index.stages()[place].key.clone();
        let label = index.label(place);
        let meta = store.meta(&key).with_context(|| {
            format!("point {} is not finished: {label} ({key}) is not in the store", index.id(point))
        })?;
        let version = meta.kind.version();
        ensure!(
            meta.code == version,
            "{label} was computed by version {} of its code, and this program has version {version}",
            meta.code
        );
        stages.push(Again { stored: store.spec(&key)?, key, meta });
    }
    Ok(stages)
}

/// The stages by process: the feature maps of one model and diffusion step come from one pass, as in a run.
fn groups(stages: Vec<Again>) -> Vec<Vec<Again>> {
    let mut groups: Vec<Vec<Again>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for stage in stages {
        let spec = &stage.stored.spec;
        if spec.kind != StageKind::Features {
            groups.push(vec![stage]);
            continue;
        }
        let mut settings = spec.settings.clone();
        if let Some(settings) = settings.as_object_mut() {
            settings.remove("block");
        }
        let name = format!("{settings} {:?}", spec.parents);
        let place = *places.entry(name).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(stage);
    }
    groups
}

/// The folder of a finished stage.
fn object(store: &Store, key: &Key) -> PathBuf {
    store.root().join("objects").join(&key.as_str()[..2]).join(key.as_str())
}

/// What is different between two objects of one stage: the first file in the order of names.
fn differs(stage: &Again, stored: &Path, again: &Path) -> Result<Option<String>> {
    let found: Meta = serde_json::from_slice(&fs::read(again.join(META)).context("nothing came out")?)?;
    let names = |meta: &Meta| meta.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    let (before, after) = (names(&stage.meta), names(&found));
    if before != after {
        let only =
            |some: &[String], others: &[String]| some.iter().find(|name| !others.contains(name)).cloned();
        let which = only(&before, &after).map(|name| format!("{name} did not come out again"));
        let which = which.or_else(|| only(&after, &before).map(|name| format!("{name} is new")));
        return Ok(Some(which.unwrap_or_else(|| "its files are in another order".to_owned())));
    }
    for (file, new) in stage.meta.files.iter().zip(&found.files) {
        let bytes = |dir: &Path| {
            let path = dir.join(&file.path);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (old, now) = (bytes(stored)?, bytes(again)?);
        if old == now {
            continue;
        }
        if new.blake3 == file.blake3 {
            return Ok(Some(format!(
                "{} is damaged in the store: it came out as it was published, and is not stored so; remove {} and run \
                 the sweep again",
                file.path,
                stored.display()
            )));
        }
        let place = old.iter().zip(&now).position(|(a, b)| a != b).unwrap_or(old.len().min(now.len()));
        return Ok(Some(format!(
            "{} differs from byte {place} on (stored {} bytes, again {} bytes)",
            file.path,
            old.len(),
            now.len()
        )));
    }
    Ok(None)
}

/// A store to compute in, gone afterwards.
struct Scratch {
    store: Store,
    dir: PathBuf,
}

impl Scratch {
    fn new(args: &Args) -> Result<Self> {
        let parent = args.scratch.clone().unwrap_or_else(|| args.store.store.clone());
        let dir = parent.join(format!("rerun-{}", std::process::id()));
        let store = Store::open(&dir).or_bad_input()?;
        Ok(Self { store, dir })
    }

    /// Lets stages here read an object of `store`.
    fn take(&self, store: &Store, key: &Key) -> Result<()> {
        let (from, to) = (fs::canonicalize(object(store, key))?, object(&self.store, key));
        files::create_folder(to.parent().unwrap_or(&to))?;
        link(&from, &to).with_context(|| format!("cannot link {} to {}", to.display(), from.display()))
    }

    /// Computes stages in one process.
    fn compute(&self, stages: &[Again], threads: Option<NonZero<usize>>) -> Result<()> {
        for stage in stages {
            self.store.write_spec(&stage.key, &stage.stored.label, &stage.stored.spec)?;
        }
        let program =
            std::env::current_exe().context("cannot find this program itself, to start its stages")?;
        let mut command = Command::new(program);
        command.arg("stage").arg("--store").arg(&self.dir);
        if let Some(threads) = threads {
            command.arg("--threads").arg(threads.to_string());
        }
        command.args(stages.iter().map(|stage| stage.key.as_str()));
        let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::null()).output();
        let output = output.context("the stage's process could not be started")?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(anyhow!("{words}").context(format!("{} could not be run again", stages[0].stored.label)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir); // what stays takes space and does no harm
    }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::hard_link(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
