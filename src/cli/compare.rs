//! `sweep compare A B`.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::table::{shorten, table};
use super::{Ending, OrBadInput as _, count, say};
use crate::report::compare::{self, CasePair, Comparison, Estimate, Side};
use crate::results::{METRICS, query};

/// Cases shown for people at either end.
const SHOWN: usize = 5;

/// Set two sweeps, parts of sweeps or points beside each other: settings, metrics, cases
///
/// A and B are each a sweep (NAME), a part of one (NAME:'dfm=true seed=0'), or the beginning of a point's id. Means are
/// over patients, intervals from 2,000 bootstrap samples of them, p from Wilcoxon's signed-rank test over the patients of
/// both, uncorrected for the number of metrics; several points of a side are averaged for each patient first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What is compared with: NAME, NAME:'axis=value …', or a point
    a: String,
    /// What is compared
    b: String,
    /// The metric by which cases are listed
    #[arg(long, value_name = "METRIC", default_value = "dice", value_parser = METRICS)]
    metric: String,
    /// The frames lie in DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// List all cases
    #[arg(long)]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  sweep compare acdc acdc-lite
  sweep compare quickstart:'dfm=false dic=false' quickstart:'dfm=true dic=true'
  sweep compare 72378a6f d9196d22 --metric hd95 --all";

pub(super) fn run(args: &Args) -> Result<Ending> {
    let sources = query::sources(&args.results).or_bad_input()?;
    let side = |named: &str| compare::find(named, &sources).or_bad_input();
    let comparison = compare::compare([side(&args.a)?, side(&args.b)?]).or_bad_input()?;
    if args.json {
        say(&object(&comparison).to_string())?;
    } else {
        say(&text(&comparison, &args.metric, args.all))?;
    }
    Ok(Ending::Done)
}

fn text(comparison: &Comparison, metric: &str, all: bool) -> String {
    let parts = [
        comparison
            .sides
            .iter()
            .zip(["A", "B"])
            .map(|(side, letter)| side_line(letter, side))
            .collect::<Vec<_>>()
            .join("\n"),
        settings(comparison),
        metrics(comparison),
        cases(comparison, metric, all),
    ];
    parts.join("\n\n")
}

fn side_line(letter: &str, side: &Side) -> String {
    let ids = if side.ids.len() > 4 { String::new() } else { format!(" ({})", side.ids.join(", ")) };
    let missing = side.ids.len() - side.done;
    let missing = if missing > 0 { format!(", {missing} of them not evaluated") } else { String::new() };
    format!("{letter}  {}: {}{ids}{missing}", side.named, count(side.ids.len(), "point"))
}

fn settings(comparison: &Comparison) -> String {
    let part = if comparison.settings_in_part {
        "\n(axes and a few settings only: provenance.jsonl is not beside the frames of both)"
    } else {
        ""
    };
    if comparison.settings.is_empty() {
        return format!("no setting differs{part}");
    }
    let side = |values: &Vec<String>| {
        if values.is_empty() { "–".to_owned() } else { values.join(" | ") }
    };
    let rows: Vec<Vec<String>> = comparison
        .settings
        .iter()
        .map(|setting| vec![setting.path.clone(), side(&setting.values[0]), side(&setting.values[1])])
        .collect();
    format!("{}{part}", table(&["setting", "A", "B"], &rows, 0))
}

fn metrics(comparison: &Comparison) -> String {
    let mut rows = Vec::new();
    for metric in &comparison.metrics {
        let estimate = |estimate: Option<Estimate>, signed: bool| {
            let Some(Estimate { mean, interval }) = estimate else { return "–".to_owned() };
            let number = |value: f64| if signed { format!("{value:+.2}") } else { format!("{value:.2}") };
            let interval = interval.map(|(low, high)| format!(" [{}, {}]", number(low), number(high)));
            format!("{}{}", number(mean), interval.unwrap_or_default())
        };
        let mut row = vec![metric.title.clone()];
        for (side, sd) in metric.sides.iter().zip(metric.sd) {
            let sd = sd.map(|sd| format!(" ± {sd:.2}")).unwrap_or_default();
            row.push(format!("{}{sd}", estimate(*side, false)));
        }
        row.push(estimate(metric.difference, true));
        row.push(metric.p.map_or("–".to_owned(), probability));
        rows.push(row);
    }
    let sd = comparison.metrics.iter().any(|metric| metric.sd.iter().any(Option::is_some));
    let sd = if sd { "; ± is the SD over points" } else { "" };
    format!(
        "{}\nmean over patients [95 % interval]{sd}; difference and p over the {} of both, p uncorrected for the number of \
         metrics",
        table(&["metric", "A", "B", "B − A", "p"], &rows, 0),
        count(comparison.patients, "patient"),
    )
}

fn probability(p: f64) -> String {
    if p < 0.001 { format!("{p:.1e}") } else { format!("{p:.3}") }
}

fn cases(comparison: &Comparison, metric: &str, all: bool) -> String {
    let place = METRICS.iter().position(|name| *name == metric).unwrap_or(0);
    let Some(shown) = comparison.metrics.get(place) else { return String::new() };
    let title = &shown.title;
    let difference = |pair: &CasePair| pair.metrics[1][place] - pair.metrics[0][place];
    let mut pairs: Vec<&CasePair> = comparison.cases.iter().collect();
    pairs.sort_by(|a, b| difference(a).total_cmp(&difference(b)));
    let [better, worse] = {
        let rises = pairs.iter().filter(|pair| difference(pair) > 0.0).count();
        let falls = pairs.iter().filter(|pair| difference(pair) < 0.0).count();
        if shown.higher { [rises, falls] } else { [falls, rises] }
    };
    let row = |pair: &&CasePair| {
        let [a, b] = pair.metrics.map(|metrics| metrics[place]);
        let numbers = [format!("{a:.2}"), format!("{b:.2}"), format!("{:+.2}", b - a)];
        [vec![pair.case.clone(), pair.class.clone()], numbers.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = if all || pairs.len() <= 2 * SHOWN {
        pairs.iter().map(row).collect()
    } else {
        let (low, high) = (&pairs[..SHOWN], &pairs[pairs.len() - SHOWN..]);
        let between = vec!["…".to_owned(), String::new(), String::new(), String::new(), String::new()];
        low.iter().map(row).chain([between]).chain(high.iter().map(row)).collect()
    };
    let more = if all { usize::MAX } else { 2 * SHOWN + 1 };
    let (rows, _) = shorten(rows, more, "");
    let alone = match comparison.alone {
        [0, 0] => String::new(),
        [a, b] => format!("; {a} only in A, {b} only in B"),
    };
    let hidden = if all || pairs.len() <= 2 * SHOWN { "" } else { "; --all lists all" };
    format!(
        "{title} of {} (case and class) of both: {better} better in B, {worse} worse, {} equal{alone}{hidden}\n{}",
        count(pairs.len(), "pair"),
        pairs.len() - better - worse,
        table(&["case", "class", "A", "B", "B − A"], &rows, 0)
    )
}

fn object(comparison: &Comparison) -> Value {
    let side = |side: &Side| json!({"named": side.named, "sweep": side.sweep, "points": side.ids, "done": side.done});
    let estimate = |estimate: Option<Estimate>| {
        estimate.map(|Estimate { mean, interval }| json!({"mean": mean, "interval": interval}))
    };
    let metrics: Vec<Value> = comparison
        .metrics
        .iter()
        .map(|metric| {
            json!({
                "metric": metric.name, "a": estimate(metric.sides[0]), "b": estimate(metric.sides[1]),
                "sd": metric.sd, "difference": estimate(metric.difference), "p": metric.p,
            })
        })
        .collect();
    let settings: Vec<Value> = comparison
        .settings
        .iter()
        .map(|setting| json!({"setting": setting.path, "a": setting.values[0], "b": setting.values[1]}))
        .collect();
    let named = |values: [f64; 4]| -> Value {
        METRICS
            .iter()
            .zip(values)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let cases: Vec<Value> = comparison
        .cases
        .iter()
        .map(|pair| {
            let [a, b] = pair.metrics.map(named);
            json!({"case": pair.case, "class": pair.class, "a": a, "b": b})
        })
        .collect();
    json!({
        "a": side(&comparison.sides[0]), "b": side(&comparison.sides[1]), "settings": settings,
        "settings_in_part": comparison.settings_in_part, "patients": comparison.patients, "metrics": metrics,
        "cases": cases, "alone": comparison.alone,
    })
}
