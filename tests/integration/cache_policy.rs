//! What stays in RAM and why: evictions with their records, protection, keep-alive, statistics.

use harness::{AgentSettings, Farm, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::{Value, json};
use shared::{
    job::JobState,
    wire::{CacheView, CachedComponent, EvictionView, ModelDetail, Page},
};

/// Models of 8 MiB each, all different.
fn library(farm: &Farm, names: &[&str]) {
    for (seed, name) in (20..).zip(names) {
        ModelFile::vae(mebibytes(8)).seed(seed).write(&farm.library(), &format!("{name}.safetensors"));
    }
}

/// Room for two of them.
fn small(farm: &Farm) -> AgentSettings {
    farm.agent("a").ram_budget("20MiB")
}

async fn cache(farm: &Farm, model: &str, more: Value) {
    let mut request = more;
    request["model"] = json!(model);
    let job = farm.api.submit("/v1/cache", request).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
}

async fn component(farm: &Farm, model: &str) -> CachedComponent {
    let detail: ModelDetail = farm.model(model).await;
    farm.api.get(&format!("/v1/cache/components/{}", detail.components[0].id)).await
}

async fn evictions(farm: &Farm, count: usize) -> Vec<EvictionView> {
    wait_for("evictions to be recorded", SHORT, || async {
        let page: Page<EvictionView> = farm.api.get("/v1/cache/evictions").await;
        if page.items.len() == count { Ok(page.items) } else { Err(format!("{:?}", page.items)) }
    })
    .await
}

#[tokio::test]
async fn an_eviction_is_explained_and_protection_holds() {
    let farm = Farm::start().await;
    library(&farm, &["one", "two", "three"]);
    let agent = farm.agent_with_library(small(&farm)).await;
    cache(&farm, "one", json!({ "protect": true })).await;
    cache(&farm, "two", json!({})).await;
    let (one, two) = (component(&farm, "one").await, component(&farm, "two").await);
    assert!(one.copies[0].protected && one.last_eviction.is_none(), "{one:?}");
    let standing = two.copies[0].eviction.clone().unwrap();
    assert_eq!((standing.place, standing.bytes_before), (Some(1), 0));
    assert!(standing.reload_seconds > 0.0 && standing.reuses_per_hour > 0.0 && standing.score > 0.0, "{standing:?}");
    cache(&farm, "three", json!({})).await;

    let decision = evictions(&farm, 1).await.remove(0);
    assert_eq!((decision.reason.as_str(), decision.policy.as_deref()), ("room", Some("cost")));
    assert_eq!((decision.host.as_str(), decision.wanted_name.as_deref()), ("a", Some("three/vae")));
    let verdicts: Vec<_> =
        decision.candidates.iter().map(|one| (one.name.clone().unwrap(), one.verdict.as_str())).collect();
    assert!(verdicts.contains(&("two/vae".into(), "evict")), "{verdicts:?}");
    assert!(verdicts.contains(&("one/vae".into(), "protected")), "{verdicts:?}");
    let gone = component(&farm, "two").await;
    assert!(gone.copies.is_empty() && gone.last_eviction.is_some_and(|last| last.at == decision.at));

    // what our own choice took out comes back within minutes
    cache(&farm, "two", json!({})).await;
    let view: CacheView = farm.api.get("/v1/cache").await;
    let (host, stats) = (&view.hosts[0], &view.total);
    assert_eq!((host.policy.as_deref(), stats.evicted.room, stats.early_reloads), (Some("cost"), 2, 1));
    assert_eq!(stats.eviction_ages.iter().map(|step| step.count).sum::<u64>(), 2);
    assert!(host.pressure.is_some() && stats.configured_bytes == stats.budget_bytes, "{view:?}");
    evictions(&farm, 2).await;
    assert_eq!(agent.metric("modelyard_evictions_total", "reason=\"room\"").await, 2.0);
    assert_eq!(agent.metric("modelyard_eviction_age_seconds_count", "").await, 2.0);

    // unprotected, it goes like any other
    let path = format!("/v1/cache/components/{}/unprotect", one.component.id);
    let job = farm.api.submit(&path, json!({})).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert!(!component(&farm, "one").await.copies[0].protected);
    let mine: Page<EvictionView> =
        farm.api.get(&format!("/v1/cache/evictions?component={}&limit=5", two.component.id)).await;
    assert_eq!(mine.items.len(), 1);
    farm.assert_ledger_is_clean().await;
}

#[tokio::test]
async fn a_component_leaves_when_its_keep_alive_is_over() {
    let farm = Farm::start().await;
    library(&farm, &["one", "two"]);
    let _agent = farm.agent_with_library(small(&farm)).await;
    cache(&farm, "two", json!({ "keep_alive": "2h" })).await;
    cache(&farm, "one", json!({ "keep_alive": 0 })).await;
    let decision = evictions(&farm, 1).await.remove(0);
    assert_eq!((decision.reason.as_str(), decision.candidates[0].name.as_deref()), ("expired", Some("one/vae")));
    // the record is written before the next picture of what is resident
    wait_for("no copy of it", SHORT, || async {
        let copies = component(&farm, "one").await.copies;
        if copies.is_empty() { Ok(()) } else { Err(format!("{copies:?}")) }
    })
    .await;
    assert!(component(&farm, "two").await.copies[0].expires_at.is_some());
    let keep = json!({ "kind": "cache_keep", "target": "host:a", "args": { "model": "two", "keep_alive": "-1" } });
    let job = farm.api.submit("/v1/jobs", keep).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    assert!(component(&farm, "two").await.copies[0].expires_at.is_none());
}

/// A removal that meets something that is kept fails, and says what has gone all the same: from RAM, and off the device.
#[tokio::test]
async fn a_removal_in_part_says_what_has_gone() {
    let farm = Farm::start().await;
    ModelFile::checkpoint(mebibytes(2), mebibytes(1), mebibytes(1)).write(&farm.library(), "all.safetensors");
    let _agent = farm.agent_with_library(farm.agent("a")).await;
    let parts = farm.model("all").await.components;
    let is_vae = |part: &&shared::wire::ComponentView| part.kind == "vae";
    let vae = parts.iter().find(is_vae).expect("a VAE").id;
    cache(&farm, "all", json!({})).await;
    let path = format!("/v1/cache/components/{vae}/protect?host=a");
    let job = farm.api.submit(&path, json!({})).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    let gone: Vec<String> = parts.iter().filter(|part| !is_vae(part)).map(|part| part.id.to_string()).collect();
    let removal = json!({ "kind": "cache_remove", "args": { "model": "all" } });
    let refused = |message: &str, places: &[&str]| {
        assert!(message.contains(&format!("`{vae}` is protected")), "{message}");
        for place in places {
            assert!(message.contains(&format!("{} left {place} (", gone.len())), "{place}: {message}");
        }
        assert!(gone.iter().all(|id| message.matches(id.as_str()).count() == places.len()), "{message}");
    };
    let job = farm.api.submit("/v1/jobs", removal).await;
    let error = farm.api.job_ended(job.id, JobState::Failed, SHORT).await.job.error.expect("an error");
    refused(&error.message, &["RAM"]);

    let request =
        json!({ "components": parts.iter().filter(|part| !is_vae(part)).map(|part| &part.kind).collect::<Vec<_>>() });
    let load = farm.api.submit("/v1/models/all/load", request).await;
    farm.api.job_ended(load.id, JobState::Succeeded, SHORT).await;
    let unload = farm.api.submit("/v1/models/all/unload", json!({ "from_ram": true })).await;
    let error = farm.api.job_ended(unload.id, JobState::Failed, SHORT).await.job.error.expect("an error");
    refused(&error.message, &["`a/cpu:0`", "RAM"]);
}
