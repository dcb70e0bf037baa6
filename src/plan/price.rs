//! What the stages of a plan cost in time and disk: as measured where they are finished; as stages of their kind took in
//! the store, scaled by their operations and bytes; else from the operations and bytes alone.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::{Plan, Recipe};
use crate::cost::{self, Facts, StageCost, Work};
use crate::spec::settings::{AugmentSettings, DataName, DataSettings, LabelRatio, Method, Preset, Settings};
use crate::spec::stages::{EvaluateStage, FeaturesSettings, PrepareSettings, PretrainSettings};
use crate::spec::validate::phantom_train_patients;
use crate::stage::StageKind;
use crate::store::Meta;
use crate::store::key::Key;

/// Operations and bytes of a second and a thread where nothing was measured yet: what the paper's U-Net reaches in
/// training on a core with AVX-512.
const FLOPS: f64 = 60e9;
const BYTES: f64 = 10e9;
/// Seconds that a stage takes at least: a process starts, opens what it reads and syncs what it writes.
const LEAST: f64 = 0.05;

/// What a stage costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Seconds of work.
    pub seconds: f64,
    /// Bytes of its result.
    pub disk: u64,
    /// Where the two come from.
    pub basis: Basis,
}

/// Where a price comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The stage is finished: so it was.
    Measured,
    /// From so many finished stages of its kind in the store.
    Runs(usize),
    /// From a count of operations and bytes.
    Counted,
}

/// What computes a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Computer {
    /// Its CPU threads.
    pub threads: usize,
    /// Whether it computes on a GPU.
    pub gpu: bool,
}

/// The prices of a plan's stages on `computer`, in its order.
///
/// `found` has the metadata of the stages that are finished, `finished` that of everything in the store. A GPU is as fast as
/// the store's stages were on one; where there is none of a kind, its price is [`Basis::Counted`], for the threads alone.
pub fn prices(plan: &Plan, found: &[Option<Meta>], finished: &[Meta], computer: Computer) -> Vec<Price> {
    let rates = Rates::new(finished, computer.threads);
    let costs = costs(plan);
    let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, stage) in plan.stages.iter().enumerate() {
        if let Some(group) = &stage.group {
            groups.entry(group).or_default().push(i);
        }
    }
    let members = |i: usize| plan.stages[i].group.as_deref().and_then(|group| groups.get(group));
    let share = |i: usize| match members(i) {
        Some(members) => part(cost::group(members.iter().map(|&i| costs[i])), members.len(), costs[i]),
        None => costs[i],
    };
    let price = |i: usize| match &found[i] {
        // Each stage of a group is published with its own part of the seconds.
        Some(meta) => Price { seconds: meta.seconds, disk: disk(meta), basis: Basis::Measured },
        None => rates.price(plan.stages[i].kind, plan.stages[i].method, &share(i), computer),
    };
    (0..plan.stages.len()).map(price).collect()
}

/// One of `n` stages of a group: an equal part of the work that they share, and its own disk.
fn part(group: StageCost, n: usize, own: StageCost) -> StageCost {
    StageCost { work: group.work * (1.0 / n as f64), ..own }
}

fn disk(meta: &Meta) -> u64 {
    meta.files.iter().map(|file| file.bytes).sum()
}

/// Seconds that some work takes where nothing was measured.
fn counted(work: Work, threads: usize) -> f64 {
    let threads = threads.max(1) as f64;
    LEAST + work.flops / (FLOPS * threads) + work.bytes / (BYTES * threads)
}

/// The counted costs of all stages. Few settings decide them, so most are those of a stage before.
fn costs(plan: &Plan) -> Vec<StageCost> {
    const KNOWN: usize = 256;
    let parts = rayon::current_num_threads().max(1);
    let chunk = plan.stages.len().div_ceil(parts).max(1);
    let cost = |known: &mut Vec<(StageKind, Settings, StageCost)>, i: usize| {
        let stage = &plan.stages[i];
        let Some(point) = stage.points.first().map(|&point| &plan.points[point]) else {
            return StageCost::default();
        };
        let block = match &stage.recipe {
            Recipe::Known(spec) => spec.settings.get("block").and_then(serde_json::Value::as_u64),
            _ => None,
        };
        let block = block.map(|block| block as usize);
        let settings = deciding(&point.settings);
        let same =
            |(kind, other, _): &&(StageKind, Settings, StageCost)| *kind == stage.kind && *other == settings;
        if let Some((.., cost)) = known.iter().rev().find(same).filter(|_| block.is_none()) {
            return *cost;
        }
        let cost = cost::stage(stage.kind, &settings, block, &facts(&settings.data));
        if known.len() < KNOWN {
            known.push((stage.kind, settings, cost));
        }
        cost
    };
    let indices: Vec<usize> = (0..plan.stages.len()).collect();
    let costs = indices.par_chunks(chunk).map(|part| {
        let mut known = vec![];
        part.iter().map(|&i| cost(&mut known, i)).collect::<Vec<_>>()
    });
    costs.flatten().collect()
}

/// The settings with those that decide no cost at fixed values.
fn deciding(settings: &Settings) -> Settings {
    let augment =
        AugmentSettings { flip: 0.0, rotate: 0.0, jitter: 0.0, blur: 0.0, cutmix: 0.0, quantise: false };
    let mut settings =
        Settings { seed: 0, tau: 1.0, label_ratio: LabelRatio::Cases(1), augment, ..settings.clone() };
    settings.train.lr = 1.0;
    settings
}

/// The size of a data set before it has been read.
fn facts(data: &DataSettings) -> Facts {
    match data.name {
        DataName::Phantom => {
            Facts::expected(data.name, phantom_train_patients(data.patients), 2 * data.patients)
        }
        // SSL4MIS: 100 patients with two volumes each, 70 of them for training.
        // Of a set of one's own nothing is known.
        DataName::Acdc | DataName::Own => Facts::expected(data.name, 70, 200),
        // The open release: 320 patients with labels, split 7:2:1.
        DataName::Mnms => Facts::expected(data.name, 224, 640),
    }
}

/// Measured over counted, for stages of one sort.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    seconds: f64,
    counted_seconds: f64,
    disk: f64,
    counted_disk: f64,
    runs: usize,
}

/// How fast and how large the finished stages of a store were.
struct Rates(HashMap<(StageKind, Option<Method>, bool), Rate>);

impl Rates {
    fn new(finished: &[Meta], threads: usize) -> Self {
        let by_key: HashMap<&Key, &Meta> = finished.iter().map(|meta| (&meta.key, meta)).collect();
        let costs: Vec<Option<(StageCost, Option<Method>)>> =
            finished.par_iter().map(|meta| cost_of(meta, &by_key)).collect();
        // The maps of one pass through a model share its work.
        let mut groups: BTreeMap<(String, u64, u64), Vec<usize>> = BTreeMap::new();
        for (i, meta) in finished.iter().enumerate() {
            groups.entry(group_of(meta, i)).or_default().push(i);
        }
        let mut rates: HashMap<_, Rate> = HashMap::new();
        for members in groups.values() {
            let known = || members.iter().filter_map(|&i| costs[i]);
            let whole = cost::group(known().map(|(cost, _)| cost));
            for &i in members {
                let (Some((own, method)), meta) = (costs[i], &finished[i]) else { continue };
                let cost = part(whole, known().count(), own);
                let gpu = meta.provenance.as_ref().is_some_and(|from| from.device.starts_with("cuda"));
                let rate = rates.entry((meta.kind, method, gpu)).or_default();
                rate.seconds += meta.seconds;
                rate.counted_seconds += counted(cost.work, threads);
                rate.disk += disk(meta) as f64;
                rate.counted_disk += cost.disk as f64;
                rate.runs += 1;
            }
        }
        Self(rates)
    }

    fn price(&self, kind: StageKind, method: Option<Method>, cost: &StageCost, on: Computer) -> Price {
        let seconds = counted(cost.work, on.threads);
        // What computes nothing takes the same with a GPU.
        let gpu = on.gpu && kind != StageKind::Prepare;
        let rate = self.0.get(&(kind, method, gpu));
        match rate.filter(|rate| rate.counted_seconds > 0.0 && rate.counted_disk > 0.0) {
            Some(rate) => Price {
                seconds: seconds * rate.seconds / rate.counted_seconds,
                disk: (cost.disk as f64 * rate.disk / rate.counted_disk) as u64,
                basis: Basis::Runs(rate.runs),
            },
            None => Price { seconds, disk: cost.disk, basis: Basis::Counted },
        }
    }
}

/// What names the pass that a finished stage was part of.
fn group_of(meta: &Meta, i: usize) -> (String, u64, u64) {
    let number = |name: &str| meta.settings.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
    match meta.parents.iter().find(|parent| parent.role == "diffusion") {
        Some(model) if meta.kind == StageKind::Features => {
            (model.key.to_string(), number("timestep"), number("noise_seed"))
        }
        _ => (String::new(), i as u64, 0),
    }
}

/// The counted cost of a finished stage, and its method where it is a training; nothing where what it was computed from is
/// gone or was written by another version.
fn cost_of(meta: &Meta, by_key: &HashMap<&Key, &Meta>) -> Option<(StageCost, Option<Method>)> {
    let parent = |meta: &Meta, role: &str| {
        let parent = meta.parents.iter().find(|parent| parent.role == role)?;
        by_key.get(&parent.key).copied()
    };
    let prepared = |meta: &Meta| {
        let data: PrepareSettings = serde_json::from_value(meta.settings.clone()).ok()?;
        Some(facts(&data.data("".into())))
    };
    let trained = |meta: &Meta| serde_json::from_value::<Settings>(meta.settings.clone()).ok();
    let modelled = |meta: &Meta| {
        let PretrainSettings { size, diffusion, .. } = serde_json::from_value(meta.settings.clone()).ok()?;
        Some(Settings { size, diffusion, ..Settings::preset(Preset::Lite, Method::Mcsd) })
    };
    // A training's own settings do not tell of the model whose maps it reads.
    let read = |train: &Meta| {
        let settings = trained(train)?;
        let reads = |prefix: &str| train.parents.iter().find(|parent| parent.role.starts_with(prefix));
        let model = match (reads("diffusion"), reads("features/")) {
            (Some(model), _) => by_key.get(&model.key).copied()?,
            (None, Some(map)) => parent(by_key.get(&map.key).copied()?, "diffusion")?,
            (None, None) => return Some(settings),
        };
        Some(Settings { diffusion: modelled(model)?.diffusion, ..settings })
    };
    let data = if meta.kind == StageKind::Prepare { meta } else { parent(meta, "data")? };
    let facts = prepared(data)?;
    let (settings, block) = match meta.kind {
        StageKind::Prepare => (Settings::preset(Preset::Lite, Method::Mcsd), None),
        StageKind::Pretrain => (modelled(meta)?, None),
        StageKind::Features => {
            let FeaturesSettings { block, .. } = serde_json::from_value(meta.settings.clone()).ok()?;
            (modelled(parent(meta, "diffusion")?)?, Some(block))
        }
        StageKind::Train => (read(meta)?, None),
        StageKind::Evaluate => {
            let EvaluateStage { evaluate, size, .. } = serde_json::from_value(meta.settings.clone()).ok()?;
            (Settings { size, evaluate, ..read(parent(meta, "train")?)? }, None)
        }
    };
    let method = (meta.kind == StageKind::Train).then_some(settings.method);
    Some((cost::stage(meta.kind, &settings, block, &facts), method))
}
