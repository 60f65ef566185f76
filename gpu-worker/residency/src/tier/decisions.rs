//! What was taken out and why: a bounded record of decisions, each with the table of what else could have gone.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde::Serialize;

use super::departures::Why;
use crate::policy::{PlanRow, Policy, Verdict};

/// Decisions kept.
const KEPT: usize = 256;
/// Lines of the table of candidates that a record keeps beside its victims.
const OTHERS: usize = 40;

/// Why content leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// To make room for a load.
    Room,
    /// The system's memory is short.
    Pressure,
    /// Its keep-alive is over.
    Expired,
    /// Asked for by key.
    Requested,
    /// By a clear.
    Cleared,
    /// The same bytes are there under another key.
    Duplicate,
    /// Other content was wanted under its key.
    Superseded,
    /// By a plan to free memory that somebody asked for.
    Optimized,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Room,
        Self::Pressure,
        Self::Expired,
        Self::Requested,
        Self::Cleared,
        Self::Duplicate,
        Self::Superseded,
        Self::Optimized,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Pressure => "pressure",
            Self::Expired => "expired",
            Self::Requested => "requested",
            Self::Cleared => "cleared",
            Self::Duplicate => "duplicate",
            Self::Superseded => "superseded",
            Self::Optimized => "optimized",
        }
    }

    /// Our own choice, which a reload soon after proves wrong.
    pub(super) fn is_choice(self) -> bool {
        matches!(self, Self::Room | Self::Pressure | Self::Expired)
    }
}

/// One decision that took something out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Counts the decisions of this tier from 1.
    pub seq: u64,
    /// When, on the wall clock.
    pub unix_ms: u64,
    /// When, since the tier's start.
    pub since_start: Duration,
    /// Why.
    pub reason: Reason,
    /// The policy that chose, where one did.
    pub policy: Option<Policy>,
    /// The component that needed room.
    pub wanted: Option<String>,
    /// Its bytes.
    pub wanted_bytes: u64,
    /// Bytes that had to go.
    pub need_bytes: u64,
    /// Bytes that came back.
    pub freed_bytes: u64,
    /// The table: who went, and in the policy's order who else could have gone, with what was decided about each.
    pub rows: Vec<PlanRow>,
    /// Lines left out of the table; never one that went.
    pub omitted: u64,
}

impl Decision {
    /// The lines of what went.
    pub fn victims(&self) -> impl Iterator<Item = &PlanRow> {
        self.rows.iter().filter(|row| row.verdict == Verdict::Evict)
    }
}

/// A decision that is being carried out.
#[derive(Debug)]
pub struct Draft {
    /// Why.
    pub reason: Reason,
    /// The policy that chose, where one did.
    pub policy: Option<Policy>,
    /// The component that needed room.
    pub wanted: Option<String>,
    /// Its bytes.
    pub wanted_bytes: u64,
    /// Bytes that have to go.
    pub need_bytes: u64,
    /// Bytes that came back.
    pub freed_bytes: u64,
    /// The table so far.
    pub rows: Vec<PlanRow>,
    /// Who asked for it.
    pub by: Option<Arc<str>>,
}

impl Draft {
    /// One that no policy chose.
    pub fn plain(reason: Reason) -> Self {
        let (need_bytes, freed_bytes, wanted_bytes) = (0, 0, 0);
        Self { reason, policy: None, wanted: None, wanted_bytes, need_bytes, freed_bytes, rows: Vec::new(), by: None }
    }

    /// Why its victims leave.
    pub fn why(&self) -> Why {
        Why { reason: self.reason, wanted: self.wanted.clone(), by: self.by.clone() }
    }

    /// Takes the table of the plan, with what came of it: `went` says which victims are gone. A victim that was taken into
    /// use since the plan was made has stayed.
    pub fn carried_out(&mut self, plan: Vec<PlanRow>, went: impl Fn(&str) -> bool) {
        self.rows = plan;
        for row in self.rows.iter_mut().filter(|row| row.verdict == Verdict::Evict) {
            row.verdict = if went(&row.key) { Verdict::Evict } else { Verdict::Leased };
        }
    }
}

/// The last decisions of one tier.
#[derive(Debug, Default)]
pub struct Decisions {
    last: VecDeque<Decision>,
    seq: u64,
}

impl Decisions {
    /// Keeps what was done at this moment, which is told on the tier's clock and on the wall's; nothing when nothing went.
    pub fn record(&mut self, mut draft: Draft, since_start: Duration, unix_ms: u64) {
        if !draft.rows.iter().any(|row| row.verdict == Verdict::Evict) {
            return;
        }
        let mut others = 0;
        let before = draft.rows.len();
        draft.rows.retain(|row| {
            others += usize::from(row.verdict != Verdict::Evict);
            row.verdict == Verdict::Evict || others <= OTHERS
        });
        self.seq += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Decision {
            seq: self.seq,
            unix_ms,
            since_start,
            reason: draft.reason,
            policy: draft.policy,
            wanted: draft.wanted,
            wanted_bytes: draft.wanted_bytes,
            need_bytes: draft.need_bytes,
            freed_bytes: draft.freed_bytes,
            omitted: (before - draft.rows.len()) as u64,
            rows: draft.rows,
        });
    }

    /// Decisions after `seq`, oldest first, as far as they are kept.
    pub fn after(&self, seq: u64) -> Vec<Decision> {
        self.last.iter().filter(|decision| decision.seq > seq).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: usize, verdict: Verdict) -> PlanRow {
        let (bytes, age_ms, idle_ms, hits) = (1, 0, 0, 0);
        let (reload_seconds, reuses_per_hour, score, young) = (0.0, 0.0, 0.0, false);
        let key = number.to_string();
        PlanRow { key, bytes, age_ms, idle_ms, hits, reload_seconds, reuses_per_hour, score, young, verdict }
    }

    #[test]
    fn records_and_their_tables_are_bounded_and_victims_are_never_left_out() {
        let mut decisions = Decisions::default();
        for _ in 0..300 {
            let mut draft = Draft::plain(Reason::Room);
            draft.rows = (0..100).map(|n| row(n, if n < 60 { Verdict::NotNeeded } else { Verdict::Evict })).collect();
            decisions.record(draft, Duration::ZERO, 0);
        }
        decisions.record(Draft::plain(Reason::Room), Duration::ZERO, 0);
        let kept = decisions.after(0);
        assert_eq!((kept.len(), kept[0].seq, decisions.after(299).len()), (KEPT, 45, 1));
        assert!(kept.iter().all(|one| one.victims().count() == 40 && one.rows.len() == 80 && one.omitted == 20));
    }
}
