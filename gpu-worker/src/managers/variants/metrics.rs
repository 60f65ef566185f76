//! What variants cost and hold; closed labels, every series present from the start.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::Path;

/// What became of looking whether a base is what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The bytes on the device have the digest that they came with.
    Equal,
    /// They have not; the copy was taken off and loaded anew.
    Different,
    /// They could not be read back.
    Failed,
}

impl Check {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Failed => "failed",
        }
    }
}

/// Handles of the series.
#[derive(Debug, Clone)]
pub struct VariantMetrics {
    seconds: HistogramVec,
    changed_bytes: IntCounter,
    checks: IntCounterVec,
    count: IntGaugeVec,
    bytes: IntGaugeVec,
}

impl VariantMetrics {
    /// Registers all series.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn register(registry: &Registry, devices: &[&str]) -> prometheus::Result<Self> {
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &["device"]);
        let metrics = Self {
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "modelyard_lora_apply_seconds",
                    "How long a stack of LoRAs took to be there over one component, by how it came.",
                )
                .buckets(vec![0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0]),
                &["path"],
            )?,
            changed_bytes: IntCounter::new(
                "modelyard_lora_changed_bytes_total",
                "Bytes of tensors that were changed by LoRAs, those that were taken over from earlier variants included.",
            )?,
            checks: IntCounterVec::new(
                Opts::new(
                    "modelyard_restore_checks_total",
                    "Digests of bases on devices that were checked when pipelines were applied or restored, by result.",
                ),
                &["result"],
            )?,
            count: gauge("modelyard_variants", "Variants on a device.")?,
            bytes: gauge("modelyard_variant_bytes", "Bytes of variants on a device.")?,
        };
        for path in Path::ALL {
            metrics.seconds.with_label_values(&[path.as_str()]);
        }
        for check in [Check::Equal, Check::Different, Check::Failed] {
            metrics.checks.with_label_values(&[check.as_str()]);
        }
        for device in devices {
            metrics.holds(device, 0, 0);
        }
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.changed_bytes.clone()))?;
        registry.register(Box::new(metrics.checks.clone()))?;
        registry.register(Box::new(metrics.count.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        Ok(metrics)
    }

    /// A variant is there.
    pub fn applied(&self, path: Path, seconds: f64, changed_bytes: u64) {
        let duration: Histogram = self.seconds.with_label_values(&[path.as_str()]);
        duration.observe(seconds);
        self.changed_bytes.inc_by(changed_bytes);
    }

    /// A base was looked at.
    pub fn checked(&self, check: Check) {
        self.checks.with_label_values(&[check.as_str()]).inc();
    }

    /// A device holds so many variants of so many bytes.
    pub fn holds(&self, device: &str, count: u64, bytes: u64) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.count.with_label_values(&[device]).set(signed(count));
        self.bytes.with_label_values(&[device]).set(signed(bytes));
    }
}
