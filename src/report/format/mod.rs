//! A table as Markdown, LaTeX, CSV and HTML.

mod csv;
mod html;
mod markdown;
mod tex;

use super::table::{Cell, Quote, Row, Table, Value, letter};

pub(super) use csv::csv;
pub(super) use html::{html, page};
pub(super) use markdown::markdown;
pub(super) use tex::tex;
#[cfg(test)]
pub(super) use tex::tex_escape;

/// What writes a table.
type Format = fn(&Table) -> String;

/// The formats of a table: endings of its files and what writes them.
pub(super) const FORMATS: [(&str, Format); 4] =
    [("md", markdown), ("tex", tex), ("csv", csv), ("html", page)];

/// `89.98 ± 0.50`, or the mean alone.
fn value(value: &Value, plus_minus: &str) -> String {
    let summary = &value.summary;
    let n = if value.partial { format!(" (n = {})", summary.n) } else { String::new() };
    match summary.sd.filter(|&sd| !value.counted || sd > 0.0) {
        Some(sd) => format!("{:.2}{plus_minus}{sd:.2}{n}", summary.mean),
        None => format!("{:.2}{n}", summary.mean),
    }
}

/// What follows a value: the test's mark, and ∅ where empty masks are part of it.
fn marks(value: &Value) -> String {
    let empty = if value.empties > 0 { "∅" } else { "" };
    format!("{}{empty}", value.test.map_or("", |test| test.mark()))
}

/// `[88.90, 90.60]`, where the table shows intervals.
fn interval(table: &Table, value: &Value) -> Option<String> {
    let (low, high) = value.interval.filter(|_| table.interval)?;
    Some(format!("[{low:.2}, {high:.2}]"))
}

/// `+2.51`, `−4.08`.
fn signed(difference: f64) -> String {
    let text = format!("{:.2}", difference.abs());
    match text.bytes().all(|b| matches!(b, b'0' | b'.')) {
        true => text,
        false if difference < 0.0 => format!("−{text}"),
        false => format!("+{text}"),
    }
}

fn count(done: usize, all: usize) -> String {
    if done == all { done.to_string() } else { format!("{done} of {all}") }
}

/// The letters of a published value's sources.
fn letters(quote: &Quote) -> String {
    quote.sources.iter().map(|&source| letter(source)).collect::<Vec<_>>().join(",")
}

fn arrow(higher: Option<bool>) -> &'static str {
    match higher {
        Some(true) => " ↑",
        Some(false) => " ↓",
        None => "",
    }
}

/// Whether a row begins another block than the one before it.
fn begins_block(table: &Table, row: usize) -> bool {
    row > 0 && table.rows[row].block != table.rows[row - 1].block
}

/// Whether any cell of a row has an interval to show.
fn has_intervals(table: &Table, row: &Row) -> bool {
    row.cells.iter().any(|cell| matches!(cell, Cell::Value(value) if interval(table, value).is_some()))
}
