//! Workers that die: G2, G3, and jobs that nobody else may take.

use std::time::Duration;

use harness::{Farm, LONG, SHORT, wait_for};
use serde_json::json;
use shared::{error::ErrorCode, ids::JobId, job::JobState};

use crate::support::{big_model, bytes_move, load, load_with, loaded, small_model};

/// A worker that dies mid-load loses its lease; the job is run once more, elsewhere, and succeeds.
#[tokio::test]
async fn g2_no_lost_job() {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    let mut agents = Vec::new();
    for host in ["a", "b"] {
        agents.push((host, farm.agent_with_library(farm.agent(host).read_limit("16MB")).await));
    }
    let job = load(&farm, "big").await;
    let seen = bytes_move(&farm, &job).await;
    let victim = seen.job.host.clone().expect("a running job has a host");
    let (_, agent) = agents.iter_mut().find(|(host, _)| *host == victim).expect("one of ours");
    let runner = agent.runner().await;
    agent.process.kill().await;
    wait_for("the runner to end with its agent", SHORT, || async {
        if std::path::Path::new(&format!("/proc/{runner}/exe")).exists() {
            Err(format!("{runner} lives"))
        } else {
            Ok(())
        }
    })
    .await;

    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_ne!(done.job.host.as_ref(), Some(&victim));
    let attempts = farm.ledger.attempts(job.id).await;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    assert!(attempts[0].fence < attempts[1].fence && attempts[0].incarnation != attempts[1].incarnation);
    farm.assert_ledger_is_clean().await;
}

/// Killed right before, around and right after its commit: the ledger shows exactly one success.
#[tokio::test]
async fn g3_single_effect() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut agent = farm.agent_with_library(farm.agent("a")).await;
    let mut jobs: Vec<JobId> = Vec::new();

    // before: a lock on the row holds the commit back until the worker is dead
    let mut lock = farm.ledger.pool().begin().await.expect("a transaction");
    let job = load(&farm, "small").await;
    farm.api.job_is(job.id, "was claimed", SHORT, |seen| !seen.attempts.is_empty()).await;
    sqlx::query("select 1 from jobs where id = $1 for update").bind(job.id).execute(&mut *lock).await.expect("a lock");
    wait_for("the commit to wait", SHORT, || async {
        let waiting = farm
            .ledger
            .number(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
            )
            .await;
        let ended =
            farm.ledger.number("select count(*) from jobs where kind = 'load' and finished_at is not null").await;
        if waiting > 0 || ended > 0 { Ok(()) } else { Err("nobody waits".into()) }
    })
    .await;
    agent.process.kill().await;
    lock.rollback().await.expect("the lock goes");
    jobs.push(job.id);
    agent = farm.agent_with_library(farm.agent("a")).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;

    for delay_ms in [0, 15, 60] {
        unload(&farm).await;
        let job = load(&farm, "small").await;
        farm.api.job_is(job.id, "was claimed", SHORT, |seen| !seen.attempts.is_empty()).await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        agent.process.kill().await;
        agent = farm.agent_with_library(farm.agent("a")).await;
        farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
        jobs.push(job.id);
    }

    // after: the success is in the database and nothing runs it again
    unload(&farm).await;
    let job = loaded(&farm, "small").await;
    agent.process.kill().await;
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    jobs.push(job.job.id);
    for job in jobs {
        assert_eq!(farm.ledger.count(job, "succeeded").await, 1, "{:#?}", farm.ledger.events(job).await);
    }
    farm.assert_ledger_is_clean().await;
}

async fn unload(farm: &Farm) {
    // a device that lost its agent holds nothing any more; then there is nothing to unload
    let answer = farm.api.post("/v1/models/small/unload", &json!({})).await;
    if answer.status == 202 {
        let job = answer.accepted();
        farm.api.job_is(job.id, "ends", LONG, |seen| seen.job.state.is_terminal()).await;
    }
}

/// Two hosts on one machine: a job for host b runs there. When b dies and nothing else may take it, it fails and says so.
#[tokio::test]
async fn a_job_for_host_b_runs_there_or_fails_as_worker_lost() {
    let farm = Farm::builder().with(|settings| settings.lost_after = Duration::from_secs(3)).start().await;
    small_model(&farm);
    big_model(&farm, 48);
    let _a = farm.agent_with_library(farm.agent("a").read_limit("16MB")).await;
    let mut b = farm.agent_with_library(farm.agent("b").read_limit("16MB")).await;

    let job = load_with(&farm, "small", json!({ "target": "host:b" })).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert_eq!((done.job.host.as_deref(), done.job.device.as_deref()), (Some("b"), Some("b/cpu:0")));

    let job = load_with(&farm, "big", json!({ "target": "device:b/cpu:0" })).await;
    bytes_move(&farm, &job).await;
    b.process.kill().await;
    let waits = farm
        .api
        .job_is(job.id, "waits with a reason", LONG, |seen| {
            seen.job.state == JobState::Pending && seen.job.reason.is_some()
        })
        .await;
    assert!(waits.job.error.is_some() || waits.job.reason.is_some(), "{waits:?}");
    let failed = farm.api.job_ended(job.id, JobState::Failed, LONG).await;
    assert_eq!(failed.job.error.map(|error| error.code), Some(ErrorCode::WorkerLost));
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost"]);
}

/// An agent that comes back under the same host name does not take over its predecessor's lease.
#[tokio::test]
async fn a_restarted_agent_is_another_worker() {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    let mut agent = farm.agent_with_library(farm.agent("a").read_limit("16MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    agent.process.kill().await;
    let _again = farm.start_agent(farm.agent("a")).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let attempts = farm.ledger.attempts(job.id).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
    assert_ne!(attempts[0].incarnation, attempts[1].incarnation);
}

/// Two agents must not serve one host: the first one ends and says why.
#[tokio::test]
async fn a_second_agent_of_one_host_ends_the_first() {
    let farm = Farm::start().await;
    let mut first = farm.start_agent(farm.agent("a")).await;
    let _second = farm.start_agent(farm.agent("a")).await;
    let status = first.process.ended(SHORT).await;
    assert_eq!(status.code(), Some(1));
    assert!(first.process.log().contains("another agent registered as host `a`"), "{}", first.process.log());
}
