//! Label maps of volumes that are in no sweep, by a finished point or by weights in a file.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

use super::volumes::Volume;
use super::weights::{Network, Weights};
use crate::methods::batch::{Batch, View};
use crate::methods::{Losses, Method, Step};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Mode, Tape, softmax_eval};
use crate::stage::Trained;
use crate::train::predict::Predictor;

/// The most slices of a volume that are labelled at once in memory, as a multiple of sense: a network's images are square
/// multiples of this many pixels.
const MULTIPLE: usize = 16;

/// A network that labels volumes.
pub enum Segmenter {
    /// Of a point of a sweep, with all that its prediction reads.
    Trained(Box<Trained>),
    /// A U-Net of a file, and the side of its images.
    Unet(Box<Loaded>, usize),
}

impl Segmenter {
    /// The network of `weights`, which must be a U-Net of one channel.
    ///
    /// # Errors
    /// Where it is another network, or its images have an impossible size.
    pub fn of(weights: &Weights) -> Result<Self> {
        let Network::Unet { inputs, classes, size, unet } = &weights.network else {
            bail!("a {} labels nothing: a U-Net is needed", weights.network.describe());
        };
        ensure!(
            *inputs == 1,
            "the U-Net reads {inputs} channels, and an image has one: of a point that reads diffusion features use --point"
        );
        ensure!(
            *size > 0 && size.is_multiple_of(MULTIPLE),
            "the images would have sides of {size} pixels: a U-Net needs a multiple of {MULTIPLE} (--size)"
        );
        let mut builder = Builder::new(0);
        let net = UNet::new(&mut builder, 1, *classes, unet)?;
        let params = builder.finish();
        params.load(&weights.tensors)?;
        Ok(Self::Unet(Box::new(Loaded { net, params }), *size))
    }

    /// The label map of `volume`, as large as it: each time point is scaled to [0, 1] by itself, as in training.
    ///
    /// # Errors
    /// Where a voxel is not finite, or all voxels of a time point are equal; names the file and the place.
    pub fn label(&self, volume: &Volume) -> Result<Vec<u8>> {
        let predictor = match self {
            Self::Trained(trained) => trained.predictor(),
            Self::Unet(loaded, size) => Predictor { method: &**loaded, size: *size, features: None },
        };
        let voxels: usize = volume.shape.iter().product();
        let mut labels = Vec::with_capacity(volume.voxels.len());
        for (t, frame) in volume.voxels.chunks_exact(voxels.max(1)).enumerate() {
            let scaled = scaled(frame, |index| volume.place(t * voxels + index), &volume.path)?;
            labels.extend(predictor.volume(&scaled, volume.shape)?);
        }
        Ok(labels)
    }
}

/// `frame` from its least to its greatest value as [0, 1], as SSL4MIS prepares volumes.
fn scaled(frame: &[f32], place: impl Fn(usize) -> String, path: &Path) -> Result<Vec<f32>> {
    if let Some(index) = frame.iter().position(|value| !value.is_finite()) {
        bail!(
            "{} has the intensity {} at {}: repair or leave it out",
            path.display(),
            frame[index],
            place(index)
        );
    }
    let (low, high) = frame
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    ensure!(
        high > low,
        "{} has the intensity {low} everywhere ({}): it is no image",
        path.display(),
        place(0)
    );
    // In f64, since the range of raw intensities can overflow f32.
    let (low, range) = (f64::from(low), f64::from(high) - f64::from(low));
    Ok(frame.iter().map(|&value| ((f64::from(value) - low) / range) as f32).collect())
}

/// A U-Net as a method that predicts and is not trained.
pub struct Loaded {
    net: UNet,
    params: Params,
}

impl Method for Loaded {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, _: &Tape, _: &Batch, _: Step) -> Result<Losses> {
        bail!("weights of a file predict; they are not trained")
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        softmax_eval(self.net.forward(&tape, &tape.constant(&view.image))?.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::nifti;
    use crate::data::zoom_nearest;
    use crate::interop::weights::{self, Hints};

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn segmenter(size: usize) -> Result<Segmenter> {
        let mut weights = weights(size);
        // The fixture's classes are far apart on these images: without their means, several win.
        let means = Tensor::new(&[-0.0323f32, 0.0521, 0.0827, -0.0075], &candle_core::Device::Cpu).unwrap();
        let bias = (&weights.tensors["decoder.out_conv.bias"] - means).unwrap();
        weights.tensors.insert("decoder.out_conv.bias".into(), bias);
        Segmenter::of(&weights)
    }

    /// A series of two time points, the second ten times as bright.
    fn series(path: &Path) -> Vec<f32> {
        let header = nifti::Header::new([20, 24, 3, 2], [1.5, 1.25, 8.0]).unwrap();
        let one: Vec<f32> = (0..20 * 24 * 3).map(|i| ((i * 7919) % 1009) as f32).collect();
        let both: Vec<f32> = one.iter().copied().chain(one.iter().map(|value| 10.0 * value)).collect();
        nifti::write_image(path, &header, &both).unwrap();
        one
    }

    #[test]
    fn each_time_point_is_scaled_and_labelled_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series.nii.gz");
        let one = series(&path);
        let volume = Volume::image(&path).unwrap();
        let segmenter = segmenter(32).unwrap();
        let labels = segmenter.label(&volume).unwrap();
        assert_eq!(labels.len(), 2 * one.len());
        assert_eq!(labels[..one.len()], labels[one.len()..], "brightness does not count");
        assert!(labels.iter().any(|&label| label != labels[0]), "there is something to compare");
        // The same by hand, for the second slice.
        let Segmenter::Unet(loaded, _) = &segmenter else { panic!("weights are a U-Net") };
        let most = one.iter().fold(0f32, |most, &value| most.max(value));
        let slice: Vec<f32> = one[480..960].iter().map(|value| value / most).collect();
        let image = zoom_nearest(&slice, 24, 20, 32, 32);
        let image = Tensor::from_vec(image, (1, 1, 32, 32), &candle_core::Device::Cpu).unwrap();
        let classes = loaded.predict(&View { image, features: None }).unwrap().argmax(1).unwrap();
        let classes: Vec<u8> = classes
            .flatten_all()
            .unwrap()
            .to_vec1::<u32>()
            .unwrap()
            .iter()
            .map(|&class| class as u8)
            .collect();
        assert_eq!(labels[480..960], zoom_nearest(&classes, 32, 32, 24, 20));

        for name in ["out.nii.gz", "out.h5"] {
            let out = dir.path().join(name);
            volume.write_labels(&out, &labels).unwrap();
            let back = Volume::label_map(&out).unwrap();
            assert_eq!(
                (back.shape, back.frames, back.labels().unwrap()),
                (volume.shape, 2, labels.clone()),
                "{name}"
            );
        }
        let header = |path: &Path| nifti::read_header(path).unwrap();
        let (before, after) = (header(&path), header(&dir.path().join("out.nii.gz")));
        assert_eq!((before.dims(), before.spacing()), (after.dims(), after.spacing()));
    }

    #[test]
    fn what_cannot_be_labelled_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flat.nii");
        let header = nifti::Header::new([4, 4, 2, 1], [1.0; 3]).unwrap();
        let segmenter = segmenter(32).unwrap();
        for (image, part) in [
            (vec![5.0; 32], "5 everywhere"),
            ([vec![1.0; 20], vec![f32::NAN; 12]].concat(), "NaN at slice 2, row 1, column 0"),
        ] {
            nifti::write_image(&path, &header, &image).unwrap();
            let error = segmenter.label(&Volume::image(&path).unwrap()).unwrap_err().to_string();
            assert!(error.contains("flat.nii") && error.contains(part), "{error}");
        }
        assert!(Segmenter::of(&weights(40)).is_err(), "sides are multiples of 16");
        let diffusion = weights::read(
            &fixture("weights/diffusion_half.pt"),
            &Hints { head_channels: Some(32), size: Some(32), ..Hints::default() },
        );
        let error = Segmenter::of(&diffusion.unwrap()).err().unwrap().to_string();
        assert!(error.contains("labels nothing"), "{error}");
    }

    fn weights(size: usize) -> Weights {
        weights::read(&fixture("weights/ssl4mis.pth"), &Hints { size: Some(size), ..Hints::default() })
            .unwrap()
    }
}
