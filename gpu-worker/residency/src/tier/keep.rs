//! What keeps an entry or lets it go without a policy: keep-alive, the operator's keep, and who holds it.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Inner,
    decisions::{Draft, Reason},
    evict::FreedBytes,
    said::{Kept, Said},
    table::{Slot, Table, refusal},
};
use crate::{
    entry::{Event, State},
    error::ResidencyError,
    request::Key,
};

/// How long an entry stays after its last use while nobody leases it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepAlive {
    /// So long; zero: until its last lease ends.
    For(Duration),
    /// Until the policy takes it.
    Forever,
}

impl Slot {
    /// When its keep-alive ends, since the tier's start; none while it is held, protected or has no end.
    pub(super) fn expires(&self, default: Option<KeepAlive>) -> Option<Duration> {
        let free = self.entry.state == State::Ready && self.entry.holders() == 0 && !self.entry.protected;
        match self.keep_alive.value.or(default) {
            Some(KeepAlive::For(span)) if free => self.used.since_start.checked_add(span),
            _ => None,
        }
    }
}

impl Table {
    fn expired(&self, default: Option<KeepAlive>, now: Duration) -> Vec<Key> {
        let due = |slot: &&Slot| slot.expires(default).is_some_and(|at| at <= now);
        let mut keys: Vec<Key> = self.slots.values().filter(due).map(|slot| slot.key.clone()).collect();
        keys.sort();
        keys
    }
}

impl Inner {
    pub(super) fn set_keep_alive(&self, key: &str, keep_alive: Option<KeepAlive>) -> Result<(), ResidencyError> {
        self.say(key, None, Some(Said::now(keep_alive)))
    }

    pub(super) fn protect(&self, key: &str, protected: bool) -> Result<(), ResidencyError> {
        self.say(key, Some(Said::now(protected)), None)
    }

    pub(super) fn say_exactly(&self, key: &str, kept: Kept) -> Result<(), ResidencyError> {
        self.say(key, Some(kept.protected), Some(kept.keep_alive))
    }

    fn say(
        &self,
        key: &str,
        protected: Option<Said<bool>>,
        keep_alive: Option<Said<Option<KeepAlive>>>,
    ) -> Result<(), ResidencyError> {
        let mut table = self.table();
        let slot = table.slots.get_mut(key).filter(|slot| matches!(slot.entry.state, State::Loading | State::Ready));
        let slot = slot.ok_or_else(|| ResidencyError::NotResident { key: key.into() })?;
        if let Some(protected) = protected {
            slot.apply(Event::Protect(protected.value)).map_err(|refused| refusal(&key.into(), refused))?;
            slot.protected = protected;
        }
        slot.keep_alive = keep_alive.unwrap_or(slot.keep_alive);
        drop(table);
        self.bump();
        Ok(())
    }

    /// Time until the next entry expires.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let table = self.table();
        let next = table.slots.values().filter_map(|slot| slot.expires(self.config.keep_alive)).min()?;
        Some(next.saturating_sub(self.started.elapsed()))
    }

    /// Takes out what has expired. An entry that is taken meanwhile stays.
    pub(super) fn expire(&self) -> FreedBytes {
        let _room = self.room();
        let due = self.table().expired(self.config.keep_alive, self.started.elapsed());
        let mut draft = Draft::plain(Reason::Expired);
        for key in due {
            if let Err(stays) = self.take_out(&key, &mut draft) {
                tracing::debug!(key = &*key, %stays, "an expired component stays");
            }
        }
        self.record(draft)
    }

    /// Says who a lease belongs to.
    pub(super) fn mark(&self, key: &Key, id: u64, lease: u64, holder: Arc<str>) {
        let mut table = self.table();
        let Table { slots, retired, .. } = &mut *table;
        let current = slots.get_mut(key).filter(|slot| slot.id == id);
        if let Some(slot) = current.or_else(|| retired.iter_mut().find(|slot| slot.id == id)) {
            slot.marks.insert(lease, holder);
        }
        drop(table);
        self.bump();
    }
}
