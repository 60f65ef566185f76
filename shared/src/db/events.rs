//! The farm's events in one order: of jobs, and of what becomes resident or leaves. They share one sequence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{DbError, leader, seconds};
use crate::ids::JobId;

/// What to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topics {
    /// Jobs.
    pub jobs: bool,
    /// What becomes resident or leaves.
    pub residency: bool,
}

/// One event: of a job, or of a host.
#[derive(Debug, Clone, FromRow)]
pub struct FarmEventRow {
    /// Grows with time; unique over all events.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `enqueued`, `placed`, …; `residency.resident`, `residency.gone`.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// Details.
    pub data: Value,
    /// The job.
    pub job_id: Option<JobId>,
    /// The host.
    pub host: Option<String>,
    /// The device; none for RAM.
    pub device: Option<String>,
}

/// Events after `seq`, oldest first. A transaction may commit a lower `seq` late, so nothing is told that is younger than two seconds, or that
/// follows something younger.
///
/// # Errors
/// Database errors.
pub async fn after(
    db: impl PgExecutor<'_>,
    topics: Topics,
    seq: i64,
    limit: i64,
) -> Result<Vec<FarmEventRow>, DbError> {
    Ok(sqlx::query_as(
        "with next as (
             (select seq, at, type, data, job_id, null as host, null as device
              from job_events where $3 and seq > $1 order by seq limit $2)
             union all
             (select seq, at, type, data, null, host, device
              from residency_events where $4 and seq > $1 order by seq limit $2)
         )
         select * from next
         where seq < coalesce((select min(seq) from next where at >= now() - interval '2 seconds'), 9223372036854775807)
         order by seq limit $2",
    )
    .bind(seq)
    .bind(limit)
    .bind(topics.jobs)
    .bind(topics.residency)
    .fetch_all(db)
    .await?)
}

/// The newest event number, from which a client without history starts; 0 when there is none.
///
/// # Errors
/// Database errors.
pub async fn latest(db: impl PgExecutor<'_>) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar(
        "select greatest((select max(seq) from job_events), (select max(seq) from residency_events), 0)",
    )
    .fetch_one(db)
    .await?)
}

/// Drops events of residency that are older than `keep`, looking at the `limit` oldest. `None` when the term is over.
///
/// # Errors
/// Database errors.
pub async fn prune(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    keep: Duration,
    limit: i64,
) -> Result<Option<u64>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    let gone = sqlx::query(
        "with oldest as (select seq, at from residency_events order by seq limit $2)
         delete from residency_events e using oldest o
         where e.seq = o.seq and o.at < now() - make_interval(secs => $1)",
    )
    .bind(seconds(keep))
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(Some(gone.rows_affected()))
}
