//! A table as Markdown, LaTeX, CSV and HTML.

use std::fmt::Write as _;

use super::html::escape;
use super::table::{Cell, Rank, Table};
use crate::stats::Summary;

/// `89.98 ± 0.50`, or the mean alone.
fn value(summary: &Summary, plus_minus: &str) -> String {
    match summary.sd {
        Some(sd) => format!("{:.2}{plus_minus}{sd:.2}", summary.mean),
        None => format!("{:.2}", summary.mean),
    }
}

fn count(done: usize, all: usize) -> String {
    if done == all { done.to_string() } else { format!("{done} of {all}") }
}

fn arrow(higher: Option<bool>) -> &'static str {
    match higher {
        Some(true) => " ↑",
        Some(false) => " ↓",
        None => "",
    }
}

/// GitHub's Markdown, which underlines `<ins>` only.
pub(super) fn markdown(table: &Table) -> String {
    let safe = |text: &str| text.replace('|', "\\|");
    let mut out = format!("{}\n\n|", table.caption);
    for column in &table.columns {
        let _ = write!(out, " {}{} |", safe(&column.title), arrow(column.higher));
    }
    out.push_str("\n|");
    for (index, column) in table.columns.iter().enumerate() {
        let flag = table.rows.iter().any(|row| matches!(row[index], Cell::Flag(_)));
        out.push_str(match column.axis {
            true if flag => " :-: |",
            true => " :-- |",
            false => " --: |",
        });
    }
    out.push('\n');
    for row in &table.rows {
        out.push('|');
        for cell in row {
            let text = match cell {
                Cell::Text(text) => safe(text),
                Cell::Flag(flag) => (if *flag { "✓" } else { "–" }).to_owned(),
                Cell::Count { done, all } => count(*done, *all),
                Cell::Absent(why) => format!("*{why}*"),
                Cell::Value(summary, Rank::Best) => format!("**{}**", value(summary, " ± ")),
                Cell::Value(summary, Rank::Second) => format!("<ins>{}</ins>", value(summary, " ± ")),
                Cell::Value(summary, Rank::Other) => value(summary, " ± "),
            };
            let _ = write!(out, " {text} |");
        }
        out.push('\n');
    }
    for note in &table.notes {
        let _ = write!(out, "\n{note}  ");
    }
    out.trim_end().to_owned() + "\n"
}

/// The lines that make a file compile alone and still be `\input` into a paper. LaTeX forgets `\@nodocument` at
/// `\begin{document}`.
const TEX_HEAD: &str = r"% Compiles alone; in a paper, \input this file and load booktabs and amssymb.
\makeatletter
\let\sweepend\relax
\ifx\@nodocument\relax\else
  \documentclass{article}
  \usepackage[utf8]{inputenc}
  \usepackage[margin=2cm]{geometry}
  \usepackage{booktabs,amssymb}
  \def\sweepend{\end{document}}
  \begin{document}
\fi
\makeatother
";

/// LaTeX with booktabs.
pub(super) fn tex(table: &Table) -> String {
    let axes = table.columns.iter().filter(|column| column.axis).count();
    let mut layout = String::new();
    for index in 0..axes {
        let flag = table.rows.iter().any(|row| matches!(row[index], Cell::Flag(_)));
        layout.push(if flag { 'c' } else { 'l' });
    }
    layout.push_str(&"r".repeat(table.columns.len() - axes));
    let heads: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            format!(
                "{}{}",
                tex_escape(&column.title),
                match column.higher {
                    Some(true) => r" $\uparrow$",
                    Some(false) => r" $\downarrow$",
                    None => "",
                }
            )
        })
        .collect();
    let mut out = String::from(TEX_HEAD);
    let _ = write!(
        out,
        "\\begin{{table}}[t]\n  \\centering\n  \\caption{{{}}}\n  \\vspace{{4pt}}\n  \\label{{tab:{}}}\n  \\begin{{tabular}}{{{layout}}}\n    \\toprule\n    {} \\\\\n    \\midrule\n",
        tex_escape(&table.caption),
        table.slug.replace('_', "-"),
        heads.join(" & ")
    );
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(tex_cell).collect();
        let _ = writeln!(out, "    {} \\\\", cells.join(" & "));
    }
    out.push_str("    \\bottomrule\n  \\end{tabular}\n");
    if !table.notes.is_empty() {
        let notes: Vec<String> = table.notes.iter().map(|note| tex_escape(note)).collect();
        let _ = write!(
            out,
            "\n  \\smallskip\n  \\parbox{{0.9\\linewidth}}{{\\footnotesize {}}}\n",
            notes.join("\n    ")
        );
    }
    out.push_str("\\end{table}\n\\sweepend\n");
    out
}

fn tex_cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => tex_escape(text),
        Cell::Flag(flag) => (if *flag { r"$\checkmark$" } else { "--" }).to_owned(),
        Cell::Count { done, all } => count(*done, *all),
        Cell::Absent(why) => format!(r"\emph{{{why}}}"),
        // \mathbf alone leaves ± thin, and \textbf leaves math thin: both parts are set apart.
        Cell::Value(summary, Rank::Best) => format!(r"\textbf{{{}}}", value(summary, r" $\pm$ ")),
        Cell::Value(summary, Rank::Second) => format!(r"\underline{{{}}}", value(summary, r" $\pm$ ")),
        Cell::Value(summary, Rank::Other) => value(summary, r" $\pm$ "),
    }
}

/// Text with LaTeX's own characters escaped and the report's symbols as commands.
pub(super) fn tex_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str(r"\textbackslash{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(letter);
            }
            '~' => out.push_str(r"\textasciitilde{}"),
            '^' => out.push_str(r"\textasciicircum{}"),
            '<' => out.push_str(r"\textless{}"),
            '>' => out.push_str(r"\textgreater{}"),
            'τ' => out.push_str(r"$\tau$"),
            '±' => out.push_str(r"$\pm$"),
            '×' => out.push_str(r"$\times$"),
            '·' => out.push_str(r"$\cdot$"),
            '−' => out.push_str("$-$"),
            '✓' => out.push_str(r"$\checkmark$"),
            '–' => out.push_str("--"),
            '—' => out.push_str("---"),
            '`' => out.push('\''),
            other => out.push(other),
        }
    }
    out
}

/// Comma-separated values, nothing rounded: mean, SD and 95 % interval (Student's t) of each metric.
pub(super) fn csv(table: &Table) -> String {
    let mut heads: Vec<String> = Vec::new();
    for column in &table.columns {
        match column.higher {
            Some(_) => {
                let parts = ["mean", "sd", "ci95_low", "ci95_high"];
                heads.extend(parts.map(|part| format!("{}_{part}", column.field)));
            }
            None if column.field == "n" => heads.extend(["n".to_owned(), "points".to_owned()]),
            None => heads.push(column.field.clone()),
        }
    }
    let mut out = csv_line(&heads);
    for (row, raw) in table.rows.iter().zip(&table.raw) {
        let mut cells = raw.clone();
        for cell in &row[raw.len()..] {
            match cell {
                Cell::Count { done, all } => cells.extend([done.to_string(), all.to_string()]),
                Cell::Value(summary, _) => {
                    let (low, high) = summary.interval.unzip();
                    let all = [Some(summary.mean), summary.sd, low, high];
                    cells.extend(all.map(|value| value.map_or(String::new(), |value| value.to_string())));
                }
                _ => cells.extend([const { String::new() }; 4]),
            }
        }
        out.push_str(&csv_line(&cells));
    }
    out
}

fn csv_line(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

/// A `<table>` with its notes.
pub(super) fn html(table: &Table) -> String {
    let mut out = format!("<table>\n<caption>{}</caption>\n<thead><tr>", escape(&table.caption));
    for (index, column) in table.columns.iter().enumerate() {
        let flag = table.rows.iter().any(|row| matches!(row[index], Cell::Flag(_)));
        let class = match column.axis {
            true if flag => "flag",
            true => "axis",
            false => "num",
        };
        let _ = write!(
            out,
            "<th scope=\"col\" class=\"{class}\">{}{}</th>",
            escape(&column.title),
            arrow(column.higher)
        );
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        for cell in row {
            out.push_str(&html_cell(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    for note in &table.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(note));
    }
    out
}

fn html_cell(cell: &Cell) -> String {
    let spread = |summary: &Summary| match summary.sd {
        Some(sd) => format!("{:.2}<span class=\"sd\"> ± {sd:.2}</span>", summary.mean),
        None => format!("{:.2}", summary.mean),
    };
    let interval = |summary: &Summary| match summary.interval {
        Some((low, high)) => format!(" title=\"95 % interval of the mean: {low:.2} to {high:.2}\""),
        None => String::new(),
    };
    match cell {
        Cell::Text(text) => format!("<td class=\"axis\">{}</td>", escape(text)),
        Cell::Flag(true) => "<td class=\"flag\">✓</td>".to_owned(),
        Cell::Flag(false) => "<td class=\"flag off\">–</td>".to_owned(),
        Cell::Count { done, all } => format!("<td class=\"num\">{}</td>", count(*done, *all)),
        Cell::Absent(why) => format!("<td class=\"num absent\">{why}</td>"),
        Cell::Value(summary, rank) => {
            let inner = match rank {
                Rank::Best => format!("<b>{}</b>", spread(summary)),
                Rank::Second => format!("<u>{}</u>", spread(summary)),
                Rank::Other => spread(summary),
            };
            format!("<td class=\"num\"{}>{inner}</td>", interval(summary))
        }
    }
}
