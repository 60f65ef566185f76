//! What is known of a model written to disk: side-cars that come back, copies with the same tensors, and originals as they were.

use std::{fs, path::Path};

use harness::{Farm, ModelFile, SHORT, mebibytes, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{JobDetail, MetadataView, ModelDetail, ModelSummary},
};

use crate::support::small_model;

const WRITE: &str = "/v1/models/small/metadata/write";

async fn described() -> (Farm, harness::Daemon) {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let said = json!({
        "title": "A Quagga", "description": "half \"striped\"", "tags": ["horse", "old"], "notes": "n", "rating": 5,
        "license": "mit", "extra": { "url": ["u"] },
    });
    let request = farm.api.request(Method::PUT, "/v1/models/small/metadata").json(&said);
    assert_eq!(farm.api.send(request).await.status, 200);
    (farm, agent)
}

async fn written(farm: &Farm, request: Value) -> JobDetail {
    let job = farm.api.submit(WRITE, request).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await
}

async fn refused(farm: &Farm, request: Value) -> ErrorCode {
    let job = farm.api.submit(WRITE, request).await;
    let ended = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    ended.job.error.expect("an error").code
}

/// Header and everything after it.
fn halves(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).expect("the file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let end = 8 + usize::try_from(length).expect("a length");
    (serde_json::from_slice(&bytes[8..end]).expect("a header"), bytes[end..].to_vec())
}

#[tokio::test]
async fn a_side_car_is_written_beside_the_model_and_read_back() {
    let (farm, _agent) = described().await;
    let original = fs::read(farm.library().join("small.safetensors")).expect("the file");
    let ended = written(&farm, json!({})).await;
    assert_eq!(ended.job.result.expect("a result")["to"], "small.json");
    let text = fs::read_to_string(farm.library().join("small.json")).expect("the side-car");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&document["schema"], &document["type"]), (&json!("modelyard/model/1"), &json!("vae")));
    // the scan that follows finds what was written, as what a file says
    let view = wait_for("the side-car to be read", SHORT, || async {
        let view: MetadataView = farm.api.get("/v1/models/small/metadata").await;
        if view.extracted["extracted"]["notes"].is_string() { Ok(view) } else { Err(view.extracted.to_string()) }
    })
    .await;
    let read = &view.extracted["extracted"];
    let fields = ["title", "description", "tags", "notes", "rating", "license", "extra"];
    for field in fields {
        assert_eq!(read[field], document[field], "{field}");
        assert_eq!(read["sources"][field], "modelyard", "{field}");
    }
    assert_eq!(read["extra"], json!({ "url": ["u"] }));

    // what is there stays, unless overwriting is asked for and it is ours
    assert_eq!(refused(&farm, json!({})).await, ErrorCode::Conflict);
    written(&farm, json!({ "overwrite": true, "include": ["title"] })).await;
    let text = fs::read_to_string(farm.library().join("small.json")).expect("the side-car");
    assert!(text.contains("Quagga") && !text.contains("striped"), "{text}");
    fs::write(farm.library().join("theirs.json"), "{}").expect("a file");
    assert_eq!(refused(&farm, json!({ "to": "theirs.json", "overwrite": true })).await, ErrorCode::Conflict);
    assert_eq!(refused(&farm, json!({ "to": "none/x.json" })).await, ErrorCode::NotFound);
    std::os::unix::fs::symlink(farm.path("."), farm.library().join("out")).expect("a link");
    assert_eq!(refused(&farm, json!({ "to": "out/x.json" })).await, ErrorCode::NotFound);
    for to in ["../x.json", "/x.json", "x.txt", ".x.json"] {
        let problem = farm.api.post(WRITE, &json!({ "to": to })).await.problem(400);
        assert_eq!(problem.errors[0].pointer, "/to", "{to}");
    }
    assert_eq!(fs::read(farm.library().join("small.safetensors")).expect("the file"), original);
}

#[tokio::test]
async fn a_copy_has_the_same_tensors_and_is_a_model_of_its_own() {
    let (farm, _agent) = described().await;
    let original = farm.library().join("small.safetensors");
    let before = fs::read(&original).expect("the file");
    written(&farm, json!({ "as": "copy" })).await;
    let copy = farm.library().join("small-described.safetensors");
    let ((old, old_payload), (new, payload)) = (halves(&original), halves(&copy));
    assert!(payload == old_payload, "the tensors are others");
    let names = |header: &Value| {
        let mut names: Vec<String> = header.as_object().expect("an object").keys().cloned().collect();
        names.retain(|name| name != "__metadata__");
        names
    };
    assert!(names(&old).iter().all(|name| old[name] == new[name]) && names(&old) == names(&new));
    let fields = &new["__metadata__"];
    assert_eq!((&fields["modelspec.title"], &fields["modelspec.tags"]), (&json!("A Quagga"), &json!("horse, old")));
    assert_eq!(fs::read(&original).expect("the file"), before);
    let found = wait_for("the copy to be found", SHORT, || async {
        let models: Vec<ModelSummary> = farm.api.list("/v1/models?q=small-described").await;
        models.into_iter().next().ok_or_else(|| "none".to_owned())
    })
    .await;
    assert_eq!((found.title.as_deref(), found.model_type.as_str()), (Some("A Quagga"), "vae"));
    let job = farm.api.submit("/v1/models/small-described/validate", json!({ "level": "structure" })).await;
    let ended = farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert_eq!(ended.job.result.expect("a result")["verdict"], "ok");
    assert_eq!(
        refused(&farm, json!({ "as": "copy", "to": "small.safetensors", "overwrite": true })).await,
        ErrorCode::Conflict
    );
    assert_eq!(fs::read(&original).expect("the file"), before);
}

#[tokio::test]
async fn only_what_was_seen_is_written_and_a_cancelled_copy_leaves_nothing() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(64)).write(&farm.library(), "small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("2MiB")).await;
    let etag = farm.api.ask("/v1/models/small/metadata").await.header("etag").expect("an ETag").to_owned();
    let change = farm.api.request(Method::PATCH, "/v1/models/small/metadata").json(&json!({ "title": "t" }));
    assert_eq!(farm.api.send(change).await.status, 200);
    let stale = farm.api.request(Method::POST, WRITE).header("if-match", etag).json(&json!({}));
    farm.api.send(stale).await.problem(412);

    let job = farm.api.submit(WRITE, json!({ "as": "copy" })).await;
    farm.api
        .job_is(job.id, "bytes move", SHORT, |seen| {
            seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done > 0)
        })
        .await;
    assert_eq!(farm.api.cancel(job.id).await.status, 202);
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    let names: Vec<_> =
        fs::read_dir(farm.library()).expect("the library").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["small.safetensors"]);
}

/// Lists show the last verdict, and that it is of other files; they filter by both.
#[tokio::test]
async fn lists_show_and_filter_by_the_last_verdict() {
    let (farm, _agent) = described().await;
    let listed = async |query: &str| -> Vec<String> {
        let models: Vec<ModelSummary> = farm.api.list(&format!("/v1/models?{query}")).await;
        models.into_iter().map(|model| model.name).collect()
    };
    assert_eq!(listed("verdict=none").await, ["small"]);
    for _ in 0..3 {
        let job = farm.api.submit("/v1/models/small/validate", json!({ "level": "structure" })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    }
    assert_eq!((listed("verdict=ok,invalid").await, listed("verdict=stale").await), (vec!["small".to_owned()], vec![]));
    let detail: ModelDetail = farm.api.get("/v1/models/small").await;
    assert_eq!((detail.summary.verdict.as_deref(), detail.summary.verdict_stale), (Some("ok"), false));
    let path = "/v1/models/small/validations";
    let all: Vec<Value> = farm.api.list(path).await;
    let mut paged: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Value = farm.api.get(&format!("{path}?limit=2{cursor}")).await;
        paged.extend(page["items"].as_array().expect("items").iter().cloned());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert!(all.len() == 3 && paged == all, "{paged:?}");

    ModelFile::vae(mebibytes(3)).seed(9).write(&farm.library(), "small.safetensors");
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    assert_eq!((listed("verdict=stale").await, listed("verdict=ok").await), (vec!["small".to_owned()], vec![]));
    let models: Vec<ModelSummary> = farm.api.list("/v1/models").await;
    assert_eq!((models[0].verdict.as_deref(), models[0].verdict_stale), (Some("ok"), true));
    farm.api.ask("/v1/models?verdict=fine").await.problem(400);
}

/// A disk without room is said where one looks at the job, which goes on by itself once there is some; nothing is left meanwhile.
#[tokio::test]
async fn a_disk_that_is_full_is_waited_for_and_says_so() {
    let farm = Farm::start().await;
    let folder = farm.path("small-disk");
    let Some(mounted) = crate::convert::Mounted::small(&folder, 48) else { return };
    ModelFile::vae(mebibytes(2)).write(&folder, "small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").library(&folder)).await;
    let filler = mounted.fill();
    let names = || {
        let mut names: Vec<String> = fs::read_dir(&folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    for (request, made) in
        [(json!({ "as": "copy", "to": "copy.safetensors" }), "copy.safetensors"), (json!({}), "small.json")]
    {
        let job = farm.api.submit(WRITE, request).await;
        let waits = |seen: &JobDetail| seen.job.state == JobState::Pending && !seen.attempts.is_empty();
        let seen = farm.api.job_is(job.id, "it waits for room", SHORT, waits).await;
        let error = seen.job.error.expect("why it waits");
        assert_eq!(error.code, ErrorCode::InsufficientCapacity, "{error:?}");
        assert!(error.message.contains("written") || error.message.contains("room"), "{error:?}");
        assert!(!names().iter().any(|name| name == made || name.starts_with('.')), "{:?}", names());
        fs::remove_file(&filler).expect("a removal");
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
        assert!(names().iter().any(|name| name == made), "{:?}", names());
        fs::remove_file(folder.join(made)).expect("a removal");
        mounted.fill();
    }
}
