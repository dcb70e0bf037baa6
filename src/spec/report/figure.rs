//! What a sweep file asks of a figure, and whose pictures a report shows.

use serde::{Deserialize, Serialize};

use super::super::diagnostics::{Reporter, choice, did_you_mean};
use super::super::written::text;
use super::super::yaml::{Content, Node};
use super::table::{file_name, several, single, values};
use super::{METRICS, OneOrMany, entries, unknown, word, words};

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureSettings {
    /// What is drawn.
    pub kind: FigureKind,
    /// The axis along x, the two of a heat map, or those whose values make configurations; all that vary where it names
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<OneOrMany>,
    /// The metric along y, also of one class (`dice_LV`), or what was logged; Dice where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// The axes that make series; all others that vary where it names none. Axes that are in neither are averaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OneOrMany>,
    /// Only the points whose axes have one of these values.
    #[serde(default, rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<(String, Vec<String>)>,
    /// The configuration that others are set against, by the values of its axes; the first where it names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<(String, String)>,
    /// The name of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text that begins its caption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
}

impl FigureSettings {
    /// A figure of a kind over the axes `x`, or over all where there are none.
    pub fn of(kind: FigureKind, x: Vec<String>) -> Self {
        let x = (!x.is_empty()).then_some(OneOrMany::Many(x));
        Self { kind, x, y: None, by: None, only: vec![], against: vec![], name: None, caption: None }
    }
}

/// What a figure draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FigureKind {
    /// A metric over the values of one axis: a line along numbers, a row for each of other values.
    Sensitivity,
    /// A metric over the label ratio, a line for each method.
    Ratio,
    /// A metric for each configuration, a row each.
    Category,
    /// A bar for each combination of modules.
    Ablation,
    /// A metric over two axes.
    Heatmap,
    /// What was logged over training steps: the loss and the validation Dice, or what `y` names.
    Learning,
    /// The share of pixels whose pseudo-label is sure enough, over training steps.
    Accepted,
    /// Each patient's value under two configurations.
    Scatter,
    /// How the patients' values spread under each configuration.
    Box,
    /// The critical-difference diagram: mean ranks over patients.
    Ranks,
    /// The diffusion models' loss by diffusion step.
    Diffusion,
    /// Image, truth and the labels and errors of each configuration, on slices of the test split.
    Overlay,
    /// The feature maps that a training reads, of one slice.
    Features,
    /// Images sampled from the diffusion models.
    Samples,
}

impl FigureKind {
    /// All, as a sweep file writes them.
    pub const ALL: [(&'static str, Self); 14] = [
        ("sensitivity", Self::Sensitivity),
        ("ratio", Self::Ratio),
        ("category", Self::Category),
        ("ablation", Self::Ablation),
        ("heatmap", Self::Heatmap),
        ("learning", Self::Learning),
        ("accepted", Self::Accepted),
        ("scatter", Self::Scatter),
        ("box", Self::Box),
        ("ranks", Self::Ranks),
        ("diffusion", Self::Diffusion),
        ("overlay", Self::Overlay),
        ("features", Self::Features),
        ("samples", Self::Samples),
    ];

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Whether it shows images: of patients, where the data are real.
    pub fn is_picture(self) -> bool {
        matches!(self, Self::Overlay | Self::Features | Self::Samples)
    }
}

/// Whose images a report shows: those of patients, and those that a diffusion model learned from patients, are personal
/// data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PicturesText", into = "PicturesText")]
pub enum Pictures {
    /// Of generated data only.
    #[default]
    Generated,
    /// Of all data: `pictures: true`.
    All,
    /// None: `pictures: false`.
    None,
}

/// As it is written: a truth value where older programs, whose default was true, mean the same by it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PicturesText {
    Flag(bool),
    Word(String),
}

impl From<PicturesText> for Pictures {
    fn from(text: PicturesText) -> Self {
        match text {
            PicturesText::Flag(false) => Self::None,
            PicturesText::Word(word) if word == "all" => Self::All,
            _ => Self::Generated,
        }
    }
}

impl From<Pictures> for PicturesText {
    fn from(pictures: Pictures) -> Self {
        match pictures {
            Pictures::Generated => Self::Flag(true),
            Pictures::All => Self::Word("all".to_owned()),
            Pictures::None => Self::Flag(false),
        }
    }
}

impl Pictures {
    /// Whether images of data are shown that are generated, or are not.
    pub fn shows(self, generated: bool) -> bool {
        match self {
            Self::Generated => generated,
            Self::All => true,
            Self::None => false,
        }
    }
}

/// The keys of a figure.
pub(in crate::spec) const KEYS: [&str; 8] = ["kind", "x", "y", "by", "where", "against", "name", "caption"];

/// Reads a figure; `axes` are the sweep's.
pub(super) fn read(node: &Node, axes: &[String], report: &mut Reporter) -> Option<FigureSettings> {
    let axes: Vec<&str> = axes.iter().map(String::as_str).collect();
    let kinds = FigureKind::ALL.map(|(name, _)| name);
    let mut figure = FigureSettings::of(FigureKind::Sensitivity, vec![]);
    let (mut kind, mut y) = (Some(figure.kind), None);
    for (name, node) in entries("figure", node, report) {
        let mut names = |key: &str| match &node.content {
            Content::List(_) => OneOrMany::Many(words(key, "an axis", node, &axes, report)),
            _ => OneOrMany::One(word(key, "an axis", node, &axes, report).unwrap_or_default()),
        };
        match name.text.as_str() {
            "kind" => {
                let word = word("kind", "a kind of figure", node, &kinds, report);
                kind = word.as_deref().and_then(FigureKind::named);
            }
            "x" => figure.x = Some(names("x")),
            "by" => figure.by = Some(names("by")),
            "y" => y = Some(node),
            "where" => figure.only = values("where", node, &axes, report, several),
            "against" => figure.against = values("against", node, &axes, report, single),
            "name" => figure.name = file_name(node, report),
            "caption" => figure.caption = text(node, "caption", report),
            _ => unknown("figure", name, &KEYS, report),
        }
    }
    figure.kind = kind?;
    if let Some(y) = y {
        figure.y = metric(y, figure.kind, report);
    }
    let count = figure.x.as_ref().map_or(0, |x| x.names().len());
    let needed = match figure.kind {
        FigureKind::Sensitivity if count != 1 => Some("a sensitivity figure needs `x`, one axis"),
        FigureKind::Heatmap if count + figure.by.as_ref().map_or(0, |by| by.names().len()) != 2 => {
            Some("a heat map needs two axes: `x: [one, other]`")
        }
        _ => None,
    };
    if let Some(needed) = needed
        && !matches!(node.content, Content::Bad)
    {
        report.error(node.place, needed.to_owned(), None);
        return None;
    }
    Some(figure)
}

/// What `y` names: a metric, also of one class, or what a training logs.
fn metric(node: &Node, kind: FigureKind, report: &mut Reporter) -> Option<String> {
    let name = text(node, "y", report)?;
    if kind == FigureKind::Learning {
        return Some(name);
    }
    // The classes are not known before the data are.
    let known = |metric: &&str| {
        name.strip_prefix(metric).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    if METRICS.iter().chain(&super::VARIANTS).any(known) {
        return Some(name);
    }
    let message = format!("`y: {}` is not a metric: expected {}", node.shown(), choice(&METRICS));
    report.error(node.place, message, did_you_mean(&name, METRICS));
    None
}
