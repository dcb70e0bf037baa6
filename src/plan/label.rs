//! What stages are called for people: what tells them apart within the sweep.

use std::fmt::Write as _;

use serde_json::Value;

use super::effect::idle_reason;
use crate::spec::settings::{DataName, DataSettings, Method, Settings};
use crate::spec::stages::FeaturesSettings;
use crate::spec::{Sweep, SweepPoint};

/// Axes that a training's label tells in its own way.
const TOLD: [&str; 6] = ["method", "label_ratio", "dfm", "dic", "seed", "data"];

/// The axes of a sweep that take several values, by their place among a point's axes.
pub(super) struct Labels<'a> {
    sweep: &'a Sweep,
    train: Vec<usize>,
    pretrain: Vec<usize>,
    evaluate: Vec<usize>,
    data: bool,
    /// For each axis and value ` axis=value`.
    texts: Vec<Vec<String>>,
}

impl<'a> Labels<'a> {
    pub(super) fn new(sweep: &'a Sweep) -> Self {
        let first = sweep.points.first();
        let axes = first.map_or(0, |point| point.axes.len());
        let name = |i: usize| first.map_or("", |point| point.axes.name(i));
        let varies = |&i: &usize| {
            first.is_some_and(|first| sweep.points.iter().any(|p| p.axes.index(i) != first.axes.index(i)))
        };
        let varying: Vec<usize> = (0..axes).filter(varies).collect();
        let named =
            |test: &dyn Fn(&str) -> bool| varying.iter().copied().filter(|&i| test(name(i))).collect();
        let model = |name: &str| {
            matches!(name, "preset" | "size" | "augment.flip" | "augment.rotate")
                || name.starts_with("diffusion")
        };
        let text = |i: usize, value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => format!(" {}={text}", name(i)),
            other => format!(" {}={other}", name(i)),
        };
        let texts = (0..axes).map(|i| {
            let values = first.map(|point| point.axes.values_of(i)).unwrap_or_default();
            values.iter().map(|value| text(i, value)).collect()
        });
        Self {
            sweep,
            train: named(&|name| {
                !TOLD.contains(&name) && !name.starts_with("evaluate") && !name.starts_with("data.")
            }),
            pretrain: named(&model),
            evaluate: named(&|name| name.starts_with("evaluate")),
            data: varying.iter().any(|&i| name(i).starts_with("data")),
            texts: texts.collect(),
        }
    }

    /// The axes that the label of a training with these settings tells.
    pub(super) fn told(&self, settings: &Settings) -> Vec<usize> {
        let Some(first) = self.sweep.points.first() else { return vec![] };
        let matters = |&i: &usize| idle_reason(settings, first.axes.name(i)).is_none();
        self.train.iter().copied().filter(matters).collect()
    }

    /// `prepare phantom 40 patients`
    pub(super) fn prepare(data: &DataSettings) -> String {
        match data.name {
            DataName::Phantom if data.seed == 0 => format!("prepare phantom {} patients", data.patients),
            DataName::Phantom => format!("prepare phantom {} patients seed={}", data.patients, data.seed),
            name if name.draws_split() && data.seed != 0 => {
                format!("prepare {} seed={}", name.name(), data.seed)
            }
            name => format!("prepare {}", name.name()),
        }
    }

    /// `pretrain phantom`
    pub(super) fn pretrain(&self, point: &SweepPoint) -> String {
        let mut label = format!("pretrain {}", name(&point.settings.data));
        self.tell(&mut label, point, &self.pretrain);
        label
    }

    /// `features t=50 block=2`
    pub(super) fn features(&self, point: &SweepPoint, settings: FeaturesSettings) -> String {
        let mut label = format!("features t={} block={}", settings.timestep, settings.block);
        if settings.noise_seed != 0 {
            let _ = write!(label, " noise={}", settings.noise_seed);
        }
        self.tell_data(&mut label, point);
        self.tell(&mut label, point, &self.pretrain);
        label
    }

    /// `train mcsd 7 cases dfm dic seed=1` and `evaluate mcsd 7 cases dfm dic seed=1`, with the axes of `told`.
    pub(super) fn run(&self, point: &SweepPoint, patients: u32, told: &[usize]) -> [String; 2] {
        let settings = &*point.settings;
        let method = settings.method.name();
        let mut train = String::with_capacity(64);
        let _ = write!(train, "train {method}");
        self.tell_data(&mut train, point);
        let _ = write!(train, " {patients} case{}", if patients == 1 { "" } else { "s" });
        if settings.method == Method::Mcsd {
            train.push_str(if settings.dfm { " dfm" } else { "" });
            train.push_str(if settings.dic { " dic" } else { "" });
        }
        self.tell(&mut train, point, told);
        let _ = write!(train, " seed={}", settings.seed);
        let mut evaluate = String::with_capacity(train.len() + 8);
        evaluate.push_str("evaluate");
        evaluate.push_str(&train["train".len()..]);
        self.tell(&mut evaluate, point, &self.evaluate);
        train.shrink_to_fit();
        [train, evaluate]
    }

    /// Appends ` axis=value` for each of these axes.
    fn tell(&self, label: &mut String, point: &SweepPoint, axes: &[usize]) {
        for &i in axes {
            label.push_str(&self.texts[i][point.axes.index(i) as usize]);
        }
    }

    fn tell_data(&self, label: &mut String, point: &SweepPoint) {
        if self.data {
            label.push(' ');
            label.push_str(name(&point.settings.data));
        }
    }
}

const fn name(data: &DataSettings) -> &'static str {
    data.name.name()
}
