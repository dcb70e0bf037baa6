//! Label maps of whole volumes, slice by slice, as SSL4MIS validates and tests (`specs` §0.6).

use anyhow::Result;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::features::DiffusionModel;
use super::{Monitor, Stopped};
use crate::data::{Dataset, Split, zoom_nearest};
use crate::methods::Method;
use crate::methods::batch::View;
use crate::metrics;
use crate::ops::{Place, softmax_confidence};

/// Slices of one forward pass.
const BATCH: usize = 8;

/// A trained method that labels volumes.
pub struct Predictor<'a> {
    /// The method.
    pub method: &'a dyn Method,
    /// Side of its images.
    pub size: usize,
    /// Where it gets diffusion features from, if its prediction needs any.
    pub features: Option<&'a DiffusionModel>,
}

impl Predictor<'_> {
    /// The label map `[z, y, x]` of a volume `[z, y, x]` in `[0, 1]`: each slice is zoomed to the network's size
    /// (order 0), labelled, and its labels are zoomed back.
    pub fn volume(&self, image: &[f32], shape: [usize; 3]) -> Result<Vec<u8>> {
        let [_, rows, columns] = shape;
        let side = self.size;
        let slices: Vec<&[f32]> = image.chunks_exact(rows * columns).collect();
        let mut labels = Vec::with_capacity(image.len());
        for batch in slices.chunks(BATCH) {
            let small: Vec<Vec<f32>> =
                batch.par_iter().map(|slice| zoom_nearest(slice, rows, columns, side, side)).collect();
            let image = Tensor::from_vec(small.concat(), (batch.len(), 1, side, side), &Device::Cpu)?;
            let features = self.features.map(|model| model.maps(&image)).transpose()?;
            let probabilities = self.method.predict(&View { image, features })?;
            let classes = argmax(&probabilities)?;
            for slice in classes.chunks_exact(side * side) {
                labels.extend(zoom_nearest(slice, side, side, rows, columns));
            }
        }
        Ok(labels)
    }
}

/// The most probable class of each pixel of `[B, C, S, S]`; the first of equals, as NumPy and PyTorch choose.
fn argmax(probabilities: &Tensor) -> Result<Vec<u8>> {
    if Place::current().is_gpu() {
        // A byte a pixel is read. Numbers whose exponentials are equal count as equal.
        return Ok(softmax_confidence(probabilities)?.0.flatten_all()?.to_vec1()?);
    }
    let (b, classes, h, w) = probabilities.dims4()?;
    let values = probabilities.flatten_all()?.to_vec1::<f32>()?;
    let plane = h * w;
    let mut labels = vec![0; b * plane];
    for (image, out) in values.chunks_exact(classes * plane).zip(labels.chunks_exact_mut(plane)) {
        for (pixel, label) in out.iter_mut().enumerate() {
            for class in 1..classes {
                if image[class * plane + pixel] > image[*label as usize * plane + pixel] {
                    *label = class as u8;
                }
            }
        }
    }
    Ok(labels)
}

/// Mean Dice over the foreground classes and the volumes of `split`, in 0–1; a class that is missed counts 0.
///
/// # Errors
/// [`Stopped`] where `monitor` asks for it, between two volumes.
pub fn mean_dice(predictor: &Predictor, data: &Dataset, split: Split, monitor: &dyn Monitor) -> Result<f64> {
    let mut sum = 0.0;
    let mut count = 0;
    for (index, case) in data.cases().iter().enumerate().filter(|(_, case)| case.split == split) {
        if monitor.stopped() {
            return Err(Stopped.into());
        }
        let labels = predictor.volume(data.image(index), case.shape)?;
        for class in 1..data.classes().len() as u8 {
            sum += metrics::dice(&labels, data.label(index), class);
            count += 1;
        }
    }
    Ok(if count == 0 { 0.0 } else { sum / f64::from(count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals() {
        // Two pixels: class 0 = class 2 > class 1, and class 2 alone.
        let p = Tensor::new(&[[[[0.4f32, 0.1]], [[0.2, 0.2]], [[0.4, 0.7]]]], &Device::Cpu).unwrap();
        assert_eq!(argmax(&p).unwrap(), [0, 2]);
        let Ok(gpu) = Place::emulated() else { return println!("skipped: no C++ compiler") };
        assert_eq!(gpu.run(|| argmax(&p)).unwrap(), [0, 2]);
    }
}
