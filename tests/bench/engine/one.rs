//! One case of ours in a process of its own, so that its memory is its own.

use std::{path::Path, sync::Arc};

use engine::{
    Control, Runtime, RuntimeOptions,
    forward::Component,
    measure::{self, Amount, Operation},
    models::vae::VaeSettings,
};
use serde::{Deserialize, Serialize};

use crate::{cpu, weights};

/// What a process measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ran {
    /// Seconds of the first run.
    pub first: f64,
    /// Of the others.
    pub seconds: Vec<f64>,
    /// Processor seconds of one of the others.
    pub processor_seconds: f64,
    /// The most resident memory of the process.
    pub peak_bytes: u64,
    /// Of the library.
    pub version: String,
}

/// What is run.
#[derive(Debug, Clone)]
pub(crate) struct Case<'c> {
    /// A file or folder.
    pub model: &'c Path,
    /// The component.
    pub kind: &'c str,
    /// What it does.
    pub operation: Operation,
    /// How much.
    pub amount: Amount,
}

/// The library with so many threads.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn runtime(library: &Path, threads: usize) -> anyhow::Result<Arc<Runtime>> {
    let options = RuntimeOptions { threads, ..RuntimeOptions::cpu(library) };
    Ok(Arc::new(Runtime::open(options)?))
}

/// Runs a case: once, then `runs` times.
///
/// # Errors
/// When it cannot be loaded or run.
pub(crate) fn run(runtime: &Arc<Runtime>, case: &Case<'_>, runs: u32) -> anyhow::Result<Ran> {
    let loaded = weights::load(case.model, case.kind)?;
    let once = || once(runtime, &loaded, case);
    let first = once()?;
    let before = cpu::seconds()?;
    let seconds = (0..runs).map(|_| once()).collect::<anyhow::Result<Vec<_>>>()?;
    let processor_seconds = (cpu::seconds()? - before) / f64::from(runs.max(1));
    Ok(Ran { first, seconds, processor_seconds, peak_bytes: peak_bytes()?, version: version(runtime) })
}

fn version(runtime: &Runtime) -> String {
    engine::onnx::capability(Some(&runtime.options().library)).version.unwrap_or_default()
}

/// Runs a loaded component once; the seconds of the run.
///
/// # Errors
/// When it cannot be run.
pub(crate) fn once(runtime: &Arc<Runtime>, loaded: &weights::Loaded, case: &Case<'_>) -> anyhow::Result<f64> {
    let component =
        Component { kind: case.kind, base: Some(&loaded.base), config: loaded.config.as_ref(), graph: None };
    let work = (case.operation, case.amount);
    let model = (loaded.weights.clone(), VaeSettings::default());
    let measured = measure::once(runtime, &component, model, work, None, &Control::default())?;
    Ok(measured.seconds)
}

/// The most resident memory since the process began.
fn peak_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default().parse()?;
    Ok(kib * 1024)
}
