//! HTML: a `<table>` for the report's page, and a page of its own.

use std::fmt::Write as _;

use super::super::html::{STYLE, escape};
use super::super::table::{Cell, Holds, Rank, Row, Table, letter};
use super::{arrow, begins_block, count, interval, letters, marks, signed, value};

/// A self-contained page with the table alone.
pub(in crate::report) fn page(table: &Table) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<div class=\"scroll\">\n{}</div>\n</main>\n\
         </body>\n</html>\n",
        escape(&table.slug),
        html(table)
    )
}

/// A `<table>` with its notes. Cells of metrics are named `TABLE.ROW.METRIC`, as `sweep tables --why` takes them.
pub(in crate::report) fn html(table: &Table) -> String {
    let mut out = format!("<table>\n<caption>{}</caption>\n<thead><tr>", escape(&table.caption));
    for (index, column) in table.columns.iter().enumerate() {
        let class = match column.holds {
            Holds::Axis if table.is_flag(index) => "flag",
            Holds::Axis => "axis",
            _ => "num",
        };
        let _ = write!(
            out,
            "<th scope=\"col\" class=\"{class}\">{}{}</th>",
            escape(&column.title),
            arrow(column.higher)
        );
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (number, row) in table.rows.iter().enumerate() {
        out.push_str(if begins_block(table, number) { "<tr class=\"block\">" } else { "<tr>" });
        for index in 0..row.cells.len() {
            out.push_str(&cell(table, row, number, index));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    for note in &table.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(note));
    }
    for (source, origin) in table.sources.iter().enumerate() {
        let _ = writeln!(out, "<p class=\"note\"><sup>{}</sup> {}</p>", letter(source), escape(origin));
    }
    out
}

fn cell(table: &Table, row: &Row, number: usize, index: usize) -> String {
    match &row.cells[index] {
        Cell::Text(text) => format!("<td class=\"axis\">{}</td>", escape(text)),
        Cell::Flag(true) => "<td class=\"flag\">✓</td>".to_owned(),
        Cell::Flag(false) => "<td class=\"flag off\">✗</td>".to_owned(),
        Cell::Count { done, all } => format!("<td class=\"num\">{}</td>", count(*done, *all)),
        Cell::Absent(why) => format!("<td class=\"num absent\">{}</td>", escape(why)),
        Cell::Blank => "<td class=\"num off\">–</td>".to_owned(),
        Cell::Difference(difference) => format!("<td class=\"num\">{}</td>", signed(*difference)),
        Cell::Published(quotes) => {
            let quote = |quote: &super::Quote| {
                let difference = quote.difference.map(|d| format!(" ({})", signed(d))).unwrap_or_default();
                format!("{:.2}<sup>{}</sup>{difference}", quote.value, letters(quote))
            };
            let quotes = quotes.iter().map(quote).collect::<Vec<_>>().join("<br>");
            format!("<td class=\"num published\">{quotes}</td>")
        }
        Cell::Value(found) => {
            let text = match value(found, " ± ").split_once(" ± ") {
                Some((mean, sd)) => format!("{mean}<span class=\"sd\"> ± {sd}</span>"),
                None => value(found, " ± "),
            };
            let ranked = match found.rank {
                Rank::Best => format!("<b>{text}</b>"),
                Rank::Second => format!("<u>{text}</u>"),
                Rank::Other => text,
            };
            let marks = marks(found);
            let marks = if marks.is_empty() { marks } else { format!("<sup>{marks}</sup>") };
            let range = interval(table, found).map(|range| format!("<br><span class=\"ci\">{range}</span>"));
            let test = found.test.map(|test| {
                format!(" title=\"p = {:.2e}, corrected {:.2e}, {} patients\"", test.p, test.holm, test.pairs)
            });
            let metric = table.columns[index].metric.as_deref().unwrap_or_default();
            format!(
                "<td class=\"num\" id=\"{}.{}.{metric}\"{}>{ranked}{marks}{}</td>",
                escape(&table.slug),
                number + 1,
                test.unwrap_or_default(),
                range.unwrap_or_default()
            )
        }
    }
}
