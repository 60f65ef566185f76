//! The catalogue: models, their locations and components.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::DbError;
use crate::ids::{ComponentId, ModelId};

/// A file of a model as a scan saw it: the identity that a load compares before and after reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileIdentity {
    /// Path below the model's own path; empty for a single file.
    pub rel_path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system.
    pub dev: u64,
}

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

/// A model row.
#[derive(Debug, Clone, FromRow)]
pub struct ModelRow {
    /// Id.
    pub id: ModelId,
    /// Unique name.
    pub name: String,
    /// Type.
    #[sqlx(rename = "type")]
    pub model_type: String,
    /// Base.
    pub base: String,
    /// Format.
    pub format: String,
    /// Dtype of the weights.
    pub variant: Option<String>,
    /// Prediction type.
    pub prediction: Option<String>,
    /// Root name.
    pub root: String,
    /// Path below the root.
    pub rel_path: String,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// Content digest.
    pub digest: Option<String>,
    /// `available`, `missing`, `unreadable`.
    pub state: String,
    /// Why it is unknown or not available.
    pub reason: Option<String>,
    /// Detection evidence.
    pub evidence: Value,
    /// Metadata found in the file.
    pub metadata: Value,
    /// Row version, for ETags.
    pub version: i64,
    /// First seen.
    pub created_at: DateTime<Utc>,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
}

/// A component row.
#[derive(Debug, Clone, FromRow)]
pub struct ComponentRow {
    /// Id.
    pub id: ComponentId,
    /// The model it is in.
    pub model_id: ModelId,
    /// Kind.
    pub kind: String,
    /// Bytes of its tensors.
    pub bytes: i64,
    /// Parameters.
    pub param_count: i64,
    /// Tensors.
    pub tensor_count: i32,
    /// Dtype, or `mixed`.
    pub dtype: String,
    /// Digest of its tensors, once known.
    pub digest: Option<String>,
}

/// Where a model is on disk.
#[derive(Debug, Clone, FromRow)]
pub struct LocationRow {
    /// The model.
    pub model_id: ModelId,
    /// Host.
    pub host: String,
    /// Root name.
    pub root: String,
    /// Path below the root.
    pub rel_path: String,
    /// Folder of the root on that host.
    pub root_path: String,
    /// `[FileIdentity]`.
    pub files: Value,
    /// When a scan last saw it.
    pub seen_at: DateTime<Utc>,
}

impl LocationRow {
    /// The files, decoded.
    ///
    /// # Errors
    /// [`DbError::BadRow`].
    pub fn identities(&self) -> Result<Vec<FileIdentity>, DbError> {
        serde_json::from_value(self.files.clone())
            .map_err(|error| DbError::BadRow(format!("files of model {}: {error}", self.model_id)))
    }
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
/// so locations that were not found are removed; a model without any location becomes `missing`, never deleted.
///
/// # Errors
/// Database errors.
pub async fn record_scan(
    tx: &mut PgConnection,
    host: &str,
    root: &str,
    found: &[FoundModel],
) -> Result<ScanCounts, DbError> {
    let mut counts = ScanCounts::default();
    // two hosts that scan the same library at the same time must not create a model twice
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('scan/' || $1, 0))")
        .bind(root)
        .execute(&mut *tx)
        .await?;
    for model in found {
        let (id, fresh, changed) = upsert_model(tx, root, model).await?;
        match (fresh, changed) {
            (true, _) => counts.added += 1,
            (false, true) => counts.changed += 1,
            (false, false) => counts.unchanged += 1,
        }
        if fresh || changed {
            replace_components(tx, id, &model.components).await?;
        }
        upsert_location(tx, id, host, root, model).await?;
    }
    let paths: Vec<&str> = found.iter().map(|model| model.rel_path.as_str()).collect();
    counts.removed =
        sqlx::query("delete from model_locations where host = $1 and root = $2 and not rel_path = any($3)")
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

async fn upsert_model(tx: &mut PgConnection, root: &str, model: &FoundModel) -> Result<(ModelId, bool, bool), DbError> {
    let existing: Option<(ModelId, bool)> = sqlx::query_as(
        "select id, (type, base, format, variant, prediction, size_bytes, state, reason, evidence, metadata)
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
    .fetch_optional(&mut *tx)
    .await?;
    let (id, fresh, changed) = match existing {
        Some((id, changed)) => (id, false, changed),
        None => (ModelId::generate(), true, true),
    };
    if !changed {
        return Ok((id, false, false));
    }
    let name = if fresh { free_name(tx, &model.name).await? } else { String::new() };
    sqlx::query(
        "insert into models (id, name, type, base, format, variant, prediction, root, rel_path, size_bytes, reason, evidence, metadata)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         on conflict (root, rel_path) do update set type = excluded.type, base = excluded.base, format = excluded.format,
             variant = excluded.variant, prediction = excluded.prediction, size_bytes = excluded.size_bytes, state = 'available',
             reason = excluded.reason, evidence = excluded.evidence, metadata = excluded.metadata, digest = null,
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
    .execute(tx)
    .await?;
    Ok((id, fresh, true))
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

async fn replace_components(
    tx: &mut PgConnection,
    model: ModelId,
    components: &[FoundComponent],
) -> Result<(), DbError> {
    let kinds: Vec<&str> = components.iter().map(|component| component.kind.as_str()).collect();
    sqlx::query("delete from components where model_id = $1 and not kind = any($2)")
        .bind(model)
        .bind(&kinds)
        .execute(&mut *tx)
        .await?;
    for component in components {
        sqlx::query(
            "insert into components as c (id, model_id, kind, bytes, param_count, tensor_count, dtype) values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (model_id, kind) do update set bytes = excluded.bytes, param_count = excluded.param_count,
                 tensor_count = excluded.tensor_count, dtype = excluded.dtype, digest = null, updated_at = now()",
        )
        .bind(ComponentId::generate())
        .bind(model)
        .bind(&component.kind)
        .bind(component.bytes)
        .bind(component.param_count)
        .bind(component.tensor_count)
        .bind(&component.dtype)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn upsert_location(
    tx: &mut PgConnection,
    id: ModelId,
    host: &str,
    root: &str,
    model: &FoundModel,
) -> Result<(), DbError> {
    let files = serde_json::to_value(&model.files).map_err(|error| DbError::BadRow(error.to_string()))?;
    // other bytes on disk: the digests of an earlier load no longer say anything
    sqlx::query(
        "update components set digest = null where model_id = $1 and digest is not null and exists (
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
    Ok(())
}

/// What to list; absent means any.
#[derive(Debug, Clone, Default)]
pub struct ModelFilter {
    /// Types.
    pub types: Option<Vec<String>>,
    /// Bases.
    pub bases: Option<Vec<String>>,
    /// Formats.
    pub formats: Option<Vec<String>>,
    /// States.
    pub states: Option<Vec<String>>,
    /// On this host's disk.
    pub host: Option<String>,
    /// Part of the name, any case.
    pub name_contains: Option<String>,
    /// With a component ready in this tier (`ram`, `vram`) of some host whose agent's lease is valid.
    pub resident: Option<String>,
    /// Sort key.
    pub sort: ModelSort,
    /// Reverse the order.
    pub descending: bool,
    /// The last row of the page before: (sort value as text, id).
    pub after: Option<(String, ModelId)>,
}

/// Sort keys of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelSort {
    /// By name.
    #[default]
    Name,
    /// By bytes on disk.
    Size,
    /// By first sighting.
    Created,
}

impl ModelSort {
    /// The row's value of this key as text, for a cursor. Text order is not value order; the cursor is compared after a cast.
    pub fn value(self, row: &ModelRow) -> String {
        match self {
            Self::Name => row.name.clone(),
            Self::Size => row.size_bytes.to_string(),
            Self::Created => row.created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        }
    }
}

macro_rules! list_sql {
    ($column:literal, $cast:literal, $compare:literal, $direction:literal) => {
        concat!(
            "select * from models m
             where ($1::text[] is null or type = any($1)) and ($2::text[] is null or base = any($2))
               and ($3::text[] is null or format = any($3)) and ($4::text[] is null or state = any($4))
               and ($5::text is null or exists (select 1 from model_locations l where l.model_id = m.id and l.host = $5))
               and ($6::text is null or position(lower($6) in lower(name)) > 0)
               and ($10::text is null or exists (select 1 from residency r join components c on c.id = r.component_id
                    join host_leases h on h.incarnation = r.incarnation and h.lease_until > now()
                    where c.model_id = m.id and r.tier = $10 and r.state = 'ready'))
               and ($7::text is null or (",
            $column,
            ", id) ",
            $compare,
            " ($7::",
            $cast,
            ", $8::text)) order by ",
            $column,
            " ",
            $direction,
            ", id ",
            $direction,
            " limit $9"
        )
    };
}

/// Models in order, one keyset page.
///
/// # Errors
/// Database errors.
pub async fn list(db: impl PgExecutor<'_>, filter: &ModelFilter, limit: i64) -> Result<Vec<ModelRow>, DbError> {
    let statement = match (filter.sort, filter.descending) {
        (ModelSort::Name, false) => list_sql!("name", "text", ">", "asc"),
        (ModelSort::Name, true) => list_sql!("name", "text", "<", "desc"),
        (ModelSort::Size, false) => list_sql!("size_bytes", "text::bigint", ">", "asc"),
        (ModelSort::Size, true) => list_sql!("size_bytes", "text::bigint", "<", "desc"),
        (ModelSort::Created, false) => list_sql!("created_at", "text::timestamptz", ">", "asc"),
        (ModelSort::Created, true) => list_sql!("created_at", "text::timestamptz", "<", "desc"),
    };
    let (after_value, after_id) = filter.after.clone().unzip();
    Ok(sqlx::query_as(statement)
        .bind(&filter.types)
        .bind(&filter.bases)
        .bind(&filter.formats)
        .bind(&filter.states)
        .bind(&filter.host)
        .bind(&filter.name_contains)
        .bind(after_value)
        .bind(after_id)
        .bind(limit)
        .bind(&filter.resident)
        .fetch_all(db)
        .await?)
}

/// Models in the catalogue.
///
/// # Errors
/// Database errors.
pub async fn count(db: impl PgExecutor<'_>) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("select count(*) from models").fetch_one(db).await?)
}

/// A model by id or unique name.
///
/// # Errors
/// Database errors.
pub async fn find(db: impl PgExecutor<'_>, id_or_name: &str) -> Result<Option<ModelRow>, DbError> {
    Ok(sqlx::query_as("select * from models where id = $1 or name = $1 order by (id = $1) desc limit 1")
        .bind(id_or_name)
        .fetch_optional(db)
        .await?)
}

/// All model names, for "did you mean".
///
/// # Errors
/// Database errors.
pub async fn names(db: impl PgExecutor<'_>) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("select name from models order by name limit 10000").fetch_all(db).await?)
}

/// Components of models, by model and kind.
///
/// # Errors
/// Database errors.
pub async fn components_of(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<ComponentRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, model_id, kind, bytes, param_count, tensor_count, dtype, digest from components where model_id = any($1) order by model_id, kind",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// One component.
///
/// # Errors
/// Database errors.
pub async fn component(db: impl PgExecutor<'_>, id: ComponentId) -> Result<Option<ComponentRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, model_id, kind, bytes, param_count, tensor_count, dtype, digest from components where id = $1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?)
}

/// A component with the model that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OwnedComponent {
    /// Component.
    pub id: ComponentId,
    /// Its kind.
    pub kind: String,
    /// The model it is in.
    pub model_id: ModelId,
    /// The model's name.
    pub model_name: String,
}

/// The owners of components; components that left the catalogue are left out.
///
/// # Errors
/// Database errors.
pub async fn owners_of(db: impl PgExecutor<'_>, components: &[ComponentId]) -> Result<Vec<OwnedComponent>, DbError> {
    Ok(sqlx::query_as(
        "select c.id, c.kind, c.model_id, m.name as model_name from components c join models m on m.id = c.model_id
         where c.id = any($1) order by m.name, c.kind",
    )
    .bind(components)
    .fetch_all(db)
    .await?)
}

/// Locations of models on hosts.
///
/// # Errors
/// Database errors.
pub async fn locations_of(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<LocationRow>, DbError> {
    Ok(sqlx::query_as(
        "select l.model_id, l.host, l.root, l.rel_path, r.path as root_path, l.files, l.seen_at
         from model_locations l join roots r on r.host = l.host and r.name = l.root
         where l.model_id = any($1) order by l.model_id, l.host",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}

/// Which hosts have which models on disk, for the placement.
///
/// # Errors
/// Database errors.
pub async fn hosts_with(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<(ModelId, String)>, DbError> {
    Ok(sqlx::query_as("select model_id, host from model_locations where model_id = any($1)")
        .bind(models)
        .fetch_all(db)
        .await?)
}

/// Records the digest that a load computed. False when another digest is registered already.
///
/// # Errors
/// Database errors.
pub async fn register_digest(db: impl PgExecutor<'_>, component: ComponentId, digest: &str) -> Result<bool, DbError> {
    let changed = sqlx::query("update components set digest = $2 where id = $1 and (digest is null or digest = $2)")
        .bind(component)
        .bind(digest)
        .execute(db)
        .await?;
    Ok(changed.rows_affected() == 1)
}
