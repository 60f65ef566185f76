//! Whose memory it is, and giving some back by a plan: shown first, then done, with the system's figures before and after.

use harness::{Daemon, Farm, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    status::{HostMemory, TierMemory},
    wire::{CacheView, EvictionView, HostMemoryView, OptimizeResult, Page},
};

use crate::support::{device_is, load_with};

/// Three models of 24 MiB each, in RAM and on the device; the first is protected in both.
async fn three_loaded(farm: &Farm) -> Daemon {
    for number in 0..3 {
        ModelFile::vae(mebibytes(24)).seed(40 + number).write(&farm.library(), &format!("m{number}.safetensors"));
    }
    let agent = farm.agent_with_library(farm.agent("a")).await;
    for number in 0..3 {
        let job = load_with(farm, &format!("m{number}"), json!({ "protect": number == 0 })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    }
    device_is(farm, "a/cpu:0", "holds all three", |view| view.resident.len() == 3).await;
    agent
}

async fn optimized(farm: &Farm, place: &str, request: Value) -> OptimizeResult {
    let job = farm.api.submit(&format!("/v1/{place}/optimize"), request).await;
    let done = farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    serde_json::from_value(done.job.result.expect("a result")).expect("a plan")
}

fn tier<'m>(memory: &'m HostMemory, place: &str) -> &'m TierMemory {
    memory.tiers.iter().find(|tier| tier.place == place).expect("every tier is in the account")
}

async fn account(farm: &Farm, what: &str, holds: impl Fn(&HostMemory) -> bool) -> HostMemory {
    wait_for(what, SHORT, || async {
        let view: HostMemoryView = farm.api.get("/v1/hosts/a/memory").await;
        view.memory.clone().filter(|memory| holds(memory)).ok_or_else(|| format!("{view:?}"))
    })
    .await
}

#[tokio::test]
async fn every_byte_has_an_owner_and_the_system_agrees() {
    let farm = Farm::start().await;
    let agent = three_loaded(&farm).await;
    let memory = account(&farm, "all are counted", |memory| tier(memory, "ram").copies == 3).await;
    for place in ["ram", "a/cpu:0"] {
        let tier = tier(&memory, place);
        assert!(tier.host_memory && tier.unaccounted_bytes == 0, "{tier:?}");
        assert_eq!((tier.used_bytes, tier.copies), (tier.system_bytes, 3));
        assert_eq!(tier.used_bytes, tier.leased_bytes + tier.protected_bytes + tier.evictable_bytes, "{tier:?}");
        assert!(tier.protected_bytes >= mebibytes(24) && tier.evictable_bytes >= mebibytes(48), "{tier:?}");
        assert_eq!((tier.elsewhere_bytes, tier.duplicate_bytes), (tier.used_bytes, 0), "both tiers hold all: {tier:?}");
    }
    let names: Vec<&str> = memory.processes.iter().map(|process| process.name.as_str()).collect();
    assert_eq!(names, ["agent", "a/cpu:0"]);
    assert_eq!(memory.processes[0].pid, agent.process.pid());
    let own: u64 = memory.processes.iter().map(|process| process.own_bytes).sum();
    let weights: u64 = memory.tiers.iter().map(|tier| tier.system_bytes).sum();
    assert!(own > 0 && memory.ours_bytes == own + weights, "{memory:?}");
    assert!(memory.system.available_bytes > 0 && memory.system.room_bytes <= memory.system.available_bytes);
}

#[tokio::test]
async fn a_plan_is_shown_then_done_and_says_what_is_missing() {
    let farm = Farm::start().await;
    let agent = three_loaded(&farm).await;
    let need = mebibytes(30);

    let shown = optimized(&farm, "devices/a/cpu:0", json!({ "free_bytes": need, "dry_run": true })).await;
    let actions: Vec<_> = shown.actions.iter().map(|one| (one.action.as_str(), one.state.as_str())).collect();
    assert_eq!(actions, [("demote", "planned"), ("demote", "planned")], "{shown:?}");
    assert!(shown.reached && shown.freed_bytes >= need && shown.after.is_none(), "{shown:?}");
    device_is(&farm, "a/cpu:0", "holds what it held", |view| view.resident.len() == 3).await;

    let done = optimized(&farm, "devices/a/cpu:0", json!({ "free_bytes": need })).await;
    assert!(done.reached && done.actions.iter().all(|one| one.state == "done"), "{done:?}");
    let planned = |plan: &OptimizeResult| plan.actions.iter().map(|one| one.component).collect::<Vec<_>>();
    assert_eq!(planned(&done), planned(&shown), "what was shown is what is done");
    let after = done.after.as_ref().expect("an account");
    let (was, is) = (tier(&done.before, "a/cpu:0").system_bytes, tier(after, "a/cpu:0").system_bytes);
    assert_eq!(was - is, done.freed_bytes, "as the system sees it");
    let cache: CacheView = farm.api.get("/v1/cache").await;
    assert_eq!(cache.hosts[0].components.len(), 3, "the copies in RAM stay: {cache:?}");
    let left = device_is(&farm, "a/cpu:0", "holds the protected one", |view| view.resident.len() == 1).await;
    assert!(left.resident[0].model_name == "m0" && left.resident[0].protected, "{left:?}");

    // of the host: what is protected stays, and the answer says by how much the goal is missed
    let request = json!({ "free_bytes": mebibytes(500) });
    let missed = optimized(&farm, "hosts/a", request).await;
    assert!(!missed.reached && missed.short_bytes == missed.need_bytes - missed.freed_bytes, "{missed:?}");
    assert!(
        missed.freed_bytes >= mebibytes(48) && missed.actions.iter().all(|one| one.action == "evict"),
        "{missed:?}"
    );
    let memory = account(&farm, "the protected ones are left", |memory| tier(memory, "ram").copies == 1).await;
    for place in ["ram", "a/cpu:0"] {
        assert_eq!((tier(&memory, place).copies, tier(&memory, place).evictable_bytes), (1, 0), "{memory:?}");
    }
    wait_for("the decisions to be recorded", SHORT, || async {
        let page: Page<EvictionView> = farm.api.get("/v1/cache/evictions").await;
        let of = |device: bool| page.items.iter().filter(move |one| one.device.is_some() == device);
        let all = page.items.iter().all(|one| one.reason == "optimized");
        if all && of(true).count() == 2 && of(false).count() == 2 { Ok(()) } else { Err(format!("{page:?}")) }
    })
    .await;
    for name in ["modelyard_evictions_total", "modelyard_device_evictions_total"] {
        assert_eq!(agent.metric(name, "reason=\"optimized\"").await, 2.0, "{name}");
    }

    // a host that has its headroom needs nothing; a device has none that could be meant
    let nothing = optimized(&farm, "hosts/a", json!({ "headroom_bytes": 1 })).await;
    assert!(nothing.reached && nothing.actions.is_empty(), "{nothing:?}");
    let problem = farm.api.post("/v1/devices/a/cpu:0/optimize", &json!({})).await.problem(400);
    assert_eq!(problem.code, ErrorCode::InvalidArgument);
    farm.assert_ledger_is_clean().await;
}
