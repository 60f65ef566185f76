//! What every handler shares: the pool, the live view, wake-up hints, cursors, the token and the metrics.

use std::{ops::Deref, sync::Arc, time::Duration};

use prometheus::Registry;
use shared::{
    db::{self, DbError, Lent, Pool, Transaction, listen},
    error::chain,
    shutdown::Tasks,
    status::LiveStatus,
};
use tokio::time::timeout;

use crate::{
    auth::Auth,
    config::{BadConfig, Config},
    cursor::Cursors,
    horizon::{self, Settled},
    live::Live,
    metrics::Metrics,
    problem::ApiError,
    receive::{InFlight, UploadLimits},
};

/// Longest wait for a connection to Postgres; then the request is answered 503.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How often Redis is asked whether it is there, when no request asks.
const REDIS_CHECK: Duration = Duration::from_secs(5);

/// How often while it is away: each try also makes the connection try again.
const REDIS_RECHECK: Duration = Duration::from_millis(1100);

/// Shared by all handlers.
#[derive(Debug, Clone)]
pub(crate) struct AppState(Arc<Inner>);

/// The shared parts.
#[derive(Debug)]
pub(crate) struct Inner {
    pool: Pool,
    /// The live view with its circuit breaker.
    pub(crate) live: Live,
    /// Hints that something happened to a job.
    pub(crate) hints: listen::Hints,
    /// How far the farm's events are settled.
    pub(crate) settled: Settled,
    /// Signs page cursors.
    pub(crate) cursors: Cursors,
    /// Who may ask.
    pub(crate) auth: Auth,
    /// How much may be uploaded.
    pub(crate) uploads: UploadLimits,
    /// Of that, what still arrives.
    pub(crate) arriving: InFlight,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// The tasks of this process and the token that says stop.
    pub(crate) tasks: Tasks,
}

impl Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl AppState {
    /// Connects lazily; starts the hint listener, the Redis check and the look at the events.
    ///
    /// # Errors
    /// A Redis URL that is not one, or metrics that cannot be registered.
    pub(crate) fn new(
        config: &Config,
        token: Option<String>,
        pool: Pool,
        registry: &Registry,
        tasks: &Tasks,
    ) -> Result<Self, crate::RunError> {
        let metrics = Metrics::new(registry, pool.clone())?;
        let status = LiveStatus::connect(config.stores.redis_url.as_deref())
            .map_err(|error| BadConfig::StoreUrl(Box::new(error)))?;
        let state = Self(Arc::new(Inner {
            pool,
            live: Live::new(status, metrics.redis_up.clone()),
            hints: listen::Hints::start(&config.stores, &[listen::JOB], tasks),
            settled: Settled::default(),
            cursors: Cursors::new(&config.stores.database_url),
            uploads: UploadLimits::of(config),
            arriving: InFlight::default(),
            auth: Auth::new(token.as_deref()),
            metrics,
            tasks: tasks.clone(),
        }));
        state.watch_redis();
        tasks.spawn("event-horizon", horizon::watch(state.clone()));
        Ok(state)
    }

    fn watch_redis(&self) {
        let state = self.clone();
        let token = self.tasks.token().clone();
        self.tasks.spawn("redis-check", async move {
            loop {
                // the answer lands in the gauge and, while Redis is away, closes the breaker when it is back
                let again = if state.live.snapshots(&[]).await.is_ok() { REDIS_CHECK } else { REDIS_RECHECK };
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(again) => {}
                }
            }
        });
    }

    /// A connection for reading.
    ///
    /// # Errors
    /// 503 when none can be had in time.
    pub(crate) async fn connection(&self) -> Result<Lent, ApiError> {
        let lent = timeout(CONNECT_PATIENCE, self.pool.acquire()).await.map_err(|_| DbError::timed_out())?;
        Ok(lent.map_err(DbError::from)?)
    }

    /// A picture of the database for showing one thing by several statements.
    ///
    /// # Errors
    /// As [`AppState::connection`].
    pub(crate) async fn snapshot(&self) -> Result<Transaction, ApiError> {
        Ok(timeout(CONNECT_PATIENCE, db::snapshot(&self.pool)).await.map_err(|_| DbError::timed_out())??)
    }

    /// A transaction for accepting work.
    ///
    /// # Errors
    /// As [`AppState::connection`].
    pub(crate) async fn begin(&self) -> Result<Transaction, ApiError> {
        let tx = timeout(CONNECT_PATIENCE, self.pool.begin()).await.map_err(|_| DbError::timed_out())?;
        Ok(tx.map_err(DbError::from)?)
    }

    /// The readiness check: not stopping, schema at head, a write goes through.
    pub(crate) async fn postgres_is_writable(&self) -> Result<(), String> {
        match timeout(CONNECT_PATIENCE, db::probe(&self.pool)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {} s", CONNECT_PATIENCE.as_secs())),
        }
    }
}
