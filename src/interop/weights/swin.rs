//! Swin-T (`swin_tiny_patch4_window7_224` of Swin-Transformer, trained on ImageNet), of which `swin.weights` has a Swin-Unet
//! start: the tensors that a Swin-Unet's encoder has, by their names, which are the same in both.

use anyhow::{Context, Result, ensure};

use super::{Found, Network, Shapes};
use crate::nn::params::Builder;
use crate::nn::swin::SwinUnet;
use crate::spec::settings::SwinSettings;

/// A tensor that every such network has.
pub(super) const FIRST: &str = "patch_embed.proj.weight";
/// The tensor whose size tells the windows: a bias for each way in which two of its patches can lie.
const BIASES: &str = "layers.0.blocks.0.attn.relative_position_bias_table";
/// The most channels of the first stage, and the widest windows, that are believed.
const MOST: [usize; 2] = [1 << 10, 32];
/// Images of so many windows' sides fit a Swin-Unet of any window; their size does not show in these tensors.
const SIDES: usize = 32;

/// The network whose tensors, without their prefix, are `shapes`.
pub(super) fn find(shapes: &Shapes) -> Result<Found> {
    ensure!(
        !shapes.keys().any(|name| name.starts_with("layers_up.")),
        "it is a whole Swin-Unet; only Swin-T, which one starts from (`swin.weights`), is read"
    );
    let shape = |name: &str| shapes.get(name).with_context(|| format!("its network has no tensor `{name}`"));
    let (channels, biases) = (shape(FIRST)?.first().copied().unwrap_or(0), shape(BIASES)?);
    // (2·window − 1)² rows.
    let rows = biases.first().copied().unwrap_or(0);
    let window = rows.isqrt().div_ceil(2);
    ensure!(
        (1..=MOST[1]).contains(&window) && (2 * window - 1).pow(2) == rows,
        "its tensor `{BIASES}` is {biases:?}, which fits no window"
    );
    let expected = self::shapes(channels, window)?;
    let left = shapes.keys().filter(|name| !expected.contains_key(*name)).count();
    let note = format!(
        "Swin-T: {left} tensors that a Swin-Unet's encoder has not (further blocks, the head) are left out"
    );
    Ok(Found {
        network: Network::Swin { channels, window },
        sources: expected.into_keys().map(|name| (name.clone(), name)).collect(),
        notes: if left > 0 { vec![note] } else { Vec::new() },
    })
}

/// The names and shapes of the tensors of such a network.
pub(super) fn shapes(channels: usize, window: usize) -> Result<Shapes> {
    ensure!(
        (1..=MOST[0]).contains(&channels) && (1..=MOST[1]).contains(&window),
        "a Swin-T of {channels} channels with windows of {window} is none"
    );
    let mut builder = Builder::shapes_only();
    let settings = SwinSettings { channels, window, ..SwinSettings::default() };
    SwinUnet::new(&mut builder, window * SIDES, 2, &settings)?;
    let params = builder.finish();
    let encoder = |name: &str| ["patch_embed.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
    let shape = |tensor: &candle_core::Tensor| tensor.dims().to_vec();
    Ok(params
        .named()
        .filter(|(name, _)| encoder(name))
        .map(|(name, tensor)| (name.to_owned(), shape(tensor)))
        .collect())
}
