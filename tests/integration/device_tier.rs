//! What is on a device, for whom, and what an unload leaves there.

use harness::{Farm, ModelFile, SHORT, mebibytes};
use serde_json::{Value, json};
use shared::{
    job::JobState,
    wire::{DeviceView, ResidentComponent},
};

use crate::support::{device_is, loaded};

/// Two checkpoints with one VAE and a UNet each of their own, both on the device.
async fn two_with_one_vae(farm: &Farm) {
    for (seed, name) in (3..).zip(["one", "two"]) {
        let file = ModelFile::with_common_vae(mebibytes(6), mebibytes(3)).seed(seed);
        file.write(&farm.library(), &format!("{name}.safetensors"));
    }
}

async fn unload(farm: &Farm, model: &str, more: Value) -> Value {
    let job = farm.api.submit(&format!("/v1/models/{model}/unload"), more).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await.job.result.expect("a result")
}

fn vae(view: &DeviceView) -> Option<&ResidentComponent> {
    view.resident.iter().find(|there| there.kind == "vae")
}

fn is_needed_by(view: &DeviceView, names: &[&str]) -> bool {
    vae(view).is_some_and(|vae| vae.needed_by == names)
}

#[tokio::test]
async fn an_unload_spares_what_another_loaded_model_needs() {
    let farm = Farm::start().await;
    two_with_one_vae(&farm).await;
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    for name in ["one", "two"] {
        loaded(&farm, name).await;
    }
    let both = |view: &DeviceView| view.resident.len() == 3 && is_needed_by(view, &["one", "two"]);
    let before = device_is(&farm, "a/cpu:0", "holds two UNets and one VAE for both", both).await;

    let result = unload(&farm, "one", json!({})).await;
    assert_eq!(result["stays"][0]["kind"], "vae", "{result}");
    assert_eq!(result["stays"][0]["needed_by"], json!(["two"]), "{result}");
    assert_eq!(result["components"].as_array().map(Vec::len), Some(1), "{result}");
    let figure = |when: &str, of: &str| result["memory"][when][of].as_u64().expect("a figure");
    let freed = result["freed_bytes"].as_u64().expect("a figure");
    for of in ["used_bytes", "system_bytes"] {
        assert_eq!(figure("before", of) - figure("after", of), freed, "what came back, as it is counted: {result}");
    }
    let after = device_is(&farm, "a/cpu:0", "holds what `two` needs", |view| {
        view.resident.len() == 2 && is_needed_by(view, &["two"])
    })
    .await;
    assert_eq!(before.memory_used_bytes - after.memory_used_bytes, freed);

    // once nobody needs it, it goes with the last one
    let result = unload(&farm, "two", json!({})).await;
    assert_eq!(
        (result["stays"].as_array().map(Vec::len), result["components"].as_array().map(Vec::len)),
        (Some(0), Some(2))
    );
    device_is(&farm, "a/cpu:0", "empty", |view| view.resident.is_empty() && view.memory_used_bytes == 0).await;

    // named or forced, it goes whoever needs it
    for more in [json!({ "force": true }), json!({ "components": ["vae"] })] {
        for name in ["one", "two"] {
            loaded(&farm, name).await;
        }
        device_is(&farm, "a/cpu:0", "holds both again", both).await;
        unload(&farm, "one", more).await;
        device_is(&farm, "a/cpu:0", "holds no VAE", |view| vae(view).is_none()).await;
    }
    farm.assert_ledger_is_clean().await;
}
