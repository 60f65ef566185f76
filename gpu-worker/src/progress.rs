//! Progress of one attempt: executors say how far they are, the attempt's writer and the snapshot read it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use shared::status::LiveProgress;

/// Rates look at about this much of the past.
const WINDOW: Duration = Duration::from_secs(4);

/// How far an attempt is. All methods are quick and may be called from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<Option<State>>,
}

#[derive(Debug, Clone)]
struct State {
    phase: &'static str,
    detail: Option<String>,
    done: u64,
    total: u64,
    /// Smoothed units per second.
    rate: f64,
    marked: Instant,
    marked_done: u64,
    version: u64,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressView {
    /// `locating`, `making_room`, `reading`, `verifying`, `copying`, `freeing`, `scanning`, `done`, ….
    pub phase: &'static str,
    /// What in particular.
    pub detail: Option<String>,
    /// Bytes (for a scan: models) done.
    pub done: u64,
    /// In all; 0 while unknown.
    pub total: u64,
    /// Units per second at present; none until some were done.
    pub per_second: Option<f64>,
    /// Seconds left at the present rate.
    pub eta_seconds: Option<f64>,
    /// Grows with each change.
    pub version: u64,
}

impl ProgressView {
    /// The form that snapshots carry.
    pub fn live(&self) -> LiveProgress {
        LiveProgress {
            phase: self.phase.to_owned(),
            bytes_done: self.done,
            bytes_total: self.total,
            bytes_per_second: self.per_second,
            eta_seconds: self.eta_seconds,
        }
    }
}

impl Progress {
    /// Nothing said yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a phase with `total` units to do.
    pub fn enter(&self, phase: &'static str, total: u64) {
        let mut state = self.lock();
        let version = state.as_ref().map_or(1, |state| state.version + 1);
        *state = Some(State {
            phase,
            detail: None,
            done: 0,
            total,
            rate: 0.0,
            marked: Instant::now(),
            marked_done: 0,
            version,
        });
    }

    /// Goes on under another phase, with what is done and left.
    pub fn phase(&self, phase: &'static str) {
        self.update(|state| state.phase = phase);
    }

    /// Says what in particular is being done.
    pub fn detail(&self, detail: &str) {
        self.update(|state| state.detail = Some(detail.to_owned()));
    }

    /// Sets the units done in this phase.
    pub fn set(&self, done: u64) {
        self.update(|state| state.advance(done, Instant::now()));
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.lock().as_mut() {
            change(state);
            state.version += 1;
        }
    }

    /// How far it is; none before the first phase.
    pub fn view(&self) -> Option<ProgressView> {
        let state = self.lock().clone()?;
        Some(ProgressView {
            phase: state.phase,
            per_second: Some(state.rate).filter(|rate| *rate > 0.0),
            eta_seconds: state.eta_seconds(),
            detail: state.detail,
            done: state.done,
            total: state.total,
            version: state.version,
        })
    }
}

impl State {
    fn advance(&mut self, done: u64, now: Instant) {
        self.done = done;
        let elapsed = now.saturating_duration_since(self.marked).as_secs_f64();
        if elapsed < 0.1 {
            return;
        }
        let rate = done.saturating_sub(self.marked_done) as f64 / elapsed;
        let weight = (elapsed / WINDOW.as_secs_f64()).min(1.0);
        self.rate = if self.rate > 0.0 { self.rate + (rate - self.rate) * weight } else { rate };
        self.marked = now;
        self.marked_done = done;
    }

    fn eta_seconds(&self) -> Option<f64> {
        let left = self.total.checked_sub(self.done)? as f64;
        (self.rate > 0.0 && self.total > 0).then(|| left / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_gives_the_time_left() {
        let progress = Progress::new();
        assert_eq!(progress.view(), None);
        progress.enter("reading", 1000);
        let start = progress.lock().as_ref().unwrap().marked;
        for second in 1..=5_u64 {
            progress.update(|state| state.advance(second * 100, start + Duration::from_secs(second)));
        }
        let view = progress.view().unwrap();
        assert_eq!((view.done, view.total), (500, 1000));
        assert!((view.eta_seconds.unwrap() - 5.0).abs() < 0.01, "{view:?}");
        assert!((view.per_second.unwrap() - 100.0).abs() < 0.2, "{view:?}");
        progress.enter("copying", 10);
        assert_eq!(progress.view().unwrap().per_second, None, "another phase has a rate of its own");
    }
}
