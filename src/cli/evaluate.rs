//! `sweep evaluate`.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use super::table::table;
use super::{Ending, OrBadInput as _, count, say, tell};
use crate::interop::compare::{Comparison, class_names, compare, pairs};
use crate::spec::settings::EmptyDistance;

/// Compare label maps with label maps, whoever made them
///
/// Dice, Jaccard, 95HD and ASD of each case and class by MedPy's definitions, in voxels and, where a file tells the
/// spacing, in mm: on the terminal the mean and SD over the cases, under --output the whole frame.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Predicted label maps: a NIfTI or HDF5 file (dataset `label`), or a folder of them
    #[arg(long, value_name = "PATH")]
    pred: PathBuf,
    /// The true ones, under the same names (a `_gt` or `_label` at the end does not matter)
    #[arg(long, value_name = "PATH")]
    label: PathBuf,
    /// Names of the labels from 1 on: `RV,Myo,LV`; `acdc` and `mnms` for those of the sets [default: the numbers]
    #[arg(long, value_name = "NAMES")]
    classes: Option<String>,
    /// Distance where one of the two lacks a class
    #[arg(long, value_name = "RULE", value_enum, default_value_t = Empty::Zero)]
    empty: Empty,
    /// Folder for cases.parquet, cases.csv and summary.md
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Empty {
    /// 0, as the reference test scripts have it; flatters what misses a structure
    Zero,
    /// The diagonal of the volume
    Diagonal,
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    let pairs = pairs(&args.pred, &args.label).or_bad_input()?;
    let names = args.classes.as_deref().map(class_names);
    let empty = match args.empty {
        Empty::Zero => EmptyDistance::Zero,
        Empty::Diagonal => EmptyDistance::Diagonal,
    };
    let told = |done: usize, all: usize| {
        if all > 1 && done < all {
            tell(&format!("{done} of {all}"));
        }
    };
    let comparison = compare(&pairs, names.as_deref(), empty, &told).or_bad_input()?;
    if args.json {
        say(&json(&comparison)?)?;
    } else {
        say(&text(&comparison, pairs.len()))?;
    }
    if let Some(folder) = &args.output {
        comparison.write(folder)?;
        tell(&format!("written: {}", folder.join("cases.parquet").display()));
    }
    Ok(Ending::Done)
}

fn text(comparison: &Comparison, files: usize) -> String {
    let head =
        ["class", "Dice (%)", "Jaccard (%)", "95HD (voxel)", "ASD (voxel)", "95HD (mm)", "ASD (mm)", "n"];
    let rows: Vec<Vec<String>> = comparison
        .lines()
        .iter()
        .map(|line| {
            let mut row = vec![line.class.clone()];
            row.extend(line.cells());
            row.push(line.n.to_string());
            row
        })
        .collect();
    let mut text = format!("{}\n{}", count(files, "pair"), table(&head, &rows, 2));
    for note in comparison.footnotes() {
        text.push_str("\n  ");
        text.push_str(&note);
    }
    text
}

fn json(comparison: &Comparison) -> Result<String> {
    let lines: Vec<serde_json::Value> = comparison
        .lines()
        .iter()
        .map(|line| {
            let [dice, jaccard, hd95, asd, hd95_mm, asd_mm] = line
                .values
                .map(|value| value.map(|(mean, sd)| serde_json::json!({ "mean": mean, "sd": sd })));
            serde_json::json!({
                "class": line.class, "n": line.n, "dice": dice, "jaccard": jaccard, "hd95": hd95, "asd": asd,
                "hd95_mm": hd95_mm, "asd_mm": asd_mm, "missed": line.missed, "invented": line.invented,
            })
        })
        .collect();
    let all = serde_json::json!({ "classes": lines, "notes": comparison.footnotes() });
    Ok(serde_json::to_string_pretty(&all)?)
}
