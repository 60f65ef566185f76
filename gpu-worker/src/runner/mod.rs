//! One runner process per device. The agent's side is [`Runner`]: it starts the process, talks to it, notices its death
//! and starts another; the process's side is [`run_child`].
//!
//! ```text
//!          spawn            hello             dies, silent, told to stop
//! starting ─────▶ starting ───────▶ ready ──────────────────────────────▶ down{reason} ─ backoff, look ─▶ starting
//! ```
//! A device that the vendor's library watches gets another process once it was looked at ([`Views`]).
//! While a device is broken its runner is held ([`Runner::hold`]): the process ends and none is started.
//! The two share a unix socket (the child's standard input): framed JSON messages, and the descriptors of memory
//! files beside them. A death costs whoever waited for the process a [`RunnerError::Crashed`]; nothing is resident then.

mod apply;
mod arriving;
mod aside;
mod cancelled;
pub(crate) mod channel;
mod child;
mod copies;
mod engine_thread;
mod error;
#[cfg(test)]
mod fault;
#[cfg(test)]
mod fault_follows;
#[cfg(test)]
mod fault_runs;
mod follow;
mod handle;
mod life;
mod looked;
mod merge;
mod merges;
mod models;
mod payload;
mod plan;
mod process;
mod protocol;
mod request;
mod run;
mod share;
mod sheets;
#[cfg(test)]
mod sheets_tests;
mod spare;
mod supervisor;
mod variants;
#[cfg(test)]
mod variants_faults;
#[cfg(test)]
mod variants_tests;
mod voice;
mod work;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use engine::{DeviceFacts, DeviceMemory, Learned, onnx::OnnxCapability};
use residency::policy::shared::SharedMemory;
use serde::{Deserialize, Serialize};
use shared::ids::ComponentId;

pub use apply::{Applied, ApplyOrder, LoraSource, TensorChange, Term};
pub use arriving::{DeviceFollow, Landed};
pub use child::{RunnerArgs, run_child};
pub use error::RunnerError;
pub use handle::{DeviceLoad, DeviceLoaded, Runner};
pub(crate) use life::DYING;
pub use looked::{Views, unwatched};
pub use payload::{Blob, BlobFacts, Packed, Payload};
pub use protocol::{DeviceTensor, RunPart, RunPhase, RunStep};
pub(crate) use run::HURRIED_GRACE;
pub use run::{Ran, RunOrder, RunPreview};
pub use share::{DeviceLease, DeviceShare};
pub use work::{
    EncoderFacts, GenerateWork, GraphFile, IMAGE, LoraTold, PartFacts, TENSORS, TextWork, TokenizerSource, Work,
};

/// What a runner is started with.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// `cpu:0`, `cuda:1`.
    pub device: String,
    /// Bytes for weights; 0 for all that a CUDA device has.
    pub memory_bytes: u64,
    /// The program to run: the agent's own file.
    pub program: PathBuf,
    /// The ONNX Runtime library, where one is named.
    pub onnxruntime: Option<PathBuf>,
    /// A Python environment that may hold the library.
    pub python: Option<PathBuf>,
    /// Threads of a run; as many as there are processors when absent.
    pub threads: Option<u16>,
    /// Log filter of the process.
    pub log_filter: String,
}

#[cfg(test)]
impl RunnerConfig {
    /// For `cuda:0`, with a shell script at `program` in the place of the agent's file.
    pub(crate) fn of_script(program: PathBuf, script: &str) -> Self {
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self {
            device: "cuda:0".into(),
            memory_bytes: 0,
            program,
            onnxruntime: None,
            python: None,
            threads: None,
            log_filter: "info".into(),
        }
    }
}

/// Where a runner is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerState {
    /// The process is being started and has not said what its device is.
    Starting,
    /// It takes commands.
    Ready,
    /// There is no process; another one is started soon.
    Down {
        /// Why: how the last one ended, and what keeps the device from another.
        reason: String,
    },
}

/// What the agent knows of a runner.
#[derive(Debug, Clone, PartialEq)]
pub struct RunnerStatus {
    /// Grows with each change.
    pub generation: u64,
    /// Where it is.
    pub state: RunnerState,
    /// Its process.
    pub pid: Option<u32>,
    /// Its device, once it has said so; kept while it is down.
    pub facts: Option<DeviceFacts>,
    /// Whether it can run models, once it has said so; kept while it is down.
    pub engine: Option<EngineFacts>,
    /// The device's memory.
    pub memory: DeviceMemory,
    /// When its process said what its device is.
    pub ready_since: Option<Instant>,
    /// Resident bytes of the process.
    pub rss_bytes: u64,
    /// Components on the device.
    pub resident: Vec<DeviceResident>,
    /// What runs have taught of the memory that graphs take; the next process begins with it.
    pub learned: Arc<BTreeMap<String, Learned>>,
    /// Deaths so far.
    pub restarts_total: u64,
    /// How the last process ended.
    pub last_exit: Option<String>,
}

impl RunnerStatus {
    fn new() -> Self {
        Self {
            generation: 0,
            state: RunnerState::Starting,
            pid: None,
            facts: None,
            engine: None,
            memory: DeviceMemory::default(),
            ready_since: None,
            rss_bytes: 0,
            resident: Vec::new(),
            learned: Arc::default(),
            restarts_total: 0,
            last_exit: None,
        }
    }

    /// Why it is not ready while it starts: what took it down is the reason until it is back.
    pub fn why_starting(&self) -> String {
        self.last_exit.as_deref().map_or_else(|| "its runner is starting".to_owned(), its_end)
    }
}

/// Why a runner is down that ended like this.
fn its_end(how: &str) -> String {
    format!("its runner ended: {how}")
}

/// Whether a runner can run models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// The library.
    pub onnxruntime: OnnxCapability,
    /// What runs the graphs: `cpu`, `cuda`.
    pub provider: String,
    /// Threads of a run.
    pub threads: u16,
}

/// A component on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceResident {
    /// The component.
    pub component: ComponentId,
    /// Digest of its content.
    pub digest: String,
    /// Bytes that it takes. What several variants hold is counted with the one that came last.
    pub bytes: u64,
    /// Bytes that come back when it alone goes.
    pub alone_bytes: u64,
    /// What it holds together with other variants: it comes back with the last of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedMemory>,
    /// When it became resident (host clock).
    pub since: DateTime<Utc>,
    /// When it was last asked for (host clock).
    pub last_used: DateTime<Utc>,
    /// How often it was asked for since.
    pub uses: u64,
    /// Programs that are attached to it.
    pub leases: u32,
    /// Set where it is no component of the catalogue but one with LoRAs; its digest is then the variant's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<VariantFacts>,
}

/// What a variant was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantFacts {
    /// The base, as it was held on the device.
    pub base: ComponentId,
    /// Digest of the base's content.
    pub base_digest: String,
    /// True when it holds every tensor: the base's own copy was changed. Otherwise it holds the changed ones, and runs name it
    /// beside its base.
    pub whole: bool,
}

impl DeviceResident {
    /// Bytes that it holds, whoever else holds them as well.
    pub fn held_bytes(&self) -> u64 {
        self.shared.iter().fold(self.alone_bytes, |sum, shared| sum.saturating_add(shared.bytes))
    }

    /// One that is there now, asked for once.
    fn new(component: ComponentId, digest: String, bytes: u64, variant: Option<VariantFacts>) -> Self {
        let now = Utc::now();
        Self {
            component,
            digest,
            bytes,
            alone_bytes: bytes,
            shared: Vec::new(),
            since: now,
            last_used: now,
            uses: 1,
            leases: 0,
            variant,
        }
    }
}
