//! The card of a set of one's own.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Pattern;
use crate::data::CLASSES;
use crate::data::lists::{self, read_text};
use crate::data::split::Shares;
use crate::data::voxels::{Codes, Intensity};
use crate::spec::diagnostics::{Diagnostics, Reporter, choice, did_you_mean};
use crate::spec::yaml::{self, Content, Name, Node};

/// Longest card that is read, in bytes.
const LONGEST: u64 = 1 << 20;
const KEYS: [&str; 9] =
    ["name", "description", "classes", "images", "labels", "codes", "spacing", "intensity", "split"];
const SPLIT_KEYS: [&str; 4] = ["train", "val", "test", "balance"];
const BALANCE_KEYS: [&str; 3] = ["table", "patient", "column"];

/// What a card says.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::data) struct Card {
    pub(in crate::data) name: String,
    pub(in crate::data) description: String,
    /// The background first.
    pub(in crate::data) classes: Vec<String>,
    pub(in crate::data) images: Pattern,
    pub(in crate::data) labels: Pattern,
    /// Class of each code that is stored; where there is none, codes are classes.
    pub(super) codes: BTreeMap<i64, u8>,
    pub(super) spacing: Option<[f32; 3]>,
    pub(super) intensity: Intensity,
    split: Option<[f64; 3]>,
    pub(super) balance: Option<Balance>,
}

/// A table that tells what a split is balanced over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balance {
    /// Its file, in the folder of the card.
    pub(super) table: String,
    /// The column of patients.
    pub(super) patient: String,
    /// The column of groups.
    pub(super) column: String,
}

impl Card {
    /// Reads the card at `path`.
    ///
    /// # Errors
    /// Everything that is wrong, with line and column.
    pub(in crate::data) fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, LONGEST).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&path.display().to_string(), &text).map_err(Into::into)
    }

    /// Reads the text of a card that is shown as `file`.
    pub(in crate::data) fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut report = Reporter::default();
        let source = report.source(file, text);
        let card = match yaml::parse(text, source, &mut report) {
            Some(root) => read(&root, &mut report),
            None if report.clean() => {
                return Err(Diagnostics::of_file(file, "the card is empty".into(), None));
            }
            None => None,
        };
        match card {
            Some(card) if report.clean() => Ok(card),
            _ => Err(report.finish()),
        }
    }

    pub(super) fn codes(&self) -> Codes {
        if self.codes.is_empty() {
            return Codes::default();
        }
        Codes::new(self.codes.iter().map(|(&code, &class)| (code, class)))
    }

    /// The shares of a drawn split.
    pub(super) fn shares(&self) -> Shares {
        Shares(self.split.unwrap_or([70.0, 10.0, 20.0]))
    }

    pub(super) fn has_split(&self) -> bool {
        self.split.is_some() || self.balance.is_some()
    }

    /// `70:10:20, balanced over Vendor`
    pub(super) fn split_text(&self) -> String {
        let [train, val, test] = self.shares().0;
        let balance = self.balance.as_ref().map(|by| format!(", balanced over {}", by.column));
        format!("{train}:{val}:{test}{}", balance.unwrap_or_default())
    }

    /// What of it decides the content, written down in one way. The patterns only find the files, which are looked at.
    pub(super) fn deciding(&self) -> Result<String> {
        let intensity = match self.intensity {
            Intensity::Given => json!("given"),
            Intensity::MinMax => json!("minmax"),
            Intensity::Percentiles(low, high) => json!({ "percentiles": [low, high] }),
            Intensity::Window(low, high) => json!({ "window": [low, high] }),
        };
        let datasets = [self.images.dataset(), self.labels.dataset()];
        let all = json!([self.classes, self.codes, self.spacing, intensity, self.shares().0, datasets]);
        serde_json::to_string(&all).context("the card cannot be written down")
    }
}

/// Reads the map of a card.
fn read(root: &Node, report: &mut Reporter) -> Option<Card> {
    let Content::Map(entries) = &root.content else {
        report.error(root.place, "a card is a map", Some("begin with `name: …`".into()));
        return None;
    };
    known(entries, &KEYS, "key of a card", report);
    let get = |key: &str| entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node);
    for key in ["name", "classes", "images", "labels"].into_iter().filter(|key| get(key).is_none()) {
        report.error(root.place, format!("the card has no `{key}`"), Some(example(key).into()));
    }
    let classes = get("classes").and_then(|node| classes(node, report));
    let pattern = |key: &str, report: &mut Reporter| {
        let node = get(key)?;
        let text = text(key, node, report)?;
        let pattern = Pattern::parse(&text);
        pattern.map_err(|error| report.error(node.place, format!("`{key}`: {error}"), None)).ok()
    };
    let (images, labels) = (pattern("images", report), pattern("labels", report));
    if let (Some(images), Some(labels), Some(node)) = (&images, &labels, get("labels"))
        && let Some(place) = labels.places().find(|place| !images.places().any(|other| other == *place))
    {
        report.error(
            node.place,
            format!("`{{{place}}}` is no place of `images`, from whose files labels are found"),
            None,
        );
    }
    let codes = get("codes").map(|node| codes(node, classes.as_deref().unwrap_or_default(), report));
    let spacing = get("spacing").and_then(|node| match numbers::<3>("spacing", node, report)? {
        all if all.iter().all(|&mm| mm > 0.0) => Some(all.map(|mm| mm as f32)),
        _ => {
            report.error(node.place, "`spacing`: distances are above 0 mm", None);
            None
        }
    });
    let intensity = get("intensity").and_then(|node| intensity(node, report));
    let split = get("split").map(|node| split(node, report));
    let name = get("name").and_then(|node| {
        let name = text("name", node, report)?;
        if let Some(wrong) = lists::no_name(&name) {
            report.error(node.place, format!("`name` {wrong}"), None);
        }
        Some(name)
    });
    let description = get("description").and_then(|node| text("description", node, report));
    let (split, balance) = split.unwrap_or_default();
    Some(Card {
        name: name?,
        description: description.unwrap_or_default(),
        classes: classes?,
        images: images?,
        labels: labels?,
        codes: codes.unwrap_or_default(),
        spacing,
        intensity: intensity.unwrap_or_default(),
        split,
        balance,
    })
}

/// Reports keys that there are not.
fn known(entries: &[(Name, Node)], keys: &[&str], what: &str, report: &mut Reporter) {
    for (name, _) in entries.iter().filter(|(name, _)| !keys.contains(&name.text.as_str())) {
        let help = did_you_mean(&name.text, keys.iter().copied()).unwrap_or_else(|| choice(keys));
        report.error(name.place, format!("`{}` is no {what}", yaml::shorten(&name.text)), Some(help));
    }
}

fn example(key: &str) -> &'static str {
    match key {
        "name" => "such as `name: liver`",
        "classes" => "such as `classes: [background, liver, tumour]`",
        "images" => "such as `images: images/{patient}_{phase}.nii.gz`",
        _ => "such as `labels: labels/{patient}_{phase}.nii.gz`",
    }
}

fn text(key: &str, node: &Node, report: &mut Reporter) -> Option<String> {
    match &node.content {
        Content::Text { text, .. } if !node.is_null() => Some(text.clone()),
        Content::Bad => None,
        _ => {
            report.error(node.place, format!("`{key}: {}`: expected a text", node.shown()), None);
            None
        }
    }
}

fn number(key: &str, node: &Node, report: &mut Reporter) -> Option<f64> {
    let number = match &node.content {
        Content::Text { text, plain: true } => text.trim().parse::<f64>().ok().filter(|x| x.is_finite()),
        _ => None,
    };
    if number.is_none() {
        report.error(node.place, format!("`{key}: {}`: expected a number", node.shown()), None);
    }
    number
}

fn numbers<const N: usize>(key: &str, node: &Node, report: &mut Reporter) -> Option<[f64; N]> {
    match &node.content {
        Content::List(items) if items.len() == N => {
            let mut out = [0.0; N];
            for (out, item) in out.iter_mut().zip(items) {
                *out = number(key, item, report)?;
            }
            Some(out)
        }
        _ => {
            report.error(node.place, format!("`{key}: {}`: expected {N} numbers", node.shown()), None);
            None
        }
    }
}

fn classes(node: &Node, report: &mut Reporter) -> Option<Vec<String>> {
    let Content::List(items) = &node.content else {
        report.error(node.place, "`classes`: expected a list", Some(example("classes").into()));
        return None;
    };
    if !(2..=CLASSES).contains(&items.len()) {
        let message = format!(
            "`classes` has {} entries: 2 to {CLASSES} with the background, for the networks have {CLASSES} outputs",
            items.len()
        );
        report.error(node.place, message, Some("put classes together with `codes`".into()));
        return None;
    }
    let mut names = Vec::new();
    for item in items {
        let name = text("classes", item, report)?;
        let is_plain = !name.is_empty() && name.chars().count() <= 40 && !name.chars().any(char::is_control);
        if !is_plain || names.contains(&name) {
            report.error(
                item.place,
                format!("`classes`: `{}` is empty, too long or there twice", item.shown()),
                None,
            );
            return None;
        }
        names.push(name);
    }
    Some(names)
}

/// `{ 1: CSF, 2: GM }`, a class by its name or its number.
fn codes(node: &Node, classes: &[String], report: &mut Reporter) -> BTreeMap<i64, u8> {
    let mut codes = BTreeMap::new();
    let Content::Map(entries) = &node.content else {
        report.error(node.place, "`codes`: expected a map", Some("such as `codes: { 1: 1, 4: 2 }`".into()));
        return codes;
    };
    for (name, node) in entries {
        let Ok(code) = name.text.trim().parse::<i32>() else {
            report.error(
                name.place,
                format!("`codes`: `{}` is no whole number", yaml::shorten(&name.text)),
                None,
            );
            continue;
        };
        let Some(class) = text("codes", node, report) else { continue };
        let number = class.trim().parse::<usize>().ok().filter(|&class| class < classes.len());
        if let Some(class) = classes.iter().position(|known| *known == class).or(number) {
            codes.insert(i64::from(code), class as u8);
        } else {
            let help = did_you_mean(&class, classes.iter().map(String::as_str));
            let help = help.unwrap_or_else(|| format!("`classes` has {}", classes.join(", ")));
            report.error(node.place, format!("`codes`: there is no class `{}`", node.shown()), Some(help));
        }
    }
    codes
}

/// `minmax`, `given`, `{ percentiles: [1, 99] }` or `{ window: [-160, 240] }`.
fn intensity(node: &Node, report: &mut Reporter) -> Option<Intensity> {
    let help = "`minmax`, `given`, `{ percentiles: [1, 99] }` or `{ window: [-160, 240] }`";
    let pair = |key: &str, node: &Node, report: &mut Reporter| {
        let [low, high] = numbers::<2>(key, node, report)?;
        if low >= high {
            report.error(node.place, format!("`{key}`: {low} is not below {high}"), None);
            return None;
        }
        Some((low, high))
    };
    match &node.content {
        Content::Text { text, .. } if text == "minmax" => return Some(Intensity::MinMax),
        Content::Text { text, .. } if text == "given" => return Some(Intensity::Given),
        Content::Map(entries) => {
            if let [(name, node)] = entries.as_slice() {
                if name.text == "window" {
                    return pair("window", node, report).map(|(low, high)| Intensity::Window(low, high));
                }
                if name.text == "percentiles" {
                    let (low, high) = pair("percentiles", node, report)?;
                    if low >= 0.0 && high <= 100.0 {
                        return Some(Intensity::Percentiles(low, high));
                    }
                    report.error(node.place, "`percentiles` lie in [0, 100]", None);
                    return None;
                }
            }
        }
        _ => {}
    }
    report.error(node.place, format!("`intensity: {}` is not understood", node.shown()), Some(help.into()));
    None
}

fn split(node: &Node, report: &mut Reporter) -> (Option<[f64; 3]>, Option<Balance>) {
    let Content::Map(entries) = &node.content else {
        let help = "such as `split: { train: 70, val: 10, test: 20 }`; lists go into files beside the card";
        report.error(node.place, format!("`split: {}`: expected a map", node.shown()), Some(help.into()));
        return (None, None);
    };
    known(entries, &SPLIT_KEYS, "key of `split`", report);
    let get = |key: &str| entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node);
    let given = ["train", "val", "test"].map(get);
    let mut shares = [0.0; 3];
    let mut all = true;
    for ((share, node), key) in shares.iter_mut().zip(given).zip(["train", "val", "test"]) {
        let Some(node) = node else {
            all = false;
            continue;
        };
        match number(key, node, report) {
            Some(value) if value > 0.0 && value <= 1e6 => *share = value,
            Some(_) => report.error(node.place, format!("`{key}`: a part above 0 is needed"), None),
            None => {}
        }
    }
    if !all && given.iter().any(Option::is_some) {
        report.error(node.place, "`split` needs `train`, `val` and `test`", None);
    }
    (all.then_some(shares), get("balance").and_then(|node| balance(node, report)))
}

fn balance(node: &Node, report: &mut Reporter) -> Option<Balance> {
    let help = "such as `balance: { table: patients.csv, patient: ID, column: Vendor }`";
    let Content::Map(entries) = &node.content else {
        report.error(node.place, "`balance`: expected a map", Some(help.into()));
        return None;
    };
    known(entries, &BALANCE_KEYS, "key of `balance`", report);
    let get = |key: &str, report: &mut Reporter| {
        let Some((_, node)) = entries.iter().find(|(name, _)| name.text == key) else {
            report.error(node.place, format!("`balance` has no `{key}`"), Some(help.into()));
            return None;
        };
        Some((text(key, node, report)?, node))
    };
    let (table, patient, column) = (get("table", report), get("patient", report), get("column", report));
    let (table, at) = table?;
    if let Some(wrong) = lists::no_name(&table) {
        report.error(at.place, format!("`table` {wrong}: it lies beside the card"), None);
    }
    Some(Balance { table, patient: patient?.0, column: column?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "\
name: brain
classes: [background, CSF, GM, WM]
images: images/{patient}_{block}.nii.gz
labels: labels/{patient}_{block}.nii.gz
codes: { 1: CSF, 2: GM, 4: 2, 3: WM }
spacing: [1, 0.5, 0.5]
intensity: { percentiles: [1, 99] }
split: { train: 7, val: 2, test: 1, balance: { table: patients.csv, patient: ID, column: Vendor } }
";

    #[test]
    fn a_card_is_read_in_full() {
        let card = Card::parse("dataset.yaml", CARD).unwrap();
        assert_eq!(card.classes, ["background", "CSF", "GM", "WM"]);
        assert_eq!(card.codes, BTreeMap::from([(1, 1), (2, 2), (4, 2), (3, 3)]));
        assert_eq!(
            (card.spacing, card.intensity),
            (Some([1.0, 0.5, 0.5]), Intensity::Percentiles(1.0, 99.0))
        );
        assert_eq!(card.split_text(), "7:2:1, balanced over Vendor");
        let small = "name: a\nclasses: [b, c]\nimages: '{patient}.h5#image'\nlabels: '{patient}.h5#label'\n";
        let card = Card::parse("dataset.yaml", small).unwrap();
        assert_eq!((card.split_text().as_str(), card.intensity), ("70:10:20", Intensity::MinMax));
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once_with_its_place() {
        let text = "\
name: a/b
klasses: [a, b]
classes: [background]
images: images/x.nii
labels: labels/{patient}_{z}.nii
codes: { one: 1 }
spacing: [1, 2]
intensity: log
split: { train: 7, balance: { table: ../x.csv } }
";
        let error = Card::parse("dataset.yaml", text).unwrap_err().to_string();
        for part in [
            "dataset.yaml:1:7: `name` is a path",
            "dataset.yaml:2:1: `klasses` is no key of a card",
            "did you mean `classes`?",
            "dataset.yaml:3:10: `classes` has 1 entries",
            "dataset.yaml:4:9: `images`: it has no `{patient}`",
            "dataset.yaml:6:10: `codes`: `one` is no whole number",
            "dataset.yaml:7:10: `spacing: [1, 2]`: expected 3 numbers",
            "dataset.yaml:8:12: `intensity: log` is not understood",
            "`split` needs `train`, `val` and `test`",
            "`balance` has no `column`",
            "`table` is a path",
        ] {
            assert!(error.contains(part), "`{part}` is not in:\n{error}");
        }
        assert!(Card::parse("dataset.yaml", "").unwrap_err().to_string().contains("empty"));
    }
}
