//! Many changes, one scan: due when it has been quiet for a while, at the latest some time after the first change.

use std::time::{Duration, Instant};

/// Changes that no scan was asked for yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debounce {
    quiet: Duration,
    longest: Duration,
    /// The first and the last change.
    open: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Nothing changed yet.
    pub(super) fn new(quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, open: None }
    }

    /// Something changed.
    pub(super) fn touch(&mut self, now: Instant) {
        self.open = Some((self.open.map_or(now, |(first, _)| first), now));
    }

    /// A scan was asked for.
    pub(super) fn clear(&mut self) {
        self.open = None;
    }

    /// When a scan is to be asked for; none while nothing changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.map(|(first, last)| (last + self.quiet).min(first + self.longest))
    }

    /// Whether that time has come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_scan_after_quiet_and_an_endless_one_is_scanned_all_the_same() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut changes = Debounce::new(Duration::from_secs(2), Duration::from_secs(30));
        assert_eq!(changes.due(), None);
        changes.touch(at(0));
        changes.touch(at(1500));
        assert!(!changes.is_due(at(3499)) && changes.is_due(at(3500)));
        for step in 0..20 {
            changes.touch(at(1500 * step));
        }
        assert_eq!(changes.due(), Some(at(30_000)));
        changes.clear();
        assert!(!changes.is_due(at(60_000)));
    }
}
