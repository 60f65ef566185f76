//! What holds of summaries and comparisons of any samples.

use proptest::prelude::*;

use super::*;

fn samples() -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(1e-6_f64..1e3, 1..200)
}

/// A steady series around `center`, with a spread of a tenth of it at most.
fn steady(center: f64, noise: &[f64]) -> Vec<f64> {
    noise.iter().map(|part| center * (1.0 + 0.1 * part)).collect()
}

fn turned(change: Change) -> Change {
    match change {
        Change::Regressed => Change::Improved,
        Change::Improved => Change::Regressed,
        Change::Unchanged => Change::Unchanged,
    }
}

proptest! {
    #[test]
    fn percentiles_are_samples_in_order_and_as_many_lie_below(mut samples in samples(), part in 0.0_f64..=1.0) {
        let summary = Summary::of(&samples).unwrap();
        let order = [summary.min, summary.p10, summary.p50, summary.p90, summary.p95, summary.p99, summary.max];
        prop_assert!(order.is_sorted() && order.iter().all(|value| samples.contains(value)));
        prop_assert!(summary.min <= summary.mean * (1.0 + 1e-9) && summary.mean <= summary.max * (1.0 + 1e-9));
        samples.sort_by(f64::total_cmp);
        let at = percentile(&samples, part).unwrap();
        let not_above = samples.iter().filter(|sample| **sample <= at).count() as f64;
        let below = samples.iter().filter(|sample| **sample < at).count() as f64;
        let wanted = part * samples.len() as f64;
        prop_assert!(not_above >= wanted - 1e-9 && below <= wanted);
    }

    #[test]
    fn outliers_are_few_far_and_independent_of_the_order(samples in samples()) {
        let summary = Summary::of(&samples).unwrap();
        prop_assert!(summary.outliers.len() * 2 <= samples.len());
        for outlier in &summary.outliers {
            prop_assert_eq!(samples[outlier.index], outlier.seconds);
            prop_assert!(outlier.deviations.abs() > OUTLIER_FACTOR);
        }
        let mut reversed = samples.clone();
        reversed.reverse();
        let again = Summary::of(&reversed).unwrap();
        prop_assert_eq!(again.outliers.len(), summary.outliers.len());
        prop_assert_eq!((again.p50, again.mad), (summary.p50, summary.mad));
    }

    #[test]
    fn comparing_the_other_way_round_says_the_opposite(a in samples(), b in samples(), bound in 0.0_f64..1.0) {
        let (a, b) = (Summary::of(&a).unwrap(), Summary::of(&b).unwrap());
        prop_assert_eq!(compare(&b, &a, bound).change, turned(compare(&a, &b, bound).change));
        prop_assert_eq!(compare(&a, &a, bound).change, Change::Unchanged);
    }

    #[test]
    fn a_wider_bound_never_finds_more(a in samples(), b in samples(), bound in 0.0_f64..1.0, more in 0.0_f64..1.0) {
        let (a, b) = (Summary::of(&a).unwrap(), Summary::of(&b).unwrap());
        let (narrow, wide) = (compare(&a, &b, bound).change, compare(&a, &b, bound + more).change);
        prop_assert!(wide == narrow || wide == Change::Unchanged);
    }

    /// Noise alone is no change; a shift beyond noise and bound always is.
    #[test]
    fn shifts_are_found_and_noise_is_not(
        noise in proptest::collection::vec(-1.0_f64..1.0, 5..60),
        other in proptest::collection::vec(-1.0_f64..1.0, 5..60),
        center in 1e-4_f64..10.0,
    ) {
        let before = Summary::of(&steady(center, &noise)).unwrap();
        let same = Summary::of(&steady(center, &other)).unwrap();
        prop_assert_eq!(compare(&before, &same, 0.25).change, Change::Unchanged);
        let slower = Summary::of(&steady(center * 1.6, &other)).unwrap();
        prop_assert_eq!(compare(&before, &slower, 0.25).change, Change::Regressed);
        prop_assert_eq!(compare(&slower, &before, 0.25).change, Change::Improved);
    }
}

#[test]
fn the_worst_change_is_the_verdict() {
    use Change::{Improved, Regressed, Unchanged};
    assert_eq!(verdict([]), Verdict::Incomparable);
    assert_eq!(verdict([Unchanged, Unchanged]), Verdict::Unchanged);
    assert_eq!(verdict([Unchanged, Improved]), Verdict::Improved);
    assert_eq!(verdict([Improved, Regressed, Unchanged]), Verdict::Regressed);
}
