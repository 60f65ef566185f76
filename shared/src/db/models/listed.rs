//! The read model of lists, written once for many models instead of by each statement that changes something of them.

use sqlx::PgConnection;

use crate::{db::DbError, ids::ModelId};

/// From now on, in this transaction, lists do not follow what is written, until [`renew`].
pub(super) async fn wait(tx: &mut PgConnection) -> Result<(), DbError> {
    waits(tx, "on").await
}

/// Brings lists up to date with these models: with all that were written since [`wait`].
pub(super) async fn renew(tx: &mut PgConnection, models: Vec<ModelId>) -> Result<(), DbError> {
    sqlx::query("select model_search_renew($1)").bind(models).execute(&mut *tx).await?;
    waits(tx, "off").await
}

async fn waits(tx: &mut PgConnection, value: &str) -> Result<(), DbError> {
    sqlx::query("select set_config('modelyard.search_waits', $1, true)").bind(value).execute(tx).await?;
    Ok(())
}
