//! Moving finished jobs out of the hot table.

use std::time::Duration;

use sqlx::PgConnection;

use crate::db::{DbError, leader, seconds};

/// Moves up to `limit` jobs that ended longer than `keep` ago; children move only after their parent has ended.
/// Progress rows of moved jobs are dropped. `None` when the term is over.
///
/// # Errors
/// Database errors.
pub async fn archive(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    keep: Duration,
    limit: i64,
) -> Result<Option<u64>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    sqlx::query(
        "select ensure_archive_partition(month) from (
             select distinct date_trunc('month', finished_at) as month from jobs
             where finished_at < now() - make_interval(secs => $1)) months",
    )
    .bind(seconds(keep))
    .execute(&mut *tx)
    .await?;
    let moved = sqlx::query(
        "with old as (
             select j.id from jobs j where j.finished_at < now() - make_interval(secs => $1)
                 and not exists (select 1 from jobs p where p.id = j.parent and p.finished_at is null)
             order by j.finished_at limit $2 for update skip locked
         ), gone as (
             delete from jobs where id in (select id from old) returning *
         ), unprogressed as (
             delete from job_progress where job_id in (select id from old)
         ) insert into job_archive select * from gone",
    )
    .bind(seconds(keep))
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(Some(moved.rows_affected()))
}

/// Drops events older than `keep` of jobs that have left the hot table, looking at the `limit` oldest events.
/// `None` when the term is over.
///
/// # Errors
/// Database errors.
pub async fn prune_events(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    keep: Duration,
    limit: i64,
) -> Result<Option<u64>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    let gone = sqlx::query(
        "with oldest as (select seq, job_id, at from job_events order by seq limit $2)
         delete from job_events e using oldest o
         where e.seq = o.seq and o.at < now() - make_interval(secs => $1)
             and not exists (select 1 from jobs j where j.id = o.job_id)",
    )
    .bind(seconds(keep))
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(Some(gone.rows_affected()))
}
