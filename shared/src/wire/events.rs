//! Events of the farm that are about no job.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Something became resident or left; in streams `seq` is the SSE id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResidencyEvent {
    /// Grows with time, in one order with the events of jobs.
    pub seq: i64,
    /// The host.
    pub host: String,
    /// The device; absent for RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// `residency.resident` or `residency.gone`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `tier`, `component` and its `kind`, `bytes`, names of `models` that have it, the `job`; of what left also the `reason`, and the component that
    /// it made room for (`wanted`) or was merged into (`merged_into`).
    pub data: serde_json::Value,
}
