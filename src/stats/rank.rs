//! Tests on ranks, and the correction for several of them.

/// Pairs up to which the exact distribution is used where no difference is zero or tied.
const EXACT: usize = 50;
/// Pairs up to which it is used in any case.
const EXACT_TIED: usize = 13;

/// How a p value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// From the distribution of the statistic itself.
    Exact,
    /// From the normal approximation, its variance corrected for ties.
    Normal,
}

/// A paired Wilcoxon signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignedRank {
    /// Pairs, those that do not differ included.
    pub pairs: usize,
    /// The smaller one of the sums of ranks of positive and of negative differences.
    pub statistic: f64,
    /// The two-sided p value.
    pub p: f64,
    /// How it was found.
    pub method: Method,
}

/// Tests whether `differences` (paired) are symmetric about 0, as `scipy.stats.wilcoxon` does by default: differences
/// of 0 are dropped; exact up to 50 pairs without zeros and ties and up to 13 with them, else by the normal
/// approximation without continuity correction. Where no pair differs, p is 1. `None` of nothing, or of anything that
/// is not finite.
pub fn signed_rank(differences: &[f64]) -> Option<SignedRank> {
    if differences.is_empty() || differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let pairs = differences.len();
    let differing: Vec<f64> = differences.iter().copied().filter(|&d| d != 0.0).collect();
    let sizes: Vec<f64> = differing.iter().map(|d| d.abs()).collect();
    let (ranks, ties) = ranks_and_ties(&sizes);
    let sum_where = |test: fn(f64) -> bool| -> f64 {
        differing.iter().zip(&ranks).filter(|(d, _)| test(**d)).map(|(_, rank)| rank).sum()
    };
    let (plus, minus) = (sum_where(|d| d > 0.0), sum_where(|d| d < 0.0));
    let irregular = differing.len() < pairs || ties > 0.0;
    let (method, p) = if pairs <= EXACT_TIED || (pairs <= EXACT && !irregular) {
        (Method::Exact, exact(&ranks, plus))
    } else {
        (Method::Normal, normal(differing.len() as f64, ties, plus))
    };
    Some(SignedRank { pairs, statistic: plus.min(minus), p, method })
}

/// Twice the smaller tail of the sum of the ranks of positive differences, each sign being as likely. Ranks are
/// multiples of ½, so that twice their sums are whole; the counts, at most 2⁵⁰, are exact.
fn exact(ranks: &[f64], plus: f64) -> f64 {
    let doubled: Vec<usize> = ranks.iter().map(|rank| (2.0 * rank).round() as usize).collect();
    let mut ways = vec![0.0; doubled.iter().sum::<usize>() + 1];
    ways[0] = 1.0;
    let mut reach = 0;
    for rank in doubled {
        reach += rank;
        for sum in (rank..=reach).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    let at = (2.0 * plus).round() as usize;
    let all = 2.0_f64.powi(ranks.len() as i32);
    let (below, above): (f64, f64) = (ways[..=at].iter().sum(), ways[at..].iter().sum());
    (2.0 * below.min(above) / all).min(1.0)
}

/// The two-sided p value of the normal approximation; `ties` is Σ(t³ − t) over groups of t equal sizes.
fn normal(n: f64, ties: f64, plus: f64) -> f64 {
    let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - ties / 2.0) / 24.0;
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (plus - n * (n + 1.0) / 4.0) / variance.sqrt();
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// The ranks of `values` from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    ranks_and_ties(values).0
}

/// The ranks, and Σ(t³ − t) over the groups of t equal values.
fn ranks_and_ties(values: &[f64]) -> (Vec<f64>, f64) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut ranks, mut ties) = (vec![0.0; values.len()], 0.0);
    let mut start = 0;
    while start < order.len() {
        let equal = order[start..].iter().take_while(|&&at| values[at] == values[order[start]]).count();
        let size = equal as f64;
        for &at in &order[start..start + equal] {
            ranks[at] = start as f64 + f64::midpoint(size, 1.0);
        }
        ties += size.powi(3) - size;
        start += equal;
    }
    (ranks, ties)
}

/// Holm's step-down correction of p values (Scandinavian Journal of Statistics 6, 1979): in the order of `p`, each as
/// it compares with the level of the whole family.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 0.0_f64;
    for (place, &at) in order.iter().enumerate() {
        least = least.max((p.len() - place) as f64 * p[at]).min(1.0);
        adjusted[at] = least;
    }
    adjusted
}

/// A Friedman test of several methods over the same patients.
#[derive(Clone, Debug, PartialEq)]
pub struct Friedman {
    /// Patients.
    pub blocks: usize,
    /// The mean rank of each method; 1 is that of the smallest values.
    pub mean_ranks: Vec<f64>,
    /// The statistic, corrected for ties.
    pub statistic: f64,
    /// Its p value, by χ² with one degree of freedom less than there are methods.
    pub p: f64,
}

/// Tests whether the methods' values (`rows` a method, its values a patient) have the same ranks. `None` for fewer than
/// three methods, without patients, for lists of different lengths, or where every patient has one value throughout.
pub fn friedman(rows: &[Vec<f64>]) -> Option<Friedman> {
    let (methods, blocks) = (rows.len(), rows.first()?.len());
    if methods < 3 || blocks == 0 || rows.iter().any(|row| row.len() != blocks) {
        return None;
    }
    let (mut sums, mut ties) = (vec![0.0; methods], 0.0);
    for block in 0..blocks {
        let values: Vec<f64> = rows.iter().map(|row| row[block]).collect();
        let (ranks, tied) = ranks_and_ties(&values);
        sums.iter_mut().zip(ranks).for_each(|(sum, rank)| *sum += rank);
        ties += tied;
    }
    let (k, n) = (methods as f64, blocks as f64);
    let correction = 1.0 - ties / (k * (k * k - 1.0) * n);
    if correction <= 0.0 {
        return None;
    }
    let squares: f64 = sums.iter().map(|sum| sum * sum).sum();
    let statistic = (12.0 / (k * n * (k + 1.0)) * squares - 3.0 * n * (k + 1.0)) / correction;
    let mean_ranks = sums.into_iter().map(|sum| sum / n).collect();
    Some(Friedman { blocks, mean_ranks, statistic, p: chi_square_above(statistic, methods - 1) })
}

/// P(χ² ≥ x) for a whole number of degrees of freedom, by its finite series (Abramowitz and Stegun, 26.4.4, 26.4.5).
fn chi_square_above(x: f64, freedom: usize) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let half = x / 2.0;
    // Odd: the normal tail, then x^(r−½)/(1·3·…); even: e^(−x/2)·Σ(x/2)^r/r!.
    let odd = freedom % 2 == 1;
    let mut term = if odd { (half / std::f64::consts::PI).sqrt() * 2.0 } else { 1.0 };
    let mut sum = 0.0;
    for r in 0..freedom / 2 {
        sum += term;
        term *= half / (r as f64 + if odd { 1.5 } else { 1.0 });
    }
    let tail = if odd { libm::erfc(half.sqrt()) } else { 0.0 };
    tail + (-half).exp() * sum
}
