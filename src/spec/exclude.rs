//! Partial matches: `exclude` drops the points of the grid that fulfil one, `when` asks one of an axis.

use serde_json::Value;

use super::axis::lacks_lists;
use super::diagnostics::{Place, Reporter};
use super::schema::{self, Found, Key};
use super::written::{Leaf, Written, maps, unknown_key};
use super::yaml::{Content, Name, Node};

/// A partial match: for each setting the values that match.
#[derive(Clone, Debug)]
pub(super) struct Exclude {
    pub(super) place: Place,
    matches: Matches,
}

/// For each setting the values that match; all settings must.
pub(super) type Matches = Vec<(&'static Key, Vec<Value>)>;

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

pub(super) fn read_matches(
    prefix: &str,
    entries: &[(Name, Node)],
    matches: &mut Matches,
    report: &mut Reporter,
) {
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
pub(super) fn values(key: &Key, node: &Node, report: &mut Reporter) -> Vec<Value> {
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

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether some entry drops the point with these axis values; an axis that does not apply matches nothing.
    pub(super) fn drop(&mut self, values: &[u32]) -> bool {
        let mut drop = false;
        for (entry, used) in self.entries.iter().zip(&mut self.used) {
            let hits = |(axis, hits): &Condition| hits.get(values[*axis] as usize) == Some(&true);
            let hit = |conditions: &Vec<Condition>| conditions.iter().all(hits);
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
