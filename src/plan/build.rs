//! Builds the graph: keys, stages, labels.
//!
//! Three passes over the points: one finds what they share (data, models, features, and what each kind of point
//! reads), one works out keys and labels point by point, on all threads, and one merges stages of the same key.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::effect::{Idle, idle_in_training, reads_diffusion, uses_features};
use super::label::Labels;
use super::text::{Class, Texts};
use super::weights::Weights;
use super::{Inspected, Plan, PlannedPoint, PlannedStage, Recipe};
use crate::spec::settings::{
    DataName, DataSettings, FIELDS, FeatureMode, LabelRatio, Method, Preset, Settings, TestStream,
};
use crate::spec::stages::{
    EvaluateStage, FeaturesSettings, PrepareLocal, PrepareSettings, PretrainSettings, TrainLocal,
};
use crate::spec::validate::check_labelled;
use crate::spec::{About, Complaint, Sweep, SweepPoint};
use crate::stage::{Parent, StageKind, StageSpec};
use crate::store::key::{Key, canonical};

/// Settings added after a stage's first version, with the value under which the stage does what it did before: there
/// the key stays what it was ([`canonical`]). By their places in [`Settings`], where `diffusion`, `evaluate` and `size`
/// stand in the settings of all stages that have them. Entries stay forever.
pub(super) fn later() -> Value {
    json!({
        "data": { "unlabelled": false },
        "diffusion": { "pixels": "signed", "precision": "f32" },
        "features": { "aligned": true },
        "mcsd": { "feature_dropout": false },
        "augment": { "quantise": true },
        "train": { "lr_lag": 0, "selection": "val", "precision": "f32" },
        "evaluate": { "variants": false },
        "consistency": { "weight": 0.1, "ramp": 1.0, "delay": 0 },
        "teacher": { "ema": 0.99, "warm_up": true, "buffers": false },
        "bcp": { "pretrain": 10_000, "weight": 0.5, "components": true },
        "swin": { "channels": 96, "window": 7, "drop_path": 0.2, "weights": "" },
    })
}

/// A way of looking at data sets.
pub(super) type Inspect<'a> = dyn Fn(&DataSettings) -> anyhow::Result<Inspected> + 'a;

/// Plans the points of a sweep.
pub(super) fn build(sweep: &Sweep, inspect: &Inspect<'_>) -> anyhow::Result<Plan> {
    let mut builder = Builder::new(sweep);
    let mut drafts = Vec::with_capacity(sweep.points.len());
    for (i, point) in sweep.points.iter().enumerate() {
        drafts.extend(builder.draft(i, point, inspect));
    }
    if !builder.complaints.is_empty() {
        return Err(sweep.refuse(builder.complaints).into());
    }
    builder.settle_groups();
    builder.texts.know_ratios(drafts.iter().map(|draft| draft.patients).max().unwrap_or(0));
    let finals: Vec<Final> = drafts
        .par_iter()
        .enumerate()
        .with_min_len(256)
        .map_init(String::new, |buffer, (i, draft)| builder.finish(&sweep.points[i], draft, buffer))
        .collect();
    Ok(builder.merge(&drafts, finals))
}

/// The settings that stand in a training where nothing is read.
pub(super) fn neutral() -> Settings {
    Settings { dfm: false, dic: false, ..Settings::preset(Preset::Paper, Method::Mcsd) }
}

/// The role of a stage for those that read it.
pub(super) fn role(kind: StageKind, settings: &Value) -> String {
    match kind {
        StageKind::Prepare => "data".into(),
        StageKind::Pretrain => "diffusion".into(),
        StageKind::Features => {
            let number = |name: &str| settings.get(name).and_then(Value::as_u64).unwrap_or_default();
            format!("features/t{}/b{}", number("timestep"), number("block"))
        }
        StageKind::Train | StageKind::Evaluate => kind.name().into(),
    }
}

/// The settings of a training as they stand in its spec: in full, what nothing reads at the fixed values of `neutral`.
///
/// With them, what it needs to know of this machine: where the weights lie that it starts from.
pub(super) fn train_settings(
    settings: &Settings,
    neutral: &Settings,
    weights: &Weights,
    patients: usize,
) -> (Value, Value) {
    let mut settings = neutralised(settings, neutral, &idle_in_training(settings), patients);
    let local = weights.name(&mut settings).map(|weights| TrainLocal { weights });
    (json!(settings), local.map_or(Value::Null, |local| json!(local)))
}

/// The settings of an evaluation.
pub(super) fn evaluate_settings(settings: &Settings) -> Value {
    let Settings { evaluate, size, .. } = settings;
    json!(EvaluateStage { evaluate: evaluate.clone(), size: *size, test_stream: test_stream(settings) })
}

fn test_stream(settings: &Settings) -> TestStream {
    if uses_features(settings) { settings.mcsd.test_stream } else { TestStream::Image }
}

fn neutralised(settings: &Settings, neutral: &Settings, idle: &[Idle], patients: usize) -> Settings {
    let mut out = settings.clone();
    out.label_ratio = LabelRatio::Cases(patients);
    for path in idle.iter().flat_map(|(paths, _)| *paths) {
        match *path {
            "augment.jitter" => out.augment.jitter = neutral.augment.jitter,
            "augment.blur" => out.augment.blur = neutral.augment.blur,
            "augment.cutmix" => out.augment.cutmix = neutral.augment.cutmix,
            "augment.quantise" => out.augment.quantise = neutral.augment.quantise,
            "mcsd.feature_loss" => out.mcsd.feature_loss = neutral.mcsd.feature_loss,
            "mcsd.test_stream" => out.mcsd.test_stream = neutral.mcsd.test_stream,
            field => out.take_field(field, neutral),
        }
    }
    out
}

/// The number of a field in [`FIELDS`].
fn field(name: &str) -> usize {
    FIELDS.iter().position(|field| *field == name).expect("a field of the settings")
}

/// A stage of those that points share, by its kind and its place among them.
type Place = (StageKind, usize);

/// A data set of the sweep, looked at.
struct Data {
    found: Inspected,
    stage: usize,
}

/// What the trainings of some points read.
struct Inputs {
    /// The stages, in the order of the roles.
    parents: Vec<Place>,
    /// All shared stages that the points need.
    needs: Vec<Place>,
    /// Where the diffusion model is read by the evaluation, too.
    model: Option<Place>,
    /// What the text of the key begins with.
    text: String,
    /// The indices of the parents in the plan.
    indices: Arc<[u32]>,
}

/// What is known of a point after the first pass.
struct Draft {
    data: usize,
    inputs: usize,
    class: usize,
    evaluate: usize,
    patients: u32,
}

/// What is known of a point after the second pass.
struct Final {
    id: Key,
    train: Key,
    evaluate: Key,
    labels: [String; 2],
}

/// What decides which inputs a training has: data, whether and how features are read, and the settings of these.
type InputsKey = (usize, bool, bool, [u32; 7]);

struct Builder<'a> {
    sweep: &'a Sweep,
    later: Value,
    /// The shared stages by kind: prepare, pretrain, features.
    shared: [Vec<PlannedStage>; 3],
    index: HashMap<Key, usize>,
    data: Vec<Data>,
    /// By the number of a point's `data`; none where it cannot be read.
    data_of: HashMap<u32, Option<usize>>,
    inputs: Vec<Inputs>,
    inputs_of: HashMap<InputsKey, usize>,
    last_inputs: Option<(InputsKey, usize)>,
    /// The fields in [`InputsKey`].
    input_fields: [usize; 7],
    /// The fields that decide whether a label ratio fits.
    ratio_fields: [usize; 4],
    wrong_ratios: HashSet<(usize, [u32; 4])>,
    classes: Vec<(Vec<Idle>, bool, DataName, Class)>,
    evaluate_of: HashMap<(u32, u32, TestStream), usize>,
    evaluate_texts: Vec<String>,
    texts: Texts<'a>,
    weights: Weights,
    labels: Labels<'a>,
    complaints: Vec<Complaint>,
}

impl<'a> Builder<'a> {
    fn new(sweep: &'a Sweep) -> Self {
        let (later, mut complaints) = (later(), vec![]);
        let weights = Weights::of(sweep, &mut complaints);
        Self {
            sweep,
            shared: Default::default(),
            index: HashMap::new(),
            data: vec![],
            data_of: HashMap::new(),
            inputs: vec![],
            inputs_of: HashMap::new(),
            last_inputs: None,
            input_fields: ["size", "diffusion", "augment", "timesteps", "blocks", "features", "mcsd"]
                .map(field),
            ratio_fields: ["label_ratio", "method", "dfm", "dic"].map(field),
            wrong_ratios: HashSet::new(),
            classes: vec![],
            evaluate_of: HashMap::new(),
            evaluate_texts: vec![],
            texts: Texts::new(sweep, &later, &weights),
            weights,
            labels: Labels::new(sweep),
            complaints,
            later,
        }
    }

    /// The first pass; none where the data set cannot be read, which is complained of.
    fn draft(&mut self, i: usize, point: &SweepPoint, inspect: &Inspect<'_>) -> Option<Draft> {
        let settings = &*point.settings;
        let data = self.prepare(i, point, inspect)?;
        let patients = self.patients(i, point, data);
        let inputs = self.inputs(point, data);
        for &(kind, at) in &self.inputs[inputs].needs {
            self.shared[kind as usize][at].points.push(i);
        }
        let [evaluate, size] = ["evaluate", "size"].map(|name| point.pieces()[self.texts.field(name)]);
        let (later, texts) = (&self.later, &mut self.evaluate_texts);
        let evaluate =
            *self.evaluate_of.entry((evaluate, size, test_stream(settings))).or_insert_with(|| {
                texts.push(canonical(&evaluate_settings(settings), later));
                texts.len() - 1
            });
        Some(Draft { data, inputs, class: self.class(point), evaluate, patients })
    }

    /// The labelled patients of a point.
    fn patients(&mut self, i: usize, point: &SweepPoint, data: usize) -> u32 {
        let settings = &*point.settings;
        let train_patients = self.data[data].found.train_patients;
        let wrong = check_labelled(settings, train_patients);
        if let Some(wrong) = wrong
            && self.wrong_ratios.insert((data, self.ratio_fields.map(|field| point.pieces()[field])))
        {
            let ratio = String::from(settings.label_ratio);
            let message = format!("`label_ratio: {ratio}` does not fit the data set: {}", wrong.message);
            let about = About::Point(i, wrong.paths);
            self.complaints.push(Complaint { about, message, help: wrong.help });
        }
        settings.label_ratio.patients(settings.data.name, train_patients) as u32
    }

    fn class(&mut self, point: &SweepPoint) -> usize {
        let settings = &*point.settings;
        let (idle, features, data) =
            (idle_in_training(settings), uses_features(settings), settings.data.name);
        let known = self.classes.iter().position(|(i, f, d, _)| *i == idle && *f == features && *d == data);
        known.unwrap_or_else(|| {
            let class = self.texts.class(&idle, self.labels.told(settings));
            self.classes.push((idle, features, data, class));
            self.classes.len() - 1
        })
    }

    /// The shared stage with this key, made if it is new.
    fn stage(
        &mut self,
        spec: StageSpec,
        label: impl FnOnce(&Self) -> String,
        group: Option<String>,
    ) -> usize {
        let text = canonical(&spec.settings, &self.later);
        let parents = spec.parents.iter().map(|parent| (parent.role.as_str(), &parent.key));
        let key = Key::of_stage(spec.kind.name(), spec.kind.version(), &text, parents);
        if let Some(&at) = self.index.get(&key) {
            return at;
        }
        let kind = spec.kind as usize;
        let stage = PlannedStage::new(key.clone(), spec, label(self), group, vec![]);
        self.shared[kind].push(stage);
        self.index.insert(key, self.shared[kind].len() - 1);
        self.shared[kind].len() - 1
    }

    fn parent(&self, (kind, at): Place) -> Parent {
        let stage = &self.shared[kind as usize][at];
        let settings = match &stage.recipe {
            Recipe::Known(spec) => &spec.settings,
            _ => &Value::Null,
        };
        Parent { role: role(kind, settings), key: stage.key.clone() }
    }

    /// The data set of the point `i`, looked at; none where that failed.
    fn prepare(&mut self, i: usize, point: &SweepPoint, inspect: &Inspect<'_>) -> Option<usize> {
        let piece = point.pieces()[self.texts.field("data")];
        if let Some(&at) = self.data_of.get(&piece) {
            return at;
        }
        let data = &point.settings.data;
        let found = match inspect(data) {
            Ok(found) => found,
            Err(error) => {
                let what = match data.name {
                    DataName::Phantom => "the phantom".to_owned(),
                    name => format!("data set `{}` at `{}`", name.name(), data.root.display()),
                };
                let about = About::Point(i, vec!["data.root".to_owned(), "data.name".to_owned()]);
                self.complaints.push(Complaint { about, message: format!("{what}: {error:#}"), help: None });
                self.data_of.insert(piece, None);
                return None;
            }
        };
        let settings = json!(PrepareSettings::new(data, found.content.clone()));
        let root = if data.name == DataName::Phantom { "".into() } else { absolute(&data.root) };
        let local = json!(PrepareLocal { root });
        let spec = StageSpec { kind: StageKind::Prepare, settings, local, parents: vec![] };
        let stage = self.stage(spec, |_| Labels::prepare(data), None);
        self.data.push(Data { found, stage });
        self.data_of.insert(piece, Some(self.data.len() - 1));
        self.data_of[&piece]
    }

    /// What the training of a point reads.
    fn inputs(&mut self, point: &SweepPoint, data: usize) -> usize {
        let settings = &*point.settings;
        let (uses, reads) = (uses_features(settings), reads_diffusion(settings));
        let pieces = if uses { self.input_fields.map(|field| point.pieces()[field]) } else { [0; 7] };
        let key = (data, uses, reads, pieces);
        match self.last_inputs {
            Some((last, at)) if last == key => return at,
            _ => {}
        }
        let at = self.inputs_of.get(&key).copied().unwrap_or_else(|| {
            let inputs = self.new_inputs(point, data);
            self.inputs.push(inputs);
            self.inputs_of.insert(key, self.inputs.len() - 1);
            self.inputs.len() - 1
        });
        self.last_inputs = Some((key, at));
        at
    }

    fn new_inputs(&mut self, point: &SweepPoint, data: usize) -> Inputs {
        let settings = &*point.settings;
        let data = (StageKind::Prepare, self.data[data].stage);
        let (mut parents, mut needs, mut model) = (vec![data], vec![data], None);
        if uses_features(settings) {
            let pretrain = self.pretrain(point, data);
            needs.push(pretrain);
            if settings.features.mode == FeatureMode::Cached {
                let maps = self.features(point, data, pretrain);
                needs.extend(&maps);
                parents.extend(maps);
            }
            if reads_diffusion(settings) {
                parents.push(pretrain);
                model = (settings.mcsd.test_stream != TestStream::Image).then_some(pretrain);
            }
        }
        // Two pairs of step and block are never one map, but a list may name the same data as another one does.
        needs.sort_unstable();
        needs.dedup();
        let roles: Vec<Parent> = parents.iter().map(|&place| self.parent(place)).collect();
        let roles = roles.iter().map(|parent| (parent.role.as_str(), &parent.key));
        let mut text = String::new();
        Key::open(&mut text, StageKind::Train.name(), roles);
        Inputs { parents, needs, model, text, indices: Arc::default() }
    }

    fn pretrain(&mut self, point: &SweepPoint, data: Place) -> Place {
        let Settings { size, diffusion, augment, .. } = &*point.settings;
        let settings = PretrainSettings {
            size: *size,
            diffusion: diffusion.clone(),
            flip: augment.flip,
            rotate: augment.rotate,
        };
        let parents = vec![self.parent(data)];
        let spec =
            StageSpec { kind: StageKind::Pretrain, settings: json!(settings), local: Value::Null, parents };
        (StageKind::Pretrain, self.stage(spec, |this| this.labels.pretrain(point), None))
    }

    /// The maps of every step and block, step-major.
    fn features(&mut self, point: &SweepPoint, data: Place, model: Place) -> Vec<Place> {
        let Settings { timesteps, blocks, features, .. } = &*point.settings;
        let mut maps = Vec::with_capacity(timesteps.len() * blocks.len());
        for &timestep in timesteps {
            for &block in blocks {
                let settings = FeaturesSettings { timestep, block, noise_seed: features.noise_seed };
                let parents = vec![self.parent(model), self.parent(data)];
                // Maps of another noise come from another pass through the model.
                let group = format!("{}/t{timestep}/n{}", parents[0].key, settings.noise_seed);
                let spec = StageSpec {
                    kind: StageKind::Features,
                    settings: json!(settings),
                    local: Value::Null,
                    parents,
                };
                let label = |this: &Self| this.labels.features(point, settings);
                maps.push((StageKind::Features, self.stage(spec, label, Some(group))));
            }
        }
        maps
    }

    /// Brings the stages of each group together and gives all shared stages their places in the plan.
    fn settle_groups(&mut self) {
        let features = std::mem::take(&mut self.shared[2]);
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut ranked: Vec<(usize, usize, PlannedStage)> = vec![];
        for (at, stage) in features.into_iter().enumerate() {
            let rank = stage.group.as_ref().map_or(at, |group| *first.entry(group.clone()).or_insert(at));
            ranked.push((rank, at, stage));
        }
        ranked.sort_by_key(|(rank, at, _)| (*rank, *at));
        let mut moved = vec![0; ranked.len()];
        for (to, (_, from, _)) in ranked.iter().enumerate() {
            moved[*from] = to;
        }
        self.shared[2] = ranked.into_iter().map(|(_, _, stage)| stage).collect();
        for inputs in &mut self.inputs {
            let maps = inputs.parents.iter_mut().filter(|(kind, _)| *kind == StageKind::Features);
            maps.for_each(|(_, at)| *at = moved[*at]);
        }
        let offsets = self.offsets();
        for inputs in &mut self.inputs {
            inputs.indices =
                inputs.parents.iter().map(|&(kind, at)| (offsets[kind as usize] + at) as u32).collect();
        }
    }

    /// Where the stages of each kind begin in the plan: prepare, pretrain, features, train.
    fn offsets(&self) -> [usize; 4] {
        let [prepare, pretrain, features] = [0, 1, 2].map(|kind| self.shared[kind].len());
        [0, prepare, prepare + pretrain, prepare + pretrain + features]
    }

    /// The second pass.
    fn finish(&self, point: &SweepPoint, draft: &Draft, buffer: &mut String) -> Final {
        let (inputs, class) = (&self.inputs[draft.inputs], &self.classes[draft.class].3);
        let key = |kind: StageKind, at: usize| &self.shared[kind as usize][at].key;
        self.texts.point(point.pieces(), buffer);
        let id = Key::of(buffer.as_bytes());
        buffer.clear();
        buffer.push_str(&inputs.text);
        self.texts.train(class, point.pieces(), draft.patients, buffer);
        Key::close(buffer, StageKind::Train.version());
        let train = Key::of(buffer.as_bytes());
        buffer.clear();
        let data = key(StageKind::Prepare, self.data[draft.data].stage);
        let parents = [("train", &train), ("data", data)];
        let model = inputs.model.map(|(kind, at)| ("diffusion", key(kind, at)));
        Key::open(buffer, StageKind::Evaluate.name(), parents.into_iter().chain(model));
        buffer.push_str(&self.evaluate_texts[draft.evaluate]);
        Key::close(buffer, StageKind::Evaluate.version());
        let evaluate = Key::of(buffer.as_bytes());
        let labels = self.labels.run(point, draft.patients, &class.told);
        Final { id, train, evaluate, labels }
    }

    /// The third pass.
    fn merge(self, drafts: &[Draft], finals: Vec<Final>) -> Plan {
        let offset = self.offsets()[3];
        let n = finals.len();
        let mut points = Vec::with_capacity(n);
        let (mut trains, mut evaluates): (Vec<PlannedStage>, Vec<PlannedStage>) =
            (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut train_of: HashMap<Key, u32> = HashMap::with_capacity(n);
        let mut evaluate_of: HashMap<Key, u32> = HashMap::with_capacity(n);
        let mut ids = HashSet::with_capacity(n);
        let offsets = self.offsets();
        for (i, (draft, done)) in drafts.iter().zip(finals).enumerate() {
            let point = &self.sweep.points[i];
            let Final { id, train, evaluate, labels: [train_label, evaluate_label] } = done;
            let at = *train_of.entry(train.clone()).or_insert_with(|| {
                trains.push(PlannedStage {
                    key: train.clone(),
                    kind: StageKind::Train,
                    method: Some(point.settings.method),
                    label: train_label,
                    group: None,
                    points: Vec::with_capacity(1),
                    parents: Arc::clone(&self.inputs[draft.inputs].indices),
                    recipe: Recipe::Train(draft.patients),
                });
                trains.len() as u32 - 1
            });
            trains[at as usize].points.push(i);
            let own = *evaluate_of.entry(evaluate.clone()).or_insert_with(|| {
                let place = |(kind, place): Place| (offsets[kind as usize] + place) as u32;
                let data = (StageKind::Prepare, self.data[draft.data].stage);
                let model = self.inputs[draft.inputs].model;
                let shared = [data].into_iter().chain(model).map(place);
                evaluates.push(PlannedStage {
                    key: evaluate.clone(),
                    kind: StageKind::Evaluate,
                    method: None,
                    label: evaluate_label,
                    group: None,
                    points: Vec::with_capacity(1),
                    parents: [offset as u32 + at].into_iter().chain(shared).collect(),
                    recipe: Recipe::Evaluate,
                });
                evaluates.len() as u32 - 1
            });
            evaluates[own as usize].points.push(i);
            let id = self.unique_id(point, &id, &mut ids);
            points.push(PlannedPoint {
                id,
                axes: point.axes.clone(),
                settings: Arc::clone(&point.settings),
                train,
                evaluate,
            });
        }
        let [prepare, pretrain, features] = self.shared;
        let mut stages: Vec<PlannedStage> = vec![];
        stages.reserve_exact(offset + trains.len() + evaluates.len());
        for kind in [prepare, pretrain, features, trains, evaluates] {
            stages.extend(kind);
        }
        let (name, neutral) = (self.sweep.name.clone(), Arc::new(neutral()));
        let mut plan = Plan { name, points, stages, neutral, weights: self.weights };
        plan.link(offset);
        plan
    }

    /// The first digits of a point's key, the same in every sweep that has the point, unless another point has them.
    fn unique_id(&self, point: &SweepPoint, key: &Key, ids: &mut HashSet<[u8; 8]>) -> String {
        let mut key = key.clone();
        let mut text = String::new();
        loop {
            let digits: [u8; 8] = std::array::from_fn(|i| key.as_str().as_bytes()[i]);
            if ids.insert(digits) {
                return key.as_str()[..8].to_owned();
            }
            if text.is_empty() {
                self.texts.point(point.pieces(), &mut text);
            }
            text.push('+');
            key = Key::of(text.as_bytes());
        }
    }
}

impl Plan {
    /// Gives the first `shared` stages, which are known, the indices of their parents.
    fn link(&mut self, shared: usize) {
        let index: HashMap<&Key, u32> =
            self.stages[..shared].iter().enumerate().map(|(i, stage)| (&stage.key, i as u32)).collect();
        let parents: Vec<Arc<[u32]>> = self.stages[..shared]
            .iter()
            .map(|stage| match &stage.recipe {
                Recipe::Known(spec) => {
                    spec.parents.iter().filter_map(|p| index.get(&p.key).copied()).collect()
                }
                _ => Arc::default(),
            })
            .collect();
        for (stage, parents) in self.stages.iter_mut().zip(parents) {
            stage.parents = parents;
        }
    }
}

/// The path from the root, so that a stage finds it from any folder.
fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
