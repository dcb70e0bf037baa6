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

/// Letters that fit on a line of one column of a paper, and on one over both.
const COLUMN: usize = 62;
const PAGE: usize = 118;
/// Lines of a float: more do not fit on a page, and TeX would not set them at all.
const LINES: usize = 42;
/// Letters on a line of notes.
const NOTE: usize = 78;

/// The table as floats of a readable size: columns that do not fit beside each other follow each other, metric by metric, and
/// so do blocks that do not fit below each other. What all rows of a block have in common stands over it.
pub(in crate::report) fn tex(table: &Table) -> String {
    let shared = shared(table);
    let parts = parts(table, shared);
    let widest = parts.iter().map(|part| part.iter().map(|&column| letters_of(table, column)).sum()).max();
    let is_wide = widest.unwrap_or(0) > COLUMN;
    let mut pages = Vec::new();
    for part in &parts {
        for rows in chunks(table, shared) {
            pages.push((part, rows));
        }
    }
    let last = pages.last().map_or(0, |(_, rows)| rows.iter().map(|&row| lines_of(table, row)).sum());
    let mut out = String::from(HEAD);
    let float = if is_wide { "table*" } else { "table" };
    let begin = |out: &mut String, number: usize| {
        let _ = write!(out, "\\begin{{{float}}}[tp]\n  \\centering\n");
        let _ = if number == 0 {
            let (caption, label) = (tex_escape(&table.caption), table.slug.replace('_', "-"));
            write!(out, "  \\caption{{{caption}}}\n  \\label{{tab:{label}}}\n  \\vspace{{4pt}}\n")
        } else {
            write!(out, "  \\addtocounter{{table}}{{-1}}\n  \\caption{{(continued)}}\n  \\vspace{{4pt}}\n")
        };
    };
    for (number, (part, rows)) in pages.iter().enumerate() {
        begin(&mut out, number);
        tabular(&mut out, table, part, rows, shared);
        let below = if number + 1 == pages.len() { pages_of(notes(table), last) } else { vec![] };
        for (page, notes) in below.iter().enumerate() {
            if page > 0 {
                let _ = writeln!(out, "\\end{{{float}}}");
                begin(&mut out, number + page);
            }
            if !notes.is_empty() {
                let _ = write!(
                    out,
                    "\n  \\smallskip\n  \\parbox{{0.95\\linewidth}}{{\\footnotesize\\raggedright {}}}\n",
                    notes.join("\n    ")
                );
            }
        }
        let _ = writeln!(out, "\\end{{{float}}}");
    }
    out.push_str("\\sweepend\n");
    out
}

/// The notes and the sources, as paragraphs of LaTeX.
fn notes(table: &Table) -> Vec<String> {
    let sources = table.sources.iter().enumerate();
    let sources =
        sources.map(|(at, text)| format!("\\textsuperscript{{{}}}\\,{}.", letter(at), tex_escape(text)));
    table.notes.iter().map(|note| tex_escape(note)).chain(sources).collect()
}

/// The notes that fit below the last rows, which take so many lines, then those of each float that follows.
fn pages_of(notes: Vec<String>, taken: usize) -> Vec<Vec<String>> {
    let (mut pages, mut room): (Vec<Vec<String>>, usize) = (vec![vec![]], LINES.saturating_sub(taken));
    for note in notes {
        let lines = note.chars().count().div_ceil(NOTE);
        if lines > room {
            pages.push(vec![]);
            room = LINES;
        }
        room = room.saturating_sub(lines);
        if let Some(page) = pages.last_mut() {
            page.push(note);
        }
    }
    pages
}

/// How many leading columns have one value in all rows of a block, each: they stand over the block, where there are several.
fn shared(table: &Table) -> usize {
    let blocks = table.rows.last().map_or(0, |row| row.block) + 1;
    if blocks < 2 || blocks == table.rows.len() {
        return 0;
    }
    let is_shared = |column: usize| {
        table.columns[column].holds == Holds::Axis
            && table
                .rows
                .windows(2)
                .all(|pair| pair[0].block != pair[1].block || pair[0].cells[column] == pair[1].cells[column])
    };
    let count = (0..table.columns.len()).take_while(|&column| is_shared(column)).count();
    // Rows need a name of their own.
    let axes = table.columns.iter().filter(|column| column.holds == Holds::Axis).count();
    if count < axes { count } else { 0 }
}

/// The columns of each part: as many metrics as fit on a line, each with what belongs to it, behind the axes.
fn parts(table: &Table, shared: usize) -> Vec<Vec<usize>> {
    let is_head = |column: &usize| matches!(table.columns[*column].holds, Holds::Axis | Holds::Count);
    let heads: Vec<usize> = (shared..table.columns.len()).filter(is_head).collect();
    let mut metrics: Vec<Vec<usize>> = Vec::new();
    for column in 0..table.columns.len() {
        match table.columns[column].holds {
            Holds::Axis | Holds::Count => {}
            Holds::Difference | Holds::Published if !metrics.is_empty() => {
                metrics.last_mut().into_iter().for_each(|metric| metric.push(column));
            }
            _ => metrics.push(vec![column]),
        }
    }
    let letters = |columns: &[usize]| columns.iter().map(|&column| letters_of(table, column)).sum::<usize>();
    let mut parts = vec![heads.clone()];
    for metric in metrics {
        let part = parts
            .last_mut()
            .filter(|part| part.len() == heads.len() || letters(part) + letters(&metric) <= PAGE);
        match part {
            Some(part) => part.extend(metric),
            None => parts.push([heads.clone(), metric].concat()),
        }
    }
    parts
}

/// About how wide a column is, in letters, with what is left beside it.
fn letters_of(table: &Table, column: usize) -> usize {
    let published = |quote: &super::Quote| {
        format!("{:.2}{}", quote.value, letters(quote)).len()
            + quote.difference.map_or(0, |d| signed(d).chars().count() + 3)
    };
    let cell = |row: &Row| match &row.cells[column] {
        Cell::Text(text) | Cell::Absent(text) => text.chars().count(),
        Cell::Flag(_) | Cell::Blank => 1,
        Cell::Count { done, all } => count(*done, *all).len(),
        Cell::Difference(difference) => signed(*difference).chars().count(),
        Cell::Published(quotes) => quotes.iter().map(published).max().unwrap_or(0),
        Cell::Value(value) => super::value(value, " ± ").chars().count() + marks(value).chars().count(),
    };
    let head = table.columns[column].title.chars().count() + 1;
    table.rows.iter().map(cell).max().unwrap_or(0).max(head) + 2
}

/// The lines that a row takes.
fn lines_of(table: &Table, row: usize) -> usize {
    let quotes = |cell: &Cell| if let Cell::Published(quotes) = cell { quotes.len() } else { 1 };
    let row = &table.rows[row];
    row.cells.iter().map(quotes).max().unwrap_or(1) + usize::from(has_intervals(table, row))
}

/// The rows of each float: whole blocks as long as they fit, and parts of longer ones.
fn chunks(table: &Table, shared: usize) -> Vec<Vec<usize>> {
    let (mut chunks, mut length) = (vec![vec![]], 0);
    let mut start = 0;
    while start < table.rows.len() {
        let block = table.rows[start].block;
        let end =
            (start..table.rows.len()).find(|&row| table.rows[row].block != block).unwrap_or(table.rows.len());
        let whole: usize = (start..end).map(|row| lines_of(table, row)).sum();
        if length > 0 && length + whole > LINES {
            chunks.push(vec![]);
            length = 0;
        }
        length += usize::from(shared > 0);
        for row in start..end {
            let lines = lines_of(table, row);
            if length + lines > LINES {
                chunks.push(vec![]);
                length = 0;
            }
            length += lines;
            chunks.last_mut().into_iter().for_each(|chunk| chunk.push(row));
        }
        start = end;
    }
    chunks
}

/// Some columns of some rows; as wide as they are, or as the line where that is narrower; intervals in a line of their own.
fn tabular(out: &mut String, table: &Table, columns: &[usize], rows: &[usize], shared: usize) {
    let layout = |&index: &usize| match table.columns[index].holds {
        Holds::Axis if table.is_flag(index) => 'c',
        Holds::Axis => 'l',
        _ => 'r',
    };
    let head = |&index: &usize| {
        let arrow = match table.columns[index].higher {
            Some(true) => r" $\uparrow$",
            Some(false) => r" $\downarrow$",
            None => "",
        };
        format!("{}{arrow}", tex_escape(&table.columns[index].title))
    };
    let _ = write!(
        out,
        "  \\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{\\footnotesize\\setlength{{\\tabcolsep}}{{4pt}}%\n  \
         \\begin{{tabular}}{{{}}}\n    \\toprule\n    {} \\\\\n    \\midrule\n",
        columns.iter().map(layout).collect::<String>(),
        columns.iter().map(head).collect::<Vec<_>>().join(" & ")
    );
    for (place, &number) in rows.iter().enumerate() {
        let row = &table.rows[number];
        if place > 0 && begins_block(table, number) {
            out.push_str("    \\midrule\n");
        }
        if shared > 0 && (place == 0 || begins_block(table, number)) {
            let of = |column: usize| match &row.cells[column] {
                Cell::Flag(flag) => {
                    format!("{} {}", table.columns[column].title, if *flag { "✓" } else { "✗" })
                }
                Cell::Text(text) => format!("{} {text}", table.columns[column].title),
                _ => String::new(),
            };
            let over: Vec<String> = (0..shared).map(of).collect();
            let over = tex_escape(&over.join(", "));
            let _ =
                writeln!(out, "    \\multicolumn{{{}}}{{l}}{{\\emph{{{over}}}}} \\\\[2pt]", columns.len());
        }
        let cells: Vec<String> = columns.iter().map(|&column| cell(&row.cells[column])).collect();
        let _ = writeln!(out, "    {} \\\\", cells.join(" & "));
        if has_intervals(table, row) {
            let _ = writeln!(out, "    {} \\\\[2pt]", intervals(table, row, columns));
        }
    }
    out.push_str("    \\bottomrule\n  \\end{tabular}}\n");
}

/// The line of intervals under a row.
fn intervals(table: &Table, row: &Row, columns: &[usize]) -> String {
    let cell = |cell: &Cell| match cell {
        Cell::Value(value) => {
            interval(table, value).map_or(String::new(), |range| format!("{{\\scriptsize {range}}}"))
        }
        _ => String::new(),
    };
    columns.iter().map(|&column| cell(&row.cells[column])).collect::<Vec<_>>().join(" & ")
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
            let quotes: Vec<String> = quotes.iter().map(quote).collect();
            match &quotes[..] {
                [one] => one.clone(),
                // Below each other, so that the column stays narrow.
                several => {
                    format!(r"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{}\end{{tabular}}", several.join(r" \\ "))
                }
            }
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
