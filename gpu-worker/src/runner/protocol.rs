//! The messages between agent and runner. Both ends are the same build: no versions, unknown messages are errors.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use engine::{CudaShare, DeviceFacts, DeviceMemory, Learned};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{error::ErrorBody, ids::ComponentId};

use super::{Applied, ApplyOrder, DeviceResident, EngineFacts, payload::BlobFacts};

/// Exit code of a runner whose device answers nothing but errors any more.
pub(super) const EXIT_STICKY: u8 = 86;
/// Longest message in bytes: a component of thirty thousand tensors with long names fits.
pub(super) const MESSAGE_MAX: usize = 16 << 20;

/// Number of a command, so that its answers find their caller.
pub(super) type Call = u64;

/// A tensor in a component's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTensor {
    /// Name in the file.
    pub name: String,
    /// Element type as the format writes it.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte, relative to the component's first.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Agent → runner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Command {
    /// Copy a component from the memory file that comes with this message.
    Load {
        call: Call,
        component: ComponentId,
        digest: String,
        tensors: Vec<DeviceTensor>,
        /// First byte in the memory file.
        offset: u64,
        bytes: u64,
    },
    /// Copy a component into which others still write, from the memory file that comes with this message: only what has
    /// landed. Answered when it is through; other commands are obeyed meanwhile.
    Follow { call: Call, component: ComponentId, tensors: Vec<DeviceTensor>, offset: u64, bytes: u64 },
    /// So many bytes of what that call copies will not change any more; with the digest all is there.
    Landed { call: Call, bytes: u64, digest: Option<String> },
    /// Free a component.
    Unload { call: Call, component: ComponentId },
    /// Read a component back and hash it.
    Digest { call: Call, component: ComponentId },
    /// Let other processes at a component's memory; it stays until the lease is given back.
    Share { call: Call, component: ComponentId, lease: u64 },
    /// Give such a lease back.
    Unshare { call: Call, component: ComponentId, lease: u64 },
    /// Run models on the blobs of the memory file that comes with this message, if there are any. Answered when it is
    /// through; other commands are obeyed meanwhile.
    Run { call: Call, work: Value, parts: Vec<RunPart>, blobs: Vec<BlobFacts> },
    /// Make a variant. Answered when it is there; other commands are obeyed meanwhile.
    Apply { call: Call, order: Box<ApplyOrder> },
    /// Stop the copy, the merge or the run of this call.
    Cancel { call: Call },
    /// End the process.
    Stop,
}

/// Runner → agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The first message: the device is open.
    Hello { facts: DeviceFacts, engine: EngineFacts },
    /// How it stands; also before each answer that changed something, and once a second as a sign of life.
    Status { memory: DeviceMemory, rss_bytes: u64, resident: Vec<DeviceResident> },
    /// What runs have taught of the memory that graphs take, by graph; after a run that taught something. The next process
    /// begins with it.
    Learned { memory: BTreeMap<String, Learned> },
    /// A run shows what it will look like.
    Preview(Shown),
    /// The command goes on.
    Progress { call: Call, step: Step },
    /// The command is done.
    Done { call: Call, done: Done },
    /// The command was not carried out.
    Failed { call: Call, failure: Failure },
}

impl Event {
    /// The place of the descriptor that travels with it, for events that have one.
    pub(super) fn descriptor(&mut self) -> Option<&mut Option<OwnedFd>> {
        match self {
            Self::Done { done: Done::Shared(shared), .. } => Some(&mut shared.memory),
            Self::Done { done: Done::Ran(ran), .. } => Some(&mut ran.memory),
            Self::Preview(shown) => Some(&mut shown.memory),
            _ => None,
        }
    }
}

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// Bytes copied, merged or hashed so far.
    Copied(u64),
    /// It copies no more and gives its memory back.
    Stopping,
    /// A run is here.
    At(RunStep),
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStep {
    /// What it does.
    pub phase: RunPhase,
    /// Steps of the phase that are done.
    pub done: u32,
    /// Steps of the phase.
    pub total: u32,
}

/// What a run does, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Reads its inputs and builds what is not there yet.
    Preparing,
    /// Texts or images into what the UNet works on.
    Encoding,
    /// Steps of the UNet.
    Denoising,
    /// Latents into images.
    Decoding,
}

impl RunPhase {
    /// The phase's name in a job's progress.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Encoding => "encoding",
            Self::Denoising => "denoising",
            Self::Decoding => "decoding",
        }
    }
}

/// A component that takes part in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPart {
    /// What the work calls it: `vae`, `unet`, `text_encoder`, …
    pub slot: String,
    /// The component, under the id that it is held under on the device.
    pub component: ComponentId,
    /// A variant of it: its tensors stand for those of the same names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<ComponentId>,
}

/// Results of commands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Done {
    Loaded { bytes: u64, seconds: f64, already: bool },
    Unloaded { bytes: u64 },
    Digest { digest: String },
    Shared(SharedCopy),
    Unshared,
    Ran(RanFacts),
    Applied(Applied),
}

/// What a run shows before its end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shown {
    pub(super) call: Call,
    pub(super) about: Value,
    pub(super) blobs: Vec<BlobFacts>,
    /// Holds the blobs; travels beside the text.
    #[serde(skip)]
    pub(super) memory: Option<OwnedFd>,
}

/// What a run left.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RanFacts {
    pub(super) facts: Value,
    pub(super) blobs: Vec<BlobFacts>,
    /// Holds the blobs; travels beside the text.
    #[serde(skip)]
    pub(super) memory: Option<OwnedFd>,
}

/// A component on the device, open to other processes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SharedCopy {
    pub(super) digest: String,
    pub(super) bytes: u64,
    pub(super) tensors: Vec<DeviceTensor>,
    /// For a CUDA device.
    pub(super) cuda: Option<CudaShare>,
    /// For other devices; travels beside the text.
    #[serde(skip)]
    pub(super) memory: Option<OwnedFd>,
}

/// Why a command was not carried out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    OutOfMemory {
        needed_bytes: u64,
        available_bytes: u64,
        capacity_bytes: u64,
        would_free_bytes: u64,
    },
    NotResident {
        component: ComponentId,
    },
    InUse {
        component: ComponentId,
        leases: u32,
    },
    /// It has left, but not all of its memory came back.
    NotFreed {
        component: ComponentId,
        freed_bytes: u64,
        owed_bytes: u64,
    },
    Cancelled,
    Device {
        message: String,
    },
    /// A run found something wrong with what it was given, or failed.
    Work {
        error: ErrorBody,
    },
}
