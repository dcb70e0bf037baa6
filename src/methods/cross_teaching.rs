//! Cross teaching between a U-Net and a Swin-Unet (`specs` §5): as cross pseudo supervision, with Dice.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Tensor;

use super::batch::{Batch, View};
use super::cps::{Against, step_loss};
use super::{CLASSES, Joint, Losses, Method, Step, eval, ramp, unet};
use crate::nn::params::{Builder, Params};
use crate::nn::swin::{SwinUnet, from_imagenet};
use crate::nn::unet::UNet;
use crate::ops::{Tape, softmax_eval};
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// What the names of the Swin-Unet's parameters begin with.
const SWIN: &str = "swin";

/// A U-Net, which predicts, and a Swin-Unet.
pub struct CrossTeaching {
    params: Params,
    cnn: UNet,
    transformer: SwinUnet,
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
}

/// The part of Swin-T's weights of ImageNet, `found`, that the Swin-Unet starts from, by the names of the method's parameters.
///
/// # Errors
/// Where these are not such weights.
pub fn start(settings: &Settings, found: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut b = Builder::shapes_only();
    SwinUnet::new(&mut b, settings.size, CLASSES, &settings.swin)?;
    let start = from_imagenet(found, &b.finish())?;
    Ok(start.into_iter().map(|(name, tensor)| (format!("{SWIN}.{name}"), tensor)).collect())
}

impl CrossTeaching {
    /// The networks, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let cnn = unet(&mut b, "f", settings)?;
        let transformer = b.within(SWIN, |b| SwinUnet::new(b, settings.size, CLASSES, &settings.swin))?;
        let (loss, consistency) = (settings.train.loss, settings.consistency.clone());
        Ok(Self { params: b.finish(), cnn, transformer, loss, consistency })
    }
}

impl Method for CrossTeaching {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let joint = Joint::of(batch)?;
        let image = tape.constant(&joint.image);
        let all = [self.cnn.forward(tape, &image)?, self.transformer.forward(tape, &image)?];
        let outputs = [joint.split(tape, &all[0])?, joint.split(tape, &all[1])?];
        let weight = ramp::weight(&self.consistency, step);
        step_loss(tape, &outputs, &batch.target, weight, self.loss, Against::Dice)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.cnn, &view.image)?)
    }
}
