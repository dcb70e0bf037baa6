//! MCSD: multi-consistency segmentation with diffusion features (`specs` §10.4–10.6).
//!
//! Stream f reads the image, stream g the reduced diffusion features of the same image. Two consistencies hold them:
//! DIC, f on two strong CutMixed views against f's pseudo-label of the weak view; and DFM, f against g.

use anyhow::{Context as _, Result};
use candle_core::{DType, Tensor};

use super::batch::{Batch, FeatureMaps, StrongViews, View};
use super::{CLASSES, DICE_EPS, Losses, Method, scalar, supervised_loss};
use crate::diffusion::reduction::Reduction;
use crate::diffusion::unet::BlockShape;
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Mode, Tape, Var, softmax_confidence, softmax_eval};
use crate::rng::stream_seed;
use crate::spec::settings::{FeatureLoss, Reduction as ReductionKind, Settings, SupervisedLoss, TestStream};

/// The two streams and how they are held together.
pub struct Mcsd {
    params: Params,
    f: UNet,
    guide: Option<Guide>,
    config: Config,
}

/// The feature stream: W reduces the diffusion features, g segments them.
struct Guide {
    g: UNet,
    reduction: Reduction,
    size: usize,
}

/// The settings that the loss depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// The supervised loss.
    pub(crate) loss: SupervisedLoss,
    /// Confidence threshold.
    pub(crate) tau: f32,
    /// Whether strong views are used.
    pub(crate) dic: bool,
    /// What couples f and g.
    pub(crate) feature_loss: FeatureLoss,
    /// Which stream predicts.
    pub(crate) test_stream: TestStream,
}

impl Config {
    fn of(settings: &Settings) -> Self {
        Self {
            loss: settings.train.loss,
            tau: settings.tau as f32,
            dic: settings.dic,
            feature_loss: settings.mcsd.feature_loss,
            test_stream: if settings.dfm { settings.mcsd.test_stream } else { TestStream::Image },
        }
    }
}

/// Pseudo-labels: class (u8) and confidence (f32) of each pixel, `[B, S, S]` each.
pub(crate) struct Pseudo {
    label: Tensor,
    confidence: Tensor,
}

impl Pseudo {
    fn of(logits: &Tensor) -> Result<Self> {
        let (label, confidence) = softmax_confidence(logits)?;
        Ok(Self { label, confidence })
    }

    /// Pseudo-labels of the averaged prediction ½(p_f + p_g).
    fn fused(f: &Tensor, g: &Tensor) -> Result<Self> {
        let mean = ((softmax_eval(f)? + softmax_eval(g)?)? * 0.5)?;
        // The logarithm of a distribution is a set of logits of it.
        Self::of(&mean.log()?)
    }

    /// These, with the partner's where `pasted` is 1.
    fn cut_mix(&self, partner: &Self, pasted: &Tensor) -> Result<Self> {
        Ok(Self {
            label: pasted.where_cond(&partner.label, &self.label)?,
            confidence: pasted.where_cond(&partner.confidence, &self.confidence)?,
        })
    }

    /// u8: 1 where the confidence reaches τ.
    fn accepted(&self, tau: f32) -> Result<Tensor> {
        Ok(self.confidence.ge(f64::from(tau))?)
    }
}

/// The logits of one step.
pub(crate) struct Outputs {
    /// f(x).
    pub(crate) f_labelled: Var,
    /// f(u_w).
    pub(crate) f_weak: Option<Var>,
    /// f(s̃₁), f(s̃₂).
    pub(crate) f_strong: Option<[Var; 2]>,
    /// f(v_w), without gradient.
    pub(crate) f_partner: Option<Tensor>,
    /// g(Φ(x)), g(Φ(u_w)).
    pub(crate) g: Option<[Var; 2]>,
}

impl Mcsd {
    /// Fresh networks, drawn from the settings' seed; `features` as in [`super::build`].
    pub fn new(settings: &Settings, features: &[BlockShape]) -> Result<Self> {
        let mut builder = Builder::new(stream_seed(settings.seed, "init", 0));
        let f = builder.within("f", |b| UNet::new(b, 1, CLASSES, &settings.unet))?;
        let guide = if settings.dfm {
            let dim = settings.feature_dim;
            let g = builder.within("g", |b| UNet::new(b, dim, CLASSES, &settings.unet))?;
            let learned = settings.features.reduction == ReductionKind::Learned;
            let reduction = builder.within("reduction", |b| Reduction::new(b, dim, features, learned))?;
            Some(Guide { g, reduction, size: settings.size })
        } else {
            None
        };
        Ok(Self { params: builder.finish(), f, guide, config: Config::of(settings) })
    }

    fn forward(&self, tape: &Tape, batch: &Batch) -> Result<Outputs> {
        let labelled = &batch.labelled.image;
        let b = labelled.dim(0)?;
        let Some(unlabelled) = &batch.unlabelled else {
            let f_labelled = self.f.forward(tape, &tape.constant(labelled))?;
            return Ok(Outputs { f_labelled, f_weak: None, f_strong: None, f_partner: None, g: None });
        };
        let strong = batch.strong.as_ref().filter(|_| self.config.dic);
        // Before the training passes move the running statistics.
        let f_partner = strong.map(|views| self.f_eval(&views.partner)).transpose()?;
        let both = Tensor::cat(&[labelled, &unlabelled.image], 0)?;
        let both = self.f.forward(tape, &tape.constant(&both))?;
        let f_labelled = tape.narrow(&both, 0, 0, b)?;
        let f_weak = Some(tape.narrow(&both, 0, b, unlabelled.image.dim(0)?)?);
        let f_strong = strong.map(|views| self.strong(tape, views)).transpose()?;
        let g = match &self.guide {
            Some(guide) => Some(guide.forward_pair(tape, &batch.labelled, unlabelled)?),
            None => None,
        };
        Ok(Outputs { f_labelled, f_weak, f_strong, f_partner, g })
    }

    fn strong(&self, tape: &Tape, views: &StrongViews) -> Result<[Var; 2]> {
        let b = views.partner.dim(0)?;
        let both = Tensor::cat(&views.images, 0)?;
        let both = self.f.forward(tape, &tape.constant(&both))?;
        Ok([tape.narrow(&both, 0, 0, b)?, tape.narrow(&both, 0, b, b)?])
    }

    fn f_eval(&self, image: &Tensor) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        Ok(self.f.forward(&tape, &tape.constant(image))?.value().clone())
    }
}

impl Guide {
    /// g on labelled and unlabelled images in one pass.
    fn forward_pair(&self, tape: &Tape, labelled: &View, unlabelled: &View) -> Result<[Var; 2]> {
        let (x, u) = (features(labelled)?, features(unlabelled)?);
        let (b, rest) = (labelled.image.dim(0)?, unlabelled.image.dim(0)?);
        let maps = x.maps.iter().zip(&u.maps).map(|(x, u)| Tensor::cat(&[x, u], 0));
        let maps = maps.collect::<candle_core::Result<Vec<_>>>()?;
        let grid = match (&x.grid, &u.grid) {
            (Some(x), Some(u)) => Some(Tensor::cat(&[x, u], 0)?),
            _ => None,
        };
        let reduced = self.reduction.forward(tape, &maps, self.size, grid.as_ref())?;
        let both = self.g.forward(tape, &reduced)?;
        Ok([tape.narrow(&both, 0, 0, b)?, tape.narrow(&both, 0, b, rest)?])
    }

    fn eval(&self, view: &View) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        let features = features(view)?;
        let reduced = self.reduction.forward(&tape, &features.maps, self.size, features.grid.as_ref())?;
        Ok(self.g.forward(&tape, &reduced)?.value().clone())
    }
}

fn features(view: &View) -> Result<&FeatureMaps> {
    view.features.as_ref().context("the batch has no diffusion features")
}

impl Method for Mcsd {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, tape: &Tape, batch: &Batch) -> Result<Losses> {
        let outputs = self.forward(tape, batch)?;
        let pasted = batch.strong.as_ref().map(|views| &views.pasted);
        step_loss(tape, self.config, &outputs, &batch.target, pasted)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        let f = || softmax_eval(&self.f_eval(&view.image)?);
        let Some(guide) = self.guide.as_ref().filter(|_| self.config.test_stream != TestStream::Image) else {
            return f();
        };
        let g = softmax_eval(&guide.eval(view)?)?;
        Ok(match self.config.test_stream {
            TestStream::Mean => ((f()? + g)? * 0.5)?,
            TestStream::Feature | TestStream::Image => g,
        })
    }
}

/// The loss of one step from its logits (`specs` §10.5, step 5):
/// L = ½[ℓ_sup(f) + ½L_img + ½L_feat] + ½ℓ_sup(g), each term where its module is on; ℓ_sup(f) alone where both are off.
pub(crate) fn step_loss(
    tape: &Tape,
    config: Config,
    out: &Outputs,
    target: &Tensor,
    pasted: Option<&[Tensor; 2]>,
) -> Result<Losses> {
    let supervised = supervised_loss(tape, &out.f_labelled, target, config.loss)?;
    let mut parts = vec![("supervised", scalar(&supervised)?)];
    let Some(f_weak) = &out.f_weak else {
        return Ok(Losses { total: supervised, parts });
    };
    let mut terms = vec![(0.5, supervised)];

    let own = Pseudo::of(f_weak.value())?;
    let shared = match (&out.g, config.feature_loss) {
        (Some([_, g_weak]), FeatureLoss::Fused) => Some(Pseudo::fused(f_weak.value(), g_weak.value())?),
        _ => None,
    };
    // What f's predictions are held to, and what g's are.
    let of_f = shared.as_ref().unwrap_or(&own);
    parts.push(("accepted", mean_of(&of_f.accepted(config.tau)?)?));

    if let (Some(strong), Some(partner), Some(pasted)) = (&out.f_strong, &out.f_partner, pasted) {
        let partner = Pseudo::of(partner)?;
        let mut image = 0.0;
        for (logits, pasted) in strong.iter().zip(pasted) {
            let loss = masked_dice(tape, config.tau, logits, &of_f.cut_mix(&partner, pasted)?)?;
            image += 0.5 * scalar(&loss)?;
            terms.push((0.5 * 0.5 * 0.5, loss));
        }
        parts.push(("image_consistency", image));
    }
    if let Some([g_labelled, g_weak]) = &out.g {
        let guided = masked_dice(tape, config.tau, g_weak, of_f)?;
        let back = match config.feature_loss {
            FeatureLoss::Literal => None,
            FeatureLoss::Mutual => Some(masked_dice(tape, config.tau, f_weak, &Pseudo::of(g_weak.value())?)?),
            FeatureLoss::Fused => Some(masked_dice(tape, config.tau, f_weak, of_f)?),
        };
        let g_supervised = supervised_loss(tape, g_labelled, target, config.loss)?;
        parts.push(("feature_supervised", scalar(&g_supervised)?));
        let mut feature = 0.5 * scalar(&guided)?;
        terms.push((0.5 * 0.5 * 0.5, guided));
        if let Some(back) = back {
            feature += 0.5 * scalar(&back)?;
            terms.push((0.5 * 0.5 * 0.5, back));
        }
        parts.push(("feature_consistency", feature));
        terms.push((0.5, g_supervised));
    }
    let terms: Vec<_> = terms.iter().map(|(weight, term)| (*weight, term)).collect();
    Ok(Losses { total: tape.weighted_sum(&terms)?, parts })
}

/// D_τ: Dice against pseudo-labels over the pixels whose confidence reaches τ.
fn masked_dice(tape: &Tape, tau: f32, logits: &Var, pseudo: &Pseudo) -> Result<Var> {
    tape.dice(logits, &pseudo.label, Some(&pseudo.accepted(tau)?), DICE_EPS)
}

fn mean_of(mask: &Tensor) -> Result<f64> {
    Ok(f64::from(mask.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?))
}
