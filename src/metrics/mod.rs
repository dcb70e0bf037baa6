//! Overlap and surface distances of one class of one volume, by MedPy's definitions (`medpy/metric/binary.py` 0.5.2).
//!
//! | metric | definition | better |
//! |---|---|---|
//! | Dice | 2·\|P∩L\| / (\|P\|+\|L\|) | higher |
//! | Jaccard | \|P∩L\| / \|P∪L\| | higher |
//! | 95HD | 95th percentile of the pooled distances border(P)→border(L) and border(L)→border(P) | lower |
//! | ASD | mean distance border(P)→border(L), one-directional | lower |
//!
//! A border is the mask less its erosion by the 6-neighbour cross; what lies outside the volume is background, so that
//! voxels on the volume's edge belong to the border. Distances are exact and Euclidean, in the unit of the spacing:
//! voxels with [`UNIT`], as the field reports them.

mod surface;

use serde::{Deserialize, Serialize};

use crate::spec::settings::EmptyDistance;

/// The spacing under which distances are in voxels: a step between slices counts as much as one within a slice.
pub const UNIT: [f64; 3] = [1.0; 3];

/// The metrics of one class of one case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseMetrics {
    /// Dice coefficient, in 0..=1.
    pub dice: f64,
    /// Jaccard index, in 0..=1.
    pub jaccard: f64,
    /// 95th percentile of the surface distances of both directions, ≥ 0, in the unit of the spacing.
    pub hd95: f64,
    /// Mean surface distance from the prediction to the label, ≥ 0, in the unit of the spacing.
    pub asd: f64,
    /// Whether no voxel was predicted.
    pub empty_prediction: bool,
    /// Whether no voxel is labelled.
    pub empty_label: bool,
    /// Voxels predicted.
    pub voxels_prediction: usize,
    /// Voxels labelled.
    pub voxels_label: usize,
}

/// Compares the masks `pred == class` and `label == class` of one volume.
///
/// `shape` is `[z, y, x]` with x fastest, `spacing` the voxel's size in the same order (use [`UNIT`] for distances in
/// voxels). Where both masks are empty, the overlap is 1 and the distances 0; where one is, the overlap is 0 and the
/// distances are what `empty` says.
///
/// # Panics
/// When `pred` or `label` do not hold z·y·x voxels: both come from the same evaluation, never from a file.
pub fn case_metrics(
    pred: &[u8],
    label: &[u8],
    shape: [usize; 3],
    class: u8,
    spacing: [f64; 3],
    empty: EmptyDistance,
) -> CaseMetrics {
    let volume: usize = shape.iter().product();
    assert_eq!(pred.len(), volume, "the prediction has the volume's voxels");
    assert_eq!(label.len(), volume, "the label has the volume's voxels");
    let [in_pred, in_label, in_both] = count(pred, label, class);
    let (empty_prediction, empty_label) = (in_pred == 0, in_label == 0);
    let (dice, jaccard) = overlap(in_pred, in_label, in_both);
    let (hd95, asd) = if empty_prediction && empty_label {
        (0.0, 0.0)
    } else if empty_prediction || empty_label {
        let distance = match empty {
            EmptyDistance::Zero => 0.0,
            EmptyDistance::Diagonal => diagonal(shape, spacing),
        };
        (distance, distance)
    } else {
        surface_distances(pred, label, shape, class, spacing)
    };
    CaseMetrics {
        dice,
        jaccard,
        hd95,
        asd,
        empty_prediction,
        empty_label,
        voxels_prediction: in_pred,
        voxels_label: in_label,
    }
}

/// Voxels of `class` in the prediction, in the label, in both.
fn count(pred: &[u8], label: &[u8], class: u8) -> [usize; 3] {
    let (mut in_pred, mut in_label, mut in_both) = (0, 0, 0);
    for (&p, &l) in pred.iter().zip(label) {
        in_pred += usize::from(p == class);
        in_label += usize::from(l == class);
        in_both += usize::from(p == class && l == class);
    }
    [in_pred, in_label, in_both]
}

/// Dice and Jaccard of two masks, from their sizes and that of their intersection; 1 where both are empty.
fn overlap(in_pred: usize, in_label: usize, in_both: usize) -> (f64, f64) {
    if in_pred + in_label == 0 {
        return (1.0, 1.0);
    }
    let both = in_both as f64;
    (2.0 * both / (in_pred + in_label) as f64, both / (in_pred + in_label - in_both) as f64)
}

/// The Dice coefficient of the masks `pred == class` and `label == class`, as [`case_metrics`] has it.
pub fn dice(pred: &[u8], label: &[u8], class: u8) -> f64 {
    let [in_pred, in_label, in_both] = count(pred, label, class);
    overlap(in_pred, in_label, in_both).0
}

/// 95HD and ASD of two masks, neither of them empty.
fn surface_distances(
    pred: &[u8],
    label: &[u8],
    shape: [usize; 3],
    class: u8,
    spacing: [f64; 3],
) -> (f64, f64) {
    let pred_border = surface::border(pred, shape, class);
    let label_border = surface::border(label, shape, class);
    let region = surface::Region::around(&[&pred_border, &label_border]);
    let mut distances = surface::distances(&pred_border, &label_border, &region, spacing);
    let asd = distances.iter().sum::<f64>() / distances.len() as f64;
    distances.extend(surface::distances(&label_border, &pred_border, &region, spacing));
    (percentile(&mut distances, 0.95), asd)
}

/// The length of the volume's diagonal, in the unit of `spacing`.
fn diagonal(shape: [usize; 3], spacing: [f64; 3]) -> f64 {
    let squares = shape.iter().zip(spacing).map(|(&voxels, size)| (voxels as f64 * size).powi(2));
    squares.sum::<f64>().sqrt()
}

/// The `q`-quantile, 0 ≤ q ≤ 1, of `values` (not empty; reordered), interpolated linearly as NumPy's `percentile` does.
fn percentile(values: &mut [f64], q: f64) -> f64 {
    let position = (values.len() - 1) as f64 * q;
    let (index, t) = (position.floor() as usize, position.fract());
    let (_, &mut low, above) = values.select_nth_unstable_by(index, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    // NumPy's `_lerp`: from the nearer end, so that both ends are met exactly.
    if t < 0.5 { low + (high - low) * t } else { high - (high - low) * (1.0 - t) }
}

#[cfg(test)]
mod tests;
