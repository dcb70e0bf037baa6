//! What the numbers of a sweep stand on: its stages, what each was made with, what it took, and what it said. From the
//! store or, without one, from the provenance that lies beside the frames.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::columns::plain;
use super::index::Index;
use crate::plan;
use crate::spec::settings::Settings;
use crate::stage::{Parent, StageKind};
use crate::store::Store;
use crate::store::key::Key;
use crate::store::provenance::Provenance;

/// How the stages of a sweep came to be, a line each, beside its frames.
pub const PROVENANCE: &str = "provenance.jsonl";
/// The most of a log that is kept, its end.
const LOG: u64 = 4_000;

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the store.
    Done,
    /// Its last try failed.
    Failed,
    /// Neither.
    Waiting,
}

impl State {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
        }
    }
}

/// A stage, and all that is known of how it came to be.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its key.
    pub key: String,
    /// Its kind.
    pub kind: StageKind,
    /// What it is called for people.
    pub label: String,
    /// How far it is.
    pub state: State,
    /// The settings that it reads, by their paths in a sweep file; see [`effective`].
    pub settings: Vec<(String, String)>,
    /// The stages that it reads, by their places in [`Stages::all`].
    pub parents: Vec<usize>,
    /// Seconds of work.
    pub seconds: f64,
    /// CPU threads.
    pub threads: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// The version of its code, and of the program.
    pub code: (u32, String),
    /// Where and when, where that is known.
    pub provenance: Option<Provenance>,
    /// Its files and their sizes; empty where only the provenance is known.
    pub files: Vec<(String, u64)>,
    /// Why its last try failed.
    pub failure: Option<String>,
    /// The end of what its processes said.
    pub log: String,
}

/// The stages of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// Parents before those that read them.
    pub all: Vec<Stage>,
    places: HashMap<String, usize>,
}

/// A line of [`PROVENANCE`].
#[derive(Deserialize)]
struct Line {
    key: Key,
    kind: StageKind,
    #[serde(default)]
    label: String,
    #[serde(default)]
    settings: Value,
    #[serde(default)]
    parents: Vec<Parent>,
    #[serde(default)]
    code: u32,
    #[serde(default)]
    program: String,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    threads: usize,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    provenance: Option<Provenance>,
}

impl Stages {
    /// The stages of a sweep as `store` has them.
    ///
    /// # Errors
    /// Where the index is damaged.
    pub fn of_store(index: &Index, store: &Store) -> Result<Self> {
        let stages = (0..index.stages().len()).into_par_iter().map(|place| {
            let found = &index.stages()[place];
            let meta = store.meta(&found.key);
            let failure = if meta.is_none() { store.failure(&found.key) } else { None };
            let state = match (&meta, &failure) {
                (Some(_), _) => State::Done,
                (None, Some(_)) => State::Failed,
                (None, None) => State::Waiting,
            };
            let (key, kind, label) = (found.key.to_string(), found.kind, index.label(place).to_owned());
            let parents = index.parents(place)?;
            let log = tail(&store.log_path(&found.key));
            let stage = Stage {
                key,
                kind,
                label,
                state,
                settings: Vec::new(),
                parents,
                seconds: 0.0,
                threads: 0,
                bytes: 0,
                code: (0, String::new()),
                provenance: None,
                files: Vec::new(),
                failure,
                log,
            };
            Ok(match meta {
                None => stage,
                Some(meta) => Stage {
                    settings: effective(kind, &meta.settings),
                    seconds: meta.seconds,
                    threads: meta.threads,
                    bytes: meta.files.iter().map(|file| file.bytes).sum(),
                    code: (meta.code, meta.program),
                    provenance: meta.provenance,
                    files: meta.files.into_iter().map(|file| (file.path, file.bytes)).collect(),
                    ..stage
                },
            })
        });
        Ok(Self::new(stages.collect::<Result<_>>()?))
    }

    /// The stages that [`PROVENANCE`] in the folder of a sweep's frames names; none where there is no such file.
    ///
    /// # Errors
    /// Where the file is damaged; names the line.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let path = folder.join(PROVENANCE);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(Self::default()) };
        let texts: Vec<(usize, &str)> =
            text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
        let lines: Vec<Line> = texts
            .par_iter()
            .map(|&(number, line)| {
                serde_json::from_str(line).with_context(|| {
                    format!("{}, line {}, is no stage: run the sweep again", path.display(), number + 1)
                })
            })
            .collect::<Result<_>>()?;
        let places: HashMap<String, usize> =
            lines.iter().enumerate().map(|(place, line)| (line.key.to_string(), place)).collect();
        let stages = lines.into_par_iter().map(|line| Stage {
            key: line.key.to_string(),
            kind: line.kind,
            label: line.label,
            state: State::Done,
            settings: effective(line.kind, &line.settings),
            parents: line
                .parents
                .iter()
                .filter_map(|parent| places.get(parent.key.as_str()).copied())
                .collect(),
            seconds: line.seconds,
            threads: line.threads,
            bytes: line.bytes,
            code: (line.code, line.program),
            provenance: line.provenance,
            files: Vec::new(),
            failure: None,
            log: String::new(),
        });
        Ok(Self::new(stages.collect()))
    }

    fn new(stages: Vec<Stage>) -> Self {
        let places = stages.iter().enumerate().map(|(place, stage)| (stage.key.clone(), place)).collect();
        Self { all: stages, places }
    }

    /// The place of the stage `key`.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }

    /// The stages `keys` and all that they read, parents first; `None` where one of `keys` is not known.
    pub fn behind<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Option<Vec<usize>> {
        let mut next = keys.into_iter().map(|key| self.place(key)).collect::<Option<Vec<_>>>()?;
        let mut found = std::collections::BTreeSet::new();
        while let Some(place) = next.pop() {
            if found.insert(place) {
                next.extend(&self.all[place].parents);
            }
        }
        Some(found.into_iter().collect())
    }
}

/// The end of a log, from the beginning of a line on; empty where there is none.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let start = length.saturating_sub(LOG);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(if start > 0 {
            text.split_once('\n').map_or(String::new(), |(_, rest)| format!("…\n{rest}"))
        } else {
            text
        })
    };
    read().unwrap_or_default()
}

/// The settings that a stage reads, by their paths in a sweep file: what stands in it though nothing reads it is left
/// out, and so is what another stage has too.
pub fn effective(kind: StageKind, settings: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    flatten("", settings, &mut all);
    let within = |path: &str, section: &str| {
        path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match kind {
        StageKind::Prepare => all.iter_mut().for_each(|(path, _)| path.insert_str(0, "data.")),
        StageKind::Features => {}
        StageKind::Pretrain => {
            for (path, _) in all.iter_mut().filter(|(path, _)| !within(path, "diffusion")) {
                path.insert_str(0, "pretraining ");
            }
        }
        StageKind::Train => {
            let idle = serde_json::from_value::<Settings>(settings.clone());
            let idle = idle.map(|settings| plan::idle_paths(&settings)).unwrap_or_default();
            all.retain(|(path, _)| !idle.iter().any(|idle| within(path, idle)));
        }
        StageKind::Evaluate => all.retain(|(path, _)| within(path, "evaluate")),
    }
    all
}

/// The leaves of an object, by their dotted paths; lists are leaves.
fn flatten(prefix: &str, value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, value, all);
            }
        }
        leaf => all.push((prefix.to_owned(), plain(leaf))),
    }
}
