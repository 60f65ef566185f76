//! Which entries go when room is needed: a pure choice over plain data, with its reasons.

use std::{cmp::Reverse, time::Duration};

use serde::Serialize;

use crate::request::Key;

/// How victims are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Least recently used first: the baseline.
    #[default]
    Lru,
}

/// A ready entry as the policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The entry.
    pub key: Key,
    /// Bytes that its eviction gives back.
    pub bytes: u64,
    /// Last use, since the tier's start.
    pub last_used: Duration,
    /// When it became ready, since the tier's start.
    pub loaded_at: Duration,
    /// Uses of it while resident.
    pub hits: u64,
    /// How long its load took.
    pub load_took: Duration,
    /// Leases and waiting callers.
    pub holders: u32,
    /// The operator's keep.
    pub protected: bool,
}

/// What the policy decided about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Goes.
    Evict,
    /// Stays: enough is freed without it.
    NotNeeded,
    /// Stays: in use.
    Leased,
    /// Stays: the operator keeps it.
    Protected,
    /// Stays: even all that may go would not be enough, so nothing goes.
    Futile,
}

/// One line of the explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanRow {
    /// The entry.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Milliseconds since its last use.
    pub idle_ms: u64,
    /// Uses while resident.
    pub hits: u64,
    /// What was decided.
    pub verdict: Verdict,
}

/// Which entries go, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order of eviction. Empty when nothing is needed or all would not be enough.
    pub victims: Vec<Key>,
    /// Bytes that evicting them gives back.
    pub freed_bytes: u64,
    /// Bytes that evicting everything evictable would give back.
    pub would_free_bytes: u64,
    /// Every candidate, in the policy's order, with the verdict.
    pub rows: Vec<PlanRow>,
}

/// Chooses entries whose bytes sum to at least `need_bytes`, or none if that cannot be.
/// Leased and protected entries are never chosen. Deterministic: the key breaks ties.
pub fn select_victims(policy: Policy, candidates: &[Candidate], need_bytes: u64, now: Duration) -> Plan {
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    match policy {
        Policy::Lru => order.sort_by_key(|c| (c.last_used, Reverse(c.bytes), c.key.clone())),
    }
    let evictable = |c: &&Candidate| c.holders == 0 && !c.protected;
    let would_free_bytes = sum(order.iter().copied().filter(evictable));
    let possible = would_free_bytes >= need_bytes;
    let mut plan = Plan { would_free_bytes, ..Plan::default() };
    for candidate in order {
        let verdict = match candidate {
            c if c.holders > 0 => Verdict::Leased,
            c if c.protected => Verdict::Protected,
            _ if !possible => Verdict::Futile,
            _ if plan.freed_bytes >= need_bytes => Verdict::NotNeeded,
            _ => Verdict::Evict,
        };
        if verdict == Verdict::Evict {
            plan.victims.push(candidate.key.clone());
            plan.freed_bytes = plan.freed_bytes.saturating_add(candidate.bytes);
        }
        plan.rows.push(row(candidate, now, verdict));
    }
    plan
}

fn sum<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> u64 {
    candidates.fold(0, |sum, candidate| sum.saturating_add(candidate.bytes))
}

fn row(candidate: &Candidate, now: Duration, verdict: Verdict) -> PlanRow {
    let idle = now.saturating_sub(candidate.last_used);
    PlanRow {
        key: candidate.key.to_string(),
        bytes: candidate.bytes,
        idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
        hits: candidate.hits,
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(key: &str, bytes: u64, used: u64, holders: u32, protected: bool) -> Candidate {
        Candidate {
            key: key.into(),
            bytes,
            last_used: Duration::from_secs(used),
            loaded_at: Duration::ZERO,
            hits: 0,
            load_took: Duration::ZERO,
            holders,
            protected,
        }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn oldest_first_and_only_as_many_as_needed() {
        let all = [candidate("new", 5, 9, 0, false), candidate("old", 5, 1, 0, false)];
        let plan = select_victims(Policy::Lru, &all, 5, NOW);
        assert_eq!(plan.victims, [Key::from("old")]);
        assert_eq!(plan.rows[1].verdict, Verdict::NotNeeded);
        assert_eq!(plan.rows[0].idle_ms, 999_000);
    }

    #[test]
    fn nothing_goes_when_all_would_not_be_enough() {
        let all = [candidate("a", 5, 1, 0, false), candidate("b", 5, 1, 1, false)];
        let plan = select_victims(Policy::Lru, &all, 6, NOW);
        assert!(plan.victims.is_empty());
        assert_eq!(plan.would_free_bytes, 5);
    }

    proptest! {
        #[test]
        fn held_entries_never_go_and_order_does_not_matter(
            raw in proptest::collection::vec((0u64..50, 0u64..4, 0u32..2, any::<bool>()), 0..20),
            need in 0u64..300,
        ) {
            let mut all: Vec<_> = raw.iter().enumerate()
                .map(|(i, (bytes, used, holders, keep))| candidate(&format!("k{i}"), *bytes, *used, *holders, *keep))
                .collect();
            let plan = select_victims(Policy::Lru, &all, need, NOW);
            all.reverse();
            prop_assert_eq!(&plan, &select_victims(Policy::Lru, &all, need, NOW));
            let find = |key: &Key| all.iter().find(|c| &c.key == key).unwrap();
            prop_assert!(plan.victims.iter().map(find).all(|c| c.holders == 0 && !c.protected));
            prop_assert_eq!(plan.freed_bytes, plan.victims.iter().map(|k| find(k).bytes).sum::<u64>());
            prop_assert!(plan.freed_bytes >= need || plan.victims.is_empty());
            prop_assert_eq!(plan.victims.is_empty() && need > 0, plan.would_free_bytes < need);
            prop_assert_eq!(plan.rows.len(), all.len());
        }
    }
}
