//! How axes, their values and metrics are called in print.

use super::sweep::{Axis, Kind};

/// One metric as it is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Metric {
    /// The column of the frames.
    pub(super) column: &'static str,
    /// The name in print.
    pub(super) name: &'static str,
    /// The unit in print.
    pub(super) unit: &'static str,
    /// What a stored value is multiplied with.
    pub(super) factor: f64,
    /// Whether more is better.
    pub(super) higher: bool,
}

/// The metrics in the order of [`crate::spec::report::METRICS`].
pub(super) const METRICS: [Metric; 4] = [
    Metric { column: "dice", name: "Dice", unit: "%", factor: 100.0, higher: true },
    Metric { column: "jaccard", name: "Jaccard", unit: "%", factor: 100.0, higher: true },
    Metric { column: "hd95", name: "95HD", unit: "voxel", factor: 1.0, higher: false },
    Metric { column: "asd", name: "ASD", unit: "voxel", factor: 1.0, higher: false },
];

/// Other definitions of the distances ([`crate::spec::report::VARIANTS`]), and what is counted from the settings
/// ([`crate::spec::report::COUNTS`]).
const OTHERS: [Metric; 9] = [
    Metric { column: "hd95_mm", name: "95HD", unit: "mm", factor: 1.0, higher: false },
    Metric { column: "asd_mm", name: "ASD", unit: "mm", factor: 1.0, higher: false },
    Metric { column: "hd95_max", name: "95HD, larger direction", unit: "voxel", factor: 1.0, higher: false },
    Metric { column: "hd95_max_mm", name: "95HD, larger direction", unit: "mm", factor: 1.0, higher: false },
    Metric { column: "assd", name: "ASSD", unit: "voxel", factor: 1.0, higher: false },
    Metric { column: "assd_mm", name: "ASSD", unit: "mm", factor: 1.0, higher: false },
    Metric { column: "parameters", name: "Parameters", unit: "M", factor: 1e-6, higher: false },
    Metric { column: "step_gflops", name: "Training step", unit: "GFLOP", factor: 1.0, higher: false },
    Metric { column: "slice_gflops", name: "Predicting a slice", unit: "GFLOP", factor: 1.0, higher: false },
];

impl Metric {
    /// The metric or variant with this column.
    pub(super) fn named(column: &str) -> Option<Self> {
        METRICS.iter().chain(&OTHERS).find(|metric| metric.column == column).copied()
    }

    /// `Dice (%)`.
    pub(super) fn title(self) -> String {
        self.title_of(None)
    }

    /// `Dice LV (%)`, or without a class `Dice (%)`.
    pub(super) fn title_of(self, class: Option<&str>) -> String {
        let class = class.map(|class| format!(" {class}")).unwrap_or_default();
        format!("{}{class} ({})", self.name, self.unit)
    }

    /// The name in CSV, with the unit: `dice_percent`, `hd95_voxels`, `asd_LV_mm`.
    pub(super) fn field(self, class: Option<&str>) -> String {
        let class = class.map(|class| format!("_{class}")).unwrap_or_default();
        match self.unit {
            "%" => format!("{}{class}_percent", self.column),
            "voxel" => format!("{}{class}_voxels", self.column),
            "mm" => format!("{}{class}_mm", self.column.trim_end_matches("_mm")),
            "M" => format!("{}_millions", self.column),
            _ => self.column.to_owned(),
        }
    }

    /// Whether the metric is a distance.
    pub(super) fn is_distance(self) -> bool {
        matches!(self.unit, "voxel" | "mm")
    }

    /// Whether it is counted from the settings, not measured on cases.
    pub(super) fn is_counted(self) -> bool {
        matches!(self.unit, "M" | "GFLOP")
    }
}

/// What an axis is called, in print and in full, and its unit.
#[derive(Debug)]
pub(super) struct AxisName {
    /// For column heads: `τ`.
    pub(super) short: String,
    /// For the axis of a figure: `confidence threshold τ`.
    pub(super) long: String,
    /// The unit, where the values do not carry one.
    pub(super) unit: &'static str,
}

/// The name of the axis `path`.
pub(super) fn axis_name(path: &str) -> AxisName {
    let (short, long, unit) = match path {
        "tau" => ("τ", "Confidence threshold τ", ""),
        "dfm" => ("DFM", "Diffusion feature module", ""),
        "dic" => ("DIC", "Dual-image consistency", ""),
        "label_ratio" => ("Labelled", "Labelled training patients", ""),
        "timesteps" => ("Time steps", "Diffusion time steps", ""),
        "blocks" => ("Blocks", "Decoder blocks", ""),
        "feature_dim" => ("D", "Feature dimension D", "channels"),
        "method" => ("Method", "Method", ""),
        "data" | "data.name" => ("Data", "Data set", ""),
        "seed" => ("Seed", "Seed", ""),
        "size" => ("Size", "Image size", "px"),
        "preset" => ("Preset", "Preset", ""),
        "train.iterations" => ("Iterations", "Training iterations", ""),
        "train.lr" => ("Learning rate", "Learning rate", ""),
        "train.batch" => ("Batch", "Batch size", "labelled slices"),
        "diffusion.iterations" => ("Pre-training", "Diffusion pre-training", "iterations"),
        "mcsd.feature_loss" => ("Feature loss", "Feature loss", ""),
        "mcsd.test_stream" => ("Test stream", "Test stream", ""),
        "features.reduction" => ("Reduction", "Feature reduction", ""),
        "features.mode" => ("Features", "Feature extraction", ""),
        _ => (path, path, ""),
    };
    AxisName { short: short.to_owned(), long: long.to_owned(), unit }
}

/// A value of an axis as it is printed: lists in braces, known names in their usual spelling.
pub(super) fn value(text: &str) -> String {
    let known = match text {
        "mcsd" => "MCSD",
        "supervised" => "Supervised",
        "mean_teacher" => "Mean teacher",
        "ua_mt" => "UA-MT",
        "urpc" => "URPC",
        "cps" => "CPS",
        "cross_teaching" => "CNN & Transformer",
        "mc_net" => "MC-Net",
        "mc_net_plus" => "MC-Net+",
        "bcp" => "BCP",
        "sc_ssl" => "SC-SSL (our reconstruction)",
        "unimatch" => "UniMatch",
        "acdc" => "ACDC",
        "mnms" => "M&Ms",
        "phantom" => "Phantom",
        "ce_dice" => "CE + Dice",
        "ce" => "CE",
        "fixed_random" => "fixed random",
        "per_image_random" => "random per image",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    // A data set with its folder, of which the name is what matters.
    if text.starts_with('{')
        && let Ok(table) = serde_json::from_str::<serde_json::Value>(text)
        && let Some(name) = table["name"].as_str()
    {
        return value(name);
    }
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(items) => format!("{{{items}}}"),
        None => text.to_owned(),
    }
}

/// What sets a configuration apart, in words: `MCSD · DFM + DIC · τ = 0.9`. `key` holds the index of its value for each
/// of `axes`; axes with one value say nothing.
pub(super) fn configuration(axes: &[&Axis], key: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut on: Vec<&str> = Vec::new();
    let mut flags = 0;
    for (axis, &index) in axes.iter().zip(key).filter(|(axis, _)| axis.values.len() > 1) {
        let shown = &axis.values[index].shown;
        match axis.kind {
            Kind::Flag => {
                flags += 1;
                if axis.values[index].flag == Some(true) {
                    on.push(&axis.name.short);
                }
            }
            Kind::Category if matches!(axis.path.as_str(), "method" | "data" | "data.name") => {
                parts.insert(0, shown.clone());
            }
            Kind::Category | Kind::Number if axis.path == "label_ratio" => {
                parts.push(format!("{shown} labelled"));
            }
            _ => parts.push(format!("{} = {shown}", axis.name.short)),
        }
    }
    if !on.is_empty() {
        parts.push(on.join(" + "));
    } else if flags > 0 && parts.is_empty() {
        parts.push("Baseline".to_owned());
    }
    if parts.is_empty() { "All points".to_owned() } else { parts.join(" · ") }
}

/// Numbers with as many digits after the point as the one that needs most, at most four.
pub(super) fn numbers(values: &[f64]) -> Vec<String> {
    let texts: Vec<String> = values.iter().map(|&value| number(value)).collect();
    if texts.iter().any(|text| text.contains('e')) {
        return texts;
    }
    let digits = texts.iter().map(|text| text.split_once('.').map_or(0, |(_, digits)| digits.len())).max();
    values.iter().map(|value| format!("{value:.*}", digits.unwrap_or(0))).collect()
}

/// A number with as many digits as it needs, at most four after the point.
pub(super) fn number(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e7) {
        return format!("{value:e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
