//! Hashing in the background: after a scan, once for a file, and never what is not there any more.

use std::fs;

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{
    job::JobState,
    wire::{Hashes, ModelDetail},
};

use crate::support::small_model;

async fn hashes_of(farm: &Farm, model: &str) -> Hashes {
    wait_for(&format!("hashes of {model}"), LONG, || async {
        let detail: ModelDetail = farm.api.get(&format!("/v1/models/{model}")).await;
        detail.hashes.ok_or_else(|| "none".to_owned())
    })
    .await
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn scan(farm: &Farm) {
    let job = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

/// A scan is followed by one job that hashes what has no hashes; the hashes are those of the bytes on disk, and a file
/// that did not change is not read again.
#[tokio::test]
async fn a_scan_is_followed_by_hashing_and_unchanged_files_are_left_alone() {
    let farm = Farm::start().await;
    small_model(&farm);
    let path = farm.library().join("small.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    let found = hashes_of(&farm, "small").await;
    let bytes = fs::read(&path).expect("the file");
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))).expect("a size");
    assert_eq!(found.sha256.as_deref(), Some(sha256(&bytes).as_str()));
    assert_eq!(found.payload_sha256.as_deref(), Some(sha256(&bytes[8 + header..]).as_str()));
    assert_eq!(found.autov2.as_deref(), Some(&sha256(&bytes)[..10]));
    assert_eq!(found.autov1.as_deref(), Some(&sha256(&bytes[0x10_0000..0x11_0000])[..8]));

    // another name of the same file: its hashes are known already, nothing is read
    fs::hard_link(&path, farm.library().join("again.safetensors")).expect("a link");
    scan(&farm).await;
    assert_eq!(hashes_of(&farm, "again").await, found);
    let job: shared::ids::JobId =
        sqlx::query_scalar("select id from all_jobs where kind = 'hash' order by id desc limit 1")
            .fetch_one(farm.ledger.pool())
            .await
            .expect("a hash job");
    let done = farm.api.job_ended(job, JobState::Succeeded, SHORT).await;
    assert_eq!(done.job.result.expect("a result")["bytes"], 0);

    // other bytes under the name: the old hashes go with the scan, the new ones come
    ModelFile::vae(mebibytes(3)).seed(5).write(&farm.library(), "again.safetensors");
    scan(&farm).await;
    let new = wait_for("new hashes", LONG, || async {
        let detail: ModelDetail = farm.api.get("/v1/models/again").await;
        detail.hashes.filter(|hashes| *hashes != found).ok_or_else(|| "the old ones".to_owned())
    })
    .await;
    assert_eq!(new.sha256, Some(sha256(&fs::read(farm.library().join("again.safetensors")).expect("a file"))));
    farm.assert_ledger_is_clean().await;
}

/// A name that the database cannot hold keeps no file from its hashes.
#[tokio::test]
async fn a_tensor_whose_name_has_a_nul_is_hashed_like_any_other() {
    let farm = Farm::start().await;
    let tensor = |name: &str, shape: [u64; 2], begin: u64| {
        (
            format!("lora_unet_a\0b.{name}.weight"),
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, begin + 16] }),
        )
    };
    let tensors = [tensor("lora_down", [1, 4], 0), tensor("lora_up", [4, 1], 16)];
    let header = serde_json::to_vec(&serde_json::Map::from_iter(tensors)).expect("a header");
    let length = u64::try_from(header.len()).expect("a length").to_le_bytes();
    fs::create_dir_all(farm.library()).expect("a library");
    fs::write(farm.library().join("nul.safetensors"), [&length, header.as_slice(), &[0; 32]].concat()).expect("a file");
    let _agent = farm.agent_with_library(farm.agent("a").hash_limit("none")).await;
    let found = hashes_of(&farm, "nul").await;
    assert_eq!(found.sha256, Some(sha256(&fs::read(farm.library().join("nul.safetensors")).expect("the file"))));
    let detail: ModelDetail = farm.api.get("/v1/models/nul").await;
    assert_eq!(detail.components.len(), 1, "{detail:?}");
    let tensors: serde_json::Value = farm.api.get("/v1/models/nul/tensors").await;
    assert!(tensors.to_string().contains("lora_unet_a\u{fffd}b.lora_up.weight"), "{tensors}");
    farm.assert_ledger_is_clean().await;
}

/// Asked for: also where scans are not followed by hashing, and it can be cancelled at the next chunk.
#[tokio::test]
async fn hashing_can_be_asked_for_and_cancelled() {
    let farm = Farm::start().await;
    small_model(&farm);
    ModelFile::vae(mebibytes(48)).seed(3).write(&farm.library(), "big.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a").read_limit("8MB")).await;
    let all = json!({ "kind": "hash", "target": "host:a" });
    let job = farm.api.submit("/v1/jobs", all).await;
    let running = |seen: &shared::wire::JobDetail| {
        seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done > mebibytes(2))
    };
    farm.api.job_is(job.id, "the big file is read", LONG, running).await;
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    let one = farm.api.submit("/v1/jobs", json!({ "kind": "hash", "args": { "model": "small" } })).await;
    let done = farm.api.job_ended(one.id, JobState::Succeeded, SHORT).await;
    assert_eq!(done.job.result.expect("a result")["models"], 1);
    hashes_of(&farm, "small").await;
    let big: ModelDetail = farm.api.get("/v1/models/big").await;
    assert_eq!(big.hashes, None);
    let both = json!({ "kind": "hash", "args": { "model": "small", "root": "main" } });
    farm.api.post("/v1/jobs", &both).await.problem(400);
}
