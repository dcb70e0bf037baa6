//! Comma-separated values.

use super::super::table::{Cell, Holds, Table};

/// The table with nothing rounded: of each metric the mean, the SD over seeds, the 95 % interval over patients, how many
/// empty masks are part of it, and the p values against the named row where there is one.
pub(in crate::report) fn csv(table: &Table) -> String {
    let has_test = |index: usize| {
        table.rows.iter().any(|row| matches!(&row.cells[index], Cell::Value(value) if value.test.is_some()))
    };
    let tested: Vec<bool> = (0..table.columns.len()).map(has_test).collect();
    let mut heads: Vec<String> = Vec::new();
    for (index, column) in table.columns.iter().enumerate() {
        let of = |part: &str| format!("{}_{part}", column.field);
        match column.holds {
            Holds::Axis | Holds::Difference => heads.push(column.field.clone()),
            Holds::Count => heads.extend(["n".to_owned(), "points".to_owned()]),
            Holds::Metric => {
                heads.extend(["mean", "sd", "ci95_low", "ci95_high", "empty"].map(of));
                if tested[index] {
                    heads.extend(["pairs", "p", "p_holm"].map(of));
                }
            }
            Holds::Published => heads.extend([column.field.clone(), of("difference"), of("source")]),
        }
    }
    let mut out = line(&heads);
    for row in &table.rows {
        let mut cells = row.raw.clone();
        for (index, (cell, column)) in row.cells.iter().zip(&table.columns).enumerate() {
            match (cell, column.holds) {
                (_, Holds::Axis) => {}
                (Cell::Count { done, all }, _) => cells.extend([done.to_string(), all.to_string()]),
                (_, Holds::Count) => cells.extend([const { String::new() }; 2]),
                (Cell::Difference(difference), _) => cells.push(difference.to_string()),
                (_, Holds::Difference) => cells.push(String::new()),
                (Cell::Published(quotes), _) => {
                    let all = |one: &dyn Fn(&super::Quote) -> String| {
                        quotes.iter().map(one).collect::<Vec<_>>().join("; ")
                    };
                    let difference = |quote: &super::Quote| quote.difference.map(|d| d.to_string());
                    let sources = |quote: &super::Quote| {
                        let names = quote.sources.iter().map(|&source| table.sources[source].as_str());
                        names.collect::<Vec<_>>().join(", ")
                    };
                    cells.push(all(&|quote| quote.value.to_string()));
                    cells.push(all(&|quote| difference(quote).unwrap_or_default()));
                    cells.push(all(&sources));
                }
                (_, Holds::Published) => cells.extend([const { String::new() }; 3]),
                (_, Holds::Metric) => metric(cell, tested[index], &mut cells),
            }
        }
        out.push_str(&line(&cells));
    }
    out
}

fn metric(cell: &Cell, tested: bool, cells: &mut Vec<String>) {
    let Cell::Value(value) = cell else {
        return cells.extend(vec![String::new(); if tested { 8 } else { 5 }]);
    };
    let text = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
    let (low, high) = value.interval.unzip();
    cells.extend([Some(value.summary.mean), value.summary.sd, low, high].map(text));
    cells.push(value.empties.to_string());
    if tested {
        cells.push(value.test.map_or(String::new(), |test| test.pairs.to_string()));
        cells.extend([value.test.map(|test| test.p), value.test.map(|test| test.holm)].map(text));
    }
}

fn line(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}
