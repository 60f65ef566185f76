//! Traces: which model is used when.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::library::Library;

/// What the uses are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Popularity by Zipf's law, everything on one disk.
    Steady,
    /// The same over two disks of different speed.
    TwoDisks,
    /// Over two disks; popularity is dealt anew twenty times.
    Drifting,
    /// Over two disks; now and then somebody goes once through all models.
    Scanned,
}

impl Workload {
    pub(crate) const ALL: [Self; 4] = [Self::Steady, Self::TwoDisks, Self::Drifting, Self::Scanned];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "Zipf, one disk",
            Self::TwoDisks => "Zipf, two disks",
            Self::Drifting => "Zipf that drifts, two disks",
            Self::Scanned => "Zipf with scans, two disks",
        }
    }

    pub(crate) fn one_disk(self) -> bool {
        self == Self::Steady
    }
}

/// One use of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub(crate) at: Duration,
    pub(crate) model: usize,
}

/// Exponent of Zipf's law.
const EXPONENT: f64 = 1.0;
/// Mean seconds between uses.
const PAUSE: f64 = 20.0;
/// Times that popularity is dealt anew.
const DEALS: usize = 20;
/// Uses between scans.
const SCAN_EVERY: usize = 1500;

/// A trace; the same seed gives the same one.
pub(crate) fn make(library: &Library, workload: Workload, uses: usize, seed: u64) -> Vec<Use> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ranked: Vec<usize> = (0..library.models.len()).collect();
    ranked.shuffle(&mut random);
    let weights: Vec<f64> = (1..=ranked.len()).map(|rank| (rank as f64).powf(-EXPONENT)).collect();
    let sum: f64 = weights.iter().sum();
    let mut at = 0.0_f64;
    let mut trace = Vec::with_capacity(uses);
    for number in 0..uses {
        if workload == Workload::Drifting && number > 0 && number.is_multiple_of((uses / DEALS).max(1)) {
            ranked.shuffle(&mut random);
        }
        if workload == Workload::Scanned && number % SCAN_EVERY == SCAN_EVERY - 1 {
            for model in 0..ranked.len() {
                at += 5.0;
                trace.push(Use { at: Duration::from_secs_f64(at), model });
            }
        }
        at += -PAUSE * (1.0 - random.random::<f64>()).ln();
        let rank = pick(&weights, random.random::<f64>() * sum);
        trace.push(Use { at: Duration::from_secs_f64(at), model: ranked.get(rank).copied().unwrap_or(0) });
    }
    trace
}

fn pick(weights: &[f64], mut left: f64) -> usize {
    for (rank, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return rank;
        }
    }
    weights.len().saturating_sub(1)
}
