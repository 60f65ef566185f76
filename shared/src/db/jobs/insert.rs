//! Inserting a job, or joining the active one with the same key.

use sqlx::PgConnection;

use crate::{
    db::{DbError, blobs},
    ids::JobId,
    job::{Enqueued, JobSpec, Lane, NewJob, Target, engine::EngineArgs},
};

// One trip: the row, its event and the hints, or nothing when the key is taken.
const INSERT: &str = "
    with added as (
        insert into jobs (id, kind, args, args_version, state, priority, lane, pin_host, pin_device, need_labels, needs, model_id,
                          unique_key, max_attempts, parent, retry_of, traceparent, started_at, placement)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, case when $5 = 'running' then now() end, $19)
        on conflict (unique_key) where unique_key is not null and state in ('pending', 'placed', 'running') do nothing
        returning id
    ), logged as (
        insert into job_events (job_id, type, data) select id, 'enqueued', $18 from added
    ), hinted as (
        select pg_notify('modelyard_schedule', ''), pg_notify('modelyard_job', id) from added
    )
    select count(*) from hinted";

/// Inserts in the caller's transaction. A job with children starts out `running`: its children are its work.
///
/// # Errors
/// [`DbError::Gone`] when what the job works on is not there any more; database errors.
pub async fn insert(tx: &mut PgConnection, job: &NewJob, lane: Lane) -> Result<Enqueued, DbError> {
    let id = JobId::generate();
    // a child belongs to its parent alone; nobody joins it
    let key = if job.parent.is_some() { None } else { job.spec.unique_key(&job.target.to_string()) };
    // the active job may end between our insert and our look; then the next insert succeeds
    for _ in 0..3 {
        if try_insert(tx, id, job, lane, key.as_deref()).await? {
            if let Some((_, input)) = job.spec.engine().as_ref().and_then(EngineArgs::input) {
                blobs::hold_input(tx, id, input).await?;
            }
            return Ok(Enqueued { id, created: true });
        }
        let active: Option<JobId> = sqlx::query_scalar(
            "select id from jobs where unique_key = $1 and state in ('pending', 'placed', 'running')",
        )
        .bind(&key)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(id) = active {
            return Ok(Enqueued { id, created: false });
        }
    }
    Err(DbError::BadRow(format!("the active job with key `{}` kept appearing and vanishing", key.unwrap_or_default())))
}

async fn try_insert(
    tx: &mut PgConnection,
    id: JobId,
    job: &NewJob,
    lane: Lane,
    key: Option<&str>,
) -> Result<bool, DbError> {
    let (pin_host, pin_device) = match &job.target {
        Target::Host(host) => (Some(host.as_str()), None),
        Target::Device(device) => (device.split_once('/').map(|(host, _)| host), Some(device.as_str())),
        Target::Any | Target::All => (None, None),
    };
    let args = job.spec.args().map_err(|error| DbError::BadRow(error.to_string()))?;
    let needs = serde_json::to_value(&job.needs).map_err(|error| DbError::BadRow(error.to_string()))?;
    let event = serde_json::json!({ "kind": job.spec.kind(), "target": job.target });
    let inserted: i64 = sqlx::query_scalar(INSERT)
        .bind(id)
        .bind(job.spec.kind().as_str())
        .bind(args)
        .bind(JobSpec::ARGS_VERSION)
        .bind(if lane == Lane::Fanout { "running" } else { "pending" })
        .bind(job.priority)
        .bind(lane.as_str())
        .bind(pin_host)
        .bind(pin_device)
        .bind(&job.need_labels)
        .bind(needs)
        .bind(job.spec.model())
        .bind(key)
        .bind(job.max_attempts)
        .bind(job.parent)
        .bind(job.retry_of)
        .bind(&job.traceparent)
        .bind(event)
        .bind(&job.placement)
        .fetch_one(tx)
        .await?;
    Ok(inserted == 1)
}
