//! Artifacts: the files that jobs leave, and previews that they show while they run.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool};

use super::Blob;
use crate::{
    db::{
        DbError,
        jobs::{self, JobLease},
    },
    ids::{BlobId, JobId},
};

/// A file to be left, in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct NewArtifact {
    /// A plain name; see [`crate::job::engine::check_artifact_name`].
    pub name: String,
    /// Media type.
    pub media_type: String,
    /// All bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for NewArtifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewArtifact")
            .field("name", &self.name)
            .field("media_type", &self.media_type)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// An artifact of a job.
#[derive(Debug, Clone, FromRow)]
pub struct ArtifactRow {
    /// Name.
    pub name: String,
    /// Shown while the job runs.
    pub preview: bool,
    /// Its bytes.
    #[sqlx(flatten)]
    pub blob: Blob,
    /// When it was left.
    pub created_at: DateTime<Utc>,
}

/// Writes the bytes of a job's artifacts in the transaction that will end it. Nothing is locked but what is new, so this
/// comes before [`jobs::hold`], and [`name_all`] after it.
///
/// # Errors
/// Database errors.
pub async fn write_all(tx: &mut PgConnection, artifacts: &[NewArtifact]) -> Result<Vec<BlobId>, DbError> {
    let mut blobs = Vec::with_capacity(artifacts.len());
    for artifact in artifacts {
        blobs.push(super::write(&mut *tx, &artifact.media_type, &artifact.bytes).await?);
    }
    Ok(blobs)
}

/// Names blobs as the artifacts of a job whose row the caller holds, in the place of its previews (G3).
///
/// # Errors
/// Database errors.
pub async fn name_all(
    tx: &mut PgConnection,
    job: JobId,
    artifacts: &[NewArtifact],
    blobs: &[BlobId],
) -> Result<(), DbError> {
    sqlx::query("delete from blobs b using artifacts a where a.blob_id = b.id and a.job_id = $1 and a.preview")
        .bind(job)
        .execute(&mut *tx)
        .await?;
    for ((artifact, blob), position) in artifacts.iter().zip(blobs).zip(0i32..) {
        name_one(&mut *tx, job, &artifact.name, *blob, position, false).await?;
    }
    Ok(())
}

async fn name_one(
    tx: &mut PgConnection,
    job: JobId,
    name: &str,
    blob: BlobId,
    position: i32,
    preview: bool,
) -> Result<(), DbError> {
    sqlx::query("insert into artifacts (job_id, name, blob_id, position, preview) values ($1, $2, $3, $4, $5)")
        .bind(job)
        .bind(name)
        .bind(blob)
        .bind(position)
        .bind(preview)
        .execute(tx)
        .await?;
    Ok(())
}

/// Shows a preview of a running job in the place of the one of the same name, and tells those who follow the job. False when
/// the lease is gone: then nothing changed (G5).
///
/// # Errors
/// Database errors.
pub async fn show_preview(
    pool: &PgPool,
    lease: JobLease,
    preview: &NewArtifact,
    about: serde_json::Value,
) -> Result<bool, DbError> {
    let mut tx = pool.begin().await?;
    let blob = super::write(&mut tx, &preview.media_type, &preview.bytes).await?;
    if jobs::hold(&mut tx, lease).await?.is_none() {
        return Ok(false);
    }
    sqlx::query("delete from blobs b using artifacts a where a.blob_id = b.id and a.job_id = $1 and a.name = $2")
        .bind(lease.id)
        .bind(&preview.name)
        .execute(&mut *tx)
        .await?;
    name_one(&mut tx, lease.id, &preview.name, blob, 0, true).await?;
    let data = serde_json::json!({ "artifact": preview.name, "about": about });
    jobs::event(&mut tx, lease.id, "preview", data).await?;
    tx.commit().await?;
    Ok(true)
}

/// A job's artifacts in the order in which it named them, previews first.
///
/// # Errors
/// Database errors.
pub async fn of_job(db: impl PgExecutor<'_>, job: JobId) -> Result<Vec<ArtifactRow>, DbError> {
    Ok(sqlx::query_as(
        "select a.name, a.preview, b.id as blob_id, b.media_type, b.size_bytes, b.blake3, a.created_at
         from artifacts a join blobs b on b.id = a.blob_id where a.job_id = $1
         order by a.preview desc, a.position, a.name",
    )
    .bind(job)
    .fetch_all(db)
    .await?)
}

/// One artifact of a job.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, job: JobId, name: &str) -> Result<Option<ArtifactRow>, DbError> {
    Ok(sqlx::query_as(
        "select a.name, a.preview, b.id as blob_id, b.media_type, b.size_bytes, b.blake3, a.created_at
         from artifacts a join blobs b on b.id = a.blob_id where a.job_id = $1 and a.name = $2",
    )
    .bind(job)
    .bind(name)
    .fetch_optional(db)
    .await?)
}
