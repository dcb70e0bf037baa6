//! Evaluates a trained network on native-size volumes, case by case and class by class.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::train::model;
use super::{Context, Interrupted, SHAPES, StageSpec, settings};
use crate::data::{Dataset, Split};
use crate::methods::{self, CLASSES, Needs, reads_features_at_test};
use crate::metrics::{CaseMetrics, case_metrics};
use crate::spec::settings::{EvaluateSplit, Selection, Settings};
use crate::spec::stages::EvaluateStage;
use crate::store::files;
use crate::train::Monitor as _;
use crate::train::features::MODEL;
use crate::train::method::{BEST, LAST};
use crate::train::predict::Predictor;

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
}

/// Runs the stage.
pub(super) fn run(spec: &StageSpec, context: &Context) -> Result<Value> {
    let EvaluateStage { evaluate, .. } = settings(spec)?;
    let trained = context.input("train")?;
    let path = trained.join(MODEL);
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let settings: Settings =
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
    let data = Dataset::open(context.input("data")?)?;

    let at_test = if reads_features_at_test(&settings) { Some(model(&settings, context)?) } else { None };
    let method = methods::build(&settings, &shapes(&settings, context)?)?;
    let weights = match evaluate.select {
        Selection::Best => BEST,
        Selection::Last => LAST,
    };
    method.params().from_safetensors(&trained.join(weights))?;
    let predictor = Predictor { method: &*method, size: settings.size, features: at_test.as_ref() };

    let split = match evaluate.split {
        EvaluateSplit::Val => Split::Val,
        EvaluateSplit::Test => Split::Test,
    };
    let total = data.cases().iter().filter(|case| case.split == split).count();
    let mut lines = Vec::new();
    let mut dice = 0.0;
    let cases = data.cases().iter().enumerate().filter(|(_, case)| case.split == split);
    for (done, (index, case)) in cases.enumerate() {
        if context.stopped() {
            return Err(Interrupted.into());
        }
        let labels = predictor.volume(data.image(index), case.shape)?;
        for class in 1..CLASSES {
            let unit = [1.0; 3];
            let metrics =
                case_metrics(&labels, data.label(index), case.shape, class as u8, unit, evaluate.empty);
            dice += metrics.dice;
            let line =
                Line { case: &case.name, patient: &case.patient, class: data.classes()[class], metrics };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        context.units(done + 1, total, "case");
    }
    files::write_atomic(context.dir.join(CASES), &lines)?;
    let mean = dice / (total * (CLASSES - 1)).max(1) as f64;
    Ok(json!({ "cases": total, "dice": mean, "split": evaluate.split }))
}

/// The shapes that the reduction was built for.
fn shapes(settings: &Settings, context: &Context) -> Result<Vec<crate::diffusion::unet::BlockShape>> {
    if !Needs::of(settings).features {
        return Ok(Vec::new());
    }
    let path = context.input("train")?.join(SHAPES);
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}
