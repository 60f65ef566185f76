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

/// How far the events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// The newest settled event; none while somebody is waited for who wrote at the first look.
    pub(crate) settled: Option<i64>,
    /// Where a stream without history starts; none before the first look.
    start: Option<i64>,
}

/// What the looks saw.
#[derive(Debug)]
pub(crate) struct Settled(watch::Sender<Seen>);

impl Default for Settled {
    fn default() -> Self {
        Self(watch::Sender::new(Seen::default()))
    }
}

impl Settled {
    /// As it grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Seen> {
        self.0.subscribe()
    }

    /// Where a stream without history starts: what takes its number later comes after it.
    ///
    /// # Errors
    /// 503 while Postgres has not answered once.
    pub(crate) async fn now(&self) -> Result<i64, ApiError> {
        let mut seen = self.subscribe();
        let first = timeout(PATIENCE, seen.wait_for(|seen| seen.start.is_some())).await;
        let now = first.map_err(|_| DbError::timed_out())?.ok().and_then(|seen| seen.start);
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
        let seen = Seen { settled: horizon.settled(), start: horizon.start() };
        state.settled.0.send_if_modified(|told| std::mem::replace(told, seen) != seen);
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
