//! Means, spreads, intervals and tests.
//!
//! | what | over | here | equal to |
//! |---|---|---|---|
//! | mean, sample SD, Student's interval | seeds | [`Summary`] | NumPy, `scipy.stats.t.interval` |
//! | 95 % percentile bootstrap | patients | [`Resamples`] | `scipy.stats.bootstrap(method="percentile")` |
//! | paired signed-rank test | patients | [`signed_rank`] | `scipy.stats.wilcoxon` |
//! | step-down correction | comparisons | [`holm`] | statsmodels' `multipletests(method="holm")` |
//! | ranks of several methods | patients | [`friedman`] | `scipy.stats.friedmanchisquare` |
//!
//! All of them agree with SciPy 1.17.1 and statsmodels 0.15.0 to 1e-9 (`scripts/fixtures_stats.py`).

mod bootstrap;
mod rank;

pub use bootstrap::{RESAMPLES, Resamples};
pub use rank::{Friedman, Method, SignedRank, friedman, holm, ranks, signed_rank};

/// Mean, sample standard deviation and 95 % interval of the mean of a handful of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (divided by n − 1); `None` for a single value.
    pub sd: Option<f64>,
    /// The 95 % interval of the mean by Student's t with n − 1 degrees of freedom; `None` for a single value.
    pub interval: Option<(f64, f64)>,
}

impl Summary {
    /// Summarises `values`; `None` where there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mean = mean(values)?;
        let sd = sample_sd(values);
        let interval = sd.map(|sd| {
            let half = t_quantile_two_sided(0.95, values.len() - 1) * sd / (values.len() as f64).sqrt();
            (mean - half, mean + half)
        });
        Some(Self { n: values.len(), mean, sd, interval })
    }
}

/// The `q`-quantile, 0 ≤ q ≤ 1, of `values` (not empty; reordered), interpolated linearly as NumPy's `percentile` does.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    let position = (values.len() - 1) as f64 * q;
    let (index, t) = (position.floor() as usize, position.fract());
    let (_, &mut low, above) = values.select_nth_unstable_by(index, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    // NumPy's `_lerp`: from the nearer end, so that both ends are met exactly.
    if t < 0.5 { low + (high - low) * t } else { high - (high - low) * (1.0 - t) }
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sample standard deviation (divided by n − 1); `None` below two values.
pub fn sample_sd(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// P(|T| ≤ t) of Student's t with a whole number of degrees of freedom ≥ 1, by its finite series (Abramowitz and
/// Stegun, 26.7.3 and 26.7.4).
fn t_probability(t: f64, freedom: usize) -> f64 {
    let theta = (t / (freedom as f64).sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    let odd = freedom % 2 == 1;
    // Odd: cos + 2/3 cos³ + 2·4/(3·5) cos⁵ + …; even: 1 + 1/2 cos² + 1·3/(2·4) cos⁴ + …; up to cos^(ν−2).
    let mut term = if odd { cos } else { 1.0 };
    let mut sum = 0.0;
    let mut power = usize::from(odd);
    while power + 2 <= freedom {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    if odd { std::f64::consts::FRAC_2_PI * (theta + sin * sum) } else { sin * sum }
}

/// The t with P(|T| ≤ t) = `probability`, 0 < `probability` < 1, by bisection to the last bit.
fn t_quantile_two_sided(probability: f64, freedom: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while t_probability(high, freedom) < probability {
        high *= 2.0;
    }
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if t_probability(middle, freedom) < probability { low = middle } else { high = middle }
    }
}

#[cfg(test)]
mod tests;
