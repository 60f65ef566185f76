//! Cancelling: at once while nothing runs; by column and hint while something does.

use sqlx::PgConnection;

use super::event;
use crate::{
    db::{DbError, farm::notify, listen},
    error::{ErrorBody, ErrorCode},
    ids::JobId,
    job::JobState,
};

/// What a cancel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It had not started; it is cancelled now.
    Cancelled,
    /// It runs; its worker has been asked to stop.
    Requested,
    /// It had ended already, in this state; nothing changed.
    AlreadyEnded(JobState),
}

/// Cancels a job and, for a job with children, all of them. `None` when there is no such job. Idempotent.
///
/// # Errors
/// Database errors.
pub async fn cancel(tx: &mut PgConnection, id: JobId) -> Result<Option<CancelOutcome>, DbError> {
    // a child that ends locks itself, then its parent: children first here, too
    sqlx::query("select 1 from jobs where parent = $1 order by id for update").bind(id).execute(&mut *tx).await?;
    let row: Option<(String, String)> = sqlx::query_as("select state, lane from jobs where id = $1 for update")
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
    let Some((state, lane)) = row else {
        let archived: Option<String> =
            sqlx::query_scalar("select state from job_archive where id = $1").bind(id).fetch_optional(tx).await?;
        return archived.map(|state| parse(&state).map(CancelOutcome::AlreadyEnded)).transpose();
    };
    let state = parse(&state)?;
    if state.is_terminal() {
        return Ok(Some(CancelOutcome::AlreadyEnded(state)));
    }
    // without its key: whoever asks for the same from here on does not want what is being stopped
    sqlx::query(
        "update jobs set cancel_requested_at = coalesce(cancel_requested_at, now()), unique_key = null where id = $1",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    if lane == "fanout" {
        event(tx, id, "cancel_requested", serde_json::json!({})).await?;
        let children: Vec<JobId> = sqlx::query_scalar("select id from jobs where parent = $1 order by id")
            .bind(id)
            .fetch_all(&mut *tx)
            .await?;
        for child in children {
            Box::pin(cancel(tx, child)).await?;
        }
        return Ok(Some(CancelOutcome::Requested));
    }
    if state == JobState::Running {
        event(tx, id, "cancel_requested", serde_json::json!({})).await?;
        notify(tx, listen::CANCEL, &id.to_string()).await?;
        return Ok(Some(CancelOutcome::Requested));
    }
    let error = serde_json::to_value(ErrorBody::new(ErrorCode::Cancelled, "cancelled on request before it started"))
        .map_err(|error| DbError::BadRow(error.to_string()))?;
    sqlx::query("update jobs set state = 'cancelled', finished_at = now(), error = $2, reason = null where id = $1")
        .bind(id)
        .bind(error)
        .execute(&mut *tx)
        .await?;
    event(tx, id, "cancelled", serde_json::json!({ "state": JobState::Cancelled })).await?;
    super::parent::settle_parent_of(tx, id).await?;
    Ok(Some(CancelOutcome::Cancelled))
}

/// Locks several jobs that are to be cancelled in one transaction, in the order in which everybody locks them.
///
/// # Errors
/// Database errors.
pub async fn lock_all(tx: &mut PgConnection, ids: &[JobId]) -> Result<(), DbError> {
    sqlx::query("select 1 from jobs where id = any($1) order by id for update").bind(ids).execute(tx).await?;
    Ok(())
}

fn parse(state: &str) -> Result<JobState, DbError> {
    state.parse().map_err(|error: crate::job::state::UnknownState| DbError::BadRow(error.to_string()))
}
