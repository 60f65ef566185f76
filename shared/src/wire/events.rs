//! Events of the farm that are about no job.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Something became resident or left, or a host or device changed its state; in streams `seq` is the SSE id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostEvent {
    /// Grows with time, in one order with the events of jobs.
    pub seq: i64,
    /// The host.
    pub host: String,
    /// The device; absent for RAM, and where it is about the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// `residency.resident` or `residency.gone`; `device.` or `host.` with the new state.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of residency: `tier`, `component` and its `kind`, `bytes`, names of `models` that have it, the `job`; of what left also the `reason`,
    /// and the component that it made room for (`wanted`) or was merged into (`merged_into`). Of a state: [`StateChange`].
    pub data: serde_json::Value,
}

/// How the state of a host or device changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateChange {
    /// The state before; absent where none was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The state now: `ready`, `lost`; a device's `quarantined`; a host's `draining`.
    pub to: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
