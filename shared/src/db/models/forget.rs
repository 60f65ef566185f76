//! Forgetting models whose files are gone.

use sqlx::PgConnection;

use super::components;
use crate::{db::DbError, ids::ModelId};

/// Removes a model that is `missing`, and with it all that was said and found of it; false when it is not missing. Its name is free then.
/// What an agent still holds of it stays in the catalogue until it lets go.
///
/// # Errors
/// Database errors.
pub async fn forget(tx: &mut PgConnection, model: ModelId) -> Result<bool, DbError> {
    let gone = sqlx::query(
        "delete from models m where id = $1 and state = 'missing'
           and not exists (select 1 from model_locations l where l.model_id = m.id)",
    )
    .bind(model)
    .execute(&mut *tx)
    .await?;
    components::sweep(tx).await?;
    Ok(gone.rows_affected() > 0)
}
