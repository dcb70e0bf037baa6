//! The sweep file as written: its sections as checked assignments, each with its place.

use serde_json::Value;

use super::diagnostics::{Place, Reporter, choice, did_you_mean};
use super::exclude::{self, Exclude, Matches};
use super::report::{self, ReportSettings};
use super::schema::{self, Found, Key};
use super::yaml::{Content, Name, Node, shorten};

/// The keys of a sweep file.
pub(super) const SECTIONS: [&str; 9] =
    ["name", "description", "extends", "base", "grid", "zip", "exclude", "include", "report"];

/// One setting given a value.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) key: &'static Key,
    pub(super) value: Value,
    /// Where the value stands.
    pub(super) place: Place,
    /// Where the items of a list stand.
    pub(super) items: Vec<Place>,
}

/// One value of an axis.
#[derive(Clone, Debug)]
pub(super) struct AxisValue {
    pub(super) leaves: Vec<Leaf>,
    /// The value as tables show it.
    pub(super) shown: Value,
}

/// The condition of an axis.
#[derive(Clone, Debug)]
pub(super) struct When {
    pub(super) place: Place,
    pub(super) matches: Matches,
}

/// An axis of the sweep.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) values: Vec<AxisValue>,
    /// Where it applies; everywhere where there is none.
    pub(super) when: Option<When>,
}

impl Axis {
    /// Whether a value of this axis sets `path`.
    pub(super) fn sets(&self, path: &str) -> bool {
        self.values.iter().any(|value| value.leaves.iter().any(|leaf| leaf.key.path == path))
    }
}

/// A sweep file as written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) name: Option<String>,
    pub(super) description: String,
    /// Where the file begins.
    pub(super) start: Place,
    pub(super) base: Vec<Leaf>,
    /// The axes of `grid`, then of `zip`.
    pub(super) axes: Vec<Axis>,
    /// The last of [`Self::axes`] that advance together.
    pub(super) zipped: usize,
    pub(super) grid: Option<Place>,
    pub(super) exclude: Vec<Exclude>,
    pub(super) include: Vec<Vec<Leaf>>,
    /// Where each entry of `include` stands.
    pub(super) include_places: Vec<Place>,
    pub(super) sets: Vec<Leaf>,
    pub(super) report: ReportSettings,
    /// Settings whose written value is wrong: nothing more is said about them.
    pub(super) broken: Vec<&'static str>,
}

/// Reads the sections of a document.
pub(super) fn read(root: &Node, sets: &[String], report: &mut Reporter) -> Written {
    let mut written = Written {
        name: None,
        description: String::new(),
        start: root.place,
        base: vec![],
        axes: vec![],
        zipped: 0,
        grid: None,
        exclude: vec![],
        include: vec![],
        include_places: vec![],
        sets: vec![],
        report: ReportSettings::default(),
        broken: vec![],
    };
    let Content::Map(entries) = &root.content else {
        let help = Some(format!("the keys are {}", choice(&SECTIONS)));
        report.error(root.place, "a sweep file is a map of sections", help);
        return written;
    };
    let [mut grid, mut zip, mut report_section] = [None; 3];
    for (name, node) in entries {
        match name.text.as_str() {
            "name" => written.name = read_name(node, report),
            "description" => written.description = text(node, "description", report).unwrap_or_default(),
            "base" => written.base = assignments("base", name, node, &mut written.broken, report),
            "grid" => grid = Some((name, node)),
            "zip" => zip = Some((name, node)),
            "exclude" => written.exclude = exclude::read(node, report),
            "include" => written.read_include(node, report),
            "report" => report_section = Some((name, node)),
            _ => unknown_section(name, report),
        }
    }
    if let Some((name, node)) = grid {
        written.read_grid(name, node, report);
    }
    if let Some((name, node)) = zip {
        written.read_zip(name, node, report);
    }
    written.read_sets(sets, report);
    written.check_zip(report);
    written.refuse_conflicts(report);
    if let Some((_, node)) = report_section {
        written.report = report::read(node, &written.axis_names(), report);
    }
    written
}

fn unknown_section(name: &Name, report: &mut Reporter) {
    let text = shorten(&name.text);
    let help = match schema::find("", &name.text) {
        Found::Nothing(help) => did_you_mean(&name.text, SECTIONS)
            .or(help.map(|help| format!("{help} It goes under `base` or `grid`"))),
        _ => Some("a setting goes under `base`, an axis under `grid`".into()),
    };
    report.error(name.place, format!("unknown section `{text}`: expected {}", choice(&SECTIONS)), help);
}

/// A scalar as the text that it is written with.
pub(super) fn text(node: &Node, what: &str, report: &mut Reporter) -> Option<String> {
    match &node.content {
        Content::Text { text, .. } if !node.is_null() => Some(text.clone()),
        Content::Bad => None,
        _ => {
            report.error(node.place, format!("`{what}: {}`: expected a text", node.shown()), None);
            None
        }
    }
}

/// A name that is safe as the name of a folder.
pub(super) fn is_name(name: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 100 && !name.starts_with(['.', '-']) && name.bytes().all(safe)
}

pub(super) fn read_name(node: &Node, report: &mut Reporter) -> Option<String> {
    let name = text(node, "name", report)?;
    if is_name(&name) {
        return Some(name);
    }
    let message = format!(
        "`name: {}`: it becomes the name of a folder: expected letters, digits, `.`, `_` and `-`, at most 100, \
         the first a letter or digit",
        node.shown()
    );
    report.error(node.place, message, None);
    None
}

/// The assignments of a map of settings, in the order of the file; tables may be nested or dotted.
fn assignments(
    section: &str,
    name: &Name,
    node: &Node,
    broken: &mut Vec<&'static str>,
    report: &mut Reporter,
) -> Vec<Leaf> {
    let mut leaves = vec![];
    match &node.content {
        Content::Map(entries) => settings("", entries, &mut leaves, broken, report),
        Content::Bad => {}
        _ if node.is_null() => {}
        _ => {
            let message = format!("`{section}: {}`: expected a map of settings", node.shown());
            report.error(name.place, message, None);
        }
    }
    refuse_twice(&leaves, report);
    leaves
}

fn settings(
    prefix: &str,
    entries: &[(Name, Node)],
    leaves: &mut Vec<Leaf>,
    broken: &mut Vec<&'static str>,
    report: &mut Reporter,
) {
    for (name, node) in entries {
        one_setting(prefix, name, node, leaves, broken, report);
    }
}

pub(super) fn one_setting(
    prefix: &str,
    name: &Name,
    node: &Node,
    leaves: &mut Vec<Leaf>,
    broken: &mut Vec<&'static str>,
    report: &mut Reporter,
) {
    match schema::find(prefix, &name.text) {
        Found::Setting(key) => leaf(key, node, leaves, broken, report),
        Found::Table(short) => {
            table(&format!("{prefix}{}", name.text), short, node, leaves, broken, report);
        }
        Found::Nothing(help) => unknown_key(prefix, name, help, report),
    }
}

pub(super) fn unknown_key(prefix: &str, name: &Name, help: Option<String>, report: &mut Reporter) {
    let path = shorten(&format!("{prefix}{}", name.text));
    report.error(name.place, format!("unknown setting `{path}`"), help);
}

fn table(
    path: &str,
    short: Option<&'static Key>,
    node: &Node,
    leaves: &mut Vec<Leaf>,
    broken: &mut Vec<&'static str>,
    report: &mut Reporter,
) {
    match (&node.content, short) {
        (Content::Map(entries), _) => settings(&format!("{path}."), entries, leaves, broken, report),
        (Content::Text { .. }, Some(key)) if !node.is_null() => leaf(key, node, leaves, broken, report),
        (Content::Bad, _) => {}
        _ => {
            let message = format!("`{path}: {}`: expected a map of settings", node.shown());
            let example = schema::KEYS.iter().find(|key| key.path.starts_with(&format!("{path}.")));
            report.error(node.place, message, example.map(|key| format!("such as `{}`", key.path)));
        }
    }
}

fn leaf(
    key: &'static Key,
    node: &Node,
    leaves: &mut Vec<Leaf>,
    broken: &mut Vec<&'static str>,
    report: &mut Reporter,
) {
    match schema::check(key, node, report) {
        Some((value, items)) => leaves.push(Leaf { key, value, place: node.place, items }),
        None => broken.push(key.path),
    }
}

/// `train: { lr: 1 }` and `train.lr: 2` side by side.
pub(super) fn refuse_twice(leaves: &[Leaf], report: &mut Reporter) {
    for (i, leaf) in leaves.iter().enumerate() {
        if let Some(first) = leaves[..i].iter().find(|other| std::ptr::eq(other.key, leaf.key)) {
            let message = format!("`{}` is set twice; first at {}", leaf.key.path, report.line(first.place));
            report.error(leaf.place, message, None);
        }
    }
}

impl Written {
    pub(super) fn axis_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.axes.iter().map(|axis| axis.name.clone()).collect();
        for leaf in self.include.iter().flatten() {
            if !names.iter().any(|name| name == leaf.key.path) {
                names.push(leaf.key.path.to_owned());
            }
        }
        names
    }

    fn read_include(&mut self, node: &Node, report: &mut Reporter) {
        for (name, node) in maps("include", node, report) {
            let leaves = assignments("include", &name, node, &mut self.broken, report);
            self.include.push(leaves);
            self.include_places.push(name.place);
        }
    }

    /// A setting is given in `base` or by one axis, not by both and not by two axes.
    fn refuse_conflicts(&mut self, report: &mut Reporter) {
        for (i, axis) in self.axes.iter().enumerate() {
            let paths = || axis.values.iter().flat_map(|value| &value.leaves).map(|leaf| leaf.key.path);
            if let Some(other) = self.axes[..i].iter().find(|other| paths().any(|path| other.sets(path))) {
                let message = format!(
                    "axis `{}` sets what axis `{}` sets ({})",
                    axis.name,
                    other.name,
                    report.line(other.place)
                );
                report.error(axis.place, message, None);
            }
            // Where a conditional axis does not apply, `base` holds.
            for leaf in self.base.iter().filter(|leaf| axis.when.is_none() && axis.sets(leaf.key.path)) {
                let at = report.line(axis.place);
                let message =
                    format!("`{}` is set in `base` and is an axis of the sweep ({at})", leaf.key.path);
                report.error(leaf.place, message, Some("keep one of the two".into()));
            }
        }
    }
}

/// The maps of a list of maps, each named by its own place.
pub(super) fn maps<'a>(section: &str, node: &'a Node, report: &mut Reporter) -> Vec<(Name, &'a Node)> {
    let mut maps = vec![];
    match &node.content {
        Content::List(items) => {
            for item in items {
                match &item.content {
                    Content::Map(_) => maps.push((Name { text: section.into(), place: item.place }, item)),
                    Content::Bad => {}
                    _ => {
                        let message = format!("`{section}: {}`: expected a map of settings", item.shown());
                        report.error(item.place, message, None);
                    }
                }
            }
        }
        Content::Bad => {}
        _ if node.is_null() => {}
        _ => {
            let message = format!("`{section}: {}`: expected a list of maps", node.shown());
            report.error(node.place, message, Some("such as `- { dfm: true, seed: 0 }`".into()));
        }
    }
    maps
}
