//! The attempts that this process runs: what heartbeats name, what a cancel or a lost lease reaches.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use residency::{Reason, Why};
use shared::{
    db::jobs::Claimed,
    ids::JobId,
    status::{LiveProgress, RunningJob},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;

/// Why an attempt was told to stop. The first reason counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled the job.
    Cancelled,
    /// The lease is no longer ours; nothing may be written.
    Lost,
    /// This process drains and its grace is over.
    HandBack,
}

/// One attempt of this process.
#[derive(Debug)]
pub struct Attempt {
    /// The job.
    pub id: JobId,
    /// Its lease epoch.
    pub fence: i64,
    /// Device, for jobs of the device lane.
    pub device: Option<String>,
    /// Cancelled when the attempt must stop, for whatever reason.
    pub cancel: CancellationToken,
    /// Cancelled when it must be over soon, too: somebody else may start the job, or this process ends.
    pub hurry: CancellationToken,
    /// How far it is.
    pub progress: Progress,
    reason: OnceLock<StopReason>,
    reporting: AtomicBool,
}

/// What a job calls itself where it holds something or asks for it.
const HOLDER: &str = "job ";

/// The job that calls itself so.
pub fn job_of(holder: &str) -> Option<JobId> {
    holder.strip_prefix(HOLDER)?.parse().ok()
}

impl Attempt {
    /// What it calls itself where it holds something or asks for it.
    pub fn holder(&self) -> String {
        format!("{HOLDER}{}", self.id)
    }

    /// It asked for something to go.
    pub fn why(&self, reason: Reason) -> Why {
        Why::asked(reason, &self.holder())
    }

    fn new(claimed: &Claimed) -> Self {
        Self {
            id: claimed.id,
            fence: claimed.fence,
            device: claimed.device.clone(),
            cancel: CancellationToken::new(),
            hurry: CancellationToken::new(),
            progress: Progress::new(),
            reason: OnceLock::new(),
            reporting: AtomicBool::new(false),
        }
    }

    /// Tells the attempt to stop.
    pub fn stop(&self, reason: StopReason) {
        // an earlier reason stays: a lost job that is then cancelled is still lost
        let _ = self.reason.set(reason);
        if matches!(reason, StopReason::Lost | StopReason::HandBack) {
            self.hurry.cancel();
        }
        self.cancel.cancel();
    }

    /// The work has ended and its report is on the way to the database, which alone decides from here on whose it is.
    pub fn begin_report(&self) {
        self.reporting.store(true, Ordering::Release);
    }

    /// Why it was told to stop, if it was.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }
}

/// All attempts of this process. Cheap to clone: clones are the same set.
#[derive(Debug, Clone)]
pub struct Running {
    attempts: Arc<Mutex<HashMap<JobId, Arc<Attempt>>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Default for Running {
    fn default() -> Self {
        Self { attempts: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Attempt>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a claim, before it is handed to the worker.
    pub fn begin(&self, claimed: &Claimed) -> Arc<Attempt> {
        let attempt = Arc::new(Attempt::new(claimed));
        let mut attempts = self.lock();
        attempts.insert(claimed.id, attempt.clone());
        self.count.send_replace(attempts.len());
        attempt
    }

    /// The attempt of a claim.
    pub fn get(&self, id: JobId, fence: i64) -> Option<Arc<Attempt>> {
        self.lock().get(&id).filter(|attempt| attempt.fence == fence).cloned()
    }

    /// Forgets an attempt that has ended.
    pub fn end(&self, id: JobId, fence: i64) {
        let mut attempts = self.lock();
        if attempts.get(&id).is_some_and(|attempt| attempt.fence == fence) {
            attempts.remove(&id);
        }
        self.count.send_replace(attempts.len());
    }

    /// Stops the attempt of a job; false when its work does not run here any more.
    pub fn stop(&self, id: JobId, reason: StopReason) -> bool {
        let attempts = self.lock();
        let Some(attempt) = attempts.get(&id) else { return false };
        attempt.stop(reason);
        !attempt.reporting.load(Ordering::Acquire)
    }

    /// Stops all; returns how many.
    pub fn stop_all(&self, reason: StopReason) -> usize {
        let attempts = self.lock();
        attempts.values().for_each(|attempt| attempt.stop(reason));
        attempts.len()
    }

    /// What heartbeats name.
    pub fn leases(&self) -> Vec<(JobId, i64)> {
        self.lock().values().map(|attempt| (attempt.id, attempt.fence)).collect()
    }

    /// What the snapshot shows.
    pub fn view(&self) -> Vec<RunningJob> {
        let show = |attempt: &Arc<Attempt>| {
            let progress: Option<LiveProgress> = attempt.progress.view().map(|view| view.live());
            RunningJob { id: attempt.id, device: attempt.device.clone(), progress }
        };
        let mut jobs: Vec<RunningJob> = self.lock().values().map(show).collect();
        jobs.sort_by_key(|job| job.id);
        jobs
    }

    /// Resolves when nothing runs. Cancel safe.
    pub async fn idle(&self) {
        let mut count = self.count.subscribe();
        // the sender lives as long as `self`
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(fence: i64) -> Claimed {
        Claimed {
            id: "01JD9Z8M3V6Q2X4K7T5R1W0YBC".parse().unwrap(),
            kind: "load".into(),
            args: serde_json::json!({}),
            args_version: 1,
            fence,
            attempt: 1,
            device: None,
            traceparent: None,
            waited_ms: 0.0,
        }
    }

    #[test]
    fn a_lost_job_stays_lost_whatever_is_asked_later() {
        let running = Running::default();
        let attempt = running.begin(&claim(1));
        assert!(running.stop(attempt.id, StopReason::Lost));
        assert!(running.stop(attempt.id, StopReason::Cancelled));
        assert_eq!(attempt.stop_reason(), Some(StopReason::Lost));
        assert!(attempt.cancel.is_cancelled());
    }

    #[test]
    fn only_a_cancel_leaves_time_and_a_lease_that_is_lost_later_takes_it_back() {
        for (reason, hurries) in
            [(StopReason::Cancelled, false), (StopReason::HandBack, true), (StopReason::Lost, true)]
        {
            let attempt = Attempt::new(&claim(1));
            attempt.stop(reason);
            assert_eq!((attempt.cancel.is_cancelled(), attempt.hurry.is_cancelled()), (true, hurries), "{reason:?}");
            attempt.stop(StopReason::Lost);
            assert!(attempt.hurry.is_cancelled());
        }
    }

    #[test]
    fn the_end_of_an_old_fence_does_not_forget_the_new_one() {
        let running = Running::default();
        running.begin(&claim(1));
        let newer = running.begin(&claim(2));
        running.end(newer.id, 1);
        assert_eq!(running.leases(), [(newer.id, 2)]);
        assert!(running.get(newer.id, 1).is_none());
        newer.begin_report();
        assert!(!running.stop(newer.id, StopReason::Lost), "its work has ended: there is nothing to warn of");
        running.end(newer.id, 2);
        assert!(running.leases().is_empty() && !running.stop(newer.id, StopReason::Lost));
    }
}
