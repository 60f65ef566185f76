//! Files that are not what they should be: nothing is guessed, nothing is half-resident, nothing else suffers.

use std::{fs, os::unix::fs::FileExt, path::Path};

use harness::{Farm, LONG, SHORT, wait_for};
use serde_json::json;
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{HostView, JobDetail, ModelSummary},
};

use crate::support::{big_model, bytes_move, flip, load, loaded, nothing_is_resident, small_model};

#[tokio::test]
async fn a_missing_root_is_shown_with_its_reason_and_its_scan_fails() {
    let farm = Farm::start().await;
    small_model(&farm);
    let gone = farm.path("gone");
    let agent = farm.start_agent(farm.agent("a").root("away", &gone)).await;
    let view = wait_for("the first scan", SHORT, || async {
        let view: HostView = farm.api.get("/v1/hosts/a").await;
        let scanned = view.roots.iter().any(|root| root.name == "main" && root.scanned_at.is_some());
        if scanned { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await;
    let away = view.roots.iter().find(|root| root.name == "away").expect("the root is listed");
    assert_eq!(away.state, "missing");
    assert!(away.reason.as_deref().is_some_and(|reason| reason.contains("gone")), "{away:?}");
    // the other root serves
    loaded(&farm, "small").await;
    let scan = json!({ "kind": "scan", "args": { "root": "away" }, "target": "host:a" });
    let job = farm.api.submit("/v1/jobs", scan).await;
    let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    let error = failed.job.error.expect("an error");
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(error.message.contains("gone") && error.hint.is_some(), "{error:?}");

    fs::create_dir(&gone).expect("the folder comes");
    harness::ModelFile::vae(4096).write(&gone, "late.safetensors");
    let scan = json!({ "kind": "scan", "args": { "root": "away" }, "target": "host:a" });
    let job = farm.api.submit("/v1/jobs", scan).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    loaded(&farm, "late").await;
    drop(agent);
}

/// What cannot be read is listed with the reason, and a load of it is refused with that reason.
#[tokio::test]
async fn unreadable_files_are_listed_with_a_reason_and_never_loaded() {
    let farm = Farm::start().await;
    small_model(&farm);
    let library = farm.library();
    fs::write(library.join("torn.safetensors"), 1_000_000_u64.to_le_bytes()).expect("a write");
    fs::write(library.join("page.safetensors"), "<!DOCTYPE html><html>not a model</html>").expect("a write");
    fs::write(library.join("empty.safetensors"), "").expect("a write");
    let whole = fs::read(library.join("small.safetensors")).expect("a read");
    fs::write(library.join("short.safetensors"), &whole[..whole.len() - 100]).expect("a write");
    // as root every mode can be read: a folder with a file's name cannot
    fs::create_dir(library.join("folder.safetensors")).expect("a folder");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let models: Vec<ModelSummary> = farm.api.list("/v1/models").await;
    for name in ["torn", "page", "empty", "short"] {
        let model = models.iter().find(|model| model.name == name).unwrap_or_else(|| panic!("{name} in {models:?}"));
        assert_eq!(model.model_type, "unknown", "{model:?}");
        assert!(model.reason.as_deref().is_some_and(|reason| !reason.is_empty()), "{model:?}");
        let problem = farm.api.post(&format!("/v1/models/{name}/load"), &json!({})).await;
        assert!(matches!(problem.status, 409 | 415 | 422), "{problem:?}");
        let problem = problem.problem(problem.status);
        assert!(problem.detail.contains(model.reason.as_deref().unwrap_or_default()), "{problem:?}");
    }
    assert!(!models.iter().any(|model| model.name == "folder" && model.model_type != "unknown"), "{models:?}");
    loaded(&farm, "small").await;
}

/// Starts a slow load, changes the file under it, and waits for the end.
async fn changed_under(change: impl FnOnce(&Path)) -> (Farm, harness::Daemon, JobDetail) {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a").read_limit("16MB")).await;
    let job = load(&farm, "big").await;
    bytes_move(&farm, &job).await;
    change(&farm.library().join("big.safetensors"));
    let ended = farm.api.job_is(job.id, "ends", LONG, |seen| seen.job.state.is_terminal()).await;
    (farm, agent, ended)
}

async fn must_have_failed_cleanly(farm: &Farm, agent: &harness::Daemon, ended: &JobDetail) {
    assert_eq!(ended.job.state, JobState::Failed, "{ended:?}");
    let error = ended.job.error.as_ref().expect("an error");
    assert_eq!(error.code, ErrorCode::Corrupt, "{error:?}");
    assert!(error.message.contains("big.safetensors"), "{error:?}");
    assert_eq!(farm.ledger.outcomes(ended.job.id).await, ["failed"]);
    nothing_is_resident(farm, agent, "a").await;
    // the agent and its runner live on
    assert!(!agent.runners().is_empty());
    loaded(farm, "small").await;
}

#[tokio::test]
async fn a_file_that_shrinks_while_loading_is_an_error_and_nothing_stays() {
    let (farm, agent, ended) = changed_under(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).expect("the file opens");
        file.set_len(1 << 20).expect("the file shrinks");
    })
    .await;
    must_have_failed_cleanly(&farm, &agent, &ended).await;
}

#[tokio::test]
async fn a_file_that_is_written_to_while_loading_is_an_error_and_nothing_stays() {
    let (farm, agent, ended) = changed_under(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).expect("the file opens");
        file.write_at(b"other bytes", 20 << 20).expect("the file changes");
    })
    .await;
    must_have_failed_cleanly(&farm, &agent, &ended).await;
}

/// Replacing by rename leaves the open file whole: the load may finish with the old bytes or fail, but the new file's
/// bytes are never taken for the old one's.
#[tokio::test]
async fn a_file_that_is_replaced_is_never_mixed() {
    let (farm, agent, ended) = changed_under(|path| {
        let folder = path.parent().expect("a folder");
        harness::ModelFile::vae(harness::mebibytes(48)).seed(99).write(folder, "big.safetensors");
    })
    .await;
    if ended.job.state == JobState::Failed {
        must_have_failed_cleanly(&farm, &agent, &ended).await;
    } else {
        assert_eq!(ended.job.state, JobState::Succeeded, "{ended:?}");
    }
    // nobody told the catalogue of the new file: a load that finds out says so, and has it looked at
    let digest = |job: &JobDetail| job.job.result.as_ref().map(|result| result["components"][0]["digest"].clone());
    let before = digest(&ended);
    let done = wait_for("the new file to be loaded", LONG, || async {
        let job = load(&farm, "big").await;
        let seen = farm.api.job_is(job.id, "ends", LONG, |seen| seen.job.state.is_terminal()).await;
        if seen.job.state == JobState::Succeeded && digest(&seen) != before {
            return Ok(seen);
        }
        assert!(seen.job.error.as_ref().is_none_or(|error| error.code == ErrorCode::Corrupt), "{seen:?}");
        Err(format!("{seen:?}"))
    })
    .await;
    assert_eq!(farm.model("big").await.components[0].digest.clone().map(Into::into), digest(&done));
}

/// G7: other bytes under an unchanged header, size and time are found by the digest. What follows for the file is in `corrupt_files.rs`.
#[tokio::test]
async fn g7_no_wrong_weights() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    let job = farm.api.submit("/v1/models/small/unload", json!({ "from_ram": true })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    flip(&farm.library().join("small.safetensors"), 1 << 20);
    let job = load(&farm, "small").await;
    let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    let error = failed.job.error.expect("an error");
    assert_eq!(error.code, ErrorCode::Corrupt);
    assert!(error.message.contains("digest"), "{error:?}");
    nothing_is_resident(&farm, &agent, "a").await;
}
