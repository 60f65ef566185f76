//! Whether work that somebody wants is about to be done anyway.

use sqlx::PgExecutor;

use crate::db::DbError;

/// Whether a scan of this root on this host has been accepted and has not begun: it will see everything that is there now.
///
/// # Errors
/// Database errors.
pub async fn scan_waits(db: impl PgExecutor<'_>, host: &str, root: &str) -> Result<bool, DbError> {
    // written so that each half reads one of the partial indexes of active jobs
    Ok(sqlx::query_scalar(
        "select exists (select 1 from jobs where state = 'pending' and kind = 'scan' and pin_host = $1
                        and args ->> 'model' is null and coalesce(args ->> 'root', $2) = $2)
             or exists (select 1 from jobs where state = 'placed' and lane = 'host' and host = $1 and kind = 'scan'
                        and args ->> 'model' is null and coalesce(args ->> 'root', $2) = $2)",
    )
    .bind(host)
    .bind(root)
    .fetch_one(db)
    .await?)
}
