//! What a host publishes about itself: one snapshot feeds Redis, the gauges and the database's residency rows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{DeviceVitals, HostMemory, NvmlStatus, Unaccounted};
use crate::ids::{ComponentId, Incarnation, JobId, ModelId};

/// The whole host at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// Host name.
    pub host: String,
    /// The agent.
    pub incarnation: Incarnation,
    /// Grows with every change of residency.
    pub generation: u64,
    /// Host clock; for display only.
    pub at: DateTime<Utc>,
    /// The RAM tier.
    pub ram: CacheStats,
    /// Components in RAM.
    pub entries: Vec<Entry>,
    /// Devices with what they hold.
    pub devices: Vec<DeviceSnapshot>,
    /// Jobs that run here now.
    pub jobs: Vec<RunningJob>,
    /// How the roots are watched.
    #[serde(default)]
    pub watches: Vec<RootWatch>,
    /// Takes no new work.
    pub draining: bool,
    /// How RAM components are chosen that have to go: `cost` or `lru`.
    #[serde(default)]
    pub ram_policy: Option<String>,
    /// Memory pressure.
    #[serde(default)]
    pub pressure: Option<MemoryPressure>,
    /// The management library of its devices, where it is used.
    #[serde(default)]
    pub nvml: Option<NvmlStatus>,
    /// Tiers whose ledger and system differ.
    #[serde(default)]
    pub unaccounted: Vec<Unaccounted>,
    /// Resident memory of agent and runners as the system reports it, in bytes.
    pub process_rss_bytes: u64,
    /// Every byte by its owner.
    #[serde(default)]
    pub memory: Option<HostMemory>,
}

/// How a root is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootWatch {
    /// Name of the root.
    pub root: String,
    /// `inotify`, `poll`, `off`, or `missing` while the root is waited for.
    pub way: String,
    /// Why it is this way, where another was wanted.
    pub reason: Option<String>,
    /// Folders that are watched.
    pub folders: u64,
    /// When a change was last seen (host clock).
    pub changed_at: Option<DateTime<Utc>>,
    /// Scans that the watch asked for since the agent started.
    pub scans: u64,
}

/// RAM tier totals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CacheStats {
    /// Budget in bytes, as memory pressure allows it now.
    pub budget_bytes: u64,
    /// Budget as configured.
    #[serde(default)]
    pub configured_bytes: u64,
    /// Bytes of ready components.
    pub used_bytes: u64,
    /// Bytes promised to running loads.
    pub reserved_bytes: u64,
    /// What the system says the arenas occupy.
    pub system_bytes: u64,
    /// Requests that found the component ready.
    pub hits: u64,
    /// Requests that had to load.
    pub misses: u64,
    /// Requests that joined a running load.
    pub joins: u64,
    /// Components taken out, for whatever reason: the sum of `evicted`.
    pub evictions: u64,
    /// Loads that failed; not those that found no room, whose jobs wait or say so.
    pub load_failures: u64,
    /// Of those, loads that were given up because no byte came from their disk.
    #[serde(default)]
    pub stalled_loads: u64,
    /// Disks that loads were given up on and that have not answered since.
    #[serde(default)]
    pub hung_disks: u64,
    /// Bytes read from disk.
    pub loaded_bytes: u64,
    /// Components taken out, by reason.
    #[serde(default)]
    pub evicted: EvictedCounts,
    /// Bytes of them.
    #[serde(default)]
    pub evicted_bytes: u64,
    /// Loads of what a decision to evict, expire or shrink had taken out within the five minutes before.
    #[serde(default)]
    pub early_reloads: u64,
    /// How long components had been in RAM when they were taken out.
    #[serde(default)]
    pub eviction_ages: Vec<AgeCount>,
    /// Sum of those ages in milliseconds.
    #[serde(default)]
    pub eviction_ages_ms: u64,
}

/// Components taken out of RAM, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EvictedCounts {
    /// To make room for a load.
    pub room: u64,
    /// The system's memory was short.
    pub pressure: u64,
    /// Their keep-alive was over.
    pub expired: u64,
    /// Asked for by name.
    pub requested: u64,
    /// By a clear.
    pub cleared: u64,
    /// The same bytes were there a second time.
    pub duplicate: u64,
    /// Their file changed and was loaded anew.
    pub superseded: u64,
    /// By a plan to free memory that somebody asked for.
    #[serde(default)]
    pub optimized: u64,
}

/// One step of a histogram of ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgeCount {
    /// Older than the step before and at most this old; absent on the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to_seconds: Option<u64>,
    /// How many.
    pub count: u64,
}

/// How short a host's memory is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemoryPressure {
    /// `none`; `tight`: the RAM budget is cut; `critical`: more is in use than the cut budget allows.
    pub level: String,
    /// Why the budget is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What programs may still take without swapping.
    pub available_bytes: u64,
    /// Memory that is left to others.
    pub headroom_bytes: u64,
    /// The tightest control group's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_limit_bytes: Option<u64>,
    /// What that group uses and the kernel cannot simply drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_used_bytes: Option<u64>,
    /// Percent of the last ten seconds in which some work stood still for want of memory.
    pub stalled_some_percent: f64,
    /// Percent of the last ten seconds in which all work did.
    pub stalled_full_percent: f64,
}

/// Where a component stands with the eviction policy of its tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EvictionStanding {
    /// Place in the order of eviction, from 1; absent while it is leased or protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u64>,
    /// Bytes that would go before it.
    pub bytes_before: u64,
    /// Seconds that its reload would take, by the measured speed of its disk, and for a device of the copy to it.
    pub reload_seconds: f64,
    /// Reuses to be expected in an hour.
    pub reuses_per_hour: f64,
    /// Reload seconds to be expected in an hour for each GiB; what `cost` sorts by.
    pub score: f64,
    /// It was used again and came back a moment ago: it goes after the others.
    pub young: bool,
}

/// A component in a tier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Component.
    pub component: ComponentId,
    /// `loading`, `ready`, `evicting`, `failed`.
    pub state: String,
    /// Bytes held.
    pub bytes: u64,
    /// Leases held.
    pub leases: u32,
    /// The operator's "keep".
    pub protected: bool,
    /// Since when it has been in this tier (host clock).
    pub since: DateTime<Utc>,
    /// Last use (host clock).
    pub last_used: DateTime<Utc>,
    /// Uses since it was loaded.
    pub hits: u64,
    /// Who uses it, of those that say so: `job …`, `attached program (pid …, user …)`. On a device these are jobs as well, which
    /// `leases` does not count there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// The job that brought it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought_by: Option<JobId>,
    /// On a device: the models that were loaded there and need it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelId>,
    /// When its keep-alive ends (host clock), unless it is used before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Where it stands with the eviction policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<EvictionStanding>,
    /// Of a running load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<LiveProgress>,
    /// Why the last load failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Bytes of something that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LiveProgress {
    /// Of a component on its way into RAM: `waiting`, `making_room`, `reading`, `verifying`; of a job `reading`, `copying`, …
    pub phase: String,
    /// Done.
    pub bytes_done: u64,
    /// In all.
    pub bytes_total: u64,
    /// Bytes (what the phase counts) per second; absent until some came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<f64>,
    /// Seconds left at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
}

/// A device at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceSnapshot {
    /// `<host>/<name>`.
    pub id: String,
    /// `ready`, `lost`, …
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Capacity for weights in bytes.
    pub memory_total_bytes: u64,
    /// What we account as used.
    pub memory_used_bytes: u64,
    /// What the device or system reports as used by us.
    pub memory_system_bytes: Option<u64>,
    /// What the management library says of it, where there is one.
    #[serde(default)]
    pub vitals: Option<DeviceVitals>,
    /// Components on the device.
    pub entries: Vec<Entry>,
    /// Variants of components on the device.
    #[serde(default)]
    pub variants: Vec<VariantEntry>,
    /// How components are chosen that have to go: `cost` or `lru`.
    #[serde(default)]
    pub policy: Option<String>,
}

/// A variant: a copy of a component with changed tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VariantEntry {
    /// The id that it is held under on the device; it is in no catalogue.
    pub id: ComponentId,
    /// The component that it is a variant of.
    pub base: ComponentId,
    /// What that is used as: `unet`, `text_encoder`, ….
    pub kind: String,
    /// Names base and stack: equal keys, equal bytes. Shown as the copy's digest.
    pub key: String,
    /// Bytes held: those of the changed tensors, of all tensors when it is whole. What several variants hold counts with the oldest.
    pub bytes: u64,
    /// The base's copy was converted into it, as there was no room for both.
    pub whole: bool,
    /// The LoRAs with their weights.
    pub loras: Vec<String>,
    /// Names of pipelines that are applied and use it.
    pub pipelines: Vec<String>,
    /// Seconds that making it took.
    pub seconds: f64,
    /// Leases of programs that are attached.
    pub leases: u32,
    /// The operator's "keep".
    pub protected: bool,
    /// Since when it has been there (host clock).
    pub since: DateTime<Utc>,
    /// Last use (host clock).
    pub last_used: DateTime<Utc>,
    /// Uses since it was made.
    pub hits: u64,
    /// When its keep-alive ends (host clock), unless it is used before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Where it stands with the eviction policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<EvictionStanding>,
}

/// A job that runs on the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningJob {
    /// Job.
    pub id: JobId,
    /// Device, for jobs of a device.
    pub device: Option<String>,
    /// Progress, fresher than the database's.
    pub progress: Option<LiveProgress>,
}
