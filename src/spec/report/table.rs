//! What a sweep file asks of a table.

use serde::{Deserialize, Serialize};

use super::super::diagnostics::{Reporter, choice, did_you_mean};
use super::super::settings::EmptyDistance;
use super::super::written::{is_name, text};
use super::super::yaml::{Content, Node};
use super::{COUNTS, FACTS, METRICS, OneOrMany, VARIANTS, each, entries, missing, unknown, word, words};

/// One table: a row for each combination of the values of `rows`, the mean ± SD over its seeds and the 95 % bootstrap
/// interval over its patients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    /// The axes whose values make the rows; one name or several.
    pub rows: OneOrMany,
    /// The name of its files; `by_ROWS` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Axes by whose values the rows form blocks; they are ranked and compared within their block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<String>,
    /// Columns: `dice`, `jaccard`, `hd95`, `asd`, the variants of the distances, and counts.
    #[serde(default = "all_metrics")]
    pub metrics: Vec<String>,
    /// The classes that a mean is over; all of them where it names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Whether each class has columns, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub per_class: bool,
    /// Only the points whose axes have one of these values.
    #[serde(default, rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<(String, Vec<String>)>,
    /// The row that all others of its block are compared with, by the values of its axes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<(String, String)>,
    /// Whether columns show the difference to the row of `against`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub difference: bool,
    /// Whether cells show the 95 % interval.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub interval: bool,
    /// The distance of a case whose prediction or label alone is empty; as it was evaluated where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<EmptyDistance>,
    /// Whether published values stand beside the measured ones.
    #[serde(default, skip_serializing_if = "Published::is_none")]
    pub published: Published,
    /// Text over the table.
    #[serde(default)]
    pub caption: Option<String>,
}

/// What a table shows of published values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// Nothing.
    #[default]
    None,
    /// Those of its rows.
    Beside,
    /// Those of its rows, and rows of methods that were not run.
    All,
}

impl Published {
    /// The words of a sweep file.
    pub(in crate::spec) const WORDS: [&str; 3] = ["none", "beside", "all"];

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl TableSettings {
    /// A table over `rows` with the metrics of all tables.
    pub fn of(rows: OneOrMany) -> Self {
        Self {
            rows,
            name: None,
            within: vec![],
            metrics: all_metrics(),
            classes: vec![],
            per_class: false,
            only: vec![],
            against: vec![],
            difference: false,
            interval: true,
            empty: None,
            published: Published::None,
            caption: None,
        }
    }
}

fn all_metrics() -> Vec<String> {
    METRICS.map(String::from).to_vec()
}

const fn yes() -> bool {
    true
}

// Serde hands references over.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_true(value: &bool) -> bool {
    *value
}

/// The keys of a table.
pub(in crate::spec) const KEYS: [&str; 13] = [
    "rows",
    "name",
    "within",
    "metrics",
    "classes",
    "per_class",
    "where",
    "against",
    "difference",
    "interval",
    "empty",
    "published",
    "caption",
];

/// Reads a table; `axes` are the sweep's.
pub(super) fn read(node: &Node, axes: &[String], report: &mut Reporter) -> Option<TableSettings> {
    let axes: Vec<&str> = axes.iter().map(String::as_str).collect();
    let (mut rows, mut table) = (None, TableSettings::of(OneOrMany::Many(vec![])));
    let metrics = [&METRICS[..], &VARIANTS, &COUNTS].concat();
    let settings = [&axes[..], &FACTS].concat();
    for (name, node) in entries("table", node, report) {
        let mut flag = |key: &str| {
            word(key, "a truth value", node, &["true", "false"], report).map(|word| word == "true")
        };
        match name.text.as_str() {
            "per_class" => table.per_class = flag("per_class").unwrap_or_default(),
            "difference" => table.difference = flag("difference").unwrap_or_default(),
            "interval" => table.interval = flag("interval").unwrap_or(true),
            "rows" => {
                rows = Some(match &node.content {
                    Content::List(_) => OneOrMany::Many(words("rows", "an axis", node, &axes, report)),
                    _ => OneOrMany::One(word("rows", "an axis", node, &axes, report).unwrap_or_default()),
                });
            }
            "name" => table.name = file_name(node, report),
            "within" => {
                table.within = match &node.content {
                    Content::List(_) => words("within", "an axis", node, &axes, report),
                    _ => word("within", "an axis", node, &axes, report).into_iter().collect(),
                };
            }
            "metrics" => table.metrics = words("metrics", "a metric", node, &metrics, report),
            "classes" => {
                table.classes = each("classes", node, report, |node, report| text(node, "class", report));
            }
            "where" => table.only = values("where", node, &settings, report, several),
            "against" => table.against = values("against", node, &settings, report, single),
            "empty" => {
                table.empty = word("empty", "a rule", node, &["zero", "diagonal"], report)
                    .map(|rule| if rule == "zero" { EmptyDistance::Zero } else { EmptyDistance::Diagonal });
            }
            "published" => {
                table.published =
                    match word("published", "a choice", node, &Published::WORDS, report).as_deref() {
                        Some("beside") => Published::Beside,
                        Some("all") => Published::All,
                        _ => Published::None,
                    };
            }
            "caption" => table.caption = text(node, "caption", report),
            _ => unknown("table", name, &KEYS, report),
        }
    }
    if rows.is_none() {
        missing("table", "rows", node, report);
    }
    if table.difference && table.against.is_empty() {
        let message = "a table with `difference` needs `against`, the row to compare with";
        report.error(node.place, message, Some("such as `against: { dfm: true, dic: true }`".into()));
    }
    Some(TableSettings { rows: rows?, ..table })
}

pub(super) fn file_name(node: &Node, report: &mut Reporter) -> Option<String> {
    let name = text(node, "name", report)?;
    if is_name(&name) {
        return Some(name);
    }
    let message = format!("`name: {}`: it becomes the name of files", node.shown());
    report.error(node.place, message, Some("write letters, digits, `.`, `_` and `-`".into()));
    None
}

/// A map from axes to what `read` makes of their values.
pub(super) fn values<T>(
    key: &str,
    node: &Node,
    axes: &[&str],
    report: &mut Reporter,
    read: fn(&Node) -> Option<T>,
) -> Vec<(String, T)> {
    let mut found = vec![];
    for (name, node) in entries(key, node, report) {
        if !axes.contains(&name.text.as_str()) {
            let help = did_you_mean(&name.text, axes.iter().copied());
            let message = format!("`{}` in `{key}` is no axis: expected {}", name.text, choice(axes));
            report.error(name.place, message, help);
        } else if let Some(value) = read(node) {
            found.push((name.text.clone(), value));
        } else if !matches!(node.content, Content::Bad) {
            let message = format!("`{}: {}` is no value of an axis", name.text, node.shown());
            report.error(node.place, message, None);
        }
    }
    found
}

/// A value as frames hold it: a list in brackets, nothing as an empty text, all else as it is written.
pub(super) fn single(node: &Node) -> Option<String> {
    match &node.content {
        _ if node.is_null() => Some(String::new()),
        Content::Text { text, .. } => Some(text.clone()),
        Content::List(items) => {
            let items: Option<Vec<String>> = items.iter().map(single).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        _ => None,
    }
}

/// One value or a list of them. A list of numbers is both: the value of an axis of lists, and several of another.
pub(super) fn several(node: &Node) -> Option<Vec<String>> {
    let whole = single(node)?;
    let Content::List(items) = &node.content else { return Some(vec![whole]) };
    let mut values: Vec<String> = items.iter().map(single).collect::<Option<_>>()?;
    values.push(whole);
    Some(values)
}
