//! Every method on the smallest phantom: its loss falls, and a run that is stopped and continued ends in the same bits.

use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;

use super::*;
use crate::data::{self, Dataset, Geometry};
use crate::diffusion::unet::DiffusionUNet;
use crate::nn::params::Builder;
use crate::spec::settings::{
    DataName, DataSettings, DiffusionSettings, FeatureMode, Method as Name, Preset, TestStream, UnetSettings,
};
use crate::spec::stages::PretrainSettings;
use crate::train::feature_cache::{FeatureCache, Header, Writer};
use crate::train::features::MODEL;
use crate::train::pretrain;

static PHANTOM: LazyLock<Dataset> = LazyLock::new(|| {
    let settings =
        DataSettings { name: DataName::Phantom, root: "".into(), patients: 10, seed: 3, unlabelled: false };
    data::prepare(&settings, &|_, _| Ok(())).expect("the phantom needs nothing")
});

/// Stops before a step.
struct Stop {
    at: usize,
    done: Cell<usize>,
}

impl Monitor for Stop {
    fn progress(&self, progress: Progress) {
        self.done.set(progress.done);
    }
    fn note(&self, _text: String) {}
    fn stopped(&self) -> bool {
        self.done.get() == self.at
    }
}

fn settings(method: Name) -> Settings {
    let mut settings = Settings::preset(Preset::Smoke, method);
    settings.size = 32;
    settings.unet = UnetSettings { channels: [4, 4, 8, 8, 8], dropout: [0.05, 0.1, 0.1, 0.1, 0.1] };
    settings.dfm = false;
    settings.swin.channels = 12;
    settings.tau = 0.6;
    settings.train.iterations = 100;
    settings.train.batch = 4;
    settings.train.lr = 0.02;
    settings.train.validate_every = 50;
    settings.consistency.delay = settings.consistency.delay.min(5);
    // The whole weight from the start, so that short trainings have something of it.
    settings.consistency.ramp = 0.0;
    settings.bcp.pretrain = settings.bcp.pretrain.min(40);
    settings
}

/// MCSD with both modules, its features read from [`Model`].
fn with_features() -> Settings {
    let mut settings = settings(Name::Mcsd);
    settings.dfm = true;
    settings.diffusion = diffusion();
    (settings.timesteps, settings.blocks, settings.feature_dim) = (TIMESTEPS.to_vec(), BLOCKS.to_vec(), 4);
    settings
}

/// Where features are read.
const TIMESTEPS: [usize; 2] = [50, 250];
const BLOCKS: [usize; 2] = [0, 2];

fn diffusion() -> DiffusionSettings {
    DiffusionSettings {
        channel_mult: vec![1, 1],
        res_blocks: 1,
        attention: vec![2],
        ..Settings::preset(Preset::Smoke, Name::Mcsd).diffusion
    }
}

/// A small diffusion model as a pre-training of no steps leaves it, in a folder.
struct Model(tempfile::TempDir);

impl Model {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(1);
        DiffusionUNet::new(&mut builder, &diffusion()).unwrap();
        builder.finish().to_safetensors(&dir.path().join(pretrain::EMA)).unwrap();
        let settings = PretrainSettings { size: 32, diffusion: diffusion(), flip: 0.5, rotate: 0.5 };
        files::write_atomic(dir.path().join(MODEL), serde_json::to_vec(&settings).unwrap()).unwrap();
        Self(dir)
    }

    fn open(&self) -> DiffusionModel {
        DiffusionModel::open(self.0.path(), &TIMESTEPS, &BLOCKS, 0).unwrap()
    }

    /// Its features of the training slices as they are, on disk.
    fn cached(&self) -> FeatureSource {
        let model = self.open();
        let slices = PHANTOM.train_slices();
        let planes = slices.iter().flat_map(|slice| {
            let slice = PHANTOM.slice(*slice);
            Geometry::Identity.image(slice.image, slice.height, slice.width, model.size())
        });
        let shape = (slices.len(), 1, model.size(), model.size());
        let images = Tensor::from_vec(planes.collect(), shape, &candle_core::Device::Cpu).unwrap();
        let maps = model.maps(&images).unwrap().maps.tensors().unwrap();
        let caches = model.shapes().unwrap().into_iter().zip(&maps).enumerate().map(|(at, (shape, maps))| {
            let dir = self.0.path().join(at.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let header = Header { slices: slices.len(), channels: shape.channels, side: shape.side };
            let mut writer = Writer::create(&dir, header).unwrap();
            writer.push(maps).unwrap();
            writer.finish().unwrap();
            FeatureCache::open(&dir).unwrap()
        });
        FeatureSource::Cached(caches.collect())
    }
}

/// A training up to step `stop`; the features of its batches, and the model behind those of validation.
fn run(
    settings: &Settings,
    features: (&FeatureSource, Option<&DiffusionModel>),
    dir: &Path,
    stop: usize,
) -> Outcome {
    let monitor = Stop { at: stop, done: Cell::new(0) };
    let (features, at_test) = features;
    let inputs = Inputs { data: &PHANTOM, features, at_test, start: BTreeMap::new() };
    train(settings, 2, &inputs, dir, &monitor).unwrap()
}

/// What is minimised, in the first and in the last row of each phase of the curve.
fn ends(settings: &Settings, dir: &Path) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(dir.join(HISTORY)).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let second = settings.steps() - settings.train.iterations;
    let (first, last): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row["step"].as_u64().unwrap() as usize <= second);
    let loss = |row: &Value| row["loss"].as_f64().unwrap();
    let ends = |rows: Vec<&Value>| Some((loss(rows.first()?), loss(rows.last()?)));
    [first, last].into_iter().filter_map(ends).collect()
}

fn check(method: Name) {
    check_with(&settings(method), (&FeatureSource::None, None));
}

fn check_with(settings: &Settings, features: (&FeatureSource, Option<&DiffusionModel>)) {
    let method = settings.method;
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Outcome::Finished(summary) = run(settings, features, whole.path(), usize::MAX) else {
        panic!("not stopped")
    };
    assert_eq!(summary["steps"], settings.steps());
    // A second phase starts from what the first one learned.
    for ((first, last), share) in ends(settings, whole.path()).into_iter().zip([0.9, 1.0]) {
        assert!(last < share * first, "{method:?}: from {first} to {last}");
    }
    // Stopped in the middle of each phase, between rows, and before the first validation of the second.
    for stop in [7, settings.steps() - 57] {
        assert_eq!(run(settings, features, parts.path(), stop), Outcome::Stopped, "{method:?}");
    }
    assert!(matches!(run(settings, features, parts.path(), usize::MAX), Outcome::Finished(_)));
    for name in [LAST, BEST, HISTORY] {
        let [a, b] = [&whole, &parts].map(|dir| std::fs::read(dir.path().join(name)).unwrap());
        assert!(a == b, "{method:?}: {name} differs after two stops");
    }
    assert!(!whole.path().join(PHASE).exists(), "{method:?}: what only a second phase needs is dropped");
}

#[test]
fn supervised() {
    check(Name::Supervised);
}

#[test]
fn mean_teachers() {
    check(Name::MeanTeacher);
    check(Name::UaMt);
}

#[test]
fn urpc() {
    check(Name::Urpc);
}

#[test]
fn cps() {
    check(Name::Cps);
}

#[test]
fn cross_teaching() {
    check(Name::CrossTeaching);
}

#[test]
fn mc_nets() {
    check(Name::McNet);
    check(Name::McNetPlus);
}

#[test]
fn bcp() {
    check(Name::Bcp);
}

#[test]
fn sc_ssl() {
    check(Name::ScSsl);
}

#[test]
fn unimatch() {
    check(Name::Unimatch);
}

#[test]
fn mcsd() {
    check(Name::Mcsd);
}

#[test]
fn mcsd_with_cached_features() {
    check_with(&with_features(), (&Model::new().cached(), None));
}

#[test]
fn mcsd_with_features_of_each_batch_and_at_validation() {
    let mut settings = with_features();
    (settings.features.mode, settings.mcsd.test_stream) = (FeatureMode::Online, TestStream::Mean);
    (settings.train.iterations, settings.train.validate_every) = (12, 6);
    let model = Model::new();
    let (online, at_test) = (FeatureSource::Online(Box::new(model.open())), model.open());
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |dir: &Path, stop| run(&settings, (&online, Some(&at_test)), dir, stop);
    assert!(matches!(run(whole.path(), usize::MAX), Outcome::Finished(_)));
    assert_eq!(run(parts.path(), 5), Outcome::Stopped);
    assert!(matches!(run(parts.path(), usize::MAX), Outcome::Finished(_)));
    for name in [LAST, BEST, HISTORY] {
        let [a, b] = [&whole, &parts].map(|dir| std::fs::read(dir.path().join(name)).unwrap());
        assert!(a == b, "{name} differs after a stop");
    }
}

#[test]
fn any_number_of_threads_trains_the_same_bits() {
    let model = Model::new();
    let (none, cached) = (FeatureSource::None, model.cached());
    let online = FeatureSource::Online(Box::new(model.open()));
    let all = Name::ALL.map(|method| (settings(method), &none));
    let all = all.into_iter().chain([(with_features(), &cached), (with_features(), &online)]);
    for (mut settings, features) in all {
        (settings.train.iterations, settings.train.validate_every) = (3, 3);
        settings.bcp.pretrain = settings.bcp.pretrain.min(2);
        settings.consistency.delay = 0;
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let dir = tempfile::tempdir().unwrap();
            pool.install(|| run(&settings, (features, None), dir.path(), usize::MAX));
            [LAST, HISTORY].map(|name| std::fs::read(dir.path().join(name)).unwrap())
        });
        assert!(one == three, "{:?} with dfm {}: one thread and three", settings.method, settings.dfm);
    }
}
