//! The append-only events of jobs; `seq` is what an SSE client resumes from.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};

use crate::{db::DbError, ids::JobId};

/// One event.
#[derive(Debug, Clone, FromRow)]
pub struct EventRow {
    /// Grows with time; unique over all jobs.
    pub seq: i64,
    /// The job.
    pub job_id: JobId,
    /// When.
    pub at: DateTime<Utc>,
    /// `enqueued`, `waiting`, `placed`, `started`, `retry`, …
    #[sqlx(rename = "type")]
    pub kind: String,
    /// Details.
    pub data: Value,
}

/// Events after `seq`, oldest first: of one job and its children, or of all jobs.
/// One job's events are written under its row lock, so their order is the order of commits. Across jobs a
/// transaction may commit a lower `seq` late, so the feed of all jobs stays two seconds behind the newest row
/// unless nothing newer has been written.
///
/// # Errors
/// Database errors.
pub async fn events_after(
    db: impl PgExecutor<'_>,
    job: Option<JobId>,
    seq: i64,
    limit: i64,
) -> Result<Vec<EventRow>, DbError> {
    let query = match job {
        Some(job) => sqlx::query_as(
            // each job's own newest part, by its index: a replay must not read the events of all other jobs
            "select e.seq, e.job_id, e.at, e.type, e.data
             from (select $3 as id union all select id from jobs where parent = $3) wanted
             cross join lateral (select * from job_events where job_id = wanted.id and seq > $1 order by seq limit $2) e
             order by e.seq limit $2",
        )
        .bind(seq)
        .bind(limit)
        .bind(job),
        None => sqlx::query_as(
            "select seq, job_id, at, type, data from job_events where seq > $1 and at < now() - interval '2 seconds' order by seq limit $2",
        )
        .bind(seq)
        .bind(limit),
    };
    Ok(query.fetch_all(db).await?)
}

/// The newest event number, from which a client without history starts; 0 when there is none.
///
/// # Errors
/// Database errors.
pub async fn latest_event(db: impl PgExecutor<'_>) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select coalesce(max(seq), 0) from job_events").fetch_one(db).await?)
}
