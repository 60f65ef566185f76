//! What is on a device, for whom, and what an unload leaves there.

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{CacheView, CachedComponent, DeviceView, EvictionView, JobDetail, Page, ResidentComponent},
};

use crate::support::{device_is, load_with, loaded, metric_is, ram_bytes};

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

/// A device that can hold two of these and no third.
async fn three_for_two(farm: &Farm) {
    for (seed, name) in (11..).zip(["one", "two", "three"]) {
        ModelFile::vae(mebibytes(24)).seed(seed).write(&farm.library(), &format!("{name}.safetensors"));
    }
}

fn named(names: &[&str]) -> impl Fn(&DeviceView) -> bool {
    move |view| {
        let mut there: Vec<&str> = view.resident.iter().map(|one| one.model_name.as_str()).collect();
        there.sort_unstable();
        there == names
    }
}

#[tokio::test]
async fn what_leaves_a_device_is_chosen_by_the_policy_and_explained() {
    let farm = Farm::start().await;
    three_for_two(&farm).await;
    let agent = farm.agent_with_library(farm.agent("a").cpu_memory("64MiB")).await;
    loaded_with(&farm, "one", json!({ "protect": true })).await;
    loaded(&farm, "two").await;
    loaded(&farm, "three").await;
    let view = device_is(&farm, "a/cpu:0", "holds the protected and the new one", named(&["one", "three"])).await;
    assert_eq!(view.policy.as_deref(), Some("cost"));
    let one = view.resident.iter().find(|there| there.model_name == "one").expect("it is there");
    assert!(one.protected && one.eviction.as_ref().is_some_and(|standing| standing.place.is_none()), "{one:?}");
    let three = view.resident.iter().find(|there| there.model_name == "three").expect("it is there");
    let standing = three.eviction.clone().expect("a standing");
    assert!(standing.place == Some(1) && standing.reload_seconds > 0.0, "{standing:?}");

    // why it went, with the table of what else could have gone
    let decision = wait_for("the decision to be recorded", SHORT, || async {
        let page: Page<EvictionView> = farm.api.get("/v1/cache/evictions?device=a%2Fcpu:0").await;
        page.items.first().cloned().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    assert_eq!((decision.reason.as_str(), decision.policy.as_deref()), ("room", Some("cost")));
    assert_eq!((decision.device.as_deref(), decision.wanted_name.as_deref()), (Some("a/cpu:0"), Some("three/vae")));
    let verdict = |name: &str| {
        let row = decision.candidates.iter().find(|row| row.name.as_deref() == Some(name));
        row.map(|row| row.verdict.clone()).unwrap_or_default()
    };
    assert_eq!((verdict("one/vae"), verdict("two/vae")), ("protected".to_owned(), "evict".to_owned()));
    let in_ram: Page<EvictionView> = farm.api.get("/v1/cache/evictions?tier=ram").await;
    assert!(in_ram.items.is_empty(), "{in_ram:?}");
    let id = farm.model("two").await.components[0].id;
    let explained: CachedComponent = farm.api.get(&format!("/v1/cache/components/{id}")).await;
    assert!(explained.on_devices.is_empty() && explained.last_eviction.is_none(), "{explained:?}");
    assert!(explained.last_device_eviction.is_some_and(|last| last.at == decision.at));

    // protected, it refuses to be unloaded; unprotected, it goes like any other
    let refused = farm.api.submit("/v1/models/one/unload", json!({})).await;
    let error = farm.api.job_ended(refused.id, JobState::Failed, SHORT).await.job.error.expect("an error");
    assert!(error.code == ErrorCode::Conflict && error.message.contains("is protected"), "{error:?}");
    let keep = |args: Value| json!({ "kind": "cache_keep", "target": "device:a/cpu:0", "args": args });
    let job = farm.api.submit("/v1/jobs", keep(json!({ "model": "one", "protect": false }))).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cpu:0", "protects nothing", |view| view.resident.iter().all(|one| !one.protected)).await;
    unload(&farm, "one", json!({})).await;

    // a time that has run out takes it off by itself
    let job = farm.api.submit("/v1/jobs", keep(json!({ "model": "three", "keep_alive": 0 }))).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cpu:0", "empty", |view| view.resident.is_empty()).await;
    for reason in ["room", "requested", "expired"] {
        let labels = format!("device=\"cpu:0\",reason=\"{reason}\"");
        metric_is(&agent, "modelyard_device_evictions_total", &labels, 1.0).await;
        let bytes = agent.metric("modelyard_device_evicted_bytes_total", &labels).await;
        assert!(bytes >= mebibytes(24) as f64, "{reason}: {bytes}");
    }
    farm.assert_ledger_is_clean().await;
}

async fn loaded_with(farm: &Farm, model: &str, request: Value) {
    let job = load_with(farm, model, request).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

/// Loads three components of 9 MiB through so much RAM while no copy to the device ends: so many are in use there, also after another job
/// has been through RAM, and the load succeeds at once when copies go on.
async fn three_go_through_ram(budget: &str, at_a_time: usize, phase: &str) {
    let farm = Farm::start().await;
    ModelFile::checkpoint(mebibytes(9), mebibytes(9), mebibytes(9)).write(&farm.library(), "three.safetensors");
    ModelFile::vae(mebibytes(1)).write(&farm.library(), "other.safetensors");
    let agent = farm.agent_with_library(farm.agent("a").ram_budget(budget)).await;
    device_is(&farm, "a/cpu:0", "ready", |view| view.state == "ready").await;
    let runner = agent.runner().await;
    harness::signal(runner, Signal::STOP);
    let once = json!({ "kind": "load", "args": { "model": "three" }, "max_attempts": 1 });
    let job = farm.api.submit("/v1/jobs", once).await;
    let used = async || {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        cache.hosts[0].components.iter().filter(|held| held.state == "ready" && held.leases > 0).count()
    };
    wait_for("components that are in use", SHORT, || async {
        let used = used().await;
        if used == at_a_time { Ok(()) } else { Err(format!("{used}")) }
    })
    .await;
    let other = farm.api.submit("/v1/jobs", json!({ "kind": "cache_add", "args": { "model": "other" } })).await;
    farm.api.job_ended(other.id, JobState::Succeeded, SHORT).await;
    assert_eq!(used().await, at_a_time);
    let waits = |seen: &JobDetail| seen.job.progress.as_ref().is_some_and(|progress| progress.phase == phase);
    farm.api.job_is(job.id, phase, SHORT, waits).await;
    harness::signal(runner, Signal::CONT);
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(farm.ledger.outcomes(job.id).await, ["succeeded"], "it had no room and began anew");
    device_is(&farm, "a/cpu:0", "all three", |view| view.resident.len() == 3).await;
}

/// Of a load two components are held in RAM at a time, from before one is read until the device has it, also where there is room for all.
#[tokio::test]
async fn a_load_holds_two_components_in_ram() {
    three_go_through_ram("64MiB", 2, "copying").await;
}

/// RAM for one is enough as well: the next is read when the device has the one before.
#[tokio::test]
async fn a_load_of_three_components_goes_through_ram_for_one() {
    three_go_through_ram("17MiB", 1, "making_room").await;
}

/// A keep-alive of zero is about RAM: the copy on the device was put there to be used.
#[tokio::test]
async fn what_is_not_kept_in_ram_stays_on_the_device() {
    let farm = Farm::start().await;
    three_for_two(&farm).await;
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded_with(&farm, "one", json!({ "keep_alive": 0 })).await;
    wait_for("RAM to be empty", SHORT, || async {
        let bytes = ram_bytes(&agent).await;
        if bytes == 0.0 { Ok(()) } else { Err(format!("{bytes}")) }
    })
    .await;
    // what the agent has is published after it
    wait_for("the view of RAM to be empty", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        if cache.hosts.iter().all(|host| host.components.is_empty()) { Ok(()) } else { Err(format!("{cache:?}")) }
    })
    .await;
    device_is(&farm, "a/cpu:0", "holds it", named(&["one"])).await;
    // nothing else changes on the host, and its rows follow all the same: the job's end told of RAM, its agent then let go
    wait_for("no row of RAM", SHORT, || async {
        let page: Value = farm.api.get("/v1/models?tier=ram").await;
        if page["items"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    farm.assert_ledger_is_clean().await;
}

/// Where all on a device is protected a load waits and takes nothing; it goes on when something may go.
#[tokio::test]
async fn f28_a_load_waits_for_a_device_that_is_full_of_what_is_kept() {
    let farm = Farm::start().await;
    three_for_two(&farm).await;
    let agent = farm.agent_with_library(farm.agent("a").cpu_memory("64MiB")).await;
    for name in ["one", "two"] {
        loaded_with(&farm, name, json!({ "protect": true })).await;
    }
    device_is(&farm, "a/cpu:0", "is full", named(&["one", "two"])).await;
    let job = load_with(&farm, "three", json!({})).await;
    let waits = |seen: &JobDetail| {
        let code = seen.job.reason.as_ref().and_then(|reason| reason["code"].as_str());
        seen.job.state == JobState::Pending && code == Some("memory_held")
    };
    farm.api.job_is(job.id, "waits for memory that is held", SHORT, waits).await;
    device_is(&farm, "a/cpu:0", "holds what it held", named(&["one", "two"])).await;
    assert_eq!(agent.metric("modelyard_device_evictions_total", "").await, 0.0);
    let args = json!({ "model": "two", "protect": false });
    let keep = json!({ "kind": "cache_keep", "target": "device:a/cpu:0", "args": args });
    let keep = farm.api.submit("/v1/jobs", keep).await;
    farm.api.job_ended(keep.id, JobState::Succeeded, SHORT).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    device_is(&farm, "a/cpu:0", "holds the kept and the new one", named(&["one", "three"])).await;
    farm.assert_ledger_is_clean().await;
}
