//! How a weight grows over the training.

use super::Step;
use crate::spec::settings::ConsistencySettings;

/// Rungs of the ramp: the reference raises the weight every 150 of 30,000 steps.
const RUNGS: f64 = 200.0;

/// λ(i) = weight·exp(−5·(1 − r)²) with r = ⌊200·i/(ramp·I)⌋/200, at most 1; 0 before `delay` (`specs` §0.5).
pub(crate) fn weight(settings: &ConsistencySettings, step: Step) -> f64 {
    if step.index < settings.delay {
        return 0.0;
    }
    let length = settings.ramp * step.total as f64;
    let rung = if length > 0.0 { (RUNGS * step.index as f64 / length).floor().min(RUNGS) } else { RUNGS };
    settings.weight * sigmoid(rung / RUNGS)
}

/// exp(−5·(1 − x)²) for x in `[0, 1]`: called a sigmoid in the reference.
pub(crate) fn sigmoid(x: f64) -> f64 {
    (-5.0 * (1.0 - x).powi(2)).exp()
}
