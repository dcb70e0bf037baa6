//! `sweep import` and `sweep export`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use super::lookup::{self, StoreArgs};
use super::predict::trained;
use super::{Ending, OrBadInput as _, say, tell};
use crate::interop::weights::{self, Hints, Weights};

/// Turn a checkpoint of PyTorch into this project's form
///
/// Reads .pth and .pt (both forms) and safetensors of SSL4MIS's U-Net, UniMatch's, BCP's and MC-Net's first decoder, of
/// guided-diffusion's U-Net, and of Swin-T (for `swin.weights`). Nothing in a file is run: a pickle that asks for anything but tensors is refused.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The checkpoint
    file: PathBuf,
    /// Where the weights go (.safetensors)
    output: PathBuf,
    #[command(flatten)]
    hints: HintArgs,
}

/// What a file may not say.
#[derive(Debug, clap::Args)]
struct HintArgs {
    /// The dictionary of the checkpoint, where several hold networks: `model`, `net`
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// What stands before the names of the network's tensors, where there are several networks: `f.`, `module.`
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Side of the images that it was trained on, in pixels [default: 256]
    #[arg(long, value_name = "N")]
    size: Option<usize>,
    /// Diffusion: channels of one attention head [default: 64]
    #[arg(long, value_name = "N")]
    head_channels: Option<usize>,
    /// Diffusion: make a model of colour images one that sees the same grey image in each channel
    #[arg(long)]
    grey: bool,
}

impl HintArgs {
    fn hints(&self) -> Hints {
        let Self { key, prefix, size, head_channels, grey } = self;
        Hints {
            key: key.clone(),
            prefix: prefix.clone(),
            size: *size,
            head_channels: *head_channels,
            grey: *grey,
        }
    }
}

pub(super) fn run(args: &ImportArgs) -> Result<Ending> {
    let is_ours = args.output.extension().is_some_and(|end| end == "safetensors");
    let named = || -> Result<()> {
        ensure!(is_ours, "{} does not end in .safetensors, the form of this project", args.output.display());
        Ok(())
    };
    named().or_bad_input()?;
    let weights = weights::read(&args.file, &args.hints.hints()).or_bad_input()?;
    finish(&weights, &args.output)
}

/// Turn weights into a checkpoint of PyTorch
///
/// Of a finished point, or of a file that `sweep import` reads: .pth and .pt load with torch.load(weights_only=True), under
/// the names of SSL4MIS and guided-diffusion; .safetensors too, and is this project's form at once.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true)))]
pub(super) struct ExportArgs {
    /// A point by its id: the network that its evaluation used
    #[arg(long, value_name = "ID", group = "source")]
    point: Option<String>,
    /// Weights in a file
    #[arg(long, value_name = "FILE", group = "source")]
    weights: Option<PathBuf>,
    /// Where the checkpoint goes (.pth, .pt, .safetensors)
    output: PathBuf,
    /// Which network of the point: f predicts; others are g, f2, ema, as `sweep methods` has them
    #[arg(long, value_name = "NAME", default_value = "f", requires = "point")]
    network: String,
    #[command(flatten)]
    hints: HintArgs,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn export(args: &ExportArgs) -> Result<Ending> {
    let weights = match (&args.point, &args.weights) {
        (Some(point), _) => of_point(args, point)?,
        (None, Some(path)) => weights::read(path, &args.hints.hints()).or_bad_input()?,
        (None, None) => bail!("a point or a file is needed"),
    };
    finish(&weights, &args.output)
}

fn of_point(args: &ExportArgs, point: &str) -> Result<Weights> {
    let store = args.store.at();
    let (index, place) = lookup::point(point, &store)?;
    let trained = trained(&index, place, &store)?;
    let prefix = format!("{}.", args.network);
    let named = trained.params().named();
    let tensors: BTreeMap<_, _> = named
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone())))
        .collect();
    let all = || {
        let mut names: Vec<&str> =
            trained.params().named().filter_map(|(name, _)| name.split('.').next()).collect();
        names.dedup();
        names.join(", ")
    };
    let found = || -> Result<Weights> {
        ensure!(
            !tensors.is_empty(),
            "point {} has the networks {}, no `{}`",
            index.id(place),
            all(),
            args.network
        );
        let hints = Hints { size: Some(trained.settings().size), ..args.hints.hints() };
        Weights::of(tensors, &hints).with_context(|| {
            format!("the network `{}` of point {} cannot be exported", args.network, index.id(place))
        })
    };
    found().or_bad_input()
}

fn finish(weights: &Weights, output: &std::path::Path) -> Result<Ending> {
    weights.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    weights.write(output).or_bad_input()?;
    let count: usize = weights.tensors.values().map(candle_core::Tensor::elem_count).sum();
    say(&format!(
        "{}: {}, {:.2} M values in {} tensors",
        output.display(),
        weights.network.describe(),
        count as f64 / 1e6,
        weights.tensors.len()
    ))?;
    Ok(Ending::Done)
}
