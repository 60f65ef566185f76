//! Which devices this host runs, and what they look like in the database.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use engine::onnx::OnnxCapability;
use residency::policy::Rules;
use shared::{db::farm::DeviceRow, shutdown::Tasks};

use crate::{
    config::AgentConfig,
    context::Device,
    device_tier::DeviceTier,
    memory,
    runner::{Runner, RunnerConfig, RunnerState, Views},
};

/// How long a start waits for a runner to say what its device is.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// A device to run, with the bytes that its runner may use (0: all of it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// `cpu:0`, `cuda:1`.
    pub name: String,
    /// Bytes for weights.
    pub memory_bytes: u64,
}

/// Chooses from the configuration and what the system has.
///
/// # Errors
/// A sentence that names the option, when a device does not exist or is no device name.
pub fn choose(config: &AgentConfig, cuda: &[String]) -> Result<Vec<Chosen>, String> {
    let available = memory::available_bytes().map_err(|error| format!("cannot read the available memory: {error}"))?;
    let cpu_memory = config.cpu_memory.map_or(available / 5 * 2, |size| size.0);
    let mut chosen: Vec<Chosen> = Vec::new();
    for name in config.devices.iter().flat_map(|name| expand(name, cuda)) {
        if name != "cpu:0" && !cuda.contains(&name) {
            return Err(format!("--device {name}: this host has {}", known(cuda)));
        }
        if !chosen.iter().any(|other| other.name == name) {
            let memory_bytes = if name == "cpu:0" { cpu_memory } else { 0 };
            chosen.push(Chosen { name, memory_bytes });
        }
    }
    Ok(chosen)
}

fn expand(name: &str, cuda: &[String]) -> Vec<String> {
    if name == "auto" {
        std::iter::once("cpu:0".to_owned()).chain(cuda.iter().cloned()).collect()
    } else {
        vec![name.to_owned()]
    }
}

fn known(cuda: &[String]) -> String {
    std::iter::once("`cpu:0`".to_owned())
        .chain(cuda.iter().map(|name| format!("`{name}`")))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Starts a runner for each chosen device; `views` tell how devices are.
pub fn start(
    host: &str,
    chosen: &[Chosen],
    program: &Path,
    config: &AgentConfig,
    (rules, views): (Rules, &Views),
    tasks: &Tasks,
) -> BTreeMap<String, Device> {
    let device = |chosen: &Chosen| {
        let config = RunnerConfig {
            device: chosen.name.clone(),
            memory_bytes: chosen.memory_bytes,
            program: program.to_path_buf(),
            onnxruntime: config.onnxruntime.clone(),
            python: config.python.clone(),
            threads: config.threads.filter(|_| chosen.name.starts_with("cpu:")),
            log_filter: config.logging.filter.clone(),
        };
        let id = format!("{host}/{}", chosen.name);
        let (name, runner) = (chosen.name.clone(), Runner::supervise(config, views.clone(), tasks));
        (id.clone(), Device { id, name, runner, tier: Arc::new(DeviceTier::new(rules)), variants: Arc::default() })
    };
    chosen.iter().map(device).collect()
}

/// Whether the devices' runners can run models, as the first that has spoken says: they are given the same library.
pub fn onnxruntime(devices: &BTreeMap<String, Device>) -> Option<OnnxCapability> {
    devices.values().find_map(|device| device.runner.status().borrow().engine.clone()).map(|said| said.onnxruntime)
}

/// The rows to register, once each runner has spoken or its time is up.
pub async fn rows(host: &str, devices: &BTreeMap<String, Device>, labels: &[String]) -> Vec<DeviceRow> {
    let mut rows = Vec::new();
    for device in devices.values() {
        let mut status = device.runner.status();
        // a device that does not come up is registered as lost, with the reason
        let _ =
            tokio::time::timeout(FIRST_REPORT, status.wait_for(|status| status.state != RunnerState::Starting)).await;
        let status = status.borrow().clone();
        let (state, reason) = match &status.state {
            RunnerState::Ready => ("ready", None),
            RunnerState::Starting => ("lost", Some(status.why_starting())),
            RunnerState::Down { reason } => ("lost", Some(reason.clone())),
        };
        let facts = status.facts.as_ref();
        rows.push(DeviceRow {
            id: device.id.clone(),
            host: host.to_owned(),
            name: device.name.clone(),
            kind: if device.name.starts_with("cuda") { "cuda" } else { "cpu" }.to_owned(),
            uuid: facts.and_then(|facts| facts.uuid.clone()),
            product: facts.map_or_else(|| "unknown".to_owned(), |facts| facts.product.clone()),
            memory_total_bytes: i64::try_from(status.memory.capacity_bytes).unwrap_or(i64::MAX),
            memory_used_bytes: i64::try_from(status.memory.used_bytes).unwrap_or(i64::MAX),
            slots: 1,
            labels: labels.to_vec(),
            state: state.to_owned(),
            reason,
            runner_generation: i64::try_from(status.restarts_total).unwrap_or(i64::MAX),
        });
    }
    rows
}
