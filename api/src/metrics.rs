//! What the API counts, and the names under which Prometheus finds it.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use shared::{db::Pool, job::JobKind};

/// The API's metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    enqueued: IntCounterVec,
    uploaded: IntCounter,
    sent: IntCounter,
    /// 1 while Redis answers.
    pub(crate) redis_up: IntGauge,
}

/// Counts one request as in flight until dropped.
#[derive(Debug)]
pub(crate) struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers everything, with a zero for each job kind.
    ///
    /// # Errors
    /// Two metrics with one name.
    pub(crate) fn new(registry: &Registry, pool: Pool) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("modelyard_http_requests_total", "Answered requests."),
                &["method", "route", "status"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("modelyard_http_request_seconds", "Time to the response head.")
                    .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0]),
                &["route"],
            )?,
            in_flight: IntGauge::new("modelyard_http_in_flight", "Requests without a response head yet.")?,
            enqueued: IntCounterVec::new(
                Opts::new("modelyard_job_enqueued_total", "Jobs accepted; joined ones are not counted."),
                &["kind"],
            )?,
            uploaded: IntCounter::new("modelyard_uploaded_bytes_total", "Bytes of uploads that were taken.")?,
            sent: IntCounter::new("modelyard_artifact_sent_bytes_total", "Bytes of artifacts that were sent.")?,
            redis_up: IntGauge::new("modelyard_redis_up", "1 while Redis answers.")?,
        };
        for kind in JobKind::ALL {
            metrics.enqueued.with_label_values(&[kind.as_str()]);
        }
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.enqueued.clone()))?;
        registry.register(Box::new(metrics.uploaded.clone()))?;
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.redis_up.clone()))?;
        registry.register(Box::new(PoolCollector::new(pool)?))?;
        Ok(metrics)
    }

    /// Counts a request that has begun.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an answered request; `route` is the path as registered, never as asked.
    pub(crate) fn answered(&self, method: &axum::http::Method, route: &str, status: u16, took: Duration) {
        let method = match method.as_str() {
            known @ ("GET" | "POST" | "DELETE" | "HEAD" | "OPTIONS" | "PUT" | "PATCH") => known,
            _ => "other",
        };
        self.requests.with_label_values(&[method, route, &status.to_string()]).inc();
        self.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Counts an upload that was taken.
    pub(crate) fn uploaded(&self, bytes: u64) {
        self.uploaded.inc_by(bytes);
    }

    /// Counts bytes of an artifact that were handed to the connection.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// Counts an accepted job.
    pub(crate) fn enqueued(&self, kind: JobKind) {
        self.enqueued.with_label_values(&[kind.as_str()]).inc();
    }
}

/// Reads the pool when it is scraped, so that the numbers are never old.
struct PoolCollector {
    pool: Pool,
    connections: IntGaugeVec,
}

impl PoolCollector {
    fn new(pool: Pool) -> prometheus::Result<Self> {
        let opts = Opts::new("modelyard_db_pool_connections", "Connections to Postgres by state.");
        Ok(Self { pool, connections: IntGaugeVec::new(opts, &["state"])? })
    }
}

impl Collector for PoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.connections.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let idle = i64::try_from(self.pool.num_idle()).unwrap_or(i64::MAX);
        let open = i64::from(self.pool.size());
        self.connections.with_label_values(&["idle"]).set(idle);
        self.connections.with_label_values(&["used"]).set((open - idle).max(0));
        self.connections.collect()
    }
}
