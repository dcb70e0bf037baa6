//! A data set in words and numbers, as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{SPLIT_HEAD, split_rows};
use crate::data::Split;
use crate::data::survey::{Finding, Survey};
use crate::spec::settings::DataSettings;

/// The description.
pub(super) fn markdown(settings: &DataSettings, survey: &Survey) -> String {
    let found: Vec<&Finding> = survey.cases.iter().filter_map(|case| case.found.as_ref().ok()).collect();
    let mut text = format!(
        "# Data set `{}`\n\n{}. Split: {}. Content `{}`.\n",
        settings.name.name(),
        survey.form,
        survey.rule,
        survey.content
    );
    text.push_str("\n## Split\n\n");
    table(&mut text, &SPLIT_HEAD, &split_rows(survey));
    groups(&mut text, survey);
    text.push_str("\n## Geometry\n\n");
    let of = |what: &dyn Fn(&Finding) -> Option<f64>| {
        found.iter().filter_map(|found| what(found)).collect::<Vec<f64>>()
    };
    let mut rows = Vec::new();
    for (axis, name) in ["slices", "rows", "columns"].into_iter().enumerate() {
        rows.push(spread(name, of(&|found| Some(found.shape[axis] as f64)), 0));
    }
    for (axis, name) in
        ["slice spacing (mm)", "row spacing (mm)", "column spacing (mm)"].into_iter().enumerate()
    {
        rows.push(spread(name, of(&|found| found.spacing.map(|spacing| f64::from(spacing[axis]))), 2));
    }
    rows.push(spread("least intensity, as stored", of(&|found| Some(f64::from(found.range[0]))), 1));
    rows.push(spread("largest intensity, as stored", of(&|found| Some(f64::from(found.range[1]))), 1));
    table(&mut text, &["", "min", "median", "max"], &rows);
    text.push_str("\n## Classes\n\n");
    let labelled: Vec<&&Finding> = found.iter().filter(|found| found.labelled).collect();
    let all: usize = labelled.iter().flat_map(|found| &found.voxels).sum();
    let rows: Vec<Vec<String>> = survey
        .classes
        .iter()
        .enumerate()
        .map(|(class, name)| {
            let voxels: usize = labelled.iter().map(|found| found.voxels[class]).sum();
            let volumes = labelled.iter().filter(|found| found.voxels[class] > 0).count();
            let share = 100.0 * voxels as f64 / all.max(1) as f64;
            vec![
                class.to_string(),
                name.clone(),
                format!("{share:.2} %"),
                format!("{volumes} of {}", labelled.len()),
            ]
        })
        .collect();
    table(&mut text, &["label", "class", "of all voxels", "in volumes"], &rows);
    for (title, lines) in [("Worth knowing", &survey.notes), ("Wrong", &survey.problems)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n## {title}\n");
            for line in lines {
                let _ = writeln!(text, "- {line}");
            }
        }
    }
    text.trim_end().to_owned()
}

/// Patients of each group in each split, where there are groups.
fn groups(text: &mut String, survey: &Survey) {
    let mut patients: BTreeMap<&str, [BTreeSet<&str>; 3]> = BTreeMap::new();
    for case in &survey.cases {
        let Some(group) = &case.group else { continue };
        let split = Split::ALL.iter().position(|&split| split == case.split).unwrap_or_default();
        patients.entry(group).or_default()[split].insert(&case.patient);
    }
    if patients.is_empty() {
        return;
    }
    text.push('\n');
    let row = |(group, splits): (&&str, &[BTreeSet<&str>; 3])| {
        let counts = splits.iter().map(|names| names.len().to_string());
        std::iter::once((*group).to_owned()).chain(counts).collect()
    };
    let rows: Vec<Vec<String>> = patients.iter().map(row).collect();
    table(text, &["patients of group", "train", "val", "test"], &rows);
}

/// Least, middle and largest of some numbers.
fn spread(name: &str, mut values: Vec<f64>, digits: usize) -> Vec<String> {
    values.sort_by(f64::total_cmp);
    let show = |value: Option<&f64>| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    vec![name.to_owned(), show(values.first()), show(values.get(values.len() / 2)), show(values.last())]
}

fn table(text: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}
