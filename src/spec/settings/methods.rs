//! The methods, what each reads, and the settings of those besides MCSD.

use serde::{Deserialize, Serialize};

use super::{Preset, Settings, SupervisedLoss};

/// A training method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Labelled slices only.
    Supervised,
    /// Mean teacher.
    MeanTeacher,
    /// Uncertainty-aware mean teacher.
    UaMt,
    /// Uncertainty-rectified pyramid consistency.
    Urpc,
    /// Cross pseudo supervision.
    Cps,
    /// Cross teaching between a U-Net and a Swin-Unet.
    CrossTeaching,
    /// MC-Net: two decoders (v1).
    McNet,
    /// MC-Net+: three decoders (v2).
    McNetPlus,
    /// Bidirectional copy-paste.
    Bcp,
    /// SC-SSL, our reconstruction.
    ScSsl,
    /// UniMatch with feature perturbation.
    Unimatch,
    /// Multi-consistency segmentation with diffusion features.
    Mcsd,
}

impl Method {
    /// Every method, in the order of the tables.
    pub const ALL: [Self; 12] = [
        Self::Supervised,
        Self::MeanTeacher,
        Self::UaMt,
        Self::Urpc,
        Self::Cps,
        Self::CrossTeaching,
        Self::McNet,
        Self::McNetPlus,
        Self::Bcp,
        Self::ScSsl,
        Self::Unimatch,
        Self::Mcsd,
    ];

    /// The word in a sweep file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Supervised => "supervised",
            Self::MeanTeacher => "mean_teacher",
            Self::UaMt => "ua_mt",
            Self::Urpc => "urpc",
            Self::Cps => "cps",
            Self::CrossTeaching => "cross_teaching",
            Self::McNet => "mc_net",
            Self::McNetPlus => "mc_net_plus",
            Self::Bcp => "bcp",
            Self::ScSsl => "sc_ssl",
            Self::Unimatch => "unimatch",
            Self::Mcsd => "mcsd",
        }
    }

    /// Whether its consistency term is weighted by [`ConsistencySettings`].
    pub const fn has_ramp(self) -> bool {
        matches!(
            self,
            Self::MeanTeacher
                | Self::UaMt
                | Self::Urpc
                | Self::Cps
                | Self::CrossTeaching
                | Self::McNet
                | Self::McNetPlus
                | Self::ScSsl
        )
    }

    /// Whether it keeps a moving average of its network.
    pub const fn has_teacher(self) -> bool {
        matches!(self, Self::MeanTeacher | Self::UaMt | Self::Bcp)
    }
}

/// The weight of the consistency term: λ(i) = weight·exp(−5·(1 − r)²), r rising in 200 equal rungs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencySettings {
    /// The weight at the end of the ramp.
    pub weight: f64,
    /// The share of the training that the ramp takes, in `[0, 1]`; 1 over 30,000 steps is the reference's rung of 150
    /// steps, 0 is no ramp.
    pub ramp: f64,
    /// Steps before which the weight is 0.
    pub delay: usize,
}

impl Default for ConsistencySettings {
    fn default() -> Self {
        Self { weight: 0.1, ramp: 1.0, delay: 0 }
    }
}

/// The moving average of a network, the teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSettings {
    /// Decay of the average, in [0, 1).
    pub ema: f64,
    /// Whether the decay of step i is at most 1 − 1/(i+1).
    pub warm_up: bool,
    /// Whether the running statistics of batch norms are averaged too (else the teacher keeps its own).
    pub buffers: bool,
}

impl Default for TeacherSettings {
    fn default() -> Self {
        Self { ema: 0.99, warm_up: true, buffers: false }
    }
}

/// Bidirectional copy-paste.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BcpSettings {
    /// Steps of the first phase, on labelled images alone, before those of `train.iterations`.
    pub pretrain: usize,
    /// Weight of pasted-in pseudo-labels against labels.
    pub weight: f64,
    /// Whether pseudo-labels keep only the largest connected component of each class.
    pub components: bool,
}

impl Default for BcpSettings {
    fn default() -> Self {
        Self { pretrain: 10_000, weight: 0.5, components: true }
    }
}

impl Settings {
    /// Steps of the training in all.
    pub fn steps(&self) -> usize {
        self.train.iterations + if self.method == Method::Bcp { self.bcp.pretrain } else { 0 }
    }

    /// For each labelled image of a step, the images that pass through a U-Net like the image stream's: (learned from,
    /// looked at without gradient). For forecasts: a further decoder counts as half a U-Net, the Swin-Unet at its
    /// default width as two and a half, as their operations are.
    pub fn unet_passes(&self) -> (f64, f64) {
        let strong = if self.uses_strong() { (2.0, 1.0) } else { (0.0, 0.0) };
        match self.method {
            Method::Supervised => (1.0, 0.0),
            Method::MeanTeacher => (2.0, 1.0),
            Method::UaMt => (2.0, 9.0),
            Method::Urpc => (2.0, 0.0),
            Method::Cps | Method::McNetPlus => (4.0, 0.0),
            Method::CrossTeaching => (2.0 + 5.0 * (self.swin.channels as f64 / 96.0).powi(2), 0.0),
            Method::McNet => (3.0, 0.0),
            Method::Bcp => (1.0, 1.0),
            Method::ScSsl => (6.0, 0.0),
            // Perturbed features are decoded beside the plain ones.
            Method::Unimatch => (3.0 + strong.0, strong.1),
            Method::Mcsd => {
                let weak = if self.uses_unlabelled() { 2.0 } else { 1.0 };
                let perturbed = if self.mcsd.feature_dropout && self.uses_unlabelled() { 1.0 } else { 0.0 };
                (weak + perturbed + strong.0, strong.1)
            }
        }
    }

    /// Whether the training reads unlabelled images.
    pub fn uses_unlabelled(&self) -> bool {
        match self.method {
            Method::Supervised => false,
            Method::Mcsd => self.dfm || self.dic,
            _ => true,
        }
    }

    /// Whether the training reads strongly augmented views.
    pub fn uses_strong(&self) -> bool {
        match self.method {
            Method::Mcsd => self.dic,
            method => method == Method::Unimatch,
        }
    }

    /// Whether the training reads diffusion features.
    pub fn uses_features(&self) -> bool {
        self.method == Method::Mcsd && self.dfm
    }
}

/// Puts the protocol of the reference of `settings.method` into `settings`, which hold the preset's values for the
/// supervised rows or MCSD (`specs/methods.md` §2–9).
pub(super) fn adopt(settings: &mut Settings) {
    let paper = settings.preset == Preset::Paper;
    let third = settings.train.iterations.div_ceil(3);
    if settings.method == Method::Mcsd {
        return;
    }
    if paper && settings.method != Method::Supervised {
        settings.train.batch = 12;
    }
    // SSL4MIS rotates wherever it does not flip, UniMatch in half of those cases, and only UniMatch rounds to 8 bits.
    if settings.method != Method::Unimatch {
        settings.augment.rotate = 1.0;
        settings.augment.quantise = false;
    }
    // The rate is set after a step from its number, which the next step uses.
    let lags = [Method::Supervised, Method::MeanTeacher, Method::UaMt, Method::Urpc, Method::Unimatch];
    settings.train.lr_lag = usize::from(lags.contains(&settings.method));
    match settings.method {
        Method::MeanTeacher => settings.consistency.delay = settings.train.iterations / 30,
        Method::McNet | Method::McNetPlus => {
            settings.train.poly = 0.0;
            settings.train.loss = SupervisedLoss::HalfDice;
        }
        Method::Bcp => {
            settings.train.poly = 0.0;
            settings.bcp.pretrain = if paper { 10_000 } else { third };
            settings.teacher = TeacherSettings { warm_up: false, buffers: true, ..settings.teacher };
        }
        Method::Unimatch => {
            settings.tau = 0.95;
            if paper {
                // 300 passes over the unlabelled slices of ACDC with 7 labelled patients.
                settings.train.iterations = 29_400;
            }
        }
        Method::CrossTeaching => match settings.preset {
            Preset::Paper => {
                settings.size = 224;
                settings.train.batch = 8;
            }
            Preset::Lite => (settings.swin.channels, settings.swin.window) = (48, 6),
            Preset::Smoke => (settings.swin.channels, settings.swin.window) = (24, 4),
        },
        _ => {}
    }
}
