//! What a scan found, written into the catalogue.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::{FileIdentity, ReadAs, components, known, write};
use crate::db::DbError;

/// Models that are written by one round of statements, and the bytes of their metadata that end a round sooner.
const BATCH_MODELS: usize = 500;
const BATCH_BYTES: usize = 8 << 20;

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
    /// Why it is `unknown`.
    pub reason: Option<String>,
    /// What the detection matched.
    pub evidence: Value,
    /// Metadata found in the file.
    pub metadata: Value,
    /// Files with their identities.
    pub files: Vec<FileIdentity>,
    /// The correction that it was read with.
    pub read_as: ReadAs,
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

/// Writes what a scan of one root on one host found, in the caller's (fenced) transaction: a picture of the whole root,
/// so locations that were not found are removed; a model without any location becomes `missing`, never deleted. What the
/// scan did not read again, because it is as before, is in `unchanged` by its path. Rows are locked in the order of `found`.
///
/// # Errors
/// Database errors.
pub async fn record_scan(
    tx: &mut PgConnection,
    host: &str,
    root: &str,
    found: &[FoundModel],
    unchanged: &[String],
) -> Result<ScanCounts, DbError> {
    let mut counts = ScanCounts { unchanged: unchanged.len() as u64, ..ScanCounts::default() };
    // two hosts that scan the same library at the same time must not create a model twice
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('scan/' || $1, 0))")
        .bind(root)
        .execute(&mut *tx)
        .await?;
    let vanished = known::vanished(tx, host, root, found, unchanged).await?;
    known::follow_renames(tx, root, &vanished, found).await?;
    let place = write::Place { host, root };
    for batch in batches(found)? {
        write::batch(tx, place, &batch, &mut counts).await?;
    }
    counts.removed = known::remove(tx, host, &vanished).await?;
    components::sweep(tx).await?;
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

/// A model as it is written: what is large is text already.
#[derive(Debug)]
pub(super) struct Written<'f> {
    /// The model.
    pub(super) found: &'f FoundModel,
    /// Its evidence as JSON.
    pub(super) evidence: String,
    /// Its metadata as JSON.
    pub(super) metadata: String,
    /// Its files as JSON.
    pub(super) files: String,
    /// Its correction as JSON.
    pub(super) read_as: String,
}

fn batches(found: &[FoundModel]) -> Result<Vec<Vec<Written<'_>>>, DbError> {
    let text = |value: Result<String, serde_json::Error>| value.map_err(|error| DbError::BadRow(error.to_string()));
    let (mut batches, mut bytes) = (Vec::new(), 0);
    let mut batch = Vec::new();
    for model in found {
        let written = Written {
            found: model,
            evidence: text(serde_json::to_string(&model.evidence))?,
            metadata: text(serde_json::to_string(&model.metadata))?,
            files: text(serde_json::to_string(&model.files))?,
            read_as: text(serde_json::to_string(&model.read_as))?,
        };
        bytes += written.metadata.len() + written.evidence.len();
        batch.push(written);
        if batch.len() == BATCH_MODELS || bytes > BATCH_BYTES {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    batches.push(batch);
    batches.retain(|batch| !batch.is_empty());
    Ok(batches)
}

/// Records that a root cannot be read; its locations stay as they were last seen.
///
/// # Errors
/// Database errors.
pub async fn root_missing(db: impl PgExecutor<'_>, host: &str, root: &str, reason: &str) -> Result<(), DbError> {
    sqlx::query("update roots set state = 'missing', reason = $3 where host = $1 and name = $2")
        .bind(host)
        .bind(root)
        .bind(reason)
        .execute(db)
        .await?;
    Ok(())
}
