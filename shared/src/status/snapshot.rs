//! What a host publishes about itself: one snapshot feeds Redis, the gauges and the database's residency rows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{ComponentId, Incarnation, JobId};

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
    /// Resident memory of agent and runners as the system reports it, in bytes.
    pub process_rss_bytes: u64,
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
    /// Budget in bytes.
    pub budget_bytes: u64,
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
    /// Evictions to make room.
    pub evictions: u64,
    /// Loads that failed.
    pub load_failures: u64,
    /// Bytes read from disk.
    pub loaded_bytes: u64,
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
    /// Of a running load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<LiveProgress>,
}

/// Bytes of something that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LiveProgress {
    /// `reading`, `copying`, `freeing`, …
    pub phase: String,
    /// Done.
    pub bytes_done: u64,
    /// In all.
    pub bytes_total: u64,
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
    /// 0..1, where the device reports it.
    pub utilization_ratio: Option<f64>,
    /// Where the device reports it.
    pub temperature_celsius: Option<f64>,
    /// Components on the device.
    pub entries: Vec<Entry>,
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
