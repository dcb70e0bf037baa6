//! Means, spreads and intervals over the seeds of one configuration.

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
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_scipys() {
        // scipy.stats.t.ppf(0.975, n), SciPy 1.17.1
        for (freedom, expected) in [
            (1, 12.706_204_736_174_7),
            (2, 4.302_652_729_749_46),
            (3, 3.182_446_305_283_71),
            (4, 2.776_445_105_197_79),
            (5, 2.570_581_835_636_31),
            (9, 2.262_157_162_798_2),
            (10, 2.228_138_851_986_27),
            (30, 2.042_272_456_301_24),
            (99, 1.984_216_951_586_42),
        ] {
            let got = t_quantile_two_sided(0.95, freedom);
            assert!((got - expected).abs() < 1e-11 * expected, "{freedom} degrees of freedom: {got}");
        }
    }

    #[test]
    fn summaries_are_numpys_and_scipys() {
        // numpy.mean, numpy.std(ddof=1), scipy.stats.t.interval(0.95, n-1, mean, sem)
        let summary = Summary::of(&[0.8125, 0.8471, 0.7904, 0.8333, 0.8019]).expect("five values");
        let (low, high) = summary.interval.expect("five values");
        let got = [summary.mean, summary.sd.expect("five values"), low, high];
        let expected = [0.81704, 0.023_062_480_352_295_2, 0.788_404_148_437_274, 0.845_675_851_562_727];
        for (ours, theirs) in got.into_iter().zip(expected) {
            assert!((ours - theirs).abs() < 1e-12, "{got:?}");
        }
    }

    #[test]
    fn few_values_have_no_spread() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]), Some(Summary { n: 1, mean: 3.0, sd: None, interval: None }));
        assert_eq!(sample_sd(&[2.0, 2.0]), Some(0.0));
    }
}
