//! Taking content out: on request, to make room, under pressure, when superseded. Plan, act, ask the budget again.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    decisions::{Draft, Reason},
    departures::Why,
    table::{Moment, Slot, Table, refusal},
};
use crate::{
    budget::Reservation,
    entry::{Event, State},
    error::{ResidencyError, Shortage, Squeeze},
    policy::{self, Candidate, Goal, Plan, Verdict, select_victims},
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

impl Table {
    pub(super) fn candidates(&self, now: Duration) -> Vec<Candidate> {
        self.slots.values().filter_map(|slot| self.candidate(slot, now)).collect()
    }

    /// Superseded content whose last lease has ended; drop it outside the lock.
    pub(super) fn take_retired(&mut self) -> Vec<Slot> {
        let free = |slot: &mut Slot| slot.apply(Event::Freed).is_ok();
        self.retired.extract_if(.., free).collect()
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
            self.free_retired(retired);
            if let Ok(reservation) = self.budget.try_reserve(bytes) {
                return Ok(reservation);
            }
            let _room = self.room();
            let shortage = match self.budget.try_reserve(bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(shortage) => shortage,
            };
            // after a cut more may be held than is allowed, and that has to go as well
            let excess = self.budget.view().excess_bytes();
            let need_bytes = shortage.needed_bytes.saturating_sub(shortage.available_bytes).saturating_add(excess);
            let plan = self.plan(Goal::AllOf(need_bytes));
            if plan.victims.is_empty() {
                let would_free_bytes = plan.would_free_bytes;
                return Err(self.no_room(Shortage { would_free_bytes, ..shortage }));
            }
            let draft = Draft {
                wanted: Some(key.to_string()),
                wanted_bytes: bytes,
                need_bytes,
                policy: Some(self.config.policy),
                ..Draft::plain(Reason::Room)
            };
            self.execute(draft, plan);
        }
    }

    /// Why there is no room: because the budget is cut, if the configured one would do.
    fn no_room(&self, shortage: Shortage) -> ResidencyError {
        let view = self.budget.view();
        let configured_capacity = view.configured_bytes.saturating_sub(view.headroom_bytes);
        if view.budget_bytes >= view.configured_bytes || shortage.needed_bytes > configured_capacity {
            return shortage.into();
        }
        let cause = self.cause();
        ResidencyError::Pressure(Box::new(Squeeze { shortage, configured_bytes: view.configured_bytes, cause }))
    }

    /// Evicts by the policy until what is held fits the budget again, as far as leases and protection allow.
    pub(super) fn shrink(&self) -> FreedBytes {
        let _room = self.room();
        let retired = self.table().take_retired();
        self.free_retired(retired);
        let mut freed = FreedBytes(0);
        loop {
            let need_bytes = self.budget.view().excess_bytes();
            let plan = self.plan(Goal::UpTo(need_bytes));
            if need_bytes == 0 || plan.victims.is_empty() {
                return freed;
            }
            let (policy, plain) = (Some(self.config.policy), Draft::plain(Reason::Pressure));
            let now_freed = self.execute(Draft { need_bytes, policy, ..plain }, plan);
            if now_freed.0 == 0 {
                return freed;
            }
            freed.0 += now_freed.0;
        }
    }

    fn plan(&self, goal: Goal) -> Plan {
        let now = self.started.elapsed();
        let candidates = self.table().candidates(now);
        select_victims(self.config.rules(), &candidates, goal, now)
    }

    /// A victim that was leased since the plan stays; the caller plans again.
    fn execute(&self, mut draft: Draft, plan: Plan) -> FreedBytes {
        for victim in &plan.victims {
            if let Err(refused) = self.take_out(victim, &mut draft) {
                tracing::debug!(key = &**victim, %refused, "victim stays");
            }
        }
        // the table shows what happened, in the order and with the figures of the plan
        let went = std::mem::take(&mut draft.rows);
        draft.carried_out(plan.rows, |key| went.iter().any(|out| out.key == key));
        self.record(draft)
    }

    pub(super) fn evict_requested(&self, key: &Key, why: Why) -> Result<FreedBytes, ResidencyError> {
        let _room = self.room();
        let mut draft = Draft { wanted: why.wanted, by: why.by, ..Draft::plain(why.reason) };
        self.take_out(key, &mut draft)?;
        Ok(self.record(draft))
    }

    pub(super) fn clear(&self, why: Why) -> ClearReport {
        let _room = self.room();
        let mut keys: Vec<Key> = self.table().slots.keys().cloned().collect();
        keys.sort();
        let mut draft = Draft { wanted: why.wanted, by: why.by, ..Draft::plain(why.reason) };
        let mut report = ClearReport { evicted: Vec::new(), freed: FreedBytes(0), kept: Vec::new() };
        for key in keys {
            match self.take_out(&key, &mut draft) {
                Ok(()) => report.evicted.push(key),
                Err(ResidencyError::NotResident { .. }) => self.forget(&key),
                Err(refused) => report.kept.push((key, refused)),
            }
        }
        report.freed = self.record(draft);
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

    /// Evicts one entry and notes it in the draft. The caller holds the room lock and records the draft.
    pub(super) fn take_out(&self, key: &Key, draft: &mut Draft) -> Result<(), ResidencyError> {
        let Moment { since_start: now, unix_ms } = self.now();
        let mut table = self.table();
        let candidate = table.slots.get(key).and_then(|slot| table.candidate(slot, now));
        let slot = table.slots.get_mut(key).ok_or_else(|| ResidencyError::NotResident { key: key.clone() })?;
        slot.apply(Event::Evict).map_err(|refused| refusal(key, refused))?;
        let content = slot.content.take();
        table.departures.leaves(key, draft.why(), unix_ms);
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
        draft.freed_bytes += bytes;
        draft.rows.extend(candidate.map(|one| policy::row(self.config.rules(), &one, now, Verdict::Evict)));
        if draft.reason.is_choice() {
            table.reuse.evicted(key, now);
        }
        drop(table);
        self.bump();
        Ok(())
    }

    /// Counts and keeps what a draft took out.
    pub(super) fn record(&self, draft: Draft) -> FreedBytes {
        let freed = FreedBytes(draft.freed_bytes);
        let now = self.now();
        let mut table = self.table();
        for row in draft.rows.iter().filter(|row| row.verdict == Verdict::Evict) {
            tracing::info!(
                key = row.key,
                bytes = row.bytes,
                reason = draft.reason.as_str(),
                wanted = draft.wanted,
                score = row.score,
                idle_ms = row.idle_ms,
                "took a component out of RAM"
            );
            table.stats.count(draft.reason, row.bytes, row.age_ms);
        }
        table.decisions.record(draft, now.since_start, now.unix_ms);
        drop(table);
        self.bump();
        freed
    }

    /// Drops superseded content, whose figures were taken when its last lease ended.
    pub(super) fn free_retired(&self, retired: Vec<Slot>) {
        for slot in retired {
            let now = self.started.elapsed();
            let mut draft = Draft::plain(Reason::Superseded);
            let candidate = self.table().candidate_of(&slot, now);
            draft.freed_bytes = candidate.as_ref().map_or(0, |one| one.bytes);
            draft.rows.extend(candidate.map(|one| policy::row(self.config.rules(), &one, now, Verdict::Evict)));
            drop(slot);
            self.record(draft);
        }
    }
}
