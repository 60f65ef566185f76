//! The tier as data: entries, counters, ledger; what is published and shown.

use std::time::Duration;

use serde::Serialize;

use super::{Inner, decisions::Reason, keep::KeepAlive, table::Slot};
use crate::{
    budget::BudgetView,
    digest::Digest,
    entry::State,
    policy::{self, Standing},
    progress::ProgressSnapshot,
};

/// Upper bounds of the counts of [`TierStats::ages`]; the last count is of what is older.
pub const AGE_BOUNDS_SECONDS: [u64; 8] = [1, 10, 60, 300, 1_800, 7_200, 28_800, 86_400];

/// Counters since the tier's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TierStats {
    /// Acquisitions of ready content.
    pub hits_total: u64,
    /// Acquisitions that started a load.
    pub misses_total: u64,
    /// Acquisitions that joined a running load.
    pub joins_total: u64,
    /// Loads that became ready.
    pub loads_total: u64,
    /// Loads that failed; not those that found no room, which read nothing and may be waiting for it.
    pub load_failures_total: u64,
    /// Of those, loads that were given up because no byte came.
    pub loads_stalled_total: u64,
    /// Loads that were cancelled.
    pub loads_cancelled_total: u64,
    /// Tensor bytes of loads that became ready.
    pub bytes_loaded_total: u64,
    /// Content taken out, by reason.
    pub evictions_total: EvictionCounts,
    /// Bytes of it.
    pub evicted_bytes_total: u64,
    /// Loads of what our own choice had taken out shortly before.
    pub early_reloads_total: u64,
    /// How long content had been here when it was taken out: counts up to each of [`AGE_BOUNDS_SECONDS`] and beyond.
    pub ages: [u64; AGE_BOUNDS_SECONDS.len() + 1],
    /// Sum of those ages.
    pub ages_ms_total: u64,
}

/// Evictions by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EvictionCounts {
    /// To make room for a load.
    pub room: u64,
    /// The system's memory was short.
    pub pressure: u64,
    /// Their keep-alive was over.
    pub expired: u64,
    /// Asked for by key.
    pub requested: u64,
    /// By a clear.
    pub cleared: u64,
    /// The same bytes were there under another key.
    pub duplicate: u64,
    /// Other content was wanted under the key.
    pub superseded: u64,
    /// By a plan to free memory.
    pub optimized: u64,
}

impl EvictionCounts {
    /// The count of one reason.
    pub fn of(&mut self, reason: Reason) -> &mut u64 {
        match reason {
            Reason::Room => &mut self.room,
            Reason::Pressure => &mut self.pressure,
            Reason::Expired => &mut self.expired,
            Reason::Requested => &mut self.requested,
            Reason::Cleared => &mut self.cleared,
            Reason::Duplicate => &mut self.duplicate,
            Reason::Superseded => &mut self.superseded,
            Reason::Optimized => &mut self.optimized,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { room, pressure, expired, requested, cleared, duplicate, superseded, optimized } = self;
        room + pressure + expired + requested + cleared + duplicate + superseded + optimized
    }
}

impl TierStats {
    pub(super) fn count(&mut self, reason: Reason, bytes: u64, age_ms: u64) {
        *self.evictions_total.of(reason) += 1;
        self.evicted_bytes_total += bytes;
        self.ages_ms_total += age_ms;
        let bound = AGE_BOUNDS_SECONDS.iter().position(|bound| age_ms <= bound * 1000);
        if let Some(count) = self.ages.get_mut(bound.unwrap_or(AGE_BOUNDS_SECONDS.len())) {
            *count += 1;
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntrySnapshot {
    /// The component.
    pub key: String,
    /// Where it is in its life.
    pub state: State,
    /// The last load's error, when it failed.
    pub failure: Option<String>,
    /// Memory that it occupies; zero unless ready or evicting.
    pub bytes: u64,
    /// Its digest, once read.
    pub digest: Option<Digest>,
    /// Users.
    pub leases: u32,
    /// Callers that wait for its load.
    pub waiters: u32,
    /// The operator's keep.
    pub protected: bool,
    /// When it became ready.
    pub loaded_unix_ms: Option<u64>,
    /// When it was last taken or let go.
    pub last_used_unix_ms: u64,
    /// Uses since it became ready, without the callers of its load.
    pub hits: u64,
    /// How long reading and verifying it took.
    pub load_ms: u64,
    /// How long it stays after its last use, where that was said.
    pub keep_alive: Option<KeepAlive>,
    /// Milliseconds until its keep-alive ends; none while something holds it or it has no end.
    pub expires_in_ms: Option<u64>,
    /// Who uses it, of those that said so.
    pub holders: Vec<String>,
    /// Who it was loaded for, where they said so.
    pub wanted_by: Option<String>,
    /// While ready.
    pub standing: Option<Standing>,
    /// While loading.
    pub progress: Option<ProgressSnapshot>,
    /// While bytes move.
    pub bytes_per_second: Option<f64>,
}

/// The tier at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TierSnapshot {
    /// The ledger: budget, headroom, used and reserved bytes.
    #[serde(flatten)]
    pub ledger: BudgetView,
    /// Entries by key; superseded content that is still leased comes as `evicting`.
    pub entries: Vec<EntrySnapshot>,
    /// Counters.
    pub stats: TierStats,
    /// Grows with each change.
    pub generation: u64,
}

/// The ledger beside the system's own figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// What the ledger says is ready.
    pub used_bytes: u64,
    /// What the ledger holds for running loads; their pages appear while they read.
    pub reserved_bytes: u64,
    /// What the system has allocated for the tier's memory files. Between `used_bytes` and
    /// `used_bytes + reserved_bytes`; equal to the first when nothing loads.
    pub system_bytes: u64,
    /// Memory files alive.
    pub arenas: usize,
    /// Times the ledger was asked to return more than it held: a bug if not zero.
    pub underflows_total: u64,
}

impl Slot {
    fn snapshot(&self, default: Option<KeepAlive>, now: Duration, standing: Option<Standing>) -> EntrySnapshot {
        let loading = self.entry.state == State::Loading;
        let keep_alive = self.keep_alive.value.or(default);
        let expires_in = self.expires(default).map(|at| at.saturating_sub(now));
        EntrySnapshot {
            key: self.key.to_string(),
            state: self.entry.state,
            failure: self.failure.clone(),
            bytes: self.content.as_ref().map_or(0, |content| content.extent.len()),
            digest: self.content.as_ref().map(|content| content.digest),
            leases: self.entry.leases,
            waiters: self.entry.waiters,
            protected: self.entry.protected,
            loaded_unix_ms: self.loaded.map(|moment| moment.unix_ms),
            last_used_unix_ms: self.used.unix_ms,
            hits: self.hits,
            load_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            keep_alive,
            expires_in_ms: expires_in.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            holders: self.marks.values().map(ToString::to_string).collect(),
            wanted_by: self.wanted_by.as_ref().map(ToString::to_string),
            standing,
            progress: loading.then(|| self.flight.progress.snapshot()),
            bytes_per_second: self.flight.progress.bytes_per_second().filter(|_| loading),
        }
    }
}

impl Inner {
    pub(super) fn snapshot(&self) -> TierSnapshot {
        let now = self.started.elapsed();
        let table = self.table();
        let generation = *self.changes.borrow();
        let mut standings = policy::standings(self.config.rules(), &table.candidates(now), now);
        let default = self.config.keep_alive;
        let current = table.slots.values().map(|slot| slot.snapshot(default, now, standings.remove(&slot.key)));
        let mut entries: Vec<_> = current.collect();
        entries.extend(table.retired.iter().map(|slot| slot.snapshot(default, now, None)));
        let (stats, ledger) = (table.stats, self.budget.view());
        drop(table);
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        TierSnapshot { ledger, entries, stats, generation }
    }
}
