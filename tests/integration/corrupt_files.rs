//! Files whose bytes went bad (F25): what reads them fails and says so, nobody reads them again while that stands, other copies serve,
//! and a file that is well again is used again.

use std::fs;

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    error::{ErrorBody, ErrorCode},
    job::JobState,
    wire::{CorruptFile, JobDetail, ValidationReport},
};

use crate::support::{device_is, flip, load_with, loaded, nothing_is_resident, small_model};

/// What is marked of a model on a host.
async fn marked(farm: &Farm, model: &str, host: &str) -> Vec<CorruptFile> {
    let locations = farm.model(model).await.locations;
    locations.into_iter().find(|at| at.host == host).expect("the host has the model").corrupt
}

async fn failed(farm: &Farm, model: &str, request: Value) -> (JobDetail, ErrorBody) {
    let job = load_with(farm, model, request).await;
    let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    let error = failed.job.error.clone().expect("an error");
    assert_eq!(error.code, ErrorCode::Corrupt, "{error:?}");
    (failed, error)
}

async fn unloaded(farm: &Farm, model: &str) {
    let job = farm.api.submit(&format!("/v1/models/{model}/unload"), json!({ "from_ram": true })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

async fn validated(farm: &Farm, model: &str, host: &str) -> ValidationReport {
    let request = json!({ "level": "hash", "target": format!("host:{host}") });
    let job = farm.api.submit(&format!("/v1/models/{model}/validate"), request).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let id = done.job.result.expect("a result")["validation"].as_str().expect("an id").to_owned();
    farm.api.get(&format!("/v1/models/{model}/validations/{id}")).await
}

async fn job_ends(farm: &Farm, body: Value, state: JobState) -> JobDetail {
    let job = farm.api.submit("/v1/jobs", body).await;
    farm.api.job_ended(job.id, state, LONG).await
}

/// G7 and what follows from it: the file is marked with the failure, shown, and not read again until its bytes are the registered ones.
#[tokio::test]
async fn g7_a_file_whose_bytes_went_bad_is_not_read_again_until_it_is_well() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    unloaded(&farm, "small").await;
    let registered = farm.model("small").await.components[0].digest.clone().expect("a load registers the digest");
    let path = farm.library().join("small.safetensors");
    flip(&path, 1 << 20);

    let (_, error) = failed(&farm, "small", json!({})).await;
    let hint = error.hint.clone().unwrap_or_default();
    assert!(error.message.contains("small.safetensors") && error.message.contains(&registered), "{error:?}");
    assert!(hint.contains("validate") && hint.contains("reidentify"), "{error:?}");
    nothing_is_resident(&farm, &agent, "a").await;
    let [mark] = marked(&farm, "small", "a").await.try_into().expect("one marked file");
    assert_eq!((mark.component.as_deref(), mark.expected.as_str()), (Some("vae"), registered.as_str()));
    assert!(mark.actual != registered && error.message.contains(&mark.actual), "{mark:?} {error:?}");
    assert_eq!(farm.model("small").await.summary.state, "available", "nothing that is known is forgotten");
    assert_eq!(agent.metric("modelyard_digest_mismatches_total", "").await, 1.0);
    wait_for("the gauge of corrupt files", SHORT, || async {
        let files = farm.scheduler.metric("modelyard_corrupt_files", "").await;
        if files == 1.0 { Ok(()) } else { Err(files.to_string()) }
    })
    .await;

    // no attempt of it: no byte is read
    let (second, error) = failed(&farm, "small", json!({ "priority": 1 })).await;
    assert!(farm.ledger.outcomes(second.job.id).await.is_empty(), "{second:?}");
    for told in [mark.actual.as_str(), &mark.expected, "small.safetensors"] {
        assert!(error.message.contains(told), "{told} in {error:?}");
    }
    assert!(error.hint.is_some_and(|hint| hint.contains("validate")), "{second:?}");

    let report = validated(&farm, "small", "a").await;
    let found = report.findings.iter().find(|finding| finding.code == "digest_mismatch").expect("a finding");
    assert_eq!((report.summary.verdict.as_str(), found.severity.as_str()), ("invalid", "error"));
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    flip(&path, 1 << 20);
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "ok");
    assert_eq!(marked(&farm, "small", "a").await, []);
    let done = loaded(&farm, "small").await;
    assert_eq!(done.job.result.expect("a result")["components"][0]["digest"], json!(registered));
    farm.assert_ledger_is_clean().await;
}

/// The mark is about one host's copy: another host's serves, also when nobody says where.
#[tokio::test]
async fn a_good_copy_on_another_host_serves() {
    let farm = Farm::start().await;
    let other = farm.library().with_file_name("other");
    small_model(&farm).write(&other, "small.safetensors");
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b").library(&other)).await;
    let on = |host: &str| json!({ "target": format!("device:{host}/cpu:0") });
    let first = load_with(&farm, "small", on("b")).await;
    farm.api.job_ended(first.id, JobState::Succeeded, SHORT).await;
    unloaded(&farm, "small").await;
    let path = farm.library().join("small.safetensors");
    flip(&path, 1 << 20);

    failed(&farm, "small", on("a")).await;
    assert_eq!((marked(&farm, "small", "a").await.len(), marked(&farm, "small", "b").await.len()), (1, 0));
    let done = loaded(&farm, "small").await;
    assert_eq!(done.job.result.expect("a result")["device"], "b/cpu:0");
    device_is(&farm, "a/cpu:0", "empty", |view| view.resident.is_empty()).await;

    // asked for the file alone, a hash job reads it again: it fails while the bytes are others, and takes the mark off when not
    let hash = json!({ "kind": "hash", "args": { "model": "small" }, "target": "host:a" });
    let refused = job_ends(&farm, hash.clone(), JobState::Failed).await.job.error.expect("an error");
    assert!(refused.code == ErrorCode::Corrupt && refused.message.contains("small.safetensors"), "{refused:?}");
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    flip(&path, 1 << 20);
    job_ends(&farm, hash, JobState::Succeeded).await;
    assert_eq!(marked(&farm, "small", "a").await, []);
    let there = load_with(&farm, "small", on("a")).await;
    farm.api.job_ended(there.id, JobState::Succeeded, SHORT).await;
}

/// Every model that the file is part of is meant; what is in memory stays in use; an operator's word and another file end it.
#[tokio::test]
async fn all_models_of_a_file_are_meant_and_what_is_in_memory_stays_in_use() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    fs::hard_link(&path, farm.library().join("again.safetensors")).expect("a link");
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "again").await;
    loaded(&farm, "small").await;
    flip(&path, 1 << 20);
    assert_eq!(validated(&farm, "small", "a").await.summary.verdict, "invalid");
    assert_eq!((marked(&farm, "small", "a").await.len(), marked(&farm, "again", "a").await.len()), (1, 1));
    // the bytes in memory were compared when they were read
    assert_eq!(loaded(&farm, "again").await.job.result.expect("a result")["components"][0]["from"], "device");
    unloaded(&farm, "again").await;
    unloaded(&farm, "small").await;
    nothing_is_resident(&farm, &agent, "a").await;
    let (refused, _) = failed(&farm, "again", json!({})).await;
    assert!(farm.ledger.outcomes(refused.job.id).await.is_empty());

    let again = farm.api.submit("/v1/models/small/reidentify", json!({})).await;
    farm.api.job_ended(again.id, JobState::Succeeded, SHORT).await;
    assert_eq!(marked(&farm, "again", "a").await, []);
    let (read, _) = failed(&farm, "again", json!({ "priority": 1 })).await;
    assert_eq!(farm.ledger.outcomes(read.job.id).await, ["failed"], "it was read, and compared");
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);

    ModelFile::vae(mebibytes(2)).write(&farm.library(), "small.safetensors");
    job_ends(&farm, json!({ "kind": "scan", "target": "host:a" }), JobState::Succeeded).await;
    assert_eq!(marked(&farm, "small", "a").await, [], "it is another file");
    assert_eq!(marked(&farm, "again", "a").await.len(), 1, "it is the same file");
    loaded(&farm, "small").await;
    let shared = loaded(&farm, "again").await.job.result.expect("a result");
    assert_eq!(shared["components"][0]["from"], "device", "the good file's bytes are its component's, too");
}

/// Hashing in the background registers nothing from a file that is marked, and does not read it each time.
#[tokio::test]
async fn nothing_is_registered_from_a_file_that_is_marked() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    unloaded(&farm, "small").await;
    flip(&path, 1 << 20);
    // it has no hashes yet; reading it for them finds the other bytes
    let all = json!({ "kind": "hash", "target": "host:a" });
    let first = job_ends(&farm, all.clone(), JobState::Succeeded).await.job.result.expect("a result");
    assert_eq!(first["refused"].as_array().map(Vec::len), Some(1), "{first}");
    assert_eq!(marked(&farm, "small", "a").await.len(), 1);
    let view = farm.model("small").await;
    assert!(view.hashes.is_none() && view.digest.is_none(), "{view:?}");
    assert_eq!(farm.ledger.number("select count(*) from file_hashes").await, 0);
    // another name of it is hashed no more than the first
    fs::hard_link(&path, farm.library().join("again.safetensors")).expect("a link");
    job_ends(&farm, json!({ "kind": "scan", "target": "host:a" }), JobState::Succeeded).await;
    let second = job_ends(&farm, all, JobState::Succeeded).await.job.result.expect("a result");
    assert_eq!((&second["models"], &second["bytes"]), (&json!(0), &json!(0)), "{second}");
    assert!(farm.model("again").await.components[0].digest.is_none());
}
