//! Which settings can influence a training at all, and axes that influence nothing.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{Plan, PlannedPoint};
use crate::spec::settings::{DataName, FeatureMode, Method, Settings, TestStream};
use crate::spec::{About, Complaint};

/// Settings that cannot influence a training, with the reason.
pub(super) type Idle = (&'static [&'static str], &'static str);

/// Never read by a training: the data come as a parent, the label ratio as a number of patients.
const ELSEWHERE: Idle = (&["preset", "data", "evaluate"], "");
const FOLDER: Idle = (&["data.root"], "the folder of the data is no part of a result, its content is");
const PATIENTS: Idle = (&["data.patients"], "only the phantom is generated");
const SPLIT: Idle = (&["data.seed"], "the published lists of ACDC leave nothing to draw");
const UNLABELLED: Idle = (&["data.unlabelled"], "only M&Ms and own sets have patients without labels");
const DIFFUSION: Idle =
    (&["diffusion"], "only features from the diffusion model depend on it, and nothing reads them");
const SUPERVISED: Idle = (
    &["tau", "dfm", "dic", "mcsd"],
    "`method: supervised` learns from labelled slices alone, without MCSD's modules",
);
const MODULES: Idle = (&["dfm", "dic", "mcsd"], "only `method: mcsd` has these modules");
const STREAM: Idle = (
    &["timesteps", "blocks", "feature_dim", "features"],
    "only `method: mcsd` with `dfm: true` reads diffusion features",
);
const FEATURE_LOSS: Idle =
    (&["mcsd.feature_loss", "mcsd.test_stream"], "only `method: mcsd` with `dfm: true` has a feature stream");
const STRONG: Idle = (
    &["augment.jitter", "augment.blur", "augment.cutmix"],
    "only `method: mcsd` with `dic: true` and `method: unimatch` make strongly augmented views",
);
const QUANTISE: Idle =
    (&["augment.quantise"], "only methods that learn from unlabelled images have any to round to 8 bits");
const TAU: Idle = (&["tau"], "only `dfm: true` or `dic: true` makes pseudo-labels, which it filters");
const UNUSED: Idle = (&["mcsd"], "only `dfm: true` or `dic: true` learns from unlabelled images");
const UNFILTERED: Idle = (&["tau"], "only `method: mcsd` and `method: unimatch` drop unsure pseudo-labels");
const RAMP: Idle = (&["consistency"], "this method's consistency has no ramped weight");
const TEACHER: Idle = (&["teacher"], "only mean_teacher, ua_mt and bcp keep a moving average");
const BCP: Idle = (&["bcp"], "only `method: bcp` has these choices");
const SWIN: Idle = (&["swin"], "only `method: cross_teaching` has a Swin-Unet");

/// What cannot influence the training of these settings.
pub(super) fn idle_in_training(settings: &Settings) -> Vec<Idle> {
    let method = settings.method;
    let mcsd = method == Method::Mcsd;
    let mut idle = vec![ELSEWHERE];
    let mut when = |is_idle: bool, what: Idle| idle.extend(is_idle.then_some(what));
    when(!reads_diffusion(settings), DIFFUSION);
    when(method == Method::Supervised, SUPERVISED);
    when(!mcsd && method != Method::Supervised, MODULES);
    when(!mcsd && method != Method::Supervised && method != Method::Unimatch, UNFILTERED);
    when(mcsd && !settings.uses_unlabelled(), TAU);
    when(mcsd && !settings.uses_unlabelled(), UNUSED);
    when(!settings.uses_features(), STREAM);
    when(mcsd && !settings.uses_features(), FEATURE_LOSS);
    when(!settings.uses_strong(), STRONG);
    when(!settings.uses_unlabelled(), QUANTISE);
    when(!method.has_ramp(), RAMP);
    when(!method.has_teacher(), TEACHER);
    when(method != Method::Bcp, BCP);
    when(method != Method::CrossTeaching, SWIN);
    idle
}

/// The settings, by the beginnings of their dotted paths, that stand in a training's settings though it does not read
/// them: other stages do, or none.
pub fn idle_paths(settings: &Settings) -> Vec<&'static str> {
    idle_in_training(settings).iter().flat_map(|(paths, _)| *paths).copied().collect()
}

/// Whether training and evaluation run the diffusion model themselves, rather than read cached features.
pub(super) fn reads_diffusion(settings: &Settings) -> bool {
    let online = settings.features.mode == FeatureMode::Online;
    uses_features(settings) && (online || settings.mcsd.test_stream != TestStream::Image)
}

/// Whether diffusion features are read at all.
pub(super) fn uses_features(settings: &Settings) -> bool {
    settings.uses_features()
}

/// Why `path` influences no stage of a point with these settings, where that is so.
pub(super) fn idle_reason(settings: &Settings, path: &str) -> Option<&'static str> {
    let mut idle = idle_in_training(settings);
    idle.remove(0);
    if uses_features(settings) {
        idle.retain(|(paths, _)| *paths != DIFFUSION.0);
    }
    idle.push(FOLDER);
    let name = settings.data.name;
    idle.extend((name != DataName::Phantom).then_some(PATIENTS));
    idle.extend((name == DataName::Acdc).then_some(SPLIT));
    idle.extend((!name.draws_split()).then_some(UNLABELLED));
    let covers =
        |part: &&str| path == *part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
    idle.iter().find(|(paths, _)| paths.iter().any(covers)).map(|(_, why)| *why)
}

/// The axes of which no value changes any stage of any point: a mistake.
pub(super) fn idle_axes(plan: &Plan) -> Vec<Complaint> {
    let axes = plan.points.first().map_or(0, |point| point.axes.len());
    // The values of a point's axes as one number, from which one axis can be taken out again.
    let mix = |axis: usize, value: u32| {
        let x = (axis as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ u64::from(value).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    };
    let sum = |point: &PlannedPoint| {
        (0..axes).fold(0, |sum: u64, axis| sum.wrapping_add(mix(axis, point.axes.index(axis))))
    };
    let sums: Vec<u64> = plan.points.par_iter().with_min_len(1024).map(sum).collect();
    let idle = |axis: usize| {
        let mut rest: HashMap<u64, (u32, usize)> = HashMap::new();
        let mut pairs = 0;
        for (i, point) in plan.points.iter().enumerate() {
            let own = point.axes.index(axis);
            let others = sums[i].wrapping_sub(mix(axis, own));
            let (value, first) = *rest.entry(others).or_insert((own, i));
            if value != own {
                pairs += 1;
                if plan.points[first].evaluate != point.evaluate {
                    return None;
                }
            }
        }
        (pairs > 0).then(|| complaint(plan, axis))
    };
    (0..axes).into_par_iter().filter_map(idle).collect()
}

fn complaint(plan: &Plan, axis: usize) -> Complaint {
    let applies = |point: &&PlannedPoint| !point.axes.value(axis).is_null();
    let point = plan.points.iter().find(applies).unwrap_or(&plan.points[0]);
    let (name, value) = (point.axes.name(axis), point.axes.value(axis));
    let why = idle_reason(&point.settings, name).map(|why| format!(": {why}")).unwrap_or_default();
    Complaint {
        about: About::Axis(axis),
        message: format!("axis `{name}` changes nothing{why}"),
        help: Some(format!("every point needs the same stages as with `{name}: {value}`")),
    }
}
