//! GPUs that fall ill, with scripted libraries of the vendor in the place of the real ones: F30, F31, F32, F33 and G8.

use harness::{AgentSettings, Daemon, FakeLibrary, Farm, LONG, SHORT, wait_for};
use rustix::process::Signal;
use serde_json::json;
use shared::{
    error::ErrorCode,
    job::JobState,
    wire::{CacheView, DeviceView, HostView, JobDetail},
};

use crate::support::{big_model, device_is, load_with, small_model};

const FIRST: &str = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f";
const SECOND: &str = "GPU-00010203-0405-0607-0809-0a0b0c0d0e10";

const NVML: &str = "\
driver 570.10
count 2
0.uuid GPU-00010203-0405-0607-0809-0a0b0c0d0e0f
0.name Scripted Device 0
0.pci 00000000:65:00.0
0.capability 8.9
0.total 268435456
0.used 4194304
0.utilization 37
0.temperature 54
0.power 120500
0.corrected 3
0.uncorrected 0
0.throttle 32
1.uuid GPU-00010203-0405-0607-0809-0a0b0c0d0e10
1.name Scripted Device 1
1.temperature 41
";

/// A host with two scripted GPUs beside its `cpu:0`.
pub(crate) struct Host {
    pub(crate) nvml: FakeLibrary,
    cuda: FakeLibrary,
    pub(crate) settings: AgentSettings,
}

pub(crate) fn host(farm: &Farm, name: &str) -> Host {
    let folder = farm.path(&format!("{name}-libraries"));
    let nvml = FakeLibrary::nvml(&folder, NVML);
    let cuda = FakeLibrary::cuda(&folder, "devices 2\ntotal 268435456\n");
    let settings = farm
        .agent(name)
        .option("--device", "cuda:0")
        .option("--device", "cuda:1")
        .option("--nvml-library", &nvml.file().display().to_string())
        .environment("LD_LIBRARY_PATH", &folder.display().to_string());
    Host { nvml, cuda, settings }
}

fn condition(view: &DeviceView) -> &str {
    view.vitals.as_ref().map_or("", |vitals| vitals.condition.as_str())
}

pub(crate) async fn good(farm: &Farm, id: &str) -> DeviceView {
    device_is(farm, id, "good", |view| view.state == "ready" && condition(view) == "good").await
}

async fn loaded_on(farm: &Farm, model: &str, device: &str) {
    let job = load_with(farm, model, json!({ "target": format!("device:{device}") })).await;
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
}

/// The pid of a device's runner, as its arguments say.
pub(crate) fn runner_of(agent: &Daemon, device: &str) -> Option<u32> {
    let arguments = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    agent.runners().into_iter().find(|pid| arguments(*pid).split('\0').any(|argument| argument == device))
}

/// Figures of the library in the device's view, in metrics, and in the host's view; a load on a GPU through everything.
#[tokio::test]
async fn a_gpu_shows_how_it_is_and_takes_loads() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings.clone()).await;
    good(&farm, "a/cuda:0").await;
    loaded_on(&farm, "small", "a/cuda:0").await;
    let pid = runner_of(&agent, "cuda:0").expect("a runner");
    host.nvml.say(&format!("0.process {pid} 3000000"));
    let view = device_is(&farm, "a/cuda:0", "runner's bytes", |view| {
        view.vitals.as_ref().is_some_and(|v| v.runner_bytes.is_some())
    })
    .await;
    assert_eq!((view.uuid.as_deref(), view.resident.len()), (Some(FIRST), 1));
    let vitals = view.vitals.expect("vitals");
    assert_eq!((vitals.temperature_celsius, vitals.power_watts), (Some(54.0), Some(120.5)));
    assert_eq!((vitals.memory_used_bytes, vitals.runner_bytes), (Some(4_194_304), Some(3_000_000)));
    assert_eq!((vitals.ecc_corrected, vitals.throttled.as_slice()), (Some(3), ["thermal".to_owned()].as_slice()));
    // the driver takes memory in blocks of two MiB: the difference is theirs, and less than anybody is told about
    let system = view.memory_system_bytes.expect("the driver's figure");
    assert!(system >= view.memory_used_bytes && system - view.memory_used_bytes < 16 << 20, "{system}");
    let gpu = format!("gpu=\"{FIRST}\"");
    assert_eq!(agent.metric("modelyard_device_utilization_ratio", &gpu).await, 0.37);
    assert_eq!(agent.metric("modelyard_device_healthy", &gpu).await, 1.0);
    assert_eq!(agent.metric("modelyard_nvml_up", "").await, 1.0);
    let seen: HostView = farm.api.get("/v1/hosts/a").await;
    let nvml = seen.nvml.expect("the library is watched");
    assert_eq!((nvml.standing.as_str(), nvml.driver.as_deref(), nvml.devices.len()), ("answering", Some("570.10"), 2));
    let unload = farm.api.submit("/v1/models/small/unload", json!({})).await;
    farm.api.job_ended(unload.id, JobState::Succeeded, SHORT).await;
    device_is(&farm, "a/cuda:0", "empty", |view| view.memory_used_bytes == 0 && view.memory_system_bytes == Some(0))
        .await;
}

/// A device that fell off the bus gets no process and no work, the other works on; when it answers again it is used again.
#[tokio::test]
async fn f30_a_lost_gpu_is_out_of_use_and_the_others_go_on() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings.clone()).await;
    good(&farm, "a/cuda:0").await;
    loaded_on(&farm, "small", "a/cuda:0").await;
    host.nvml.say("0.handle 15");
    let lost =
        device_is(&farm, "a/cuda:0", "broken", |view| view.state == "quarantined" && view.resident.is_empty()).await;
    assert_eq!(condition(&lost), "broken");
    assert!(lost.reason.is_some_and(|reason| reason.contains("fell off the bus")));
    wait_for("its process to be gone", SHORT, || async {
        runner_of(&agent, "cuda:0").map_or(Ok(()), |pid| Err(format!("{pid} lives")))
    })
    .await;
    assert_eq!(agent.metric("modelyard_device_healthy", &format!("gpu=\"{FIRST}\"")).await, 0.0);
    good(&farm, "a/cuda:1").await;
    loaded_on(&farm, "small", "a/cuda:1").await;
    host.nvml.unsay("0.handle");
    good(&farm, "a/cuda:0").await;
    loaded_on(&farm, "small", "a/cuda:0").await;
}

/// An Xid that tells of broken hardware costs the device until the agent is restarted; its work goes to another one.
#[tokio::test]
async fn f30_a_fatal_xid_takes_the_device_out_of_use() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings.clone()).await;
    good(&farm, "a/cuda:1").await;
    host.nvml.say("event 1 1 8 79");
    let broken = device_is(&farm, "a/cuda:1", "broken", |view| view.state == "quarantined").await;
    assert!(broken.reason.is_some_and(|reason| reason.contains("Xid 79 (the device fell off the bus)")));
    let incident = &broken.vitals.expect("vitals").incidents[0];
    assert_eq!((incident.costs.as_str(), incident.times), ("device", 1));
    let labels = format!("gpu=\"{SECOND}\",xid=\"79\"");
    assert_eq!(agent.metric("modelyard_device_xid_errors_total", &labels).await, 1.0);
    loaded_on(&farm, "small", "a/cuda:0").await;
}

/// An Xid that a program causes replaces the runner; the device stays in use.
#[tokio::test]
async fn f31_a_programs_xid_replaces_the_runner_only() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings.clone()).await;
    good(&farm, "a/cuda:0").await;
    let before = runner_of(&agent, "cuda:0").expect("a runner");
    // until the runner is old enough for the incident to be its own; each is another one
    let mut serial = 0;
    let deadline = std::time::Instant::now() + LONG;
    while runner_of(&agent, "cuda:0") == Some(before) {
        assert!(std::time::Instant::now() < deadline, "the runner was not replaced");
        serial += 1;
        host.nvml.say(&format!("event {serial} 0 8 31"));
        wait_for("the incident to be counted", SHORT, || async {
            let view = crate::support::device(&farm, "a/cuda:0").await;
            let times = view.vitals.map_or(0, |vitals| vitals.incidents.iter().map(|incident| incident.times).sum());
            if times >= serial { Ok(()) } else { Err(format!("{times}")) }
        })
        .await;
    }
    let after = good(&farm, "a/cuda:0").await;
    assert_eq!(after.vitals.expect("vitals").incidents[0].costs, "runner");
    loaded_on(&farm, "small", "a/cuda:0").await;
}

/// A library that hangs keeps new work away and leaves what runs alone; figures are a gap, not zero; it heals by itself.
#[tokio::test]
async fn f32_a_hung_library_is_said_and_harms_nobody() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings.clone()).await;
    good(&farm, "a/cuda:0").await;
    let runner = runner_of(&agent, "cuda:0");
    host.nvml.say("hang.nvmlDeviceGetTemperature 1");
    let hung = device_is(&farm, "a/cuda:0", "unknown", |view| condition(view) == "unknown").await;
    assert_eq!(hung.state, "quarantined");
    assert!(hung.reason.is_some_and(|reason| reason.contains("NVML is unresponsive: the call `temperature`")));
    assert_eq!(hung.vitals.expect("vitals").temperature_celsius, None);
    assert_eq!(agent.metric("modelyard_nvml_up", "").await, 0.0);
    // the rest of the host works
    loaded_on(&farm, "small", "a/cpu:0").await;
    let (status, _) = agent.readiness().await;
    assert_eq!((status, runner_of(&agent, "cuda:0")), (200, runner));
    host.nvml.unsay("hang.nvmlDeviceGetTemperature");
    good(&farm, "a/cuda:0").await;
}

/// A library that is not there is said; the devices are used without it.
#[tokio::test]
async fn f32_gpus_are_used_without_the_library() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    host.nvml.say("code.nvmlInit_v2 9");
    let _agent = farm.agent_with_library(host.settings.clone()).await;
    let view = device_is(&farm, "a/cuda:0", "unmonitored", |view| condition(view) == "unmonitored").await;
    assert!(view.vitals.and_then(|vitals| vitals.reason).is_some_and(|reason| reason.contains("driver is not loaded")));
    device_is(&farm, "a/cuda:0", "ready", |view| view.state == "ready").await;
    loaded_on(&farm, "small", "a/cuda:0").await;
}

/// A copy that poisons the context ends the runner with the reserved code; the job is done by the next one.
#[tokio::test]
async fn f33_a_sticky_error_ends_the_runner_and_the_job_is_done_again() {
    let farm = Farm::start().await;
    big_model(&farm, 48);
    let mut host = host(&farm, "a");
    host.cuda.say("fail.cuMemcpyHtoDAsync_v2 3 700");
    let agent = farm.agent_with_library(host.settings.clone().read_limit("24MB")).await;
    good(&farm, "a/cuda:0").await;
    let job = load_with(&farm, "big", json!({ "target": "device:a/cuda:0" })).await;
    // the copy follows the read, so the third piece comes soon; the next runner is not to meet the same again
    wait_for("the runner's end", LONG, || async {
        let exits = agent.metric("modelyard_runner_exits_total", "device=\"cuda:0\"").await;
        if exits >= 1.0 { Ok(()) } else { Err(format!("{exits}")) }
    })
    .await;
    assert!(agent.process.log().contains("exit code 86: sticky device error"), "{}", agent.process.log());
    host.cuda.unsay("fail.cuMemcpyHtoDAsync_v2");
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let outcomes = farm.ledger.outcomes(job.id).await;
    assert_eq!(outcomes.last().map(String::as_str), Some("succeeded"), "{outcomes:?}");
    assert!(outcomes.len() >= 2, "{outcomes:?}");
}

/// After its runner's end a device gets no other before the management library was asked anew; one that fell off the bus
/// gets none before it is back.
#[tokio::test]
async fn f33_a_device_is_looked_at_before_its_runner_is_started_again() {
    let farm = Farm::start().await;
    small_model(&farm);
    let mut host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings.clone()).await;
    good(&farm, "a/cuda:0").await;
    // nobody can ask while its process ends
    host.nvml.say("hang.nvmlDeviceGetTemperature 1");
    device_is(&farm, "a/cuda:0", "unknown", |view| condition(view) == "unknown").await;
    harness::kill(runner_of(&agent, "cuda:0").expect("a runner"));
    wait_for("the wait for a look", SHORT, || async {
        let log = agent.process.log();
        if log.contains("no other runner is started yet") { Ok(()) } else { Err(log) }
    })
    .await;
    // the round that hung does not know it yet: only the next one tells that the device is gone
    host.nvml.say("0.handle 15");
    host.nvml.unsay("hang.nvmlDeviceGetTemperature");
    device_is(&farm, "a/cuda:0", "broken", |view| condition(view) == "broken").await;
    assert_eq!(runner_of(&agent, "cuda:0"), None);
    host.nvml.unsay("0.handle");
    good(&farm, "a/cuda:0").await;
    loaded_on(&farm, "small", "a/cuda:0").await;
    // one that had been started meanwhile would have ended with the device
    assert_eq!(agent.metric("modelyard_runner_exits_total", "device=\"cuda:0\"").await, 1.0);
}

/// A job that took its device's process down is done on another device, where one takes it.
#[tokio::test]
async fn f33_a_job_whose_runner_died_is_done_on_another_device() {
    let farm = Farm::start().await;
    small_model(&farm);
    let host = host(&farm, "a");
    let agent = farm.agent_with_library(host.settings).await;
    for device in ["cpu:0", "cuda:0", "cuda:1"] {
        device_is(&farm, &format!("a/{device}"), "ready", |view| view.state == "ready").await;
    }
    // the first by name, which cannot end what it is given
    let runner = runner_of(&agent, "cpu:0").expect("a runner");
    harness::signal(runner, Signal::STOP);
    let job = load_with(&farm, "small", json!({})).await;
    // what it died of: a load that had not come to it yet would go to the next one
    let copies = |seen: &JobDetail| seen.job.progress.as_ref().is_some_and(|progress| progress.phase == "copying");
    farm.api.job_is(job.id, "copies", LONG, copies).await;
    harness::kill(runner);
    let ended = farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    let places: Vec<Option<&str>> = ended.attempts.iter().map(|attempt| attempt.device.as_deref()).collect();
    assert!(places.len() == 2 && places[0] == Some("a/cpu:0") && places[1] != places[0], "{places:?}");
    assert_eq!(farm.ledger.outcomes(job.id).await, ["lost", "succeeded"]);
}

/// Another program takes a GPU's memory: a load waits, nothing leaves the device for it in vain, and it goes on when that program has
/// given it back.
#[tokio::test]
async fn f28_a_load_waits_for_memory_that_another_program_has() {
    let farm = Farm::start().await;
    small_model(&farm);
    big_model(&farm, 24);
    let mut host = host(&farm, "a");
    let _agent = farm.agent_with_library(host.settings).await;
    device_is(&farm, "a/cuda:0", "ready", |view| view.state == "ready").await;
    loaded_on(&farm, "small", "a/cuda:0").await;
    // 16 MiB are left, and what is there would not be enough if it went
    host.cuda.say("taken 251658240");
    let job = load_with(&farm, "big", json!({ "target": "device:a/cuda:0" })).await;
    farm.api.job_is(job.id, "was refused", LONG, |seen| seen.attempts.iter().any(|one| one.outcome.is_some())).await;
    let code = farm.api.job(job.id).await.attempts[0].error.as_ref().map(|error| error.code);
    assert_eq!(code, Some(ErrorCode::InsufficientCapacity));
    let held = device_is(&farm, "a/cuda:0", "holds what it held", |view| view.resident.len() == 1).await;
    assert_eq!(held.resident[0].model_name, "small");
    host.cuda.unsay("taken");
    farm.api.job_ended(job.id, JobState::Succeeded, LONG).await;
    device_is(&farm, "a/cuda:0", "holds both", |view| view.resident.len() == 2).await;
    farm.assert_ledger_is_clean().await;
}

/// What several devices of a host are given is read once.
#[tokio::test]
async fn devices_of_one_host_share_what_is_in_ram() {
    let farm = Farm::start().await;
    let file = big_model(&farm, 24);
    let host = host(&farm, "a");
    let _agent = farm.agent_with_library(host.settings).await;
    let devices = ["a/cpu:0", "a/cuda:0", "a/cuda:1"];
    for device in devices {
        device_is(&farm, device, "ready", |view| view.state == "ready").await;
    }
    let parent = load_with(&farm, "big", json!({ "target": "all" })).await;
    let ended = farm.api.job_ended(parent.id, JobState::Succeeded, LONG).await;
    assert_eq!(ended.children.len(), devices.len(), "{ended:?}");
    for device in devices {
        device_is(&farm, device, "holds it", |view| view.resident.len() == 1).await;
    }
    let cache: CacheView = farm.api.get("/v1/cache").await;
    let total = &cache.total;
    assert_eq!((total.misses, total.loaded_bytes), (1, file.tensor_bytes()), "{total:?}");
    assert_eq!(cache.hosts[0].components.len(), 1);
}
