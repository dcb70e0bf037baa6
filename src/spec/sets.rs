//! `--set KEY=VALUE`.

use super::axis::{Section, lacks_lists, shown};
use super::diagnostics::{Place, Reporter};
use super::schema::{self, Found};
use super::written::{Axis, AxisValue, Leaf, Written, one_setting, read_name};
use super::yaml::{self, Content, Name, Node};

impl Written {
    pub(super) fn read_sets(&mut self, sets: &[String], report: &mut Reporter) {
        for argument in sets {
            let source = report.source("--set", argument);
            let line = argument.lines().next().unwrap_or_default().chars().count().max(1);
            let whole = Place { source, line: 1, column: 1, len: line };
            let Some((key, value)) = argument.split_once('=') else {
                report.error(whole, "expected KEY=VALUE", Some("such as `train.iterations=500`".into()));
                continue;
            };
            let width = key.chars().count();
            let name = Name { text: key.trim().into(), place: Place { len: width.max(1), ..whole } };
            // Blanks in front of the value give its places the argument's columns.
            let padded = format!("{}{value}", " ".repeat(width + 1));
            let empty = Node { content: Content::Text { text: String::new(), plain: true }, place: whole };
            let errors = report.count();
            let node = match yaml::parse(&padded, source, report) {
                Some(node) => node,
                None if report.count() > errors => continue,
                None => empty,
            };
            if name.text == "name" {
                self.name = read_name(&node, report).or(self.name.take());
            } else if lists_values(&name, &node) {
                self.set_axis(&name, &node, report);
            } else {
                let mut leaves = vec![];
                one_setting("", &name, &node, &mut leaves, &mut self.broken, report);
                self.set_value(&name, leaves);
            }
        }
    }

    /// One value: an axis has it alone; anything else has it on top of everything.
    fn set_value(&mut self, name: &Name, leaves: Vec<Leaf>) {
        for leaf in leaves {
            let only = |axis: &Axis| {
                axis.name == leaf.key.path
                    || axis.name == name.text
                        && axis.values.iter().all(|value| value.leaves.len() == 1)
                        && axis.sets(leaf.key.path)
            };
            if let Some(at) = self.axes.iter().position(only) {
                let zipped = at + self.zipped >= self.axes.len();
                let axis = &mut self.axes[at];
                let shown = shown(&axis.name, std::slice::from_ref(&leaf));
                // The other axes of `zip` keep their length.
                axis.values.truncate(if zipped { usize::MAX } else { 1 });
                axis.values.fill(AxisValue { leaves: vec![leaf.clone()], shown });
            }
            self.sets.retain(|set| !std::ptr::eq(set.key, leaf.key));
            self.sets.push(leaf);
        }
    }

    /// Several values: the axis of that name takes them instead of its own; without one, they are a new axis.
    fn set_axis(&mut self, name: &Name, node: &Node, report: &mut Reporter) {
        let at = self.axes.iter().position(|axis| axis.name == name.text);
        let zipped = at.is_some_and(|at| at + self.zipped >= self.axes.len());
        let section = if zipped { Section::Zip } else { Section::Grid };
        let Some(axis) = self.read_axis(section, "", name, node, report) else { return };
        self.sets.retain(|set| !axis.sets(set.key.path));
        if let Some(at) = at {
            let when = self.axes[at].when.take();
            self.axes[at] = Axis { when, ..axis };
        } else {
            self.base.retain(|leaf| !axis.sets(leaf.key.path));
            self.axes.insert(self.axes.len() - self.zipped, axis);
        }
    }
}

/// Whether a value is a list of values, rather than one value that is a list.
fn lists_values(name: &Name, node: &Node) -> bool {
    match (schema::find("", &name.text), &node.content) {
        (Found::Setting(key), Content::List(items)) => {
            if key.kind.is_list() {
                !items.is_empty() && !lacks_lists(key, items)
            } else {
                !items.is_empty()
            }
        }
        (Found::Table(_), Content::List(items)) => !items.is_empty(),
        _ => false,
    }
}
