//! Which pages the next megabytes of a memory file get: tried out on the load's own bytes, decided by what they cost. Pure.

use std::time::Duration;

/// What a part of a memory file is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// 2 MiB each: one to find and to clear, and nothing to make per 4 KiB.
    Huge,
    /// 4 KiB each.
    Small,
}

/// Bytes that are made at a time, after which the cost of a way is looked at.
pub(super) const GROUP: u64 = 16 << 20;
/// Seconds a byte that make huge pages suspect. Measured on an idle machine, with the writing of the bytes: 0.3 ns, small pages
/// 0.6; the kernel that must first move other pages away takes 0.7, and a hypervisor that must first find the memory 4, for
/// small pages as well.
const SUSPECT: f64 = 2e-9;
/// Huge pages must cost so many times what small ones do before those are taken: what follows is cheaper with huge ones, and
/// of small ones zeroing comes with the bytes.
const CLEARLY: f64 = 1.5;
/// The way that proved worse is tried again after so many groups.
const AGAIN: u32 = 32;

/// What one file's memory has cost so far.
#[derive(Debug)]
pub(super) struct Trial {
    way: Pages,
    bytes: u64,
    took: Duration,
    huge: Option<f64>,
    small: Option<f64>,
    /// Groups since both ways were compared.
    settled: u32,
}

impl Default for Trial {
    fn default() -> Self {
        Self { way: Pages::Huge, bytes: 0, took: Duration::ZERO, huge: None, small: None, settled: 0 }
    }
}

impl Trial {
    /// The pages to ask for next.
    pub(super) fn way(&self) -> Pages {
        self.way
    }

    /// Some bytes got pages, in this time on a processor. What was asked for before the last decision is left out.
    pub(super) fn record(&mut self, way: Pages, bytes: u64, took: Duration) {
        if way != self.way {
            return;
        }
        self.bytes += bytes;
        self.took += took;
        if self.bytes < GROUP {
            return;
        }
        let cost = Some(self.took.as_secs_f64() / self.bytes as f64);
        match way {
            Pages::Huge => self.huge = cost,
            Pages::Small => self.small = cost,
        }
        (self.bytes, self.took) = (0, Duration::ZERO);
        self.way = self.choose();
    }

    fn choose(&mut self) -> Pages {
        let huge = self.huge.unwrap_or_default();
        let (best, other) = match self.small {
            None if huge <= SUSPECT => return Pages::Huge,
            None => return Pages::Small,
            Some(small) if huge <= small * CLEARLY => (Pages::Huge, Pages::Small),
            Some(_) => (Pages::Small, Pages::Huge),
        };
        self.settled += 1;
        if self.settled < AGAIN {
            return best;
        }
        self.settled = 0;
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills `groups` groups at these costs (ns a byte); answers what each was made of.
    fn play(trial: &mut Trial, groups: usize, cost: impl Fn(Pages) -> u64) -> Vec<Pages> {
        let of = |_| {
            let way = trial.way();
            trial.record(way, GROUP, Duration::from_nanos(GROUP * cost(way) / 10));
            way
        };
        (0..groups).map(of).collect()
    }

    #[test]
    fn huge_pages_that_cost_little_are_kept_without_trying_others() {
        let ways = play(&mut Trial::default(), 100, |_| 3);
        assert!(ways.iter().all(|way| *way == Pages::Huge));
    }

    #[test]
    fn dear_ones_are_left_after_one_group_and_tried_again_now_and_then() {
        let mut trial = Trial::default();
        let ways = play(&mut trial, 100, |way| if way == Pages::Huge { 40 } else { 6 });
        assert_eq!(ways[..2], [Pages::Huge, Pages::Small]);
        let huge = ways.iter().filter(|way| **way == Pages::Huge).count();
        assert_eq!(huge, 1 + 99 / AGAIN as usize);
        // they have become cheap meanwhile
        let ways = play(&mut trial, 100, |way| if way == Pages::Huge { 3 } else { 6 });
        assert!(ways.iter().filter(|way| **way == Pages::Huge).count() > 60, "{ways:?}");
    }

    #[test]
    fn where_all_memory_is_dear_the_less_dear_way_is_taken() {
        let ways = play(&mut Trial::default(), 40, |way| if way == Pages::Huge { 40 } else { 41 });
        assert!(ways.iter().filter(|way| **way == Pages::Small).count() <= 3, "{ways:?}");
    }

    #[test]
    fn what_was_under_way_when_the_way_changed_says_nothing() {
        let mut trial = Trial::default();
        trial.record(Pages::Huge, GROUP, Duration::from_secs(1));
        assert_eq!(trial.way(), Pages::Small);
        trial.record(Pages::Huge, GROUP, Duration::from_nanos(1));
        assert_eq!(trial.way(), Pages::Small);
    }
}
