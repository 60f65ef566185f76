//! The ways to choose victims: ours, and two others to compare with.

use std::{collections::HashMap, time::Duration};

use residency::policy::{Candidate, Goal, Policy, Rules, select_victims};

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The product's baseline.
    Lru,
    /// The product's default.
    Cost,
    /// Greedy dual, size and frequency: the usual cost-aware choice of web caches.
    Gdsf,
    /// Farthest next use first, which nobody can know: how much is left to gain.
    Clairvoyant,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Lru, Self::Cost, Self::Gdsf, Self::Clairvoyant];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Cost => "cost",
            Self::Gdsf => "gdsf",
            Self::Clairvoyant => "knows the future",
        }
    }
}

/// What the comparisons know beside the candidates.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    /// Next use of each component.
    pub(crate) next: HashMap<usize, Duration>,
    /// Greedy dual's priority of each component.
    pub(crate) priority: HashMap<usize, f64>,
    /// Greedy dual's inflation: the priority of the last victim.
    pub(crate) inflation: f64,
}

/// What goes so that `need` bytes are free.
pub(crate) fn victims(
    way: Way,
    candidates: &[Candidate],
    need: u64,
    now: Duration,
    knowledge: &mut Knowledge,
) -> Vec<usize> {
    let rules = |policy| Rules { policy, min_age: Duration::from_secs(30) };
    match way {
        Way::Lru | Way::Cost => {
            let policy = if way == Way::Lru { Policy::Lru } else { Policy::Cost };
            let plan = select_victims(rules(policy), candidates, Goal::AllOf(need), now);
            plan.victims.iter().filter_map(|key| key.parse().ok()).collect()
        }
        Way::Gdsf => {
            let priority = |key: usize| knowledge.priority.get(&key).copied().unwrap_or(0.0);
            let chosen = first(candidates, need, priority);
            knowledge.inflation = chosen.last().map_or(knowledge.inflation, |last| priority(*last));
            chosen
        }
        Way::Clairvoyant => first(candidates, need, |key| {
            knowledge.next.get(&key).map_or(f64::NEG_INFINITY, |next| -next.as_secs_f64())
        }),
    }
}

fn first(candidates: &[Candidate], need: u64, value: impl Fn(usize) -> f64) -> Vec<usize> {
    let free = candidates.iter().filter(|candidate| candidate.holders == 0);
    let mut order: Vec<(usize, u64)> =
        free.filter_map(|candidate| Some((candidate.key.parse().ok()?, candidate.bytes))).collect();
    order.sort_by(|a, b| value(a.0).total_cmp(&value(b.0)).then(a.0.cmp(&b.0)));
    let mut freed = 0;
    let enough = |(key, bytes): &(usize, u64)| {
        let go = freed < need;
        freed += if go { *bytes } else { 0 };
        go.then_some(*key)
    };
    order.iter().map_while(enough).collect()
}
