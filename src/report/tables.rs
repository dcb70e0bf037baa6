//! The tables of a sweep alone: their texts, their files beside those that are committed, and what a cell stands on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::cases::Cases;
use super::sweep::Sweep;
use super::table::{Cell, Holds, Row, Table, Value, is_value};
use super::{LIST, build_tables, files_of, format};
use crate::results::Frames;
use crate::spec::report::ReportSettings;
use crate::store::files;

/// The folder of the tables in that of a report.
const FOLDER: &str = "tables";

/// The tables of a sweep, from its frames.
pub struct Tables {
    sweep: Sweep,
    tables: Vec<Table>,
}

/// What is wrong with a file of a table that lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// It is not there.
    Missing(PathBuf),
    /// It says something else; the line where that begins, from 1.
    Differs(PathBuf, usize),
    /// The report has it, but no table of the sweep does.
    Superfluous(PathBuf),
}

/// What a cell of a table stands on.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The table, the row and the metric, as they are printed.
    pub cell: String,
    /// What it says; nothing for a whole row.
    pub says: String,
    /// The points behind it, in the order of the sweep.
    pub points: Vec<EvidencePoint>,
}

/// A point behind a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidencePoint {
    /// Its name.
    pub id: String,
    /// Its axes and their values.
    pub axes: Vec<(String, String)>,
    /// `done`, `failed` or `missing`.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Its own value of the metric, as printed.
    pub value: Option<f64>,
    /// The step of the network that was evaluated, where validation chose it.
    pub best_step: Option<i64>,
    /// The key of its training.
    pub train_key: String,
    /// The key of its evaluation.
    pub evaluate_key: String,
}

impl Tables {
    /// Computes the tables that `settings` ask for; points and cases are all that they need.
    ///
    /// # Errors
    /// When `settings` name an axis, a class or a metric that the sweep does not have.
    pub fn new(frames: &Frames, settings: &ReportSettings) -> Result<Self> {
        let sweep = Sweep::new(&frames.points).context("cannot read the points frame")?;
        let cases = Cases::new(&frames.cases, &sweep).context("cannot read the cases frame")?;
        let tables = build_tables(&sweep, &cases, settings)?;
        Ok(Self { sweep, tables })
    }

    /// The endings of the files of a table.
    pub fn formats() -> impl Iterator<Item = &'static str> {
        format::FORMATS.iter().map(|(kind, _)| *kind)
    }

    /// The texts of all tables in one of the [`Self::formats`].
    pub fn texts(&self, format: &str) -> Vec<String> {
        let found = format::FORMATS.iter().find(|(kind, _)| *kind == format);
        found.map(|(_, text)| self.tables.iter().map(text).collect()).unwrap_or_default()
    }

    /// Writes the files into the report in `dir`, and removes those of earlier tables of the report. Returns the files.
    pub fn write(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        files::create_folder(dir.join(FOLDER))?;
        let mut written = Vec::new();
        for (name, text) in self.tables.iter().flat_map(files_of) {
            let path = dir.join(FOLDER).join(name);
            files::write_atomic(&path, text.as_bytes())?;
            written.push(path);
        }
        let mut listed = listed(dir);
        for old in listed.iter().filter(|path| is_table(path) && !written.contains(&dir.join(path))) {
            let path = dir.join(old);
            if path.is_file() {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove the outdated {}", path.display()))?;
            }
        }
        listed.retain(|path| !is_table(path));
        listed.extend(written.iter().filter_map(|path| path.strip_prefix(dir).ok()).map(PathBuf::from));
        let lines: Vec<String> = listed.iter().map(|path| path.display().to_string()).collect();
        files::write_atomic(dir.join(LIST), (lines.join("\n") + "\n").as_bytes())?;
        Ok(written)
    }

    /// What of the files in the report in `dir` does not follow from the frames. Returns how many files do, and the others.
    pub fn check(&self, dir: &Path) -> (usize, Vec<Stale>) {
        let (mut fine, mut stale, mut expected) = (0, Vec::new(), Vec::new());
        for (name, text) in self.tables.iter().flat_map(files_of) {
            let path = dir.join(FOLDER).join(name);
            match fs::read(&path) {
                Ok(found) if found == text.as_bytes() => fine += 1,
                Ok(found) => {
                    stale.push(Stale::Differs(path.clone(), first_difference(&found, text.as_bytes())));
                }
                Err(_) => stale.push(Stale::Missing(path.clone())),
            }
            expected.push(path);
        }
        let listed = listed(dir).into_iter().filter(|path| is_table(path)).map(|path| dir.join(path));
        stale
            .extend(listed.filter(|path| path.is_file() && !expected.contains(path)).map(Stale::Superfluous));
        (fine, stale)
    }

    /// What the cell `named` stands on: `TABLE.ROW.METRIC` as the cells of the HTML are named, a row by its number from 1 or
    /// by the values of its axes, as in `dfm=true dic=true`; the table may be left out where there is one, the metric for a
    /// whole row.
    ///
    /// # Errors
    /// Where there is no such cell, or several; says what there is.
    pub fn evidence(&self, named: &str) -> Result<Evidence> {
        let prefix =
            |table: &&Table| named.strip_prefix(&table.slug).is_some_and(|rest| rest.starts_with('.'));
        let only = || if let [table] = self.tables.as_slice() { Some(table) } else { None };
        let Some(table) = self.tables.iter().find(prefix).or_else(only) else {
            let slugs: Vec<&str> = self.tables.iter().map(|table| table.slug.as_str()).collect();
            bail!(
                "`{named}` names no table: begin with one of {}, as in `{}.1.dice`",
                slugs.join(", "),
                slugs[0]
            )
        };
        let rest = named.strip_prefix(&table.slug).and_then(|rest| rest.strip_prefix('.')).unwrap_or(named);
        let metrics =
            || table.columns.iter().enumerate().filter_map(|(at, c)| Some((at, c.metric.as_deref()?)));
        let column = rest.rsplit_once('.').and_then(|(_, last)| metrics().find(|(_, name)| *name == last));
        let row = match column {
            Some((_, metric)) => &rest[..rest.len() - metric.len() - 1],
            None => rest,
        };
        let place = find_row(table, row).with_context(|| {
            let names: Vec<&str> = metrics().map(|(_, name)| name).collect();
            format!("no cell `{named}`: the table `{}` has the metrics {}", table.slug, names.join(", "))
        })?;
        self.evidence_of(table, place, column)
    }

    fn evidence_of(&self, table: &Table, place: usize, column: Option<(usize, &str)>) -> Result<Evidence> {
        let row = &table.rows[place];
        ensure!(!row.points.is_empty(), "row {} of `{}` is published, not measured", place + 1, table.slug);
        let values = column.map(|(_, metric)| self.sweep.metric(metric)).transpose().unwrap_or_default();
        let point = |&index: &usize| {
            let point = &self.sweep.points[index];
            let axes = self.sweep.axes.iter().zip(&point.key);
            EvidencePoint {
                id: point.id.clone(),
                axes: axes
                    .map(|(axis, &value)| (axis.path.clone(), axis.values[value].raw.clone()))
                    .collect(),
                status: point.status.clone(),
                error: point.error.clone(),
                value: values.as_ref().and_then(|values| values[index]),
                best_step: point.best_step,
                train_key: point.train_key.clone(),
                evaluate_key: point.evaluate_key.clone(),
            }
        };
        let metric = column.map(|(at, _)| format!(", {}", table.columns[at].title)).unwrap_or_default();
        Ok(Evidence {
            cell: format!("{}, row {} ({}){metric}", table.slug, place + 1, described(table, row)),
            says: column.map_or_else(String::new, |(at, _)| says(&row.cells[at])),
            points: row.points.iter().map(point).collect(),
        })
    }
}

/// The files of the report in `dir`.
fn listed(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(dir.join(LIST)).unwrap_or_default();
    text.lines().map(PathBuf::from).filter(|path| super::is_inside(path)).collect()
}

fn is_table(path: &Path) -> bool {
    path.starts_with(FOLDER)
}

/// The line, from 1, in which two texts first differ.
fn first_difference(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    memchr::memchr_iter(b'\n', &a[..same]).count() + 1
}

/// The row with this number or these values.
fn find_row(table: &Table, named: &str) -> Result<usize> {
    if let Ok(number) = named.trim().parse::<usize>() {
        let rows = table.rows.len();
        ensure!((1..=rows).contains(&number), "there is no row {number}: the rows are 1 to {rows}");
        return Ok(number - 1);
    }
    let axes: Vec<&str> =
        table.columns.iter().filter(|c| c.holds == Holds::Axis).map(|c| c.field.as_str()).collect();
    let mut wanted = Vec::new();
    for (axis, value) in pairs(named)? {
        let at = axes.iter().position(|known| *known == axis);
        let at =
            at.with_context(|| format!("`{axis}` is no axis of the rows, which are {}", axes.join(", ")))?;
        wanted.push((at, value));
    }
    ensure!(!wanted.is_empty(), "a row is a number, or values of its axes as in `{}=…`", axes.join("=… "));
    let fits = |row: &Row| wanted.iter().all(|(at, value)| is_value(&row.raw[*at], value));
    let found: Vec<usize> = (0..table.rows.len()).filter(|&row| fits(&table.rows[row])).collect();
    match found.as_slice() {
        [row] => Ok(*row),
        [] => bail!("no row has {named}"),
        several => {
            let numbers: Vec<String> = several.iter().map(|row| (row + 1).to_string()).collect();
            bail!("rows {} have {named}: give more axes, or a number", numbers.join(", "))
        }
    }
}

/// `axis=value` pairs between blanks; a value in brackets or quotes may have blanks in it.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let (mut depth, mut quote) = (0_usize, None);
    for letter in text.chars() {
        match letter {
            '\'' | '"' if quote.is_none() => quote = Some(letter),
            _ if quote == Some(letter) => quote = None,
            ' ' if depth == 0 && quote.is_none() => words.push(String::new()),
            _ => {
                depth = (depth + usize::from(letter == '[')).saturating_sub(usize::from(letter == ']'));
                if let Some(word) = words.last_mut() {
                    word.push(letter);
                }
            }
        }
    }
    let pair = |word: &String| {
        let (axis, value) = word.split_once('=').with_context(|| format!("`{word}` is no AXIS=VALUE"))?;
        Ok((axis.trim().to_owned(), value.trim().to_owned()))
    };
    words.iter().filter(|word| !word.is_empty()).map(pair).collect()
}

/// The values of a row's axes.
fn described(table: &Table, row: &Row) -> String {
    let axes = table.columns.iter().filter(|column| column.holds == Holds::Axis).zip(&row.raw);
    let said = axes.filter(|(_, raw)| !raw.is_empty());
    said.map(|(column, raw)| format!("{}={raw}", column.field)).collect::<Vec<_>>().join(" ")
}

/// A cell in words.
fn says(cell: &Cell) -> String {
    match cell {
        Cell::Value(value) => value_in_words(value),
        Cell::Absent(why) => why.clone(),
        _ => String::new(),
    }
}

fn value_in_words(value: &Value) -> String {
    let summary = &value.summary;
    let mut parts = vec![format!("mean {}", summary.mean)];
    parts.push(match summary.sd {
        Some(sd) => format!("SD {sd} over {} points", summary.n),
        None => "one point".to_owned(),
    });
    parts.extend(value.interval.map(|(low, high)| format!("95 % interval over patients [{low}, {high}]")));
    parts.extend(value.test.map(|test| {
        format!("against the named row p = {:e}, corrected {:e}, {} patients", test.p, test.holm, test.pairs)
    }));
    if value.empties > 0 {
        parts.push(format!("{} masks without a distance of their own", value.empties));
    }
    parts.join("; ")
}
