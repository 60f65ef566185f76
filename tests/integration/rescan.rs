//! A second scan reads what changed only; a file that moved stays the same model.

use std::fs;

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{JobView, ModelForgotten, ModelSummary},
};

use crate::support::{flip, load, loaded};

/// Scans host `a`; the job's result.
async fn scan(farm: &Farm) -> Value {
    let job = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await.job.result.expect("a scan that succeeded has a result")
}

fn counts(result: &Value) -> [u64; 5] {
    let root = &result["roots"]["main"];
    let number = |value: &Value| value.as_u64().expect("a count");
    [
        number(&result["read"]),
        number(&root["added"]),
        number(&root["changed"]),
        number(&root["unchanged"]),
        number(&root["removed"]),
    ]
}

#[tokio::test]
async fn what_is_as_before_is_not_read_again_and_a_renamed_file_keeps_its_model() {
    let farm = Farm::start().await;
    for (name, seed) in [("one.safetensors", 1), ("two.safetensors", 2), ("three.safetensors", 3)] {
        ModelFile::vae(mebibytes(1)).seed(seed).write(&farm.library(), name);
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    assert_eq!(counts(&scan(&farm).await), [0, 0, 0, 3, 0]);

    // a side-car that appears is read with its model, and only with that
    let note = json!({ "activation text": "a word", "sd version": "SD1" });
    fs::write(farm.library().join("one.json"), note.to_string()).unwrap();
    assert_eq!(counts(&scan(&farm).await), [1, 0, 1, 2, 0]);
    let extracted = &farm.model("one").await.metadata["extracted"];
    assert_eq!(
        (&extracted["trigger_words"][0], &extracted["sources"]["trigger_words"]),
        (&json!("a word"), &json!("notes"))
    );
    assert_eq!(counts(&scan(&farm).await), [0, 0, 0, 3, 0]);

    // moved, and another of the same stem written in a folder
    let before = farm.model("two").await;
    fs::create_dir(farm.library().join("sub")).unwrap();
    fs::rename(farm.library().join("two.safetensors"), farm.library().join("sub/renamed.safetensors")).unwrap();
    ModelFile::vae(mebibytes(1)).seed(4).write(&farm.library(), "three.safetensors");
    let result = scan(&farm).await;
    assert_eq!(counts(&result)[..2], [2, 0], "{result}");
    let after = farm.model("two").await;
    assert_eq!((after.summary.id, after.rel_path.as_str()), (before.summary.id, "sub/renamed.safetensors"));
    assert_eq!(after.summary.state, "available");
    assert_eq!(after.components[0].id, before.components[0].id);

    fs::remove_file(farm.library().join("one.safetensors")).unwrap();
    assert_eq!(counts(&scan(&farm).await), [0, 0, 0, 2, 1]);
    assert_eq!(farm.model("one").await.summary.state, "missing");

    // it is kept until somebody says that it is not wanted any more; its name is free then
    let refused = farm.api.delete("/v1/models/three").await.problem(409);
    assert!(refused.detail.contains("not missing"), "{refused:?}");
    let forgotten: ModelForgotten = farm.api.delete("/v1/models/one").await.json();
    assert_eq!(forgotten.name, "one");
    farm.api.ask("/v1/models/one").await.problem(404);
    let names: Vec<ModelSummary> = farm.api.list("/v1/models").await;
    assert!(names.iter().all(|model| model.name != "one"), "{names:?}");
    ModelFile::vae(mebibytes(1)).seed(5).write(&farm.library(), "one.safetensors");
    assert_eq!(counts(&scan(&farm).await), [1, 1, 0, 2, 0]);
    assert_ne!(farm.model("one").await.summary.id, forgotten.id);
    farm.assert_ledger_is_clean().await;
}

/// F23 where nothing is watched: a load that meets another file than the catalogue has fails, and the catalogue is right soon after,
/// without anybody asking for a scan.
#[tokio::test]
async fn a_load_that_meets_another_file_has_its_root_scanned() {
    let farm = Farm::start().await;
    let library = farm.library();
    for (name, seed) in [("swapped", 1), ("cut", 2), ("gone", 3)] {
        ModelFile::vae(mebibytes(2)).seed(seed).write(&library, &format!("{name}.safetensors"));
    }
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let before = farm.model("swapped").await.components[0].id;
    ModelFile::vae(mebibytes(3)).seed(9).write(&library, "swapped.safetensors");
    let cut = fs::OpenOptions::new().write(true).open(library.join("cut.safetensors")).expect("the file");
    cut.set_len(1 << 20).expect("a shorter file");
    let (swapped, cut) = (load(&farm, "swapped").await, load(&farm, "cut").await);
    for (name, job) in [("swapped", swapped), ("cut", cut)] {
        let failed = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
        let error = failed.job.error.expect("an error");
        // the scan that the first one led to may have seen the second one's file before it was loaded
        let is_told = error.code == ErrorCode::Corrupt || name == "cut" && error.code == ErrorCode::Unsupported;
        assert!(is_told && error.message.contains(name), "{error:?}");
    }
    wait_for("the catalogue to be as the disk is", LONG, || async {
        let (swapped, cut) = (farm.model("swapped").await, farm.model("cut").await);
        let is_right = swapped.components[0].id != before && cut.summary.reason.is_some();
        if is_right { Ok(()) } else { Err(format!("{swapped:?} {cut:?}")) }
    })
    .await;
    loaded(&farm, "swapped").await;
    let scans = async || farm.api.list::<JobView>("/v1/jobs?kind=scan").await.len();
    assert!(scans().await <= 3, "the agent's first, and at most two for the two loads");

    fs::remove_file(library.join("gone.safetensors")).expect("a removal");
    let job = load(&farm, "gone").await;
    let error = farm.api.job_ended(job.id, JobState::Failed, SHORT).await.job.error.expect("an error");
    assert!(error.message.contains("gone.safetensors"), "{error:?}");
    wait_for("the model to be missing", LONG, || async {
        let state = farm.model("gone").await.summary.state;
        if state == "missing" { Ok(()) } else { Err(state) }
    })
    .await;
}

/// A file that went bad under its identity is no reason for a scan: that would find nothing, and what follows it would fail again.
#[tokio::test]
async fn a_file_that_stays_bad_is_not_scanned_and_hashed_for_ever() {
    let farm = Farm::start().await;
    let library = farm.library();
    let rotten = ModelFile::vae(mebibytes(1)).write(&library, "rotten.safetensors");
    ModelFile::vae(mebibytes(1)).seed(2).write(&library, "swapped.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    // the header's opening brace
    flip(&rotten, 8);
    let all = json!({ "kind": "hash", "target": "host:a" });
    for _ in 0..2 {
        let job = farm.api.submit("/v1/jobs", all.clone()).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
        let refused = load(&farm, "rotten").await;
        let error = farm.api.job_ended(refused.id, JobState::Failed, SHORT).await.job.error.expect("an error");
        assert!(error.code == ErrorCode::Corrupt && error.message.contains("rotten.safetensors"), "{error:?}");
    }
    let scans = async || farm.api.list::<JobView>("/v1/jobs?kind=scan").await.len();
    let old = farm.model("swapped").await.components[0].id;
    // a file that is another one is scanned for; scans are asked for in order, so one for the other file would have come first
    ModelFile::vae(mebibytes(1)).seed(3).write(&library, "swapped.safetensors");
    let refused = load(&farm, "swapped").await;
    farm.api.job_ended(refused.id, JobState::Failed, SHORT).await;
    wait_for("the new file to be known, and nothing more to be done", LONG, || async {
        let active =
            farm.ledger.number("select count(*) from jobs where state in ('pending', 'placed', 'running')").await;
        let is_known = farm.model("swapped").await.components[0].id != old;
        if is_known && active == 0 { Ok(()) } else { Err(format!("{is_known} {active}")) }
    })
    .await;
    assert_eq!(scans().await, 2, "the agent's first, and one for the other file");
}

/// When a later build gives components other tensors or names, their digests say nothing any more.
#[tokio::test]
async fn components_of_an_older_canonical_form_are_read_again_and_hashed_anew() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(1)).write(&farm.library(), "one.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    let hashed = async || {
        wait_for("a digest", LONG, || async {
            let component = farm.model("one").await.components.remove(0);
            component.digest.clone().map(|digest| (component.id, digest)).ok_or_else(|| "none".to_owned())
        })
        .await
    };
    let before = hashed().await;
    let pool = farm.ledger.pool();
    sqlx::query("update models set canonical_form = canonical_form - 1").execute(pool).await.expect("an older form");
    assert_eq!(counts(&scan(&farm).await), [1, 0, 1, 0, 0]);
    let after = hashed().await;
    assert_ne!(after.0, before.0);
    assert_eq!(after.1, before.1, "the same bytes, in truth");
    assert_eq!(counts(&scan(&farm).await), [0, 0, 0, 1, 0]);
}

/// What another version read in another form has no digests for this one: it is neither hashed nor taken as a twin, and the job says why.
#[tokio::test]
async fn a_model_of_a_newer_canonical_form_is_not_hashed_and_its_job_says_why() {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(1)).write(&farm.library(), "one.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let pool = farm.ledger.pool();
    let newer = "update models set canonical_form = canonical_form + 1";
    sqlx::query(newer).execute(pool).await.expect("a newer form");
    let hash = async || {
        let job = farm.api.submit("/v1/jobs", json!({ "kind": "hash", "args": { "model": "one" } })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await.job.result.expect("a result")
    };
    let result = hash().await;
    assert_eq!((&result["models"], &result["failed"][0]["model"]), (&json!(0), &json!("one")), "{result}");
    assert!(result["failed"][0]["reason"].as_str().is_some_and(|reason| reason.contains("newer")), "{result}");
    let older = "update models set canonical_form = canonical_form - 1";
    sqlx::query(older).execute(pool).await.expect("the form of before");
    let result = hash().await;
    assert_eq!((&result["models"], &result["failed"]), (&json!(1), &json!([])), "{result}");
    // what has its hashes lacks nothing, whoever reads it
    sqlx::query(newer).execute(pool).await.expect("a newer form");
    let result = hash().await;
    assert_eq!((&result["models"], &result["failed"]), (&json!(0), &json!([])), "{result}");
}
