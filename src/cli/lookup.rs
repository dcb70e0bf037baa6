//! Finding what a person means: sweeps by name, points by id, stages by the beginning of their key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use super::{OrBadInput as _, tell};
use crate::plan::Plan;
use crate::results::index::{self, Index};
use crate::spec::{self, nearest};
use crate::store::key::Key;
use crate::store::{DEFAULT_ROOT, Store};

/// Names shown of a longer list.
const SHOWN: usize = 8;

/// The store that a command looks into.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    /// Where finished stages are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub(super) store: PathBuf,
}

impl StoreArgs {
    /// The store, for reading.
    pub(super) fn at(&self) -> Store {
        Store::at(&self.store)
    }
}

/// A sweep that the store knows, or a sweep file.
#[derive(Debug, clap::Args)]
pub(super) struct NamedSweep {
    /// Overrides of a sweep file, as given to `sweep run`: they may have named the sweep anew
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

impl NamedSweep {
    /// The index of the sweep `named`: what its last run left in the store or, where there was none, what the sweep file
    /// plans now. Notes go to standard error.
    pub(super) fn index(&self, named: &str) -> Result<Index> {
        let store = self.store.at();
        let extension = std::path::Path::new(named).extension();
        let is_path = named.contains(std::path::MAIN_SEPARATOR)
            || extension.is_some_and(|ending| ending == "yaml" || ending == "yml");
        if !is_path
            && self.sets.is_empty()
            && let Some(index) = Index::read(&store, named)?
        {
            return Ok(index);
        }
        let path = Path::new(named);
        if !is_path && !is_sweep_file(path) {
            return Err(unknown_sweep(named, &store)?).or_bad_input();
        }
        let sweep = spec::load(path, &self.sets).map_err(anyhow::Error::new).or_bad_input()?;
        let Some(index) = Index::read(&store, &sweep.name)? else {
            let plan = Plan::new(&sweep).or_bad_input()?;
            return Index::of(&sweep, &plan);
        };
        let modified = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        if modified(&sweep.path) > modified(&index::path(&store, &sweep.name)) {
            tell(&format!(
                "note: {} has changed since its last run, which is what is shown; `sweep plan` shows the file",
                sweep.path.display()
            ));
        }
        Ok(index)
    }
}

/// Whether `path` is a sweep file, or the bare name of one.
fn is_sweep_file(path: &Path) -> bool {
    let named = |path: PathBuf| path.is_file() || path.with_extension("yaml").is_file();
    named(path.to_owned()) || named(Path::new("sweeps").join(path))
}

/// The error about a sweep that the store does not know.
pub(super) fn unknown_sweep(name: &str, store: &Store) -> Result<anyhow::Error> {
    let known = index::names(store)?;
    let place = store.root().display();
    let help = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "it knows none yet: `sweep run FILE` makes one known".to_owned(),
        None => format!("it knows {}", list(&known)),
    };
    Ok(anyhow!("the store {place} knows no sweep `{name}`, and there is no such sweep file; {help}"))
}

/// `a`, `b` and 3 more.
pub(super) fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// All sweeps that `store` knows. An index that cannot be read is told of and left out.
pub(super) fn all(store: &Store) -> Result<Vec<Index>> {
    let mut found = Vec::new();
    for name in index::names(store)? {
        match Index::read(store, &name) {
            Ok(index) => found.extend(index),
            Err(error) => tell(&format!("warning: {}", super::with_causes(&error))),
        }
    }
    Ok(found)
}

/// What a person named.
pub(super) enum Target {
    /// A point of a sweep.
    Point(Box<Index>, usize),
    /// A stage, with the text for people where it is known.
    Stage(Key, Option<String>),
}

/// The point or stage that `named` begins the name of.
///
/// # Errors
/// As of the input: where there is none, or several.
pub(super) fn target(named: &str, store: &Store) -> Result<Target> {
    let indices = all(store)?;
    let mut points: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut stages: BTreeMap<Key, Option<String>> = BTreeMap::new();
    for (i, index) in indices.iter().enumerate().rev() {
        for point in (0..index.points().len()).filter(|&point| index.id(point).starts_with(named)) {
            points.insert(index.id(point).to_owned(), (i, point));
        }
        for (place, stage) in index.stages().iter().enumerate() {
            if stage.key.as_str().starts_with(named) {
                stages.insert(stage.key.clone(), Some(index.label(place).to_owned()));
            }
        }
    }
    let inventory = store.inventory()?;
    for key in inventory.keys().chain(store.failed()?) {
        if key.as_str().starts_with(named) && !stages.contains_key(&key) {
            stages.insert(key, None);
        }
    }
    let whole = points.get(named).copied(); // the whole name of a point is meant, whatever keys begin with it
    if let Some((index, point)) = whole.or_else(|| {
        (points.len() == 1 && stages.is_empty()).then(|| points.values().next().copied()).flatten()
    }) {
        let index = indices.into_iter().nth(index).expect("numbered above");
        return Ok(Target::Point(Box::new(index), point));
    }
    if stages.len() == 1
        && points.is_empty()
        && let Some((key, label)) = stages.pop_first()
    {
        return Ok(Target::Stage(key, label));
    }
    Err(several_or_none(named, store, &indices, &points, &stages)).or_bad_input()
}

fn several_or_none(
    named: &str,
    store: &Store,
    indices: &[Index],
    points: &BTreeMap<String, (usize, usize)>,
    stages: &BTreeMap<Key, Option<String>>,
) -> anyhow::Error {
    if points.is_empty() && stages.is_empty() {
        let place = store.root().display();
        if indices.is_empty() {
            return anyhow!("the store {place} knows no sweep yet: `sweep run FILE` makes one known");
        }
        let ids = indices.iter().flat_map(|index| (0..index.points().len()).map(|point| index.id(point)));
        let near = nearest(named, ids);
        let help =
            near.map_or("`sweep status NAME --all` lists them".into(), |id| format!("did you mean `{id}`?"));
        return anyhow!(
            "no point is named `{named}`, and no stage's key begins so, in the store {place}; {help}"
        );
    }
    let point = points.iter().map(|(id, &(index, _))| format!("point {id} of {}", indices[index].head.name));
    let stage = stages.iter().map(|(key, label)| {
        let label = label.as_deref().unwrap_or("a stage of no known sweep");
        format!("stage {}: {label}", &key.as_str()[..12])
    });
    let mut all: Vec<String> = point.chain(stage).collect();
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    if more > 0 {
        all.push(format!("… and {more} more"));
    }
    anyhow!("`{named}` may mean several things; write more of it:\n  {}", all.join("\n  "))
}

/// The point that `named` means.
pub(super) fn point(named: &str, store: &Store) -> Result<(Index, usize)> {
    match target(named, store)? {
        Target::Point(index, point) => Ok((*index, point)),
        Target::Stage(key, _) => {
            let wrong = || -> Result<_> { bail!("`{named}` is a stage ({key}), and a point is wanted") };
            wrong().or_bad_input()
        }
    }
}
