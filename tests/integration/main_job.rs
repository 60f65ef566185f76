//! The main job: scan → list → load → device status → unload → RAM cache, over the API.

use harness::{Farm, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{
    job::JobState,
    wire::{CacheView, DeviceModels, ModelStatus, ModelSummary},
};

use crate::support::{device_is, load, loaded, small_model};

#[tokio::test]
async fn a_model_goes_from_disk_to_a_device_and_back() {
    let farm = Farm::start().await;
    let file = ModelFile::checkpoint(mebibytes(8), mebibytes(2), mebibytes(4));
    file.write(&farm.library(), "story.safetensors");
    let agent = farm.agent_with_library(farm.agent("a")).await;

    let models: Vec<ModelSummary> = farm.api.list("/v1/models").await;
    assert_eq!(models.len(), 1, "{models:?}");
    assert_eq!(
        (models[0].name.as_str(), models[0].model_type.as_str(), models[0].base.as_str()),
        ("story", "checkpoint", "sd15")
    );
    let model = farm.model("story").await;
    let mut kinds: Vec<&str> = model.components.iter().map(|component| component.kind.as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["text_encoder", "unet", "vae"]);
    assert_eq!(model.components.iter().map(|component| component.bytes).sum::<u64>(), file.tensor_bytes());

    let job = loaded(&farm, "story").await;
    assert_eq!(job.job.device.as_deref(), Some("a/cpu:0"));
    assert_eq!(job.attempts.len(), 1);
    let view = device_is(&farm, "a/cpu:0", "three components", |view| view.resident.len() == 3).await;
    assert!(!view.staleness.stale && view.memory_used_bytes >= file.tensor_bytes(), "{view:?}");
    let on_device: DeviceModels = farm.api.get("/v1/devices/a/cpu:0/models/status").await;
    assert_eq!(on_device.models.len(), 1);
    let status: ModelStatus = farm.api.get("/v1/models/story/status").await;
    assert!(status.absent.is_empty(), "{status:?}");

    let unload = farm.api.submit("/v1/models/story/unload", json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cpu:0", "empty", |view| view.resident.is_empty() && view.memory_used_bytes == 0).await;
    let cache: CacheView = farm.api.get("/v1/cache").await;
    assert!(cache.total.used_bytes >= file.tensor_bytes(), "an unload leaves the RAM copy: {cache:?}");

    let clear = farm.api.delete("/v1/cache").await.accepted();
    farm.api.job_ended(clear.id, JobState::Succeeded, SHORT).await;
    wait_for("the cache to be empty", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        if cache.total.used_bytes == 0 { Ok(()) } else { Err(format!("{cache:?}")) }
    })
    .await;
    farm.assert_ledger_is_clean().await;
    drop(agent);
}

#[tokio::test]
async fn a_second_load_takes_the_ram_copy_and_a_third_finds_it_on_the_device() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let from = |job: &shared::wire::JobDetail| {
        job.job.result.as_ref().unwrap()["components"][0]["from"].as_str().unwrap().to_owned()
    };
    assert_eq!(from(&loaded(&farm, "small").await), "disk");
    assert_eq!(from(&loaded(&farm, "small").await), "device");
    let unload = farm.api.submit("/v1/models/small/unload", json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    let again = load(&farm, "small").await;
    assert_eq!(from(&farm.api.job_ended(again.id, JobState::Succeeded, SHORT).await), "ram");
}
