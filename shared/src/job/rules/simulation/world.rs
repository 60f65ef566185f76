//! The world of the simulation: one clock, a network that delays, loses and doubles messages, faults, and the invariants.

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    BEAT, CLAIM_GRACE, Flags, LEASE_TTL, TERM_TTL, Violation,
    actors::{Attempt, Outgoing, Scheduler, Worker},
    table::{Beat, Row, Table},
};
use crate::{
    error::{ErrorBody, ErrorCode},
    job::{JobState, rules::Report},
};

const HOSTS: usize = 3;
const ROWS: usize = 6;

#[derive(Debug, Clone)]
enum Message {
    Register { incarnation: u64, host: usize, sent: f64 },
    Renew { incarnation: u64, named: Vec<(u64, i64)>, sent: f64 },
    Renewed { incarnation: u64, beat: Option<Beat>, sent: f64 },
    Claim { incarnation: u64, host: usize, epoch: u32 },
    Claimed { incarnation: u64, job: u64, fence: i64, epoch: u32 },
    Report { incarnation: u64, job: u64, fence: i64, report: Report },
    Reported { incarnation: u64, job: u64, fence: i64 },
    Place { term: i64, job: u64, fence: i64, host: usize },
    Reap { term: i64 },
}

impl Message {
    fn is_to_database(&self) -> bool {
        !matches!(self, Self::Renewed { .. } | Self::Claimed { .. } | Self::Reported { .. })
    }
}

pub(super) struct World {
    rng: SmallRng,
    flags: Flags,
    now: u64,
    faults: bool,
    down_until: u64,
    ids: u64,
    table: Table,
    workers: Vec<Worker>,
    schedulers: [Scheduler; 2],
    network: Vec<(u64, Message)>,
    pub ended: u64,
}

impl World {
    pub(super) fn new(seed: u64, flags: Flags) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let workers = (0..HOSTS).map(|host| Worker::new(host, rng.random_range(0.95..1.05))).collect();
        Self {
            rng,
            flags,
            now: 1,
            faults: true,
            down_until: 0,
            ids: 0,
            table: Table::default(),
            workers,
            schedulers: [Scheduler::default(), Scheduler::default()],
            network: Vec::new(),
            ended: 0,
        }
    }

    pub(super) fn step(&mut self) -> Result<(), Violation> {
        self.now += self.rng.random_range(20..400);
        if self.faults {
            self.new_jobs();
            self.fault()?;
        }
        self.deliver()?;
        for index in 0..self.workers.len() {
            self.work(index);
        }
        for index in 0..self.schedulers.len() {
            self.schedule(index);
        }
        self.check()
    }

    /// No fault from here on: every job must end.
    pub(super) fn calm(&mut self) -> Result<(), Violation> {
        self.faults = false;
        self.down_until = 0;
        for worker in &mut self.workers {
            (worker.paused_until, worker.cut_off_until) = (0, 0);
        }
        for scheduler in &mut self.schedulers {
            (scheduler.paused_until, scheduler.cut_off_until) = (0, 0);
        }
        let deadline = self.now + 600_000;
        while self.table.rows.iter().any(|row| row.ended.is_none()) {
            if self.now > deadline {
                let open: Vec<&Row> = self.table.rows.iter().filter(|row| row.ended.is_none()).collect();
                return Err(Violation(format!("jobs never ended: {open:?}")));
            }
            self.step()?;
        }
        Ok(())
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    fn new_jobs(&mut self) {
        let now = self.now;
        let before = self.table.rows.len();
        self.table.rows.retain(|row| row.ended.is_none_or(|(_, at)| at + 4 * LEASE_TTL > now));
        self.ended += (before - self.table.rows.len()) as u64;
        if self.table.rows.len() < ROWS && self.chance(0.2) {
            self.ids += 1;
            let poison = self.chance(0.1);
            self.table.rows.push(Row::new(self.ids, now, poison));
        }
    }

    fn fault(&mut self) -> Result<(), Violation> {
        if !self.chance(0.02) {
            return Ok(());
        }
        let until = self.now + self.rng.random_range(100..3 * LEASE_TTL);
        let worker = self.rng.random_range(0..self.workers.len());
        let scheduler = self.rng.random_range(0..self.schedulers.len());
        let now = self.now;
        match self.rng.random_range(0..8) {
            0 => self.workers[worker].crash(now, until - now),
            1 => self.workers[worker].paused_until = until,
            2 | 3 => self.workers[worker].cut_off_until = until,
            4 => self.schedulers[scheduler].paused_until = until,
            5 => self.schedulers[scheduler].cut_off_until = until,
            6 => {
                // the server goes down with its connections: what was on its way is lost
                self.down_until = until;
                self.network.retain(|(_, message)| !message.is_to_database());
            }
            _ => {
                if let Some(id) = self.table.rows.first().map(|row| row.id) {
                    self.table.cancel(now, id)?;
                }
            }
        }
        Ok(())
    }

    fn worker_of(&mut self, incarnation: u64) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.incarnation == incarnation)
    }

    /// Puts a message on its way: late, lost or twice, now and then.
    fn send(&mut self, message: Message) {
        let copies = if self.faults && self.chance(0.02) { 2 } else { 1 };
        for _ in 0..copies {
            let lost = self.faults && self.chance(0.02);
            let delay = if self.faults && self.chance(0.02) {
                self.rng.random_range(1000..2 * LEASE_TTL)
            } else {
                self.rng.random_range(1..100)
            };
            let now = self.now;
            if let Message::Renew { incarnation, .. } = &message
                && (lost || delay > 1000)
                && let Some(worker) = self.worker_of(*incarnation)
            {
                worker.unwell_at = worker.unwell_at.max(now + delay);
            }
            if !lost {
                self.network.push((now + delay, message.clone()));
            }
        }
    }

    fn deliver(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let mut index = 0;
        while index < self.network.len() {
            // a frozen process reads its mail when it wakes
            let frozen = match &self.network[index].1 {
                Message::Renewed { incarnation, .. }
                | Message::Claimed { incarnation, .. }
                | Message::Reported { incarnation, .. } => {
                    self.workers.iter().any(|worker| worker.incarnation == *incarnation && worker.is_frozen(now))
                }
                _ => false,
            };
            if self.network[index].0 > now || frozen {
                index += 1;
                continue;
            }
            let (_, message) = self.network.swap_remove(index);
            if message.is_to_database() {
                if self.down_until <= now {
                    self.at_database(message)?;
                }
            } else {
                self.at_worker(message);
            }
        }
        Ok(())
    }

    fn at_database(&mut self, message: Message) -> Result<(), Violation> {
        let (now, flags) = (self.now, self.flags);
        let jitter = self.rng.random_range(0.0..1.0);
        match message {
            Message::Register { incarnation, host, sent } => {
                self.table.register(now, incarnation, host);
                self.answer(Message::Renewed { incarnation, beat: Some(Beat::default()), sent });
            }
            Message::Renew { incarnation, named, sent } => {
                let beat = self.table.heartbeat(now, incarnation, &named, CLAIM_GRACE);
                self.answer(Message::Renewed { incarnation, beat, sent });
            }
            Message::Claim { incarnation, host, epoch } => {
                if let Some((job, fence)) = self.table.claim(now, host, incarnation) {
                    self.answer(Message::Claimed { incarnation, job, fence, epoch });
                }
            }
            Message::Report { incarnation, job, fence, report } => {
                self.table.settle(now, (job, fence, incarnation), &report, jitter, flags)?;
                self.answer(Message::Reported { incarnation, job, fence });
            }
            Message::Place { term, job, fence, host } => self.table.place(now, term, (job, fence), host),
            Message::Reap { term } => self.reap(term, jitter)?,
            Message::Renewed { .. } | Message::Claimed { .. } | Message::Reported { .. } => {}
        }
        Ok(())
    }

    /// An answer reaches a worker only over a link that is not cut.
    fn answer(&mut self, message: Message) {
        let (Message::Renewed { incarnation, .. }
        | Message::Claimed { incarnation, .. }
        | Message::Reported { incarnation, .. }) = &message
        else {
            return;
        };
        let (now, incarnation) = (self.now, *incarnation);
        if self.worker_of(incarnation).is_some_and(|worker| worker.cut_off_until <= now) {
            self.send(message);
        }
    }

    fn reap(&mut self, term: i64, jitter: f64) -> Result<(), Violation> {
        let now = self.now;
        for (job, incarnation) in self.table.reap(now, term, jitter)? {
            let healthy = self.workers.iter().any(|worker| {
                worker.incarnation == incarnation && worker.unwell_at + LEASE_TTL + 2 * BEAT as u64 <= now
            });
            if healthy {
                return Err(Violation(format!("job {job} was taken from a worker that was well all the time")));
            }
        }
        Ok(())
    }

    fn at_worker(&mut self, message: Message) {
        let (now, flags) = (self.now, self.flags);
        match message {
            Message::Renewed { incarnation, beat, sent } => {
                let Some(worker) = self.worker_of(incarnation) else { return };
                match beat {
                    Some(beat) => renewed(worker, now, beat, sent, flags),
                    // its lease is forgotten: this start of the process may never hold anything again
                    None => worker.crash(now, 1000),
                }
            }
            Message::Claimed { incarnation, job, fence, epoch } => self.claimed(incarnation, job, fence, epoch),
            Message::Reported { incarnation, job, fence } => {
                if let Some(worker) = self.worker_of(incarnation) {
                    worker.reports.retain(|report| (report.job, report.fence) != (job, fence));
                }
            }
            _ => {}
        }
    }

    fn claimed(&mut self, incarnation: u64, job: u64, fence: i64, epoch: u32) {
        let (now, flags) = (self.now, self.flags);
        let lasts = self.rng.random_range(100.0..2.5 * LEASE_TTL as f64);
        let Some(worker) = self.worker_of(incarnation) else { return };
        if worker.named().contains(&(job, fence)) || worker.known.contains(&(job, fence)) {
            return;
        }
        worker.known.push((job, fence));
        let fresh = !flags.self_fence || ((worker.epoch == epoch || flags.late_claims) && worker.within_deadline(now));
        if fresh && worker.running.len() < 2 {
            let done_at = worker.local(now) + lasts;
            worker.running.push(Attempt { job, fence, done_at, cancelled: false });
        } else {
            hand_back(worker, now, (job, fence));
        }
    }

    fn work(&mut self, index: usize) {
        let now = self.now;
        let worker = &mut self.workers[index];
        if worker.cut_off_until > now || worker.is_frozen(now) || worker.incarnation == 0 {
            worker.unwell_at = worker.unwell_at.max(now);
        }
        if worker.is_frozen(now) {
            return;
        }
        if worker.incarnation == 0 {
            if worker.starts_at <= now {
                self.ids += 1;
                worker.start(self.ids, now);
            }
            return;
        }
        if self.flags.self_fence && worker.renewed.is_some() && !worker.within_deadline(now) {
            worker.fence_itself();
        }
        self.finish(index);
        if self.workers[index].incarnation != 0 {
            self.speak(index);
        }
    }

    /// Ends attempts whose work is done or cancelled; a poisoned job takes the worker with it.
    fn finish(&mut self, index: usize) {
        let now = self.now;
        let worker = &mut self.workers[index];
        let local = worker.local(now);
        let (done, open) = worker.running.drain(..).partition(|attempt| attempt.cancelled || attempt.done_at <= local);
        worker.running = open;
        let done: Vec<Attempt> = done;
        for attempt in done {
            let row = self.table.row(attempt.job);
            if let Some(row) = row.filter(|row| row.poison && row.fence == attempt.fence && !attempt.cancelled) {
                row.kills += 1;
                let restart = self.rng.random_range(100..LEASE_TTL);
                self.workers[index].crash(now, restart);
                return;
            }
            let report = self.outcome(attempt.cancelled);
            let Attempt { job, fence, .. } = attempt;
            self.workers[index].reports.push(Outgoing { job, fence, report, send_at: local });
        }
    }

    fn outcome(&mut self, cancelled: bool) -> Report {
        let failed = |code| Report::Failed { error: ErrorBody::new(code, "simulated") };
        let succeeded = Report::Succeeded { result: serde_json::Value::Null };
        match self.rng.random_range(0..12) {
            _ if cancelled => failed(ErrorCode::Cancelled),
            _ if !self.faults => succeeded,
            0 | 1 => failed(ErrorCode::Unavailable),
            2 => failed(ErrorCode::InsufficientCapacity),
            3 => failed(ErrorCode::Corrupt),
            4 => Report::Crashed { error: ErrorBody::new(ErrorCode::WorkerLost, "simulated") },
            5 => Report::HandedBack,
            _ => succeeded,
        }
    }

    /// Sends what is due: heartbeat, claims while there is room, reports until they are answered.
    fn speak(&mut self, index: usize) {
        let now = self.now;
        let worker = &mut self.workers[index];
        let (local, incarnation, host) = (worker.local(now), worker.incarnation, worker.host);
        let mut out = Vec::new();
        if worker.beat_at <= local {
            worker.next_beat(now);
            out.push(match worker.renewed {
                None => Message::Register { incarnation, host, sent: local },
                Some(_) => Message::Renew { incarnation, named: worker.named(), sent: local },
            });
        }
        if worker.claim_at <= local && worker.running.len() < 2 && worker.within_deadline(now) {
            worker.claim_at = local + 1000.0;
            out.push(Message::Claim { incarnation, host, epoch: worker.epoch });
        }
        for Outgoing { job, fence, report, send_at } in
            worker.reports.iter_mut().filter(|report| report.send_at <= local)
        {
            *send_at = local + 2000.0;
            out.push(Message::Report { incarnation, job: *job, fence: *fence, report: report.clone() });
        }
        if worker.cut_off_until <= now {
            out.into_iter().for_each(|message| self.send(message));
        }
    }

    fn schedule(&mut self, index: usize) {
        let (now, flags) = (self.now, self.flags);
        let reachable = self.down_until <= now;
        let scheduler = &mut self.schedulers[index];
        if scheduler.paused_until > now {
            return;
        }
        if scheduler.campaign_at <= now {
            scheduler.campaign_at = now + TERM_TTL / 3;
            if reachable && scheduler.cut_off_until <= now {
                let won = self.table.campaign(now, index);
                scheduler.learned(now, now, won, flags.grace);
            } else {
                scheduler.away = true;
            }
        }
        // a scheduler that slept through its term may still believe in it: the term in each write decides
        let Some((term, trusted_until, reap_from)) = scheduler.lead else { return };
        if scheduler.cut_off_until > now || (trusted_until <= now && !self.rng.random_bool(0.2)) {
            return;
        }
        if reap_from <= now && !scheduler.away && self.rng.random_bool(0.3) {
            self.send(Message::Reap { term });
        }
        if reachable && self.rng.random_bool(0.5) {
            self.place(term);
        }
    }

    fn place(&mut self, term: i64) {
        let now = self.now;
        let alive: Vec<usize> = (0..HOSTS).filter(|host| self.table.host_is_alive(*host, now)).collect();
        let due = self.table.rows.iter().filter(|row| row.state == JobState::Pending && row.run_at <= now);
        let due: Vec<(u64, i64)> = due.map(|row| (row.id, row.fence)).collect();
        for (job, fence) in due {
            if !alive.is_empty() {
                let host = alive[self.rng.random_range(0..alive.len())];
                self.send(Message::Place { term, job, fence, host });
            }
        }
    }

    fn check(&self) -> Result<(), Violation> {
        for worker in self.workers.iter().filter(|worker| worker.acts(self.now, self.flags.self_fence)) {
            for attempt in &worker.running {
                let row = self.table.rows.iter().find(|row| row.id == attempt.job);
                let owns = row.is_some_and(|row| {
                    row.state == JobState::Running
                        && row.fence == attempt.fence
                        && row.incarnation == Some(worker.incarnation)
                });
                if !owns {
                    return Err(Violation(format!(
                        "a worker acts on job {} under fence {} that it no longer holds: {row:?}",
                        attempt.job, attempt.fence
                    )));
                }
            }
        }
        for row in &self.table.rows {
            let counters = row.counters;
            let bounded = counters.attempt <= counters.max_attempts && counters.crash_count <= counters.max_crashes;
            if !bounded || row.kills > counters.max_crashes.unsigned_abs() {
                return Err(Violation(format!(
                    "job {} got more attempts or killed more workers than allowed: {row:?}",
                    row.id
                )));
            }
            if row.ended.is_some_and(|(ended, _)| ended != row.state) {
                return Err(Violation(format!("job {} left its terminal state: {row:?}", row.id)));
            }
        }
        Ok(())
    }
}

fn renewed(worker: &mut Worker, now: u64, beat: Beat, sent: f64, flags: Flags) {
    let counts_from = if flags.deadline_from_answer { worker.local(now) } else { sent };
    worker.renewed = Some(worker.renewed.map_or(counts_from, |before| before.max(counts_from)));
    worker.running.retain(|attempt| !beat.lost.contains(&(attempt.job, attempt.fence)));
    for attempt in worker.running.iter_mut().filter(|attempt| beat.cancels.contains(&attempt.job)) {
        attempt.cancelled = true;
    }
    for stray in beat.strays {
        if !worker.named().contains(&stray) {
            hand_back(worker, now, stray);
        }
    }
}

fn hand_back(worker: &mut Worker, now: u64, (job, fence): (u64, i64)) {
    worker.known.push((job, fence));
    let send_at = worker.local(now);
    worker.reports.push(Outgoing { job, fence, report: Report::HandedBack, send_at });
}
