//! The database of the simulation: the job table, leases and leadership, with the same compare-and-set conditions as
//! `db::jobs`. It also keeps what no row knows (ghosts), to notice a broken guarantee at the write that breaks it.

use super::{Flags, LEASE_TTL, TERM_TTL, Violation};
use crate::{
    error::ErrorCode,
    job::{
        JobState,
        rules::{Counters, Report, Settled, settle, settle_lost_lease},
    },
};

/// A job as stored, and its ghosts.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: u64,
    pub state: JobState,
    pub fence: i64,
    pub host: Option<usize>,
    pub incarnation: Option<u64>,
    pub counters: Counters,
    pub run_at: u64,
    claimed_at: u64,
    /// Ghost: it kills whoever runs it.
    pub poison: bool,
    /// Ghost: workers that it killed.
    pub kills: u32,
    /// Ghost: the terminal state that it reached, and when.
    pub ended: Option<(JobState, u64)>,
    /// Ghost: results committed.
    commits: u32,
}

impl Row {
    pub(super) fn new(id: u64, now: u64, poison: bool) -> Self {
        Self {
            id,
            state: JobState::Pending,
            fence: 0,
            host: None,
            incarnation: None,
            counters: Counters { attempt: 0, max_attempts: 3, crash_count: 0, max_crashes: 2, cancel_requested: false },
            run_at: now,
            claimed_at: 0,
            poison,
            kills: 0,
            ended: None,
            commits: 0,
        }
    }

    fn apply(&mut self, now: u64, settled: &Settled) -> Result<(), Violation> {
        if let Some((ended, _)) = self.ended {
            return Err(Violation(format!("job {} went from {ended} to {}", self.id, settled.state)));
        }
        self.state = settled.state;
        self.counters.attempt = settled.attempt;
        self.counters.crash_count = settled.crash_count;
        self.run_at = now + settled.delay.as_millis() as u64;
        self.incarnation = None;
        if settled.state.is_terminal() {
            self.ended = Some((settled.state, now));
        }
        Ok(())
    }
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Default)]
pub(super) struct Beat {
    pub lost: Vec<(u64, i64)>,
    pub cancels: Vec<u64>,
    pub strays: Vec<(u64, i64)>,
}

/// A lease of one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub incarnation: u64,
    pub host: usize,
    pub until: u64,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub rows: Vec<Row>,
    pub leases: Vec<Lease>,
    /// (holder, term, expires at)
    leader: Option<(usize, i64, u64)>,
}

impl Table {
    pub(super) fn row(&mut self, id: u64) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.id == id)
    }

    fn lease_is_valid(&self, incarnation: u64, now: u64) -> bool {
        self.leases.iter().any(|lease| lease.incarnation == incarnation && lease.until > now)
    }

    pub(super) fn host_is_alive(&self, host: usize, now: u64) -> bool {
        // the agent that registered last speaks for the host
        self.leases.iter().rev().find(|lease| lease.host == host).is_some_and(|lease| lease.until > now)
    }

    pub(super) fn campaign(&mut self, now: u64, me: usize) -> Option<i64> {
        let (holder, term, expires) = self.leader.unwrap_or((me, 0, 0));
        if holder != me && expires > now {
            return None;
        }
        let term = if holder == me && expires > now { term } else { term + 1 };
        self.leader = Some((me, term, now + TERM_TTL));
        Some(term)
    }

    fn holds(&self, now: u64, term: i64) -> bool {
        self.leader.is_some_and(|(_, current, expires)| current == term && expires > now)
    }

    pub(super) fn register(&mut self, now: u64, incarnation: u64, host: usize) {
        match self.leases.iter_mut().find(|lease| lease.incarnation == incarnation) {
            Some(lease) => lease.until = now + LEASE_TTL,
            None => self.leases.push(Lease { incarnation, host, until: now + LEASE_TTL }),
        }
        let running: Vec<u64> = self.rows.iter().filter_map(|row| row.incarnation).collect();
        self.leases.retain(|lease| lease.until + 20 * LEASE_TTL > now || running.contains(&lease.incarnation));
    }

    pub(super) fn heartbeat(
        &mut self,
        now: u64,
        incarnation: u64,
        named: &[(u64, i64)],
        claim_grace: u64,
    ) -> Option<Beat> {
        let lease = self.leases.iter_mut().find(|lease| lease.incarnation == incarnation)?;
        lease.until = now + LEASE_TTL;
        let mine = |row: &&Row| row.state == JobState::Running && row.incarnation == Some(incarnation);
        let believed: Vec<&Row> = self.rows.iter().filter(mine).collect();
        let is_named = |row: &&&Row| named.contains(&(row.id, row.fence));
        Some(Beat {
            lost: named
                .iter()
                .filter(|(id, fence)| !believed.iter().any(|row| (row.id, row.fence) == (*id, *fence)))
                .copied()
                .collect(),
            cancels: believed
                .iter()
                .filter(is_named)
                .filter(|row| row.counters.cancel_requested)
                .map(|row| row.id)
                .collect(),
            strays: believed
                .iter()
                .filter(|row| !is_named(row) && row.claimed_at + claim_grace < now)
                .map(|row| (row.id, row.fence))
                .collect(),
        })
    }

    /// `pending → placed` under the term, if nothing changed since the scheduler looked.
    pub(super) fn place(&mut self, now: u64, term: i64, (id, fence): (u64, i64), host: usize) {
        if !self.holds(now, term) {
            return;
        }
        if let Some(row) = self.row(id).filter(|row| row.state == JobState::Pending && row.fence == fence) {
            row.state = JobState::Placed;
            row.fence += 1;
            row.host = Some(host);
        }
    }

    pub(super) fn claim(&mut self, now: u64, host: usize, incarnation: u64) -> Option<(u64, i64)> {
        if !self.lease_is_valid(incarnation, now) {
            return None;
        }
        let row = self.rows.iter_mut().find(|row| row.state == JobState::Placed && row.host == Some(host))?;
        row.state = JobState::Running;
        row.incarnation = Some(incarnation);
        row.counters.attempt += 1;
        row.counters.crash_count += 1;
        row.claimed_at = now;
        Some((row.id, row.fence))
    }

    /// The fenced write; false when the report is stale.
    pub(super) fn settle(
        &mut self,
        now: u64,
        (id, fence, incarnation): (u64, i64, u64),
        report: &Report,
        jitter: f64,
        flags: Flags,
    ) -> Result<bool, Violation> {
        let Some(row) = self.row(id) else { return Ok(false) };
        let current = row.state == JobState::Running && row.fence == fence && row.incarnation == Some(incarnation);
        if flags.fences && !current {
            return Ok(false);
        }
        if row.ended.is_none() && !current {
            return Err(Violation(format!(
                "job {id}: a write under fence {fence} was accepted; the fence is {}",
                row.fence
            )));
        }
        let settled = settle(report, row.counters, jitter);
        row.apply(now, &settled)?;
        if settled.state == JobState::Succeeded {
            row.commits += 1;
        }
        if row.commits > 1 {
            return Err(Violation(format!("job {id} was committed {} times", row.commits)));
        }
        Ok(true)
    }

    pub(super) fn cancel(&mut self, now: u64, id: u64) -> Result<(), Violation> {
        let Some(row) = self.row(id).filter(|row| !row.state.is_terminal()) else { return Ok(()) };
        row.counters.cancel_requested = true;
        if row.state == JobState::Running {
            return Ok(());
        }
        let error = crate::error::ErrorBody::new(ErrorCode::Cancelled, "cancelled");
        let settled = settle(&Report::Failed { error }, row.counters, 0.0);
        row.apply(now, &Settled { attempt: row.counters.attempt, crash_count: row.counters.crash_count, ..settled })
    }

    /// Takes back what dead workers hold; answers (job, incarnation) of the running ones.
    pub(super) fn reap(&mut self, now: u64, term: i64, jitter: f64) -> Result<Vec<(u64, u64)>, Violation> {
        let mut taken = Vec::new();
        if !self.holds(now, term) {
            return Ok(taken);
        }
        for index in 0..self.rows.len() {
            let row = &self.rows[index];
            let dead = match (row.state, row.incarnation, row.host) {
                (JobState::Running, Some(incarnation), _) => !self.lease_is_valid(incarnation, now),
                (JobState::Placed, _, Some(host)) => !self.host_is_alive(host, now),
                _ => false,
            };
            let row = &mut self.rows[index];
            match (dead, row.incarnation) {
                (true, Some(incarnation)) => {
                    let settled = settle_lost_lease(row.counters, jitter);
                    row.apply(now, &settled)?;
                    taken.push((row.id, incarnation));
                }
                (true, None) => (row.state, row.host) = (JobState::Pending, None),
                _ => {}
            }
        }
        Ok(taken)
    }
}
