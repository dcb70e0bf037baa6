//! The U-Net of SSL4MIS, and what has grown from it, by the names of its tensors.

use anyhow::{Context, Result, ensure};

use super::{COUNTER, Found, Hints, Network, SIZE, Shapes};
use crate::nn::params::Builder;
use crate::nn::unet::UNet;
use crate::spec::settings::UnetSettings;

/// A tensor that every such network has.
pub(super) const FIRST: &str = "encoder.in_conv.conv_conv.0.weight";
/// Dropout of the encoder's stages in the reference; it is not in a checkpoint.
const DROPOUT: [f64; 5] = [0.05, 0.1, 0.2, 0.3, 0.5];
/// The most channels of a stage that are believed.
const WIDEST: usize = 1 << 14;

/// The network whose tensors, without their prefix, are `shapes`.
pub(super) fn find(shapes: &Shapes, hints: &Hints) -> Result<Found> {
    ensure!(
        !shapes.contains_key("decoder.up1.up.weight"),
        "its decoder up-samples by transposed convolutions; SSL4MIS's U-Net as it is built up-samples bilinearly behind a \
         1×1 convolution, and no other is here"
    );
    let mut notes = Vec::new();
    // MC-Net's first decoder is this network's, and the only one that its test uses.
    let decoder = if shapes.contains_key("decoder1.out_conv.weight") { "decoder1" } else { "decoder" };
    if decoder != "decoder" {
        notes.push("MC-Net: the encoder and its first decoder, which predicts in the reference; the others are left out".into());
    }
    let size = |name: &str, axis: usize| {
        let shape = shapes.get(name).with_context(|| format!("its network has no tensor `{name}`"))?;
        let size = shape.get(axis).copied().filter(|size| (1..=WIDEST).contains(size));
        size.with_context(|| format!("its tensor `{name}` is {shape:?}, which no U-Net has there"))
    };
    let mut channels = [size(FIRST, 0)?; 5];
    for (stage, channels) in channels.iter_mut().enumerate().skip(1) {
        *channels = size(&format!("encoder.down{stage}.maxpool_conv.1.conv_conv.0.weight"), 0)?;
    }
    let inputs = size(FIRST, 1)?;
    let classes = size(&format!("{decoder}.out_conv.weight"), 0)?;
    let unet = UnetSettings { channels, dropout: DROPOUT };
    let network = Network::Unet { inputs, classes, size: hints.size.unwrap_or(SIZE), unet: unet.clone() };
    let expected = self::shapes(inputs, classes, &unet)?;
    let source = |name: &str| name.replacen("decoder", decoder, 1);
    let sources = expected.keys().map(|name| (name.clone(), source(name))).collect();
    let known: Vec<String> = expected.keys().map(|name| source(name)).collect();
    let others = |name: &&String| !known.contains(name) && !name.ends_with(COUNTER);
    let mut left: Vec<&String> = shapes.keys().filter(others).collect();
    left.retain(|name| !(decoder == "decoder1" && name.starts_with("decoder")));
    let heads = left.iter().filter(|name| name.starts_with("decoder.out_conv_dp")).count();
    if heads > 0 {
        notes
            .push(format!("URPC: {heads} tensors of its further heads are left out; the main head predicts"));
    }
    left.retain(|name| !name.starts_with("decoder.out_conv_dp"));
    ensure!(
        left.is_empty(),
        "its network has {} tensors that SSL4MIS's U-Net has not, such as `{}`",
        left.len(),
        left.first().map_or("", |name| name.as_str())
    );
    for (name, shape) in &expected {
        let found = shapes
            .get(&source(name))
            .with_context(|| format!("its network has no tensor `{}`", source(name)))?;
        ensure!(
            found == shape,
            "its tensor `{}` is {found:?}, and a U-Net of these sizes has {shape:?} there",
            source(name)
        );
    }
    Ok(Found { network, sources, notes })
}

/// The names and shapes of the tensors of such a network.
pub(super) fn shapes(inputs: usize, classes: usize, settings: &UnetSettings) -> Result<Shapes> {
    let all = settings.channels.iter().chain([&inputs, &classes]);
    ensure!(
        all.clone().all(|n| (1..=WIDEST).contains(n)),
        "a U-Net of {settings:?} with {inputs} inputs and {classes} classes is none"
    );
    let mut builder = Builder::shapes_only();
    UNet::new(&mut builder, inputs, classes, settings)?;
    let params = builder.finish();
    Ok(params.named().map(|(name, tensor)| (name.to_owned(), tensor.dims().to_vec())).collect())
}
