//! What agents say of pipelines, in the (fenced) transaction that ends their job.

use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{decoded, encoded, history};
use crate::{
    db::DbError,
    ids::{Incarnation, JobId, PipelineId},
    job::{ApplyPipelineArgs, RestorePipelineArgs},
    pipeline::Declared,
};

/// A pipeline that was applied.
#[derive(Debug, Clone, Copy)]
pub struct AppliedMark<'a> {
    /// The job.
    pub job: JobId,
    /// Its arguments.
    pub args: &'a ApplyPipelineArgs,
    /// The device.
    pub device: &'a str,
    /// The agent.
    pub incarnation: Incarnation,
    /// Deaths of the device's runner before the process that has it now.
    pub runner_generation: i64,
    /// What was done to each component.
    pub facts: &'a Value,
    /// Seconds that it took.
    pub seconds: f64,
    /// Bytes that were changed on the device.
    pub bytes: u64,
}

/// A pipeline whose base is run as it is again.
#[derive(Debug, Clone, Copy)]
pub struct RestoredMark<'a> {
    /// The job.
    pub job: JobId,
    /// Its arguments.
    pub args: &'a RestorePipelineArgs,
    /// The device.
    pub device: &'a str,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Whether what a job says of a pipeline on a device is what is recorded there: applied by it as this generation, by this agent and
/// process of its runner, or restored by it (none).
///
/// # Errors
/// Database errors.
pub async fn is_recorded(
    db: impl PgExecutor<'_>,
    (pipeline, device): (PipelineId, &str),
    job: JobId,
    applied: Option<(i64, Incarnation, i64)>,
) -> Result<bool, DbError> {
    let (generation, incarnation, runner_generation) = match applied {
        Some((generation, incarnation, runner)) => (Some(generation), Some(incarnation), Some(runner)),
        None => (None, None, None),
    };
    Ok(sqlx::query_scalar(
        "select exists (
             select 1 from pipeline_devices where pipeline_id = $1 and device = $2 and last_job_id = $3
                 and applied_generation is not distinct from $4 and incarnation is not distinct from $5
                 and runner_generation is not distinct from $6)",
    )
    .bind(pipeline)
    .bind(device)
    .bind(job)
    .bind(generation)
    .bind(incarnation)
    .bind(runner_generation)
    .fetch_one(db)
    .await?)
}

#[derive(FromRow)]
struct Before {
    applied: Option<Value>,
    applied_generation: Option<i64>,
}

/// Records that a pipeline is on a device. False when nobody wants it there any more, because it was removed: the agent then
/// takes it away itself. Call it before the job is settled: it reads when the job was accepted.
///
/// # Errors
/// Database errors.
pub async fn mark_applied(tx: &mut PgConnection, mark: AppliedMark<'_>) -> Result<bool, DbError> {
    let args = mark.args;
    let there: Option<PipelineId> = sqlx::query_scalar("select id from pipelines where id = $1 for key share")
        .bind(args.pipeline)
        .fetch_optional(&mut *tx)
        .await?;
    if there.is_none() {
        return Ok(false);
    }
    let declared = Declared { assembly: args.assembly.clone(), keep_alive: args.keep_alive, protect: args.protect };
    let before = before(tx, args.pipeline, mark.device).await?;
    let current = before.as_ref().and_then(|before| before.applied_generation).unwrap_or_default() <= args.generation;
    if current {
        write_applied(tx, &mark, &encoded(&declared)?).await?;
    }
    let earlier = before.and_then(|before| before.applied).map(decoded).transpose()?;
    let event = history::Event {
        event: "applied",
        generation: args.generation,
        device: Some(mark.device),
        job: Some(mark.job),
        before: earlier.as_ref(),
        after: Some(&declared),
        seconds: Some(mark.seconds),
        bytes: i64::try_from(mark.bytes).ok(),
        ..history::Event::default()
    };
    history::add(&mut *tx, args.pipeline, event).await?;
    Ok(true)
}

async fn before(tx: &mut PgConnection, id: PipelineId, device: &str) -> Result<Option<Before>, DbError> {
    Ok(sqlx::query_as(
        "select applied, applied_generation from pipeline_devices where pipeline_id = $1 and device = $2 for update",
    )
    .bind(id)
    .bind(device)
    .fetch_optional(tx)
    .await?)
}

/// What was asked for after this job was accepted stands: another declaration, or that it be gone.
async fn write_applied(tx: &mut PgConnection, mark: &AppliedMark<'_>, declared: &Value) -> Result<(), DbError> {
    sqlx::query(
        "insert into pipeline_devices as d (pipeline_id, device, desired, wanted_generation, wanted, needs, applied_generation,
                                            applied, incarnation, runner_generation, applied_at, facts, last_job_id)
         select $1, $2, 'applied', $3, $4, j.needs, $3, $4, $5, $6, now(), $7, j.id from jobs j where j.id = $8
         on conflict (pipeline_id, device) do update set
             desired = case when d.desired_at > (select created_at from jobs where id = $8) then d.desired else 'applied' end,
             wanted_generation = greatest(d.wanted_generation, excluded.wanted_generation),
             wanted = case when excluded.wanted_generation > d.wanted_generation then excluded.wanted else d.wanted end,
             needs = case when excluded.wanted_generation > d.wanted_generation then excluded.needs else d.needs end,
             applied_generation = excluded.applied_generation, applied = excluded.applied,
             incarnation = excluded.incarnation, runner_generation = excluded.runner_generation,
             applied_at = excluded.applied_at, facts = excluded.facts, failures = 0, retry_at = null, error = null,
             last_job_id = excluded.last_job_id, job_id = nullif(d.job_id, excluded.last_job_id)",
    )
    .bind(mark.args.pipeline)
    .bind(mark.device)
    .bind(mark.args.generation)
    .bind(declared)
    .bind(mark.incarnation)
    .bind(mark.runner_generation)
    .bind(mark.facts)
    .bind(mark.job)
    .execute(tx)
    .await?;
    Ok(())
}

/// Records that a pipeline is not on a device any more. A pipeline that was removed meanwhile has its history only.
///
/// # Errors
/// Database errors.
pub async fn mark_restored(tx: &mut PgConnection, mark: RestoredMark<'_>) -> Result<(), DbError> {
    let args = mark.args;
    let before = before(tx, args.pipeline, mark.device).await?;
    sqlx::query(
        "update pipeline_devices set applied_generation = null, applied = null, incarnation = null, runner_generation = null,
             applied_at = null, facts = null, failures = 0, retry_at = null, error = null,
             last_job_id = $3, job_id = nullif(job_id, $3)
         where pipeline_id = $1 and device = $2",
    )
    .bind(args.pipeline)
    .bind(mark.device)
    .bind(mark.job)
    .execute(&mut *tx)
    .await?;
    let earlier = before.and_then(|before| before.applied).map(decoded).transpose()?;
    let event = history::Event {
        event: "restored",
        generation: args.generation,
        device: Some(mark.device),
        job: Some(mark.job),
        before: earlier.as_ref(),
        seconds: Some(mark.seconds),
        ..history::Event::default()
    };
    history::add(tx, args.pipeline, event).await
}
