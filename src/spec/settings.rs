//! The resolved settings of one point. These types are the schema: every field is a key of the sweep file at its
//! dotted path, and a preset ([`Settings::preset`]) gives each its default.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod data;
mod diffusion;
mod methods;
mod precision;

pub use data::{DataName, DataSettings};
pub use diffusion::{DiffusionSettings, FeatureMode, FeatureSettings, PixelRange, Reduction};
pub use methods::{BcpSettings, ConsistencySettings, Method, TeacherSettings};
pub use precision::Precision;

/// Everything that decides the result of one point of a sweep. Where it runs is never part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The preset that the other defaults came from.
    pub preset: Preset,
    /// Which data set.
    pub data: DataSettings,
    /// Which method is trained.
    pub method: Method,
    /// How many training patients are labelled.
    pub label_ratio: LabelRatio,
    /// Seed of the training run.
    pub seed: u64,
    /// Side of the square training images, in pixels; a multiple of 32.
    pub size: usize,
    /// Confidence below which pseudo-labels are dropped, in (0, 1].
    pub tau: f64,
    /// Diffusion feature module: the second stream, fed by diffusion features.
    pub dfm: bool,
    /// Dual-image consistency: two strongly augmented views with CutMix.
    pub dic: bool,
    /// Diffusion steps that features are read at, each in 0..1000.
    pub timesteps: Vec<usize>,
    /// Decoder blocks (`output_blocks` indices) that features are read from.
    pub blocks: Vec<usize>,
    /// Channels D after the 1×1 reduction.
    pub feature_dim: usize,
    /// The diffusion model and its pre-training.
    pub diffusion: DiffusionSettings,
    /// Feature extraction.
    pub features: FeatureSettings,
    /// The U-Net of each stream.
    pub unet: UnetSettings,
    /// MCSD's own choices.
    pub mcsd: McsdSettings,
    /// Optimisation.
    pub train: TrainSettings,
    /// Augmentation.
    pub augment: AugmentSettings,
    /// Validation and test.
    pub evaluate: EvaluateSettings,
    /// The weight of the consistency term.
    #[serde(default)]
    pub consistency: ConsistencySettings,
    /// The moving average of a network.
    #[serde(default)]
    pub teacher: TeacherSettings,
    /// Bidirectional copy-paste.
    #[serde(default)]
    pub bcp: BcpSettings,
    /// The Swin-Unet of cross teaching.
    #[serde(default)]
    pub swin: SwinSettings,
}

/// Sizes and lengths of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Seconds to minutes on a laptop: shows that everything works.
    Smoke,
    /// An hour on a CPU: small images, the 64-channel diffusion model.
    Lite,
    /// The paper's sizes: 256², the 256-channel diffusion model; needs a GPU.
    Paper,
}

/// How much of the training set is labelled: `10%`, `7 cases` or the bare number 7 (patients).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LabelRatioText", into = "String")]
pub enum LabelRatio {
    /// A percentage of the training patients, in (0, 100].
    Percent(f64),
    /// A number of patients.
    Cases(usize),
}

/// A label ratio as written.
#[derive(Deserialize)]
#[serde(untagged)]
enum LabelRatioText {
    Number(u64),
    Text(String),
}

impl TryFrom<LabelRatioText> for LabelRatio {
    type Error = String;

    fn try_from(text: LabelRatioText) -> Result<Self, String> {
        let text = match text {
            LabelRatioText::Number(0) => return Err("needs at least one labelled patient".into()),
            LabelRatioText::Number(n) => return Ok(Self::Cases(n as usize)),
            LabelRatioText::Text(text) => text,
        };
        let trimmed = text.trim();
        let wrong = || format!("`{text}` is no label ratio: write `10%`, `7 cases` or 7");
        if let Some(number) = trimmed.strip_suffix('%') {
            let percent: f64 = number.trim().parse().map_err(|_| wrong())?;
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(format!("`{text}` is outside (0 %, 100 %]"));
            }
            return Ok(Self::Percent(percent));
        }
        let number =
            trimmed.strip_suffix("cases").or_else(|| trimmed.strip_suffix("case")).unwrap_or(trimmed);
        match number.trim().parse() {
            Ok(0) => Err("needs at least one labelled patient".into()),
            Ok(n) => Ok(Self::Cases(n)),
            Err(_) => Err(wrong()),
        }
    }
}

impl From<LabelRatio> for String {
    fn from(ratio: LabelRatio) -> String {
        match ratio {
            LabelRatio::Percent(percent) => format!("{percent}%"),
            LabelRatio::Cases(1) => "1 case".into(),
            LabelRatio::Cases(cases) => format!("{cases} cases"),
        }
    }
}

impl LabelRatio {
    /// The number of labelled patients among `train_patients`. The paper's own pairs hold for ACDC (5/10/20 % = 3/7/14
    /// patients) and M&Ms (3/5 % = 5/10); elsewhere a percentage is the nearest whole patient, at least one.
    pub fn patients(self, data: DataName, train_patients: usize) -> usize {
        match self {
            Self::Cases(cases) => cases,
            Self::Percent(5.0) if data == DataName::Acdc => 3,
            Self::Percent(3.0) if data == DataName::Mnms => 5,
            Self::Percent(5.0) if data == DataName::Mnms => 10,
            Self::Percent(percent) => ((percent / 100.0 * train_patients as f64).round() as usize).max(1),
        }
    }
}

/// The U-Net of SSL4MIS (five stages).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetSettings {
    /// Channels of the five stages.
    pub channels: [usize; 5],
    /// Dropout of the five encoder stages, each in [0, 1).
    pub dropout: [f64; 5],
}

/// MCSD's own choices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McsdSettings {
    /// What couples the two streams.
    pub feature_loss: FeatureLoss,
    /// Which stream predicts at validation and test.
    pub test_stream: TestStream,
    /// Whether f also learns from its own pseudo-labels with perturbed features, as in UniMatch.
    #[serde(default)]
    pub feature_dropout: bool,
}

/// What couples image stream f and feature stream g.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureLoss {
    /// Only g learns from f's pseudo-labels, at the weight that the term has in `mutual`: no gradient reaches f.
    Literal,
    /// Each stream learns from the other's pseudo-labels.
    Mutual,
    /// Both learn from the pseudo-labels of the averaged prediction; pasted CutMix boxes keep f's own.
    Fused,
}

/// Which stream predicts at validation and test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestStream {
    /// The image stream f alone.
    Image,
    /// The feature stream g alone.
    Feature,
    /// The mean of both probabilities.
    Mean,
}

/// Optimisation of a segmentation method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Steps.
    pub iterations: usize,
    /// Labelled slices of a step; as many unlabelled ones and mix partners join them where the method uses any.
    pub batch: usize,
    /// Learning rate at the start.
    pub lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Weight decay, on everything.
    pub weight_decay: f64,
    /// Power of the poly schedule lr·(1−i/I)^power; 0 keeps the rate constant.
    pub poly: f64,
    /// The supervised loss.
    pub loss: SupervisedLoss,
    /// Steps between validations.
    pub validate_every: usize,
    /// Steps by which the schedule of the learning rate lags: 1 where the reference sets the rate after its step.
    #[serde(default)]
    pub lr_lag: usize,
    /// The split whose Dice chooses the best network. `test` reports the best of many looks at the test patients; it is
    /// refused without `--allow-test-selection`, and every table says so.
    #[serde(default = "val")]
    pub selection: EvaluateSplit,
    /// How exactly a GPU computes it; a processor computes in `f32` and says so.
    #[serde(default)]
    pub precision: Precision,
}

const fn val() -> EvaluateSplit {
    EvaluateSplit::Val
}

/// The Swin-Unet (heads 3, 6, 12, 24; two blocks in each of four stages).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwinSettings {
    /// Channels of the first stage; a multiple of 3, its number of heads.
    pub channels: usize,
    /// Side of the attention windows, in patches of 4×4 pixels.
    pub window: usize,
    /// Probability of skipping the last encoder block's branches, rising linearly from 0 at the first, in [0, 1).
    pub drop_path: f64,
    /// File of the weights to start from: Swin-T's of ImageNet, as `sweep import` leaves them; without it, from scratch.
    /// No key depends on the path: the content is part of it.
    #[serde(default)]
    pub weights: PathBuf,
}

impl Default for SwinSettings {
    fn default() -> Self {
        Self { channels: 96, window: 7, drop_path: 0.2, weights: PathBuf::new() }
    }
}

/// The supervised loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisedLoss {
    /// Cross-entropy.
    Ce,
    /// The mean of cross-entropy and Dice.
    CeDice,
    /// 1 − Σst/(Σs² + Σt²), Dice without its factor 2: MC-Net's.
    HalfDice,
}

/// Weak and strong augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentSettings {
    /// Probability of a right-angle rotation with a flip.
    pub flip: f64,
    /// Probability, where there was no flip, of a rotation by an angle in [−20°, 19°].
    pub rotate: f64,
    /// Probability of brightness and contrast jitter of a strong view.
    pub jitter: f64,
    /// Probability of the Gaussian blur of a strong view.
    pub blur: f64,
    /// Probability of CutMix of a strong view.
    pub cutmix: f64,
    /// Whether weak views of unlabelled images are rounded to 8 bits, as UniMatch's loader does.
    #[serde(default = "yes")]
    pub quantise: bool,
}

const fn yes() -> bool {
    true
}

/// Validation and test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSettings {
    /// The split that the tables report.
    pub split: EvaluateSplit,
    /// What a distance is when the prediction of a class is empty.
    pub empty: EmptyDistance,
    /// Which network is evaluated.
    pub select: Selection,
    /// Whether distances are also written by their other definitions: in mm, larger of both directions, symmetric, and the
    /// volume's diagonal.
    #[serde(default)]
    pub variants: bool,
}

/// The split that the tables report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluateSplit {
    /// The validation list.
    Val,
    /// The test list.
    Test,
}

/// What a distance is when the prediction or the label of a class is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyDistance {
    /// 0, as the reference test scripts have it; flatters a method that misses a structure.
    Zero,
    /// The diagonal of the volume.
    Diagonal,
}

/// Which network is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// The one with the best validation Dice.
    Best,
    /// The last one.
    Last,
}

/// Calls a macro with the names and types of all fields of [`Settings`], in order.
macro_rules! with_fields {
    ($call:ident) => {
        $call! {
            preset: Preset, data: DataSettings, method: Method, label_ratio: LabelRatio, seed: u64, size: usize,
            tau: f64, dfm: bool, dic: bool, timesteps: Vec<usize>, blocks: Vec<usize>, feature_dim: usize,
            diffusion: DiffusionSettings, features: FeatureSettings, unet: UnetSettings, mcsd: McsdSettings,
            train: TrainSettings, augment: AugmentSettings, evaluate: EvaluateSettings,
            consistency: ConsistencySettings, teacher: TeacherSettings, bcp: BcpSettings, swin: SwinSettings
        }
    };
}

macro_rules! field_table {
    ($($field:ident: $type:ty),*) => {
        /// The names of the top-level fields of [`Settings`], in order.
        pub const FIELDS: &[&str] = &[$(stringify!($field)),*];

        /// For each of [`FIELDS`]: gives the first settings what the second ones have there.
        pub(crate) const TAKE: &[fn(&mut Settings, &Settings)] =
            &[$(|to, from| to.$field.clone_from(&from.$field)),*];

        impl Settings {
            /// Takes the top-level field `name` from `other`.
            pub(crate) fn take_field(&mut self, name: &str, other: &Self) {
                $(if name == stringify!($field) {
                    self.$field.clone_from(&other.$field);
                })*
            }

            /// The top-level field `name` as JSON; null where there is none.
            pub(crate) fn field(&self, name: &str) -> serde_json::Value {
                $(if name == stringify!($field) {
                    return serde_json::json!(self.$field);
                })*
                serde_json::Value::Null
            }

            /// Sets the top-level field `name` from JSON.
            pub(crate) fn set_field(&mut self, name: &str, value: &serde_json::Value) -> serde_json::Result<()> {
                $(if name == stringify!($field) {
                    self.$field = <$type>::deserialize(value)?;
                })*
                Ok(())
            }
        }
    };
}
with_fields!(field_table);

impl Settings {
    /// The defaults of `preset` for `method`, on the phantom.
    pub fn preset(preset: Preset, method: Method) -> Self {
        let mut settings = Self::sized(preset, method);
        methods::adopt(&mut settings);
        settings
    }

    /// The preset before the method's own protocol.
    fn sized(preset: Preset, method: Method) -> Self {
        let paper = Self::paper(method);
        match preset {
            Preset::Paper => paper,
            Preset::Lite => Self {
                preset,
                size: 96,
                diffusion: DiffusionSettings {
                    channels: 64,
                    iterations: 300,
                    batch: 4,
                    ema: 0.99,
                    ..paper.diffusion.clone()
                },
                train: TrainSettings {
                    iterations: 1_000,
                    batch: 4,
                    validate_every: 200,
                    ..paper.train.clone()
                },
                ..paper
            },
            Preset::Smoke => Self {
                preset,
                size: 64,
                data: DataSettings { patients: 40, ..paper.data.clone() },
                diffusion: DiffusionSettings {
                    channels: 32,
                    head_channels: 32,
                    iterations: 120,
                    batch: 4,
                    lr: 3e-4,
                    ema: 0.99,
                    ..paper.diffusion.clone()
                },
                train: TrainSettings { iterations: 200, batch: 4, validate_every: 50, ..paper.train.clone() },
                ..paper
            },
        }
    }

    /// The paper's values, where they are known (`specs/methods.md` §0.5 and §10), for `method`.
    fn paper(method: Method) -> Self {
        Self {
            preset: Preset::Paper,
            data: DataSettings {
                name: DataName::Phantom,
                root: PathBuf::new(),
                patients: 100,
                seed: 0,
                unlabelled: false,
            },
            method,
            label_ratio: LabelRatio::Percent(10.0),
            seed: 0,
            size: 256,
            tau: 0.9,
            dfm: true,
            dic: true,
            timesteps: vec![50, 150, 250],
            blocks: vec![2, 4, 6],
            feature_dim: 30,
            diffusion: DiffusionSettings {
                channels: 256,
                channel_mult: vec![1, 1, 2, 2, 4, 4],
                res_blocks: 2,
                attention: vec![8, 16, 32],
                head_channels: 64,
                resblock_updown: true,
                scale_shift_norm: true,
                dropout: 0.1,
                iterations: 50_000,
                batch: 8,
                lr: 1e-4,
                ema: 0.9999,
                seed: 0,
                pixels: PixelRange::Signed,
                precision: Precision::F32,
            },
            features: FeatureSettings {
                mode: FeatureMode::Cached,
                reduction: Reduction::Learned,
                noise_seed: 0,
                aligned: true,
            },
            unet: UnetSettings { channels: [16, 32, 64, 128, 256], dropout: [0.05, 0.1, 0.2, 0.3, 0.5] },
            mcsd: McsdSettings {
                feature_loss: FeatureLoss::Mutual,
                test_stream: TestStream::Image,
                feature_dropout: false,
            },
            train: TrainSettings {
                // 300 passes over the unlabelled slices of ACDC with 7 labelled patients for MCSD.
                iterations: if method == Method::Mcsd { 44_100 } else { 30_000 },
                batch: if method == Method::Mcsd { 8 } else { 24 },
                lr: 0.01,
                momentum: 0.9,
                weight_decay: 1e-4,
                poly: 0.9,
                loss: SupervisedLoss::CeDice,
                validate_every: 200,
                lr_lag: 0,
                selection: EvaluateSplit::Val,
                precision: Precision::F32,
            },
            augment: AugmentSettings {
                flip: 0.5,
                rotate: 0.5,
                jitter: 0.8,
                blur: 0.5,
                cutmix: 0.5,
                quantise: true,
            },
            evaluate: EvaluateSettings {
                split: EvaluateSplit::Test,
                empty: EmptyDistance::Zero,
                select: Selection::Best,
                variants: false,
            },
            consistency: ConsistencySettings::default(),
            teacher: TeacherSettings::default(),
            bcp: BcpSettings::default(),
            swin: SwinSettings::default(),
        }
    }
}
