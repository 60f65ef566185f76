//! How far the farm's events are settled. One task looks for all streams of this process, after each hint and by a poll.

use std::time::Duration;

use shared::db::{DbError, events::Horizon};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{problem::ApiError, state::AppState};

/// Time between looks while a stream is open and something happens, or while somebody who writes is waited for.
const SOON: Duration = Duration::from_millis(50);
/// Time between looks otherwise: a stream that begins starts there.
const POLL: Duration = Duration::from_secs(1);
/// Longest wait of a stream for the first look.
const PATIENCE: Duration = Duration::from_secs(2);

/// The newest settled event; none before the first look.
#[derive(Debug)]
pub(crate) struct Settled(watch::Sender<Option<i64>>);

impl Default for Settled {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Settled {
    /// As it grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<i64>> {
        self.0.subscribe()
    }

    /// Where a stream without history starts: what is not committed yet comes after it.
    ///
    /// # Errors
    /// 503 while Postgres has not answered once.
    pub(crate) async fn now(&self) -> Result<i64, ApiError> {
        let mut settled = self.subscribe();
        let first = timeout(PATIENCE, settled.wait_for(Option::is_some)).await.map_err(|_| DbError::timed_out())?;
        let now = first.ok().and_then(|settled| *settled);
        Ok(now.ok_or_else(DbError::timed_out)?)
    }
}

/// Looks until the process stops.
pub(crate) async fn watch(state: AppState) {
    let stop = state.tasks.token().clone();
    let mut horizon = Horizon::default();
    loop {
        // subscribed before the look, so that nothing falls between
        let mut hints = state.hints.subscribe();
        let looked = look(&state, &mut horizon).await;
        let settled = horizon.settled();
        state.settled.0.send_if_modified(|told| std::mem::replace(told, settled) != settled);
        let pause = async {
            if looked.is_err() || state.settled.0.receiver_count() == 0 {
                return sleep(POLL).await;
            }
            sleep(SOON).await;
            if !horizon.waits() {
                // running out of time is the poll
                let _ = timeout(POLL, hints.recv()).await;
            }
        };
        tokio::select! { () = stop.cancelled() => return, () = pause => {} }
    }
}

/// What fails is logged where it happens; the next look goes on from there.
async fn look(state: &AppState, horizon: &mut Horizon) -> Result<(), ApiError> {
    Ok(horizon.advance(&mut *state.connection().await?).await?)
}
