//! Placement writes: `pending → placed`, only under the current term and only if nothing changed since the snapshot.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::event;
use crate::{
    db::{DbError, farm::notify, leader, listen},
    error::ErrorBody,
    ids::{JobId, ModelId},
};

/// A pending job whose time has come, as the placement sees it.
#[derive(Debug, Clone, FromRow)]
pub struct PendingRow {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// `device` or `host`.
    pub lane: String,
    /// Must run on this host.
    pub pin_host: Option<String>,
    /// Must run on this device.
    pub pin_device: Option<String>,
    /// Labels that the place must have.
    pub need_labels: Vec<String>,
    /// [`crate::job::enqueue::Needs`].
    pub needs: Value,
    /// The model it is about.
    pub model_id: Option<ModelId>,
    /// Arguments (a scan names its root).
    pub args: Value,
    /// Lease epoch at the time of the snapshot.
    pub fence: i64,
    /// Priority.
    pub priority: i32,
    /// Why it waited at the last pass.
    pub reason: Option<Value>,
    /// Since when it is due.
    pub run_at: DateTime<Utc>,
    /// Seconds since it came due.
    pub due_seconds: f64,
    /// Seconds since its worker was lost, if that is why it is pending.
    pub lost_seconds: Option<f64>,
    /// Where that was: the device, or for work of a host the host.
    pub crashed_on: Option<String>,
}

/// What the placement sees of due jobs, and `rest` of the statement.
macro_rules! due_jobs {
    ($rest:literal) => {
        concat!(
            "select id, kind, lane, pin_host, pin_device, need_labels, needs, model_id, args, fence, priority, reason, run_at,
                extract(epoch from now() - run_at)::float8 as due_seconds,
                extract(epoch from now() - lost_at)::float8 as lost_seconds,
                case when lost_at is not null then
                    (select coalesce(a.device, a.host) from job_attempts a where a.job_id = jobs.id order by a.fence desc limit 1)
                end as crashed_on
             from jobs where state = 'pending' and run_at <= now() ",
            $rest
        )
    };
}
pub(super) use due_jobs;

/// Pending jobs that are due, best first.
///
/// # Errors
/// Database errors.
pub async fn pending(db: impl PgExecutor<'_>, limit: i64) -> Result<Vec<PendingRow>, DbError> {
    Ok(sqlx::query_as(due_jobs!("order by priority desc, run_at, id limit $1")).bind(limit).fetch_all(db).await?)
}

/// Gives a pending job to a host, or to a device of it. False when the job or the term changed meanwhile.
///
/// # Errors
/// Database errors.
pub async fn place(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    (id, fence): (JobId, i64),
    host: &str,
    device: Option<&str>,
    explanation: &Value,
) -> Result<bool, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(false);
    }
    let changed = sqlx::query(
        "update jobs set state = 'placed', host = $3, device = $4, fence = fence + 1, placed_at = now(), placement = $5, reason = null
         where id = $1 and fence = $2 and state = 'pending'",
    )
    .bind(id)
    .bind(fence)
    .bind(host)
    .bind(device)
    .bind(explanation)
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() != 1 {
        return Ok(false);
    }
    event(tx, id, "placed", serde_json::json!({ "host": host, "device": device, "fence": fence + 1 })).await?;
    notify(tx, listen::PLACED, host).await?;
    Ok(true)
}

/// Why a job stays pending.
#[derive(Debug, Clone)]
pub struct Unplaced {
    /// The job.
    pub id: JobId,
    /// Reason as shown by the API.
    pub reason: Value,
}

/// Records why jobs wait; rows whose reason did not change are not written.
///
/// # Errors
/// Database errors.
pub async fn set_reason(tx: &mut PgConnection, unplaced: &Unplaced) -> Result<(), DbError> {
    let changed =
        sqlx::query("update jobs set reason = $2 where id = $1 and state = 'pending' and reason is distinct from $2")
            .bind(unplaced.id)
            .bind(&unplaced.reason)
            .execute(&mut *tx)
            .await?;
    if changed.rows_affected() == 1 {
        event(tx, unplaced.id, "waiting", unplaced.reason.clone()).await?;
    }
    Ok(())
}

/// Ends a pending job that no place can ever take.
///
/// # Errors
/// Database errors.
pub async fn fail_unplaceable(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    (id, fence): (JobId, i64),
    error: &ErrorBody,
) -> Result<bool, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(false);
    }
    let body = serde_json::to_value(error).map_err(|error| DbError::BadRow(error.to_string()))?;
    let changed = sqlx::query(
        "update jobs set state = 'failed', error = $3, finished_at = now(), reason = null where id = $1 and fence = $2 and state = 'pending'",
    )
    .bind(id)
    .bind(fence)
    .bind(&body)
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() != 1 {
        return Ok(false);
    }
    event(tx, id, "failed", serde_json::json!({ "error": body })).await?;
    super::parent::settle_parent_of(tx, id).await?;
    Ok(true)
}
