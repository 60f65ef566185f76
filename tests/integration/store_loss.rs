//! Postgres restarts and pauses: honest answers while it is away, and recovery without anybody's help.

use harness::{Farm, LONG, SHORT, wait_for};
use private_stores::StopMode;
use rustix::process::Signal;
use shared::job::JobState;

use crate::support::{big_model, bytes_move, load, loaded, small_model};

#[tokio::test]
async fn postgres_may_restart_under_a_running_load() {
    let farm = Farm::builder()
        .with(|settings| {
            settings.own_postgres = true;
            // longer than Postgres may take to come back on a busy disk
            settings.lease_ttl = std::time::Duration::from_secs(30);
        })
        .start()
        .await;
    big_model(&farm, 64);
    let agent = farm.agent_with_library(farm.agent("a").read_limit("16MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    farm.server.with(|postgres| postgres.kill()).expect("Postgres ends");
    farm.server.with(|postgres| postgres.start()).expect("Postgres comes back");
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["succeeded"], "a short outage costs nothing");
    assert_eq!(agent.metric("modelyard_self_fences_total", "").await, 0.0);
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn without_postgres_the_api_says_503_and_recovers_by_itself() {
    let farm = Farm::builder().with(|settings| settings.own_postgres = true).start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    farm.server.with(|postgres| postgres.stop(StopMode::Immediate)).expect("Postgres ends");
    let problem = wait_for("a 503", SHORT, || async {
        let answer = farm.api.ask("/v1/models").await;
        if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert!(problem.header("retry-after").is_some(), "{problem:?}");
    problem.problem(503);
    assert_eq!(farm.api.ask("/readyz").await.status, 503);
    assert_eq!(farm.api.ask("/livez").await.status, 200);
    wait_for("the agent to be unready", SHORT, || async {
        let (status, why) = agent.readiness().await;
        if status == 503 { Ok(()) } else { Err(why) }
    })
    .await;
    farm.server.with(|postgres| postgres.start()).expect("Postgres comes back");
    wait_for("the API to be ready", SHORT, || async {
        let answer = farm.api.ask("/readyz").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    loaded(&farm, "small").await;
    farm.assert_ledger_is_clean().await;
}

/// F6: an orderly restart ends every session. Nothing of ours restarts for it, and the load goes on.
#[tokio::test]
async fn f6_an_orderly_restart_of_postgres_restarts_nothing_else() {
    let farm = Farm::builder()
        .with(|settings| {
            settings.own_postgres = true;
            settings.lease_ttl = std::time::Duration::from_secs(10);
        })
        .start()
        .await;
    big_model(&farm, 48);
    let mut agent = farm.agent_with_library(farm.agent("a").read_limit("16MB")).await;
    let (runner, job) = (agent.runner().await, load(&farm, "big").await);
    bytes_move(&farm, &job).await;
    farm.server.with(|postgres| postgres.stop(StopMode::Fast)).expect("Postgres ends");
    farm.server.with(|postgres| postgres.start()).expect("Postgres comes back");
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["succeeded"]);
    assert_eq!((agent.runner().await, agent.process.exited()), (runner, None));
    let mut farm = farm;
    for daemon in [&mut farm.api_daemon, &mut farm.scheduler] {
        assert_eq!(daemon.process.exited(), None);
    }
    farm.assert_ledger_is_clean().await;
}

/// A database that hangs is as good as none: workers stop in time, requests do not wait for ever, and all go on after.
#[tokio::test]
async fn a_database_that_hangs_is_noticed_and_survived() {
    let farm = Farm::builder().with(|settings| settings.own_postgres = true).start().await;
    big_model(&farm, 96);
    let agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    let pids = postgres_processes(farm.server.with(|postgres| postgres.pid()).expect("it runs"));
    pids.iter().for_each(|pid| harness::signal(*pid, Signal::STOP));
    wait_for("the agent to stop its job", LONG, || async {
        let stops = agent.metric("modelyard_self_fences_total", "").await;
        if stops >= 1.0 { Ok(()) } else { Err(format!("{stops}")) }
    })
    .await;
    let answer = farm.api.ask("/v1/models").await;
    answer.problem(503);
    pids.iter().for_each(|pid| harness::signal(*pid, Signal::CONT));
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    // whoever is first, the leader or the worker that finds a job of its own that it does not run any more
    let outcomes = farm.ledger.outcomes(job.id).await;
    assert!(matches!(outcomes[0].as_str(), "lost" | "handed_back") && outcomes[1..] == ["succeeded"], "{outcomes:?}");
    farm.assert_ledger_is_clean().await;
}

/// The postmaster and its children.
fn postgres_processes(postmaster: u32) -> Vec<u32> {
    let mut pids = harness::children(postmaster);
    pids.push(postmaster);
    pids
}
