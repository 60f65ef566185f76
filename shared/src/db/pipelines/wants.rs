//! What is wanted of pipelines on devices, the job that does it, and what is noted when that has failed.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;

use super::encoded;
use crate::{
    db::{DbError, seconds},
    ids::{JobId, PipelineId},
    job::enqueue::Needs,
    pipeline::Declared,
};

/// What somebody wants to be on a device.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The device.
    pub device: &'a str,
    /// The declaration.
    pub generation: i64,
    /// What it says.
    pub declared: &'a Declared,
    /// Bytes of its components.
    pub needs: &'a Needs,
    /// The job that does it.
    pub job: JobId,
}

/// Somebody wants a declaration on a device: earlier failures do not count any more.
///
/// # Errors
/// Database errors.
pub async fn want(tx: &mut PgConnection, want: Want<'_>) -> Result<(), DbError> {
    let needs = serde_json::to_value(want.needs).map_err(|error| DbError::BadRow(error.to_string()))?;
    sqlx::query(
        "insert into pipeline_devices as d (pipeline_id, device, desired, wanted_generation, wanted, needs, job_id)
         values ($1, $2, 'applied', $3, $4, $5, $6)
         on conflict (pipeline_id, device) do update set desired = 'applied', desired_at = now(),
             wanted_generation = excluded.wanted_generation, wanted = excluded.wanted, needs = excluded.needs,
             last_job_id = coalesce(d.job_id, d.last_job_id), job_id = excluded.job_id,
             failures = 0, retry_at = null, error = null",
    )
    .bind(want.pipeline)
    .bind(want.device)
    .bind(want.generation)
    .bind(encoded(want.declared)?)
    .bind(needs)
    .bind(want.job)
    .execute(tx)
    .await?;
    Ok(())
}

/// Somebody wants a pipeline off a device, by this job.
///
/// # Errors
/// Database errors.
pub async fn unwant(tx: &mut PgConnection, id: PipelineId, device: &str, job: JobId) -> Result<(), DbError> {
    sqlx::query(
        "update pipeline_devices set desired = 'none', desired_at = now(), last_job_id = coalesce(job_id, last_job_id),
             job_id = $3, failures = 0, retry_at = null, error = null
         where pipeline_id = $1 and device = $2",
    )
    .bind(id)
    .bind(device)
    .bind(job)
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives a row without a job this one; false when it has one by now.
///
/// # Errors
/// Database errors.
pub async fn take(tx: &mut PgConnection, id: PipelineId, device: &str, job: JobId) -> Result<bool, DbError> {
    let taken = sqlx::query(
        "update pipeline_devices set job_id = $3 where pipeline_id = $1 and device = $2 and job_id is null",
    )
    .bind(id)
    .bind(device)
    .bind(job)
    .execute(tx)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Notes that a job has failed, and the pause before it is tried again, if it is. False when another job is the newest by now.
///
/// # Errors
/// Database errors.
pub async fn note(
    tx: &mut PgConnection,
    (id, device): (PipelineId, &str),
    job: JobId,
    error: &Value,
    pause: Option<Duration>,
) -> Result<bool, DbError> {
    let noted = sqlx::query(
        "update pipeline_devices set last_job_id = job_id, job_id = null, error = $4,
             failures = failures + 1, retry_at = now() + make_interval(secs => $5)
         where pipeline_id = $1 and device = $2 and job_id = $3",
    )
    .bind(id)
    .bind(device)
    .bind(job)
    .bind(error)
    .bind(pause.map(seconds))
    .execute(tx)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// Notes that a job has ended and nothing is left to do. False when another job is the newest by now.
///
/// # Errors
/// Database errors.
pub async fn settle(tx: &mut PgConnection, (id, device): (PipelineId, &str), job: JobId) -> Result<bool, DbError> {
    let settled = sqlx::query(
        "update pipeline_devices set last_job_id = job_id, job_id = null, failures = 0, retry_at = null, error = null
         where pipeline_id = $1 and device = $2 and job_id = $3",
    )
    .bind(id)
    .bind(device)
    .bind(job)
    .execute(tx)
    .await?;
    Ok(settled.rows_affected() == 1)
}

/// What was applied is gone with its process, and nobody wants it.
///
/// # Errors
/// Database errors.
pub async fn clear(tx: &mut PgConnection, id: PipelineId, device: &str) -> Result<bool, DbError> {
    let cleared = sqlx::query(
        "update pipeline_devices set applied_generation = null, applied = null, incarnation = null, runner_generation = null,
             applied_at = null, facts = null, failures = 0, retry_at = null, error = null
         where pipeline_id = $1 and device = $2 and desired = 'none' and job_id is null",
    )
    .bind(id)
    .bind(device)
    .execute(tx)
    .await?;
    Ok(cleared.rows_affected() == 1)
}
