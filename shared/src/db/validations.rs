//! What validations found, with history.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{DbError, statistics};
use crate::ids::{JobId, ModelId, ValidationId};

/// Reports kept of one model.
const KEPT: i64 = 50;

/// A report to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewValidation {
    /// Id.
    pub id: ValidationId,
    /// The model.
    pub model: ModelId,
    /// The host whose files were looked at.
    pub host: String,
    /// How far it went.
    pub level: &'static str,
    /// `ok`, `degraded`, `invalid`, `unsafe`.
    pub verdict: &'static str,
    /// Findings of each severity: errors, warnings, infos.
    pub counts: [i64; 3],
    /// `[FindingView]`, bounded.
    pub findings: Value,
    /// Findings left out of it.
    pub omitted: i64,
    /// Tensors whose numbers were looked at.
    pub tensors: i64,
    /// Bytes read.
    pub bytes: i64,
    /// How long it took.
    pub seconds: f64,
    /// `[FileIdentity]` of what was looked at, as stored with the location.
    pub files: Value,
    /// `[TensorStatistics]`, bounded; none where no numbers were looked at.
    pub statistics: Option<Value>,
}

/// A stored report.
#[derive(Debug, Clone, FromRow)]
pub struct ValidationRow {
    /// Id.
    pub id: ValidationId,
    /// The model.
    pub model_id: ModelId,
    /// The job that made it.
    pub job_id: JobId,
    /// The host whose files were looked at.
    pub host: String,
    /// How far it went.
    pub level: String,
    /// `ok`, `degraded`, `invalid`, `unsafe`.
    pub verdict: String,
    /// Errors.
    pub errors: i64,
    /// Warnings.
    pub warnings: i64,
    /// Information.
    pub infos: i64,
    /// `[FindingView]`; empty in lists.
    pub findings: Value,
    /// Findings left out.
    pub omitted: i64,
    /// Tensors whose numbers were looked at.
    pub tensors: i64,
    /// Tensors whose statistics are kept.
    pub statistics: i64,
    /// Bytes read.
    pub bytes: i64,
    /// How long it took.
    pub seconds: f64,
    /// The host reports other files by now, or none.
    pub stale: bool,
    /// When it ended.
    pub created_at: DateTime<Utc>,
}

/// Stores a report in the caller's (fenced) transaction and drops the oldest beyond what is kept. A model that left the
/// catalogue meanwhile has none (false).
///
/// # Errors
/// Database errors.
pub async fn record(tx: &mut PgConnection, job: JobId, new: &NewValidation) -> Result<bool, DbError> {
    let [errors, warnings, infos] = new.counts;
    let stored = sqlx::query(
        "insert into validations (id, model_id, job_id, host, level, verdict, errors, warnings, infos, findings, omitted,
                                  tensors, bytes, seconds, files)
         select $1, m.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15 from models m where m.id = $2",
    )
    .bind(new.id)
    .bind(new.model)
    .bind(job)
    .bind(&new.host)
    .bind(new.level)
    .bind(new.verdict)
    .bind(errors)
    .bind(warnings)
    .bind(infos)
    .bind(&new.findings)
    .bind(new.omitted)
    .bind(new.tensors)
    .bind(new.bytes)
    .bind(new.seconds)
    .bind(&new.files)
    .execute(&mut *tx)
    .await?;
    if let Some(all) = new.statistics.as_ref().filter(|_| stored.rows_affected() == 1) {
        // they are as large as a model has tensors: those of the newest report of the files of a host are kept
        statistics::record(&mut *tx, new.id, all).await?;
        statistics::keep_only(&mut *tx, (new.model, &new.host), new.id).await?;
    }
    sqlx::query(
        "delete from validations where model_id = $1
           and id not in (select id from validations where model_id = $1 order by created_at desc, id desc limit $2)",
    )
    .bind(new.model)
    .bind(KEPT)
    .execute(tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// A model's reports, the newest first, without their findings; those before `after` (time and id) if given.
///
/// # Errors
/// Database errors.
pub async fn of_model(
    db: impl PgExecutor<'_>,
    model: ModelId,
    after: Option<(DateTime<Utc>, ValidationId)>,
    limit: i64,
) -> Result<Vec<ValidationRow>, DbError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(
        "select v.id, v.model_id, v.job_id, v.host, v.level, v.verdict, v.errors, v.warnings, v.infos, '[]'::jsonb as findings,
                v.omitted, v.tensors, coalesce((select max(number) from validation_statistics where validation_id = v.id), 0) as statistics, v.bytes, v.seconds, l.files is distinct from v.files as stale, v.created_at
         from validations v left join model_locations l on l.model_id = v.model_id and l.host = v.host
         where v.model_id = $1 and ($2::timestamptz is null or (v.created_at, v.id) < ($2, $3))
         order by v.created_at desc, v.id desc limit $4",
    )
    .bind(model)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// One report of a model.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, model: ModelId, id: ValidationId) -> Result<Option<ValidationRow>, DbError> {
    Ok(sqlx::query_as(
        "select v.id, v.model_id, v.job_id, v.host, v.level, v.verdict, v.errors, v.warnings, v.infos, v.findings,
                v.omitted, v.tensors, coalesce((select max(number) from validation_statistics where validation_id = v.id), 0) as statistics, v.bytes, v.seconds, l.files is distinct from v.files as stale, v.created_at
         from validations v left join model_locations l on l.model_id = v.model_id and l.host = v.host
         where v.model_id = $1 and v.id = $2",
    )
    .bind(model)
    .bind(id)
    .fetch_optional(db)
    .await?)
}
