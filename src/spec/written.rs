//! The sweep file as written: its sections as checked assignments, each with its place.

use serde_json::{Map, Value};

use super::diagnostics::{Place, Reporter, choice, did_you_mean};
use super::exclude::{self, Exclude};
use super::report::{self, ReportSettings};
use super::schema::{self, Found, Key};
use super::yaml::{self, Content, Name, Node, shorten};

/// The keys of a sweep file.
const SECTIONS: [&str; 8] = ["name", "description", "base", "grid", "zip", "exclude", "include", "report"];

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

/// An axis of the sweep.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) values: Vec<AxisValue>,
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

fn read_name(node: &Node, report: &mut Reporter) -> Option<String> {
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

fn one_setting(
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
fn refuse_twice(leaves: &[Leaf], report: &mut Reporter) {
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

    fn read_grid(&mut self, name: &Name, node: &Node, report: &mut Reporter) {
        self.grid = Some(name.place);
        if node.is_null() || matches!(&node.content, Content::Map(entries) if entries.is_empty()) {
            let help = Some("list axes, or leave `grid` out to run `base` alone".into());
            report.error(name.place, "the grid is empty", help);
        }
        self.read_axes("grid", name, node, report);
    }

    fn read_zip(&mut self, name: &Name, node: &Node, report: &mut Reporter) {
        let before = self.axes.len();
        self.read_axes("zip", name, node, report);
        let zipped = &self.axes[before..];
        self.zipped = zipped.len();
        let Some(first) = zipped.first() else { return };
        for axis in &zipped[1..] {
            let (n, m) = (axis.values.len(), first.values.len());
            if n != m {
                let message = format!("axis `{}` has {n} values and `{}` has {m}", axis.name, first.name);
                report.error(axis.place, message, Some("the lists of `zip` advance together".into()));
            }
        }
    }

    fn read_axes(&mut self, section: &str, name: &Name, node: &Node, report: &mut Reporter) {
        match &node.content {
            Content::Map(entries) => self.axes_of(section, "", entries, report),
            Content::Bad => {}
            _ if node.is_null() => {}
            _ => {
                let message = format!("`{section}: {}`: expected a map of axes", node.shown());
                report.error(name.place, message, Some("such as `seed: [0, 1, 2]`".into()));
            }
        }
    }

    fn axes_of(&mut self, section: &str, prefix: &str, entries: &[(Name, Node)], report: &mut Reporter) {
        for (name, node) in entries {
            let path = format!("{prefix}{}", name.text);
            match (schema::find(prefix, &name.text), &node.content) {
                (Found::Nothing(help), _) => unknown_key(prefix, name, help, report),
                (Found::Table(_), Content::Map(entries)) => {
                    self.axes_of(section, &format!("{path}."), entries, report);
                }
                (_, Content::Bad) => {}
                (Found::Setting(key), Content::List(items)) if lacks_lists(key, items) => {
                    let message =
                        format!("`{path}: {}`: one value of this axis is itself a list", node.shown());
                    report.error(node.place, message, Some(format!("write [{}]", node.shown())));
                    self.broken.push(key.path);
                }
                (_, Content::List(items)) => self.axis(section, prefix, name, items, report),
                _ => {
                    let message = format!("axis `{path}: {}`: expected a list of values", node.shown());
                    let help = Some(format!("write [{}], or move it to `base`", node.shown()));
                    report.error(node.place, message, help);
                }
            }
        }
    }

    /// One axis of `section` from the nodes of its values. In `grid` a value counts once; in `zip` it may come again.
    fn axis(&mut self, section: &str, prefix: &str, name: &Name, items: &[Node], report: &mut Reporter) {
        let path = format!("{prefix}{}", name.text);
        if items.is_empty() {
            report.error(name.place, format!("axis `{path}` has no values"), None);
            return;
        }
        let mut values: Vec<AxisValue> = vec![];
        for node in items {
            let mut leaves = vec![];
            let errors = report.count();
            one_setting(prefix, name, node, &mut leaves, &mut self.broken, report);
            refuse_twice(&leaves, report);
            if report.count() > errors || leaves.is_empty() {
                continue;
            }
            let shown = shown(&path, &leaves);
            if section == "grid" && values.iter().any(|value| value.shown == shown) {
                report.note(node.place, &format!("axis `{path}` lists {shown} twice; once is enough"));
            } else {
                values.push(AxisValue { leaves, shown });
            }
        }
        self.axes.push(Axis { name: path, place: name.place, values });
    }

    fn read_include(&mut self, node: &Node, report: &mut Reporter) {
        for (name, node) in maps("include", node, report) {
            let leaves = assignments("include", &name, node, &mut self.broken, report);
            self.include.push(leaves);
        }
    }

    fn read_sets(&mut self, sets: &[String], report: &mut Reporter) {
        for argument in sets {
            let source = report.source("--set", argument);
            let line = argument.lines().next().unwrap_or_default().chars().count().max(1);
            let whole = Place { source, line: 1, column: 1, len: line };
            let Some((key, value)) = argument.split_once('=') else {
                report.error(whole, "expected KEY=VALUE", Some("such as `train.iterations=500`".into()));
                continue;
            };
            let width = key.chars().count();
            let name = Name { text: key.trim().into(), place: Place { len: width.max(1), ..whole } };
            // Blanks in front of the value give its places the argument's columns.
            let padded = format!("{}{value}", " ".repeat(width + 1));
            let empty = Node { content: Content::Text { text: String::new(), plain: true }, place: whole };
            let errors = report.count();
            let node = match yaml::parse(&padded, source, report) {
                Some(node) => node,
                None if report.count() > errors => continue,
                None => empty,
            };
            if name.text == "name" {
                self.name = read_name(&node, report).or(self.name.take());
                continue;
            }
            let mut leaves = vec![];
            one_setting("", &name, &node, &mut leaves, &mut self.broken, report);
            self.replace_axis(&name, leaves);
        }
    }

    /// `--set` on an axis makes the given value its only one; on anything else it comes on top of everything.
    fn replace_axis(&mut self, name: &Name, leaves: Vec<Leaf>) {
        for leaf in leaves {
            let only = |axis: &Axis| {
                axis.name == leaf.key.path
                    || axis.name == name.text
                        && axis.values.iter().all(|value| value.leaves.len() == 1)
                        && axis.sets(leaf.key.path)
            };
            if let Some(at) = self.axes.iter().position(only) {
                let zipped = at + self.zipped >= self.axes.len();
                let axis = &mut self.axes[at];
                let shown = shown(&axis.name, std::slice::from_ref(&leaf));
                // The other axes of `zip` keep their length.
                axis.values.truncate(if zipped { usize::MAX } else { 1 });
                axis.values.fill(AxisValue { leaves: vec![leaf.clone()], shown });
            }
            self.sets.retain(|set| !std::ptr::eq(set.key, leaf.key));
            self.sets.push(leaf);
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
            for leaf in self.base.iter().filter(|leaf| axis.sets(leaf.key.path)) {
                let at = report.line(axis.place);
                let message =
                    format!("`{}` is set in `base` and is an axis of the sweep ({at})", leaf.key.path);
                report.error(leaf.place, message, Some("keep one of the two".into()));
            }
        }
    }
}

/// Whether a list given for an axis of lists holds no list: one value was written as if it were the axis.
pub(super) fn lacks_lists(key: &Key, items: &[Node]) -> bool {
    key.kind.is_list()
        && !items.is_empty()
        && items.iter().all(|item| matches!(item.content, Content::Text { .. }))
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

/// An axis value as tables show it: alone where it sets one thing, else as a map.
pub(super) fn shown(axis: &str, leaves: &[Leaf]) -> Value {
    if let [leaf] = leaves
        && (leaf.key.path == axis
            || matches!(schema::find("", axis), Found::Table(Some(key)) if std::ptr::eq(key, leaf.key)))
    {
        return leaf.value.clone();
    }
    let prefix = format!("{axis}.");
    let entry = |leaf: &Leaf| {
        (leaf.key.path.strip_prefix(&prefix).unwrap_or(leaf.key.path).to_owned(), leaf.value.clone())
    };
    Value::Object(leaves.iter().map(entry).collect::<Map<_, _>>())
}
