//! The critical-difference diagram (Demšar, JMLR 7, 2006): mean ranks of configurations over patients, those joined that
//! Nemenyi's test does not tell apart.

use std::f64::consts::{PI, SQRT_2};

use anyhow::Result;

use super::chart::{COLUMN, INK, PAGE, SOFT, Scale, TEXT, TICK};
use super::drawing::{Align, Drawing};
use super::figures::{self, Asked, Data, Figure, Source};
use super::rows::shortened;
use crate::stats;

/// More configurations than this are not ranked, for their names do not fit: the best of them are.
const MOST: usize = 24;

/// Ranks of the configurations, best first.
struct Ranking {
    /// Each one's name and mean rank, ascending.
    ranks: Vec<(String, f64)>,
    patients: usize,
    /// The difference of mean ranks that Nemenyi's test tells from chance at 5 %.
    critical: f64,
    /// The p of Friedman's test, where it can be taken.
    friedman: Option<f64>,
}

/// The ranks of the configurations of `x`, patient by patient; `None` of fewer than three, or of fewer than two patients
/// that all of them have.
pub(super) fn draw(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let (axes, groups) = asked.configurations(sweep);
    let mut named: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for group in &groups {
        let values = shown.by_patient(source, &group.points);
        if values.iter().any(Option::is_some) {
            named.push((sweep.describe(&axes, group), values));
        }
    }
    if named.len() < 3 {
        return Ok(None);
    }
    let left_out = best(&mut named, shown.metric.higher);
    let patients: Vec<usize> = (0..source.cases.patients.len())
        .filter(|&at| named.iter().all(|(_, values)| values[at].is_some()))
        .collect();
    if patients.len() < 2 {
        return Ok(None);
    }
    // Rank 1 is the best.
    let sign = if shown.metric.higher { -1.0 } else { 1.0 };
    let columns: Vec<Vec<f64>> = named
        .iter()
        .map(|(_, values)| patients.iter().filter_map(|&at| Some(sign * values[at]?)).collect())
        .collect();
    let ranking = rank(named.into_iter().map(|(name, _)| name).collect(), &columns);
    let mut data = Data::new(&["configuration", "mean_rank", "patients", "critical_difference"]);
    for (name, rank) in &ranking.ranks {
        data.push([
            name.clone(),
            figures::cell(*rank),
            ranking.patients.to_string(),
            figures::cell(ranking.critical),
        ]);
    }
    let p = ranking.friedman.map(|p| if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") });
    let p = p.map(|p| format!(" Friedman's test: p = {p}.")).unwrap_or_default();
    let more = match &left_out[..] {
        [] => String::new(),
        names => format!(
            " Of {} configurations the {MOST} of the best means are ranked; not among them: {}.",
            MOST + names.len(),
            names.join("; ")
        ),
    };
    Ok(Some(Figure {
        slug: format!("ranks_{}_{}", figures::slugs(sweep, &axes), shown.column),
        caption: format!(
            "Mean ranks by {} over {} patients (1 is best). Bars join configurations whose ranks differ by less than the \
             critical difference {:.2} of Nemenyi's test at 5 %: they are not told apart.{p}{more}",
            shown.name(),
            ranking.patients,
            ranking.critical
        ),
        drawing: plot(&ranking),
        data,
    }))
}

/// Keeps the [`MOST`] configurations of the best means, in their order; returns the names of the others.
fn best(named: &mut Vec<(String, Vec<Option<f64>>)>, higher: bool) -> Vec<String> {
    let sign = if higher { -1.0 } else { 1.0 };
    let mean = |values: &[Option<f64>]| {
        stats::mean(&values.iter().flatten().copied().collect::<Vec<_>>()).unwrap_or(f64::NAN)
    };
    let mut order: Vec<(f64, usize)> =
        named.iter().enumerate().map(|(at, (_, values))| (sign * mean(values), at)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let worst: Vec<usize> = order.iter().skip(MOST).map(|(_, at)| *at).collect();
    let (mut kept, mut out) = (Vec::new(), Vec::new());
    for (at, one) in named.drain(..).enumerate() {
        if worst.contains(&at) { out.push(one.0) } else { kept.push(one) }
    }
    *named = kept;
    out
}

/// Ranks columns of values, one for each configuration, where less is better.
fn rank(names: Vec<String>, columns: &[Vec<f64>]) -> Ranking {
    let patients = columns.first().map_or(0, Vec::len);
    let mut sums = vec![0.0; columns.len()];
    for patient in 0..patients {
        let row: Vec<f64> = columns.iter().map(|column| column[patient]).collect();
        sums.iter_mut().zip(stats::ranks(&row)).for_each(|(sum, rank)| *sum += rank);
    }
    let mut ranks: Vec<(String, f64)> =
        names.into_iter().zip(sums.iter().map(|sum| sum / patients as f64)).collect();
    ranks.sort_by(|a, b| a.1.total_cmp(&b.1));
    Ranking {
        ranks,
        patients,
        critical: critical_difference(columns.len(), patients),
        friedman: stats::friedman(columns).map(|test| test.p),
    }
}

/// Nemenyi's critical difference of mean ranks at 5 % for `k` configurations (at least 2) over `n` patients: the
/// studentised range's quantile over √2, times √(k(k + 1)/6n).
fn critical_difference(k: usize, n: usize) -> f64 {
    let (mut low, mut high) = (0.0, 10.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if range_probability(middle, k) < 0.95 { low = middle } else { high = middle }
    }
    let k = k as f64;
    0.5 * (low + high) / SQRT_2 * (k * (k + 1.0) / (6.0 * n as f64)).sqrt()
}

/// P(range of `k` standard normal values ≤ q) = k ∫ φ(z) (Φ(z) − Φ(z − q))^(k−1) dz, by Simpson's rule.
fn range_probability(q: f64, k: usize) -> f64 {
    const STEPS: usize = 2_000;
    let (from, to) = (-8.0, 8.0 + q);
    let below = |z: f64| 0.5 * libm::erfc(-z / SQRT_2);
    let integrand = |z: f64| {
        let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        density * (below(z) - below(z - q)).powi(k as i32 - 1)
    };
    let width = (to - from) / STEPS as f64;
    let weight = |i: usize| match i {
        0 | STEPS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=STEPS).map(|i| weight(i) * integrand(from + width * i as f64)).sum();
    k as f64 * sum * width / 3.0
}

/// The longest runs of `ranks` (ascending) that are not told apart, each as its first and last place; runs of one and
/// runs within others are left out.
fn cliques(ranks: &[f64], critical: f64) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for first in 0..ranks.len() {
        let last = ranks.iter().rposition(|rank| rank - ranks[first] < critical).unwrap_or(first);
        if last > first && found.last().is_none_or(|&(_, end)| last > end) {
            found.push((first, last));
        }
    }
    found
}

fn plot(ranking: &Ranking) -> Drawing {
    let k = ranking.ranks.len();
    let longest = ranking.ranks.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = if k > 10 || longest > 24 { PAGE } else { COLUMN };
    let (left, right) = (f64::from(width) * 0.3, f64::from(width) * 0.7);
    let ranks: Vec<f64> = ranking.ranks.iter().map(|(_, rank)| *rank).collect();
    let groups = cliques(&ranks, ranking.critical);
    let scale = Scale::new(1.0, k as f64, left, right);
    let axis = 50.0;
    let names = axis + 10.0 + 6.0 * groups.len() as f64;
    let half = k.div_ceil(2);
    let line = 14.0;
    let mut drawing = Drawing::new(width, (names + line * half as f64 + 12.0) as u32);
    drawing.line(&[(left, axis), (right, axis)], 1.0, INK);
    for rank in 1..=k {
        let x = scale.at(rank as f64);
        drawing.line(&[(x, axis - 4.0), (x, axis)], 0.8, INK);
        drawing.text(&rank.to_string(), (x, axis - 7.0), TICK, Align::Centre, SOFT);
    }
    drawing.text("Mean rank", (f64::midpoint(left, right), axis - 20.0), TEXT, Align::Centre, INK);
    let (from, to) = (left, (left + (scale.at(1.0 + ranking.critical) - scale.at(1.0))).min(right));
    drawing.line(&[(from, 14.0), (to, 14.0)], 1.4, INK);
    for end in [from, to] {
        drawing.line(&[(end, 11.0), (end, 17.0)], 1.0, INK);
    }
    drawing.text(&format!("CD = {:.2}", ranking.critical), (to + 5.0, 17.0), TICK, Align::Left, INK);
    for (index, (name, rank)) in ranking.ranks.iter().enumerate() {
        let x = scale.at(*rank);
        // The better half is named at the left, from above; the others at the right, from below.
        let better = index < half;
        let place = if better { index } else { k - 1 - index };
        let y = names + line * (place as f64 + 0.5);
        let end = if better { left - 6.0 } else { right + 6.0 };
        drawing.line(&[(x, axis), (x, y), (end, y)], 0.8, INK);
        drawing.dot((x, axis), 1.8, INK);
        let align = if better { Align::Right } else { Align::Left };
        let text = format!("{} {rank:.2}", shortened(name, f64::from(width) * 0.3 - 38.0));
        let text = if better {
            text
        } else {
            format!("{rank:.2} {}", shortened(name, f64::from(width) * 0.3 - 38.0))
        };
        let at = if better { end - 3.0 } else { end + 3.0 };
        drawing.text(&text, (at, y + TEXT * 0.36), TEXT, align, INK);
    }
    for (index, &(first, last)) in groups.iter().enumerate() {
        let y = axis + 6.0 + 6.0 * index as f64;
        drawing.line(&[(scale.at(ranks[first]) - 3.0, y), (scale.at(ranks[last]) + 3.0, y)], 2.6, INK);
    }
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn critical_values_are_those_of_the_studentised_range() {
        // SciPy's studentized_range, by scripts/fixtures_stats.py; Demšar's table 5 rounds them.
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/stats.json")).unwrap();
        let values = fixture["nemenyi"].as_array().unwrap();
        assert_eq!(values.len(), 39);
        let mut largest: f64 = 0.0;
        for value in values {
            let (k, wanted) = (value["k"].as_u64().unwrap() as usize, value["critical"].as_f64().unwrap());
            // k(k + 1)/6n = 1/6.
            let got = critical_difference(k, k * (k + 1)) * 6.0_f64.sqrt();
            largest = largest.max((got - wanted).abs());
        }
        assert!(largest < 1e-9, "differs by {largest:e}");
    }

    #[test]
    fn ranks_are_means_and_ties_share() {
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let ranking = rank(names, &[vec![3.0, 3.0], vec![1.0, 2.0], vec![1.0, 1.0]]);
        let ranks: Vec<(&str, f64)> =
            ranking.ranks.iter().map(|(name, rank)| (name.as_str(), *rank)).collect();
        assert_eq!(ranks, [("c", 1.25), ("b", 1.75), ("a", 3.0)]);
    }

    #[test]
    fn runs_that_are_not_told_apart_are_joined_once() {
        assert_eq!(cliques(&[1.0, 1.5, 2.4, 5.0, 5.1], 1.0), [(0, 1), (1, 2), (3, 4)]);
        assert_eq!(cliques(&[1.0, 1.2, 1.4], 1.0), [(0, 2)]);
        assert!(cliques(&[1.0, 3.0], 1.0).is_empty());
    }
}
