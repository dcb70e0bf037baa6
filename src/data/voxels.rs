//! Stored numbers as intensities in [0, 1] and as classes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};

/// How far an intensity may stray from `[0, 1]`: the rounding of float64 to float32.
const SLACK: f32 = 1e-6;

/// How the intensities of a volume come to lie in [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Intensity {
    /// They do.
    Given,
    /// (x − min)/(max − min) over the volume, in double precision: SSL4MIS's.
    #[default]
    MinMax,
    /// As `MinMax` between two percentiles of the volume, each in [0, 100]; what lies beyond is cut off.
    Percentiles(f64, f64),
    /// Between two values, such as Hounsfield units; what lies beyond is cut off.
    Window(f64, f64),
}

impl Intensity {
    /// Scales the volume of `path`.
    ///
    /// # Errors
    /// Intensities that are no numbers, that are not in [0, 1] where they should be, or that are all the same; names
    /// the file and the place.
    pub(super) fn scale(self, mut values: Vec<f32>, shape: [usize; 3], path: &Path) -> Result<Vec<f32>> {
        let place = path.display();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!(
                "{place} has the intensity {} at {}: repair or remove the volume",
                values[at],
                voxel(at, shape)
            );
        }
        let (low, high) = match self {
            Self::Given => {
                let outside = |value: &f32| !(-SLACK..=1.0 + SLACK).contains(value);
                if let Some(at) = values.iter().position(outside) {
                    bail!(
                        "{place} has the intensity {} at {}: scale each volume to [0, 1]",
                        values[at],
                        voxel(at, shape)
                    );
                }
                for value in &mut values {
                    *value = value.clamp(0.0, 1.0);
                }
                return Ok(values);
            }
            Self::MinMax => {
                let [low, high] = range(&values);
                (f64::from(low), f64::from(high))
            }
            Self::Percentiles(low, high) => percentiles(&values, low, high),
            Self::Window(low, high) => (low, high),
        };
        ensure!(
            high > low,
            "{place} has the same intensity ({low}) everywhere it matters: it cannot be scaled; remove the volume"
        );
        for value in &mut values {
            *value = ((f64::from(*value) - low) / (high - low)).clamp(0.0, 1.0) as f32;
        }
        Ok(values)
    }
}

/// The extremes.
pub(super) fn range(values: &[f32]) -> [f32; 2] {
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    [low, high]
}

/// Two percentiles, linear between neighbours, as `numpy.percentile` has them.
fn percentiles(values: &[f32], low: f64, high: f64) -> (f64, f64) {
    let mut values = values.to_vec();
    let mut at = |percent: f64| {
        let place = percent / 100.0 * values.len().saturating_sub(1) as f64;
        let below = place.floor() as usize;
        let (_, &mut lower, above) = values.select_nth_unstable_by(below, f32::total_cmp);
        let upper = above.iter().copied().min_by(f32::total_cmp).unwrap_or(lower);
        f64::from(lower) + (f64::from(upper) - f64::from(lower)) * place.fract()
    };
    (at(low), at(high))
}

/// Which class each stored code stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Codes(Option<BTreeMap<i64, u8>>);

impl Codes {
    /// The classes of the codes named; 0 is the background unless it is named, too.
    pub(super) fn new(pairs: impl IntoIterator<Item = (i64, u8)>) -> Self {
        let mut map = BTreeMap::from([(0, 0)]);
        map.extend(pairs);
        Self(Some(map))
    }

    /// The classes of the label map `values` of `path`.
    ///
    /// # Errors
    /// A number that is no code; names the file, the place and the codes.
    pub(super) fn classes(
        &self,
        values: &[f32],
        shape: [usize; 3],
        path: &Path,
        names: &[String],
    ) -> Result<Vec<u8>> {
        // Label maps have few codes: the last one is nearly always the next one, too.
        let mut last = (f32::NAN, 0);
        let mut classes = Vec::with_capacity(values.len());
        for (at, &value) in values.iter().enumerate() {
            if value != last.0 {
                let Some(class) = self.class(value, names.len()) else {
                    bail!(
                        "{} has the label {value} at {}: labels are {}",
                        path.display(),
                        voxel(at, shape),
                        self.told(names)
                    );
                };
                last = (value, class);
            }
            classes.push(last.1);
        }
        Ok(classes)
    }

    fn class(&self, value: f32, classes: usize) -> Option<u8> {
        // 2^24: whole numbers are exact up to there.
        if value.fract() != 0.0 || value.abs() > 16_777_216.0 {
            return None;
        }
        let code = value as i64;
        match &self.0 {
            Some(map) => map.get(&code).copied(),
            None => u8::try_from(code).ok().filter(|&class| usize::from(class) < classes),
        }
    }

    fn told(&self, names: &[String]) -> String {
        match &self.0 {
            Some(map) => {
                let codes: Vec<String> = map.keys().map(i64::to_string).collect();
                codes.join(", ")
            }
            None => format!("0 to {} ({})", names.len() - 1, names.join(", ")),
        }
    }
}

/// Where a voxel lies, for people.
pub(super) fn voxel(at: usize, shape: [usize; 3]) -> String {
    let (z, pixel) = (at / (shape[1] * shape[2]), at % (shape[1] * shape[2]));
    format!("slice {}, row {}, column {}", z + 1, pixel / shape[2], pixel % shape[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        ["background", "a", "b", "c"][..count].iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_extremes_of_a_volume_become_0_and_1_as_numpy_computes_them() {
        let scaled = Intensity::MinMax.scale(vec![3.0, 10.0, 5.0, 4.0], [1, 2, 2], Path::new("a")).unwrap();
        assert_eq!(scaled, [0.0, 1.0, (2.0f64 / 7.0) as f32, (1.0f64 / 7.0) as f32]);
    }

    #[test]
    fn percentiles_and_windows_cut_off_what_lies_beyond() {
        let values: Vec<f32> = (0..=10).map(|v| v as f32).collect();
        assert_eq!(percentiles(&values, 15.0, 90.0), (1.5, 9.0), "as numpy.percentile");
        let shape = [1, 1, 11];
        let scaled = Intensity::Percentiles(10.0, 90.0).scale(values.clone(), shape, Path::new("a")).unwrap();
        assert_eq!((scaled[0], scaled[1], scaled[5], scaled[9], scaled[10]), (0.0, 0.0, 0.5, 1.0, 1.0));
        let scaled = Intensity::Window(2.0, 4.0).scale(values, shape, Path::new("a")).unwrap();
        assert_eq!((scaled[1], scaled[3], scaled[8]), (0.0, 0.5, 1.0));
    }

    #[test]
    fn what_cannot_be_scaled_names_file_and_place() {
        let refused = |intensity: Intensity, values: Vec<f32>| {
            intensity.scale(values, [1, 1, 2], Path::new("x.nii")).unwrap_err().to_string()
        };
        assert!(
            refused(Intensity::MinMax, vec![0.0, f32::NAN])
                .contains("x.nii has the intensity NaN at slice 1")
        );
        assert!(refused(Intensity::MinMax, vec![2.0, 2.0]).contains("cannot be scaled"));
        assert!(refused(Intensity::Given, vec![0.0, 1.5]).contains("scale each volume"));
    }

    #[test]
    fn codes_become_classes_and_others_are_refused() {
        let classes = |codes: &Codes, values: &[f32]| {
            codes.classes(values, [1, 1, values.len()], Path::new("x.nii"), &names(4))
        };
        assert_eq!(classes(&Codes::default(), &[0.0, 3.0, 1.0]).unwrap(), [0, 3, 1]);
        let swapped = Codes::new([(1, 3), (2, 2), (3, 1)]);
        assert_eq!(classes(&swapped, &[1.0, 2.0, 3.0, 0.0]).unwrap(), [3, 2, 1, 0]);
        for (codes, value, told) in
            [(Codes::default(), 4.0, "0 to 3 (background, a, b, c)"), (swapped, 9.0, "0, 1, 2, 3")]
        {
            let error = classes(&codes, &[0.0, value]).unwrap_err().to_string();
            assert!(error.contains("x.nii has the label") && error.contains(told), "{error}");
        }
        for value in [0.5, -1.0, f32::NAN, f32::INFINITY, 1e20] {
            assert!(classes(&Codes::default(), &[value]).is_err(), "{value}");
        }
    }
}
