//! The agent's metrics; closed labels only, every series present from the start.

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use residency::{AGE_BOUNDS_SECONDS, Reason};
use shared::{job::JobKind, status::MemoryPressure};

use crate::{
    benchmark::BenchmarkMetrics,
    managers::{metrics::EngineMetrics, variants::VariantMetrics},
    vitals::VitalsMetrics,
};

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
    /// Copies of components and variants taken off devices, by device and reason.
    pub device_evictions: IntCounterVec,
    /// Bytes that came back of them.
    pub device_evicted_bytes: IntCounterVec,
    /// Deaths of device runners.
    pub runner_exits: IntCounterVec,
    /// Bytes by tier: `ram`, and each device's name.
    pub tier_bytes: IntGaugeVec,
    /// Limits by tier.
    pub tier_limit_bytes: IntGaugeVec,
    /// What the system says beyond the ledger, by tier (G8).
    pub unaccounted_bytes: IntGaugeVec,
    /// Requests to the RAM tier by answer.
    pub cache_requests: IntGaugeVec,
    /// Programs that are connected to the attach socket.
    pub attach_connections: IntGauge,
    /// Leases of programs that are attached.
    pub attach_leases: IntGauge,
    /// Requests of programs, by answer.
    pub attach_requests: IntCounterVec,
    /// Components taken out of RAM, by reason.
    pub evictions: IntCounterVec,
    /// Bytes of them, by reason.
    pub evicted_bytes: IntCounterVec,
    /// How long components had been in RAM when they were taken out.
    pub eviction_age_seconds: Histogram,
    /// How long they had not been used then.
    pub eviction_idle_seconds: Histogram,
    /// Loads that were given up because no byte came.
    pub stalled_loads: IntCounter,
    /// Disks that have not answered since.
    pub hung_disks: IntGauge,
    /// Loads of what had been evicted shortly before.
    pub early_reloads: IntCounter,
    /// Reads whose digest was not the registered one.
    pub digest_mismatches: IntCounter,
    /// Memory pressure.
    pub pressure: PressureMetrics,
    /// Devices, as their management library sees them.
    pub vitals: VitalsMetrics,
    /// Runs of models.
    pub engine: EngineMetrics,
    /// Benchmarks.
    pub benchmarks: BenchmarkMetrics,
    /// Variants.
    pub variants: VariantMetrics,
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
            device_evictions: counters(
                "modelyard_device_evictions_total",
                "Copies of components and variants taken off devices, by reason.",
                &["device", "reason"],
            )?,
            device_evicted_bytes: counters(
                "modelyard_device_evicted_bytes_total",
                "Bytes that came back from devices with what was taken off them, by reason.",
                &["device", "reason"],
            )?,
            runner_exits: counters("modelyard_runner_exits_total", "Deaths of device runners.", &["device"])?,
            tier_bytes: gauges("modelyard_tier_bytes", "Bytes of weights in a tier, by our ledger.", &["tier"])?,
            tier_limit_bytes: gauges("modelyard_tier_limit_bytes", "Bytes that a tier may hold.", &["tier"])?,
            unaccounted_bytes: gauges(
                "modelyard_tier_unaccounted_bytes",
                "What the system says beyond our ledger and what is promised to running loads; negative when it says less.",
                &["tier"],
            )?,
            cache_requests: gauges(
                "modelyard_cache_requests",
                "Requests to the RAM tier since the start, by answer.",
                &["answer"],
            )?,
            attach_connections: IntGauge::new(
                "modelyard_attach_connections",
                "Programs that are connected to the attach socket.",
            )?,
            attach_leases: IntGauge::new("modelyard_attach_leases", "Components that attached programs hold.")?,
            attach_requests: counters(
                "modelyard_attach_requests_total",
                "Requests of programs for resident weights, by answer.",
                &["answer"],
            )?,
            evictions: counters("modelyard_evictions_total", "Components taken out of RAM, by reason.", &["reason"])?,
            evicted_bytes: counters(
                "modelyard_evicted_bytes_total",
                "Bytes of components taken out of RAM, by reason.",
                &["reason"],
            )?,
            eviction_age_seconds: ages(
                "modelyard_eviction_age_seconds",
                "How long components had been in RAM when they were taken out.",
            )?,
            eviction_idle_seconds: ages(
                "modelyard_eviction_idle_seconds",
                "How long components had not been used when they were taken out of RAM.",
            )?,
            stalled_loads: IntCounter::new(
                "modelyard_stalled_loads_total",
                "Loads into RAM that were given up because no byte came from their disk for --io-timeout.",
            )?,
            hung_disks: IntGauge::new(
                "modelyard_hung_disks",
                "Disks that loads were given up on and that have not answered since; no load is sent there.",
            )?,
            early_reloads: IntCounter::new(
                "modelyard_early_reloads_total",
                "Loads into RAM of what had been evicted within the five minutes before.",
            )?,
            digest_mismatches: IntCounter::new(
                "modelyard_digest_mismatches_total",
                "Components and files that were read with another digest than is registered; their files are marked as corrupt.",
            )?,
            pressure: PressureMetrics::new()?,
            vitals: VitalsMetrics::register(registry)?,
            engine: EngineMetrics::register(registry)?,
            benchmarks: BenchmarkMetrics::register(registry)?,
            variants: VariantMetrics::register(registry, devices)?,
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
        for reason in Reason::ALL {
            self.evictions.with_label_values(&[reason.as_str()]);
            self.evicted_bytes.with_label_values(&[reason.as_str()]);
        }
        for device in devices {
            self.runner_exits.with_label_values(&[*device]);
            for reason in Reason::ALL {
                self.device_evictions.with_label_values(&[*device, reason.as_str()]);
                self.device_evicted_bytes.with_label_values(&[*device, reason.as_str()]);
            }
        }
    }

    fn register_all(&self, registry: &Registry) -> prometheus::Result<()> {
        let all: [Box<dyn prometheus::core::Collector>; 31] = [
            Box::new(self.attempts.clone()),
            Box::new(self.attempt_seconds.clone()),
            Box::new(self.wait_seconds.clone()),
            Box::new(self.stale_results.clone()),
            Box::new(self.self_fenced.clone()),
            Box::new(self.heartbeat_failures.clone()),
            Box::new(self.loaded_bytes.clone()),
            Box::new(self.copied_bytes.clone()),
            Box::new(self.device_evictions.clone()),
            Box::new(self.device_evicted_bytes.clone()),
            Box::new(self.runner_exits.clone()),
            Box::new(self.tier_bytes.clone()),
            Box::new(self.tier_limit_bytes.clone()),
            Box::new(self.unaccounted_bytes.clone()),
            Box::new(self.cache_requests.clone()),
            Box::new(self.attach_connections.clone()),
            Box::new(self.attach_leases.clone()),
            Box::new(self.attach_requests.clone()),
            Box::new(self.evictions.clone()),
            Box::new(self.evicted_bytes.clone()),
            Box::new(self.eviction_age_seconds.clone()),
            Box::new(self.eviction_idle_seconds.clone()),
            Box::new(self.stalled_loads.clone()),
            Box::new(self.hung_disks.clone()),
            Box::new(self.early_reloads.clone()),
            Box::new(self.digest_mismatches.clone()),
            Box::new(self.pressure.level.clone()),
            Box::new(self.pressure.room_bytes.clone()),
            Box::new(self.pressure.stalled_ratio.clone()),
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

/// Seconds that a component was there, up to days.
fn ages(name: &str, help: &str) -> prometheus::Result<Histogram> {
    let bounds = AGE_BOUNDS_SECONDS.iter().map(|bound| *bound as f64).collect();
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds))
}

/// Series about memory pressure.
#[derive(Debug, Clone)]
pub struct PressureMetrics {
    /// 0 none, 1 tight, 2 critical.
    pub level: IntGauge,
    /// Bytes that may still be taken, of the machine or its tightest control group.
    pub room_bytes: IntGauge,
    /// Part of the last ten seconds in which all work stood still for want of memory.
    pub stalled_ratio: Gauge,
}

impl PressureMetrics {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            level: IntGauge::new(
                "modelyard_memory_pressure",
                "0 while the RAM budget is whole, 1 while it is cut, 2 while more is in use than it allows.",
            )?,
            room_bytes: IntGauge::new(
                "modelyard_memory_room_bytes",
                "Memory that may still be taken, of the machine or its tightest control group.",
            )?,
            stalled_ratio: Gauge::new(
                "modelyard_memory_stalled_ratio",
                "Part of the last ten seconds in which all work stood still for want of memory.",
            )?,
        })
    }

    /// Sets all from what is published.
    pub fn observe(&self, pressure: &MemoryPressure) {
        let level = match pressure.level.as_str() {
            "critical" => 2,
            "tight" => 1,
            _ => 0,
        };
        let group = pressure.group_limit_bytes.zip(pressure.group_used_bytes);
        let group_room = group.map_or(u64::MAX, |(limit, used)| limit.saturating_sub(used));
        self.level.set(level);
        self.room_bytes.set(i64::try_from(pressure.available_bytes.min(group_room)).unwrap_or(i64::MAX));
        self.stalled_ratio.set(pressure.stalled_full_percent / 100.0);
    }
}
