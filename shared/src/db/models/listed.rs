//! The read model of lists, written once for many models instead of by each statement that changes something of them.

use sqlx::{PgConnection, PgExecutor};

use crate::{db::DbError, ids::ModelId};

/// From now on, in this transaction, lists do not follow what is written, until [`renew`].
pub(super) async fn wait(tx: &mut PgConnection) -> Result<(), DbError> {
    waits(tx, "on").await
}

/// Brings lists and searches up to date with these models: with all that were written since [`wait`].
pub(super) async fn renew(tx: &mut PgConnection, models: Vec<ModelId>) -> Result<(), DbError> {
    sqlx::query("select model_search_renew($1)").bind(models).execute(&mut *tx).await?;
    waits(tx, "off").await
}

/// Brings lists up to date with these models, and has their texts wait for [`make_due_texts`].
pub(super) async fn list(tx: &mut PgConnection, models: Vec<ModelId>) -> Result<(), DbError> {
    sqlx::query("select model_search_list($1)").bind(models).execute(&mut *tx).await?;
    waits(tx, "off").await
}

/// Makes the texts that searches by words read of models that are listed without them, for `most` models; of how many, so that
/// fewer than `most` says that none are left which nobody else is making. Any process may, at any time; each text is made once.
///
/// # Errors
/// Database errors.
pub async fn make_due_texts(db: impl PgExecutor<'_>, most: i64) -> Result<u64, DbError> {
    let made: i64 = sqlx::query_scalar("select model_search_read_due($1)").bind(most).fetch_one(db).await?;
    Ok(made.unsigned_abs())
}

/// Models that are listed, but that a search by words does not find yet, or finds by what they were before.
///
/// # Errors
/// Database errors.
pub async fn due_texts(db: impl PgExecutor<'_>) -> Result<u64, DbError> {
    let due: i64 = sqlx::query_scalar("select count(*) from model_search where text_due").fetch_one(db).await?;
    Ok(due.unsigned_abs())
}

async fn waits(tx: &mut PgConnection, value: &str) -> Result<(), DbError> {
    sqlx::query("select set_config('modelyard.search_waits', $1, true)").bind(value).execute(tx).await?;
    Ok(())
}
