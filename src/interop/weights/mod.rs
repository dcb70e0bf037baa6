//! Networks from and for other programs: PyTorch's checkpoints (`.pth`, `.pt`) and safetensors of SSL4MIS's and
//! UniMatch's U-Net, of guided-diffusion's and of Swin-T, and this project's own form.
//!
//! The project's form is a safetensors file with the tensors under PyTorch's names, in f32, and a text beside them
//! ([`FORM`]) that says what network they are. Other programs read it as any safetensors file.

mod diffusion;
mod pickle;
mod pth;
mod swin;
mod unet;
mod write;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::nn::file;
use crate::spec::settings::{DiffusionSettings, UnetSettings};
use crate::store::files;
use pth::Checkpoint;

/// The name of the text that a safetensors file of the project's form carries.
pub const FORM: &str = "sweep";

/// A network and its weights.
#[derive(Clone, Debug)]
pub struct Weights {
    /// What network it is.
    pub network: Network,
    /// The tensors under PyTorch's names, all f32.
    pub tensors: BTreeMap<String, Tensor>,
    /// What was done to the tensors of another program, for people.
    pub notes: Vec<String>,
}

/// A network that weights can be of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "network", rename_all = "snake_case", deny_unknown_fields)]
pub enum Network {
    /// The U-Net of SSL4MIS, which is also that of UniMatch.
    Unet {
        /// Channels of the input.
        inputs: usize,
        /// Classes, the background included.
        classes: usize,
        /// Side of the images that it was trained on, in pixels.
        size: usize,
        /// Its sizes.
        unet: UnetSettings,
    },
    /// Swin-T without its head, of which a Swin-Unet starts: the blocks that a Swin-Unet's encoder has.
    Swin {
        /// Channels of the first stage.
        channels: usize,
        /// Side of a window, in patches.
        window: usize,
    },
    /// The U-Net of guided-diffusion, one channel in and out.
    Diffusion {
        /// Side of the images that it was trained on, in pixels.
        size: usize,
        /// Its sizes.
        diffusion: DiffusionSettings,
    },
}

impl Network {
    /// In words: `U-Net 16-32-64-128-256, 4 classes`.
    pub fn describe(&self) -> String {
        match self {
            Self::Unet { inputs, classes, size, unet } => {
                let widths: Vec<String> = unet.channels.iter().map(usize::to_string).collect();
                format!(
                    "U-Net of {} channels, {inputs} in, {classes} classes, images of {size}²",
                    widths.join("-")
                )
            }
            Self::Swin { channels, window } => {
                format!("Swin-T of {channels} channels, windows of {window}²")
            }
            Self::Diffusion { size, diffusion } => format!(
                "diffusion U-Net of {} channels × {:?}, {} residual blocks, attention at 1/{:?}, images of {size}²",
                diffusion.channels, diffusion.channel_mult, diffusion.res_blocks, diffusion.attention
            ),
        }
    }
}

/// What a file does not say of its network.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// The dictionary of the checkpoint to read: `model`, `net`.
    pub key: Option<String>,
    /// What stands before the names of the network's tensors: `module.`.
    pub prefix: Option<String>,
    /// Side of the images in pixels.
    pub size: Option<usize>,
    /// Channels of one attention head.
    pub head_channels: Option<usize>,
    /// Whether an RGB model shall be turned into one of grey images.
    pub grey: bool,
}

/// Side of images of networks that do not say it: that of all reference code.
const SIZE: usize = 256;

/// Reads a network from the file at `path`, of whatever form.
///
/// # Errors
/// Name the file, and what is wrong: no checkpoint, code in it, no network that is known, several of them, tensors that
/// are missing, too many, of another shape or not finite.
pub fn read(path: &Path, hints: &Hints) -> Result<Weights> {
    read_unnamed(path, hints).with_context(|| format!("cannot import {}", path.display()))
}

fn read_unnamed(path: &Path, hints: &Hints) -> Result<Weights> {
    let mut head = Vec::new();
    let file = File::open(path)?;
    ensure!(!file.metadata()?.is_dir(), "it is a folder: name a file");
    file.take(16).read_to_end(&mut head)?;
    let weights =
        if Checkpoint::is(&head) { of_checkpoint(path, hints)? } else { of_safetensors(path, hints)? };
    for (name, tensor) in &weights.tensors {
        file::check_finite(name, tensor)?;
    }
    Ok(weights)
}

impl Weights {
    /// The network whose tensors, named as in PyTorch, are `tensors`.
    ///
    /// # Errors
    /// Where it is no network that is known.
    pub fn of(tensors: BTreeMap<String, Tensor>, hints: &Hints) -> Result<Self> {
        let groups = BTreeMap::from([("", shapes_of(&tensors))]);
        let (_, found) = choose(&groups, hints)?;
        finish(found, tensors, hints)
    }

    /// Writes the project's form, or a checkpoint of PyTorch where `path` ends in `.pth` or `.pt`; whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written; names it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ending = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
        let bytes = match ending.as_deref() {
            Some("pth" | "pt") => write::checkpoint(&self.tensors)?,
            Some("safetensors") => {
                let form = HashMap::from([(FORM.to_owned(), serde_json::to_string(&self.network)?)]);
                let named = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
                safetensors::serialize(named, Some(form))?
            }
            _ => bail!("{} ends in neither .pth, .pt nor .safetensors", path.display()),
        };
        files::write_atomic(path, bytes)
    }
}

/// What the names and shapes of tensors tell before their numbers are read.
struct Found {
    network: Network,
    /// For each tensor of the network its name in the file.
    sources: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// The shapes of a file's tensors by name.
type Shapes = BTreeMap<String, Vec<usize>>;

fn of_checkpoint(path: &Path, hints: &Hints) -> Result<Weights> {
    let mut checkpoint = Checkpoint::open(path)?;
    let groups: BTreeMap<&str, Shapes> = checkpoint
        .groups()
        .iter()
        .map(|(group, tensors)| {
            let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone()));
            (group.as_str(), shapes.collect())
        })
        .collect();
    let (group, found) = choose(&groups, hints)?;
    let group = group.to_owned();
    drop(groups);
    let names: Vec<String> = found.sources.values().cloned().collect();
    let tensors = checkpoint.tensors(&group, &names)?;
    finish(found, tensors, hints)
}

fn of_safetensors(path: &Path, hints: &Hints) -> Result<Weights> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes).context(
        "it is no checkpoint: neither a zip file or pickle of PyTorch's nor a whole safetensors file",
    )?;
    let (_, about) = SafeTensors::read_metadata(&bytes).context("its head is damaged")?;
    let own = about.metadata().as_ref().and_then(|texts| texts.get(FORM));
    let shapes: Shapes = file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
    let tensor = |name: &String| {
        let view = file.tensor(name)?;
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F64 => DType::F64,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => bail!("tensor `{name}` holds {other:?}, not weights"),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        Ok((name.clone(), tensor.to_dtype(DType::F32)?))
    };
    if let Some(own) = own {
        let network: Network = serde_json::from_str(own)
            .context("it was written by another version of this program: import the original file again")?;
        let expected = expected(&network)?;
        compare(&expected, &shapes)?;
        let tensors = expected.keys().map(tensor).collect::<Result<_>>()?;
        return Ok(Weights { network, tensors, notes: Vec::new() });
    }
    let groups = BTreeMap::from([("", shapes)]);
    let (_, found) = choose(&groups, hints)?;
    let tensors = found.sources.values().map(tensor).collect::<Result<_>>()?;
    finish(found, tensors, hints)
}

/// Finds the one network in the dictionaries of a file.
fn choose<'a>(groups: &BTreeMap<&'a str, Shapes>, hints: &Hints) -> Result<(&'a str, Found)> {
    let mut candidates = Vec::new();
    for (&group, shapes) in
        groups.iter().filter(|(group, _)| hints.key.as_deref().is_none_or(|key| key == **group))
    {
        let ends = [unet::FIRST, diffusion::FIRST, swin::FIRST];
        for (name, end) in shapes.keys().flat_map(|name| ends.map(|end| (name, end))) {
            let prefix = name.strip_suffix(end).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
            if let Some(prefix) =
                prefix.filter(|prefix| hints.prefix.as_deref().is_none_or(|wanted| wanted == *prefix))
            {
                candidates.push((group, prefix.to_owned(), end));
            }
        }
    }
    let shown = |(group, prefix, end): &(&str, String, &str)| {
        let kind = match *end {
            unet::FIRST => "a U-Net",
            swin::FIRST => "a Swin transformer",
            _ => "a diffusion U-Net",
        };
        format!("{kind} (--key {group:?} --prefix {prefix:?})")
    };
    match candidates.as_slice() {
        [(group, prefix, end)] => {
            let shapes = stripped(&groups[group], prefix);
            let mut found = match *end {
                unet::FIRST => unet::find(&shapes, hints)?,
                swin::FIRST => swin::find(&shapes)?,
                _ => diffusion::find(&shapes, hints)?,
            };
            for source in found.sources.values_mut() {
                source.insert_str(0, prefix);
            }
            Ok((group, found))
        }
        [] => {
            let names: Vec<&str> =
                groups.values().flat_map(BTreeMap::keys).map(String::as_str).take(3).collect();
            bail!(
                "it holds no network that is known (SSL4MIS's or UniMatch's U-Net, guided-diffusion's, Swin-T); its dictionaries \
                 are {:?}, its tensors {names:?}, …",
                groups.keys().take(8).collect::<Vec<_>>()
            )
        }
        several => {
            let list: Vec<String> = several.iter().take(6).map(shown).collect();
            bail!("it holds {} networks, name one of them: {}", several.len(), list.join(", "))
        }
    }
}

/// The tensors whose names begin with `prefix`, under the rest of their names.
fn stripped(shapes: &Shapes, prefix: &str) -> Shapes {
    let rest =
        |(name, shape): (&String, &Vec<usize>)| Some((name.strip_prefix(prefix)?.to_owned(), shape.clone()));
    shapes.iter().filter_map(rest).collect()
}

/// The tensors of `found`, which were read under the names of the file.
fn finish(found: Found, mut read: BTreeMap<String, Tensor>, hints: &Hints) -> Result<Weights> {
    let Found { network, sources, mut notes } = found;
    let mut tensors = BTreeMap::new();
    for (name, source) in sources {
        let tensor = read.remove(&source).with_context(|| format!("tensor `{source}` was not read"))?;
        tensors.insert(name, tensor);
    }
    if let Network::Diffusion { .. } = network {
        diffusion::fit(&mut tensors, hints, &mut notes)?;
    }
    compare(&expected(&network)?, &shapes_of(&tensors))?;
    Ok(Weights { network, tensors, notes })
}

fn shapes_of(tensors: &BTreeMap<String, Tensor>) -> Shapes {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
}

/// The names and shapes of a network's tensors.
fn expected(network: &Network) -> Result<Shapes> {
    match network {
        Network::Unet { inputs, classes, unet, .. } => unet::shapes(*inputs, *classes, unet),
        Network::Swin { channels, window } => swin::shapes(*channels, *window),
        Network::Diffusion { diffusion, .. } => diffusion::shapes(diffusion),
    }
}

/// Whether `found` are the tensors of the network, by name and shape; counters of batches do not matter.
fn compare(expected: &Shapes, found: &Shapes) -> Result<()> {
    for (name, shape) in expected {
        let other = found.get(name).with_context(|| format!("its network has no tensor `{name}`"))?;
        ensure!(other == shape, "its tensor `{name}` is {other:?}, and the network has {shape:?} there");
    }
    let unknown: Vec<&String> =
        found.keys().filter(|name| !expected.contains_key(*name) && !name.ends_with(COUNTER)).collect();
    if let Some(first) = unknown.first() {
        bail!("its network has {} tensors that ours has not, such as `{first}`", unknown.len());
    }
    Ok(())
}

/// PyTorch's count of the batches that a batch norm has seen, which nothing reads.
const COUNTER: &str = "num_batches_tracked";
