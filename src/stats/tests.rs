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

/// What `scripts/fixtures_stats.py` wrote.
#[derive(serde::Deserialize)]
struct Fixture {
    means: Vec<Mean>,
    class_means: Vec<ClassMeans>,
    signed_ranks: Vec<Ranked>,
    corrections: Vec<Corrected>,
    friedmans: Vec<Blocks>,
    summaries: Vec<Summarised>,
}

#[derive(serde::Deserialize)]
struct Mean {
    values: Vec<f64>,
    interval: (f64, f64),
}

#[derive(serde::Deserialize)]
struct ClassMeans {
    sums: Vec<Vec<f64>>,
    volumes: Vec<Vec<f64>>,
    interval: (f64, f64),
}

#[derive(serde::Deserialize)]
struct Ranked {
    differences: Vec<f64>,
    statistic: f64,
    p: f64,
}

#[derive(serde::Deserialize)]
struct Corrected {
    p: Vec<f64>,
    holm: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Blocks {
    rows: Vec<Vec<f64>>,
    statistic: f64,
    p: f64,
    mean_ranks: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Summarised {
    values: Vec<f64>,
    mean: f64,
    sd: f64,
    interval: (f64, f64),
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../tests/fixtures/stats.json")).expect("a valid fixture")
}

/// Equal to 1e-9, relative for small numbers: p values of 1e-12 are compared, too.
fn assert_close(ours: f64, theirs: f64, what: &str) {
    let within = 1e-9 * theirs.abs().clamp(f64::MIN_POSITIVE, 1.0);
    assert!((ours - theirs).abs() <= within.max(1e-9 * theirs.abs()), "{what}: {ours} against {theirs}");
}

fn assert_interval(ours: Option<(f64, f64)>, theirs: (f64, f64), what: &str) {
    let (low, high) = ours.unwrap_or_else(|| panic!("{what}: no interval"));
    assert_close(low, theirs.0, what);
    assert_close(high, theirs.1, what);
}

#[test]
fn bootstrap_intervals_are_scipys() {
    let fixture = fixture();
    for case in &fixture.means {
        let n = case.values.len();
        let ours = Resamples::new(n, RESAMPLES).of_mean(&case.values);
        assert_interval(ours, case.interval, &format!("mean of {n}"));
        // One class with one volume a patient is the mean.
        let as_class =
            Resamples::new(n, RESAMPLES).of_class_means(std::slice::from_ref(&case.values), &[vec![1.0; n]]);
        assert_interval(as_class, case.interval, &format!("class mean of {n}"));
    }
    for case in &fixture.class_means {
        let n = case.sums[0].len();
        let ours = Resamples::new(n, RESAMPLES).of_class_means(&case.sums, &case.volumes);
        assert_interval(ours, case.interval, &format!("{} classes of {n} patients", case.sums.len()));
    }
}

#[test]
fn a_class_that_a_resample_misses_is_left_out_of_it() {
    // The second class has volumes of one patient only, whom many resamples do not draw.
    let (sums, volumes) = (vec![vec![1.0, 1.0], vec![0.0, 3.0]], vec![vec![1.0, 1.0], vec![0.0, 1.0]]);
    let interval = Resamples::new(2, 50).of_class_means(&sums, &volumes);
    assert_eq!(interval, Some((1.0, 2.0)), "(1 + 3)/2 with it, 1 without");
    assert_eq!(Resamples::new(2, 50).of_mean(&[1.0]), None, "another number of patients");
    assert_eq!(Resamples::new(1, 50).of_mean(&[1.0]), None, "one patient says nothing of others");
    assert_eq!(Resamples::new(0, 50).of_mean(&[]), None);
    assert_eq!(Resamples::new(0, 50).of_class_means(&[], &[]), None);
}

#[test]
fn signed_ranks_are_scipys() {
    let cases = fixture().signed_ranks;
    let mut methods = Vec::new();
    for case in &cases {
        let what = format!("{} differences", case.differences.len());
        let ours = signed_rank(&case.differences).expect("finite differences");
        assert_close(ours.statistic, case.statistic, &what);
        assert_close(ours.p, case.p, &what);
        methods.push(ours.method);
        // Which of the two rows is named first changes nothing.
        let turned: Vec<f64> = case.differences.iter().map(|d| -d).collect();
        assert_eq!(signed_rank(&turned), Some(ours));
    }
    assert!(methods.contains(&Method::Exact) && methods.contains(&Method::Normal));
    assert!(cases.len() > 30, "{} cases", cases.len());
    assert_eq!(signed_rank(&[]), None);
    assert_eq!(signed_rank(&[0.1, f64::NAN]), None);
    // SciPy has NaN here.
    assert_eq!(signed_rank(&[0.0; 60]).map(|test| test.p), Some(1.0));
}

#[test]
fn corrections_are_statsmodels() {
    for case in fixture().corrections {
        for (ours, theirs) in holm(&case.p).into_iter().zip(&case.holm) {
            assert_close(ours, *theirs, "Holm");
        }
    }
    assert!(holm(&[]).is_empty());
}

#[test]
fn friedman_is_scipys() {
    for case in fixture().friedmans {
        let what = format!("{} methods", case.rows.len());
        let ours = friedman(&case.rows).expect("enough methods");
        assert_close(ours.statistic, case.statistic, &what);
        assert_close(ours.p, case.p, &what);
        for (ours, theirs) in ours.mean_ranks.iter().zip(&case.mean_ranks) {
            assert_close(*ours, *theirs, &what);
        }
    }
    assert_eq!(friedman(&[]), None);
    assert_eq!(friedman(&[vec![1.0], vec![2.0]]), None, "two methods are a signed-rank test");
    assert_eq!(friedman(&[vec![1.0], vec![1.0], vec![1.0]]), None, "no patient has a ranking");
    assert_eq!(friedman(&[vec![1.0], vec![2.0], vec![]]), None);
}

#[test]
fn summaries_are_scipys() {
    for case in fixture().summaries {
        let ours = Summary::of(&case.values).expect("values");
        assert_close(ours.mean, case.mean, "mean");
        assert_close(ours.sd.expect("two values"), case.sd, "SD");
        assert_interval(ours.interval, case.interval, "Student's interval");
    }
}
