//! Pipelines on several hosts: each device stands for itself, a job for all of them says what became of each, and is repeated where
//! it did not succeed; what was done outlives the pipeline.
#![expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]

use std::{fs, path::Path};

use harness::{Daemon, Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    pipeline::Standing,
    wire::{JobDetail, JobView, PipelineEvent, PipelineRemoved, PipelineView},
};

use crate::{engine::make_models, lora_files};

const BASE: &str = "sd15-tiny-diffusers";
const LORA: &str = "lora-sd15-tiny";

/// Two hosts with a library each; in that of `b` the LoRA's numbers are none.
async fn two_hosts() -> (Farm, Daemon, Daemon) {
    let farm = Farm::start().await;
    make_models(&farm, "sd15", "diffusers");
    make_models(&farm, "lora-sd15", "single");
    ModelFile::vae(mebibytes(64)).write(&farm.library(), "large.safetensors");
    let other = farm.path("models-b");
    copy(&farm.library(), &other);
    lora_files::spoil(&lora_of(&other), "lora_down.weight");
    let a = farm.agent_with_library(farm.agent("a")).await;
    let mut settings = farm.agent("b").read_limit("4MiB");
    settings.roots = vec![("main".to_owned(), other)];
    let b = farm.agent_with_library(settings).await;
    (farm, a, b)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), there).unwrap();
        }
    }
}

fn lora_of(library: &Path) -> std::path::PathBuf {
    library.join(format!("{LORA}.safetensors"))
}

async fn pipeline(farm: &Farm) -> PipelineView {
    farm.api.get("/v1/pipelines/anime").await
}

/// Waits until the devices stand so, in the order of their names.
async fn stand(farm: &Farm, states: [Standing; 2]) -> PipelineView {
    wait_for(&format!("{states:?}"), LONG, || async {
        let view = pipeline(farm).await;
        let there: Vec<Standing> = view.devices.iter().map(|on| on.state).collect();
        if there == states { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await
}

async fn post(farm: &Farm, what: &str, body: Value) -> JobView {
    farm.api.submit(&format!("/v1/pipelines/anime/{what}"), body).await
}

async fn again(farm: &Farm, job: &JobView) -> JobView {
    farm.api.submit(&format!("/v1/jobs/{}/retry", job.id), json!({})).await
}

fn children(parent: &JobDetail) -> Vec<(&str, JobState)> {
    let mut all: Vec<_> = parent.children.iter().map(|child| (child.target.as_str(), child.state)).collect();
    all.sort_by_key(|(target, _)| *target);
    all
}

#[tokio::test]
async fn each_device_stands_for_itself_and_what_failed_is_done_again_there_alone() {
    let (farm, _a, _b) = two_hosts().await;
    let body = json!({ "model": BASE, "loras": [{ "lora": LORA, "weight": 0.8 }], "target": "all" });
    assert_eq!(farm.api.send(farm.api.request(Method::PUT, "/v1/pipelines/anime").json(&body)).await.status, 201);

    // one succeeds, one fails: the parent says which, and why
    let parent = post(&farm, "apply", json!({})).await;
    let ended = farm.api.job_ended(parent.id, JobState::Failed, LONG).await;
    let expected = vec![("device:a/cpu:0", JobState::Succeeded), ("device:b/cpu:0", JobState::Failed)];
    assert_eq!(children(&ended), expected);
    let why = ended.job.error.clone().unwrap().message;
    assert!(why.starts_with("1 of 2 child jobs did not succeed; the first, on `b/cpu:0`: "), "{why}");
    let view = stand(&farm, [Standing::Applied, Standing::Failed]).await;
    assert_eq!(view.devices[1].error.as_ref().map(|error| error.code), Some(ErrorCode::Corrupt), "{view:?}");
    assert_eq!((view.devices[0].applied_generation, view.devices[1].applied_generation), (Some(1), None));

    // done again where it failed, and nowhere else
    let retried = again(&farm, &parent).await;
    assert_eq!(retried.target, "device:b/cpu:0", "{retried:?}");
    farm.api.job_ended(retried.id, JobState::Failed, LONG).await;
    assert!(pipeline(&farm).await.devices[0].last_job == view.devices[0].last_job, "the other one was left alone");
    fs::copy(lora_of(&farm.library()), lora_of(&farm.path("models-b"))).unwrap();
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:b" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    let retried = again(&farm, &retried).await;
    farm.api.job_ended(retried.id, JobState::Succeeded, LONG).await;
    stand(&farm, [Standing::Applied, Standing::Applied]).await;

    // a restoration is stopped where it waits behind other work; done again, it means that device whatever came since
    let busy = farm.api.submit("/v1/models/large/load", json!({ "target": "device:b/cpu:0" })).await;
    crate::support::bytes_move(&farm, &busy).await;
    let parent = post(&farm, "restore", json!({})).await;
    stand(&farm, [Standing::Restored, Standing::Restoring]).await;
    farm.api.cancel(parent.id).await;
    let ended = farm.api.job_ended(parent.id, JobState::Cancelled, LONG).await;
    let expected = vec![("device:a/cpu:0", JobState::Succeeded), ("device:b/cpu:0", JobState::Cancelled)];
    assert_eq!(children(&ended), expected);
    farm.api.cancel(busy.id).await;
    let job = post(&farm, "apply", json!({ "target": "device:a/cpu:0" })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let retried = again(&farm, &parent).await;
    assert_eq!(retried.target, "device:b/cpu:0", "{retried:?}");
    farm.api.job_ended(retried.id, JobState::Succeeded, LONG).await;
    stand(&farm, [Standing::Applied, Standing::Restored]).await;
    farm.assert_ledger_is_clean().await;
}

async fn events(farm: &Farm, name: &str) -> Vec<(String, i64, Option<String>)> {
    let events: Vec<PipelineEvent> = farm.api.list(&format!("/v1/pipelines/{name}/history")).await;
    events.into_iter().map(|event| (event.event, event.generation, event.who)).collect()
}

#[tokio::test]
async fn what_was_done_with_a_removed_pipeline_is_found_by_its_name_and_id() {
    let farm = Farm::start().await;
    make_models(&farm, "sd15", "diffusers");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let declare = async |who: &str| {
        let request = farm.api.request(Method::PUT, "/v1/pipelines/anime").header("modelyard-actor", who);
        farm.api.send(request.json(&json!({ "model": BASE }))).await.json::<PipelineView>()
    };
    let remove = async |who: &str| {
        let request = farm.api.request(Method::DELETE, "/v1/pipelines/anime").header("modelyard-actor", who);
        farm.api.send(request).await
    };
    let entry = |event: &str, who: &str| (event.to_owned(), 1, Some(who.to_owned()));
    let first = declare("ada").await;
    let removed: PipelineRemoved = remove("grace").await.json();
    assert_eq!(removed.id, first.id);
    farm.api.ask("/v1/pipelines/anime").await.problem(404);
    let of_first = vec![entry("removed", "grace"), entry("declared", "ada")];
    assert_eq!(events(&farm, "anime").await, of_first);

    // a name stands for all that have or had it, an id for one
    let second = declare("bob").await;
    assert_eq!(events(&farm, "anime").await, [vec![entry("declared", "bob")], of_first.clone()].concat());
    assert_eq!(events(&farm, &first.id.to_string()).await, of_first);
    assert_eq!(events(&farm, &second.id.to_string()).await, [entry("declared", "bob")]);
    let hint = farm.api.ask("/v1/pipelines/amine/history").await.problem(404).hint;
    assert!(hint.as_deref().is_some_and(|hint| hint.contains("anime")), "{hint:?}");
    remove("").await.problem(400);
    remove("bob").await;
    assert_eq!(events(&farm, "anime").await.len(), 4);
    farm.assert_ledger_is_clean().await;
}
