//! A training step of every method, and what it consists of, each part by itself: the passes of its networks, and the
//! rest (losses, noise, boxes, averages of weights). A step should cost no more than its parts.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::cases::{labels, numbers, view};
use crate::diffusion::reduction::{Reduction, map_shapes};
use crate::diffusion::unet::{BlockShape, chosen_blocks};
use crate::methods::batch::{Batch, StrongViews, View};
use crate::methods::bcp::{Mask, mixed};
use crate::methods::cps::Against;
use crate::methods::pseudo::Pseudo;
use crate::methods::{
    self, CLASSES, Losses, Step, components, cps, mc_net, mcsd, mean_teacher, noisy, sc_ssl,
};
use crate::methods::{supervised_loss, ua_mt, unimatch, urpc};
use crate::nn::layers::Linear;
use crate::nn::mcnet::McNet;
use crate::nn::params::{Builder, Params};
use crate::nn::pyramid::PyramidNet;
use crate::nn::swin::SwinUnet;
use crate::nn::unet::UNet;
use crate::ops::{Gradients, Mode, Sgd, Tape, Var, softmax_eval};
use crate::rng::stream;
use crate::spec::settings::{Method, Preset, Settings, SupervisedLoss};

/// Steps of the training that is timed a part of.
const TOTAL: usize = 1000;

/// Something to be timed; what it does depends on the number of its call.
pub type Work = Box<dyn FnMut(usize) -> Result<()>>;

/// The parts of a method's [`step`].
pub struct Parts {
    /// The passes of its networks alone, all on one tape, forward and, where the method learns through them, backward from
    /// a mean square of the logits; one optimiser's step over all parameters.
    pub passes: Work,
    /// That mean square alone, which stands in the place of the loss: no part of a step.
    pub stand_in: Work,
    /// All else that a step does, from fixed logits.
    pub rest: Work,
}

/// The settings of `method` as it is timed: the paper's, on small images, its consistency from the first step on.
pub fn settings(method: Method, batch: usize, size: usize) -> Settings {
    let mut settings = Settings::preset(Preset::Paper, method);
    settings.size = size;
    settings.train.batch = batch;
    settings.diffusion.channels = 64;
    settings.consistency.delay = 0;
    settings.bcp.pretrain = 0;
    // Divides 32, 16, 8 and 4.
    settings.swin.window = if size.is_multiple_of(224) { 7 } else { 4 };
    settings
}

impl Parts {
    /// Those of the method of `settings`.
    ///
    /// # Errors
    /// Where the settings fit no batch: an odd number of images for [`Method::Bcp`].
    pub fn new(settings: &Settings) -> Result<Self> {
        let (params, mut run) = passes(settings)?;
        let shapes = {
            let tape = Tape::new(Mode::TrainNoGrad, 0);
            run(&tape, 0)?.iter().map(|logits| logits.dims().to_vec()).collect::<Vec<_>>()
        };
        let zeros = shapes.iter().map(|shape| Tensor::zeros(&shape[..], DType::F32, &Device::Cpu));
        let zeros = zeros.collect::<candle_core::Result<Vec<_>>>()?;
        let logits = shapes.iter().map(|shape| numbers("logits", shape)).collect::<Result<Vec<_>>>()?;
        let targets = zeros.clone();
        let mut sgd = Sgd::new(settings.train.momentum, settings.train.weight_decay);
        let passes = move |index: usize| {
            let tape = Tape::new(Mode::Train, index as u64);
            let loss = mean_square(&tape, &run(&tape, index)?, &zeros)?;
            sgd.step(params.trainable(), &tape.backward(&loss)?, 1e-4)
        };
        let stand_in = move |index: usize| {
            let tape = Tape::new(Mode::Train, index as u64);
            let all: Vec<Var> = logits.iter().map(|logits| tape.param(logits)).collect();
            let loss = mean_square(&tape, &all, &targets)?;
            drop(black_box(tape.backward(&loss)?));
            Ok(())
        };
        Ok(Self { passes: Box::new(passes), stand_in: Box::new(stand_in), rest: rest(settings)? })
    }
}

fn mean_square(tape: &Tape, all: &[Var], zeros: &[Tensor]) -> Result<Var> {
    let terms = all.iter().zip(zeros).map(|(logits, zeros)| tape.mse(logits, zeros));
    let terms = terms.collect::<Result<Vec<_>>>()?;
    tape.weighted_sum(&terms.iter().map(|term| (1.0, term)).collect::<Vec<_>>())
}

fn shapes(settings: &Settings) -> Result<Vec<BlockShape>> {
    if !settings.uses_features() {
        return Ok(vec![]);
    }
    let blocks = chosen_blocks(&settings.diffusion, settings.size, &settings.blocks)?;
    Ok(map_shapes(settings.timesteps.len(), &blocks))
}

fn images(settings: &Settings, name: &str, count: usize) -> Result<Tensor> {
    numbers(name, &[count, 1, settings.size, settings.size])
}

fn classes(settings: &Settings, name: &str, end: u8) -> Result<Tensor> {
    labels(name, (settings.train.batch, settings.size, settings.size), end)
}

fn strong_views(settings: &Settings) -> Result<StrongViews> {
    let image = |name| images(settings, name, settings.train.batch);
    Ok(StrongViews {
        images: [image("first")?, image("second")?],
        pasted: [classes(settings, "first", 2)?, classes(settings, "second", 2)?],
        partner: image("partner")?,
    })
}

fn plain_or_featured(settings: &Settings, shapes: &[BlockShape], name: &str) -> Result<View> {
    if shapes.is_empty() {
        return Ok(View { image: images(settings, name, settings.train.batch)?, features: None });
    }
    view(settings, shapes, name)
}

/// The whole step of the method of `settings`: loss, gradients, optimiser, averages.
///
/// # Errors
/// Where the settings fit no network.
pub fn step(settings: &Settings) -> Result<Work> {
    let shapes = shapes(settings)?;
    let method = methods::build(settings, &shapes)?;
    let view = |name| plain_or_featured(settings, &shapes, name);
    let batch = Batch {
        labelled: view("labelled")?,
        target: classes(settings, "target", CLASSES as u8)?,
        unlabelled: if settings.uses_unlabelled() { Some(view("unlabelled")?) } else { None },
        strong: if settings.uses_strong() { Some(strong_views(settings)?) } else { None },
    };
    let mut sgd = Sgd::new(settings.train.momentum, settings.train.weight_decay);
    Ok(Box::new(move |index| {
        let tape = Tape::new(Mode::Train, index as u64);
        let step = Step { index, total: TOTAL };
        let losses = method.loss(&tape, &batch, step)?;
        methods::update(&*method, &mut sgd, &tape.backward(&losses.total)?, 1e-4, step)
    }))
}

/// The losses of a step from what is fixed.
type Loss = Box<dyn FnMut(&Tape, usize) -> Result<Var>>;

/// Forward passes on a tape; those without gradient are made beside it.
type Run = Box<dyn FnMut(&Tape, usize) -> Result<Vec<Var>>>;

/// A forward pass of a network without gradient.
fn look(net: &UNet, mode: Mode, image: &Tensor, index: usize) -> Result<()> {
    let tape = Tape::new(mode, index as u64);
    black_box(net.forward(&tape, &tape.constant(image))?);
    Ok(())
}

/// The networks of a method and their passes.
fn passes(settings: &Settings) -> Result<(Params, Run)> {
    let mut b = Builder::new(0);
    let (batch, unet) = (settings.train.batch, &settings.unet);
    let net =
        |b: &mut Builder, name: &str, channels| b.within(name, |b| UNet::new(b, channels, CLASSES, unet));
    let images = |name: &str, count: usize| images(settings, name, count);
    let run: Run = match settings.method {
        Method::Supervised => {
            let (f, x) = (net(&mut b, "f", 1)?, images("x", batch)?);
            Box::new(move |tape, _| Ok(vec![f.forward(tape, &tape.constant(&x))?]))
        }
        Method::MeanTeacher | Method::UaMt => {
            let (f, teacher) = (net(&mut b, "f", 1)?, b.frozen(|b| net(b, "teacher", 1))?);
            let (joint, u) = (images("joint", 2 * batch)?, images("u", batch)?);
            let repeats = if settings.method == Method::UaMt { 4 } else { 0 };
            Box::new(move |tape, index| {
                let all = f.forward(tape, &tape.constant(&joint))?;
                look(&teacher, Mode::TrainNoGrad, &u, index)?;
                (0..repeats).try_for_each(|_| look(&teacher, Mode::TrainNoGrad, &joint, index))?;
                Ok(vec![all])
            })
        }
        Method::Urpc => {
            let f = b.within("f", |b| PyramidNet::new(b, CLASSES, unet))?;
            let joint = images("joint", 2 * batch)?;
            Box::new(move |tape, index| f.forward(tape, &tape.constant(&joint), index as u64))
        }
        Method::Cps => {
            let nets = [net(&mut b, "f", 1)?, net(&mut b, "f2", 1)?];
            let joint = images("joint", 2 * batch)?;
            Box::new(move |tape, _| {
                nets.iter().map(|net| net.forward(tape, &tape.constant(&joint))).collect()
            })
        }
        Method::CrossTeaching => {
            let f = net(&mut b, "f", 1)?;
            let swin = b.within("swin", |b| SwinUnet::new(b, settings.size, CLASSES, &settings.swin))?;
            let joint = images("joint", 2 * batch)?;
            Box::new(move |tape, _| {
                let joint = tape.constant(&joint);
                Ok(vec![f.forward(tape, &joint)?, swin.forward(tape, &joint)?])
            })
        }
        Method::McNet | Method::McNetPlus => {
            let decoders = if settings.method == Method::McNet { 2 } else { 3 };
            let f = b.within("f", |b| McNet::new(b, CLASSES, decoders, unet))?;
            let joint = images("joint", 2 * batch)?;
            Box::new(move |tape, _| f.forward(tape, &tape.constant(&joint)))
        }
        Method::Bcp => {
            let (f, teacher) = (net(&mut b, "f", 1)?, b.frozen(|b| net(b, "teacher", 1))?);
            let half = images("half", batch / 2)?;
            Box::new(move |tape, index| {
                let pass = |_| {
                    look(&teacher, Mode::TrainNoGrad, &half, index)?;
                    f.forward(tape, &tape.constant(&half))
                };
                (0..2).map(pass).collect()
            })
        }
        Method::ScSsl => {
            let nets =
                [net(&mut b, "f", 1)?, net(&mut b, "f2", 1)?, net(&mut b, "corrector", 1 + 2 * CLASSES)?];
            let (joint, side) = (images("joint", 2 * batch)?, settings.size);
            let seen = numbers("seen", &[2 * batch, 1 + 2 * CLASSES, side, side])?;
            Box::new(move |tape, _| {
                let all = nets.iter().zip([&joint, &joint, &seen]);
                all.map(|(net, image)| net.forward(tape, &tape.constant(image))).collect()
            })
        }
        Method::Unimatch => {
            let f = net(&mut b, "f", 1)?;
            let (joint, views) = (images("joint", 2 * batch)?, strong_views(settings)?);
            Box::new(move |tape, index| {
                look(&f, Mode::Eval, &views.partner, index)?;
                let (plain, perturbed) = unimatch::perturbed(tape, &f, &joint)?;
                let [first, second] = unimatch::strong(tape, &f, &views)?;
                Ok(vec![plain, perturbed, first, second])
            })
        }
        Method::Mcsd => {
            let (f, dim, size) = (net(&mut b, "f", 1)?, settings.feature_dim, settings.size);
            let shapes = shapes(settings)?;
            let reduction = b.within("reduction", |b| Reduction::new(b, dim, &shapes, true))?;
            let g = net(&mut b, "g", dim)?;
            let (joint, views) = (images("joint", 2 * batch)?, strong_views(settings)?);
            let twice = {
                let mut twice = settings.clone();
                twice.train.batch = 2 * batch;
                view(&twice, &shapes, "joint")?.features.context("made with features")?
            };
            let maps = twice.maps.tensors()?;
            Box::new(move |tape, index| {
                look(&f, Mode::Eval, &views.partner, index)?;
                let both = f.forward(tape, &tape.constant(&joint))?;
                let [first, second] = unimatch::strong(tape, &f, &views)?;
                let reduced = reduction.forward(tape, &maps, size, twice.grid.as_ref())?;
                Ok(vec![both, first, second, g.forward(tape, &reduced)?])
            })
        }
    };
    Ok((b.finish(), run))
}

/// Logits that stand for what networks said.
struct Fixed {
    settings: Settings,
    target: Tensor,
    /// `[2B, C, S, S]`: of labelled and unlabelled images.
    logits: [Tensor; 4],
    /// `[B, 1, S, S]`
    images: Tensor,
    loss: SupervisedLoss,
}

impl Fixed {
    fn new(settings: &Settings) -> Result<Self> {
        let (batch, size) = (settings.train.batch, settings.size);
        let logits = |name| -> Result<Tensor> {
            Ok(numbers(name, &[2 * batch, CLASSES, size, size])?.affine(6.0, -3.0)?)
        };
        Ok(Self {
            settings: settings.clone(),
            target: classes(settings, "target", CLASSES as u8)?,
            logits: [logits("0")?, logits("1")?, logits("2")?, logits("3")?],
            images: images(settings, "image", batch)?,
            loss: settings.train.loss,
        })
    }

    /// The `at`-th logits of all images, to be learned from.
    fn all(&self, tape: &Tape, at: usize) -> Var {
        tape.param(&self.logits[at])
    }

    /// The same of labelled and of unlabelled images.
    fn pair(&self, tape: &Tape, at: usize) -> Result<[Var; 2]> {
        let (all, batch) = (self.all(tape, at), self.settings.train.batch);
        Ok([tape.narrow(&all, 0, 0, batch)?, tape.narrow(&all, 0, batch, batch)?])
    }

    /// A teacher's logits of half of the images.
    fn taught(&self) -> Result<Tensor> {
        Ok(self.logits[3].narrow(0, 0, self.settings.train.batch)?.contiguous()?)
    }

    fn noisy(&self, images: &Tensor, pass: usize, index: usize) -> Result<Tensor> {
        noisy(images, self.settings.seed, &format!("teacher/{pass}/noise"), index as u64)
    }

    /// Labelled and unlabelled images as one.
    fn join(&self) -> Result<Tensor> {
        Ok(Tensor::cat(&[&self.images, &self.images], 0)?)
    }
}

/// What a step of the method does beside passes and the optimiser's step.
fn rest(settings: &Settings) -> Result<Work> {
    let fixed = Fixed::new(settings)?;
    // Averages of weights: those of the method itself, after a step without gradients.
    let mut sgd = Sgd::new(0.0, 0.0);
    let averaging = settings.method.has_teacher().then(|| methods::build(settings, &[])).transpose()?;
    let mut loss = losses(fixed)?;
    Ok(Box::new(move |index| {
        let tape = Tape::new(Mode::Train, index as u64);
        let total = loss(&tape, index)?;
        drop(black_box(tape.backward(&total)?));
        let (none, step) = (Gradients::default(), Step { index, total: TOTAL });
        averaging.iter().try_for_each(|method| methods::update(&**method, &mut sgd, &none, 0.0, step))
    }))
}

/// The loss of the method from fixed logits, and what goes into it beside them.
fn losses(fixed: Fixed) -> Result<Loss> {
    let (weight, tau) = (0.05, fixed.settings.tau as f32);
    let total = |losses: Result<Losses>| losses.map(|losses| losses.total);
    Ok(match fixed.settings.method {
        Method::Supervised => Box::new(move |tape, _| {
            let [labelled, _] = fixed.pair(tape, 0)?;
            supervised_loss(tape, &labelled, &fixed.target, fixed.loss)
        }),
        Method::MeanTeacher | Method::UaMt => Box::new(move |tape, index| {
            black_box(fixed.join()?);
            let [labelled, free] = fixed.pair(tape, 0)?;
            let supervised = supervised_loss(tape, &labelled, &fixed.target, fixed.loss)?;
            black_box(fixed.noisy(&fixed.images, 0, index)?);
            let taught = softmax_eval(&fixed.taught()?)?;
            let consistency = if fixed.settings.method == Method::MeanTeacher {
                mean_teacher::consistency(tape, &free, &taught)?
            } else {
                let twice = fixed.join()?;
                let mut sum = taught.zeros_like()?;
                for pass in 1..5 {
                    black_box(fixed.noisy(&twice, pass, index)?);
                    for half in softmax_eval(&fixed.logits[1])?.chunk(2, 0)? {
                        sum = (sum + half)?;
                    }
                }
                let sure = ua_mt::certain(&(sum / 8.0)?, Step { index, total: TOTAL })?;
                ua_mt::consistency(tape, &free, &taught, &sure)?
            };
            tape.weighted_sum(&[(1.0, &supervised), (weight, &consistency)])
        }),
        Method::Urpc => Box::new(move |tape, _| {
            black_box(fixed.join()?);
            let pairs = (0..4).map(|at| fixed.pair(tape, at)).collect::<Result<Vec<_>>>()?;
            let (labelled, free): (Vec<Var>, Vec<Var>) = pairs.into_iter().map(|[x, u]| (x, u)).unzip();
            total(urpc::step_loss(tape, &labelled, &free, &fixed.target, weight, fixed.loss))
        }),
        Method::Cps | Method::CrossTeaching => Box::new(move |tape, _| {
            black_box(fixed.join()?);
            let against =
                if fixed.settings.method == Method::Cps { Against::CrossEntropy } else { Against::Dice };
            let outputs = [fixed.pair(tape, 0)?, fixed.pair(tape, 1)?];
            total(cps::step_loss(tape, &outputs, &fixed.target, weight, fixed.loss, against))
        }),
        Method::McNet | Method::McNetPlus => Box::new(move |tape, _| {
            black_box(fixed.join()?);
            let decoders = if fixed.settings.method == Method::McNet { 2 } else { 3 };
            let all: Vec<Var> = (0..decoders).map(|at| fixed.all(tape, at)).collect();
            total(mc_net::step_loss(tape, &all, &fixed.target, weight, fixed.loss))
        }),
        Method::Bcp => copy_paste(&fixed)?,
        Method::ScSsl => self_correction(fixed)?,
        Method::Unimatch => {
            let views = strong_views(&fixed.settings)?;
            Box::new(move |tape, _| {
                black_box((fixed.join()?, Tensor::cat(&views.images, 0)?));
                let [labelled, weak] = fixed.pair(tape, 0)?;
                let [_, perturbed] = fixed.pair(tape, 1)?;
                let (strong, partner) = (fixed.pair(tape, 2)?, fixed.taught()?);
                let out = unimatch::Outputs { labelled, weak, perturbed, strong, partner };
                total(unimatch::step_loss(tape, &out, &fixed.target, &views.pasted, tau, fixed.loss))
            })
        }
        Method::Mcsd => {
            let (views, config) = (strong_views(&fixed.settings)?, mcsd::Config::of(&fixed.settings));
            Box::new(move |tape, _| {
                black_box((fixed.join()?, Tensor::cat(&views.images, 0)?));
                let [f_labelled, f_weak] = fixed.pair(tape, 0)?;
                let out = mcsd::Outputs {
                    f_labelled,
                    f_weak: Some(f_weak),
                    f_perturbed: None,
                    f_strong: Some(fixed.pair(tape, 2)?),
                    f_partner: Some(fixed.taught()?),
                    g: Some(fixed.pair(tape, 1)?),
                };
                total(mcsd::step_loss(tape, config, &out, &fixed.target, Some(&views.pasted)))
            })
        }
    })
}

/// Boxes, both pseudo-labels, their components, and the mixed losses of both passes.
fn copy_paste(fixed: &Fixed) -> Result<Loss> {
    let (batch, side) = (fixed.settings.train.batch, fixed.settings.size);
    ensure!(batch.is_multiple_of(2), "copy-paste takes an even number of images, not {batch}");
    let half = batch / 2;
    let first = |all: &Tensor| all.narrow(0, 0, half)?.contiguous();
    let (image, y) = (first(&fixed.images)?, first(&fixed.target)?);
    let logits = [0, 1].map(|at: usize| first(&fixed.logits[at]));
    let [a, b] = logits;
    let (a, b, taught) = (a?, b?, first(&fixed.logits[3])?);
    Ok(Box::new(move |tape, index| {
        let mask = Mask::draw(&mut stream(0, "copy-paste", index as u64), half, side)?;
        let label = || components::largest(&Pseudo::of(&taught)?.label);
        let (pl_a, pl_b) = (label()?, label()?);
        black_box((mask.paste(&image, &image)?, mask.paste(&image, &image)?));
        let inward = mixed(tape, &tape.param(&a), &mask, [&pl_a, &y], [0.5, 1.0])?;
        let outward = mixed(tape, &tape.param(&b), &mask, [&y, &pl_b], [1.0, 0.5])?;
        tape.weighted_sum(&[(1.0, &inward), (1.0, &outward)])
    }))
}

/// What the corrector sees, the losses of three networks, and the contrast of the learners' features.
fn self_correction(fixed: Fixed) -> Result<Loss> {
    let (batch, size, width) =
        (fixed.settings.train.batch, fixed.settings.size, fixed.settings.unet.channels[0]);
    let mut b = Builder::new(0);
    let projections = [Linear::new(&mut b, "a", width, 32)?, Linear::new(&mut b, "b", width, 32)?];
    let features = numbers("features", &[2 * batch, width, size, size])?;
    Ok(Box::new(move |tape, index| {
        let joint = fixed.join()?;
        let said = [softmax_eval(&fixed.logits[0])?, softmax_eval(&fixed.logits[1])?];
        black_box(Tensor::cat(&[&joint, &said[0], &said[1]], 1)?);
        let outputs = [fixed.pair(tape, 0)?, fixed.pair(tape, 1)?];
        let [corrected, goal] = fixed.pair(tape, 2)?;
        let losses =
            sc_ssl::step_loss(tape, &outputs, &corrected, goal.value(), &fixed.target, 0.05, fixed.loss)?;
        let chosen = sc_ssl::choose(goal.value(), 0, Step { index, total: TOTAL })?;
        if chosen.classes.is_empty() {
            return Ok(losses.total);
        }
        let project =
            |net: &Linear| net.forward(tape, &tape.gather_pixels(&tape.param(&features), &chosen.pixels)?);
        let (first, second) = (project(&projections[0])?, project(&projections[1])?);
        let contrast = tape.info_nce(&first, &second, &chosen.classes, 0.1)?;
        tape.weighted_sum(&[(1.0, &losses.total), (0.1, &contrast)])
    }))
}

/// The median of `values` and an interval that holds their distribution's median with at least 95 %, from the order of
/// the values alone: the whole range where there are too few.
///
/// # Panics
/// Without values.
pub fn median(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    // The most values on each side that leave P(fewer than that many lie below the median) ≤ 2.5 %.
    let (mut below, mut chance, mut drop) = (0.0, 0.5f64.powi(n as i32), 0);
    while drop < (n - 1) / 2 && below + chance <= 0.025 {
        below += chance;
        chance *= (n - drop) as f64 / (drop + 1) as f64;
        drop += 1;
    }
    let drop = drop.saturating_sub(1);
    [super::quantile(&sorted, 0.5), sorted[drop], sorted[n - 1 - drop]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_every_method_runs() {
        for method in Method::ALL {
            let mut settings = settings(method, 2, 32);
            settings.unet.channels = [4, 4, 8, 8, 8];
            (settings.swin.channels, settings.swin.window) = (12, 2);
            let run = || -> Result<()> {
                let (mut step, mut parts) = (step(&settings)?, Parts::new(&settings)?);
                for index in 0..2 {
                    step(index)?;
                    (parts.passes)(index)?;
                    (parts.stand_in)(index)?;
                    (parts.rest)(index)?;
                }
                Ok(())
            };
            run().unwrap_or_else(|error| panic!("{method:?}: {error:#}"));
        }
    }

    #[test]
    fn passes_train_all_weights_of_the_step_but_those_of_the_loss() {
        for method in Method::ALL {
            let settings = settings(method, 2, 32);
            let (params, _) = passes(&settings).unwrap();
            let whole = methods::build(&settings, &shapes(&settings).unwrap()).unwrap().params().count();
            // Of SC-SSL the projections are part of the loss.
            let projected = if method == Method::ScSsl { 2 * (16 * 32 + 32) } else { 0 };
            assert_eq!(params.count() + projected, whole, "{method:?}");
        }
    }

    #[test]
    fn medians_have_the_interval_of_their_order() {
        let values: Vec<f64> = (1..=15).rev().map(f64::from).collect();
        // P(at most 3 of 15 below) = 1.76 %, at most 4: 5.9 %.
        assert_eq!(median(&values), [8.0, 4.0, 12.0]);
        assert_eq!(median(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0], "too few for 95 %");
        assert_eq!(median(&[3.0]), [3.0, 3.0, 3.0]);
    }
}
