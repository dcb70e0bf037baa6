//! Mean teacher (`specs` §2): the student agrees with its moving average on noisy unlabelled images.

use anyhow::Result;
use candle_core::Tensor;

use super::average::{Average, STUDENT, teacher};
use super::batch::{Batch, View};
use super::{
    CLASSES, Joint, Losses, Method, Step, eval, losses, noisy, ramp, supervised_loss, teach, unet, unlabelled,
};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Tape, Var, softmax_eval};
use crate::rng::stream_seed;
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// A student and its moving average.
pub struct MeanTeacher {
    params: Params,
    pair: Pair,
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
}

/// What mean teacher and its uncertainty-aware kind share.
pub(super) struct Pair {
    pub(super) student: UNet,
    teacher: UNet,
    pub(super) average: Average,
    seed: u64,
}

impl Pair {
    /// Both networks; the teacher has a start of its own, as in the reference.
    pub(super) fn new(mut b: Builder, settings: &Settings) -> Result<(Self, Params)> {
        let student = unet(&mut b, STUDENT, settings)?;
        let teacher = teacher(&mut b, |b| UNet::new(b, 1, CLASSES, &settings.unet))?;
        let params = b.finish();
        let average = Average::of(&params, &settings.teacher)?;
        Ok((Self { student, teacher, average, seed: settings.seed }, params))
    }

    /// The student's logits of the labelled and of the unlabelled images.
    pub(super) fn student(&self, tape: &Tape, batch: &Batch) -> Result<[Var; 2]> {
        let joint = Joint::of(batch)?;
        joint.split(tape, &self.student.forward(tape, &tape.constant(&joint.image))?)
    }

    /// The teacher's probabilities of `images` with noise: pass `pass` of step `step`.
    pub(super) fn taught(&self, images: &Tensor, step: Step, pass: usize) -> Result<Tensor> {
        let purpose = format!("teacher/{pass}");
        let images = noisy(images, self.seed, &format!("{purpose}/noise"), step.index as u64)?;
        softmax_eval(&teach(&self.teacher, &images, stream_seed(self.seed, &purpose, step.index as u64))?)
    }
}

impl MeanTeacher {
    /// The networks, with parameters from `b`.
    pub fn new(b: Builder, settings: &Settings) -> Result<Self> {
        let (pair, params) = Pair::new(b, settings)?;
        Ok(Self { params, pair, loss: settings.train.loss, consistency: settings.consistency.clone() })
    }
}

impl Method for MeanTeacher {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let [labelled, own] = self.pair.student(tape, batch)?;
        let supervised = supervised_loss(tape, &labelled, &batch.target, self.loss)?;
        let weight = ramp::weight(&self.consistency, step);
        if weight == 0.0 {
            return losses(supervised.clone(), &[("supervised", &supervised)]);
        }
        let taught = self.pair.taught(unlabelled(batch)?, step, 0)?;
        let consistency = consistency(tape, &own, &taught)?;
        let total = tape.weighted_sum(&[(1.0, &supervised), (weight, &consistency)])?;
        losses(total, &[("supervised", &supervised), ("consistency", &consistency)])
    }

    fn average(&self, _: Step) -> Option<&Average> {
        Some(&self.pair.average)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.pair.student, &view.image)?)
    }
}

/// mean[(p_s − p_t)²] over batch, classes and pixels.
pub(crate) fn consistency(tape: &Tape, logits: &Var, taught: &Tensor) -> Result<Var> {
    tape.mse(&tape.softmax(logits)?, taught)
}
