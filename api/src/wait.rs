//! Waiting for a job to end: woken by hints, with a poll fallback, never holding a connection.

use std::time::Duration;

use shared::{
    db::{
        jobs::{self, JobRow},
        listen::{self, Hint},
    },
    ids::JobId,
};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use crate::{problem::ApiError, state::AppState};

/// How often to look without a hint.
const POLL: Duration = Duration::from_secs(1);

/// The job once it has ended, or as it is after `patience` or when the API stops; none when there is no such job.
/// Cancel safe.
///
/// # Errors
/// Database errors.
pub(crate) async fn for_end(state: &AppState, id: JobId, patience: Duration) -> Result<Option<JobRow>, ApiError> {
    let until = Instant::now() + patience;
    let mut hints = state.hints.subscribe();
    loop {
        let row = jobs::find(&mut *state.connection().await?, id).await?;
        let ended = row.as_ref().is_none_or(|row| row.finished_at.is_some());
        if ended || Instant::now() >= until {
            return Ok(row);
        }
        tokio::select! {
            () = state.tasks.token().cancelled() => return Ok(row),
            () = tokio::time::sleep_until(until.min(Instant::now() + POLL)) => {}
            () = hinted(&mut hints, id) => {}
        }
    }
}

async fn hinted(hints: &mut tokio::sync::broadcast::Receiver<Hint>, id: JobId) {
    let id = id.to_string();
    loop {
        match hints.recv().await {
            Ok(hint) if hint.channel.is_empty() => return,
            Ok(hint) if hint.channel == listen::JOB && hint.payload == id => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending::<()>().await,
        }
    }
}
