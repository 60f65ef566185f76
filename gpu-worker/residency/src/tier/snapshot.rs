//! The tier as data: entries, counters, ledger; what is published and shown.

use serde::Serialize;

use super::{Inner, table::Slot};
use crate::{budget::BudgetView, digest::Digest, entry::State, progress::ProgressSnapshot};

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
    /// Loads that failed.
    pub load_failures_total: u64,
    /// Loads that were cancelled.
    pub loads_cancelled_total: u64,
    /// Tensor bytes of loads that became ready.
    pub bytes_loaded_total: u64,
    /// Content taken out, by reason.
    pub evictions_total: EvictionCounts,
}

/// Evictions by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EvictionCounts {
    /// To make room for a load.
    pub room: u64,
    /// Asked for by key.
    pub requested: u64,
    /// By a clear.
    pub cleared: u64,
    /// Other content was wanted under the key.
    pub superseded: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// While loading.
    pub progress: Option<ProgressSnapshot>,
}

/// The tier at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    fn snapshot(&self) -> EntrySnapshot {
        let loading = self.entry.state == State::Loading;
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
            progress: loading.then(|| self.flight.progress.snapshot()),
        }
    }
}

impl Inner {
    pub(super) fn snapshot(&self) -> TierSnapshot {
        let table = self.table();
        let generation = *self.changes.borrow();
        let slots = table.slots.values().chain(&table.retired);
        let mut entries: Vec<_> = slots.map(Slot::snapshot).collect();
        let (stats, ledger) = (table.stats, self.budget.view());
        drop(table);
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        TierSnapshot { ledger, entries, stats, generation }
    }
}
