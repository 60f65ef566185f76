//! Taking content out: on request, to make room, when superseded. Plan, act, ask the budget again.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    table::{Slot, Table, refusal},
};
use crate::{
    budget::Reservation,
    entry::{Event, State},
    error::{ResidencyError, Shortage},
    policy::{Candidate, Plan, select_victims},
    request::Key,
};

/// Bytes of memory that an eviction gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct FreedBytes(pub u64);

/// What a clear did.
#[derive(Debug, Clone)]
pub struct ClearReport {
    /// Components taken out.
    pub evicted: Vec<Key>,
    /// Bytes given back.
    pub freed: FreedBytes,
    /// Components that stay, each with the refusal.
    pub kept: Vec<(Key, ResidencyError)>,
}

/// Why content leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Room,
    Requested,
    Cleared,
}

impl Table {
    fn candidates(&self) -> Vec<Candidate> {
        self.slots.values().filter_map(Slot::candidate).collect()
    }

    /// Superseded content whose last lease has ended; drop it outside the lock.
    pub(super) fn take_retired(&mut self) -> Vec<Slot> {
        let free = |slot: &mut Slot| slot.apply(Event::Freed).is_ok();
        let freed: Vec<Slot> = self.retired.extract_if(.., free).collect();
        self.stats.evictions_total.superseded += freed.len() as u64;
        freed
    }
}

impl Inner {
    /// Reserves `bytes` for a load of `key`, evicting by the policy if it must. Everything freed is
    /// back in the system before it is promised again.
    pub(super) fn make_room(
        &self,
        key: &Key,
        bytes: u64,
        cancel: &CancellationToken,
    ) -> Result<Reservation, ResidencyError> {
        loop {
            if cancel.is_cancelled() {
                return Err(ResidencyError::Cancelled { key: key.clone() });
            }
            let retired = self.table().take_retired();
            drop(retired);
            if let Ok(reservation) = self.budget.try_reserve(bytes) {
                return Ok(reservation);
            }
            let _room = self.room();
            let shortage = match self.budget.try_reserve(bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(shortage) => shortage,
            };
            let plan = self.plan(shortage.needed_bytes.saturating_sub(shortage.available_bytes));
            if plan.victims.is_empty() {
                let would_free_bytes = plan.would_free_bytes;
                return Err(Shortage { would_free_bytes, ..shortage }.into());
            }
            self.execute(key, &plan);
        }
    }

    fn plan(&self, need_bytes: u64) -> Plan {
        let candidates = self.table().candidates();
        let now: Duration = self.started.elapsed();
        select_victims(self.config.policy, &candidates, need_bytes, now)
    }

    /// A victim that was leased since the plan stays; the caller plans again.
    fn execute(&self, wanted: &Key, plan: &Plan) {
        for victim in &plan.victims {
            match self.take_out(victim, Reason::Room) {
                Ok(freed) => tracing::info!(
                    key = &**victim, freed_bytes = freed.0, wanted = &**wanted, plan = ?plan.rows,
                    "evicted to make room"
                ),
                Err(refused) => tracing::debug!(key = &**victim, %refused, "victim stays"),
            }
        }
    }

    pub(super) fn evict_requested(&self, key: &Key) -> Result<FreedBytes, ResidencyError> {
        let _room = self.room();
        self.take_out(key, Reason::Requested)
    }

    pub(super) fn clear(&self) -> ClearReport {
        let _room = self.room();
        let mut keys: Vec<Key> = self.table().slots.keys().cloned().collect();
        keys.sort();
        let mut report = ClearReport { evicted: Vec::new(), freed: FreedBytes(0), kept: Vec::new() };
        for key in keys {
            match self.take_out(&key, Reason::Cleared) {
                Ok(freed) => {
                    report.freed.0 += freed.0;
                    report.evicted.push(key);
                }
                Err(ResidencyError::NotResident { .. }) => self.forget(&key),
                Err(refused) => report.kept.push((key, refused)),
            }
        }
        report
    }

    /// Forgets a failure, if that is what is under the key.
    fn forget(&self, key: &Key) {
        let mut table = self.table();
        if table.slots.get_mut(key).is_some_and(|slot| slot.apply(Event::Forget).is_ok()) {
            table.slots.remove(key);
        }
        drop(table);
        self.bump();
    }

    /// Evicts one entry. The caller holds the room lock.
    fn take_out(&self, key: &Key, reason: Reason) -> Result<FreedBytes, ResidencyError> {
        let mut table = self.table();
        let slot = table.slots.get_mut(key).ok_or_else(|| ResidencyError::NotResident { key: key.clone() })?;
        slot.apply(Event::Evict).map_err(|refused| refusal(key, refused))?;
        let content = slot.content.take();
        drop(table);
        self.bump();
        let bytes = content.as_ref().map_or(0, |content| content.extent.len());
        drop(content);
        let mut table = self.table();
        let freed = table.slots.get_mut(key).map(|slot| slot.apply(Event::Freed));
        debug_assert!(matches!(freed, Some(Ok(()))), "an evicted entry was leased");
        if table.slots.get(key).is_some_and(|slot| slot.entry.state == State::Absent) {
            table.slots.remove(key);
        }
        let evictions = &mut table.stats.evictions_total;
        *match reason {
            Reason::Room => &mut evictions.room,
            Reason::Requested => &mut evictions.requested,
            Reason::Cleared => &mut evictions.cleared,
        } += 1;
        drop(table);
        self.bump();
        Ok(FreedBytes(bytes))
    }
}
