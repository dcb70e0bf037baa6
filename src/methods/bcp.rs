//! Bidirectional copy-paste (`specs` §7): labelled and unlabelled images are pasted into each other, their labels and
//! the teacher's pseudo-labels likewise. A first phase does so among labelled images alone.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rand::Rng;

use super::average::{Average, STUDENT, teacher};
use super::batch::{Batch, View};
use super::pseudo::Pseudo;
use super::{CLASSES, Losses, Method, SMALL_EPS, Step, components, eval, losses, teach, unet, unlabelled};
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Place, Tape, Var, softmax_eval};
use crate::rng::{stream, stream_seed};
use crate::spec::settings::{BcpSettings, Settings};

/// A student and its moving average.
pub struct Bcp {
    params: Params,
    student: UNet,
    teacher: UNet,
    average: Average,
    settings: BcpSettings,
    seed: u64,
}

/// Which pixels stay (M = 1) and which are pasted in (M = 0).
pub(crate) struct Mask {
    /// M, u8 `[B, S, S]`.
    pub(crate) stays: Tensor,
    /// 1 − M.
    pub(crate) comes: Tensor,
}

impl Mask {
    /// One box of ⌊⅔S⌋ on a side at a uniform corner, the same for all of `count` images, in the thread's place.
    pub(crate) fn draw(rng: &mut impl Rng, count: usize, side: usize) -> Result<Self> {
        let inner = 2 * side / 3;
        let (y, x) = (rng.random_range(0..side - inner), rng.random_range(0..side - inner));
        let inside =
            |at: usize| (y..y + inner).contains(&(at / side % side)) && (x..x + inner).contains(&(at % side));
        let plane = |value: bool| {
            let values: Vec<u8> = (0..count * side * side).map(|at| u8::from(inside(at) == value)).collect();
            Place::current().put(&Tensor::from_vec(values, (count, side, side), &Device::Cpu)?)
        };
        Ok(Self { stays: plane(false)?, comes: plane(true)? })
    }

    /// M·a + (1 − M)·b of images `[B, 1, S, S]`.
    pub(crate) fn paste(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(self.stays.unsqueeze(1)?.where_cond(a, b)?)
    }
}

impl Bcp {
    /// The networks, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let student = unet(&mut b, STUDENT, settings)?;
        let teacher = teacher(&mut b, |b| UNet::new(b, 1, CLASSES, &settings.unet))?;
        let params = b.finish();
        let average = Average::of(&params, &settings.teacher)?;
        if settings.bcp.pretrain == 0 {
            average.copy(params.trainable())?;
        }
        Ok(Self { params, student, teacher, average, settings: settings.bcp.clone(), seed: settings.seed })
    }

    /// The teacher's pseudo-labels of images, in train mode.
    fn labels(&self, images: &Tensor, step: Step, pass: usize) -> Result<Tensor> {
        let seed = stream_seed(self.seed, &format!("teacher/{pass}"), step.index as u64);
        let label = Pseudo::of(&teach(&self.teacher, images, seed)?)?.label;
        if self.settings.components { components::largest(&label) } else { Ok(label) }
    }

    fn forward(&self, tape: &Tape, mask: &Mask, stays: &Tensor, comes: &Tensor) -> Result<Var> {
        self.student.forward(tape, &tape.constant(&mask.paste(stays, comes)?))
    }
}

impl Method for Bcp {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let (_, _, side, _) = batch.labelled.image.dims4()?;
        let ([a, b], [y_a, y_b]) = (halves(&batch.labelled.image)?, halves(&batch.target)?);
        let mask = Mask::draw(&mut stream(self.seed, "copy-paste", step.index as u64), a.dim(0)?, side)?;
        if step.index < self.settings.pretrain {
            let logits = self.forward(tape, &mask, &a, &b)?;
            let total = mixed(tape, &logits, &mask, [&y_a, &y_b], [1.0, 1.0])?;
            return losses(total.clone(), &[("supervised", &total)]);
        }
        let [u_a, u_b] = halves(unlabelled(batch)?)?;
        ensure!(u_a.dims() == a.dims(), "{:?} unlabelled for {:?} labelled images", u_a.dims(), a.dims());
        let (pl_a, pl_b) = (self.labels(&u_a, step, 0)?, self.labels(&u_b, step, 1)?);
        let weight = self.settings.weight;
        let inward = self.forward(tape, &mask, &u_a, &a)?;
        let inward = mixed(tape, &inward, &mask, [&pl_a, &y_a], [weight, 1.0])?;
        let outward = self.forward(tape, &mask, &b, &u_b)?;
        let outward = mixed(tape, &outward, &mask, [&y_b, &pl_b], [1.0, weight])?;
        let total = tape.weighted_sum(&[(1.0, &inward), (1.0, &outward)])?;
        losses(total, &[("labelled_in_unlabelled", &inward), ("unlabelled_in_labelled", &outward)])
    }

    fn average(&self, step: Step) -> Option<&Average> {
        (step.index >= self.settings.pretrain).then_some(&self.average)
    }

    fn restart(&self) -> Option<usize> {
        Some(self.settings.pretrain).filter(|steps| *steps > 0)
    }

    fn after_restart(&self) -> Result<()> {
        self.average.copy(self.params.trainable())
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.student, &view.image)?)
    }
}

pub(super) fn halves(batch: &Tensor) -> Result<[Tensor; 2]> {
    let count = batch.dim(0)?;
    ensure!(count.is_multiple_of(2), "a batch of {count} has no halves: set train.batch to an even number");
    Ok([batch.narrow(0, 0, count / 2)?.contiguous()?, batch.narrow(0, count / 2, count / 2)?.contiguous()?])
}

/// ½Σ w·[Dice + CE] over the pixels that stay (first label and weight) and those that come (second ones).
pub(crate) fn mixed(
    tape: &Tape,
    logits: &Var,
    mask: &Mask,
    labels: [&Tensor; 2],
    weights: [f64; 2],
) -> Result<Var> {
    let mut terms = Vec::new();
    for ((keep, label), weight) in [&mask.stays, &mask.comes].into_iter().zip(labels).zip(weights) {
        terms.push((0.5 * weight, tape.dice(logits, label, Some(keep), SMALL_EPS)?));
        terms.push((0.5 * weight, tape.cross_entropy_kept(logits, label, keep)?));
    }
    tape.weighted_sum(&terms.iter().map(|(weight, term)| (*weight, term)).collect::<Vec<_>>())
}
