//! One scheduler leads; the term that the database issues makes the writes of an old leader void.

use harness::{Farm, LONG, SHORT, wait_for};
use shared::job::JobState;

use crate::support::{loaded, small_model};

#[tokio::test]
async fn a_standby_takes_over_and_the_old_leader_places_nothing() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    assert_eq!(farm.scheduler.metric("modelyard_leader", "").await, 1.0);
    let standby = farm.another_scheduler().await;
    assert_eq!(standby.metric("modelyard_leader", "").await, 0.0);
    let term = farm.ledger.number("select term from leaders").await;

    farm.scheduler.process.pause().await;
    // accepted while nobody leads
    let job = crate::support::load(&farm, "small").await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(standby.metric("modelyard_leader", "").await, 1.0);
    assert_eq!(farm.ledger.number("select term from leaders").await, term + 1);

    farm.scheduler.process.resume();
    wait_for("the old leader to step down", SHORT, || async {
        let leads = farm.scheduler.metric("modelyard_leader", "").await;
        if leads == 0.0 { Ok(()) } else { Err(format!("{leads}")) }
    })
    .await;
    for _ in 0..5 {
        loaded(&farm, "small").await;
    }
    assert_eq!(
        farm.ledger.number("select term from leaders").await,
        term + 1,
        "nobody took the term from the new leader"
    );
    // each placement raised the fence by one and made one attempt: none was written by two leaders
    let doubled = farm
        .ledger
        .number(
            "select count(*) from jobs j where lane <> 'fanout' and finished_at is not null and fence <>
                 (select count(*) from job_events e where e.job_id = j.id and e.type = 'placed')",
        )
        .await;
    assert_eq!(doubled, 0);
    farm.assert_ledger_is_clean().await;
}

/// A leader that is told to stop gives the term up: its successor need not wait for the end of the term.
#[tokio::test]
async fn a_leader_that_stops_hands_over() {
    let mut farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let standby = farm.another_scheduler().await;
    farm.scheduler.process.signal(rustix::process::Signal::TERM);
    assert_eq!(farm.scheduler.process.ended(SHORT).await.code(), Some(0));
    wait_for("the standby to lead", SHORT, || async {
        let leads = standby.metric("modelyard_leader", "").await;
        if leads == 1.0 { Ok(()) } else { Err(format!("{leads}")) }
    })
    .await;
    loaded(&farm, "small").await;
}
