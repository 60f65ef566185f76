//! How fast each place works off its jobs, measured from pass to pass: it decides how many jobs are placed ahead.
//!
//! Two jobs ahead are enough for loads that take seconds, and leave the rest free to go elsewhere. A place that ends a
//! thousand short jobs a second would idle with two; it gets a quarter of a second's work instead.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Jobs placed ahead of a place's slots whatever its speed.
const AHEAD_MIN: u32 = 2;
/// Most jobs placed ahead.
const AHEAD_MAX: u32 = 512;
/// Work placed ahead, in seconds of the measured speed; also how fast old measurements fade.
const HORIZON_SECONDS: f64 = 0.25;

#[derive(Debug, Clone, Copy)]
struct Drain {
    at: Instant,
    jobs: u32,
    per_second: f64,
}

/// The measured speeds, by place (device id or host name).
#[derive(Debug, Default)]
pub(crate) struct Drains(HashMap<String, Drain>);

impl Drains {
    /// Takes note of how many jobs a place has now; answers how many may be placed ahead.
    pub(crate) fn observe(&mut self, place: &str, jobs: u32, now: Instant) -> u32 {
        let drain = self.0.entry(place.to_owned()).or_insert(Drain { at: now, jobs, per_second: 0.0 });
        let elapsed = now.saturating_duration_since(drain.at).as_secs_f64();
        // passes in quick succession are one measurement: a millisecond says nothing about a second
        if elapsed >= 0.005 {
            let ended = f64::from(drain.jobs.saturating_sub(jobs));
            let keep = (-elapsed / HORIZON_SECONDS).exp();
            drain.per_second = drain.per_second * keep + ended / elapsed * (1.0 - keep);
            *drain = Drain { at: now, jobs, ..*drain };
        }
        let ahead = (drain.per_second * HORIZON_SECONDS).round();
        (ahead.min(f64::from(AHEAD_MAX)) as u32).max(AHEAD_MIN)
    }

    /// Jobs were placed: what is missing at the next look has ended.
    pub(crate) fn placed(&mut self, place: &str) {
        if let Some(drain) = self.0.get_mut(place) {
            drain.jobs = drain.jobs.saturating_add(1);
        }
    }

    /// Jobs per second of all places.
    pub(crate) fn total_per_second(&self) -> f64 {
        self.0.values().map(|drain| drain.per_second).sum()
    }

    /// Forgets places that were not looked at for a minute.
    pub(crate) fn forget_gone(&mut self, now: Instant) {
        self.0.retain(|_, drain| now.saturating_duration_since(drain.at) < Duration::from_secs(60));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that ends `per_pass` jobs in every pass of 20 ms and is refilled to what it may have.
    fn ahead_after(passes: u32, per_pass: u32) -> u32 {
        let mut drains = Drains::default();
        let start = Instant::now();
        let (mut jobs, mut ahead) = (0u32, 0);
        for pass in 0..passes {
            jobs = jobs.saturating_sub(per_pass);
            ahead = drains.observe("a", jobs, start + Duration::from_millis(20) * pass);
            while jobs < ahead + 1 {
                jobs += 1;
                drains.placed("a");
            }
        }
        ahead
    }

    #[test]
    fn slow_places_keep_two_ahead_and_fast_ones_a_quarter_second_of_work() {
        assert_eq!(ahead_after(100, 0), AHEAD_MIN);
        let fast = ahead_after(200, 1000);
        assert_eq!(fast, AHEAD_MAX, "a place that takes whatever it gets ramps up to the bound");
        let steady = ahead_after(200, 20);
        assert!((200..=300).contains(&steady), "1000 jobs a second: {steady} ahead");
    }

    #[test]
    fn speed_fades_when_nothing_ends_any_more() {
        let mut drains = Drains::default();
        let start = Instant::now();
        drains.observe("a", 100, start);
        assert!(drains.observe("a", 0, start + Duration::from_millis(100)) > AHEAD_MIN);
        assert_eq!(drains.observe("a", 0, start + Duration::from_secs(5)), AHEAD_MIN);
    }
}
