//! LaTeX with booktabs.

use std::fmt::Write as _;

use super::super::table::{Cell, Holds, Rank, Row, Table, letter};
use super::{begins_block, count, has_intervals, interval, letters, marks, signed, value};

/// The lines that make a file compile alone and still be `\input` into a paper. LaTeX forgets `\@nodocument` at
/// `\begin{document}`.
const HEAD: &str = r"% Compiles alone; in a paper, \input this file and load booktabs, amssymb and graphicx.
\makeatletter
\let\sweepend\relax
\ifx\@nodocument\relax\else
  \documentclass{article}
  \usepackage[utf8]{inputenc}
  \usepackage[T1]{fontenc}
  \usepackage[margin=2cm]{geometry}
  \usepackage{booktabs,amssymb,graphicx}
  \def\sweepend{\end{document}}
  \begin{document}
\fi
\makeatother
";

/// The table: as wide as it is, or as the line where that is narrower; intervals in a line of their own.
pub(in crate::report) fn tex(table: &Table) -> String {
    let layout: String = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| match column.holds {
            Holds::Axis if table.is_flag(index) => 'c',
            Holds::Axis => 'l',
            _ => 'r',
        })
        .collect();
    let heads: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let arrow = match column.higher {
                Some(true) => r" $\uparrow$",
                Some(false) => r" $\downarrow$",
                None => "",
            };
            format!("{}{arrow}", tex_escape(&column.title))
        })
        .collect();
    let mut out = String::from(HEAD);
    let _ = write!(
        out,
        "\\begin{{table}}[t]\n  \\centering\n  \\caption{{{}}}\n  \\label{{tab:{}}}\n  \\vspace{{4pt}}\n  \
         \\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n  \
         \\begin{{tabular}}{{{layout}}}\n    \\toprule\n    {} \\\\\n    \\midrule\n",
        tex_escape(&table.caption),
        table.slug.replace('_', "-"),
        heads.join(" & ")
    );
    for (number, row) in table.rows.iter().enumerate() {
        if begins_block(table, number) {
            out.push_str("    \\midrule\n");
        }
        let cells: Vec<String> = row.cells.iter().map(cell).collect();
        let _ = writeln!(out, "    {} \\\\", cells.join(" & "));
        if has_intervals(table, row) {
            let _ = writeln!(out, "    {} \\\\[2pt]", intervals(table, row));
        }
    }
    out.push_str("    \\bottomrule\n  \\end{tabular}}\n");
    let letters = table.sources.iter().enumerate();
    let sources = letters
        .map(|(source, text)| format!("\\textsuperscript{{{}}}\\,{}.", letter(source), tex_escape(text)));
    let notes: Vec<String> = table.notes.iter().map(|note| tex_escape(note)).chain(sources).collect();
    if !notes.is_empty() {
        let _ = write!(
            out,
            "\n  \\smallskip\n  \\parbox{{0.95\\linewidth}}{{\\footnotesize\\raggedright {}}}\n",
            notes.join("\n    ")
        );
    }
    out.push_str("\\end{table}\n\\sweepend\n");
    out
}

/// The line of intervals under a row.
fn intervals(table: &Table, row: &Row) -> String {
    let cell = |cell: &Cell| match cell {
        Cell::Value(value) => {
            interval(table, value).map_or(String::new(), |range| format!("{{\\scriptsize {range}}}"))
        }
        _ => String::new(),
    };
    row.cells.iter().map(cell).collect::<Vec<_>>().join(" & ")
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => tex_escape(text),
        Cell::Flag(flag) => (if *flag { r"$\checkmark$" } else { r"$\times$" }).to_owned(),
        Cell::Count { done, all } => count(*done, *all),
        Cell::Absent(why) => format!(r"\emph{{{}}}", tex_escape(why)),
        Cell::Blank => "--".to_owned(),
        Cell::Difference(difference) => tex_escape(&signed(*difference)),
        Cell::Published(quotes) => {
            let quote = |quote: &super::Quote| {
                let difference =
                    quote.difference.map(|d| format!(" ({})", tex_escape(&signed(d)))).unwrap_or_default();
                format!(r"{:.2}\textsuperscript{{{}}}{difference}", quote.value, letters(quote))
            };
            quotes.iter().map(quote).collect::<Vec<_>>().join(", ")
        }
        Cell::Value(found) => {
            // \mathbf alone leaves ± thin, and \textbf leaves math thin: both parts are set apart.
            let text = value(found, r" $\pm$ ");
            let ranked = match found.rank {
                Rank::Best => format!(r"\textbf{{{text}}}"),
                Rank::Second => format!(r"\underline{{{text}}}"),
                Rank::Other => text,
            };
            let marks = marks(found);
            if marks.is_empty() {
                return ranked;
            }
            format!(r"{ranked}\textsuperscript{{{}}}", tex_escape(&marks))
        }
    }
}

/// Text with LaTeX's own characters escaped and the report's symbols as commands. Letters that pdfLaTeX's font encoding
/// lacks, which would stop it, become their code points.
pub(in crate::report) fn tex_escape(text: &str) -> String {
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
            '|' => out.push_str(r"\textbar{}"),
            '"' => out.push_str(r"\textquotedbl{}"),
            'τ' => out.push_str(r"$\tau$"),
            'Δ' => out.push_str(r"$\Delta$"),
            '±' => out.push_str(r"$\pm$"),
            '×' | '✗' => out.push_str(r"$\times$"),
            '·' => out.push_str(r"$\cdot$"),
            '−' => out.push_str("$-$"),
            '→' => out.push_str(r"$\rightarrow$"),
            '≤' => out.push_str(r"$\leq$"),
            '≥' => out.push_str(r"$\geq$"),
            '∅' => out.push_str(r"$\varnothing$"),
            '†' => out.push_str(r"\dag{}"),
            '‡' => out.push_str(r"\ddag{}"),
            '…' => out.push_str(r"\ldots{}"),
            '✓' => out.push_str(r"$\checkmark$"),
            '–' => out.push_str("--"),
            '—' => out.push_str("---"),
            '`' => out.push('\''),
            '\u{a0}' => out.push('~'),
            other if other.is_control() => out.push(' '),
            // Latin letters, which T1 has.
            other if other.is_ascii() || matches!(other, '\u{c0}'..='\u{17f}') => out.push(other),
            other => {
                let _ = write!(out, "[U+{:04X}]", other as u32);
            }
        }
    }
    out
}
