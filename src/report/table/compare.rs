//! Rows against one of them: differences, signed-rank tests over patients, and which row is meant.

use super::super::sweep::{Group, Sweep, measure};
use super::Test;
use crate::report::cases::Patients;
use crate::stats;

/// Whether `wanted`, as a sweep file has it, is the value `raw` of a frame: `0.90` is `0.9`, `10 %` is `10%`.
pub(in crate::report) fn is_value(raw: &str, wanted: &str) -> bool {
    let same_number = || measure(raw.trim()).is_some_and(|number| Some(number) == measure(wanted.trim()));
    raw == wanted || same_number()
}

/// Which of `groups` the values `against` name.
pub(super) enum Named {
    /// This one.
    One(usize),
    /// None of them.
    None,
    /// Several.
    Several,
}

/// Finds the row that `against` names.
pub(super) fn named(sweep: &Sweep, groups: &[Group], against: &[(String, String)]) -> Named {
    let point = |&point: &usize| {
        against.iter().all(|(axis, value)| sweep.raw(point, axis).is_some_and(|raw| is_value(&raw, value)))
    };
    let mut found = groups.iter().enumerate().filter(|(_, group)| group.points.iter().all(point));
    match (found.next(), found.next()) {
        (Some((group, _)), None) => Named::One(group),
        (None, _) => Named::None,
        _ => Named::Several,
    }
}

/// Tests each row of a block against the one at `reference`, and corrects for their number.
pub(super) fn tests(rows: &[&Patients], reference: usize) -> Vec<Option<Test>> {
    let found: Vec<Option<stats::SignedRank>> = rows
        .iter()
        .enumerate()
        .map(|(row, patients)| {
            let differences = (row != reference).then(|| patients.less(rows[reference]))?;
            stats::signed_rank(&differences)
        })
        .collect();
    let all: Vec<f64> = found.iter().flatten().map(|test| test.p).collect();
    let mut corrected = stats::holm(&all).into_iter();
    let test = |found: &Option<stats::SignedRank>| {
        let found = (*found)?;
        Some(Test { pairs: found.pairs, p: found.p, holm: corrected.next()? })
    };
    found.iter().map(test).collect()
}
