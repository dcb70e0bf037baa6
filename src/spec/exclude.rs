//! `exclude`: partial matches that drop points of the grid.

use serde_json::Value;

use super::diagnostics::{Place, Reporter};
use super::schema::{self, Found, Key};
use super::written::{Leaf, Written, lacks_lists, maps, unknown_key};
use super::yaml::{Content, Name, Node};

/// A partial match: for each setting the values that match.
#[derive(Clone, Debug)]
pub(super) struct Exclude {
    pub(super) place: Place,
    matches: Vec<Match>,
}

type Match = (&'static Key, Vec<Value>);

/// Reads the section.
pub(super) fn read(node: &Node, report: &mut Reporter) -> Vec<Exclude> {
    let mut excludes = vec![];
    for (name, node) in maps("exclude", node, report) {
        let mut matches = vec![];
        if let Content::Map(entries) = &node.content {
            read_matches("", entries, &mut matches, report);
        }
        if !matches.is_empty() {
            excludes.push(Exclude { place: name.place, matches });
        }
    }
    excludes
}

fn read_matches(prefix: &str, entries: &[(Name, Node)], matches: &mut Vec<Match>, report: &mut Reporter) {
    for (name, node) in entries {
        match (schema::find(prefix, &name.text), &node.content) {
            (Found::Table(_), Content::Map(entries)) => {
                read_matches(&format!("{prefix}{}.", name.text), entries, matches, report);
            }
            (Found::Setting(key) | Found::Table(Some(key)), _) => {
                let values = values(key, node, report);
                matches.push((key, values));
            }
            (Found::Table(None), _) => {
                let message =
                    format!("`{prefix}{}: {}`: expected a map of settings", name.text, node.shown());
                report.error(node.place, message, None);
            }
            (Found::Nothing(help), _) => unknown_key(prefix, name, help, report),
        }
    }
}

/// The values that match: a list stands for any of its items; where the setting is a list itself, a list of lists.
fn values(key: &Key, node: &Node, report: &mut Reporter) -> Vec<Value> {
    let nodes = match &node.content {
        Content::List(items) if !key.kind.is_list() || !lacks_lists(key, items) => &items[..],
        _ => std::slice::from_ref(node),
    };
    nodes.iter().filter_map(|node| schema::check(key, node, report)).map(|(value, _)| value).collect()
}

/// An axis, and which of its values match.
type Condition = (usize, Vec<bool>);

/// The partial matches that drop points, as sets of axis values.
pub(super) struct Excludes<'a> {
    written: &'a Written,
    /// For each entry: per condition the axis and its matching values; nothing where no axis can match.
    entries: Vec<Option<Vec<Condition>>>,
    used: Vec<bool>,
}

impl<'a> Excludes<'a> {
    pub(super) fn new(written: &'a Written) -> Self {
        let condition = |key: &'static Key, values: &[Value]| {
            let axis = written.axes.iter().position(|axis| axis.sets(key.path))?;
            let matches = |leaf: &Leaf| std::ptr::eq(leaf.key, key) && values.contains(&leaf.value);
            let hits = written.axes[axis].values.iter().map(|value| value.leaves.iter().any(matches));
            Some((axis, hits.collect::<Vec<bool>>()))
        };
        let entry = |exclude: &Exclude| {
            exclude.matches.iter().map(|(key, values)| condition(key, values)).collect::<Option<Vec<_>>>()
        };
        let entries: Vec<_> = written.exclude.iter().map(entry).collect();
        Self { written, used: vec![false; entries.len()], entries }
    }

    /// Whether some entry drops the point with these axis values.
    pub(super) fn drop(&mut self, values: &[usize]) -> bool {
        let mut drop = false;
        for (entry, used) in self.entries.iter().zip(&mut self.used) {
            let hit = |conditions: &Vec<Condition>| conditions.iter().all(|(axis, hits)| hits[values[*axis]]);
            if entry.as_ref().is_some_and(hit) {
                *used = true;
                drop = true;
            }
        }
        drop
    }

    pub(super) fn note_unused(&self, report: &mut Reporter) {
        for ((exclude, entry), used) in self.written.exclude.iter().zip(&self.entries).zip(&self.used) {
            if !used {
                let why = if entry.is_none() { ": it names a setting that is no axis" } else { "" };
                report.note(exclude.place, &format!("this `exclude` matches no point{why}"));
            }
        }
    }
}
