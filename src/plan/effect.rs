//! Which settings can influence a training at all, and axes that influence nothing.

use std::collections::HashMap;

use anyhow::bail;
use serde_json::Value;

use super::Plan;
use crate::spec::settings::{DataName, FeatureMode, Method, Settings, TestStream};
use crate::store::key::{Key, canonical};

/// Settings that cannot influence a training, with the reason.
pub(super) type Idle = (&'static [&'static str], &'static str);

/// Never read by a training: the data come as a parent, the label ratio as a number of patients.
const ELSEWHERE: Idle = (&["preset", "data", "evaluate"], "");
const FOLDER: Idle = (&["data.root"], "the folder of the data is no part of a result, its content is");
const PHANTOM: Idle = (&["data.patients", "data.seed"], "only the phantom is generated");
const DIFFUSION: Idle =
    (&["diffusion"], "only features from the diffusion model depend on it, and nothing reads them");
const SUPERVISED: Idle = (
    &["tau", "dfm", "dic", "mcsd"],
    "`method: supervised` learns from labelled slices alone, without MCSD's modules",
);
const STREAM: Idle = (
    &["timesteps", "blocks", "feature_dim", "features", "mcsd"],
    "only `method: mcsd` with `dfm: true` reads diffusion features",
);
const STRONG: Idle = (
    &["augment.jitter", "augment.blur", "augment.cutmix"],
    "only `method: mcsd` with `dic: true` makes strongly augmented views",
);
const TAU: Idle = (&["tau"], "only `dfm: true` or `dic: true` makes pseudo-labels, which it filters");

/// What cannot influence the training of these settings.
pub(super) fn idle_in_training(settings: &Settings) -> Vec<Idle> {
    let mcsd = settings.method == Method::Mcsd;
    let (dfm, dic) = (mcsd && settings.dfm, mcsd && settings.dic);
    let mut idle = vec![ELSEWHERE];
    idle.extend((!reads_diffusion(settings)).then_some(DIFFUSION));
    idle.extend((!mcsd).then_some(SUPERVISED));
    idle.extend((mcsd && !dfm && !dic).then_some(TAU));
    idle.extend((!dfm).then_some(STREAM));
    idle.extend((!dic).then_some(STRONG));
    idle
}

/// Whether training and evaluation run the diffusion model themselves, rather than read cached features.
pub(super) fn reads_diffusion(settings: &Settings) -> bool {
    let online = settings.features.mode == FeatureMode::Online;
    uses_features(settings) && (online || settings.mcsd.test_stream != TestStream::Image)
}

/// Whether diffusion features are read at all.
pub(super) fn uses_features(settings: &Settings) -> bool {
    settings.method == Method::Mcsd && settings.dfm
}

/// Why `path` influences no stage of a point with these settings, where that is so.
pub(super) fn idle_reason(settings: &Settings, path: &str) -> Option<&'static str> {
    let mut idle = idle_in_training(settings);
    idle.remove(0);
    if uses_features(settings) {
        idle.retain(|(paths, _)| *paths != DIFFUSION.0);
    }
    idle.push(FOLDER);
    idle.extend((settings.data.name != DataName::Phantom).then_some(PHANTOM));
    let covers =
        |part: &&str| path == *part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
    idle.iter().find(|(paths, _)| paths.iter().any(covers)).map(|(_, why)| *why)
}

/// An axis of which no value changes any stage of any point is a mistake.
pub(super) fn refuse_idle_axes(plan: &Plan) -> anyhow::Result<()> {
    let columns = columns(plan);
    // The values of a point's axes as one number, from which one axis can be taken out again.
    let mix = |axis: usize, value: u32| {
        let x = (axis as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ u64::from(value).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    };
    let sums: Vec<u64> = (0..plan.points.len())
        .map(|i| columns.iter().enumerate().fold(0, |sum: u64, (axis, c)| sum.wrapping_add(mix(axis, c[i]))))
        .collect();
    for (axis, column) in columns.iter().enumerate() {
        let mut rest: HashMap<u64, (u32, &Key)> = HashMap::new();
        let (mut pairs, mut matters) = (0, false);
        for (i, point) in plan.points.iter().enumerate() {
            let others = sums[i].wrapping_sub(mix(axis, column[i]));
            let (value, key) = *rest.entry(others).or_insert((column[i], &point.evaluate));
            if value != column[i] {
                pairs += 1;
                matters = *key != point.evaluate;
            }
            if matters {
                break;
            }
        }
        if pairs > 0 && !matters {
            let (name, value) = &plan.points[0].axes[axis];
            let why = idle_reason(&plan.points[0].settings, name);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            bail!(
                "axis `{name}` changes nothing{why}; every point needs the same stages as with `{name}: {value}`"
            );
        }
    }
    Ok(())
}

/// For each axis, each point's value as a number: equal values, equal numbers.
fn columns(plan: &Plan) -> Vec<Vec<u32>> {
    let axes = plan.points.first().map_or(0, |point| point.axes.len());
    let mut columns = vec![Vec::with_capacity(plan.points.len()); axes];
    for (axis, column) in columns.iter_mut().enumerate() {
        let mut known: Vec<(&Value, u32)> = vec![];
        let mut more: HashMap<String, u32> = HashMap::new();
        for point in &plan.points {
            let value = &point.axes[axis].1;
            // Few values are compared, many are looked up by their text.
            let at = match known.iter().find(|(other, _)| *other == value) {
                Some((_, at)) => *at,
                None if known.len() < 32 => {
                    known.push((value, known.len() as u32));
                    known.len() as u32 - 1
                }
                None => {
                    let next = 32 + more.len() as u32;
                    *more.entry(canonical(value, &Value::Null)).or_insert(next)
                }
            };
            column.push(at);
        }
    }
    columns
}
