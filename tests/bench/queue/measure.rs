//! What is measured, and the few statistics that are made of it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use crate::latency::quantile;

/// Counts completed jobs down to none.
#[derive(Debug)]
pub(crate) struct Countdown {
    left: AtomicI64,
    done: Notify,
}

impl Countdown {
    /// For so many jobs.
    pub(crate) fn new(jobs: usize) -> Self {
        Self { left: AtomicI64::new(i64::try_from(jobs).unwrap_or(i64::MAX)), done: Notify::new() }
    }

    /// Expects so many more.
    pub(crate) fn expect(&self, jobs: usize) {
        self.left.store(i64::try_from(jobs).unwrap_or(i64::MAX), Ordering::Release);
    }

    /// One job is done.
    pub(crate) fn tick(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// Waits for the last one.
    ///
    /// # Errors
    /// When it does not come within two minutes.
    pub(crate) async fn wait(&self) -> anyhow::Result<()> {
        let waited = tokio::time::timeout(Duration::from_secs(120), self.done.notified()).await;
        waited.map_err(|_| anyhow::anyhow!("{} jobs did not end in time", self.left.load(Ordering::Acquire)))
    }
}

/// The median; not a number for no values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Pause between latency samples: uneven, so that they meet every phase of the periodic work of a system.
pub(crate) async fn between_samples(number: usize) {
    tokio::time::sleep(Duration::from_millis(5 + (number as u64 * 7) % 13)).await;
}
