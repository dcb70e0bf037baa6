//! The canonical texts of trainings and points, put together from the texts of their fields: points share most of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::effect::Idle;
use super::weights::Weights;
use crate::spec::Sweep;
use crate::spec::settings::{FIELDS, LabelRatio};
use crate::store::key::canonical;

/// For each value of a field `"field":value`, or nothing where the value is left out.
type Fragments = Arc<Vec<String>>;

/// The trainings of the points of which the same settings can matter.
pub(super) struct Class {
    /// The fields of a training's text, in its order.
    fields: Vec<(usize, Fragments)>,
    /// The axes that a training's label tells.
    pub(super) told: Vec<usize>,
}

/// The texts of all fields.
pub(super) struct Texts<'a> {
    sweep: &'a Sweep,
    weights: Weights,
    later: Value,
    /// The fields in the order of the text.
    sorted: Vec<usize>,
    /// The fields of a point's text.
    point: Vec<(usize, Fragments)>,
    /// By field and what is left out of it.
    known: HashMap<(usize, Vec<&'static str>), Fragments>,
    /// The text of so many patients, where a point of the sweep can have so many.
    ratios: Vec<String>,
}

impl<'a> Texts<'a> {
    pub(super) fn new(sweep: &'a Sweep, later: &Value, weights: &Weights) -> Self {
        let mut sorted: Vec<usize> = (0..FIELDS.len()).collect();
        sorted.sort_unstable_by_key(|&field| FIELDS[field]);
        let mut texts = Self {
            sweep,
            weights: weights.clone(),
            later: later.clone(),
            sorted,
            point: vec![],
            known: HashMap::new(),
            ratios: vec![],
        };
        texts.point = texts
            .sorted
            .clone()
            .into_iter()
            .map(|field| {
                (field, texts.fragments(field, if FIELDS[field] == "data" { vec!["root"] } else { vec![] }))
            })
            .collect();
        texts
    }

    /// The number of a field in [`FIELDS`].
    #[expect(clippy::unused_self, reason = "reads as what it is: a field of these texts")]
    pub(super) fn field(&self, name: &str) -> usize {
        FIELDS.iter().position(|field| *field == name).expect("a field of the settings")
    }

    fn fragments(&mut self, field: usize, without: Vec<&'static str>) -> Fragments {
        let (sweep, later, weights) = (self.sweep, &self.later, &self.weights);
        let make = |without: &[&str]| {
            let values = sweep.pieces().of(field).iter().map(|value| by_content(value, weights));
            Arc::new(values.map(|value| fragment(field, value, without, later)).collect::<Vec<_>>())
        };
        Arc::clone(self.known.entry((field, without)).or_insert_with_key(|(_, without)| make(without)))
    }

    /// The class of the trainings that `idle` cannot influence.
    pub(super) fn class(&mut self, idle: &[Idle], told: Vec<usize>) -> Class {
        let mut fields = vec![];
        for field in self.sorted.clone() {
            let name = FIELDS[field];
            let paths = || idle.iter().flat_map(|(paths, _)| paths.iter().copied());
            if paths().any(|path| path == name) {
                continue;
            }
            let part = |path: &'static str| path.strip_prefix(name)?.strip_prefix('.');
            fields.push((field, self.fragments(field, paths().filter_map(part).collect())));
        }
        Class { fields, told }
    }

    /// The text of a point's settings but for the folder of its data.
    pub(super) fn point(&self, pieces: &[u32], text: &mut String) {
        text.clear();
        text.push('{');
        let start = text.len();
        for (field, fragments) in &self.point {
            append(text, start, &fragments[pieces[*field] as usize]);
        }
        text.push('}');
    }

    /// Appends the settings of a training with so many labelled patients.
    pub(super) fn train(&self, class: &Class, pieces: &[u32], patients: u32, text: &mut String) {
        text.push('{');
        let start = text.len();
        for (field, fragments) in &class.fields {
            if FIELDS[*field] == "label_ratio" {
                append(text, start, &self.ratio(patients));
            } else {
                append(text, start, &fragments[pieces[*field] as usize]);
            }
        }
        text.push('}');
    }

    fn ratio(&self, patients: u32) -> std::borrow::Cow<'_, str> {
        match self.ratios.get(patients as usize) {
            Some(text) => text.into(),
            None => ratio(patients).into(),
        }
    }

    /// Prepares the texts of up to `patients` patients.
    pub(super) fn know_ratios(&mut self, patients: u32) {
        self.ratios = (0..=patients.min(4096)).map(ratio).collect();
    }
}

fn ratio(patients: u32) -> String {
    let text = String::from(LabelRatio::Cases(patients as usize));
    format!("\"label_ratio\":{}", Value::from(text))
}

fn append(text: &mut String, start: usize, fragment: &str) {
    if fragment.is_empty() {
        return;
    }
    if text.len() > start {
        text.push(',');
    }
    text.push_str(fragment);
}

/// A field's value with files of weights named by their content.
fn by_content(value: &Value, weights: &Weights) -> Value {
    let mut value = value.clone();
    if let Some(path) = value.get_mut("weights")
        && let Some(content) = path.as_str().and_then(|path| weights.content(Path::new(path)))
    {
        *path = content.into();
    }
    value
}

/// `"field":value` without the parts named, or nothing where that is left out.
fn fragment(field: usize, mut value: Value, without: &[&str], later: &Value) -> String {
    if let Value::Object(map) = &mut value {
        map.retain(|name, _| !without.contains(&name.as_str()));
    }
    let text = canonical(&json!({ FIELDS[field]: value }), later);
    text[1..text.len() - 1].to_owned()
}
