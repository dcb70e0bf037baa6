//! The keys of a sweep file: one row per setting, with what it takes. Tests hold the table to the types in
//! [`super::settings`].

use serde_json::{Value, json};

use super::diagnostics::{Place, Reporter, choice, did_you_mean};
use super::settings::LabelRatio;
use super::yaml::{Content, Node, shorten};

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    /// Its dotted path.
    pub(super) path: &'static str,
    /// What it takes.
    pub(super) kind: Kind,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count(Count),
    /// A number.
    Number(Range),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A folder.
    Folder,
    /// A file, or nothing.
    File,
    /// A label ratio.
    Ratio,
    /// A list of whole numbers: each one's range, how many there must be (else: at least one), whether all differ.
    Counts(Count, Option<usize>, bool),
    /// So many numbers.
    Numbers(Range, usize),
}

/// Whole numbers from `min` to `max` that are multiples of `multiple`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) multiple: u64,
}

/// An interval of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Range {
    /// (0, 1]
    Fraction,
    /// `[0, 1]`
    Probability,
    /// [0, 1)
    BelowOne,
    /// > 0
    Positive,
    /// ≥ 0
    NotNegative,
}

impl Range {
    fn holds(self, x: f64) -> bool {
        x.is_finite()
            && match self {
                Self::Fraction => x > 0.0 && x <= 1.0,
                Self::Probability => (0.0..=1.0).contains(&x),
                Self::BelowOne => (0.0..1.0).contains(&x),
                Self::Positive => x > 0.0,
                Self::NotNegative => x >= 0.0,
            }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Fraction => "a number in (0, 1]",
            Self::Probability => "a number in [0, 1]",
            Self::BelowOne => "a number in [0, 1)",
            Self::Positive => "a number above 0",
            Self::NotNegative => "a number, 0 or more",
        }
    }
}

impl Count {
    fn text(self) -> String {
        let kind = match self.multiple {
            1 => "a whole number".to_owned(),
            n => format!("a multiple of {n}"),
        };
        match self.max {
            u64::MAX => format!("{kind}, {} or more", self.min),
            max => format!("{kind} from {} to {max}", self.min),
        }
    }
}

const fn count(min: u64, max: u64) -> Count {
    Count { min, max, multiple: 1 }
}

const fn multiple(of: u64, max: u64) -> Count {
    Count { min: of, max, multiple: of }
}

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind }
}

const SEED: Kind = Kind::Count(count(0, u64::MAX));
const STEPS: u64 = 1_000_000_000;
const PRECISION: Kind = Kind::Word(&["f32", "tf32", "bf16"]);
const PROBABILITY: Kind = Kind::Number(Range::Probability);

const METHODS: Kind = Kind::Word(&[
    "supervised",
    "mean_teacher",
    "ua_mt",
    "urpc",
    "cps",
    "cross_teaching",
    "mc_net",
    "mc_net_plus",
    "bcp",
    "sc_ssl",
    "unimatch",
    "mcsd",
]);

/// Every setting, in the order of [`super::settings::Settings`].
pub(super) static KEYS: [Key; 74] = [
    key("preset", Kind::Word(&["smoke", "lite", "paper"])),
    key("data.name", Kind::Word(&["phantom", "acdc", "mnms", "own"])),
    key("data.root", Kind::Folder),
    key("data.patients", Kind::Count(count(10, 2_000))),
    key("data.seed", SEED),
    key("data.unlabelled", Kind::Flag),
    key("method", METHODS),
    key("label_ratio", Kind::Ratio),
    key("seed", SEED),
    key("size", Kind::Count(multiple(32, 4096))),
    key("tau", Kind::Number(Range::Fraction)),
    key("dfm", Kind::Flag),
    key("dic", Kind::Flag),
    key("timesteps", Kind::Counts(count(0, 999), None, true)),
    key("blocks", Kind::Counts(count(0, 999), None, true)),
    key("feature_dim", Kind::Count(count(1, 65_536))),
    key("diffusion.channels", Kind::Count(multiple(32, 4096))),
    key("diffusion.channel_mult", Kind::Counts(count(1, 64), None, false)),
    key("diffusion.res_blocks", Kind::Count(count(1, 64))),
    key("diffusion.attention", Kind::Counts(count(1, 4096), None, true)),
    key("diffusion.head_channels", Kind::Count(count(1, 4096))),
    key("diffusion.resblock_updown", Kind::Flag),
    key("diffusion.scale_shift_norm", Kind::Flag),
    key("diffusion.dropout", Kind::Number(Range::BelowOne)),
    key("diffusion.iterations", Kind::Count(count(0, STEPS))),
    key("diffusion.batch", Kind::Count(count(1, 65_536))),
    key("diffusion.lr", Kind::Number(Range::Positive)),
    key("diffusion.ema", Kind::Number(Range::BelowOne)),
    key("diffusion.seed", SEED),
    key("diffusion.pixels", Kind::Word(&["signed", "unit"])),
    key("diffusion.precision", PRECISION),
    key("features.mode", Kind::Word(&["cached", "online"])),
    key("features.reduction", Kind::Word(&["learned", "fixed_random", "per_image_random"])),
    key("features.noise_seed", SEED),
    key("features.aligned", Kind::Flag),
    key("unet.channels", Kind::Counts(count(1, 65_536), Some(5), false)),
    key("unet.dropout", Kind::Numbers(Range::BelowOne, 5)),
    key("mcsd.feature_loss", Kind::Word(&["literal", "mutual", "fused"])),
    key("mcsd.test_stream", Kind::Word(&["image", "feature", "mean"])),
    key("mcsd.feature_dropout", Kind::Flag),
    key("train.iterations", Kind::Count(count(1, STEPS))),
    key("train.batch", Kind::Count(count(1, 65_536))),
    key("train.lr", Kind::Number(Range::Positive)),
    key("train.momentum", Kind::Number(Range::BelowOne)),
    key("train.weight_decay", Kind::Number(Range::NotNegative)),
    key("train.poly", Kind::Number(Range::NotNegative)),
    key("train.loss", Kind::Word(&["ce", "ce_dice", "half_dice"])),
    key("train.validate_every", Kind::Count(count(1, STEPS))),
    key("train.lr_lag", Kind::Count(count(0, STEPS))),
    key("train.selection", Kind::Word(&["val", "test"])),
    key("train.precision", PRECISION),
    key("augment.flip", PROBABILITY),
    key("augment.rotate", PROBABILITY),
    key("augment.jitter", PROBABILITY),
    key("augment.blur", PROBABILITY),
    key("augment.cutmix", PROBABILITY),
    key("augment.quantise", Kind::Flag),
    key("evaluate.split", Kind::Word(&["val", "test"])),
    key("evaluate.empty", Kind::Word(&["zero", "diagonal"])),
    key("evaluate.select", Kind::Word(&["best", "last"])),
    key("evaluate.variants", Kind::Flag),
    key("consistency.weight", Kind::Number(Range::NotNegative)),
    key("consistency.ramp", PROBABILITY),
    key("consistency.delay", Kind::Count(count(0, STEPS))),
    key("teacher.ema", Kind::Number(Range::BelowOne)),
    key("teacher.warm_up", Kind::Flag),
    key("teacher.buffers", Kind::Flag),
    key("bcp.pretrain", Kind::Count(count(0, STEPS))),
    key("bcp.weight", Kind::Number(Range::NotNegative)),
    key("bcp.components", Kind::Flag),
    key("swin.channels", Kind::Count(count(3, 4096))),
    key("swin.window", Kind::Count(count(1, 4096))),
    key("swin.drop_path", Kind::Number(Range::BelowOne)),
    key("swin.weights", Kind::File),
];

/// Tables that may be written as one value: `data: acdc` is `data: { name: acdc }`.
pub(super) const SHORTHANDS: [(&str, &str); 2] = [("data", "data.name"), ("features", "features.mode")];

/// What a dotted path names.
pub(super) enum Found {
    /// A setting.
    Setting(&'static Key),
    /// A table of settings, and the setting that a bare value means.
    Table(Option<&'static Key>),
    /// Nothing; what may have been meant.
    Nothing(Option<String>),
}

/// The setting with this path.
pub(super) fn setting(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Finds what `path` names; `prefix` is the part that was already found, with its dot.
pub(super) fn find(prefix: &str, name: &str) -> Found {
    let path = format!("{prefix}{name}");
    if let Some(key) = setting(&path) {
        return Found::Setting(key);
    }
    let table = format!("{path}.");
    if !name.is_empty() && KEYS.iter().any(|key| key.path.starts_with(&table)) {
        let short = SHORTHANDS.iter().find(|(table, _)| *table == path);
        return Found::Table(short.and_then(|(_, path)| setting(path)));
    }
    Found::Nothing(suggest(prefix, &path))
}

/// The key that may have been meant by an unknown one.
fn suggest(prefix: &str, path: &str) -> Option<String> {
    let last = path.rsplit('.').next().unwrap_or(path);
    let homes: Vec<_> =
        KEYS.iter().map(|key| key.path).filter(|p| p.rsplit('.').next() == Some(last)).collect();
    if !homes.is_empty() {
        return Some(format!("did you mean {}?", choice(&homes)));
    }
    let mut words: Vec<&str> = vec![];
    for key in KEYS.iter().filter(|key| key.path.starts_with(prefix)) {
        let rest = &key.path[prefix.len()..];
        words.push(if path[prefix.len()..].contains('.') {
            rest
        } else {
            rest.split('.').next().unwrap_or(rest)
        });
    }
    did_you_mean(&path[prefix.len()..], words.iter().copied())
        .or_else(|| did_you_mean(path, KEYS.iter().map(|key| key.path)))
        .or_else(|| did_you_mean(last, KEYS.iter().filter_map(|key| key.path.rsplit('.').next())))
}

impl Kind {
    /// What is allowed, in words.
    pub(super) fn text(self) -> String {
        let items = |count: Count| count.text().replacen("a whole number", "whole numbers", 1);
        match self {
            Self::Flag => "`true` or `false`".into(),
            Self::Count(count) => count.text(),
            Self::Number(range) => range.text().into(),
            Self::Word(words) => choice(words),
            Self::Folder => "the path of a folder".into(),
            Self::File => "the path of a file, or nothing".into(),
            Self::Ratio => "`10%`, `7 cases` or a number of patients".into(),
            Self::Counts(count, None, _) => format!("a list of {}", items(count)),
            Self::Counts(count, Some(n), _) => format!("a list of {n} {}", items(count)),
            Self::Numbers(range, n) => format!("a list of {n} numbers, each {}", range.text()),
        }
    }

    /// Whether one value is a list.
    pub(super) const fn is_list(self) -> bool {
        matches!(self, Self::Counts(..) | Self::Numbers(..))
    }
}

/// The value of `key` as written in `node`, in the form of the settings' JSON, with the places of a list's items.
/// What is wrong is reported.
pub(super) fn check(key: &Key, node: &Node, report: &mut Reporter) -> Option<(Value, Vec<Place>)> {
    if matches!(node.content, Content::Bad) {
        return None;
    }
    if !key.kind.is_list() {
        return Some((scalar(key.path, key.kind, node, report)?, vec![]));
    }
    let Content::List(items) = &node.content else {
        wrong(key.path, key.kind, node, report);
        return None;
    };
    let (item, len, distinct) = match key.kind {
        Kind::Counts(count, len, distinct) => (Kind::Count(count), len, distinct),
        Kind::Numbers(range, len) => (Kind::Number(range), Some(len), false),
        _ => return None,
    };
    if items.is_empty() || len.is_some_and(|len| len != items.len()) {
        wrong(key.path, key.kind, node, report);
        return None;
    }
    let values: Vec<Option<Value>> = items
        .iter()
        .enumerate()
        .map(|(i, node)| scalar(&format!("{}[{i}]", key.path), item, node, report))
        .collect();
    let values: Vec<Value> = values.into_iter().collect::<Option<_>>()?;
    for (i, value) in values.iter().enumerate().filter(|_| distinct) {
        if values[..i].contains(value) {
            report.error(items[i].place, format!("`{}` lists {value} twice", key.path), None);
            return None;
        }
    }
    Some((Value::Array(values), items.iter().map(|item| item.place).collect()))
}

fn wrong(path: &str, kind: Kind, node: &Node, report: &mut Reporter) {
    let help = match (&node.content, kind) {
        (Content::Text { text, .. }, Kind::Word(words)) => did_you_mean(text, words.iter().copied()),
        (Content::Text { text, .. }, Kind::Flag) => match text.to_lowercase().as_str() {
            "yes" | "on" | "y" | "1" => Some("write `true`".into()),
            "no" | "off" | "n" | "0" => Some("write `false`".into()),
            other => did_you_mean(other, ["true", "false"]),
        },
        (Content::Text { text, .. }, Kind::Count(_)) => whole(text).map(|n| format!("write {n}")),
        (Content::Text { text, plain: false }, Kind::Number(_)) if text.parse::<f64>().is_ok() => {
            Some("write it without quotes".into())
        }
        (Content::Text { .. }, Kind::Counts(..)) => Some(format!("write [{}]", node.shown())),
        _ => None,
    };
    let message = format!("`{path}: {}`: expected {}", node.shown(), kind.text());
    report.error(node.place, message, help);
}

/// The whole number that a text such as `1e3`, `1_000` or `4.0` stands for.
fn whole(text: &str) -> Option<u64> {
    let number: f64 = text.replace('_', "").parse().ok()?;
    (number >= 0.0 && number.fract() == 0.0 && number < 9e15 && text != (number as u64).to_string())
        .then_some(number as u64)
}

fn scalar(path: &str, kind: Kind, node: &Node, report: &mut Reporter) -> Option<Value> {
    if matches!(node.content, Content::Bad) {
        return None;
    }
    let value = match &node.content {
        Content::Text { text, plain } if !node.is_null() => match kind {
            Kind::Ratio => return ratio(path, text, node, report),
            _ => convert(kind, text, *plain),
        },
        _ => None,
    };
    if value.is_none() {
        wrong(path, kind, node, report);
    }
    value
}

/// The value of a scalar, or nothing where it is none of this kind.
fn convert(kind: Kind, text: &str, plain: bool) -> Option<Value> {
    match kind {
        Kind::Flag => match (plain, text) {
            (true, "true" | "True" | "TRUE") => Some(json!(true)),
            (true, "false" | "False" | "FALSE") => Some(json!(false)),
            _ => None,
        },
        Kind::Count(Count { min, max, multiple }) => {
            let digits = plain && text.bytes().all(|b| b.is_ascii_digit());
            let n: u64 = text.parse().ok().filter(|_| digits)?;
            ((min..=max).contains(&n) && n.is_multiple_of(multiple)).then(|| json!(n))
        }
        Kind::Number(range) => {
            // Rust also reads `inf`, `nan`; YAML numbers start with a digit, a sign or a point.
            let number =
                plain && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            let x: f64 = text.parse().ok().filter(|_| number)?;
            range.holds(x).then(|| json!(x + 0.0)) // -0 becomes 0
        }
        Kind::Word(words) => words.contains(&text).then(|| json!(text)),
        Kind::Folder => (!text.is_empty() && !text.contains('\0')).then(|| json!(text)),
        Kind::File => (!text.contains('\0')).then(|| json!(text)),
        Kind::Ratio | Kind::Counts(..) | Kind::Numbers(..) => None,
    }
}

fn ratio(path: &str, text: &str, node: &Node, report: &mut Reporter) -> Option<Value> {
    let help = match text.parse::<f64>() {
        Ok(part) if part > 0.0 && part < 1.0 => Some(format!("write `{}%`", (part * 1e6).round() / 1e4)),
        _ => None,
    };
    match serde_json::from_value::<LabelRatio>(json!(text)) {
        Ok(ratio) => Some(json!(String::from(ratio))),
        Err(error) => {
            report.error(node.place, format!("`{path}: {}`: {error}", shorten(text)), help);
            None
        }
    }
}
