//! G9: Redis is a view that may vanish.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use harness::{Farm, SHORT, wait_for};
use rustix::process::Signal;
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
    wait_for("the gauge to say that it is gone", SHORT, || async {
        let up = agent.metric("modelyard_redis_up", "").await;
        if up == 0.0 { Ok(()) } else { Err(format!("{up}")) }
    })
    .await;
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

/// What Redis answers to a command of the product's own user.
#[expect(clippy::unwrap_used, reason = "a failed step of a story is a failed story")]
fn redis_says(farm: &Farm, command: &str) -> String {
    let (socket, user) =
        farm.redis.url().strip_prefix("redis+unix://").and_then(|url| url.split_once("?user=")).unwrap();
    let (user, password) = user.split_once("&pass=").unwrap();
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "AUTH {user} {password}\r\n{command}\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "+OK");
    lines.next().unwrap().unwrap()
}

/// Stale and right whichever way Redis is away, jobs go on, and it comes back by itself.
#[tokio::test]
async fn f11_redis_is_full_or_paused_or_emptied() {
    let farm = Farm::builder().with(|settings| {
        settings.redis_memory = ("8mb", "noeviction");
        settings.redis_commands = "+flushall";
    });
    let farm = farm.start().await;
    small_model(&farm);
    let agent = farm.agent_with_library(farm.agent("a")).await;
    loaded(&farm, "small").await;
    let live = |holds: usize| {
        device_is(&farm, "a/cpu:0", "live", move |view| !view.staleness.stale && view.resident.len() == holds)
    };
    let stale = |holds: usize| {
        device_is(&farm, "a/cpu:0", "stale", move |view| view.staleness.stale && view.resident.len() == holds)
    };
    live(1).await;

    // it takes no more writes and would still give what it has: what is old is not shown as live
    assert_eq!(redis_says(&farm, "SETRANGE modelyard:filler 16777215 x"), ":16777216");
    stale(1).await;
    wait_for("the gauge to say so", SHORT, || async {
        let up = agent.metric("modelyard_redis_up", "").await;
        if up == 0.0 { Ok(()) } else { Err(format!("{up}")) }
    })
    .await;
    let unload = farm.api.submit("/v1/models/small/unload", json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    stale(0).await;
    assert_eq!(redis_says(&farm, "DEL modelyard:filler"), ":1");
    live(0).await;

    // it answers nobody
    let pid = farm.redis.pid().expect("it runs");
    harness::signal(pid, Signal::STOP);
    stale(0).await;
    loaded(&farm, "small").await;
    stale(1).await;
    harness::signal(pid, Signal::CONT);
    live(1).await;

    // it forgot everything
    assert_eq!(redis_says(&farm, "FLUSHALL"), "+OK");
    live(1).await;
    assert_eq!(redis_says(&farm, "EXISTS modelyard:host:a"), ":1");
    farm.assert_ledger_is_clean().await;
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
