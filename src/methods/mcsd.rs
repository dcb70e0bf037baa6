//! MCSD: multi-consistency segmentation with diffusion features (`specs` §10.4–10.6).
//!
//! Stream f reads the image, stream g the reduced diffusion features of the same image. Two consistencies hold them:
//! DIC, f on two strong CutMixed views against f's pseudo-label of the weak view; and DFM, f against g.

use anyhow::{Context as _, Result};
use candle_core::Tensor;

use super::batch::{Batch, FeatureMaps, View};
use super::per_image::PerImage;
use super::pseudo::{Pseudo, mean_of};
use super::unimatch::{perturbed, strong};
use super::{CLASSES, Figure, Joint, Losses, Method, Step, eval, figure, supervised_loss, unet};
use crate::diffusion::reduction::Reduction;
use crate::diffusion::unet::BlockShape;
use crate::nn::params::{Builder, Params};
use crate::nn::unet::UNet;
use crate::ops::{Mode, Tape, Var, softmax_eval};
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
    reduction: Reduce,
    size: usize,
    /// Whether cached maps move with their image.
    aligned: bool,
}

/// How the features are reduced.
enum Reduce {
    /// By one matrix for all images, learned or not.
    Shared(Reduction),
    /// By a random one for each.
    PerImage(PerImage),
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
    /// Whether f learns from its own pseudo-labels with perturbed features.
    pub(crate) feature_dropout: bool,
}

impl Config {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            loss: settings.train.loss,
            tau: settings.tau as f32,
            dic: settings.dic,
            feature_loss: settings.mcsd.feature_loss,
            test_stream: if settings.dfm { settings.mcsd.test_stream } else { TestStream::Image },
            feature_dropout: settings.mcsd.feature_dropout,
        }
    }
}

/// The logits of one step.
pub(crate) struct Outputs {
    /// f(x).
    pub(crate) f_labelled: Var,
    /// f(u_w).
    pub(crate) f_weak: Option<Var>,
    /// f(u_w) with perturbed features.
    pub(crate) f_perturbed: Option<Var>,
    /// f(s̃₁), f(s̃₂).
    pub(crate) f_strong: Option<[Var; 2]>,
    /// f(v_w), without gradient.
    pub(crate) f_partner: Option<Tensor>,
    /// g(Φ(x)), g(Φ(u_w)).
    pub(crate) g: Option<[Var; 2]>,
}

impl Mcsd {
    /// The networks, with parameters from `b`; `features` as in [`super::build`].
    pub fn new(mut b: Builder, settings: &Settings, features: &[BlockShape]) -> Result<Self> {
        let f = unet(&mut b, "f", settings)?;
        let guide = if settings.dfm { Some(Guide::new(&mut b, settings, features)?) } else { None };
        Ok(Self { params: b.finish(), f, guide, config: Config::of(settings) })
    }

    fn forward(&self, tape: &Tape, batch: &Batch) -> Result<Outputs> {
        let Some(unlabelled) = &batch.unlabelled else {
            let f_labelled = self.f.forward(tape, &tape.constant(&batch.labelled.image))?;
            let (f_weak, f_perturbed, f_strong, f_partner, g) = (None, None, None, None, None);
            return Ok(Outputs { f_labelled, f_weak, f_perturbed, f_strong, f_partner, g });
        };
        let views = batch.strong.as_ref().filter(|_| self.config.dic);
        // Before the training passes move the running statistics.
        let f_partner = views.map(|views| eval(&self.f, &views.partner)).transpose()?;
        let joint = Joint::of(batch)?;
        let (both, dropped) = if self.config.feature_dropout {
            let (both, dropped) = perturbed(tape, &self.f, &joint.image)?;
            (both, Some(dropped))
        } else {
            (self.f.forward(tape, &tape.constant(&joint.image))?, None)
        };
        let [f_labelled, f_weak] = joint.split(tape, &both)?;
        let f_perturbed = match dropped {
            Some(dropped) => {
                let [_, weak] = joint.split(tape, &dropped)?;
                Some(weak)
            }
            None => None,
        };
        let f_strong = views.map(|views| strong(tape, &self.f, views)).transpose()?;
        let g = match &self.guide {
            Some(guide) => Some(guide.forward_pair(tape, &batch.labelled, unlabelled)?),
            None => None,
        };
        Ok(Outputs { f_labelled, f_weak: Some(f_weak), f_perturbed, f_strong, f_partner, g })
    }
}

impl Guide {
    fn new(b: &mut Builder, settings: &Settings, features: &[BlockShape]) -> Result<Self> {
        let dim = settings.feature_dim;
        let g = b.within("g", |b| UNet::new(b, dim, CLASSES, &settings.unet))?;
        let reduction = match settings.features.reduction {
            ReductionKind::PerImageRandom => Reduce::PerImage(PerImage::new(dim, features, settings.seed)),
            kind => {
                Reduce::Shared(b.within("reduction", |b| {
                    Reduction::new(b, dim, features, kind == ReductionKind::Learned)
                })?)
            }
        };
        Ok(Self { g, reduction, size: settings.size, aligned: settings.features.aligned })
    }

    fn reduce(&self, tape: &Tape, maps: &[Tensor], grid: Option<&Tensor>) -> Result<Var> {
        let grid = grid.filter(|_| self.aligned);
        match &self.reduction {
            Reduce::Shared(reduction) => reduction.forward(tape, maps, self.size, grid),
            Reduce::PerImage(reduction) => reduction.forward(tape, maps, self.size, grid),
        }
    }

    /// g on labelled and unlabelled images in one pass.
    fn forward_pair(&self, tape: &Tape, labelled: &View, unlabelled: &View) -> Result<[Var; 2]> {
        let (x, u) = (features(labelled)?, features(unlabelled)?);
        let (b, rest) = (labelled.image.dim(0)?, unlabelled.image.dim(0)?);
        let maps = x.maps.joined(&u.maps)?;
        let grid = match (&x.grid, &u.grid) {
            (Some(x), Some(u)) => Some(Tensor::cat(&[x, u], 0)?),
            _ => None,
        };
        let reduced = self.reduce(tape, &maps, grid.as_ref())?;
        let both = self.g.forward(tape, &reduced)?;
        Ok([tape.narrow(&both, 0, 0, b)?, tape.narrow(&both, 0, b, rest)?])
    }

    fn eval(&self, view: &View) -> Result<Tensor> {
        let tape = Tape::new(Mode::Eval, 0);
        let features = features(view)?;
        let reduced = self.reduce(&tape, &features.maps.tensors()?, features.grid.as_ref())?;
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

    fn loss(&self, tape: &Tape, batch: &Batch, _step: Step) -> Result<Losses> {
        let outputs = self.forward(tape, batch)?;
        let pasted = batch.strong.as_ref().map(|views| &views.pasted);
        step_loss(tape, self.config, &outputs, &batch.target, pasted)
    }

    fn predict(&self, view: &View) -> Result<Tensor> {
        let f = || softmax_eval(&eval(&self.f, &view.image)?);
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
/// L = ½[ℓ_sup(f) + ½L_img + ½L_feat + ½L_fp] + ½ℓ_sup(g), each term where its module is on (L_fp, UniMatch's, is off by
/// default); ℓ_sup(f) alone where both are off.
pub(crate) fn step_loss(
    tape: &Tape,
    config: Config,
    out: &Outputs,
    target: &Tensor,
    pasted: Option<&[Tensor; 2]>,
) -> Result<Losses> {
    let supervised = supervised_loss(tape, &out.f_labelled, target, config.loss)?;
    let mut parts = vec![("supervised", figure(&supervised)?)];
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
        let mut image = Figure::default();
        for (logits, pasted) in strong.iter().zip(pasted) {
            let loss = of_f.cut_mix(&partner, pasted)?.dice(tape, logits, config.tau)?;
            image = image + 0.5 * figure(&loss)?;
            terms.push((0.5 * 0.5 * 0.5, loss));
        }
        parts.push(("image_consistency", image));
    }
    if let Some(perturbed) = &out.f_perturbed {
        let loss = of_f.dice(tape, perturbed, config.tau)?;
        parts.push(("feature_perturbation", figure(&loss)?));
        terms.push((0.5 * 0.5, loss));
    }
    if let Some([g_labelled, g_weak]) = &out.g {
        let guided = of_f.dice(tape, g_weak, config.tau)?;
        let back = match config.feature_loss {
            FeatureLoss::Literal => None,
            FeatureLoss::Mutual => Some(Pseudo::of(g_weak.value())?.dice(tape, f_weak, config.tau)?),
            FeatureLoss::Fused => Some(of_f.dice(tape, f_weak, config.tau)?),
        };
        let g_supervised = supervised_loss(tape, g_labelled, target, config.loss)?;
        parts.push(("feature_supervised", figure(&g_supervised)?));
        let mut feature = 0.5 * figure(&guided)?;
        terms.push((0.5 * 0.5 * 0.5, guided));
        if let Some(back) = back {
            feature = feature + 0.5 * figure(&back)?;
            terms.push((0.5 * 0.5 * 0.5, back));
        }
        parts.push(("feature_consistency", feature));
        terms.push((0.5, g_supervised));
    }
    let terms: Vec<_> = terms.iter().map(|(weight, term)| (*weight, term)).collect();
    Ok(Losses { total: tape.weighted_sum(&terms)?, parts })
}
