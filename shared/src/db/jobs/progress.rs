//! Progress of a running job: a narrow row of its own, fenced like every worker write.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};

use super::JobLease;
use crate::{db::DbError, ids::JobId};

/// Progress as last written.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct ProgressRow {
    /// What is being done: `locating`, `reading`, `copying`, `freeing`, `scanning`, …
    pub phase: String,
    /// Bytes (for a scan: files) done.
    pub bytes_done: i64,
    /// Bytes (files) in all; 0 while unknown.
    pub bytes_total: i64,
    /// Bytes (files) per second at present.
    pub bytes_per_second: Option<f64>,
    /// Seconds left at the present rate.
    pub eta_seconds: Option<f64>,
    /// What in particular, e.g. the component.
    pub detail: Option<String>,
    /// When it was written.
    pub at: DateTime<Utc>,
}

/// Writes progress if the lease is still ours; false when it is not.
///
/// # Errors
/// Database errors.
pub async fn write_progress(
    db: impl PgExecutor<'_>,
    lease: JobLease,
    phase: &str,
    (bytes_done, bytes_total): (i64, i64),
    (bytes_per_second, eta_seconds): (Option<f64>, Option<f64>),
    detail: Option<&str>,
) -> Result<bool, DbError> {
    let written = sqlx::query(
        "insert into job_progress (job_id, fence, phase, bytes_done, bytes_total, bytes_per_second, eta_seconds, detail, at)
         select id, fence, $4, $5, $6, $7, $8, $9, now() from jobs where id = $1 and fence = $2 and incarnation = $3 and state = 'running'
         on conflict (job_id) do update set fence = excluded.fence, phase = excluded.phase, bytes_done = excluded.bytes_done,
             bytes_total = excluded.bytes_total, bytes_per_second = excluded.bytes_per_second, eta_seconds = excluded.eta_seconds, detail = excluded.detail, at = excluded.at",
    )
    .bind(lease.id)
    .bind(lease.fence)
    .bind(lease.incarnation)
    .bind(phase)
    .bind(bytes_done)
    .bind(bytes_total)
    .bind(bytes_per_second)
    .bind(eta_seconds)
    .bind(detail)
    .execute(db)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Progress of a job; for a job with children the sum of theirs.
///
/// # Errors
/// Database errors.
pub async fn progress_of(db: impl PgExecutor<'_>, id: JobId) -> Result<Option<ProgressRow>, DbError> {
    Ok(sqlx::query_as(
        "select coalesce((array_agg(p.phase order by p.at desc))[1], '') as phase,
                sum(p.bytes_done)::bigint as bytes_done, sum(p.bytes_total)::bigint as bytes_total,
                sum(p.bytes_per_second) filter (where j.state = 'running') as bytes_per_second, max(p.eta_seconds) filter (where j.state = 'running') as eta_seconds, (array_agg(p.detail order by p.at desc))[1] as detail, max(p.at) as at
         from job_progress p join jobs j on j.id = p.job_id where p.job_id = any(array(select $1 union all select id from jobs where parent = $1))
         having count(*) > 0",
    )
    .bind(id)
    .fetch_optional(db)
    .await?)
}

/// Progress of each of several jobs without children; jobs that have none are left out.
///
/// # Errors
/// Database errors.
pub async fn progress_of_each(
    db: impl PgExecutor<'_>,
    ids: &[JobId],
) -> Result<std::collections::HashMap<JobId, ProgressRow>, DbError> {
    #[derive(FromRow)]
    struct Row {
        job_id: JobId,
        #[sqlx(flatten)]
        progress: ProgressRow,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select job_id, phase, bytes_done, bytes_total, bytes_per_second, eta_seconds, detail, at from job_progress where job_id = any($1)",
    )
    .bind(ids)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.job_id, row.progress)).collect())
}
