//! What several stories do.

use std::{fs, os::unix::fs::FileExt, path::Path};

use harness::{Daemon, FailingDisk, Farm, ModelFile, SHORT, mebibytes, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    db::farm::Registration,
    ids::Incarnation,
    job::JobState,
    wire::{DeviceView, JobDetail, JobView, UploadView},
};

/// A small VAE named `small` in the farm's library.
pub(crate) fn small_model(farm: &Farm) -> ModelFile {
    let file = ModelFile::vae(mebibytes(2));
    file.write(&farm.library(), "small.safetensors");
    file
}

/// A VAE of so many MiB named `big` in the farm's library.
pub(crate) fn big_model(farm: &Farm, mib: u64) -> ModelFile {
    let file = ModelFile::vae(mebibytes(mib)).seed(7);
    file.write(&farm.library(), "big.safetensors");
    file
}

/// The farm's folder `behind` as a disk that can fail, at `mounted`; none where nothing can be mounted.
#[expect(clippy::print_stdout, reason = "tests/run counts what says that it was skipped")]
pub(crate) fn failing_disk(farm: &Farm) -> Option<FailingDisk> {
    let disk = FailingDisk::mount(&farm.path("behind"), &farm.path("mounted"));
    if disk.is_none() {
        println!("skipped: this process may not mount file systems");
    }
    disk
}

/// Flips a bit of a file, as a disk does: size, inode and time stay.
pub(crate) fn flip(path: &Path, at: u64) {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).expect("a time");
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("the file opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a write");
    file.set_modified(modified).expect("the time goes back");
}

/// Asks for a load anywhere.
pub(crate) async fn load(farm: &Farm, model: &str) -> JobView {
    load_with(farm, model, json!({})).await
}

/// Asks for a load with this request.
pub(crate) async fn load_with(farm: &Farm, model: &str, request: Value) -> JobView {
    farm.api.submit(&format!("/v1/models/{model}/load"), request).await
}

/// Loads and waits for the success.
pub(crate) async fn loaded(farm: &Farm, model: &str) -> JobDetail {
    let job = load(farm, model).await;
    farm.api.job_ended(job.id, JobState::Succeeded, SHORT).await
}

/// Waits until bytes of a running load move.
pub(crate) async fn bytes_move(farm: &Farm, job: &JobView) -> JobDetail {
    farm.api
        .job_is(job.id, "bytes move", SHORT, |seen| {
            seen.job.state == JobState::Running
                && seen.job.progress.as_ref().is_some_and(|progress| progress.bytes_done > 0)
        })
        .await
}

/// Uploads these bytes.
pub(crate) async fn uploaded(farm: &Farm, bytes: Vec<u8>) -> UploadView {
    let answer = farm.api.send(farm.api.request(Method::POST, "/v1/uploads").body(bytes)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

/// Bytes that are other ones in every row.
pub(crate) fn varied_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 12)) as u8).collect()
}

/// A decoding of `small` that no place may take, so that it stays pending.
pub(crate) async fn waiting_decode(farm: &Farm, latents: Value) -> JobView {
    let request = json!({ "model": "small", "latents": latents, "labels": ["nowhere"] });
    farm.api.submit("/v1/vae/decode", request).await
}

/// A device by its id.
pub(crate) async fn device(farm: &Farm, id: &str) -> DeviceView {
    farm.api.get(&format!("/v1/devices/{id}")).await
}

/// Waits until a look at a device says yes.
pub(crate) async fn device_is(farm: &Farm, id: &str, what: &str, look: impl Fn(&DeviceView) -> bool) -> DeviceView {
    wait_for(&format!("{id}: {what}"), SHORT, || async {
        let view = device(farm, id).await;
        if look(&view) { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await
}

/// Bytes that a daemon's RAM tier holds, by its own gauge.
pub(crate) async fn ram_bytes(agent: &Daemon) -> f64 {
    agent.metric("modelyard_tier_bytes", "tier=\"ram\"").await
}

/// Waits until an agent's metric is so much: some are set when the next picture of the host is told.
pub(crate) async fn metric_is(agent: &Daemon, name: &str, labels: &str, wanted: f64) {
    wait_for(&format!("{name}{{{labels}}} to be {wanted}"), SHORT, || async {
        let seen = agent.metric(name, labels).await;
        if seen == wanted { Ok(()) } else { Err(format!("{seen}")) }
    })
    .await;
}

/// Nothing is resident or half-resident on this agent's RAM tier and device.
pub(crate) async fn nothing_is_resident(farm: &Farm, agent: &Daemon, host: &str) {
    wait_for("memory to come back", SHORT, || async {
        let (ram, device) = (ram_bytes(agent).await, agent.metric("modelyard_tier_bytes", "tier=\"cpu:0\"").await);
        if ram == 0.0 && device == 0.0 { Ok(()) } else { Err(format!("ram {ram}, device {device}")) }
    })
    .await;
    device_is(farm, &format!("{host}/cpu:0"), "empty", |view| view.resident.is_empty() && view.memory_used_bytes == 0)
        .await;
}

/// An agent without devices, with these roots: name, path, and why one is missing.
pub(crate) fn registration(host: &str, roots: Vec<(String, String, Option<String>)>) -> Registration {
    Registration {
        host: host.to_owned(),
        incarnation: Incarnation::generate(),
        agent_version: "test".to_owned(),
        labels: Vec::new(),
        slots: 1,
        ram_budget_bytes: 0,
        capabilities: json!({}),
        devices: Vec::new(),
        roots,
    }
}
