//! SC-SSL, our reconstruction (`specs` §8): of the published method only the abstract was at hand. Two U-Nets are
//! trained together; a third, the corrector, learns on labelled images to make a target out of an image and both
//! predictions, and its targets teach the two on unlabelled images, by overlap, structure and contrast.

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use rand::seq::SliceRandom;

use super::batch::{Batch, View};
use super::{CLASSES, DICE_EPS, Joint, Losses, Method, Step, eval, losses, ramp, supervised_loss, unet};
use crate::nn::layers::Linear;
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Tape, Var, softmax_confidence, softmax_eval};
use crate::rng::stream;
use crate::spec::settings::{ConsistencySettings, Settings, SupervisedLoss};

/// Weight of the structure term beside Dice.
const STRUCTURE: f64 = 0.5;
/// Weight of the contrast.
const CONTRAST: f64 = 0.1;
/// Confidence of a target from which its pixel takes part in the contrast.
const SURE: f32 = 0.9;
/// Pixels of a class in the contrast, at most.
const PIXELS: usize = 64;
/// Length of the projected features.
const PROJECTED: usize = 32;
/// Temperature of the contrast.
const TEMPERATURE: f64 = 0.1;

/// Two learners, the corrector, and the learners' projections.
pub struct ScSsl {
    params: Params,
    nets: [UNet; 2],
    corrector: UNet,
    projections: [Linear; 2],
    loss: SupervisedLoss,
    consistency: ConsistencySettings,
    seed: u64,
}

/// What one learner makes of the batch.
struct Learnt {
    labelled: Var,
    free: Var,
    /// Features before the head, of all images.
    features: Var,
}

impl Learnt {
    fn of(tape: &Tape, net: &UNet, joint: &Joint) -> Result<Self> {
        let features = net.encode(tape, &tape.constant(&joint.image))?;
        let (mut decoded, logits) = net.decode_all(tape, &features)?;
        let [labelled, free] = joint.split(tape, &logits)?;
        Ok(Self { labelled, free, features: decoded.pop().context("a decoder has features")? })
    }
}

/// Pixels that take part in the contrast: (image, place), and their classes.
#[derive(Default)]
pub(crate) struct Chosen {
    pub(crate) pixels: Vec<(usize, usize)>,
    pub(crate) classes: Vec<u8>,
}

impl ScSsl {
    /// The networks, with parameters from `b`.
    pub fn new(mut b: Builder, settings: &Settings) -> Result<Self> {
        let nets = [unet(&mut b, "f", settings)?, unet(&mut b, "f2", settings)?];
        let corrector = b.within("corrector", |b| UNet::new(b, 1 + 2 * CLASSES, CLASSES, &settings.unet))?;
        let width = settings.unet.channels[0];
        let projections = [
            Linear::new(&mut b, "projection", width, PROJECTED)?,
            Linear::new(&mut b, "projection2", width, PROJECTED)?,
        ];
        Ok(Self {
            params: b.finish(),
            nets,
            corrector,
            projections,
            loss: settings.train.loss,
            consistency: settings.consistency.clone(),
            seed: settings.seed,
        })
    }

    /// InfoNCE between the learners' features of the chosen pixels.
    fn contrast(&self, tape: &Tape, learnt: &[Learnt; 2], chosen: &Chosen, offset: usize) -> Result<Var> {
        let pixels: Vec<_> = chosen.pixels.iter().map(|(image, at)| (image + offset, *at)).collect();
        let projected =
            |k: usize| self.projections[k].forward(tape, &tape.gather_pixels(&learnt[k].features, &pixels)?);
        tape.info_nce(&projected(0)?, &projected(1)?, &chosen.classes, TEMPERATURE)
    }
}

impl Method for ScSsl {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch, step: Step) -> Result<Losses> {
        let joint = Joint::of(batch)?;
        let [first, second] = &self.nets;
        let learnt = [Learnt::of(tape, first, &joint)?, Learnt::of(tape, second, &joint)?];
        let probabilities = |k: usize| -> Result<Tensor> {
            let Learnt { labelled, free, .. } = &learnt[k];
            Ok(Tensor::cat(&[softmax_eval(labelled.value())?, softmax_eval(free.value())?], 0)?)
        };
        let seen = Tensor::cat(&[&joint.image, &probabilities(0)?, &probabilities(1)?], 1)?;
        let corrected = self.corrector.forward(tape, &tape.constant(&seen))?;
        let [corrected, goal] = joint.split(tape, &corrected)?;
        let weight = ramp::weight(&self.consistency, step);
        let outputs = [0, 1].map(|k: usize| [learnt[k].labelled.clone(), learnt[k].free.clone()]);
        let mut losses =
            step_loss(tape, &outputs, &corrected, goal.value(), &batch.target, weight, self.loss)?;
        let chosen = choose(goal.value(), self.seed, step)?;
        if !chosen.classes.is_empty() {
            let contrast = self.contrast(tape, &learnt, &chosen, joint.labelled)?;
            losses.parts.push(("contrast", super::figure(&contrast)?));
            losses.total = tape.weighted_sum(&[(1.0, &losses.total), (CONTRAST, &contrast)])?;
        }
        Ok(losses)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        softmax_eval(&eval(&self.nets[0], &view.image)?)
    }
}

/// L = Σ_k {ℓ_sup(k) + λ·[Dice(p_k, ŷ) + ½(1 − SSIM(p_k, q))]} + ℓ_sup(corrector), without the contrast; `goal` are the
/// corrector's logits of the unlabelled images, q their softmax and ŷ their classes.
pub(crate) fn step_loss(
    tape: &Tape,
    outputs: &[[Var; 2]; 2],
    corrected: &Var,
    goal: &Tensor,
    target: &Tensor,
    weight: f64,
    loss: SupervisedLoss,
) -> Result<Losses> {
    let (label, _) = softmax_confidence(goal)?;
    let goal = softmax_eval(goal)?;
    let corrector = supervised_loss(tape, corrected, target, loss)?;
    let mut terms = Vec::new();
    for [labelled, free] in outputs {
        let overlap = tape.dice(free, &label, None, DICE_EPS)?;
        let structure = tape.dissimilarity(&tape.softmax(free)?, &goal)?;
        let consistency = tape.weighted_sum(&[(1.0, &overlap), (STRUCTURE, &structure)])?;
        terms.push((supervised_loss(tape, labelled, target, loss)?, consistency));
    }
    let [(s0, c0), (s1, c1)] = &terms[..] else { anyhow::bail!("two learners") };
    let total = tape.weighted_sum(&[(1.0, s0), (1.0, s1), (weight, c0), (weight, c1), (1.0, &corrector)])?;
    let consistency = tape.weighted_sum(&[(1.0, c0), (1.0, c1)])?;
    losses(
        total,
        &[("supervised", s0), ("supervised_2", s1), ("corrector", &corrector), ("consistency", &consistency)],
    )
}

/// Up to 64 pixels of each class, drawn from those whose target is sure.
pub(crate) fn choose(goal: &Tensor, seed: u64, step: Step) -> Result<Chosen> {
    let (label, confidence) = softmax_confidence(goal)?;
    let plane = label.elem_count() / label.dim(0)?;
    let (label, confidence) = (label.flatten_all()?.to_vec1::<u8>()?, confidence.to_dtype(DType::F32)?);
    let confidence = confidence.flatten_all()?.to_vec1::<f32>()?;
    let mut rng = stream(seed, "contrast", step.index as u64);
    let mut chosen = Chosen::default();
    for class in 0..CLASSES as u8 {
        let sure = |at: &usize| label[*at] == class && confidence[*at] > SURE;
        let mut places: Vec<usize> = (0..label.len()).filter(sure).collect();
        let (some, _) = places.partial_shuffle(&mut rng, PIXELS);
        chosen.pixels.extend(some.iter().map(|at| (at / plane, at % plane)));
        chosen.classes.extend(some.iter().map(|_| class));
    }
    Ok(chosen)
}
