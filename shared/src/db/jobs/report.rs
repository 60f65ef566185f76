//! Reporting an attempt whose work wrote nothing else. Success, by far the commonest, is one statement and one commit; its
//! outcome is that of [`crate::job::rules::settle`]. Every other report goes through [`super::settle`].

use serde_json::Value;
use sqlx::{PgExecutor, PgPool};

use super::{JobLease, Settlement, settle};
use crate::{
    db::{DbError, listen, tell::Teller},
    job::{JobState, rules::Report},
};

/// Applies a report in a transaction of its own.
///
/// # Errors
/// Database errors; the caller may try again: a report that was committed unseen is then stale.
pub async fn report(
    pool: &PgPool,
    teller: &Teller,
    lease: JobLease,
    report: &Report,
    jitter: f64,
) -> Result<Settlement, DbError> {
    if let Report::Succeeded { result } = report
        && let Some(others_wait) = succeed(pool, lease, result).await?
    {
        teller.tell(listen::JOB, lease.id.to_string());
        if others_wait {
            teller.tell(listen::SCHEDULE, "");
        }
        return Ok(Settlement::Applied(JobState::Succeeded));
    }
    let mut tx = pool.begin().await?;
    let settlement = settle(&mut tx, lease, report, jitter).await?;
    if settlement != Settlement::Stale {
        tx.commit().await?;
    }
    Ok(settlement)
}

/// Ends a job that has no parent as succeeded, if the lease is still valid; says whether other jobs wait for a place.
/// `None` when nothing changed: the lease is over, or a parent has to be settled with it.
///
/// The comparisons by `is not distinct from` leave the planner only the primary keys: the index of running jobs looks as
/// good to it while its statistics are old, and is full of dead entries when jobs are short.
async fn succeed(db: impl PgExecutor<'_>, lease: JobLease, result: &Value) -> Result<Option<bool>, DbError> {
    Ok(sqlx::query_scalar(
        "with done as (
             update jobs set state = 'succeeded', crash_count = greatest(crash_count - 1, 0), error = null, result = $4,
                 run_at = now(), incarnation = null, finished_at = now(), lost_at = null, reason = null
             where id = $1 and fence = $2 and incarnation is not distinct from $3 and state is not distinct from 'running'
                 and parent is null
             returning id, attempt
         ), ended as (
             update job_attempts set ended_at = now(), outcome = 'succeeded', error = null
             where job_id = $1 and fence = $2 and ended_at is null and exists (select 1 from done)
         ), logged as (
             insert into job_events (job_id, type, data)
             select id, 'succeeded', jsonb_build_object('state', 'succeeded', 'attempt', attempt) from done
         )
         select exists (select 1 from jobs where state = 'pending' and run_at <= now()) from done",
    )
    .bind(lease.id)
    .bind(lease.fence)
    .bind(lease.incarnation)
    .bind(result)
    .fetch_optional(db)
    .await?)
}
