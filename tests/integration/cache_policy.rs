//! What stays in RAM and why: evictions with their records, protection, keep-alive, statistics, what the command line says.

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
