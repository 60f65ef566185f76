//! What a scan found, written into the catalogue.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, types::Json};

use super::{FileIdentity, ReadAs, components, known};
use crate::{db::DbError, ids::ModelId};

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
/// scan did not read again, because it is as before, is in `unchanged` by its path.
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
    known::seen_again(tx, host, root, unchanged).await?;
    known::follow_renames(tx, host, root, found, unchanged).await?;
    for model in found {
        let (id, news) = upsert_model(tx, root, model).await?;
        match news {
            News::Fresh => counts.added += 1,
            News::Recognised | News::Changed => counts.changed += 1,
            News::None => counts.unchanged += 1,
        }
        let moved = upsert_location(tx, id, host, root, model).await?;
        let other_parts = match news {
            News::Fresh | News::Recognised => true,
            News::Changed => !same_parts(tx, id, &model.components).await?,
            News::None => false,
        };
        if moved || other_parts {
            components::renew(tx, id, &model.components).await?;
        }
    }
    components::sweep(tx).await?;
    let paths: Vec<&str> =
        found.iter().map(|model| model.rel_path.as_str()).chain(unchanged.iter().map(String::as_str)).collect();
    counts.removed = sqlx::query(
        "delete from model_locations l where host = $1 and root = $2
             and not exists (select 1 from unnest($3::text[]) as path where path = l.rel_path)",
    )
    .bind(host)
    .bind(root)
    .bind(&paths)
    .execute(&mut *tx)
    .await?
    .rows_affected();
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

/// What is new about a found model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// All of it.
    Fresh,
    /// It is recognised as something else: its tensors have another canonical form, whatever was known of the old one.
    Recognised,
    /// Other facts.
    Changed,
    /// Nothing.
    None,
}

async fn upsert_model(tx: &mut PgConnection, root: &str, model: &FoundModel) -> Result<(ModelId, News), DbError> {
    let existing: Option<(ModelId, bool, bool)> = sqlx::query_as(
        "select id, (type, base, read_as) is distinct from ($3, $4, $12), (type, base, format, variant, prediction, size_bytes, state, reason, evidence, metadata)
                 is distinct from ($3, $4, $5, $6, $7, $8, 'available', $9, $10, $11)
         from models where root = $1 and rel_path = $2",
    )
    .bind(root)
    .bind(&model.rel_path)
    .bind(&model.model_type)
    .bind(&model.base)
    .bind(&model.format)
    .bind(&model.variant)
    .bind(&model.prediction)
    .bind(model.size_bytes)
    .bind(&model.reason)
    .bind(&model.evidence)
    .bind(&model.metadata)
    .bind(Json(&model.read_as))
    .fetch_optional(&mut *tx)
    .await?;
    let (id, news) = match existing {
        Some((id, true, _)) => (id, News::Recognised),
        Some((id, false, true)) => (id, News::Changed),
        Some((id, false, false)) => return Ok((id, News::None)),
        None => (ModelId::generate(), News::Fresh),
    };
    let name = if news == News::Fresh { free_name(tx, &model.name).await? } else { String::new() };
    sqlx::query(
        "insert into models (id, name, type, base, format, variant, prediction, root, rel_path, size_bytes, reason, evidence, metadata, read_as)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict (root, rel_path) do update set type = excluded.type, base = excluded.base, format = excluded.format,
             variant = excluded.variant, prediction = excluded.prediction, size_bytes = excluded.size_bytes, state = 'available',
             reason = excluded.reason, evidence = excluded.evidence, metadata = excluded.metadata, read_as = excluded.read_as,
             version = models.version + 1, updated_at = now()",
    )
    .bind(id)
    .bind(name)
    .bind(&model.model_type)
    .bind(&model.base)
    .bind(&model.format)
    .bind(&model.variant)
    .bind(&model.prediction)
    .bind(root)
    .bind(&model.rel_path)
    .bind(model.size_bytes)
    .bind(&model.reason)
    .bind(&model.evidence)
    .bind(&model.metadata)
    .bind(Json(&model.read_as))
    .execute(tx)
    .await?;
    Ok((id, news))
}

async fn free_name(tx: &mut PgConnection, wanted: &str) -> Result<String, DbError> {
    let taken: Vec<String> =
        sqlx::query_scalar("select name from models where name = $1 or starts_with(name, $1 || '-')")
            .bind(wanted)
            .fetch_all(tx)
            .await?;
    if !taken.iter().any(|name| name == wanted) {
        return Ok(wanted.to_owned());
    }
    let mut number = 2u32;
    loop {
        let name = format!("{wanted}-{number}");
        if !taken.contains(&name) {
            return Ok(name);
        }
        number += 1;
    }
}

async fn upsert_location(
    tx: &mut PgConnection,
    id: ModelId,
    host: &str,
    root: &str,
    model: &FoundModel,
) -> Result<bool, DbError> {
    let files = serde_json::to_value(&model.files).map_err(|error| DbError::BadRow(error.to_string()))?;
    // other bytes on disk: hashes and components of before say nothing of them
    let moved = sqlx::query(
        "update models set content_digest = null, sha256 = null, payload_sha256 = null where id = $1 and exists (
             select 1 from model_locations l where l.model_id = $1 and l.host = $2 and l.files is distinct from $3)",
    )
    .bind(id)
    .bind(host)
    .bind(&files)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into model_locations (model_id, host, root, rel_path, files) values ($1, $2, $3, $4, $5)
         on conflict (model_id, host) do update set root = excluded.root, rel_path = excluded.rel_path, files = excluded.files, seen_at = now()",
    )
    .bind(id)
    .bind(host)
    .bind(root)
    .bind(&model.rel_path)
    .bind(files)
    .execute(tx)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// Whether the model has exactly these parts already: metadata may change while the tensors do not.
async fn same_parts(tx: &mut PgConnection, model: ModelId, found: &[FoundComponent]) -> Result<bool, DbError> {
    let known: Vec<(String, i64, i64, i32, String)> = sqlx::query_as(
        "select p.kind, c.bytes, c.param_count, c.tensor_count, c.dtype
         from model_components p join components c on c.id = p.component_id where p.model_id = $1 order by p.kind",
    )
    .bind(model)
    .fetch_all(tx)
    .await?;
    let mut wanted: Vec<_> = found
        .iter()
        .map(|part| (part.kind.clone(), part.bytes, part.param_count, part.tensor_count, part.dtype.clone()))
        .collect();
    wanted.sort();
    Ok(known == wanted)
}
