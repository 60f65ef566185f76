//! Where each entry stands with the policy at one moment: why it is still here and when it would go.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use super::{Candidate, PlanRow, Rules, Verdict, order, row, shared::Going};
use crate::request::Key;

/// Where one entry stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Standing {
    /// Place in the order of eviction, from 1; none while it is leased or protected.
    pub place: Option<u64>,
    /// Bytes that would go before it.
    pub bytes_before: u64,
    /// What the policy knows; the verdict is of a moment at which everything would have to go.
    pub row: PlanRow,
}

/// Where each of them stands.
pub fn standings(rules: Rules, candidates: &[Candidate], now: Duration) -> HashMap<Key, Standing> {
    let (mut place, mut bytes_before, mut going) = (0, 0, Going::default());
    let mut standings = HashMap::with_capacity(candidates.len());
    for one in order(rules, candidates, now) {
        let verdict = match one {
            one if one.holders > 0 => Verdict::Leased,
            one if one.protected => Verdict::Protected,
            _ => Verdict::Evict,
        };
        let goes = verdict == Verdict::Evict;
        place += u64::from(goes);
        let row = row(rules, one, now, verdict);
        standings.insert(one.key.clone(), Standing { place: goes.then_some(place), bytes_before, row });
        bytes_before += if goes { going.take(one.holding()) } else { 0 };
    }
    standings
}
