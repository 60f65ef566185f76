//! Ending an attempt: the fenced write that turns a report into the job's next state.

use sqlx::{FromRow, PgConnection};

use super::{JobLease, event, parent::settle_parent_of};
use crate::{
    db::{DbError, farm::notify, listen, seconds},
    ids::JobId,
    job::{
        JobState,
        rules::{Counters, Report, Settled, settle as settled_by_rules},
    },
};

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It counts; the job is now in this state.
    Applied(JobState),
    /// The lease is no longer ours: the report changed nothing (G5).
    Stale,
}

#[derive(FromRow)]
pub(super) struct CounterRow {
    attempt: i32,
    max_attempts: i32,
    crash_count: i32,
    max_crashes: i32,
    cancel_requested: bool,
}

impl From<CounterRow> for Counters {
    fn from(row: CounterRow) -> Self {
        Self {
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            crash_count: row.crash_count,
            max_crashes: row.max_crashes,
            cancel_requested: row.cancel_requested,
        }
    }
}

/// Locks the job's row if the lease is still valid; domain writes of a worker go after it in the same transaction.
///
/// # Errors
/// Database errors.
pub async fn hold(tx: &mut PgConnection, lease: JobLease) -> Result<Option<Counters>, DbError> {
    let row: Option<CounterRow> = sqlx::query_as(
        "select attempt, max_attempts, crash_count, max_crashes, cancel_requested_at is not null as cancel_requested
         from jobs where id = $1 and fence = $2 and incarnation = $3 and state = 'running' for update",
    )
    .bind(lease.id)
    .bind(lease.fence)
    .bind(lease.incarnation)
    .fetch_optional(tx)
    .await?;
    Ok(row.map(Counters::from))
}

/// Applies a report in the caller's transaction, together with whatever the caller wrote there.
/// On [`Settlement::Stale`] the caller must roll back.
///
/// # Errors
/// Database errors.
pub async fn settle(
    tx: &mut PgConnection,
    lease: JobLease,
    report: &Report,
    jitter: f64,
) -> Result<Settlement, DbError> {
    let Some(counters) = hold(tx, lease).await? else { return Ok(Settlement::Stale) };
    let settled = settled_by_rules(report, counters, jitter);
    let result = match report {
        Report::Succeeded { result } => Some(result.clone()),
        _ => None,
    };
    apply(tx, lease.id, &settled, result).await?;
    Ok(Settlement::Applied(settled.state))
}

/// Writes a settled attempt; the row is locked by the caller.
pub(super) async fn apply(
    tx: &mut PgConnection,
    id: JobId,
    settled: &Settled,
    result: Option<serde_json::Value>,
) -> Result<(), DbError> {
    let error = settled
        .error
        .as_ref()
        .map(serde_json::to_value)
        .transpose()
        .map_err(|error| DbError::BadRow(error.to_string()))?;
    let terminal = settled.state.is_terminal();
    let fence: i64 = sqlx::query_scalar(
        "update jobs set state = $2, attempt = $3, crash_count = $4, error = $5, result = $6,
             run_at = now() + make_interval(secs => $7), incarnation = null,
             finished_at = case when $8 then now() end,
             lost_at = case when $9 = 'lost' then now() end,
             host = case when $8 then host end, device = case when $8 then device end,
             reason = case when $8 or $5 is null then null else jsonb_build_object('code', $9, 'message', $5->>'message') end
         where id = $1 returning fence",
    )
    .bind(id)
    .bind(settled.state.as_str())
    .bind(settled.attempt)
    .bind(settled.crash_count)
    .bind(&error)
    .bind(&result)
    .bind(seconds(settled.delay))
    .bind(terminal)
    .bind(settled.outcome)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("update job_attempts set ended_at = now(), outcome = $3, error = $4 where job_id = $1 and fence = $2 and ended_at is null")
        .bind(id)
        .bind(fence)
        .bind(settled.outcome)
        .bind(&error)
        .execute(&mut *tx)
        .await?;
    if !terminal {
        sqlx::query("delete from job_progress where job_id = $1").bind(id).execute(&mut *tx).await?;
    }
    let mut data = serde_json::json!({ "state": settled.state, "attempt": settled.attempt });
    if let Some(error) = error {
        data["error"] = error;
    }
    event(tx, id, settled.outcome, data).await?;
    if terminal {
        settle_parent_of(tx, id).await?;
        hint_if_others_wait(tx).await
    } else {
        notify(tx, listen::SCHEDULE, "").await
    }
}

/// A job that ended has freed a slot: the scheduler should look, unless nobody waits for one.
async fn hint_if_others_wait(tx: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query(
        "select pg_notify($1, '') where exists (select 1 from jobs where state = 'pending' and run_at <= now())",
    )
    .bind(listen::SCHEDULE)
    .execute(tx)
    .await?;
    Ok(())
}
