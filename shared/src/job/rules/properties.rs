//! The rules against a reference model: a job's life is driven by arbitrary endings of its attempts until it ends, beside a
//! plain count of what was granted and what was lost.

use proptest::{collection::vec, prelude::*};

use super::{Counters, RETRY_CAP, Report, SNOOZE, settle, settle_lost_lease};
use crate::{
    error::{Disposition, ErrorBody, ErrorCode},
    job::JobState,
};

/// How one attempt ends.
#[derive(Debug, Clone)]
enum End {
    Reported(Report),
    LeaseLost,
}

fn end() -> impl Strategy<Value = End> {
    let error = prop::sample::select(ErrorCode::ALL.to_vec()).prop_map(|code| ErrorBody::new(code, "generated"));
    prop_oneof![
        1 => Just(End::Reported(Report::Succeeded { result: serde_json::Value::Null })),
        2 => Just(End::Reported(Report::HandedBack)),
        6 => error.clone().prop_map(|error| End::Reported(Report::Failed { error })),
        2 => error.prop_map(|error| End::Reported(Report::Crashed { error })),
        3 => Just(End::LeaseLost),
    ]
}

/// What an onlooker counts.
#[derive(Debug, Default)]
struct Seen {
    burned: i32,
    crashes: i32,
}

impl Seen {
    fn note(&mut self, end: &End) {
        let (burns, crash) = match end {
            End::LeaseLost | End::Reported(Report::Crashed { .. }) => (1, 1),
            End::Reported(Report::Failed { error }) => (i32::from(error.code.disposition() != Disposition::Snooze), 0),
            End::Reported(Report::HandedBack) => (0, 0),
            End::Reported(Report::Succeeded { .. }) => (1, 0),
        };
        self.burned += burns;
        self.crashes += crash;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_life_follows_the_reference_model(
        ends in vec(end(), 1..60),
        (max_attempts, max_crashes) in (1i32..6, 1i32..4),
        cancel_at in 0usize..80,
        jitter in 0.0f64..1.0,
    ) {
        let mut counters = Counters { attempt: 0, max_attempts, crash_count: 0, max_crashes, cancel_requested: false };
        let mut seen = Seen::default();
        for (turn, end) in ends.iter().enumerate() {
            counters.attempt += 1;
            counters.crash_count += 1;
            counters.cancel_requested |= turn >= cancel_at;
            seen.note(end);
            let settled = match end {
                End::Reported(report) => settle(report, counters, jitter),
                End::LeaseLost => settle_lost_lease(counters, jitter),
            };
            let done = matches!(end, End::Reported(Report::Succeeded { .. }));
            prop_assert_eq!(settled.state == JobState::Succeeded, done, "only finished work succeeds");
            prop_assert!(done || !counters.cancel_requested || settled.state == JobState::Cancelled, "a cancel is the end");
            prop_assert!(settled.delay <= RETRY_CAP.mul_f64(1.5) && settled.delay <= RETRY_CAP.max(SNOOZE).mul_f64(1.5));
            prop_assert_eq!(settled.state == JobState::Quarantined,
                !done && !counters.cancel_requested && seen.crashes >= max_crashes && matches!(end, End::LeaseLost | End::Reported(Report::Crashed { .. })));
            if settled.state.is_terminal() {
                return Ok(());
            }
            prop_assert_eq!(settled.state, JobState::Pending);
            prop_assert_eq!((settled.attempt, settled.crash_count), (seen.burned, seen.crashes));
            prop_assert!(seen.burned < max_attempts && seen.crashes < max_crashes, "no attempt beyond the limits");
            (counters.attempt, counters.crash_count) = (settled.attempt, settled.crash_count);
        }
    }
}
