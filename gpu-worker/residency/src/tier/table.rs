//! The table of entries, and the one question a caller asks it: is it there, is it coming, or do I start it?

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    decisions::{Decisions, Reason},
    departures::Departures,
    flight::{Flight, Outcome},
    keep::KeepAlive,
    lease::{Lease, Release, Resident, Ticket},
    said::{Kept, Said},
    snapshot::TierStats,
};
use crate::{
    digest::Digest,
    entry::{Entry, Event, FailReason, Refused, State, step},
    error::ResidencyError,
    identity::FileIdentity,
    policy::{
        Candidate,
        bandwidth::{Bandwidth, ReadFrom},
        reuse::Reuse,
    },
    request::{Key, LoadRequest},
};

/// All entries; guarded by the tier's short lock.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) slots: HashMap<Key, Slot>,
    /// Superseded content that is still leased.
    pub(super) retired: Vec<Slot>,
    pub(super) stats: TierStats,
    /// How often keys are used, also those that are not here.
    pub(super) reuse: Reuse,
    pub(super) bandwidth: Bandwidth,
    pub(super) decisions: Decisions,
    pub(super) departures: Departures,
    next_id: u64,
    pub(super) next_lease: u64,
}

/// One entry and what hangs on it. A new load of a key makes a new slot with a new id, so that a late
/// lease or ticket of an old one never counts on the new one.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) key: Key,
    pub(super) entry: Entry,
    pub(super) flight: Flight,
    pub(super) content: Option<Arc<Resident>>,
    pub(super) failure: Option<String>,
    pub(super) hits: u64,
    pub(super) used: Moment,
    pub(super) loaded: Option<Moment>,
    pub(super) took: Duration,
    /// Whose value is the entry's.
    pub(super) protected: Said<bool>,
    pub(super) keep_alive: Said<Option<KeepAlive>>,
    /// Who the leases belong to, where they said so.
    pub(super) marks: BTreeMap<u64, Arc<str>>,
    /// Whose load it was.
    pub(super) wanted_by: Option<Arc<str>>,
    read_from: Vec<ReadFrom>,
    pub(super) identities: Vec<FileIdentity>,
    expected: Option<Digest>,
}

/// A moment on the tier's own clock, for order, and on the wall clock, for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) since_start: Duration,
    pub(super) unix_ms: u64,
}

/// What a caller is told.
pub(super) enum Answer {
    Ready(Lease),
    Wait(Ticket),
    /// Something else must end first; ask again after a change.
    Busy(watch::Receiver<u64>),
}

impl Slot {
    pub(super) fn apply(&mut self, event: Event) -> Result<(), Refused> {
        self.entry = step(self.entry, event)?;
        Ok(())
    }

    /// What the operator said about it, which a new load of the key inherits.
    fn kept(&self) -> Kept {
        Kept { protected: self.protected, keep_alive: self.keep_alive }
    }

    fn same_files(&self, request: &LoadRequest) -> bool {
        self.identities.iter().eq(request.sources.iter().map(|source| &source.expected))
    }
}

impl Table {
    /// What is said about keeping what is ready.
    pub(super) fn kept(&self) -> BTreeMap<String, Kept> {
        let ready = self.slots.values().filter(|slot| slot.entry.state == State::Ready);
        ready.map(|slot| (slot.key.to_string(), slot.kept())).collect()
    }

    /// A ready entry as the policy sees it.
    pub(super) fn candidate(&self, slot: &Slot, now: Duration) -> Option<Candidate> {
        self.candidate_of(slot, now).filter(|_| slot.entry.state == State::Ready)
    }

    /// Content as the policy sees it, whatever its state.
    pub(super) fn candidate_of(&self, slot: &Slot, now: Duration) -> Option<Candidate> {
        let content = slot.content.as_ref()?;
        Some(Candidate {
            key: slot.key.clone(),
            bytes: content.extent.len(),
            shared: Vec::new(),
            last_used: slot.used.since_start,
            loaded_at: slot.loaded.unwrap_or(slot.used).since_start,
            hits: slot.hits,
            reload_seconds: self.bandwidth.seconds(&slot.read_from),
            reuses_per_hour: self.reuse.per_hour(&slot.key, now),
            reused: self.reuse.was_reused(&slot.key),
            holders: slot.entry.holders(),
            protected: slot.entry.protected,
        })
    }
}

/// Whether an entry's content is what a request means.
enum Match {
    Yes,
    No,
    /// These very files were read and have another digest than the request registers.
    Wrong {
        expected: Digest,
        actual: Digest,
    },
}

fn matches(slot: &Slot, request: &LoadRequest) -> Match {
    let resident = slot.content.as_ref().map(|content| content.digest);
    match (request.expected_digest, resident) {
        (Some(expected), Some(actual)) if expected == actual => Match::Yes,
        (Some(expected), Some(actual)) if slot.same_files(request) => Match::Wrong { expected, actual },
        (Some(_), Some(_)) => Match::No,
        // Still loading: join what verifies at least what this caller wants verified.
        (Some(expected), None) if slot.expected == Some(expected) => Match::Yes,
        (Some(_), None) => Match::No,
        (None, _) if slot.same_files(request) => Match::Yes,
        (None, _) => Match::No,
    }
}

impl Inner {
    pub(super) fn now(&self) -> Moment {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Moment { since_start: self.started.elapsed(), unix_ms }
    }

    /// One look at the table. `counted` keeps a caller that asks several times one hit, join or miss.
    pub(super) fn ask(
        self: &Arc<Self>,
        request: &Arc<LoadRequest>,
        counted: &mut bool,
        cancel: &CancellationToken,
    ) -> Result<Answer, ResidencyError> {
        let now = self.started.elapsed();
        let mut guard = self.table();
        let table = &mut *guard;
        let changes = self.changes.subscribe();
        let Some(slot) = table.slots.get_mut(&request.key) else {
            return self.start(table, request, Kept::default(), (counted, cancel));
        };
        match (slot.entry.state, matches(slot, request)) {
            (State::Ready, Match::Yes) => {
                let lease = hand_out(self, slot, &mut table.next_lease, Event::Lease, !*counted)?;
                if !std::mem::replace(counted, true) {
                    table.stats.hits_total += 1;
                    table.reuse.touch(&request.key, now);
                }
                Ok(Answer::Ready(lease))
            }
            (State::Ready, Match::Wrong { expected, actual }) => {
                Err(ResidencyError::DigestMismatch { key: request.key.clone(), expected, actual })
            }
            (State::Ready, Match::No) => {
                if slot.apply(Event::Supersede).is_err() {
                    return Ok(Answer::Busy(changes));
                }
                let kept = slot.kept();
                table.departures.leaves(&request.key, Reason::Superseded.into(), self.now().unix_ms);
                let retired = table.slots.remove(&request.key);
                table.retired.extend(retired);
                self.start(table, request, kept, (counted, cancel))
            }
            (State::Loading, Match::Yes) if !slot.flight.cancel.is_cancelled() => {
                let ticket = self.join(slot, cancel)?;
                if !std::mem::replace(counted, true) {
                    table.stats.joins_total += 1;
                    table.reuse.touch(&request.key, now);
                }
                Ok(Answer::Wait(ticket))
            }
            (State::Loading | State::Evicting, _) => Ok(Answer::Busy(changes)),
            (State::Absent | State::Failed(_), _) => {
                let kept = slot.kept();
                self.start(table, request, kept, (counted, cancel))
            }
        }
    }

    fn start(
        self: &Arc<Self>,
        table: &mut Table,
        request: &Arc<LoadRequest>,
        kept: Kept,
        (counted, cancel): (&mut bool, &CancellationToken),
    ) -> Result<Answer, ResidencyError> {
        let now = self.now();
        let id = table.next_id;
        table.next_id += 1;
        let (flight, done) = Flight::new(request);
        let mut slot = Slot {
            id,
            key: request.key.clone(),
            entry: Entry { protected: kept.protected.value, ..Entry::ABSENT },
            flight: flight.clone(),
            content: None,
            failure: None,
            hits: 0,
            used: now,
            loaded: None,
            took: Duration::ZERO,
            protected: kept.protected,
            keep_alive: kept.keep_alive,
            marks: BTreeMap::new(),
            wanted_by: request.wanted_by.clone(),
            read_from: request.read_from(),
            identities: request.identities(),
            expected: request.expected_digest,
        };
        slot.apply(Event::Load).map_err(|refused| refusal(&request.key, refused))?;
        slot.apply(Event::Join).map_err(|refused| refusal(&request.key, refused))?;
        // No guard may exist before this succeeds: dropping one takes the lock that is held here.
        self.launch(request.clone(), id, flight, done)?;
        let ticket = self.ticket(&slot, cancel);
        table.slots.insert(request.key.clone(), slot);
        let evicted = table.reuse.take_evicted(&request.key, now.since_start);
        table.stats.early_reloads_total += u64::from(evicted.is_some_and(|ago| ago <= self.config.early_reload));
        if !std::mem::replace(counted, true) {
            table.stats.misses_total += 1;
            table.reuse.touch(&request.key, now.since_start);
        }
        self.bump();
        Ok(Answer::Wait(ticket))
    }

    fn join(self: &Arc<Self>, slot: &mut Slot, cancel: &CancellationToken) -> Result<Ticket, ResidencyError> {
        slot.apply(Event::Join).map_err(|refused| refusal(&slot.key, refused))?;
        Ok(self.ticket(slot, cancel))
    }

    fn ticket(self: &Arc<Self>, slot: &Slot, cancel: &CancellationToken) -> Ticket {
        let done = slot.flight.done.clone();
        Ticket::new(self.clone(), (slot.key.clone(), slot.id), done, cancel.clone())
    }

    pub(super) fn lease(self: &Arc<Self>, key: &str) -> Result<Lease, ResidencyError> {
        let now = self.started.elapsed();
        let mut guard = self.table();
        let table = &mut *guard;
        let slot = table
            .slots
            .get_mut(key)
            .filter(|slot| slot.entry.state == State::Ready)
            .ok_or_else(|| ResidencyError::NotResident { key: key.into() })?;
        let lease = hand_out(self, slot, &mut table.next_lease, Event::Lease, true)?;
        table.stats.hits_total += 1;
        table.reuse.touch(&slot.key, now);
        Ok(lease)
    }

    /// Ends a load: the slot becomes ready, failed or absent, then its callers are told.
    pub(super) fn land(
        &self,
        key: &Key,
        id: u64,
        result: Result<(Resident, Duration), ResidencyError>,
        done: &watch::Sender<Option<Outcome>>,
    ) {
        let outcome = result.as_ref().map(|_| ()).map_err(Clone::clone);
        let now = self.now();
        let mut table = self.table();
        let Table { slots, stats, bandwidth, .. } = &mut *table;
        if let Some(slot) = slots.get_mut(key).filter(|slot| slot.id == id) {
            let applied = match result {
                Ok((content, took)) => {
                    stats.loads_total += 1;
                    stats.bytes_loaded_total += content.tensor_bytes;
                    bandwidth.observe(&slot.read_from, took);
                    (slot.took, slot.loaded, slot.used) = (took, Some(now), now);
                    slot.content = Some(Arc::new(content));
                    slot.apply(Event::Loaded)
                }
                Err(ResidencyError::Cancelled { .. }) => {
                    stats.loads_cancelled_total += 1;
                    slot.apply(Event::Abandon)
                }
                Err(error) => {
                    // refused before a byte was read, and asked again by whoever waits for room
                    stats.load_failures_total += u64::from(error.fail_reason() != FailReason::NoRoom);
                    stats.loads_stalled_total += u64::from(matches!(error, ResidencyError::Stalled { .. }));
                    slot.failure = Some(error.to_string());
                    slot.apply(Event::Fail(error.fail_reason()))
                }
            };
            if let Err(refused) = applied {
                tracing::error!(key = &**key, %refused, "a load landed on an entry that was not loading");
            }
            if slot.entry.state == State::Absent {
                slots.remove(key);
            }
        }
        drop(table);
        self.bump();
        done.send_replace(Some(outcome));
    }
}

/// Counts a use and makes the guard.
pub(super) fn hand_out(
    inner: &Arc<Inner>,
    slot: &mut Slot,
    next_lease: &mut u64,
    event: Event,
    is_hit: bool,
) -> Result<Lease, ResidencyError> {
    let missing = || ResidencyError::NotResident { key: slot.key.clone() };
    let content = slot.content.clone().ok_or_else(missing)?;
    slot.apply(event).map_err(|refused| refusal(&slot.key, refused))?;
    slot.used = inner.now();
    slot.hits += u64::from(is_hit);
    *next_lease += 1;
    Ok(Lease::new(content, Release::new(inner.clone(), slot.key.clone(), slot.id, *next_lease)))
}

/// A refusal of the machine in the caller's words.
pub(super) fn refusal(key: &Key, refused: Refused) -> ResidencyError {
    let key = key.clone();
    match refused {
        Refused::Leased { by } => ResidencyError::Leased { key, by },
        Refused::Protected => ResidencyError::Protected { key },
        Refused::NotNow { state: State::Loading } => ResidencyError::Loading { key },
        Refused::NotNow { .. } => ResidencyError::NotResident { key },
    }
}
