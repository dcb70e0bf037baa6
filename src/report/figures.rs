//! Figures: what all kinds share, and which kind draws what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use polars::prelude::DataFrame;

use super::cases::{Cases, Measure, Patients};
use super::chart::MOST_STYLES;
use super::drawing::Drawing;
use super::labels::Metric;
use super::sweep::{Group, SEED, Sweep};
use super::{bars, diffusion, heat, learning, lines, patients, pictures, rank, rows, table};
use crate::results::index::Index;
use crate::results::{Frames, Samples};
use crate::spec::report::{FigureKind, FigureSettings};
use crate::stats::{RESAMPLES, Resamples, Summary};
use crate::store::Store;

/// A finished figure.
pub(super) struct Figure {
    /// Name of its files.
    pub(super) slug: String,
    pub(super) caption: String,
    pub(super) drawing: Drawing,
    pub(super) data: Data,
}

/// The numbers behind a figure, as CSV has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Data {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Data {
    pub(super) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    /// The text of the file.
    pub(super) fn csv(&self) -> String {
        let quoted = |cell: &String| {
            if cell.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let line = |cells: &Vec<String>| cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }
}

/// A number as CSV has it; empty where there is none.
pub(super) fn cell(value: impl Into<Option<f64>>) -> String {
    value.into().map_or(String::new(), |value| value.to_string())
}

/// Where the stages of a sweep lie.
pub type Stored<'a> = (&'a Index, &'a Store);

/// All that figures are drawn from.
pub(super) struct Source<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) cases: &'a Cases,
    pub(super) history: &'a DataFrame,
    pub(super) diffusion: &'a DataFrame,
    /// What figures of images are made from; none where they shall not be drawn, or cannot.
    pub(super) store: Option<Stored<'a>>,
    /// Images sampled from the diffusion models that may be shown.
    pub(super) samples: &'a [Samples],
    /// Bootstrap samples by their number of patients.
    resamples: Mutex<HashMap<usize, Arc<Resamples>>>,
}

impl<'a> Source<'a> {
    /// Without images.
    pub(super) fn new(sweep: &'a Sweep, cases: &'a Cases, frames: &'a Frames) -> Self {
        let Frames { history, diffusion, .. } = frames;
        Self { sweep, cases, history, diffusion, store: None, samples: &[], resamples: Mutex::default() }
    }

    /// Bootstrap samples of so many patients.
    fn samples_of(&self, patients: usize) -> Arc<Resamples> {
        let new = || Arc::new(Resamples::new(patients, RESAMPLES));
        match self.resamples.lock() {
            Ok(mut known) => known.entry(patients).or_insert_with(new).clone(),
            Err(_) => new(),
        }
    }
}

/// What a figure shows: a metric, of all classes or one, as it is printed.
pub(super) struct Shown<'a> {
    pub(super) metric: Metric,
    class: Option<String>,
    /// The column of the frames.
    pub(super) column: String,
    measure: Measure<'a>,
    /// The classes that its values are means over.
    classes: Vec<usize>,
    /// For each point its value; `None` where it was not evaluated.
    pub(super) values: Vec<Option<f64>>,
}

impl<'a> Shown<'a> {
    fn new(source: &Source<'a>, column: &str) -> Result<Self> {
        let (sweep, cases) = (source.sweep, source.cases);
        let (metric, class) = table::metric(sweep, column)?;
        let measure = cases.measure(metric, None)?.with_context(|| {
            format!("`{column}` was not recorded: `evaluate.variants: true` in the sweep file records it")
        })?;
        let place = class.and_then(|class| cases.classes.iter().position(|known| known == class));
        let classes: Vec<usize> =
            place.map_or_else(|| (0..cases.classes.len()).collect(), |class| vec![class]);
        let values = (0..sweep.points.len()).map(|point| measure.point(point, &classes)).collect();
        let class = class.map(str::to_owned);
        Ok(Self { metric, class, column: column.to_owned(), measure, classes, values })
    }

    /// `Dice (%)`, `Dice LV (%)`.
    pub(super) fn title(&self) -> String {
        self.metric.title_of(self.class.as_deref())
    }

    /// `Dice`, `Dice of LV`.
    pub(super) fn name(&self) -> String {
        match &self.class {
            Some(class) => format!("{} of {class}", self.metric.name),
            None => self.metric.name.to_owned(),
        }
    }

    /// What the scale of the metric stays within: margins do not reach where no value can be, though bars may.
    pub(super) fn limits(&self, values: &[f64]) -> (f64, f64) {
        let floor = if values.iter().all(|&value| value >= 0.0) { 0.0 } else { f64::NEG_INFINITY };
        let full = self.metric.unit == "%" && values.iter().all(|&value| value <= 100.0);
        (floor, if full { 100.0 } else { f64::INFINITY })
    }

    /// What `points` say of each patient.
    fn patients(&self, points: &[usize]) -> Patients {
        self.measure.patients(points, &self.classes)
    }

    /// For each patient of the sweep the mean over `points`.
    pub(super) fn by_patient(&self, source: &Source, points: &[usize]) -> Vec<Option<f64>> {
        let mut means = vec![None; source.cases.patients.len()];
        let found = self.patients(points);
        for (&id, &mean) in found.ids.iter().zip(&found.means) {
            means[id as usize] = Some(mean);
        }
        means
    }
}

/// What stands at one place of a figure: the values of its points, and what is known of their mean.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where: a number of the axis, or the number of a row.
    pub(super) at: f64,
    /// One for each point, in the frame's order.
    pub(super) values: Vec<f64>,
    pub(super) summary: Summary,
    /// The 95 % bootstrap interval of the mean over patients.
    pub(super) interval: Option<(f64, f64)>,
}

impl Place {
    /// The values of `points` alone; `None` where none was evaluated.
    fn bare(shown: &Shown, points: &[usize], at: f64) -> Option<Self> {
        let values: Vec<f64> = points.iter().filter_map(|&point| shown.values[point]).collect();
        Some(Self { at, summary: Summary::of(&values)?, interval: None, values })
    }

    /// What is known of `points`; `None` where none was evaluated.
    pub(super) fn new(source: &Source, shown: &Shown, points: &[usize], at: f64) -> Option<Self> {
        let mut place = Self::bare(shown, points, at)?;
        let patients = shown.patients(points);
        place.interval = patients.interval(&source.samples_of(patients.ids.len()));
        Some(place)
    }

    /// All that must be seen of it.
    pub(super) fn extent(&self) -> impl Iterator<Item = f64> + '_ {
        let ends = self.interval.map(|(low, high)| [low, high]);
        self.values.iter().copied().chain(ends.into_iter().flatten())
    }

    /// What CSV says of it: n, mean, SD, the interval, and all values.
    pub(super) fn cells(&self) -> [String; 6] {
        let Summary { n, mean, sd, .. } = self.summary;
        let values: Vec<String> = self.values.iter().map(f64::to_string).collect();
        let (low, high) = self.interval.unzip();
        [n.to_string(), cell(mean), cell(sd), cell(low), cell(high), values.join(" ")]
    }
}

/// The columns of [`Place::cells`].
pub(super) const PLACE: [&str; 6] = ["n", "mean", "sd", "low", "high", "values"];

/// What marks and bars of places mean, for captions.
pub(super) fn legend_text(source: &Source, places: &[&Place]) -> String {
    let seeds = places.iter().any(|place| place.values.len() > 1);
    let seeds = match (seeds, source.sweep.axis(SEED)) {
        (false, _) => "",
        (true, Some(_)) => " small marks: single points (seeds);",
        (true, None) => " small marks: single points;",
    };
    if places.iter().any(|place| place.interval.is_some()) {
        format!("Large marks: mean;{seeds} bars: 95 % bootstrap interval over patients.")
    } else {
        format!("Large marks: mean;{seeds} no interval: too few patients.")
    }
}

/// One series of a figure.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) places: Vec<Place>,
}

/// The series of a figure over places that `axes` make, other axes making series; `at` says where a group of `axes`
/// stands, if anywhere. Where there are more than are told apart, they have no intervals.
pub(super) fn series(
    source: &Source,
    shown: &Shown,
    points: &[usize],
    (axes, others): (&[usize], &[usize]),
    at: impl Fn(&Group) -> Option<f64>,
) -> Vec<Series> {
    let mut series = Vec::new();
    let groups = source.sweep.groups_of(points, others);
    let crowded = groups.len() > MOST_STYLES;
    for group in &groups {
        let places = source.sweep.groups_of(&group.points, axes);
        let places = places.iter().filter_map(|place| match at(place)? {
            at if crowded => Place::bare(shown, &place.points, at),
            at => Place::new(source, shown, &place.points, at),
        });
        let mut places: Vec<Place> = places.collect();
        places.sort_by(|a, b| a.at.total_cmp(&b.at));
        if !places.is_empty() {
            series.push(Series { name: source.sweep.describe(others, group), places });
        }
    }
    series
}

/// What is asked of a figure, with all names found.
pub(super) struct Asked {
    /// The axes of `x`, where it names any.
    pub(super) x: Vec<usize>,
    /// The axes of `by`, where it names any.
    pub(super) by: Option<Vec<usize>>,
    /// The points that it is about.
    pub(super) points: Vec<usize>,
    /// What `y` names.
    pub(super) y: Option<String>,
    /// What `against` names: axes and their values.
    pub(super) against: Vec<(usize, String)>,
}

impl Asked {
    fn new(sweep: &Sweep, settings: &FigureSettings) -> Result<Self> {
        let axes = |names: &[String]| table::axes(sweep, names);
        let x = settings.x.as_ref().map(|names| axes(names.names())).transpose()?.unwrap_or_default();
        let by = settings.by.as_ref().map(|names| axes(names.names())).transpose()?;
        let mut points: Vec<usize> = (0..sweep.points.len()).collect();
        for (name, wanted) in &settings.only {
            let axis = axes(std::slice::from_ref(name))?[0];
            points.retain(|&point| {
                let raw = &sweep.axes[axis].values[sweep.points[point].key[axis]].raw;
                wanted.iter().any(|wanted| same(wanted, raw))
            });
        }
        if points.is_empty() && !sweep.points.is_empty() {
            let names: Vec<&str> = settings.only.iter().map(|(name, _)| name.as_str()).collect();
            bail!("no point of the sweep has what the figure's `where` asks of {}", names.join(", "));
        }
        let against = settings
            .against
            .iter()
            .map(|(name, value)| Ok((axes(std::slice::from_ref(name))?[0], value.clone())));
        Ok(Self { x, by, points, y: settings.y.clone(), against: against.collect::<Result<_>>()? })
    }

    /// The metric; Dice where none is named.
    pub(super) fn shown<'a>(&self, source: &Source<'a>) -> Result<Shown<'a>> {
        Shown::new(source, self.y.as_deref().unwrap_or("dice"))
    }

    /// The axes that vary among the points, but the seed and those in `taken`.
    pub(super) fn others(&self, sweep: &Sweep, taken: &[usize]) -> Vec<usize> {
        if let Some(by) = &self.by {
            return by.clone();
        }
        let varies = |axis: &usize| {
            let first = self.points.first().map(|&point| sweep.points[point].key[*axis]);
            self.points.iter().any(|&point| Some(sweep.points[point].key[*axis]) != first)
        };
        sweep.varying().into_iter().filter(|axis| !taken.contains(axis)).filter(varies).collect()
    }

    /// The configurations: points grouped by `x` or, where it names none, by all axes that vary.
    pub(super) fn configurations(&self, sweep: &Sweep) -> (Vec<usize>, Vec<Group>) {
        let axes = if self.x.is_empty() { self.others(sweep, &[]) } else { self.x.clone() };
        let groups = sweep.groups_of(&self.points, &axes);
        (axes, groups)
    }

    /// The place among `groups`, grouped by `axes`, of the configuration that `against` names; the first where it
    /// names none.
    pub(super) fn reference(&self, sweep: &Sweep, axes: &[usize], groups: &[Group]) -> Result<usize> {
        let fits = |group: &Group| {
            self.against.iter().all(|(axis, value)| {
                axes.iter()
                    .position(|other| other == axis)
                    .is_some_and(|place| same(value, &sweep.axes[*axis].values[group.key[place]].raw))
            })
        };
        groups.iter().position(fits).with_context(|| {
            let wanted: Vec<String> = self
                .against
                .iter()
                .map(|(axis, value)| format!("{} = {value}", sweep.axes[*axis].path))
                .collect();
            format!("the figure has no configuration with {}, which `against` names", wanted.join(", "))
        })
    }
}

/// Whether a value as written means a value of the frame: `0.90` is 0.9, `[2,4]` is `[2, 4]`.
fn same(written: &str, raw: &str) -> bool {
    let dense = |text: &str| text.replace(' ', "");
    let number = |text: &str| text.parse::<f64>().ok();
    dense(written) == dense(raw) || number(written).zip(number(raw)).is_some_and(|(a, b)| a == b)
}

/// Which part of a sweep a figure is about, by its `where`.
struct Part {
    /// For the caption: ` Only points with Labelled 10 %.`
    sentence: String,
    /// For the name of its files: `_label_ratio_10`.
    slug: String,
}

impl Part {
    fn of(sweep: &Sweep, settings: &FigureSettings) -> Self {
        let (mut said, mut slug) = (Vec::new(), String::new());
        for (path, wanted) in &settings.only {
            let Some(axis) = sweep.axis(path).map(|axis| &sweep.axes[axis]) else { continue };
            let is_wanted =
                |value: &&super::sweep::Value| wanted.iter().any(|wanted| same(wanted, &value.raw));
            let values: Vec<&super::sweep::Value> = axis.values.iter().filter(is_wanted).collect();
            if values.len() == axis.values.len() {
                continue;
            }
            // Where an axis does not apply there is nothing to be named.
            let values: Vec<&super::sweep::Value> =
                values.into_iter().filter(|value| !value.raw.is_empty()).collect();
            let shown: Vec<&str> = values.iter().map(|value| value.shown.as_str()).collect();
            said.push(format!("{} {}", axis.name.short, shown.join(" or ")));
            if let [value] = values[..] {
                slug = format!("{slug}_{path}_{}", value.raw.trim_end_matches('%'));
            }
        }
        let sentence =
            if said.is_empty() { String::new() } else { format!(" Only points with {}.", said.join(", ")) };
        Self { sentence, slug: self::slug(&slug) }
    }
}

/// How many of `points` a figure does not show, in words; nothing where it shows all.
fn holes(sweep: &Sweep, points: &[usize]) -> String {
    let count = |status: &str| points.iter().filter(|&&point| sweep.points[point].status == status).count();
    match (count("failed"), count("missing")) {
        (0, 0) => String::new(),
        (failed, missing) => format!(
            " {failed} of {} points failed, {missing} missing: nothing here stands on them.",
            points.len()
        ),
    }
}

/// Draws what `settings` ask for; nothing where nothing of it has been evaluated or logged.
///
/// # Errors
/// Where they name an axis, a value or a metric that the sweep does not have, or leave out what their kind needs.
pub(super) fn draw(source: &Source, settings: &FigureSettings) -> Result<Vec<Figure>> {
    let asked = Asked::new(source.sweep, settings)?;
    let mut figures = match settings.kind {
        FigureKind::Sensitivity => lines::along(source, &asked)?.into_iter().collect(),
        FigureKind::Ratio => lines::ratio(source, &asked)?.into_iter().collect(),
        FigureKind::Category => rows::draw(source, &asked)?.into_iter().collect(),
        FigureKind::Ablation => bars::draw(source, &asked)?.into_iter().collect(),
        FigureKind::Heatmap => heat::draw(source, &asked)?.into_iter().collect(),
        FigureKind::Learning => learning::curves(source, &asked)?,
        FigureKind::Accepted => learning::accepted(source, &asked)?.into_iter().collect(),
        FigureKind::Scatter => patients::scatter(source, &asked)?.into_iter().collect(),
        FigureKind::Box => patients::boxes(source, &asked)?.into_iter().collect(),
        FigureKind::Ranks => rank::draw(source, &asked)?.into_iter().collect(),
        FigureKind::Diffusion => diffusion::loss_by_step(source.diffusion)?.into_iter().collect(),
        FigureKind::Overlay => pictures::overlay(source, &asked)?.into_iter().collect(),
        FigureKind::Features => pictures::features(source)?,
        FigureKind::Samples => pictures::samples(source.samples)?,
    };
    let part = Part::of(source.sweep, settings);
    let of_cases =
        !matches!(settings.kind, FigureKind::Diffusion | FigureKind::Features | FigureKind::Samples);
    for (number, figure) in figures.iter_mut().enumerate() {
        match &settings.caption {
            Some(caption) => {
                figure.caption = format!("{}. {}", caption.trim_end_matches('.'), figure.caption);
            }
            None => figure.caption.push_str(&part.sentence),
        }
        figure.slug.push_str(&part.slug);
        if of_cases {
            figure.caption.push_str(&holes(source.sweep, &asked.points));
        }
        if let Some(name) = &settings.name {
            figure.slug = if number == 0 { name.clone() } else { format!("{name}_{}", number + 1) };
        }
    }
    Ok(figures)
}

/// An axis' path as part of a file's name.
pub(super) fn slug(path: &str) -> String {
    path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The paths of `axes` as part of a file's name.
pub(super) fn slugs(sweep: &Sweep, axes: &[usize]) -> String {
    let paths: Vec<&str> = axes.iter().map(|&axis| sweep.axes[axis].path.as_str()).collect();
    joined(&paths)
}

/// Paths of axes as part of a file's name, which has an end: the rest of many is counted.
pub(super) fn joined(paths: &[impl AsRef<str>]) -> String {
    const MOST: usize = 120; // of the 255 bytes that file systems take
    let mut name = String::new();
    for (i, path) in paths.iter().map(AsRef::as_ref).enumerate() {
        if i > 0 && name.len() + path.len() > MOST {
            return format!("{name}_and_{}_more", paths.len() - i);
        }
        name.extend([if i == 0 { "" } else { "_" }, slug(path).as_str()]);
    }
    name
}

/// `Feature dimension D` as it stands within a sentence.
pub(super) fn first_lower(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}
