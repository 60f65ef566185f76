//! When a case was run often enough. Pure: seconds in, a verdict out; whoever runs it holds the clock.

use shared::{
    job::BenchmarkLimits,
    measure::{self, Summary},
    wire::{Ended, Steady},
};

/// Samples of a case that a result keeps.
const KEPT: usize = 1000;

/// Runs of one case as they come.
#[derive(Debug)]
pub struct Runs {
    limits: BenchmarkLimits,
    seconds: Vec<f64>,
}

/// What to do after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Run again.
    Again,
    /// Enough, for this reason.
    Enough(Ended),
}

impl Runs {
    /// None yet.
    pub fn new(limits: BenchmarkLimits) -> Self {
        Self { limits, seconds: Vec::new() }
    }

    /// Notes a run that counts; `elapsed` seconds since the first one began.
    pub fn note(&mut self, seconds: f64, elapsed: f64) -> Next {
        self.seconds.push(seconds);
        if self.is_stable() {
            Next::Enough(Ended::Stable)
        } else if self.seconds.len() >= size(self.limits.max_runs) {
            Next::Enough(Ended::Runs)
        } else if elapsed >= f64::from(self.limits.max_seconds) {
            Next::Enough(Ended::Time)
        } else {
            Next::Again
        }
    }

    /// Runs so far.
    pub fn count(&self) -> usize {
        self.seconds.len()
    }

    /// Looked at when a window is full, not within one: otherwise the chance to stop by luck would come with every run.
    fn is_stable(&self) -> bool {
        self.seconds.len().is_multiple_of(size(self.limits.window_runs).max(1))
            && self.spread().is_some_and(|spread| spread <= f64::from(self.limits.spread_percent) / 100.0)
    }

    /// The runs of the last windows; all, where there are fewer.
    fn last_windows(&self) -> &[f64] {
        let wanted = size(self.limits.window_runs).saturating_mul(size(self.limits.windows));
        self.seconds.get(self.seconds.len().saturating_sub(wanted)..).unwrap_or_default()
    }

    /// How much the medians of the last windows differ, as a part of the smallest; none before there are so many windows.
    fn spread(&self) -> Option<f64> {
        let window = size(self.limits.window_runs).max(1);
        let last = self.last_windows();
        if last.len() < window.saturating_mul(size(self.limits.windows)) {
            return None;
        }
        let medians: Vec<f64> = last.chunks(window).filter_map(measure::median).collect();
        let least = medians.iter().copied().min_by(f64::total_cmp)?;
        let most = medians.iter().copied().max_by(f64::total_cmp)?;
        (least > 0.0).then(|| (most - least) / least)
    }

    /// What was measured; none when nothing was.
    pub fn end(self, ended: Ended) -> Option<Steady> {
        let summary = Summary::of(self.last_windows())?;
        let (spread, counted) = (self.spread(), self.last_windows().len());
        let omitted = self.seconds.len().saturating_sub(KEPT);
        let seconds = self.seconds.get(omitted..).unwrap_or_default().to_vec();
        let from = seconds.len().saturating_sub(counted) as u64;
        Some(Steady { seconds, omitted: omitted as u64, from, stable: ended == Ended::Stable, spread, ended, summary })
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(window_runs: u32, windows: u32, spread_percent: u32, max_runs: u32) -> BenchmarkLimits {
        BenchmarkLimits { warmup_runs: 0, window_runs, windows, spread_percent, max_runs, max_seconds: 60 }
    }

    /// Runs until it says enough; every run takes as long as it says.
    fn run(limits: BenchmarkLimits, samples: impl IntoIterator<Item = f64>) -> Option<(Ended, Steady)> {
        let mut runs = Runs::new(limits);
        let mut elapsed = 0.0;
        for seconds in samples {
            elapsed += seconds;
            if let Next::Enough(ended) = runs.note(seconds, elapsed) {
                return Some((ended, runs.end(ended).unwrap()));
            }
        }
        None
    }

    #[test]
    fn what_settles_is_measured_where_it_has_settled() {
        // three slow windows, then the clock has come up
        let samples = [3.0; 6].into_iter().chain([2.0; 6]).chain([1.0; 100]);
        let (ended, steady) = run(limits(3, 3, 5, 200), samples).unwrap();
        assert_eq!((ended, steady.stable, steady.seconds.len(), steady.from), (Ended::Stable, true, 21, 12));
        assert_eq!((steady.summary.count, steady.summary.p50, steady.summary.max), (9, 1.0, 1.0));
    }

    #[test]
    fn what_never_settles_ends_at_the_limits_and_says_so() {
        let growing = (1..).map(|run| f64::from(run) * 0.01);
        let (ended, steady) = run(limits(2, 2, 5, 20), growing.clone()).unwrap();
        assert_eq!((ended, steady.stable, steady.seconds.len()), (Ended::Runs, false, 20));
        assert!(steady.spread.unwrap() > 0.05);
        let (ended, steady) = run(BenchmarkLimits { max_seconds: 1, ..limits(50, 2, 5, 1000) }, growing).unwrap();
        assert_eq!((ended, steady.stable, steady.spread), (Ended::Time, false, None));
        assert!(Runs::new(limits(1, 2, 5, 1)).end(Ended::Time).is_none());
    }

    proptest! {
        #[test]
        fn it_ends_within_the_limits_and_stable_means_that(
            samples in proptest::collection::vec(0.01_f64..1.0, 300),
            (window, windows, percent, max) in (1_u32..8, 2_u32..5, 1_u32..100, 1_u32..200),
        ) {
            let limits = limits(window, windows, percent, max);
            let (ended, steady) = run(limits, samples.iter().copied()).unwrap();
            prop_assert!(steady.seconds.len() <= size(max));
            prop_assert_eq!(&steady.seconds[..], &samples[..steady.seconds.len()]);
            let counted = &steady.seconds[usize::try_from(steady.from).unwrap()..];
            prop_assert_eq!(Summary::of(counted).unwrap(), steady.summary);
            if ended == Ended::Stable {
                prop_assert_eq!(counted.len(), size(window * windows));
                prop_assert!(steady.spread.unwrap() <= f64::from(percent) / 100.0);
            }
        }

        #[test]
        fn equal_runs_are_stable_as_soon_as_the_windows_are_full(window in 1_u32..10, windows in 2_u32..6, seconds in 0.001_f64..0.1) {
            let (ended, steady) = run(limits(window, windows, 1, 1000), std::iter::repeat(seconds)).unwrap();
            prop_assert_eq!((ended, steady.seconds.len()), (Ended::Stable, size(window * windows)));
        }
    }
}
