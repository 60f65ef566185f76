//! Memory pressure: a control group's limit that is cut by 30 % while the RAM tier is full makes it shrink in order.

use std::{fs, path::Path, time::Instant};

use harness::{Farm, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{
    job::JobState,
    wire::{CacheView, DeviceView, EvictionView, Page},
};

use crate::support::{device, load_with};

const GROUP: &str = "sys/fs/cgroup/farm";

/// A machine with plenty of memory, and a group of 400 MiB of which the agent and others use 200 MiB beside the tier.
fn system(root: &Path) {
    for folder in ["proc/self", GROUP] {
        fs::create_dir_all(root.join(folder)).expect("the system of the story can be written");
    }
    fs::write(root.join("proc/meminfo"), "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
        .expect("the system of the story can be written");
    fs::write(root.join("proc/self/cgroup"), "0::/farm\n").expect("the system of the story can be written");
    fs::write(root.join("sys/fs/cgroup/cgroup.controllers"), "memory\n")
        .expect("the system of the story can be written");
    group(root, mebibytes(400), mebibytes(200));
}

fn group(root: &Path, limit: u64, used: u64) {
    let write = |name: &str, value: u64| {
        let (part, path) = (root.join(format!("{name}.part")), root.join(GROUP).join(name));
        fs::write(&part, format!("{value}\n")).expect("the system of the story can be written");
        fs::rename(part, path).expect("the system of the story can be written");
    };
    write("memory.current", used);
    write("memory.max", limit);
}

#[tokio::test]
async fn a_limit_cut_by_thirty_percent_while_full_shrinks_the_tier_in_order() {
    let farm = Farm::start().await;
    let root = farm.path("system");
    system(&root);
    for number in 0..8 {
        let name = format!("m{number}.safetensors");
        ModelFile::vae(mebibytes(19)).seed(30 + number).write(&farm.library(), &name);
    }
    let settings = farm.agent("a").ram_budget("170MiB").system_root(&root);
    let agent = farm.agent_with_library(settings.option("--memory-headroom", "20MiB")).await;
    for number in 0..8 {
        let protect = number == 0;
        let job = farm.api.submit("/v1/cache", json!({ "model": format!("m{number}"), "protect": protect })).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    }
    let before: CacheView = farm.api.get("/v1/cache").await;
    let full = before.total.used_bytes;
    assert!(full >= mebibytes(160), "{before:?}");
    let pressure = before.hosts[0].pressure.clone().unwrap();
    assert_eq!((pressure.level.as_str(), pressure.group_limit_bytes), ("none", Some(mebibytes(400))));

    // what the tier holds counts in the group, as the kernel would count it
    group(&root, mebibytes(280), mebibytes(200) + full);
    let cut = Instant::now();
    let shrunk = wait_for("the tier to shrink", SHORT, || async {
        let view: CacheView = farm.api.get("/v1/cache").await;
        let held = view.total.used_bytes;
        // the group sees what came back
        group(&root, mebibytes(280), mebibytes(200) + held);
        if held <= mebibytes(60) { Ok(view) } else { Err(format!("{held} bytes are held")) }
    })
    .await;
    println!("shrunk within {:?}", cut.elapsed());
    let pressure = shrunk.hosts[0].pressure.clone().unwrap();
    assert!(pressure.cause.is_some_and(|cause| cause.contains("control group /farm")), "{shrunk:?}");
    let names: Vec<_> = shrunk.hosts[0].components.iter().map(|one| one.model_name.as_str()).collect();
    assert!(names.contains(&"m0"), "the protected one stays: {names:?}");
    assert!(
        shrunk.total.configured_bytes == mebibytes(170) && shrunk.total.budget_bytes <= mebibytes(60),
        "{shrunk:?}"
    );
    assert!(shrunk.total.evicted.pressure >= 5, "{shrunk:?}");
    let page: Page<EvictionView> = wait_for("a record", SHORT, || async {
        let page: Page<EvictionView> = farm.api.get("/v1/cache/evictions").await;
        if page.items.iter().any(|one| one.reason == "pressure") { Ok(page) } else { Err(format!("{page:?}")) }
    })
    .await;
    assert!(page.items.iter().all(|one| one.policy.as_deref() == Some("cost")), "{page:?}");
    assert!(agent.metric("modelyard_memory_pressure", "").await >= 1.0);

    // a load that the whole budget would take waits with the reason, and goes on when there is memory again
    let job = farm.api.submit("/v1/cache", json!({ "model": "m7" })).await;
    let other = farm.api.submit("/v1/cache", json!({ "model": "m6" })).await;
    let third = farm.api.submit("/v1/cache", json!({ "model": "m5" })).await;
    group(&root, mebibytes(400), mebibytes(220));
    for id in [job.id, other.id, third.id] {
        farm.api.job_ended(id, JobState::Succeeded, harness::LONG).await;
    }
    wait_for("the pressure to be over", harness::LONG, || async {
        let view: CacheView = farm.api.get("/v1/cache").await;
        let whole = view.total.budget_bytes == view.total.configured_bytes;
        if whole { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
    farm.assert_ledger_is_clean().await;
}

/// What the RAM tier cannot give, `cpu:0` gives: its memory is the machine's as well.
#[tokio::test]
async fn the_cpu_device_gives_what_the_ram_tier_cannot() {
    let farm = Farm::start().await;
    let root = farm.path("system");
    system(&root);
    for number in 0..3 {
        let name = format!("m{number}.safetensors");
        ModelFile::vae(mebibytes(19)).seed(60 + number).write(&farm.library(), &name);
    }
    let settings = farm.agent("a").system_root(&root);
    let _agent = farm.agent_with_library(settings.option("--memory-headroom", "20MiB")).await;
    for number in 0..3 {
        let request = json!({ "protect": number == 0 });
        let job = load_with(&farm, &format!("m{number}"), request).await;
        farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await;
    }
    let used = || async {
        let (cache, device): (CacheView, DeviceView) =
            (farm.api.get("/v1/cache").await, device(&farm, "a/cpu:0").await);
        cache.total.used_bytes + device.memory_used_bytes
    };
    let full = used().await;
    assert!(full >= mebibytes(6 * 19), "{full}");

    // room for the protected copies, in RAM and on the device, and little more
    let limit = mebibytes(200 + 2 * 20 + 24);
    group(&root, limit, mebibytes(200) + full);
    let left = wait_for("RAM and the device to shrink", SHORT, || async {
        let held = used().await;
        group(&root, limit, mebibytes(200) + held);
        if held <= mebibytes(2 * 20) { Ok(held) } else { Err(format!("{held} bytes are held")) }
    })
    .await;
    assert!(left >= mebibytes(2 * 19), "what is protected stays: {left}");
    let view = device(&farm, "a/cpu:0").await;
    assert!(view.resident.len() == 1 && view.resident[0].model_name == "m0", "{view:?}");
    let page: Page<EvictionView> = wait_for("a record", SHORT, || async {
        let page: Page<EvictionView> = farm.api.get("/v1/cache/evictions?tier=vram").await;
        if page.items.is_empty() { Err(format!("{page:?}")) } else { Ok(page) }
    })
    .await;
    assert!(page.items.iter().all(|one| one.reason == "pressure" && one.policy.as_deref() == Some("cost")), "{page:?}");
    farm.assert_ledger_is_clean().await;
}
