//! Idempotency keys: the first request with a key claims it, later ones get its stored answer.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::{DbError, seconds};

/// What a key says about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// First use; the caller does the work and stores the answer in the same transaction.
    Fresh,
    /// Used before with the same request: (status, response).
    Replay(i32, Value),
    /// Used before with another request.
    Mismatch,
    /// The first request with this key has not answered yet.
    InFlight,
}

/// Claims `key` in the caller's transaction. A concurrent claim waits for the first transaction's end.
///
/// # Errors
/// Database errors.
pub async fn claim(tx: &mut PgConnection, route: &str, key: &str, fingerprint: &str) -> Result<Claim, DbError> {
    let inserted = sqlx::query("insert into idempotency_keys (route, key, fingerprint) values ($1, $2, $3) on conflict (route, key) do nothing")
        .bind(route)
        .bind(key)
        .bind(fingerprint)
        .execute(&mut *tx)
        .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Claim::Fresh);
    }
    let stored: Option<(String, Option<i32>, Option<Value>)> =
        sqlx::query_as("select fingerprint, status, response from idempotency_keys where route = $1 and key = $2")
            .bind(route)
            .bind(key)
            .fetch_optional(tx)
            .await?;
    Ok(match stored {
        Some((stored, ..)) if stored != fingerprint => Claim::Mismatch,
        Some((_, Some(status), Some(response))) => Claim::Replay(status, response),
        Some(_) | None => Claim::InFlight,
    })
}

/// Stores the answer under a claimed key.
///
/// # Errors
/// Database errors.
pub async fn store(
    tx: &mut PgConnection,
    route: &str,
    key: &str,
    status: i32,
    response: &Value,
) -> Result<(), DbError> {
    sqlx::query("update idempotency_keys set status = $3, response = $4 where route = $1 and key = $2")
        .bind(route)
        .bind(key)
        .bind(status)
        .bind(response)
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets keys older than `keep`.
///
/// # Errors
/// Database errors.
pub async fn prune(db: impl PgExecutor<'_>, keep: Duration) -> Result<u64, DbError> {
    let gone = sqlx::query("delete from idempotency_keys where created_at < now() - make_interval(secs => $1)")
        .bind(seconds(keep))
        .execute(db)
        .await?;
    Ok(gone.rows_affected())
}
