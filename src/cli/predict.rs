//! `sweep predict`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::lookup::{self, StoreArgs};
use super::progress::time;
use super::{Ending, OrBadInput as _, count, say, tell, with_causes};
use crate::interop::predict::Segmenter;
use crate::interop::volumes::{self, Format, Volume};
use crate::interop::weights::{self, Hints};
use crate::results::index::Index;
use crate::spec::stages::EvaluateStage;
use crate::stage::Trained;
use crate::store::Store;
use crate::store::files;

/// Label volumes by a finished point, or by weights in a file
///
/// Reads NIfTI (.nii, .nii.gz, .hdr) and HDF5 (.h5, dataset `image`) volumes, one or a folder of them, scales each time
/// point to [0, 1] as in training, labels it slice by slice, and writes label maps: NIfTI ones with the header of their
/// input, HDF5 ones as the dataset `label`. A series gives a series.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("network").required(true)))]
pub(super) struct Args {
    /// A point by its id: the network that its evaluation used
    #[arg(long, value_name = "ID", group = "network")]
    point: Option<String>,
    /// A U-Net: of `sweep import` or `sweep export`, or a checkpoint that `sweep import` reads
    #[arg(long, value_name = "FILE", group = "network")]
    weights: Option<PathBuf>,
    /// A volume, or a folder of volumes
    #[arg(long, value_name = "PATH")]
    input: PathBuf,
    /// Where the label map goes, or a folder for those of a folder
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    /// Side of the images that the U-Net was trained on, in pixels, where its file does not say it [default: 256]
    #[arg(long, value_name = "N", requires = "weights")]
    size: Option<usize>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let inputs = volumes::list(&args.input).or_bad_input()?;
    let outputs = outputs(args, &inputs).or_bad_input()?;
    let network = network(args)?;
    let begun = Instant::now();
    let mut failed = 0;
    for (done, (input, output)) in inputs.iter().zip(&outputs).enumerate() {
        let labelled = Volume::image(input)
            .and_then(|volume| network.label(&volume).map(|labels| (volume, labels)))
            .and_then(|(volume, labels)| volume.write_labels(output, &labels));
        match labelled {
            Ok(()) => tell(&format!("{} of {}: {}", done + 1, inputs.len(), output.display())),
            Err(error) => {
                failed += 1;
                tell(&format!("error: {}", with_causes(&error)));
            }
        }
    }
    let done = inputs.len() - failed;
    say(&format!(
        "{} labelled in {}: {}",
        count(done, "volume"),
        time(begun.elapsed()),
        args.output.display()
    ))?;
    if failed > 0 {
        tell(&format!("{} could not be labelled", count(failed, "volume")));
        return Ok(Ending::Failed);
    }
    Ok(Ending::Done)
}

/// Where the label map of each input goes. Nothing is overwritten that is read.
fn outputs(args: &Args, inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let written = |path: &Path| {
        let known = match volumes::named(path) {
            Some((_, Format::Nifti)) => WRITTEN.iter().any(|end| ends(path, end)),
            Some((_, Format::Hdf5)) => true,
            None => false,
        };
        ensure!(known, "{} is no name of a label map: .nii, .nii.gz and .h5 are written", path.display());
        Ok(())
    };
    if !args.input.is_dir() && !args.output.is_dir() {
        written(&args.output)?;
        ensure!(
            !same(&args.input, &args.output),
            "{} would be overwritten by its labels",
            args.input.display()
        );
        return Ok(vec![args.output.clone()]);
    }
    ensure!(
        !args.output.is_file(),
        "{} is a file, and {} a folder: name a folder for its label maps",
        args.output.display(),
        args.input.display()
    );
    files::create_folder(&args.output)?;
    inputs
        .iter()
        .map(|input| {
            let (name, format) = volumes::named(input).context("listed by its name")?;
            let output = args.output.join(match format {
                Format::Nifti => format!("{name}.nii.gz"),
                Format::Hdf5 => format!("{name}.h5"),
            });
            ensure!(
                !same(input, &output),
                "{} would be overwritten by its labels: name another --output",
                input.display()
            );
            Ok(output)
        })
        .collect()
}

/// Endings of NIfTI files that are written; pairs of `.hdr` and `.img` are only read.
const WRITTEN: [&str; 2] = [".nii", ".nii.gz"];

/// Whether the name of `path` ends so, in letters of any size.
fn ends(path: &Path, end: &str) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(end)
}

fn same(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn network(args: &Args) -> Result<Segmenter> {
    if let Some(path) = &args.weights {
        let hints = Hints { size: args.size, ..Hints::default() };
        let weights = weights::read(path, &hints).or_bad_input()?;
        tell(&weights.network.describe());
        weights.notes.iter().for_each(|note| tell(&format!("note: {note}")));
        return Segmenter::of(&weights)
            .with_context(|| format!("{} cannot be used", path.display()))
            .or_bad_input();
    }
    let named = args.point.as_deref().unwrap_or_default();
    let store = args.store.at();
    let (index, point) = lookup::point(named, &store)?;
    Ok(Segmenter::Trained(Box::new(trained(&index, point, &store)?)))
}

/// The network that a point's evaluation uses.
pub(super) fn trained(index: &Index, point: usize, store: &Store) -> Result<Trained> {
    let key = &index.stages()[index.points()[point].evaluate].key;
    let open = || -> Result<Trained> {
        let (settings, parents) = match store.meta(key) {
            Some(meta) => (meta.settings, meta.parents),
            None => store.spec(key).map(|stored| (stored.spec.settings, stored.spec.parents))?,
        };
        let EvaluateStage { evaluate, .. } =
            serde_json::from_value(settings).context("its settings were written by another version")?;
        let folder = |role: &str| {
            let parent = parents.iter().find(|parent| parent.role == role);
            let parent = parent.ok_or_else(|| anyhow!("its evaluation reads no `{role}`"))?;
            match store.object(&parent.key) {
                Some(folder) => Ok(folder),
                None => bail!("its stage `{role}` ({}) is not in the store: run the sweep", parent.key),
            }
        };
        let diffusion = folder("diffusion");
        let diffusion = || diffusion.as_deref().map_err(|error| anyhow!("{error:#}"));
        Trained::open(&folder("train")?, &diffusion, evaluate.select)
    };
    open().with_context(|| format!("point {} cannot be used", index.id(point))).or_bad_input()
}
