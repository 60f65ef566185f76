//! What becomes of a failed attempt is decided by the class of its error.

use std::fs;

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{error::ErrorCode, job::JobState, wire::JobView};

use crate::support::{big_model, load, load_with, small_model};

/// What can never work is not tried again.
#[tokio::test]
async fn a_hopeless_error_fails_at_the_first_attempt() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let file = farm.library().join("small.safetensors");
    let whole = fs::read(&file).expect("the file");
    fs::write(&file, b"something else").expect("a write");
    let job = load(&farm, "small").await;
    let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    assert_eq!((failed.job.attempt, failed.job.error.map(|error| error.code)), (1, Some(ErrorCode::Corrupt)));
    assert_eq!(farm.ledger.outcomes(job.id).await, ["failed"]);

    // a retry is a new job that says whose; the scan that the failure asked for may have listed what is no model
    fs::write(&file, whole).expect("a write");
    wait_for("the model to be listed as it was", LONG, || async {
        let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
        farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
        let model = farm.model("small").await.summary;
        if model.model_type == "vae" { Ok(()) } else { Err(format!("{model:?}")) }
    })
    .await;
    let answer = farm.api.post(&format!("/v1/jobs/{}/retry", job.id), &json!({})).await.accepted();
    assert_eq!(answer.retry_of, Some(job.id));
    farm.api.job_ended(answer.id, JobState::Succeeded, LONG).await;
}

/// No room now is no failure: it waits without burning attempts, and goes on when there is room.
#[tokio::test]
async fn no_room_now_burns_no_attempt() {
    let farm = Farm::start().await;
    for (name, seed) in [("one", 1), ("two", 2)] {
        ModelFile::vae(mebibytes(48)).seed(seed).write(&farm.library(), &format!("{name}.safetensors"));
    }
    let settings = farm.agent("a").ram_budget("64MiB").read_limit("16MB");
    let _agent = farm.agent_with_library(settings).await;
    let mut jobs: Vec<JobView> = Vec::new();
    for model in ["one", "two"] {
        jobs.push(farm.api.submit("/v1/cache", json!({ "model": model })).await);
    }
    for job in jobs {
        let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
        assert_eq!(done.job.attempt, 1, "{done:?}");
        let outcomes = farm.ledger.outcomes(job.id).await;
        let (last, others) = outcomes.split_last().expect("an attempt");
        assert!(last == "succeeded" && others.iter().all(|outcome| outcome == "snoozed"), "{outcomes:?}");
    }
}

/// What may work next time is tried again, with a delay, and not more often than asked.
#[tokio::test]
async fn a_passing_error_is_tried_again_up_to_the_limit() {
    let farm = Farm::start().await;
    let file = big_model(&farm, 8);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let model = farm.model("big").await;
    let runner = agent.runner().await;
    harness::signal(runner, rustix::process::Signal::STOP);
    let request = json!({ "kind": "load", "args": { "model": model.summary.id }, "max_attempts": 1 });
    let job = farm.api.submit("/v1/jobs", request).await;
    farm.api
        .job_is(job.id, "waits for the copy", LONG, |seen| {
            seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done >= file.tensor_bytes())
        })
        .await;
    harness::kill(runner);
    let failed = farm.api.job_ended(job.id, JobState::Failed, LONG).await;
    assert_eq!((failed.job.attempt, failed.job.max_attempts), (1, 1));
    assert_eq!(farm.ledger.outcomes(job.id).await, ["failed"]);
}

/// A job that no place can take waits with its reason, and is placed when one can.
#[tokio::test]
async fn a_job_that_cannot_be_placed_waits_with_its_reason() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let job = load_with(&farm, "small", json!({ "labels": ["fast"] })).await;
    let waits = farm.api.job_is(job.id, "waits with a reason", SHORT, |seen| seen.job.reason.is_some()).await;
    assert_eq!(waits.job.state, JobState::Pending);
    let reason = waits.job.reason.map(|reason| reason.to_string()).unwrap_or_default();
    assert!(reason.contains("fast") && reason.contains("a/cpu:0"), "{reason}");
    let _b = farm.agent_with_library(farm.agent("b").label("fast")).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert_eq!(done.job.host.as_deref(), Some("b"));
    assert!(done.placement.is_some());
}
