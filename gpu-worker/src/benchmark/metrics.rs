//! What benchmarks measured last, by operation; closed labels, every series present from the start.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry};
use shared::{
    measure::Verdict,
    wire::{BenchmarkResult, CaseMeasure},
};

/// What is measured.
const OPERATIONS: [&str; 5] = ["vae_decode", "vae_encode", "encode_text", "unet_step", "generate"];

/// Handles of the series.
#[derive(Debug, Clone)]
pub struct BenchmarkMetrics {
    cases: IntCounterVec,
    median_seconds: GaugeVec,
    items_per_second: GaugeVec,
    verdicts: IntCounterVec,
}

impl BenchmarkMetrics {
    /// Registers all series.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| GaugeVec::new(Opts::new(name, help), &["operation"]);
        let counter = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            cases: counter(
                "modelyard_benchmark_cases_total",
                "Cases that benchmarks measured, by operation.",
                "operation",
            )?,
            median_seconds: gauge(
                "modelyard_benchmark_median_seconds",
                "Median of the runs of the last case that was measured, by operation.",
            )?,
            items_per_second: gauge(
                "modelyard_benchmark_items_per_second",
                "Items in a second at the median of the last case that was measured, by operation.",
            )?,
            verdicts: counter(
                "modelyard_benchmark_verdicts_total",
                "Comparisons with a baseline, by verdict.",
                "verdict",
            )?,
        };
        for operation in OPERATIONS {
            metrics.cases.with_label_values(&[operation]);
            metrics.median_seconds.with_label_values(&[operation]);
            metrics.items_per_second.with_label_values(&[operation]);
        }
        for verdict in Verdict::ALL {
            metrics.verdicts.with_label_values(&[verdict.as_str()]);
        }
        registry.register(Box::new(metrics.cases.clone()))?;
        registry.register(Box::new(metrics.median_seconds.clone()))?;
        registry.register(Box::new(metrics.items_per_second.clone()))?;
        registry.register(Box::new(metrics.verdicts.clone()))?;
        Ok(metrics)
    }

    /// A benchmark ended with this result, and this verdict where it was compared.
    pub fn ended(&self, result: &BenchmarkResult, verdict: Option<Verdict>) {
        for CaseMeasure { operation, steady, items_per_second, .. } in &result.cases {
            let Some(operation) = OPERATIONS.into_iter().find(|known| known == operation) else { continue };
            self.cases.with_label_values(&[operation]).inc();
            self.median_seconds.with_label_values(&[operation]).set(steady.summary.p50);
            self.items_per_second.with_label_values(&[operation]).set(*items_per_second);
        }
        if let Some(verdict) = verdict {
            self.verdicts.with_label_values(&[verdict.as_str()]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_counted_by_its_verdict() {
        let metrics = BenchmarkMetrics::register(&Registry::new()).unwrap();
        metrics.ended(&BenchmarkResult::default(), Some(Verdict::Regressed));
        metrics.ended(&BenchmarkResult::default(), None);
        let counted: Vec<u64> =
            Verdict::ALL.iter().map(|verdict| metrics.verdicts.with_label_values(&[verdict.as_str()]).get()).collect();
        assert_eq!(counted, [0, 0, 0, 1]);
        assert_eq!(metrics.cases.with_label_values(&["unet_step"]).get(), 0);
    }
}
