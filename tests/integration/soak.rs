//! Loads, evictions, unloads and cancels without rest: after each round the ledger is the system's figure, and at the end
//! everything is back. A short round here; `MODELYARD_SOAK_SECONDS=600` makes it a long one, which prints a line per round.

use std::{
    fs,
    time::{Duration, Instant},
};

use harness::{Answer, Daemon, Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{CacheView, DeviceView, JobView},
};

use crate::{
    memory::{anonymous, memory_files},
    support::{device, nothing_is_resident},
};

/// Models; twice of what either tier has room for.
const MODELS: u64 = 6;
const CLIENTS: u64 = 3;
/// Requests of each client in a round.
const REQUESTS: usize = 16;
/// What a process may keep more of than after the first round: allocators round up, they must not creep.
const CREEP: u64 = mebibytes(32);

/// What the processes hold besides weights.
#[derive(Debug, Clone, Copy)]
struct Held {
    agent: u64,
    runner: u64,
    descriptors: usize,
}

async fn held(agent: &Daemon) -> Held {
    let (pid, runner) = (agent.process.pid(), agent.runner().await);
    let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors can be read").count();
    Held { agent: anonymous(pid), runner: anonymous(runner), descriptors: open(pid) + open(runner) }
}

/// One request: its path, its body, and whether it is cancelled at once.
fn request(random: &mut SmallRng) -> (String, Value, bool) {
    let model = format!("m{}", random.random_range(0..MODELS));
    match random.random_range(0..12) {
        0..5 => (format!("/v1/models/{model}/load"), json!({}), false),
        5..7 => (format!("/v1/models/{model}/load"), json!({}), true),
        7..9 => ("/v1/cache".to_owned(), json!({ "model": model }), false),
        9..11 => (format!("/v1/models/{model}/unload"), json!({ "from_ram": random.random::<bool>() }), false),
        _ => {
            let body = json!({ "kind": "cache_remove", "args": { "model": model }, "target": "all" });
            ("/v1/jobs".to_owned(), body, false)
        }
    }
}

/// The job of an answer: one that waits, or one that had nothing to do. None when nothing of the model is resident.
fn taken(answer: &Answer) -> Option<JobView> {
    match answer.status {
        409 => None,
        200 => Some(answer.json()),
        _ => Some(answer.accepted()),
    }
}

/// Sends requests one after the other; each ends well, is cancelled, or is refused for a reason that names the others.
async fn client(farm: &Farm, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..REQUESTS {
        let (path, body, cancel) = request(&mut random);
        let Some(job) = taken(&farm.api.post(&path, &body).await) else { continue };
        if cancel {
            farm.api.cancel(job.id).await;
        }
        let ended = farm.api.job_is(job.id, "ended", LONG, |seen| seen.job.state.is_terminal()).await.job;
        let refused =
            [ErrorCode::Conflict, ErrorCode::Precondition, ErrorCode::InsufficientCapacity, ErrorCode::Cancelled];
        match ended.state {
            JobState::Succeeded | JobState::Cancelled => {}
            _ => assert!(
                ended.error.as_ref().is_some_and(|error| refused.contains(&error.code)),
                "{path} {body}: {ended:?}"
            ),
        }
    }
}

/// Both tiers at rest: nothing reserved, and what is accounted is what the system says, to the byte.
async fn at_rest(farm: &Farm, agent: &Daemon) -> (CacheView, DeviceView) {
    wait_for("ledger and system to agree", SHORT, || async {
        let (cache, view): (CacheView, _) = (farm.api.get("/v1/cache").await, device(farm, "a/cpu:0").await);
        let stats = &cache.total;
        let seen = (memory_files(agent.process.pid()), memory_files(agent.runner().await));
        let settled = stats.reserved_bytes == 0 && cache.hosts[0].components.iter().all(|held| held.leases == 0);
        let ram = stats.used_bytes == stats.system_bytes && stats.used_bytes == seen.0;
        let vram = view.memory_system_bytes == Some(view.memory_used_bytes) && seen.1 == view.memory_used_bytes;
        assert!(stats.used_bytes <= stats.budget_bytes, "more than the budget: {stats:?}");
        if settled && ram && vram { Ok((cache, view)) } else { Err(format!("{seen:?} {stats:?} {view:?}")) }
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "a switch of this test alone, not configuration of the product")]
fn limit() -> Option<Duration> {
    let text = std::env::var("MODELYARD_SOAK_SECONDS").ok()?;
    Some(Duration::from_secs(text.parse().expect("MODELYARD_SOAK_SECONDS: whole seconds")))
}

#[tokio::test]
async fn ledger_and_system_do_not_drift_apart() {
    let farm = Farm::start().await;
    for model in 0..MODELS {
        let file = ModelFile::checkpoint(mebibytes(6), mebibytes(3), mebibytes(3)).seed(model + 1);
        file.write(&farm.library(), &format!("m{model}.safetensors"));
    }
    let agent = farm.agent_with_library(farm.agent("a").ram_budget("44MiB").cpu_memory("44MiB")).await;
    let (limit, began) = (limit(), Instant::now());
    let empty = held(&agent).await;
    let mut first: Option<Held> = None;
    for round in 0.. {
        let seeds = (0..CLIENTS).map(|number| round * CLIENTS + number);
        futures::future::join_all(seeds.map(|seed| client(&farm, seed))).await;
        let (cache, view) = at_rest(&farm, &agent).await;
        let now = held(&agent).await;
        println!(
            "{:>4} s, round {round}: RAM {}, cpu:0 {}, evictions {}, {now:?}",
            began.elapsed().as_secs(),
            cache.total.used_bytes,
            view.memory_used_bytes,
            cache.total.evictions
        );
        let start = *first.get_or_insert(now);
        assert!(now.agent <= start.agent + CREEP && now.runner <= start.runner + CREEP, "{start:?} then {now:?}");
        if began.elapsed() >= limit.unwrap_or_default() && round > 0 {
            break;
        }
    }
    for model in 0..MODELS {
        let unload = farm.api.post(&format!("/v1/models/m{model}/unload"), &json!({ "from_ram": true })).await;
        if let Some(job) = taken(&unload) {
            farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
        }
    }
    let clear = taken(&farm.api.delete("/v1/cache").await).expect("a job");
    farm.api.job_ended(clear.id, JobState::Succeeded, SHORT).await;
    nothing_is_resident(&farm, &agent, "a").await;
    let (pid, runner) = (agent.process.pid(), agent.runner().await);
    assert_eq!((memory_files(pid), memory_files(runner)), (0, 0), "weights stay behind");
    // connections to the stores come and go; a descriptor for each load would be a hundred
    let open = held(&agent).await.descriptors;
    assert!(open <= empty.descriptors + 16, "{} descriptors, then {open}", empty.descriptors);
    farm.assert_ledger_is_clean().await;
}
