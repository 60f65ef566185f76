//! Cancelling at any moment: before a place is found, while bytes move, after the end.

use std::time::Instant;

use harness::{Farm, LONG, SHORT, wait_for};
use serde_json::json;
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{CacheView, JobDetail},
};

use crate::support::{big_model, bytes_move, load, load_with, loaded, metric_is, nothing_is_resident, small_model};

#[tokio::test]
async fn a_load_is_cancelled_while_bytes_move() {
    let farm = Farm::start().await;
    big_model(&farm, 128);
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    let asked = Instant::now();
    assert_eq!(farm.api.cancel(job.id).await.status, 202);
    let ended = farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    assert_eq!(ended.job.error.map(|error| error.code), Some(ErrorCode::Cancelled));
    let events = farm.ledger.events(job.id).await;
    let at = |kind: &str| events.iter().find(|event| event.kind == kind).map(|event| event.at).expect(kind);
    // far less than the quarter of a minute that the rest would have taken; how long it was is printed, not judged
    let took = at("cancelled") - at("cancel_requested");
    println!("a load was cancelled {took:.3} s after it was asked for");
    assert!(took < 5.0, "{events:#?}");
    nothing_is_resident(&farm, &agent, "a").await;
    println!("and its memory was back within {:?}", asked.elapsed());
    assert_eq!(farm.ledger.outcomes(job.id).await, ["cancelled"]);

    // asked again it says the same, and the device serves others
    assert_eq!(farm.api.cancel(job.id).await.status, 200);
    assert_eq!(farm.api.job(job.id).await.job.state, JobState::Cancelled);
    loaded(&farm, "small").await;
    farm.assert_ledger_is_clean().await;
}

/// Who joins the load of another job is told how far it is, has it to the end when that job is cancelled, and its bytes count once.
#[tokio::test]
async fn who_joins_a_load_is_told_how_far_it_is_and_keeps_it() {
    let farm = Farm::start().await;
    big_model(&farm, 64);
    let agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let first = load(&farm, "big").await;
    let reads = |seen: &JobDetail| {
        let progress = seen.job.progress.as_ref();
        progress.is_some_and(|progress| progress.phase == "reading" && progress.bytes_done > 0)
    };
    farm.api.job_is(first.id, "it reads", SHORT, reads).await;
    let second = farm.api.submit("/v1/jobs", json!({ "kind": "cache_add", "args": { "model": "big" } })).await;
    farm.api.job_is(second.id, "it is told of the same bytes", SHORT, reads).await;
    farm.api.cancel(first.id).await;
    farm.api.job_ended(first.id, JobState::Cancelled, SHORT).await;
    let ended = farm.api.job_ended(second.id, JobState::Succeeded, LONG).await;
    let bytes = ended.job.result.as_ref().and_then(|result| result["bytes"].as_f64());
    let cache: CacheView = farm.api.get("/v1/cache").await;
    assert_eq!((cache.total.misses, cache.total.joins), (1, 1), "{:?}", cache.total);
    wait_for("the bytes to be counted once", SHORT, || async {
        let counted = agent.metric("modelyard_loaded_bytes_total", "").await;
        if Some(counted) == bytes { Ok(()) } else { Err(format!("{counted} for {bytes:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_has_not_started_is_cancelled_at_once() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let job = load_with(&farm, "small", json!({ "labels": ["nowhere"] })).await;
    let answer = farm.api.cancel(job.id).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    assert!(farm.ledger.attempts(job.id).await.is_empty());
}

/// The picture that a job is shown from by several statements is of one moment: never its attempts beside the state before them.
#[tokio::test]
async fn a_picture_of_a_job_is_of_one_moment() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let job = load_with(&farm, "small", json!({ "labels": ["nowhere"] })).await;
    let mut picture = shared::db::snapshot(farm.ledger.pool()).await.expect("a picture");
    let mut now = farm.ledger.pool().acquire().await.expect("a connection");
    let state = async |session: &mut shared::db::Session| {
        shared::db::jobs::find(session, job.id).await.expect("a look").expect("the job").state
    };
    let before = state(&mut picture).await;
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    assert_eq!((state(&mut picture).await, state(&mut now).await), (before, "cancelled".to_owned()));
}

#[tokio::test]
async fn what_has_ended_stays_ended() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let done = loaded(&farm, "small").await;
    assert_eq!(farm.api.cancel(done.job.id).await.status, 200);
    assert_eq!(farm.api.job(done.job.id).await.job.state, JobState::Succeeded);
    assert_eq!(farm.ledger.count(done.job.id, "cancel_requested").await, 0);
}

/// A cancel asked of a worker that then dies is not forgotten: nobody runs the job again.
#[tokio::test]
async fn a_cancel_outlives_the_worker() {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    let mut agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    agent.process.pause().await;
    assert_eq!(farm.api.cancel(job.id).await.status, 202);
    agent.process.kill().await;
    farm.api.job_ended(job.id, JobState::Cancelled, LONG).await;
    assert_eq!(farm.ledger.attempts(job.id).await.len(), 1);
}

/// A cancel of a job for several places reaches all of them.
#[tokio::test]
async fn a_cancel_of_a_parent_reaches_its_children() {
    let farm = Farm::start().await;
    big_model(&farm, 96);
    let a = farm.agent_with_library(farm.agent("a").read_limit("4MB")).await;
    let b = farm.agent_with_library(farm.agent("b").read_limit("4MB")).await;
    let parent = load_with(&farm, "big", json!({ "target": "all" })).await;
    let seen = farm
        .api
        .job_is(parent.id, "both children run", SHORT, |seen| {
            seen.children.len() == 2 && seen.children.iter().all(|child| child.state == JobState::Running)
        })
        .await;
    farm.api.cancel(parent.id).await;
    farm.api.job_ended(parent.id, JobState::Cancelled, SHORT).await;
    for child in seen.children {
        farm.api.job_ended(child.id, JobState::Cancelled, SHORT).await;
    }
    nothing_is_resident(&farm, &a, "a").await;
    nothing_is_resident(&farm, &b, "b").await;
}

/// One load into RAM that two jobs wait for: one of them can leave it, and a removal ends it for all.
#[tokio::test]
async fn a_load_that_jobs_share_is_cancelled_by_one_or_for_all() {
    let farm = Farm::start().await;
    big_model(&farm, 64);
    let agent = farm.agent_with_library(farm.agent("a").read_limit("2MB")).await;
    let component = farm.model("big").await.components[0].id;
    let load = load(&farm, "big").await;
    bytes_move(&farm, &load).await;
    let joined = async |number: u32| {
        // of equal jobs there would be one
        let request = json!({ "model": "big", "keep_alive": 100 + number });
        let job = farm.api.submit("/v1/cache", request).await;
        metric_is(&agent, "modelyard_cache_requests", "answer=\"join\"", f64::from(number)).await;
        job
    };
    let leaves = joined(1).await;
    farm.api.cancel(leaves.id).await;
    farm.api.job_ended(leaves.id, JobState::Cancelled, SHORT).await;
    assert_eq!(farm.api.job(load.id).await.job.state, JobState::Running, "the load goes on for the other");

    let stays = joined(2).await;
    let path = format!("/v1/cache/components/{component}");
    let removal = farm.api.delete(&path).await.accepted();
    let refused = farm.api.job_ended(removal.id, JobState::Failed, SHORT).await.job.error.expect("an error");
    assert!(refused.code == ErrorCode::Conflict && refused.message.contains("is being loaded"), "{refused:?}");
    let removal = farm.api.delete(&format!("{path}?host=a&cancel_loads=true")).await.accepted();
    let told = farm.api.job_ended(removal.id, JobState::Succeeded, SHORT).await.job.result.expect("a result");
    assert_eq!(told["cancelled_loads"], json!([component]), "{told}");
    for job in [load.id, stays.id] {
        farm.api.job_ended(job, JobState::Cancelled, SHORT).await;
        assert_eq!(farm.ledger.outcomes(job).await, ["cancelled"], "it is not tried again");
    }
    nothing_is_resident(&farm, &agent, "a").await;
    // a clear ends no loads
    let all = json!({ "kind": "cache_remove", "args": { "cancel_loads": true } });
    let refused = farm.api.post("/v1/jobs", &all).await.problem(400);
    assert!(refused.detail.contains("name the model or the component"), "{refused:?}");
    farm.assert_ledger_is_clean().await;
}
