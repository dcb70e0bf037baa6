//! Tables in text files: columns by name, whatever their order; commas, semicolons or tabs.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::lists::read_text;

/// Longest table that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// A table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    names: Vec<String>,
    /// With the line of each row.
    rows: Vec<Record>,
}

/// The line that a record begins on, from 1, and its fields without the blanks around them.
type Record = (usize, Vec<String>);

impl Table {
    /// Reads the table at `path`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, LONGEST).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("cannot read the table {}", path.display()))
    }

    /// Reads a table from its text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim_start_matches('\u{feff}');
        let first = text.lines().next().unwrap_or_default();
        let count = |separator: &char| first.chars().filter(|c| c == separator).count();
        let separator = ['\t', ';', ','].into_iter().max_by_key(count).unwrap_or(',');
        let mut records = records(text, separator)?.into_iter();
        let (_, names) = records.next().unwrap_or_default();
        ensure!(names.iter().any(|name| !name.is_empty()), "it has no line with the names of its columns");
        let mut rows = Vec::new();
        for (line, row) in records.filter(|(_, row)| row.iter().any(|field| !field.is_empty())) {
            if row.len() > names.len() {
                bail!("line {line} has {} fields, but there are {} columns", row.len(), names.len());
            }
            rows.push((line, row));
        }
        Ok(Self { names, rows })
    }

    /// The place of the column `name`: upper and lower case and the blanks around it do not matter.
    pub(super) fn column(&self, name: &str) -> Result<usize> {
        let same = |other: &&String| other.eq_ignore_ascii_case(name);
        ensure!(self.names.iter().filter(same).count() < 2, "the column `{name}` is there twice");
        self.names.iter().position(|other| other.eq_ignore_ascii_case(name)).with_context(|| {
            let names: Vec<&str> = self.names.iter().filter(|n| !n.is_empty()).map(String::as_str).collect();
            format!("there is no column `{name}`: there are {}", names.join(", "))
        })
    }

    /// The rows with their lines.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, Row<'_>)> {
        self.rows.iter().map(|(line, fields)| (*line, Row(fields)))
    }
}

/// The records of a text (RFC 4180): a field in quotes may hold separators, ends of lines and, doubled, quotes.
fn records(text: &str, separator: char) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while chars.peek().is_some() {
        let start = line;
        let mut fields = Vec::new();
        loop {
            let mut field = String::new();
            let mut quoted = false;
            while let Some(&c) = chars.peek() {
                match c {
                    '"' if field.trim().is_empty() && !quoted => {
                        chars.next();
                        quoted = true;
                        field.clear();
                        loop {
                            match chars.next() {
                                Some('"') if chars.peek() == Some(&'"') => {
                                    chars.next();
                                    field.push('"');
                                }
                                Some('"') => break,
                                Some(c) => {
                                    line += usize::from(c == '\n');
                                    field.push(c);
                                }
                                None => bail!("the quote that opens on line {start} is never closed"),
                            }
                        }
                    }
                    '\n' => break,
                    c if c == separator => break,
                    c => {
                        chars.next();
                        field.push(c);
                    }
                }
            }
            fields.push(field.trim().to_owned());
            if chars.next_if_eq(&separator).is_none() {
                break;
            }
        }
        chars.next(); // the end of the line, if it is not that of the text
        line += 1;
        records.push((start, fields));
    }
    Ok(records)
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a>(&'a [String]);

impl<'a> Row<'a> {
    /// The field of a column; empty where the row ends before.
    pub(super) fn get(self, column: usize) -> &'a str {
        self.0.get(column).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_in_any_order_and_any_separator() {
        for separator in [",", ";", "\t"] {
            let line = |fields: &[&str]| fields.join(separator);
            let text = [
                format!("\u{feff}{}", line(&["", "ED", " External code ", "Vendor"])),
                line(&["0", "1", "A0S9V9", "\"A\"\"x\""]),
                String::new(),
                line(&["1", "22"]),
            ]
            .join("\r\n");
            let table = Table::parse(&text).unwrap();
            let (code, ed, vendor) = (
                table.column("external CODE").unwrap(),
                table.column("ED").unwrap(),
                table.column("Vendor").unwrap(),
            );
            let rows: Vec<_> =
                table.rows().map(|(_, row)| [row.get(code), row.get(ed), row.get(vendor)]).collect();
            assert_eq!(rows, [["A0S9V9", "1", "A\"x"], ["", "22", ""]], "separated by {separator:?}");
        }
    }

    #[test]
    fn quoted_fields_hold_separators_quotes_and_ends_of_lines() {
        let found = records("a, \"b,\"\"c\"\"\nd\" ,\r\n\ne", ',').unwrap();
        let expected = [(1, vec!["a", "b,\"c\"\nd", ""]), (3, vec![""]), (4, vec!["e"])];
        assert_eq!(found, expected.map(|(line, row)| (line, row.into_iter().map(String::from).collect())));
    }

    #[test]
    fn what_is_no_table_is_an_error_that_says_why() {
        let error = |text: &str| format!("{:#}", Table::parse(text).unwrap_err());
        assert!(error("").contains("no line with the names"));
        assert!(error("a,b\n1,2,3\n").contains("line 2 has 3 fields"));
        assert!(error("a,b\n1,\"2\n").contains("line 2 is never closed"));
        let table = Table::parse("a,b,A\n").unwrap();
        assert!(format!("{:#}", table.column("a").unwrap_err()).contains("twice"));
        assert!(format!("{:#}", table.column("c").unwrap_err()).contains("there are a, b, A"));
    }
}
