//! The page: what the report stands on, tables, figures, points and the stages behind them, cost, failures. One file that
//! stands alone: no network. Its script sorts, filters and opens what a cell stands on; without it, all but the points reads
//! as well.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::chart::COLUMN;
use super::figures::Figure;
use super::kept::Kept;
use super::sweep::{SEED, Sweep};
use super::table::Table;
use super::{cost, facts, format};
use crate::results::stages::Stages;

/// Text for between tags and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// All that a page shows.
pub(super) struct Page<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) tables: &'a [Table],
    pub(super) figures: &'a [Figure],
    /// The figures as SVG.
    pub(super) drawn: &'a [String],
    pub(super) stages: &'a Stages,
    /// Images of the report before, which follow the figures.
    pub(super) kept: &'a [Kept],
    /// Why there are no images, where that wants to be said.
    pub(super) images: Option<&'a str>,
}

/// The whole page.
pub(super) fn page(page: &Page) -> Result<String> {
    let &Page { sweep, name, description, tables, figures, drawn, kept, stages, images } = page;
    let title = escape(name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n"
    );
    if !description.trim().is_empty() {
        let _ = writeln!(out, "<p class=\"lead\">{}</p>", escape(description.trim()));
    }
    let failed = sweep.points.iter().any(|point| point.error.is_some());
    let sections = [
        ("basis", "Basis", true),
        ("tables", "Tables", true),
        ("figures", "Figures", figures.len() + kept.len() > 0),
        ("failures", "Failures", failed),
        ("points", "Points", !sweep.points.is_empty()),
        ("cost", "Cost", !stages.all.is_empty()),
    ];
    let there = sections.iter().filter(|(.., there)| *there);
    let there: Vec<String> = there.map(|(id, title, _)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let _ = writeln!(out, "<nav>{}</nav>\n</header>", there.join(" "));
    out.push_str(&basis(sweep, images));
    out.push_str("<section id=\"tables\">\n<h2>Tables</h2>\n");
    for (index, table) in tables.iter().enumerate() {
        let links = links("tables", &table.slug, &["md", "tex", "csv", "html"]);
        let _ = writeln!(
            out,
            "<div class=\"table\" id=\"table-{}\">\n<div class=\"scroll\">\n{}</div>\n{links}</div>",
            index + 1,
            numbered_caption(&format::html(table), index + 1)
        );
    }
    out.push_str("</section>\n");
    if figures.len() + kept.len() > 0 {
        out.push_str("<section id=\"figures\">\n<h2>Figures</h2>\n<div class=\"figures\">\n");
        for (index, (figure, svg)) in figures.iter().zip(drawn).enumerate() {
            let links = links("figures", &figure.slug, &["svg", "png", "csv"]);
            let _ = writeln!(
                out,
                "<figure id=\"figure-{0}\"{2}>\n{svg}<figcaption><b>Figure {0}.</b> {1}</figcaption>\n{links}</figure>",
                index + 1,
                escape(&figure.caption),
                if figure.drawing.width > COLUMN { " class=\"wide\"" } else { "" }
            );
        }
        for (index, kept) in kept.iter().enumerate() {
            out.push_str(&kept.numbered(figures.len() + index + 1));
        }
        out.push_str("</div>\n</section>\n");
    }
    out.push_str(&failures(sweep));
    out.push_str(points(sweep));
    out.push_str(&cost::section(sweep, stages));
    let facts = facts::json(sweep, tables, stages)?;
    let _ = write!(
        out,
        "</main>\n<script type=\"application/json\" id=\"facts\">{facts}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    );
    Ok(out)
}

fn numbered_caption(table: &str, number: usize) -> String {
    table.replacen("<caption>", &format!("<caption><b>Table {number}.</b> "), 1)
}

fn links(folder: &str, slug: &str, kinds: &[&str]) -> String {
    let link = |kind: &&str| format!("<a href=\"{folder}/{slug}.{kind}\">{kind}</a>");
    format!("<p class=\"links\">{}</p>\n", kinds.iter().map(link).collect::<Vec<_>>().join(" · "))
}

/// What every number of the report stands on.
fn basis(sweep: &Sweep, images: Option<&str>) -> String {
    let (all, done) = (sweep.points.len(), sweep.count("done"));
    let (failed, missing) = (sweep.count("failed"), sweep.count("missing"));
    let mut rows: Vec<(&str, String)> = Vec::new();
    let whole = if done == all {
        "all evaluated".to_owned()
    } else {
        format!("<b>{done} evaluated, {failed} failed, {missing} missing</b>")
    };
    let configurations = sweep.groups(&sweep.varying()).len();
    let seeds = match sweep.axis(SEED) {
        Some(axis) => {
            let seeds: Vec<&str> = sweep.axes[axis].values.iter().map(|value| value.shown.as_str()).collect();
            format!("{} ({})", seeds.len(), escape(&seeds.join(", ")))
        }
        None => "not an axis of the sweep".to_owned(),
    };
    rows.push(("Points", format!("{all}: {whole}")));
    rows.push(("Configurations", configurations.to_string()));
    rows.push(("Training seeds", seeds));
    let mut setting = |title: &'static str, path: &str, name: &dyn Fn(&str) -> String| {
        let values = sweep.setting(path);
        if !values.is_empty() {
            rows.push((
                title,
                escape(&values.iter().map(|value| name(value)).collect::<Vec<_>>().join(", ")),
            ));
        }
    };
    let data = if sweep.setting("data.name").is_empty() { "data" } else { "data.name" };
    setting("Data", data, &super::labels::value);
    setting("Labelled patients", "label_ratio", &str::to_owned);
    setting("Preset", "preset", &str::to_owned);
    setting("Evaluated on", "evaluate.split", &|split| match split {
        "test" => "test split".to_owned(),
        "val" => "validation split".to_owned(),
        other => other.to_owned(),
    });
    setting("Evaluated network", "evaluate.select", &|select| match select {
        "best" => "best validation Dice".to_owned(),
        "last" => "last step".to_owned(),
        crate::results::TEST_SELECTED => {
            "best Dice of the test patients themselves, which flatters every number".to_owned()
        }
        other => other.to_owned(),
    });
    let mut cases: Vec<i64> =
        sweep.points.iter().filter(|point| point.done()).map(|point| point.cases).collect();
    cases.sort_unstable();
    cases.dedup();
    let cases: Vec<String> = cases.iter().map(i64::to_string).collect();
    let classes = sweep.classes.join(", ");
    if !cases.is_empty() {
        rows.push(("Volumes per point", format!("{}; classes {}", cases.join(", "), escape(&classes))));
    }
    if let Some(why) = images {
        rows.push(("Images", escape(why)));
    }
    rows.push(("Metrics", format!("{DEFINITION} {}", empty_rule(sweep))));
    let mut out = String::from("<section id=\"basis\">\n<h2>What this stands on</h2>\n<dl>\n");
    for (title, text) in rows {
        let _ = writeln!(out, "<dt>{title}</dt><dd>{text}</dd>");
    }
    out.push_str("</dl>\n</section>\n");
    out
}

/// How a number is made, in words.
const DEFINITION: &str = "Dice, Jaccard, 95HD and ASD after MedPy, per class on the whole 3-D volume at its native \
    size; mean over volumes, then over classes; distances in voxels (unit spacing: a step between slices counts 1); \
    95HD is the 95th percentile of the pooled distances of both directions, ASD the mean from prediction to label.";

fn empty_rule(sweep: &Sweep) -> &'static str {
    match sweep.setting("evaluate.empty").as_slice() {
        [one] if one == "zero" => {
            "Where exactly one of prediction and label is empty, Dice and Jaccard are 0 and the distances count as 0."
        }
        [one] if one == "diagonal" => {
            "Where exactly one of prediction and label is empty, Dice and Jaccard are 0 and the distances are the \
             volume's diagonal."
        }
        _ => {
            "Where exactly one of prediction and label is empty, <code>evaluate.empty</code> gives the distances."
        }
    }
}

/// Points named of one error at most.
const NAMED: usize = 12;

/// Why points failed: each error once, with the points that it took.
fn failures(sweep: &Sweep) -> String {
    let mut errors: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for point in &sweep.points {
        let Some(error) = point.error.as_deref() else { continue };
        let place = *places.entry(error).or_insert_with(|| {
            errors.push((error, Vec::new()));
            errors.len() - 1
        });
        errors[place].1.push(&point.id);
    }
    if errors.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section id=\"failures\">\n<h2>Failures</h2>\n<ul>\n");
    for (error, ids) in errors {
        let links = ids
            .iter()
            .take(NAMED)
            .map(|id| format!("<a href=\"#point={0}\"><code>{0}</code></a>", escape(id)));
        let links: Vec<String> = links.collect();
        let more = ids.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(out, "<li>{}: {}{more}</li>", escape(error), links.join(", "));
    }
    out.push_str("</ul>\n</section>\n");
    out
}

/// Room for the points, which the script fills: each with its axes, metrics, settings and stages.
fn points(sweep: &Sweep) -> &'static str {
    if sweep.points.is_empty() {
        return "";
    }
    "<section id=\"points\">\n<h2>Points</h2>\n<p>Each row is one training run: its id opens its settings, stages, \
     checkpoints, logs and provenance. So does any number in the tables above.</p>\n<noscript><p>The list of points needs \
     the page's script; <code>points.csv</code> beside the frames has it, too.</p></noscript>\n<div class=\"scroll\">\n\
     <table class=\"points\">\n<thead></thead>\n<tbody></tbody>\n</table>\n</div>\n</section>\n"
}

const SCRIPT: &str = include_str!("page.js");
pub(super) const STYLE: &str = include_str!("style.css");
