//! How many reads a disk is given at a time: tried out on real loads, remembered, tried again now and then. Pure.

/// What is tried, in this order. Measured on 2 cores and a virtual disk of 2.3 GB/s: from 8 to 16 all are alike, fewer leave the
/// disk waiting now and then; each takes a buffer.
const CANDIDATES: [usize; 4] = [8, 12, 4, 6];
/// Every so many measured loads one of the others is tried again: disks change their mind, arrays are rebuilt.
const AGAIN: u64 = 16;
/// Weight of the newest rate.
const NEWEST: f64 = 0.5;
/// The rate must be so much better to leave what was best.
const BETTER: f64 = 1.05;

/// What is known of one disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tuning {
    rates: [Option<f64>; CANDIDATES.len()],
    best: usize,
    loads: u64,
}

impl Tuning {
    /// Reads at a time for the next load.
    pub(super) fn readers(&self) -> usize {
        let unknown = self.rates.iter().position(Option::is_none);
        let chosen = unknown.unwrap_or_else(|| self.again().unwrap_or(self.best));
        CANDIDATES.get(chosen).copied().unwrap_or(CANDIDATES[0])
    }

    /// The one whose turn it is to be tried again, if any.
    fn again(&self) -> Option<usize> {
        let turn = self.loads / AGAIN;
        self.loads.is_multiple_of(AGAIN).then_some(turn as usize % CANDIDATES.len())
    }

    /// What a load with so many readers reached.
    pub(super) fn record(&mut self, readers: usize, bytes_per_second: f64) {
        let Some(index) = CANDIDATES.iter().position(|candidate| *candidate == readers) else { return };
        let Some(rate) = self.rates.get_mut(index) else { return };
        *rate = Some(rate.map_or(bytes_per_second, |old| old + NEWEST * (bytes_per_second - old)));
        self.loads += 1;
        let of = |index: usize| self.rates.get(index).copied().flatten().unwrap_or(0.0);
        for other in 0..CANDIDATES.len() {
            if of(other) > of(self.best) * BETTER {
                self.best = other;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads against a disk whose rate depends on the readers; answers the readers chosen.
    fn play(tuning: &mut Tuning, loads: usize, rate: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut chosen = Vec::new();
        for _ in 0..loads {
            let readers = tuning.readers();
            tuning.record(readers, rate(readers));
            chosen.push(readers);
        }
        chosen
    }

    #[test]
    fn all_are_tried_then_the_best_is_kept() {
        let mut tuning = Tuning::default();
        let chosen = play(&mut tuning, AGAIN as usize - 1, |readers| if readers == 12 { 2e9 } else { 1e9 });
        assert_eq!(chosen[..CANDIDATES.len()], CANDIDATES);
        assert!(chosen[CANDIDATES.len()..].iter().all(|readers| *readers == 12), "{chosen:?}");
    }

    #[test]
    fn a_disk_that_changes_is_found_out() {
        let mut tuning = Tuning::default();
        play(&mut tuning, 40, |readers| if readers == 12 { 2e9 } else { 1e9 });
        let chosen = play(&mut tuning, 200, |readers| if readers == 6 { 2e9 } else { 1e9 });
        assert_eq!(*chosen.last().unwrap(), 6);
    }

    #[test]
    fn differences_within_the_noise_change_nothing() {
        let mut tuning = Tuning::default();
        let chosen = play(&mut tuning, AGAIN as usize - 1, |readers| 1e9 + readers as f64);
        assert!(chosen[CANDIDATES.len()..].iter().all(|readers| *readers == CANDIDATES[0]), "{chosen:?}");
    }

    #[test]
    fn what_a_caller_fixed_teaches_nothing() {
        let mut tuning = Tuning::default();
        tuning.record(5, 9e9);
        assert_eq!(tuning, Tuning::default());
    }
}
