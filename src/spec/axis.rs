//! Reading the axes of `grid` and `zip`.

use serde_json::{Map, Value};

use super::diagnostics::Reporter;
use super::exclude::read_matches;
use super::schema::{self, Found, Key};
use super::written::{Axis, AxisValue, Leaf, When, Written, one_setting, refuse_twice, unknown_key};
use super::yaml::{Content, Name, Node};

/// The keys of a conditional axis.
const CONDITIONAL: [&str; 2] = ["when", "values"];

/// Where values of axes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// `grid`: a value counts once.
    Grid,
    /// `zip`: a value may come again.
    Zip,
}

impl Section {
    const fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Zip => "zip",
        }
    }
}

impl Written {
    pub(super) fn read_grid(&mut self, name: &Name, node: &Node, report: &mut Reporter) {
        self.grid = Some(name.place);
        if node.is_null() || matches!(&node.content, Content::Map(entries) if entries.is_empty()) {
            let help = Some("list axes, or leave `grid` out to run `base` alone".into());
            report.error(name.place, "the grid is empty", help);
        }
        self.read_axes(Section::Grid, name, node, report);
    }

    pub(super) fn read_zip(&mut self, name: &Name, node: &Node, report: &mut Reporter) {
        let before = self.axes.len();
        self.read_axes(Section::Zip, name, node, report);
        self.zipped = self.axes.len() - before;
    }

    /// The lists of `zip` are equally long. A list with a wrong value in it was reported already.
    pub(super) fn check_zip(&self, report: &mut Reporter) {
        let zipped = &self.axes[self.axes.len() - self.zipped..];
        let whole =
            |axis: &&Axis| !axis.values.is_empty() && !self.broken.iter().any(|path| axis.covers(path));
        let mut whole = zipped.iter().filter(whole);
        let Some(first) = whole.next() else { return };
        for axis in whole {
            let (n, m) = (axis.values.len(), first.values.len());
            if n != m {
                let values = if n == 1 { "value" } else { "values" };
                let message = format!("axis `{}` has {n} {values} and `{}` has {m}", axis.name, first.name);
                report.error(axis.place, message, Some("the lists of `zip` advance together".into()));
            }
        }
    }

    fn read_axes(&mut self, section: Section, name: &Name, node: &Node, report: &mut Reporter) {
        match &node.content {
            Content::Map(entries) => self.axes_of(section, "", entries, report),
            Content::Bad => {}
            _ if node.is_null() => {}
            _ => {
                let message = format!("`{}: {}`: expected a map of axes", section.name(), node.shown());
                report.error(name.place, message, Some("such as `seed: [0, 1, 2]`".into()));
            }
        }
    }

    fn axes_of(&mut self, section: Section, prefix: &str, entries: &[(Name, Node)], report: &mut Reporter) {
        for (name, node) in entries {
            let path = format!("{prefix}{}", name.text);
            match (schema::find(prefix, &name.text), &node.content) {
                (Found::Nothing(help), _) => unknown_key(prefix, name, help, report),
                (Found::Setting(_) | Found::Table(_), Content::Map(entries)) if is_conditional(entries) => {
                    self.conditional(section, prefix, name, entries, report);
                }
                (Found::Table(_), Content::Map(entries)) => {
                    self.axes_of(section, &format!("{path}."), entries, report);
                }
                (_, Content::Bad) => self.break_axis(&path),
                _ => self.plain(section, prefix, name, node, report),
            }
        }
    }

    /// An axis that is a list of values.
    fn plain(&mut self, section: Section, prefix: &str, name: &Name, node: &Node, report: &mut Reporter) {
        let axis = self.read_axis(section, prefix, name, node, report);
        self.axes.extend(axis);
    }

    /// An axis with `when` and `values`.
    fn conditional(
        &mut self,
        section: Section,
        prefix: &str,
        name: &Name,
        entries: &[(Name, Node)],
        report: &mut Reporter,
    ) {
        let path = format!("{prefix}{}", name.text);
        let entry = |key: &str| entries.iter().find(|(name, _)| name.text == key);
        for (key, _) in entries.iter().filter(|(key, _)| !CONDITIONAL.contains(&key.text.as_str())) {
            let message =
                format!("unknown key `{}` of axis `{path}`: expected `when` and `values`", key.text);
            let help = super::diagnostics::did_you_mean(&key.text, CONDITIONAL);
            report.error(key.place, message, help);
        }
        let when = entry("when").and_then(|(name, node)| read_when(&path, name, node, report));
        if let Some((key, _)) = entry("when")
            && section == Section::Zip
        {
            let message = format!("axis `{path}` of `zip` has a `when`: only an axis of `grid` can");
            report.error(key.place, message, None);
        }
        match (entry("when"), entry("values")) {
            (Some(_), Some((_, values))) => {
                let axis = self.read_axis(section, prefix, name, values, report);
                self.axes.extend(axis.map(|axis| Axis { when, ..axis }));
            }
            (None, _) => {
                let help = Some(format!("without a condition, write `{path}: [...]`"));
                report.error(name.place, format!("axis `{path}` has `values` and no `when`"), help);
                self.break_axis(&path);
            }
            (Some(_), None) => {
                report.error(name.place, format!("axis `{path}` has a `when` and no `values`"), None);
                self.break_axis(&path);
            }
        }
    }

    /// The axis whose values are listed in `node`.
    pub(super) fn read_axis(
        &mut self,
        section: Section,
        prefix: &str,
        name: &Name,
        node: &Node,
        report: &mut Reporter,
    ) -> Option<Axis> {
        let path = format!("{prefix}{}", name.text);
        let Content::List(items) = &node.content else {
            if !matches!(node.content, Content::Bad) {
                let message = format!("axis `{path}: {}`: expected a list of values", node.shown());
                let help = Some(format!("write [{}], or move it to `base`", node.shown()));
                report.error(node.place, message, help);
            }
            self.break_axis(&path);
            return None;
        };
        if let Some(key) = schema::setting(&path)
            && lacks_lists(key, items)
        {
            let message = format!("`{path}: {}`: one value of this axis is itself a list", node.shown());
            report.error(node.place, message, Some(format!("write [{}]", node.shown())));
            self.broken.push(key.path);
            return None;
        }
        if items.is_empty() {
            report.error(name.place, format!("axis `{path}` has no values"), None);
            self.break_axis(&path);
            return None;
        }
        let mut values: Vec<AxisValue> = vec![];
        let mut seen = std::collections::HashSet::new();
        for node in items {
            let mut leaves = vec![];
            let errors = report.count();
            one_setting(prefix, name, node, &mut leaves, &mut self.broken, report);
            refuse_twice(&leaves, report);
            if report.count() > errors || leaves.is_empty() {
                continue;
            }
            let shown = shown(&path, &leaves);
            if section == Section::Grid && !seen.insert(shown.to_string()) {
                report.note(node.place, &format!("axis `{path}` lists {shown} twice; once is enough"));
            } else {
                values.push(AxisValue { leaves, shown });
            }
        }
        Some(Axis { name: path, place: name.place, values, when: None })
    }

    /// Nothing more is said about what the axis `path` would set.
    fn break_axis(&mut self, path: &str) {
        let below =
            |key: &str| key == path || key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        self.broken.extend(schema::KEYS.iter().map(|key| key.path).filter(|key| below(key)));
    }
}

impl Axis {
    /// Whether `path` is this axis or a setting of its table.
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&self.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// Whether a map is a condition with values, rather than a table of axes.
pub(super) fn is_conditional(entries: &[(Name, Node)]) -> bool {
    entries.iter().any(|(name, _)| CONDITIONAL.contains(&name.text.as_str()))
}

fn read_when(path: &str, name: &Name, node: &Node, report: &mut Reporter) -> Option<When> {
    let mut matches = vec![];
    match &node.content {
        Content::Map(entries) => read_matches("", entries, &mut matches, report),
        Content::Bad => {}
        _ => {
            let message = format!("`when: {}` of axis `{path}`: expected a map of settings", node.shown());
            report.error(node.place, message, Some("such as `when: { method: mcsd }`".into()));
        }
    }
    (!matches.is_empty()).then_some(When { place: name.place, matches })
}

/// Whether a list given for an axis of lists holds no list: one value was written as if it were the axis.
pub(super) fn lacks_lists(key: &Key, items: &[Node]) -> bool {
    key.kind.is_list()
        && !items.is_empty()
        && items.iter().all(|item| matches!(item.content, Content::Text { .. }))
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
