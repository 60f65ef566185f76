//! G8: what is accounted equals what the system reports.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt};

use harness::{Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{
    job::JobState,
    wire::{CacheView, HostView},
};

use crate::support::{device_is, load};

/// Bytes of the memory files that a process holds, each counted once.
pub(crate) fn memory_files(pid: u32) -> u64 {
    let mut seen = HashSet::new();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors can be read");
    let bytes_of = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let meta = fs::metadata(entry.path()).ok()?;
        (link.to_string_lossy().starts_with("/memfd:") && seen.insert(meta.ino())).then(|| meta.blocks() * 512)
    };
    descriptors.filter_map(Result::ok).filter_map(bytes_of).sum()
}

/// Bytes of anonymous memory of a process.
pub(crate) fn anonymous(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory can be read");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn within_two_percent(what: &str, ledger: u64, system: u64) {
    assert!(ledger.abs_diff(system) * 50 <= ledger.max(system), "{what}: ledger {ledger}, system {system}");
}

#[tokio::test]
async fn g8_ledger_truth() {
    let farm = Farm::start().await;
    let file = ModelFile::checkpoint(mebibytes(200), mebibytes(40), mebibytes(60));
    file.write(&farm.library(), "large.safetensors");
    let agent = farm.agent_with_library(farm.agent("a")).await;
    let (agent_pid, runner) = (agent.process.pid(), agent.runner().await);
    let before = (memory_files(agent_pid), memory_files(runner), anonymous(runner));

    let job = load(&farm, "large").await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let device =
        device_is(&farm, "a/cpu:0", "holds it", |view| view.resident.len() == 3 && !view.staleness.stale).await;
    within_two_percent("device and file", device.memory_used_bytes, file.tensor_bytes());
    within_two_percent(
        "device, as it reports",
        device.memory_used_bytes,
        device.memory_system_bytes.expect("a figure"),
    );
    let runner_holds = memory_files(runner) - before.1 + anonymous(runner).saturating_sub(before.2);
    within_two_percent("device, looked at from outside", device.memory_used_bytes, runner_holds);

    let cache: CacheView = farm.api.get("/v1/cache").await;
    within_two_percent("RAM and file", cache.total.used_bytes, file.tensor_bytes());
    within_two_percent("RAM, as it reports", cache.total.used_bytes, cache.total.system_bytes);
    within_two_percent("RAM, looked at from outside", cache.total.used_bytes, memory_files(agent_pid) - before.0);
    assert_eq!(cache.total.reserved_bytes, 0, "nothing is reserved at rest: {cache:?}");
    let host: HostView = farm.api.get("/v1/hosts/a").await;
    assert!(host.process_rss_bytes.is_some_and(|bytes| bytes > 0));

    // success of an unload means that the bytes are back
    let unload = farm.api.submit("/v1/models/large/unload", json!({ "from_ram": true })).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    assert_eq!(memory_files(agent_pid), before.0);
    assert_eq!(memory_files(runner), before.1);
    wait_for("the anonymous memory to be back", SHORT, || async {
        let now = anonymous(runner);
        if now < before.2 + mebibytes(8) { Ok(()) } else { Err(format!("{} then, {now} now", before.2)) }
    })
    .await;
    for tier in ["tier=\"ram\"", "tier=\"cpu:0\""] {
        wait_for("the gauges to say so", SHORT, || async {
            let (used, off) = (
                agent.metric("modelyard_tier_bytes", tier).await,
                agent.metric("modelyard_tier_unaccounted_bytes", tier).await,
            );
            if used == 0.0 && off == 0.0 { Ok(()) } else { Err(format!("{tier}: {used} used, {off} unaccounted")) }
        })
        .await;
    }
}
