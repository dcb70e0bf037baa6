//! Why a stage has to run: what sets it apart from the nearest finished one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Plan;
use crate::store::Meta;
use crate::store::key::Key;

/// Why a stage has to run, or that it need not.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// It is finished.
    Finished,
    /// Nothing of its kind is finished.
    First,
    /// What sets it apart from the nearest finished stage of its kind.
    Differs {
        /// That stage's label.
        label: String,
        /// That stage's key.
        key: Key,
        /// The differences: versions, then settings by their paths, then parents by their roles.
        changes: Vec<Change>,
    },
}

/// One difference between a finished stage and one that is to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The version of the code that computes it.
    Version {
        /// The finished one's.
        from: u32,
        /// Today's.
        to: u32,
    },
    /// A setting; nothing where one of the two does not have it.
    Setting {
        /// Its dotted path.
        path: String,
        /// In the finished one.
        from: Option<Value>,
        /// In the one to run.
        to: Option<Value>,
    },
    /// A stage that it reads; nothing where one of the two does not read such a one.
    Parent {
        /// The role.
        role: String,
        /// In the finished one.
        from: Option<Key>,
        /// In the one to run.
        to: Option<Key>,
    },
}

/// Why the stage with this index has to run; `found` says whether it is finished, `finished` is what the store holds.
pub fn why(plan: &Plan, stage: usize, found: bool, finished: &[Meta]) -> Reason {
    if found {
        return Reason::Finished;
    }
    let spec = plan.spec(stage);
    let settings = leaves(&spec.settings);
    let parents: BTreeMap<&str, &Key> =
        spec.parents.iter().map(|parent| (parent.role.as_str(), &parent.key)).collect();
    let near = finished
        .iter()
        .filter(|meta| meta.kind == spec.kind && meta.key != plan.stages[stage].key)
        .map(|meta| {
            let mut changes = vec![];
            let version = spec.kind.version();
            if meta.code != version {
                changes.push(Change::Version { from: meta.code, to: version });
            }
            let before = leaves(&meta.settings);
            for (path, from, to) in differences(&before, &settings) {
                changes.push(Change::Setting { path, from, to });
            }
            let before: BTreeMap<&str, &Key> =
                meta.parents.iter().map(|parent| (parent.role.as_str(), &parent.key)).collect();
            for (role, from, to) in differences(&before, &parents) {
                changes.push(Change::Parent { role: role.to_owned(), from: from.cloned(), to: to.cloned() });
            }
            (changes, meta)
        });
    // Of equally near ones, one of the same name.
    let rank = |changes: &[Change], meta: &Meta| {
        (changes.len(), meta.label != plan.stages[stage].label, meta.key.clone())
    };
    match near.min_by_key(|(changes, meta)| rank(changes, meta)) {
        None => Reason::First,
        Some((changes, meta)) => {
            Reason::Differs { label: meta.label.clone(), key: meta.key.clone(), changes }
        }
    }
}

/// The entries that are not equal in both.
fn differences<K: Ord + Clone, V: PartialEq + Clone>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> Vec<(K, Option<V>, Option<V>)> {
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let mut keys: Vec<&K> = after.keys().chain(gone).collect();
    keys.sort_unstable();
    let entry = |key: &K| {
        let (from, to) = (before.get(key).cloned(), after.get(key).cloned());
        (from != to).then(|| (key.clone(), from, to))
    };
    keys.into_iter().filter_map(entry).collect()
}

/// The settings by their dotted paths.
fn leaves(settings: &Value) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    let mut open = vec![(String::new(), settings)];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(map) => {
                let below =
                    |name: &String| if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                open.extend(map.iter().map(|(name, value)| (below(name), value)));
            }
            other => drop(out.insert(path, other.clone())),
        }
    }
    out
}
