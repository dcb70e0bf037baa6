//! The axes of a sweep and what each point has of them: one table for the sweep, a row of indices for each point.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// The names of a sweep's axes and the values that occur of each.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) names: Vec<String>,
    pub(super) values: Vec<Vec<Value>>,
}

impl Table {
    /// The index of `value` among those of `axis`, which it joins where it is new.
    pub(super) fn index(&mut self, axis: usize, value: Value) -> u32 {
        let values = &mut self.values[axis];
        let at = values.iter().position(|known| *known == value).unwrap_or_else(|| {
            values.push(value);
            values.len() - 1
        });
        at as u32
    }
}

/// The axes of a sweep with one point's value of each, in the order of the file. An axis that does not apply to the
/// point has the value `null` there.
#[derive(Clone)]
pub struct Axes {
    table: Arc<Table>,
    at: Box<[u32]>,
}

impl Axes {
    pub(super) fn new(table: &Arc<Table>, at: Box<[u32]>) -> Self {
        Self { table: Arc::clone(table), at }
    }

    /// Number of axes.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether the sweep has no axis.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Names and values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        (0..self.at.len()).map(|axis| (self.name(axis), self.value(axis)))
    }

    /// The name of the axis with this index.
    pub fn name(&self, axis: usize) -> &str {
        &self.table.names[axis]
    }

    /// The value of the axis with this index.
    pub fn value(&self, axis: usize) -> &Value {
        &self.table.values[axis][self.at[axis] as usize]
    }

    /// The value of the axis with this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(axis, _)| *axis == name).map(|(_, value)| value)
    }

    /// A number for the value of an axis: within a sweep, equal values have equal numbers.
    pub fn index(&self, axis: usize) -> u32 {
        self.at[axis]
    }

    /// All values of an axis in the sweep, by the numbers of [`Self::index`].
    pub fn values_of(&self, axis: usize) -> &[Value] {
        &self.table.values[axis]
    }

    /// Names and values, owned.
    pub fn to_vec(&self) -> Vec<(String, Value)> {
        self.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }
}

impl PartialEq for Axes {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Axes {
    /// A list of pairs, as the order counts.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
