//! `sweep query SQL`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use polars::prelude::{CsvWriter, DataFrame, SerWriter as _};
use serde_json::Value;

use super::table::{shorten, table};
use super::{Ending, OrBadInput as _, lookup, say};
use crate::results::query::{self, Source};
use crate::spec::nearest;

/// Rows shown for people unless all are asked for.
const SHOWN: usize = 50;

/// Ask the frames in SQL, and print what comes out
///
/// The tables are points, cases, history and diffusion, each with a column `sweep`. Dice and Jaccard are fractions.
/// Without a query, lists the tables and their columns.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The query; names with a dot stand in double quotes: "data.name"
    sql: Option<String>,
    /// Only the frames of these sweeps [default: all]
    #[arg(long = "sweep", value_name = "NAME")]
    sweeps: Vec<String>,
    /// The frames lie in DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print a JSON array with an object for each row
    #[arg(long)]
    json: bool,
    /// Print all rows of a long table
    #[arg(long)]
    all: bool,
}

const EXAMPLES: &str = "\
Examples:
  sweep query 'SELECT sweep, COUNT(*) AS points, AVG(dice) AS dice FROM points GROUP BY sweep'
  sweep query --sweep ablation 'SELECT dfm, dic, AVG(dice), STDDEV(dice) FROM points GROUP BY dfm, dic ORDER BY dfm, dic'
  sweep query 'SELECT \"case\", class, dice FROM cases WHERE empty_prediction ORDER BY sweep LIMIT 20' --csv";

pub(super) fn run(args: &Args) -> Result<Ending> {
    let sources = sources(args).or_bad_input()?;
    let Some(sql) = &args.sql else { return tables(args, &sources) };
    let mut answer = query::query(sql, &sources).or_bad_input()?;
    if args.csv {
        let mut bytes = Vec::new();
        CsvWriter::new(&mut bytes).finish(&mut answer).context("the answer holds lists: CSV has none")?;
        say(String::from_utf8_lossy(&bytes).trim_end_matches('\n'))?;
    } else if args.json {
        say(&serde_json::to_string(&query::rows(&answer))?)?;
    } else {
        say(&text(&answer, if args.all { usize::MAX } else { SHOWN }))?;
    }
    Ok(Ending::Done)
}

fn sources(args: &Args) -> Result<Vec<Source>> {
    let known = query::sources(&args.results)?;
    let place = args.results.display();
    if known.is_empty() {
        return Err(anyhow!(
            "no frames lie in {place}: run a sweep first, or name their folder with --results"
        ));
    }
    if args.sweeps.is_empty() {
        return Ok(known);
    }
    let find = |name: &String| {
        known.iter().find(|(known, _)| known == name).cloned().with_context(|| {
            let names: Vec<String> = known.iter().map(|(name, _)| name.clone()).collect();
            let near = nearest(name, names.iter().map(String::as_str));
            let help = near.map_or_else(
                || format!("it has those of {}", lookup::list(&names)),
                |near| format!("did you mean `{near}`?"),
            );
            format!("{place} has no frames of a sweep `{name}`; {help}")
        })
    };
    args.sweeps.iter().map(find).collect()
}

/// What can be asked for.
fn tables(args: &Args, sources: &[Source]) -> Result<Ending> {
    let schema = query::schema(sources).or_bad_input()?;
    let columns = schema.iter().flat_map(|(name, fields)| fields.iter().map(move |field| (name, field)));
    let rows: Vec<Vec<String>> = columns
        .map(|(name, field)| vec![(*name).to_owned(), field.name.clone(), field.kind.clone()])
        .collect();
    if args.json {
        let object =
            |row: &Vec<String>| serde_json::json!({"table": row[0], "column": row[1], "type": row[2]});
        say(&serde_json::to_string(&rows.iter().map(object).collect::<Vec<_>>())?)?;
    } else if args.csv {
        let lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
        say(&format!("table,column,type\n{}", lines.join("\n")))?;
    } else {
        say(&table(&["table", "column", "type"], &rows, 0))?;
    }
    Ok(Ending::Done)
}

/// The answer for people.
fn text(answer: &DataFrame, most: usize) -> String {
    let names: Vec<String> = answer.columns().iter().map(|column| column.name().to_string()).collect();
    if names.is_empty() {
        return "the answer has no columns".to_owned();
    }
    let head: Vec<&str> = names.iter().map(String::as_str).collect();
    let height = answer.height();
    let shown = query::rows(&answer.head(Some(most.min(height))));
    let rows = shown.iter().map(|row| names.iter().map(|name| cell(row.get(name))).collect()).collect();
    let (rows, _) = shorten(rows, most, "");
    let more = height - rows.len();
    let more = if more > 0 {
        format!("\n  … and {more} more (--all shows them; or write LIMIT)")
    } else {
        String::new()
    };
    format!("{}{more}", table(&head, &rows, 0))
}

/// A value for people: numbers to six digits.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.replace(['\n', '\t'], " "),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(value) if number.is_f64() => digits(value),
            _ => number.to_string(),
        },
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            format!("[{}]", items.join(", "))
        }
        Some(other) => other.to_string(),
    }
}

/// A number to six significant digits, without idle zeros.
fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let power = value.abs().log10().floor() as i32;
    if !(-5..12).contains(&power) {
        return format!("{value:.5e}");
    }
    let text = format!("{value:.*}", (5 - power).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.491_066_610_989_104_7, "0.491067"),
            (16.0, "16"),
            (1_234_567.0, "1234567"),
            (0.000_012_5, "0.0000125"),
            (-2.5, "-2.5"),
            (1e-9, "1.00000e-9"),
            (0.0, "0"),
        ];
        for (value, text) in cases {
            assert_eq!(digits(value), text);
        }
    }
}
