//! Memory of a run before it runs: a multiple of the graph's largest value, corrected by what runs really took. Pure.

use std::collections::BTreeMap;

/// Supposed of a graph that has never run: a decoder of SDXL's shape has two and a half of its largest value in use, and its
/// allocator takes twice that.
const SUPPOSED: f64 = 5.0;
/// Added to every estimate: sizes between the measured ones do not grow exactly in proportion.
const MARGIN: f64 = 1.05;
/// What the allocator takes for the smallest run, and so no measure of a larger one.
const LEAST: u64 = 4 << 20;
/// How much of an old factor stays when a run took less.
const KEPT: f64 = 0.75;

/// Factors by graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Estimator {
    factors: BTreeMap<String, f64>,
}

/// A graph's factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor {
    factor: f64,
    /// Whether a run has been measured.
    pub is_measured: bool,
}

impl Factor {
    /// Estimated bytes of a run whose largest value has `base_bytes`.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float saturates as it becomes an integer"
    )]
    pub fn bytes(&self, base_bytes: u64) -> u64 {
        ((base_bytes as f64 * self.factor * MARGIN) as u64).saturating_add(LEAST)
    }
}

impl Estimator {
    /// Begins with factors that were learned before.
    #[must_use]
    pub fn with_factors(factors: BTreeMap<String, f64>) -> Self {
        let factors = factors.into_iter().filter(|(_, factor)| factor.is_finite() && *factor > 0.0).collect();
        Self { factors }
    }

    /// What has been learned, by the graph's key.
    #[must_use]
    pub fn factors(&self) -> &BTreeMap<String, f64> {
        &self.factors
    }

    /// The factor of this graph.
    #[must_use]
    pub fn factor(&self, key: &str) -> Factor {
        let learned = self.factors.get(key).copied();
        Factor { factor: learned.unwrap_or(SUPPOSED), is_measured: learned.is_some() }
    }

    /// Takes a measurement: at once when a run took more than supposed, slowly when it took less.
    pub fn learn(&mut self, key: &str, base_bytes: u64, peak_bytes: u64) {
        if base_bytes == 0 || peak_bytes <= LEAST {
            return;
        }
        let measured = peak_bytes.saturating_sub(LEAST) as f64 / base_bytes as f64;
        let factor = self.factors.entry(key.to_owned()).or_insert(measured);
        *factor = if measured > *factor { measured } else { *factor * KEPT + measured * (1.0 - KEPT) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_that_was_measured_is_not_underestimated_when_it_runs_again(
            runs in proptest::collection::vec((1_u64..1 << 40, 1_u64..1 << 40), 1..20)
        ) {
            let mut estimator = Estimator::default();
            let mut learned = false;
            for (base, peak) in runs {
                estimator.learn("g", base, peak);
                learned |= peak > LEAST;
                let factor = estimator.factor("g");
                prop_assert_eq!(factor.is_measured, learned);
                prop_assert!(factor.bytes(base) >= peak);
            }
        }
    }

    #[test]
    fn a_supposed_factor_gives_way_to_a_measured_one() {
        let mut estimator = Estimator::default();
        let supposed = estimator.factor("g").bytes(1 << 30);
        estimator.learn("g", 1 << 30, 2 << 30);
        assert!(estimator.factor("g").bytes(1 << 30) < supposed);
        assert_eq!(estimator.factor("other").bytes(1 << 30), supposed);
        let kept = Estimator::with_factors(estimator.factors().clone());
        assert_eq!(kept, estimator);
    }
}
