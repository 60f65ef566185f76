//! The agent's lease: heartbeats on a connection of their own, what their answers mean, and the self-fence.
//!
//! The lease is good until a local monotonic deadline after the start of the last renewal that succeeded. That
//! deadline lies before the moment at which the database lets anybody else take the jobs (G6), and it needs no
//! wall clock (G11). A process that was paused beyond it finds out within a fraction of the TTL after it wakes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shared::db::Session;
use shared::{
    config::{LeaseTiming, Stores},
    db::{self, DbError, farm, jobs},
    error::chain,
    ids::JobId,
    job::rules::Report,
};
use tokio::sync::watch;

use crate::{context::Agent, running::StopReason};

/// Whether this process may claim, and until when it may go on.
#[derive(Debug, Clone)]
pub struct Standing {
    /// True while jobs may be claimed.
    pub admission: watch::Sender<bool>,
    /// End of the time for which jobs may go on without a renewal.
    pub good_until: watch::Sender<Instant>,
    /// When the lease last was found to have ended without a renewal.
    pub lapsed: watch::Sender<Option<Instant>>,
    /// True once this process is on its way out; never false again.
    pub draining: watch::Sender<bool>,
    /// True while the operator wants this host drained, as the database last said.
    pub drain_asked: watch::Sender<bool>,
    /// Says why this process must end, once it must.
    pub evicted: watch::Sender<Option<String>>,
}

impl Standing {
    /// The standing right after a registration that began at `registered`.
    pub fn new(registered: Instant, timing: LeaseTiming) -> Self {
        Self {
            admission: watch::Sender::new(true),
            good_until: watch::Sender::new(registered + timing.self_fence_after()),
            lapsed: watch::Sender::new(None),
            draining: watch::Sender::new(false),
            drain_asked: watch::Sender::new(false),
            evicted: watch::Sender::new(None),
        }
    }

    /// True while the lease is good by the local clock.
    pub fn is_good(&self) -> bool {
        Instant::now() < *self.good_until.borrow()
    }

    /// True while the lease is good and was so all the time since `asked`, and this process is not on its way out: what
    /// was claimed then is still ours and will be waited for.
    pub fn covers_since(&self, asked: Instant) -> bool {
        !*self.draining.borrow() && self.is_good() && self.lapsed.borrow().is_none_or(|lapsed| lapsed < asked)
    }

    /// Takes note of a renewal that began at `began`; true when the lease had ended before. That comes to light by the local clock, or because
    /// the host was `told_lost`: a suspended machine's clock may have stood still, and the database's may have stepped. A renewal does not undo it.
    fn renewed(&self, began: Instant, timing: LeaseTiming, told_lost: bool) -> bool {
        let lapsed = told_lost || !self.is_good();
        if lapsed {
            self.lapsed.send_replace(Some(Instant::now()));
        }
        self.good_until.send_replace(began + timing.self_fence_after());
        lapsed
    }

    /// Resolves when the lease is no longer good. Cancel safe.
    pub async fn lost(&self) {
        while self.is_good() {
            let until = *self.good_until.borrow();
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// True while no new work is taken, for whichever reason.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow() || *self.drain_asked.borrow()
    }

    fn set_admission(&self, metrics: &crate::metrics::Metrics) {
        let open = self.is_good() && !self.is_draining();
        metrics.admitting.set(i64::from(open));
        self.admission.send_if_modified(|admission| std::mem::replace(admission, open) != open);
    }
}

/// Renews until the process stops.
pub async fn heartbeats(agent: Arc<Agent>, stores: Stores, timing: LeaseTiming, standing: Standing) {
    let mut connection: Option<Session> = None;
    loop {
        let began = Instant::now();
        match tokio::time::timeout(timing.heartbeat(), beat(&agent, &stores, timing, &mut connection)).await {
            Ok(Ok(answer)) => {
                if answer.renewed && standing.renewed(began, timing, answer.told_lost) {
                    // the leader may have said that all of it is lost
                    agent.changed.notify_one();
                }
                obey(&agent, &standing, answer);
            }
            failed => {
                // half an exchange may be left on it
                connection = None;
                agent.metrics.heartbeat_failures.inc();
                let why = match failed {
                    Ok(Err(error)) => chain(&error),
                    _ => "no answer in time".to_owned(),
                };
                tracing::warn!(why, "a heartbeat failed");
            }
        }
        standing.set_admission(&agent.metrics);
        let pause = if connection.is_some() { timing.heartbeat() } else { timing.heartbeat() / 10 };
        tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
    }
}

async fn beat(
    agent: &Agent,
    stores: &Stores,
    timing: LeaseTiming,
    connection: &mut Option<Session>,
) -> Result<farm::Heartbeat, DbError> {
    let db = match connection {
        Some(connection) => connection,
        none => none.insert(db::dedicated(stores, "modelyard-lease").await?),
    };
    farm::heartbeat(db, &agent.host, agent.me, &agent.running.leases(), timing.ttl, timing.heartbeat()).await
}

fn obey(agent: &Arc<Agent>, standing: &Standing, answer: farm::Heartbeat) {
    if !answer.renewed || answer.superseded {
        let why = if answer.superseded {
            format!("another agent registered as host `{}`", agent.host)
        } else {
            "the lease of this agent is gone from the database".to_owned()
        };
        // what is claimed from now on would only die with this process
        standing.draining.send_replace(true);
        standing.evicted.send_replace(Some(why));
    }
    standing.drain_asked.send_replace(answer.draining);
    for id in answer.cancels {
        let _ = agent.running.stop(id, StopReason::Cancelled);
    }
    for id in answer.lost {
        // a job that ended since the heartbeat set out is not running for the database either, and nothing is lost
        if agent.running.stop(id, StopReason::Lost) {
            tracing::warn!(job.id = %id, "the database gave this job to somebody else; stopping it");
        }
    }
    for (id, fence) in answer.strays {
        let agent = agent.clone();
        agent.clone().tasks.spawn("hand back a stray", async move { hand_back(&agent, id, fence).await });
    }
}

/// Gives back whatever the database still believes is here, although nothing runs any more: claims that were under way
/// when the drain began.
///
/// # Errors
/// Database errors; those jobs are taken back when the lease ends.
pub async fn hand_back_rest(agent: &Agent, timing: LeaseTiming) -> Result<(), DbError> {
    let mut db = agent.pool.acquire().await?;
    let answer = farm::heartbeat(&mut db, &agent.host, agent.me, &[], timing.ttl, Duration::ZERO).await?;
    drop(db);
    for (id, fence) in answer.strays {
        hand_back(agent, id, fence).await;
    }
    Ok(())
}

/// Gives back a job that the database believes is here but is not: its claim never arrived.
async fn hand_back(agent: &Agent, id: JobId, fence: i64) {
    if agent.running.get(id, fence).is_some() {
        // it arrived in the meantime
        return;
    }
    let lease = jobs::JobLease { id, fence, incarnation: agent.me };
    let settled = async {
        let mut tx = agent.pool.begin().await?;
        let settlement = jobs::settle(&mut tx, lease, &Report::HandedBack, 0.0).await?;
        tx.commit().await?;
        Ok::<_, DbError>(settlement)
    };
    match settled.await {
        Ok(settlement) => tracing::warn!(job.id = %id, ?settlement, "handed back a job whose claim never arrived"),
        Err(error) => {
            tracing::warn!(job.id = %id, error = %chain(&error), "could not hand back a stray; trying again at the next heartbeat")
        }
    }
}

/// Stops everything that runs as soon as the lease is not good any more, again and again.
pub async fn self_fence(agent: Arc<Agent>, standing: Standing) {
    loop {
        standing.lost().await;
        standing.lapsed.send_replace(Some(Instant::now()));
        standing.set_admission(&agent.metrics);
        let stopped = agent.running.stop_all(StopReason::Lost);
        if stopped > 0 {
            agent.metrics.self_fenced.inc();
            tracing::error!(stopped, "the lease could not be renewed in time; stopped all jobs");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lease_is_lost_before_the_database_lets_others_in_and_a_renewal_moves_the_end() {
        let timing = LeaseTiming { ttl: Duration::from_secs(15) };
        let between = timing.ttl.checked_sub(timing.self_fence_after()).unwrap();
        assert!(
            crate::runner::HURRIED_GRACE < between,
            "a run that does not stop is killed before others may start it"
        );
        let standing = Standing::new(Instant::now(), timing);
        assert!(standing.is_good());
        standing.good_until.send_replace(Instant::now().checked_sub(Duration::from_millis(1)).unwrap());
        assert!(!standing.is_good());
        standing.lost().await;
        let asked = Instant::now();
        assert!(standing.renewed(Instant::now(), timing, false), "it had ended");
        assert!(standing.is_good());
        assert!(!standing.covers_since(asked), "a claim from before the renewal may be somebody else's by now");
        assert!(standing.covers_since(Instant::now()));
    }

    #[test]
    fn a_lease_that_is_good_here_had_ended_where_the_host_was_told_to_be_lost() {
        let timing = LeaseTiming { ttl: Duration::from_secs(15) };
        let standing = Standing::new(Instant::now(), timing);
        let asked = Instant::now();
        assert!(!standing.renewed(Instant::now(), timing, false));
        assert!(standing.covers_since(asked));
        assert!(standing.renewed(Instant::now(), timing, true));
        assert!(standing.is_good());
        assert!(!standing.covers_since(asked), "the database gave what was claimed to others");
    }

    #[test]
    fn an_operator_may_take_a_drain_back_but_a_stop_stays() {
        let standing = Standing::new(Instant::now(), LeaseTiming { ttl: Duration::from_secs(15) });
        standing.drain_asked.send_replace(true);
        assert!(standing.is_draining());
        standing.drain_asked.send_replace(false);
        assert!(!standing.is_draining());
        standing.draining.send_replace(true);
        standing.drain_asked.send_replace(false);
        assert!(standing.is_draining());
    }
}
