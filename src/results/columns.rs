//! Columns of a frame, typed by what their values are.

use anyhow::{Context as _, Result, bail};
use polars::prelude::{Column, DataFrame};
use serde_json::Value;

/// A frame under construction: columns of one height with names that differ.
pub(super) struct Builder {
    height: usize,
    columns: Vec<Column>,
}

impl Builder {
    pub(super) fn new(height: usize) -> Self {
        Self { height, columns: Vec::new() }
    }

    pub(super) fn finish(self) -> Result<DataFrame> {
        DataFrame::new(self.height, self.columns).context("the columns of a frame differ in height")
    }

    pub(super) fn bools(&mut self, name: &str, values: Vec<Option<bool>>) -> Result<()> {
        self.push(name, Column::new(name.into(), values))
    }

    pub(super) fn ints(&mut self, name: &str, values: Vec<Option<i64>>) -> Result<()> {
        self.push(name, Column::new(name.into(), values))
    }

    pub(super) fn floats(&mut self, name: &str, values: Vec<Option<f64>>) -> Result<()> {
        self.push(name, Column::new(name.into(), values))
    }

    pub(super) fn texts(&mut self, name: &str, values: Vec<Option<String>>) -> Result<()> {
        self.push(name, Column::new(name.into(), values))
    }

    /// A column of the narrowest type that holds all `values`: truth values, whole numbers, numbers, else text.
    pub(super) fn values(&mut self, name: &str, values: &[Option<&Value>]) -> Result<()> {
        let all = |kind: fn(&Value) -> bool| values.iter().flatten().all(|value| kind(value));
        if values.iter().all(Option::is_none) {
            self.texts(name, vec![None; values.len()])
        } else if all(Value::is_boolean) {
            self.bools(name, values.iter().map(|value| value.and_then(Value::as_bool)).collect())
        } else if all(Value::is_i64) {
            self.ints(name, values.iter().map(|value| value.and_then(Value::as_i64)).collect())
        } else if all(Value::is_number) {
            self.floats(name, values.iter().map(|value| value.and_then(Value::as_f64)).collect())
        } else {
            self.texts(name, values.iter().map(|value| value.map(plain)).collect())
        }
    }

    /// `name`, or `name` with a prefix where another column already has it.
    pub(super) fn free_name(&self, name: &str) -> String {
        let mut free = name.to_owned();
        while self.columns.iter().any(|column| column.name().as_str() == free) {
            free.insert_str(0, "logged.");
        }
        free
    }

    fn push(&mut self, name: &str, column: Column) -> Result<()> {
        if self.columns.iter().any(|other| other.name().as_str() == name) {
            bail!("two columns of a frame would be named `{name}`; rename the axis");
        }
        self.columns.push(column);
        Ok(())
    }
}

/// A value as text: strings bare, all else as JSON with a blank after each comma of a list.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
