//! The apalis backend of the periodic duties: it hands out the duty that is due next, one at a time.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, builder::TaskBuilder, task_id::RandomId},
    worker::context::WorkerContext,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tower::layer::util::Identity;

/// One periodic duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Set the gauges of active jobs; every scheduler does it.
    Gauges,
    /// Take jobs back from workers that are gone.
    Reap,
    /// Fire what is due.
    Schedules,
    /// Apply pipelines again where they are not as they are wanted.
    Pipelines,
    /// Move finished jobs away and forget what is old.
    Archive,
    /// Set the gauges of stored bytes, which looks at every upload and artifact; every scheduler does it.
    Stored,
    /// Remove bytes that nothing names.
    Sweep,
    /// Make texts of models that a scan listed and did not get to.
    Texts,
}

/// How many there are.
const DUTIES: usize = 8;

/// A duty that is due. While any clone of it lives, no other is handed out.
#[derive(Debug, Clone)]
pub(crate) struct Tick {
    duty: Duty,
    _turn: Arc<OwnedSemaphorePermit>,
}

impl Tick {
    /// What to do.
    pub(crate) fn duty(&self) -> Duty {
        self.duty
    }
}

/// The periods of the duties. Reaping looks a few times per lease TTL, so that a lost worker is noticed soon after it expired.
pub(crate) fn periods(lease_ttl: Duration) -> [(Duty, Duration); DUTIES] {
    [
        (Duty::Gauges, Duration::from_secs(2)),
        (Duty::Reap, (lease_ttl / 10).clamp(Duration::from_millis(100), Duration::from_secs(1))),
        (Duty::Schedules, Duration::from_millis(500)),
        (Duty::Pipelines, Duration::from_secs(1)),
        (Duty::Archive, Duration::from_secs(30)),
        (Duty::Stored, Duration::from_secs(10)),
        (Duty::Sweep, Duration::from_secs(2)),
        (Duty::Texts, Duration::from_secs(5)),
    ]
}

type Turn = Pin<Box<dyn Future<Output = Tick> + Send>>;

/// The backend.
pub(crate) struct Ticks {
    due: Arc<Mutex<Vec<(Duty, Duration, Instant)>>>,
    turns: Arc<Semaphore>,
    next: Option<Turn>,
}

impl std::fmt::Debug for Ticks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticks").finish_non_exhaustive()
    }
}

impl Ticks {
    /// Every duty is due at once, then after each period.
    pub(crate) fn new(periods: [(Duty, Duration); DUTIES]) -> Self {
        let now = Instant::now();
        let due = periods.into_iter().map(|(duty, period)| (duty, period, now)).collect();
        Self { due: Arc::new(Mutex::new(due)), turns: Arc::new(Semaphore::new(1)), next: None }
    }

    /// Waits for the turn, then for the duty that is due first.
    fn turn(&self) -> Turn {
        let (due, turns) = (Arc::clone(&self.due), Arc::clone(&self.turns));
        Box::pin(async move {
            let Ok(turn) = turns.acquire_owned().await else { return std::future::pending().await };
            let Some((duty, at)) = take_first(&due) else { return std::future::pending().await };
            tokio::time::sleep_until(at).await;
            Tick { duty, _turn: Arc::new(turn) }
        })
    }
}

/// The duty that is due first; its next time counts from now or from when it was due, whichever is later, so that
/// missed ticks are not made up.
fn take_first(due: &Mutex<Vec<(Duty, Duration, Instant)>>) -> Option<(Duty, Instant)> {
    let mut due = due.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (duty, period, at) = due.iter_mut().min_by_key(|(_, _, at)| *at)?;
    let this = *at;
    *at = this.max(Instant::now()) + *period;
    Some((*duty, this))
}

impl Backend for Ticks {
    type Task = Task<Tick>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        if self.next.is_none() {
            self.next = Some(self.turn());
        }
        let Some(turn) = self.next.as_mut() else { return Poll::Pending };
        let tick = std::task::ready!(turn.as_mut().poll(cx));
        self.next = None;
        Poll::Ready(Some(Ok(TaskBuilder::new(tick).build())))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.next = None;
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Ticks {
    type Args = Tick;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks() -> Ticks {
        let seconds = Duration::from_secs;
        Ticks::new([
            (Duty::Gauges, seconds(20)),
            (Duty::Reap, seconds(5)),
            (Duty::Schedules, seconds(1000)),
            (Duty::Pipelines, seconds(1000)),
            (Duty::Archive, seconds(1000)),
            (Duty::Stored, seconds(1000)),
            (Duty::Sweep, seconds(1000)),
            (Duty::Texts, seconds(1000)),
        ])
    }

    #[tokio::test(start_paused = true)]
    async fn duties_come_at_their_periods() {
        let ticks = ticks();
        let start = Instant::now();
        let mut seen = Vec::new();
        for _ in 0..13 {
            let tick = ticks.turn().await;
            seen.push((tick.duty(), start.elapsed().as_secs()));
        }
        use Duty::{Archive, Gauges, Pipelines, Reap, Schedules, Stored, Sweep, Texts};
        let first = [Gauges, Reap, Schedules, Pipelines, Archive, Stored, Sweep, Texts].map(|duty| (duty, 0));
        assert_eq!(seen[..8], first);
        let (reaps, gauges): (Vec<_>, Vec<_>) = seen[8..].iter().copied().partition(|(duty, _)| *duty == Reap);
        assert_eq!(reaps, [(Reap, 5), (Reap, 10), (Reap, 15), (Reap, 20)]);
        assert_eq!(gauges, [(Gauges, 20)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_duty_runs_at_a_time_and_missed_ticks_are_not_made_up() {
        let ticks = ticks();
        let start = Instant::now();
        let first = ticks.turn().await;
        let second = tokio::time::timeout(Duration::from_secs(50), ticks.turn()).await;
        assert!(second.is_err(), "a second duty was handed out while one ran");
        drop(first);
        let mut after = Vec::new();
        for _ in 0..9 {
            // a tick of its own statement: a temporary would hold its turn until the end of the expression
            let tick = ticks.turn().await;
            after.push((tick.duty(), start.elapsed().as_secs()));
        }
        use Duty::{Archive, Gauges, Pipelines, Reap, Schedules, Stored, Sweep, Texts};
        let late = [Reap, Schedules, Pipelines, Archive, Stored, Sweep, Texts, Gauges].map(|duty| (duty, 50));
        assert_eq!(after, [&late[..], &[(Reap, 55)]].concat());
    }
}
