//! Bytes in the database: uploads that jobs work on, artifacts that they leave, and how long both stay.
//!
//! A blob is written in rows of [`CHUNK_BYTES`] and is there for readers once its hash is written.

pub mod artifacts;
pub mod retention;
pub mod uploads;

use sqlx::{FromRow, PgConnection, PgExecutor};

use super::DbError;
use crate::{
    ids::{BlobId, JobId},
    job::engine::Input,
};

/// Bytes of every row but a blob's last.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A blob that is whole.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Blob {
    /// Id.
    pub blob_id: BlobId,
    /// Media type.
    pub media_type: String,
    /// Bytes.
    pub size_bytes: i64,
    /// BLAKE3 of all bytes, in hex.
    pub blake3: String,
}

impl Blob {
    /// Bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.size_bytes).unwrap_or(0)
    }
}

/// Begins a blob.
///
/// # Errors
/// Database errors.
pub async fn begin(db: impl PgExecutor<'_>, media_type: &str) -> Result<BlobId, DbError> {
    let id = BlobId::generate();
    sqlx::query("insert into blobs (id, media_type) values ($1, $2)").bind(id).bind(media_type).execute(db).await?;
    Ok(id)
}

/// Adds the next row. All but the last must have [`CHUNK_BYTES`].
///
/// # Errors
/// Database errors.
pub async fn append(db: impl PgExecutor<'_>, id: BlobId, number: i32, bytes: &[u8]) -> Result<(), DbError> {
    sqlx::query("insert into blob_chunks (blob_id, number, bytes) values ($1, $2, $3)")
        .bind(id)
        .bind(number)
        .bind(bytes)
        .execute(db)
        .await?;
    Ok(())
}

/// Says that all rows are there.
///
/// # Errors
/// Database errors.
pub async fn finish(db: impl PgExecutor<'_>, id: BlobId, size: u64, blake3: &str) -> Result<(), DbError> {
    let size = i64::try_from(size).map_err(|error| DbError::BadRow(error.to_string()))?;
    sqlx::query("update blobs set size_bytes = $2, blake3 = $3 where id = $1")
        .bind(id)
        .bind(size)
        .bind(blake3)
        .execute(db)
        .await?;
    Ok(())
}

/// Removes a blob with all that names it.
///
/// # Errors
/// Database errors.
pub async fn remove(db: impl PgExecutor<'_>, id: BlobId) -> Result<(), DbError> {
    sqlx::query("delete from blobs where id = $1").bind(id).execute(db).await?;
    Ok(())
}

/// Writes bytes that are in memory as one blob.
///
/// # Errors
/// Database errors.
pub async fn write(tx: &mut PgConnection, media_type: &str, bytes: &[u8]) -> Result<BlobId, DbError> {
    let id = begin(&mut *tx, media_type).await?;
    for (number, chunk) in (0i32..).zip(bytes.chunks(CHUNK_BYTES)) {
        append(&mut *tx, id, number, chunk).await?;
    }
    finish(tx, id, bytes.len() as u64, blake3::hash(bytes).to_hex().as_str()).await?;
    Ok(id)
}

/// One row of a blob; none when the blob is gone.
///
/// # Errors
/// Database errors.
pub async fn chunk(db: impl PgExecutor<'_>, id: BlobId, number: i32) -> Result<Option<Vec<u8>>, DbError> {
    Ok(sqlx::query_scalar("select bytes from blob_chunks where blob_id = $1 and number = $2")
        .bind(id)
        .bind(number)
        .fetch_optional(db)
        .await?)
}

/// All bytes of a blob, compared with its hash; none when it went away meanwhile.
///
/// # Errors
/// Database errors; [`DbError::BadRow`] for bytes that are not the recorded ones.
pub async fn read(db: &mut PgConnection, blob: &Blob) -> Result<Option<Vec<u8>>, DbError> {
    let mut bytes = Vec::new();
    let rows = blob.size().div_ceil(CHUNK_BYTES as u64);
    for number in 0..i32::try_from(rows).map_err(|error| DbError::BadRow(error.to_string()))? {
        let Some(row) = chunk(&mut *db, blob.blob_id, number).await? else { return Ok(None) };
        bytes.extend_from_slice(&row);
    }
    if blake3::hash(&bytes).to_hex().as_str() != blob.blake3 {
        return Err(DbError::BadRow(format!("blob {} has other bytes than were written", blob.blob_id)));
    }
    Ok(Some(bytes))
}

/// Keeps what a new job works on for as long as the job is active, in the transaction that accepts the job.
///
/// # Errors
/// [`DbError::Gone`] when it is not there any more; database errors.
pub(super) async fn hold_input(tx: &mut PgConnection, job: JobId, input: &Input) -> Result<(), DbError> {
    // the lock is against `retention`: what it is about to remove is gone (it has no hash once the lock is had), what is held
    // here it leaves
    let held: Option<BlobId> = match input {
        Input::File { .. } => return Ok(()),
        Input::Upload { upload } => {
            sqlx::query_scalar(
                "select b.id from uploads u join blobs b on b.id = u.blob_id
                 where u.id = $1 and b.blake3 is not null for key share of b",
            )
            .bind(upload)
            .fetch_optional(&mut *tx)
            .await?
        }
        Input::Artifact { artifact } => {
            sqlx::query_scalar(
                "select b.id from artifacts a join blobs b on b.id = a.blob_id
                 where a.job_id = $1 and a.name = $2 and not a.preview and b.blake3 is not null for key share of b",
            )
            .bind(artifact.job)
            .bind(&artifact.name)
            .fetch_optional(&mut *tx)
            .await?
        }
    };
    let blob = held.ok_or_else(|| DbError::Gone(named(input)))?;
    sqlx::query("insert into blob_uses (blob_id, job_id) values ($1, $2)").bind(blob).bind(job).execute(tx).await?;
    Ok(())
}

fn named(input: &Input) -> String {
    match input {
        Input::Upload { upload } => format!("upload `{upload}`"),
        Input::Artifact { artifact } => format!("artifact `{}` of job {}", artifact.name, artifact.job),
        Input::File { root, path } => format!("file `{path}` below root `{root}`"),
    }
}
