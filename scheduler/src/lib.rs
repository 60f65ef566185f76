//! The scheduler daemon: one leader places pending jobs, takes them back from lost workers, fires schedules and archives;
//! the others stand by. The placement policy is pure and lives in [`placement`].
#![forbid(unsafe_code)]

pub mod config;
mod dispatch;
mod drains;
mod leader;
mod metrics;
pub mod placement;
mod reconcile;
mod snapshot;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use shared::{
    db::{self, DbError, Pool, blobs::retention::Retention, listen},
    error::chain,
    ids::Incarnation,
    ops::{self, Check, Ops},
    ready::Ready,
    shutdown::Tasks,
};

use config::Config;

/// Why the scheduler ended other than by a stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A store cannot be used; nothing was started.
    #[error("Postgres cannot be used")]
    Store(#[source] DbError),
    /// The operations listener cannot be bound.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ready file cannot be written.
    #[error("cannot write the ready file `{path}`")]
    ReadyFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Two metrics have one name.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}

impl RunError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(DbError::BadUrl(_)) => 2,
            Self::Store(_) => 7,
            Self::Listen { .. } | Self::ReadyFile { .. } | Self::Metrics(_) => 1,
        }
    }
}

/// How long tasks may take to end after a stop.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Runs until `shutdown` resolves, then resigns and stops.
///
/// # Errors
/// What kept it from starting.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let pool = db::pool(&config.stores, "modelyard-scheduler").map_err(RunError::Store)?;
    wait_for_store(&pool, config.store_wait).await.map_err(RunError::Store)?;
    let tasks = Tasks::new();
    let registry = ops::registry("scheduler")?;
    let metrics = metrics::Metrics::register(&registry)?;
    reconcile::ensure_scan(&pool, config.scan_every).await.map_err(RunError::Store)?;
    start_tasks(&config, &pool, &metrics, &tasks);
    let ops = Ops { registry, checks: vec![("postgres", probe_check(pool.clone()))] };
    let bound = ops::serve(ops, config.ops_listen, &tasks)
        .await
        .map_err(|source| RunError::Listen { address: config.ops_listen, source })?;
    if let Some(path) = &config.ready_file {
        let written = Ready::this_process(None, bound).write(path);
        written.map_err(|source| RunError::ReadyFile { path: path.clone(), source })?;
    }
    tracing::info!(ops = %bound, version = env!("CARGO_PKG_VERSION"), ?config, "started");
    shutdown.await;
    tracing::info!("stopping");
    if !tasks.stop_and_wait(STOP_GRACE).await {
        tracing::warn!("some tasks did not end in time");
    }
    pool.close().await;
    Ok(())
}

fn start_tasks(config: &Config, pool: &Pool, metrics: &metrics::Metrics, tasks: &Tasks) {
    let timing = leader::Timing { term_ttl: config.leader_ttl, lease_ttl: config.lease.ttl };
    let me = Incarnation::generate();
    let leadership = leader::start(config.stores.clone(), me, timing, metrics.clone(), tasks);
    let hints = listen::Hints::start(&config.stores, &[listen::SCHEDULE], tasks);
    let policy = placement::Policy { lost_after: config.lost_after };
    let dispatcher = dispatch::Dispatcher::new(pool.clone(), policy, metrics.clone());
    dispatch::start(dispatcher, leadership.clone(), &hints, config.tick, tasks);
    let control = reconcile::Control {
        pool: pool.clone(),
        leadership,
        metrics: metrics.clone(),
        keep_finished: config.keep_finished,
        keep_events: config.keep_events,
        keep_history: config.keep_history,
        keep_blobs: Retention { artifacts_for: config.keep_artifacts, artifacts_bytes: config.artifacts_total.0 },
    };
    reconcile::start(control, config, tasks);
}

/// Tries for Postgres until it can be used, its schema turns out to be another one, or the time is up.
async fn wait_for_store(pool: &Pool, wait: Duration) -> Result<(), DbError> {
    let deadline = Instant::now() + wait;
    loop {
        let error = match db::probe(pool).await {
            Ok(()) => return Ok(()),
            Err(error @ (DbError::Schema(_) | DbError::BadUrl(_))) => return Err(error),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        tracing::info!(error = %chain(&error), "waiting for Postgres");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn probe_check(pool: Pool) -> Check {
    Arc::new(move || {
        let pool = pool.clone();
        Box::pin(async move { db::probe(&pool).await.map_err(|error| chain(&error)) })
    })
}
