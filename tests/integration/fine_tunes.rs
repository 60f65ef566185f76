//! A shelf of fine-tunes: twenty SDXL-shaped checkpoints that differ in their UNets only. What they share is in memory once.

use std::{collections::BTreeMap, process::Command};

use harness::{Farm, LONG, SHORT, wait_for};
use serde_json::json;
use shared::{
    bytes::ByteSize,
    ids::ComponentId,
    job::JobState,
    wire::{CacheView, ModelDetail, SharedComponent},
};

use crate::support::device_is;

const TUNES: usize = 20;

async fn details(farm: &Farm) -> Vec<ModelDetail> {
    let mut models = Vec::new();
    for tune in 1..TUNES {
        models.push(farm.model(&format!("sdxl-tiny-ft{tune}")).await);
    }
    models.push(farm.model("sdxl-tiny").await);
    models
}

/// Bytes of each different component of the models.
fn distinct(models: &[ModelDetail]) -> BTreeMap<ComponentId, (String, u64)> {
    let components = models.iter().flat_map(|model| &model.components);
    components.map(|component| (component.id, (component.kind.clone(), component.bytes))).collect()
}

#[tokio::test]
async fn twenty_fine_tunes_hold_what_they_share_once() {
    let farm = Farm::start().await;
    let made = Command::new(harness::binary("modelyard"))
        .args(["dev", "make-models", "--arch", "sdxl", "--fine-tunes", &(TUNES - 1).to_string(), "--out"])
        .arg(farm.library())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let agent =
        farm.agent_with_library(farm.agent("a").hash_limit("none").ram_budget("512MiB").cpu_memory("512MiB")).await;

    // hashing follows the scan; after it the database knows what is equal
    wait_for("equal components to be one", LONG, || async {
        let count = distinct(&details(&farm).await).len();
        if count == TUNES + 3 { Ok(()) } else { Err(format!("{count} components")) }
    })
    .await;
    let models = details(&farm).await;
    let apart: u64 = models.iter().flat_map(|model| &model.components).map(|component| component.bytes).sum();
    let once: u64 = distinct(&models).values().map(|(_, bytes)| bytes).sum();
    let shared: Vec<SharedComponent> = farm.api.list("/v1/components?duplicates=true").await;
    let mut kinds: Vec<&str> = shared.iter().map(|one| one.component.kind.as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["text_encoder", "text_encoder_2", "vae"]);
    assert!(shared.iter().all(|one| one.models.len() == TUNES), "{shared:?}");
    assert_eq!(shared.iter().map(|one| one.spare_bytes).sum::<u64>(), apart - once);

    // all at once: the shared parts are read by whoever comes first, the others join or find them
    let mut jobs = Vec::new();
    for model in &models {
        jobs.push(farm.api.submit(&format!("/v1/models/{}/load", model.summary.name), json!({})).await);
    }
    for job in jobs {
        farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    }
    device_is(&farm, "a/cpu:0", "every component once", |device| device.resident.len() == TUNES + 3).await;
    let cache = wait_for("every component once in RAM", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let held = cache.hosts[0].components.len();
        if held == TUNES + 3 { Ok(cache) } else { Err(format!("{held} components")) }
    })
    .await;
    let stats = &cache.total;
    println!(
        "{TUNES} checkpoints of {} each: {} in their files, {} in RAM, {} read from disk",
        ByteSize(apart / TUNES as u64),
        ByteSize(apart),
        ByteSize(stats.used_bytes),
        ByteSize(stats.loaded_bytes),
    );
    assert_eq!(stats.used_bytes, stats.system_bytes);
    // pages and alignment take a little more than the tensors do
    assert!((once..once + once / 50).contains(&stats.used_bytes), "{} for {once} bytes of tensors", stats.used_bytes);
    assert!(stats.loaded_bytes < once + once / 50, "{} bytes read for {once} of tensors", stats.loaded_bytes);
    assert_eq!(agent.metric("modelyard_evictions_total", "reason=\"room\"").await, 0.0);

    farm.assert_ledger_is_clean().await;
}
