//! Evaluates a trained network on native-size volumes, case by case and class by class.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, Interrupted, SHAPES, StageSpec, settings};
use crate::data::{Dataset, Split};
use crate::methods::{self, Method, Needs, reads_features_at_test};
use crate::metrics::{CaseMetrics, UNIT, Variants, case_metrics, variants};
use crate::nn::params::Params;
use crate::spec::settings::{EvaluateSplit, Selection, Settings};
use crate::spec::stages::EvaluateStage;
use crate::store::files;
use crate::train::features::{DiffusionModel, MODEL};
use crate::train::method::{BEST, LAST};
use crate::train::predict::Predictor;
use crate::train::{Checkpoints, Monitor as _};

/// The metrics, one JSON object a case and class.
const CASES: &str = "cases.jsonl";

/// One line of [`CASES`].
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    case: &'a str,
    patient: &'a str,
    class: &'a str,
    #[serde(flatten)]
    metrics: CaseMetrics,
    #[serde(flatten)]
    variants: Option<Variants>,
}

/// The checkpoint.
const DONE: &str = "checkpoint.cases.json";

/// The cases that are done.
#[derive(Default, Serialize, Deserialize)]
struct Done {
    cases: usize,
    /// Sum of the Dice of all classes.
    dice: f64,
    /// What [`CASES`] will hold.
    lines: String,
}

impl Done {
    /// What an earlier try saved; nothing where it saved nothing, or what it saved was damaged.
    fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let (hash, rest) = text.split_once('\n').unwrap_or_default();
        let whole = blake3::hash(rest.as_bytes()).to_hex().as_str() == hash;
        whole.then(|| serde_json::from_str(rest).ok()).flatten().unwrap_or_default()
    }

    fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)?;
        files::write_atomic(path, format!("{}\n{text}", blake3::hash(text.as_bytes()).to_hex()))
    }
}

/// Runs the stage.
pub(super) fn run(spec: &StageSpec, context: &Context) -> Result<Value> {
    let EvaluateStage { evaluate, .. } = settings(spec)?;
    let data = Dataset::open(context.input("data")?)?;
    let diffusion = || context.input("diffusion").map(PathBuf::as_path);
    let trained = Trained::open(context.input("train")?, &diffusion, evaluate.select)?;
    let predictor = trained.predictor();

    let split = match evaluate.split {
        EvaluateSplit::Val => Split::Val,
        EvaluateSplit::Test => Split::Test,
    };
    let total = data.cases().iter().filter(|case| case.split == split).count();
    let path = context.dir.join(DONE);
    let mut done = Done::load(&path);
    if done.cases > 0 {
        context.note(format!("continues from case {}", done.cases));
    }
    let mut checkpoints = Checkpoints::new(context);
    let cases = data.cases().iter().enumerate().filter(|(_, case)| case.split == split);
    for (index, case) in cases.skip(done.cases) {
        if context.stopped() {
            done.save(&path)?;
            return Err(Interrupted.into());
        }
        let labels = predictor.volume(data.image(index), case.shape)?;
        for (class, name) in data.classes().iter().enumerate().skip(1) {
            let (truth, shape, empty) = (data.label(index), case.shape, evaluate.empty);
            let metrics = case_metrics(&labels, truth, shape, class as u8, UNIT, empty);
            let spacing = case.spacing.map(|spacing| spacing.map(f64::from));
            let variants =
                evaluate.variants.then(|| variants(&labels, truth, shape, class as u8, spacing, empty));
            done.dice += metrics.dice;
            let line = Line { case: &case.name, patient: &case.patient, class: name, metrics, variants };
            done.lines.push_str(&serde_json::to_string(&line)?);
            done.lines.push('\n');
        }
        done.cases += 1;
        context.units(done.cases, total, "case");
        checkpoints.when_due(|| done.save(&path))?;
    }
    files::write_unsynced(&context.dir.join(CASES), done.lines.as_bytes())?;
    let dice = done.dice;
    let mean = dice / (total * (data.classes().len() - 1)).max(1) as f64;
    Ok(json!({ "cases": total, "dice": mean, "split": evaluate.split }))
}

/// A trained method, ready to predict.
pub struct Trained {
    settings: Settings,
    method: Box<dyn Method>,
    /// Where its prediction reads diffusion features from, if it does.
    features: Option<DiffusionModel>,
}

impl Trained {
    /// The method in the training's folder `dir`. `diffusion` gives the folder of the diffusion model; it is asked where the
    /// prediction reads features.
    ///
    /// # Errors
    /// Where files are missing or damaged; names them.
    pub fn open<'a>(dir: &Path, diffusion: &dyn Fn() -> Result<&'a Path>, select: Selection) -> Result<Self> {
        let settings: Settings = read_json(&dir.join(MODEL))?;
        let features = if reads_features_at_test(&settings) {
            let Settings { timesteps, blocks, features, .. } = &settings;
            Some(DiffusionModel::open(diffusion()?, timesteps, blocks, features.noise_seed)?)
        } else {
            None
        };
        // The shapes that the reduction was built for.
        let shapes = if Needs::of(&settings).features { read_json(&dir.join(SHAPES))? } else { Vec::new() };
        let method = methods::build(&settings, &shapes)?;
        let weights = match select {
            Selection::Best => BEST,
            Selection::Last => LAST,
        };
        method.params().from_safetensors(&dir.join(weights))?;
        Ok(Self { settings, method, features })
    }

    /// The settings that it was trained with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its weights and buffers, by name.
    pub fn params(&self) -> &Params {
        self.method.params()
    }

    /// What labels volumes.
    pub fn predictor(&self) -> Predictor<'_> {
        Predictor { method: &*self.method, size: self.settings.size, features: self.features.as_ref() }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}
