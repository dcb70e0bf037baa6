//! The percentile bootstrap over patients.

/// Resamples drawn for an interval.
pub const RESAMPLES: usize = 2_000;

/// Where the draws begin: the same for every row, so that rows over the same patients are resampled alike.
const SEED: u64 = 0;

/// How often each of n patients was drawn in each of B resamples of n, with replacement.
///
/// The draws are SplitMix64's from a fixed seed, so that intervals are reproducible by ten lines in any language: draw
/// number i of resample b is the product of n and output number b·n + i, divided by 2⁶⁴.
#[derive(Clone, Debug)]
pub struct Resamples {
    patients: usize,
    /// How many resamples there are.
    drawn: usize,
    /// Patient by patient, so that sums over patients run along the resamples.
    counts: Vec<f64>,
}

impl Resamples {
    /// `resamples` resamples of `patients` patients.
    pub fn new(patients: usize, resamples: usize) -> Self {
        let mut counts = vec![0.0; patients * resamples];
        let mut state = SEED;
        for resample in 0..resamples {
            for _ in 0..patients {
                let drawn = ((u128::from(next(&mut state)) * patients as u128) >> 64) as usize;
                counts[drawn * resamples + resample] += 1.0;
            }
        }
        Self { patients, drawn: resamples, counts }
    }

    /// The number of patients.
    pub fn patients(&self) -> usize {
        self.patients
    }

    /// The 95 % interval of the mean of `values`, one a patient; `None` for fewer than two.
    pub fn of_mean(&self, values: &[f64]) -> Option<(f64, f64)> {
        if values.len() != self.patients || values.len() < 2 {
            return None;
        }
        let mut means = self.sums(values);
        for sum in &mut means {
            *sum /= values.len() as f64;
        }
        Some(percentiles(&mut means))
    }

    /// The 95 % interval of a mean over classes of means over volumes: `sums` and `volumes` hold, for each class, each
    /// patient's sum over its volumes and their number. A class of which a resample has no volume is left out of it.
    pub fn of_class_means(&self, sums: &[Vec<f64>], volumes: &[Vec<f64>]) -> Option<(f64, f64)> {
        let fits = |values: &Vec<f64>| values.len() == self.patients;
        if self.patients < 2 || !sums.iter().chain(volumes).all(fits) {
            return None;
        }
        let (mut totals, mut classes) = (vec![0.0; self.drawn], vec![0.0; self.drawn]);
        for (sums, volumes) in sums.iter().zip(volumes) {
            let drawn = self.sums(sums).into_iter().zip(self.sums(volumes));
            for ((sum, count), (total, classes)) in drawn.zip(totals.iter_mut().zip(&mut classes)) {
                if count > 0.0 {
                    *total += sum / count;
                    *classes += 1.0;
                }
            }
        }
        let seen = totals.into_iter().zip(classes).filter(|(_, classes)| *classes > 0.0);
        let mut means: Vec<f64> = seen.map(|(total, classes)| total / classes).collect();
        (!means.is_empty()).then(|| percentiles(&mut means))
    }

    /// The sum of `values`, one a patient, over each resample.
    fn sums(&self, values: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.drawn];
        for (counts, value) in self.counts.chunks_exact(self.drawn.max(1)).zip(values) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count * value);
        }
        sums
    }
}

/// The 2.5th and the 97.5th percentile.
fn percentiles(values: &mut [f64]) -> (f64, f64) {
    (super::quantile(values, 0.025), super::quantile(values, 0.975))
}

/// The next output of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
