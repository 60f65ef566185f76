//! Uploads: what clients sent for jobs to work on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::Blob;
use crate::{
    db::{DbError, seconds},
    ids::{BlobId, JobId, UploadId},
};

/// An upload.
#[derive(Debug, Clone, FromRow)]
pub struct UploadRow {
    /// Id.
    pub id: UploadId,
    /// As the client calls it.
    pub name: Option<String>,
    /// Its bytes.
    #[sqlx(flatten)]
    pub blob: Blob,
    /// When all bytes were there.
    pub created_at: DateTime<Utc>,
    /// When it goes, unless a job still needs it.
    pub expires_at: DateTime<Utc>,
}

/// Names a finished blob as an upload.
///
/// # Errors
/// Database errors.
pub async fn add(
    db: impl PgExecutor<'_>,
    blob: BlobId,
    name: Option<&str>,
    keep: Duration,
) -> Result<UploadId, DbError> {
    let id = UploadId::generate();
    sqlx::query(
        "insert into uploads (id, blob_id, name, expires_at) values ($1, $2, $3, now() + make_interval(secs => $4))",
    )
    .bind(id)
    .bind(blob)
    .bind(name)
    .bind(seconds(keep))
    .execute(db)
    .await?;
    Ok(id)
}

/// An upload by id.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, id: UploadId) -> Result<Option<UploadRow>, DbError> {
    Ok(sqlx::query_as(
        "select u.id, u.name, b.id as blob_id, b.media_type, b.size_bytes, b.blake3, u.created_at, u.expires_at
         from uploads u join blobs b on b.id = u.blob_id where u.id = $1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?)
}

/// Active jobs that work on an upload, oldest first.
///
/// # Errors
/// Database errors.
pub async fn users(db: impl PgExecutor<'_>, id: UploadId) -> Result<Vec<JobId>, DbError> {
    Ok(sqlx::query_scalar(
        "select j.id from uploads u join blob_uses s on s.blob_id = u.blob_id join jobs j on j.id = s.job_id
         where u.id = $1 and j.finished_at is null order by j.id",
    )
    .bind(id)
    .fetch_all(db)
    .await?)
}

/// Removes an upload, unless an active job works on it: then nothing is removed and those jobs are named.
///
/// # Errors
/// Database errors.
pub async fn remove(tx: &mut PgConnection, row: &UploadRow) -> Result<Vec<JobId>, DbError> {
    // a job that is being accepted holds this row; the look comes after it
    sqlx::query("select 1 from blobs where id = $1 for update").bind(row.blob.blob_id).execute(&mut *tx).await?;
    let users = users(&mut *tx, row.id).await?;
    if users.is_empty() {
        super::remove(tx, row.blob.blob_id).await?;
    }
    Ok(users)
}

/// Bytes of all uploads; those that still arrive are none yet.
///
/// # Errors
/// Database errors.
pub async fn total_bytes(db: impl PgExecutor<'_>) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar(
        "select coalesce(sum(b.size_bytes), 0)::bigint from uploads u join blobs b on b.id = u.blob_id",
    )
    .fetch_one(db)
    .await?)
}

/// Until the end of the transaction nobody else adds an upload who asks so, too: the total that is read then is the one committed.
///
/// # Errors
/// Database errors.
pub async fn hold_total(tx: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('uploads', 0))").execute(tx).await?;
    Ok(())
}
