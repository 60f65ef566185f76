//! The declarations themselves.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{decoded, encoded};
use crate::{
    db::DbError,
    ids::{JobId, PipelineId},
    pipeline::Declared,
};

/// A pipeline as stored.
#[derive(Debug, Clone, FromRow)]
pub struct PipelineRow {
    /// Id.
    pub id: PipelineId,
    /// Unique name.
    pub name: String,
    /// What people say of it.
    pub description: Option<String>,
    /// See [`PipelineRow::declared`].
    pub declared: Value,
    /// Where it goes while it is applied nowhere, as [`crate::job::Target`] is written.
    pub target: String,
    /// Labels that its place must have.
    pub labels: Vec<String>,
    /// Raised by each change of the declaration.
    pub generation: i64,
    /// The newest job that applies it to a place that the scheduler chooses.
    pub job_id: Option<JobId>,
    /// First declared.
    pub created_at: DateTime<Utc>,
    /// Last declared.
    pub updated_at: DateTime<Utc>,
}

impl PipelineRow {
    /// What is declared.
    ///
    /// # Errors
    /// [`DbError::BadRow`] when this build cannot read it.
    pub fn declared(&self) -> Result<Declared, DbError> {
        decoded(self.declared.clone())
    }
}

/// All pipelines by name, after this name.
///
/// # Errors
/// Database errors.
pub async fn list(db: impl PgExecutor<'_>, after: Option<&str>, limit: i64) -> Result<Vec<PipelineRow>, DbError> {
    Ok(sqlx::query_as("select * from pipelines where $1::text is null or name > $1 order by name limit $2")
        .bind(after)
        .bind(limit)
        .fetch_all(db)
        .await?)
}

/// All names.
///
/// # Errors
/// Database errors.
pub async fn names(db: impl PgExecutor<'_>) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("select name from pipelines order by name").fetch_all(db).await?)
}

/// A pipeline by name or id.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, wanted: &str) -> Result<Option<PipelineRow>, DbError> {
    Ok(sqlx::query_as("select * from pipelines where name = $1 or id = $1 order by name = $1 desc limit 1")
        .bind(wanted)
        .fetch_optional(db)
        .await?)
}

/// As [`find`], locked until the end of the transaction: whoever declares, applies or restores it goes one after the other.
///
/// # Errors
/// Database errors.
pub async fn lock(tx: &mut PgConnection, wanted: &str) -> Result<Option<PipelineRow>, DbError> {
    Ok(sqlx::query_as(
        "select * from pipelines where name = $1 or id = $1 order by name = $1 desc limit 1 for no key update",
    )
    .bind(wanted)
    .fetch_optional(tx)
    .await?)
}

/// Stores a new pipeline; none when another one has its name.
///
/// # Errors
/// Database errors.
pub async fn insert(
    tx: &mut PgConnection,
    name: &str,
    description: Option<&str>,
    declared: &Declared,
    (target, labels): (&str, &[String]),
) -> Result<Option<PipelineRow>, DbError> {
    Ok(sqlx::query_as(
        "insert into pipelines (id, name, description, declared, target, labels) values ($1, $2, $3, $4, $5, $6)
         on conflict (name) do nothing returning *",
    )
    .bind(PipelineId::generate())
    .bind(name)
    .bind(description)
    .bind(encoded(declared)?)
    .bind(target)
    .bind(labels)
    .fetch_optional(tx)
    .await?)
}

/// Declares a locked pipeline anew, as its next generation.
///
/// # Errors
/// Database errors.
pub async fn update(
    tx: &mut PgConnection,
    id: PipelineId,
    description: Option<&str>,
    declared: &Declared,
    (target, labels): (&str, &[String]),
) -> Result<PipelineRow, DbError> {
    Ok(sqlx::query_as(
        "update pipelines set description = $2, declared = $3, target = $4, labels = $5, generation = generation + 1,
             updated_at = now()
         where id = $1 returning *",
    )
    .bind(id)
    .bind(description)
    .bind(encoded(declared)?)
    .bind(target)
    .bind(labels)
    .fetch_one(tx)
    .await?)
}

/// Remembers the job that applies it to a place that the scheduler chooses.
///
/// # Errors
/// Database errors.
pub async fn set_job(tx: &mut PgConnection, id: PipelineId, job: JobId) -> Result<(), DbError> {
    sqlx::query("update pipelines set job_id = $2 where id = $1").bind(id).bind(job).execute(tx).await?;
    Ok(())
}

/// Removes a pipeline, and what is known of it on devices; its history stays.
///
/// # Errors
/// Database errors.
pub async fn remove(tx: &mut PgConnection, id: PipelineId) -> Result<(), DbError> {
    sqlx::query("delete from pipelines where id = $1").bind(id).execute(tx).await?;
    Ok(())
}
