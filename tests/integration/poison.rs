//! Jobs that kill their runner or their worker: G4, and what one crash costs.

use harness::{Daemon, Farm, LONG, SHORT, wait_for};
use rustix::process::Signal;
use shared::{job::JobState, wire::JobView};

use crate::support::{big_model, bytes_move, device_is, load, small_model};

/// Waits for a device that serves, and pauses its runner, so that a copy cannot end; the pid.
async fn pause_runner(farm: &Farm, agent: &Daemon) -> u32 {
    device_is(farm, "a/cpu:0", "ready", |view| view.state == "ready" && !view.staleness.stale).await;
    let runner = agent.runner().await;
    harness::signal(runner, Signal::STOP);
    runner
}

/// Kills a paused runner while this attempt waits for its copy, and waits for its successor.
async fn crash_under(farm: &Farm, agent: &Daemon, job: &JobView, attempt: i32, (runner, bytes): (u32, u64)) {
    farm.api
        .job_is(job.id, "waits for the copy", LONG, |seen| {
            let read = seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done >= bytes);
            seen.job.attempt == attempt && seen.job.state == JobState::Running && read
        })
        .await;
    harness::signal(runner, Signal::KILL);
    wait_for("another runner", SHORT, || async {
        match agent.runners().as_slice() {
            [pid] if *pid != runner => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// A job under which the runner dies is quarantined after two crashes; the device serves others.
#[tokio::test]
async fn g4_bounded_poison() {
    let farm = Farm::start().await;
    let file = big_model(&farm, 8);
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let bytes = file.tensor_bytes();
    let runner = pause_runner(&farm, &agent).await;
    let job = load(&farm, "big").await;
    crash_under(&farm, &agent, &job, 1, (runner, bytes)).await;
    // before the next attempt may begin: it waits for its delay
    let runner = pause_runner(&farm, &agent).await;
    crash_under(&farm, &agent, &job, 2, (runner, bytes)).await;
    let ended = farm.api.job_ended(job.id, JobState::Quarantined, SHORT).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "quarantined"]);
    assert!(ended.job.error.is_some());
    assert!(agent.metric("modelyard_runner_exits_total", "").await >= 2.0);
    let other = load(&farm, "small").await;
    farm.api.job_ended(other.id, JobState::Succeeded, SHORT).await;
    farm.assert_ledger_is_clean().await;
}

/// A job that takes its whole agent down is counted when it is claimed: nobody needs to live to report it.
#[tokio::test]
async fn g4_bounded_poison_counts_at_the_claim() {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    let settings = farm.agent("a").read_limit("8MB");
    let mut agent = farm.agent_with_library(settings.clone()).await;
    let job = load(&farm, "big").await;
    for _ in 0..2 {
        bytes_move(&farm, &job).await;
        agent.process.kill().await;
        // what follows is seen when the dead agent's lease is over
        farm.api.job_is(job.id, "is taken back", LONG, |seen| seen.job.state != JobState::Running).await;
        agent = farm.start_agent(settings.clone()).await;
    }
    let ended = farm.api.job_ended(job.id, JobState::Quarantined, LONG).await;
    assert_eq!(ended.attempts.len(), 2, "{ended:?}");
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "quarantined"]);
    drop(agent);
}

#[tokio::test]
async fn a_runner_crash_costs_one_attempt_and_the_runner_comes_back() {
    let farm = Farm::start().await;
    let file = big_model(&farm, 8);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let runner = pause_runner(&farm, &agent).await;
    let job = load(&farm, "big").await;
    crash_under(&farm, &agent, &job, 1, (runner, file.tensor_bytes())).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(done.job.attempt, 2);
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    assert_eq!(agent.metric("modelyard_runner_exits_total", "cpu:0").await, 1.0);
    device_is(&farm, "a/cpu:0", "holds the model", |view| view.resident.len() == 1 && view.state == "ready").await;
}

/// A runner that dies at rest takes its device's contents with it, and the status says so.
#[tokio::test]
async fn what_a_dead_runner_held_is_gone_from_the_status_and_can_be_loaded_again() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    crate::support::loaded(&farm, "small").await;
    device_is(&farm, "a/cpu:0", "holds the model", |view| view.resident.len() == 1).await;
    agent.kill_runner().await;
    device_is(&farm, "a/cpu:0", "ready and empty", |view| view.state == "ready" && view.resident.is_empty()).await;
    crate::support::loaded(&farm, "small").await;
    device_is(&farm, "a/cpu:0", "holds it again", |view| view.resident.len() == 1).await;
}
