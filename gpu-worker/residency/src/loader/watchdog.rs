//! When a load that does not end is given up: its disk gives nothing any more, or it was cancelled and is stuck in a read.
//! Pure: time and progress come in, a verdict comes out.

use std::time::Duration;

use crate::progress::ProgressSnapshot;

/// How long a cancelled load may take to notice. A read of one chunk from a slow disk takes this long.
const NOTICE: Duration = Duration::from_millis(250);

/// What becomes of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Wait,
    /// No byte came for the time allowed.
    Stalled,
    /// It was cancelled, and is stuck.
    Cancelled,
}

/// Where a load stands, and how many reads have come back.
type Seen = (ProgressSnapshot, u64);

/// Watches one load.
#[derive(Debug)]
pub(crate) struct Watchdog {
    patience: Duration,
    seen: Option<Seen>,
    moved: Duration,
    cancelled: Option<Duration>,
}

impl Watchdog {
    /// Waits for a byte as long as `patience`; for ever when it is zero.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, seen: None, moved: Duration::ZERO, cancelled: None }
    }

    /// Looks at the load `now`, since its begin. `held` says that it waits for something else than its disk.
    pub(crate) fn look(&mut self, now: Duration, progress: Seen, held: bool, cancelled: bool) -> Verdict {
        if held || self.seen != Some(progress) {
            self.seen = Some(progress);
            self.moved = now;
        }
        if cancelled && now.saturating_sub(*self.cancelled.get_or_insert(now)) >= NOTICE {
            return Verdict::Cancelled;
        }
        let still = now.saturating_sub(self.moved);
        if !self.patience.is_zero() && still >= self.patience { Verdict::Stalled } else { Verdict::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Phase;

    fn at(bytes_done: u64) -> Seen {
        (ProgressSnapshot { phase: Phase::Reading, bytes_done, bytes_total: 100 }, 0)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn only_a_load_without_a_byte_stalls() {
        let mut dog = Watchdog::new(seconds(10));
        assert_eq!(dog.look(seconds(1), at(0), false, false), Verdict::Wait);
        assert_eq!(dog.look(seconds(9), at(5), false, false), Verdict::Wait);
        assert_eq!(dog.look(seconds(18), at(5), false, false), Verdict::Wait);
        assert_eq!(dog.look(seconds(19), at(5), false, false), Verdict::Stalled);
    }

    #[test]
    fn reads_count_before_their_bytes_have_a_place() {
        let mut dog = Watchdog::new(seconds(10));
        for reads in 0..100 {
            assert_eq!(dog.look(seconds(reads * 9), (at(5).0, reads), false, false), Verdict::Wait);
        }
    }

    #[test]
    fn waiting_for_a_turn_of_the_read_limit_is_no_stall() {
        let mut dog = Watchdog::new(seconds(10));
        for now in 0..100 {
            assert_eq!(dog.look(seconds(now), at(5), true, false), Verdict::Wait);
        }
    }

    #[test]
    fn without_patience_only_a_cancel_ends_the_wait() {
        let mut dog = Watchdog::new(Duration::ZERO);
        assert_eq!(dog.look(seconds(1_000_000), at(0), false, false), Verdict::Wait);
        assert_eq!(dog.look(seconds(1_000_001), at(0), false, true), Verdict::Wait, "it may notice by itself");
        assert_eq!(dog.look(seconds(1_000_001) + NOTICE, at(0), false, true), Verdict::Cancelled);
    }
}
