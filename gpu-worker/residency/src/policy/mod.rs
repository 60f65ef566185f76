//! Which entries go when room is needed: a pure choice over plain data, with its reasons.
//!
//! `lru` takes the least recently used. `cost` takes what is cheapest to lose: the seconds that its reload takes, times
//! the reuses to be expected, over its bytes. What was used only once carries little expectation, so that a scan over many
//! models does not push out those that are used again and again; what was used again and came back a moment ago goes last,
//! so that two loads do not chase each other out.

pub mod bandwidth;
pub mod reuse;
mod score;
pub mod shared;
mod standing;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, fmt, str::FromStr, time::Duration};

use serde::Serialize;

use shared::{Going, Holding, SharedMemory};
pub use standing::{Standing, standings};

use crate::request::Key;

/// How victims are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Least recently used first: the baseline.
    Lru,
    /// Least expected reload seconds per byte first.
    #[default]
    Cost,
}

impl Policy {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Cost => "cost",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Cost, Self::Lru];
        known.into_iter().find(|policy| policy.as_str() == text).ok_or_else(|| format!("`{text}` is not cost or lru"))
    }
}

/// The policy with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How victims are chosen.
    pub policy: Policy,
    /// With `cost`: what was used again and is younger than this goes after everything else.
    pub min_age: Duration,
}

/// A ready entry as the policy sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The entry.
    pub key: Key,
    /// Bytes that its eviction alone gives back.
    pub bytes: u64,
    /// What it holds with others: it comes back with the last of them.
    pub shared: Vec<SharedMemory>,
    /// Last use, since the tier's start.
    pub last_used: Duration,
    /// When it became ready, since the tier's start.
    pub loaded_at: Duration,
    /// Uses of it while resident.
    pub hits: u64,
    /// How long reading it again would take, by the measured speed of its disk.
    pub reload_seconds: f64,
    /// Reuses to be expected, by its observed uses, also those before it was loaded this time.
    pub reuses_per_hour: f64,
    /// It was used again at least once, also before it was loaded this time.
    pub reused: bool,
    /// Leases and waiting callers.
    pub holders: u32,
    /// The operator's keep.
    pub protected: bool,
}

impl Candidate {
    /// What it holds.
    pub fn holding(&self) -> Holding<'_> {
        Holding { own_bytes: self.bytes, shared: &self.shared }
    }

    /// Bytes that it takes: its own, and its part of what it holds with others.
    pub fn takes_bytes(&self) -> u64 {
        self.shared.iter().fold(self.bytes, |sum, shared| sum.saturating_add(shared.part()))
    }
}

/// How much has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// So many bytes, or nothing if that cannot be.
    AllOf(u64),
    /// So many bytes, or as many as can be.
    UpTo(u64),
}

impl Goal {
    fn bytes(self) -> u64 {
        let (Self::AllOf(bytes) | Self::UpTo(bytes)) = self;
        bytes
    }
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

impl Verdict {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evict => "evict",
            Self::NotNeeded => "not_needed",
            Self::Leased => "leased",
            Self::Protected => "protected",
            Self::Futile => "futile",
        }
    }
}

/// One line of the explanation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanRow {
    /// The entry.
    pub key: String,
    /// Its bytes; of memory that others hold as well its part.
    pub bytes: u64,
    /// Milliseconds since it became ready.
    pub age_ms: u64,
    /// Milliseconds since its last use.
    pub idle_ms: u64,
    /// Uses while resident.
    pub hits: u64,
    /// Seconds that its reload would take.
    pub reload_seconds: f64,
    /// Reuses to be expected in an hour.
    pub reuses_per_hour: f64,
    /// Reload seconds to be expected in an hour for each GiB that it occupies; what `cost` sorts by.
    pub score: f64,
    /// Young and used again: goes after the others.
    pub young: bool,
    /// What was decided.
    pub verdict: Verdict,
}

/// Which entries go, and why.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In the order of eviction. Empty when nothing is needed or nothing helps.
    pub victims: Vec<Key>,
    /// Bytes that evicting them gives back.
    pub freed_bytes: u64,
    /// Bytes that evicting everything evictable would give back.
    pub would_free_bytes: u64,
    /// Every candidate, in the policy's order, with the verdict.
    pub rows: Vec<PlanRow>,
}

/// Candidates in the order in which they would go. Total and deterministic: the key breaks the last tie.
pub fn order(rules: Rules, candidates: &[Candidate], now: Duration) -> Vec<&Candidate> {
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    match rules.policy {
        Policy::Lru => order.sort_by(|a, b| oldest_first(a, b)),
        Policy::Cost => order.sort_by(|a, b| {
            let by_value = |c: &Candidate| (score::is_young(rules, c, now), score::of(c));
            let ((young_a, score_a), (young_b, score_b)) = (by_value(a), by_value(b));
            young_a.cmp(&young_b).then(score_a.total_cmp(&score_b)).then_with(|| oldest_first(a, b))
        }),
    }
    order
}

fn oldest_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    (a.last_used, Reverse(a.takes_bytes()), &a.key).cmp(&(b.last_used, Reverse(b.takes_bytes()), &b.key))
}

/// Chooses entries that reach the goal. Leased and protected entries are never chosen; with `cost` no victim could be
/// spared without missing the goal.
pub fn select_victims(rules: Rules, candidates: &[Candidate], goal: Goal, now: Duration) -> Plan {
    let order = order(rules, candidates, now);
    let would_free_bytes = would_free_bytes(candidates);
    let possible = matches!(goal, Goal::UpTo(_)) || would_free_bytes >= goal.bytes();
    let chosen = if possible { choose(rules, &order, goal.bytes()) } else { vec![false; order.len()] };
    let (mut plan, mut going) = (Plan { would_free_bytes, ..Plan::default() }, Going::default());
    for (candidate, chosen) in order.into_iter().zip(chosen) {
        let verdict = match candidate {
            _ if chosen => Verdict::Evict,
            c if c.holders > 0 => Verdict::Leased,
            c if c.protected => Verdict::Protected,
            _ if !possible => Verdict::Futile,
            _ => Verdict::NotNeeded,
        };
        if chosen {
            plan.victims.push(candidate.key.clone());
            plan.freed_bytes = plan.freed_bytes.saturating_add(going.take(candidate.holding()));
        }
        plan.rows.push(row(rules, candidate, now, verdict));
    }
    plan
}

fn may_go(candidate: &Candidate) -> bool {
    candidate.holders == 0 && !candidate.protected
}

/// Bytes that evicting everything evictable gives back.
pub fn would_free_bytes(candidates: &[Candidate]) -> u64 {
    let mut going = Going::default();
    let free = candidates.iter().filter(|one| may_go(one));
    free.fold(0, |sum, one| sum.saturating_add(going.take(one.holding())))
}

/// The first ones until the bytes are reached; then, with `cost`, the dearest are spared that the rest does without.
fn choose(rules: Rules, order: &[&Candidate], need_bytes: u64) -> Vec<bool> {
    let order: Vec<_> = order.iter().map(|one| may_go(one).then(|| one.holding())).collect();
    shared::choose(&order, need_bytes, rules.policy == Policy::Lru)
}

/// The line of one candidate.
pub fn row(rules: Rules, candidate: &Candidate, now: Duration, verdict: Verdict) -> PlanRow {
    PlanRow {
        key: candidate.key.to_string(),
        bytes: candidate.takes_bytes(),
        age_ms: millis(now.saturating_sub(candidate.loaded_at)),
        idle_ms: millis(now.saturating_sub(candidate.last_used)),
        hits: candidate.hits,
        reload_seconds: candidate.reload_seconds,
        reuses_per_hour: candidate.reuses_per_hour,
        score: score::of(candidate),
        young: score::is_young(rules, candidate, now),
        verdict,
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
