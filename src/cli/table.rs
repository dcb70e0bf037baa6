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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "Δ", "done"], ["bcd", "1", ""]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&["id", "tau", "state"], &rows, 1), " id   tau  state\n a    Δ    done\n bcd  1");
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
