//! Frames as something to read: tables for papers, figures, and one page that says what they stand on.
//!
//! Everything is computed from the frames alone; equal frames give equal bytes. [`render`] writes
//!
//! - `index.html`, one self-contained page: no script, no network;
//! - `tables/*.{md,tex,csv}`: mean ± SD over seeds, best in bold, second underlined;
//! - `figures/*.{svg,png}`: each numeric axis, the configurations, the learning curves, the diffusion model's loss and images
//!   sampled from it.

mod chart;
mod diffusion;
mod drawing;
mod figures;
mod format;
mod html;
mod labels;
mod learning;
mod sweep;
mod table;

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::results::{Frames, METRICS};
use crate::spec::report::ReportSettings;
use crate::store::files;
use figures::Figure;
use sweep::{Kind, Sweep};
use table::{Request, Table};

/// Where a report lies.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The page.
    pub index: PathBuf,
    /// All files, the page first.
    pub files: Vec<PathBuf>,
}

/// Metrics that get figures where the sweep file names none.
const FIGURE_METRICS: [&str; 2] = ["dice", "hd95"];

/// Renders the report of the sweep `name` into `dir`.
///
/// `settings` name tables and figures; where they name none, there is one table over all axes but the seed, one with
/// the Dice of each class, a figure for each numeric axis, one over all other axes together, and the learning curves.
///
/// # Errors
/// When `settings` name an axis or a metric that the sweep does not have, or a file cannot be written.
pub fn render(
    frames: &Frames,
    name: &str,
    description: &str,
    settings: &ReportSettings,
    dir: &Path,
) -> Result<Rendered> {
    let sweep = Sweep::new(&frames.points).context("cannot read the points frame")?;
    let tables = tables(&sweep, settings).context("cannot build the report's tables")?;
    let mut figures = figures(&sweep, settings).context("cannot draw the report's figures")?;
    figures.extend(learning::curves(&sweep, &frames.history)?);
    figures.extend(
        diffusion::loss_by_step(&frames.diffusion).context("cannot draw the diffusion model's loss")?,
    );
    let mut written = vec![dir.join("index.html")];
    let folder = dir.join("tables");
    files::create_folder(&folder)?;
    for table in &tables {
        for (kind, text) in
            [("md", format::markdown(table)), ("tex", format::tex(table)), ("csv", format::csv(table))]
        {
            let path = folder.join(format!("{}.{kind}", table.slug));
            files::write_atomic(&path, text.as_bytes())?;
            written.push(path);
        }
    }
    let folder = dir.join("figures");
    files::create_folder(&folder)?;
    let mut drawn = Vec::new();
    for figure in &figures {
        let svg = figure.drawing.svg()?;
        let path = folder.join(format!("{}.svg", figure.slug));
        files::write_atomic(&path, svg.as_bytes())?;
        written.push(path);
        let path = folder.join(format!("{}.png", figure.slug));
        files::write_atomic(&path, &figure.drawing.png(&folder.join(format!(".{}.png", figure.slug)))?)?;
        written.push(path);
        drawn.push(svg);
    }
    let pictures = if settings.pictures { frames.samples.as_slice() } else { &[] };
    for (number, samples) in pictures.iter().enumerate() {
        let path = folder.join(format!("diffusion_samples_{}.png", number + 1));
        files::write_atomic(&path, &samples.png)?;
        written.push(path);
    }
    let page = html::page(&sweep, name, description, &tables, &figures, &drawn, pictures)?;
    files::write_atomic(&written[0], page.as_bytes())?;
    forget_earlier(dir, &written)?;
    Ok(Rendered { index: written[0].clone(), files: written })
}

/// The list of the files of a report, one path a line, relative to its folder.
const LIST: &str = ".files";

/// Removes what an earlier report left that this one no longer has: nobody shall cite a table of a sweep that has
/// changed. Files that no report wrote stay.
fn forget_earlier(dir: &Path, written: &[PathBuf]) -> Result<()> {
    let list = dir.join(LIST);
    for line in std::fs::read_to_string(&list).unwrap_or_default().lines() {
        let path = dir.join(line);
        let inside = Path::new(line).components().all(|part| matches!(part, Component::Normal(_)));
        if inside && !written.contains(&path) && path.is_file() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove the outdated {}", path.display()))?;
        }
    }
    let relative = written.iter().filter_map(|path| path.strip_prefix(dir).ok());
    let lines: Vec<String> = relative.map(|path| path.display().to_string()).collect();
    files::write_atomic(&list, (lines.join("\n") + "\n").as_bytes())
}

fn tables(sweep: &Sweep, settings: &ReportSettings) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for wanted in &settings.tables {
        let names = wanted.rows.names();
        let request = Request {
            slug: free_slug(&format!("by_{}", figures::slug(&names.join("_"))), &tables),
            axes: table::axes(sweep, names)?,
            metrics: &wanted.metrics,
            caption: wanted.caption.as_deref(),
            subject: "Results",
        };
        tables.push(table::build(sweep, &request)?);
    }
    if settings.tables.is_empty() {
        let varying = sweep.varying();
        let axes = if varying.is_empty() { sweep.configuration_axes() } else { varying };
        let all = METRICS.map(String::from);
        let request = Request {
            slug: "results".into(),
            axes: axes.clone(),
            metrics: &all,
            caption: None,
            subject: "Results",
        };
        tables.push(table::build(sweep, &request)?);
        let classes: Vec<String> = sweep.classes.iter().map(|class| format!("dice_{class}")).collect();
        if classes.len() > 1 {
            let request = Request {
                slug: "per_class".into(),
                axes,
                metrics: &classes,
                caption: None,
                subject: "Dice of each class",
            };
            tables.push(table::build(sweep, &request)?);
        }
    }
    Ok(tables)
}

/// `slug`, or `slug` with a number where a table has it.
fn free_slug(slug: &str, tables: &[Table]) -> String {
    let taken = |name: &str| tables.iter().any(|table| table.slug == name);
    if !taken(slug) {
        return slug.to_owned();
    }
    let mut number = 2;
    while taken(&format!("{slug}_{number}")) {
        number += 1;
    }
    format!("{slug}_{number}")
}

fn figures(sweep: &Sweep, settings: &ReportSettings) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for wanted in &settings.figures {
        let axes = table::axes(sweep, std::slice::from_ref(&wanted.x))?;
        figures.extend(figures::along(sweep, axes[0], &wanted.y)?);
    }
    if settings.figures.is_empty() {
        let (numeric, other): (Vec<usize>, Vec<usize>) =
            sweep.varying().into_iter().partition(|&axis| sweep.axes[axis].kind == Kind::Number);
        for metric in FIGURE_METRICS {
            for &axis in &numeric {
                figures.extend(figures::along(sweep, axis, metric)?);
            }
            if !other.is_empty() {
                figures.extend(figures::configurations(sweep, &other, metric)?);
            }
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests;
