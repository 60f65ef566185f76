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

/// Events of a job and its children after `seq`, oldest first. They are written under the job's row lock, so their order is the
/// order of commits.
///
/// # Errors
/// Database errors.
pub async fn events_after(db: impl PgExecutor<'_>, job: JobId, seq: i64, limit: i64) -> Result<Vec<EventRow>, DbError> {
    Ok(sqlx::query_as(
        // each job's own newest part, by its index: a replay must not read the events of all other jobs
        "select e.seq, e.job_id, e.at, e.type, e.data
         from (select $3 as id union all select id from jobs where parent = $3) wanted
         cross join lateral (select * from job_events where job_id = wanted.id and seq > $1 order by seq limit $2) e
         order by e.seq limit $2",
    )
    .bind(seq)
    .bind(limit)
    .bind(job)
    .fetch_all(db)
    .await?)
}
