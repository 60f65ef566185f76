//! The scheduler's metrics: one struct, its registry passed in; every series exists from the first scrape.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, core::Collector,
};
use shared::{
    db::blobs::retention::{Removed, Stored},
    job::{JobKind, JobState},
};

/// Outcomes of a look at a pending job.
pub(crate) const OUTCOMES: [&str; 4] = ["assigned", "waiting", "rejected", "outdated"];
/// Why a job was taken back.
pub(crate) const RESCUES: [&str; 2] = ["lease_expired", "host_gone"];
/// What is done about a pipeline that is not where it is wanted.
const PIPELINE_STEPS: [&str; 3] = ["applied", "restored", "failed"];
/// The one role that this process campaigns for.
pub(crate) const ROLE: &str = "scheduler";

const ACTIVE: [JobState; 3] = [JobState::Pending, JobState::Placed, JobState::Running];

/// Handles; cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Active jobs by kind and state.
    pub(crate) jobs: GaugeVec,
    /// Unix time at which the oldest due pending job came due; 0 when none waits.
    pub(crate) oldest_pending: Gauge,
    /// 1 while this process leads.
    pub(crate) leader: Gauge,
    /// Times this process won or lost the leadership.
    pub(crate) leader_transitions: IntCounter,
    /// Decisions by outcome.
    pub(crate) placements: IntCounterVec,
    /// Seconds that one decision took, without the database.
    pub(crate) placement_seconds: Histogram,
    /// Jobs taken back by reason.
    pub(crate) rescued: IntCounterVec,
    /// Seconds of one pass over the pending jobs, with the database.
    pub(crate) tick_seconds: Histogram,
    /// What was done about pipelines that are not where they are wanted.
    pub(crate) pipelines: IntCounterVec,
    /// Files that are marked as corrupt.
    pub(crate) corrupt_files: Gauge,
    /// Uploads and artifacts in the database.
    stored: GaugeVec,
    /// Their bytes.
    stored_bytes: GaugeVec,
    /// Of them, and of bytes that never became one: how many were removed.
    removed: IntCounterVec,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken in this registry.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            jobs: GaugeVec::new(Opts::new("modelyard_jobs", "Active jobs by kind and state."), &["kind", "state"])?,
            oldest_pending: Gauge::new(
                "modelyard_queue_oldest_pending_timestamp_seconds",
                "Unix time at which the oldest due pending job came due; 0 when none waits.",
            )?,
            leader: Gauge::with_opts(
                Opts::new("modelyard_leader", "1 while this process leads.").const_label("role", ROLE),
            )?,
            leader_transitions: IntCounter::new(
                "modelyard_leader_transitions_total",
                "Times this process won or lost the leadership.",
            )?,
            placements: IntCounterVec::new(
                Opts::new("modelyard_placements_total", "Decisions about pending jobs by outcome."),
                &["outcome"],
            )?,
            placement_seconds: histogram(
                "modelyard_placement_seconds",
                "Time of one placement decision, without the database.",
                1e-6,
            )?,
            rescued: IntCounterVec::new(
                Opts::new("modelyard_jobs_rescued_total", "Jobs taken back from workers that are gone."),
                &["reason"],
            )?,
            pipelines: IntCounterVec::new(
                Opts::new(
                    "modelyard_pipelines_reconciled_total",
                    "Jobs for pipelines that are not where they are wanted: begun by the scheduler, or ended without success.",
                ),
                &["what"],
            )?,
            tick_seconds: histogram(
                "modelyard_scheduler_tick_seconds",
                "Time of one pass over the pending jobs, with the database.",
                1e-4,
            )?,
            corrupt_files: Gauge::new(
                "modelyard_corrupt_files",
                "Files of all hosts whose bytes are not the registered ones; models are not read from them.",
            )?,
            stored: GaugeVec::new(Opts::new("modelyard_stored", "Uploads and artifacts in the database."), &["what"])?,
            stored_bytes: GaugeVec::new(
                Opts::new("modelyard_stored_bytes", "Bytes of uploads and artifacts in the database."),
                &["what"],
            )?,
            removed: IntCounterVec::new(
                Opts::new(
                    "modelyard_stored_removed_total",
                    "Uploads and artifacts removed because their time was over.",
                ),
                &["what"],
            )?,
        };
        metrics.zero();
        metrics.add_to(registry)?;
        Ok(metrics)
    }

    fn add_to(&self, registry: &Registry) -> prometheus::Result<()> {
        let collectors: [Box<dyn Collector>; 13] = [
            Box::new(self.jobs.clone()),
            Box::new(self.oldest_pending.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.leader_transitions.clone()),
            Box::new(self.placements.clone()),
            Box::new(self.placement_seconds.clone()),
            Box::new(self.rescued.clone()),
            Box::new(self.pipelines.clone()),
            Box::new(self.tick_seconds.clone()),
            Box::new(self.corrupt_files.clone()),
            Box::new(self.stored.clone()),
            Box::new(self.stored_bytes.clone()),
            Box::new(self.removed.clone()),
        ];
        collectors.into_iter().try_for_each(|collector| registry.register(collector))
    }

    fn zero(&self) {
        self.set_jobs(&[]);
        for outcome in OUTCOMES {
            self.placements.with_label_values(&[outcome]).reset();
        }
        for reason in RESCUES {
            self.rescued.with_label_values(&[reason]).reset();
        }
        for what in PIPELINE_STEPS {
            self.pipelines.with_label_values(&[what]).reset();
        }
        self.set_stored(&Stored::default());
        self.removed(Removed::default());
    }

    /// Sets the gauges of what is stored.
    pub(crate) fn set_stored(&self, stored: &Stored) {
        for (what, count, bytes) in
            [("upload", stored.uploads, stored.upload_bytes), ("artifact", stored.artifacts, stored.artifact_bytes)]
        {
            self.stored.with_label_values(&[what]).set(count as f64);
            self.stored_bytes.with_label_values(&[what]).set(bytes as f64);
        }
    }

    /// Counts what was removed.
    pub(crate) fn removed(&self, removed: Removed) {
        let counts = [("upload", removed.uploads), ("artifact", removed.artifacts), ("unfinished", removed.unfinished)];
        for (what, count) in counts {
            self.removed.with_label_values(&[what]).inc_by(count);
        }
    }

    /// Sets the gauges of active jobs; kinds and states without a row become 0.
    pub(crate) fn set_jobs(&self, counts: &[(String, String, i64, Option<f64>)]) {
        for kind in JobKind::ALL {
            for state in ACTIVE {
                let found = counts.iter().find(|row| row.0 == kind.as_str() && row.1 == state.as_str());
                self.jobs
                    .with_label_values(&[kind.as_str(), state.as_str()])
                    .set(found.map_or(0.0, |row| row.2 as f64));
            }
        }
        let oldest = counts.iter().filter_map(|row| row.3).reduce(f64::min);
        self.oldest_pending.set(oldest.unwrap_or(0.0));
    }
}

fn histogram(name: &str, help: &str, first: f64) -> prometheus::Result<Histogram> {
    let buckets = prometheus::exponential_buckets(first, 4.0, 10)?;
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_first_scrape() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for series in [
            "modelyard_jobs{kind=\"cache_add\",state=\"running\"} 0",
            "modelyard_leader{role=\"scheduler\"} 0",
            "modelyard_placements_total{outcome=\"rejected\"} 0",
            "modelyard_jobs_rescued_total{reason=\"host_gone\"} 0",
            "modelyard_queue_oldest_pending_timestamp_seconds 0",
            "modelyard_corrupt_files 0",
            "modelyard_stored_bytes{what=\"artifact\"} 0",
            "modelyard_stored_removed_total{what=\"unfinished\"} 0",
            "modelyard_pipelines_reconciled_total{what=\"applied\"} 0",
        ] {
            assert!(text().contains(series), "{series}\n{}", text());
        }
        metrics.set_jobs(&[("load".into(), "pending".into(), 3, Some(12.5))]);
        assert!(text().contains("modelyard_jobs{kind=\"load\",state=\"pending\"} 3"));
        assert!(text().contains("modelyard_queue_oldest_pending_timestamp_seconds 12.5"));
        metrics.set_jobs(&[]);
        assert!(text().contains("modelyard_jobs{kind=\"load\",state=\"pending\"} 0"));
    }
}
