//! What was done with pipelines: appended to, pruned by age.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};

use super::{decoded, encoded};
use crate::{
    db::{DbError, seconds},
    ids::{JobId, PipelineId},
    pipeline::Declared,
};

/// Something that was done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Event<'a> {
    /// `declared`, `applied`, `restored`, `failed`, `lost` or `removed`.
    pub event: &'a str,
    /// The declaration that it is about.
    pub generation: i64,
    /// Who declared or removed it.
    pub who: Option<&'a str>,
    /// The name of a pipeline that is removed.
    pub name: Option<&'a str>,
    /// Where.
    pub device: Option<&'a str>,
    /// By which job.
    pub job: Option<JobId>,
    /// What was there before.
    pub before: Option<&'a Declared>,
    /// What is there now.
    pub after: Option<&'a Declared>,
    /// Seconds that it took.
    pub seconds: Option<f64>,
    /// Bytes that were changed on the device.
    pub bytes: Option<i64>,
    /// What went wrong.
    pub error: Option<&'a Value>,
}

/// An entry as stored.
#[derive(Debug, Clone, FromRow)]
pub struct EventRow {
    /// Orders the entries.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub event: String,
    /// The declaration that it is about.
    pub generation: i64,
    /// Who declared or removed it.
    pub who: Option<String>,
    /// Where.
    pub device: Option<String>,
    /// By which job.
    pub job_id: Option<JobId>,
    before: Option<Value>,
    after: Option<Value>,
    /// Seconds that it took.
    pub seconds: Option<f64>,
    /// Bytes that were changed on the device.
    pub bytes: Option<i64>,
    /// What went wrong.
    pub error: Option<Value>,
}

impl EventRow {
    /// What was there before and after.
    ///
    /// # Errors
    /// [`DbError::BadRow`] when this build cannot read it.
    pub fn declared(&self) -> Result<[Option<Declared>; 2], DbError> {
        Ok([self.before.clone().map(decoded).transpose()?, self.after.clone().map(decoded).transpose()?])
    }
}

/// Appends an entry.
///
/// # Errors
/// Database errors.
pub async fn add(db: impl PgExecutor<'_>, pipeline: PipelineId, event: Event<'_>) -> Result<(), DbError> {
    sqlx::query(
        "insert into pipeline_history (pipeline_id, event, generation, who, device, job_id, before, after, seconds, bytes, error, name)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(pipeline)
    .bind(event.event)
    .bind(event.generation)
    .bind(event.who)
    .bind(event.device)
    .bind(event.job)
    .bind(event.before.map(encoded).transpose()?)
    .bind(event.after.map(encoded).transpose()?)
    .bind(event.seconds)
    .bind(event.bytes)
    .bind(event.error)
    .bind(event.name)
    .execute(db)
    .await?;
    Ok(())
}

/// Adds an entry for each job that was to apply a pipeline to a place of the scheduler's choice, ended otherwise and has none yet:
/// (name of the pipeline, job).
///
/// # Errors
/// Database errors.
pub async fn add_failed_choices(db: impl PgExecutor<'_>) -> Result<Vec<(String, JobId)>, DbError> {
    Ok(sqlx::query_as(
        "with failed as (
             insert into pipeline_history (pipeline_id, event, generation, job_id, error)
             select p.id, 'failed', coalesce((j.args->>'generation')::bigint, p.generation), j.id, j.error
             from pipelines p join all_jobs j on j.id = p.job_id
             where j.state in ('failed', 'cancelled', 'quarantined')
               and not exists (select 1 from pipeline_history h where h.pipeline_id = p.id and h.job_id = j.id)
             returning pipeline_id, job_id)
         select p.name, f.job_id from failed f join pipelines p on p.id = f.pipeline_id",
    )
    .fetch_all(db)
    .await?)
}

/// The pipelines that these words name in the history: that with this id, else the present one and all removed ones of this name.
///
/// # Errors
/// Database errors.
pub async fn named(db: impl PgExecutor<'_>, wanted: &str) -> Result<Vec<PipelineId>, DbError> {
    Ok(sqlx::query_scalar(
        "select id from pipelines where name = $1 or id = $1
         union select pipeline_id from pipeline_history where name = $1
         union (select pipeline_id from pipeline_history where pipeline_id = $1 limit 1)",
    )
    .bind(wanted)
    .fetch_all(db)
    .await?)
}

/// Names of removed pipelines.
///
/// # Errors
/// Database errors.
pub async fn removed_names(db: impl PgExecutor<'_>) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("select distinct name from pipeline_history where name is not null order by name")
        .fetch_all(db)
        .await?)
}

/// Entries of pipelines, the newest first, before this one.
///
/// # Errors
/// Database errors.
pub async fn list(
    db: impl PgExecutor<'_>,
    pipelines: &[PipelineId],
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<EventRow>, DbError> {
    Ok(sqlx::query_as(
        "select seq, at, event, generation, who, device, job_id, before, after, seconds, bytes, error from pipeline_history
         where pipeline_id = any($1) and ($2::bigint is null or seq < $2) order by seq desc limit $3",
    )
    .bind(pipelines)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// Removes entries that are older, at most so many; how many there were.
///
/// # Errors
/// Database errors.
pub async fn prune(db: impl PgExecutor<'_>, older: Duration, most: i64) -> Result<u64, DbError> {
    let gone = sqlx::query(
        "delete from pipeline_history where seq in
             (select seq from pipeline_history where at < now() - make_interval(secs => $1) order by at limit $2)",
    )
    .bind(seconds(older))
    .bind(most)
    .execute(db)
    .await?;
    Ok(gone.rows_affected())
}
