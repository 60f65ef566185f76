//! What people say of models: their metadata with its history, and their corrections of the detection. No file is touched.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor};

use super::ModelRow;
use crate::{db::DbError, ids::ModelId};

/// A model's user metadata.
#[derive(Debug, Clone, FromRow)]
pub struct MetadataRow {
    /// Title.
    pub title: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Notes.
    pub notes: Option<String>,
    /// 0 to 5.
    pub rating: Option<i16>,
    /// Licence.
    pub license: Option<String>,
    /// Anything else: a JSON object.
    pub extra: Value,
    /// Version; 0 when nobody has said anything.
    pub version: i64,
    /// When it was last changed, if ever.
    pub updated_at: Option<DateTime<Utc>>,
}

impl Default for MetadataRow {
    fn default() -> Self {
        Self {
            title: None,
            description: None,
            tags: Vec::new(),
            notes: None,
            rating: None,
            license: None,
            extra: Value::Object(serde_json::Map::new()),
            version: 0,
            updated_at: None,
        }
    }
}

/// One change of a model's user metadata.
#[derive(Debug, Clone, FromRow)]
pub struct MetadataChangeRow {
    /// Ascending number of the change.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who, as the request said.
    pub who: String,
    /// The version that it made.
    pub version: i64,
    /// The user part before.
    pub before: Value,
    /// The user part after.
    pub after: Value,
}

/// The row of a model, locked until the transaction ends, so that a compare and the write after it are one.
///
/// # Errors
/// Database errors.
pub async fn lock(tx: &mut PgConnection, model: ModelId) -> Result<Option<ModelRow>, DbError> {
    Ok(sqlx::query_as("select * from models where id = $1 for update").bind(model).fetch_optional(tx).await?)
}

/// What people say of a model; the empty row when nobody has said anything.
///
/// # Errors
/// Database errors.
pub async fn metadata(db: impl PgExecutor<'_>, model: ModelId) -> Result<MetadataRow, DbError> {
    let row = sqlx::query_as(
        "select title, description, tags, notes, rating, license, extra, version, updated_at
         from model_metadata where model_id = $1",
    )
    .bind(model)
    .fetch_optional(db)
    .await?;
    Ok(row.unwrap_or_default())
}

/// Replaces what people say of a model; `version` and `updated_at` of the row given are not looked at. `before` and `after`
/// go into the history as they are.
///
/// # Errors
/// Database errors.
pub async fn set_metadata(
    tx: &mut PgConnection,
    model: ModelId,
    row: &MetadataRow,
    who: &str,
    before: &Value,
    after: &Value,
) -> Result<MetadataRow, DbError> {
    let written: MetadataRow = sqlx::query_as(
        "insert into model_metadata as m (model_id, title, description, tags, notes, rating, license, extra)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (model_id) do update set title = excluded.title, description = excluded.description, tags = excluded.tags,
             notes = excluded.notes, rating = excluded.rating, license = excluded.license, extra = excluded.extra,
             version = m.version + 1, updated_at = now()
         returning title, description, tags, notes, rating, license, extra, version, updated_at",
    )
    .bind(model)
    .bind(&row.title)
    .bind(&row.description)
    .bind(&row.tags)
    .bind(&row.notes)
    .bind(row.rating)
    .bind(&row.license)
    .bind(&row.extra)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query(
        "insert into model_metadata_history (model_id, who, version, before, after) values ($1, $2, $3, $4, $5)",
    )
    .bind(model)
    .bind(who)
    .bind(written.version)
    .bind(before)
    .bind(after)
    .execute(tx)
    .await?;
    Ok(written)
}

/// Changes of what people say of a model, newest first, before the change `before` if given.
///
/// # Errors
/// Database errors.
pub async fn metadata_history(
    db: impl PgExecutor<'_>,
    model: ModelId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<MetadataChangeRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, at, who, version, before, after from model_metadata_history
         where model_id = $1 and ($2::bigint is null or id < $2) order by id desc limit $3",
    )
    .bind(model)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// Replaces the operator's corrections of a model; its new row.
///
/// # Errors
/// Database errors.
pub async fn set_overrides(db: impl PgExecutor<'_>, model: ModelId, overrides: &Value) -> Result<ModelRow, DbError> {
    Ok(sqlx::query_as(
        "update models set overrides = $2, version = version + 1, updated_at = now() where id = $1 returning *",
    )
    .bind(model)
    .bind(overrides)
    .fetch_one(db)
    .await?)
}
