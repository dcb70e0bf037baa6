//! What there is to say of each method: where it comes from, what it trains, how its protocol differs.

use anyhow::Result;

use super::build_with;
use crate::diffusion::reduction::map_shapes;
use crate::diffusion::unet::chosen_blocks;
use crate::nn::params::Builder;
use crate::spec::settings::{Method, Preset, Settings};

/// A method in words.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The method.
    pub method: Method,
    /// Its name as tables print it.
    pub title: &'static str,
    /// The publication.
    pub paper: &'static str,
    /// The reference code that its protocol follows; empty where there is none.
    pub code: &'static str,
    /// The loss in a line.
    pub loss: &'static str,
    /// Its networks in words.
    pub networks: &'static str,
    /// What is peculiar: oddities of the reference that are kept, with the setting that mends each, and what differs
    /// from it here.
    pub notes: &'static [&'static str],
    /// Settings that are its own, as dotted paths.
    pub settings: &'static [&'static str],
}

const RAMP: [&str; 3] = ["consistency.weight", "consistency.ramp", "consistency.delay"];

/// Every method, in the order of the tables.
pub static CATALOGUE: [Entry; 12] = [
    Entry {
        method: Method::Supervised,
        title: "Supervised",
        paper: "U-Net: Ronneberger et al., MICCAI 2015",
        code: "SSL4MIS code/train_fully_supervised_2D.py",
        loss: "½(CE + Dice) on labelled slices",
        networks: "one U-Net",
        notes: &["the learning rate lags one step (train.lr_lag: 0 mends it)"],
        settings: &[],
    },
    Entry {
        method: Method::MeanTeacher,
        title: "Mean teacher",
        paper: "Tarvainen and Valpola, NeurIPS 2017",
        code: "SSL4MIS code/train_mean_teacher_2D.py",
        loss: "ℓ_sup + λ·mean (p_student − p_teacher(noisy))²",
        networks: "a U-Net and its moving average",
        notes: &[
            "the teacher stays in train mode: dropout on, statistics of the batch, running ones of its own (teacher.buffers averages them)",
            "no consistency in the first 1,000 steps (consistency.delay)",
            "the learning rate lags one step (train.lr_lag: 0 mends it)",
        ],
        settings: &[RAMP[0], RAMP[1], RAMP[2], "teacher.ema", "teacher.warm_up", "teacher.buffers"],
    },
    Entry {
        method: Method::UaMt,
        title: "UA-MT",
        paper: "Yu et al., MICCAI 2019",
        code: "SSL4MIS code/train_uncertainty_aware_mean_teacher_2D.py",
        loss: "ℓ_sup + λ·mean over sure pixels of (p_student − p_teacher(noisy))²/2",
        networks: "a U-Net and its moving average",
        notes: &[
            "the threshold of the uncertainty is a share of ln 2, the most that two classes have, though there are four",
            "the learning rate lags one step (train.lr_lag: 0 mends it)",
        ],
        settings: &[RAMP[0], RAMP[1], RAMP[2], "teacher.ema", "teacher.warm_up", "teacher.buffers"],
    },
    Entry {
        method: Method::Urpc,
        title: "URPC",
        paper: "Luo et al., MICCAI 2021; Medical Image Analysis 2022",
        code: "SSL4MIS code/train_uncertainty_rectified_pyramid_consistency_2D.py",
        loss: "mean ℓ_sup of four scales + λ·uncertainty-rectified consistency of the four",
        networks: "a U-Net with heads at four scales",
        notes: &[
            "one of the heads, of 9,220 parameters, is built, counted and never read",
            "gradients flow through the mean that the scales are held to",
            "the learning rate lags one step (train.lr_lag: 0 mends it)",
        ],
        settings: &RAMP,
    },
    Entry {
        method: Method::Cps,
        title: "CPS",
        paper: "Chen et al., CVPR 2021",
        code: "SSL4MIS code/train_cross_pseudo_supervision_2D.py",
        loss: "Σ over two networks of ℓ_sup + λ·CE against the other's pseudo-label",
        networks: "two U-Nets that start differently; the first predicts",
        notes: &["pseudo-labels are hard and never filtered"],
        settings: &RAMP,
    },
    Entry {
        method: Method::CrossTeaching,
        title: "CNN & Transformer",
        paper: "Luo et al., MIDL 2022",
        code: "SSL4MIS code/train_cross_teaching_between_cnn_transformer_2D.py",
        loss: "Σ over two networks of ℓ_sup + λ·Dice against the other's pseudo-label",
        networks: "a U-Net, which predicts, and a Swin-Unet",
        notes: &[
            "the Swin-Unet starts from scratch, and tables say so, unless swin.weights names ImageNet weights, which the reference starts from",
        ],
        settings: &[
            RAMP[0],
            RAMP[1],
            RAMP[2],
            "swin.channels",
            "swin.window",
            "swin.drop_path",
            "swin.weights",
        ],
    },
    Entry {
        method: Method::McNet,
        title: "MC-Net",
        paper: "Wu et al., MICCAI 2021",
        code: "MC-Net code/train_mcnet_2d.py (mcnet2d_v1)",
        loss: "Σ over decoders of Dice' + λ·Σ over pairs of mean (p_i − sharpened p_j)²",
        networks: "an encoder with two decoders (bilinear, transposed); the first predicts",
        notes: MC_NET,
        settings: &RAMP,
    },
    Entry {
        method: Method::McNetPlus,
        title: "MC-Net+",
        paper: "Wu et al., Medical Image Analysis 2022",
        code: "MC-Net code/train_mcnet_2d.py (mcnet2d_v2)",
        loss: "Σ over decoders of Dice' + λ·Σ over pairs of mean (p_i − sharpened p_j)²",
        networks: "an encoder with three decoders (bilinear, transposed, nearest); the first predicts",
        notes: MC_NET,
        settings: &RAMP,
    },
    Entry {
        method: Method::Bcp,
        title: "BCP",
        paper: "Bai et al., CVPR 2023",
        code: "BCP code/ACDC_BCP_train.py",
        loss: "½(CE + Dice) of images pasted into each other, pseudo-labels at half weight",
        networks: "a U-Net and its moving average",
        notes: &[
            "a first phase of bcp.pretrain steps on labelled images comes before the train.iterations of the second, which starts from the first's best network and its optimiser",
            "the learning rate is constant (train.poly: 0.9 lets it fall)",
            "the average takes running statistics too (teacher.buffers: false leaves them), without warm-up (teacher.warm_up)",
            "pseudo-labels keep the largest component of each class (bcp.components: false keeps all); predictions at test do not",
        ],
        settings: &[
            "bcp.pretrain",
            "bcp.weight",
            "bcp.components",
            "teacher.ema",
            "teacher.warm_up",
            "teacher.buffers",
        ],
    },
    Entry {
        method: Method::ScSsl,
        title: "SC-SSL (our reconstruction)",
        paper: "Miao et al., IEEE TMI 43(4):1347-1364, 2024: the abstract alone was at hand",
        code: "",
        loss: "Σ over two networks of ℓ_sup + λ·[Dice + ½(1 − SSIM)] against a corrector's target, + ℓ_sup(corrector) + 0.1·InfoNCE",
        networks: "two U-Nets, the first predicts; a corrector that reads the image and both predictions; two projections",
        notes: &[
            "our reconstruction: that the target is learned, corrected and constrained in structure, and that features are contrasted, is published; networks, form of the losses, weights and schedule are ours",
        ],
        settings: &RAMP,
    },
    Entry {
        method: Method::Unimatch,
        title: "UniMatch",
        paper: "Yang et al., CVPR 2023",
        code: "UniMatch more-scenarios/medical/unimatch.py",
        loss: "½[ℓ_sup + ¼D(strong 1) + ¼D(strong 2) + ½D(features dropped)], D over pixels surer than τ",
        networks: "one U-Net",
        notes: &[
            "selected here on the validation split alone; the reference selects and reports on validation and test together",
            "29,400 steps are 300 passes over the unlabelled slices of ACDC at 7 labelled patients; 3 and 14 make 30,900 and 26,400 (train.iterations)",
            "the learning rate lags one step (train.lr_lag: 0 mends it)",
        ],
        settings: &["tau", "augment.jitter", "augment.blur", "augment.cutmix"],
    },
    Entry {
        method: Method::Mcsd,
        title: "MCSD",
        paper: "MCSD, the method of this project's tables",
        code: "MCSD model/unet.py, dataset/acdc.py; no training script was published",
        loss: "½[ℓ_sup(f) + ½DIC + ½DFM] + ½ℓ_sup(g)",
        networks: "two U-Nets of disjoint weights: f reads the image, g its reduced diffusion features; the reduction",
        notes: &[
            "f and g are coupled mutually (mcsd.feature_loss: literal | mutual | fused): literally no gradient reaches f",
            "the reduction is learned (features.reduction: fixed_random | per_image_random, the published extractor's)",
            "features move with their image (features.aligned: false leaves them, as the published code does)",
            "control without pre-training: diffusion.iterations: 0",
            "UniMatch's perturbed features are off (mcsd.feature_dropout: true)",
        ],
        settings: &[
            "tau",
            "dfm",
            "dic",
            "timesteps",
            "blocks",
            "feature_dim",
            "mcsd.feature_loss",
            "mcsd.test_stream",
            "mcsd.feature_dropout",
            "features.mode",
            "features.reduction",
            "features.aligned",
        ],
    },
];

const MC_NET: &[&str] = &[
    "cross-entropy is computed in the reference and left out of its loss, and its Dice lacks the factor 2 (train.loss: half_dice; ce_dice mends both)",
    "the learning rate is constant (train.poly: 0.9 lets it fall)",
    "what MCSD's table calls MC-Net+ has the 2.58 M parameters of mc_net; mc_net_plus has 3.21 M",
];

/// The networks of a method at the sizes of `preset`, by name: the number of values that its optimiser trains, and of
/// those that it keeps beside (a teacher's weights, running statistics).
pub fn networks(method: Method, preset: Preset) -> Result<Vec<(String, usize, usize)>> {
    networks_of(&Settings::preset(preset, method))
}

/// The same of a point's settings.
pub fn networks_of(settings: &Settings) -> Result<Vec<(String, usize, usize)>> {
    let maps = if settings.uses_features() {
        let blocks = chosen_blocks(&settings.diffusion, settings.size, &settings.blocks)?;
        map_shapes(settings.timesteps.len(), &blocks)
    } else {
        vec![]
    };
    let built = build_with(Builder::shapes_only(), settings, &maps)?;
    let trained: std::collections::BTreeSet<&str> = built.params().trainable_names().collect();
    let mut found: Vec<(String, usize, usize)> = vec![];
    for (name, tensor) in built.params().named() {
        let scope = name.split('.').next().unwrap_or(name);
        if found.last().is_none_or(|(last, ..)| last != scope) {
            found.push((scope.to_owned(), 0, 0));
        }
        if let Some((_, learns, kept)) = found.last_mut() {
            *(if trained.contains(name) { learns } else { kept }) += tensor.elem_count();
        }
    }
    Ok(found)
}
