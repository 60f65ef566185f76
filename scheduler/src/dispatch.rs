//! From decisions to rows: on a hint or a tick, read the farm, decide about the due pending jobs best first, and write
//! all decisions of a page in one statement each for placements and for reasons. Only under a trusted term.

use std::time::{Duration, Instant};

use serde_json::Value;
use shared::{
    db::{
        DbError, Pool, Session,
        jobs::{self, PendingCursor, PendingRow, Placement, Unplaced},
        listen::{self, Hint, Hints},
    },
    error::{ErrorBody, ErrorCode, chain},
    ids::JobId,
    shutdown::Tasks,
};
use tokio::sync::broadcast;

use crate::{
    drains::Drains,
    leader::Leadership,
    metrics::{Metrics, ROLE},
    placement::{self, Decision, PendingJob, Policy, Snapshot},
    snapshot,
};

/// Jobs that are read, decided and written together: the first page; each further one is twice as long, up to the largest.
const PAGE_FIRST: i64 = 64;
const PAGE_MAX: i64 = 512;
/// Pages of one pass; the next survey goes on where it stopped, after the best page.
const PAGES_MAX: usize = 8;
/// A pass ends after so many jobs in a row that nobody can take, unless it is a survey.
const MISSES_MAX: usize = 64;
/// How often a pass looks beyond the jobs that nobody can take: to find those behind them, and to record why they wait.
const SURVEY_EVERY: Duration = Duration::from_secs(1);
/// Rest after a pass that placed nothing, so that a stream of hints about full places is no hot loop.
const REST: Duration = Duration::from_millis(5);
/// A job that waits for a busy queue no longer than this needs no recorded reason.
const SHORT_WAIT_SECONDS: f64 = 30.0;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Jobs looked at.
    pub(crate) seen: usize,
    /// Jobs placed.
    pub(crate) placed: usize,
    /// Jobs rejected.
    pub(crate) rejected: usize,
}

/// The dispatcher's memory between passes; the truth is in the database.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pool: Pool,
    policy: Policy,
    metrics: Metrics,
    drains: Drains,
    resume: Option<PendingCursor>,
    surveyed: Instant,
}

/// The decisions of one page, before they are written.
#[derive(Debug, Default)]
struct Page {
    placements: Vec<Placement>,
    reasons: Vec<Unplaced>,
    rejects: Vec<(JobId, i64, ErrorBody)>,
    /// Too many in a row could not be placed; the rest of the page was not looked at.
    gave_up: bool,
}

/// Starts the loop.
pub(crate) fn start(
    mut dispatcher: Dispatcher,
    mut leadership: Leadership,
    hints: &Hints,
    tick: Duration,
    tasks: &Tasks,
) {
    let mut hints = hints.subscribe();
    let token = tasks.token().clone();
    tasks.spawn("dispatch", async move {
        loop {
            let rest = match leadership.current() {
                Some(lead) => dispatcher.step(lead.term).await,
                None => Duration::ZERO,
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(rest) => {}
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = hinted(&mut hints) => {}
                () = leadership.changed() => {}
                () = tokio::time::sleep(tick) => {}
            }
        }
    });
}

/// Waits for a hint to look, and takes all that have arrived: one look answers them all.
async fn hinted(hints: &mut broadcast::Receiver<Hint>) {
    loop {
        match hints.recv().await {
            Ok(hint) if hint.channel == listen::SCHEDULE || hint.channel.is_empty() => break,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => break,
            Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
        }
    }
    loop {
        match hints.try_recv() {
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => return,
        }
    }
}

impl Dispatcher {
    /// A dispatcher that has seen nothing yet.
    pub(crate) fn new(pool: Pool, policy: Policy, metrics: Metrics) -> Self {
        Self { pool, policy, metrics, drains: Drains::default(), resume: None, surveyed: Instant::now() }
    }

    /// One pass; answers how long to rest before the next.
    async fn step(&mut self, term: i64) -> Duration {
        let began = Instant::now();
        let done = self.pass(term).await;
        self.metrics.tick_seconds.observe(began.elapsed().as_secs_f64());
        match done {
            Ok(pass) => {
                tracing::debug!(?pass, elapsed_ms = began.elapsed().as_millis(), "pass");
                if pass.placed > 0 || pass.seen == 0 { Duration::ZERO } else { REST }
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a pass over the pending jobs failed; trying again");
                REST
            }
        }
    }

    /// Decides about the due pending jobs, best first, as long as some can be placed; once a second beyond that.
    ///
    /// # Errors
    /// Database errors; what was written before stays written, the rest is decided again.
    pub(crate) async fn pass(&mut self, term: i64) -> Result<Pass, DbError> {
        let mut pass = Pass::default();
        let mut session = self.pool.acquire().await?;
        let mut limit = PAGE_FIRST;
        let mut rows = jobs::pending_after(&mut session, None, limit).await?;
        if rows.is_empty() {
            self.resume = None;
            return Ok(pass);
        }
        let mut farm = snapshot::load(&mut session, &mut self.drains).await?;
        let survey = self.survey_is_due();
        for number in 1..=PAGES_MAX {
            let page = self.decide(&mut session, &mut farm, &rows, pass.seen, survey).await?;
            let gave_up = page.gave_up;
            pass.seen += rows.len();
            self.write(&mut session, term, page, &mut pass).await?;
            if gave_up {
                return Ok(pass);
            }
            let last = rows.last().filter(|_| rows.len() as i64 == limit).map(PendingCursor::after);
            // a survey looks at the best page first, then goes on where the last one stopped
            let next = if survey && number == 1 { last.max(self.resume.filter(|_| last.is_some())) } else { last };
            if survey || next.is_none() {
                self.resume = next;
            }
            if next.is_none() {
                return Ok(pass);
            }
            limit = (limit * 2).min(PAGE_MAX);
            rows = jobs::pending_after(&mut session, next, limit).await?;
        }
        Ok(pass)
    }

    fn survey_is_due(&mut self) -> bool {
        let due = self.surveyed.elapsed() >= SURVEY_EVERY;
        if due {
            self.surveyed = Instant::now();
        }
        due
    }

    async fn decide(
        &mut self,
        session: &mut Session,
        farm: &mut Snapshot,
        rows: &[PendingRow],
        ahead: usize,
        survey: bool,
    ) -> Result<Page, DbError> {
        let wanted: Vec<Result<PendingJob, String>> = rows.iter().map(snapshot::pending_job).collect();
        let readable: Vec<PendingJob> = wanted.iter().flatten().cloned().collect();
        snapshot::add_details(session, farm, &readable).await?;
        let mut page = Page::default();
        let mut misses = 0;
        for (index, (row, job)) in rows.iter().zip(wanted).enumerate() {
            let written = page.placements.len() + page.rejects.len();
            match job {
                Ok(job) => self.decide_one(farm, row, &job, ahead + index, &mut page),
                Err(why) => page.rejects.push((row.id, row.fence, unreadable(row, &why))),
            }
            misses = if page.placements.len() + page.rejects.len() > written { 0 } else { misses + 1 };
            if misses >= MISSES_MAX && !survey {
                page.gave_up = true;
                break;
            }
        }
        Ok(page)
    }

    fn decide_one(&self, farm: &mut Snapshot, row: &PendingRow, job: &PendingJob, ahead: usize, page: &mut Page) {
        let began = Instant::now();
        let decision = placement::place(farm, job, self.policy);
        self.metrics.placement_seconds.observe(began.elapsed().as_secs_f64());
        match decision {
            Decision::Assign { host, device, explanation } => {
                farm.assign(job, &host, device.as_deref());
                page.placements.push(Placement { id: row.id, fence: row.fence, host, device, explanation });
            }
            Decision::Wait { code, reason } => {
                self.metrics.placements.with_label_values(&["waiting"]).inc();
                if self.is_news(row, code, &reason, ahead) {
                    page.reasons.push(Unplaced { id: row.id, reason });
                }
            }
            Decision::Reject { error } => page.rejects.push((row.id, row.fence, error)),
        }
    }

    /// A reason is written when it changed; that a queue is full only if the job will wait for a while.
    fn is_news(&self, row: &PendingRow, code: &str, reason: &Value, ahead: usize) -> bool {
        if row.reason.as_ref() == Some(reason) {
            return false;
        }
        let soon = ahead as f64 / self.drains.total_per_second().max(1e-9) < SHORT_WAIT_SECONDS;
        code != "queue_full" || (row.due_seconds > 1.0 && !soon)
    }

    async fn write(&mut self, session: &mut Session, term: i64, page: Page, pass: &mut Pass) -> Result<(), DbError> {
        let count = |outcome: &str, number: usize| {
            self.metrics.placements.with_label_values(&[outcome]).inc_by(number as u64);
        };
        if !page.placements.is_empty() {
            let placed = jobs::place_many(&mut *session, (ROLE, term), &page.placements).await?;
            for placement in &page.placements {
                self.drains.placed(placement.device.as_deref().unwrap_or(&placement.host));
            }
            count("assigned", placed.len());
            count("outdated", page.placements.len() - placed.len());
            pass.placed += placed.len();
        }
        if !page.reasons.is_empty() {
            jobs::set_reasons(&mut *session, (ROLE, term), &page.reasons).await?;
        }
        for (id, fence, error) in page.rejects {
            let mut tx = self.pool.begin().await?;
            let changed = jobs::fail_unplaceable(&mut tx, (ROLE, term), (id, fence), &error).await?;
            tx.commit().await?;
            count(if changed { "rejected" } else { "outdated" }, 1);
            pass.rejected += usize::from(changed);
            tracing::info!(job.id = %id, code = %error.code, reason = error.message, "no place can take this job");
        }
        Ok(())
    }
}

fn unreadable(row: &PendingRow, why: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Unsupported, format!("this scheduler cannot read the `{}` job: {why}", row.kind))
}
