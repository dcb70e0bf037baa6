//! `sweep plot NAME`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use super::lookup::StoreArgs;
use super::{Ending, OrBadInput as _, say};
use crate::report;
use crate::results;
use crate::results::index::Index;
use crate::spec::report::{FigureKind, FigureSettings, OneOrMany, Pictures};

/// Draw figures of a sweep as SVG and PNG, of the width of a journal's column, and write the numbers behind them
///
/// Without a kind, all figures of its report. The kinds, and what they use of --x, --y, --by, --against:
///
///   sensitivity  y along the axis x: a line for numbers, rows for all else; --by makes series
///   ratio        y along the label ratio, a line for each method
///   category     y for each combination of the axes x
///   ablation     a bar for each combination of modules
///   heatmap      y over two axes: --x AXIS,AXIS
///   learning     the loss and the validation Dice over training steps, or the logged number y
///   accepted     the share of pixels whose pseudo-label is sure enough, over training steps
///   scatter      each patient under --against (else the first configuration) and the best others
///   box          the spread of the patients' values for each configuration
///   ranks        the critical-difference diagram
///   diffusion    the diffusion models' loss by diffusion step
///   overlay      slices with truth, and labels and errors of each configuration (generated data only, or --pictures)
///   features     the diffusion feature maps of a slice (likewise)
///   samples      images sampled from the diffusion models (likewise)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, verbatim_doc_comment)]
pub(super) struct Args {
    /// A sweep whose frames lie in results/NAME
    name: String,
    /// What is drawn; may be given several times
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<FigureKind>,
    /// The axis along x; several, joined by commas, for heat maps and configurations
    #[arg(long, value_name = "AXES")]
    x: Option<String>,
    /// The metric (dice, jaccard, hd95, asd; of one class: dice_LV), or what was logged [default: dice]
    #[arg(long, value_name = "METRIC")]
    y: Option<String>,
    /// The axes that make series, joined by commas [default: all others that vary]
    #[arg(long, value_name = "AXES")]
    by: Option<String>,
    /// Only points with this value of an axis; several values joined by `|`; may be given several times
    #[arg(long = "where", value_name = "AXIS=VALUE")]
    only: Vec<String>,
    /// The configuration that others are set against; may be given once for each axis
    #[arg(long, value_name = "AXIS=VALUE")]
    against: Vec<String>,
    /// Write the numbers behind each figure as CSV, too
    #[arg(long)]
    export: bool,
    /// Where the figures go [default: plots/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The frames lie in DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Draw images also where the data are real, and may show patients
    #[arg(long)]
    pictures: bool,
    #[command(flatten)]
    store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  sweep plot tau --kind sensitivity --x tau --y hd95
  sweep plot acdc --kind ratio --kind ranks --where label_ratio=10% --export
  sweep plot blocks --kind heatmap --x timesteps,blocks --out paper/figures";

fn kind(text: &str) -> Result<FigureKind, String> {
    let names = FigureKind::ALL.map(|(name, _)| name);
    FigureKind::named(text).ok_or_else(|| format!("expected {}", names.join(", ")))
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let mut frames = results::read(&args.results.join(&args.name)).or_bad_input()?;
    let store = args.store.at();
    // Of frames without a store, such as a clone of the repository has, all but images can be drawn.
    let index = Index::read(&store, &args.name).or_bad_input()?;
    if let Some(index) = &index {
        frames.samples = results::samples(&index.models(&store))?;
    }
    let known = index.as_ref().map(|index| index.head.report.clone()).unwrap_or_default();
    let wanted = wanted(args, known.figures).or_bad_input()?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("plots").join(&args.name));
    let pictures = if args.pictures { Pictures::All } else { known.pictures };
    let stored = index.as_ref().map(|index| (index, &store));
    let files = report::plot(&frames, stored, &wanted, pictures, (&out, args.export)).or_bad_input()?;
    if files.is_empty() {
        let nothing =
            anyhow!("nothing of this was evaluated or logged in `{}`: there is nothing to draw", args.name);
        return Err(nothing).or_bad_input();
    }
    for file in files {
        say(&file.display().to_string())?;
    }
    Ok(Ending::Done)
}

/// The figures that are asked for, or those `known` of its sweep file.
fn wanted(args: &Args, known: Vec<FigureSettings>) -> Result<Vec<FigureSettings>> {
    let axes = |text: &Option<String>| -> Option<OneOrMany> {
        let names = text.as_ref()?.split(',').map(|name| name.trim().to_owned());
        Some(OneOrMany::Many(names.collect()))
    };
    let pair = |text: &String| -> Result<(String, String)> {
        match text.split_once('=') {
            Some((axis, value)) if !axis.trim().is_empty() => {
                Ok((axis.trim().to_owned(), value.trim().to_owned()))
            }
            _ => bail!("`{text}`: write AXIS=VALUE, such as `method=mcsd`"),
        }
    };
    let several = |text: &String| -> Result<(String, Vec<String>)> {
        let (axis, values) = pair(text)?;
        Ok((axis, values.split('|').map(|value| value.trim().to_owned()).collect()))
    };
    let only = args.only.iter().map(several).collect::<Result<Vec<_>>>().context("--where")?;
    let against = args.against.iter().map(pair).collect::<Result<Vec<_>>>().context("--against")?;
    let asked =
        args.x.is_some() || args.y.is_some() || args.by.is_some() || !only.is_empty() || !against.is_empty();
    if args.kind.is_empty() {
        if args.x.is_some() {
            return Ok(vec![figure(
                args,
                FigureKind::Sensitivity,
                axes(&args.x),
                axes(&args.by),
                &only,
                &against,
            )]);
        }
        if asked {
            bail!("name a --kind of figure");
        }
        return Ok(known);
    }
    let figures =
        args.kind.iter().map(|&kind| figure(args, kind, axes(&args.x), axes(&args.by), &only, &against));
    Ok(figures.collect())
}

fn figure(
    args: &Args,
    kind: FigureKind,
    x: Option<OneOrMany>,
    by: Option<OneOrMany>,
    only: &[(String, Vec<String>)],
    against: &[(String, String)],
) -> FigureSettings {
    FigureSettings {
        x,
        y: args.y.clone(),
        by,
        only: only.to_vec(),
        against: against.to_vec(),
        ..FigureSettings::of(kind, vec![])
    }
}
