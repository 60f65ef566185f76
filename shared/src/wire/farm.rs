//! Hosts, devices and who holds what, on the wire.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ComponentId, ModelId},
    status::{CacheStats, DeviceVitals, EvictionStanding, LiveProgress, NvmlStatus, Unaccounted, VariantEntry},
};

/// How much a status can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Staleness {
    /// True when the live view is missing or old and the answer comes from the database's last report.
    pub stale: bool,
    /// Why. Its own key, because it is flattened into views that have a `reason` of their own.
    #[serde(rename = "stale_reason", default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostView {
    /// Name.
    pub name: String,
    /// `ready`, `draining`, `lost`.
    pub state: String,
    /// Build version of its agent.
    pub agent_version: String,
    /// Labels.
    pub labels: Vec<String>,
    /// Host-lane jobs at a time.
    pub slots: u32,
    /// RAM tier.
    pub ram: CacheStats,
    /// Capability flags with reasons.
    #[schema(value_type = Object)]
    pub capabilities: serde_json::Value,
    /// Device ids.
    pub devices: Vec<String>,
    /// Roots.
    pub roots: Vec<RootView>,
    /// Resident memory of agent and runners as the system reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_rss_bytes: Option<u64>,
    /// The management library of its devices, where it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml: Option<NvmlStatus>,
    /// Tiers whose ledger and system have differed by more than is allowed for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unaccounted: Vec<Unaccounted>,
    /// When the agent registered.
    pub registered_at: DateTime<Utc>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// A root of a host.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RootView {
    /// Name.
    pub name: String,
    /// Folder.
    pub path: String,
    /// `ready` or `missing`.
    pub state: String,
    /// Why it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Last finished scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_at: Option<DateTime<Utc>>,
    /// How it is watched, from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchView>,
}

/// How changes below a root are seen.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WatchView {
    /// `inotify` (the kernel tells), `poll` (the root is walked from time to time), `off` (scans are periodic or asked for),
    /// `missing` (the root is waited for).
    pub way: String,
    /// Why it is this way, where another was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Folders that are watched.
    pub folders: u64,
    /// When a change was last seen, by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<DateTime<Utc>>,
    /// Scans that the watch asked for since the agent started.
    pub scans_total: u64,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceView {
    /// `<host>/<name>`.
    pub id: String,
    /// Host.
    pub host: String,
    /// `cpu:0`, `cuda:1`.
    pub name: String,
    /// `cpu` or `cuda`.
    pub kind: String,
    /// Vendor UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Product name.
    pub product: String,
    /// `ready`, `draining`, `lost`, `quarantined`.
    pub state: String,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Capacity for weights.
    pub memory_total_bytes: u64,
    /// What we account as used.
    pub memory_used_bytes: u64,
    /// What the device or system reports as used by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_system_bytes: Option<u64>,
    /// What the management library says of it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vitals: Option<DeviceVitals>,
    /// Labels.
    pub labels: Vec<String>,
    /// How components are chosen that have to go: `cost` or `lru`; from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Components on it.
    pub resident: Vec<ResidentComponent>,
    /// Variants of components on it; from the live view.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<DeviceVariant>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// A variant on a device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceVariant {
    /// A model that has its base; absent when the catalogue has none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub variant: VariantEntry,
}

/// One component in one tier of one host or device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResidentComponent {
    /// Component.
    pub component: ComponentId,
    /// Its kind.
    pub kind: String,
    /// Model it belongs to.
    pub model: ModelId,
    /// The model's name.
    pub model_name: String,
    /// `ram` or `vram`.
    pub tier: String,
    /// Host.
    pub host: String,
    /// Device, for `vram`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// `loading`, `ready`, `evicting`, `failed`.
    pub state: String,
    /// Bytes held.
    pub bytes: u64,
    /// Leases held; on a device those of attached programs.
    pub leases: u32,
    /// The operator's "keep".
    pub protected: bool,
    /// In this tier since.
    pub since: DateTime<Utc>,
    /// Last use, from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<DateTime<Utc>>,
    /// Uses since it was loaded, from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
    /// Who uses it, of those that say so: jobs, and attached programs with process id and user; from the live view.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// On a device: the models that were loaded there and need it, by name. An unload of another model spares it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed_by: Vec<String>,
    /// When its keep-alive ends unless it is used before (the host's clock); from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Where it stands with the eviction policy of its tier; from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<EvictionStanding>,
    /// Of a running load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<LiveProgress>,
    /// Of a `failed` one: why its last load failed; from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// One model's residency everywhere.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelStatus {
    /// Model.
    pub model: ModelId,
    /// Its name.
    pub name: String,
    /// Components and where they are resident.
    pub resident: Vec<ResidentComponent>,
    /// Kinds of its components that are resident nowhere.
    pub absent: Vec<String>,
    /// Active jobs about it.
    pub jobs: Vec<crate::ids::JobId>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// The models that hold memory on one device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceModels {
    /// Device.
    pub device: String,
    /// Models on it.
    pub models: Vec<ModelStatus>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// The farm at a glance: models that are resident or loading anywhere.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FarmStatus {
    /// Models in the catalogue.
    pub models_total: u64,
    /// Models with anything resident.
    pub models: Vec<ModelStatus>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}
