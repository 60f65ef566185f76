//! The generated library: its making, and what questions are made of.

use shared::db::{Pool, Session, models};
use sqlx::{AssertSqlSafe, Executor};

const LIBRARY: &str = include_str!("library.sql");

/// Fills an empty, migrated database and refreshes its statistics.
///
/// # Errors
/// Database errors.
pub(crate) async fn make(pool: &Pool, models: i32) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    tx.execute(AssertSqlSafe(format!("set local bench.models = {models}"))).await?;
    tx.execute(LIBRARY).await?;
    tx.commit().await?;
    pool.execute("vacuum (analyze)").await?;
    Ok(())
}

/// Values that are in the library.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Models in all.
    pub models: i64,
    /// Some models.
    pub rows: Vec<Known>,
    /// Words by how many models hold them, the most frequent first.
    pub words: Vec<String>,
}

/// A model of the library.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Known {
    pub model_id: shared::ids::ModelId,
    pub name: String,
    #[sqlx(rename = "type")]
    pub model_type: String,
    pub base: String,
    pub format: String,
    pub variant: Option<String>,
    pub size_bytes: i64,
    pub tags: Vec<String>,
    pub sha256: Option<String>,
    pub payload_sha256: Option<String>,
    pub content_digest: Option<String>,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub updated_at: chrono::DateTime<chrono::Utc>,
}

/// Reads the sample.
///
/// # Errors
/// Database errors.
pub(crate) async fn sample(conn: &mut Session) -> anyhow::Result<Sample> {
    let rows = sqlx::query_as(
        "select model_id, name, type, base, format, variant, size_bytes, tags, sha256, payload_sha256, content_digest,
             created_at, updated_at
         from model_search order by hashtextextended(model_id, 3) limit 5000",
    )
    .fetch_all(&mut *conn)
    .await?;
    let words = sqlx::query_scalar(
        "select word from ts_stat('select document from model_search') order by ndoc desc, word limit 20000",
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(Sample { models: models::count(conn).await?, rows, words })
}
