//! Accepting jobs: G1, and one job for one idempotency key whatever is sent how often.

use futures::future::join_all;
use harness::{Farm, LONG, ModelFile, SHORT, mebibytes};
use private_stores::StopMode;
use reqwest::Method;
use serde_json::json;
use shared::{
    ids::JobId,
    job::JobState,
    wire::{JobView, ModelSummary},
};

use crate::support::small_model;

/// Every 202 that a client saw is a job that ends, although the API is killed while it answers and Postgres crashes after.
#[tokio::test]
async fn g1_durable_accept() {
    let mut farm = Farm::builder().with(|settings| settings.own_postgres = true).start().await;
    for number in 0..24 {
        ModelFile::vae(4096).seed(number).write(&farm.library(), &format!("m{number}.safetensors"));
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let models: Vec<ModelSummary> = farm.api.list("/v1/models?limit=100").await;
    assert_eq!(models.len(), 24);

    let api = farm.api.clone();
    let requests = models.iter().map(|model| {
        let request = api.request(Method::POST, &format!("/v1/models/{}/load", model.name)).json(&json!({}));
        let api = &api;
        async move {
            api.try_send(request)
                .await
                .ok()
                .filter(|answer| answer.status == 202)
                .map(|answer| answer.json::<JobView>().id)
        }
    });
    let pid = farm.api_daemon.process.pid();
    let killer = async {
        // in the middle of the answers
        harness::wait_for("some jobs", SHORT, || async {
            let count = farm.ledger.number("select count(*) from jobs where kind = 'load'").await;
            if count >= 6 { Ok(()) } else { Err(format!("{count} jobs")) }
        })
        .await;
        harness::kill(pid);
    };
    let (accepted, ()) = tokio::join!(join_all(requests), killer);
    let accepted: Vec<JobId> = accepted.into_iter().flatten().collect();
    farm.server.with(|postgres| postgres.restart(StopMode::Immediate)).expect("Postgres comes back");

    farm.restart_api().await;
    assert!(!accepted.is_empty());
    for job in accepted {
        farm.api.job_ended(job, JobState::Succeeded, LONG).await;
    }
    // whatever was accepted without being told is whole too: a row and its first event, or neither
    let torn = farm
        .ledger
        .number("select count(*) from jobs j where not exists (select 1 from job_events e where e.job_id = j.id and e.type = 'enqueued')")
        .await;
    assert_eq!(torn, 0);
    harness::wait_for("every job to end", LONG, || async {
        let open = farm.ledger.number("select count(*) from jobs where finished_at is null").await;
        if open == 0 { Ok(()) } else { Err(format!("{open} open")) }
    })
    .await;
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn one_idempotency_key_makes_one_job() {
    let farm = Farm::start().await;
    small_model(&farm);
    ModelFile::vae(mebibytes(1)).seed(3).write(&farm.library(), "other.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let load = |model: &str, key: &str| {
        let request = farm.api.request(Method::POST, &format!("/v1/models/{model}/load"));
        farm.api.send(request.header("idempotency-key", key).json(&json!({ "priority": 3 })))
    };

    let answers = join_all((0..8).map(|_| load("small", "one"))).await;
    let jobs: Vec<JobView> = answers.iter().filter(|answer| answer.status == 202).map(harness::Answer::json).collect();
    assert!(!jobs.is_empty());
    assert!(jobs.iter().all(|job| job.id == jobs[0].id), "{jobs:?}");
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        answer.problem(409);
    }
    let location = answers.iter().find(|answer| answer.status == 202).and_then(|answer| answer.header("location"));
    assert_eq!(location, Some(harness::job_path(jobs[0].id).as_str()));
    farm.api.job_ended(jobs[0].id, JobState::Succeeded, SHORT).await;
    // after the end too: the key is remembered, not the running job
    let replayed = load("small", "one").await;
    assert_eq!(replayed.accepted().id, jobs[0].id);
    assert_eq!(farm.ledger.number("select count(*) from jobs where kind = 'load'").await, 1);

    let request = farm.api.request(Method::POST, "/v1/models/small/load").header("idempotency-key", "one");
    farm.api.send(request.json(&json!({ "priority": 4 }))).await.problem(422);
    let request = farm.api.request(Method::POST, "/v1/models/small/load").header("idempotency-key", "k".repeat(300));
    farm.api.send(request.json(&json!({}))).await.problem(400);
    assert_ne!(load("other", "two").await.accepted().id, jobs[0].id);
}

#[tokio::test]
async fn an_equal_request_joins_the_active_job() {
    let farm = Farm::start().await;
    crate::support::big_model(&farm, 24);
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let first = farm.api.post("/v1/models/big/load", &json!({})).await;
    let second = farm.api.post("/v1/models/big/load", &json!({})).await;
    assert_eq!(second.accepted().id, first.accepted().id);
    assert_eq!((first.header("modelyard-joined"), second.header("modelyard-joined")), (None, Some("true")));
    farm.api.job_ended(first.accepted().id, JobState::Succeeded, SHORT).await;
}

#[tokio::test]
async fn prefer_wait_answers_with_the_end_or_with_the_job() {
    let farm = Farm::start().await;
    small_model(&farm);
    crate::support::big_model(&farm, 24);
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let load = |model: &str, wait: &str| {
        let request = farm.api.request(Method::POST, &format!("/v1/models/{model}/load"));
        farm.api.send(request.header("prefer", wait).json(&json!({})))
    };
    let done = load("small", "wait=30").await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(done.json::<JobView>().state, JobState::Succeeded);
    assert!(done.header("preference-applied").is_some_and(|applied| applied.starts_with("wait")), "{done:?}");
    let job = load("big", "wait=0").await.accepted();
    assert!(!job.state.is_terminal());
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}
