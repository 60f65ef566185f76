//! All SQL of the product. Functions take a connection or a transaction, return domain types, change state by
//! compare-and-set and say who lost. Order and time come from the database.

pub mod benchmarks;
pub mod blobs;
pub mod events;
pub mod evictions;
pub mod farm;
pub mod hashes;
pub mod idempotency;
pub mod jobs;
pub mod leader;
pub mod listen;
pub mod models;
pub mod pipelines;
pub mod residency;
pub mod schedules;
pub mod statistics;
pub mod tell;
pub mod validations;

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use sqlx::{PgConnection as Session, PgPool as Pool};

use crate::{
    config::Stores,
    error::{Classify, ErrorCode},
};

/// What can go wrong between us and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The connection URL is not one.
    #[error("the database URL is not usable; expected `postgres://user:password@host:port/name`")]
    BadUrl(#[source] sqlx::Error),
    /// No connection, or it was lost.
    #[error("cannot reach Postgres")]
    Unavailable(#[source] sqlx::Error),
    /// The server answers but takes no writes.
    #[error("Postgres is read-only")]
    ReadOnly(#[source] sqlx::Error),
    /// The schema is not the one of this build.
    #[error("the database schema is not the one of this build; run `modelyard migrate`")]
    Schema(#[source] Box<sqlx::migrate::MigrateError>),
    /// Postgres ended the transaction in favour of another one; the same again may go through.
    #[error("another transaction was in the way")]
    Contended(#[source] sqlx::Error),
    /// Names that were free were taken by others each time; the same again may go through.
    #[error("others kept taking the names like `{0}`")]
    Names(String),
    /// What a new row refers to is not there any more.
    #[error("{0} is not there")]
    Gone(String),
    /// A row holds something that this build cannot read.
    #[error("a stored row cannot be read: {0}")]
    BadRow(String),
    /// Any other error of a statement.
    #[error("a database statement failed")]
    Statement(#[source] sqlx::Error),
}

impl DbError {
    /// No answer within the time that the caller allows.
    pub fn timed_out() -> Self {
        Self::Unavailable(sqlx::Error::PoolTimedOut)
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match sqlstate(&error).as_deref() {
            Some("25006") => Self::ReadOnly(error),
            // a deadlock or a serialization failure says nothing about the statement
            Some("40001" | "40P01") => Self::Contended(error),
            Some(code) if code.starts_with("57P") || code.starts_with("08") || code == "53300" => {
                Self::Unavailable(error)
            }
            Some(_) => Self::Statement(error),
            None => match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
                other => Self::Statement(other),
            },
        }
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

impl Classify for DbError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::BadUrl(_) => ErrorCode::InvalidArgument,
            Self::Unavailable(_) | Self::ReadOnly(_) | Self::Contended(_) | Self::Names(_) | Self::Schema(_) => {
                ErrorCode::Unavailable
            }
            Self::Gone(_) => ErrorCode::NotFound,
            Self::BadRow(_) | Self::Statement(_) => ErrorCode::Internal,
        }
    }
}

/// A connection lent by the pool.
pub type Lent = sqlx::pool::PoolConnection<sqlx::Postgres>;
/// A transaction on a connection lent by the pool; dropped without commit it rolls back.
pub type Transaction = sqlx::Transaction<'static, sqlx::Postgres>;

/// The embedded migrations.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

fn options(url: &str, name: &str) -> Result<PgConnectOptions, DbError> {
    // the driver would take any scheme for its own
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(DbError::BadUrl(sqlx::Error::Configuration("the URL's scheme is not `postgres`".into())));
    }
    let options = PgConnectOptions::from_str(url).map_err(DbError::BadUrl)?;
    // a process that is stopped in the middle of a transaction must not keep its locks from its successor
    let options = options.options([("idle_in_transaction_session_timeout", "30s")]);
    Ok(options.application_name(name).log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(1)))
}

/// A pool that never hands out a session on a read-only server (a failed-over primary): such sessions are closed instead.
/// Connects lazily, so that a daemon can start, say what is wrong and recover.
///
/// # Errors
/// [`DbError::BadUrl`].
pub fn pool(stores: &Stores, name: &str) -> Result<PgPool, DbError> {
    let pool = PgPoolOptions::new()
        .max_connections(stores.database_connections)
        .acquire_timeout(Duration::from_secs(5))
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                // a session that was just used needs no probe; an older one proves that it can write
                if meta.idle_for < Duration::from_secs(1) {
                    return Ok(true);
                }
                let read_only: String = sqlx::query_scalar("show transaction_read_only").fetch_one(connection).await?;
                Ok(read_only == "off")
            })
        });
    Ok(pool.connect_lazy_with(options(&stores.database_url, name)?))
}

/// A transaction that only reads, and reads all of it as it was at its first statement: what is shown of one thing by several
/// statements belongs together, whatever is committed between them.
///
/// # Errors
/// When no connection can be had.
pub async fn snapshot(pool: &PgPool) -> Result<Transaction, DbError> {
    Ok(pool.begin_with("begin isolation level repeatable read, read only").await?)
}

/// One connection outside the pool, for heartbeats and LISTEN, which a busy pool must not delay.
///
/// # Errors
/// When the server cannot be reached.
pub async fn dedicated(stores: &Stores, name: &str) -> Result<PgConnection, DbError> {
    PgConnection::connect_with(&options(&stores.database_url, name)?).await.map_err(Into::into)
}

/// Applies what is missing of the migrations; safe to run from two places at once.
///
/// # Errors
/// When the server cannot be reached or its schema is newer than this build.
pub async fn migrate(pool: &PgPool) -> Result<(), DbError> {
    MIGRATIONS.run(pool).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => error.into(),
        other => DbError::Schema(Box::new(other)),
    })
}

/// The readiness probe: the schema is at this build's head and a write goes through.
///
/// # Errors
/// Why not.
pub async fn probe(pool: &PgPool) -> Result<(), DbError> {
    let wanted = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let mut tx = pool.begin().await?;
    let at: Option<i64> = sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| match sqlstate(&error).as_deref() {
            Some("42P01") => DbError::Schema(Box::new(sqlx::migrate::MigrateError::VersionNotPresent(wanted))),
            _ => error.into(),
        })?;
    if at != Some(wanted) {
        return Err(DbError::Schema(Box::new(sqlx::migrate::MigrateError::VersionMismatch(wanted))));
    }
    sqlx::query("insert into idempotency_keys (route, key, fingerprint) values ('readyz', 'probe', '')")
        .execute(&mut *tx)
        .await?;
    tx.rollback().await?;
    Ok(())
}

/// Waits until the schema is at this build's head and writes go through; gives up after `patience`, or at once
/// when waiting cannot help.
///
/// # Errors
/// What the last probe said.
pub async fn wait_until_usable(pool: &PgPool, patience: Duration) -> Result<(), DbError> {
    let until = std::time::Instant::now() + patience;
    loop {
        let error = match probe(pool).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let hopeless = matches!(error, DbError::BadUrl(_) | DbError::Schema(_) | DbError::Statement(_));
        if hopeless || std::time::Instant::now() >= until {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Postgres intervals want microseconds; one conversion for all statements.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
