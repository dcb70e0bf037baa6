//! Overlap and surface distances of one class of one volume, by MedPy's definitions (`medpy/metric/binary.py` 0.5.2).
//!
//! # The headline
//!
//! | metric | definition | better |
//! |---|---|---|
//! | Dice | 2·\|P∩L\| / (\|P\|+\|L\|) | higher |
//! | Jaccard | \|P∩L\| / \|P∪L\| | higher |
//! | 95HD | 95th percentile of the pooled distances border(P)→border(L) and border(L)→border(P) | lower |
//! | ASD | mean distance border(P)→border(L), one-directional | lower |
//!
//! P is what was predicted as the class, L what is labelled so, both in the whole volume at its native size. A border is
//! the mask less its erosion by the 6-neighbour cross; what lies outside the volume is background, so that voxels on the
//! volume's edge belong to the border. Distances are exact and Euclidean, in the unit of the spacing: voxels with
//! [`UNIT`], as the field reports them. A volume's values are averaged over the volumes of a class, then over the
//! classes.
//!
//! # Why these, and what else there is
//!
//! Papers on semi-supervised cardiac MR call MedPy without a spacing (SSL4MIS's test script and what descends from it), so
//! that a step between slices counts as much as one within a slice, though it is about seven times as long. To be comparable,
//! that is the headline. `evaluate.variants: true` writes the other definitions beside it, for each case and class, and
//! tables take their names as metrics:
//!
//! | column | definition | who reports it |
//! |---|---|---|
//! | `hd95_mm`, `asd_mm` | the headline with the volume's spacing; absent where the source tells none | MedPy called with `voxelspacing` |
//! | `hd95_max`, `hd95_max_mm` | the larger of the two directed 95th percentiles | MONAI, MetricsReloaded |
//! | `assd`, `assd_mm` | mean of the pooled distances of both directions | MedPy's `assd` |
//! | `diagonal`, `diagonal_mm` | the diagonal of the volume | what an empty mask can be given |
//!
//! The definition matters more than most differences between methods. The same predictions of `sweeps/quickstart.yaml` (16
//! volumes, two seeds; `--set evaluate.variants=true`):
//!
//! | 95HD | MCSD | DIC alone | | ASD | MCSD | DIC alone |
//! |---|--:|--:|---|---|--:|--:|
//! | headline | 9.55 | 9.67 | | headline | 2.30 | 2.88 |
//! | larger direction | 10.71 | 10.62 | | symmetric | 3.48 | 3.46 |
//! | mm | 26.54 | 26.41 | | mm | 8.06 | 9.50 |
//! | larger direction, mm | 28.68 | 28.44 | | symmetric, mm | 10.67 | 10.49 |
//!
//! Which of the two rows is ahead changes with the definition. A one-directional ASD is low where little is predicted, since it
//! never asks how far the label's border lies from the prediction.
//!
//! # Empty masks
//!
//! | prediction | label | Dice, Jaccard | distances |
//! |---|---|---|---|
//! | empty | empty | 1 | 0 |
//! | empty | there | 0 | as `evaluate.empty` says |
//! | there | empty | 0 | as `evaluate.empty` says |
//!
//! MedPy raises an error for a distance to an empty mask, and its overlap of two empty masks depends on its version (0, 1,
//! NaN or a division by zero). The reference test scripts score such a case 0 voxels, the best distance there is:
//! `evaluate.empty: zero`, the default, follows them. `diagonal` gives the volume's diagonal, the worst there is. Neither is
//! averaged silently: each case has the flags `empty_prediction` and `empty_label`, tables mark the distances that such cases
//! are part of and count them below, and with the variants recorded a table can say `empty: diagonal` (or `zero`) itself. Three
//! empty masks of 96 took the baseline of that sweep from 95HD 10.82 (`zero`) to 16.69 (`diagonal`), and ASD from 3.51 to 9.38.
//!
//! A volume of one slice is a volume: all its voxels have a neighbour outside, so that all of them are border.
//! [`slice_metrics`] is the two-dimensional definition, of MedPy called on an image.

mod surface;

use serde::{Deserialize, Serialize};

use crate::spec::settings::EmptyDistance;
use crate::stats::quantile;

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

/// The other definitions of the distances, of one class of one case; see the module's page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variants {
    /// The larger of the two directed 95th percentiles, in voxels.
    pub hd95_max: f64,
    /// The mean of the pooled distances of both directions, in voxels.
    pub assd: f64,
    /// The diagonal of the volume, in voxels.
    pub diagonal: f64,
    /// The same and the headline in mm; absent where the volume's spacing is not known.
    #[serde(flatten)]
    pub mm: Option<Millimetres>,
}

/// Distances in mm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Millimetres {
    /// 95th percentile of the pooled distances.
    pub hd95_mm: f64,
    /// Mean distance from the prediction to the label.
    pub asd_mm: f64,
    /// The larger of the two directed 95th percentiles.
    pub hd95_max_mm: f64,
    /// The mean of the pooled distances.
    pub assd_mm: f64,
    /// The diagonal of the volume.
    pub diagonal_mm: f64,
}

/// Two label maps and the class that is compared.
#[derive(Clone, Copy)]
struct Masks<'a> {
    pred: &'a [u8],
    label: &'a [u8],
    shape: [usize; 3],
    class: u8,
    /// Whether the slices are images of their own: neighbours in the slice alone make a border.
    flat: bool,
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
    Masks { pred, label, shape, class, flat: false }.metrics(spacing, empty)
}

/// Compares the masks of one image of `[y, x]` pixels, as [`case_metrics`] does those of a volume.
///
/// # Panics
/// When `pred` or `label` do not hold y·x pixels.
pub fn slice_metrics(
    pred: &[u8],
    label: &[u8],
    [height, width]: [usize; 2],
    class: u8,
    [y, x]: [f64; 2],
    empty: EmptyDistance,
) -> CaseMetrics {
    // The diagonal of an image has no depth.
    Masks { pred, label, shape: [1, height, width], class, flat: true }.metrics([0.0, y, x], empty)
}

/// The other definitions of the distances of one class of one volume; `spacing` in mm, where it is known.
///
/// # Panics
/// As [`case_metrics`].
pub fn variants(
    pred: &[u8],
    label: &[u8],
    shape: [usize; 3],
    class: u8,
    spacing: Option<[f64; 3]>,
    empty: EmptyDistance,
) -> Variants {
    let masks = Masks { pred, label, shape, class, flat: false };
    let [_, _, hd95_max, assd] = masks.distances(UNIT, empty);
    let mm = spacing.map(|spacing| {
        let [hd95_mm, asd_mm, hd95_max_mm, assd_mm] = masks.distances(spacing, empty);
        Millimetres { hd95_mm, asd_mm, hd95_max_mm, assd_mm, diagonal_mm: diagonal(shape, spacing) }
    });
    Variants { hd95_max, assd, diagonal: diagonal(shape, UNIT), mm }
}

impl Masks<'_> {
    fn metrics(&self, spacing: [f64; 3], empty: EmptyDistance) -> CaseMetrics {
        let [in_pred, in_label, in_both] = self.count();
        let (dice, jaccard) = overlap(in_pred, in_label, in_both);
        let [hd95, asd, ..] = self.distances_of(in_pred == 0, in_label == 0, spacing, empty);
        CaseMetrics {
            dice,
            jaccard,
            hd95,
            asd,
            empty_prediction: in_pred == 0,
            empty_label: in_label == 0,
            voxels_prediction: in_pred,
            voxels_label: in_label,
        }
    }

    /// Voxels of the class in the prediction, in the label, in both.
    fn count(&self) -> [usize; 3] {
        let volume: usize = self.shape.iter().product();
        assert_eq!(self.pred.len(), volume, "the prediction has the volume's voxels");
        assert_eq!(self.label.len(), volume, "the label has the volume's voxels");
        count(self.pred, self.label, self.class)
    }

    /// 95HD, ASD, the larger directed 95HD and the symmetric ASD.
    fn distances(&self, spacing: [f64; 3], empty: EmptyDistance) -> [f64; 4] {
        let [in_pred, in_label, _] = self.count();
        self.distances_of(in_pred == 0, in_label == 0, spacing, empty)
    }

    fn distances_of(
        &self,
        no_pred: bool,
        no_label: bool,
        spacing: [f64; 3],
        empty: EmptyDistance,
    ) -> [f64; 4] {
        match (no_pred, no_label) {
            (false, false) => self.surface_distances(spacing),
            (true, true) => [0.0; 4],
            _ => match empty {
                EmptyDistance::Zero => [0.0; 4],
                EmptyDistance::Diagonal => [diagonal(self.shape, spacing); 4],
            },
        }
    }

    /// The distances of two masks, neither of them empty.
    fn surface_distances(&self, spacing: [f64; 3]) -> [f64; 4] {
        let border = |map: &[u8]| surface::border(map, self.shape, self.class, self.flat);
        let (pred, label) = (border(self.pred), border(self.label));
        let region = surface::Region::around(&[&pred, &label]);
        let mut there = surface::distances(&pred, &label, &region, spacing);
        let mut back = surface::distances(&label, &pred, &region, spacing);
        let asd = there.iter().sum::<f64>() / there.len() as f64;
        let assd = there.iter().chain(&back).sum::<f64>() / (there.len() + back.len()) as f64;
        let most = quantile(&mut there, 0.95).max(quantile(&mut back, 0.95));
        there.append(&mut back);
        [quantile(&mut there, 0.95), asd, most, assd]
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

/// The length of the volume's diagonal, in the unit of `spacing`.
fn diagonal(shape: [usize; 3], spacing: [f64; 3]) -> f64 {
    let squares = shape.iter().zip(spacing).map(|(&voxels, size)| (voxels as f64 * size).powi(2));
    squares.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
