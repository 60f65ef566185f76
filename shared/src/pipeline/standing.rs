//! How a pipeline stands on a device, and what is to be done about it: pure functions over what the database knows.

use std::time::Duration;

use crate::{
    error::{Disposition, ErrorCode},
    ids::Incarnation,
    job::JobState,
};

#[cfg(test)]
mod simulation;

/// First pause after a failure; doubles with each.
const PAUSE_BASE: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to apply a pipeline again.
const PAUSE_CAP: Duration = Duration::from_secs(600);

/// A declaration on a device, and the process that it was put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The declaration.
    pub generation: i64,
    /// The agent.
    pub incarnation: Incarnation,
    /// Deaths of the device's runner before the process that has it.
    pub runner_generation: i64,
}

/// The newest job about a pipeline on a device that nobody has drawn conclusions from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobFacts {
    /// Its state; none when it was forgotten.
    pub state: Option<JobState>,
    /// Of its error.
    pub code: Option<ErrorCode>,
}

/// What is known of a pipeline on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// It is to be applied; else it is to be gone.
    pub wanted: bool,
    /// The declaration that is to be there.
    pub wanted_generation: i64,
    /// What was applied last, and not restored since.
    pub applied: Option<Applied>,
    /// The agent that the device's host has now, if its lease is valid.
    pub agent: Option<Incarnation>,
    /// The device takes work.
    pub device_ready: bool,
    /// Deaths of the device's runner, as last reported.
    pub runner_generation: i64,
    /// The newest job about it.
    pub job: Option<JobFacts>,
    /// What failed last has an error, and nothing succeeded since.
    pub failed: bool,
    /// Time until it may be tried again; none when nothing is tried by itself.
    pub retry_in: Option<Duration>,
}

/// How a pipeline stands on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A job for it waits or runs.
    Applying,
    /// It is there as it is wanted.
    Applied,
    /// An older declaration of it is there.
    Outdated,
    /// What was there is gone with its process or host.
    Lost,
    /// The last job for it failed.
    Failed,
    /// A job that takes it away waits or runs.
    Restoring,
    /// It is not there, as is wanted.
    Restored,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is as wanted, or what it waits for has not come.
    Wait,
    /// The job has ended and did not do it: note that.
    Note {
        /// Trying again may help: it is done after a pause.
        again: bool,
    },
    /// The job has ended, and it is as wanted whatever the job did: nothing failed.
    Settle,
    /// Enqueue a job that applies it.
    Apply,
    /// Enqueue a job that restores it.
    Restore,
    /// It is to be gone, and is: the process that had it is not there any more.
    Forget,
}

impl Facts {
    /// What was applied is still there.
    fn holds(&self) -> Option<Applied> {
        self.applied.filter(|applied| {
            // a report of the device may be older than the application
            self.agent == Some(applied.incarnation) && self.runner_generation <= applied.runner_generation
        })
    }

    /// What was applied is there, and it is what is wanted.
    fn fits(&self) -> bool {
        self.holds().is_some_and(|applied| applied.generation >= self.wanted_generation)
    }

    /// It stands as it is wanted.
    fn is_as_wanted(&self) -> bool {
        if self.wanted { self.fits() } else { self.holds().is_none() }
    }

    fn job_is_active(&self) -> bool {
        self.job.is_some_and(|job| job.state.is_some_and(|state| !state.is_terminal()))
    }
}

/// How it stands.
pub fn standing(facts: &Facts) -> Standing {
    match (facts.job_is_active(), facts.wanted) {
        (true, true) => Standing::Applying,
        (true, false) => Standing::Restoring,
        (false, true) if facts.fits() => Standing::Applied,
        (false, false) if facts.holds().is_none() => Standing::Restored,
        _ if facts.failed || facts.job.is_some() => Standing::Failed,
        (false, true) if facts.holds().is_some() => Standing::Outdated,
        (false, true) => Standing::Lost,
        (false, false) => Standing::Restoring,
    }
}

/// What is to be done.
pub fn step(facts: &Facts) -> Step {
    if let Some(job) = facts.job {
        return match job.state {
            Some(state) if !state.is_terminal() => Step::Wait,
            _ if facts.is_as_wanted() => Step::Settle,
            Some(JobState::Failed) => Step::Note { again: may_help(job.code) },
            // stopped by somebody, or it killed its worker again and again
            Some(JobState::Cancelled | JobState::Quarantined) => Step::Note { again: false },
            // one that did it is the newest no more
            Some(_) | None => Step::Note { again: true },
        };
    }
    if !facts.wanted && facts.holds().is_none() {
        return if facts.applied.is_some() { Step::Forget } else { Step::Wait };
    }
    let reachable = facts.agent.is_some() && facts.device_ready;
    let due = if facts.failed { facts.retry_in.is_some_and(|wait| wait.is_zero()) } else { true };
    if !reachable || !due || (facts.wanted && facts.fits()) {
        return Step::Wait;
    }
    if facts.wanted { Step::Apply } else { Step::Restore }
}

/// True for failures that may pass by themselves; what the request itself is wrong with does not.
fn may_help(code: Option<ErrorCode>) -> bool {
    code.is_none_or(|code| code.disposition() != Disposition::Fail)
}

/// The pause before the next attempt, after so many failures in a row.
pub fn pause(failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
    PAUSE_BASE.saturating_mul(doubled).min(PAUSE_CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied() -> Facts {
        let me = Incarnation::generate();
        Facts {
            wanted: true,
            wanted_generation: 3,
            applied: Some(Applied { generation: 3, incarnation: me, runner_generation: 1 }),
            agent: Some(me),
            device_ready: true,
            runner_generation: 1,
            job: None,
            failed: false,
            retry_in: None,
        }
    }

    #[test]
    fn what_is_there_as_wanted_needs_nothing() {
        let late = Facts { runner_generation: 0, ..applied() };
        for facts in [applied(), late] {
            assert_eq!((standing(&facts), step(&facts)), (Standing::Applied, Step::Wait));
        }
    }

    #[test]
    fn what_died_is_applied_again_when_its_device_is_back() {
        let dead = Facts { runner_generation: 2, ..applied() };
        assert_eq!((standing(&dead), step(&dead)), (Standing::Lost, Step::Apply));
        let away = Facts { agent: None, ..applied() };
        assert_eq!((standing(&away), step(&away)), (Standing::Lost, Step::Wait));
        let other_agent = Facts { agent: Some(Incarnation::generate()), ..applied() };
        assert_eq!(step(&other_agent), Step::Apply);
        let not_ready = Facts { device_ready: false, ..other_agent };
        assert_eq!(step(&not_ready), Step::Wait);
        let older = Facts { wanted_generation: 4, ..applied() };
        assert_eq!((standing(&older), step(&older)), (Standing::Outdated, Step::Apply));
    }

    #[test]
    fn a_failure_is_noted_and_tried_again_only_where_that_can_help() {
        let ended = |state, code| Facts { job: Some(JobFacts { state, code }), runner_generation: 2, ..applied() };
        let cases = [
            (Some(JobState::Running), None, Step::Wait),
            (Some(JobState::Failed), Some(ErrorCode::Unavailable), Step::Note { again: true }),
            (Some(JobState::Failed), Some(ErrorCode::Unsupported), Step::Note { again: false }),
            (Some(JobState::Cancelled), Some(ErrorCode::Cancelled), Step::Note { again: false }),
            (Some(JobState::Quarantined), None, Step::Note { again: false }),
            (None, None, Step::Note { again: true }),
        ];
        for (state, code, expected) in cases {
            assert_eq!(step(&ended(state, code)), expected, "{state:?} {code:?}");
        }
        let needless = Facts { runner_generation: 1, ..ended(Some(JobState::Cancelled), Some(ErrorCode::Cancelled)) };
        assert_eq!(
            (standing(&needless), step(&needless)),
            (Standing::Applied, Step::Settle),
            "it is there all the same"
        );
        let failed = Facts { failed: true, runner_generation: 2, ..applied() };
        assert_eq!((standing(&failed), step(&failed)), (Standing::Failed, Step::Wait));
        let waiting = Facts { retry_in: Some(Duration::from_secs(1)), ..failed };
        assert_eq!(step(&waiting), Step::Wait);
        assert_eq!(step(&Facts { retry_in: Some(Duration::ZERO), ..failed }), Step::Apply);
        assert_eq!([1, 2, 3, 40].map(|failures| pause(failures).as_secs()), [5, 10, 20, 600]);
    }

    #[test]
    fn what_is_to_be_gone_is_restored_or_forgotten_with_its_process() {
        let unwanted = Facts { wanted: false, ..applied() };
        assert_eq!((standing(&unwanted), step(&unwanted)), (Standing::Restoring, Step::Restore));
        let dead = Facts { runner_generation: 2, ..unwanted };
        assert_eq!((standing(&dead), step(&dead)), (Standing::Restored, Step::Forget));
        let gone = Facts { applied: None, ..unwanted };
        assert_eq!((standing(&gone), step(&gone)), (Standing::Restored, Step::Wait));
    }
}
