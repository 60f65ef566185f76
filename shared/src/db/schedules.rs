//! Periodic jobs: the leader fires each at most once per due time.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::{DbError, leader};

/// Creates a schedule, or changes its template and period; its next due time stays.
///
/// # Errors
/// Database errors.
pub async fn ensure(db: impl PgExecutor<'_>, name: &str, template: &Value, every_seconds: i64) -> Result<(), DbError> {
    sqlx::query(
        "insert into schedules (name, template, every_seconds, next_fire_at) values ($1, $2, $3::bigint, now() + make_interval(secs => ($3::bigint)::float8))
         on conflict (name) do update set template = excluded.template, every_seconds = excluded.every_seconds
         where (schedules.template, schedules.every_seconds) is distinct from (excluded.template, excluded.every_seconds)",
    )
    .bind(name)
    .bind(template)
    .bind(every_seconds)
    .execute(db)
    .await?;
    Ok(())
}

/// Takes the schedules that are due and moves them to their next time, in the transaction that enqueues their jobs:
/// a second leader finds nothing due. Missed times are not caught up. `None` when the term is over.
///
/// # Errors
/// Database errors.
pub async fn take_due(
    tx: &mut PgConnection,
    (role, term): (&str, i64),
) -> Result<Option<Vec<(String, Value)>>, DbError> {
    if !leader::holds(&mut *tx, role, term).await? {
        return Ok(None);
    }
    Ok(Some(
        sqlx::query_as(
            "update schedules set last_fire_at = now(), next_fire_at = now() + make_interval(secs => every_seconds::float8)
             where not paused and next_fire_at <= now() returning name, template",
        )
        .fetch_all(tx)
        .await?,
    ))
}

/// Removes a schedule; true when there was one.
///
/// # Errors
/// Database errors.
pub async fn remove(db: impl PgExecutor<'_>, name: &str) -> Result<bool, DbError> {
    let gone = sqlx::query("delete from schedules where name = $1").bind(name).execute(db).await?;
    Ok(gone.rows_affected() == 1)
}
