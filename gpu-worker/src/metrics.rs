//! The agent's metrics; closed labels only, every series present from the start.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use shared::job::JobKind;

/// Outcomes of attempts as labels.
const OUTCOMES: [&str; 6] = ["succeeded", "failed", "cancelled", "crashed", "handed_back", "stale"];

/// Handles of all series.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Attempts that ended, by kind and outcome.
    pub attempts: IntCounterVec,
    /// How long attempts took, by kind.
    pub attempt_seconds: HistogramVec,
    /// From enqueue to claim.
    pub wait_seconds: Histogram,
    /// Reports that no lease covered any more (G5).
    pub stale_results: IntCounter,
    /// Times this process stopped its own jobs because it could not renew its lease (G6).
    pub self_fenced: IntCounter,
    /// Heartbeats that failed.
    pub heartbeat_failures: IntCounter,
    /// Bytes read from disk into RAM.
    pub loaded_bytes: IntCounter,
    /// Bytes copied from RAM to devices.
    pub copied_bytes: IntCounter,
    /// Components taken off a device to make room.
    pub device_evictions: IntCounter,
    /// Deaths of device runners.
    pub runner_exits: IntCounterVec,
    /// Bytes by tier: `ram`, and each device's name.
    pub tier_bytes: IntGaugeVec,
    /// Limits by tier.
    pub tier_limit_bytes: IntGaugeVec,
    /// System's figure minus the ledger, by tier (G8).
    pub unaccounted_bytes: IntGaugeVec,
    /// Requests to the RAM tier by answer.
    pub cache_requests: IntGaugeVec,
    /// Leases of programs that are attached.
    pub attach_leases: IntGauge,
    /// Requests of programs, by answer.
    pub attach_requests: IntCounterVec,
    /// 1 while Redis takes snapshots.
    pub redis_up: IntGauge,
    /// 1 while the lease is good and nothing drains.
    pub admitting: IntGauge,
}

impl Metrics {
    /// Registers all series.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn register(registry: &Registry, devices: &[&str]) -> prometheus::Result<Self> {
        let metrics = Self {
            attempts: counters(
                "modelyard_job_attempts_total",
                "Attempts that ended, by kind and outcome.",
                &["kind", "outcome"],
            )?,
            attempt_seconds: HistogramVec::new(
                HistogramOpts::new("modelyard_job_attempt_seconds", "Duration of attempts, by kind.")
                    .buckets(vec![0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0]),
                &["kind"],
            )?,
            wait_seconds: Histogram::with_opts(
                HistogramOpts::new("modelyard_job_wait_seconds", "From enqueue to claim, by the database's clock.")
                    .buckets(vec![0.005, 0.015, 0.05, 0.3, 1.0, 5.0, 60.0, 600.0]),
            )?,
            stale_results: IntCounter::new(
                "modelyard_stale_results_rejected_total",
                "Reports by a holder of an old fence; they changed nothing.",
            )?,
            self_fenced: IntCounter::new(
                "modelyard_self_fences_total",
                "Times the agent stopped its jobs because it could not renew its lease.",
            )?,
            heartbeat_failures: IntCounter::new(
                "modelyard_heartbeat_failures_total",
                "Heartbeats that did not reach the database.",
            )?,
            loaded_bytes: IntCounter::new("modelyard_loaded_bytes_total", "Tensor bytes read from disk into RAM.")?,
            copied_bytes: IntCounter::new("modelyard_copied_bytes_total", "Bytes copied from RAM to devices.")?,
            device_evictions: IntCounter::new(
                "modelyard_device_evictions_total",
                "Components taken off a device to make room for others.",
            )?,
            runner_exits: counters("modelyard_runner_exits_total", "Deaths of device runners.", &["device"])?,
            tier_bytes: gauges("modelyard_tier_bytes", "Bytes of weights in a tier, by our ledger.", &["tier"])?,
            tier_limit_bytes: gauges("modelyard_tier_limit_bytes", "Bytes that a tier may hold.", &["tier"])?,
            unaccounted_bytes: gauges(
                "modelyard_tier_unaccounted_bytes",
                "The system's figure minus our ledger.",
                &["tier"],
            )?,
            cache_requests: gauges(
                "modelyard_cache_requests",
                "Requests to the RAM tier since the start, by answer.",
                &["answer"],
            )?,
            attach_leases: IntGauge::new("modelyard_attach_leases", "Components that attached programs hold.")?,
            attach_requests: counters(
                "modelyard_attach_requests_total",
                "Requests of programs for resident weights, by answer.",
                &["answer"],
            )?,
            redis_up: IntGauge::new("modelyard_redis_up", "1 while Redis takes snapshots.")?,
            admitting: IntGauge::new("modelyard_admitting", "1 while this agent claims jobs.")?,
        };
        metrics.zero(devices);
        metrics.register_all(registry)?;
        Ok(metrics)
    }

    fn zero(&self, devices: &[&str]) {
        for kind in JobKind::ALL {
            self.attempt_seconds.with_label_values(&[kind.as_str()]);
            for outcome in OUTCOMES {
                self.attempts.with_label_values(&[kind.as_str(), outcome]);
            }
        }
        for answer in ["attached", "refused"] {
            self.attach_requests.with_label_values(&[answer]);
        }
        for device in devices {
            self.runner_exits.with_label_values(&[*device]);
        }
    }

    fn register_all(&self, registry: &Registry) -> prometheus::Result<()> {
        let all: [Box<dyn prometheus::core::Collector>; 18] = [
            Box::new(self.attempts.clone()),
            Box::new(self.attempt_seconds.clone()),
            Box::new(self.wait_seconds.clone()),
            Box::new(self.stale_results.clone()),
            Box::new(self.self_fenced.clone()),
            Box::new(self.heartbeat_failures.clone()),
            Box::new(self.loaded_bytes.clone()),
            Box::new(self.copied_bytes.clone()),
            Box::new(self.device_evictions.clone()),
            Box::new(self.runner_exits.clone()),
            Box::new(self.tier_bytes.clone()),
            Box::new(self.tier_limit_bytes.clone()),
            Box::new(self.unaccounted_bytes.clone()),
            Box::new(self.cache_requests.clone()),
            Box::new(self.attach_leases.clone()),
            Box::new(self.attach_requests.clone()),
            Box::new(self.redis_up.clone()),
            Box::new(self.admitting.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}
