//! Pipelines on devices as they stand: each row with what is known of its job, its device and its host.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::decoded;
use crate::{
    db::DbError,
    error::ErrorCode,
    ids::{Incarnation, JobId, PipelineId},
    job::{enqueue::Needs, state::UnknownState},
    pipeline::{Applied, Declared, Facts, JobFacts},
};

/// A pipeline on a device, with what is known of its job, its device and its host.
#[derive(Debug, Clone, FromRow)]
pub struct PipelineDeviceRow {
    /// The pipeline.
    pub pipeline_id: PipelineId,
    /// Its name.
    pub name: String,
    /// `<host>/<name>`.
    pub device: String,
    /// `applied` or `none`.
    pub desired: String,
    /// The declaration that is to be there.
    pub wanted_generation: i64,
    wanted: Value,
    needs: Value,
    /// The declaration that is there, if its process still is.
    pub applied_generation: Option<i64>,
    applied: Option<Value>,
    incarnation: Option<Incarnation>,
    runner_generation: Option<i64>,
    /// When it was applied.
    pub applied_at: Option<DateTime<Utc>>,
    /// What the job that applied it said of each component.
    pub facts: Option<Value>,
    /// The newest job about it, until how it ended is noted.
    pub job_id: Option<JobId>,
    /// The one before.
    pub last_job_id: Option<JobId>,
    /// Failures since the last success.
    pub failures: i32,
    /// When it is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    retry_in_seconds: Option<f64>,
    error: Option<Value>,
    agent: Option<Incarnation>,
    device_ready: bool,
    device_runner_generation: i64,
    job_state: Option<String>,
    job_error: Option<Value>,
}

const SELECT: &str = "
    select d.pipeline_id, p.name, d.device, d.desired, d.wanted_generation, d.wanted, d.needs, d.applied_generation, d.applied,
           d.incarnation, d.runner_generation, d.applied_at, d.facts, d.job_id, d.last_job_id, d.failures, d.retry_at,
           extract(epoch from d.retry_at - now())::float8 as retry_in_seconds, d.error,
           case when l.lease_until > now() then h.incarnation end as agent,
           coalesce(v.state = 'ready' and not h.draining, false) as device_ready,
           coalesce(v.runner_generation, 0) as device_runner_generation, j.state as job_state, j.error as job_error
    from pipeline_devices d
        join pipelines p on p.id = d.pipeline_id
        left join devices v on v.id = d.device
        left join hosts h on h.name = v.host
        left join host_leases l on l.incarnation = h.incarnation
        left join all_jobs j on j.id = d.job_id";

impl PipelineDeviceRow {
    /// What is to be there.
    ///
    /// # Errors
    /// [`DbError::BadRow`] when this build cannot read it.
    pub fn wanted(&self) -> Result<Declared, DbError> {
        decoded(self.wanted.clone())
    }

    /// What was applied.
    ///
    /// # Errors
    /// As [`PipelineDeviceRow::wanted`].
    pub fn applied(&self) -> Result<Option<Declared>, DbError> {
        self.applied.clone().map(decoded).transpose()
    }

    /// Bytes of what is to be there.
    ///
    /// # Errors
    /// As [`PipelineDeviceRow::wanted`].
    pub fn needs(&self) -> Result<Needs, DbError> {
        serde_json::from_value(self.needs.clone()).map_err(|error| DbError::BadRow(error.to_string()))
    }

    /// What failed last: noted, or of a job whose end is not noted yet.
    pub fn error(&self) -> Option<&Value> {
        self.job_error.as_ref().or(self.error.as_ref())
    }

    /// What is known, for the rules.
    ///
    /// # Errors
    /// [`DbError::BadRow`] for a state that this build does not know.
    pub fn facts(&self) -> Result<Facts, DbError> {
        let applied = match (self.applied_generation, self.incarnation, self.runner_generation) {
            (Some(generation), Some(incarnation), Some(runner_generation)) => {
                Some(Applied { generation, incarnation, runner_generation })
            }
            _ => None,
        };
        let state = self.job_state.as_deref().map(str::parse).transpose();
        let state = state.map_err(|error: UnknownState| DbError::BadRow(error.to_string()))?;
        let code = self
            .job_error
            .as_ref()
            .and_then(|error| serde_json::from_value::<ErrorCode>(error.get("code").cloned().unwrap_or_default()).ok());
        Ok(Facts {
            wanted: self.desired == "applied",
            wanted_generation: self.wanted_generation,
            applied,
            agent: self.agent,
            device_ready: self.device_ready,
            runner_generation: self.device_runner_generation,
            job: self.job_id.map(|_| JobFacts { state, code }),
            failed: self.error.is_some(),
            retry_in: self.retry_in_seconds.map(|wait| Duration::try_from_secs_f64(wait).unwrap_or_default()),
        })
    }
}

/// A pipeline on its devices, by device.
///
/// # Errors
/// Database errors.
pub async fn of_pipeline(db: impl PgExecutor<'_>, id: PipelineId) -> Result<Vec<PipelineDeviceRow>, DbError> {
    let statement = format!("{SELECT} where d.pipeline_id = $1 order by d.device");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(id).fetch_all(db).await?)
}

/// These pipelines on their devices, by pipeline and device.
///
/// # Errors
/// Database errors.
pub async fn of_each(db: impl PgExecutor<'_>, ids: &[PipelineId]) -> Result<Vec<PipelineDeviceRow>, DbError> {
    let statement = format!("{SELECT} where d.pipeline_id = any($1) order by d.pipeline_id, d.device");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(ids).fetch_all(db).await?)
}

/// All pipelines on all devices, by pipeline and device.
///
/// # Errors
/// Database errors.
pub async fn of_all(db: impl PgExecutor<'_>) -> Result<Vec<PipelineDeviceRow>, DbError> {
    let statement = format!("{SELECT} order by d.pipeline_id, d.device");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement)).fetch_all(db).await?)
}

/// One row, locked until the end of the transaction.
///
/// # Errors
/// Database errors.
pub async fn lock_device(
    tx: &mut PgConnection,
    id: PipelineId,
    device: &str,
) -> Result<Option<PipelineDeviceRow>, DbError> {
    // alone: after a wait for the lock only the locked row would be read again, not what is joined to it
    sqlx::query("select 1 from pipeline_devices where pipeline_id = $1 and device = $2 for update")
        .bind(id)
        .bind(device)
        .execute(&mut *tx)
        .await?;
    let statement = format!("{SELECT} where d.pipeline_id = $1 and d.device = $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(id).bind(device).fetch_optional(tx).await?)
}
