//! Memory on the wire: the account of a host, and what a plan to free some did or would do.

use serde::{Deserialize, Serialize};

use super::Staleness;
use crate::{ids::ComponentId, status::HostMemory};

/// `GET /v1/hosts/{host}/memory`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostMemoryView {
    /// Host.
    pub host: String,
    /// The account; absent while the host does not publish one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<HostMemory>,
    /// Trust in it.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// `POST /v1/hosts/{host}/optimize` and `POST /v1/devices/{device}/optimize`: one of the two goals.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizeRequest {
    /// So many bytes are to come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// So many bytes are to be free afterwards. With neither goal, on a host: its configured headroom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom_bytes: Option<u64>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Higher goes first.
    pub priority: i32,
}

/// The result of an `optimize` job.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OptimizeResult {
    /// Host.
    pub host: String,
    /// The device, where one was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Nothing was done.
    pub dry_run: bool,
    /// Bytes that had to come back for the goal.
    pub need_bytes: u64,
    /// Bytes that came back, or would.
    pub freed_bytes: u64,
    /// Whether that is enough.
    pub reached: bool,
    /// Bytes by which it is not.
    pub short_bytes: u64,
    /// In the order in which they were done, or would be.
    pub actions: Vec<OptimizeAction>,
    /// About compaction: whether it would give anything back here, and why not.
    pub compaction: String,
    /// The account before.
    pub before: HostMemory,
    /// The account afterwards; absent for a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<HostMemory>,
}

/// One action of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OptimizeAction {
    /// `drop_duplicate`, `demote` (off a device, its copy in RAM stays), `drop_ram_copy` (a device still has it), `evict`.
    pub action: String,
    /// `ram`, or the device's id.
    pub place: String,
    /// The component.
    pub component: ComponentId,
    /// What it is, while the catalogue knows it: `model/kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its bytes.
    pub bytes: u64,
    /// Seconds that having it back would take.
    pub reload_seconds: f64,
    /// Reload seconds to be expected in an hour for each GiB; what `cost` sorts by.
    pub score: f64,
    /// `planned`, `done`, or `stayed` where it was taken into use meanwhile.
    pub state: String,
    /// Why it was chosen, or why it stayed.
    pub reason: String,
}
