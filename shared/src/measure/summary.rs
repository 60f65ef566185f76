//! What a series of seconds says: percentiles by nearest rank, the median's deviation, outliers by name.

use serde::{Deserialize, Serialize};

/// An outlier lies this many scaled median absolute deviations from the median (Iglewicz and Hoaglin).
pub const OUTLIER_FACTOR: f64 = 3.5;

/// Makes the median absolute deviation of normal noise its standard deviation.
const MAD_SCALE: f64 = 1.4826;

/// The deviation counts as at least this part of the median: where most samples are equal to the clock's resolution, the
/// smallest difference would be an outlier otherwise.
const MAD_FLOOR: f64 = 0.001;

/// A sample far from the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Outlier {
    /// Its place in the series, from 0.
    pub index: usize,
    /// Its value.
    pub seconds: f64,
    /// How many scaled median absolute deviations it is from the median; negative for one that is faster.
    pub deviations: f64,
}

/// What a series of seconds says. All percentiles are samples that were measured (nearest rank), none is interpolated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Summary {
    /// Samples.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// The fastest.
    pub min: f64,
    /// One in ten is at most this.
    pub p10: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// Ninety-five in a hundred are at most this.
    pub p95: f64,
    /// Ninety-nine in a hundred are at most this.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
    /// Median absolute deviation from the median.
    pub mad: f64,
    /// Samples more than [`OUTLIER_FACTOR`] scaled deviations from the median. They stay in all figures.
    pub outliers: Vec<Outlier>,
}

/// The smallest sample that at least `part` of all samples are not above, of samples in ascending order; none of nothing.
/// `part` is from 0 to 1.
pub fn percentile(ascending: &[f64], part: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let rank = (part.clamp(0.0, 1.0) * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.saturating_sub(1).min(last)).copied()
}

/// The median by nearest rank, of samples in any order; none of nothing.
pub fn median(samples: &[f64]) -> Option<f64> {
    percentile(&ascending(samples), 0.5)
}

fn ascending(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

impl Summary {
    /// What these samples say; none of no samples, or of some that are no numbers.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if !samples.iter().all(|sample| sample.is_finite()) {
            return None;
        }
        let sorted = ascending(samples);
        let at = |part| percentile(&sorted, part);
        let p50 = at(0.5)?;
        let mad = median(&samples.iter().map(|sample| (sample - p50).abs()).collect::<Vec<_>>())?;
        Some(Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            min: at(0.0)?,
            p10: at(0.1)?,
            p50,
            p90: at(0.9)?,
            p95: at(0.95)?,
            p99: at(0.99)?,
            max: at(1.0)?,
            mad,
            outliers: outliers(samples, p50, mad),
        })
    }
}

fn outliers(samples: &[f64], p50: f64, mad: f64) -> Vec<Outlier> {
    let unit = (mad * MAD_SCALE).max(p50.abs() * MAD_FLOOR);
    if unit <= 0.0 {
        return Vec::new();
    }
    let far = |(index, seconds): (usize, &f64)| {
        let deviations = (seconds - p50) / unit;
        (deviations.abs() > OUTLIER_FACTOR).then_some(Outlier { index, seconds: *seconds, deviations })
    };
    samples.iter().enumerate().filter_map(far).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        for (part, expected) in [(0.0, 1.0), (0.01, 1.0), (0.1, 10.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(percentile(&samples, part), Some(expected), "{part}");
        }
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.9), Some(3.0));
        assert_eq!((percentile(&[], 0.5), Summary::of(&[]), Summary::of(&[f64::NAN])), (None, None, None));
    }

    #[test]
    fn the_slow_one_is_named_and_small_noise_is_not() {
        let mut samples = vec![1.00, 1.01, 0.99, 1.02, 0.98, 1.01];
        assert_eq!(Summary::of(&samples).unwrap().outliers, []);
        samples.insert(2, 1.5);
        let summary = Summary::of(&samples).unwrap();
        let [outlier] = summary.outliers[..] else { panic!("{summary:?}") };
        assert!(outlier.index == 2 && outlier.seconds == 1.5 && outlier.deviations > 20.0, "{outlier:?}");
        // equal to the clock's resolution: the deviation is not taken for zero
        assert_eq!(Summary::of(&[1.0, 1.0, 1.0, 1.001]).unwrap().outliers, []);
    }
}
