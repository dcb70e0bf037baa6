//! GitHub's Markdown.

use std::fmt::Write as _;

use super::super::table::{Cell, Holds, Rank, Table, letter};
use super::{arrow, count, interval, letters, marks, signed, value};

/// The table in GitHub's Markdown, which underlines `<ins>` only.
pub(in crate::report) fn markdown(table: &Table) -> String {
    let mut out = format!("{}\n\n|", text(&table.caption));
    for column in &table.columns {
        let _ = write!(out, " {}{} |", safe(&column.title), arrow(column.higher));
    }
    out.push_str("\n|");
    for (index, column) in table.columns.iter().enumerate() {
        out.push_str(match column.holds {
            Holds::Axis if table.is_flag(index) => " :-: |",
            Holds::Axis => " :-- |",
            _ => " --: |",
        });
    }
    out.push('\n');
    for row in &table.rows {
        out.push('|');
        for one in &row.cells {
            let _ = write!(out, " {} |", cell(table, one));
        }
        out.push('\n');
    }
    for note in &table.notes {
        let _ = write!(out, "\n{}  ", text(note));
    }
    for (source, origin) in table.sources.iter().enumerate() {
        let _ = write!(out, "\n<sup>{}</sup> {}  ", letter(source), text(origin));
    }
    out.trim_end().to_owned() + "\n"
}

fn cell(table: &Table, cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => safe(text),
        Cell::Flag(flag) => (if *flag { "✓" } else { "✗" }).to_owned(),
        Cell::Count { done, all } => count(*done, *all),
        Cell::Absent(why) => format!("*{why}*"),
        Cell::Blank => "–".to_owned(),
        Cell::Difference(difference) => signed(*difference),
        Cell::Value(found) => {
            let text = value(found, " ± ");
            let ranked = match found.rank {
                Rank::Best => format!("**{text}**"),
                Rank::Second => format!("<ins>{text}</ins>"),
                Rank::Other => text,
            };
            let range = interval(table, found).map(|range| format!("<br><sub>{range}</sub>"));
            let marks = marks(found);
            let marks = if marks.is_empty() { marks } else { format!("<sup>{marks}</sup>") };
            format!("{ranked}{marks}{}", range.unwrap_or_default())
        }
        Cell::Published(quotes) => {
            let quote = |quote: &super::Quote| {
                let difference = quote.difference.map(|d| format!(" ({})", signed(d))).unwrap_or_default();
                format!("{:.2}<sup>{}</sup>{difference}", quote.value, letters(quote))
            };
            quotes.iter().map(quote).collect::<Vec<_>>().join("<br>")
        }
    }
}

/// Text that Markdown takes as it is.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '*' | '[' | ']' | '<' | '>' => {
                out.push('\\');
                out.push(letter);
            }
            '\n' | '\r' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

/// The same within a cell.
fn safe(cell: &str) -> String {
    text(cell).replace('|', "\\|")
}
