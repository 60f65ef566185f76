//! A byte rate that all loads of a host share, so that loading leaves the disk to others.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longest single wait: a cancelled load must notice in time.
const LONGEST: Duration = Duration::from_millis(100);

/// A limiter: each caller is told how long to wait for its bytes.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: f64,
    /// When the bytes granted so far will have been paid for.
    paid_until: Mutex<Instant>,
}

impl Throttle {
    /// A limiter of at least one byte per second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1) as f64, paid_until: Mutex::new(Instant::now()) }
    }

    /// Books `bytes` at `now`; the time after which the rate is met.
    fn book(&self, bytes: u64, now: Instant) -> Duration {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*paid_until).max(now);
        *paid_until = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        paid_until.saturating_duration_since(now)
    }

    /// Blocks the calling loader thread until `bytes` are within the rate, or `stop` says so.
    pub fn pay(&self, bytes: u64, stop: impl Fn() -> bool) {
        let until = Instant::now() + self.book(bytes, Instant::now());
        while !stop() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LONGEST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookings_add_up_to_the_rate_and_idle_time_is_not_saved() {
        let throttle = Throttle::new(1000);
        let now = Instant::now() + Duration::from_secs(10);
        assert_eq!(throttle.book(500, now), Duration::from_millis(500));
        assert_eq!(throttle.book(500, now), Duration::from_secs(1));
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.book(1000, later), Duration::from_secs(1));
    }

    #[test]
    fn a_stop_ends_the_wait() {
        Throttle::new(1).pay(1 << 40, || true);
    }
}
