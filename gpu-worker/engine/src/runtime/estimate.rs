//! Memory of a run before it runs: a multiple of the graph's largest value, corrected by what runs really took. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    factors: BTreeMap<String, Learned>,
}

/// What runs of one graph taught.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Memory per byte of the largest value.
    pub factor: f64,
    /// The largest value, in bytes, of the largest run so far.
    pub largest_bytes: u64,
    /// What that run took per byte: the factor does not fall below it.
    pub floor: f64,
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
    pub fn with_factors(factors: BTreeMap<String, Learned>) -> Self {
        let factors = factors.into_iter().filter(|(_, learned)| learned.factor.is_finite() && learned.factor > 0.0);
        let factors = factors.collect();
        Self { factors }
    }

    /// What has been learned, by the graph's key.
    #[must_use]
    pub fn factors(&self) -> &BTreeMap<String, Learned> {
        &self.factors
    }

    /// The factor of this graph.
    #[must_use]
    pub fn factor(&self, key: &str) -> Factor {
        let learned = self.factors.get(key).map(|learned| learned.factor);
        Factor { factor: learned.unwrap_or(SUPPOSED), is_measured: learned.is_some() }
    }

    /// Takes a measurement: at once when a run took more than supposed, slowly when it took less, and never to less than the
    /// largest run took.
    pub fn learn(&mut self, key: &str, base_bytes: u64, peak_bytes: u64) {
        if base_bytes == 0 || peak_bytes <= LEAST {
            return;
        }
        let measured = peak_bytes.saturating_sub(LEAST) as f64 / base_bytes as f64;
        let first = Learned { factor: measured, largest_bytes: base_bytes, floor: measured };
        let learned = self.factors.entry(key.to_owned()).or_insert(first);
        if base_bytes > learned.largest_bytes {
            (learned.largest_bytes, learned.floor) = (base_bytes, measured);
        } else if base_bytes == learned.largest_bytes {
            learned.floor = learned.floor.max(measured);
        }
        let slowly = learned.factor * KEPT + measured * (1.0 - KEPT);
        learned.factor = if measured > learned.factor { measured } else { slowly.max(learned.floor) };
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

    proptest! {
        #[test]
        fn small_runs_do_not_talk_the_largest_down(
            largest in (1_u64 << 30..1 << 40, 1_u64 << 30..1 << 40),
            runs in proptest::collection::vec((1_u64..1 << 30, 1_u64..1 << 40), 1..40)
        ) {
            let mut estimator = Estimator::default();
            estimator.learn("g", largest.0, largest.1);
            for (base, peak) in runs {
                estimator.learn("g", base, peak);
                prop_assert!(estimator.factor("g").bytes(largest.0) >= largest.1);
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
