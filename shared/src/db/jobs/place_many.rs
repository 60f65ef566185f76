//! Placement in batches: one statement places many jobs, one records why many jobs wait. A scheduler that placed job by
//! job would spend four round trips on each; this spends one on all that a pass decided.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::place::{PendingRow, Unplaced};
use crate::{db::DbError, ids::JobId};

/// One decision to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The job.
    pub id: JobId,
    /// Its fence at the time of the snapshot; the placement raises it.
    pub fence: i64,
    /// Host.
    pub host: String,
    /// Device, for jobs of the device lane.
    pub device: Option<String>,
    /// Why there, as shown by the API.
    pub explanation: Value,
}

/// Gives pending jobs to their places, under the term: only rows that are still pending with the snapshot's fence change.
/// Answers the jobs that were placed; none when the term is over. Events and hints (one per host) go with it.
///
/// # Errors
/// Database errors.
pub async fn place_many(
    db: impl PgExecutor<'_>,
    (role, term): (&str, i64),
    placements: &[Placement],
) -> Result<Vec<JobId>, DbError> {
    let ids: Vec<JobId> = placements.iter().map(|placement| placement.id).collect();
    let fences: Vec<i64> = placements.iter().map(|placement| placement.fence).collect();
    let hosts: Vec<&str> = placements.iter().map(|placement| placement.host.as_str()).collect();
    let devices: Vec<Option<&str>> = placements.iter().map(|placement| placement.device.as_deref()).collect();
    let explanations: Vec<&Value> = placements.iter().map(|placement| &placement.explanation).collect();
    // the term's row is locked first, so that this commits before a successor's first write
    Ok(sqlx::query_scalar(
        "with led as materialized (
             select 1 from leaders where role = $1 and term = $2 and expires_at > now() for share
         ), wanted as (
             select * from unnest($3::text[], $4::bigint[], $5::text[], $6::text[], $7::jsonb[])
                 as w (id, fence, host, device, placement)
         ), changed as (
             update jobs j set state = 'placed', host = w.host, device = w.device, fence = j.fence + 1,
                 placed_at = now(), placement = w.placement, reason = null
             from wanted w
             where j.id = w.id and j.fence = w.fence and j.state = 'pending' and exists (select 1 from led)
             returning j.id, j.host, j.device, j.fence
         ), logged as (
             insert into job_events (job_id, type, data)
             select id, 'placed', jsonb_build_object('host', host, 'device', device, 'fence', fence) from changed
         ), told as (
             select pg_notify('modelyard_job', id) from changed
         ), hinted as (
             select pg_notify('modelyard_placed', host) from (select distinct host from changed) hosts
         )
         select id from changed where (select count(*) from told) > 0 and (select count(*) from hinted) > 0",
    )
    .bind(role)
    .bind(term)
    .bind(&ids)
    .bind(&fences)
    .bind(&hosts)
    .bind(&devices)
    .bind(&explanations)
    .fetch_all(db)
    .await?)
}

/// Records why jobs wait, under the term; rows whose reason did not change are not written. Answers how many changed.
///
/// # Errors
/// Database errors.
pub async fn set_reasons(
    db: impl PgExecutor<'_>,
    (role, term): (&str, i64),
    unplaced: &[Unplaced],
) -> Result<u64, DbError> {
    let ids: Vec<JobId> = unplaced.iter().map(|unplaced| unplaced.id).collect();
    let reasons: Vec<&Value> = unplaced.iter().map(|unplaced| &unplaced.reason).collect();
    let told: i64 = sqlx::query_scalar(
        "with led as materialized (
             select 1 from leaders where role = $1 and term = $2 and expires_at > now() for share
         ), changed as (
             update jobs j set reason = w.reason from unnest($3::text[], $4::jsonb[]) as w (id, reason)
             where j.id = w.id and j.state = 'pending' and j.reason is distinct from w.reason
                 and exists (select 1 from led)
             returning j.id, j.reason
         ), logged as (
             insert into job_events (job_id, type, data) select id, 'waiting', reason from changed
         ), told as (
             select pg_notify('modelyard_job', id) from changed
         )
         select count(*) from told",
    )
    .bind(role)
    .bind(term)
    .bind(&ids)
    .bind(&reasons)
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(told).unwrap_or(0))
}

/// Where a walk through the pending jobs stands: after this (priority, due time, id). Orders as the walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingCursor {
    priority: std::cmp::Reverse<i32>,
    run_at: chrono::DateTime<chrono::Utc>,
    id: JobId,
}

impl PendingCursor {
    /// After this row.
    pub fn after(row: &PendingRow) -> Self {
        Self { priority: std::cmp::Reverse(row.priority), run_at: row.run_at, id: row.id }
    }
}

/// One page of the due pending jobs, best first, after a cursor. A farm with many jobs that nobody can take is walked
/// page by page, so that they never hide the jobs behind them.
///
/// # Errors
/// Database errors.
pub async fn pending_after(
    db: &mut PgConnection,
    cursor: Option<PendingCursor>,
    limit: i64,
) -> Result<Vec<PendingRow>, DbError> {
    let Some(cursor) = cursor else { return super::place::pending(db, limit).await };
    Ok(sqlx::query_as(super::place::due_jobs!(
        "and priority <= $1 and (priority < $1 or (run_at, id) > ($2, $3)) order by priority desc, run_at, id limit $4"
    ))
    .bind(cursor.priority.0)
    .bind(cursor.run_at)
    .bind(cursor.id)
    .bind(limit)
    .fetch_all(db)
    .await?)
}
