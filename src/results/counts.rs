//! What frames hold of the settings of a point: the [`facts`] and, where a table asks for them, counts of its work.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::facts;
use crate::cost;
use crate::methods::catalogue;
use crate::spec::report::{COUNTS, ReportSettings};
use crate::spec::settings::Settings;

/// The facts of a sweep's points. Counting builds the shapes of networks, so that it is done once for points that differ
/// in their seeds alone, and only for reports that show it.
pub(super) struct Facts {
    counted: bool,
    known: HashMap<String, Vec<(String, Value)>>,
}

impl Facts {
    pub(super) fn new(report: &ReportSettings) -> Self {
        let counted = |metric: &String| COUNTS.contains(&metric.as_str());
        let counted = report.tables.iter().flat_map(|table| &table.metrics).any(counted);
        Self { counted, known: HashMap::new() }
    }

    /// The facts of a point.
    pub(super) fn of(&mut self, settings: &Settings) -> Result<Vec<(String, Value)>> {
        let mut found = facts(settings);
        if self.counted {
            let key = serde_json::to_string(&Settings { seed: 0, ..settings.clone() })?;
            if !self.known.contains_key(&key) {
                self.known.insert(key.clone(), counts(settings)?);
            }
            found.extend(self.known[&key].iter().cloned());
        }
        Ok(found)
    }
}

/// Trained parameters; operations of a training step and of predicting one slice, in 10⁹, a multiplication and an
/// addition being two.
fn counts(settings: &Settings) -> Result<Vec<(String, Value)>> {
    let parameters: usize = catalogue::networks_of(settings)?.iter().map(|(_, trained, _)| trained).sum();
    let step = cost::train_step(settings).flops / 1e9;
    let slice = cost::predict(settings, 1.0).flops / 1e9;
    let values = [json!(parameters as f64), json!(step), json!(slice)];
    Ok(COUNTS.map(String::from).into_iter().zip(values).collect())
}
