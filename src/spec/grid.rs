//! The combinations of axis values: `grid` is their product, `zip` advances together, and an axis with `when` takes
//! part only where its condition holds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::diagnostics::Reporter;
use super::exclude::Matches;
use super::settings::{Method, Preset, Settings};
use super::written::{Leaf, Written};

/// Points of a sweep at most.
const POINTS: usize = 1_000_000;
/// The choice of an axis that does not apply.
pub(super) const ABSENT: u32 = u32::MAX;

/// Axes that advance together.
pub(super) struct Dimension {
    pub(super) axes: Vec<usize>,
    pub(super) len: usize,
}

/// The axes as dimensions of a product.
pub(super) struct Grid<'a> {
    written: &'a Written,
    pub(super) dimensions: Vec<Dimension>,
    /// For each dimension, its condition.
    when: Vec<Option<&'a Matches>>,
    defaults: Mutex<HashMap<(String, String), Value>>,
}

/// For each combination, the index of the value of each dimension, or [`ABSENT`].
pub(super) struct Choices {
    width: usize,
    flat: Vec<u32>,
    len: usize,
}

impl Choices {
    /// Number of combinations.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, at: usize) -> &[u32] {
        &self.flat[at * self.width..(at + 1) * self.width]
    }
}

impl<'a> Grid<'a> {
    pub(super) fn new(written: &'a Written) -> Self {
        let single = written.axes.len() - written.zipped;
        let mut grid = Self { written, dimensions: vec![], when: vec![], defaults: Mutex::default() };
        // An axis without a valid value was reported; the others are looked at without it.
        for (i, axis) in written.axes[..single].iter().enumerate().filter(|(_, axis)| !axis.values.is_empty())
        {
            grid.dimensions.push(Dimension { axes: vec![i], len: axis.values.len() });
            grid.when.push(axis.when.as_ref().map(|when| &when.matches));
        }
        let zipped: Vec<usize> =
            (single..written.axes.len()).filter(|&i| !written.axes[i].values.is_empty()).collect();
        if let Some(len) = zipped.iter().map(|&i| written.axes[i].values.len()).min() {
            grid.dimensions.push(Dimension { axes: zipped, len });
            grid.when.push(None);
        }
        grid
    }

    /// What the chosen values of a dimension set.
    pub(super) fn leaves(&self, dimension: usize, choice: &[u32]) -> impl Iterator<Item = &'a Leaf> {
        let (axes, at) = (&self.dimensions[dimension].axes, choice[dimension]);
        let axes = if at == ABSENT { &[] } else { &axes[..] };
        axes.iter().flat_map(move |&axis| &self.written.axes[axis].values[at as usize].leaves)
    }

    /// Whether some value of a dimension sets what `test` looks for.
    pub(super) fn sets(&self, dimension: usize, test: &dyn Fn(&str) -> bool) -> bool {
        let values = self.dimensions[dimension].axes.iter().flat_map(|&axis| &self.written.axes[axis].values);
        values.flat_map(|value| &value.leaves).any(|leaf| test(leaf.key.path))
    }

    /// All combinations, the last dimension running fastest; nothing where there are too many or where the conditions
    /// go round in a circle, which is reported.
    pub(super) fn choices(&self, report: &mut Reporter) -> Option<Choices> {
        let lens = || self.dimensions.iter().map(|dimension| dimension.len);
        let product = lens().try_fold(1_usize, usize::checked_mul);
        let conditional = self.when.iter().any(Option::is_some);
        let place = self.written.grid.unwrap_or(self.written.start);
        if !conditional && product.is_none_or(|n| n > POINTS) {
            let lens: Vec<String> = lens().map(|len| len.to_string()).collect();
            let message = format!("the grid has {} points, more than {POINTS}", lens.join(" × "));
            report.error(place, message, None);
            return None;
        }
        let order = self.order(report)?;
        let width = self.dimensions.len();
        let mut flat = Vec::with_capacity(if conditional { 0 } else { product.unwrap_or(0) * width });
        let mut len = 0;
        if !self.descend(&order, &mut vec![0; width], &mut flat, &mut len) {
            report.error(place, format!("the grid has more than {POINTS} points"), None);
            return None;
        }
        if order.iter().enumerate().any(|(i, &dimension)| i != dimension) {
            let mut rows: Vec<&[u32]> = flat.chunks(width).collect();
            rows.sort_unstable();
            flat = rows.concat();
        }
        Some(Choices { width, flat, len })
    }

    /// The combinations of the dimensions from `order` on; false where there are too many.
    fn descend(&self, order: &[usize], choice: &mut Vec<u32>, flat: &mut Vec<u32>, len: &mut usize) -> bool {
        let Some((&dimension, rest)) = order.split_first() else {
            flat.extend_from_slice(choice);
            *len += 1;
            return *len <= POINTS;
        };
        if self.when[dimension].is_some_and(|when| !self.holds(when, choice)) {
            choice[dimension] = ABSENT;
            return self.descend(rest, choice, flat, len);
        }
        (0..self.dimensions[dimension].len as u32).all(|at| {
            choice[dimension] = at;
            self.descend(rest, choice, flat, len)
        })
    }

    /// An order of the dimensions in which each condition comes after what it looks at.
    fn order(&self, report: &mut Reporter) -> Option<Vec<usize>> {
        let mut order = vec![];
        let mut open = vec![];
        for dimension in 0..self.dimensions.len() {
            self.visit(dimension, &mut open, &mut order, report)?;
        }
        Some(order)
    }

    fn visit(
        &self,
        dimension: usize,
        open: &mut Vec<usize>,
        order: &mut Vec<usize>,
        report: &mut Reporter,
    ) -> Option<()> {
        if order.contains(&dimension) {
            return Some(());
        }
        let axis = |dimension: usize| &self.written.axes[self.dimensions[dimension].axes[0]];
        if let Some(at) = open.iter().position(|&other| other == dimension) {
            let names: Vec<String> = open[at..].iter().map(|&d| format!("`{}`", axis(d).name)).collect();
            let message = match &names[..] {
                [name] => format!("the condition of axis {name} looks at the axis itself"),
                names => format!("the conditions of the axes {} go round in a circle", names.join(", ")),
            };
            let place = axis(dimension).when.as_ref().map_or(axis(dimension).place, |when| when.place);
            report.error(place, message, None);
            return None;
        }
        open.push(dimension);
        for (key, _) in self.when[dimension].into_iter().flatten() {
            // A default depends on preset and method.
            let rooted = !matches!(key.path, "preset" | "method");
            let looked_at = |path: &str| path == key.path || rooted && matches!(path, "preset" | "method");
            for other in (0..self.dimensions.len()).filter(|&other| self.sets(other, &looked_at)) {
                self.visit(other, open, order, report)?;
            }
        }
        open.pop();
        order.push(dimension);
        Some(())
    }

    fn holds(&self, when: &Matches, choice: &[u32]) -> bool {
        when.iter().all(|(key, values)| match self.written(key.path, choice) {
            Some(value) => values.contains(value),
            None => values.contains(&self.default(key.path, choice)),
        })
    }

    /// The value of a setting where a choice, `base` or `--set` gives one.
    fn written(&self, path: &str, choice: &[u32]) -> Option<&'a Value> {
        let is = |leaf: &&Leaf| leaf.key.path == path;
        let set = self.written.sets.iter().rev().find(is);
        let chosen =
            || (0..choice.len()).flat_map(|dimension| self.leaves(dimension, choice)).filter(is).last();
        set.or_else(chosen).or_else(|| self.written.base.iter().rev().find(is)).map(|leaf| &leaf.value)
    }

    fn default(&self, path: &str, choice: &[u32]) -> Value {
        let word =
            |path: &str| self.written(path, choice).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (preset, method) = (word("preset"), word("method"));
        let mut defaults = self.defaults.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = defaults.entry((preset, method)).or_insert_with_key(|(preset, method)| {
            serde_json::json!(defaults_of(Some(preset), Some(method)))
        });
        at(tree, path)
    }
}

/// The defaults of a preset and a method by name; where there is none, those of a file that names none.
pub(super) fn defaults_of(preset: Option<&str>, method: Option<&str>) -> Settings {
    let preset: Option<Preset> = preset.and_then(|word| serde_json::from_value(word.into()).ok());
    let method: Option<Method> = method.and_then(|word| serde_json::from_value(word.into()).ok());
    Settings::preset(preset.unwrap_or(super::PRESET), method.unwrap_or(super::METHOD))
}

/// The value at a dotted path, or the table.
pub(super) fn at(settings: &Value, path: &str) -> Value {
    settings.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default()
}
