//! The U-Net of guided-diffusion by the names and shapes of its tensors.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;

use super::{Found, Hints, Network, SIZE, Shapes};
use crate::diffusion::unet::{DiffusionUNet, check};
use crate::nn::params::Builder;
use crate::spec::settings::{DiffusionSettings, Method, Preset, Settings};

/// A tensor that every such network has.
pub(super) const FIRST: &str = "time_embed.0.weight";
/// Channels of a head in guided-diffusion's released models, which their checkpoints do not say.
const HEAD_CHANNELS: usize = 64;
/// Limits on what is believed.
const WIDEST: usize = 1 << 14;
const MOST_BLOCKS: usize = 256;

/// The network whose tensors, without their prefix, are `shapes`.
pub(super) fn find(shapes: &Shapes, hints: &Hints) -> Result<Found> {
    ensure!(
        !shapes.contains_key("label_emb.weight"),
        "its network is told the class of an image (label_emb); an unconditional one is needed"
    );
    let size = |name: &str, axis: usize| {
        let shape = shapes.get(name).with_context(|| format!("its network has no tensor `{name}`"))?;
        let size = shape.get(axis).copied().filter(|size| (1..=WIDEST).contains(size));
        size.with_context(|| format!("its tensor `{name}` is {shape:?}, which no diffusion U-Net has there"))
    };
    let channels = size(FIRST, 1)?;
    let levels = levels(shapes)?;
    let blocks = levels.first().map_or(0, |level| level.blocks);
    ensure!(
        blocks >= 2 && levels.iter().all(|level| level.blocks == blocks),
        "its decoder has a different number of blocks on its levels: no network of guided-diffusion"
    );
    let mut channel_mult = Vec::new();
    for level in &levels {
        ensure!(
            level.channels % channels == 0,
            "a level of its decoder has {} channels, no multiple of its {channels} base channels",
            level.channels
        );
        channel_mult.push(level.channels / channels);
    }
    let attention =
        levels.iter().enumerate().filter(|(_, level)| level.attends).map(|(at, _)| 1 << at).collect();
    let (updown, scale_shift) = (levels.iter().any(|level| level.residual), scale_shift(shapes)?);
    let mut notes = vec![
        "that its attention is of the older order (q, k and v of a head stand together) is taken for granted: a checkpoint \
         does not say"
            .to_owned(),
    ];
    let head_channels = hints.head_channels.unwrap_or(HEAD_CHANNELS);
    if hints.head_channels.is_none() {
        notes.push(format!("its heads are taken to have {head_channels} channels (--head-channels): a checkpoint does not say"));
    }
    let diffusion = DiffusionSettings {
        channels,
        channel_mult,
        res_blocks: blocks - 1,
        attention,
        head_channels,
        resblock_updown: updown,
        scale_shift_norm: scale_shift,
        ..Settings::preset(Preset::Paper, Method::Mcsd).diffusion
    };
    let side = hints.size.unwrap_or(SIZE);
    check(&diffusion, side)?;
    let expected = self::shapes(&diffusion)?;
    for (name, shape) in &expected {
        let found = shapes.get(name).with_context(|| format!("its network has no tensor `{name}`"))?;
        let fits = found == shape || ENDS.contains(&name.as_str()) && found.len() == shape.len();
        ensure!(fits, "its tensor `{name}` is {found:?}, and the network has {shape:?} there");
    }
    if let Some(unknown) = shapes.keys().find(|name| !expected.contains_key(*name)) {
        bail!("its network has a tensor `{unknown}`, which guided-diffusion's has not");
    }
    let sources = expected.keys().map(|name| (name.clone(), name.clone())).collect();
    Ok(Found { network: Network::Diffusion { size: side, diffusion }, sources, notes })
}

/// What the channels of images decide.
const ENDS: [&str; 3] = ["input_blocks.0.0.weight", "out.2.weight", "out.2.bias"];

/// Fits the first and last convolution of a network to one channel in and out, and tells what was done.
///
/// # Errors
/// Where the network is of colour images and `hints` do not say to make it one of grey ones.
pub(super) fn fit(
    tensors: &mut BTreeMap<String, Tensor>,
    hints: &Hints,
    notes: &mut Vec<String>,
) -> Result<()> {
    let take = |name: &str| {
        tensors.get(name).cloned().with_context(|| format!("its network has no tensor `{name}`"))
    };
    let [first, last, bias] = ENDS;
    let (first_weight, last_weight, last_bias) = (take(first)?, take(last)?, take(bias)?);
    let (inputs, outputs) = (first_weight.dim(1)?, last_weight.dim(0)?);
    ensure!(
        (outputs == inputs || outputs == 2 * inputs) && last_bias.dims() == [outputs],
        "its network has {inputs} channels in and {outputs} out, which fits neither noise nor noise and variance"
    );
    ensure!(
        inputs == 1 || hints.grey,
        "its network is of images of {inputs} channels, and here they have one: --grey makes it one that sees the same grey \
         image in each channel"
    );
    if outputs == 2 * inputs {
        notes.push("its second half of outputs, the learned variance, is left out".into());
    }
    if inputs > 1 {
        notes.push(format!(
            "of {inputs} channels: sees the same grey image in each, and predicts the mean of their noise"
        ));
    }
    tensors.insert(first.to_owned(), first_weight.sum_keepdim(1)?);
    tensors.insert(last.to_owned(), last_weight.narrow(0, 0, inputs)?.mean_keepdim(0)?);
    tensors.insert(bias.to_owned(), last_bias.narrow(0, 0, inputs)?.mean_keepdim(0)?);
    Ok(())
}

/// A level of the decoder.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    blocks: usize,
    channels: usize,
    attends: bool,
    /// Whether it up-samples by a residual block.
    residual: bool,
}

/// The levels, the finest first. The decoder tells them apart: the last block of a level has what up-samples.
fn levels(shapes: &Shapes) -> Result<Vec<Level>> {
    let mut levels = vec![Level::default()];
    for block in 0..MOST_BLOCKS {
        let has = |layer: usize, part: &str| shapes.get(&format!("output_blocks.{block}.{layer}.{part}"));
        let Some(residual) = has(0, "out_layers.3.weight") else { break };
        let Some(level) = levels.last_mut() else { break };
        level.blocks += 1;
        level.channels = residual.first().copied().unwrap_or(0);
        level.attends |= has(1, "qkv.weight").is_some();
        let up = 1 + usize::from(has(1, "qkv.weight").is_some());
        level.residual = has(up, "in_layers.2.weight").is_some();
        if level.residual || has(up, "conv.weight").is_some() {
            levels.push(Level::default());
        }
    }
    ensure!(levels.len() <= 16, "its decoder has {} levels: no network of guided-diffusion", levels.len());
    levels.reverse();
    Ok(levels)
}

/// Whether the embedding of the step scales and shifts: it then has twice the channels.
fn scale_shift(shapes: &Shapes) -> Result<bool> {
    let get = |name: &str| {
        shapes
            .get(name)
            .and_then(|shape| shape.first())
            .with_context(|| format!("its network has no tensor `{name}`"))
    };
    let (embedding, channels) =
        (get("middle_block.0.emb_layers.1.weight")?, get("middle_block.0.out_layers.3.weight")?);
    Ok(*embedding == 2 * channels)
}

/// The names and shapes of the tensors of such a network.
pub(super) fn shapes(settings: &DiffusionSettings) -> Result<Shapes> {
    let widest = settings
        .channel_mult
        .iter()
        .try_fold(settings.channels, |widest, mult| Some(widest.max(settings.channels.checked_mul(*mult)?)));
    ensure!(
        widest.is_some_and(|widest| widest <= WIDEST)
            && settings.res_blocks <= 16
            && settings.channel_mult.len() <= 16,
        "a diffusion U-Net of {} channels × {:?} with {} residual blocks is none",
        settings.channels,
        settings.channel_mult,
        settings.res_blocks
    );
    let mut builder = Builder::shapes_only();
    DiffusionUNet::new(&mut builder, settings)?;
    Ok(builder.finish().named().map(|(name, tensor)| (name.to_owned(), tensor.dims().to_vec())).collect())
}
