//! Workers and schedulers of the simulation: what each knows, and what it may do by that alone.

use super::{BEAT, LEASE_TTL, SELF_FENCE, TERM_TTL};
use crate::job::rules::Report;

/// One attempt in a worker's hands.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub job: u64,
    pub fence: i64,
    /// Local time at which the work is done.
    pub done_at: f64,
    pub cancelled: bool,
}

/// A report that is sent again until it is answered.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub job: u64,
    pub fence: i64,
    pub report: Report,
    pub send_at: f64,
}

/// One worker process on one host.
#[derive(Debug)]
pub(super) struct Worker {
    pub host: usize,
    /// New at every start; 0 while the process is down.
    pub incarnation: u64,
    pub paused_until: u64,
    pub cut_off_until: u64,
    pub starts_at: u64,
    /// Local seconds per second.
    pub rate: f64,
    /// Local time at which the last acknowledged renewal was sent; none before the first.
    pub renewed: Option<f64>,
    pub beat_at: f64,
    pub claim_at: f64,
    /// Raised by each self-fence: a claim that was asked for before it counts no more.
    pub epoch: u32,
    pub running: Vec<Attempt>,
    pub reports: Vec<Outgoing>,
    /// Leases that it took up or handed back; a late or doubled claim of one is not taken up again.
    pub known: Vec<(u64, i64)>,
    /// Ghost: last moment at which the worker itself or its messages were troubled.
    pub unwell_at: u64,
}

impl Worker {
    pub(super) fn new(host: usize, rate: f64) -> Self {
        Self {
            host,
            incarnation: 0,
            paused_until: 0,
            cut_off_until: 0,
            starts_at: 0,
            rate,
            renewed: None,
            beat_at: 0.0,
            claim_at: 0.0,
            epoch: 0,
            running: Vec::new(),
            reports: Vec::new(),
            known: Vec::new(),
            unwell_at: 0,
        }
    }

    pub(super) fn local(&self, now: u64) -> f64 {
        now as f64 * self.rate
    }

    pub(super) fn is_frozen(&self, now: u64) -> bool {
        self.paused_until > now
    }

    /// The process is gone, with all it knew.
    pub(super) fn crash(&mut self, now: u64, restart_after: u64) {
        let (host, rate, cut_off_until) = (self.host, self.rate, self.cut_off_until);
        *self = Self { cut_off_until, starts_at: now + restart_after, unwell_at: now, ..Self::new(host, rate) };
    }

    pub(super) fn start(&mut self, incarnation: u64, now: u64) {
        self.incarnation = incarnation;
        self.beat_at = self.local(now);
    }

    /// Within the local deadline that began when the last good renewal was sent.
    pub(super) fn within_deadline(&self, now: u64) -> bool {
        self.renewed.is_some_and(|sent| self.local(now) < sent + SELF_FENCE)
    }

    /// Works on its attempts at this moment: up, not frozen, and (with self-fencing) within its deadline.
    pub(super) fn acts(&self, now: u64, self_fence: bool) -> bool {
        self.incarnation != 0 && !self.is_frozen(now) && (!self_fence || self.within_deadline(now))
    }

    /// Stops everything; a late claim of this epoch is dropped as well.
    pub(super) fn fence_itself(&mut self) {
        self.running.clear();
        self.epoch += 1;
    }

    /// What a heartbeat names: attempts and results on their way.
    pub(super) fn named(&self) -> Vec<(u64, i64)> {
        let running = self.running.iter().map(|attempt| (attempt.job, attempt.fence));
        running.chain(self.reports.iter().map(|report| (report.job, report.fence))).collect()
    }

    pub(super) fn next_beat(&mut self, now: u64) {
        self.beat_at = self.local(now) + BEAT;
    }
}

/// One scheduler process.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    pub paused_until: u64,
    pub cut_off_until: u64,
    pub campaign_at: u64,
    /// (term, trusted until, nothing is reaped before)
    pub lead: Option<(i64, u64, u64)>,
    /// The database did not answer the last campaign.
    pub away: bool,
}

impl Scheduler {
    /// Takes note of a campaign's answer.
    pub(super) fn learned(&mut self, now: u64, began: u64, won: Option<i64>, grace: bool) {
        self.lead = won.map(|term| {
            let kept = self.lead.filter(|(held, ..)| *held == term && !self.away).map(|(_, _, from)| from);
            let fresh = if grace { now + LEASE_TTL } else { now };
            (term, began + TERM_TTL * 4 / 5, kept.unwrap_or(fresh))
        });
        self.away = false;
    }
}
