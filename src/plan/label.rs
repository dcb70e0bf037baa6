//! What stages are called for people: what tells them apart within the sweep.

use std::fmt::Write as _;

use serde_json::Value;

use super::effect::idle_reason;
use crate::spec::settings::{DataName, DataSettings, Method};
use crate::spec::stages::FeaturesSettings;
use crate::spec::{Sweep, SweepPoint};

/// Axes that a training's label tells in its own way.
const TOLD: [&str; 6] = ["method", "label_ratio", "dfm", "dic", "seed", "data"];

/// The axes of a sweep that take several values, by their place among a point's axes.
pub(super) struct Labels {
    train: Vec<usize>,
    pretrain: Vec<usize>,
    evaluate: Vec<usize>,
    data: bool,
}

impl Labels {
    pub(super) fn new(sweep: &Sweep) -> Self {
        let axes = sweep.points.first().map(|point| &point.axes[..]).unwrap_or_default();
        let varies = |i: &usize| sweep.points.iter().any(|point| point.axes[*i].1 != axes[*i].1);
        let varying: Vec<usize> = (0..axes.len()).filter(varies).collect();
        let named =
            |test: &dyn Fn(&str) -> bool| varying.iter().copied().filter(|&i| test(&axes[i].0)).collect();
        let model = |name: &str| {
            matches!(name, "preset" | "size" | "augment.flip" | "augment.rotate")
                || name.starts_with("diffusion")
        };
        Self {
            train: named(&|name| {
                !TOLD.contains(&name) && !name.starts_with("evaluate") && !name.starts_with("data.")
            }),
            pretrain: named(&model),
            evaluate: named(&|name| name.starts_with("evaluate")),
            data: varying.iter().any(|&i| axes[i].0.starts_with("data")),
        }
    }

    /// `prepare phantom 40 patients`
    pub(super) fn prepare(data: &DataSettings) -> String {
        match data.name {
            DataName::Acdc => "prepare acdc".into(),
            DataName::Phantom if data.seed == 0 => format!("prepare phantom {} patients", data.patients),
            DataName::Phantom => format!("prepare phantom {} patients seed={}", data.patients, data.seed),
        }
    }

    /// `pretrain phantom`
    pub(super) fn pretrain(&self, point: &SweepPoint) -> String {
        let mut label = format!("pretrain {}", name(&point.settings.data));
        tell(&mut label, point, &self.pretrain);
        label
    }

    /// `features t=50 block=2`
    pub(super) fn features(&self, point: &SweepPoint, settings: FeaturesSettings) -> String {
        let mut label = format!("features t={} block={}", settings.timestep, settings.block);
        if settings.noise_seed != 0 {
            let _ = write!(label, " noise={}", settings.noise_seed);
        }
        self.tell_data(&mut label, point);
        tell(&mut label, point, &self.pretrain);
        label
    }

    /// `train mcsd 7 cases dfm dic seed=1`
    pub(super) fn train(&self, point: &SweepPoint, patients: usize) -> String {
        format!("train {}", self.run(point, patients))
    }

    /// `evaluate mcsd 7 cases dfm dic seed=1`
    pub(super) fn evaluate(&self, point: &SweepPoint, patients: usize) -> String {
        let mut label = format!("evaluate {}", self.run(point, patients));
        tell(&mut label, point, &self.evaluate);
        label
    }

    fn run(&self, point: &SweepPoint, patients: usize) -> String {
        let settings = &point.settings;
        let mut label = match settings.method {
            Method::Supervised => "supervised".to_owned(),
            Method::Mcsd => "mcsd".to_owned(),
        };
        self.tell_data(&mut label, point);
        let _ = write!(label, " {patients} case{}", if patients == 1 { "" } else { "s" });
        if settings.method == Method::Mcsd {
            label.push_str(if settings.dfm { " dfm" } else { "" });
            label.push_str(if settings.dic { " dic" } else { "" });
        }
        let matters = |&i: &usize| idle_reason(settings, &point.axes[i].0).is_none();
        tell(&mut label, point, &self.train.iter().copied().filter(matters).collect::<Vec<_>>());
        let _ = write!(label, " seed={}", settings.seed);
        label
    }

    fn tell_data(&self, label: &mut String, point: &SweepPoint) {
        if self.data {
            label.push(' ');
            label.push_str(name(&point.settings.data));
        }
    }
}

const fn name(data: &DataSettings) -> &'static str {
    match data.name {
        DataName::Phantom => "phantom",
        DataName::Acdc => "acdc",
    }
}

/// Appends ` axis=value` for each of these axes.
fn tell(label: &mut String, point: &SweepPoint, axes: &[usize]) {
    for &i in axes {
        let (name, value) = &point.axes[i];
        let _ = match value {
            Value::String(text) => write!(label, " {name}={text}"),
            other => write!(label, " {name}={other}"),
        };
    }
}
