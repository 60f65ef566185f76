//! What keeps a job from one place, and the reason that a waiting job shows.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    bytes::ByteSize,
    ids::{ComponentId, ModelId},
    job::{JobKind, Lane},
};

use super::{
    model::{PendingJob, Place, Snapshot},
    score::{new_ram_bytes_at_a_time, ram_bytes, ram_bytes_at_a_time},
};

/// One obstacle. The order says which one a waiting job names first: the one that is likeliest to pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Obstacle {
    /// As many jobs are placed there as its slots and short queue take.
    QueueFull,
    /// What would have to be evicted is in use or protected.
    MemoryHeld {
        /// Bytes to bring in.
        needs_bytes: u64,
        /// Bytes that can be had at most while the held ones stay.
        available_bytes: u64,
    },
    /// The host has not scanned the model since another of its variants was chosen, or could not read it then.
    VariantPending,
    /// The host takes no new work.
    Draining,
    /// No live agent on the host.
    HostDown,
    /// The device takes no work.
    DeviceNotReady {
        /// Its state or the reason for it.
        reason: String,
    },
    /// The model is neither on the host's disk nor in its RAM.
    ModelAbsent,
    /// A file of the model there has other bytes than are registered, and is not read.
    FileCorrupt {
        /// Which one, and both digests, in words.
        file: String,
    },
    /// The host has no such root.
    RootAbsent,
    /// The host's runners cannot run models.
    NoRuntime {
        /// Why not, in their words.
        reason: String,
    },
    /// Labels that neither host nor device has.
    LabelsMissing {
        /// The labels.
        labels: Vec<String>,
    },
    /// More than the host's RAM budget.
    OverRamBudget {
        /// Bytes that must be in RAM at a time.
        needs_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// More than the device's capacity.
    OverCapacity {
        /// Bytes of all components.
        needs_bytes: u64,
        /// The capacity.
        capacity_bytes: u64,
    },
}

impl Obstacle {
    /// True when the place is too small, now and later.
    pub fn is_size(&self) -> bool {
        matches!(self, Self::OverRamBudget { .. } | Self::OverCapacity { .. })
    }

    /// The stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::MemoryHeld { .. } => "memory_held",
            Self::Draining => "draining",
            Self::HostDown => "host_down",
            Self::DeviceNotReady { .. } => "device_not_ready",
            Self::VariantPending => "variant_pending",
            Self::ModelAbsent => "model_absent",
            Self::FileCorrupt { .. } => "file_corrupt",
            Self::RootAbsent => "root_absent",
            Self::NoRuntime { .. } => "no_runtime",
            Self::LabelsMissing { .. } => "labels_missing",
            Self::OverRamBudget { .. } => "over_ram_budget",
            Self::OverCapacity { .. } => "over_capacity",
        }
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = |bytes: &u64| ByteSize(*bytes);
        match self {
            Self::QueueFull => f.write_str("has as many jobs as it takes at a time"),
            Self::MemoryHeld { needs_bytes, available_bytes } => write!(
                f,
                "can free at most {} of the {} needed: the rest is in use or protected",
                size(available_bytes),
                size(needs_bytes)
            ),
            Self::Draining => f.write_str("is draining"),
            Self::HostDown => f.write_str("has no live agent"),
            Self::DeviceNotReady { reason } => write!(f, "is not ready: {reason}"),
            Self::VariantPending => f.write_str(
                "has not scanned the model since another variant of it was chosen, or could not read its files",
            ),
            Self::ModelAbsent => f.write_str("has the model neither on disk nor in RAM"),
            Self::FileCorrupt { file } => write!(f, "has a corrupt file: {file}"),
            Self::RootAbsent => f.write_str("has no such root"),
            Self::NoRuntime { reason } => write!(f, "cannot run models: {reason} (--onnxruntime of its agent)"),
            Self::LabelsMissing { labels } => write!(f, "lacks the labels `{}`", labels.join("`, `")),
            Self::OverRamBudget { needs_bytes, budget_bytes } => {
                write!(f, "has a RAM budget of {}; {} are needed", size(budget_bytes), size(needs_bytes))
            }
            Self::OverCapacity { needs_bytes, capacity_bytes } => {
                write!(f, "has a capacity of {}; {} are needed", size(capacity_bytes), size(needs_bytes))
            }
        }
    }
}

/// The first obstacle, looking at what never changes before what may pass: a place that is too small is too small
/// whether it is alive or not.
pub(super) fn find_obstacle(snapshot: &Snapshot, job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    labels(job, place)
        .or_else(|| size(job, place))
        .or_else(|| corrupt(snapshot, job, place))
        .or_else(|| liveness(place))
        .or_else(|| runtime(job, place))
        .or_else(|| presence(snapshot, job, place))
        .or_else(|| held(job, place))
        .or_else(|| (!place.queue().has_room()).then_some(Obstacle::QueueFull))
}

fn labels(job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    let labels: Vec<String> = job.need_labels.iter().filter(|label| !place.has_label(label)).cloned().collect();
    (!labels.is_empty()).then_some(Obstacle::LabelsMissing { labels })
}

fn size(job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    if !job.brings_weights() {
        return None;
    }
    let needs_bytes = job.needs_bytes();
    if let Some(device) = place.device.filter(|device| needs_bytes > device.memory.capacity_bytes) {
        return Some(Obstacle::OverCapacity { needs_bytes, capacity_bytes: device.memory.capacity_bytes });
    }
    // what is on the device or in RAM already needs no more of the budget
    let through_ram = if place.device.is_some() { ram_bytes_at_a_time(job, place) } else { needs_bytes };
    let budget_bytes = place.host?.ram.capacity_bytes;
    (through_ram > budget_bytes).then_some(Obstacle::OverRamBudget { needs_bytes: through_ram, budget_bytes })
}

/// A model's copy on a host is read as a whole or not at all: which of its files a job would read is not known here. What is in memory
/// was compared when it was read; what is on its way there, or promised to jobs that are given there, still has to be.
fn corrupt(snapshot: &Snapshot, job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    if snapshot.corrupt.is_empty() || !job.reads_weights() {
        return None;
    }
    let is_ready = |id: &ComponentId| {
        place.device.is_some_and(|device| device.memory.ready.contains(id))
            || place.host.is_some_and(|host| host.ram.ready.contains(id))
    };
    let in_memory =
        job.brings_weights() && !job.components.is_empty() && job.components.iter().all(|(id, _)| is_ready(id));
    let file = job.models().find_map(|model| snapshot.corrupt_on(model, place.host_name)).filter(|_| !in_memory)?;
    Some(Obstacle::FileCorrupt { file: file.to_owned() })
}

/// Whether nothing that time mends keeps the place from the work: it is large enough, and has all the weights, on disk or in memory.
pub(super) fn has_good_copies(snapshot: &Snapshot, job: &PendingJob, place: &Place<'_>) -> bool {
    labels(job, place).is_none()
        && size(job, place).is_none()
        && corrupt(snapshot, job, place).is_none()
        && presence(snapshot, job, place) != Some(Obstacle::ModelAbsent)
}

fn liveness(place: &Place<'_>) -> Option<Obstacle> {
    match (place.host, place.device) {
        (None, _) => Some(Obstacle::HostDown),
        (Some(host), _) if !host.alive => Some(Obstacle::HostDown),
        (Some(host), _) if host.draining => Some(Obstacle::Draining),
        (_, Some(device)) => device.not_ready.clone().map(|reason| Obstacle::DeviceNotReady { reason }),
        _ => None,
    }
}

fn runtime(job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    let reason = place.host.filter(|_| job.runs_models())?.runs_no_models.clone()?;
    Some(Obstacle::NoRuntime { reason })
}

fn presence(snapshot: &Snapshot, job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    let on_disk = |model: &ModelId| snapshot.has(model, place.host_name);
    // its headers are read, whatever is in memory
    let behind = || {
        let is_behind = job.models().any(|model| snapshot.is_behind(model, place.host_name));
        is_behind.then_some(Obstacle::VariantPending)
    };
    match job.kind {
        JobKind::Load | JobKind::CacheAdd => {
            let there = !job.components.is_empty() && ram_bytes(job, place) == 0;
            (!there && !job.model.as_ref().is_some_and(on_disk)).then_some(Obstacle::ModelAbsent).or_else(behind)
        }
        JobKind::Validate if job.lane == Lane::Device => {
            (!job.model.as_ref().is_some_and(on_disk)).then_some(Obstacle::ModelAbsent).or_else(behind)
        }
        JobKind::Validate | JobKind::MetadataWrite => {
            (!job.model.as_ref().is_some_and(on_disk)).then_some(Obstacle::ModelAbsent)
        }
        // tokenizers and configs are files beside the weights: that the weights are in memory is not enough
        JobKind::VaeDecode
        | JobKind::VaeEncode
        | JobKind::EncodeText
        | JobKind::UnetStep
        | JobKind::Generate
        | JobKind::Benchmark
        | JobKind::ApplyPipeline
        | JobKind::Convert
        | JobKind::Tokenize
        | JobKind::LoraCheck
        | JobKind::BlendLoras => {
            let there = job.models().all(on_disk);
            if there { root_absent(job, place).or_else(behind) } else { Some(Obstacle::ModelAbsent) }
        }
        JobKind::Scan | JobKind::Hash => match (&job.root, place.host) {
            (None, Some(host)) if host.roots.is_empty() => Some(Obstacle::RootAbsent),
            _ => root_absent(job, place),
        },
        // it reads a base back that LoRAs changed in place
        JobKind::RestorePipeline => behind(),
        JobKind::Unload | JobKind::CacheRemove | JobKind::CacheKeep | JobKind::Optimize => None,
    }
}

/// The host lacks the root that the job names.
fn root_absent(job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    let (root, host) = (job.root.as_ref()?, place.host?);
    (!host.roots.contains(root)).then_some(Obstacle::RootAbsent)
}

fn held(job: &PendingJob, place: &Place<'_>) -> Option<Obstacle> {
    if !job.brings_weights() {
        return None;
    }
    let check = |needs_bytes: u64, capacity: u64, held: u64| {
        let available_bytes = capacity.saturating_sub(held);
        (needs_bytes > available_bytes).then_some(Obstacle::MemoryHeld { needs_bytes, available_bytes })
    };
    let tier = place.tier()?;
    check(tier.missing(&job.components), tier.capacity_bytes, tier.held_bytes).or_else(|| {
        let ram = &place.host?.ram;
        check(new_ram_bytes_at_a_time(job, place), ram.capacity_bytes, ram.held_bytes)
    })
}

/// Obstacles with the places that have them: what a waiting job shows. Equal obstacles share one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Obstacles<'a>(pub(super) BTreeMap<Obstacle, Vec<&'a str>>);

impl<'a> Obstacles<'a> {
    /// Adds one place's obstacle.
    pub(super) fn add(&mut self, obstacle: Obstacle, place: &'a str) {
        self.0.entry(obstacle).or_default().push(place);
    }

    /// The reason as stored and shown: the likeliest obstacle first, then every candidate's.
    pub(super) fn reason(&self) -> Value {
        let Some((first, places)) = self.0.first_key_value() else {
            return json!({ "code": "no_place", "message": "no registered place of this farm can be asked", "obstacles": [] });
        };
        let others = self.0.values().map(Vec::len).sum::<usize>().saturating_sub(1);
        let named = places.first().copied().unwrap_or_default();
        let more = if others == 0 { String::new() } else { format!(" (and {others} more places cannot take it)") };
        json!({
            "code": first.code(),
            "message": format!("`{named}` {first}{more}"),
            "obstacles": self.0.iter().map(|(obstacle, places)|
                json!({ "code": obstacle.code(), "message": obstacle.to_string(), "places": places })).collect::<Vec<_>>(),
        })
    }
}
