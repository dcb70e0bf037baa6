//! The page: what the report stands on, tables, figures, points. One file, no script, no network.

use std::fmt::Write as _;

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::figures::Figure;
use super::format;
use super::labels::METRICS;
use super::sweep::{SEED, Sweep};
use super::table::Table;
use crate::results::Samples;

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

/// The whole page; `drawn` are the figures as SVG.
pub(super) fn page(
    sweep: &Sweep,
    name: &str,
    description: &str,
    tables: &[Table],
    figures: &[Figure],
    drawn: &[String],
    samples: &[Samples],
) -> Result<String> {
    let title = escape(name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n"
    );
    if !description.trim().is_empty() {
        let _ = writeln!(out, "<p class=\"lead\">{}</p>", escape(description.trim()));
    }
    out.push_str("</header>\n");
    out.push_str(&basis(sweep));
    out.push_str("<section>\n<h2>Tables</h2>\n");
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
    if !figures.is_empty() {
        out.push_str("<section>\n<h2>Figures</h2>\n<div class=\"figures\">\n");
        for (index, (figure, svg)) in figures.iter().zip(drawn).enumerate() {
            let links = links("figures", &figure.slug, &["svg", "png"]);
            let _ = writeln!(
                out,
                "<figure id=\"figure-{0}\">\n{svg}<figcaption><b>Figure {0}.</b> {1}</figcaption>\n{links}</figure>",
                index + 1,
                escape(&figure.caption)
            );
        }
        out.push_str("</div>\n</section>\n");
    }
    out.push_str(&sampled(samples));
    out.push_str(&failures(sweep));
    out.push_str(&points(sweep)?);
    out.push_str("</main>\n</body>\n</html>\n");
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
fn basis(sweep: &Sweep) -> String {
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
    rows.push(("Metrics", format!("{DEFINITION} {}", empty_rule(sweep))));
    let mut out = String::from("<section>\n<h2>What this stands on</h2>\n<dl>\n");
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

/// The pictures sampled from the diffusion models, inside the page.
fn sampled(samples: &[Samples]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section>\n<h2>Sampled images</h2>\n<div class=\"figures\">\n");
    for (index, Samples { model, label, png }) in samples.iter().enumerate() {
        let _ = writeln!(
            out,
            "<figure>\n<img alt=\"images sampled from {label}\" src=\"data:image/png;base64,{png}\">\n<figcaption>Sampled from \
             noise by the diffusion model <code>{model}</code> ({label}): what its training has made of it.</figcaption>\n\
             <p class=\"links\"><a href=\"figures/diffusion_samples_{number}.png\">png</a></p>\n</figure>",
            label = escape(label),
            png = BASE64_STANDARD.encode(png),
            number = index + 1,
        );
    }
    out.push_str("</div>\n</section>\n");
    out
}

fn failures(sweep: &Sweep) -> String {
    let failed: Vec<_> = sweep.points.iter().filter(|point| point.error.is_some()).collect();
    if failed.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section>\n<h2>Failures</h2>\n<ul>\n");
    for point in failed {
        let error = point.error.as_deref().unwrap_or_default();
        let _ = writeln!(out, "<li><code>{}</code>: {}</li>", escape(&point.id), escape(error));
    }
    out.push_str("</ul>\n</section>\n");
    out
}

/// Every point with its axes, metrics and the keys of the stages behind them.
fn points(sweep: &Sweep) -> Result<String> {
    let mut out = String::from(
        "<section>\n<h2>Points</h2>\n<p>Each row is one training run. The keys name its folders in the store: \
         <code>sweep stage KEY</code> computes one of them.</p>\n<div class=\"scroll\">\n\
         <table class=\"points\">\n<thead><tr><th scope=\"col\" class=\"axis\">Point</th>",
    );
    for axis in &sweep.axes {
        let _ = write!(out, "<th scope=\"col\" class=\"axis\">{}</th>", escape(&axis.name.short));
    }
    let mut columns = Vec::new();
    for metric in METRICS {
        let _ = write!(out, "<th scope=\"col\" class=\"num\">{}</th>", metric.title());
        columns.push(sweep.metric(metric.column)?);
    }
    out.push_str(
        "<th scope=\"col\" class=\"num\">Best step</th><th scope=\"col\" class=\"axis\">Training</th>\
         <th scope=\"col\" class=\"axis\">Evaluation</th></tr></thead>\n<tbody>\n",
    );
    for (index, point) in sweep.points.iter().enumerate() {
        let _ = write!(out, "<tr><td class=\"axis\"><code>{}</code></td>", escape(&point.id));
        for (axis, &value) in sweep.axes.iter().zip(&point.key) {
            let _ = write!(out, "<td class=\"axis\">{}</td>", escape(&axis.values[value].shown));
        }
        for column in &columns {
            let _ = match column[index] {
                Some(value) => write!(out, "<td class=\"num\">{value:.2}</td>"),
                None => write!(out, "<td class=\"num absent\">{}</td>", escape(&point.status)),
            };
        }
        let best = point.best_step.map_or("–".to_owned(), |step| step.to_string());
        let _ = write!(out, "<td class=\"num\">{best}</td>");
        for key in [&point.train_key, &point.evaluate_key] {
            let _ = write!(out, "<td class=\"axis\"><code class=\"key\">{}</code></td>", escape(key));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n</section>\n");
    Ok(out)
}

pub(super) const STYLE: &str = include_str!("style.css");
