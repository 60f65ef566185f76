//! Reading jobs; nothing here changes a row.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};

use crate::{
    db::DbError,
    ids::{ComponentId, Incarnation, JobId, ModelId},
    job::JobKind,
};

/// A job as stored.
#[derive(Debug, Clone, FromRow)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// Kind.
    pub kind: String,
    /// Arguments.
    pub args: Value,
    /// Version of the arguments.
    pub args_version: i32,
    /// State.
    pub state: String,
    /// Priority.
    pub priority: i32,
    /// `device`, `host` or `fanout`.
    pub lane: String,
    /// Pinned host.
    pub pin_host: Option<String>,
    /// Pinned device.
    pub pin_device: Option<String>,
    /// Labels asked for.
    pub need_labels: Vec<String>,
    /// What the placement must know.
    pub needs: Value,
    /// The model it is about.
    pub model_id: Option<ModelId>,
    /// When it may run.
    pub run_at: DateTime<Utc>,
    /// Attempts so far.
    pub attempt: i32,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// Attempts that killed their worker.
    pub crash_count: i32,
    /// Lease epoch.
    pub fence: i64,
    /// Where it is or was.
    pub host: Option<String>,
    /// Where it is or was.
    pub device: Option<String>,
    /// Who runs it.
    pub incarnation: Option<Incarnation>,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// The job whose child it is.
    pub parent: Option<JobId>,
    /// The job that it repeats.
    pub retry_of: Option<JobId>,
    /// Why it waits.
    pub reason: Option<Value>,
    /// Why it was placed where it is.
    pub placement: Option<Value>,
    /// Result.
    pub result: Option<Value>,
    /// Last error.
    pub error: Option<Value>,
    /// Accepted.
    pub created_at: DateTime<Utc>,
    /// Last placed.
    pub placed_at: Option<DateTime<Utc>>,
    /// First started.
    pub started_at: Option<DateTime<Utc>>,
    /// Ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// One attempt.
#[derive(Debug, Clone, FromRow)]
pub struct AttemptRow {
    /// Number from 1.
    pub attempt: i32,
    /// Lease epoch.
    pub fence: i64,
    /// Host.
    pub host: String,
    /// Device.
    pub device: Option<String>,
    /// Worker.
    pub incarnation: Incarnation,
    /// Claimed.
    pub started_at: DateTime<Utc>,
    /// Ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended.
    pub outcome: Option<String>,
    /// With which error.
    pub error: Option<Value>,
}

/// What to list; absent means any.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// States.
    pub states: Option<Vec<String>>,
    /// Kinds.
    pub kinds: Option<Vec<String>>,
    /// Model.
    pub model: Option<ModelId>,
    /// Host.
    pub host: Option<String>,
    /// Device.
    pub device: Option<String>,
    /// Children of this job.
    pub parent: Option<JobId>,
    /// Older than this job (the cursor).
    pub before: Option<JobId>,
}

/// One job, hot or archived.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, id: JobId) -> Result<Option<JobRow>, DbError> {
    Ok(sqlx::query_as("select * from all_jobs where id = $1").bind(id).fetch_optional(db).await?)
}

/// Those of these jobs that are there, hot or archived.
///
/// # Errors
/// Database errors.
pub async fn find_each(db: impl PgExecutor<'_>, ids: &[JobId]) -> Result<Vec<JobRow>, DbError> {
    Ok(sqlx::query_as("select * from all_jobs where id = any($1)").bind(ids).fetch_all(db).await?)
}

/// Jobs, newest first.
///
/// # Errors
/// Database errors.
pub async fn list(db: impl PgExecutor<'_>, filter: &JobFilter, limit: i64) -> Result<Vec<JobRow>, DbError> {
    Ok(sqlx::query_as(
        "select * from all_jobs
         where ($1::text[] is null or state = any($1)) and ($2::text[] is null or kind = any($2))
           and ($3::text is null or model_id = $3) and ($4::text is null or host = $4) and ($5::text is null or device = $5)
           and ($6::text is null or parent = $6) and ($7::text is null or id < $7)
         order by id desc limit $8",
    )
    .bind(&filter.states)
    .bind(&filter.kinds)
    .bind(filter.model)
    .bind(&filter.host)
    .bind(&filter.device)
    .bind(filter.parent)
    .bind(filter.before)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// Attempts of a job, first to last.
///
/// # Errors
/// Database errors.
pub async fn attempts(db: impl PgExecutor<'_>, id: JobId) -> Result<Vec<AttemptRow>, DbError> {
    Ok(sqlx::query_as("select * from job_attempts where job_id = $1 order by fence").bind(id).fetch_all(db).await?)
}

/// Active jobs about a model, oldest first: (id, kind, state, device or host).
///
/// # Errors
/// Database errors.
pub async fn active_for_model(
    db: impl PgExecutor<'_>,
    model: ModelId,
) -> Result<Vec<(JobId, String, String, Option<String>)>, DbError> {
    Ok(sqlx::query_as(
        "select id, kind, state, coalesce(device, host) from jobs
         where model_id = $1 and lane <> 'fanout' and state in ('pending', 'placed', 'running') order by id",
    )
    .bind(model)
    .fetch_all(db)
    .await?)
}

/// Placed and running jobs that are about a model or need one of these components, oldest first: (id, kind, state, device or host).
///
/// # Errors
/// Database errors.
pub async fn active_that_need(
    db: impl PgExecutor<'_>,
    model: ModelId,
    components: &[ComponentId],
) -> Result<Vec<(JobId, String, String, Option<String>)>, DbError> {
    let components: Vec<String> = components.iter().map(ToString::to_string).collect();
    Ok(sqlx::query_as(
        "select id, kind, state, coalesce(device, host) from jobs
         where lane <> 'fanout' and state in ('placed', 'running') and (model_id = $1 or exists (
             select 1 from jsonb_array_elements(needs->'components') need where need->>0 = any($2))) order by id",
    )
    .bind(model)
    .bind(components)
    .fetch_all(db)
    .await?)
}

/// Active jobs about any of these models, oldest first: (model, job).
///
/// # Errors
/// Database errors.
pub async fn active_for_models(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<(ModelId, JobId)>, DbError> {
    Ok(sqlx::query_as(
        "select model_id, id from jobs
         where model_id = any($1) and lane <> 'fanout' and state in ('pending', 'placed', 'running') order by id",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// Devices that a load of this model has been placed on and not left: it is under way there, or it succeeded within
/// `recently` by the database's clock and no unload has succeeded after it. What a residency report may not show yet.
///
/// # Errors
/// Database errors.
pub async fn loads_underway_or_recent(
    db: impl PgExecutor<'_>,
    model: ModelId,
    recently: std::time::Duration,
) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        // one branch for each partial index; every finished row looked at is a recent one
        "select distinct device from (
             select device, null::timestamptz as finished_at from jobs where model_id = $1 and kind = 'load'
                 and device is not null and state in ('pending', 'placed', 'running') and state <> 'pending'
             union all
             select device, finished_at from jobs where finished_at > now() - make_interval(secs => $2)
                 and model_id = $1 and kind = 'load' and device is not null and state = 'succeeded'
         ) l where not exists (select 1 from jobs u where u.finished_at > now() - make_interval(secs => $2)
               and u.finished_at > l.finished_at and u.model_id = $1 and u.kind = 'unload' and u.device = l.device
               and u.state = 'succeeded')
         order by device",
    )
    .bind(model)
    .bind(crate::db::seconds(recently))
    .fetch_all(db)
    .await?)
}

/// Placed and running jobs per (host, device): what a placement counts against slots.
///
/// # Errors
/// Database errors.
pub async fn load_by_place(db: impl PgExecutor<'_>) -> Result<Vec<(String, Option<String>, i64)>, DbError> {
    // one branch for each partial index: a single `state in (…)` would read the finished rows as well
    Ok(sqlx::query_as(
        "select host, device, count(*) from (
             select host, device from jobs where state = 'placed' and lane = 'device'
             union all select host, null from jobs where state = 'placed' and lane = 'host'
             union all select host, device from jobs where state = 'running' and lane <> 'fanout'
         ) active where host is not null group by host, device",
    )
    .fetch_all(db)
    .await?)
}

/// (host, device, needs) of placed and running jobs that need weights: memory that is promised but perhaps not yet reported as used.
///
/// # Errors
/// Database errors.
pub async fn active_needs(db: impl PgExecutor<'_>) -> Result<Vec<(String, Option<String>, Value)>, DbError> {
    let with_weights: Vec<&str> =
        JobKind::ALL.into_iter().filter(|kind| kind.needs_weights()).map(JobKind::as_str).collect();
    Ok(sqlx::query_as(
        "select host, device, needs from (
             select host, device, kind, needs from jobs where state = 'placed' and lane = 'device'
             union all select host, null, kind, needs from jobs where state = 'placed' and lane = 'host'
             union all select host, device, kind, needs from jobs where state = 'running' and lane <> 'fanout'
         ) active where host is not null and kind = any($1) and needs->'components' <> '[]'",
    )
    .bind(with_weights)
    .fetch_all(db)
    .await?)
}

/// Active jobs by (kind, state), and the Unix time in seconds at which the oldest due pending job came due (for gauges).
///
/// # Errors
/// Database errors.
pub async fn counts(db: impl PgExecutor<'_>) -> Result<Vec<(String, String, i64, Option<f64>)>, DbError> {
    Ok(sqlx::query_as(
        "select kind, state, count(*), extract(epoch from min(run_at) filter (where state = 'pending' and run_at <= now()))::float8 from (
             select kind, state, run_at from jobs where state = 'pending'
             union all select kind, state, run_at from jobs where state = 'placed' and lane = 'device'
             union all select kind, state, run_at from jobs where state = 'placed' and lane = 'host'
             union all select kind, state, run_at from jobs where state = 'running'
         ) active group by kind, state",
    )
    .fetch_all(db)
    .await?)
}
