//! How long uploads and artifacts stay: by age, by all their bytes together, never while an active job works on them.
//!
//! What goes loses its name first, in a short transaction of the leader; its bytes then go in many small ones that hold no lock
//! others wait for, because removing some GiB at once takes longer than a leader's term.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};

use crate::{
    db::{DbError, leader, seconds},
    ids::BlobId,
};

/// Bytes that never arrived whole are removed this long after their first.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// Rows of bytes removed in one statement: 128 MiB.
const SWEPT_ROWS: i64 = 128;

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Artifacts younger than this.
    pub artifacts_for: Duration,
    /// Of those, the youngest with at most so many bytes together.
    pub artifacts_bytes: u64,
}

/// How many were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Uploads.
    pub uploads: u64,
    /// Artifacts.
    pub artifacts: u64,
    /// Blobs that never became one.
    pub unfinished: u64,
}

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct Stored {
    /// Uploads.
    pub uploads: i64,
    /// Their bytes.
    pub upload_bytes: i64,
    /// Artifacts, previews included.
    pub artifacts: i64,
    /// Their bytes.
    pub artifact_bytes: i64,
}

// What an active job works on is left out here, so that it does not fill the batch, and looked for again once the rows are locked.
const EXPIRED_UPLOADS: &str = "select b.id from uploads u join blobs b on b.id = u.blob_id where u.expires_at < now()
       and not exists (
           select 1 from blob_uses s join jobs j on j.id = s.job_id where s.blob_id = b.id and j.finished_at is null)
     order by u.expires_at limit $1 for update of b skip locked";
const OLD_ARTIFACTS: &str = "select b.id from artifacts a join blobs b on b.id = a.blob_id
     where a.created_at < now() - make_interval(secs => $2)
       and not exists (
           select 1 from blob_uses s join jobs j on j.id = s.job_id where s.blob_id = b.id and j.finished_at is null)
     order by a.created_at limit $1 for update of b skip locked";
const OVERFLOWING_ARTIFACTS: &str = "select b.id from blobs b where b.id in (
         select blob_id from (
             select a.blob_id, sum(b.size_bytes) over (order by a.created_at desc, a.blob_id desc) as bytes
             from artifacts a join blobs b on b.id = a.blob_id) newest
         where bytes > $2)
       and not exists (
           select 1 from blob_uses s join jobs j on j.id = s.job_id where s.blob_id = b.id and j.finished_at is null)
     order by b.created_at limit $1 for update skip locked";

/// Takes the names off up to `limit` of each that is to go; [`sweep`] removes their bytes. `None` when the term is over.
///
/// # Errors
/// Database errors.
pub async fn retire(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
    keep: Retention,
    limit: i64,
) -> Result<Option<Removed>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    let expired = sqlx::query_scalar(EXPIRED_UPLOADS).bind(limit).fetch_all(&mut *tx).await?;
    let uploads = retire_unused(&mut *tx, &expired).await?;
    let old = sqlx::query_scalar(OLD_ARTIFACTS).bind(limit).bind(seconds(keep.artifacts_for)).fetch_all(&mut *tx);
    let old = old.await?;
    let mut artifacts = retire_unused(&mut *tx, &old).await?;
    let most = i64::try_from(keep.artifacts_bytes).unwrap_or(i64::MAX);
    let too_many = sqlx::query_scalar(OVERFLOWING_ARTIFACTS).bind(limit).bind(most).fetch_all(&mut *tx).await?;
    artifacts += retire_unused(&mut *tx, &too_many).await?;
    Ok(Some(Removed { uploads, artifacts, unfinished: 0 }))
}

/// Of blobs whose rows are locked: takes the names off those that no active job works on. A statement of its own, because what a
/// job that was accepted before the lock uses is seen only by a look after it. What is left looks like bytes that never arrived
/// whole, since long ago.
async fn retire_unused(tx: &mut PgConnection, locked: &[BlobId]) -> Result<u64, DbError> {
    if locked.is_empty() {
        return Ok(0);
    }
    let gone = sqlx::query(
        "with unused as (
             select b.id from blobs b where b.id = any($1) and not exists (
                 select 1 from blob_uses s join jobs j on j.id = s.job_id
                 where s.blob_id = b.id and j.finished_at is null)),
         no_upload as (delete from uploads where blob_id in (select id from unused)),
         no_artifact as (delete from artifacts where blob_id in (select id from unused))
         update blobs set blake3 = null, created_at = to_timestamp(0) where id in (select id from unused)",
    )
    .bind(locked)
    .execute(tx)
    .await?;
    Ok(gone.rows_affected())
}

/// Removes 128 MiB at most of what has no name any more or never got one. Gives the number of blobs that never did and are gone
/// now. May run beside anything, another sweep too.
///
/// # Errors
/// Database errors.
pub async fn sweep(db: &mut PgConnection) -> Result<u64, DbError> {
    sqlx::query(
        "delete from blob_chunks where (blob_id, number) in (
             select c.blob_id, c.number from blobs b join blob_chunks c on c.blob_id = b.id
             where b.blake3 is null and b.created_at < now() - make_interval(secs => $1) limit $2)",
    )
    .bind(seconds(UNFINISHED))
    .bind(SWEPT_ROWS)
    .execute(&mut *db)
    .await?;
    let had_names: Vec<bool> = sqlx::query_scalar(
        "delete from blobs b where blake3 is null and created_at < now() - make_interval(secs => $1)
         and not exists (select 1 from blob_chunks c where c.blob_id = b.id) returning b.created_at = to_timestamp(0)",
    )
    .bind(seconds(UNFINISHED))
    .fetch_all(db)
    .await?;
    Ok(had_names.into_iter().filter(|had_name| !had_name).count() as u64)
}

/// Counts and bytes of what is there (for gauges).
///
/// # Errors
/// Database errors.
pub async fn stored(db: impl PgExecutor<'_>) -> Result<Stored, DbError> {
    Ok(sqlx::query_as(
        "select u.uploads, u.upload_bytes, a.artifacts, a.artifact_bytes from
             (select count(*) as uploads, coalesce(sum(size_bytes), 0)::bigint as upload_bytes
              from uploads join blobs on blobs.id = blob_id) u,
             (select count(*) as artifacts, coalesce(sum(size_bytes), 0)::bigint as artifact_bytes
              from artifacts join blobs on blobs.id = blob_id) a",
    )
    .fetch_one(db)
    .await?)
}
