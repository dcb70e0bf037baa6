//! What stands over and under a table.

use super::super::sweep::{Group, SEED, Sweep};
use super::build::Frame;
use super::compare::Named;
use super::{Cell, Holds, Table};
use crate::spec::report::Published;
use crate::spec::settings::EmptyDistance;

/// What becomes of the distance to an empty mask.
const ZERO: &str = "counts with distance 0, which flatters every distance";
const DIAGONAL: &str = "counts with the volume's diagonal as its distance";
/// Rows that a note names: a table of a thousand rows must not end in a thousand names.
const SHOWN: usize = 12;

/// The caption: what the table is about, then what its numbers and marks mean.
pub(super) fn caption(frame: &Frame, table: &Table, subject: &str) -> String {
    let sweep = frame.sweep;
    let about = frame.settings.caption.as_deref().unwrap_or(subject).trim().trim_end_matches('.');
    let mut parts = vec![format!("{about}; {}{}.", split(sweep), fixed(frame))];
    parts.push(legend(frame, table));
    let cells = || table.rows.iter().flat_map(|row| &row.cells);
    let values = || cells().filter(|cell| matches!(cell, Cell::Value(_))).count();
    if table.rows.len() > 1 && values() > 1 {
        let each = if frame.blocks.len() > 1 { " of each block" } else { "" };
        let second =
            if frame.blocks.iter().any(|block| block.len() > 2) { ", second underlined" } else { "" };
        parts.push(format!("Best{each} in bold{second}, by the mean as printed."));
    }
    parts.extend(tests(frame, table));
    if table.columns.iter().any(|column| column.holds == Holds::Published) {
        parts.push(
            "Published: values as printed by their sources (letters), in brackets measured less published."
                .into(),
        );
    }
    if cells().any(|cell| matches!(cell, Cell::Value(value) if value.empties > 0)) {
        parts.push("∅: includes distances to empty masks, counted below.".into());
    }
    parts.join(" ")
}

/// What was evaluated: the split, and how much of it.
fn split(sweep: &Sweep) -> String {
    let split = match sweep.setting("evaluate.split").as_slice() {
        [split] if split == "test" => "test split",
        [split] if split == "val" => "validation split",
        _ => "the evaluated cases",
    };
    let mut cases: Vec<i64> = sweep.points.iter().filter(|p| p.done()).map(|p| p.cases).collect();
    cases.sort_unstable();
    cases.dedup();
    let cases = match cases.as_slice() {
        [1] => " (1 volume)".to_owned(),
        [cases] => format!(" ({cases} volumes)"),
        _ => String::new(),
    };
    format!("{split}{cases}")
}

/// The axes that have one value throughout.
fn fixed(frame: &Frame) -> String {
    let sweep = frame.sweep;
    let one = |&axis: &usize| {
        let mut values = frame.points.iter().map(|&point| sweep.points[point].key[axis]);
        let first = values.next();
        let shown = frame.axes.contains(&axis);
        first.filter(|first| values.all(|value| value == *first) && !shown).map(|value| (axis, value))
    };
    let fixed: Vec<String> = (sweep.configuration_axes().iter().filter_map(one))
        .filter(|&(axis, value)| !sweep.axes[axis].values[value].raw.is_empty())
        .map(|(axis, value)| {
            format!("{} = {}", sweep.axes[axis].name.short, sweep.axes[axis].values[value].shown)
        })
        .collect();
    if fixed.is_empty() { String::new() } else { format!("; {} throughout", fixed.join(", ")) }
}

/// What a cell says.
fn legend(frame: &Frame, table: &Table) -> String {
    let spread = frame.groups().any(|group| group.points.len() > 1);
    let mut text = if spread { "Mean ± SD over n seeds" } else { "One seed per row" }.to_owned();
    let patients = table
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .any(|cell| matches!(cell, Cell::Value(value) if value.interval.is_some()));
    if table.interval && patients {
        text.push_str("; in square brackets the 95 % bootstrap interval over patients");
    }
    let classes = &frame.settings.classes;
    if !classes.is_empty() {
        text = format!("{text}; means are over {}", classes.join(" and "));
    }
    text + "."
}

/// What the marks mean, or why there are none.
fn tests(frame: &Frame, table: &Table) -> Option<String> {
    if frame.settings.against.is_empty() {
        return None;
    }
    let sweep = frame.sweep;
    let name = |(axis, value): &(String, String)| match (sweep.axis(axis), value.as_str()) {
        (Some(axis), wanted) => {
            let axis = &sweep.axes[axis];
            let shown = axis.values.iter().find(|value| super::is_value(&value.raw, wanted));
            let shown = shown.map_or(wanted, |value| value.shown.as_str());
            if axis.path == "method" { shown.to_owned() } else { format!("{} {shown}", axis.name.short) }
        }
        (None, wanted) => format!("{axis} = {wanted}"),
    };
    let row = frame.settings.against.iter().map(name).collect::<Vec<_>>().join(", ");
    if !frame.references.iter().any(|named| matches!(named, Named::One(_))) {
        let several = frame.references.iter().any(|named| matches!(named, Named::Several));
        let why = if several { "names several rows" } else { "is not in this table" };
        return Some(format!("The row to compare with ({row}) {why}: no test, no difference."));
    }
    let families = families(table);
    let tested = || families.iter().flatten();
    let (least, most) = (tested().min()?, tested().max()?);
    let pairs = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let difference =
        if frame.settings.difference { format!("Δ: mean less that of {row}. ") } else { String::new() };
    let each = if frame.blocks.len() > 1 { "a block of a column" } else { "a column" };
    let test = format!(
        "paired Wilcoxon signed-rank test over {pairs} patients (mean over seeds, volumes and classes), Holm's correction over \
         the rows of {each}"
    );
    let done = |group: &Group| group.points.iter().filter(|&&point| sweep.points[point].done()).count();
    let training = if frame.groups().all(|group| done(group) < 2) {
        " Each row is one training: the test is about patients, and ignores how trainings differ."
    } else if frame.groups().any(|group| done(group) == 1) {
        " Where one of the two rows is one training, the test is about patients, and ignores how trainings differ."
    } else {
        ""
    };
    // Where no outcome could be marked, a table without marks says nothing.
    let least = families.iter().map(|family| least_possible(family)).fold(f64::INFINITY, f64::min);
    let marks = if least < 0.05 {
        format!("† p < 0.05, ‡ p < 0.01 against {row}: {test}.")
    } else {
        format!(
            "No mark could appear: against {row}, the {test}, has p of {least:.3} at least, however large a difference."
        )
    };
    Some(format!("{difference}{marks}{training}"))
}

/// The tests that are corrected together, a block of a column each: the patients of each test.
fn families(table: &Table) -> Vec<Vec<usize>> {
    let mut families: Vec<((usize, usize), Vec<usize>)> = Vec::new();
    for row in &table.rows {
        for (column, cell) in row.cells.iter().enumerate() {
            let Cell::Value(value) = cell else { continue };
            let Some(test) = value.test else { continue };
            match families.iter_mut().find(|(place, _)| *place == (row.block, column)) {
                Some((_, family)) => family.push(test.pairs),
                None => families.push(((row.block, column), vec![test.pairs])),
            }
        }
    }
    families.into_iter().map(|(_, family)| family).collect()
}

/// The least p that Holm's correction can leave of any of these tests: the signed-rank test over n patients has 2 · 2⁻ⁿ at
/// least, where all differences have one sign, and the smallest of m is multiplied by m.
fn least_possible(family: &[usize]) -> f64 {
    let most = family.iter().copied().max().unwrap_or(0);
    (family.len() as f64 * 2.0 * 0.5_f64.powi(most as i32)).min(1.0)
}

/// What every table says first where the test patients chose the networks.
fn test_selection(sweep: &Sweep) -> Option<String> {
    let chosen =
        sweep.setting("evaluate.select").iter().any(|select| select == crate::results::TEST_SELECTED);
    chosen.then(|| {
        "Networks were chosen by the test patients (train.selection: test): these are the best of many looks at them, and \
         not comparable with networks chosen by validation."
            .to_owned()
    })
}

/// What else a reader has to know.
pub(super) fn notes(frame: &Frame, table: &Table, absent: &[String]) -> Vec<String> {
    let (sweep, mut notes) = (frame.sweep, Vec::new());
    if frame.points.is_empty() {
        notes.push("No point of the sweep belongs to this table.".to_owned());
        return notes;
    }
    notes.extend(test_selection(sweep));
    let done = |group: &Group| group.points.iter().filter(|&&p| sweep.points[p].done()).count();
    let counts: Vec<usize> = frame.groups().map(done).filter(|&n| n > 0).collect();
    if counts.iter().all(|&n| n == 1) && !counts.is_empty() {
        notes.push("n = 1 in every row: no spread over seeds can be given.".to_owned());
    } else if counts.contains(&1) {
        notes.push("Rows with n = 1 have no ±.".to_owned());
    }
    notes.extend(pooled(frame));
    if table
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .any(|cell| matches!(cell, Cell::Value(value) if value.partial))
    {
        notes.push("(n = …) in a cell: so many of the row's points have this metric.".to_owned());
    }
    let count = |status: &str| frame.points.iter().filter(|&&p| sweep.points[p].status == status).count();
    let (failed, missing) = (count("failed"), count("missing"));
    if failed + missing > 0 {
        let all = frame.points.len();
        notes.push(format!(
            "{failed} of {all} points failed, {missing} missing: they are in no mean; n says what each row stands on."
        ));
    }
    if !absent.is_empty() {
        let rule = if frame.settings.empty == Some(EmptyDistance::Diagonal) {
            ", as `empty: diagonal` needs it,"
        } else {
            ""
        };
        notes.push(format!(
            "The frames do not hold {}: the sweep was run without `evaluate.variants: true`{rule} (which evaluates anew and \
             trains nothing), or before a table asked for it.",
            absent.join(", ")
        ));
    }
    notes.extend(empty_masks(frame));
    if frame.settings.published != Published::None {
        notes.extend(preset(sweep));
    }
    notes
}

/// What rows stand on beside seeds.
fn pooled(frame: &Frame) -> Option<String> {
    let sweep = frame.sweep;
    let several = |&axis: &usize| {
        frame.groups().any(|group| {
            let mut values = group.points.iter().map(|&point| sweep.points[point].key[axis]);
            let first = values.next();
            values.any(|value| Some(value) != first)
        })
    };
    let names: Vec<&str> = (sweep.varying().into_iter().filter(several))
        .filter(|axis| !frame.axes.contains(axis))
        .map(|axis| sweep.axes[axis].name.short.as_str())
        .collect();
    if !names.is_empty() {
        let pooled = names.join(", ");
        return Some(format!(
            "Rows pool all values of {pooled}: ± is the spread over these and the seeds, n counts points."
        ));
    }
    let seeds = frame.axes.iter().any(|&axis| sweep.axes[axis].path == SEED);
    seeds.then(|| "Each row is one seed.".to_owned())
}

/// Published values are of the paper's sizes.
fn preset(sweep: &Sweep) -> Option<String> {
    let presets = sweep.setting("preset");
    let smaller: Vec<&String> = presets.iter().filter(|preset| *preset != "paper").collect();
    if smaller.is_empty() {
        return None;
    }
    let names = smaller.into_iter().cloned().collect::<Vec<_>>().join(", ");
    Some(format!(
        "Measured at preset {names}, whose images, networks and trainings are smaller than the published ones'."
    ))
}

/// What the rows hide: structures that were not found at all.
fn empty_masks(frame: &Frame) -> Option<String> {
    let Frame { sweep, cases, settings, .. } = frame;
    let mut classes: Vec<usize> = frame.wanted.iter().flat_map(|wanted| wanted.classes.clone()).collect();
    classes.sort_unstable();
    classes.dedup();
    let mut found = Vec::new();
    let (mut all, mut masks, mut labels) = (0, 0, 0);
    for group in frame.groups() {
        let [of, predictions, truths] = cases.empties(&group.points, &classes);
        (all, masks, labels) = (all + predictions, masks + of, labels + truths);
        if predictions > 0 {
            found.push(format!("{} {predictions} of {of}", sweep.describe(&frame.axes, group)));
        }
    }
    if masks == 0 {
        return None;
    }
    let truth = if labels > 0 { format!(" {labels} label masks are empty.") } else { String::new() };
    if all == 0 {
        return Some(format!("No prediction of a class is empty ({masks} case × class masks).{truth}"));
    }
    let distance = match (settings.empty, sweep.setting("evaluate.empty").as_slice()) {
        (Some(EmptyDistance::Zero), _) => ZERO,
        (Some(EmptyDistance::Diagonal), _) => DIAGONAL,
        (None, [one]) if one == "zero" => ZERO,
        (None, [one]) if one == "diagonal" => DIAGONAL,
        _ => "has the distance that `evaluate.empty` says",
    };
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("and {more} more rows"));
    }
    Some(format!(
        "Empty predictions (case × class): {}; {all} of {masks} in all. Such a structure has Dice 0 and {distance}.{truth}",
        found.join(", ")
    ))
}
