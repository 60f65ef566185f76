//! Where jobs run: `any`, a host, a device, labels, `all`.

use harness::{Farm, SHORT, wait_for};
use serde_json::json;
use shared::job::JobState;

use crate::support::{device_is, load, load_with, loaded, metric_is, small_model};

/// `all` makes a child for each device under one parent that ends when all have.
#[tokio::test]
async fn all_makes_one_child_per_device_under_a_parent() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b")).await;
    let parent = load_with(&farm, "small", json!({ "target": "all" })).await;
    let done = farm.api.job_ended(parent.id, JobState::Succeeded, SHORT).await;
    let mut places: Vec<String> = done.children.iter().filter_map(|child| child.device.clone()).collect();
    places.sort();
    assert_eq!(places, ["a/cpu:0", "b/cpu:0"]);
    assert!(done.children.iter().all(|child| child.parent == Some(parent.id) && child.state == JobState::Succeeded));
    assert_eq!(farm.ledger.count(parent.id, "succeeded").await, 1);
    for device in ["a/cpu:0", "b/cpu:0"] {
        device_is(&farm, device, "holds it", |view| view.resident.len() == 1).await;
    }
    let unload = farm.api.submit("/v1/vram/unload", json!({ "model": "small", "from_ram": true })).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    for device in ["a/cpu:0", "b/cpu:0"] {
        device_is(&farm, device, "empty", |view| view.resident.is_empty()).await;
    }
    farm.assert_ledger_is_clean().await;
}

/// A load onto all devices goes where it fits, names the places that it does not go to, and says the same everywhere about
/// keeping and order.
#[tokio::test]
async fn a_load_onto_all_devices_names_those_that_are_left_out() {
    use harness::{ModelFile, mebibytes};
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(24)).write(&farm.library(), "big.safetensors");
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b")).await;
    let _c = farm.agent_with_library(farm.agent("c").cpu_memory("16MiB")).await;
    let request = json!({ "model": "big", "keep_alive": "2h", "protect": true, "priority": 7 });
    let parent = farm.api.submit("/v1/vram/load", request).await;
    let done = farm.api.job_ended(parent.id, JobState::Succeeded, SHORT).await;
    assert_eq!(done.children.len(), 2);
    for child in &done.children {
        assert_eq!((child.priority, &child.args["protect"]), (7, &json!(true)), "{child:?}");
        assert_eq!(child.args["keep_alive"], parent.args["keep_alive"]);
    }
    let result = done.job.result.expect("a result");
    let mut places: Vec<&str> =
        result["children"].as_array().into_iter().flatten().filter_map(|child| child["place"].as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["a/cpu:0", "b/cpu:0"]);
    assert_eq!(result["left_out"][0]["place"], "c/cpu:0", "{result}");
    assert!(result["left_out"][0]["reason"].as_str().is_some_and(|why| why.contains("has only 16.0 MiB")), "{result}");
    assert_eq!(done.placement.expect("why it goes there")["left_out"], result["left_out"]);

    let unload = json!({ "model": "big", "from_ram": true, "force": true });
    let unload = farm.api.submit("/v1/vram/unload", unload).await;
    let unloaded = farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await.job.result.expect("a result");
    assert!(unloaded["children"][0]["freed_bytes"].as_u64().is_some_and(|bytes| bytes > mebibytes(24)), "{unloaded}");
    for device in ["a/cpu:0", "b/cpu:0"] {
        device_is(&farm, device, "empty", |view| view.resident.is_empty()).await;
    }
}

/// A parent fails when a child does, and its children say which and why.
#[tokio::test]
async fn a_parent_fails_when_a_child_fails() {
    let farm = Farm::start().await;
    small_model(&farm);
    let elsewhere = farm.path("copy");
    harness::ModelFile::vae(harness::mebibytes(2)).write(&elsewhere, "small.safetensors");
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b").library(&elsewhere)).await;
    std::fs::remove_file(elsewhere.join("small.safetensors")).expect("a removal");
    let parent = load_with(&farm, "small", json!({ "target": "all" })).await;
    let failed = farm.api.job_ended(parent.id, JobState::Failed, SHORT).await;
    let mut states: Vec<(Option<String>, JobState)> =
        failed.children.iter().map(|child| (child.host.clone(), child.state)).collect();
    states.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(states, [(Some("a".into()), JobState::Succeeded), (Some("b".into()), JobState::Failed)]);
}

/// `any` goes where the model already is.
#[tokio::test]
async fn any_goes_where_the_model_is_resident() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b")).await;
    let first = load_with(&farm, "small", json!({ "target": "host:b" })).await;
    farm.api.job_ended(first.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "b/cpu:0", "holds it", |view| view.resident.len() == 1).await;
    let again = loaded(&farm, "small").await;
    assert_eq!(again.job.device.as_deref(), Some("b/cpu:0"));
    assert!(again.placement.is_some());
}

/// The device forms of the API reach that device only.
#[tokio::test]
async fn the_device_forms_reach_one_device() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _a = farm.agent_with_library(farm.agent("a")).await;
    let _b = farm.agent_with_library(farm.agent("b")).await;
    let job = farm.api.submit("/v1/devices/b/cpu:0/vram/load", json!({ "model": "small" })).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert_eq!(done.job.device.as_deref(), Some("b/cpu:0"));
    let view = device_is(&farm, "b/cpu:0", "holds it", |view| view.resident.len() == 1).await;
    let encoded = farm.api.ask("/v1/devices/b%2Fcpu:0").await;
    assert_eq!(encoded.status, 200, "{encoded:?}");
    let path = format!("/v1/devices/b/cpu:0/vram/components/{}", view.resident[0].component);
    let job = farm.api.delete(&path).await.accepted();
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "b/cpu:0", "empty", |view| view.resident.is_empty()).await;
    let refused = farm.api.delete(&path).await.problem(409);
    assert!(refused.detail.contains("not resident on device `b/cpu:0`"), "{refused:?}");
}

/// A component goes off every device that holds it, by one job for one of them and a parent for several.
#[tokio::test]
async fn a_component_is_removed_from_all_devices() {
    let farm = Farm::start().await;
    small_model(&farm);
    let agents = [farm.agent_with_library(farm.agent("a")).await, farm.agent_with_library(farm.agent("b")).await];
    let all = load_with(&farm, "small", json!({ "target": "all" })).await;
    farm.api.job_ended(all.id, JobState::Succeeded, SHORT).await;
    for device in ["a/cpu:0", "b/cpu:0"] {
        device_is(&farm, device, "holds it", |view| view.resident.len() == 1).await;
    }
    let path = format!("/v1/vram/components/{}", farm.model("small").await.components[0].id);
    let parent = farm.api.delete(&path).await.accepted();
    let ended = farm.api.job_ended(parent.id, JobState::Succeeded, SHORT).await;
    assert_eq!(ended.children.len(), 2, "{ended:?}");
    for (device, agent) in ["a/cpu:0", "b/cpu:0"].into_iter().zip(&agents) {
        device_is(&farm, device, "empty", |view| view.resident.is_empty()).await;
        metric_is(agent, "modelyard_device_evictions_total", "reason=\"requested\"", 1.0).await;
    }
    loaded(&farm, "small").await;
    let one = farm.api.delete(&path).await.accepted();
    let ended = farm.api.job_ended(one.id, JobState::Succeeded, SHORT).await;
    assert!(ended.children.is_empty() && ended.job.device.is_some(), "{ended:?}");
    let refused = farm.api.delete(&path).await.problem(409);
    assert!(refused.detail.contains("not resident on any device"), "{refused:?}");
    let unknown = format!("/v1/vram/components/{}", shared::ids::ComponentId::generate());
    farm.api.delete(&unknown).await.problem(404);
}

/// A device that is full gives up what was used least recently.
#[tokio::test]
async fn a_full_device_makes_room() {
    use harness::{ModelFile, mebibytes};
    let farm = Farm::start().await;
    for seed in 1..=3 {
        ModelFile::vae(mebibytes(24)).seed(seed).write(&farm.library(), &format!("m{seed}.safetensors"));
    }
    let agent = farm.agent_with_library(farm.agent("a").cpu_memory("64MiB")).await;
    for name in ["m1", "m2"] {
        loaded(&farm, name).await;
    }
    device_is(&farm, "a/cpu:0", "holds two", |view| view.resident.len() == 2).await;
    let third = load(&farm, "m3").await;
    farm.api.job_ended(third.id, JobState::Succeeded, SHORT).await;
    let view =
        device_is(&farm, "a/cpu:0", "holds the third", |view| view.resident.iter().any(|held| held.model_name == "m3"))
            .await;
    let mut names: Vec<&str> = view.resident.iter().map(|held| held.model_name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["m2", "m3"]);
    metric_is(&agent, "modelyard_device_evictions_total", "device=\"cpu:0\",reason=\"room\"", 1.0).await;
}

/// More waiting jobs than are looked at together, which nobody can take, and one behind them.
#[tokio::test]
async fn a_job_behind_many_that_nobody_can_take_is_placed_and_each_of_those_says_why_it_waits() {
    let farm = Farm::start().await;
    small_model(&farm);
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let mut waiting = Vec::new();
    for number in 0..100 {
        let labels = [format!("nowhere-{number}")];
        // of equal jobs there would be one
        let args = json!({ "model": "small", "keep_alive": 1000 + number });
        let request = json!({ "kind": "load", "args": args, "labels": labels, "priority": 9 });
        waiting.push(farm.api.submit("/v1/jobs", request).await.id);
    }
    waiting.sort();
    waiting.dedup();
    assert_eq!(waiting.len(), 100);
    let behind = load(&farm, "small").await;
    farm.api.job_ended(behind.id, JobState::Succeeded, SHORT).await;
    for id in waiting {
        wait_for("the reason why it waits", SHORT, || async {
            let reason = farm.api.job(id).await.job.reason.unwrap_or_default();
            if reason["code"] == "labels_missing" { Ok(()) } else { Err(format!("{reason}")) }
        })
        .await;
    }
}
