//! G9: Redis is a view that may vanish.

use harness::{Farm, SHORT, wait_for};
use serde_json::json;
use shared::{
    job::JobState,
    wire::{CacheView, ModelStatus},
};

use crate::support::{device_is, loaded, small_model};

#[tokio::test]
async fn g9_redis_is_disposable() {
    let mut farm = Farm::start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    device_is(&farm, "a/cpu:0", "live", |view| !view.staleness.stale && view.resident.len() == 1).await;

    farm.redis.kill().expect("Redis ends");
    let stale =
        device_is(&farm, "a/cpu:0", "stale and still right", |view| view.staleness.stale && view.resident.len() == 1)
            .await;
    assert!(stale.staleness.reason.is_some_and(|reason| !reason.is_empty()));
    let cache: CacheView = farm.api.get("/v1/cache").await;
    assert!(cache.staleness.stale && cache.hosts.iter().any(|host| !host.components.is_empty()), "{cache:?}");
    // jobs go on, from the request to the result
    let unload = farm.api.submit("/v1/models/small/unload", json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    loaded(&farm, "small").await;
    assert_eq!(agent.metric("modelyard_redis_up", "").await, 0.0);
    let (ready, why) = agent.readiness().await;
    assert_eq!(ready, 200, "Redis is no reason to be unready: {why}");

    farm.redis.start().expect("Redis starts");
    device_is(&farm, "a/cpu:0", "live again", |view| !view.staleness.stale && view.resident.len() == 1).await;
    wait_for("the gauge to say so", SHORT, || async {
        let up = agent.metric("modelyard_redis_up", "").await;
        if up == 1.0 { Ok(()) } else { Err(format!("{up}")) }
    })
    .await;
    let status: ModelStatus = farm.api.get("/v1/models/small/status").await;
    assert!(!status.staleness.stale && status.absent.is_empty(), "{status:?}");
}

/// A snapshot of a worker that is gone is not shown as live, however fresh its key in Redis is.
#[tokio::test]
async fn a_dead_workers_snapshot_is_stale() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    device_is(&farm, "a/cpu:0", "live", |view| !view.staleness.stale).await;
    agent.process.kill().await;
    device_is(&farm, "a/cpu:0", "lost", |view| view.staleness.stale && view.state == "lost").await;
}
