//! Swin-Unet (`specs` §0.2; SSL4MIS `networks/swin_transformer_unet_skip_expand_decoder_sys.py`): attention within
//! shifted windows, patches merged on the way down and expanded on the way up. 27,168,420 parameters at 96 channels,
//! window 7, size 224 and four classes.
//!
//! Tokens are rows: a map of H×W tokens of d channels in a batch of B is `[B·H·W, d]`.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::params::{Builder, Init, Params};
use crate::ops::{Rearrangement, Tape, Var, Windows};
use crate::spec::settings::SwinSettings;

/// Attention heads of the four stages.
const HEADS: [usize; 4] = [3, 6, 12, 24];
/// Blocks of a stage: the second one's windows are shifted.
const DEPTH: usize = 2;
/// Side of a patch, in pixels.
const PATCH: usize = 4;
/// Channels of the image: the grey one three times.
const COLOURS: usize = 3;
/// Hidden width of a block's perceptron over its width.
const HIDDEN: usize = 4;
/// Added to the variance by layer norms.
const EPS: f64 = 1e-5;
/// Deviation of the starts of linear layers and biases of positions.
const DEVIATION: f64 = 0.02;

/// A Swin-Unet: images `[B, 1, S, S]` to logits `[B, classes, S, S]`, for the S that it was built for.
#[derive(Debug)]
pub struct SwinUnet {
    size: usize,
    classes: usize,
    patch: (Tensor, Tensor),
    /// From the maps of the patches' convolution to tokens.
    to_tokens: Rearrangement,
    patch_norm: Norm,
    encoder: Vec<Stage>,
    /// Behind the first three encoder stages.
    merge: Vec<Merge>,
    norm: Norm,
    /// To the resolution of the next finer encoder stage.
    expand: Vec<Expand>,
    /// Joins a skip: from twice the width to it.
    join: Vec<Dense>,
    decoder: Vec<Stage>,
    norm_up: Norm,
    last: Expand,
    out: Tensor,
    /// From tokens of classes to maps.
    to_maps: Rearrangement,
}

impl SwinUnet {
    /// A network for images of `size`×`size`; the stages' sides, size/4 to size/32, are multiples of the window or no
    /// larger than it. Names are those of the reference.
    pub fn new(b: &mut Builder, size: usize, classes: usize, settings: &SwinSettings) -> Result<Self> {
        let width = settings.channels;
        ensure!(
            size.is_multiple_of(32) && size > 0 && width.is_multiple_of(HEADS[0]),
            "a Swin-Unet of {width} channels for images of {size}: channels are a multiple of 3, sizes of 32"
        );
        let side = |stage: usize| (size / PATCH) >> stage;
        let d = |stage: usize| width << stage;
        // Skipped branches: linear from the first encoder block to the last; a decoder stage has its encoder stage's.
        let drop = |stage: usize, block: usize| {
            settings.drop_path * (stage * DEPTH + block) as f64 / (HEADS.len() * DEPTH - 1) as f64
        };
        let stage = |b: &mut Builder, at: usize| {
            Stage::new(b, side(at), d(at), HEADS[at], settings.window, &|block| drop(at, block))
        };
        let (patch, patch_norm) = b.within("patch_embed", |b| {
            let fan = Init::fan_in(COLOURS * PATCH * PATCH);
            let weight = b.within("proj", |b| {
                Ok((
                    b.param("weight", &[width, COLOURS, PATCH, PATCH], fan)?,
                    b.param("bias", &[width], fan)?,
                ))
            })?;
            Ok((weight, Norm::new(b, "norm", width)?))
        })?;
        let (mut encoder, mut merge) = (vec![], vec![]);
        for at in 0..4 {
            b.within(format!("layers.{at}"), |b| {
                encoder.push(stage(b, at)?);
                if at < 3 {
                    merge.push(b.within("downsample", |b| Merge::new(b, side(at), d(at)))?);
                }
                Ok(())
            })?;
        }
        let norm = Norm::new(b, "norm", d(3))?;
        let mut expand = vec![b.within("layers_up.0", |b| Expand::new(b, side(3), d(3), 2))?];
        let (mut join, mut decoder) = (vec![], vec![]);
        for up in 1..4 {
            let at = 3 - up;
            join.push(Dense::new(b, &format!("concat_back_dim.{up}"), 2 * d(at), d(at), true)?);
            b.within(format!("layers_up.{up}"), |b| {
                decoder.push(stage(b, at)?);
                if at > 0 {
                    expand.push(b.within("upsample", |b| Expand::new(b, side(at), d(at), 2))?);
                }
                Ok(())
            })?;
        }
        let norm_up = Norm::new(b, "norm_up", width)?;
        let last = b.within("up", |b| Expand::new(b, side(0), width, PATCH))?;
        let out = b.within("output", |b| b.param("weight", &[classes, width, 1, 1], Init::fan_in(width)))?;
        let to_tokens = Rearrangement::new(transposed(width, side(0) * side(0)))?;
        let to_maps = Rearrangement::new(transposed(size * size, classes))?;
        Ok(Self {
            size,
            classes,
            patch,
            to_tokens,
            patch_norm,
            encoder,
            merge,
            norm,
            expand,
            join,
            decoder,
            norm_up,
            last,
            out,
            to_maps,
        })
    }

    /// Logits of `x`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (batch, channels, h, w) = x.dims4()?;
        ensure!(
            (channels, h, w) == (1, self.size, self.size),
            "a Swin-Unet for images [B, 1, {0}, {0}] was given {1:?}",
            self.size,
            x.dims()
        );
        let x = tape.concat(&[x, x, x], 1)?;
        let (weight, bias) = (tape.param(&self.patch.0), tape.param(&self.patch.1));
        let maps = tape.conv2d(&x, &weight, Some(&bias), PATCH, 0)?;
        let (_, width, side, _) = maps.dims4()?;
        let tokens = tape.rearrange(&maps, &self.to_tokens, 1, (batch * side * side, width))?;
        let mut h = self.patch_norm.forward(tape, &tokens)?;
        let mut skips = vec![];
        for (at, stage) in self.encoder.iter().enumerate() {
            skips.push(h.clone());
            h = stage.forward(tape, &h, batch)?;
            if let Some(merge) = self.merge.get(at) {
                h = merge.forward(tape, &h)?;
            }
        }
        h = self.norm.forward(tape, &h)?;
        // The deepest skip is what the last stage read: the decoder starts above it.
        skips.pop();
        h = self.expand[0].forward(tape, &h)?;
        for (at, (stage, skip)) in self.decoder.iter().zip(skips.into_iter().rev()).enumerate() {
            h = self.join[at].forward(tape, &tape.concat(&[&h, &skip], 1)?)?;
            h = stage.forward(tape, &h, batch)?;
            if let Some(expand) = self.expand.get(at + 1) {
                h = expand.forward(tape, &h)?;
            }
        }
        h = self.last.forward(tape, &self.norm_up.forward(tape, &h)?)?;
        let weight = tape.reshape(&tape.param(&self.out), (self.classes, width))?;
        let logits = tape.linear(&h, &weight, None)?;
        tape.rearrange(&logits, &self.to_maps, 1, (batch, self.classes, self.size, self.size))
    }
}

/// What a Swin-Unet with the parameters `own` starts from if `found` are the weights of a Swin-T that was trained on ImageNet
/// (`swin_tiny_patch4_window7_224`): its encoder's, and for decoder stages those of the encoder stage at their resolution.
/// What has no counterpart of the same shape is left out (SSL4MIS `networks/vision_transformer.py`, `load_from`).
///
/// # Errors
/// Where the first layer or a block of the encoder is missing or of another shape.
pub fn from_imagenet(found: &BTreeMap<String, Tensor>, own: &Params) -> Result<BTreeMap<String, Tensor>> {
    let mut start = BTreeMap::new();
    for (name, tensor) in own.named() {
        let stage = |rest: &str| {
            let (up, rest) = rest.split_once('.')?;
            Some(format!("layers.{}.{rest}", 3_usize.checked_sub(up.parse().ok()?)?))
        };
        let source = name.strip_prefix("layers_up.").map_or_else(|| Some(name.to_owned()), stage);
        let source = source.and_then(|source| found.get(&source));
        if let Some(source) = source.filter(|source| source.dims() == tensor.dims()) {
            start.insert(name.to_owned(), source.to_dtype(DType::F32)?);
        }
    }
    for name in
        ["patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.3.blocks.1.mlp.fc2.weight"]
    {
        ensure!(
            start.contains_key(name),
            "these are not the weights of Swin-T for this Swin-Unet: `{name}` is {}",
            found.get(name).map_or("missing".to_owned(), |tensor| format!("of shape {:?}", tensor.dims()))
        );
    }
    Ok(start)
}

/// Where each element of an image's `[b, a]` lies in its `[a, b]`.
fn transposed(a: usize, b: usize) -> Vec<u32> {
    (0..a * b).map(|at| ((at % a) * b + at / a) as u32).collect()
}

/// A linear layer.
#[derive(Debug)]
struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Dense {
    fn new(b: &mut Builder, name: &str, from: usize, to: usize, bias: bool) -> Result<Self> {
        b.within(name, |b| {
            let weight = b.param("weight", &[to, from], Init::Normal(DEVIATION))?;
            let bias = if bias { Some(b.param("bias", &[to], Init::Constant(0.0))?) } else { None };
            Ok(Self { weight, bias })
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let bias = self.bias.as_ref().map(|bias| tape.param(bias));
        tape.linear(x, &tape.param(&self.weight), bias.as_ref())
    }
}

/// A layer norm.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(b: &mut Builder, name: &str, width: usize) -> Result<Self> {
        b.within(name, |b| {
            let weight = b.param("weight", &[width], Init::Constant(1.0))?;
            Ok(Self { weight, bias: b.param("bias", &[width], Init::Constant(0.0))? })
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        tape.layer_norm(x, &tape.param(&self.weight), &tape.param(&self.bias), EPS)
    }
}

/// Two blocks at one resolution.
#[derive(Debug)]
struct Stage(Vec<Block>);

impl Stage {
    fn new(
        b: &mut Builder,
        side: usize,
        width: usize,
        heads: usize,
        window: usize,
        drop: &dyn Fn(usize) -> f64,
    ) -> Result<Self> {
        let block = |at: usize| {
            // A window as large as the map is not shifted.
            let (window, shift) = if side <= window { (side, 0) } else { (window, at % 2 * (window / 2)) };
            b.within(format!("blocks.{at}"), |b| Block::new(b, [side, width, heads, window, shift], drop(at)))
        };
        Ok(Self((0..DEPTH).map(block).collect::<Result<_>>()?))
    }

    fn forward(&self, tape: &Tape, x: &Var, batch: usize) -> Result<Var> {
        self.0.iter().try_fold(x.clone(), |h, block| block.forward(tape, &h, batch))
    }
}

/// x + attention(norm x), then x + perceptron(norm x).
#[derive(Debug)]
struct Block {
    norm1: Norm,
    qkv: Dense,
    table: Tensor,
    proj: Dense,
    norm2: Norm,
    mlp: [Dense; 2],
    heads: usize,
    /// To windows, shifted.
    to_windows: Rearrangement,
    from_windows: Rearrangement,
    windows: Windows,
    drop: f64,
}

impl Block {
    fn new(b: &mut Builder, [side, width, heads, window, shift]: [usize; 5], drop: f64) -> Result<Self> {
        ensure!(side.is_multiple_of(window), "windows of {window} do not divide a map of {side} tokens");
        let regions = if shift == 0 { vec![] } else { regions(side, window, shift) };
        let windows = Windows::new(window, regions)?;
        let to_windows = Rearrangement::new(window_order(side, window, shift))?;
        let norm1 = Norm::new(b, "norm1", width)?;
        let (table, qkv, proj) = b.within("attn", |b| {
            let shape = [windows.offsets(), heads];
            let table = b.param("relative_position_bias_table", &shape, Init::Normal(DEVIATION))?;
            Ok((
                table,
                Dense::new(b, "qkv", width, 3 * width, true)?,
                Dense::new(b, "proj", width, width, true)?,
            ))
        })?;
        let norm2 = Norm::new(b, "norm2", width)?;
        let mlp = b.within("mlp", |b| {
            Ok([
                Dense::new(b, "fc1", width, HIDDEN * width, true)?,
                Dense::new(b, "fc2", HIDDEN * width, width, true)?,
            ])
        })?;
        let from_windows = to_windows.inverse();
        Ok(Self { norm1, qkv, table, proj, norm2, mlp, heads, to_windows, from_windows, windows, drop })
    }

    fn forward(&self, tape: &Tape, x: &Var, batch: usize) -> Result<Var> {
        let (rows, width) = x.value().dims2()?;
        let h = self.norm1.forward(tape, x)?;
        let h = tape.rearrange(&h, &self.to_windows, width, (rows, width))?;
        let qkv = self.qkv.forward(tape, &h)?;
        let h = tape.window_attention(&qkv, &tape.param(&self.table), &self.windows, self.heads)?;
        let h = self.proj.forward(tape, &h)?;
        let h = tape.rearrange(&h, &self.from_windows, width, (rows, width))?;
        let x = tape.add(x, &self.skipped(tape, &h, batch)?)?;
        let h = self.mlp[0].forward(tape, &self.norm2.forward(tape, &x)?)?;
        let h = self.mlp[1].forward(tape, &tape.gelu(&h)?)?;
        tape.add(&x, &self.skipped(tape, &h, batch)?)
    }

    /// A branch, left out whole for some images.
    fn skipped(&self, tape: &Tape, h: &Var, batch: usize) -> Result<Var> {
        let (rows, width) = h.value().dims2()?;
        if !tape.mode().trains() || self.drop == 0.0 {
            return Ok(h.clone());
        }
        let images = tape.reshape(h, (batch, 1, rows / batch, width))?;
        tape.reshape(&tape.dropout2d(&images, self.drop)?, (rows, width))
    }
}

/// The tokens of a map of `side`² in the order of its windows, the map rolled back by `shift` first.
fn window_order(side: usize, window: usize, shift: usize) -> Vec<u32> {
    tiles(side, window).map(|(y, x)| ((y + shift) % side * side + (x + shift) % side) as u32).collect()
}

/// Which tokens of a rolled map were neighbours before: those of one region.
fn regions(side: usize, window: usize, shift: usize) -> Vec<u8> {
    let part = |at: usize| u8::from(at >= side - window) + u8::from(at >= side - shift);
    tiles(side, window).map(|(y, x)| 3 * part(y) + part(x)).collect()
}

/// Positions of a map, tile by tile.
fn tiles(side: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = side / tile;
    (0..side * side).map(move |at| {
        let (window, inside) = (at / (tile * tile), at % (tile * tile));
        (window / count * tile + inside / tile, window % count * tile + inside % tile)
    })
}

/// Four neighbouring tokens become one of twice the width.
#[derive(Debug)]
struct Merge {
    order: Rearrangement,
    norm: Norm,
    reduction: Dense,
}

impl Merge {
    fn new(b: &mut Builder, side: usize, width: usize) -> Result<Self> {
        // Of each 2×2: upper left, lower left, upper right, lower right.
        let order = (0..side * side).map(|at| {
            let (token, k) = (at / 4, at % 4);
            let (y, x) = (token / (side / 2) * 2 + k % 2, token % (side / 2) * 2 + k / 2);
            (y * side + x) as u32
        });
        Ok(Self {
            order: Rearrangement::new(order.collect())?,
            reduction: Dense::new(b, "reduction", 4 * width, 2 * width, false)?,
            norm: Norm::new(b, "norm", 4 * width)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (rows, width) = x.value().dims2()?;
        let h = tape.rearrange(x, &self.order, width, (rows / 4, 4 * width))?;
        self.reduction.forward(tape, &self.norm.forward(tape, &h)?)
    }
}

/// A token becomes `factor`² of them: of half the width for factor 2, of the same for factor 4.
#[derive(Debug)]
struct Expand {
    widen: Dense,
    order: Rearrangement,
    norm: Norm,
    factor: usize,
}

impl Expand {
    fn new(b: &mut Builder, side: usize, width: usize, factor: usize) -> Result<Self> {
        let to = if factor == 2 { width / 2 } else { width };
        let fine = side * factor;
        let order = (0..fine * fine).map(|at| {
            let (y, x) = (at / fine, at % fine);
            let token = y / factor * side + x / factor;
            ((token * factor + y % factor) * factor + x % factor) as u32
        });
        Ok(Self {
            widen: Dense::new(b, "expand", width, factor * factor * to, false)?,
            order: Rearrangement::new(order.collect())?,
            norm: Norm::new(b, "norm", to)?,
            factor,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let h = self.widen.forward(tape, x)?;
        let (rows, wide) = h.value().dims2()?;
        let count = self.factor * self.factor;
        let h = tape.rearrange(&h, &self.order, wide / count, (rows * count, wide / count))?;
        self.norm.forward(tape, &h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{Fixture, close, fill, values};
    use crate::ops::Mode;

    #[test]
    fn weights_of_imagenet_start_both_ways_and_others_are_refused() {
        let settings = SwinSettings { channels: 6, window: 2, drop_path: 0.0, ..SwinSettings::default() };
        let mut builder = Builder::new(0);
        SwinUnet::new(&mut builder, 32, 3, &settings).unwrap();
        let params = builder.finish();
        // A Swin-T has more blocks in its third stage, a head, and no decoder.
        let mut found: BTreeMap<String, Tensor> = params
            .named()
            .filter(|(name, _)| {
                ["patch_embed.", "layers.", "norm."].iter().any(|start| name.starts_with(start))
            })
            .map(|(name, tensor)| (name.to_owned(), tensor.affine(1.0, 1.0).unwrap()))
            .collect();
        found.insert("layers.2.blocks.5.norm1.weight".into(), params.get("norm.weight").unwrap().clone());
        found.insert("head.weight".into(), params.get("norm.weight").unwrap().clone());
        let start = from_imagenet(&found, &params).unwrap();
        params.load_some(&start).unwrap();
        let same = |name: &str, source: &str| {
            let vec = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(vec(params.get(name).unwrap()), vec(&found[source]), "{name}");
        };
        same(
            "layers.3.blocks.0.attn.relative_position_bias_table",
            "layers.3.blocks.0.attn.relative_position_bias_table",
        );
        same("layers_up.1.blocks.0.attn.qkv.weight", "layers.2.blocks.0.attn.qkv.weight");
        same("layers_up.3.blocks.1.mlp.fc1.bias", "layers.0.blocks.1.mlp.fc1.bias");
        same("norm.bias", "norm.bias");
        assert!(!start.contains_key("norm_up.weight") && !start.contains_key("concat_back_dim.1.weight"));

        found.remove("layers.0.blocks.0.attn.qkv.weight");
        let error = from_imagenet(&found, &params).unwrap_err().to_string();
        assert!(error.contains("`layers.0.blocks.0.attn.qkv.weight` is missing"), "{error}");
    }

    #[test]
    fn parameters_are_the_papers() {
        let mut builder = Builder::shapes_only();
        SwinUnet::new(&mut builder, 224, 4, &SwinSettings::default()).unwrap();
        assert_eq!(builder.finish().count(), 27_168_420);
    }

    #[test]
    fn logits_and_gradients_are_pytorchs() {
        let fixture = Fixture::open("nn_swin");
        let settings = SwinSettings { channels: 6, window: 2, drop_path: 0.0, ..SwinSettings::default() };
        let mut builder = Builder::new(0);
        let net = SwinUnet::new(&mut builder, 32, 3, &settings).unwrap();
        let params = builder.finish();
        fill(&params);
        let x = values("x", &[2, 1, 32, 32]);
        let tape = Tape::new(Mode::Train, 0);
        let y = net.forward(&tape, &tape.param(&x)).unwrap();
        close(y.value(), &fixture["y"], 5e-5, "logits");
        let loss = tape.mse(&y, &values("target", &[2, 3, 32, 32])).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        fixture.check_gradients(&params, &gradients, 1e-3);
        close(gradients.get(&x).unwrap(), &fixture["dx"], 1e-3, "gradient of the input");
    }

    #[test]
    fn branches_are_skipped_in_training_only() {
        let settings = SwinSettings { channels: 6, window: 2, drop_path: 0.9, ..SwinSettings::default() };
        let mut builder = Builder::new(0);
        let net = SwinUnet::new(&mut builder, 32, 3, &settings).unwrap();
        let run = |mode, seed| {
            let tape = Tape::new(mode, seed);
            let y = net.forward(&tape, &tape.constant(&values("x", &[1, 1, 32, 32]))).unwrap();
            y.value().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(run(Mode::Eval, 1), run(Mode::Eval, 2));
        assert_ne!(run(Mode::TrainNoGrad, 1), run(Mode::TrainNoGrad, 2));
    }
}
