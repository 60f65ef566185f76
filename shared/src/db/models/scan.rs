//! What a scan found, written into the catalogue.

use std::{collections::HashSet, ops::AddAssign};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{FileIdentity, ReadAs, components, corrupt, known, lanes, listed, write, written::Batch};
use crate::{
    db::{
        DbError,
        jobs::{self, JobLease},
    },
    ids::ModelId,
};

/// A model as found on a host.
#[derive(Debug, Clone)]
pub struct FoundModel {
    /// Path below the root.
    pub rel_path: String,
    /// Name wanted (the file's or folder's stem); made unique on insert.
    pub name: String,
    /// Type, or `unknown`.
    pub model_type: String,
    /// Base, or `unknown`.
    pub base: String,
    /// `safetensors`, `diffusers`, …
    pub format: String,
    /// Dtype of the weights.
    pub variant: Option<String>,
    /// Prediction type where knowable.
    pub prediction: Option<String>,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// Its files could not be read now, so nothing else is known of it: what the catalogue knows stays.
    pub is_unreadable: bool,
    /// Why it is `unknown`, or unreadable.
    pub reason: Option<String>,
    /// What the detection matched.
    pub evidence: Value,
    /// Metadata found in the file.
    pub metadata: Value,
    /// Files with their identities.
    pub files: Vec<FileIdentity>,
    /// The correction that it was read with.
    pub read_as: ReadAs,
    /// Version of the canonical form that its components have.
    pub canonical_form: i32,
    /// Components.
    pub components: Vec<FoundComponent>,
    /// Of everything else that was looked at; what has the same files and the same stamp need not be read again.
    pub stamp: Option<String>,
}

/// A component as found in a model's headers.
#[derive(Debug, Clone)]
pub struct FoundComponent {
    /// `unet`, `vae`, …
    pub kind: String,
    /// Bytes of its tensors.
    pub bytes: i64,
    /// Parameters.
    pub param_count: i64,
    /// Tensors.
    pub tensor_count: i32,
    /// Dtype, or `mixed`.
    pub dtype: String,
}

/// Counts of one recorded scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanCounts {
    /// New models.
    pub added: u64,
    /// Models whose facts changed.
    pub changed: u64,
    /// Models as before.
    pub unchanged: u64,
    /// Locations that vanished.
    pub removed: u64,
}

impl AddAssign for ScanCounts {
    fn add_assign(&mut self, more: Self) {
        self.added += more.added;
        self.changed += more.changed;
        self.unchanged += more.unchanged;
        self.removed += more.removed;
    }
}

/// What a scan of one root on one host found.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// Models that were read and are not recorded.
    pub found: &'a [FoundModel],
    /// Paths of those that [`record_models`] recorded in this scan.
    pub recorded: &'a [String],
    /// Paths of those that were not read, because they are as the catalogue has them.
    pub unchanged: &'a [String],
}

impl Scan<'_> {
    /// Where there is a model, however it was found.
    pub(super) fn present(&self) -> HashSet<&str> {
        let found = self.found.iter().map(|model| model.rel_path.as_str());
        found.chain(self.recorded.iter().chain(self.unchanged).map(String::as_str)).collect()
    }
}

/// Writes what a scan of one root on one host found, in the caller's (fenced) transaction: a picture of the whole root,
/// so locations that were not found are removed; a model without any location becomes `missing`, never deleted. Rows are locked
/// in the order of `found`. The counts are of what this call recorded or found unchanged.
///
/// # Errors
/// Database errors.
pub async fn record_scan(tx: &mut PgConnection, host: &str, root: &str, scan: Scan<'_>) -> Result<ScanCounts, DbError> {
    let mut counts = ScanCounts { unchanged: scan.unchanged.len() as u64, ..ScanCounts::default() };
    lanes::lock_root(tx, root).await?;
    let vanished = known::vanished(tx, host, root, scan).await?;
    known::follow_renames(tx, root, &vanished, scan.found).await?;
    let place = write::Place { host, root };
    for batch in Batch::of(scan.found)? {
        let wrote = write::batch(tx, place, &batch, &mut counts).await?;
        listed::renew(tx, wrote.ids()).await?;
    }
    counts.removed = known::remove(tx, host, &vanished).await?;
    components::sweep(tx).await?;
    corrupt::sweep(tx, host).await?;
    sqlx::query(
        "update models set state = 'missing', reason = 'no host reports its files', version = version + 1, updated_at = now()
         where root = $1 and state <> 'missing' and not exists (select 1 from model_locations l where l.model_id = models.id)",
    )
    .bind(root)
    .execute(&mut *tx)
    .await?;
    sqlx::query("update roots set scanned_at = now(), state = 'ready', reason = null where host = $1 and name = $2")
        .bind(host)
        .bind(root)
        .execute(tx)
        .await?;
    Ok(counts)
}

/// How often a batch is written anew when Postgres ends its transaction to free others, or others take its names.
const ATTEMPTS: usize = 3;

/// Writes models while the scan that found them goes on, in a transaction of its own; none when `lease` is over, and then nothing
/// was written. They are listed from then on; their texts follow, by [`super::make_due_texts`]. Only for a scan that misses no path that
/// the catalogue has: whether a model moved is told from all that was found. Without a lease the caller vouches for being alone.
/// Batches of different [lanes](super::lane) are written at the same time.
///
/// # Errors
/// Database errors.
pub async fn record_models(
    pool: &PgPool,
    lease: Option<JobLease>,
    place: (&str, &str),
    batch: &Batch<'_>,
) -> Result<Option<ScanCounts>, DbError> {
    for _ in 1..ATTEMPTS {
        match record_batch(pool, lease, place, batch).await {
            // two batches that took the same names, each one first
            Err(DbError::Contended(_) | DbError::Names(_)) => {}
            answer => return answer,
        }
    }
    record_batch(pool, lease, place, batch).await
}

async fn record_batch(
    pool: &PgPool,
    lease: Option<JobLease>,
    (host, root): (&str, &str),
    batch: &Batch<'_>,
) -> Result<Option<ScanCounts>, DbError> {
    let mut counts = ScanCounts::default();
    let mut tx = pool.begin().await?;
    lanes::lock(&mut tx, root, &batch.lanes()).await?;
    let wrote = write::batch(&mut tx, write::Place { host, root }, batch, &mut counts).await?;
    listed::list(&mut tx, host, wrote).await?;
    // last, so that the job's row is not kept from others meanwhile
    if let Some(lease) = lease
        && jobs::hold(&mut tx, lease).await?.is_none()
    {
        tx.rollback().await?;
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(counts))
}

/// Writes one model that was found, in the caller's (fenced) transaction, beside whatever a scan knows of the root: its id and name.
///
/// # Errors
/// Database errors.
pub async fn record_one(
    tx: &mut PgConnection,
    host: &str,
    root: &str,
    found: &FoundModel,
) -> Result<(ModelId, String), DbError> {
    lanes::lock_root(tx, root).await?;
    for batch in Batch::of(std::slice::from_ref(found))? {
        let wrote = write::batch(tx, write::Place { host, root }, &batch, &mut ScanCounts::default()).await?;
        listed::renew(tx, wrote.ids()).await?;
    }
    Ok(sqlx::query_as("select id, name from models where root = $1 and rel_path = $2")
        .bind(root)
        .bind(&found.rel_path)
        .fetch_one(tx)
        .await?)
}

/// Records that a root cannot be read, unless that is known; its locations stay as they were last seen.
///
/// # Errors
/// Database errors.
pub async fn root_missing(db: impl PgExecutor<'_>, host: &str, root: &str, reason: &str) -> Result<(), DbError> {
    sqlx::query(
        "update roots set state = 'missing', reason = $3
         where host = $1 and name = $2 and (state <> 'missing' or reason is distinct from $3)",
    )
    .bind(host)
    .bind(root)
    .bind(reason)
    .execute(db)
    .await?;
    Ok(())
}
