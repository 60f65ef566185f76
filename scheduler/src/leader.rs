//! Leadership of this process: a campaign loop on a connection of its own, and what the others may believe of it.
//!
//! A term is trusted from the start of the campaign that won or renewed it until its TTL less a margin, by the local
//! monotonic clock. The database refuses writes of an ended term as well; the local trust only spares useless work.
//! Nothing may be reaped until one worker TTL after a new term, or after the database was away: workers could not renew.

use std::time::{Duration, Instant};

use shared::{
    config::Stores,
    db::{self, DbError, Session, leader},
    error::chain,
    ids::Incarnation,
    shutdown::Tasks,
};
use tokio::sync::watch;

use crate::metrics::{Metrics, ROLE};

/// How often a standby tries.
const STANDBY: Duration = Duration::from_millis(500);

/// A term that this process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lead {
    /// The term; every write names it.
    pub(crate) term: i64,
    /// Local time until which the term is trusted.
    pub(crate) trusted_until: Instant,
    /// Local time before which nothing is reaped.
    pub(crate) reap_from: Instant,
}

/// What the rest of the process believes about its leadership.
#[derive(Debug, Clone)]
pub(crate) struct Leadership(watch::Receiver<Option<Lead>>);

impl Leadership {
    /// The term, while it can be trusted.
    pub(crate) fn current(&self) -> Option<Lead> {
        self.0.borrow().filter(|lead| Instant::now() < lead.trusted_until)
    }

    /// Waits until something about the leadership changed. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The times that decide about trust and grace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// TTL of a term.
    pub(crate) term_ttl: Duration,
    /// TTL of a worker's lease.
    pub(crate) lease_ttl: Duration,
}

/// What one campaign learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// We lead in this term.
    Won(i64),
    /// Somebody else leads.
    Standby,
    /// The database did not answer: what we believed holds until its trust ends.
    Unknown,
}

/// The belief after a campaign that began at `began`. Pure, so that its rules can be tested without a clock.
fn believe(
    held: Option<Lead>,
    outcome: Outcome,
    began: Instant,
    answered: Instant,
    away: bool,
    timing: Timing,
) -> Option<Lead> {
    match outcome {
        Outcome::Unknown => held,
        Outcome::Standby => None,
        Outcome::Won(term) => {
            let trusted_until = began + (timing.term_ttl - timing.term_ttl / 5);
            let reap_from = match held {
                Some(lead) if lead.term == term && !away => lead.reap_from,
                _ => answered + timing.lease_ttl,
            };
            Some(Lead { term, trusted_until, reap_from })
        }
    }
}

/// Starts campaigning; resigns when the process stops.
pub(crate) fn start(stores: Stores, me: Incarnation, timing: Timing, metrics: Metrics, tasks: &Tasks) -> Leadership {
    let (sender, receiver) = watch::channel(None);
    let token = tasks.token().clone();
    tasks.spawn("leader", async move {
        let mut campaign = Campaign { stores, me, timing, metrics, connection: None, away: false, sender };
        loop {
            let wait = campaign.round().await;
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        campaign.resign().await;
    });
    Leadership(receiver)
}

struct Campaign {
    stores: Stores,
    me: Incarnation,
    timing: Timing,
    metrics: Metrics,
    connection: Option<Session>,
    /// The database was out of reach since the last answer.
    away: bool,
    sender: watch::Sender<Option<Lead>>,
}

impl Campaign {
    /// One campaign; answers how long to wait for the next.
    async fn round(&mut self) -> Duration {
        let began = Instant::now();
        let limit = (self.timing.term_ttl / 2).max(Duration::from_millis(200));
        let outcome = match tokio::time::timeout(limit, self.ask()).await {
            Ok(Ok(Some(term))) => Outcome::Won(term),
            Ok(Ok(None)) => Outcome::Standby,
            Ok(Err(error)) => self.unknown(&chain(&error)),
            Err(_) => self.unknown("no answer in time"),
        };
        let held = *self.sender.borrow();
        let believed = believe(held, outcome, began, Instant::now(), self.away, self.timing);
        if outcome != Outcome::Unknown {
            self.away = false;
        }
        self.publish(held, believed);
        if matches!(outcome, Outcome::Won(_)) {
            self.timing.term_ttl / 3
        } else {
            STANDBY.min(self.timing.term_ttl / 3)
        }
    }

    fn unknown(&mut self, why: &str) -> Outcome {
        if !self.away {
            tracing::warn!(
                error = why,
                "the campaign got no answer; nothing is reaped until a lease TTL after the next one"
            );
        }
        self.away = true;
        self.connection = None;
        Outcome::Unknown
    }

    async fn ask(&mut self) -> Result<Option<i64>, DbError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(db::dedicated(&self.stores, "modelyard-scheduler-leader").await?),
        };
        leader::campaign(connection, ROLE, self.me, self.timing.term_ttl).await
    }

    fn publish(&self, held: Option<Lead>, believed: Option<Lead>) {
        let leads = believed.is_some_and(|lead| Instant::now() < lead.trusted_until);
        self.metrics.leader.set(if leads { 1.0 } else { 0.0 });
        if held.map(|lead| lead.term) != believed.map(|lead| lead.term) {
            self.metrics.leader_transitions.inc();
            match believed {
                Some(lead) => tracing::info!(term = lead.term, "leads"),
                None => tracing::info!("another scheduler leads; standing by"),
            }
        }
        self.sender.send_if_modified(|value| std::mem::replace(value, believed) != believed);
    }

    async fn resign(&mut self) {
        let held = self.sender.send_replace(None);
        self.metrics.leader.set(0.0);
        let (Some(lead), Some(connection)) = (held, self.connection.as_mut()) else { return };
        let resigned = tokio::time::timeout(self.timing.term_ttl, leader::resign(connection, ROLE, lead.term)).await;
        match resigned {
            Ok(Ok(())) => tracing::info!(term = lead.term, "resigned"),
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "could not resign; the term runs out"),
            Err(_) => tracing::warn!("could not resign in time; the term runs out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { term_ttl: Duration::from_secs(5), lease_ttl: Duration::from_secs(15) };

    #[test]
    fn a_renewal_keeps_the_grace_and_a_new_term_or_an_outage_starts_it_again() {
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let won = |held, term, now, away| believe(held, Outcome::Won(term), now, now, away, TIMING);
        let first = won(None, 1, at(0), false).unwrap();
        assert_eq!((first.trusted_until, first.reap_from), (at(4), at(15)));
        let renewed = won(Some(first), 1, at(2), false).unwrap();
        assert_eq!((renewed.trusted_until, renewed.reap_from), (at(6), at(15)));
        assert_eq!(won(Some(renewed), 1, at(4), true).unwrap().reap_from, at(19), "the database was away");
        assert_eq!(won(Some(renewed), 2, at(9), false).unwrap().reap_from, at(24), "a new term");
    }

    #[test]
    fn no_answer_changes_no_belief_and_a_refusal_ends_it() {
        let now = Instant::now();
        let lead = believe(None, Outcome::Won(7), now, now, false, TIMING);
        assert_eq!(believe(lead, Outcome::Unknown, now, now, true, TIMING), lead);
        assert_eq!(believe(lead, Outcome::Standby, now, now, false, TIMING), None);
    }

    #[test]
    fn trust_counts_from_before_the_question_was_sent() {
        let began = Instant::now();
        let answered = began + Duration::from_secs(2);
        let lead = believe(None, Outcome::Won(1), began, answered, false, TIMING).unwrap();
        assert_eq!(lead.trusted_until, began + Duration::from_secs(4));
        assert_eq!(lead.reap_from, answered + Duration::from_secs(15));
    }
}
