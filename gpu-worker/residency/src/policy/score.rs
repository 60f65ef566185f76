//! What an entry is worth: the reload seconds that keeping it is expected to save, for each byte that it occupies.

use std::time::Duration;

use super::{Candidate, Policy, Rules};

const GIB: f64 = (1u64 << 30) as f64;

/// Reload seconds to be expected in an hour, per GiB. Finite and not negative, whatever the inputs are.
pub(super) fn of(candidate: &Candidate) -> f64 {
    let seconds = sane(candidate.reload_seconds) * sane(candidate.reuses_per_hour);
    sane(seconds / (candidate.takes_bytes().max(1) as f64 / GIB))
}

/// Used again, and here for so short a time that taking it out would be churn.
pub(super) fn is_young(rules: Rules, candidate: &Candidate, now: Duration) -> bool {
    rules.policy == Policy::Cost && candidate.reused && now.saturating_sub(candidate.loaded_at) < rules.min_age
}

/// No NaN, no infinity, nothing negative: measured figures go into an order.
fn sane(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1e150) }
}
