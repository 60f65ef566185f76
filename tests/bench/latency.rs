//! The few statistics that the benches make of their samples.

use serde::Serialize;

/// Samples in milliseconds, summed up.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    /// How many samples.
    pub samples: usize,
    /// Half took no longer.
    pub p50_ms: f64,
    /// 95 of 100 took no longer.
    pub p95_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// From samples in milliseconds.
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self {
            samples: samples.len(),
            p50_ms: quantile(&samples, 0.5),
            p95_ms: quantile(&samples, 0.95),
            p99_ms: quantile(&samples, 0.99),
            max_ms: samples.last().copied().unwrap_or(f64::NAN),
        }
    }
}

/// The value below which this share of sorted values lies (nearest rank).
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}
