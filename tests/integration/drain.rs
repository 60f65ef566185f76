//! G12: SIGTERM stops taking work, finishes or hands back, exits 0.

use std::time::Duration;

use harness::{Farm, LONG, SHORT};
use rustix::process::Signal;
use serde_json::json;
use shared::{job::JobState, wire::HostView};

use crate::support::{big_model, bytes_move, load, loaded, small_model};

#[tokio::test]
async fn g12_clean_drain_finishes_what_fits_the_grace() {
    let mut farm = Farm::start().await;
    big_model(&farm, 32);
    small_model(&farm);
    let mut agent = farm.agent_with_library(farm.agent("a").read_limit("12MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    agent.process.signal(Signal::TERM);
    let late = load(&farm, "small").await;
    let status = agent.process.ended(LONG).await;
    assert_eq!(status.code(), Some(0), "{}", agent.process.log());
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["succeeded"]);
    // nothing was taken after the signal
    assert!(farm.ledger.attempts(late.id).await.is_empty());
    let _b = farm.agent_with_library(farm.agent("b")).await;
    farm.api.job_ended(late.id, JobState::Succeeded, LONG).await;

    for daemon in [&mut farm.scheduler, &mut farm.api_daemon] {
        daemon.process.signal(Signal::TERM);
        let status = daemon.process.ended(SHORT).await;
        assert_eq!(status.code(), Some(0), "{}", daemon.process.log());
    }
}

#[tokio::test]
async fn g12_clean_drain_hands_back_what_does_not() {
    let farm = Farm::start().await;
    big_model(&farm, 96);
    let slow = farm.agent("a").read_limit("4MB").drain_grace(Duration::from_millis(300));
    let mut agent = farm.agent_with_library(slow).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    let _b = farm.agent_with_library(farm.agent("b")).await;
    agent.process.signal(Signal::TERM);
    let status = agent.process.ended(LONG).await;
    assert_eq!(status.code(), Some(0), "{}", agent.process.log());
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!((done.job.host.as_deref(), done.job.attempt), (Some("b"), 1), "the attempt was not burnt: {done:?}");
    assert_eq!(farm.ledger.outcomes(job.id).await, ["handed_back", "succeeded"]);
    assert!(agent.runners().is_empty());
    farm.assert_ledger_is_clean().await;
}

/// An operator's drain: the host finishes its work and takes none until it is undrained.
#[tokio::test]
async fn a_drained_host_takes_nothing_until_it_is_undrained() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let drained = farm.api.post("/v1/hosts/a/drain", &json!({})).await;
    assert!(matches!(drained.status, 200 | 202 | 204), "{drained:?}");
    let job = load(&farm, "small").await;
    let waits = farm.api.job_is(job.id, "waits with a reason", SHORT, |seen| seen.job.reason.is_some()).await;
    assert_eq!(waits.job.state, JobState::Pending);
    assert!(waits.job.reason.is_some_and(|reason| reason.to_string().contains("drain")));
    let view: HostView = farm.api.get("/v1/hosts/a").await;
    assert_eq!(view.state, "draining");
    farm.api.post("/v1/hosts/a/undrain", &json!({})).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    loaded(&farm, "small").await;
}
