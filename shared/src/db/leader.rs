//! Leadership with a term issued by the database; every write of a leader names its term.

use std::time::Duration;

use sqlx::PgExecutor;

use super::{DbError, seconds};
use crate::ids::Incarnation;

/// Takes or renews the leadership of `role` for `ttl`; `Some(term)` when this process leads.
/// A takeover raises the term; a renewal keeps it.
///
/// # Errors
/// Database errors.
pub async fn campaign(
    db: impl PgExecutor<'_>,
    role: &str,
    me: Incarnation,
    ttl: Duration,
) -> Result<Option<i64>, DbError> {
    let term = sqlx::query_scalar(
        "insert into leaders as l (role, holder, term, elected_at, expires_at)
         values ($1, $2, 1, now(), now() + make_interval(secs => $3))
         on conflict (role) do update set
             term = case when l.holder = excluded.holder and l.expires_at > now() then l.term else l.term + 1 end,
             elected_at = case when l.holder = excluded.holder and l.expires_at > now() then l.elected_at else now() end,
             holder = excluded.holder,
             expires_at = excluded.expires_at
         where l.holder = excluded.holder or l.expires_at <= now()
         returning term",
    )
    .bind(role)
    .bind(me)
    .bind(seconds(ttl))
    .fetch_optional(db)
    .await?;
    Ok(term)
}

/// True while `term` is the current, unexpired term of `role`. Locks the row, so that the caller's transaction
/// commits before a successor's first write.
///
/// # Errors
/// Database errors.
pub async fn holds(db: impl PgExecutor<'_>, role: &str, term: i64) -> Result<bool, DbError> {
    let found: Option<i64> =
        sqlx::query_scalar("select term from leaders where role = $1 and term = $2 and expires_at > now() for share")
            .bind(role)
            .bind(term)
            .fetch_optional(db)
            .await?;
    Ok(found.is_some())
}

/// Gives the leadership up at once, so that a standby need not wait for the expiry.
///
/// # Errors
/// Database errors.
pub async fn resign(db: impl PgExecutor<'_>, role: &str, term: i64) -> Result<(), DbError> {
    sqlx::query("update leaders set expires_at = now() where role = $1 and term = $2")
        .bind(role)
        .bind(term)
        .execute(db)
        .await?;
    Ok(())
}
