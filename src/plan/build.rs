//! Builds the graph: keys, stages, labels.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::effect::{Idle, idle_in_training, reads_diffusion, uses_features};
use super::label::Labels;
use super::{Inspected, Plan, PlannedPoint, PlannedStage};
use crate::spec::settings::{
    AugmentSettings, DataName, DataSettings, DiffusionSettings, EvaluateSettings, FIELDS, FeatureMode,
    FeatureSettings, LabelRatio, McsdSettings, Method, Preset, Settings, TestStream, TrainSettings,
    UnetSettings, with_fields,
};
use crate::spec::stages::{EvaluateStage, FeaturesSettings, PrepareLocal, PrepareSettings, PretrainSettings};
use crate::spec::validate::check_labelled;
use crate::spec::{Sweep, SweepPoint};
use crate::stage::{Parent, StageKind, StageSpec};
use crate::store::key::{Key, canonical};

/// Settings added to a stage after its first version, with the value under which the stage does what it did before:
/// there the key stays what it was ([`canonical`]). Entries stay forever.
const LATER: Value = Value::Null;

/// Plans the points of a sweep.
pub(super) fn build(
    sweep: &Sweep,
    inspect: &dyn Fn(&DataSettings) -> anyhow::Result<Inspected>,
) -> anyhow::Result<Plan> {
    let mut builder = Builder::new(sweep, inspect);
    let mut points = Vec::with_capacity(sweep.points.len());
    for (i, point) in sweep.points.iter().enumerate() {
        points.push(builder.point(i, point)?);
    }
    Ok(Plan { name: sweep.name.clone(), points, stages: builder.stages() })
}

/// A value in the two forms that are needed of it.
struct Piece {
    text: String,
    value: Value,
}

/// Values met so far with their pieces: points share most of theirs.
struct Known<T>(Vec<(T, &'static [&'static str], Rc<Piece>)>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T: Clone + PartialEq + Serialize> Known<T> {
    /// The piece of `value`; `without` are fields that are no part of its text.
    fn piece(&mut self, value: &T, without: &'static [&'static str]) -> Rc<Piece> {
        if let Some((_, _, piece)) = self.0.iter().rev().find(|(v, w, _)| v == value && *w == without) {
            return Rc::clone(piece);
        }
        let tree = json!(value);
        let mut kept = tree.clone();
        if let Value::Object(map) = &mut kept {
            map.retain(|name, _| !without.contains(&name.as_str()));
        }
        let piece = Rc::new(Piece { text: canonical(&kept, &LATER), value: tree });
        // A long list costs more to search than a piece costs to make.
        if self.0.len() < 64 {
            self.0.push((value.clone(), without, Rc::clone(&piece)));
        }
        piece
    }
}

macro_rules! pieces {
    ($($field:ident: $type:ty),*) => {
        /// The pieces of each field of the settings.
        #[derive(Default)]
        struct Fields { $($field: Known<$type>),* }

        impl Fields {
            fn piece(&mut self, name: &str, settings: &Settings, without: &'static [&'static str]) -> Option<Rc<Piece>> {
                $(if name == stringify!($field) {
                    return Some(self.$field.piece(&settings.$field, without));
                })*
                None
            }
        }
    };
}
with_fields!(pieces);

/// A data set of the sweep, looked at.
struct Data {
    settings: DataSettings,
    found: Inspected,
    stage: usize,
}

struct Builder<'a> {
    inspect: &'a dyn Fn(&DataSettings) -> anyhow::Result<Inspected>,
    stages: Vec<PlannedStage>,
    index: HashMap<Key, usize>,
    data: Vec<Data>,
    fields: Fields,
    pretrain: Known<PretrainSettings>,
    evaluate: Known<EvaluateStage>,
    /// By model, step, block and noise.
    features: HashMap<(usize, FeaturesKey), usize>,
    /// Field names in the order of the canonical text.
    sorted: Vec<&'static str>,
    neutral: Settings,
    ids: HashSet<String>,
    labels: Labels,
}

type FeaturesKey = (usize, usize, u64);

impl<'a> Builder<'a> {
    fn new(sweep: &Sweep, inspect: &'a dyn Fn(&DataSettings) -> anyhow::Result<Inspected>) -> Self {
        let mut sorted = FIELDS.to_vec();
        sorted.sort_unstable();
        Self {
            inspect,
            sorted,
            stages: vec![],
            index: HashMap::new(),
            data: vec![],
            fields: Fields::default(),
            pretrain: Known::default(),
            evaluate: Known::default(),
            features: HashMap::new(),
            neutral: Settings { dfm: false, dic: false, ..Settings::preset(Preset::Paper, Method::Mcsd) },
            ids: HashSet::new(),
            labels: Labels::new(sweep),
        }
    }

    fn point(&mut self, i: usize, point: &SweepPoint) -> anyhow::Result<PlannedPoint> {
        let settings = &point.settings;
        let data = self.prepare(i, point)?;
        let (data_stage, train_patients) = (self.data[data].stage, self.data[data].found.train_patients);
        if let Some(wrong) = check_labelled(settings, train_patients) {
            let ratio = String::from(settings.label_ratio);
            let help = wrong.help.map(|help| format!("; {help}")).unwrap_or_default();
            anyhow::bail!("`label_ratio: {ratio}` does not fit the data set: {}{help}", wrong.message);
        }
        let patients = settings.label_ratio.patients(settings.data.name, train_patients);
        let mut parents = Vec::with_capacity(2 + settings.timesteps.len() * settings.blocks.len());
        parents.push(self.parent("data", data_stage));
        let mut model = None;
        if uses_features(settings) {
            let pretrain = self.pretrain(i, point, data_stage);
            if settings.features.mode == FeatureMode::Cached {
                self.features(i, point, data_stage, pretrain, &mut parents);
            }
            if reads_diffusion(settings) {
                model = Some(self.parent("diffusion", pretrain));
            }
        }
        parents.extend(model.clone());
        let train = self.train(i, point, patients, parents);
        let mut parents = vec![self.parent("train", train), self.parent("data", data_stage)];
        parents.extend(model.filter(|_| settings.mcsd.test_stream != TestStream::Image));
        let evaluate = self.evaluate(i, point, patients, parents);
        Ok(PlannedPoint {
            id: self.id(settings),
            axes: point.axes.clone(),
            settings: settings.clone(),
            train: self.stages[train].key.clone(),
            evaluate: self.stages[evaluate].key.clone(),
        })
    }

    fn parent(&self, role: &str, stage: usize) -> Parent {
        Parent { role: role.into(), key: self.stages[stage].key.clone() }
    }

    /// The stage with this key, made if it is new, needed by point `i`.
    fn stage(
        &mut self,
        i: usize,
        kind: StageKind,
        text: &str,
        parents: Vec<Parent>,
        rest: impl FnOnce(&mut Self) -> (Value, Value, String, Option<String>),
    ) -> usize {
        let roles = parents.iter().map(|parent| (parent.role.as_str(), &parent.key));
        let key = Key::of_stage(kind.name(), kind.version(), text, roles);
        let at = if let Some(&at) = self.index.get(&key) {
            at
        } else {
            let (settings, local, label, group) = rest(self);
            let spec = StageSpec { kind, settings, local, parents };
            self.index.insert(key.clone(), self.stages.len());
            self.stages.push(PlannedStage { key, spec, label, group, points: vec![] });
            self.stages.len() - 1
        };
        self.needed(at, i);
        at
    }

    fn needed(&mut self, stage: usize, point: usize) {
        let points = &mut self.stages[stage].points;
        if points.last() != Some(&point) {
            points.push(point);
        }
    }

    fn prepare(&mut self, i: usize, point: &SweepPoint) -> anyhow::Result<usize> {
        let data = &point.settings.data;
        if let Some(at) = self.data.iter().rposition(|known| known.settings == *data) {
            self.needed(self.data[at].stage, i);
            return Ok(at);
        }
        let found = (self.inspect)(data).with_context(|| match data.name {
            DataName::Phantom => "the phantom".to_owned(),
            DataName::Acdc => format!("data set `acdc` at `{}`", data.root.display()),
        })?;
        let settings = PrepareSettings::new(data, found.content.clone());
        let local =
            PrepareLocal { root: if data.name == DataName::Acdc { absolute(&data.root) } else { "".into() } };
        let text = canonical(&json!(settings), &LATER);
        let stage = self.stage(i, StageKind::Prepare, &text, vec![], |_| {
            (json!(settings), json!(local), Labels::prepare(data), None)
        });
        self.data.push(Data { settings: data.clone(), found, stage });
        Ok(self.data.len() - 1)
    }

    fn pretrain(&mut self, i: usize, point: &SweepPoint, data: usize) -> usize {
        let Settings { size, diffusion, augment, .. } = &point.settings;
        let settings = PretrainSettings {
            size: *size,
            diffusion: diffusion.clone(),
            flip: augment.flip,
            rotate: augment.rotate,
        };
        let piece = self.pretrain.piece(&settings, &[]);
        let parents = vec![self.parent("data", data)];
        self.stage(i, StageKind::Pretrain, &piece.text, parents, |this| {
            (piece.value.clone(), Value::Null, this.labels.pretrain(point), None)
        })
    }

    /// The maps of every step and block, step-major, as parents of the training.
    fn features(
        &mut self,
        i: usize,
        point: &SweepPoint,
        data: usize,
        model: usize,
        parents: &mut Vec<Parent>,
    ) {
        let Settings { timesteps, blocks, features, .. } = &point.settings;
        for &timestep in timesteps {
            for &block in blocks {
                let settings = FeaturesSettings { timestep, block, noise_seed: features.noise_seed };
                let memo = (model, (timestep, block, features.noise_seed));
                let stage = match self.features.get(&memo) {
                    Some(&stage) => {
                        self.needed(stage, i);
                        stage
                    }
                    None => self.new_features(i, point, data, model, settings),
                };
                self.features.insert(memo, stage);
                parents.push(self.parent(&format!("features/t{timestep}/b{block}"), stage));
            }
        }
    }

    fn new_features(
        &mut self,
        i: usize,
        point: &SweepPoint,
        data: usize,
        model: usize,
        settings: FeaturesSettings,
    ) -> usize {
        let parents = vec![self.parent("diffusion", model), self.parent("data", data)];
        // Maps of another noise come from another pass through the model.
        let group = format!("{}/t{}/n{}", self.stages[model].key, settings.timestep, settings.noise_seed);
        let text = canonical(&json!(settings), &LATER);
        self.stage(i, StageKind::Features, &text, parents, |this| {
            (json!(settings), Value::Null, this.labels.features(point, settings), Some(group))
        })
    }

    fn train(&mut self, i: usize, point: &SweepPoint, patients: usize, parents: Vec<Parent>) -> usize {
        let idle = idle_in_training(&point.settings);
        let settings = neutralised(&point.settings, &self.neutral, &idle, patients);
        let mut text = String::from("{");
        for at in 0..self.sorted.len() {
            let field = self.sorted[at];
            if !idle.iter().any(|(paths, _)| paths.contains(&field)) {
                self.write_field(field, &settings, idle_parts(field, &idle), &mut text);
            }
        }
        text.push('}');
        self.stage(i, StageKind::Train, &text, parents, |this| {
            (this.value(&settings), Value::Null, this.labels.train(point, patients), None)
        })
    }

    fn evaluate(&mut self, i: usize, point: &SweepPoint, patients: usize, parents: Vec<Parent>) -> usize {
        let Settings { evaluate, size, mcsd, .. } = &point.settings;
        let test_stream = if uses_features(&point.settings) { mcsd.test_stream } else { TestStream::Image };
        let stage = EvaluateStage { evaluate: evaluate.clone(), size: *size, test_stream };
        let piece = self.evaluate.piece(&stage, &[]);
        self.stage(i, StageKind::Evaluate, &piece.text, parents, |this| {
            (piece.value.clone(), Value::Null, this.labels.evaluate(point, patients), None)
        })
    }

    /// Appends `"field":text`.
    fn write_field(
        &mut self,
        field: &str,
        settings: &Settings,
        without: &'static [&'static str],
        text: &mut String,
    ) {
        if let Some(piece) = self.fields.piece(field, settings, without) {
            text.push_str(if text.len() > 1 { ",\"" } else { "\"" });
            text.push_str(field);
            text.push_str("\":");
            text.push_str(&piece.text);
        }
    }

    /// The settings as JSON.
    fn value(&mut self, settings: &Settings) -> Value {
        let piece = |&field: &&'static str| {
            let piece = self.fields.piece(field, settings, &[])?;
            Some((field.to_owned(), piece.value.clone()))
        };
        Value::Object(FIELDS.iter().filter_map(piece).collect::<Map<_, _>>())
    }

    /// A name for the point, the same in every sweep that has it.
    fn id(&mut self, settings: &Settings) -> String {
        let mut text = String::from("{");
        for at in 0..self.sorted.len() {
            let field = self.sorted[at];
            self.write_field(field, settings, if field == "data" { &["root"] } else { &[] }, &mut text);
        }
        loop {
            let id = Key::of(text.as_bytes()).as_str()[..8].to_owned();
            if self.ids.insert(id.clone()) {
                return id;
            }
            text.push('+');
        }
    }

    /// The stages by kind, groups together.
    fn stages(self) -> Vec<PlannedStage> {
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut ranked: Vec<(StageKind, usize, PlannedStage)> = vec![];
        for (at, stage) in self.stages.into_iter().enumerate() {
            let rank = stage.group.as_ref().map_or(at, |group| *first.entry(group.clone()).or_insert(at));
            ranked.push((stage.spec.kind, rank, stage));
        }
        ranked.sort_by_key(|(kind, rank, _)| (*kind, *rank));
        ranked.into_iter().map(|(_, _, stage)| stage).collect()
    }
}

/// The parts of a field that cannot matter.
fn idle_parts(field: &str, idle: &[Idle]) -> &'static [&'static str] {
    let strong = |(paths, _): &Idle| paths.iter().any(|path| path.starts_with("augment."));
    if field == "augment" && idle.iter().any(strong) { &["jitter", "blur", "cutmix"] } else { &[] }
}

/// The settings of a training, with what cannot influence it at the fixed values of `neutral`.
fn neutralised(settings: &Settings, neutral: &Settings, idle: &[Idle], patients: usize) -> Settings {
    let mut out = settings.clone();
    out.label_ratio = LabelRatio::Cases(patients);
    for path in idle.iter().flat_map(|(paths, _)| *paths) {
        match *path {
            "augment.jitter" => out.augment.jitter = neutral.augment.jitter,
            "augment.blur" => out.augment.blur = neutral.augment.blur,
            "augment.cutmix" => out.augment.cutmix = neutral.augment.cutmix,
            field => out.take_field(field, neutral),
        }
    }
    out
}

/// The path from the root, so that a stage finds it from any folder.
fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
