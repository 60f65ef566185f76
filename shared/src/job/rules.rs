//! The rules of a job's life as pure functions: what follows from a report, a lost lease or a cancel.
//! `db::jobs` applies them inside its transactions; the simulation in `rules/simulation.rs` drives them alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::JobState;
use crate::error::{Disposition, ErrorBody, ErrorCode};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulation;

/// First delay before a retry; doubles with each attempt.
pub const RETRY_BASE: Duration = Duration::from_secs(1);
/// Longest delay before a retry.
pub const RETRY_CAP: Duration = Duration::from_secs(300);
/// Delay of a snooze: the farm had no room.
pub const SNOOZE: Duration = Duration::from_secs(5);

/// How an attempt ended, as its worker reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Report {
    /// The work is done; `result` is what the job shows.
    Succeeded {
        /// Kind-specific result.
        result: serde_json::Value,
    },
    /// The work failed; the error's code decides what follows.
    Failed {
        /// The error.
        error: ErrorBody,
    },
    /// The device runner died under the job: costs an attempt and counts as a crash.
    Crashed {
        /// What is known of the death.
        error: ErrorBody,
    },
    /// The worker gives the job back unfinished, as it drains or has to be placed anew; costs nothing.
    HandedBack,
}

/// The counters that the rules look at, as they stand in the job's row while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Attempts granted, this one included.
    pub attempt: i32,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// Crashes counted at claims, this one included.
    pub crash_count: i32,
    /// Crashes allowed.
    pub max_crashes: i32,
    /// A cancel was asked for.
    pub cancel_requested: bool,
}

/// What becomes of the row.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Next state: terminal, or `pending`.
    pub state: JobState,
    /// Delay before it may be placed again (when `pending`).
    pub delay: Duration,
    /// New attempt counter.
    pub attempt: i32,
    /// New crash counter.
    pub crash_count: i32,
    /// Outcome word for the attempt's row and the event.
    pub outcome: &'static str,
    /// The error to store, if any.
    pub error: Option<ErrorBody>,
}

/// What follows from a worker's report. `jitter` is in 0..1.
pub fn settle(report: &Report, counters: Counters, jitter: f64) -> Settled {
    // the worker lived to report: this attempt did not crash it
    let survived = Settled {
        state: JobState::Pending,
        delay: Duration::ZERO,
        attempt: counters.attempt,
        crash_count: (counters.crash_count - 1).max(0),
        outcome: "retry",
        error: None,
    };
    match report {
        Report::Succeeded { .. } => Settled { state: JobState::Succeeded, outcome: "succeeded", ..survived },
        Report::HandedBack if counters.cancel_requested => cancelled(survived),
        Report::HandedBack => Settled { attempt: counters.attempt - 1, outcome: "handed_back", ..survived },
        Report::Failed { error } => failed(error, counters, jitter, survived),
        Report::Crashed { error } => lost(error.clone(), counters, jitter),
    }
}

/// What follows when the lease of the worker that runs a job has expired.
pub fn settle_lost_lease(counters: Counters, jitter: f64) -> Settled {
    lost(
        ErrorBody::new(ErrorCode::WorkerLost, "the worker that ran this attempt stopped renewing its lease"),
        counters,
        jitter,
    )
}

fn cancelled(base: Settled) -> Settled {
    let error = Some(ErrorBody::new(ErrorCode::Cancelled, "cancelled on request"));
    Settled { state: JobState::Cancelled, outcome: "cancelled", error, ..base }
}

fn failed(error: &ErrorBody, counters: Counters, jitter: f64, base: Settled) -> Settled {
    let terminal = |outcome| Settled { state: JobState::Failed, outcome, error: Some(error.clone()), ..base.clone() };
    match error.code.disposition() {
        _ if counters.cancel_requested => cancelled(base),
        Disposition::Cancel => cancelled(base),
        Disposition::Fail => terminal("failed"),
        Disposition::Retry if counters.attempt >= counters.max_attempts => terminal("failed"),
        Disposition::Retry => Settled { delay: backoff(counters.attempt, jitter), error: Some(error.clone()), ..base },
        Disposition::Snooze => Settled {
            delay: SNOOZE.mul_f64(1.0 + jitter / 2.0),
            attempt: counters.attempt - 1,
            outcome: "snoozed",
            error: Some(error.clone()),
            ..base
        },
    }
}

fn lost(error: ErrorBody, counters: Counters, jitter: f64) -> Settled {
    let base = Settled {
        state: JobState::Pending,
        delay: backoff(counters.attempt, jitter).min(RETRY_BASE),
        attempt: counters.attempt,
        crash_count: counters.crash_count,
        outcome: "lost",
        error: Some(error),
    };
    if counters.cancel_requested {
        cancelled(base)
    } else if counters.crash_count >= counters.max_crashes {
        Settled { state: JobState::Quarantined, outcome: "quarantined", ..base }
    } else if counters.attempt >= counters.max_attempts {
        Settled { state: JobState::Failed, outcome: "failed", ..base }
    } else {
        base
    }
}

/// `min(cap, base · 2^(attempt−1))`, stretched by up to a half so that retries do not march in step.
pub fn backoff(attempt: i32, jitter: f64) -> Duration {
    let doublings = u32::try_from(attempt.max(1) - 1).unwrap_or(0).min(20);
    RETRY_BASE.saturating_mul(1 << doublings).min(RETRY_CAP).mul_f64(1.0 + jitter / 2.0)
}

/// A fresh random number in 0..1 for the `jitter` of these rules.
pub fn jitter() -> f64 {
    (ulid::Ulid::new().random() % 1_000_000) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_fraction_and_varies() {
        let values: Vec<f64> = (0..50).map(|_| jitter()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(values.iter().any(|value| *value != values[0]));
    }

    fn counters(attempt: i32, crash_count: i32) -> Counters {
        Counters { attempt, max_attempts: 3, crash_count, max_crashes: 2, cancel_requested: false }
    }

    fn failure(code: ErrorCode) -> Report {
        Report::Failed { error: ErrorBody::new(code, "x") }
    }

    #[test]
    fn the_error_code_decides_between_fail_retry_and_snooze() {
        assert_eq!(settle(&failure(ErrorCode::Corrupt), counters(1, 1), 0.0).state, JobState::Failed);
        let retry = settle(&failure(ErrorCode::Unavailable), counters(2, 1), 0.0);
        assert_eq!((retry.state, retry.attempt, retry.delay), (JobState::Pending, 2, RETRY_BASE * 2));
        assert_eq!(settle(&failure(ErrorCode::Unavailable), counters(3, 1), 0.0).state, JobState::Failed);
        let snooze = settle(&failure(ErrorCode::InsufficientCapacity), counters(3, 1), 0.0);
        assert_eq!((snooze.state, snooze.attempt), (JobState::Pending, 2), "a snooze burns no attempt");
    }

    #[test]
    fn crashes_are_kept_only_when_the_worker_did_not_report() {
        assert_eq!(settle(&failure(ErrorCode::Internal), counters(1, 1), 0.0).crash_count, 0);
        assert_eq!(settle_lost_lease(counters(1, 1), 0.0).state, JobState::Pending);
        assert_eq!(settle_lost_lease(counters(2, 2), 0.0).state, JobState::Quarantined);
    }

    #[test]
    fn a_cancel_wins_over_every_way_to_run_again() {
        let asked = Counters { cancel_requested: true, ..counters(1, 1) };
        for report in [failure(ErrorCode::Internal), Report::HandedBack, failure(ErrorCode::InsufficientCapacity)] {
            assert_eq!(settle(&report, asked, 0.0).state, JobState::Cancelled);
        }
        assert_eq!(settle_lost_lease(asked, 0.0).state, JobState::Cancelled);
        let done = Report::Succeeded { result: serde_json::Value::Null };
        assert_eq!(settle(&done, asked, 0.0).state, JobState::Succeeded, "work that is done stays done");
    }

    #[test]
    fn backoff_grows_and_is_capped() {
        assert_eq!(backoff(1, 0.0), RETRY_BASE);
        assert_eq!(backoff(40, 0.0), RETRY_CAP);
        assert!(backoff(3, 1.0) > backoff(3, 0.0));
    }
}
