//! How often each component is used, remembered beyond its eviction: the expected rate of its next uses.
//!
//! For each key the moments of its last uses are kept. The rate is the number of gaps between them over the time that they
//! span, so that it needs no time scale of its own: a farm that works in seconds and one that works in days are treated
//! alike. It decays: once a key is idle for longer than its own gaps explain, the idle time counts. A key that was used
//! once is expected back at a fraction of the rate of an average key.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::request::Key;

/// Moments kept of one key.
const MOMENTS: usize = 16;
/// Uses closer together than this are one: a hundred callers at once are no hundred reuses.
const ONE_USE: Duration = Duration::from_secs(1);
/// Keys remembered; the longest unused are forgotten.
const KEYS: usize = 4096;
/// Idle time counts from this many of a key's own gaps on: one use in seven comes later than that by chance.
const PATIENCE: f64 = 2.0;
/// What is expected of a key that was used once, as a part of an average key's rate.
const FIRST: f64 = 0.25;
/// Weight of the newest gap in the average over all keys.
const NEW_GAP: f64 = 1.0 / 64.0;
/// The average gap while none was seen.
const GAP_SECONDS: f64 = 600.0;

/// The uses of all keys.
#[derive(Debug, Default)]
pub struct Reuse {
    keys: HashMap<Key, Uses>,
    /// Average over the observed gaps, in seconds.
    gap_seconds: Option<f64>,
}

#[derive(Debug, Default)]
struct Uses {
    moments: VecDeque<Duration>,
    evicted: Option<Duration>,
}

impl Reuse {
    /// A use of `key` at `now`, a time that never runs backwards.
    pub fn touch(&mut self, key: &Key, now: Duration) {
        let uses = self.keys.entry(key.clone()).or_default();
        let gap = uses.moments.back().map(|last| now.saturating_sub(*last));
        if gap.is_some_and(|gap| gap < ONE_USE) {
            return;
        }
        if uses.moments.len() == MOMENTS {
            uses.moments.pop_front();
        }
        uses.moments.push_back(now);
        if let Some(gap) = gap {
            let (gap, average) = (gap.as_secs_f64(), self.gap_seconds.unwrap_or(gap.as_secs_f64()));
            self.gap_seconds = Some(average + (gap - average) * NEW_GAP);
        }
        if self.keys.len() > KEYS {
            self.forget_oldest();
        }
    }

    /// Reuses of `key` to be expected in an hour. Finite, positive for a known key, zero for an unknown one.
    pub fn per_hour(&self, key: &str, now: Duration) -> f64 {
        let Some((moments, first, last)) = self.span_of(key) else { return 0.0 };
        let idle = now.saturating_sub(last).as_secs_f64();
        let average = self.gap_seconds.unwrap_or(GAP_SECONDS).max(ONE_USE.as_secs_f64());
        let per_second = match moments - 1 {
            0 => FIRST / (average + idle),
            gaps => {
                let gap = (last.saturating_sub(first).as_secs_f64() / gaps as f64).max(ONE_USE.as_secs_f64());
                1.0 / gap.max(idle / PATIENCE)
            }
        };
        per_second * 3600.0
    }

    fn span_of(&self, key: &str) -> Option<(usize, Duration, Duration)> {
        let moments = &self.keys.get(key)?.moments;
        Some((moments.len(), *moments.front()?, *moments.back()?))
    }

    /// True once `key` was used again.
    pub fn was_reused(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|uses| uses.moments.len() > 1)
    }

    /// `key` was taken out by our own decision.
    pub fn evicted(&mut self, key: &str, now: Duration) {
        if let Some(uses) = self.keys.get_mut(key) {
            uses.evicted = Some(now);
        }
    }

    /// How long ago `key` was taken out by our own decision, asked once, when it is loaded again.
    pub fn take_evicted(&mut self, key: &str, now: Duration) -> Option<Duration> {
        let evicted = self.keys.get_mut(key)?.evicted.take()?;
        Some(now.saturating_sub(evicted))
    }

    /// Keys remembered.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True while no use was seen.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Drops an eighth of the keys at once, so that this is rare.
    fn forget_oldest(&mut self) {
        let mut last: Vec<Duration> = self.keys.values().filter_map(|uses| uses.moments.back().copied()).collect();
        last.sort_unstable();
        let Some(limit) = last.get(KEYS / 8).copied() else { return };
        self.keys.retain(|_, uses| uses.moments.back().is_some_and(|last| *last >= limit));
    }
}
