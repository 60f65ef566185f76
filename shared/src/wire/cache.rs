//! The RAM tier on the wire.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ComponentView, ResidentComponent, Staleness};
use crate::{
    ids::{ComponentId, ModelId},
    status::{CacheStats, MemoryPressure},
};

/// `GET /v1/cache`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CacheView {
    /// Sums over all hosts.
    pub total: CacheStats,
    /// Per host.
    pub hosts: Vec<CacheHost>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// One host's RAM tier.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CacheHost {
    /// Host.
    pub host: String,
    /// How components are chosen that have to go: `cost` or `lru`; from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Memory pressure; from the live view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<MemoryPressure>,
    /// Totals.
    pub stats: CacheStats,
    /// Components.
    pub components: Vec<ResidentComponent>,
}

/// `GET /v1/cache/components/{component}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CachedComponent {
    /// The component.
    pub component: ComponentView,
    /// The model it belongs to.
    pub model: ModelId,
    /// The model's name.
    pub model_name: String,
    /// Copies in RAM.
    pub copies: Vec<CachedCopy>,
    /// Copies on devices.
    pub on_devices: Vec<CachedCopy>,
    /// The last decision that took it out of the RAM of any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_eviction: Option<EvictionView>,
    /// The last decision that took it off any device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_device_eviction: Option<EvictionView>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// One copy in the RAM of one host, or on one device.
pub type CachedCopy = ResidentComponent;

/// A decision that took components out of a host's RAM or off a device.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EvictionView {
    /// Host.
    pub host: String,
    /// The device whose memory it was; absent for RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// `room`, `pressure`, `expired`, `requested`, `cleared`, `duplicate`, `superseded`, `optimized`.
    pub reason: String,
    /// The policy that chose, where one did: `cost` or `lru`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The component that needed room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<ComponentId>,
    /// What it is, while the catalogue knows it: `model/kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_name: Option<String>,
    /// Its bytes.
    pub wanted_bytes: u64,
    /// Bytes that had to go.
    pub need_bytes: u64,
    /// Bytes that came back.
    pub freed_bytes: u64,
    /// Who went, and who else could have gone, in the policy's order.
    pub candidates: Vec<EvictionCandidate>,
    /// Candidates left out of the list; none that went.
    pub omitted: u64,
}

/// A line of the table of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EvictionCandidate {
    /// The component.
    pub component: ComponentId,
    /// What it is, while the catalogue knows it: `model/kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `evict`, `not_needed`, `leased`, `protected`, `futile`.
    pub verdict: String,
    /// Bytes.
    pub bytes: u64,
    /// Seconds in the tier.
    pub age_seconds: f64,
    /// Seconds since its last use.
    pub idle_seconds: f64,
    /// Uses while in the tier.
    pub hits: u64,
    /// Seconds that its reload would take.
    pub reload_seconds: f64,
    /// Reuses to be expected in an hour.
    pub reuses_per_hour: f64,
    /// Reload seconds to be expected in an hour for each GiB; what `cost` sorts by.
    pub score: f64,
    /// It was used again and came back a moment before: it goes after the others.
    pub young: bool,
}
