//! Plain tables for a terminal.

/// Rows of a table as text: columns as wide as their widest cell, two blanks between them, `indent` blanks before them.
pub(super) fn table(head: &[&str], rows: &[Vec<String>], indent: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain([head[column]]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}{}", " ".repeat(indent), padded.join("  ")).trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// The first `most` of `rows`, and what is said of the others.
pub(super) fn shorten(mut rows: Vec<Vec<String>>, most: usize, how: &str) -> (Vec<Vec<String>>, String) {
    let more = rows.len().saturating_sub(most);
    rows.truncate(most);
    (rows, if more > 0 { format!("\n  … and {more} more ({how})") } else { String::new() })
}

/// A number of bytes for people: `512 B`, `1.5 KiB`, `432 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "Δ", "done"], ["bcd", "1", ""]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&["id", "tau", "state"], &rows, 1), " id   tau  state\n a    Δ    done\n bcd  1");
    }

    #[test]
    fn bytes_are_short() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (452_984_832, "432 MiB"), (1 << 40, "1.0 TiB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn long_tables_say_what_they_leave_out() {
        let rows = vec![vec!["x".to_owned()]; 5];
        let (rows, more) = shorten(rows, 3, "--all shows them");
        assert_eq!(rows.len(), 3);
        assert_eq!(more, "\n  … and 2 more (--all shows them)");
        assert_eq!(shorten(rows, 3, "").1, "");
    }
}
