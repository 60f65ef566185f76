//! F26: a disk that hangs or fails holds up the loads from it, for a bounded time, and nothing else.

use std::{fs, time::Instant};

use harness::{Daemon, FailingDisk, Farm, LONG, ModelFile, SHORT, mebibytes, wait_for};
use serde_json::json;
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{CacheView, DeviceView, JobDetail, JobView, ModelDetail},
};

use crate::{
    engine::make_models,
    support::{device_is, failing_disk, loaded},
};

/// A farm with `fine` on its own disk and `far` on one that can fail; none where nothing can be mounted.
async fn farm(io_timeout: &str) -> Option<(Farm, FailingDisk, Daemon)> {
    let farm = Farm::start().await;
    ModelFile::vae(mebibytes(4)).write(&farm.library(), "fine.safetensors");
    ModelFile::vae(mebibytes(24)).seed(3).write(&farm.path("behind"), "far.safetensors");
    let disk = failing_disk(&farm)?;
    let settings = farm.agent("a").root("far", farm.path("mounted")).option("--io-timeout", io_timeout);
    let agent = farm.agent_with_library(settings).await;
    wait_for("the model on the mounted disk", SHORT, || async {
        let answer = farm.api.ask("/v1/models/far").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    Some((farm, disk, agent))
}

async fn load_once(farm: &Farm, model: &str) -> JobView {
    let body = json!({ "kind": "load", "args": { "model": model }, "max_attempts": 1 });
    farm.api.submit("/v1/jobs", body).await
}

async fn fails_with(farm: &Farm, job: &JobView, code: ErrorCode) -> JobDetail {
    let ended = farm.api.job_ended(job.id, JobState::Failed, SHORT).await;
    assert_eq!(ended.job.error.as_ref().map(|error| error.code), Some(code), "{ended:?}");
    ended
}

/// Nothing of a load stays, whether or not its reads have come back.
async fn nothing_is_held(farm: &Farm) {
    wait_for("the memory of the load to be back", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let stats = &cache.total;
        let none = stats.used_bytes == 0 && stats.reserved_bytes == 0 && stats.system_bytes == 0;
        if none { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
}

/// The agent says that so many disks do not answer.
async fn disks_hang(agent: &Daemon, disks: f64) {
    wait_for("the metric of hung disks to say so", SHORT, || async {
        let hung = agent.metric("modelyard_hung_disks", "").await;
        if hung == disks { Ok(()) } else { Err(hung.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn f26_loads_from_a_disk_that_hangs_are_given_up_and_others_go_on() {
    let Some((farm, disk, agent)) = farm("1").await else { return };
    disk.hang();
    let job = load_once(&farm, "far").await;
    let ended = fails_with(&farm, &job, ErrorCode::Timeout).await;
    let text = ended.job.error.expect("an error").message;
    assert!(disk.held() > 0 && text.contains("does not answer"), "{text}");
    nothing_is_held(&farm).await;
    wait_for("the metrics to say so", SHORT, || async {
        let seen =
            (agent.metric("modelyard_hung_disks", "").await, agent.metric("modelyard_stalled_loads_total", "").await);
        if seen == (1.0, 1.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;

    // the disk that hangs is left alone, others are not held up
    let reads = disk.held();
    let again = load_once(&farm, "far").await;
    fails_with(&farm, &again, ErrorCode::Timeout).await;
    assert_eq!(disk.held(), reads, "a second load was sent to the disk");
    loaded(&farm, "fine").await;

    disk.answer();
    disks_hang(&agent, 0.0).await;
    loaded(&farm, "far").await;
    farm.assert_ledger_is_clean().await;
}

/// A disk may answer all reads and hang when its file is closed: it is the disk, and is named.
#[tokio::test]
async fn f26_a_disk_that_hangs_when_a_file_is_closed_is_found_out() {
    let Some((farm, disk, agent)) = farm("1").await else { return };
    disk.hang_closing();
    let job = load_once(&farm, "far").await;
    let ended = fails_with(&farm, &job, ErrorCode::Timeout).await;
    let text = ended.job.error.expect("an error").message;
    assert!(disk.closing() > 0 && text.contains("far.safetensors") && text.contains("does not answer"), "{text}");
    nothing_is_held(&farm).await;
    disks_hang(&agent, 1.0).await;
    disk.answer();
    disks_hang(&agent, 0.0).await;
    loaded(&farm, "far").await;
}

#[tokio::test]
async fn f26_a_load_that_hangs_can_be_cancelled() {
    let Some((farm, disk, _agent)) = farm("600").await else { return };
    disk.hang();
    let job = load_once(&farm, "far").await;
    wait_for("a read that hangs", SHORT, || async { if disk.held() > 0 { Ok(()) } else { Err("none".to_owned()) } })
        .await;
    farm.api.cancel(job.id).await;
    let cancelled = Instant::now();
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    assert!(disk.held() > 0, "the read came back");
    nothing_is_held(&farm).await;
    println!("a cancelled load whose disk hangs gave its memory back within {:?}", cancelled.elapsed());
    disk.answer();
    loaded(&farm, "far").await;
}

#[tokio::test]
async fn f26_a_read_error_is_told_and_leaves_nothing() {
    let Some((farm, disk, _agent)) = farm("60").await else { return };
    disk.fail();
    let job = load_once(&farm, "far").await;
    let ended = fails_with(&farm, &job, ErrorCode::Unavailable).await;
    let text = ended.job.error.expect("an error").message;
    assert!(text.contains("far.safetensors") && text.contains("offset"), "{text}");
    nothing_is_held(&farm).await;
    disk.answer();
    loaded(&farm, "far").await;
}

/// A disk that is slow is none that hangs: every look finds bytes, however long the whole takes.
#[tokio::test]
async fn f26_a_slow_disk_is_waited_for() {
    let Some((farm, disk, agent)) = farm("1").await else { return };
    // 23 MiB of it: twice as long as a disk may be silent
    disk.slow(12 << 20);
    let job = load_once(&farm, "far").await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    assert_eq!(agent.metric("modelyard_stalled_loads_total", "").await, 0.0);
}

/// Reads that give nothing where there should be more are reads of a file that ends there: the load fails, and nothing of it stays.
#[tokio::test]
async fn f26_short_reads_are_told_and_leave_nothing() {
    let Some((farm, disk, _agent)) = farm("60").await else { return };
    disk.end_at(mebibytes(12));
    let job = load_once(&farm, "far").await;
    let ended = fails_with(&farm, &job, ErrorCode::Corrupt).await;
    assert!(ended.job.error.expect("an error").message.contains("far.safetensors"));
    nothing_is_held(&farm).await;
    disk.answer();
    loaded(&farm, "far").await;
}

/// A copy to the device goes on while its source is read: more has moved than the disk has given. None of it is shown before
/// it is verified, and a cancel takes it back from both places.
#[tokio::test]
async fn f34_what_was_read_is_on_the_device_before_the_rest_is_and_goes_with_a_cancel() {
    let Some((farm, disk, _agent)) = farm("600").await else { return };
    let half = mebibytes(12);
    disk.hang_from(half);
    let job = load_once(&farm, "far").await;
    // a read that begins before the half may bring a little more of it
    let given = half + mebibytes(1);
    let moved = |seen: &JobDetail| seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done > given);
    farm.api.job_is(job.id, "more bytes moved than were read", SHORT, moved).await;
    assert!(disk.held() > 0, "the disk has given all");
    let taken = |view: &DeviceView| view.memory_used_bytes > 0 && view.resident.is_empty();
    device_is(&farm, "a/cpu:0", "has memory of what it does not show", taken).await;

    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    nothing_is_held(&farm).await;
    device_is(&farm, "a/cpu:0", "empty", |view| view.memory_used_bytes == 0).await;
    disk.answer();
    loaded(&farm, "far").await;
    farm.assert_ledger_is_clean().await;
}

async fn scanned(farm: &Farm) -> ModelDetail {
    let scan = farm.api.submit("/v1/jobs", json!({ "kind": "scan", "target": "host:a" })).await;
    farm.api.job_ended(scan.id, JobState::Succeeded, SHORT).await;
    farm.model("far").await
}

/// A file goes while it is read, and another one comes that looks the same: its load waits for the one that runs under the same component,
/// and the device, which has the beginning of the wrong bytes by then, begins anew with the right ones.
#[tokio::test]
async fn f34_a_copy_that_follows_bytes_of_a_file_that_is_gone_begins_anew_with_those_of_the_wanted_one() {
    let Some((farm, disk, agent)) = farm("600").await else { return };
    let before = farm.model("far").await;
    disk.hang_from(mebibytes(12));
    let request = json!({ "kind": "cache_add", "args": { "model": "far" }, "max_attempts": 1 });
    let old = farm.api.submit("/v1/jobs", request).await;
    wait_for("a read that hangs", SHORT, || async { if disk.held() > 0 { Ok(()) } else { Err("none".to_owned()) } })
        .await;
    fs::rename(farm.path("behind/far.safetensors"), farm.path("away")).expect("it is moved away");
    assert!(scanned(&farm).await.locations.is_empty());
    ModelFile::vae(mebibytes(24)).seed(4).write(&farm.path("behind"), "far.safetensors");
    let now = scanned(&farm).await.components;
    assert_eq!(now[0].id, before.components[0].id, "as far as headers tell it is the same component");

    let new = load_once(&farm, "far").await;
    let taken = |view: &DeviceView| view.memory_used_bytes > 0 && view.resident.is_empty();
    device_is(&farm, "a/cpu:0", "has memory of what it does not show", taken).await;
    disk.answer();
    let failed = farm.api.job_ended(old.id, JobState::Failed, SHORT).await.job.error.expect("an error");
    assert!(failed.message.contains("far.safetensors"), "{failed:?}");
    let done = farm.api.job_ended(new.id, JobState::Succeeded, SHORT).await.job.result.expect("a result");
    assert!(
        agent.process.log().contains("the load that was followed is of no use any more"),
        "{}",
        agent.process.log()
    );
    let bytes = done["bytes"].as_u64().expect("bytes");
    let alone = |view: &DeviceView| view.resident.len() == 1 && view.resident[0].bytes == bytes;
    device_is(&farm, "a/cpu:0", "has just the wanted one", alone).await;
    let request = json!({ "level": "hash", "target": "host:a" });
    let check = farm.api.submit("/v1/models/far/validate", request).await;
    let checked = farm.api.job_ended(check.id, JobState::Succeeded, LONG).await.job.result.expect("a result");
    assert_eq!(checked["verdict"], "ok", "the digest that was registered is the new file's");
    farm.assert_ledger_is_clean().await;
}

/// A tiny SD 1.5 folder, one component of which lies on a disk that can fail.
fn split(farm: &Farm, part: &str) -> Option<FailingDisk> {
    make_models(farm, "sd15", "diffusers");
    let (behind, mounted) = (farm.path("behind"), farm.path("mounted"));
    fs::create_dir_all(&behind).expect("a folder can be made");
    let weights = farm.library().join(format!("sd15-tiny-diffusers/{part}/diffusion_pytorch_model.safetensors"));
    fs::rename(&weights, behind.join("far.safetensors")).expect("the file can be moved");
    std::os::unix::fs::symlink(mounted.join("far.safetensors"), &weights).expect("a link can be made");
    failing_disk(farm)
}

async fn reads(farm: &Farm, job: &JobView, kinds: &str) {
    let seen =
        |seen: &JobDetail| seen.job.progress.as_ref().and_then(|progress| progress.detail.as_deref()) == Some(kinds);
    farm.api.job_is(job.id, kinds, SHORT, seen).await;
}

async fn a_read_hangs(disk: &FailingDisk) {
    wait_for("a read that hangs", SHORT, || async { if disk.held() > 0 { Ok(()) } else { Err("none".to_owned()) } })
        .await;
}

/// Components on several disks are read beside each other: the one whose disk hangs holds up nobody but itself. Where RAM has
/// room for the largest only, they take it one after the other, in the same attempt.
#[tokio::test]
async fn components_on_other_disks_do_not_wait_for_one_that_hangs() {
    for (budget, beside) in [("1GiB", 2), ("16MiB", 1)] {
        let farm = Farm::start().await;
        let Some(disk) = split(&farm, "unet") else { return };
        let settings = farm.agent("a").ram_budget(budget).root("far", farm.path("mounted"));
        let _agent = farm.agent_with_library(settings.option("--io-timeout", "600")).await;
        disk.hang();
        let job = load_once(&farm, "sd15-tiny-diffusers").await;
        a_read_hangs(&disk).await;
        device_is(&farm, "a/cpu:0", "what the other disk has", |view| view.resident.len() == beside).await;
        reads(&farm, &job, "unet").await;
        disk.answer();
        farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
        assert_eq!(farm.ledger.outcomes(job.id).await, ["succeeded"], "it had no room and began anew");
        device_is(&farm, "a/cpu:0", "all three", |view| view.resident.len() == 3).await;
    }
}

/// A cancel ends the reads of a load on every disk, also of the one that is told last.
#[tokio::test]
async fn f26_a_cancel_reaches_the_reads_on_every_disk() {
    let farm = Farm::start().await;
    let Some(disk) = split(&farm, "vae") else { return };
    let settings = farm.agent("a").read_limit("1MB").root("far", farm.path("mounted"));
    let _agent = farm.agent_with_library(settings.option("--io-timeout", "600")).await;
    disk.hang();
    let job = load_once(&farm, "sd15-tiny-diffusers").await;
    a_read_hangs(&disk).await;
    reads(&farm, &job, "vae, unet").await;
    farm.api.cancel(job.id).await;
    farm.api.job_ended(job.id, JobState::Cancelled, SHORT).await;
    // the text encoder was whole and stays
    wait_for("the memory of what was read to be back", SHORT, || async {
        let cache: CacheView = farm.api.get("/v1/cache").await;
        let stats = &cache.total;
        let back =
            stats.reserved_bytes == 0 && stats.used_bytes == stats.system_bytes && stats.used_bytes < mebibytes(1);
        if back { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
    disk.answer();
}
