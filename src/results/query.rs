//! SQL over frames: the frames of one or more sweeps stacked under their names, and a query answered by Polars.
//!
//! Every frame is a table (`points`, `cases`, `history`, `diffusion`) with a column `sweep` that says whose a row is.
//! Where sweeps have different columns, a row holds null in those that its sweep does not have; columns of different
//! types meet in the wider one, at last in text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use polars::prelude::{
    AnyValue, Column, DataFrame, DataType, PolarsError, Scalar, SchemaExt as _, SerReader as _,
};
use polars::sql::{SQLContext, extract_table_identifiers};
use polars_lazy::frame::IntoLazy as _;
use serde_json::{Map, Value};

use super::{FRAMES, foreign, open};
use crate::spec::nearest;

/// The column that every table has.
const SWEEP: &str = "sweep";
/// Table functions of Polars' SQL: they read other files than frames, by an engine that is not built in.
const READERS: [&str; 4] = ["read_csv", "read_parquet", "read_json", "read_ipc"];

/// A column of a table: its name and what its values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type, as Polars writes it: `f64`, `str`.
    pub kind: String,
}

/// A sweep's name and the folder of its frames.
pub type Source = (String, PathBuf);

/// The sweeps whose frames lie below `root`, sorted by name.
pub fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root) else { return Ok(found) };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", root.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = name.filter(|name| !name.starts_with('.'))
            && path.join("points.parquet").is_file()
        {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The columns of each table over `sources`, by [`FRAMES`].
///
/// # Errors
/// Where a frame cannot be read.
pub fn schema(sources: &[Source]) -> Result<Vec<(&'static str, Vec<Field>)>> {
    let table = |name: &'static str| {
        let columns = merged(&headers(name, sources)?);
        let fields = columns.into_iter().map(|(name, kind)| Field { name, kind: kind.to_string() });
        Ok((name, fields.collect()))
    };
    FRAMES.into_iter().map(table).collect()
}

/// Answers the query `sql` over the frames of `sources`. Of each frame only the columns are read that the query may
/// mean.
///
/// # Errors
/// Where a frame cannot be read or the query is wrong; names the tables or columns that there are.
pub fn query(sql: &str, sources: &[Source]) -> Result<DataFrame> {
    ensure!(!sql.trim().is_empty(), "the query is empty: write SQL, such as `SELECT * FROM points`");
    for reader in READERS {
        ensure!(!sql.to_lowercase().contains(reader), "`{reader}`: a query reads frames only");
    }
    quietly(|| answer(sql, sources))
}

fn answer(sql: &str, sources: &[Source]) -> Result<DataFrame> {
    let named = extract_table_identifiers(sql, false, true).map_err(|error| explain(&error, sources))?;
    let mut context = SQLContext::new();
    for name in FRAMES {
        // All are known to `SHOW TABLES`; only those that are named are read.
        if named.is_empty() || named.iter().any(|table| table == name) {
            context.register(name, stacked(name, sources, sql)?.lazy());
        }
    }
    let answer = context.execute(sql).and_then(polars_lazy::frame::LazyFrame::collect);
    answer.map_err(|error| explain(&error, sources))
}

/// Runs `work`, of which a panic is an error: Polars answers some queries so that need parts of it which are not built
/// in.
fn quietly<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    result.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("it gives no reason");
        Err(anyhow!("Polars cannot answer this query: {}", text.lines().next().unwrap_or_default()))
    })
}

/// An error of Polars with what a person can do about it.
fn explain(error: &PolarsError, sources: &[Source]) -> anyhow::Error {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default().to_owned();
    let Ok(tables) = schema(sources) else { return anyhow!(text) };
    let columns: Vec<&str> =
        tables.iter().flat_map(|(_, fields)| fields).map(|field| field.name.as_str()).collect();
    // The word that is wrong stands in quotes or behind a colon.
    let words = || text.split(|c: char| !(c.is_alphanumeric() || "_.".contains(c)));
    let known = |word: &str| columns.contains(&word) || FRAMES.contains(&word);
    let near = match error {
        PolarsError::ColumnNotFound(_) => {
            words().filter(|word| !known(word)).find_map(|word| nearest(word, columns.iter().copied()))
        }
        PolarsError::SQLInterface(_) => {
            words().filter(|word| !known(word)).find_map(|word| nearest(word, FRAMES))
        }
        _ => None,
    };
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    anyhow!(
        "{text}{near}\n`sweep query` without a query lists tables and columns; names with a dot stand in double quotes"
    )
}

/// A table's columns in order, with their types.
type Columns = Vec<(String, DataType)>;

/// The columns of the frame `name` of each source.
fn headers(name: &str, sources: &[Source]) -> Result<Vec<Columns>> {
    let header = |(_, folder): &Source| {
        let schema = open(folder, name)?.schema().with_context(|| foreign(folder, name))?;
        let schema = polars::prelude::Schema::from_arrow_schema(&schema);
        Ok(schema.iter().map(|(name, kind)| (name.to_string(), kind.clone())).collect())
    };
    sources.iter().map(header).collect()
}

/// The columns of all, `sweep` first, in the order in which they first appear.
fn merged(headers: &[Columns]) -> Columns {
    let mut merged: Columns = vec![(SWEEP.to_owned(), DataType::String)];
    for (name, kind) in headers.iter().flatten() {
        match merged.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = wider(known, kind),
            None => merged.push((name.clone(), kind.clone())),
        }
    }
    merged
}

/// The type that holds values of both; a column without any value is text and holds nothing.
fn wider(a: &DataType, b: &DataType) -> DataType {
    match (a, b) {
        _ if a == b => a.clone(),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        _ => DataType::String,
    }
}

/// The frame `name` of all sources under each other, with the columns that `sql` may mean.
fn stacked(name: &str, sources: &[Source], sql: &str) -> Result<DataFrame> {
    let headers = headers(name, sources)?;
    let all = merged(&headers);
    let wants_all = wants_all(sql);
    let mut columns: Columns =
        all.iter().filter(|(column, _)| wants_all || sql.contains(column.as_str())).cloned().collect();
    if columns.is_empty() {
        columns.extend(all.into_iter().next()); // for COUNT(*)
    }
    let mut whole: Option<DataFrame> = None;
    for ((sweep, folder), header) in sources.iter().zip(&headers) {
        let read: Vec<String> = header
            .iter()
            .filter(|(column, _)| columns.iter().any(|(wanted, _)| wanted == column))
            .map(|(column, _)| column.clone())
            .collect();
        let mut reader = open(folder, name)?;
        let height = reader.get_metadata().with_context(|| foreign(folder, name))?.num_rows;
        let frame = if read.is_empty() {
            DataFrame::empty()
        } else {
            reader.with_columns(Some(read)).finish().with_context(|| foreign(folder, name))?
        };
        let aligned = columns.iter().map(|(column, kind)| {
            Ok(match frame.column(column) {
                Ok(found) if found.dtype() == kind => found.clone(),
                Ok(found) => found.cast(kind)?,
                Err(_) if column == SWEEP => {
                    let value = AnyValue::StringOwned(sweep.as_str().into());
                    Column::new_scalar(SWEEP.into(), Scalar::new(DataType::String, value), height)
                }
                Err(_) => Column::full_null(column.as_str().into(), height, kind),
            })
        });
        let frame = DataFrame::new(height, aligned.collect::<Result<_>>()?)?;
        match &mut whole {
            Some(whole) => {
                whole.vstack_mut(&frame)?;
            }
            None => whole = Some(frame),
        }
    }
    match whole {
        Some(frame) => Ok(frame),
        None => bail!("there are no frames: run a sweep first, or name their folder with --results"),
    }
}

/// Whether a query may mean columns that it does not name: `*` but for `COUNT(*)`, `COLUMNS(…)`, natural joins.
fn wants_all(sql: &str) -> bool {
    let bare: String = sql.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    let stars = bare.matches('*').count() - bare.matches("count(*)").count();
    stars > 0 || bare.contains("columns(") || bare.contains("natural") || bare.contains("describe")
}

/// The rows of an answer as JSON objects: numbers as such, lists as lists; what is no number is null.
pub fn rows(frame: &DataFrame) -> Vec<Map<String, Value>> {
    let row = |row: usize| {
        let cell = |column: &Column| {
            let value = column.get(row).map_or(Value::Null, |value| json(&value));
            (column.name().to_string(), value)
        };
        frame.columns().iter().map(cell).collect()
    };
    (0..frame.height()).map(row).collect()
}

fn json(value: &AnyValue) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(flag) => (*flag).into(),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::List(series) => series.iter().map(|value| json(&value)).collect::<Vec<Value>>().into(),
        AnyValue::Float64(number) => (*number).into(),
        AnyValue::Float32(number) => f64::from(*number).into(),
        other => other.extract::<i64>().map_or_else(|| other.to_string().into(), Value::from),
    }
}

#[cfg(test)]
mod tests;
