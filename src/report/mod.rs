//! Frames as something to read: tables for papers, figures, and one page that says what they stand on.
//!
//! Numbers are computed from the frames alone, and equal frames give equal bytes, but for what the page says of stages: how
//! they came to be. [`render`] writes
//!
//! - `index.html`, one self-contained page: no network;
//! - `tables/*.{md,tex,csv,html}`: mean ± SD over seeds, the 95 % interval over patients, tests against a named row, best in
//!   bold, second underlined, published values beside measured ones; [`Tables`] gives them alone;
//! - `figures/*.{svg,png,csv}`: what the sweep file names, else what suits its axes; SVG and PNG of the width of a journal's
//!   column or page, and the numbers behind them; [`plot`] gives them alone.

mod bars;
mod cases;
mod chart;
mod chosen;
pub mod compare;
mod cost;
mod diffusion;
mod drawing;
mod ends;
mod facts;
mod figures;
mod format;
mod heat;
mod html;
mod kept;
mod labels;
mod learning;
mod lines;
mod patients;
mod pictures;
mod published;
mod rank;
mod rows;
mod sweep;
mod table;
mod tables;

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use rayon::prelude::*;

use crate::results::Frames;
use crate::results::stages::Stages;
use crate::spec::report::{FigureKind, FigureSettings, OneOrMany, Pictures, ReportSettings, TableSettings};
use crate::store::files;
use cases::Cases;
use figures::{Figure, Source};
use sweep::Sweep;
use table::{Request, Table};

pub use figures::Stored;
pub use tables::{Evidence, EvidencePoint, Stale, Tables};

/// Where a report lies.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The page.
    pub index: PathBuf,
    /// All files, the page first.
    pub files: Vec<PathBuf>,
}

/// Figures of every report: what was logged, and images where they may be shown.
const ALWAYS: [FigureKind; 6] = [
    FigureKind::Learning,
    FigureKind::Accepted,
    FigureKind::Diffusion,
    FigureKind::Overlay,
    FigureKind::Features,
    FigureKind::Samples,
];

/// What a report shows beside frames.
#[derive(Default)]
pub struct Backing<'a> {
    /// What the page says of stages.
    pub stages: Stages,
    /// What figures of images are made from.
    pub store: Option<Stored<'a>>,
}

/// Renders the report of the sweep `name` into `dir`.
///
/// `settings` name tables and figures; where they name none, there is one table over all axes but the seed, one with
/// the Dice of each class, a figure for each numeric axis, one over all other axes together, and the learning curves.
///
/// # Errors
/// When `settings` name an axis or a metric that the sweep does not have, or a file cannot be written.
pub fn render(
    frames: &Frames,
    backing: &Backing,
    name: &str,
    description: &str,
    settings: &ReportSettings,
    dir: &Path,
) -> Result<Rendered> {
    let sweep = Sweep::new(&frames.points).context("cannot read the points frame")?;
    let cases = Cases::new(&frames.cases, &sweep).context("cannot read the cases frame")?;
    let mut source = Source::new(&sweep, &cases, frames);
    let pictures = settings.pictures.shows(sweep.is_generated());
    if pictures {
        (source.store, source.samples) = (backing.store, &frames.samples);
    }
    let tables = build_tables(&sweep, &cases, settings).context("cannot build the report's tables")?;
    let mut wanted = settings.figures.clone();
    if wanted.is_empty() {
        wanted = chosen::chosen(&sweep);
    }
    // What was logged is part of every report, and so are images where they may be shown.
    for kind in ALWAYS {
        if wanted.iter().all(|figure| figure.kind != kind) {
            wanted.extend(match kind {
                FigureKind::Learning | FigureKind::Accepted | FigureKind::Overlay => {
                    chosen::by_ratio(&sweep, kind)
                }
                _ => vec![FigureSettings::of(kind, Vec::new())],
            });
        }
    }
    let (images, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|figure| figure.kind.is_picture());
    let mut figures = drawn(&source, &wanted).context("cannot draw the report's figures")?;
    let mut trouble = None;
    if pictures {
        // A checkpoint that is gone shall not take the report with it.
        match drawn(&source, &images) {
            Ok(images) => figures.extend(images),
            Err(error) => trouble = Some(format!("could not be drawn: {error:#}")),
        }
    } else if !sweep.is_generated() && settings.pictures == Pictures::Generated {
        let why =
            "none are shown: the data are not generated, and the sweep file does not say `pictures: true`";
        trouble = Some(why.to_owned());
    }
    let mut kept = Vec::new();
    if pictures && backing.store.is_none() {
        kept = kept::pictures(dir, &sweep);
        kept.retain(|kept| figures.iter().all(|figure| figure.slug != kept.slug));
        if !kept.is_empty() {
            trouble =
                Some("those of the report before this one: there is no store to draw them from anew".into());
        }
    }
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
    let drawn = write_figures(&figures, &folder, &["svg", "png", "csv"], &mut written)?;
    written.extend(kept.iter().flat_map(|kept| kept.files.iter().cloned()));
    let page = html::page(&html::Page {
        kept: &kept,
        sweep: &sweep,
        name,
        description,
        tables: &tables,
        figures: &figures,
        drawn: &drawn,
        stages: &backing.stages,
        images: trouble.as_deref(),
    })?;
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
        let rows = || format!("by_{}", figures::joined(wanted.rows.names()));
        let slug = free(&wanted.name.clone().unwrap_or_else(rows), |slug| {
            tables.iter().any(|table| table.slug == slug)
        });
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

/// `slug`, or `slug` with a number where it is taken.
fn free(slug: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(slug) {
        return slug.to_owned();
    }
    let mut number = 2;
    while taken(&format!("{slug}_{number}")) {
        number += 1;
    }
    format!("{slug}_{number}")
}

/// Draws what `wanted` ask for, each name of a file once.
fn drawn(source: &Source, wanted: &[FigureSettings]) -> Result<Vec<Figure>> {
    let figures =
        wanted.par_iter().map(|figure| figures::draw(source, figure)).collect::<Result<Vec<_>>>()?;
    let mut kept: Vec<Figure> = Vec::new();
    for mut figure in figures.into_iter().flatten() {
        let taken = |slug: &str| kept.iter().any(|other| other.slug == slug);
        figure.slug = free(&figure.slug, taken);
        kept.push(figure);
    }
    Ok(kept)
}

/// Writes the figures as files of these kinds into `folder`; returns them as SVG.
fn write_figures(
    figures: &[Figure],
    folder: &Path,
    kinds: &[&str],
    written: &mut Vec<PathBuf>,
) -> Result<Vec<String>> {
    files::create_folder(folder)?;
    let made = figures.par_iter().map(|figure| {
        let svg = figure.drawing.svg()?;
        let mut paths = Vec::new();
        for &kind in kinds {
            let path = folder.join(format!("{}.{kind}", figure.slug));
            match kind {
                "svg" => files::write_atomic(&path, svg.as_bytes())?,
                "png" => files::write_atomic(&path, &figure.drawing.png()?)?,
                _ => files::write_atomic(&path, figure.data.csv().as_bytes())?,
            }
            paths.push(path);
        }
        Ok((svg, paths))
    });
    let made = made.collect::<Result<Vec<(String, Vec<PathBuf>)>>>()?;
    Ok(made
        .into_iter()
        .map(|(svg, paths)| {
            written.extend(paths);
            svg
        })
        .collect())
}

/// Draws single figures of a sweep into `dir`, each as SVG and PNG and, where `export`, its numbers as CSV; those that its
/// report would choose, where `wanted` names none. Images are drawn where `store` is given. Returns the files; none where
/// nothing of it has been evaluated or logged.
///
/// # Errors
/// Where `wanted` name an axis, a value or a metric that the sweep does not have, images of data that are not generated
/// without `pictures` saying so, or a file cannot be written.
pub fn plot(
    frames: &Frames,
    store: Option<Stored>,
    wanted: &[FigureSettings],
    pictures: Pictures,
    (dir, export): (&Path, bool),
) -> Result<Vec<PathBuf>> {
    let sweep = Sweep::new(&frames.points).context("cannot read the points frame")?;
    let cases = Cases::new(&frames.cases, &sweep).context("cannot read the cases frame")?;
    let mut source = Source::new(&sweep, &cases, frames);
    if pictures.shows(sweep.is_generated()) {
        (source.store, source.samples) = (store, &frames.samples);
        ensure!(
            store.is_some() || wanted.iter().all(|figure| !figure.kind.is_picture()),
            "images are made from the store, which does not know this sweep: run it, or name its --store"
        );
    } else {
        ensure!(
            wanted.iter().all(|figure| !figure.kind.is_picture()),
            "the data of this sweep are not generated, and its images may show patients: --pictures draws them all the same"
        );
    }
    let chosen = chosen::chosen(&sweep);
    let figures = drawn(&source, if wanted.is_empty() { &chosen } else { wanted })?;
    let kinds: &[&str] = if export { &["svg", "png", "csv"] } else { &["svg", "png"] };
    let mut written = Vec::new();
    write_figures(&figures, dir, kinds, &mut written)?;
    Ok(written)
}

#[cfg(test)]
mod tests;
