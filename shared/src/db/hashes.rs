//! Hashes of files by identity, and of the models that they make up.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor, types::Json};

use super::{
    DbError,
    models::{FileIdentity, ReadAs},
};
use crate::ids::ModelId;

/// Hashes of one file in hex.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct FileHashRow {
    /// BLAKE3.
    pub blake3: String,
    /// SHA-256.
    pub sha256: String,
    /// SHA-256 of what follows a safetensors header.
    pub payload_sha256: Option<String>,
    /// The short hash of old tools.
    pub autov1: String,
}

/// Models `m` on a host ($1) without hashes, or with components whose digest or tensors are not known, at their places `l` in roots `r`;
/// narrowed to one model ($2) or one root ($3). A model with a file that is marked as corrupt there is read when it is asked for, and only then.
macro_rules! lacking_hashes {
    () => {
        "
         from (select id from models where content_digest is null
               union select model_id from model_components where tensors is null
               union select p.model_id from components c join model_components p on p.component_id = c.id
                     where c.digest is null and c.merged_into is null
               union select l.model_id from corrupt_files q
                     join model_locations l on l.host = q.host and l.files @> jsonb_build_array(q.file)
                     where q.host = $1 and l.model_id = $2) open
         join models m on m.id = open.id
         join model_locations l on l.model_id = m.id join roots r on r.host = l.host and r.name = l.root
         where l.host = $1 and jsonb_array_length(l.files) > 0 and l.read_variant is not distinct from m.read_as ->> 'variant'
           and ($2::text is null or m.id = $2) and ($3::text is null or l.root = $3)
           and ($2::text is not null or not exists (select 1 from corrupt_files where host = $1) or not exists
                (select 1 from corrupt_files q where q.host = $1 and l.files @> jsonb_build_array(q.file)))"
    };
}

/// A model on a host that has no hashes yet.
#[derive(Debug, Clone, FromRow)]
pub struct Unhashed {
    /// The model.
    pub id: ModelId,
    /// Its name.
    pub name: String,
    /// Folder of the root.
    pub root_path: String,
    /// Path below the root.
    pub rel_path: String,
    /// `[FileIdentity]`, as the scan stored it.
    pub files: Value,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// The correction that its components come from.
    pub read_as: Json<ReadAs>,
}

/// Models on a host without hashes, or with components whose digest or tensors are not known, small ones first; narrowed to
/// one model or one root. Only such as stand in the canonical form of this version: a scan reads the others first.
///
/// # Errors
/// Database errors.
pub async fn unhashed(
    db: impl PgExecutor<'_>,
    host: &str,
    model: Option<ModelId>,
    root: Option<&str>,
    form: i32,
    limit: i64,
) -> Result<Vec<Unhashed>, DbError> {
    Ok(sqlx::query_as(concat!(
        "select m.id, m.name, r.path as root_path, l.rel_path, l.files, m.size_bytes, m.read_as",
        lacking_hashes!(),
        " and m.canonical_form = $4 order by m.size_bytes, m.id limit $5",
    ))
    .bind(host)
    .bind(model)
    .bind(root)
    .bind(form)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// Models that [`unhashed`] would answer did they stand in the canonical form of this version: names, and whether their form is a newer
/// one.
///
/// # Errors
/// Database errors.
pub async fn of_other_forms(
    db: impl PgExecutor<'_>,
    host: &str,
    model: Option<ModelId>,
    root: Option<&str>,
    form: i32,
    limit: i64,
) -> Result<Vec<(String, bool)>, DbError> {
    Ok(sqlx::query_as(concat!(
        "select m.name, m.canonical_form > $4",
        lacking_hashes!(),
        " and m.canonical_form <> $4 order by m.name limit $5",
    ))
    .bind(host)
    .bind(model)
    .bind(root)
    .bind(form)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// Digests by kind of the components of another model that is the same files on this host, read in the same way.
///
/// # Errors
/// Database errors.
pub async fn twins(db: impl PgExecutor<'_>, host: &str, model: ModelId) -> Result<HashMap<String, String>, DbError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select distinct on (p.kind) p.kind, c.digest
         from models m join model_locations l on l.model_id = m.id and l.host = $1
         join model_locations twin on twin.host = $1 and twin.files = l.files and twin.model_id <> m.id
         join models other on other.id = twin.model_id and other.canonical_form = m.canonical_form
              and other.read_as = m.read_as and other.type = m.type and other.base = m.base
         join model_components p on p.model_id = other.id join components c on c.id = p.component_id
         where m.id = $2 and c.digest is not null order by p.kind, c.id",
    )
    .bind(host)
    .bind(model)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().collect())
}

/// The recorded hashes of a file that is still the one that was hashed.
///
/// # Errors
/// Database errors.
pub async fn of_file(db: impl PgExecutor<'_>, host: &str, file: &FileIdentity) -> Result<Option<FileHashRow>, DbError> {
    Ok(sqlx::query_as(
        "select blake3, sha256, payload_sha256, autov1 from file_hashes
         where host = $1 and dev = $2 and inode = $3 and size_bytes = $4 and mtime_ns = $5",
    )
    .bind(host)
    .bind(file.dev.cast_signed())
    .bind(file.inode.cast_signed())
    .bind(file.size_bytes.cast_signed())
    .bind(file.mtime_ns)
    .fetch_optional(db)
    .await?)
}

/// Records the hashes of a file, in place of those of an earlier file with its inode.
///
/// # Errors
/// Database errors.
pub async fn record_file(
    tx: &mut PgConnection,
    host: &str,
    file: &FileIdentity,
    hashes: &FileHashRow,
) -> Result<(), DbError> {
    sqlx::query(
        "insert into file_hashes (host, dev, inode, size_bytes, mtime_ns, blake3, sha256, payload_sha256, autov1)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (host, dev, inode) do update set size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns,
             blake3 = excluded.blake3, sha256 = excluded.sha256, payload_sha256 = excluded.payload_sha256,
             autov1 = excluded.autov1, hashed_at = now()",
    )
    .bind(host)
    .bind(file.dev.cast_signed())
    .bind(file.inode.cast_signed())
    .bind(file.size_bytes.cast_signed())
    .bind(file.mtime_ns)
    .bind(&hashes.blake3)
    .bind(&hashes.sha256)
    .bind(&hashes.payload_sha256)
    .bind(&hashes.autov1)
    .execute(tx)
    .await?;
    Ok(())
}

/// What all files of a model say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelHashes {
    /// The model.
    pub model: ModelId,
    /// The files that were hashed, exactly as they are stored with the location.
    pub files: Value,
    /// BLAKE3 of the content.
    pub content_digest: String,
    /// SHA-256, of a model that is one file.
    pub sha256: Option<String>,
    /// SHA-256 of what follows its header.
    pub payload_sha256: Option<String>,
}

/// Records a model's hashes; false when the host reports other files by now, or these are of another variant than is read by now.
///
/// # Errors
/// Database errors.
pub async fn record_model(tx: &mut PgConnection, host: &str, hashes: &ModelHashes) -> Result<bool, DbError> {
    let recorded = sqlx::query(
        "update models set content_digest = $4, sha256 = $5, payload_sha256 = $6, updated_at = now()
         where id = $1 and exists (select 1 from model_locations l where l.model_id = $1 and l.host = $2 and l.files = $3
                                     and l.read_variant is not distinct from models.read_as ->> 'variant')",
    )
    .bind(hashes.model)
    .bind(host)
    .bind(&hashes.files)
    .bind(&hashes.content_digest)
    .bind(&hashes.sha256)
    .bind(&hashes.payload_sha256)
    .execute(tx)
    .await?;
    Ok(recorded.rows_affected() == 1)
}

/// The short hash of old tools, of any file with this SHA-256.
///
/// # Errors
/// Database errors.
pub async fn autov1(db: impl PgExecutor<'_>, sha256: &str) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("select autov1 from file_hashes where sha256 = $1 limit 1")
        .bind(sha256)
        .fetch_optional(db)
        .await?)
}
