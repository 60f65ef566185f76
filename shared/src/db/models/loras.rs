//! What files say of LoRAs, for their lists.

use serde_json::Value;
use sqlx::{FromRow, PgExecutor};

use crate::{db::DbError, ids::ModelId};

/// What the scan observed of a LoRA, and what its files say of it.
#[derive(Debug, Clone, FromRow)]
pub struct LoraRow {
    /// The model.
    pub id: ModelId,
    /// Observed: flavours, modules, ranks; null where nothing was.
    pub facts: Option<Value>,
    /// Words that trigger it.
    pub trigger_words: Option<Value>,
    /// Rank and alpha as the trainer wrote them.
    pub network: Option<Value>,
}

/// The rows of these models.
///
/// # Errors
/// Database errors.
pub async fn lora_facts(db: impl PgExecutor<'_>, models: &[ModelId]) -> Result<Vec<LoraRow>, DbError> {
    Ok(sqlx::query_as(
        "select id, metadata->'facts' as facts, metadata->'extracted'->'trigger_words' as trigger_words,
                metadata->'extracted'->'network' as network
         from models where id = any($1)",
    )
    .bind(models)
    .fetch_all(db)
    .await?)
}
