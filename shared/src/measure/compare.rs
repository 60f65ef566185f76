//! Whether one series of seconds is slower than another by more than both of them vary.

use serde::{Deserialize, Serialize};

use super::summary::Summary;

/// How a series stands to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Within the bound, or within the noise.
    Unchanged,
    /// Faster by more than the bound, and outside of both spreads.
    Improved,
    /// Slower by more than the bound, and outside of both spreads.
    Regressed,
}

impl Change {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Improved => "improved",
            Self::Regressed => "regressed",
        }
    }
}

/// What many comparisons say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was measured in both.
    Incomparable,
    /// Nothing changed.
    Unchanged,
    /// Something is faster and nothing slower.
    Improved,
    /// Something is slower.
    Regressed,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 4] = [Self::Incomparable, Self::Unchanged, Self::Improved, Self::Regressed];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomparable => "incomparable",
            Self::Unchanged => "unchanged",
            Self::Improved => "improved",
            Self::Regressed => "regressed",
        }
    }
}

/// Two series side by side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Compared {
    /// Median of the earlier one, seconds.
    pub before: f64,
    /// Median of the later one, seconds.
    pub after: f64,
    /// After by before: above 1 is slower.
    pub ratio: f64,
    /// What it means.
    pub change: Change,
}

/// Compares two series. It is slower when its median is more than `bound` (0.05: five percent) above the other's, above nine in
/// ten of the other's samples, and nine in ten of its own are above the other's median; faster is the same the other way round.
pub fn compare(before: &Summary, after: &Summary, bound: f64) -> Compared {
    let change = if slower(before, after, bound) {
        Change::Regressed
    } else if slower(after, before, bound) {
        Change::Improved
    } else {
        Change::Unchanged
    };
    let ratio = if before.p50 > 0.0 { after.p50 / before.p50 } else { 1.0 };
    Compared { before: before.p50, after: after.p50, ratio, change }
}

/// `slow` is slower than `fast` by more than the bound and the spreads of both.
fn slower(fast: &Summary, slow: &Summary, bound: f64) -> bool {
    slow.p50 > fast.p50 * (1.0 + bound) && slow.p50 > fast.p90 && slow.p10 > fast.p50
}

/// What these changes say together.
pub fn verdict(changes: impl IntoIterator<Item = Change>) -> Verdict {
    match changes.into_iter().max() {
        None => Verdict::Incomparable,
        Some(Change::Unchanged) => Verdict::Unchanged,
        Some(Change::Improved) => Verdict::Improved,
        Some(Change::Regressed) => Verdict::Regressed,
    }
}
