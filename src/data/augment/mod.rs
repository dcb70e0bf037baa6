//! Augmentation: weak (a right-angle turn with a flip, or a rotation) at native size, then the zoom to the training
//! size; strong (jitter, blur) and CutMix at training size. Sources: SSL4MIS `dataloaders/dataset.py`, UniMatch
//! `more-scenarios/medical/dataset/{acdc,transform}.py`.
//!
//! Every transform is first drawn, which consumes the random stream, and then applied, which does not. Applying works in a
//! [`Workspace`] and allocates nothing; where a function returns a `Vec`, it is the same with memory of its own.

mod cutmix;
mod geometry;
mod strong;

pub use cutmix::CutMix;
pub use geometry::Geometry;
pub use strong::{Strong, quantise};
pub(in crate::data) use strong::{convolve, gaussian};

/// Memory that augmentation works in, reused from image to image: nothing is allocated once it has been used for images
/// of one size.
#[derive(Debug, Default)]
pub struct Workspace {
    /// What each column adds to the (y, x) that a pixel comes from, in a rotation.
    turned: Vec<[f64; 2]>,
    /// Source indices of a row.
    indices: Vec<u32>,
    /// The taps of the blur.
    taps: Vec<f32>,
    /// A row with repeated edges.
    padded: Vec<f32>,
    /// An image.
    plane: Vec<f32>,
    /// The image of which a box is pasted into another.
    pub(crate) partner: Vec<f32>,
}

/// The source index of each of `to` samples taken from `from`: corner-aligned nearest neighbour,
/// ⌊o·(from−1)/(to−1)+½⌋, as `scipy.ndimage.zoom(order=0)` but for its zeros in the last row or column.
fn zoom_indices(from: usize, to: usize) -> impl Iterator<Item = usize> + Clone {
    // The quotient first, as SciPy has it: ties round by its last bit.
    let step = if to > 1 { (from - 1) as f64 / (to - 1) as f64 } else { 0.0 };
    (0..to).map(move |index| ((index as f64 * step + 0.5).floor() as usize).min(from - 1))
}

/// `source` (`height`×`width`) zoomed to `to_height`×`to_width`, corner-aligned nearest neighbour: for every o,
/// source index `⌊o·(n_in−1)/(n_out−1)+½⌋`. `scipy.ndimage.zoom(order=0)` gives the same but that for some sizes its
/// last row or column is 0, where the last coordinate rounds past the edge.
///
/// # Panics
/// If `source` has not `height`·`width` elements, or is empty.
pub fn zoom_nearest<T: Copy>(
    source: &[T],
    height: usize,
    width: usize,
    to_height: usize,
    to_width: usize,
) -> Vec<T> {
    assert_eq!(source.len(), height * width, "an image of {height}×{width}");
    let columns: Vec<usize> = zoom_indices(width, to_width).collect();
    let mut zoomed = Vec::with_capacity(to_height * to_width);
    for row in zoom_indices(height, to_height) {
        let row = &source[row * width..(row + 1) * width];
        zoomed.extend(columns.iter().map(|&column| row[column]));
    }
    zoomed
}

#[cfg(test)]
mod tests;
