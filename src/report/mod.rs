//! Frames as something to read: tables for papers, figures, and one page that says what they stand on.
//!
//! Everything is computed from the frames alone; equal frames give equal bytes. [`render`] writes
//!
//! - `index.html`, one self-contained page: no script, no network;
//! - `tables/*.{md,tex,csv,html}`: mean ± SD over seeds, the 95 % interval over patients, tests against a named row, best in
//!   bold, second underlined, published values beside measured ones; [`Tables`] gives them alone;
//! - `figures/*.{svg,png}`: each numeric axis, the configurations, the learning curves, the diffusion model's loss and images
//!   sampled from it.

mod cases;
mod chart;
mod diffusion;
mod drawing;
mod figures;
mod format;
mod html;
mod labels;
mod learning;
mod published;
mod sweep;
mod table;
mod tables;

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::results::Frames;
use crate::spec::report::{OneOrMany, ReportSettings, TableSettings};
use crate::store::files;
use cases::Cases;
use figures::Figure;
use sweep::{Kind, Sweep};
use table::{Request, Table};

pub use tables::{Evidence, EvidencePoint, Stale, Tables};

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
    let cases = Cases::new(&frames.cases, &sweep).context("cannot read the cases frame")?;
    let tables = build_tables(&sweep, &cases, settings).context("cannot build the report's tables")?;
    let mut figures = figures(&sweep, settings).context("cannot draw the report's figures")?;
    figures.extend(learning::curves(&sweep, &frames.history)?);
    figures.extend(
        diffusion::loss_by_step(&frames.diffusion).context("cannot draw the diffusion model's loss")?,
    );
    let mut written = vec![dir.join("index.html")];
    let folder = dir.join("tables");
    files::create_folder(&folder)?;
    for table in &tables {
        for (name, text) in files_of(table) {
            let path = folder.join(name);
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
        if is_inside(Path::new(line)) && !written.contains(&path) && path.is_file() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove the outdated {}", path.display()))?;
        }
    }
    let relative = written.iter().filter_map(|path| path.strip_prefix(dir).ok());
    let lines: Vec<String> = relative.map(|path| path.display().to_string()).collect();
    files::write_atomic(&list, (lines.join("\n") + "\n").as_bytes())
}

/// Whether a path of the list stays in the report's folder.
fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The names and texts of a table's files.
fn files_of(table: &Table) -> impl Iterator<Item = (String, String)> {
    format::FORMATS.iter().map(|(kind, format)| (format!("{}.{kind}", table.slug), format(table)))
}

fn build_tables(sweep: &Sweep, cases: &Cases, settings: &ReportSettings) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for wanted in &settings.tables {
        let rows = || format!("by_{}", figures::slug(&wanted.rows.names().join("_")));
        let slug = free_slug(&wanted.name.clone().unwrap_or_else(rows), &tables);
        let request = Request { slug, settings: wanted, subject: "Results" };
        let table = table::build(sweep, cases, &request);
        tables.push(table.with_context(|| format!("the table `{}`", request.slug))?);
    }
    if settings.tables.is_empty() {
        let varying = sweep.varying();
        let axes = if varying.is_empty() { sweep.configuration_axes() } else { varying };
        let axes = axes.into_iter().map(|axis| sweep.axes[axis].path.clone()).collect();
        let mut settings = TableSettings::of(OneOrMany::Many(axes));
        let request = Request { slug: "results".into(), settings: &settings, subject: "Results" };
        tables.push(table::build(sweep, cases, &request)?);
        if sweep.classes.len() > 1 {
            settings.metrics = sweep.classes.iter().map(|class| format!("dice_{class}")).collect();
            let subject = "Dice of each class";
            let request = Request { slug: "per_class".into(), settings: &settings, subject };
            tables.push(table::build(sweep, cases, &request)?);
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
