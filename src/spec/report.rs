//! What a sweep file asks of its report.

use serde::{Deserialize, Serialize};

use super::diagnostics::{Reporter, choice, did_you_mean};
use super::written::text;
use super::yaml::{Content, Name, Node, shorten};

pub(super) mod figure;
pub(super) mod table;

pub use figure::{FigureKind, FigureSettings, Pictures};
pub use table::{Published, TableSettings};

/// The `report` section of a sweep file. Where it is empty, the report chooses: one table over all axes but the seed,
/// and a sensitivity plot for each numeric axis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSettings {
    /// Tables, in order.
    pub tables: Vec<TableSettings>,
    /// Figures, in order.
    pub figures: Vec<FigureSettings>,
    /// Whose images are shown: slices with their labels, feature maps, samples of the diffusion models.
    pub pictures: Pictures,
}

/// One name or a list of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// The metrics of a case, in the order of the tables.
pub const METRICS: [&str; 4] = ["dice", "jaccard", "hd95", "asd"];

/// What a point costs, counted from its settings: parameters that are trained, operations of a training step and of
/// predicting a slice. Points have them where a table asks for one.
pub const COUNTS: [&str; 3] = ["parameters", "step_gflops", "slice_gflops"];

/// Settings that frames hold whether or not they are axes.
pub const FACTS: [&str; 4] = ["preset", "data.name", "method", "label_ratio"];

/// Other definitions of the distances, which a case has where `evaluate.variants` is set; see [`crate::metrics`].
pub const VARIANTS: [&str; 6] = ["hd95_mm", "asd_mm", "hd95_max", "hd95_max_mm", "assd", "assd_mm"];

/// Reads the section; `axes` are the sweep's.
pub(super) fn read(node: &Node, axes: &[String], report: &mut Reporter) -> ReportSettings {
    let mut settings = ReportSettings::default();
    for (name, node) in entries("report", node, report) {
        match name.text.as_str() {
            "tables" => {
                settings.tables =
                    each("tables", node, report, |node, report| table::read(node, axes, report));
            }
            "figures" => {
                settings.figures =
                    each("figures", node, report, |node, report| figure::read(node, axes, report));
            }
            "pictures" => {
                let word = word("pictures", "a truth value", node, &["true", "false"], report);
                settings.pictures = match word.as_deref() {
                    Some("true") => Pictures::All,
                    Some(_) => Pictures::None,
                    None => Pictures::Generated,
                };
            }
            _ => unknown("report", name, &["tables", "figures", "pictures"], report),
        }
    }
    settings
}

/// The entries of a map; anything else is reported.
fn entries<'a>(what: &str, node: &'a Node, report: &mut Reporter) -> &'a [(Name, Node)] {
    match &node.content {
        Content::Map(entries) => return entries,
        Content::Bad => {}
        _ if node.is_null() && what == "report" => {}
        _ => report.error(node.place, format!("`{what}: {}`: expected a map", node.shown()), None),
    }
    &[]
}

/// The items of a list, each read by `one`.
fn each<T>(
    what: &str,
    node: &Node,
    report: &mut Reporter,
    one: impl Fn(&Node, &mut Reporter) -> Option<T>,
) -> Vec<T> {
    match &node.content {
        Content::List(items) => return items.iter().filter_map(|item| one(item, report)).collect(),
        Content::Bad => {}
        _ if node.is_null() => {}
        _ => report.error(node.place, format!("`{what}: {}`: expected a list", node.shown()), None),
    }
    vec![]
}

fn unknown(what: &str, name: &Name, known: &[&str], report: &mut Reporter) {
    let message = format!("unknown key `{}` of a {what}: expected {}", shorten(&name.text), choice(known));
    report.error(name.place, message, did_you_mean(&name.text, known.iter().copied()));
}

fn missing(what: &str, key: &str, node: &Node, report: &mut Reporter) {
    if !matches!(node.content, Content::Bad) {
        report.error(node.place, format!("a {what} needs `{key}`"), None);
    }
}

fn word(key: &str, what: &str, node: &Node, known: &[&str], report: &mut Reporter) -> Option<String> {
    let word = text(node, key, report)?;
    if known.contains(&word.as_str()) {
        return Some(word);
    }
    let of =
        if known.is_empty() { "the sweep has none".into() } else { format!("expected {}", choice(known)) };
    let help = did_you_mean(&word, known.iter().copied());
    report.error(node.place, format!("`{key}: {}` is not {what}: {of}", node.shown()), help);
    None
}

fn words(key: &str, what: &str, node: &Node, known: &[&str], report: &mut Reporter) -> Vec<String> {
    each(key, node, report, |node, report| word(key, what, node, known, report))
}
