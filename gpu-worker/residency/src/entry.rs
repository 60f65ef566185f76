//! The lifecycle of one entry, as a pure machine.
//!
//! ```text
//!             load                loaded                evict (free, unprotected)
//!   absent ─────────▶ loading ───────────▶ ready ──────────────────────────▶ evicting
//!     ▲                │   │                 │  supersede (other content       │
//!     │    abandon     │   │ fail            │  under the key; leases stay)    │
//!     ├────────────────┘   ▼                 └────────────────────────────────▶│
//!     │                 failed{reason} ── load ─▶ loading                      │
//!     │                    │ forget                                            │
//!     ◀────────────────────┴────────────────────────── freed (no lease left) ──┘
//! ```
//!
//! `lease`/`release` count users of ready content; `join`/`leave` count callers of a running load,
//! and `claim` turns such a caller into a user. A caller that waits holds the entry as a lease does,
//! so that what was just loaded for it cannot be evicted before it gets it.

use serde::Serialize;

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not in this tier.
    Absent,
    /// Being read.
    Loading,
    /// In memory, verified.
    Ready,
    /// On its way out; with leases when superseded.
    Evicting,
    /// The last load ended badly; nothing is in memory.
    Failed(FailReason),
}

/// Why a load failed, as a closed label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The request contradicts itself or its file.
    Invalid,
    /// A file is missing or cannot be opened.
    Unreadable,
    /// A file changed.
    Changed,
    /// A read failed or came short.
    Io,
    /// The bytes are not the registered ones.
    Digest,
    /// No room in the budget.
    NoRoom,
    /// The system refused memory or threads.
    System,
    /// A bug.
    Internal,
}

/// An entry's whole state; plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub state: State,
    /// Users of its content.
    pub leases: u32,
    /// Callers that wait for its load.
    pub waiters: u32,
    /// The operator's keep.
    pub protected: bool,
}

/// What happens to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A load begins.
    Load,
    /// A caller waits for it.
    Join,
    /// A caller no longer waits.
    Leave,
    /// The load is done and verified.
    Loaded,
    /// The load ended badly.
    Fail(FailReason),
    /// The load was cancelled.
    Abandon,
    /// A user takes ready content.
    Lease,
    /// A waiting caller becomes a user.
    Claim,
    /// A user lets go.
    Release,
    /// We or an operator take it out.
    Evict,
    /// Other content is wanted under its key.
    Supersede,
    /// Its memory is back.
    Freed,
    /// A failure is forgotten.
    Forget,
    /// The operator keeps it or not.
    Protect(bool),
}

/// Why an event does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Users or waiting callers hold it.
    #[error("held by {by} users")]
    Leased {
        /// Leases and waiting callers.
        by: u32,
    },
    /// The operator keeps it.
    #[error("protected")]
    Protected,
    /// The event has no meaning in this state.
    #[error("not possible while {state:?}")]
    NotNow {
        /// The state.
        state: State,
    },
}

impl Entry {
    /// An entry that is not there.
    pub const ABSENT: Self = Self { state: State::Absent, leases: 0, waiters: 0, protected: false };

    /// Leases and waiting callers: what keeps it from eviction.
    pub fn holders(&self) -> u32 {
        self.leases.saturating_add(self.waiters)
    }
}

/// The entry after the event.
///
/// # Errors
/// Why the event does not apply; the entry stays as it is.
pub fn step(entry: Entry, event: Event) -> Result<Entry, Refused> {
    use State::{Absent, Evicting, Failed, Loading, Ready};
    let refused = Err(Refused::NotNow { state: entry.state });
    let next = match (entry.state, event) {
        (Absent | Failed(_), Event::Load) => Entry { state: Loading, leases: 0, waiters: 0, ..entry },
        (Loading, Event::Join) => Entry { waiters: entry.waiters + 1, ..entry },
        (_, Event::Leave) if entry.waiters > 0 => Entry { waiters: entry.waiters - 1, ..entry },
        (Loading, Event::Loaded) => Entry { state: Ready, ..entry },
        (Loading, Event::Fail(reason)) => Entry { state: Failed(reason), ..entry },
        (Loading, Event::Abandon) => Entry { waiters: entry.waiters, ..Entry::ABSENT },
        (Ready, Event::Lease) => Entry { leases: entry.leases + 1, ..entry },
        (Ready, Event::Claim) if entry.waiters > 0 => {
            Entry { leases: entry.leases + 1, waiters: entry.waiters - 1, ..entry }
        }
        (Ready | Evicting, Event::Release) if entry.leases > 0 => Entry { leases: entry.leases - 1, ..entry },
        (Ready, Event::Evict) => return evict(entry),
        (Ready, Event::Supersede) if entry.waiters > 0 => {
            return Err(Refused::Leased { by: entry.waiters });
        }
        (Ready, Event::Supersede) => Entry { state: Evicting, ..entry },
        (Evicting, Event::Freed) if entry.leases > 0 => {
            return Err(Refused::Leased { by: entry.leases });
        }
        (Evicting, Event::Freed) | (Failed(_), Event::Forget) => Entry { waiters: entry.waiters, ..Entry::ABSENT },
        (Loading | Ready, Event::Protect(protected)) => Entry { protected, ..entry },
        _ => return refused,
    };
    Ok(next)
}

fn evict(entry: Entry) -> Result<Entry, Refused> {
    if entry.holders() > 0 {
        Err(Refused::Leased { by: entry.holders() })
    } else if entry.protected {
        Err(Refused::Protected)
    } else {
        Ok(Entry { state: State::Evicting, ..entry })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rules said another way: users and callers as named things, memory as a flag.
    #[derive(Debug, Default)]
    struct Model {
        memory: bool,
        reading: bool,
        leaving: bool,
        failed: bool,
        users: Vec<&'static str>,
        callers: Vec<&'static str>,
        keep: bool,
    }

    impl Model {
        fn ready(&self) -> bool {
            self.memory && !self.leaving && !self.reading
        }

        fn apply(&mut self, event: Event) -> bool {
            let idle = !self.memory && !self.reading;
            let allowed = match event {
                Event::Load => idle,
                Event::Join | Event::Loaded | Event::Fail(_) | Event::Abandon => self.reading,
                Event::Leave => !self.callers.is_empty(),
                Event::Lease => self.ready(),
                Event::Claim => self.ready() && !self.callers.is_empty(),
                Event::Release => self.memory && !self.users.is_empty(),
                Event::Evict => self.ready() && self.users.is_empty() && self.callers.is_empty() && !self.keep,
                Event::Supersede => self.ready() && self.callers.is_empty(),
                Event::Freed => self.leaving && self.users.is_empty(),
                Event::Forget => self.failed,
                Event::Protect(_) => self.reading || self.ready(),
            };
            if allowed {
                self.change(event);
            }
            allowed
        }

        fn change(&mut self, event: Event) {
            match event {
                Event::Load => {
                    (self.reading, self.failed) = (true, false);
                    self.callers.clear();
                }
                Event::Join => self.callers.push("caller"),
                Event::Leave => drop(self.callers.pop()),
                Event::Loaded => (self.reading, self.memory) = (false, true),
                Event::Fail(_) => (self.reading, self.failed) = (false, true),
                Event::Abandon => (self.reading, self.keep) = (false, false),
                Event::Lease => self.users.push("user"),
                Event::Claim => {
                    self.callers.pop();
                    self.users.push("user");
                }
                Event::Release => drop(self.users.pop()),
                Event::Evict | Event::Supersede => self.leaving = true,
                Event::Freed => (self.memory, self.leaving, self.keep) = (false, false, false),
                Event::Forget => (self.failed, self.keep) = (false, false),
                Event::Protect(keep) => self.keep = keep,
            }
        }

        fn state(&self) -> State {
            match (self.reading, self.leaving, self.memory, self.failed) {
                (true, ..) => State::Loading,
                (_, true, ..) => State::Evicting,
                (_, _, true, _) => State::Ready,
                (_, _, _, true) => State::Failed(FailReason::Io),
                _ => State::Absent,
            }
        }
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Load),
            3 => Just(Event::Join),
            2 => Just(Event::Leave),
            4 => Just(Event::Loaded),
            1 => Just(Event::Fail(FailReason::Io)),
            1 => Just(Event::Abandon),
            3 => Just(Event::Lease),
            2 => Just(Event::Claim),
            4 => Just(Event::Release),
            2 => Just(Event::Evict),
            1 => Just(Event::Supersede),
            3 => Just(Event::Freed),
            1 => Just(Event::Forget),
            1 => any::<bool>().prop_map(Event::Protect),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn machine_agrees_with_the_model(sequence in proptest::collection::vec(events(), 0..120)) {
            let (mut entry, mut model) = (Entry::ABSENT, Model::default());
            for event in sequence {
                let before = entry;
                let result = step(entry, event);
                prop_assert_eq!(result.is_ok(), model.apply(event), "{:?} on {:?}", event, before);
                entry = result.unwrap_or(before);
                prop_assert_eq!(entry.state, model.state());
                prop_assert_eq!(entry.leases as usize, model.users.len());
                prop_assert_eq!(entry.waiters as usize, model.callers.len());
                prop_assert_eq!(entry.protected, model.keep);
                prop_assert!(entry.leases == 0 || matches!(entry.state, State::Ready | State::Evicting));
            }
        }
    }
}
